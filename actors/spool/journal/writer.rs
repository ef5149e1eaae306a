//! The journal's thread: it commits whatever has come together since its last commit.

use super::super::disk::Disk;
use super::super::uploads::COMPLETED;
use super::groups::Groups;
use super::{BODIES, Change, DONE, ENTRIES, Latch, PARTS, Submitted, UPLOADS};
use bytes::Bytes;
use redb::{Database, Durability, ReadableTableMetadata, WriteTransaction};
use std::io;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Changes that one commit takes at most.
const MAX_BATCH: usize = 1024;

/// Bytes of bodies after which a commit takes no further change: they are in memory twice until it has
/// ended.
const BATCH_BYTES: usize = 16 << 20;

/// How long a removal waits for company: half of what a sync takes on a good disk.
const LINGER: Duration = Duration::from_millis(1);

/// What the thread has.
pub(super) struct Writer {
    pub(super) database: Arc<Database>,
    pub(super) groups: Groups,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) latch: Arc<Latch>,
    pub(super) incoming: mpsc::Receiver<Submitted>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.latch.set("the journal's thread has panicked".to_owned());
        }
    }
}

impl Writer {
    /// Runs until the journal is closed.
    pub(super) fn run(mut self) {
        while let Ok(first) = self.incoming.recv() {
            let batch = self.batch(first);
            let result = match self.latch.error() {
                Some(error) => Err(error),
                None => self.commit(&batch).inspect_err(|error| self.latch.set(error.to_string())),
            };
            for Submitted { applied, done, .. } in batch {
                let result = match &result {
                    Ok(()) => {
                        applied();
                        Ok(())
                    }
                    Err(error) => {
                        // What it leaves undone is known before anybody is told.
                        drop(applied);
                        Err(io::Error::new(error.kind(), error.to_string()))
                    }
                };
                // Whoever asked may be gone.
                let _ = done.send(result);
            }
        }
    }

    /// What has come together. No client waits for a removal: one that comes alone waits a little for
    /// somebody who would sync anyway.
    fn batch(&self, first: Submitted) -> Vec<Submitted> {
        let mut bytes = first.change.bytes();
        let mut until = first.change.is_removal().then(|| Instant::now() + LINGER);
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH && bytes < BATCH_BYTES {
            let next = match until {
                None => self.incoming.try_recv().ok(),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    self.incoming.recv_timeout(left).ok()
                }
            };
            let Some(next) = next else { break };
            bytes += next.change.bytes();
            until = until.filter(|_| next.change.is_removal());
            batch.push(next);
        }
        batch
    }

    fn commit(&mut self, batch: &[Submitted]) -> io::Result<()> {
        if batch.iter().any(|submitted| submitted.change.names_new_files()) {
            self.disk.sync_folder()?;
        }
        self.write(batch).map_err(|error| match error {
            redb::Error::Io(error) => error,
            error => io::Error::other(error),
        })
    }

    fn write(&mut self, batch: &[Submitted]) -> Result<(), redb::Error> {
        let mut begun = self.database.begin_write()?;
        begun.set_durability(Durability::Immediate)?;
        {
            let mut entries = begun.open_table(ENTRIES)?;
            let (mut come, mut gone) = (Vec::new(), Vec::new());
            for Submitted { seq, change, .. } in batch {
                match change {
                    Change::Add { record, inline, .. } => {
                        entries.insert(seq, record.as_slice())?;
                        come.extend(inline.as_ref().map(|inline| (*seq, inline)));
                    }
                    Change::Replace { record } => drop(entries.insert(seq, record.as_slice())?),
                    Change::Remove { others } => {
                        entries.remove(seq)?;
                        gone.push(*seq);
                        for (other, record) in others {
                            entries.insert(other, record.as_slice())?;
                        }
                    }
                    Change::Begin { record } => {
                        begun.open_table(UPLOADS)?.insert(seq, record.as_slice())?;
                    }
                    Change::Part { number, record } => {
                        begun.open_table(PARTS)?.insert((*seq, *number), record.as_slice())?;
                    }
                    Change::End => end_upload(&begun, *seq)?,
                    Change::Complete { upload, record, completed } => {
                        entries.insert(seq, record.as_slice())?;
                        end_upload(&begun, *upload)?;
                        let mut done = begun.open_table(DONE)?;
                        done.insert(seq, completed.as_slice())?;
                        while done.len()? > COMPLETED as u64 {
                            done.pop_first()?;
                        }
                    }
                }
            }
            if !come.is_empty() || !gone.is_empty() {
                let mut bodies = begun.open_table(BODIES)?;
                self.groups.write(&mut bodies, &come, gone.into_iter())?;
            }
        }
        Ok(begun.commit()?)
    }
}

/// Takes a multipart upload and its parts off.
fn end_upload(begun: &WriteTransaction, upload: u64) -> Result<(), redb::Error> {
    begun.open_table(UPLOADS)?.remove(upload)?;
    begun.open_table(PARTS)?.retain_in((upload, 0)..=(upload, u16::MAX), |_, _| false)?;
    Ok(())
}

impl Change {
    /// One that nobody waits for.
    fn is_removal(&self) -> bool {
        matches!(self, Change::Remove { .. })
    }

    fn names_new_files(&self) -> bool {
        matches!(self, Change::Add { files: true, .. } | Change::Part { .. })
    }

    fn bytes(&self) -> usize {
        match self {
            Change::Add { record, inline, .. } => {
                record.len() + inline.as_ref().map_or(0, Bytes::len)
            }
            Change::Replace { record }
            | Change::Begin { record }
            | Change::Part { record, .. }
            | Change::Complete { record, .. } => record.len(),
            Change::Remove { others } => others.iter().map(|(_, record)| record.len()).sum(),
            Change::End => 0,
        }
    }
}
