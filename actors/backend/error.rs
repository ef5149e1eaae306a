//! How an exchange with the backend fails, and how far it had come: a request of which the backend
//! cannot have everything is safe to send again, one that it may have carried out is not.

use super::response::ResponseError;
use super::tls::Unusable;
use crate::s3::error::{Cause, Fault};
use crate::sigv4::NoKeys;
use std::fmt;
use std::io;

/// How far an exchange had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Name resolution and TCP: nothing was sent.
    Connect,
    /// The request was not wholly sent.
    Send,
    /// The request was sent, and nothing of its final answer arrived (interim answers don't count).
    FirstByte,
    /// Some of the answer arrived.
    Answer,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Connect => "connecting",
            Stage::Send => "sending the request",
            Stage::FirstByte => "waiting for the answer",
            Stage::Answer => "reading the answer",
        })
    }
}

/// What every [`BackendError`] begins with.
const PREFIX: &str = "backend: ";

/// A failed exchange. The backend is at fault in every case ([`BackendError::fault`]).
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// No address of the endpoint took the connection; of several reasons, the last.
    #[error("backend: no connection: {0}")]
    Connect(#[source] io::Error),
    /// A step took longer than it may.
    #[error("backend: timed out {stage}")]
    Timeout {
        /// How far the exchange had come.
        stage: Stage,
    },
    /// The socket failed; most often a reset.
    #[error("backend: the connection failed {stage}: {source}")]
    Io {
        /// How far the exchange had come.
        stage: Stage,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The backend closed: before it answered, in the middle of its answer or, with
    /// [`Stage::Send`], it closed or answered before it had the whole request.
    #[error("backend: closed early, {stage}")]
    Closed {
        /// How far the exchange had come.
        stage: Stage,
    },
    /// There is nothing to sign with: nothing was sent.
    #[error("backend: {0}")]
    NoKeys(#[from] NoKeys),
    /// What came is not an acceptable HTTP/1.1 answer.
    #[error("backend: unusable answer: {0}")]
    Malformed(#[from] ResponseError),
}

impl BackendError {
    /// A bucket without the endpoint that was asked for.
    pub fn no_endpoint() -> Self {
        BackendError::Connect(io::Error::new(io::ErrorKind::NotFound, "no such endpoint"))
    }

    /// The backend took no byte of the request for longer than it may.
    pub fn stalled() -> Self {
        BackendError::Timeout { stage: Stage::Send }
    }

    /// The socket failed under the request.
    pub fn sending(source: io::Error) -> Self {
        BackendError::Io { stage: Stage::Send, source }
    }

    /// The backend closed or answered before it had the whole request.
    pub fn closed_early() -> Self {
        BackendError::Closed { stage: Stage::Send }
    }

    /// How far the exchange had come.
    pub fn stage(&self) -> Stage {
        match self {
            BackendError::Connect(_) | BackendError::NoKeys(_) => Stage::Connect,
            BackendError::Timeout { stage }
            | BackendError::Io { stage, .. }
            | BackendError::Closed { stage } => *stage,
            BackendError::Malformed(_) => Stage::Answer,
        }
    }

    /// Whether anything of the final answer had arrived.
    pub fn answer_began(&self) -> bool {
        self.stage() == Stage::Answer
    }

    /// The same in words for whoever runs this program, and whether the next try fares no better.
    pub fn cause(&self) -> Cause {
        let text = self.to_string();
        let text = text.strip_prefix(PREFIX).unwrap_or(&text);
        match self {
            BackendError::Connect(source)
                if source.get_ref().is_some_and(|inner| inner.is::<Unusable>()) =>
            {
                Cause::lasting(text)
            }
            _ => Cause::passing(text),
        }
    }

    /// Whose fault it is: always the backend's.
    pub fn fault(&self) -> Fault {
        Fault::Backend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Nothing of the answer arrived" is told apart from a broken answer.
    #[test]
    fn only_a_begun_answer_began() {
        assert!(BackendError::from(ResponseError::Malformed).answer_began());
        assert!(BackendError::Closed { stage: Stage::Answer }.answer_began());
        assert!(!BackendError::Closed { stage: Stage::FirstByte }.answer_began());
        for error in [
            BackendError::no_endpoint(),
            BackendError::stalled(),
            BackendError::closed_early(),
            BackendError::sending(io::ErrorKind::BrokenPipe.into()),
        ] {
            assert!(!error.answer_began(), "{error}");
            assert_eq!(error.fault(), Fault::Backend);
        }
    }

    #[test]
    fn a_cause_says_what_happened_and_whether_it_stays() {
        let refused = BackendError::Connect(io::ErrorKind::ConnectionRefused.into()).cause();
        assert_eq!(refused.text(), "no connection: connection refused");
        assert!(!refused.is_lasting());
        let unusable = Unusable("TLS: the backend's certificate has expired".to_owned());
        let unusable = io::Error::new(io::ErrorKind::InvalidData, unusable);
        let unusable = BackendError::Connect(unusable).cause();
        assert_eq!(unusable.text(), "no connection: TLS: the backend's certificate has expired");
        assert!(unusable.is_lasting());
        for error in [
            BackendError::Timeout { stage: Stage::Connect },
            BackendError::from(ResponseError::Malformed),
            BackendError::closed_early(),
            BackendError::stalled(),
        ] {
            let cause = error.cause();
            assert!(!cause.text().contains(PREFIX) && !cause.is_lasting(), "{cause:?}");
        }
    }
}
