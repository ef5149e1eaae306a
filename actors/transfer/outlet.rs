//! The backend's side of one attempt: what a part's bytes are written to.

use super::intake::MAX_PIECES;
use super::kept::{Kept, ReplayResources, Segment};
use super::part::SendError;
use super::pipe::Pipe;
use crate::backend::{BackendError, Connection};
use crate::platform;
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

    /// The pipe for duplicates. None: the host has none to give.
    pub(super) fn pipe(&mut self) -> Option<&Pipe> {
        if self.pipe.is_none() {
            self.pipe = self.resources.pipes.moving();
        }
        self.pipe.as_ref()
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
        self.send_filled(pipe, length, more).await
    }

    /// An empty pipe to fill elsewhere, for [`Outlet::send_filled`]. None: the host has none to give, or
    /// what goes to this backend cannot be spliced.
    pub(super) fn take_pipe(&mut self) -> Option<Pipe> {
        if !platform::ZERO_COPY || self.connection.descriptor().is_none() {
            return None;
        }
        self.pipe.take().or_else(|| self.resources.pipes.moving())
    }

    /// Sends the `length` bytes that stand in the pipe, and keeps it for the next ones.
    pub(super) async fn send_filled(
        &mut self,
        pipe: Pipe,
        length: usize,
        more: bool,
    ) -> Result<(), SendError> {
        let mut left = length;
        while left > 0 {
            // An error drops the pipe: what stands in it belongs to this attempt alone.
            left -= self.send_pipe(&pipe, left, more).await?;
        }
        if let Some(other) = self.pipe.replace(pipe) {
            self.resources.pipes.put(other);
        }
        Ok(())
    }

    /// Sends everything that is kept.
    pub(super) async fn replay(&mut self, kept: &mut Kept) -> Result<(), SendError> {
        let mut batch = Vec::new();
        for index in 0..kept.segments().len() {
            if let Some(Segment::Pipe { pipe, bytes, .. }) = kept.segments().get(index) {
                // What is still to be gathered stands before it.
                self.write(&std::mem::take(&mut batch)).await?;
                let bytes = *bytes;
                let doubled = match self.pipe() {
                    Some(to) => pipe.tee(to, bytes).map_err(SendError::Internal)?,
                    None => 0,
                };
                if doubled == bytes {
                    self.send_doubled(bytes, false).await?;
                } else {
                    // A pipe cannot be duplicated in two steps, tee always starts at its front, and
                    // this host grants pipes of different sizes.
                    self.discard_doubled();
                    kept.unpipe(index).await.map_err(SendError::Internal)?;
                }
            }
            match kept.segments().get(index) {
                Some(Segment::Pipe { .. }) => {}
                Some(Segment::Bytes { bytes, .. }) => {
                    batch.push(bytes.clone());
                    if batch.len() < MAX_PIECES {
                        continue;
                    }
                    self.write(&std::mem::take(&mut batch)).await?;
                }
                Some(Segment::File { offset, length, .. }) => {
                    self.write(&std::mem::take(&mut batch)).await?;
                    let Some(file) = kept.file() else { return Err(SendError::ReplayLost) };
                    let bytes = file.read(*offset, *length).await.map_err(SendError::Internal)?;
                    self.write(&[bytes]).await?;
                }
                None => return Err(SendError::ReplayLost),
            }
            tokio::task::yield_now().await;
        }
        self.write(&batch).await
    }
}
