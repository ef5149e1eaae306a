//! An answer's head, parsed strictly, and how its body is framed (RFC 9112, 6.3).
//!
//! Strict because the connection is used again: a body whose end is guessed wrongly makes the rest
//! of it the answer to the next request, so that one client reads what belongs to another.

use bytes::Bytes;
use std::mem::MaybeUninit;

/// Bytes of the largest head that is read: S3's own stay under 8 KiB, user metadata included.
pub const MAX_RESPONSE_HEAD: usize = 64 * 1024;

/// Header lines of the largest head: S3 sends about twenty, proxies in between a few more.
pub const MAX_RESPONSE_HEADERS: usize = 100;

/// How every answer begins. HTTP/0.9 and HTTP/2 are not spoken here.
const STATUS_LINE_START: &[u8] = b"HTTP/1.";

/// Why bytes are not an acceptable answer. The connection cannot be trusted after any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is not HTTP/1.x.
    #[error("the head does not parse")]
    Malformed,
    /// More than [`MAX_RESPONSE_HEAD`] bytes or [`MAX_RESPONSE_HEADERS`] lines.
    #[error("the head is too large")]
    HeadTooLarge,
    /// Content-Length or Transfer-Encoding leave open where the body ends.
    #[error("the body's length is ambiguous")]
    AmbiguousLength,
    /// A transfer coding other than `chunked`.
    #[error("the transfer coding is not supported")]
    UnsupportedCoding,
    /// The chunked framing is broken.
    #[error("the chunked framing is malformed")]
    BadChunk,
    /// The body is larger than the caller reads.
    #[error("the body is too large")]
    BodyTooLarge,
    /// 101, which nobody asked for, or interim answers without end.
    #[error("unexpected interim answer")]
    UnexpectedInterim,
}

/// Where an answer's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none: an answer to HEAD, 1xx, 204, 304.
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// When the backend closes.
    UntilClose,
}

/// An answer's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status, 100..=599.
    pub status: u16,
    /// All header lines in order: the name in lower case, the value without white space around it.
    pub headers: Vec<(String, Bytes)>,
    /// Where the body ends.
    pub framing: BodyFraming,
    /// Whether the backend will take another request on the connection.
    pub keep_alive: bool,
}

impl ResponseHead {
    /// Parses one complete head, `raw` ending with the empty line. `head_request`: it answers a
    /// HEAD request, so that no body follows whatever the head says.
    ///
    /// Stricter than httparse: bare LF, an empty line before the status line, and every framing
    /// that two parsers could read differently are errors.
    pub fn parse(raw: &[u8], head_request: bool) -> Result<Self, ResponseError> {
        if find_head_end(raw, 0)? != Some(raw.len()) {
            return Err(ResponseError::Malformed);
        }
        let mut slots = [const { MaybeUninit::uninit() }; MAX_RESPONSE_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, raw, &mut slots) {
            Ok(httparse::Status::Complete(length)) if length == raw.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::HeadTooLarge),
            Ok(_) | Err(_) => return Err(ResponseError::Malformed),
        }
        let (Some(status @ 100..=599), Some(minor)) = (response.code, response.version) else {
            return Err(ResponseError::Malformed);
        };
        let headers: Vec<(String, Bytes)> = response
            .headers
            .iter()
            .map(|line| (line.name.to_ascii_lowercase(), Bytes::copy_from_slice(line.value)))
            .collect();
        let http_11 = minor == 1;
        let framing = framing(status, http_11, head_request, &headers)?;
        // A body until close uses the connection up; so does whatever HTTP/1.0 agrees on.
        let keep_alive = http_11
            && framing != BodyFraming::UntilClose
            && !tokens(&headers, "connection").any(|token| token.eq_ignore_ascii_case(b"close"));
        Ok(ResponseHead { status, headers, framing, keep_alive })
    }

    /// The first value of the header `name`, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value)
    }

    /// Whether a final answer follows this one.
    pub fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// The length of the head that `bytes` begin with, its empty line included; None: it is not whole
/// yet. The first `scanned` bytes were looked at before. What can never become a head is an error
/// at once, so that nobody waits for the rest of it.
pub(super) fn find_head_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, ResponseError> {
    if !bytes.iter().zip(STATUS_LINE_START).all(|(have, want)| have == want) {
        return Err(ResponseError::Malformed);
    }
    // An empty line that `scanned` cut in two is found from its first byte.
    let from = scanned.saturating_sub(3);
    let rest = bytes.get(from..).unwrap_or_default();
    for at in memchr::memchr_iter(b'\n', rest).map(|at| from + at) {
        let upto = bytes.get(..at).unwrap_or_default();
        if upto.last() != Some(&b'\r') {
            return Err(ResponseError::Malformed);
        }
        if upto.ends_with(b"\r\n\r") {
            let end = at + 1;
            return if end > MAX_RESPONSE_HEAD {
                Err(ResponseError::HeadTooLarge)
            } else {
                Ok(Some(end))
            };
        }
    }
    if bytes.len() > MAX_RESPONSE_HEAD { Err(ResponseError::HeadTooLarge) } else { Ok(None) }
}

/// RFC 9112, 6.3, for a client that asks neither for CONNECT nor for any coding but chunked.
fn framing(
    status: u16,
    http_11: bool,
    head_request: bool,
    headers: &[(String, Bytes)],
) -> Result<BodyFraming, ResponseError> {
    if head_request || status < 200 || status == 204 || status == 304 {
        return Ok(BodyFraming::None);
    }
    let mut length = None;
    for token in tokens(headers, "content-length") {
        let value = decimal(token).ok_or(ResponseError::AmbiguousLength)?;
        if length.replace(value).is_some_and(|before| before != value) {
            return Err(ResponseError::AmbiguousLength);
        }
    }
    let mut codings = tokens(headers, "transfer-encoding").peekable();
    if codings.peek().is_none() {
        return Ok(length.map_or(BodyFraming::UntilClose, BodyFraming::Length));
    }
    // Both headers, or a coding in HTTP/1.0: "ought to be handled as an error" (RFC 9112, 6.1).
    if length.is_some() || !http_11 {
        return Err(ResponseError::AmbiguousLength);
    }
    let chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() {
        Ok(BodyFraming::Chunked)
    } else {
        Err(ResponseError::UnsupportedCoding)
    }
}

/// The comma-separated elements of all headers `name`; an empty element is one too.
fn tokens<'a>(
    headers: &'a [(String, Bytes)],
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> + 'a {
    headers
        .iter()
        .filter(move |(have, _)| have == name)
        .flat_map(|(_, value)| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    // `str::parse` alone would take a sign.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(raw: &str) -> Result<ResponseHead, ResponseError> {
        ResponseHead::parse(raw.as_bytes(), false)
    }

    fn framed(headers: &str) -> Result<BodyFraming, ResponseError> {
        parse(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")).map(|head| head.framing)
    }

    /// "The names of header fields are case-insensitive."
    #[test]
    fn names_come_in_lower_case() {
        let head =
            parse("HTTP/1.1 200 OK\r\nETag:  \"a b\" \r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("etag").unwrap(), &Bytes::from_static(b"\"a b\""));
        assert_eq!(head.header("x-none"), None);
        assert!(head.keep_alive);
    }

    /// "A client SHOULD ignore the reason-phrase content", and it may be absent.
    #[test]
    fn the_reason_may_be_absent() {
        for line in ["HTTP/1.1 503 ", "HTTP/1.1 503", "HTTP/1.1 503 Slow Down"] {
            let head = parse(&format!("{line}\r\nContent-Length: 3\r\n\r\n")).unwrap();
            assert_eq!(head.status, 503);
        }
    }

    /// "Any response to a HEAD request and any response with a 1xx, 204 or 304 status code is
    /// always terminated by the first empty line."
    #[test]
    fn some_answers_have_no_body() {
        for status in [100, 103, 204, 304] {
            let raw = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(parse(&raw).unwrap().framing, BodyFraming::None);
        }
        let raw = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(ResponseHead::parse(raw, true).unwrap().framing, BodyFraming::None);
    }

    /// RFC 9112, 6.3, items 4 to 8.
    #[test]
    fn framing_follows_the_rfc() {
        use BodyFraming::{Chunked, Length, UntilClose};
        use ResponseError::{AmbiguousLength, UnsupportedCoding};
        for (headers, expected) in [
            ("Content-Length: 5\r\n", Ok(Length(5))),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Ok(Length(5))),
            ("Content-Length: 5, 5\r\n", Ok(Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(AmbiguousLength)),
            ("Content-Length: 5,\r\n", Err(AmbiguousLength)),
            ("Content-Length: +5\r\n", Err(AmbiguousLength)),
            ("Content-Length: 0x5\r\n", Err(AmbiguousLength)),
            ("Content-Length:\r\n", Err(AmbiguousLength)),
            ("Content-Length: 18446744073709551616\r\n", Err(AmbiguousLength)),
            ("Transfer-Encoding: Chunked\r\n", Ok(Chunked)),
            ("Transfer-Encoding: gzip, chunked\r\n", Err(UnsupportedCoding)),
            ("Transfer-Encoding: chunked, chunked\r\n", Err(UnsupportedCoding)),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", Err(UnsupportedCoding)),
            ("Transfer-Encoding:\r\n", Err(UnsupportedCoding)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(AmbiguousLength)),
            ("", Ok(UntilClose)),
        ] {
            assert_eq!(framed(headers), expected, "{headers:?}");
        }
        let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(old), Err(AmbiguousLength));
    }

    /// RFC 9112, 9.3: close option, protocol version, and a body that ends with the connection.
    #[test]
    fn keep_alive_follows_the_rfc() {
        for (raw, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", false),
        ] {
            assert_eq!(parse(raw).unwrap().keep_alive, expected, "{raw:?}");
        }
    }

    /// What two parsers could read differently is refused.
    #[test]
    fn malformed_heads_are_refused() {
        for raw in [
            "",
            "\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/1.1 99 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nbody",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert_eq!(parse(raw), Err(ResponseError::Malformed), "{raw:?}");
        }
    }

    /// The head is bounded in lines and in bytes.
    #[test]
    fn a_head_has_bounds() {
        let lines = |count: usize| "a: b\r\n".repeat(count);
        assert!(framed(&lines(MAX_RESPONSE_HEADERS)).is_ok());
        assert_eq!(framed(&lines(MAX_RESPONSE_HEADERS + 1)), Err(ResponseError::HeadTooLarge));
        let wide = format!("a: {}\r\n", "b".repeat(MAX_RESPONSE_HEAD));
        assert_eq!(framed(&wide), Err(ResponseError::HeadTooLarge));
        let endless = format!("HTTP/1.1 200 OK\r\n{wide}");
        assert_eq!(find_head_end(endless.as_bytes(), 0), Err(ResponseError::HeadTooLarge));
    }

    proptest! {
        /// No input makes the parser panic, whatever follows a good beginning.
        #[test]
        fn arbitrary_bytes_never_panic(
            good in any::<bool>(), tail in proptest::collection::vec(any::<u8>(), 0..400),
            head_request in any::<bool>(),
        ) {
            let mut raw = if good { b"HTTP/1.1 200 OK\r\n".to_vec() } else { Vec::new() };
            raw.extend(tail);
            let _ = ResponseHead::parse(&raw, head_request);
            raw.extend(b"\r\n\r\n");
            let _ = ResponseHead::parse(&raw, head_request);
        }

        /// The same with lines out of HTTP's own words, which come further into the parser.
        #[test]
        fn arbitrary_lines_never_panic(
            lines in proptest::collection::vec(
                "(Content-Length|Transfer-Encoding|Connection|X): ?[0-9a-z, +]{0,12}", 0..6),
            status in 0u16..1000,
        ) {
            let raw = format!("HTTP/1.1 {status:03} X\r\n{}\r\n\r\n", lines.join("\r\n"));
            if let Ok(head) = ResponseHead::parse(raw.as_bytes(), false) {
                prop_assert!((100..=599).contains(&head.status));
                prop_assert_eq!(head.headers.len(), lines.len());
            }
        }

        /// Where the head ends does not depend on how it was cut into segments.
        #[test]
        fn the_end_is_found_across_reads(cut in 0usize..40) {
            let raw = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nBODY\r\n\r\n";
            let cut = cut.min(raw.len());
            let first = find_head_end(&raw[..cut], 0).unwrap();
            if first.is_none() {
                prop_assert_eq!(find_head_end(raw, cut).unwrap(), Some(25));
            } else {
                prop_assert_eq!(first, Some(25));
            }
        }
    }
}
