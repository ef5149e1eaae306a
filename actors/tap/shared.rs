//! What a connection's stream (under actix) and its request bodies (in the engine) share.
//!
//! One thread owns both, so the lock is never contended; it is a `Mutex` only because actix
//! messages must be `Send`. It is never held across an await.

use super::body::RequestBody;
use super::chunked::ChunkedDecoder;
use super::scan::{HeadProblem, HeadScanner};
use super::socket::ClientSocket;
use super::wire::WireBody;
use crate::certificate::PeerCertificate;
use crate::http::{Framing, RequestHead, expects_continue, wants_close};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// Heads read ahead of the running handler (pipelining); past it the socket is left unread.
/// actix-http's own queue holds as many.
const MAX_PIPELINED: usize = 16;

/// Bytes that the head for actix is under.
const USUAL_ANNOUNCEMENT: usize = 128;

/// The bounds of one connection. All come from settings.
#[derive(Debug, Clone)]
pub struct TapConfig {
    /// Most bytes of one head (`server.max_head`).
    pub max_head: usize,
    /// From a head's first byte to its last; from accept, for the first (`server.head_timeout`).
    pub head_timeout: Duration,
    /// Longest idle time between requests (`server.keep_alive`).
    pub keep_alive: Duration,
    /// A body must bring `progress_bytes` in each `progress_interval` (`server.body_progress`).
    pub progress_interval: Duration,
    /// See `progress_interval`.
    pub progress_bytes: u64,
    /// Most bytes of an unread body that are drained after an early answer (`server.drain.bytes`).
    pub drain_bytes: u64,
    /// Longest time such a drain may take (`server.drain.time`).
    pub drain_time: Duration,
}

/// A request as the tap hands it to its handler.
#[derive(Debug)]
pub struct Arrival {
    /// The head as it came from the wire.
    pub head: RequestHead,
    /// The body, unread.
    pub body: RequestBody,
}

/// Why a request could not be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// The request is to be refused, and the connection closed.
    #[error(transparent)]
    Problem(#[from] HeadProblem),
    /// The number or the secret is not the one expected: never an empty body.
    #[error("the request does not belong to this connection")]
    Mismatch,
}

/// A connection's handle for the request handlers (`HttpRequest::conn_data`).
#[derive(Clone)]
pub struct TapHandle {
    pub(super) shared: Arc<Shared>,
}

impl TapHandle {
    /// Takes the request that the value of [`super::TAP_HEADER`] names. Requests are taken in
    /// order, each once.
    pub fn take(&self, token: &str) -> Result<Arrival, TakeError> {
        let (head, framing, seq) = {
            let mut state = self.shared.lock();
            let named = token.split_once('-').and_then(|(secret, seq)| {
                Some((u64::from_str_radix(secret, 16).ok()?, seq.parse::<u64>().ok()?))
            });
            let expected = state.waiting.front().map(|waiting| (self.shared.secret, waiting.seq));
            if named.is_none() || named != expected {
                return Err(TakeError::Mismatch);
            }
            let had_room = state.has_room();
            let Some(waiting) = state.waiting.pop_front() else { return Err(TakeError::Mismatch) };
            if !had_room {
                state.wake_reader();
            }
            let (head, framing) = waiting.request?;
            (head, framing, waiting.seq)
        };
        let body = WireBody::new(Arc::clone(&self.shared), seq, framing);
        Ok(Arrival { head, body: body.into() })
    }
}

/// Held from a request's arrival to the end of its answer: the connection is not idle meanwhile.
pub struct Busy {
    shared: Arc<Shared>,
}

impl TapHandle {
    /// The client's certificate, where it was asked for one and has one.
    pub fn certificate(&self) -> Option<Arc<PeerCertificate>> {
        self.shared.socket.certificate().cloned()
    }

    /// Notes that a request is being answered.
    pub fn busy(&self) -> Busy {
        self.shared.lock().busy += 1;
        Busy { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.busy = state.busy.saturating_sub(1);
        // The stream's timer looks at it when it runs out: nobody need be woken for it.
        state.idle_from = Some(Instant::now());
    }
}

/// One request whose head is complete and whose handler has not come yet.
pub(super) struct Waiting {
    pub(super) seq: u64,
    pub(super) request: Result<(RequestHead, Framing), HeadProblem>,
}

/// Where on the wire the connection stands.
pub(super) enum Phase {
    /// A head is read.
    Head,
    /// The body of request `seq` is read, by its [`WireBody`] alone.
    Body(BodyPhase),
    /// Nothing more is read: actix sees the end of the stream. What the client still sends is
    /// drained before the connection is closed.
    Ended,
}

/// How much of the current body is still on the wire.
pub(super) struct BodyPhase {
    pub(super) seq: u64,
    pub(super) progress: BodyProgress,
}

/// See [`BodyPhase`].
pub(super) enum BodyProgress {
    /// Bytes to come, > 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked(ChunkedDecoder),
}

/// `Expect: 100-continue`, from the head to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continue {
    /// Not asked for, or settled.
    No,
    /// Asked for; nobody has wanted the body yet.
    Asked,
    /// The body is wanted: to be written when actix's own buffer is empty.
    Wanted,
}

/// The state behind the lock.
pub(super) struct State {
    /// Bytes read from the socket that belong to nobody yet.
    pub(super) buffer: BytesMut,
    pub(super) phase: Phase,
    pub(super) scanner: HeadScanner,
    /// What actix will read next: heads of our own making.
    pub(super) for_actix: Bytes,
    pub(super) waiting: VecDeque<Waiting>,
    next_seq: u64,
    pub(super) expect: Continue,
    /// The client has closed its side.
    pub(super) eof: bool,
    pub(super) reader: Option<Waker>,
    /// Requests that are being answered.
    busy: usize,
    /// When the last of them had been answered.
    pub(super) idle_from: Option<Instant>,
}

impl State {
    /// Wakes the stream's reader: the phase has changed.
    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// Whether a further head may be read.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_PIPELINED
    }

    /// Whether a request waits for its handler, or is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.busy > 0 || !self.waiting.is_empty()
    }

    /// Ends the current body: the next head may be read.
    pub(super) fn body_done(&mut self) {
        self.phase = Phase::Head;
        self.expect = Continue::No;
        self.wake_reader();
    }

    /// Nothing more is read from this connection.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.wake_reader();
    }

    /// Looks for the next head in the buffer and, when there is one, announces it to actix.
    /// Returns false when more bytes are needed.
    pub(super) fn scan(&mut self, secret: u64, max_head: usize) -> bool {
        match self.scanner.next(&mut self.buffer, max_head) {
            Ok(None) => false,
            Ok(Some((head, framing))) => {
                self.announce(secret, Ok((head, framing)));
                true
            }
            Err(problem) => {
                self.announce(secret, Err(problem));
                true
            }
        }
    }

    /// Queues a request for its handler and gives actix a head that names it.
    pub(super) fn announce(
        &mut self,
        secret: u64,
        request: Result<(RequestHead, Framing), HeadProblem>,
    ) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let (method, close) = match &request {
            Ok((head, framing)) => {
                let progress = match framing {
                    Framing::Absent | Framing::Length(0) => None,
                    Framing::Length(length) => Some(BodyProgress::Length(*length)),
                    Framing::Chunked => Some(BodyProgress::Chunked(ChunkedDecoder::default())),
                };
                if let Some(progress) = progress {
                    self.phase = Phase::Body(BodyPhase { seq, progress });
                    self.expect =
                        if expects_continue(head) { Continue::Asked } else { Continue::No };
                }
                (if head.method() == "HEAD" { "HEAD" } else { "PUT" }, wants_close(head))
            }
            Err(_) => {
                self.phase = Phase::Ended;
                ("PUT", true)
            }
        };
        let mut text = Vec::with_capacity(USUAL_ANNOUNCEMENT);
        for part in [method, " / HTTP/1.1\r\nhost: tap\r\n", super::TAP_HEADER, ": "] {
            text.extend_from_slice(part.as_bytes());
        }
        // Writing to a Vec cannot fail.
        let _ = write!(text, "{secret:x}-{seq}");
        text.extend_from_slice(if close { b"\r\nconnection: close\r\n\r\n" } else { b"\r\n\r\n" });
        self.for_actix = if self.for_actix.is_empty() {
            Bytes::from(text)
        } else {
            Bytes::from([&self.for_actix[..], &text].concat())
        };
        self.waiting.push_back(Waiting { seq, request });
    }
}

/// A connection: its socket and its state.
pub(super) struct Shared {
    pub(super) socket: ClientSocket,
    pub(super) config: Arc<TapConfig>,
    pub(super) secret: u64,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(socket: ClientSocket, config: Arc<TapConfig>, secret: u64) -> Self {
        Shared {
            socket,
            config,
            secret,
            state: Mutex::new(State {
                buffer: BytesMut::new(),
                phase: Phase::Head,
                scanner: HeadScanner::default(),
                for_actix: Bytes::new(),
                waiting: VecDeque::new(),
                next_seq: 0,
                expect: Continue::No,
                eof: false,
                reader: None,
                busy: 0,
                idle_from: None,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if one ever did, the state is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
