//! The one error table: every S3 error code the gateway answers with, its status, whose fault it
//! is, and whether a retry helps.
//!
//! Codes and statuses are those of "Error responses" in the Amazon S3 API Reference
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>). An error that the
//! backend itself answered passes through with its own code and status ([`S3Error::from_backend`]).

use std::borrow::Cow;
use std::fmt;

/// Whose fault an error is: decides whether anyone but the client could mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The request is wrong; the same bytes will be refused again.
    Client,
    /// The S3 backend refused, failed or was not reached.
    Backend,
    /// The gateway itself: overload, shutdown or a bug.
    Gateway,
}

impl Fault {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Client => "client",
            Fault::Backend => "backend",
            Fault::Gateway => "gateway",
        }
    }
}

macro_rules! error_table {
    ($($(#[$doc:meta])* $name:ident, $status:literal, $fault:ident, $retry:literal;)*) => {
        /// An S3 error code. The name is the `<Code>` that the client reads.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }

        impl ErrorCode {
            /// Every code, for the tests and the documentation.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The `<Code>` text.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => stringify!($name),)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(ErrorCode::$name => $status,)* }
            }

            /// Whose fault it is.
            pub fn fault(self) -> Fault {
                match self { $(ErrorCode::$name => Fault::$fault,)* }
            }

            /// Whether the same request, sent again, may succeed.
            pub fn retryable(self) -> bool {
                match self { $(ErrorCode::$name => $retry,)* }
            }
        }
    };
}

error_table! {
    /// No permission; also the answer to an unsigned `x-amz-*` header.
    AccessDenied, 403, Client, false;
    /// The bucket's CORS rules do not allow a preflight request.
    AccessForbidden, 403, Client, false;
    /// The `Authorization` header does not parse, or names another region, service or date.
    AuthorizationHeaderMalformed, 400, Client, false;
    /// A presigned URL's parameters are missing or malformed.
    AuthorizationQueryParametersError, 400, Client, false;
    /// Content-MD5 or checksum differs from what was received.
    BadDigest, 400, Client, false;
    /// A preflight request lacks what it must have.
    BadRequest, 400, Client, false;
    /// A concurrent conditional request won.
    ConditionalRequestConflict, 409, Client, true;
    /// The object or the part is larger than allowed.
    EntityTooLarge, 400, Client, false;
    /// A part that is not the last is under 5 MiB.
    EntityTooSmall, 400, Client, false;
    /// An `Expect` other than 100-continue.
    ExpectationFailed, 417, Client, false;
    /// Temporary credentials or a token have expired.
    ExpiredToken, 400, Client, false;
    /// Fewer bytes came than were announced.
    IncompleteBody, 400, Client, false;
    /// An Idempotency-Key was used before, for another content.
    IdempotencyKeyReused, 422, Client, false;
    /// A bug or an unusable backend answer.
    InternalError, 500, Gateway, true;
    /// The access key is not known here.
    InvalidAccessKeyId, 403, Client, false;
    /// An argument is out of bounds or given twice.
    InvalidArgument, 400, Client, false;
    /// The bucket's name breaks the naming rules.
    InvalidBucketName, 400, Client, false;
    /// A signed chunk that is not the last is under 8 KiB, or its size line does not parse.
    InvalidChunkSizeError, 400, Client, false;
    /// Content-MD5 or a checksum header is not well-formed.
    InvalidDigest, 400, Client, false;
    /// A part of the list is not there or its ETag differs.
    InvalidPart, 400, Client, false;
    /// The list of parts is not ascending.
    InvalidPartOrder, 400, Client, false;
    /// A POST form's policy is not base64, not JSON, or not a policy.
    InvalidPolicyDocument, 400, Client, false;
    /// The request is not one that S3 defines.
    InvalidRequest, 400, Client, false;
    /// The security token is malformed or not ours.
    InvalidToken, 400, Client, false;
    /// The request target does not parse.
    InvalidURI, 400, Client, false;
    /// The key is longer than 1,024 bytes.
    KeyTooLongError, 400, Client, false;
    /// A POST form's body is not well-formed multipart/form-data.
    MalformedPOSTRequest, 400, Client, false;
    /// The XML does not parse or breaks a bound.
    MalformedXML, 400, Client, false;
    /// A trailer does not parse.
    MalformedTrailerError, 400, Client, false;
    /// An XML body over its bound.
    MaxMessageLengthExceeded, 400, Client, false;
    /// What comes before the file of a POST form is over 20 KiB.
    MaxPostPreDataLengthExceededError, 400, Client, false;
    /// User metadata over 2 KiB.
    MetadataTooLarge, 400, Client, false;
    /// The resource exists, but not for this method.
    MethodNotAllowed, 405, Client, false;
    /// No length was announced.
    MissingContentLength, 411, Client, false;
    /// A body was needed.
    MissingRequestBodyError, 400, Client, false;
    /// A required header is missing.
    MissingSecurityHeader, 400, Client, false;
    /// The bucket is not served here.
    NoSuchBucket, 404, Client, false;
    /// The key is not there.
    NoSuchKey, 404, Client, false;
    /// The multipart upload is not known, or not the caller's.
    NoSuchUpload, 404, Client, false;
    /// S3 has it, this gateway by design does not.
    NotImplemented, 501, Client, false;
    /// Another operation on the resource is in progress.
    OperationAborted, 409, Client, true;
    /// A condition did not hold.
    PreconditionFailed, 412, Client, false;
    /// The head is larger than `server.max_head`.
    RequestHeaderSectionTooLarge, 400, Client, false;
    /// The client's clock is off by more than allowed.
    RequestTimeTooSkewed, 403, Client, false;
    /// The body (or the head) came too slowly. 400, not 408: S3's own choice.
    RequestTimeout, 400, Client, true;
    /// Draining, or no tree to serve the request.
    ServiceUnavailable, 503, Gateway, true;
    /// The signature is wrong.
    SignatureDoesNotMatch, 403, Client, false;
    /// Over a limit: SDKs back off and retry.
    SlowDown, 503, Gateway, true;
    /// A body came where none belongs.
    UnexpectedContent, 400, Client, false;
    /// The body's SHA-256 is not the one that was signed.
    XAmzContentSHA256Mismatch, 400, Client, false;
}

/// Bytes of a cause: a certificate may name a thousand hosts.
const MAX_CAUSE: usize = 500;

/// What is behind an error, in words for whoever runs this program: it may name hosts and files of
/// theirs, so nothing that is sent to a client holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    text: Box<str>,
    lasting: bool,
}

impl Cause {
    /// What may be over at the next try. Of a long text the beginning.
    pub fn passing(text: &str) -> Self {
        Cause { text: Cause::bounded(text), lasting: false }
    }

    /// What stays until somebody mends it (a certificate that is not trusted).
    pub fn lasting(text: &str) -> Self {
        Cause { text: Cause::bounded(text), lasting: true }
    }

    fn bounded(text: &str) -> Box<str> {
        let text = text.get(..text.floor_char_boundary(MAX_CAUSE)).unwrap_or_default();
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// The words, on one line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether trying again is of no use.
    pub fn is_lasting(&self) -> bool {
        self.lasting
    }
}

/// An error as the client will read it. [`S3Error::cause`] is the one thing in it that no client
/// reads: neither `Display` nor a document has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Error {
    /// HTTP status, 400..=599 (or a 3xx that the backend answered).
    pub status: u16,
    /// `<Code>`.
    pub code: Cow<'static, str>,
    /// `<Message>`: says what to do next; never holds a secret.
    pub message: Cow<'static, str>,
    /// Whose fault it is.
    pub fault: Fault,
    /// Whether the same request, sent again, may succeed.
    pub retryable: bool,
    /// What is behind it, where that is known: never for a client.
    pub cause: Option<Box<Cause>>,
}

impl S3Error {
    /// An error from the table.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        S3Error {
            status: code.status(),
            code: Cow::Borrowed(code.as_str()),
            message: message.into(),
            fault: code.fault(),
            retryable: code.retryable(),
            cause: None,
        }
    }

    /// An error that the backend answered: its own status, code and message pass through.
    pub fn from_backend(status: u16, code: String, message: String) -> Self {
        S3Error {
            status,
            code: Cow::Owned(code),
            message: Cow::Owned(message),
            fault: if status < 500 { Fault::Client } else { Fault::Backend },
            retryable: status >= 500,
            cause: None,
        }
    }

    /// The code as a metric label: a backend may answer any code, a label must not be any text.
    pub fn metric_label(&self) -> &'static str {
        ErrorCode::ALL
            .iter()
            .map(|code| code.as_str())
            .find(|code| *code == self.code)
            .unwrap_or("other")
    }

    /// The same error with another party at fault (a SlowDown caused by the backend, say).
    #[must_use]
    pub fn blamed_on(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    /// The same error with what is behind it; None leaves it as it is.
    #[must_use]
    pub fn because(mut self, cause: Option<Cause>) -> Self {
        self.cause = cause.map(Box::new).or(self.cause);
        self
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for S3Error {}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_error_status() {
        for code in ErrorCode::ALL {
            assert!((400..=599).contains(&code.status()), "{}", code.as_str());
        }
    }

    /// "The gateway must never send it to a client."
    #[test]
    fn a_cause_is_in_nothing_that_is_sent() {
        let cause = Cause::lasting("10.1.2.3:9000: connection refused");
        let error = S3Error::new(ErrorCode::SlowDown, "Try again.").because(Some(cause));
        assert_eq!(error.cause.as_ref().unwrap().text(), "10.1.2.3:9000: connection refused");
        assert!(error.cause.as_ref().unwrap().is_lasting());
        let document = crate::s3::xml::error_document(&error, "/b/k", "id", "host");
        for sent in [document, error.to_string()] {
            assert!(sent.contains("SlowDown") && !sent.contains("refused"), "{sent}");
        }
        assert!(error.because(None).cause.is_some());
    }

    #[test]
    fn a_cause_is_one_bounded_line() {
        let cause = Cause::passing(&format!("a\r\n{}", "ü".repeat(MAX_CAUSE)));
        assert!(cause.text().starts_with("a  ü") && cause.text().len() <= MAX_CAUSE);
        assert!(!cause.is_lasting());
    }

    #[test]
    fn a_fault_of_the_gateway_is_worth_a_retry() {
        for code in ErrorCode::ALL {
            if code.fault() != Fault::Client {
                assert!(code.retryable(), "{}", code.as_str());
            }
        }
    }
}
