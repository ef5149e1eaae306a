//! Why a token is not taken: what its bearer is told, and what the audit log says.

use crate::s3::error::{ErrorCode, S3Error};
use std::borrow::Cow;

/// A refusal. Whoever guesses at tokens learns no more than the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// For the client.
    pub error: S3Error,
    /// For the audit log: never holds the token or a part of its signature.
    pub reason: Cow<'static, str>,
}

impl Refused {
    fn new(code: ErrorCode, message: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Refused { error: S3Error::new(code, message), reason: reason.into() }
    }

    /// 400 InvalidToken: it is no token, or lacks what every one must have.
    pub(super) fn invalid(reason: impl Into<Cow<'static, str>>) -> Self {
        let message = "The provided token is malformed or otherwise not valid.";
        Refused::new(ErrorCode::InvalidToken, message, reason)
    }

    /// 400 ExpiredToken.
    pub(super) fn expired() -> Self {
        let reason = "the token has expired";
        Refused::new(ErrorCode::ExpiredToken, "The provided token has expired.", reason)
    }

    /// 403 AccessDenied, and no more than that.
    pub(super) fn denied(reason: impl Into<Cow<'static, str>>) -> Self {
        Refused::new(ErrorCode::AccessDenied, "Access Denied", reason)
    }

    /// 503 ServiceUnavailable: the issuer's keys are not known, so nothing can be said of the token.
    pub(super) fn undecided(reason: impl Into<Cow<'static, str>>) -> Self {
        let message =
            "The keys of the token's issuer are not known at the moment. Please try again.";
        Refused::new(ErrorCode::ServiceUnavailable, message, reason)
    }

    /// 400 InvalidArgument: two ways in at once.
    pub(super) fn twice(reason: impl Into<Cow<'static, str>>) -> Self {
        let message = "Only one auth mechanism allowed; send one token, or a signature, not both";
        Refused::new(ErrorCode::InvalidArgument, message, reason)
    }
}
