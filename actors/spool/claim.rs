//! An entry that somebody delivers.

use super::entry::{Entry, Quarantine};
use super::journal::{Change, wait};
use super::{Spool, index};
use crate::orphans::wall_clock;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// An entry that is this owner's alone, and before which nothing else of its key is pending. Dropped
/// unfinished it is due again.
///
/// Where the journal has failed, a claim that was to be ended durably stays taken until the next
/// start: its key waits, and nobody delivers it over and over.
#[derive(Debug)]
#[must_use = "a claim that is dropped is due again"]
pub struct Claim {
    spool: Arc<Spool>,
    seq: u64,
    entry: Arc<Entry>,
    attempts: u32,
    /// It is this one that gives the entry back.
    held: bool,
}

impl Claim {
    pub(super) fn new(spool: &Arc<Spool>, claimed: index::Claimed) -> Claim {
        let index::Claimed { seq, entry, attempts } = claimed;
        Claim { spool: Arc::clone(spool), seq, entry, attempts, held: true }
    }

    /// The entry's number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The entry.
    pub fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Claims of this entry in this process that ended without a delivery.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The backend has it. When this returns that is on record; only then the next one of the key may be
    /// claimed, and the files go. It goes on when the future is dropped after its first poll.
    ///
    /// Errors: the journal has failed. The entry may be delivered again after the next start.
    pub async fn delivered(mut self) -> io::Result<()> {
        self.held = false;
        let (seq, spool) = (self.seq, Arc::clone(&self.spool.state));
        let done = self.spool.journal.change(seq, Change::Remove, move || spool.delivered(seq))?;
        wait(done).await
    }

    /// The delivery failed, and is tried again at `retry_at`.
    pub fn failed(mut self, retry_at: Instant) {
        self.held = false;
        self.spool.state.release(self.seq, Some(retry_at));
    }

    /// It is not to be delivered: it is kept, and the next one of its key may go. Nothing of it is at
    /// the backend any more, or somebody else has it on record. Durable when it returns.
    ///
    /// Errors: the journal has failed.
    pub async fn quarantine(mut self, reason: String) -> io::Result<()> {
        self.held = false;
        let mut entry = Entry::clone(&self.entry);
        entry.quarantined = Some(Quarantine { reason, at: wall_clock() });
        entry.upload_id = None;
        self.replace(Arc::new(entry)).await
    }

    /// Puts the backend's id of a multipart delivery on record, or that there is none any more. Durable
    /// when it returns.
    ///
    /// Errors: the journal has failed.
    pub async fn note_upload(&mut self, upload_id: Option<String>) -> io::Result<()> {
        let mut entry = Entry::clone(&self.entry);
        entry.upload_id = upload_id;
        let entry = Arc::new(entry);
        self.replace(Arc::clone(&entry)).await?;
        self.entry = entry;
        Ok(())
    }

    async fn replace(&self, entry: Arc<Entry>) -> io::Result<()> {
        let (seq, spool) = (self.seq, Arc::clone(&self.spool.state));
        let change = Change::Replace { record: entry.encode()? };
        let done = self.spool.journal.change(seq, change, move || spool.replace(seq, entry))?;
        wait(done).await
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.held {
            self.spool.state.release(self.seq, None);
        }
    }
}
