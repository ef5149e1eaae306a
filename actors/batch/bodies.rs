//! The bodies of an archive's entries, one after the other: the second reading.
//!
//! A thread of the blocking pool unpacks, and waits where nobody takes what it has: so one archive has
//! no more in memory than the channel's few bodies of [`MEMORY`] bytes each. A larger entry of a plain
//! tar is sent from where it stands; of a compressed one it becomes a body of the spool's.

use super::archive::{Archive, BatchLimits};
use super::index::Index;
use super::input::Input;
use crate::s3::error::{ErrorCode, S3Error};
use crate::spool::{Body, Draft, Place, Reservation, Spool, stored_from};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

/// Bytes of the largest entry that goes through memory: what the spool keeps in its journal.
pub const MEMORY: usize = crate::spool::INLINE;

/// Bytes of one read of what is passed over.
const READ: usize = 16 * 1024;

/// The bytes of one entry.
#[derive(Debug)]
pub enum EntryBody {
    /// In memory.
    Bytes(Bytes),
    /// In a file, from here on.
    Range(Arc<File>, u64),
    /// In a file of its own.
    Draft(Draft, Reservation),
}

/// An entry's number, and its bytes.
pub type Produced = (usize, Result<EntryBody, S3Error>);

/// Sends the bytes of all entries that are not refused, in the archive's order, until nobody takes them
/// any more, or `wanted` is false. `own`: larger entries get files of their own, on stable storage, whatever the archive.
/// Blocks.
pub fn produce(
    archive: &Archive,
    limits: BatchLimits,
    index: &Index,
    spool: &Arc<Spool>,
    (own, wanted): (bool, Arc<AtomicBool>),
    to: &mpsc::Sender<Produced>,
) {
    let mut input = match Input::open(archive, limits, wanted) {
        Ok(input) => input,
        Err(error) => {
            let _ = to.blocking_send((0, Err(unreadable(&error))));
            return;
        }
    };
    for (number, entry) in index.iter().enumerate() {
        if entry.refused.is_some() {
            continue;
        }
        if to.is_closed() {
            return;
        }
        let body = match (usize::try_from(entry.size), archive.plain_file()) {
            (Ok(size), _) if size <= MEMORY => small(archive, &mut input, entry.offset, size),
            (_, Some(file)) if !own => Ok(EntryBody::Range(Arc::clone(file), entry.offset)),
            _ => large(&mut input, entry.offset, entry.size, spool, own),
        };
        let failed = body.is_err();
        if to.blocking_send((number, body)).is_err() || failed {
            return;
        }
    }
}

fn small(
    archive: &Archive,
    input: &mut Input,
    offset: u64,
    size: usize,
) -> Result<EntryBody, S3Error> {
    let mut bytes = vec![0; size];
    let read = match archive.read_plain(&mut bytes, offset) {
        Some(read) => read,
        None => skip(input, offset).and_then(|()| input.read_exact(&mut bytes)),
    };
    read.map_err(|error| unreadable(&error))?;
    Ok(EntryBody::Bytes(bytes.into()))
}

fn large(
    input: &mut Input,
    offset: u64,
    size: u64,
    spool: &Arc<Spool>,
    durable: bool,
) -> Result<EntryBody, S3Error> {
    skip(input, offset).map_err(|error| unreadable(&error))?;
    let (draft, reservation) = stored_from(spool, &mut input.take(size), size, durable)?;
    Ok(EntryBody::Draft(draft, reservation))
}

/// What stands between this place and the next entry: headers, padding, refused entries.
fn skip(input: &mut Input, to: u64) -> io::Result<()> {
    let mut space = [0; READ];
    while input.position() < to {
        let left = to - input.position();
        let most = usize::try_from(left).unwrap_or(READ).min(READ);
        match input.read(space.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn unreadable(error: &io::Error) -> S3Error {
    log::error!("an archive in the spool could not be read a second time: {error}");
    let message = "The gateway could not read the archive that it has stored. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message)
}

impl EntryBody {
    /// What an entry of the spool says of it.
    pub fn recorded(&self, length: u64, md5: [u8; 16]) -> Body {
        let place = match self {
            EntryBody::Draft(draft, _) => Place::File(draft.id()),
            EntryBody::Bytes(_) | EntryBody::Range(..) => Place::Inline,
        };
        Body { length, md5, place }
    }
}
