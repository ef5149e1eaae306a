//! An answer's body of which the end is not known yet: white space flows until it is.

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, interval_at};

/// How a body goes on after its beginning.
#[derive(Debug)]
pub struct Later {
    /// Its end: not empty. When its sender dies the body is cut off, which clients notice.
    pub end: oneshot::Receiver<Vec<u8>>,
    /// The time between one space and the next.
    pub every: Duration,
}

/// The body: its beginning, then a space every so often, then its end.
pub(super) struct LaterBody<G> {
    beginning: Option<Bytes>,
    end: Option<oneshot::Receiver<Vec<u8>>>,
    spaces: Interval,
    _busy: G,
}

impl<G> LaterBody<G> {
    /// A body that begins with these bytes. `busy` is held until the body has ended.
    pub(super) fn new(beginning: Vec<u8>, later: Later, busy: G) -> Self {
        LaterBody {
            beginning: Some(beginning.into()),
            end: Some(later.end),
            spaces: interval_at(Instant::now() + later.every, later.every),
            _busy: busy,
        }
    }
}

impl<G: Unpin> MessageBody for LaterBody<G> {
    type Error = oneshot::error::RecvError;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    /// actix-http flushes whenever this is pending: each space is on the wire at once.
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(beginning) = self.beginning.take() {
            return Poll::Ready(Some(Ok(beginning)));
        }
        let Some(end) = self.end.as_mut() else { return Poll::Ready(None) };
        if let Poll::Ready(end) = Pin::new(end).poll(cx) {
            self.end = None;
            return Poll::Ready(Some(end.map(Bytes::from)));
        }
        ready!(self.spaces.poll_tick(cx));
        Poll::Ready(Some(Ok(Bytes::from_static(b" "))))
    }
}
