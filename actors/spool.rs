//! What clients were told is stored, and the backend does not have yet.
//!
//! The promise: whoever was answered 2xx has the body and the record of it on stable storage, and it is
//! delivered, whatever becomes of the process. The order that keeps it:
//!
//! ```text
//!  reserve ─▶ create, append … , sync (fdatasync)      the body's file, or its bytes stay in memory
//!          ─▶ commit: sync_folder (fsync), journal     one for all that wait: group commit
//!          ─▶ 2xx                                      the entry is in the index, and due
//!  claim   ─▶ the backend answers 200
//!          ─▶ delivered: journal                       a crash before it: the entry is sent again
//!          ─▶ the key's next entry is due ─▶ unlink    a crash before it: the next start unlinks
//! ```
//!
//! Entries of one key go in the order of their numbers, one at a time: what was acknowledged last is
//! what the backend has in the end, also if a crash makes an older one come again first. The first
//! failing write or sync latches the spool: nothing is acknowledged from then on, and nothing is synced
//! a second time; the next start finds out what is there.
//!
//! A client's multipart upload stands here part by part, and is an entry when it is completed:
//!
//! ```text
//!  begin   ─▶ journal ─▶ 200            a record in `uploads`
//!  part    ─▶ file, sync, sync_folder ─▶ journal ─▶ 200
//!                                       a record in `parts`, instead of the one of its number, whose
//!                                       file goes then
//!  complete ─▶ journal ─▶ 200           in one commit: the entry in, upload and parts out; then the
//!                                       files go that the entry does not name
//!  abort, or its age ─▶ journal ─▶ 204  upload and parts out; then the files go
//! ```
//!
//! Who ends an upload is decided in memory (uploads.rs), under the lock under which its change is
//! queued: so the queue has no part of an upload behind its end.
//!
//! On disk, format 3 (any other is refused):
//!
//! ```text
//!  <spool>/                      0700; one process (the journal is locked)
//!  ├── journal.redb              redb 4, checksummed; commits are atomic
//!  │   ├── meta      str → u64     "version" = 3; "run" = how often it was opened
//!  │   ├── entries   u64 → bytes   number → format (1 byte), JSON (entry.rs)
//!  │   ├── bodies    u64 → bytes   number → the bodies of small PutObjects (journal/groups.rs)
//!  │   ├── uploads   u64 → bytes   number → format, CRC, JSON (uploads/record.rs): open uploads
//!  │   ├── parts     (u64, u16) → bytes   number of the upload, of the part → the same
//!  │   └── completed u64 → bytes   number of the entry → what the client was told; the last 4096
//!  └── bodies/
//!      └── 0000010000000001      a body; no header, no trailer: it is sent by splice(2)
//! ```
//!
//! A number (of an entry, an upload, or a body's name) is the run in its upper 24 bits and a count in the
//! lower 40: it is never used twice, and grows. At the start files that no entry and no part names are removed:
//! they are bodies that nobody was told are stored, and of entries that were delivered. An entry whose
//! file is missing or too short is in quarantine then; a part is dropped. Half a spool is refused
//! (sane.rs): bodies without a journal, and a journal of whose bodies none is there.

pub mod check;
mod claim;
mod disk;
mod entry;
mod framing;
mod index;
mod ingest;
mod janitor;
mod journal;
mod limits;
mod md5;
mod operator;
mod pace;
pub mod part_requests;
mod places;
mod recovery;
pub mod request;
mod sane;
mod uploads;
pub mod verdict;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod simulated;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

use crate::s3::error::{ErrorCode, S3Error};
use bytes::Bytes;
use index::Index;
use janitor::Janitor;
use journal::{Change, Journal, Latch, Opened, wait};
use limits::{Account, Amount};
use recovery::{missing, recover};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use uploads::{Counts, Uploads};

pub use claim::{Claim, Share};
pub use disk::{BodyFile, Disk, Folder};
pub use entry::{Body, BodyId, Entry, EntryContent, Newer, PartBody, Parts, Place, Quarantine};
pub use ingest::{BATCH, Draft, INLINE, IngestError, Ingested, ingest, ingest_part, stored_from};
pub use limits::{Free, Limits, Reservation};
pub use operator::{Blocks, Retried, RetriedAll, Verified};
pub use pace::Pacing;
pub use places::Places;
pub use uploads::{
    ChecksumRule, ClientUpload, CompleteError, Completed, OpenUpload, StoredPart, UploadId,
    no_such_upload, part_checksum,
};

/// The spool. One in a process; its last owner waits for its threads when it drops it.
#[derive(Debug)]
pub struct Spool {
    // Dropped first: its thread uses what stands below.
    journal: Journal,
    state: Arc<State>,
    disk: Arc<dyn Disk>,
    next_body: AtomicU64,
}

/// What the journal's thread changes too.
#[derive(Debug)]
struct State {
    index: Mutex<Index>,
    uploads: Mutex<Uploads>,
    account: limits::Shared,
    latch: Arc<Latch>,
    changed: Notify,
    janitor: Janitor,
    unreadable: u64,
}

/// What the spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Entries, those in quarantine included.
    pub entries: u64,
    /// Bytes of their bodies, and of the parts of open uploads.
    pub bytes: u64,
    /// Files of both.
    pub files: u64,
    /// Multipart uploads that clients have begun here and not completed.
    pub uploads: u64,
    /// Their parts.
    pub parts: u64,
    /// Bytes of them.
    pub part_bytes: u64,
    /// Entries that are not delivered.
    pub quarantined: u64,
    /// Records that this version cannot read; they and all files are kept.
    pub unreadable: u64,
    /// When the one was accepted that waits longest for its delivery: milliseconds since 1970.
    pub oldest: Option<u64>,
    /// Nothing more is acknowledged until the process starts again.
    pub latched: bool,
}

impl Spool {
    /// Opens the spool, and puts in order what a crash has left. What it finds is due at once. Blocks.
    ///
    /// Errors: `ResourceBusy`: another process has it; the disk fails; the journal is damaged, or is gone
    /// while bodies are there, or the bodies are (`InvalidData`); it is a newer version's (`Unsupported`).
    pub fn open(disk: Arc<dyn Disk>, limits: Limits) -> io::Result<Arc<Spool>> {
        sane::has_its_journal(&*disk)?;
        let opened = Opened::open(&*disk)?;
        let found = recover(&*disk, &opened)?;
        let mut account = Account::new(limits);
        let mut index = Index::default();
        for (seq, entry) in found.entries {
            account.store(weight(&entry));
            index.insert(seq, entry);
        }
        let Counts { uploads, parts, bytes } = found.uploads.counts();
        account.store(Amount::of(uploads.saturating_add(parts), bytes));
        let (account, latch) = (Arc::new(Mutex::new(account)), Arc::new(Latch::default()));
        let janitor = Janitor::start(Arc::clone(&disk), Arc::clone(&account))?;
        let state = State {
            index: Mutex::new(index),
            uploads: Mutex::new(found.uploads),
            account,
            latch: Arc::clone(&latch),
            changed: Notify::new(),
            janitor,
            unreadable: found.unreadable,
        };
        let next_body = AtomicU64::new(opened.first() + 1);
        let journal = opened.start(Arc::clone(&disk), latch)?;
        Ok(Arc::new(Spool { journal, state: Arc::new(state), disk, next_body }))
    }

    /// A place for an entry whose body has this length, before the body is read: [`Reservation::grow`]
    /// where it is not known.
    ///
    /// Errors: 503 SlowDown: too much waits for its delivery, the disk is full, or the spool is latched.
    pub fn reserve(&self, length: u64) -> Result<Reservation, S3Error> {
        if self.state.latch.reason().is_some() {
            let message =
                "The gateway's disk has failed: it stores nothing until it is started again.";
            return Err(S3Error::new(ErrorCode::SlowDown, message));
        }
        Reservation::take(&self.state.account, length).map_err(S3Error::from)
    }

    /// A name for a body's file that no other had before or will have.
    pub fn new_body(&self) -> BodyId {
        BodyId(self.next_body.fetch_add(1, Ordering::Relaxed))
    }

    /// Where the bodies are.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Puts an entry on record. When it returns, the entry is durable and in the index; its files must
    /// have been synced before. `inline`: the bytes of its body if their place is [`Place::Inline`].
    /// The number is taken at the first poll; from then on it goes on when the future is dropped.
    ///
    /// Errors: the spool is latched, and the entry may be on record or not. Its files must stay: the next
    /// start removes them if nothing names them. Until then its key counts as pending.
    pub async fn commit(
        self: &Arc<Self>,
        entry: Entry,
        inline: Option<Bytes>,
        reservation: Reservation,
    ) -> io::Result<u64> {
        let record = entry.encode()?;
        let files = entry.files().next().is_some();
        let (state, entry) = (Arc::clone(&self.state), Arc::new(entry));
        let doubt = Doubt::of(&state, &entry);
        let applied = move |seq| {
            doubt.dispel();
            state.committed(seq, entry, reservation);
        };
        let (seq, done) = self.journal.add(record, inline, files, applied)?;
        wait(done).await?;
        Ok(seq)
    }

    /// Ends it: what is queued is written, and nothing is taken or recorded from then on. So that the next
    /// start finds the journal closed, whoever still holds the spool.
    pub async fn close(self: &Arc<Self>) {
        let spool = Arc::clone(self);
        if let Err(error) = tokio::task::spawn_blocking(move || spool.journal.close()).await {
            log::error!("the spool could not be closed: {error}");
        }
    }

    /// Stops all acknowledgements: a body's sync has failed, say.
    pub fn latch(&self, reason: impl Into<String>) {
        self.state.latch.set(reason.into());
    }

    /// Has the files of bodies removed that no entry was to name: a client that went away. Does not
    /// block.
    pub fn discard(&self, bodies: Vec<BodyId>) {
        self.state.janitor.remove(bodies);
    }

    /// Whether something of this key is still to be delivered.
    pub fn is_pending(&self, bucket: &str, key: &str) -> bool {
        self.state.index().is_pending(bucket, key)
    }

    /// Ends when nothing of this key is still to be delivered that is now.
    pub async fn delivered_all(&self, bucket: &str, key: &str) {
        let Some(newest) = self.state.index().newest(bucket, key) else { return };
        loop {
            let Some(mut left) = self.state.index().leaving(bucket, key, newest) else { return };
            // Closed: its queue has ended, and may be there anew.
            let _ = left.changed().await;
        }
    }

    /// A write to this key went through to the backend: what is set aside of it is older than what is
    /// there, and says so when this returns.
    ///
    /// Errors: the journal has failed.
    pub async fn written_through(&self, bucket: &str, key: &str) -> io::Result<()> {
        let older = self.state.index().superseded_by_write(bucket, key);
        for (seq, entry) in older {
            let (state, record) = (Arc::clone(&self.state), entry.encode()?);
            let applied = move || state.replace(seq, entry);
            wait(self.journal.change(seq, Change::Replace { record }, applied)?).await?;
        }
        Ok(())
    }

    /// How deliveries are paced from now on.
    pub fn set_pacing(&self, pacing: Pacing) {
        self.state.index().set_pacing(pacing);
    }

    /// Which buckets write to the same place: from now on they share its keys and their order, and its
    /// share of the deliveries. Before anything is claimed.
    pub fn set_places(&self, places: Places) {
        self.state.index().set_names(places.shared);
    }

    /// An entry that is due, whose key has no older one pending, and that nobody has: the places that they
    /// go to take turns, and of one the oldest is first.
    pub fn claim(self: &Arc<Self>, now: Instant) -> Option<Claim> {
        let claimed = self.state.index().claim(now)?;
        Some(Claim::new(self, claimed))
    }

    /// When [`Spool::claim`] may have something, if nothing else happens: `now` if it has.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.state.index().next_due(now)
    }

    /// Ends when something became claimable, or when [`Spool::next_due`] may have changed; sometimes for
    /// nothing. Taken before `claim` is asked it misses nothing.
    pub fn changed(&self) -> Notified<'_> {
        self.state.changed.notified()
    }

    /// The body of an entry that is inline.
    pub async fn inline(&self, seq: u64) -> io::Result<Bytes> {
        let reader = self.journal.reader().ok_or(io::ErrorKind::BrokenPipe)?;
        tokio::task::spawn_blocking(move || reader.inline(seq)).await.map_err(io::Error::other)?
    }

    /// What there is.
    pub fn totals(&self) -> Totals {
        let counts = self.state.index().counts();
        let open = self.state.uploads().counts();
        Totals {
            entries: counts.entries,
            bytes: counts.bytes.saturating_add(open.bytes),
            files: counts.files.saturating_add(open.parts),
            uploads: open.uploads,
            parts: open.parts,
            part_bytes: open.bytes,
            quarantined: counts.quarantined,
            unreadable: self.state.unreadable,
            oldest: counts.oldest,
            latched: self.state.latch.reason().is_some(),
        }
    }

    /// At most `most` entries whose numbers are greater than `after`, in their order.
    pub fn list(&self, after: u64, most: usize) -> Vec<(u64, Arc<Entry>)> {
        self.state.index().list(after, most)
    }
}

impl State {
    fn index(&self) -> MutexGuard<'_, Index> {
        // No panic leaves it half changed: it makes none.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        // As above.
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.notify_waiters();
        // For whoever is between its claim and its wait.
        self.changed.notify_one();
    }

    fn committed(&self, seq: u64, entry: Arc<Entry>, reservation: Reservation) {
        reservation.store(weight(&entry));
        self.index().insert(seq, entry);
        self.notify();
    }

    fn delivered(&self, seq: u64, superseded: Vec<(u64, Arc<Entry>)>) {
        let entry = {
            let mut index = self.index();
            for (older, entry) in superseded {
                index.replace(older, entry);
            }
            index.remove(seq)
        };
        if let Some(entry) = entry {
            limits::lock(&self.account).unstore(weight(&entry));
            self.janitor.remove(entry.files().collect());
        }
        self.notify();
    }

    fn replace(&self, seq: u64, entry: Arc<Entry>) {
        self.index().replace(seq, entry);
        self.notify();
    }

    fn release(&self, seq: u64, due: Option<Instant>) {
        self.index().release(seq, due);
        self.notify();
    }
}

/// What an entry takes of the limits: each of its bodies counts.
fn weight(entry: &Entry) -> Amount {
    Amount::of((entry.bodies().count() as u64).max(1), entry.length())
}

/// An entry that is being put on record. Dropped before that is known to be done, it may be there: the next
/// start would deliver it, over whatever was written to its key meanwhile.
#[derive(Debug)]
struct Doubt {
    state: Option<Arc<State>>,
    entry: Arc<Entry>,
}

impl Doubt {
    fn of(state: &Arc<State>, entry: &Arc<Entry>) -> Doubt {
        Doubt { state: Some(Arc::clone(state)), entry: Arc::clone(entry) }
    }

    /// It is on record.
    fn dispel(mut self) {
        self.state = None;
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        if let Some(state) = &self.state {
            state.index().doubt(&self.entry.bucket, &self.entry.key);
        }
    }
}
