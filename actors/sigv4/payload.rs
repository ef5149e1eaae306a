//! How a payload is authenticated, and which ways go with which place of the credentials.

use super::canonical::unhex;
use crate::http::RequestHead;
use crate::identity::Means;
use crate::s3::error::{ErrorCode, S3Error};

/// Where a request's credentials are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialPlace {
    /// The Authorization header.
    Header,
    /// The query of a presigned URL.
    Presigned,
    /// The policy of a POST form.
    PostPolicy,
    /// A JSON Web Token, or the client's certificate: they say nothing of the body.
    Bearer,
    /// Nowhere; only where `auth.enabled` is false.
    Anonymous,
}

impl CredentialPlace {
    /// How a principal is known whose SigV4 credentials stand there.
    pub(super) fn means(self) -> Means {
        match self {
            CredentialPlace::Header => Means::Header,
            CredentialPlace::Presigned => Means::Presigned,
            CredentialPlace::PostPolicy => Means::PostPolicy,
            CredentialPlace::Bearer => Means::Jwt,
            CredentialPlace::Anonymous => Means::Anonymous,
        }
    }
}

/// What x-amz-content-sha256 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadMode {
    /// The payload's SHA-256.
    Hash([u8; 32]),
    /// UNSIGNED-PAYLOAD.
    Unsigned,
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD.
    SignedChunks,
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER.
    SignedChunksTrailer,
    /// STREAMING-UNSIGNED-PAYLOAD-TRAILER.
    UnsignedTrailer,
    /// Nothing.
    Absent,
}

impl PayloadMode {
    /// Reads the header's value; None: there is none.
    ///
    /// Errors: 400 InvalidArgument, InvalidRequest (SigV4A).
    pub fn parse(value: Option<&str>) -> Result<Self, S3Error> {
        match value {
            None => Ok(PayloadMode::Absent),
            Some("UNSIGNED-PAYLOAD") => Ok(PayloadMode::Unsigned),
            Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD") => Ok(PayloadMode::SignedChunks),
            Some("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER") => Ok(PayloadMode::SignedChunksTrailer),
            Some("STREAMING-UNSIGNED-PAYLOAD-TRAILER") => Ok(PayloadMode::UnsignedTrailer),
            Some(text) if text.starts_with("STREAMING-AWS4-ECDSA-") => {
                Err(S3Error::new(ErrorCode::InvalidRequest, "SigV4A is not supported."))
            }
            Some(text) => unhex(text).map(PayloadMode::Hash).ok_or_else(|| {
                let message = "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD, \
                               STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER, STREAMING-UNSIGNED-PAYLOAD-TRAILER, \
                               or a valid sha256 value.";
                S3Error::new(ErrorCode::InvalidArgument, message)
            }),
        }
    }

    /// Whether the body is aws-chunked.
    pub fn is_streaming(&self) -> bool {
        match self {
            PayloadMode::SignedChunks
            | PayloadMode::SignedChunksTrailer
            | PayloadMode::UnsignedTrailer => true,
            PayloadMode::Hash(_) | PayloadMode::Unsigned | PayloadMode::Absent => false,
        }
    }

    /// Whether this way goes with that place: the one table, without a wildcard.
    ///
    /// Errors: 400 MissingSecurityHeader, InvalidRequest.
    pub fn allowed_with(&self, place: CredentialPlace) -> Result<(), S3Error> {
        use CredentialPlace::*;
        use PayloadMode::*;
        match (place, self) {
            (Header, Hash(_) | Unsigned | SignedChunks | SignedChunksTrailer | UnsignedTrailer) => {
                Ok(())
            }
            (Header, Absent) => Err(S3Error::new(
                ErrorCode::MissingSecurityHeader,
                "Your request was missing a required header: x-amz-content-sha256",
            )),
            (Presigned, Absent | Unsigned | Hash(_)) => Ok(()),
            (Presigned, SignedChunks | SignedChunksTrailer | UnsignedTrailer) => Err(forbidden()),
            (PostPolicy, Absent) => Ok(()),
            (
                PostPolicy,
                Hash(_) | Unsigned | SignedChunks | SignedChunksTrailer | UnsignedTrailer,
            ) => Err(forbidden()),
            (Bearer | Anonymous, Absent | Hash(_) | Unsigned | UnsignedTrailer) => Ok(()),
            (Bearer | Anonymous, SignedChunks | SignedChunksTrailer) => Err(forbidden()),
        }
    }
}

fn forbidden() -> S3Error {
    let message =
        "This value of x-amz-content-sha256 does not go with this kind of authentication.";
    S3Error::new(ErrorCode::InvalidRequest, message)
}

/// The payload mode of a request that nobody signed ([`CredentialPlace::Bearer`],
/// [`CredentialPlace::Anonymous`]), through the same table.
///
/// Errors: 400 InvalidArgument, InvalidRequest.
pub fn payload_of_unsigned(
    head: &RequestHead,
    place: CredentialPlace,
) -> Result<PayloadMode, S3Error> {
    let mode = PayloadMode::parse(head.header("x-amz-content-sha256"))?;
    mode.allowed_with(place)?;
    Ok(mode)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// security.md, "The one rule": every cell has a test.
    #[test]
    fn every_cell_of_the_table() {
        use CredentialPlace::*;
        let modes = [
            PayloadMode::Hash([0; 32]),
            PayloadMode::Unsigned,
            PayloadMode::SignedChunks,
            PayloadMode::SignedChunksTrailer,
            PayloadMode::UnsignedTrailer,
            PayloadMode::Absent,
        ];
        let (ok, bad, missing) = ("", "InvalidRequest", "MissingSecurityHeader");
        for (place, row) in [
            (Header, [ok, ok, ok, ok, ok, missing]),
            (Presigned, [ok, ok, bad, bad, bad, ok]),
            (PostPolicy, [bad, bad, bad, bad, bad, ok]),
            (Bearer, [ok, ok, bad, bad, ok, ok]),
            (Anonymous, [ok, ok, bad, bad, ok, ok]),
        ] {
            for (mode, expected) in modes.iter().zip(row) {
                let code = mode.allowed_with(place).map_or_else(|error| error.code, |()| "".into());
                assert_eq!(code, expected, "{place:?} × {mode:?}");
            }
        }
    }

    #[test]
    fn values_are_read_exactly() {
        assert_eq!(PayloadMode::parse(None).unwrap(), PayloadMode::Absent);
        assert_eq!(
            PayloadMode::parse(Some(&"0f".repeat(32))).unwrap(),
            PayloadMode::Hash([15; 32])
        );
        for (text, code) in [
            ("unsigned-payload", "InvalidArgument"),
            ("", "InvalidArgument"),
            ("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "InvalidRequest"),
        ] {
            assert_eq!(PayloadMode::parse(Some(text)).unwrap_err().code, code);
        }
    }
}
