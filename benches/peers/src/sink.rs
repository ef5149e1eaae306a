//! The backend: reads a head, throws the body away in the kernel (MSG_TRUNC), answers as much of S3
//! as an upload needs. One thread. It costs as little as a receiver can.

use crate::poll::Poll;
use crate::wire::Wire;
use crate::{Result, head, tls};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LISTENER: u64 = u64::MAX;
/// What is thrown away at a time.
const SCRATCH: usize = 1 << 20;
/// Reads of one connection in one turn.
const TURN: usize = 8;
/// Every how-manieth part is reset with [`Options::faults`].
const FAULT_EVERY: u64 = 100;
const CREATED: &str = "<?xml version=\"1.0\"?><InitiateMultipartUploadResult>\
    <UploadId>sink</UploadId></InitiateMultipartUploadResult>";
const COMPLETED: &str = "<?xml version=\"1.0\"?><CompleteMultipartUploadResult>\
    <ETag>\"0123456789abcdef0123456789abcdef-1\"</ETag></CompleteMultipartUploadResult>";

/// How the sink behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Every hundredth body of a part is answered with a reset in its middle.
    pub(crate) faults: bool,
}

/// What went in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statistics {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Bytes of bodies, those of parts that were reset included.
    pub(crate) bytes: u64,
    /// Parts that were reset.
    pub(crate) resets: u64,
    /// Connections accepted.
    pub(crate) connections: u64,
}

/// The counters as they grow.
#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    resets: AtomicU64,
    connections: AtomicU64,
}

impl Counters {
    fn now(&self) -> Statistics {
        Statistics {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            resets: self.resets.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }
}

/// Writes the counters to whoever connects, on a thread of its own: they are asked for while the sink
/// is busy.
fn tell(counters: Arc<Counters>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let text = serde_json::to_string(&counters.now()).unwrap_or_default();
            // Who does not wait for the answer does not want it.
            let _ = socket.write_all(text.as_bytes());
        }
    });
    Ok(address)
}

/// Asks a sink for its counters, at the second of its addresses.
pub(crate) fn statistics(address: SocketAddr) -> Result<Statistics> {
    let mut text = String::new();
    TcpStream::connect(address)?.read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// One connection.
struct Peer {
    wire: Wire,
    /// Bytes of a head that is not whole.
    head: Vec<u8>,
    /// Of the body that is read.
    left: u64,
    /// The body is reset when no more than this is left.
    reset_at: Option<u64>,
    /// What is answered behind the body.
    answer: &'static str,
    /// Answers that the socket did not take yet.
    out: Vec<u8>,
}

enum Turn {
    Done,
    More,
    End,
    Reset,
}

struct Sink {
    options: Options,
    counted: Arc<Counters>,
    parts: u64,
    scratch: Vec<u8>,
}

/// Serves until the process ends; `folder` holds the certificates if it speaks TLS.
pub(crate) fn run(options: Options, folder: Option<&Path>) -> Result<()> {
    let tls = folder.map(tls::server).transpose()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.watch_readable(&listener, LISTENER)?;
    let mut stdout = std::io::stdout();
    let counted = Arc::new(Counters::default());
    writeln!(stdout, "{} {}", listener.local_addr()?, tell(Arc::clone(&counted))?)?;
    stdout.flush()?;
    let mut sink = Sink { options, counted, parts: 0, scratch: vec![0; SCRATCH] };
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut free: Vec<u64> = Vec::new();
    let mut ready = Vec::new();
    loop {
        poll.wait(&mut ready, None)?;
        for token in ready.iter().copied() {
            if token == LISTENER {
                while let Ok((socket, _)) = listener.accept() {
                    let wire = Wire::accepted(socket, tls.as_ref())?;
                    let token = free.pop().unwrap_or(peers.len() as u64);
                    poll.watch(wire.as_fd(), token)?;
                    let peer = Some(Peer::new(wire));
                    sink.counted.connections.fetch_add(1, Ordering::Relaxed);
                    match peers.get_mut(token as usize) {
                        Some(slot) => *slot = peer,
                        None => peers.push(peer),
                    }
                }
                continue;
            }
            let Some(slot) = peers.get_mut(token as usize) else { continue };
            let Some(peer) = slot else { continue };
            match sink.turn(peer) {
                Turn::Done => continue,
                Turn::More => {
                    poll.again(token);
                    continue;
                }
                Turn::End => {}
                Turn::Reset => {
                    sink.counted.resets.fetch_add(1, Ordering::Relaxed);
                    if let Some(peer) = slot.take() {
                        peer.wire.reset()?;
                    }
                }
            }
            *slot = None;
            free.push(token);
        }
    }
}

impl Peer {
    fn new(wire: Wire) -> Peer {
        let (head, out) = (Vec::new(), Vec::new());
        Peer { wire, head, left: 0, reset_at: None, answer: "", out }
    }

    /// Sends what is waiting to be sent.
    fn flush(&mut self) -> std::io::Result<()> {
        self.wire.flush()?;
        while !self.out.is_empty() {
            let count = self.wire.send(&self.out)?;
            self.out.drain(..count);
        }
        Ok(())
    }

    fn say(&mut self, body: &str) {
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"0123456789abcdef0123456789abcdef\"\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.out.extend(head.as_bytes());
        self.out.extend(body.as_bytes());
    }
}

impl Sink {
    fn turn(&mut self, peer: &mut Peer) -> Turn {
        match self.work(peer) {
            Ok(turn) => turn,
            Err(error) => match error.downcast_ref::<std::io::Error>() {
                Some(error) if error.kind() == ErrorKind::WouldBlock => Turn::Done,
                // A proxy that goes away in the middle is no event of the sink's.
                _ => Turn::End,
            },
        }
    }

    fn work(&mut self, peer: &mut Peer) -> Result<Turn> {
        peer.flush()?;
        for _ in 0..TURN {
            if peer.left > 0 {
                if peer.reset_at.is_some_and(|at| peer.left <= at) {
                    return Ok(Turn::Reset);
                }
                let most = peer.left - peer.reset_at.unwrap_or(0);
                let count = peer.wire.discard(&mut self.scratch, most)?;
                if count == 0 {
                    return Ok(Turn::End);
                }
                self.body(peer, count as u64);
            } else {
                let count = peer.wire.receive(&mut self.scratch)?;
                if count == 0 {
                    return Ok(Turn::End);
                }
                peer.head.extend(self.scratch.iter().take(count));
                self.heads(peer)?;
            }
            peer.flush()?;
        }
        Ok(Turn::More)
    }

    /// `count` bytes of the body are gone.
    fn body(&mut self, peer: &mut Peer, count: u64) {
        peer.left -= count;
        self.counted.bytes.fetch_add(count, Ordering::Relaxed);
        if peer.left == 0 {
            self.counted.requests.fetch_add(1, Ordering::Relaxed);
            peer.say(peer.answer);
        }
    }

    /// Takes the heads, and what came along of their bodies.
    fn heads(&mut self, peer: &mut Peer) -> Result<()> {
        while peer.left == 0
            && let Some(head) = head::request(&peer.head)?
        {
            peer.head.drain(..head.length);
            if head.expects {
                peer.out.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            let creates = head.target.contains("?uploads");
            peer.answer = match (head.method.as_str(), creates) {
                ("POST", true) => CREATED,
                ("POST", false) => COMPLETED,
                _ => "",
            };
            peer.left = head.content_length;
            peer.reset_at = None;
            if self.options.faults && head.target.contains("partNumber=") {
                self.parts += 1;
                if self.parts.is_multiple_of(FAULT_EVERY) {
                    peer.reset_at = Some(head.content_length / 2);
                }
            }
            let here = peer.left.min(peer.head.len() as u64);
            peer.head.drain(..here as usize);
            // Nothing may be left, and nothing was there: then this answers at once.
            self.body(peer, here);
        }
        Ok(())
    }
}
