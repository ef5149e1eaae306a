//! A request's body, wherever its bytes come from.

use super::chunked::ChunkedError;
use super::fed::FedBody;
use super::wire::WireBody;
use crate::http::Framing;
use crate::s3::error::{ErrorCode, S3Error};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Why a body did not come whole. Always the client's doing.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client closed its side with this many bytes to come (None: chunked).
    #[error("the client closed the connection before the body was complete")]
    Incomplete,
    /// Fewer than `progress_bytes` in `progress_interval`.
    #[error("the body came too slowly")]
    Stalled,
    /// The connection broke.
    #[error("the client's connection failed: {0}")]
    Connection(#[source] io::Error),
    /// The chunked framing is wrong.
    #[error("the chunked body is malformed: {0}")]
    Framing(#[from] ChunkedError),
    /// splice(2) failed for a reason that is not the connection's.
    #[error("splice failed: {0}")]
    Splice(#[source] io::Error),
    /// What feeds the body finds it wrong, and this is what its client is told.
    #[error("the body is refused: {0}")]
    Refused(#[source] S3Error),
}

impl From<BodyError> for S3Error {
    /// What the client is told, if it still listens.
    fn from(error: BodyError) -> S3Error {
        let (code, message) = match error {
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
            BodyError::Splice(_) => {
                (ErrorCode::InternalError, "We encountered an internal error. Please try again.")
            }
            BodyError::Refused(error) => return error,
        };
        S3Error::new(code, message)
    }
}

/// One request's body. Dropped before its end, it ends what brings it (an HTTP/1 connection, an
/// HTTP/2 stream): the unread rest can only be drained, never parsed.
#[derive(Debug)]
pub struct RequestBody(Source);

#[derive(Debug)]
enum Source {
    Wire(WireBody),
    Fed(FedBody),
}

impl From<WireBody> for RequestBody {
    fn from(body: WireBody) -> Self {
        RequestBody(Source::Wire(body))
    }
}

impl From<FedBody> for RequestBody {
    fn from(body: FedBody) -> Self {
        RequestBody(Source::Fed(body))
    }
}

impl RequestBody {
    /// How the body was announced.
    pub fn framing(&self) -> Framing {
        match &self.0 {
            Source::Wire(body) => body.framing(),
            Source::Fed(body) => body.framing(),
        }
    }

    /// True when every byte of the body has been taken (at once for an absent or empty one).
    pub fn is_done(&self) -> bool {
        match &self.0 {
            Source::Wire(body) => body.is_done(),
            Source::Fed(body) => body.is_done(),
        }
    }

    /// Whether [`RequestBody::splice`] may be used: only a body of known length on a plain socket.
    pub fn can_splice(&self) -> bool {
        match &self.0 {
            Source::Wire(body) => body.can_splice(),
            Source::Fed(_) => false,
        }
    }

    /// Waits until at least one byte of the body can be taken without waiting, or the body is done.
    /// Tells a client that waits for `100 Continue` to send.
    pub async fn ready(&mut self) -> Result<(), BodyError> {
        match &mut self.0 {
            Source::Wire(body) => body.ready().await,
            Source::Fed(body) => body.ready().await,
        }
    }

    /// The next bytes of the body, at most `max` (> 0); None when it is done.
    pub async fn read(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        match &mut self.0 {
            Source::Wire(body) => body.read(max).await,
            Source::Fed(body) => body.read(max).await,
        }
    }

    /// Bytes that are here already and were not taken yet; None when there are none, which is not
    /// the end.
    pub fn take_buffered(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        match &mut self.0 {
            Source::Wire(body) => body.take_buffered(max),
            Source::Fed(body) => Ok(body.take_buffered(max)),
        }
    }

    /// Splices at most `max` bytes from the socket into a pipe, which must be empty: EAGAIN then
    /// means that the socket is (splice(2) does not say which side it would block on).
    ///
    /// Call it only when [`RequestBody::can_splice`], and [`RequestBody::take_buffered`] returned
    /// None. Returns the bytes moved, > 0.
    pub async fn splice(&mut self, pipe: BorrowedFd<'_>, max: usize) -> Result<usize, BodyError> {
        match &mut self.0 {
            Source::Wire(body) => body.splice(pipe, max).await,
            Source::Fed(_) => Err(BodyError::Splice(io::ErrorKind::Unsupported.into())),
        }
    }
}

/// How slow a body may be: a time limit on each `enough` bytes, of the time spent waiting for the
/// client. Time in which nobody reads (a slow backend) does not count.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    enough: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(interval: Duration, enough: u64) -> Self {
        Pace { interval, enough, waited: Duration::ZERO, bytes: 0 }
    }

    /// Bytes came.
    pub(super) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= self.enough {
            self.bytes = 0;
            self.waited = Duration::ZERO;
        }
    }

    /// Waits for the client, no longer than its pace allows.
    pub(super) async fn wait<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, BodyError> {
        let left = self.interval.saturating_sub(self.waited);
        let started = Instant::now();
        let result = timeout(left, wait).await.map_err(|_| BodyError::Stalled);
        self.waited += started.elapsed();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S3: 400 RequestTimeout, 400 IncompleteBody; a refusal is what it is.
    #[test]
    fn a_body_that_fails_has_its_code() {
        let code = |error: BodyError| S3Error::from(error).code;
        assert_eq!(code(BodyError::Stalled), "RequestTimeout");
        assert_eq!(code(BodyError::Incomplete), "IncompleteBody");
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(code(BodyError::Connection(reset())), "IncompleteBody");
        assert_eq!(code(BodyError::Splice(reset())), "InternalError");
        let refused = S3Error::new(ErrorCode::EntityTooLarge, "m");
        assert_eq!(S3Error::from(BodyError::Refused(refused.clone())), refused);
    }
}
