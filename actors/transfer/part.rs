//! One part on its way: what is taken from the client, and each attempt to send it.

use super::kept::{Kept, ReplayResources, Segment};
use super::pipe::Pipe;
use crate::backend::{BackendError, Connection};
use crate::payload::{BodyVerifier, EncodeError, UnsignedTrailerEncoder};
use crate::s3::error::{ErrorCode, S3Error};
use crate::tap::{BodyError, RequestBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// Bytes that one read of the copy path asks for, and so the most that is hashed without a yield.
const COPY_READ: usize = 256 * 1024;

/// Bytes after which a part lets others run: tokio's own budget counts operations, and one splice
/// moves a megabyte.
const YIELD_EVERY: usize = 2 * 1024 * 1024;

/// Why an attempt did not bring the whole part to the backend.
#[derive(Debug)]
pub enum SendError {
    /// The client's body failed: short, slow, or not what was signed. Final.
    Client(S3Error),
    /// The backend has answered, or closed, before it had everything: read its answer.
    Answered,
    /// The backend's connection failed.
    Backend(BackendError),
    /// What an earlier attempt took from the client could not be kept: this part is lost.
    ReplayLost,
    /// The gateway's own resources failed (descriptors, the overflow file).
    Internal(io::Error),
}

/// What went over, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Payload bytes that never entered user space.
    pub spliced: u64,
    /// splice(2) calls that took them from the client.
    pub splices: u64,
    /// Payload bytes that did.
    pub copied: u64,
}

/// How the body is taken from the client.
#[derive(Debug)]
enum Intake {
    /// Through a pipe. `pending` bytes stand in `pipe` and are neither kept nor wholly sent.
    Splice { pipe: Option<Pipe>, pending: usize },
    /// Through memory, verified on the way.
    Copy(Box<CopyIntake>),
}

/// See [`Intake::Copy`].
#[derive(Debug)]
struct CopyIntake {
    verifier: BodyVerifier,
    /// Frames the payload again, for a backend that is to store the trailer's checksum.
    framing: Option<UnsignedTrailerEncoder>,
    /// What is to be sent and has not been taken yet.
    ready: VecDeque<Bytes>,
    /// The body is complete and verified; `ready` holds the rest.
    finished: bool,
}

/// A part's body and its replay buffer; outlives the attempts.
#[derive(Debug)]
pub struct PartSource {
    body: RequestBody,
    intake: Intake,
    kept: Kept,
    /// Checksums that came as trailers and were verified: header name and value.
    trailers: Vec<(String, String)>,
    volume: Volume,
}

impl PartSource {
    /// A part whose bytes are spliced.
    pub fn splice(body: RequestBody, resources: ReplayResources) -> Self {
        let intake = Intake::Splice { pipe: None, pending: 0 };
        PartSource {
            body,
            intake,
            kept: Kept::new(resources),
            trailers: Vec::new(),
            volume: Volume::default(),
        }
    }

    /// A part whose bytes are read and verified, and framed again if `framing` is given.
    pub fn copy(
        body: RequestBody,
        resources: ReplayResources,
        verifier: BodyVerifier,
        framing: Option<UnsignedTrailerEncoder>,
    ) -> Self {
        let ready = VecDeque::new();
        let intake =
            Intake::Copy(Box::new(CopyIntake { verifier, framing, ready, finished: false }));
        PartSource {
            body,
            intake,
            kept: Kept::new(resources),
            trailers: Vec::new(),
            volume: Volume::default(),
        }
    }

    /// What went over so far, all attempts together.
    pub fn volume(&self) -> Volume {
        self.volume
    }

    /// Verified trailer checksums; complete when the body was read to its end.
    pub fn trailers(&self) -> &[(String, String)] {
        &self.trailers
    }

    /// Whether the client's whole body has been taken and verified.
    pub fn is_taken(&self) -> bool {
        match &self.intake {
            Intake::Splice { pending, .. } => self.body.is_done() && *pending == 0,
            Intake::Copy(copy) => copy.finished && copy.framing.is_none() && copy.ready.is_empty(),
        }
    }

    /// Whether the part can be sent once more from its beginning.
    pub fn can_replay(&self) -> bool {
        !self.kept.is_lost()
    }

    /// Waits for the first byte of the body (`100 Continue` is sent to a client that asked), so
    /// that no backend connection is held for a client that sends nothing.
    pub async fn ready(&mut self) -> Result<(), SendError> {
        self.body.ready().await.map_err(client_fault)
    }

    /// Reads the whole body into the replay buffer, for a small one: it is then sent in one write
    /// with the head, and a checksum in its trailer can go into the head.
    pub async fn take_all(&mut self) -> Result<(), SendError> {
        while let Some(bytes) = self.next_copied().await? {
            self.kept.keep_bytes(bytes).await.map_err(SendError::Internal)?;
        }
        Ok(())
    }

    /// The part as one piece of memory, when it was taken whole and is small enough to be one.
    pub fn as_bytes(&self) -> Option<Bytes> {
        match (self.is_taken() && self.can_replay(), self.kept.segments()) {
            (true, []) => Some(Bytes::new()),
            (true, [Segment::Bytes { bytes, .. }]) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Sends the part: first what is kept, then what the client still sends. The head has been
    /// sent already.
    ///
    /// `stall`: the longest time in which the backend may take nothing. `offered` is set before the
    /// last byte is written: from then on the backend may have everything.
    pub async fn send(
        &mut self,
        connection: &mut Connection,
        stall: Duration,
        offered: &AtomicBool,
    ) -> Result<(), SendError> {
        if self.kept.is_lost() {
            return Err(SendError::ReplayLost);
        }
        if let Intake::Splice { pipe: Some(pipe), pending } = &mut self.intake {
            // An attempt died between taking bytes and keeping them.
            self.kept.keep_pipe(pipe, pending).await.map_err(SendError::Internal)?;
        }
        let mut out = Outlet::new(connection, stall, offered, &self.kept);
        if self.is_taken() {
            out.offer();
        }
        out.replay(&self.kept).await?;
        match &self.intake {
            Intake::Splice { .. } => self.pump_spliced(&mut out).await?,
            Intake::Copy(_) => self.pump_copied(&mut out).await?,
        }
        out.close();
        Ok(())
    }

    async fn pump_copied(&mut self, out: &mut Outlet<'_>) -> Result<(), SendError> {
        let mut since_yield = 0;
        loop {
            let next = out.unless_answered(self.next_copied()).await??;
            let Some(bytes) = next else { return Ok(()) };
            self.kept.keep_bytes(bytes.clone()).await.map_err(SendError::Internal)?;
            fail::fail_point!("part::copied");
            since_yield += bytes.len();
            if self.is_taken() {
                out.offer();
            }
            out.write(&bytes).await?;
            if since_yield >= YIELD_EVERY {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// The next verified bytes of the copy path; None when the body is complete and verified.
    /// Dropped while it waits, it has lost nothing.
    async fn next_copied(&mut self) -> Result<Option<Bytes>, SendError> {
        let Intake::Copy(copy) = &mut self.intake else { return Ok(None) };
        let internal = |error: EncodeError| SendError::Internal(io::Error::other(error));
        loop {
            if let Some(bytes) = copy.ready.pop_front() {
                return Ok(Some(bytes));
            }
            if let Some(bytes) = copy.verifier.pop() {
                self.volume.copied += bytes.len() as u64;
                match &mut copy.framing {
                    Some(framing) => copy.ready.extend(framing.encode(bytes).map_err(internal)?),
                    None => return Ok(Some(bytes)),
                }
                continue;
            }
            if copy.finished {
                match copy.framing.take() {
                    // The last chunk and the trailers: known only now.
                    Some(framing) => {
                        let end = framing.finish(&self.trailers).map_err(internal)?;
                        copy.ready.push_back(end);
                        continue;
                    }
                    None => return Ok(None),
                }
            }
            match self.body.read(COPY_READ).await.map_err(client_fault)? {
                Some(bytes) => copy.verifier.push(bytes).map_err(SendError::Client)?,
                None => {
                    self.trailers = copy.verifier.finish().map_err(SendError::Client)?;
                    copy.finished = true;
                }
            }
        }
    }

    async fn pump_spliced(&mut self, out: &mut Outlet<'_>) -> Result<(), SendError> {
        let Intake::Splice { pipe, pending } = &mut self.intake else { return Ok(()) };
        let mut since_yield = 0;
        while !self.body.is_done() {
            // What came along with the head stands in memory already.
            if let Some(bytes) = self.body.take_buffered(COPY_READ).map_err(client_fault)? {
                self.volume.copied += bytes.len() as u64;
                self.kept.keep_bytes(bytes.clone()).await.map_err(SendError::Internal)?;
                if self.body.is_done() {
                    out.offer();
                }
                out.write(&bytes).await?;
                continue;
            }
            if pipe.is_none() {
                *pipe = Some(self.kept.resources().pipes.get().map_err(SendError::Internal)?);
            }
            let Some(ingest) = pipe.as_ref() else { continue };
            let room = ingest.slots() * super::pipe::PAGE;
            let spliced = self.body.splice(ingest.writer(), room);
            let moved = out.unless_answered(spliced).await?.map_err(client_fault)?;
            *pending = moved;
            self.volume.spliced += moved as u64;
            self.volume.splices += 1;
            since_yield += moved;
            fail::fail_point!("part::spliced");
            let last = self.body.is_done();
            if self.kept.is_lost() {
                if last {
                    out.offer();
                }
                while *pending > 0 {
                    let sent = out.send_pipe(ingest, *pending, !last).await?;
                    *pending -= sent;
                }
                continue;
            }
            let doubled = ingest.tee(out.pipe()?, moved).map_err(SendError::Internal)?;
            if doubled == moved {
                self.kept.keep_pipe(ingest, pending).await.map_err(SendError::Internal)?;
                fail::fail_point!("part::kept");
                if last {
                    out.offer();
                }
                out.send_doubled(moved, !last).await?;
            } else {
                // The kernel granted the second pipe fewer slots: these bytes go through memory.
                out.discard_doubled();
                let bytes = ingest.take(moved).map_err(SendError::Internal)?;
                *pending = 0;
                self.kept.keep_bytes(bytes.clone()).await.map_err(SendError::Internal)?;
                if last {
                    out.offer();
                }
                out.write(&bytes).await?;
            }
            if since_yield >= YIELD_EVERY {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
        if let Some(pipe) = pipe.take() {
            self.kept.resources().pipes.put(pipe);
        }
        Ok(())
    }
}

/// The backend's side of one attempt.
struct Outlet<'a> {
    connection: &'a mut Connection,
    stall: Duration,
    offered: &'a AtomicBool,
    resources: ReplayResources,
    /// Holds duplicates on their way out; empty between calls, or thrown away.
    pipe: Option<Pipe>,
}

impl<'a> Outlet<'a> {
    fn new(
        connection: &'a mut Connection,
        stall: Duration,
        offered: &'a AtomicBool,
        kept: &Kept,
    ) -> Self {
        Outlet { connection, stall, offered, resources: kept.resources().clone(), pipe: None }
    }

    fn offer(&self) {
        self.offered.store(true, Ordering::Release);
    }

    fn pipe(&mut self) -> Result<&Pipe, SendError> {
        match &mut self.pipe {
            Some(pipe) => Ok(pipe),
            none => Ok(none.insert(self.resources.pipes.get().map_err(SendError::Internal)?)),
        }
    }

    fn close(self) {
        if let Some(pipe) = self.pipe {
            self.resources.pipes.put(pipe);
        }
    }

    /// Throws the pipe away with whatever stands in it.
    fn discard_doubled(&mut self) {
        self.pipe = None;
    }

    /// Waits for `work`, unless the backend says something first: an answer before the end of the
    /// body is a refusal, and whoever does not look keeps sending into a closed connection.
    async fn unless_answered<T>(&self, work: impl Future<Output = T>) -> Result<T, SendError> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.connection.answer_or_closed() => Err(SendError::Answered),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.connection.send_all(bytes, self.stall).await.map_err(SendError::Backend)
    }

    async fn send_pipe(
        &mut self,
        pipe: &Pipe,
        length: usize,
        more: bool,
    ) -> Result<usize, SendError> {
        let Some(socket) = self.connection.descriptor() else {
            let bytes = pipe.take(length).map_err(SendError::Internal)?;
            return self.write(&bytes).await.map(|()| bytes.len());
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
    async fn send_doubled(&mut self, length: usize, more: bool) -> Result<(), SendError> {
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
    async fn replay(&mut self, kept: &Kept) -> Result<(), SendError> {
        for segment in kept.segments() {
            match segment {
                Segment::Bytes { bytes, .. } => self.write(bytes).await?,
                Segment::File { offset, length, .. } => {
                    let Some(file) = kept.file() else { return Err(SendError::ReplayLost) };
                    let bytes = file.read(*offset, *length).await.map_err(SendError::Internal)?;
                    self.write(&bytes).await?;
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
        Ok(())
    }
}

fn client_fault(error: BodyError) -> SendError {
    let (code, message) = match &error {
        BodyError::Incomplete | BodyError::Connection(_) => (
            ErrorCode::IncompleteBody,
            "You did not provide the number of bytes specified by the Content-Length HTTP header.",
        ),
        BodyError::Stalled => (
            ErrorCode::RequestTimeout,
            "Your socket connection to the server was not read from or written to within the timeout period.",
        ),
        BodyError::Framing(_) => {
            (ErrorCode::IncompleteBody, "The chunked transfer coding of the body is malformed.")
        }
        BodyError::Splice(_) => return SendError::Internal(io::Error::other(error)),
    };
    SendError::Client(S3Error::new(code, message))
}
