//! The bare loops: what a proxy costs that does nothing but move the bytes. One thread, a connection to
//! the sink for each client; heads are forwarded as they came.

use crate::poll::Poll;
use crate::wire::Wire;
use crate::{Result, head};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};

const LISTENER: u64 = u64::MAX;
/// Bytes of a pipe: what an unprivileged user may have (fs.pipe-max-size).
const PIPE: usize = 1 << 20;
/// Bytes of the copy loop's buffer, and of what is read in search of a head.
const BUFFER: usize = 256 << 10;
/// Moves of one connection in one turn.
const TURN: usize = 16;

/// How bodies are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// From socket to pipe to socket.
    Splice,
    /// read(2) and write(2).
    Copy,
}

/// A client and its connection to the sink.
struct Pair {
    client: Wire,
    backend: Wire,
    pipe: Option<(OwnedFd, OwnedFd)>,
    /// Bytes in the pipe.
    piped: usize,
    /// Of the request's body, to be taken from the client.
    left: u64,
    /// Of a head that is not whole.
    head: Vec<u8>,
    in_head: bool,
    to_backend: Vec<u8>,
    /// Bytes of it that are on their way.
    sent: usize,
    /// The request is with the sink.
    answering: bool,
    to_client: Vec<u8>,
    /// Bytes at its end that the client did not take yet.
    unsent: usize,
}

enum Turn {
    Blocked,
    More,
    End,
}

fn would_block(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.kind() == ErrorKind::WouldBlock,
        None => error.downcast_ref::<Errno>() == Some(&Errno::EAGAIN),
    }
}

/// Relays to `sink` until the process ends.
pub(crate) fn run(mode: Mode, sink: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.watch_readable(&listener, LISTENER)?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", listener.local_addr()?)?;
    stdout.flush()?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free = Vec::new();
    let mut ready = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        poll.wait(&mut ready, None)?;
        for token in ready.iter().copied() {
            if token == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    let pair = Pair::new(Wire::accepted(socket, None)?, sink, mode)?;
                    let token = free.pop().unwrap_or(pairs.len() as u64);
                    poll.watch(pair.client.as_fd(), token)?;
                    poll.watch(pair.backend.as_fd(), token)?;
                    match pairs.get_mut(token as usize) {
                        Some(slot) => *slot = Some(pair),
                        None => pairs.push(Some(pair)),
                    }
                }
                continue;
            }
            let Some(slot) = pairs.get_mut(token as usize) else { continue };
            let Some(pair) = slot else { continue };
            match pair.turn(&mut buffer) {
                Turn::Blocked => {}
                Turn::More => poll.again(token),
                Turn::End => {
                    *slot = None;
                    free.push(token);
                }
            }
        }
    }
}

impl Pair {
    fn new(client: Wire, sink: SocketAddr, mode: Mode) -> Result<Pair> {
        let backend = Wire::connect(sink, None)?;
        let pipe = match mode {
            Mode::Copy => None,
            Mode::Splice => {
                let pipe = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
                fcntl(&pipe.1, FcntlArg::F_SETPIPE_SZ(PIPE as i32))?;
                Some(pipe)
            }
        };
        Ok(Pair {
            client,
            backend,
            pipe,
            piped: 0,
            left: 0,
            head: Vec::new(),
            in_head: true,
            to_backend: Vec::new(),
            sent: 0,
            answering: false,
            to_client: Vec::new(),
            unsent: 0,
        })
    }

    fn turn(&mut self, buffer: &mut [u8]) -> Turn {
        for _ in 0..TURN {
            let step = if self.answering { self.down(buffer) } else { self.up(buffer) };
            match step {
                Ok(true) => {}
                Ok(false) => return Turn::Blocked,
                Err(error) if would_block(&*error) => return Turn::Blocked,
                Err(_) => return Turn::End,
            }
        }
        Turn::More
    }

    /// One move from the client to the sink. False: nothing more can come before the next event.
    fn up(&mut self, buffer: &mut [u8]) -> Result<bool> {
        if !self.to_backend.is_empty() {
            let rest = self.to_backend.get(self.sent..).unwrap_or_default();
            self.sent += self.backend.send(rest)?;
            if self.sent == self.to_backend.len() {
                self.to_backend.clear();
                self.sent = 0;
            }
        } else if self.in_head {
            let count = self.client.receive(buffer)?;
            if count == 0 {
                return Err("the client is gone".into());
            }
            self.head.extend(buffer.iter().take(count));
            if let Some(head) = head::request(&self.head)? {
                let body = self.head.len() - head.length;
                self.left = head.content_length.saturating_sub(body as u64);
                std::mem::swap(&mut self.head, &mut self.to_backend);
                self.in_head = false;
            }
            return Ok(true);
        } else if let Some((reader, writer)) = &self.pipe {
            let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
            if self.piped == 0 {
                let most = self.left.min(PIPE as u64) as usize;
                let count = splice(self.client.as_fd(), None, writer, None, most, flags)?;
                if count == 0 {
                    return Err("the client is gone".into());
                }
                self.piped = count;
                self.left -= count as u64;
            }
            self.piped -= splice(reader, None, self.backend.as_fd(), None, self.piped, flags)?;
        } else {
            let most = self.left.min(buffer.len() as u64) as usize;
            let count = self.client.receive(buffer.get_mut(..most).unwrap_or_default())?;
            if count == 0 {
                return Err("the client is gone".into());
            }
            self.left -= count as u64;
            let bytes = buffer.get(..count).unwrap_or_default();
            let sent = match self.backend.send(bytes) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error.into()),
            };
            self.to_backend.extend(bytes.iter().skip(sent));
        }
        self.answering = self.left == 0 && self.piped == 0 && self.to_backend.is_empty();
        Ok(!self.answering)
    }

    /// One move of an answer. False: it is whole.
    fn down(&mut self, buffer: &mut [u8]) -> Result<bool> {
        if self.unsent == 0 {
            let count = self.backend.receive(buffer)?;
            if count == 0 {
                return Err("the sink is gone".into());
            }
            self.to_client.extend(buffer.iter().take(count));
            self.unsent = count;
        }
        let rest = self.to_client.get(self.to_client.len() - self.unsent..).unwrap_or_default();
        self.unsent -= self.client.send(rest)?;
        let whole = head::response(&self.to_client)?.is_some_and(|head| {
            self.to_client.len() as u64 >= head.length as u64 + head.content_length
        });
        if self.unsent == 0 && whole {
            self.to_client.clear();
            self.answering = false;
            self.in_head = true;
        }
        Ok(self.answering)
    }
}
