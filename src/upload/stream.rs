//! Standard input on its way: read part by part, each of which stands in memory until it is there. What was
//! read cannot be read again, so nothing is gone on with: an upload that comes to nothing is aborted.

use super::courier::{Courier, Lane, Refused, Sent};
use super::digest::{Checksum, Sum};
use super::failure::Failure;
use super::multipart::{Came, MAX_PARTS, request};
use super::plan::{Item, Stamp};
use super::state::{Fingerprint, Line, PartDone};
use super::summary::add;
use bytes::Bytes;
use mizuchi_actors::transfer::PartSource;
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Parts under way at the most: each is in memory, as are one that waits and one that is being read.
const UNDER_WAY: usize = 4;

/// Some of the input, as much as a part takes; less is the end of it.
struct Piece {
    bytes: Bytes,
    sum: Sum,
    last: bool,
}

/// Pieces as they are read. A channel that is closed is no end.
type Pieces = mpsc::Receiver<io::Result<Piece>>;

/// Sends what comes, and says what became of it.
pub(super) async fn send(courier: &Courier, item: Item) {
    // Nobody closes it.
    let Ok(lane) = Arc::clone(&courier.upload.lanes).acquire_owned().await else { return };
    let lane = Arc::new(lane);
    let sent = courier.send_stream(&item, &lane).await;
    courier.tell(item, lane, sent.map(Some)).await;
}

impl Courier {
    async fn send_stream(&self, item: &Item, lane: &Lane) -> Result<Sent, Failure> {
        let part_size = self.upload.part_size;
        let (pieces, mut read) = mpsc::channel(1);
        let checksum = self.upload.checksum;
        // Not waited for: it may read for ever, and the process ends it.
        std::thread::Builder::new()
            .name("upload input".to_owned())
            .spawn(move || read_all(part_size, checksum, &pieces))
            .map_err(|error| Failure::File(error.to_string()))?;
        let first = self.next_piece(&mut read).await?;
        if first.last {
            let Piece { bytes, sum, .. } = first;
            let length = bytes.len() as u64;
            let content = || self.content(PartSource::stored_bytes(bytes.clone(), self.replay()));
            let etag = self.put(item, length, &sum, &content, None, lane).await?;
            add(&self.upload.counts.sent_bytes, length);
            return Ok(Sent { etag, bytes: length, resumed: 0, upload_id: None });
        }
        let print = Fingerprint::of(item, Stamp::NONE);
        let upload_id = self.create(item, print, part_size, lane).await?;
        match self.send_pieces(&item.key, &upload_id, first, read, lane).await {
            Ok((etag, bytes)) => {
                self.record(&Line::Gone { file: print, upload_id }, false).await?;
                Ok(Sent { etag, bytes, resumed: 0, upload_id: None })
            }
            Err(failure) => {
                self.abort_upload(print, &item.key, &upload_id).await?;
                Err(failure)
            }
        }
    }

    async fn next_piece(&self, read: &mut Pieces) -> Result<Piece, Failure> {
        tokio::select! {
            piece = read.recv() => {
                let piece = piece.unwrap_or_else(|| Err(io::Error::other("its reader has died")));
                piece.map_err(|error| Failure::File(error.to_string()))
            }
            () = self.upload.stopped() => Err(Failure::Stopped),
        }
    }

    /// Sends all pieces as parts, and completes; the ETag, and bytes.
    async fn send_pieces(
        &self,
        key: &str,
        upload_id: &str,
        first: Piece,
        mut read: Pieces,
        lane: &Lane,
    ) -> Result<(String, u64), Failure> {
        let mut under_way = JoinSet::new();
        let all = self.bring_pieces(key, upload_id, first, &mut read, lane, &mut under_way).await;
        // A part that arrives after the abort would stay.
        while under_way.join_next().await.is_some() {}
        let (there, bytes) = all?;
        match self.complete(key, upload_id, &there, lane).await? {
            Came::To(etag) => Ok((etag, bytes)),
            Came::Astray(why) => Err(Failure::File(why)),
        }
    }

    async fn bring_pieces(
        &self,
        key: &str,
        upload_id: &str,
        first: Piece,
        read: &mut Pieces,
        lane: &Lane,
        under_way: &mut JoinSet<Result<(u16, PartDone), Refused>>,
    ) -> Result<(BTreeMap<u16, PartDone>, u64), Failure> {
        let most = UNDER_WAY.min(1 + self.upload.lanes.available_permits());
        let (mut next, mut ended) = (Some(first), false);
        let (mut there, mut bytes, mut number) = (BTreeMap::new(), 0, 0_u16);
        loop {
            if let Some(piece) = next.take() {
                ended = piece.last;
                // Nothing is left of what is a multiple of the parts.
                if !piece.bytes.is_empty() {
                    number += 1;
                    if u64::from(number) > MAX_PARTS {
                        let why = format!("more than {MAX_PARTS} parts: say a larger --part-size");
                        return Err(Failure::File(why));
                    }
                    bytes += piece.bytes.len() as u64;
                    let (courier, lane) = (self.clone(), Arc::clone(lane));
                    let (key, upload_id) = (key.to_owned(), upload_id.to_owned());
                    under_way.spawn_local(async move {
                        let part = courier.send_piece(&key, &upload_id, number, piece, &lane);
                        Ok((number, part.await?))
                    });
                }
            }
            if ended && under_way.is_empty() {
                return Ok((there, bytes));
            }
            tokio::select! {
                piece = self.next_piece(read), if !ended && under_way.len() < most => {
                    next = Some(piece?);
                }
                Some(sent) = under_way.join_next() => {
                    let died = |error| Failure::File(format!("a part's task: {error}"));
                    let (number, part) = sent.map_err(died)??;
                    there.insert(number, part);
                }
            }
        }
    }

    async fn send_piece(
        &self,
        key: &str,
        upload_id: &str,
        number: u16,
        piece: Piece,
        lane: &Lane,
    ) -> Result<PartDone, Refused> {
        let Piece { bytes, sum, .. } = piece;
        let mut request = request("PUT", key, upload_id, Some(number));
        request.length = Some(bytes.len() as u64);
        let content = || self.content(PartSource::stored_bytes(bytes.clone(), self.replay()));
        let part = self.put_part(request, &sum, &content, None, lane).await?;
        add(&self.upload.counts.sent_bytes, bytes.len() as u64);
        Ok(part)
    }
}

/// Reads standard input to its end, or until nobody wants it. Blocks.
fn read_all(part_size: u64, checksum: Checksum, pieces: &mpsc::Sender<io::Result<Piece>>) {
    loop {
        let piece = read_piece(&mut io::stdin().lock(), part_size, checksum);
        let more = piece.as_ref().is_ok_and(|piece| !piece.last);
        if pieces.blocking_send(piece).is_err() || !more {
            return;
        }
    }
}

fn read_piece(input: &mut impl io::Read, part_size: u64, checksum: Checksum) -> io::Result<Piece> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(part_size).map_err(io::Error::other)?)?;
    input.take(part_size).read_to_end(&mut bytes)?;
    let mut computing = checksum.begin();
    computing.update(&bytes);
    let last = (bytes.len() as u64) < part_size;
    Ok(Piece { bytes: bytes.into(), sum: computing.finish(), last })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// "less is the end of it": also of what is a multiple of a part.
    #[test]
    fn pieces_are_parts_and_the_last_is_short() {
        for length in [0, 1, 4, 5, 8, 9] {
            let input = vec![7; length];
            let mut rest = &input[..];
            let mut lengths = Vec::new();
            loop {
                let piece = read_piece(&mut rest, 4, Checksum::None).unwrap();
                lengths.push(piece.bytes.len());
                if piece.last {
                    break;
                }
            }
            assert_eq!(lengths.iter().sum::<usize>(), length);
            assert_eq!(lengths.len(), length / 4 + 1, "{lengths:?}");
        }
    }
}
