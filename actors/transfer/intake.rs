//! The client's side: a body on its way in, from which one part, or several after each other, are
//! taken. Whoever holds the intake is the only one who reads the client's socket.

use super::part::SendError;
use crate::blocks::BLOCK;
use crate::payload::{BodyVerifier, EncodeError, UnsignedTrailerEncoder};
use crate::tap::{BodyError, RequestBody};
use bytes::Bytes;
use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

/// Bytes that one read of the copy path asks for, and so the most that is hashed without a yield.
pub(super) const COPY_READ: usize = BLOCK;

/// Most pieces of a batch: what one writev(2) takes without an array that is worth a thought.
pub(super) const MAX_PIECES: usize = 64;

/// A client's body, and which way its bytes come.
#[derive(Debug)]
pub struct Intake {
    body: RequestBody,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// From the socket into a pipe.
    Splice,
    /// Through memory, verified on the way.
    Copy(Box<CopyWay>),
}

#[derive(Debug)]
struct CopyWay {
    verifier: BodyVerifier,
    /// Frames the payload again, for a backend that is to store the trailer's checksum.
    framing: Option<UnsignedTrailerEncoder>,
    /// Verified, perhaps framed, and not taken yet.
    ready: VecDeque<Bytes>,
    /// The body is complete and verified; `ready` holds the rest.
    finished: bool,
    /// Checksums that came as trailers: header name and value.
    trailers: Vec<(String, String)>,
    /// Payload bytes, without framing, that [`Intake::newly_copied`] has not told of yet.
    untold: u64,
}

impl Intake {
    /// A body whose bytes are spliced.
    pub fn splice(body: RequestBody) -> Self {
        Intake { body, way: Way::Splice }
    }

    /// A body whose bytes are read and verified, and framed again if `framing` is given.
    pub fn copy(
        body: RequestBody,
        verifier: BodyVerifier,
        framing: Option<UnsignedTrailerEncoder>,
    ) -> Self {
        let copy = CopyWay {
            verifier,
            framing,
            ready: VecDeque::new(),
            finished: false,
            trailers: Vec::new(),
            untold: 0,
        };
        Intake { body, way: Way::Copy(Box::new(copy)) }
    }

    /// Whether its bytes are spliced.
    pub fn is_spliced(&self) -> bool {
        matches!(self.way, Way::Splice)
    }

    /// Whether the body is complete, verified, and wholly taken.
    pub fn is_done(&self) -> bool {
        match &self.way {
            Way::Splice => self.body.is_done(),
            Way::Copy(copy) => copy.finished && copy.framing.is_none() && copy.ready.is_empty(),
        }
    }

    /// Verified trailer checksums; complete when the body was read to its end.
    pub fn trailers(&self) -> &[(String, String)] {
        match &self.way {
            Way::Splice => &[],
            Way::Copy(copy) => &copy.trailers,
        }
    }

    /// Payload bytes, without framing, that came through memory since this was last asked.
    pub(crate) fn newly_copied(&mut self) -> u64 {
        match &mut self.way {
            Way::Splice => 0,
            Way::Copy(copy) => std::mem::take(&mut copy.untold),
        }
    }

    /// Waits for the first byte of the body (`100 Continue` is sent to a client that asked), so
    /// that no backend connection is held for a client that sends nothing.
    pub(crate) async fn ready(&mut self) -> Result<(), SendError> {
        if matches!(&self.way, Way::Copy(copy) if !copy.ready.is_empty() || copy.finished) {
            return Ok(());
        }
        self.body.ready().await.map_err(client_fault)
    }

    /// Appends the next verified bytes of the copy path to `batch`, at most `most` (> 0): what is
    /// there after one read. Nothing: the body is complete and verified. Dropped while it waits, it has
    /// lost nothing.
    pub(crate) async fn next(
        &mut self,
        most: u64,
        batch: &mut Vec<Bytes>,
    ) -> Result<(), SendError> {
        let mut room = usize::try_from(most).unwrap_or(usize::MAX).min(COPY_READ);
        if !self.fill().await? {
            return Ok(());
        }
        let Way::Copy(copy) = &mut self.way else { return Ok(()) };
        while let Some(first) = copy.ready.front_mut().filter(|_| batch.len() < MAX_PIECES) {
            if first.len() > room {
                if room > 0 {
                    batch.push(first.split_to(room));
                }
                break;
            }
            room -= first.len();
            batch.extend(copy.ready.pop_front());
        }
        Ok(())
    }

    /// Waits until the copy path has another byte, or the body is complete and verified.
    pub(super) async fn look_ahead(&mut self) -> Result<(), SendError> {
        self.fill().await.map(|_more| ())
    }

    /// Fills `ready`. False: the body is complete, verified, and `ready` is empty.
    async fn fill(&mut self) -> Result<bool, SendError> {
        let Way::Copy(copy) = &mut self.way else { return Ok(false) };
        let internal = |error: EncodeError| SendError::Internal(io::Error::other(error));
        loop {
            if !copy.ready.is_empty() {
                return Ok(true);
            }
            while let Some(bytes) = copy.verifier.pop() {
                copy.untold += bytes.len() as u64;
                match &mut copy.framing {
                    Some(framing) => copy.ready.extend(framing.encode(bytes).map_err(internal)?),
                    None => copy.ready.push_back(bytes),
                }
            }
            if !copy.ready.is_empty() {
                return Ok(true);
            }
            if copy.finished {
                // The last chunk and the trailers: known only now.
                let Some(framing) = copy.framing.take() else { return Ok(false) };
                copy.ready.push_back(framing.finish(&copy.trailers).map_err(internal)?);
                continue;
            }
            match self.body.read(COPY_READ).await.map_err(client_fault)? {
                Some(bytes) => {
                    copy.verifier.push(bytes).map_err(SendError::Client)?;
                    // Of a chunked body one read may bring many pieces.
                    while !self.body.is_done()
                        && let Some(bytes) =
                            self.body.take_buffered(COPY_READ).map_err(client_fault)?
                    {
                        copy.verifier.push(bytes).map_err(SendError::Client)?;
                    }
                }
                None => {
                    copy.trailers = copy.verifier.finish().map_err(SendError::Client)?;
                    copy.finished = true;
                }
            }
        }
    }

    /// Bytes of the splice path that stand in memory already, at most `most` (they came along with
    /// the head); None when there are none, which is not the end.
    pub(crate) fn take_buffered(&mut self, most: u64) -> Result<Option<Bytes>, SendError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(COPY_READ);
        self.body.take_buffered(most).map_err(client_fault)
    }

    /// Reads bytes of the splice path into memory, at most `most` (> 0), for want of a pipe; None:
    /// the body is complete.
    pub(crate) async fn read(&mut self, most: u64) -> Result<Option<Bytes>, SendError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(COPY_READ);
        self.body.read(most).await.map_err(client_fault)
    }

    /// Splices at most `most` bytes into a pipe that must be empty. Returns the bytes moved, > 0.
    pub(super) async fn splice_into(
        &mut self,
        pipe: BorrowedFd<'_>,
        most: usize,
    ) -> Result<usize, SendError> {
        self.body.splice(pipe, most).await.map_err(client_fault)
    }
}

fn client_fault(error: BodyError) -> SendError {
    match error {
        BodyError::Splice(_) => SendError::Internal(io::Error::other(error)),
        error => SendError::Client(error.into()),
    }
}
