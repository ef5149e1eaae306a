//! From a client's body to a body of the spool.
//!
//! Small ones stay in memory, to be written with their record; larger ones go to a file, which is on
//! stable storage when this is done. The thread that calls only reads the client's socket: appending
//! and hashing are others' work ([`lanes`]), a batch at a time.
//!
//! Until an entry names it the file is a [`Draft`]: whatever becomes of the upload, a draft that is
//! dropped is removed.

mod copied;
mod draft;
mod lanes;

pub use copied::stored_from;
pub use draft::Draft;

use super::{Body, Place, Reservation, Spool};
use crate::blocks;
use crate::payload::{ChecksumAlgorithm, Hasher, Md5};
use crate::s3::error::{ErrorCode, S3Error};
use crate::transfer::{Intake, SMALL, SendError, Turns, Volume};
use bytes::{Bytes, BytesMut};
use lanes::{LaneError, Lanes};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::spawn_blocking;

/// Bytes of the largest body that stands in the journal, beside its record: under it the creation,
/// the sync and the removal of a file cost more than the journal's second copy.
pub const INLINE: usize = 64 * 1024;

/// Bytes of the largest batch. One is gathered while two are written and hashed, so a body holds
/// thrice as many, and what one read brings ([`blocks::BLOCK`]), however slow the disk is.
pub const BATCH: usize = 512 * 1024;

/// Bytes that are worth a trip to other threads, when those have nothing to do.
const LEAST_BATCH: usize = 256 * 1024;

/// Pieces of the largest batch: a client may send a byte at a time.
const MAX_PIECES: usize = 256;

/// A body that is as safe as an entry's body must be.
#[derive(Debug)]
pub struct Ingested {
    /// What the entry says of it.
    pub body: Body,
    /// Its bytes, if its place is [`Place::Inline`].
    pub inline: Option<Bytes>,
    /// Its file, if it has one: [`Draft::keep`] it before the entry is committed.
    pub draft: Option<Draft>,
    /// Verified trailer checksums: header name and value.
    pub trailers: Vec<(String, String)>,
    /// The checksum that [`ingest_part`] was to compute, as a header's value.
    pub measured: Option<String>,
    /// What went over.
    pub volume: Volume,
    /// Its room in the spool, for [`Spool::commit`].
    pub reservation: Reservation,
}

/// Why a body was not taken.
#[derive(Debug)]
pub struct IngestError {
    /// What the client is told.
    pub error: S3Error,
    /// What went over.
    pub volume: Volume,
    /// Whether the body was taken to its end all the same: if not, its connection ends.
    pub body_taken: bool,
}

/// Takes a client's whole body.
///
/// `intake`: not framed again. `length`: bytes of the payload, when that is known. `most`: those of the
/// largest one otherwise.
///
/// Errors: the client's own, as a transfer has them; 400 EntityTooLarge; 503 SlowDown when the spool
/// or its disk is full, or after a failed sync; 503 ServiceUnavailable when the disk fails otherwise.
pub async fn ingest(
    spool: &Arc<Spool>,
    intake: Intake,
    length: Option<u64>,
    most: u64,
    turns: &Turns,
) -> Result<Ingested, IngestError> {
    Taking::new(spool, intake, length, most, turns).end().await
}

/// [`ingest`] of a part of a multipart upload, of `length` bytes: it has a file whatever its size, so that
/// the entry that it comes to belong to finds it there. `measure`: a checksum that is computed on the way.
pub async fn ingest_part(
    spool: &Arc<Spool>,
    intake: Intake,
    length: u64,
    measure: Option<ChecksumAlgorithm>,
    turns: &Turns,
) -> Result<Ingested, IngestError> {
    let mut taking = Taking::new(spool, intake, Some(length), length, turns);
    taking.in_file = true;
    taking.measure = measure.map(Hasher::new);
    taking.end().await
}

/// A body that was taken.
struct Taken {
    md5: [u8; 16],
    inline: Option<Bytes>,
    draft: Option<Draft>,
    reservation: Reservation,
}

impl Taken {
    fn place(&self) -> Place {
        self.draft.as_ref().map_or(Place::Inline, |draft| Place::File(draft.id()))
    }
}

struct Taking<'a> {
    spool: &'a Arc<Spool>,
    intake: Intake,
    length: Option<u64>,
    most: u64,
    turns: &'a Turns,
    /// Payload bytes so far.
    taken: u64,
    copied: u64,
    /// Bytes of this turn.
    in_turn: usize,
    /// It has a file, however small it is.
    in_file: bool,
    measure: Option<Hasher>,
}

impl<'a> Taking<'a> {
    fn new(
        spool: &'a Arc<Spool>,
        intake: Intake,
        length: Option<u64>,
        most: u64,
        turns: &'a Turns,
    ) -> Self {
        let (in_file, measure) = (false, None);
        let (taken, copied, in_turn) = (0, 0, 0);
        Taking { spool, intake, length, most, turns, taken, copied, in_turn, in_file, measure }
    }

    async fn end(mut self) -> Result<Ingested, IngestError> {
        let result = self.run().await;
        let volume = Volume { copied: self.copied, ..Volume::default() };
        match result {
            Ok(taken) => Ok(Ingested {
                body: Body { length: self.taken, md5: taken.md5, place: taken.place() },
                inline: taken.inline,
                draft: taken.draft,
                trailers: self.intake.trailers().to_vec(),
                measured: self.measure.map(Hasher::finish_value),
                volume,
                reservation: taken.reservation,
            }),
            Err(error) => Err(IngestError { error, volume, body_taken: self.intake.is_done() }),
        }
    }
    async fn run(&mut self) -> Result<Taken, S3Error> {
        if let Some(length) = self.length
            && (length > INLINE as u64 || self.in_file)
        {
            // Room first, so that a full disk is known before the client is told to send.
            let reservation = self.spool.reserve(length)?;
            let draft = self.create().await?;
            return self.fill(draft, Vec::new(), reservation).await;
        }
        let mut reservation = self.spool.reserve(self.length.unwrap_or_default())?;
        let mut small = BytesMut::with_capacity(
            self.length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default(),
        );
        let mut batch = Vec::new();
        while self.next(&mut batch).await? {
            self.fit(&mut reservation)?;
            if small.len() + size(&batch) > INLINE {
                if !small.is_empty() {
                    batch.insert(0, small.freeze());
                }
                let draft = self.create().await?;
                return self.fill(draft, batch, reservation).await;
            }
            for bytes in batch.drain(..) {
                small.extend_from_slice(&bytes);
                blocks::give(bytes);
            }
        }
        self.is_whole()?;
        let bytes = small.freeze();
        let mut md5 = Md5::new();
        md5.update(&bytes);
        self.turns.note_small(Instant::now());
        Ok(Taken { md5: md5.finish(), inline: Some(bytes), draft: None, reservation })
    }

    async fn create(&self) -> Result<Draft, S3Error> {
        let (spool, length) = (Arc::clone(self.spool), self.length);
        let created = spawn_blocking(move || Draft::create(spool, length)).await;
        created.map_err(io::Error::other).flatten().map_err(|error| disk_failed(&error))
    }

    /// Takes what follows `batch`, and stores both.
    async fn fill(
        &mut self,
        draft: Draft,
        mut batch: Vec<Bytes>,
        mut reservation: Reservation,
    ) -> Result<Taken, S3Error> {
        // What is set aside or written shows in what the disk has left.
        reservation.placed(draft.allocated());
        let mut lanes = Lanes::new(draft).map_err(lane_failed)?;
        while self.next(&mut batch).await? {
            self.fit(&mut reservation)?;
            let bytes = size(&batch);
            if bytes >= BATCH
                || batch.len() >= MAX_PIECES
                || bytes >= LEAST_BATCH && lanes.are_idle()
            {
                let started = lanes.start(std::mem::take(&mut batch)).await;
                started.map_err(lane_failed)?;
                // Written by now or in a moment: as little as that the disk may be asked too early for.
                reservation.placed(bytes as u64);
            }
        }
        self.is_whole()?;
        if !batch.is_empty() {
            lanes.start(batch).await.map_err(lane_failed)?;
        }
        let (draft, md5) = lanes.finish().await.map_err(lane_failed)?;
        if self.taken <= SMALL {
            self.turns.note_small(Instant::now());
        }
        Ok(Taken { md5, inline: None, draft: Some(draft), reservation })
    }

    /// Makes the reservation as large as what was taken.
    fn fit(&self, reservation: &mut Reservation) -> Result<(), S3Error> {
        match self.taken.saturating_sub(reservation.bytes()) {
            0 => Ok(()),
            more => reservation.grow(more),
        }
    }

    /// Appends to `batch` what one read brings. False: the body is complete and verified.
    async fn next(&mut self, batch: &mut Vec<Bytes>) -> Result<bool, S3Error> {
        let mut fresh = Vec::new();
        if self.intake.is_spliced() {
            let read = self.intake.read(blocks::BLOCK as u64).await.map_err(client_error)?;
            self.copied += read.as_ref().map_or(0, |bytes| bytes.len() as u64);
            fresh.extend(read);
        } else {
            let read = self.intake.next(blocks::BLOCK as u64, &mut fresh).await;
            self.copied += self.intake.newly_copied();
            read.map_err(client_error)?;
        }
        let bytes = size(&fresh);
        if let Some(hasher) = &mut self.measure {
            fresh.iter().for_each(|piece| hasher.update(piece));
        }
        let more = !fresh.is_empty();
        batch.append(&mut fresh);
        self.taken += bytes as u64;
        if self.taken > self.length.unwrap_or(self.most) {
            return Err(too_large());
        }
        self.in_turn += bytes;
        if self.turns.is_over(self.in_turn, Instant::now()) {
            self.in_turn = 0;
            tokio::task::yield_now().await;
        }
        Ok(more)
    }

    /// The framing and the verifier see to it; a body must not be acknowledged for want of a look.
    fn is_whole(&self) -> Result<(), S3Error> {
        match self.length {
            Some(length) if length != self.taken => Err(S3Error::new(
                ErrorCode::IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header.",
            )),
            _ => Ok(()),
        }
    }
}

fn lane_failed(error: LaneError) -> S3Error {
    match error {
        LaneError::Append(error) | LaneError::Ended(error) => disk_failed(&error),
        LaneError::Sync => S3Error::new(
            ErrorCode::SlowDown,
            "The gateway cannot store uploads now. Please try again later.",
        ),
    }
}

fn size(pieces: &[Bytes]) -> usize {
    pieces.iter().map(Bytes::len).sum()
}

fn client_error(error: SendError) -> S3Error {
    match error {
        SendError::Client(error) => error,
        error => {
            log::error!("a body could not be taken: {error:?}");
            S3Error::new(
                ErrorCode::InternalError,
                "We encountered an internal error. Please try again.",
            )
        }
    }
}

fn disk_failed(error: &io::Error) -> S3Error {
    log::warn!("the spool's disk: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => S3Error::new(
            ErrorCode::SlowDown,
            "The gateway has no room for further uploads now. Please reduce your request rate.",
        ),
        _ => S3Error::new(
            ErrorCode::ServiceUnavailable,
            "The gateway cannot store uploads now. Please try again later.",
        ),
    }
}

fn too_large() -> S3Error {
    S3Error::new(
        ErrorCode::EntityTooLarge,
        "Your proposed upload exceeds the maximum allowed object size.",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
