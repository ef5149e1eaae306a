//! What the harness needs to know of a message's head.

use crate::Result;

/// Headers of one message; nothing here sends more.
const MAX_HEADERS: usize = 64;

/// Of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestHead {
    /// Bytes of the head, its empty line included.
    pub(crate) length: usize,
    pub(crate) content_length: u64,
    pub(crate) method: String,
    pub(crate) target: String,
    /// Whether it waits for a 100 (Continue).
    pub(crate) expects: bool,
}

/// Of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// Bytes of the head, its empty line included.
    pub(crate) length: usize,
    pub(crate) content_length: u64,
    pub(crate) status: u16,
    /// Whether the connection ends behind it.
    pub(crate) closes: bool,
}

fn of<'a>(headers: &'a [httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(header.value).ok().map(str::trim)
}

fn content_length(headers: &[httparse::Header<'_>]) -> Result<u64> {
    if of(headers, "transfer-encoding").is_some() {
        return Err("a message with Transfer-Encoding: the harness expects Content-Length".into());
    }
    Ok(of(headers, "content-length").map_or(Ok(0), str::parse)?)
}

/// The request head at the start of `bytes`; None while it is not whole.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<RequestHead>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
    Ok(Some(RequestHead {
        length,
        content_length: content_length(request.headers)?,
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        expects: of(request.headers, "expect").is_some(),
    }))
}

/// The response head at the start of `bytes`; None while it is not whole.
pub(crate) fn response(bytes: &[u8]) -> Result<Option<ResponseHead>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes)? else { return Ok(None) };
    let closes =
        of(response.headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(ResponseHead {
        length,
        content_length: content_length(response.headers)?,
        status: response.code.unwrap_or_default(),
        closes,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let bytes = b"PUT /b/k?partNumber=2 HTTP/1.1\r\nHost: h\r\ncontent-LENGTH: 12\r\n\r\nbody";
        for cut in 0..bytes.len() - 5 {
            assert_eq!(request(&bytes[..cut]).unwrap(), None, "{cut}");
        }
        let head = request(bytes).unwrap().unwrap();
        assert_eq!((head.length, head.content_length), (bytes.len() - 4, 12));
        assert_eq!(head.target, "/b/k?partNumber=2");
        assert!(!head.expects);
        let head = response(b"HTTP/1.1 503 Slow\r\nConnection: close\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.content_length, head.closes), (503, 0, true));
    }

    #[test]
    fn what_the_harness_cannot_count_is_an_error() {
        assert!(request(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(response(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
    }
}
