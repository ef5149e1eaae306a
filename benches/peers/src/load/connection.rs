//! One connection of the load and the request on it.

use super::template::{Body, Template};
use crate::head;
use crate::wire::Wire;
use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd as _;
use std::time::Instant;

/// Most bytes of one sendfile(2), and of one write with TLS.
const PIECE: u64 = 1 << 20;
const TLS_PIECE: usize = 128 << 10;
/// Pieces of one turn.
const TURN: usize = 8;
/// Bytes of an answer read at a time.
const ANSWER: usize = 4096;

/// What one turn came to.
pub(super) enum Step {
    /// The next event goes on.
    Waiting,
    /// The turn was used up.
    More,
    /// The answer is whole.
    Answered {
        status: u16,
        /// When the request began, or was due.
        since: Instant,
        /// Whether the next request may use the connection.
        reusable: bool,
    },
    /// The connection is of no more use.
    Failed(String),
}

pub(super) struct Connection {
    wire: Wire,
    /// When the request under way began.
    busy: Option<Instant>,
    /// Bytes of head and body that are sent.
    sent: u64,
    /// 100 Continue has come.
    continued: bool,
    answer: Vec<u8>,
}

impl Connection {
    pub(super) fn new(wire: Wire) -> Connection {
        Connection { wire, busy: None, sent: 0, continued: false, answer: Vec::new() }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    pub(super) fn begin(&mut self, since: Instant) {
        self.busy = Some(since);
        self.sent = 0;
        self.continued = false;
        self.answer.clear();
    }

    /// Begins what never ends: a body, or no more than a head.
    pub(super) fn begin_slowly(&mut self, template: &Template, body: bool) -> io::Result<()> {
        let first = template.first();
        let begun = if body { first } else { first.get(..first.len() / 2).unwrap_or_default() };
        self.wire.send(begun)?;
        if body {
            self.wire.send(b"x")?;
        }
        Ok(())
    }

    /// Sends and reads what can be.
    pub(super) fn go_on(&mut self, template: &Template) -> Step {
        let Some(since) = self.busy else { return Step::Waiting };
        let step = self.step(template, since).unwrap_or_else(|error| match error.kind() {
            ErrorKind::WouldBlock => Step::Waiting,
            _ => Step::Failed(error.to_string()),
        });
        if matches!(step, Step::Answered { .. } | Step::Failed(_)) {
            self.busy = None;
        }
        step
    }

    fn step(&mut self, template: &Template, since: Instant) -> io::Result<Step> {
        let began = self.sent;
        match self.send(template) {
            Ok(true) => {}
            Ok(false) => return Ok(Step::More),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // The server may have answered before it closed.
            Err(error) => match self.answered(template, since) {
                Ok(step @ Step::Answered { .. }) => return Ok(step),
                _ => return Err(error),
            },
        }
        // What was only just sent has no answer yet: that event will come.
        if began < template.length() && self.sent == template.length() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.answered(template, since)
    }

    /// False: there is more to send, in another turn.
    fn send(&mut self, template: &Template) -> io::Result<bool> {
        self.wire.flush()?;
        let first = template.first();
        for _ in 0..TURN {
            let Some(left) = template.length().checked_sub(self.sent).filter(|left| *left > 0)
            else {
                return Ok(true);
            };
            if let Some(rest) = first.get(self.sent as usize..).filter(|rest| !rest.is_empty()) {
                self.sent += self.wire.send(rest)? as u64;
                continue;
            }
            if template.expects() && !self.continued {
                return Ok(true);
            }
            let at = self.sent - first.len() as u64;
            self.sent += match template.body() {
                Body::InFirst => return Ok(true),
                Body::Memory(bytes) => {
                    let at = (at % bytes.len() as u64) as usize;
                    let most = TLS_PIECE.min(usize::try_from(left).unwrap_or(usize::MAX));
                    let piece = bytes.get(at..bytes.len().min(at + most)).unwrap_or_default();
                    self.wire.send(piece)? as u64
                }
                Body::File { file, length } => {
                    let from = at % length;
                    let most = PIECE.min(left).min(length - from) as usize;
                    let mut from = from as i64;
                    match sendfile64(self.wire.as_fd(), file, Some(&mut from), most) {
                        Ok(count) => count as u64,
                        Err(Errno::EAGAIN) => return Err(ErrorKind::WouldBlock.into()),
                        Err(error) => return Err(error.into()),
                    }
                }
            };
        }
        Ok(self.sent == template.length())
    }

    fn answered(&mut self, template: &Template, since: Instant) -> io::Result<Step> {
        let mut piece = [0; ANSWER];
        loop {
            let count = match self.wire.receive(&mut piece) {
                Ok(0) => return Ok(Step::Failed("the connection ended".to_owned())),
                done => done?,
            };
            self.answer.extend(piece.iter().take(count));
            let head = match head::response(&self.answer) {
                Ok(Some(head)) => head,
                Ok(None) => continue,
                Err(error) => return Ok(Step::Failed(error.to_string())),
            };
            if head.status == 100 {
                self.answer.drain(..head.length);
                self.continued = true;
                return Ok(Step::More);
            }
            if self.answer.len() as u64 >= head.length as u64 + head.content_length {
                let sent = self.sent == template.length();
                let reusable = sent && !head.closes;
                return Ok(Step::Answered { status: head.status, since, reusable });
            }
        }
    }
}
