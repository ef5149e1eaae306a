//! What a large body costs beside the client's socket: its bytes are appended to the file and hashed,
//! each on a thread of the blocking pool, while the next ones are read from the client.
//!
//! A thread is taken for each batch, not for each body: clients that send slowly would otherwise hold
//! the whole pool, which also looks up names and reads the journal.

use super::draft::Draft;
use crate::blocks;
use crate::spool::md5::LargeMd5;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

/// Batches that are worked on, or wait for it: while one is, the thread that reads the client may be
/// late without anybody waiting for it.
pub(super) const UNDER_WAY: usize = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    file: Lane<Draft>,
    md5: Lane<LargeMd5>,
    /// What they are at, the oldest first.
    batches: VecDeque<Arc<Vec<Bytes>>>,
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
        let (file, md5) = (Lane::new(draft), Lane::new(md5));
        Ok(Lanes { file, md5, batches: VecDeque::new() })
    }

    /// Whether they have nothing to do.
    pub(super) fn are_idle(&self) -> bool {
        self.file.is_idle() && self.md5.is_idle()
    }

    /// Has a batch appended and hashed, as soon as no more than [`UNDER_WAY`] are under way with it.
    pub(super) async fn start(&mut self, batch: Vec<Bytes>) -> Result<(), LaneError> {
        self.settle(UNDER_WAY - 1).await?;
        let batch = Arc::new(batch);
        let (appended, hashed) = (Arc::clone(&batch), Arc::clone(&batch));
        self.batches.push_back(batch);
        self.file.start(move |draft| draft.append(&appended));
        self.md5.start(move |md5| hashed.iter().try_for_each(|bytes| md5.update(bytes)));
        Ok(())
    }

    /// Waits until no more than `left` batches are under way.
    async fn settle(&mut self, left: usize) -> Result<(), LaneError> {
        self.file.settle(left).await?.map_err(LaneError::Append)?;
        self.md5.settle(left).await?.map_err(LaneError::Ended)?;
        while self.batches.len() > left {
            // On this thread: the blocks are those of the one that reads the client.
            let batch = self.batches.pop_front().and_then(Arc::into_inner);
            batch.into_iter().flatten().for_each(blocks::give);
        }
        Ok(())
    }

    /// Waits for what is under way, and brings the file to stable storage: the file, closed, and the
    /// MD5 of all.
    pub(super) async fn finish(mut self) -> Result<(Draft, [u8; 16]), LaneError> {
        self.settle(0).await?;
        self.file.start(Draft::sync);
        self.file.settle(0).await?.map_err(|_| LaneError::Sync)?;
        let draft = self.file.end().await?;
        let md5 = self.md5.end().await?;
        Ok((draft, md5.finish().map_err(LaneError::Ended)?))
    }
}

/// One thing that is worked on by one thread at a time; each piece of work hands it on to the next.
/// Dropped in the middle, the work goes on to its end, and what it was done on is dropped there.
#[derive(Debug)]
struct Lane<S> {
    /// Where the state comes when all work is done; never after an error.
    state: oneshot::Receiver<S>,
    /// The oldest first. The pool begins work in the order in which it was given, so what waits for the
    /// state waits for somebody who runs.
    work: VecDeque<JoinHandle<io::Result<()>>>,
}

impl<S: Send + 'static> Lane<S> {
    fn new(state: S) -> Self {
        let (hand_on, handed) = oneshot::channel();
        // Its receiver is here.
        let _ = hand_on.send(state);
        Lane { state: handed, work: VecDeque::new() }
    }

    fn is_idle(&self) -> bool {
        self.work.back().is_none_or(JoinHandle::is_finished)
    }

    /// Begins work on the state, after what is under way.
    fn start(&mut self, work: impl FnOnce(&mut S) -> io::Result<()> + Send + 'static) {
        let (hand_on, handed) = oneshot::channel();
        let state = std::mem::replace(&mut self.state, handed);
        self.work.push_back(spawn_blocking(move || {
            let mut state = state.blocking_recv().map_err(io::Error::other)?;
            work(&mut state)?;
            // Nobody wants it any more: it is dropped here.
            let _ = hand_on.send(state);
            Ok(())
        }));
    }

    /// Waits until no more than `left` pieces of work are under way. The outer error: nobody knows what
    /// became of one.
    async fn settle(&mut self, left: usize) -> Result<io::Result<()>, LaneError> {
        while self.work.len() > left
            && let Some(work) = self.work.front_mut()
        {
            let done = work.await.map_err(|error| LaneError::Ended(io::Error::other(error)));
            self.work.pop_front();
            if let Err(error) = done? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// The state, when all work is settled.
    async fn end(self) -> Result<S, LaneError> {
        self.state.await.map_err(|error| LaneError::Ended(io::Error::other(error)))
    }
}
