//! A request as the gateway sends it to the backend: built once, signed anew for every attempt.
//!
//! Framing and hop-by-hop headers are the gateway's own; nothing of the client's
//! Transfer-Encoding, Connection or Expect is ever forwarded.

use crate::config::Backend;
use crate::sigv4::{NoKeys, PayloadHash, uri_encode};
use std::borrow::Cow;
use time::OffsetDateTime;

/// Bytes that most heads are under.
const USUAL_HEAD: usize = 1024;

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
            (Cow::Borrowed(authority), ["/", &backend.bucket, "/", &key].concat())
        } else {
            (Cow::Owned([&backend.bucket, ".", authority].concat()), ["/", &key].concat())
        };
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let more = more.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let headers = own.chain(more);
        let signer = backend.keys.signer(now)?;
        let line = (self.method, &*host, path.as_str());
        let signed = signer.authorize(line, &self.query, headers.clone(), self.payload, now);

        let mut head = Vec::with_capacity(USUAL_HEAD);
        let mut put = |part: &[u8]| head.extend_from_slice(part);
        put(self.method.as_bytes());
        put(b" ");
        put(path.as_bytes());
        for (index, (name, value)) in self.query.iter().enumerate() {
            put(if index == 0 { b"?" } else { b"&" });
            put(uri_encode(name.as_bytes(), false).as_bytes());
            if !value.is_empty() {
                put(b"=");
                put(uri_encode(value.as_bytes(), false).as_bytes());
            }
        }
        put(b" HTTP/1.1\r\nhost: ");
        put(host.as_bytes());
        put(b"\r\n");
        if let Some(length) = length.or(self.length) {
            put(b"content-length: ");
            put(length.to_string().as_bytes());
            put(b"\r\n");
        }
        let added = signed.headers().map(|(name, value)| (name, value.as_bytes()));
        for (name, value) in headers.chain(added) {
            put(name.as_bytes());
            put(b": ");
            put(value);
            put(b"\r\n");
        }
        put(b"\r\n");
        Ok(head)
    }
}
