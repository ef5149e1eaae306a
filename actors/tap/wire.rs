//! A body on an HTTP/1 connection: read, or spliced, straight from the client's socket.

use super::body::{BodyError, Pace};
use super::chunked::{ChunkedDecoder, Decoded};
use super::shared::{BodyPhase, BodyProgress, Continue, Phase, Shared};
use crate::http::Framing;
use crate::platform;
use bytes::{Bytes, BytesMut};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use tokio::io::Interest;

/// Bytes that a read has room for, at the least.
const MIN_READ: usize = 16 * 1024;

/// One request's body. Dropped before its end, it ends the connection: the unread rest can only be
/// drained, never parsed.
pub(super) struct WireBody {
    shared: Arc<Shared>,
    seq: u64,
    framing: Framing,
    done: bool,
    pace: Pace,
}

impl std::fmt::Debug for WireBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireBody(#{} {:?} done={})", self.seq, self.framing, self.done)
    }
}

impl WireBody {
    pub(super) fn new(shared: Arc<Shared>, seq: u64, framing: Framing) -> Self {
        let done = matches!(framing, Framing::Absent | Framing::Length(0));
        let pace = Pace::new(shared.config.progress_interval, shared.config.progress_bytes);
        WireBody { shared, seq, framing, done, pace }
    }

    /// How the body was announced.
    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// True when every byte of the body has been taken (at once for an absent or empty one).
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Whether [`WireBody::splice`] may be used: only a body of known length on a plain socket.
    pub(super) fn can_splice(&self) -> bool {
        platform::ZERO_COPY
            && matches!(self.framing, Framing::Length(_))
            && self.shared.socket.plain().is_some()
    }

    /// Tells a client that waits for `100 Continue` to send. Call it when the request is wanted:
    /// authenticated and admitted.
    pub(super) fn want(&self) {
        let mut state = self.shared.lock();
        if state.expect == Continue::Asked {
            // A client that did not wait needs no answer (RFC 9110, 10.1.1).
            state.expect = if state.buffer.is_empty() { Continue::Wanted } else { Continue::No };
            state.wake_reader();
        }
    }

    /// Waits until at least one byte of the body can be taken without waiting, or the body is done.
    pub(super) async fn ready(&mut self) -> Result<(), BodyError> {
        self.want();
        if self.done || !self.shared.lock().buffer.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        self.pace
            .wait(async { shared.socket.has_bytes().await })
            .await?
            .map_err(BodyError::Connection)
    }

    /// The next bytes of the body, at most `max` (> 0); None when it is done.
    pub(super) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        self.want();
        loop {
            if self.done {
                return Ok(None);
            }
            if let Some(bytes) = self.take_buffered(max)? {
                return Ok(Some(bytes));
            }
            if self.done {
                return Ok(None);
            }
            self.fill(max).await?;
        }
    }

    /// Bytes that came along with the head (or were read and not yet taken); None when there are
    /// none, which is not the end.
    pub(super) fn take_buffered(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let Phase::Body(BodyPhase { seq, progress }) = &mut state.phase else {
            return Err(BodyError::Incomplete);
        };
        if *seq != self.seq {
            return Err(BodyError::Incomplete);
        }
        let (taken, done) = match progress {
            BodyProgress::Length(left) => {
                let count = (*left).min(max as u64).min(state.buffer.len() as u64);
                *left -= count;
                let bytes = state.buffer.split_to(count as usize).freeze();
                ((count > 0).then_some(bytes), *left == 0)
            }
            BodyProgress::Chunked(decoder) => decode(decoder, &mut state.buffer, max)?,
        };
        if done {
            self.done = true;
            state.body_done();
        }
        Ok(taken)
    }

    /// Splices at most `max` bytes from the socket into a pipe, which must be empty: EAGAIN then
    /// means that the socket is (splice(2) does not say which side it would block on).
    ///
    /// Call it only when [`WireBody::take_buffered`] returned None. Returns the bytes moved, > 0.
    pub(super) async fn splice(
        &mut self,
        pipe: BorrowedFd<'_>,
        max: usize,
    ) -> Result<usize, BodyError> {
        let left = match &self.shared.lock().phase {
            Phase::Body(BodyPhase { seq, progress: BodyProgress::Length(left) })
                if *seq == self.seq =>
            {
                *left
            }
            _ => return Err(BodyError::Incomplete),
        };
        let want = (max as u64).min(left) as usize;
        let shared = Arc::clone(&self.shared);
        let Some(socket) = shared.socket.plain() else {
            return Err(BodyError::Splice(io::ErrorKind::Unsupported.into()));
        };
        let moved = self
            .pace
            .wait(
                socket.async_io(Interest::READABLE, || platform::splice(socket, pipe, want, false)),
            )
            .await?;
        let moved = match moved {
            Ok(0) => return Err(self.incomplete()),
            Ok(moved) => moved,
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut => {
                        BodyError::Connection(error)
                    }
                    _ => BodyError::Splice(error),
                });
            }
        };
        self.pace.count(moved as u64);
        let mut state = self.shared.lock();
        if let Phase::Body(BodyPhase { progress: BodyProgress::Length(left), .. }) =
            &mut state.phase
        {
            *left = left.saturating_sub(moved as u64);
            if *left == 0 {
                self.done = true;
                state.body_done();
            }
        }
        Ok(moved)
    }

    /// Reads from the socket into the connection's buffer.
    async fn fill(&mut self, max: usize) -> Result<(), BodyError> {
        let shared = Arc::clone(&self.shared);
        loop {
            self.pace.wait(shared.socket.readable()).await?.map_err(BodyError::Connection)?;
            let read = {
                let mut state = shared.lock();
                // Never more than the body: what follows it is a head, read as one.
                let room = match &state.phase {
                    Phase::Body(BodyPhase { progress: BodyProgress::Length(left), .. }) => {
                        (*left).min(max as u64) as usize
                    }
                    _ => max,
                };
                let buffer: &mut BytesMut = &mut state.buffer;
                // A new allocation only when little is left of the last: one for every read would
                // pin a whole one behind each small segment that is kept for replay.
                if buffer.capacity() - buffer.len() < room.min(MIN_READ) {
                    buffer.reserve(room);
                }
                let room = room.min(buffer.capacity() - buffer.len());
                let mut limited = bytes::BufMut::limit(buffer, room);
                shared.socket.try_read_buf(&mut limited)
            };
            match read {
                Ok(0) => return Err(self.incomplete()),
                Ok(count) => {
                    self.pace.count(count as u64);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(BodyError::Connection(error)),
            }
        }
    }

    fn incomplete(&self) -> BodyError {
        self.shared.lock().eof = true;
        BodyError::Incomplete
    }
}

fn decode(
    decoder: &mut ChunkedDecoder,
    buffer: &mut BytesMut,
    max: usize,
) -> Result<(Option<Bytes>, bool), BodyError> {
    match decoder.decode(buffer, max)? {
        Decoded::Data(bytes) => Ok((Some(bytes), false)),
        Decoded::NeedMore => Ok((None, false)),
        Decoded::End => Ok((None, true)),
    }
}

impl Drop for WireBody {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.shared.lock();
            let mine = matches!(&state.phase, Phase::Body(body) if body.seq == self.seq);
            if mine {
                state.end();
            }
        }
    }
}
