//! A disk for tests, in memory: it keeps a log of everything that was done to it, from which it can be
//! made anew as a crash at any point could have left it; its syncs fail or wait when they are told to.

use super::disk::{BodyFile, Disk};
use super::entry::BodyId;
use super::limits::Free;
use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// How long anybody waits for anybody.
const PATIENCE: Duration = Duration::from_secs(20);

/// The disk. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Simulated(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What the process reads.
    now: Image,
    log: Vec<Event>,
    busy: bool,
    free: Free,
    syncs: u64,
    /// The number of the sync that fails.
    fails_at: Option<u64>,
    failed: Option<Synced>,
    synced_after_failure: u64,
    /// Syncs wait while it is set.
    held: bool,
    waiting: u64,
}

/// What stands on a disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(crate) journal: Vec<u8>,
    pub(crate) bodies: BTreeMap<BodyId, Vec<u8>>,
}

/// What was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Synced {
    Journal,
    Folder,
    Body(BodyId),
}

/// What was done to the disk, or what a test puts between.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write(u64, Bytes),
    Resize(u64),
    Create(BodyId),
    Append(BodyId, Bytes),
    Remove(BodyId),
    Sync(Synced),
    /// A note of the test's.
    Mark(usize),
}

impl Simulated {
    pub(crate) fn new(image: Image) -> Self {
        let state = State {
            now: image,
            log: Vec::new(),
            busy: false,
            free: Free { bytes: 1 << 40, files: 1 << 30 },
            syncs: 0,
            fails_at: None,
            failed: None,
            synced_after_failure: 0,
            held: false,
            waiting: 0,
        };
        Simulated(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Everything so far.
    pub(crate) fn log(&self) -> Vec<Event> {
        self.state().log.clone()
    }

    pub(crate) fn mark(&self, mark: usize) {
        self.state().log.push(Event::Mark(mark));
    }

    /// What is there for the process: as if nothing was lost.
    pub(crate) fn image(&self) -> Image {
        self.state().now.clone()
    }

    /// The bytes of a body, as the process reads them.
    pub(crate) fn body(&self, id: BodyId) -> Option<Vec<u8>> {
        self.state().now.bodies.get(&id).cloned()
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The sync after `n` further ones fails with EIO.
    pub(crate) fn fail_after(&self, n: u64) {
        let mut state = self.state();
        state.fails_at = Some(state.syncs + n + 1);
    }

    /// What failed, and how often it was synced after that.
    pub(crate) fn failed(&self) -> Option<(Synced, u64)> {
        let state = self.state();
        state.failed.map(|failed| (failed, state.synced_after_failure))
    }

    pub(crate) fn set_free(&self, free: Free) {
        self.state().free = free;
    }

    /// From now on syncs wait until [`Simulated::let_go`].
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }

    pub(crate) fn let_go(&self) {
        self.state().held = false;
        self.0.changed.notify_all();
    }

    /// Blocks until a sync waits.
    pub(crate) fn wait_for_held(&self) {
        let state = self.state();
        let (_state, timeout) =
            self.0.changed.wait_timeout_while(state, PATIENCE, |state| state.waiting == 0).unwrap();
        assert!(!timeout.timed_out(), "nobody syncs");
    }

    fn sync(&self, what: Synced) -> io::Result<()> {
        let mut state = self.state();
        state.syncs += 1;
        let number = state.syncs;
        state.synced_after_failure += u64::from(state.failed == Some(what));
        if state.fails_at == Some(number) {
            state.failed = Some(what);
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        state.waiting += 1;
        self.0.changed.notify_all();
        // Not for ever: a test that has failed drops its spool, which waits for this.
        let (mut state, _) =
            self.0.changed.wait_timeout_while(state, PATIENCE, |state| state.held).unwrap();
        state.waiting -= 1;
        state.log.push(Event::Sync(what));
        Ok(())
    }
}

impl Disk for Simulated {
    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn is_new(&self) -> io::Result<bool> {
        Ok(self.state().now.journal.iter().take(9).all(|byte| *byte == 0))
    }

    fn journal(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut state = self.state();
        if std::mem::replace(&mut state.busy, true) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(Box::new(SimulatedJournal(self.clone())))
    }

    fn create(&self, id: BodyId, _: Option<u64>) -> io::Result<Box<dyn BodyFile>> {
        let mut state = self.state();
        if state.now.bodies.contains_key(&id) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.now.bodies.insert(id, Vec::new());
        state.log.push(Event::Create(id));
        Ok(Box::new(SimulatedBody(self.clone(), id)))
    }

    fn open(&self, id: BodyId) -> io::Result<File> {
        let mut file = tempfile::tempfile()?;
        let bytes = self.state().now.bodies.get(&id).cloned().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(&bytes)?;
        Ok(file)
    }

    fn length(&self, id: BodyId) -> io::Result<u64> {
        let state = self.state();
        let bytes = state.now.bodies.get(&id).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes.len() as u64)
    }

    fn remove(&self, id: BodyId) -> io::Result<()> {
        let mut state = self.state();
        state.now.bodies.remove(&id).ok_or(io::ErrorKind::NotFound)?;
        state.log.push(Event::Remove(id));
        Ok(())
    }

    fn bodies(&self) -> io::Result<Vec<BodyId>> {
        Ok(self.state().now.bodies.keys().copied().collect())
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.sync(Synced::Folder)
    }

    fn free(&self) -> io::Result<Free> {
        Ok(self.state().free)
    }
}

#[derive(Debug)]
struct SimulatedBody(Simulated, BodyId);

impl BodyFile for SimulatedBody {
    fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let mut state = self.0.state();
        for piece in pieces {
            // A file that was unlinked takes bytes too.
            if let Some(body) = state.now.bodies.get_mut(&self.1) {
                body.extend_from_slice(piece);
            }
            state.log.push(Event::Append(self.1, piece.clone()));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync(Synced::Body(self.1))
    }
}

#[derive(Debug)]
struct SimulatedJournal(Simulated);

impl StorageBackend for SimulatedJournal {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().now.journal.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state();
        let from = offset as usize;
        let bytes = state.now.journal.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.0.state();
        state.now.journal.resize(length as usize, 0);
        state.log.push(Event::Resize(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync(Synced::Journal)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.state();
        let end = offset as usize + data.len();
        if state.now.journal.len() < end {
            state.now.journal.resize(end, 0);
        }
        state.now.journal[offset as usize..end].copy_from_slice(data);
        state.log.push(Event::Write(offset, Bytes::copy_from_slice(data)));
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.0.state().busy = false;
        Ok(())
    }
}

/// Goes through a log, and makes of each point what a crash could leave.
#[derive(Debug)]
pub(crate) struct Crash {
    /// What is there for sure.
    durable: Image,
    /// What was done to the journal since its last sync.
    writes: Vec<Event>,
    /// Bodies that were made or changed since their last sync.
    bodies: BTreeMap<BodyId, Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    /// Its name may be missing.
    unnamed: bool,
    /// It was unlinked, and may still be there.
    removed: bool,
    synced: Vec<u8>,
    appended: Vec<Bytes>,
}

/// How much of what was not synced is on the disk.
#[derive(Debug, Clone, Copy)]
enum Kept {
    All,
    Nothing,
    /// What came first, up to somewhere.
    Prefix,
    /// Any of it.
    Subset,
    /// Any of it, and of a write any sectors.
    Torn,
}

impl Crash {
    /// Begins with a disk as the log found it.
    pub(crate) fn new(before: Image) -> Self {
        Crash { durable: before, writes: Vec::new(), bodies: BTreeMap::new() }
    }

    fn pending(&mut self, id: BodyId) -> &mut Pending {
        let before = self.durable.bodies.remove(&id);
        self.bodies
            .entry(id)
            .or_insert_with(|| Pending { synced: before.unwrap_or_default(), ..Pending::default() })
    }

    /// Goes on by one.
    pub(crate) fn step(&mut self, event: &Event) {
        match event {
            Event::Write(..) | Event::Resize(_) => self.writes.push(event.clone()),
            Event::Create(id) => self.pending(*id).unnamed = true,
            Event::Append(id, bytes) => self.pending(*id).appended.push(bytes.clone()),
            Event::Remove(id) => self.pending(*id).removed = true,
            Event::Sync(Synced::Journal) => {
                for write in self.writes.drain(..) {
                    apply(&mut self.durable.journal, &write, |_| true);
                }
            }
            Event::Sync(Synced::Body(id)) => {
                let pending = self.pending(*id);
                let appended = std::mem::take(&mut pending.appended);
                pending.synced.extend(appended.into_iter().flatten());
                self.settle();
            }
            Event::Sync(Synced::Folder) => {
                self.bodies.retain(|_, pending| !pending.removed);
                self.bodies.values_mut().for_each(|pending| pending.unnamed = false);
                self.settle();
            }
            Event::Mark(_) => {}
        }
    }

    fn settle(&mut self) {
        let settled =
            |pending: &Pending| !pending.unnamed && !pending.removed && pending.appended.is_empty();
        let ids: Vec<BodyId> = self.bodies.keys().copied().collect();
        for id in ids {
            if self.bodies.get(&id).is_some_and(settled)
                && let Some(pending) = self.bodies.remove(&id)
            {
                self.durable.bodies.insert(id, pending.synced);
            }
        }
    }

    /// A disk after a crash at this point.
    pub(crate) fn image(&self, random: &mut StdRng) -> Image {
        let kept = match random.random_range(0..8) {
            0 => Kept::All,
            1 => Kept::Nothing,
            2 | 3 => Kept::Prefix,
            4 | 5 => Kept::Subset,
            _ => Kept::Torn,
        };
        let mut image = self.durable.clone();
        let end = random.random_range(0..=self.writes.len());
        // Lengths are the file system's own, which keeps their order.
        let resizes = random.random_range(0..=self.writes.len());
        for (at, write) in self.writes.iter().enumerate() {
            let is_resize = matches!(write, Event::Resize(_));
            let keep = match kept {
                Kept::All => true,
                Kept::Nothing => false,
                Kept::Prefix => at < end,
                Kept::Subset | Kept::Torn if is_resize => at < resizes,
                Kept::Subset => random.random(),
                Kept::Torn => true,
            };
            if keep {
                let torn =
                    matches!(kept, Kept::Torn) || (matches!(kept, Kept::Prefix) && at + 1 == end);
                apply(&mut image.journal, write, |_| !torn || random.random());
            }
        }
        for (id, pending) in &self.bodies {
            let gone = (pending.unnamed || pending.removed) && random.random();
            if !gone {
                let mut bytes = pending.synced.clone();
                let appended: Vec<u8> = pending.appended.iter().flatten().copied().collect();
                bytes.extend_from_slice(&appended[..random.random_range(0..=appended.len())]);
                image.bodies.insert(*id, bytes);
            }
        }
        image
    }
}

/// Writes those sectors of a write that `keep` names. What lies behind the end is lost.
fn apply(journal: &mut Vec<u8>, write: &Event, mut keep: impl FnMut(usize) -> bool) {
    match write {
        Event::Resize(length) => journal.resize(*length as usize, 0),
        Event::Write(offset, bytes) => {
            let mut at = *offset as usize;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = rest.len().min(SECTOR - at % SECTOR);
                let (sector, more) = rest.split_at(length);
                if keep(at)
                    && let Some(room) = journal.get_mut(at..at + length)
                {
                    room.copy_from_slice(sector);
                }
                (at, rest) = (at + length, more);
            }
        }
        _ => {}
    }
}
