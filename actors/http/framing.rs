//! How long a request's body is: decided once, from the raw head, before anything reads the body.
//!
//! Two parsers that disagree here are a request-smuggling hole, so whatever RFC 9112 lets a
//! recipient repair is refused instead, and the connection is closed.

use super::RequestHead;

/// How the body is framed (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body, and nothing said of one.
    Absent,
    /// `Content-Length`, bytes; may be 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Why a body cannot be framed without doubt. Each is answered 400 (417 for an odd `Expect`) and
/// the connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// RFC 9112, 6.1: "A server MAY reject a request that contains both".
    #[error("Content-Length and Transfer-Encoding in one request")]
    LengthAndEncoding,
    /// More than one `Content-Length`, equal or not.
    #[error("more than one Content-Length")]
    DuplicateLength,
    /// Anything but 1 to 19 digits: no sign, no list, no white space.
    #[error("a Content-Length that is not a plain number")]
    BadLength,
    /// Any coding but a single `chunked`.
    #[error("a Transfer-Encoding other than chunked")]
    BadEncoding,
    /// RFC 9112, 6.1: a Transfer-Encoding in HTTP/1.0 has "faulty framing".
    #[error("Transfer-Encoding in an HTTP/1.0 request")]
    EncodingInHttp10,
    /// RFC 9112, 3.2: "A server MUST respond with a 400" to none or more than one Host line.
    #[error("the request needs exactly one Host header")]
    Host,
    /// RFC 9110, 10.1.1: "MAY respond with a 417".
    #[error("the only expectation served is 100-continue")]
    Expectation,
}

/// Most digits of a Content-Length: 19 always fit an unsigned 64-bit number.
const MAX_LENGTH_DIGITS: usize = 19;

/// Decides the framing of a request's body, or that there is doubt.
pub fn framing(head: &RequestHead) -> Result<Framing, FramingError> {
    let hosts = head.values("host").count();
    if hosts > 1 || (hosts == 0 && head.is_http_11()) {
        return Err(FramingError::Host);
    }
    let mut expectations = head.values("expect");
    if let Some(expect) = expectations.next()
        && (!expect.eq_ignore_ascii_case(b"100-continue") || expectations.next().is_some())
    {
        return Err(FramingError::Expectation);
    }
    let mut encodings = head.values("transfer-encoding");
    let mut lengths = head.values("content-length");
    match (encodings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(FramingError::LengthAndEncoding),
        (Some(_), None) if !head.is_http_11() => Err(FramingError::EncodingInHttp10),
        (Some(coding), None) => {
            if coding.eq_ignore_ascii_case(b"chunked") && encodings.next().is_none() {
                Ok(Framing::Chunked)
            } else {
                Err(FramingError::BadEncoding)
            }
        }
        (None, Some(_)) if lengths.next().is_some() => Err(FramingError::DuplicateLength),
        (None, Some(length)) => {
            let digits = !length.is_empty()
                && length.len() <= MAX_LENGTH_DIGITS
                && length.iter().all(u8::is_ascii_digit);
            std::str::from_utf8(length)
                .ok()
                .filter(|_| digits)
                .and_then(|text| text.parse().ok())
                .map(Framing::Length)
                .ok_or(FramingError::BadLength)
        }
        (None, None) => Ok(Framing::Absent),
    }
}

/// Whether the client waits for `100 Continue` before it sends the body (RFC 9110, 10.1.1; an
/// HTTP/1.0 client's expectation is ignored).
pub fn expects_continue(head: &RequestHead) -> bool {
    head.is_http_11() && head.has("expect")
}

/// Whether the connection ends with this request (RFC 9112, 9.3).
pub fn wants_close(head: &RequestHead) -> bool {
    let has_token = |token: &str| {
        head.values("connection").any(|value| {
            value
                .split(|&byte| byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
        })
    };
    has_token("close") || (!head.is_http_11() && !has_token("keep-alive"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn of(lines: &str) -> Result<Framing, FramingError> {
        let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        framing(&RequestHead::parse(Bytes::from(text)).unwrap())
    }

    /// security.md, HTTP: each of these is 400 and close.
    #[test]
    fn ambiguous_framing_is_refused() {
        use FramingError::*;
        for (lines, error) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", LengthAndEncoding),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", DuplicateLength),
            ("Content-Length: +5\r\n", BadLength),
            ("Content-Length: 5, 5\r\n", BadLength),
            ("Content-Length: \r\n", BadLength),
            ("Content-Length: 0x5\r\n", BadLength),
            ("Content-Length: 99999999999999999999\r\n", BadLength),
            ("Transfer-Encoding: gzip, chunked\r\n", BadEncoding),
            ("Transfer-Encoding: xchunked\r\n", BadEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BadEncoding),
            ("Host: other\r\n", Host),
            ("Expect: 200-ok\r\n", Expectation),
        ] {
            assert_eq!(of(lines), Err(error), "{lines}");
        }
    }

    #[test]
    fn plain_framing_is_read() {
        assert_eq!(of(""), Ok(Framing::Absent));
        assert_eq!(of("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
        assert_eq!(of("Content-Length: 0012\r\n"), Ok(Framing::Length(12)));
        assert_eq!(of("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
    }

    #[test]
    fn http_10_has_no_transfer_encoding_and_closes() {
        let text = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        let head = RequestHead::parse(Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!(framing(&head), Err(FramingError::EncodingInHttp10));
        assert!(wants_close(&head));
    }
}
