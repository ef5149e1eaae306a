//! One connection to the backend, and one exchange at a time on it.
//!
//! Three things that a ready-made client does not give:
//! - the socket itself ([`Connection::descriptor`]), so that a body can be spliced into it;
//! - the backend's refusal in the middle of a body ([`Connection::answer_or_closed`]), and the
//!   answer that was queued before the connection broke ([`Connection::answer_after_refusal`]):
//!   whoever does not look keeps sending gigabytes at a backend that has said 503;
//! - a reset instead of a close when an exchange is given up, so that a half-sent body, or a
//!   request whose answer nobody awaits any more, is not carried out later behind a newer one.

use super::body::BodyReader;
use super::delivery::holds_unsent;
use super::endpoint::Endpoint;
use super::error::{BackendError, Stage};
use super::pieces::Rest;
use super::resolve::Resolver;
use super::response::{BodyFraming, ResponseError, ResponseHead, find_head_end};
use super::transport::Transport;
use super::trust::TlsClient;
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

/// Bytes that one read asks for: most of S3's answers, head and body, are smaller.
const READ_SIZE: usize = 8 * 1024;

/// Interim answers that are skipped before the final one: servers send one or two.
const MAX_INTERIM: u32 = 16;

/// How many times the first-byte time a whole body may take. More than once, because S3 sends
/// white space for minutes while it completes a multipart upload; bounded, because a backend that
/// trickles would hold the client for ever.
const BODY_PATIENCE: u32 = 10;

/// The longest wait, whatever the settings say: keeps every deadline within the clock's range.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection to the backend. No method may be called after one has failed, but
/// [`answer_after_refusal`](Self::answer_after_refusal) and [`reset`](Self::reset).
///
/// Dropped in the middle of an exchange it resets the connection, else it closes it.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    buffer: BytesMut,
    served: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No exchange is under way: a request may be sent.
    Idle,
    /// A request was begun, and its answer has not been read to the end.
    Busy,
    /// The last answer was read to its end, and the connection takes no other request.
    Spent,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its head.
    pub head: ResponseHead,
    /// Its body, decoded.
    pub body: Bytes,
}

impl Connection {
    /// Resolves the endpoint's name and connects to the first address that takes the connection,
    /// the TLS handshake included; each gets its share of what is left of `limit`, which bounds
    /// the whole. `tls`: how to speak to an `https://` endpoint.
    ///
    /// Errors: [`BackendError::Connect`], or [`BackendError::Timeout`] with [`Stage::Connect`].
    pub async fn connect(
        resolver: &Resolver,
        endpoint: &Endpoint,
        tls: Option<&TlsClient>,
        limit: Duration,
    ) -> Result<Self, BackendError> {
        let deadline = deadline_after(limit);
        let addresses = resolver.resolve(endpoint, std::time::Instant::now(), limit).await;
        let addresses = addresses.map_err(connect_error)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for (left, address) in (1u32..=addresses.len() as u32).rev().zip(&addresses) {
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout(share, Transport::open(*address, endpoint, tls)).await {
                Ok(Ok(transport)) => {
                    resolver.prefer(endpoint, *address);
                    return Ok(Connection::over(transport));
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            log::debug!("{endpoint}: {address}: {last}");
        }
        resolver.suspect(endpoint);
        Err(connect_error(last))
    }

    fn over(transport: Transport) -> Self {
        Connection { transport, buffer: BytesMut::new(), served: 0, phase: Phase::Idle }
    }

    /// The socket, to splice a body into after [`send_head`](Self::send_head). None: what goes to
    /// the backend must be encrypted first, so it takes [`send_all`](Self::send_all).
    pub fn descriptor(&self) -> Option<&TcpStream> {
        self.transport.descriptor()
    }

    #[cfg(test)]
    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// After a failure: whether the backend may have all that was written. False only when it has
    /// reset the connection before all of it had left this host.
    pub fn may_have_everything(&self, error: &BackendError) -> bool {
        let BackendError::Io { source, .. } = error else { return true };
        let reset =
            matches!(source.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
        !(reset && holds_unsent(self.transport.socket()))
    }

    /// Whether it has served a request before: a backend may close such a one at any moment.
    pub fn is_reused(&self) -> bool {
        self.served > 0
    }

    /// Requests that were answered on it.
    pub fn served(&self) -> u32 {
        self.served
    }

    /// Whether another request can be sent: the last answer was read to its end, nothing follows
    /// it, and neither side wants to close.
    pub fn is_reusable(&self) -> bool {
        self.phase == Phase::Idle
    }

    /// Whether an idle connection has been closed, has failed, or holds bytes that nobody asked
    /// for.
    pub fn is_stale(&self) -> bool {
        !self.buffer.is_empty() || self.transport.is_stale()
    }

    /// Begins a request: sends its head, and leaves the body to the caller.
    ///
    /// `stall`: the longest time in which the backend may take nothing. Errors: as
    /// [`send_all`](Self::send_all).
    pub async fn send_head(&mut self, head: &[u8], stall: Duration) -> Result<(), BackendError> {
        self.send(head, &[], stall).await
    }

    /// Sends bytes of a body.
    ///
    /// Errors, with [`Stage::Send`]: [`BackendError::Timeout`] when the backend takes nothing for
    /// `stall`; [`BackendError::Closed`] when it takes nothing and has answered or closed;
    /// [`BackendError::Io`]. The reason may be queued:
    /// [`answer_after_refusal`](Self::answer_after_refusal).
    pub async fn send_all(&mut self, bytes: &[u8], stall: Duration) -> Result<(), BackendError> {
        self.send(bytes, &[], stall).await
    }

    /// Sends a whole request, in one system call if the socket's buffer takes it: two small
    /// segments would cost the backend two wake-ups.
    ///
    /// Errors: as [`send_all`](Self::send_all).
    pub async fn send_head_and_body(
        &mut self,
        head: &[u8],
        body: &[u8],
        stall: Duration,
    ) -> Result<(), BackendError> {
        self.send(head, body, stall).await
    }

    /// Sends pieces of a body in as few system calls as it takes.
    ///
    /// Errors: as [`send_all`](Self::send_all).
    pub async fn send_pieces(
        &mut self,
        pieces: &[Bytes],
        stall: Duration,
    ) -> Result<(), BackendError> {
        if self.descriptor().is_none() {
            for pair in pieces.chunks(2) {
                let second = pair.get(1).map_or(&[][..], |second| second);
                self.send(pair.first().map_or(&[][..], |first| first), second, stall).await?;
            }
            return Ok(());
        }
        self.phase = Phase::Busy;
        let mut deadline = None;
        let mut rest = Rest::of(pieces);
        while !rest.is_empty() {
            let Some(socket) = self.transport.descriptor() else { break };
            match rest.write_to(socket) {
                Ok(()) => {
                    deadline = None;
                    tokio::task::coop::consume_budget().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The clock is read only where there is a wait.
                    let deadline = *deadline.get_or_insert_with(|| deadline_after(stall));
                    self.writable(deadline).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BackendError::sending(error)),
            }
        }
        Ok(())
    }

    async fn send(
        &mut self,
        mut first: &[u8],
        mut second: &[u8],
        stall: Duration,
    ) -> Result<(), BackendError> {
        self.phase = Phase::Busy;
        let mut deadline = None;
        loop {
            match self.transport.try_send(&mut first, &mut second) {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    deadline = None;
                    // A socket that takes everything at once would keep the others waiting.
                    tokio::task::coop::consume_budget().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The clock is read only where there is a wait.
                    let deadline = *deadline.get_or_insert_with(|| deadline_after(stall));
                    self.writable(deadline).await?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BackendError::sending(error)),
            }
        }
    }

    async fn writable(&self, deadline: Instant) -> Result<(), BackendError> {
        tokio::select! {
            biased;
            writable = self.transport.socket().writable() => writable.map_err(BackendError::sending),
            () = self.answer_or_closed() => Err(BackendError::closed_early()),
            () = sleep_until(deadline) => Err(BackendError::stalled()),
        }
    }

    /// Ends when the backend has begun its final answer, has closed, or the connection has failed:
    /// while a body is being sent, all of them mean that sending the rest is pointless. Interim
    /// answers (RFC 9110, 15.2: to be expected at any time) are skipped. May be dropped.
    pub async fn answer_or_closed(&self) {
        let mut interim = 0;
        while self.buffer.is_empty() && interim < MAX_INTERIM {
            match self.transport.skip_interim() {
                Ok(true) => {
                    interim += 1;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(false) | Err(_) => return,
            }
            match self.transport.socket().ready(Interest::READABLE).await {
                // Once closed, tokio never calls the socket unready again: waiting would spin.
                Ok(ready) if !ready.is_read_closed() => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Reads the whole answer to a request that was wholly sent; interim answers are skipped.
    ///
    /// `head_request`: the request's method is HEAD. `first_byte`: within it the head must be
    /// whole; no silence in the body may be longer, and the body may take ten times as long.
    /// `cap`: bytes of the largest body.
    ///
    /// Errors: all but [`BackendError::Connect`]. With [`Stage::FirstByte`] nothing of the answer
    /// has arrived.
    pub async fn read_response(
        &mut self,
        head_request: bool,
        first_byte: Duration,
        cap: usize,
    ) -> Result<Response, BackendError> {
        let head = self.read_head(head_request, first_byte).await?;
        let body = self.read_body(head.framing, first_byte, cap).await?;
        self.served = self.served.saturating_add(1);
        let again = head.keep_alive && self.buffer.is_empty();
        self.phase = if again { Phase::Idle } else { Phase::Spent };
        Ok(Response { head, body })
    }

    /// The answer that the backend gave before it had the whole request, if it comes within `wait`.
    /// A body that does not come whole (the reset that follows may cut it off) is left empty.
    ///
    /// The connection can serve no other request: the rest of this one is missing.
    pub async fn answer_after_refusal(&mut self, cap: usize, wait: Duration) -> Option<Response> {
        self.phase = Phase::Busy;
        let deadline = deadline_after(wait);
        let head = self.read_head(false, wait).await.ok()?;
        let body = timeout_at(deadline, self.read_body(head.framing, wait, cap)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Some(Response { head, body })
    }

    /// Gives up whatever is under way: resets the connection (RST), unsent bytes are dropped.
    pub fn reset(mut self) {
        self.phase = Phase::Busy;
    }

    async fn read_head(
        &mut self,
        head_request: bool,
        limit: Duration,
    ) -> Result<ResponseHead, BackendError> {
        let deadline = deadline_after(limit);
        for _ in 0..=MAX_INTERIM {
            let mut scanned = 0;
            let end = loop {
                match find_head_end(&self.buffer, scanned)? {
                    Some(end) => break end,
                    None => scanned = self.buffer.len(),
                }
                let stage = if scanned == 0 { Stage::FirstByte } else { Stage::Answer };
                if self.fill(deadline, stage).await? == 0 {
                    return Err(BackendError::Closed { stage });
                }
            };
            let head = ResponseHead::parse(&self.buffer.split_to(end), head_request)?;
            if head.status == 101 {
                break;
            }
            if !head.is_interim() {
                return Ok(head);
            }
        }
        Err(ResponseError::UnexpectedInterim.into())
    }

    async fn read_body(
        &mut self,
        framing: BodyFraming,
        silence: Duration,
        cap: usize,
    ) -> Result<Bytes, BackendError> {
        let mut last = None;
        let mut reader = BodyReader::new(framing, cap)?;
        while !reader.advance(&mut self.buffer)? {
            let last =
                *last.get_or_insert_with(|| deadline_after(silence.saturating_mul(BODY_PATIENCE)));
            let deadline = last.min(deadline_after(silence));
            if self.fill(deadline, Stage::Answer).await? == 0 {
                if reader.closed() {
                    break;
                }
                return Err(BackendError::Closed { stage: Stage::Answer });
            }
        }
        Ok(reader.into_body())
    }

    /// Reads what is there, at least one byte; 0: the backend has closed.
    async fn fill(&mut self, deadline: Instant, stage: Stage) -> Result<usize, BackendError> {
        self.buffer.reserve(READ_SIZE);
        match timeout_at(deadline, self.transport.read(&mut self.buffer)).await {
            Ok(read) => read.map_err(|source| BackendError::Io { stage, source }),
            Err(_) => Err(BackendError::Timeout { stage }),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.phase != Phase::Busy {
            return self.transport.farewell();
        }
        if let Err(error) = self.transport.socket().set_zero_linger() {
            log::debug!("a backend connection is closed, not reset: {error}");
        }
    }
}

fn deadline_after(span: Duration) -> Instant {
    Instant::now() + span.min(MAX_WAIT)
}

fn connect_error(error: io::Error) -> BackendError {
    if error.kind() == io::ErrorKind::TimedOut {
        BackendError::Timeout { stage: Stage::Connect }
    } else {
        BackendError::Connect(error)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(super) mod tests;
