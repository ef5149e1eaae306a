//! What of a batch is stored already: the memory behind `Idempotency-Key`
//! (draft-ietf-httpapi-idempotency-key-header), so that a batch that broke off in the middle is sent
//! again whole and only the rest of it is stored.
//!
//! A redb file of its own in the state directory. Of each batch a fingerprint over the keys and contents
//! of all entries, and one bit for each entry: what it costs does not depend on what was stored. A bit is
//! set after its entry was stored, and written down at most [`FLUSH_EVERY`] later: what a crash forgets is
//! stored once more, which harms nobody.

use super::index::Index;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// End of its time (milliseconds since 1970), fingerprint, bits.
type Row = (u64, [u8; 32], &'static [u8]);

/// Batch to what is known of it. The name is the format's version.
const BATCHES: TableDefinition<'_, [u8; 32], Row> = TableDefinition::new("batches/1");

/// The same by the end of its time.
const ENDS: TableDefinition<'_, (u64, [u8; 32]), ()> = TableDefinition::new("ends/1");

/// Batches that are remembered: with a million entries each 1.2 GB of disk, with a thousand 2 MB. Past it
/// those go that would be forgotten next.
const MAX_BATCHES: u64 = 10_000;

/// As many of one owner: whose 10,000 small ones would otherwise take everybody's place.
const MAX_OWN: usize = 1_000;

/// Memory for redb's pages (1 GiB by default): a row is read once and written every [`FLUSH_EVERY`].
const CACHE: usize = 8 << 20;

/// How often what was stored is written down while a batch goes on.
pub const FLUSH_EVERY: Duration = Duration::from_millis(500);

/// Bytes of a [`BatchId`] that say whose it is.
const OWNER: usize = 16;

/// Whose batch it is, and how its client calls it. Those of one owner are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId([u8; 32]);

impl BatchId {
    /// The batch that `owner` (the identity's) calls `key` in this bucket.
    pub fn new(owner: &str, bucket: &str, key: &str) -> BatchId {
        let mut hash = Sha256::new();
        for part in [owner, bucket, key] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut id: [u8; 32] = hash.finalize().into();
        id.iter_mut().zip(Sha256::digest(owner)).take(OWNER).for_each(|(to, from)| *to = from);
        BatchId(id)
    }

    /// The first and the last that its owner may have.
    fn neighbours(self) -> RangeInclusive<[u8; 32]> {
        let with = |rest: u8| {
            let mut id = self.0;
            id.iter_mut().skip(OWNER).for_each(|byte| *byte = rest);
            id
        };
        with(0)..=with(u8::MAX)
    }
}

/// All batches with a key. One in a process.
#[derive(Debug)]
pub struct DoneBatches {
    database: Database,
    running: Mutex<HashSet<BatchId>>,
}

/// A batch that is under way; nobody else runs it.
#[derive(Debug)]
pub struct RunningBatch {
    of: Arc<DoneBatches>,
    id: BatchId,
    state: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    end: u64,
    fingerprint: [u8; 32],
    bits: Vec<u8>,
    /// Bits that are not written down.
    fresh: bool,
}

/// The batch had another content when it was sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherContent;

impl DoneBatches {
    /// Opens the file, makes it if there is none. Blocks.
    ///
    /// Errors: another process has it open; it is damaged.
    pub fn open(path: &Path) -> io::Result<Arc<DoneBatches>> {
        let damaged = |error: &dyn std::error::Error| {
            let what = "Move it away to start with an empty one: batches that were sent are then forgotten";
            io::Error::other(format!("{} cannot be used: {error}. {what}", path.display()))
        };
        let opened = Builder::new().set_cache_size(CACHE).create(path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => io::ErrorKind::ResourceBusy.into(),
            error => damaged(&error),
        })?;
        let make = || -> Result<(), redb::Error> {
            let begun = database.begin_write()?;
            begun.open_table(BATCHES)?;
            begun.open_table(ENDS)?;
            begun.commit()?;
            Ok(())
        };
        make().map_err(|error| damaged(&error))?;
        Ok(Arc::new(DoneBatches { database, running: Mutex::default() }))
    }

    /// Begins a batch. None: it is under way already.
    pub fn run(self: &Arc<Self>, id: BatchId) -> Option<RunningBatch> {
        let is_new = self.running().insert(id);
        let state = Mutex::default();
        is_new.then(|| RunningBatch { of: Arc::clone(self), id, state })
    }

    fn running(&self) -> MutexGuard<'_, HashSet<BatchId>> {
        // A set: no panic leaves it half changed.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, id: BatchId, now: u64) -> Result<Option<Progress>, redb::Error> {
        let reading = self.database.begin_read()?;
        let found = reading.open_table(BATCHES)?.get(id.0)?;
        Ok(found.and_then(|row| {
            let (end, fingerprint, bits) = row.value();
            (end > now).then(|| Progress { end, fingerprint, bits: bits.to_vec(), fresh: false })
        }))
    }

    fn write(&self, id: BatchId, progress: &Progress, now: u64) -> Result<(), redb::Error> {
        let begun = self.database.begin_write()?;
        {
            let (mut batches, mut ends) = (begun.open_table(BATCHES)?, begun.open_table(ENDS)?);
            let row = (progress.end, progress.fingerprint, progress.bits.as_slice());
            let before = batches.insert(id.0, row)?.map(|row| row.value().0);
            if let Some(before) = before.filter(|before| *before != progress.end) {
                ends.remove((before, id.0))?;
            }
            ends.insert((progress.end, id.0), ())?;
            let mut gone = Vec::new();
            if before.is_none() {
                // Of too many of one owner the one whose time is over next.
                let mut own = Vec::new();
                for row in batches.range(id.neighbours())? {
                    let (other, row) = row?;
                    own.push((row.value().0, other.value()));
                }
                if own.len() > MAX_OWN {
                    gone.extend(own.into_iter().filter(|(_, other)| *other != id.0).min());
                }
            }
            // Those whose time is over; and of too many those whose time is over next.
            let mut many =
                redb::ReadableTableMetadata::len(&ends)?.saturating_sub(gone.len() as u64);
            for row in ends.iter()? {
                let (end, other) = row?.0.value();
                if end > now && many <= MAX_BATCHES {
                    break;
                }
                if other != id.0 && !gone.contains(&(end, other)) {
                    gone.push((end, other));
                    many -= 1;
                }
            }
            for (end, other) in gone {
                ends.remove((end, other))?;
                batches.remove(other)?;
            }
        }
        begun.commit()?;
        Ok(())
    }
}

impl RunningBatch {
    /// Holds the batch against what was sent under its key before, and says which entries are stored
    /// already. `now`: milliseconds since 1970; `kept`: how long it is remembered. Blocks.
    ///
    /// Errors: the file cannot be read or written; within: it had another content.
    pub fn begin(
        &self,
        index: &Index,
        now: u64,
        kept: Duration,
    ) -> io::Result<Result<Vec<usize>, OtherContent>> {
        let fingerprint = fingerprint(index);
        let found = self.of.read(self.id, now).map_err(io::Error::other)?;
        if let Some(before) = found {
            if before.fingerprint != fingerprint {
                return Ok(Err(OtherContent));
            }
            let done = (0..index.len()).filter(|number| is_set(&before.bits, *number)).collect();
            *self.state() = before;
            return Ok(Ok(done));
        }
        let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        let progress = Progress {
            end: now.saturating_add(kept),
            fingerprint,
            bits: vec![0; index.len().div_ceil(8)],
            fresh: false,
        };
        self.of.write(self.id, &progress, now).map_err(io::Error::other)?;
        *self.state() = progress;
        Ok(Ok(Vec::new()))
    }

    /// This entry is stored.
    pub fn note(&self, number: usize) {
        let mut state = self.state();
        if let Some(byte) = state.bits.get_mut(number / 8) {
            *byte |= 1 << (number % 8);
            state.fresh = true;
        }
    }

    /// Writes down what was stored so far: every [`FLUSH_EVERY`], and at the end; one at a time. Blocks.
    pub fn flush(&self, now: u64) {
        let progress = {
            let mut state = self.state();
            if !std::mem::take(&mut state.fresh) {
                return;
            }
            let (end, fingerprint, bits) = (state.end, state.fingerprint, state.bits.clone());
            Progress { end, fingerprint, bits, fresh: false }
        };
        if let Err(error) = self.of.write(self.id, &progress, now) {
            log::error!("what is stored of a batch could not be written down: {error}");
        }
    }

    fn state(&self) -> MutexGuard<'_, Progress> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RunningBatch {
    fn drop(&mut self) {
        self.of.running().remove(&self.id);
    }
}

fn is_set(bits: &[u8], number: usize) -> bool {
    bits.get(number / 8).is_some_and(|byte| byte & (1 << (number % 8)) != 0)
}

/// Over what was sent, and not how: a form's boundary is another each time.
fn fingerprint(index: &Index) -> [u8; 32] {
    let mut hash = Sha256::new();
    for entry in index.iter() {
        hash.update((entry.key.len() as u64).to_be_bytes());
        hash.update(entry.key);
        hash.update(entry.size.to_be_bytes());
        hash.update(entry.md5);
    }
    hash.finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn index(names: &[&str]) -> Index {
        let mut index = Index::default();
        for name in names {
            index.push(&[name], 0).unwrap();
            index.digested(1, [1; 16], None);
        }
        index
    }

    fn open() -> (tempfile::TempDir, Arc<DoneBatches>) {
        let directory = tempfile::tempdir().unwrap();
        let batches = DoneBatches::open(&directory.path().join("batches.redb")).unwrap();
        (directory, batches)
    }

    #[test]
    fn what_was_stored_is_known_after_a_restart() {
        let (directory, batches) = open();
        let id = BatchId::new("o", "b", "k");
        let entries = index(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        let running = batches.run(id).unwrap();
        assert!(batches.run(id).is_none(), "it is under way");
        assert_eq!(running.begin(&entries, 1000, DAY).unwrap(), Ok(vec![]));
        [0, 8, 3].iter().for_each(|number| running.note(*number));
        running.flush(2000);
        drop((running, batches));
        let batches = DoneBatches::open(&directory.path().join("batches.redb")).unwrap();
        let again = batches.run(id).unwrap();
        assert_eq!(again.begin(&entries, 3000, DAY).unwrap(), Ok(vec![0, 3, 8]));
        again.note(1);
        again.flush(3000);
        drop(again);
        let other = index(&["a", "b"]);
        assert_eq!(batches.run(id).unwrap().begin(&other, 4000, DAY).unwrap(), Err(OtherContent));
        let third = batches.run(id).unwrap();
        assert_eq!(third.begin(&entries, 4000, DAY).unwrap(), Ok(vec![0, 1, 3, 8]));
        // Another owner, bucket or key is another batch.
        for id in [("p", "b", "k"), ("o", "c", "k"), ("o", "b", "l"), ("ob", "", "k")] {
            let running = batches.run(BatchId::new(id.0, id.1, id.2)).unwrap();
            assert_eq!(running.begin(&other, 4000, DAY).unwrap(), Ok(vec![]));
        }
    }

    #[test]
    fn nobody_takes_the_place_of_all_others() {
        let (_directory, batches) = open();
        let entries = index(&["a"]);
        let begin = |owner: &str, key: &str, now: u64, kept: Duration| {
            let running = batches.run(BatchId::new(owner, "b", key)).unwrap();
            let known = running.begin(&entries, now, kept).unwrap().unwrap();
            running.note(0);
            running.flush(now);
            known
        };
        assert_eq!(begin("other", "k", 1, DAY), [0; 0]);
        for number in 0..MAX_OWN {
            let running = batches.run(BatchId::new("greedy", "b", &number.to_string())).unwrap();
            running.begin(&entries, 2, DAY).unwrap().unwrap();
        }
        // One more, whose own time is over first.
        assert_eq!(begin("greedy", "more", 3, Duration::from_secs(60)), [0; 0]);
        assert_eq!(begin("greedy", "more", 4, DAY), [0]);
        assert_eq!(begin("other", "k", 5, DAY), [0]);
        let known = (0..MAX_OWN).filter(|n| {
            let id = BatchId::new("greedy", "b", &n.to_string());
            batches.read(id, 6).unwrap().is_some()
        });
        assert_eq!(known.count(), MAX_OWN - 1);
    }

    #[test]
    fn its_time_is_over_once() {
        let (_directory, batches) = open();
        let id = BatchId::new("o", "b", "k");
        let running = batches.run(id).unwrap();
        let entries = index(&["a"]);
        running.begin(&entries, 1000, Duration::from_secs(1)).unwrap().unwrap();
        running.note(0);
        running.flush(1000);
        let rows = || {
            let reading = batches.database.begin_read().unwrap();
            let table = reading.open_table(BATCHES).unwrap();
            redb::ReadableTableMetadata::len(&table).unwrap()
        };
        assert_eq!(running.begin(&entries, 1999, DAY).unwrap(), Ok(vec![0]));
        // From then on it may have another content, and the old row goes.
        let other = batches.run(BatchId::new("o", "b", "other")).unwrap();
        other.begin(&entries, 2000, DAY).unwrap().unwrap();
        assert_eq!(rows(), 1);
        assert_eq!(running.begin(&index(&["b"]), 2000, DAY).unwrap(), Ok(vec![]));
        assert_eq!(rows(), 2);
    }
}
