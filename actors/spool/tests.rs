//! What the whole of it promises, on a disk that crashes and fails.

mod crash;
mod crash_uploads;
mod failing;
mod operator;
mod order;
mod recovery;
mod uploads;

use super::simulated::{Image, Simulated};
use super::*;

/// More than any test stores.
pub(super) const LIMITS: Limits =
    Limits { entries: 10_000, bytes: 1 << 32, free_bytes: 1 << 20, free_files: 10 };

fn spool() -> (Simulated, Arc<Spool>) {
    let disk = Simulated::new(Image::default());
    let spool = open(&disk);
    (disk, spool)
}

fn open(disk: &Simulated) -> Arc<Spool> {
    Spool::open(Arc::new(disk.clone()), LIMITS).unwrap()
}

fn entry(key: &str, length: usize, place: Place) -> Entry {
    let body = Body { length: length as u64, md5: [length as u8; 16], place };
    Entry {
        bucket: "bucket".to_owned(),
        key: key.to_owned(),
        accepted: 1,
        principal: "somebody".to_owned(),
        headers: vec![("x-amz-meta-a".to_owned(), vec![0xff])],
        content: EntryContent::Whole(body),
        quarantined: None,
        upload_id: None,
        superseded: None,
    }
}

/// Writes and syncs a body's file, as whoever takes a body does.
fn body_file(spool: &Spool, bytes: &[u8]) -> io::Result<BodyId> {
    let id = spool.new_body();
    let mut file = spool.disk().create(id, Some(bytes.len() as u64))?;
    for piece in bytes.chunks(20_000) {
        file.append(&[Bytes::copy_from_slice(piece)])?;
    }
    file.sync().inspect_err(|error| spool.latch(error.to_string()))?;
    Ok(id)
}

/// Takes a whole upload.
pub(super) async fn put(
    spool: &Arc<Spool>,
    key: &str,
    bytes: &[u8],
    in_file: bool,
) -> io::Result<u64> {
    let reservation = spool.reserve(bytes.len() as u64).map_err(io::Error::other)?;
    let place = if in_file { Place::File(body_file(spool, bytes)?) } else { Place::Inline };
    let inline = (!in_file).then(|| Bytes::copy_from_slice(bytes));
    spool.commit(entry(key, bytes.len(), place), inline, reservation).await
}

/// The bytes of an entry, from wherever they are.
fn bytes_of(disk: &Simulated, spool: &Spool, seq: u64, entry: &Entry) -> io::Result<Vec<u8>> {
    let EntryContent::Whole(body) = &entry.content else { return Err(io::ErrorKind::Other.into()) };
    match body.place {
        Place::Inline => Ok(spool.journal.reader().unwrap().inline(seq)?.to_vec()),
        Place::File(id) => disk.body(id).ok_or(io::ErrorKind::NotFound.into()),
    }
}
