//! The head of an HTTP/2 request, in the shape of HTTP/1.1.

use bytes::Bytes;
use http::Uri;
use http::request::Parts;
use mizuchi_actors::http::{self as wire, Framing, FramingError, HeadError, RequestHead};
use mizuchi_actors::tap::{HeadProblem, TakeError};

/// RFC 9113, 8.2.2.
const OF_CONNECTION: [&str; 5] =
    ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"];

/// Whether a header, in lower case, belongs to a connection of HTTP/1.
pub(super) fn is_of_connection(name: &str) -> bool {
    OF_CONNECTION.contains(&name)
}

/// The head, and how its body is framed; `ended`: the client has said that there is none.
///
/// Errors: what makes it malformed (RFC 9113, 8.1.1), too large, or ambiguous in HTTP/1.1.
pub(super) fn arrive(
    parts: &Parts,
    ended: bool,
    max_head: usize,
) -> Result<(RequestHead, Framing), TakeError> {
    let text = text(parts)?;
    if text.len() > max_head {
        return Err(HeadProblem::TooLarge.into());
    }
    let head = RequestHead::parse(Bytes::from(text)).map_err(HeadProblem::from)?;
    let framing = match wire::framing(&head).map_err(HeadProblem::from)? {
        // Its end is in its frames.
        Framing::Absent if !ended => Framing::Chunked,
        framing => framing,
    };
    Ok((head, framing))
}

fn text(parts: &Parts) -> Result<Vec<u8>, HeadProblem> {
    let malformed = || HeadProblem::Malformed(HeadError::Malformed);
    let path = parts.uri.path_and_query().ok_or_else(malformed)?;
    let mut text = Vec::with_capacity(1024);
    let mut line =
        |pieces: [&[u8]; 4]| pieces.iter().for_each(|piece| text.extend_from_slice(piece));
    line([parts.method.as_str().as_bytes(), b" ", path.as_str().as_bytes(), b" HTTP/1.1\r\n"]);
    if let Some(host) = host(parts)? {
        line([b"host: ", host, b"\r\n", b""]);
    }
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str(), value.as_bytes());
        if name == "host" {
            continue;
        }
        let te = name == "te" && value != b"trailers";
        if is_of_connection(name) || te || value.iter().any(|byte| b"\r\n\0".contains(byte)) {
            return Err(malformed());
        }
        line([name.as_bytes(), b": ", value, b"\r\n"]);
    }
    text.extend_from_slice(b"\r\n");
    Ok(text)
}

/// RFC 9113, 8.3.1: ":authority" is what Host is in HTTP/1.1, and "MUST NOT include the deprecated
/// userinfo subcomponent"; a Host header besides it must say the same.
fn host(parts: &Parts) -> Result<Option<&[u8]>, HeadProblem> {
    let wrong = HeadProblem::Framing(FramingError::Host);
    let mut hosts = parts.headers.get_all("host").iter().map(|value| value.as_bytes());
    let (named, more) = (hosts.next(), hosts.next());
    let authority = Uri::authority(&parts.uri).map(|authority| authority.as_str().as_bytes());
    match (authority, named) {
        _ if more.is_some() => Err(wrong),
        (Some(authority), _) if authority.contains(&b'@') => Err(wrong),
        (Some(authority), Some(named)) if authority != named => Err(wrong),
        (Some(host), _) | (None, Some(host)) => Ok(Some(host)),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use http::Request;

    const MAX: usize = 4096;

    fn of(
        uri: &str,
        headers: &[(&str, &str)],
        ended: bool,
    ) -> Result<(String, Framing), TakeError> {
        let mut request = Request::builder().method("PUT").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (head, framing) = arrive(&parts, ended, MAX)?;
        Ok((String::from_utf8(head.raw().to_vec()).unwrap(), framing))
    }

    #[test]
    fn a_head_has_the_shape_of_http_1() {
        let (text, framing) =
            of("https://s3.test:1/b/a%20b//c?x=1&y", &[("X-Amz-Date", "d"), ("a", " b ")], false)
                .unwrap();
        let expected =
            "PUT /b/a%20b//c?x=1&y HTTP/1.1\r\nhost: s3.test:1\r\nx-amz-date: d\r\na:  b \r\n\r\n";
        assert_eq!(text, expected);
        assert_eq!(framing, Framing::Chunked);
        let (_, framing) = of("https://h/", &[], true).unwrap();
        assert_eq!(framing, Framing::Absent);
        let (_, framing) = of("https://h/", &[("content-length", "5")], false).unwrap();
        assert_eq!(framing, Framing::Length(5));
        assert!(of("https://h/", &[("host", "h"), ("te", "trailers")], true).is_ok());
        assert!(of("/b", &[("host", "h")], true).is_ok());
    }

    /// RFC 9113, 8.2.2: "Any message containing connection-specific header fields MUST be treated as
    /// malformed"; 8.3.1 of the authority; and whatever HTTP/1.1 finds ambiguous.
    #[test]
    fn what_is_malformed_is_refused() {
        for (uri, headers) in [
            ("https://h/", &[("connection", "close")][..]),
            ("https://h/", &[("transfer-encoding", "chunked")]),
            ("https://h/", &[("upgrade", "x")]),
            ("https://h/", &[("keep-alive", "x")]),
            ("https://h/", &[("proxy-connection", "x")]),
            ("https://h/", &[("te", "gzip")]),
            ("https://h/", &[("host", "other")]),
            ("https://h/", &[("host", "h"), ("host", "h")]),
            ("https://u:p@h/", &[]),
            ("/b", &[]),
            ("https://h/", &[("content-length", "5"), ("content-length", "5")]),
            ("https://h/", &[("content-length", "+5")]),
            ("https://h/", &[("expect", "200-ok")]),
        ] {
            assert!(of(uri, headers, false).is_err(), "{uri} {headers:?}");
        }
        let long = "x".repeat(MAX);
        let problem = of("https://h/", &[("a", &long)], true).unwrap_err();
        assert_eq!(problem, TakeError::Problem(HeadProblem::TooLarge));
        let many: Vec<(&str, &str)> = vec![("a", "b"); 100];
        assert!(of("https://h/", &many, true).is_err());
    }
}
