//! Answers: S3's success and error documents, with the gateway's request id on each.

use super::later::Later;
use mizuchi_actors::guardian::NoAnswer;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::xml;
use std::sync::Arc;

/// Seconds in `Retry-After` of a SlowDown: SDKs have their own backoff, scripts read this.
const RETRY_AFTER: u64 = 1;

/// An answer, ready for actix-web.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Body; empty for HEAD.
    pub body: Vec<u8>,
    /// What the body goes on with; it then has no Content-Length.
    pub later: Option<Later>,
    /// Whether the connection ends with this answer.
    pub close: bool,
    /// `Retry-After`, seconds.
    pub retry_after: Option<u64>,
}

/// What every answer of one request carries.
#[derive(Debug, Clone)]
pub struct RequestIds {
    /// `x-amz-request-id`: names the request in the access log.
    pub request: String,
    /// `x-amz-id-2`: names the gateway process.
    pub host: Arc<str>,
}

impl Reply {
    /// A success without a body.
    pub fn empty(status: u16, headers: Vec<(String, Vec<u8>)>) -> Self {
        Reply { status, headers, body: Vec::new(), later: None, close: false, retry_after: None }
    }

    /// A success with an XML document.
    pub fn xml(status: u16, mut headers: Vec<(String, Vec<u8>)>, body: Vec<u8>) -> Self {
        headers.push(("content-type".into(), b"application/xml".to_vec()));
        Reply { status, headers, body, later: None, close: false, retry_after: None }
    }

    /// An error document. `head`: the request was a HEAD, whose answer has no body.
    pub fn error(error: &S3Error, resource: &str, ids: &RequestIds, head: bool) -> Self {
        let headers = vec![("content-type".into(), b"application/xml".to_vec())];
        let body = if head {
            Vec::new()
        } else {
            xml::error_document(error, resource, &ids.request, &ids.host).into_bytes()
        };
        let retry_after = (error.status == 503).then_some(RETRY_AFTER);
        Reply { status: error.status, headers, body, later: None, close: false, retry_after }
    }

    /// The answer when the HttpActor itself died.
    pub fn unserved(error: &NoAnswer) -> Self {
        log::error!("a request was not served: {error}");
        let error =
            S3Error::new(ErrorCode::InternalError, "The request was not served. Try again.");
        let ids = RequestIds { request: String::from("-"), host: Arc::from("-") };
        let mut reply = Reply::error(&error, "/", &ids, false);
        reply.close = true;
        reply
    }

    /// Adds the ids.
    #[must_use]
    pub fn with_ids(mut self, ids: &RequestIds) -> Self {
        self.headers.push(("x-amz-request-id".into(), ids.request.clone().into_bytes()));
        self.headers.push(("x-amz-id-2".into(), ids.host.as_bytes().to_vec()));
        self
    }
}
