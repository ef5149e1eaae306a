//! A request as the gateway sends it to the backend: built once, signed anew for every attempt.
//!
//! Framing and hop-by-hop headers are the gateway's own; nothing of the client's
//! Transfer-Encoding, Connection or Expect is ever forwarded.

use crate::config::Backend;
use crate::sigv4::{NoKeys, PayloadHash, UpstreamRequest, uri_encode};
use std::fmt::Write as _;
use time::OffsetDateTime;

/// What stays the same over all attempts and endpoints.
#[derive(Debug, Clone)]
pub struct UpstreamTemplate {
    /// HTTP method.
    pub method: &'static str,
    /// The object's key at the backend, prefix included, decoded; empty for the bucket itself.
    pub key: String,
    /// Query parameters, decoded.
    pub query: Vec<(String, String)>,
    /// Headers that pass on, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// What x-amz-content-sha256 says.
    pub payload: PayloadHash,
    /// Content-Length; None: a request without a body.
    pub length: Option<u64>,
}

impl UpstreamTemplate {
    /// The signed head for one attempt at the endpoint with this `authority` (host and port).
    /// `more` and `length`: headers known only now (checksums that came as trailers, the length of
    /// a body that was measured).
    ///
    /// Errors: there is nothing to sign with at this time.
    pub fn head(
        &self,
        backend: &Backend,
        authority: &str,
        more: &[(String, String)],
        length: Option<u64>,
        now: OffsetDateTime,
    ) -> Result<Vec<u8>, NoKeys> {
        let key = uri_encode(self.key.as_bytes(), true);
        let (host, path) = if backend.path_style {
            (authority.to_owned(), format!("/{}/{key}", backend.bucket))
        } else {
            (format!("{}.{authority}", backend.bucket), format!("/{key}"))
        };
        let mut headers = self.headers.clone();
        headers.extend(more.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())));
        let mut request =
            UpstreamRequest { method: self.method, host, path, query: self.query.clone(), headers };
        backend.keys.signer(now)?.sign(&mut request, self.payload, now);
        Ok(serialize(&request, length.or(self.length)))
    }
}

fn serialize(request: &UpstreamRequest, length: Option<u64>) -> Vec<u8> {
    let mut line = String::with_capacity(256);
    line.push_str(request.method);
    line.push(' ');
    line.push_str(&request.path);
    for (index, (name, value)) in request.query.iter().enumerate() {
        line.push(if index == 0 { '?' } else { '&' });
        line.push_str(&uri_encode(name.as_bytes(), false));
        if !value.is_empty() {
            line.push('=');
            line.push_str(&uri_encode(value.as_bytes(), false));
        }
    }
    // Writing to a String cannot fail.
    let _ = write!(line, " HTTP/1.1\r\nhost: {}\r\n", request.host);
    if let Some(length) = length {
        let _ = write!(line, "content-length: {length}\r\n");
    }
    let mut head = line.into_bytes();
    for (name, value) in &request.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
