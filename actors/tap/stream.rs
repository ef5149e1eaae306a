//! The stream that actix-http reads and writes: heads of our own making in, its answers out.

use super::scan::HeadProblem;
use super::shared::{Continue, Phase, Shared, State, TapConfig, TapHandle};
use super::socket::ClientSocket;
use crate::metrics::Counted;
use bytes::{Buf, BytesMut};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The bytes that one read asks the socket for while a head is awaited: a large head in one read,
/// and of a body no more than this comes along with its head.
const HEAD_READ: usize = 8 * 1024;

/// What `recv(MSG_TRUNC)` may discard in one call. tcp(7): with MSG_TRUNC the bytes are dropped in
/// the kernel and the buffer is not written.
const DRAIN_STEP: usize = 256 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A client's connection as actix-http sees it. See the module above for why.
pub struct TapStream {
    shared: Arc<Shared>,
    /// Runs out no later than `until`: it is set anew when it has, not for each request.
    timer: Pin<Box<Sleep>>,
    /// When what is awaited is too late.
    until: Instant,
    /// What `until` stands for; None while a body is read (its reader times that).
    awaiting: Option<Awaiting>,
    /// How much of [`CONTINUE`] has been written.
    continue_sent: usize,
    closing: Option<Closing>,
    _open: Counted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaiting {
    /// The first byte of a further request.
    Request,
    /// The rest of a head (or all of the first).
    Head,
}

struct Closing {
    /// Our side is closed.
    said: bool,
    drained: u64,
    deadline: Pin<Box<Sleep>>,
    sink: Vec<u8>,
}

impl TapStream {
    /// Wraps an accepted socket. `secret` must be random: it is what ties a request to this
    /// connection. `open` counts the connection for as long as it is.
    pub fn new(socket: ClientSocket, config: Arc<TapConfig>, secret: u64, open: Counted) -> Self {
        let until = Instant::now() + config.head_timeout;
        TapStream {
            shared: Arc::new(Shared::new(socket, config, secret)),
            timer: Box::pin(sleep_until(until)),
            until,
            awaiting: Some(Awaiting::Head),
            continue_sent: 0,
            closing: None,
            _open: open,
        }
    }

    /// The handle for the connection's request handlers.
    pub fn handle(&self) -> TapHandle {
        TapHandle { shared: Arc::clone(&self.shared) }
    }

    /// Sets or keeps the time for what is awaited now; Ready when it has run out. A further request is
    /// awaited from `idle_from` on; None: from now.
    fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        now: Awaiting,
        idle_from: Option<Instant>,
    ) -> Poll<()> {
        if self.awaiting != Some(now) {
            let config = &self.shared.config;
            self.until = match now {
                Awaiting::Request => idle_from.unwrap_or_else(Instant::now) + config.keep_alive,
                Awaiting::Head => Instant::now() + config.head_timeout,
            };
            self.awaiting = Some(now);
            if self.timer.deadline() > self.until {
                self.timer.as_mut().reset(self.until);
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= self.until {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.until);
        }
    }

    /// Has the timer wake this stream some time later, for as long as it is polled so.
    fn tick(&mut self, cx: &mut Context<'_>) {
        while self.timer.as_mut().poll(cx).is_ready() {
            let later = Instant::now() + self.shared.config.keep_alive;
            self.timer.as_mut().reset(later);
        }
    }

    /// Reads from the socket into the buffer, or notes its end.
    fn poll_fill(shared: &Shared, state: &mut State, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(shared.socket.poll_readable(cx))?;
            state.buffer.reserve(HEAD_READ);
            let room = state.buffer.capacity() - state.buffer.len();
            match shared.socket.try_read_buf(&mut state.buffer) {
                Ok(0) => {
                    state.eof = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(count) => {
                    if count < room {
                        shared.socket.is_drained();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for TapStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            if !state.for_actix.is_empty() {
                let count = state.for_actix.len().min(out.remaining());
                out.put_slice(&state.for_actix[..count]);
                state.for_actix.advance(count);
                return Poll::Ready(Ok(()));
            }
            match state.phase {
                Phase::Ended => return Poll::Ready(Ok(())),
                Phase::Body(_) => {
                    self.awaiting = None;
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Phase::Head if !state.has_room() => {
                    self.awaiting = None;
                    state.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Phase::Head => {}
            }
            if state.scan(shared.secret, shared.config.max_head) {
                self.awaiting = None;
                continue;
            }
            if state.eof {
                // Whatever stands in the buffer is half a head: nobody waits for its answer.
                state.phase = Phase::Ended;
                continue;
            }
            match Self::poll_fill(&shared, &mut state, cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
            if state.buffer.is_empty() {
                // A connection may be idle for long, and there may be thousands.
                state.buffer = BytesMut::new();
            }
            // Requests that wait for their handler, or run, are not idleness.
            if state.buffer.is_empty() && state.is_busy() {
                self.awaiting = None;
                state.reader = Some(cx.waker().clone());
                // Nobody wakes it when they have ended, and the idle time begins.
                self.tick(cx);
                return Poll::Pending;
            }
            let awaiting = match self.awaiting {
                Some(Awaiting::Head) => Awaiting::Head,
                _ if state.buffer.is_empty() => Awaiting::Request,
                _ => Awaiting::Head,
            };
            ready!(self.poll_timer(cx, awaiting, state.idle_from));
            if state.buffer.is_empty() {
                state.phase = Phase::Ended;
            } else {
                state.announce(shared.secret, Err(HeadProblem::Timeout));
            }
        }
    }
}

impl TapStream {
    /// Discards what the client still sends, so that closing does not reset the connection before
    /// it has read the answer (RFC 9112, 9.6), up to the caps.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = Arc::clone(&self.shared);
        let Some(closing) = &mut self.closing else { return Poll::Ready(()) };
        loop {
            if closing.drained >= shared.config.drain_bytes
                || closing.deadline.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            if closing.sink.is_empty() {
                closing.sink = vec![0; DRAIN_STEP];
            }
            match ready!(shared.socket.poll_discard(cx, &mut closing.sink)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(count) => closing.drained += count as u64,
            }
        }
    }
}

impl AsyncWrite for TapStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.socket.poll_write(cx, bytes)
    }

    /// actix-http calls this with its own buffer empty, each time it has polled the handler: the
    /// one moment at which an interim response can go out between two answers.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.shared.lock().expect == Continue::Wanted {
            let rest = CONTINUE.get(self.continue_sent..).unwrap_or_default();
            let count = ready!(self.shared.socket.poll_write(cx, rest))?;
            self.continue_sent += count;
            if self.continue_sent >= CONTINUE.len() {
                self.continue_sent = 0;
                self.shared.lock().expect = Continue::No;
            }
        }
        self.shared.socket.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = Arc::clone(&self.shared);
        let closing = self.closing.get_or_insert_with(|| {
            shared.socket.farewell();
            Closing {
                said: false,
                drained: 0,
                deadline: Box::pin(sleep_until(Instant::now() + shared.config.drain_time)),
                sink: Vec::new(),
            }
        });
        if !closing.said {
            // A session's last words may have to wait for a client that does not read, no longer
            // than a drain.
            if shared.socket.poll_flush(cx).is_pending()
                && closing.deadline.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            closing.said = true;
            shared.socket.end();
            let state = shared.lock();
            if matches!(state.phase, Phase::Head) && state.buffer.is_empty() {
                // Between requests: there is nothing to drain.
                closing.drained = u64::MAX;
            }
        }
        ready!(self.poll_drain(cx));
        Poll::Ready(Ok(()))
    }
}
