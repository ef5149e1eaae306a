//! A request's head as it came from the wire: the one that the verifier, the router and the log read.
//!
//! The bytes are kept as received and every accessor is a view into them, so a signature is
//! verified over what the client sent and never over a rewritten copy.

use bytes::Bytes;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

/// Most header lines in one head: actix-http's own limit, so that both parsers agree.
pub const MAX_HEADERS: usize = 96;

/// A parsed request head. Cheap to clone (everything is shared).
#[derive(Clone)]
pub struct RequestHead {
    raw: Bytes,
    method: Range<u32>,
    target: Range<u32>,
    /// Where the target's `?` stands, from the target's start; its length, where it has none.
    path: u32,
    http_11: bool,
    headers: Arc<[(Range<u32>, Range<u32>)]>,
}

/// Why bytes are not a request head (RFC 9112). The connection cannot be trusted after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// httparse refused it.
    #[error("the request head does not parse")]
    Malformed,
    /// A line ends in LF without CR, or a CR stands alone (RFC 9112, 2.2).
    #[error("a line of the request head does not end in CRLF")]
    BareLineEnd,
    /// A header line begins with white space (RFC 9112, 5.2).
    #[error("the request head has a folded header line")]
    Folded,
    /// More than [`MAX_HEADERS`] header lines.
    #[error("the request head has too many header lines")]
    TooManyHeaders,
}

impl RequestHead {
    /// Parses one complete head, `raw` ending with the empty line (CRLF CRLF).
    ///
    /// Stricter than httparse: bare LF, lone CR and folded lines are errors.
    pub fn parse(raw: Bytes) -> Result<Self, HeadError> {
        for at in memchr::memchr2_iter(b'\r', b'\n', &raw) {
            let next = raw.get(at + 1);
            if raw.get(at) == Some(&b'\r') {
                if next != Some(&b'\n') {
                    return Err(HeadError::BareLineEnd);
                }
            } else if at.checked_sub(1).and_then(|before| raw.get(before)) != Some(&b'\r') {
                return Err(HeadError::BareLineEnd);
            } else if matches!(next, Some(b' ' | b'\t')) {
                return Err(HeadError::Folded);
            }
        }
        let mut slots = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(&raw, &mut slots) {
            Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
            Ok(_) => return Err(HeadError::Malformed),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyHeaders),
            Err(_) => return Err(HeadError::Malformed),
        }
        let base = raw.as_ptr() as usize;
        let span = |part: &[u8]| {
            let start = (part.as_ptr() as usize).wrapping_sub(base);
            if part.is_empty() { 0..0 } else { start as u32..(start + part.len()) as u32 }
        };
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HeadError::Malformed);
        };
        let method = span(method.as_bytes());
        let path = memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len()) as u32;
        let target = span(target.as_bytes());
        let headers = request
            .headers
            .iter()
            .map(|header| (span(header.name.as_bytes()), span(header.value)))
            .collect();
        Ok(RequestHead { method, target, path, http_11: minor == 1, headers, raw: raw.clone() })
    }

    fn bytes(&self, span: &Range<u32>) -> &[u8] {
        &self.raw[span.start as usize..span.end as usize]
    }

    fn text(&self, span: &Range<u32>) -> &str {
        // Method, target and names were checked by httparse to be ASCII or UTF-8.
        std::str::from_utf8(self.bytes(span)).unwrap_or("")
    }

    /// The head's bytes, the closing empty line included.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The method, as sent.
    pub fn method(&self) -> &str {
        self.text(&self.method)
    }

    /// The request target, as sent.
    pub fn target(&self) -> &str {
        self.text(&self.target)
    }

    /// The target up to the first `?`: raw, percent-encoding untouched.
    pub fn path(&self) -> &str {
        let Range { start, .. } = self.target;
        self.text(&(start..start + self.path))
    }

    /// The target after the first `?`, or `""`: raw, percent-encoding untouched.
    pub fn query(&self) -> &str {
        let Range { start, end } = self.target;
        self.text(&((start + self.path + 1).min(end)..end))
    }

    /// True for HTTP/1.1, false for HTTP/1.0.
    pub fn is_http_11(&self) -> bool {
        self.http_11
    }

    /// All header lines in order: the name as sent, the value without surrounding white space.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (self.text(name), self.bytes(value)))
    }

    /// The names of all header lines in order, as sent.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.headers.iter().map(|(name, _)| self.bytes(name))
    }

    /// All values of the header `name` (compared without case), in order.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        // Asked dozens of times for each request: bytes are compared, and not validated as text.
        self.headers
            .iter()
            .filter(move |(have, _)| self.bytes(have).eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| self.bytes(value))
    }

    /// The first value of the header `name` as text; None if absent or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let is = |have: &Range<u32>| self.bytes(have).eq_ignore_ascii_case(name.as_bytes());
        let (_, value) = self.headers.iter().find(|(have, _)| is(have))?;
        std::str::from_utf8(self.bytes(value)).ok()
    }

    /// Whether the header is present at all.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }
}

impl std::fmt::Debug for RequestHead {
    /// Method and path only: headers and query hold signatures and tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestHead({} {})", self.method(), self.path())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RequestHead, HeadError> {
        RequestHead::parse(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_head_is_kept_as_received() {
        let head =
            parse("PUT /b/a%20b//c?x=1&y HTTP/1.1\r\nHost: h:1\r\nX-A:  v \r\nx-a: w\r\n\r\n")
                .unwrap();
        assert_eq!((head.method(), head.path(), head.query()), ("PUT", "/b/a%20b//c", "x=1&y"));
        assert_eq!(head.header("HOST"), Some("h:1"));
        assert_eq!(head.values("x-a").collect::<Vec<_>>(), [b"v".as_slice(), b"w"]);
        assert!(head.is_http_11());
    }

    /// RFC 9112, 2.2: "a recipient MAY recognize a single LF as a line terminator": this one does not,
    /// because a proxy before it might not.
    #[test]
    fn line_ends_other_than_crlf_are_refused() {
        assert_eq!(parse("GET / HTTP/1.1\nHost: h\r\n\r\n").unwrap_err(), HeadError::BareLineEnd);
        assert_eq!(parse("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n").unwrap_err(), HeadError::BareLineEnd);
        assert_eq!(parse("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n").unwrap_err(), HeadError::Folded);
        assert_eq!(parse("GET / HTTP/1.1\r\nA : b\r\n\r\n").unwrap_err(), HeadError::Malformed);
    }
}
