//! The records on disk: a redb database, written by one thread that commits whatever has come together
//! since its last commit. The first error of a write or a sync ends it: nothing is acknowledged after
//! that, and nothing is synced a second time, since a kernel that failed to write a page may drop it
//! and call the next sync a success.

mod fenced;
mod groups;
mod writer;

use super::disk::Disk;
use super::entry::Entry;
use super::uploads::{ClientUpload, Completed, StoredPart, decode};
use bytes::Bytes;
use fenced::Fenced;
use groups::Groups;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition,
};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::sync::oneshot;
use writer::Writer;

/// What is known of the whole: [`VERSION_KEY`] and [`RUN_KEY`].
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Number to record ([`Entry::encode`]).
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");

/// The bodies that are in no file ([`groups`]).
const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bodies");

/// Number to the record of an open multipart upload ([`ClientUpload`]).
const UPLOADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("uploads");

/// Number of such an upload and of its part to the part's record ([`StoredPart`]).
const PARTS: TableDefinition<'_, (u64, u16), &[u8]> = TableDefinition::new("parts");

/// Number of the entry that came of such an upload to what its client was told ([`Completed`]); the last
/// [`COMPLETED`].
const DONE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("completed");

/// The format of the tables, and of what lies beside the journal.
const VERSION: u64 = 3;
const VERSION_KEY: &str = "version";

/// How often the spool was opened.
const RUN_KEY: &str = "run";

/// Bits of a number that are counted within a run; those above are the run's. So no number is ever
/// given twice, also not one whose record was never written.
const RUN_SHIFT: u32 = 40;

/// Runs that there are numbers for.
const MAX_RUN: u64 = (1 << (64 - RUN_SHIFT)) - 1;

/// Memory for redb's pages. Each record is read once, so that keeping more helps nobody.
const CACHE: usize = 32 << 20;

/// Bytes of redb's magic number, of its pages, and of what is read at a time to see whether a journal
/// is empty.
const MAGIC: usize = 9;
const PAGE: u64 = 4096;
const BLOCK: usize = 256 << 10;

/// Why nothing more is acknowledged. It is set once, and stays until the process ends.
#[derive(Debug, Default)]
pub(super) struct Latch(OnceLock<String>);

impl Latch {
    pub(super) fn set(&self, reason: String) {
        if let Err(reason) = self.0.set(reason.clone()) {
            log::error!("the spool, which takes nothing more: {reason}");
            return;
        }
        log::error!(
            "the spool takes nothing more until the gateway is started again, on a sound disk: {reason}"
        );
    }

    pub(super) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    fn error(&self) -> Option<io::Error> {
        self.reason().map(|reason| io::Error::other(format!("the spool takes nothing: {reason}")))
    }
}

/// One change of the records.
#[derive(Debug)]
pub(super) enum Change {
    /// A new entry; `files`: its bodies' names must be durable before it is.
    Add { record: Vec<u8>, inline: Option<Bytes>, files: bool },
    /// Another record for an entry.
    Replace { record: Vec<u8> },
    /// The entry and its inline body go, and these entries have other records.
    Remove { others: Vec<(u64, Vec<u8>)> },
    /// A new multipart upload.
    Begin { record: Vec<u8> },
    /// A part of it, instead of what had its number. Its file's name must be durable before it is.
    Part { number: u16, record: Vec<u8> },
    /// A multipart upload and its parts go.
    End,
    /// A new entry instead of this multipart upload and its parts.
    Complete { upload: u64, record: Vec<u8>, completed: Vec<u8> },
}

/// A change in the queue.
struct Submitted {
    seq: u64,
    change: Change,
    /// Runs when the change is durable, before anybody is told.
    applied: Box<dyn FnOnce() + Send>,
    done: oneshot::Sender<io::Result<()>>,
}

/// A journal that was opened and that nobody writes to yet.
#[derive(Debug)]
pub(super) struct Opened {
    database: Database,
    run: u64,
}

/// What [`Opened::read`] finds: by number, and an error for what cannot be read.
pub(super) type Records = Vec<(u64, io::Result<Entry>)>;

/// What [`Opened::read_uploads`] finds, each by ascending number, and an error for what cannot be read.
#[derive(Debug, Default)]
pub(super) struct UploadRecords {
    pub(super) uploads: Vec<(u64, io::Result<ClientUpload>)>,
    /// By the numbers of upload and part.
    pub(super) parts: Vec<((u64, u16), io::Result<StoredPart>)>,
    /// By the number of the entry.
    pub(super) completed: Vec<(u64, io::Result<Completed>)>,
}

impl Opened {
    /// Opens the journal, or makes it. Blocks.
    ///
    /// Errors: another process has it open; it is damaged, or a newer version's.
    pub(super) fn open(disk: &dyn Disk) -> io::Result<Opened> {
        let backend = Fenced::new(disk.journal()?);
        let begun_anew = unfinished(&backend)
            .and_then(|unfinished| if unfinished { backend.set_len(0) } else { Ok(()) });
        if let Err(error) = begun_anew {
            // Whatever that says: the file is closed.
            let _ = backend.close();
            return Err(error);
        }
        let database = Builder::new().set_cache_size(CACHE).create_with_backend(backend);
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => io::ErrorKind::ResourceBusy.into(),
            error => unusable(error.into()),
        })?;
        let run = begin_run(&database)?;
        Ok(Opened { database, run })
    }

    /// The first number of this run.
    pub(super) fn first(&self) -> u64 {
        self.run << RUN_SHIFT
    }

    /// All records, by ascending number.
    pub(super) fn read(&self) -> io::Result<Records> {
        let read = || -> Result<Records, redb::Error> {
            let table = self.database.begin_read()?.open_table(ENTRIES)?;
            let mut records = Vec::new();
            for row in table.iter()? {
                let (seq, record) = row?;
                records.push((seq.value(), Entry::decode(record.value())));
            }
            Ok(records)
        };
        read().map_err(unusable)
    }

    /// All multipart uploads.
    pub(super) fn read_uploads(&self) -> io::Result<UploadRecords> {
        let read = || -> Result<UploadRecords, redb::Error> {
            let begun = self.database.begin_read()?;
            let mut records = UploadRecords::default();
            for row in begun.open_table(UPLOADS)?.iter()? {
                let (number, record) = row?;
                records.uploads.push((number.value(), decode(record.value())));
            }
            for row in begun.open_table(PARTS)?.iter()? {
                let (place, record) = row?;
                records.parts.push((place.value(), decode(record.value())));
            }
            for row in begun.open_table(DONE)?.iter()? {
                let (entry, record) = row?;
                records.completed.push((entry.value(), decode(record.value())));
            }
            Ok(records)
        };
        read().map_err(unusable)
    }

    /// Takes these parts off; that is durable when it returns.
    pub(super) fn drop_parts(&self, parts: &[(u64, u16)]) -> io::Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let begun = self.database.begin_write()?;
            {
                let mut table = begun.open_table(PARTS)?;
                for place in parts {
                    table.remove(place)?;
                }
            }
            Ok(begun.commit()?)
        };
        write().map_err(io::Error::other)
    }

    /// Writes these records anew; they are durable when it returns.
    pub(super) fn rewrite(&self, entries: &[(u64, Arc<Entry>)]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let write = || -> Result<(), redb::Error> {
            let begun = self.database.begin_write()?;
            {
                let mut table = begun.open_table(ENTRIES)?;
                for (seq, entry) in entries {
                    table.insert(seq, entry.encode()?.as_slice())?;
                }
            }
            Ok(begun.commit()?)
        };
        write().map_err(io::Error::other)
    }

    /// Starts the thread that writes from now on.
    pub(super) fn start(self, disk: Arc<dyn Disk>, latch: Arc<Latch>) -> io::Result<Journal> {
        let next = self.first() + 1;
        let database = Arc::new(self.database);
        let load = || -> Result<Groups, redb::Error> {
            let begun = database.begin_read()?;
            let entries = begun.open_table(ENTRIES)?;
            let wanted = |number| Ok(entries.get(number)?.is_some());
            Ok(Groups::load(&begun.open_table(BODIES)?, wanted)?)
        };
        let groups = load().map_err(unusable)?;
        let (sender, incoming) = mpsc::channel();
        let writer = Writer {
            database: Arc::clone(&database),
            groups,
            disk,
            latch: Arc::clone(&latch),
            incoming,
        };
        let thread = std::thread::Builder::new()
            .name("spool-journal".to_owned())
            .spawn(move || writer.run())?;
        let running = Mutex::new(Some(Running { next, sender, database, thread }));
        Ok(Journal { running, latch })
    }
}

fn damaged(error: &dyn std::error::Error) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "the spool's journal cannot be used: {error}. Uploads that clients were told are stored may \
             be in it: keep the folder, and move it away to start with an empty one"
        ),
    )
}

/// Whether a crash has left a journal that was being made: redb, which writes its first bytes last,
/// refuses what has a length and not those bytes. Such a one holds nothing beyond its first page. What
/// does is damaged, and must not be taken for an empty one.
fn unfinished(backend: &dyn StorageBackend) -> io::Result<bool> {
    let length = backend.len()?;
    let mut begin = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(MAGIC)];
    backend.read(0, &mut begin)?;
    let mut at = PAGE;
    let mut block = vec![0; BLOCK];
    let mut empty = length > 0 && begin.iter().all(|byte| *byte == 0);
    while empty && at < length {
        let rest = usize::try_from(length - at).unwrap_or(BLOCK).min(BLOCK);
        let block = block.get_mut(..rest).unwrap_or_default();
        backend.read(at, block)?;
        empty = block.iter().all(|byte| *byte == 0);
        at += BLOCK as u64;
    }
    Ok(empty)
}

/// An error of the disk is not the journal's fault.
fn unusable(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => error,
        error => damaged(&error),
    }
}

/// Checks the version, makes what a new journal must have, and counts this run.
fn begin_run(database: &Database) -> io::Result<u64> {
    let begin = || -> Result<Result<u64, io::Error>, redb::Error> {
        let begun = database.begin_write()?;
        let run;
        {
            let mut meta = begun.open_table(META)?;
            let version = meta.get(VERSION_KEY)?.map(|version| version.value());
            match version {
                Some(VERSION) => {}
                None => drop(meta.insert(VERSION_KEY, VERSION)?),
                Some(version) => return Ok(Err(other_version(version))),
            }
            run = meta.get(RUN_KEY)?.map_or(0, |run| run.value()) + 1;
            if run > MAX_RUN {
                return Ok(Err(io::Error::other(
                    "the spool was opened too often: start a new one",
                )));
            }
            meta.insert(RUN_KEY, run)?;
            // Made here, so that reading them later cannot fail for want of them.
            begun.open_table(ENTRIES)?;
            begun.open_table(BODIES)?;
            begun.open_table(UPLOADS)?;
            begun.open_table(PARTS)?;
            begun.open_table(DONE)?;
        }
        begun.commit()?;
        Ok(Ok(run))
    };
    begin().map_err(unusable)?
}

fn other_version(version: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "the spool has format {version}, and this version of the gateway knows {VERSION}: start \
             the version that wrote it, let it deliver everything, and then this one"
        ),
    )
}

/// The running journal. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Journal {
    /// None: it was closed.
    running: Mutex<Option<Running>>,
    latch: Arc<Latch>,
}

#[derive(Debug)]
struct Running {
    next: u64,
    sender: mpsc::Sender<Submitted>,
    /// To read inline bodies.
    database: Arc<Database>,
    thread: JoinHandle<()>,
}

/// Ends when a change is durable or has failed.
pub(super) type Done = oneshot::Receiver<io::Result<()>>;

impl Journal {
    /// Queues a new entry under the next number; `applied` runs with it when it is durable, whether or
    /// not anybody still waits.
    pub(super) fn add(
        &self,
        record: Vec<u8>,
        inline: Option<Bytes>,
        files: bool,
        applied: impl FnOnce(u64) + Send + 'static,
    ) -> io::Result<(u64, Done)> {
        let add = Change::Add { record, inline, files };
        // The order of the numbers is that of the queue: both under one lock.
        self.submit(None, add, applied)
    }

    /// Queues a change of an entry.
    pub(super) fn change(
        &self,
        seq: u64,
        change: Change,
        applied: impl FnOnce() + Send + 'static,
    ) -> io::Result<Done> {
        self.submit(Some(seq), change, move |_| applied()).map(|(_, done)| done)
    }

    /// Queues a change: of what has this number, or of something new, which gets the next one. `applied`
    /// runs with the number when the change is durable, and is dropped when that fails.
    pub(super) fn submit(
        &self,
        seq: Option<u64>,
        change: Change,
        applied: impl FnOnce(u64) + Send + 'static,
    ) -> io::Result<(u64, Done)> {
        if let Some(error) = self.latch.error() {
            return Err(error);
        }
        let (done, receiver) = oneshot::channel();
        let mut running = self.running();
        let running = running.as_mut().ok_or_else(ended)?;
        let seq = seq.unwrap_or_else(|| {
            running.next += 1;
            running.next - 1
        });
        let applied = Box::new(move || applied(seq));
        running.sender.send(Submitted { seq, change, applied, done }).map_err(|_| ended())?;
        Ok((seq, receiver))
    }

    /// Reads inline bodies, from whichever thread.
    pub(super) fn reader(&self) -> Option<Reader> {
        self.running().as_ref().map(|running| Reader(Arc::clone(&running.database)))
    }

    /// Writes what is queued, at most a few commits, and closes the database: the next start need not
    /// look for what a crash has left. Nothing is taken from then on. Blocks.
    pub(super) fn close(&self) {
        let Some(Running { sender, database, thread, .. }) = self.running().take() else { return };
        drop((sender, database));
        // It has said itself what it died of.
        let _ = thread.join();
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended() -> io::Error {
    io::Error::other("the spool's journal has ended")
}

/// Waits for a change.
pub(super) async fn wait(done: Done) -> io::Result<()> {
    done.await.unwrap_or_else(|_| Err(ended()))
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// Reads from the journal. Blocks.
#[derive(Debug)]
pub(super) struct Reader(Arc<Database>);

impl Reader {
    /// The inline body of an entry. Errors: `NotFound`; `InvalidData`: it is damaged.
    pub(super) fn inline(&self, seq: u64) -> io::Result<Bytes> {
        let read = || -> Result<io::Result<Bytes>, redb::Error> {
            Ok(groups::read(&self.0.begin_read()?.open_table(BODIES)?, seq)?)
        };
        read().map_err(io::Error::other)?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
