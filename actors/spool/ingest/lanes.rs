//! What a large body costs beside the client's socket: its bytes are appended to the file and hashed,
//! each on a thread of the blocking pool, while the next ones are read from the client.
//!
//! A thread is taken for each batch, not for each body: clients that send slowly would otherwise hold
//! the whole pool, which also looks up names and reads the journal.

use super::draft::Draft;
use crate::blocks;
use crate::spool::md5::LargeMd5;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::task::{JoinHandle, spawn_blocking};

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    file: Lane<Draft>,
    md5: Lane<LargeMd5>,
    /// What both are at.
    batch: Option<Arc<Vec<Bytes>>>,
}

/// Which of the two failed.
#[derive(Debug)]
pub(super) enum LaneError {
    /// The file takes no more.
    Append(io::Error),
    /// The file's data may not be on stable storage; the spool is latched.
    Sync,
    /// A thread panicked, the process ends, or there is no MD5.
    Ended(io::Error),
}

impl Lanes {
    pub(super) fn new(draft: Draft) -> Result<Self, LaneError> {
        let md5 = LargeMd5::new().map_err(LaneError::Ended)?;
        Ok(Lanes { file: Lane::new(draft), md5: Lane::new(md5), batch: None })
    }

    /// Whether a batch can be started without waiting for the one before.
    pub(super) fn are_idle(&self) -> bool {
        self.file.is_idle() && self.md5.is_idle()
    }

    /// Appends and hashes a batch, after the one before is through: no more than one is ever under way.
    pub(super) async fn start(&mut self, batch: Vec<Bytes>) -> Result<(), LaneError> {
        self.settle().await?;
        let batch = Arc::new(batch);
        let (appended, hashed) = (Arc::clone(&batch), Arc::clone(&batch));
        self.batch = Some(batch);
        self.file.start(move |draft| draft.append(&appended));
        self.md5.start(move |md5| hashed.iter().try_for_each(|bytes| md5.update(bytes)));
        Ok(())
    }

    /// Waits for the batch under way.
    async fn settle(&mut self) -> Result<(), LaneError> {
        self.file.settle().await?.map_err(LaneError::Append)?;
        self.md5.settle().await?.map_err(LaneError::Ended)?;
        // On this thread: the blocks are those of the one that reads the client.
        if let Some(batch) = self.batch.take().and_then(Arc::into_inner) {
            batch.into_iter().for_each(blocks::give);
        }
        Ok(())
    }

    /// Waits for what is under way, and brings the file to stable storage: the file, closed, and the
    /// MD5 of all.
    pub(super) async fn finish(mut self) -> Result<(Draft, [u8; 16]), LaneError> {
        self.settle().await?;
        self.file.start(Draft::sync);
        self.file.settle().await?.map_err(|_| LaneError::Sync)?;
        let ended = || LaneError::Ended(io::Error::other("a lane has lost its state"));
        let draft = self.file.state.take().ok_or_else(ended)?;
        let md5 = self.md5.state.take().ok_or_else(ended)?;
        Ok((draft, md5.finish().map_err(LaneError::Ended)?))
    }
}

/// One thing that is worked on by one thread at a time. Dropped in the middle, the work goes on to its
/// end, and what it was done on is dropped there.
#[derive(Debug)]
struct Lane<S> {
    /// None while it is worked on, and after an error.
    state: Option<S>,
    work: Option<JoinHandle<io::Result<S>>>,
}

impl<S: Send + 'static> Lane<S> {
    fn new(state: S) -> Self {
        Lane { state: Some(state), work: None }
    }

    fn is_idle(&self) -> bool {
        self.work.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Begins work on the state, which must be settled.
    fn start(&mut self, work: impl FnOnce(&mut S) -> io::Result<()> + Send + 'static) {
        let Some(mut state) = self.state.take() else { return };
        self.work = Some(spawn_blocking(move || work(&mut state).map(|()| state)));
    }

    /// Waits for the work. The outer error: nobody knows what became of it.
    async fn settle(&mut self) -> Result<io::Result<()>, LaneError> {
        let Some(work) = &mut self.work else { return Ok(Ok(())) };
        let done = work.await.map_err(|error| LaneError::Ended(io::Error::other(error)));
        self.work = None;
        Ok(done?.map(|state| self.state = Some(state)))
    }
}
