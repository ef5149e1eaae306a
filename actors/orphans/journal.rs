//! The records on disk: a redb database, written by one thread that commits whatever has come
//! together since its last commit (group commit), so that a thousand uploads that begin at once
//! wait for a few fsyncs and not for a thousand.

use super::record::Record;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
};
use std::io;
use std::path::Path;
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Number to record, as JSON. The name is the format's version.
const UPLOADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("uploads/1");

/// Changes that one commit takes at most: bounds its memory, not its time.
const MAX_BATCH: usize = 1024;

/// Memory for redb's pages (1 GiB by default): records are read once, at the start.
const CACHE: usize = 8 << 20;

/// One change.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) id: u64,
    /// None: the record goes.
    pub(super) record: Option<Record>,
    /// Told when the change is on disk.
    pub(super) done: Option<oneshot::Sender<io::Result<()>>>,
}

/// The open journal. Its thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Journal {
    changes: mpsc::Sender<Change>,
}

impl Journal {
    /// Opens the journal, and reads what is in it. Blocks.
    ///
    /// Errors: another process has it open; the file is damaged.
    pub(super) fn open(path: &Path) -> io::Result<(Journal, Vec<(u64, Record)>)> {
        let opened = Builder::new().set_cache_size(CACHE).create(path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "{} is in use by another process: give each gateway a state_directory of its own",
                    path.display()
                ),
            ),
            error => damaged(path, &error),
        })?;
        let records = read(&database).map_err(|error| damaged(path, &error))?;
        let (changes, incoming) = mpsc::channel();
        std::thread::Builder::new()
            .name("upload-journal".to_owned())
            .spawn(move || write(&database, &incoming))?;
        Ok((Journal { changes }, records))
    }

    /// Queues a change. Whoever adds a record waits for it (lost Creates are counted instead), so that
    /// the queue is bounded by the requests in flight and the records there are.
    pub(super) fn submit(&self, change: Change) {
        if self.changes.send(change).is_err() {
            log::error!("the upload journal has ended: a change is lost");
        }
    }
}

fn damaged(path: &Path, error: &dyn std::error::Error) -> io::Error {
    io::Error::other(format!(
        "the upload journal {} cannot be used: {error}. Move it away to start with an empty one; \
         multipart uploads that it knows must then be aborted by hand",
        path.display()
    ))
}

fn read(database: &Database) -> Result<Vec<(u64, Record)>, redb::Error> {
    let begun = database.begin_write()?;
    // An empty table is made, so that reading it later cannot fail for want of it.
    begun.open_table(UPLOADS)?;
    begun.commit()?;
    let reading = database.begin_read()?;
    let table = reading.open_table(UPLOADS)?;
    let mut records = Vec::new();
    for row in table.iter()? {
        let (id, json) = row?;
        match serde_json::from_slice(json.value()) {
            Ok(record) => records.push((id.value(), record)),
            Err(error) => {
                log::error!("upload journal: record {} is unreadable: {error}", id.value())
            }
        }
    }
    Ok(records)
}

fn write(database: &Database, incoming: &mpsc::Receiver<Change>) {
    while let Ok(first) = incoming.recv() {
        let mut batch = vec![first];
        batch.extend(incoming.try_iter().take(MAX_BATCH - 1));
        let result = commit(database, &batch);
        if let Err(error) = &result {
            log::error!("the upload journal could not be written: {error}");
        }
        for change in batch {
            if let Some(done) = change.done {
                let result = result.as_ref().map_err(ToString::to_string).copied();
                // Whoever asked may be gone.
                let _ = done.send(result.map_err(io::Error::other));
            }
        }
    }
}

fn commit(database: &Database, batch: &[Change]) -> Result<(), redb::Error> {
    let mut begun = database.begin_write()?;
    // A record that is taken off only late costs an Abort of what is gone.
    let durable = batch.iter().any(|change| change.record.is_some() || change.done.is_some());
    begun.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
    {
        let mut table = begun.open_table(UPLOADS)?;
        for change in batch {
            match &change.record {
                Some(record) => {
                    let json = serde_json::to_vec(record).map_err(io::Error::other)?;
                    table.insert(change.id, json.as_slice())?;
                }
                None => drop(table.remove(change.id)?),
            }
        }
    }
    begun.commit()?;
    Ok(())
}
