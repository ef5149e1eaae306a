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
    _share: Share,
}

/// A part of what may go to one place at a time; given back when dropped.
#[derive(Debug)]
#[must_use = "a share that is dropped is given back"]
pub struct Share {
    spool: Arc<Spool>,
    bucket: String,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.spool.state.index().give_back(&self.bucket);
        self.spool.state.notify();
    }
}

impl Claim {
    pub(super) fn new(spool: &Arc<Spool>, claimed: index::Claimed) -> Claim {
        let index::Claimed { seq, entry, attempts } = claimed;
        let share = Share { spool: Arc::clone(spool), bucket: entry.bucket.clone() };
        Claim { spool: Arc::clone(spool), seq, entry, attempts, held: true, _share: share }
    }

    /// A share beside this claim's own, for a part beside another; None: there is none left, or the place
    /// does not answer.
    pub fn beside(&self) -> Option<Share> {
        let bucket = self.entry.bucket.clone();
        let taken = self.spool.state.index().beside(&bucket);
        taken.then(|| Share { spool: Arc::clone(&self.spool), bucket })
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

    /// The backend has it. When this returns that is on record, also on the records of older ones of its
    /// key that are in quarantine; only then the next one of the key may be claimed, and the files go. It
    /// goes on when the future is dropped after its first poll.
    ///
    /// Errors: the journal has failed. The entry may be delivered again after the next start.
    pub async fn delivered(mut self) -> io::Result<()> {
        self.held = false;
        let (seq, spool) = (self.seq, Arc::clone(&self.spool.state));
        spool.index().answered(&self.entry.bucket);
        let superseded = spool.index().superseded_by(seq);
        let record = |(older, entry): &(u64, Arc<Entry>)| Ok((*older, entry.encode()?));
        let others = superseded.iter().map(record).collect::<io::Result<_>>()?;
        let applied = move || spool.delivered(seq, superseded);
        wait(self.spool.journal.change(seq, Change::Remove { others }, applied)?).await
    }

    /// The backend answers: what failed for want of it is due.
    pub fn answered(&self) {
        let changed = self.spool.state.index().answered(&self.entry.bucket);
        if changed {
            self.spool.state.notify();
        }
    }

    /// The delivery failed for want of the backend: it is tried again later, and what else goes there is
    /// held back. `random`: any number. Returns when at the earliest.
    pub fn unanswered(mut self, now: Instant, random: u64) -> Instant {
        self.held = false;
        self.spool.state.index().stall(self.seq, now, random)
    }

    /// The delivery failed for a reason of its own, and is tried again at `retry_at`.
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
