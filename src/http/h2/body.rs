//! Bodies of HTTP/2: a request's is fed to its reader, an answer's is shown to hyper.

use super::super::later::LaterBody;
use super::Pulse;
use actix_web::body::MessageBody as _;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use mizuchi_actors::tap::{BodyError, Feeder, TapConfig};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::timeout;

/// Frames smaller than this are copied: each would keep the buffer alive that it came in, for as long
/// as it is kept for replay.
const SMALL: usize = 4 * 1024;

/// The buffer that they are copied to.
const GATHER: usize = 16 * 1024;

/// Feeds a request's body to its reader, at the reader's speed: what is not taken keeps the client's
/// window closed. When the reader goes before the end, some more is taken and dropped; then the stream
/// is reset, and the client knows that it need not send the rest (RFC 9113, 8.1).
pub(super) async fn pump(
    mut incoming: Incoming,
    feeder: Feeder,
    pulse: Rc<Pulse>,
    config: Arc<TapConfig>,
) {
    if !feed(&mut incoming, feeder, &pulse).await {
        // Its own limit is the time.
        let _ = timeout(config.drain_time, drain(&mut incoming, config.drain_bytes)).await;
    }
}

/// Some clients lose the answer when the reset arrives while they send (curl 7.88): they
/// get the same time as on a connection of HTTP/1.
async fn drain(incoming: &mut Incoming, most: u64) {
    let mut drained = 0;
    while drained < most
        && let Some(Ok(frame)) = incoming.frame().await
    {
        drained += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}

/// False: the reader has gone, and the body has not ended.
async fn feed(incoming: &mut Incoming, mut feeder: Feeder, pulse: &Pulse) -> bool {
    if feeder.wanted().await.is_err() {
        return false;
    }
    let mut gathered = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = incoming.frame() => frame,
            () = feeder.unwanted() => return false,
        };
        pulse.moved();
        match frame {
            None => {
                feeder.end().await;
                return true;
            }
            Some(Err(error)) => {
                feeder.fail(BodyError::Connection(io::Error::other(error))).await;
                return true;
            }
            Some(Ok(frame)) => {
                // Trailers say nothing: those of S3 are in aws-chunked.
                let Ok(mut data) = frame.into_data() else { continue };
                if data.is_empty() {
                    continue;
                }
                if data.len() < SMALL {
                    if gathered.capacity() < data.len() {
                        gathered = BytesMut::with_capacity(GATHER);
                    }
                    gathered.extend_from_slice(&data);
                    data = gathered.split().freeze();
                }
                if feeder.feed(data).await.is_err() {
                    return false;
                }
            }
        }
    }
}

/// An answer's body.
pub(super) struct AnswerBody {
    kind: Kind,
    pulse: Rc<Pulse>,
}

enum Kind {
    Whole(Bytes),
    Later(LaterBody<()>),
}

impl AnswerBody {
    /// One that is there.
    pub(super) fn whole(body: Vec<u8>, pulse: &Rc<Pulse>) -> Self {
        AnswerBody { kind: Kind::Whole(body.into()), pulse: Rc::clone(pulse) }
    }

    /// One whose end is to come.
    pub(super) fn later(body: LaterBody<()>, pulse: &Rc<Pulse>) -> Self {
        AnswerBody { kind: Kind::Later(body), pulse: Rc::clone(pulse) }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let AnswerBody { kind, pulse } = self.get_mut();
        let next = match kind {
            Kind::Whole(body) if body.is_empty() => Poll::Ready(None),
            Kind::Whole(body) => Poll::Ready(Some(Ok(std::mem::take(body)))),
            Kind::Later(body) => Pin::new(body).poll_next(cx),
        };
        if next.is_ready() {
            pulse.moved();
        }
        next.map(|next| next.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, Kind::Whole(body) if body.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(body) => SizeHint::with_exact(body.len() as u64),
            Kind::Later(_) => SizeHint::default(),
        }
    }
}
