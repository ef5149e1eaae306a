//! An answer's body of which the end is not known yet: white space flows until it is, or line after line.

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, interval_at};

/// How a body goes on after its beginning.
#[derive(Debug)]
pub enum Later {
    /// With one piece, and white space until it is there.
    End {
        /// Its end: not empty. When its sender dies the body is cut off, which clients notice.
        end: oneshot::Receiver<Vec<u8>>,
        /// The time between one space and the next.
        every: Duration,
    },
    /// With whole lines, as they come, and of each whether it is the last. When their sender dies before that
    /// the body is cut off.
    Lines(mpsc::Receiver<(Vec<u8>, bool)>),
}

/// The body: its beginning, then what comes later.
pub(super) struct LaterBody<G> {
    beginning: Option<Bytes>,
    rest: Rest,
    _busy: G,
}

enum Rest {
    End(oneshot::Receiver<Vec<u8>>, Interval),
    Lines(mpsc::Receiver<(Vec<u8>, bool)>),
    Ended,
}

impl<G> LaterBody<G> {
    /// A body that begins with these bytes. `busy` is held until the body has ended.
    pub(super) fn new(beginning: Vec<u8>, later: Later, busy: G) -> Self {
        let rest = match later {
            Later::End { end, every } => Rest::End(end, interval_at(Instant::now() + every, every)),
            Later::Lines(lines) => Rest::Lines(lines),
        };
        let beginning = Some(beginning).filter(|bytes| !bytes.is_empty()).map(Bytes::from);
        LaterBody { beginning, rest, _busy: busy }
    }
}

impl<G: Unpin> MessageBody for LaterBody<G> {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    /// actix-http flushes whenever this is pending: each space or line is on the wire at once.
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(beginning) = self.beginning.take() {
            return Poll::Ready(Some(Ok(beginning)));
        }
        match &mut self.rest {
            Rest::Ended => Poll::Ready(None),
            Rest::End(end, spaces) => {
                if let Poll::Ready(end) = Pin::new(end).poll(cx) {
                    self.rest = Rest::Ended;
                    return Poll::Ready(Some(end.map(Bytes::from).map_err(io::Error::other)));
                }
                ready!(spaces.poll_tick(cx));
                Poll::Ready(Some(Ok(Bytes::from_static(b" "))))
            }
            Rest::Lines(lines) => {
                let line = match ready!(lines.poll_recv(cx)) {
                    Some((line, false)) => return Poll::Ready(Some(Ok(line.into()))),
                    Some((line, true)) => Ok(line.into()),
                    None => Err(io::Error::other("the last line is missing")),
                };
                self.rest = Rest::Ended;
                Poll::Ready(Some(line))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// "Without the summary the answer is not whole": its end is then no end of a body.
    #[tokio::test]
    async fn lines_without_their_last_are_cut_off() {
        for last in [true, false] {
            let (to, lines) = mpsc::channel(2);
            let mut body = LaterBody::new(Vec::new(), Later::Lines(lines), ());
            to.try_send((b"1".to_vec(), false)).unwrap();
            to.try_send((b"2".to_vec(), last)).unwrap();
            drop(to);
            let mut next =
                async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await;
            assert_eq!(next().await.unwrap().unwrap(), "1");
            assert_eq!(next().await.unwrap().unwrap(), "2");
            let end = next().await;
            assert_eq!(end.is_none(), last, "{end:?}");
            assert!(end.is_none_or(|end| end.is_err()));
            assert!(next().await.is_none());
        }
    }
}
