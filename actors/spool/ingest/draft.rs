//! A body file on its way: appended to, synced, and removed unless an entry comes to name it.

use crate::spool::{BodyFile, BodyId, Spool};
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A body file that no entry names. Dropped, it is removed, by another thread than the one that drops
/// it. What a process leaves behind that ends meanwhile is removed at the next start.
#[derive(Debug)]
#[must_use = "a draft that is dropped is removed"]
pub struct Draft {
    spool: Arc<Spool>,
    id: BodyId,
    /// None: it is synced and closed.
    file: Option<Box<dyn BodyFile>>,
    kept: bool,
}

impl Draft {
    /// Creates the file, and has the disk set `length` bytes aside, if that is known. Blocks.
    pub(super) fn create(spool: Arc<Spool>, length: Option<u64>) -> io::Result<Draft> {
        let id = spool.new_body();
        let file = spool.disk().create(id, length)?;
        Ok(Draft { spool, id, file: Some(file), kept: false })
    }

    /// Bytes that the disk has set aside for it.
    pub(super) fn allocated(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.allocated())
    }

    /// Blocks.
    pub(super) fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        self.file.as_mut().ok_or_else(closed)?.append(pieces)
    }

    /// Brings the file's data to stable storage, and closes it. Never called again after an error: a
    /// second fsync would succeed and prove nothing. An error latches the spool, whether or not anybody
    /// still waits. Blocks.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let mut file = self.file.take().ok_or_else(closed)?;
        file.sync().inspect_err(|error| {
            self.spool.latch(format!("body {} could not be synced: {error}", self.id));
        })
    }

    /// Its number.
    pub fn id(&self) -> BodyId {
        self.id
    }

    /// The file stays: call it before the entry that names it is committed. If that fails, the file
    /// is removed at the next start.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (spool, id) = (Arc::clone(&self.spool), self.id);
        let Some(file) = self.file.take() else { return spool.discard(vec![id]) };
        // Closed first: whoever closes a file last that was removed frees its blocks, gigabytes of them.
        let close = move || {
            drop(file);
            spool.discard(vec![id]);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(close)),
            Err(_) => close(),
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the body file is closed")
}
