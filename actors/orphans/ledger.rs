//! The records in memory, and what is to be done about them when.

use super::journal::{Change, Journal};
use super::record::{Owner, Record, Window};
use super::wall_clock;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long after a Create's answer was lost its key is looked at: a backend that was still busy
/// with it when the connection ended has carried it out by then.
const LOST_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];

/// The pause before a sweep that failed is made again; doubles up to [`RETRY_CAP`].
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The longest such pause.
const RETRY_CAP: Duration = Duration::from_secs(600);

/// How long a sweep may take before another one may take the record: a worker that dies meanwhile
/// must not keep it for ever.
const CLAIM: Duration = Duration::from_secs(120);

/// Ids of answered Creates that are remembered, so that no sweep takes them for lost ones. Older
/// ones are outside of any lost Create's window.
const RECENT: usize = 16_384;

/// Clients' uploads on record in one gateway; past it the oldest are forgotten: neither listed nor
/// aborted. Each is under 2 KiB.
const MAX_CLIENT_UPLOADS: usize = 100_000;

/// Records beside clients' own up to which a lost Create still gets one. Each goes after a minute or
/// so; a backend that answers nothing for long must not make them grow.
const MAX_OWN: usize = 20_000;

/// All uploads on record. One in a process.
#[derive(Debug)]
pub struct Ledger {
    journal: Option<Journal>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    records: BTreeMap<u64, Entry>,
    /// The records whose uploads have an id, by bucket and id.
    by_upload: HashMap<(String, String), u64>,
    clients: usize,
    /// Creates under way, by bucket and key.
    creating: HashMap<(String, String), usize>,
    recent: VecDeque<String>,
    recent_set: HashSet<String>,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    /// When the sweeper may take it; None: whoever it belongs to is alive.
    due: Option<Instant>,
    /// Sweeps so far that found nothing.
    sweeps: usize,
    /// Sweeps in a row that failed.
    failures: u32,
}

/// A record that is to be swept.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its number.
    pub id: u64,
    /// The upload.
    pub record: Record,
    /// Sweeps of it before this one.
    pub sweeps: usize,
}

impl Ledger {
    /// Opens the records under `path`. What the gateway itself had begun is due at once.
    ///
    /// Blocks. Errors: another process has it open; the file is damaged.
    pub fn open(path: &Path, now: Instant) -> io::Result<Arc<Self>> {
        let (journal, records) = Journal::open(path)?;
        let mut state = State::default();
        for (id, record) in records {
            state.next = state.next.max(id + 1);
            let client = matches!(record.owner, Owner::Client(_));
            state.clients += usize::from(client);
            let due = (!client).then_some(now);
            if let Some(upload_id) = &record.upload_id {
                state.by_upload.insert((record.bucket.clone(), upload_id.clone()), id);
            }
            state.records.insert(id, Entry { record, due, sweeps: 0, failures: 0 });
        }
        Ok(Arc::new(Ledger { journal: Some(journal), state: Mutex::new(state) }))
    }

    /// Records that outlive nothing: for tests, and where nothing is ever split.
    pub fn in_memory() -> Arc<Self> {
        Arc::new(Ledger { journal: None, state: Mutex::default() })
    }

    /// Puts an upload that the gateway is about to begin on record; it is on disk when this ends.
    pub async fn begin_own(
        self: &Arc<Self>,
        bucket: &str,
        key: &str,
        now: u64,
    ) -> io::Result<OwnUpload> {
        let record = Record {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            upload_id: None,
            owner: Owner::Gateway,
            begun: Window { from: now, to: now },
        };
        let id = self.add(record.clone(), None);
        // Dropped on the way, it is swept.
        let own = OwnUpload { ledger: Arc::clone(self), id, ended: false };
        self.write(id, Some(record)).await?;
        Ok(own)
    }

    /// A Create for this key is under way: no sweep looks at the key meanwhile.
    pub fn creating(self: &Arc<Self>, bucket: &str, key: &str) -> CreateInFlight {
        let place = (bucket.to_owned(), key.to_owned());
        *self.lock().creating.entry(place.clone()).or_default() += 1;
        CreateInFlight { ledger: Arc::clone(self), place }
    }

    /// A Create, whoever asked for it, was answered with this id: it is no lost one.
    pub fn created(&self, upload_id: &str) {
        let mut state = self.lock();
        if state.recent_set.insert(upload_id.to_owned()) {
            state.recent.push_back(upload_id.to_owned());
            if state.recent.len() > RECENT
                && let Some(oldest) = state.recent.pop_front()
            {
                state.recent_set.remove(&oldest);
            }
        }
    }

    /// Whether somebody knows of this upload.
    pub fn is_known(&self, bucket: &str, upload_id: &str) -> bool {
        let state = self.lock();
        let place = (bucket.to_owned(), upload_id.to_owned());
        state.recent_set.contains(upload_id) || state.by_upload.contains_key(&place)
    }

    /// The answer of a Create was lost: the key is looked at later. Past `MAX_OWN` records it is not,
    /// and the log says so.
    pub fn lost_create(&self, bucket: &str, key: &str, begun: Window, now: Instant) {
        let record = Record {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            upload_id: None,
            owner: Owner::Lost,
            begun,
        };
        if self.own_count() >= MAX_OWN {
            log::error!(
                "bucket {bucket}: a lost CreateMultipartUpload of {key:?} is not looked for"
            );
            return;
        }
        let id = self.add(record.clone(), Some(now + LOST_AFTER[0]));
        self.note(id, Some(record));
    }

    /// Puts a client's own upload on record; it is on disk when this ends.
    pub async fn client_began(
        &self,
        bucket: &str,
        key: &str,
        upload_id: &str,
        principal: &str,
        now: u64,
    ) -> io::Result<()> {
        let record = Record {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            upload_id: Some(upload_id.to_owned()),
            owner: Owner::Client(principal.to_owned()),
            begun: Window { from: now, to: now },
        };
        let oldest = {
            let mut state = self.lock();
            state.clients += 1;
            let is_client = |entry: &Entry| matches!(entry.record.owner, Owner::Client(_));
            let full = state.clients > MAX_CLIENT_UPLOADS;
            let first = state.records.iter().find(|(_, entry)| is_client(entry));
            first.map(|(id, _)| *id).filter(|_| full)
        };
        if let Some(oldest) = oldest {
            self.remove(oldest);
        }
        let id = self.add(record.clone(), None);
        self.write(id, Some(record)).await
    }

    /// A client's upload was completed or aborted.
    pub fn client_ended(&self, bucket: &str, upload_id: &str) {
        let place = (bucket.to_owned(), upload_id.to_owned());
        let found = {
            let state = self.lock();
            let id = state.by_upload.get(&place).copied();
            let client_s = |entry: &Entry| matches!(entry.record.owner, Owner::Client(_));
            id.filter(|id| state.records.get(id).is_some_and(client_s))
        };
        if let Some(id) = found {
            self.remove(id);
        }
    }

    /// A principal's own uploads in a bucket, in the order in which they were begun.
    pub fn of_client(&self, bucket: &str, principal: &str) -> Vec<Record> {
        let owner = Owner::Client(principal.to_owned());
        let state = self.lock();
        let records = state.records.values().map(|entry| &entry.record);
        records.filter(|record| record.bucket == bucket && record.owner == owner).cloned().collect()
    }

    /// A record whose time has come, for whoever asks first. It must be given back by
    /// [`Ledger::remove`] or [`Ledger::swept`]; if it is not, it is due again later.
    ///
    /// `client_ttl`: how old a client's upload in this bucket may become, milliseconds; None: they
    /// are never touched. `wall`: milliseconds since 1970.
    pub fn claim(
        &self,
        now: Instant,
        wall: u64,
        client_ttl: impl Fn(&str) -> Option<u64>,
    ) -> Option<Due> {
        let mut state = self.lock();
        let State { records, creating, .. } = &mut *state;
        let (id, entry) = records.iter_mut().find(|(_, entry)| {
            let record = &entry.record;
            let due = match (&record.owner, entry.due) {
                (_, Some(due)) => due <= now,
                (Owner::Client(_), None) => client_ttl(&record.bucket)
                    .is_some_and(|ttl| wall.saturating_sub(record.begun.from) > ttl),
                (_, None) => false,
            };
            let place = || (record.bucket.clone(), record.key.clone());
            due && (record.upload_id.is_some() || !creating.contains_key(&place()))
        })?;
        entry.due = Some(now + CLAIM);
        Some(Due { id: *id, record: entry.record.clone(), sweeps: entry.sweeps })
    }

    /// A sweep has ended and the record stays: `failed`: it is tried again; else an unknown id was
    /// looked for, and is looked for once more.
    pub fn swept(&self, id: u64, failed: bool, now: Instant) {
        let mut state = self.lock();
        let Some(entry) = state.records.get_mut(&id) else { return };
        if failed {
            let pause = RETRY_AFTER.saturating_mul(1 << entry.failures.min(5)).min(RETRY_CAP);
            entry.failures += 1;
            entry.due = Some(now + pause);
            return;
        }
        entry.sweeps += 1;
        match LOST_AFTER.get(entry.sweeps) {
            Some(pause) => entry.due = Some(now + *pause),
            None => {
                drop(state);
                self.remove(id);
            }
        }
    }

    /// Takes a record off.
    pub fn remove(&self, id: u64) {
        let removed = {
            let mut state = self.lock();
            let removed = state.records.remove(&id);
            if let Some(Record { bucket, upload_id: Some(upload_id), .. }) =
                removed.as_ref().map(|one| &one.record)
            {
                state.by_upload.remove(&(bucket.clone(), upload_id.clone()));
            }
            if removed.as_ref().is_some_and(|one| matches!(one.record.owner, Owner::Client(_))) {
                state.clients -= 1;
            }
            removed
        };
        if removed.is_some() {
            self.note(id, None);
        }
    }

    /// Records, clients' own not counted: what a crash would leave behind.
    pub fn own_count(&self) -> usize {
        let state = self.lock();
        state.records.len() - state.clients
    }

    fn add(&self, record: Record, due: Option<Instant>) -> u64 {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        if let Some(upload_id) = &record.upload_id {
            state.by_upload.insert((record.bucket.clone(), upload_id.clone()), id);
        }
        state.records.insert(id, Entry { record, due, sweeps: 0, failures: 0 });
        id
    }

    /// Waits until every change so far is on disk: before an orderly end.
    pub async fn flush(&self) -> io::Result<()> {
        // No record has this number: taking it off changes nothing, but is a commit.
        self.write(u64::MAX, None).await
    }

    /// Writes a change, and waits until it is on disk.
    async fn write(&self, id: u64, record: Option<Record>) -> io::Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let (done, written) = oneshot::channel();
        journal.submit(Change { id, record, done: Some(done) });
        written.await.map_err(|_| io::Error::other("the upload journal has ended"))?
    }

    /// Writes a change, and does not wait until it is on disk.
    fn note(&self, id: u64, record: Option<Record>) {
        if let Some(journal) = &self.journal {
            journal.submit(Change { id, record, done: None });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload of the gateway's own, while somebody looks after it. Dropped before it has ended, it
/// is left to the sweeper.
#[derive(Debug)]
pub struct OwnUpload {
    ledger: Arc<Ledger>,
    id: u64,
    ended: bool,
}

impl OwnUpload {
    /// The backend has answered Create with this id; it is on disk when this ends.
    pub async fn named(&self, upload_id: &str) -> io::Result<()> {
        let record = {
            let mut state = self.ledger.lock();
            let Some(entry) = state.records.get_mut(&self.id) else { return Ok(()) };
            entry.record.upload_id = Some(upload_id.to_owned());
            let record = entry.record.clone();
            let place = (record.bucket.clone(), upload_id.to_owned());
            state.by_upload.insert(place, self.id);
            record
        };
        self.ledger.write(self.id, Some(record)).await
    }

    /// Nothing of it is left at the backend.
    pub fn end(mut self) {
        self.ended = true;
        self.ledger.remove(self.id);
    }
}

impl Drop for OwnUpload {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut state = self.ledger.lock();
        if let Some(entry) = state.records.get_mut(&self.id) {
            let unknown = entry.record.upload_id.is_none();
            let pause = if unknown { LOST_AFTER[0] } else { Duration::ZERO };
            entry.due = Some(Instant::now() + pause);
            // Given up now: no later Create can be this one.
            entry.record.begun.to = wall_clock();
        }
    }
}

/// See [`Ledger::creating`].
#[derive(Debug)]
pub struct CreateInFlight {
    ledger: Arc<Ledger>,
    place: (String, String),
}

impl Drop for CreateInFlight {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        if let Some(count) = state.creating.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                state.creating.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const NEVER: fn(&str) -> Option<u64> = |_| None;

    /// "Recorded durably before Create is sent, and aborted after a crash."
    #[tokio::test]
    async fn what_was_begun_is_due_after_a_crash_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("uploads.redb");
        let later = Instant::now() + Duration::from_secs(600);
        let ledger = Ledger::open(&path, Instant::now()).unwrap();
        let named = ledger.begin_own("b", "k", 1).await.unwrap();
        named.named("id").await.unwrap();
        assert!(ledger.claim(later, 0, NEVER).is_none(), "it is alive");
        // One process at a time.
        assert!(Ledger::open(&path, later).unwrap_err().to_string().contains("state_directory"));
        // A crash: what is on disk is all there is.
        let crashed = directory.path().join("crashed.redb");
        std::fs::copy(&path, &crashed).unwrap();
        let reopened = Ledger::open(&crashed, Instant::now()).unwrap();
        let due = reopened.claim(Instant::now(), 0, NEVER).unwrap();
        assert_eq!(due.record.upload_id.as_deref(), Some("id"));
        assert!(reopened.claim(Instant::now(), 0, NEVER).is_none(), "claimed once");
        reopened.remove(due.id);
        assert_eq!(reopened.own_count(), 0);
    }

    #[tokio::test]
    async fn a_dropped_upload_is_swept_and_a_failed_sweep_is_made_again() {
        let ledger = Ledger::in_memory();
        let own = ledger.begin_own("b", "k", 1).await.unwrap();
        own.named("id").await.unwrap();
        assert!(ledger.is_known("b", "id"));
        drop(own);
        let now = Instant::now();
        let due = ledger.claim(now, 0, NEVER).unwrap();
        ledger.swept(due.id, true, now);
        assert!(ledger.claim(now, 0, NEVER).is_none());
        assert!(ledger.claim(now + RETRY_AFTER, 0, NEVER).is_some());
    }

    #[test]
    fn a_lost_create_is_looked_for_twice_and_never_beside_another() {
        let ledger = Ledger::in_memory();
        let now = Instant::now();
        ledger.lost_create("b", "k", Window { from: 1, to: 2 }, now);
        assert!(ledger.claim(now, 0, NEVER).is_none());
        let at = now + LOST_AFTER[0];
        let beside = ledger.creating("b", "k");
        assert!(ledger.claim(at, 0, NEVER).is_none());
        drop(beside);
        for sweep in 0..2 {
            let due = ledger.claim(at + LOST_AFTER[1] * 2, 0, NEVER).unwrap();
            assert_eq!(due.sweeps, sweep);
            ledger.swept(due.id, false, now);
        }
        assert_eq!(ledger.own_count(), 0);
    }

    /// "A client's own are never touched by default."
    #[tokio::test]
    async fn a_client_s_upload_is_due_only_where_a_ttl_says_so() {
        let ledger = Ledger::in_memory();
        ledger.client_began("b", "k", "id", "alice", 1_000).await.unwrap();
        let later = Instant::now() + Duration::from_secs(1_000_000);
        assert!(ledger.claim(later, u64::MAX, NEVER).is_none());
        assert!(ledger.claim(later, 1_500, |_| Some(1_000)).is_none());
        assert!(ledger.claim(later, 2_500, |_| Some(1_000)).is_some());
        assert_eq!(ledger.of_client("b", "alice").len(), 1);
        assert_eq!(ledger.of_client("b", "bob").len(), 0);
        assert!(ledger.is_known("b", "id"));
        ledger.client_ended("b", "id");
        assert_eq!(ledger.of_client("b", "alice").len(), 0);
        assert!(!ledger.is_known("b", "id"));
    }
}
