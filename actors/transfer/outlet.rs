//! The backend's side of one attempt: what a part's bytes are written to.

use super::intake::MAX_PIECES;
use super::kept::{Kept, ReplayResources, Segment};
use super::part::SendError;
use super::pipe::Pipe;
use crate::backend::{BackendError, Connection};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// The backend's side of one attempt.
pub(super) struct Outlet<'a> {
    connection: &'a mut Connection,
    stall: Duration,
    offered: &'a AtomicBool,
    resources: ReplayResources,
    /// Holds duplicates on their way out; empty between calls, or thrown away.
    pipe: Option<Pipe>,
}

impl<'a> Outlet<'a> {
    pub(super) fn new(
        connection: &'a mut Connection,
        stall: Duration,
        offered: &'a AtomicBool,
        kept: &Kept,
    ) -> Self {
        Outlet { connection, stall, offered, resources: kept.resources().clone(), pipe: None }
    }

    pub(super) fn offer(&self) {
        self.offered.store(true, Ordering::Release);
    }

    pub(super) fn pipe(&mut self) -> Result<&Pipe, SendError> {
        match &mut self.pipe {
            Some(pipe) => Ok(pipe),
            none => Ok(none.insert(self.resources.pipes.get().map_err(SendError::Internal)?)),
        }
    }

    pub(super) fn close(self) {
        if let Some(pipe) = self.pipe {
            self.resources.pipes.put(pipe);
        }
    }

    /// Throws the pipe away with whatever stands in it.
    pub(super) fn discard_doubled(&mut self) {
        self.pipe = None;
    }

    /// Waits for `work`, unless the backend says something first: an answer before the end of the
    /// body is a refusal, and whoever does not look keeps sending into a closed connection.
    pub(super) async fn unless_answered<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, SendError> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.connection.answer_or_closed() => Err(SendError::Answered),
        }
    }

    pub(super) async fn write(&mut self, pieces: &[Bytes]) -> Result<(), SendError> {
        self.connection.send_pieces(pieces, self.stall).await.map_err(SendError::Backend)
    }

    pub(super) async fn send_pipe(
        &mut self,
        pipe: &Pipe,
        length: usize,
        more: bool,
    ) -> Result<usize, SendError> {
        let Some(socket) = self.connection.descriptor() else {
            let bytes = pipe.take(length).map_err(SendError::Internal)?;
            let taken = bytes.len();
            return self.write(&[bytes]).await.map(|()| taken);
        };
        let sent = timeout(self.stall, pipe.send(socket, length, more));
        match self.unless_answered(sent).await? {
            Err(_) => Err(SendError::Backend(BackendError::stalled())),
            Ok(Ok(0)) => Err(SendError::Internal(io::Error::other("a pipe lost its bytes"))),
            Ok(Ok(sent)) => Ok(sent),
            Ok(Err(error)) => Err(SendError::Backend(BackendError::sending(error))),
        }
    }

    /// Sends `length` duplicated bytes from this outlet's own pipe.
    pub(super) async fn send_doubled(
        &mut self,
        length: usize,
        more: bool,
    ) -> Result<(), SendError> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        let mut left = length;
        while left > 0 {
            // An error drops the pipe: what stands in it belongs to this attempt alone.
            left -= self.send_pipe(&pipe, left, more).await?;
        }
        self.pipe = Some(pipe);
        Ok(())
    }

    /// Sends everything that is kept.
    pub(super) async fn replay(&mut self, kept: &Kept) -> Result<(), SendError> {
        let mut batch = Vec::new();
        for segment in kept.segments() {
            if let Segment::Bytes { bytes, .. } = segment {
                batch.push(bytes.clone());
                if batch.len() < MAX_PIECES {
                    continue;
                }
            }
            // What is still to be gathered stands before any segment of another kind.
            self.write(&batch).await?;
            batch.clear();
            match segment {
                Segment::Bytes { .. } => {}
                Segment::File { offset, length, .. } => {
                    let Some(file) = kept.file() else { return Err(SendError::ReplayLost) };
                    let bytes = file.read(*offset, *length).await.map_err(SendError::Internal)?;
                    self.write(&[bytes]).await?;
                }
                Segment::Pipe { pipe, bytes, .. } => {
                    let doubled = pipe.tee(self.pipe()?, *bytes).map_err(SendError::Internal)?;
                    if doubled != *bytes {
                        // A pipe cannot be duplicated in two steps: tee always starts at its
                        // front. Only a host that grants pipes of different sizes comes here.
                        return Err(SendError::ReplayLost);
                    }
                    self.send_doubled(*bytes, false).await?;
                }
            }
            tokio::task::yield_now().await;
        }
        self.write(&batch).await
    }
}
