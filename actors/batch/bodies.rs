//! The bodies of an archive's entries, one after the other: the second reading.
//!
//! A thread of its own unpacks, and waits where nobody takes what it has: so one archive has no more in
//! memory than the channel's few bodies of [`MEMORY`] bytes each. A larger entry of a plain tar is sent
//! from where it stands; of a compressed one it becomes a body of the spool's, and where that has no room
//! it waits for those of the same archive to leave.

use super::archive::{Archive, BatchLimits};
use super::index::Index;
use super::input::Input;
use super::tar::skip;
use crate::s3::error::{ErrorCode, S3Error};
use crate::spool::{Body, Draft, Place, Reservation, Spool, stored_from};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc as blocking;
use tokio::sync::mpsc;

/// Bytes of the largest entry that goes through memory: what the spool keeps in its journal.
pub const MEMORY: usize = crate::spool::INLINE;

/// The bytes of one entry.
#[derive(Debug)]
pub enum EntryBody {
    /// In memory.
    Bytes(Bytes),
    /// In a file, from here on.
    Range(Arc<File>, u64),
    /// In a file of its own.
    Draft(Draft, Reservation, Leaves),
}

/// Says that a body has left: it was sent, given up, or is an entry of the spool's.
#[derive(Debug)]
pub struct Leaves(blocking::Sender<()>);

impl Drop for Leaves {
    fn drop(&mut self) {
        // Nobody may wait for it any more.
        let _ = self.0.send(());
    }
}

/// An entry's number, and its bytes.
pub type Produced = (usize, Result<EntryBody, S3Error>);

/// Sends the bytes of all entries that are not refused, in the archive's order, until nobody takes them
/// any more, or `wanted` is false. `own`: larger entries get files of their own, on stable storage, whatever the archive.
/// An entry that finds no room in the spool is its own error; what follows one that could not be read is not sent.
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
            log::error!("an archive in the spool could not be opened a second time: {error}");
            return;
        }
    };
    let mut room = Room::new(spool);
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
            _ => room.fill(&mut input, entry.offset, entry.size, own),
        };
        if to.blocking_send((number, body)).is_err() || input.is_broken() {
            return;
        }
    }
}

/// Where the larger entries go, and how many of them are there.
struct Room<'s> {
    spool: &'s Arc<Spool>,
    out: usize,
    leaves: blocking::Sender<()>,
    left: blocking::Receiver<()>,
}

impl<'s> Room<'s> {
    fn new(spool: &'s Arc<Spool>) -> Self {
        let (leaves, left) = blocking::channel();
        Room { spool, out: 0, leaves, left }
    }

    /// Waits for those that went before where there is no room beside them.
    fn fill(
        &mut self,
        input: &mut Input,
        offset: u64,
        size: u64,
        durable: bool,
    ) -> Result<EntryBody, S3Error> {
        skip(input, offset).map_err(|error| unreadable(&error))?;
        loop {
            self.out = self.out.saturating_sub(self.left.try_iter().count());
            let filled = stored_from(self.spool, &mut input.take(size), size, durable);
            // What was read already cannot be read again.
            let waits = self.out > 0 && input.position() == offset;
            match filled {
                Ok((draft, reservation)) => {
                    self.out += 1;
                    let leaves = Leaves(self.leaves.clone());
                    return Ok(EntryBody::Draft(draft, reservation, leaves));
                }
                // Each says so, however it ends.
                Err(error) if waits && error.code == ErrorCode::SlowDown.as_str() => {
                    self.out -= usize::from(self.left.recv().is_ok());
                }
                Err(error) => return Err(error),
            }
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

fn unreadable(error: &io::Error) -> S3Error {
    log::error!("an archive in the spool could not be read a second time: {error}");
    let message = "The gateway could not read the archive that it has stored. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message)
}

impl EntryBody {
    /// What an entry of the spool says of it.
    pub fn recorded(&self, length: u64, md5: [u8; 16]) -> Body {
        let place = match self {
            EntryBody::Draft(draft, ..) => Place::File(draft.id()),
            EntryBody::Bytes(_) | EntryBody::Range(..) => Place::Inline,
        };
        Body { length, md5, place }
    }
}
