//! A body that somebody feeds in pieces: an HTTP/2 stream, or the file of a POST form. It is read,
//! never spliced.

use super::body::{BodyError, Pace, RequestBody};
use super::shared::TapConfig;
use crate::http::Framing;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Pieces that wait to be read; with those in the feeder's own hands, all that a slow backend lets
/// a client send ahead.
const PIECES: usize = 2;

/// What a feeder sends.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Failed(BodyError),
    End,
}

/// The feeding side. Dropped without [`Feeder::end`], it leaves a body that is incomplete.
#[derive(Debug)]
pub struct Feeder {
    pieces: mpsc::Sender<Piece>,
    wanted: Option<oneshot::Receiver<()>>,
}

/// Nobody reads the body any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not wanted any more")]
pub struct Unwanted;

impl Feeder {
    /// Waits until somebody asks for the first byte: until then a client that asked for `100
    /// Continue` is not to be told to send.
    pub async fn wanted(&mut self) -> Result<(), Unwanted> {
        match self.wanted.take() {
            Some(wanted) => wanted.await.map_err(|_| Unwanted),
            None => Ok(()),
        }
    }

    /// Feeds the next bytes; waits while the reader is behind.
    pub async fn feed(&self, bytes: Bytes) -> Result<(), Unwanted> {
        self.pieces.send(Piece::Data(bytes)).await.map_err(|_| Unwanted)
    }

    /// Waits until nobody reads the body any more.
    pub async fn unwanted(&self) {
        self.pieces.closed().await;
    }

    /// The body ends here, with an error.
    pub async fn fail(self, error: BodyError) {
        // A reader that is gone needs no error.
        let _ = self.pieces.send(Piece::Failed(error)).await;
    }

    /// The body is complete.
    pub async fn end(self) {
        let _ = self.pieces.send(Piece::End).await;
    }
}

/// The reading side, inside a [`RequestBody`].
#[derive(Debug)]
pub(super) struct FedBody {
    pieces: mpsc::Receiver<Piece>,
    wanted: Option<oneshot::Sender<()>>,
    framing: Framing,
    /// Bytes to come of a body of known length.
    left: Option<u64>,
    buffered: Bytes,
    done: bool,
    pace: Pace,
}

/// A body of `framing` (chunked: of unknown length) and the side that feeds it. Of a known length
/// no byte more is read.
pub fn fed_body(framing: Framing, config: &TapConfig) -> (Feeder, RequestBody) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let (want, wanted) = oneshot::channel();
    let left = match framing {
        Framing::Absent => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    let body = FedBody {
        pieces,
        wanted: Some(want),
        framing,
        left,
        buffered: Bytes::new(),
        done: left == Some(0),
        pace: Pace::new(config.progress_interval, config.progress_bytes),
    };
    (Feeder { pieces: sender, wanted: Some(wanted) }, body.into())
}

impl FedBody {
    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) async fn ready(&mut self) -> Result<(), BodyError> {
        if let Some(wanted) = self.wanted.take() {
            // The feeder may not care.
            let _ = wanted.send(());
        }
        while !self.done && self.buffered.is_empty() {
            match self.pace.wait(self.pieces.recv()).await? {
                Some(Piece::Data(bytes)) => {
                    self.pace.count(bytes.len() as u64);
                    self.buffered = bytes;
                }
                Some(Piece::End) if self.left.is_none_or(|left| left == 0) => self.done = true,
                Some(Piece::Failed(error)) => return Err(error),
                Some(Piece::End) | None => return Err(BodyError::Incomplete),
            }
        }
        Ok(())
    }

    pub(super) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, BodyError> {
        self.ready().await?;
        Ok(self.take_buffered(max))
    }

    pub(super) fn take_buffered(&mut self, max: usize) -> Option<Bytes> {
        if self.done || self.buffered.is_empty() {
            return None;
        }
        let room = self.left.map_or(max, |left| usize::try_from(left).unwrap_or(max).min(max));
        let bytes = self.buffered.split_to(room.min(self.buffered.len()));
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(bytes.len() as u64);
            self.done = *left == 0;
        }
        Some(bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn config() -> TapConfig {
        TapConfig {
            max_head: 8192,
            head_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_secs(1),
            progress_interval: Duration::from_millis(50),
            progress_bytes: 1,
            drain_bytes: 0,
            drain_time: Duration::ZERO,
        }
    }

    async fn all(body: &mut RequestBody) -> Result<Vec<u8>, BodyError> {
        let mut read = Vec::new();
        while let Some(bytes) = body.read(3).await? {
            read.extend_from_slice(&bytes);
        }
        Ok(read)
    }

    #[tokio::test]
    async fn a_body_is_what_was_fed_and_no_more_than_its_length() {
        for (framing, read) in [(Framing::Length(7), "hello w"), (Framing::Chunked, "hello world")]
        {
            let (mut feeder, mut body) = fed_body(framing, &config());
            let feeding = tokio::spawn(async move {
                feeder.wanted().await.unwrap();
                for piece in ["hello", " ", "", "world"] {
                    // Past the length nobody reads.
                    let _ = feeder.feed(Bytes::from(piece)).await;
                }
                feeder.end().await;
            });
            assert_eq!(all(&mut body).await.unwrap(), read.as_bytes());
            assert!(body.is_done() && !body.can_splice());
            drop(body);
            feeding.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_feeder_that_goes_leaves_the_body_incomplete() {
        for framing in [Framing::Length(7), Framing::Chunked] {
            let (feeder, mut body) = fed_body(framing, &config());
            feeder.feed(Bytes::from("hello")).await.unwrap();
            drop(feeder);
            assert!(matches!(all(&mut body).await, Err(BodyError::Incomplete)));
        }
        let (feeder, mut body) = fed_body(Framing::Length(7), &config());
        feeder.end().await;
        assert!(matches!(all(&mut body).await, Err(BodyError::Incomplete)));
    }

    #[tokio::test]
    async fn a_feeder_that_stalls_is_not_waited_for() {
        let (feeder, mut body) = fed_body(Framing::Chunked, &config());
        assert!(matches!(all(&mut body).await, Err(BodyError::Stalled)));
        drop(body);
        feeder.unwanted().await;
        assert_eq!(feeder.feed(Bytes::from("x")).await, Err(Unwanted));
    }

    #[tokio::test]
    async fn a_feeder_of_a_body_that_nobody_wants_learns_it() {
        let (mut feeder, body) = fed_body(Framing::Chunked, &config());
        drop(body);
        assert_eq!(feeder.wanted().await, Err(Unwanted));
    }
}
