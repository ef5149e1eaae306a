//! A body on an HTTP/1 connection: read, or spliced, straight from the client's socket.

use super::body::{BodyError, Pace};
use super::chunked::{ChunkedDecoder, Decoded};
use super::shared::{BodyPhase, BodyProgress, Continue, Phase, Shared, State};
use crate::blocks;
use crate::http::Framing;
use crate::platform;
use bytes::{Bytes, BytesMut};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use tokio::io::Interest;

/// Bytes that a read has room for, at the least.
const MIN_READ: usize = 16 * 1024;

/// Rests of bodies up to this get memory of their own size, longer ones a whole block.
const MAX_OWN: usize = 64 * 1024;

/// One request's body. Dropped before its end, it ends the connection: the unread rest can only be
/// drained, never parsed.
pub(super) struct WireBody {
    shared: Arc<Shared>,
    seq: u64,
    framing: Framing,
    done: bool,
    /// The connection's buffer is (the rest of) a block.
    in_block: bool,
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
        WireBody { shared, seq, framing, done, in_block: false, pace }
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
            if std::mem::take(&mut self.in_block) {
                leave_block(state);
            }
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
                    if buffer.is_empty() && room > MAX_OWN {
                        blocks::give_rest(std::mem::replace(buffer, blocks::take()));
                        self.in_block = true;
                    } else {
                        buffer.reserve(room);
                    }
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

/// Parts the connection from the block that its body was read into: what was read along behind a
/// chunked body moves to memory of its own, and no idle connection holds more than it needs.
fn leave_block(state: &mut State) {
    let rest = BytesMut::from(&state.buffer[..]);
    blocks::give_rest(std::mem::replace(&mut state.buffer, rest));
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::shared::TapConfig;
    use super::super::socket::ClientSocket;
    use super::super::stream::TapStream;
    use super::*;
    use crate::metrics::Counted;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const LENGTH: usize = 700_000;

    /// Sends `wire`, reads the body of its first request, and gives back what the connection's buffer
    /// holds then: bytes and capacity.
    async fn left_by(wire: Vec<u8>) -> (Vec<u8>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let config = TapConfig {
            max_head: 8192,
            head_timeout: Duration::from_secs(20),
            keep_alive: Duration::from_secs(20),
            progress_interval: Duration::from_secs(20),
            progress_bytes: 1,
            drain_bytes: 0,
            drain_time: Duration::ZERO,
        };
        let open = Counted::new(&prometheus::IntGauge::new("open", "open").unwrap());
        let mut stream = TapStream::new(ClientSocket::from(socket), Arc::new(config), 7, open);
        let sending = tokio::spawn(async move {
            client.write_all(&wire).await.unwrap();
            client
        });
        let mut head = [0; 512];
        let count = stream.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..count]).into_owned();
        let token = head.lines().find_map(|line| line.strip_prefix("x-mizuchi-tap: ")).unwrap();
        let handle = stream.handle();
        let mut body = handle.take(token).unwrap().body;
        let mut length = 0;
        while let Some(bytes) = body.read(blocks::BLOCK).await.unwrap() {
            assert!(bytes.iter().all(|&byte| byte == b'x'));
            length += bytes.len();
            blocks::give(bytes);
        }
        assert_eq!(length, LENGTH);
        drop(sending.await.unwrap());
        let state = handle.shared.lock();
        (state.buffer.to_vec(), state.buffer.capacity())
    }

    /// "An idle connection holds none": of blocks, when its body was read.
    #[tokio::test]
    async fn a_body_leaves_no_block_behind() {
        let mut wire = format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {LENGTH}\r\n\r\n");
        wire.push_str(&"x".repeat(LENGTH));
        assert_eq!(left_by(wire.into_bytes()).await, (Vec::new(), 0));
    }

    #[tokio::test]
    async fn what_was_read_along_keeps_no_block() {
        let mut wire = "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        wire += &format!("{LENGTH:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(LENGTH));
        let (rest, capacity) = left_by((wire + "PUT /next HTT").into_bytes()).await;
        assert!(b"PUT /next HTT".starts_with(&rest), "{rest:?}");
        assert!(capacity <= MAX_OWN, "{capacity}");
    }
}
