//! The canonical request: the bytes that both sides must agree on.
//!
//! S3's rules differ from other services': the path is encoded once and never normalised, so `//`
//! and `..` stay. Clients disagree on which characters they leave raw on the wire (`+`, `(`, `~`),
//! but all sign the one form that results from decoding and encoding again: that is what is built.

use crate::http::RequestHead;
use sha2::{Digest, Sha256};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Percent-encodes everything but AWS's unreserved characters (A–Z a–z 0–9 `-` `.` `_` `~`), and
/// `/` if `keep_slash`.
pub fn uri_encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = String::with_capacity(bytes.len() + 16);
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if keep_slash => out.push('/'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out
}

/// Decodes `%XX`; None on a malformed escape. `+` is a plus, in a path and in a query.
pub(super) fn uri_decode(raw: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// The canonical form of a raw path; None if it does not decode.
pub(super) fn path(raw: &str) -> Option<String> {
    Some(uri_encode(&uri_decode(raw)?, true))
}

/// The canonical form of a raw query, without the parameter that is spelt `except`; None if it does
/// not decode. Another spelling of that name (`X-Amz-Signatur%65`) is a parameter like any other: it
/// would be one that nobody signed.
pub(super) fn query(raw: &str, except: Option<&str>) -> Option<String> {
    let mut pairs = Vec::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if Some(name) != except {
            let name = uri_encode(&uri_decode(name)?, false);
            pairs.push((name, uri_encode(&uri_decode(value)?, false)));
        }
    }
    Some(join(pairs))
}

/// The canonical form of decoded parameters.
pub(super) fn query_of(pairs: &[(String, String)]) -> String {
    let encode = |text: &String| uri_encode(text.as_bytes(), false);
    join(pairs.iter().map(|(name, value)| (encode(name), encode(value))).collect())
}

fn join(mut pairs: Vec<(String, String)>) -> String {
    pairs.sort_unstable();
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(&name);
        out.push('=');
        out.push_str(&value);
    }
    out
}

/// Appends a header's value: trimmed, runs of spaces as one.
pub(super) fn push_value(out: &mut Vec<u8>, value: &[u8]) {
    let mut spaces = false;
    for &byte in value.trim_ascii() {
        let space = byte == b' ';
        if !(space && spaces) {
            out.push(byte);
        }
        spaces = space;
    }
}

/// A canonical request as it grows, hashed as it grows.
pub(super) struct Canonical(Sha256);

impl Canonical {
    pub(super) fn new(method: &str, path: &str, query: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [method, "\n", path, "\n", query, "\n"] {
            hash.update(part);
        }
        Canonical(hash)
    }

    /// `values`: all values of the header, in order.
    pub(super) fn header<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a [u8]>) {
        let mut line = Vec::with_capacity(name.len() + 64);
        line.extend_from_slice(name.as_bytes());
        line.push(b':');
        for (index, value) in values.enumerate() {
            if index > 0 {
                line.push(b',');
            }
            push_value(&mut line, value);
        }
        line.push(b'\n');
        self.0.update(&line);
    }

    /// The SHA-256 of the whole.
    pub(super) fn finish(mut self, signed_headers: &str, payload: &str) -> [u8; 32] {
        for part in ["\n", signed_headers, "\n", payload] {
            self.0.update(part);
        }
        self.0.finalize().into()
    }
}

/// The canonical hash of a request as it came from the wire. `host` stands for the Host header.
/// None: the path or query does not decode, or a signed header is not there (a query parameter of
/// that name never stands in for it).
pub(super) fn of_head(
    head: &RequestHead,
    host: &str,
    signed_headers: &str,
    payload: &str,
    without_parameter: Option<&str>,
) -> Option<[u8; 32]> {
    let path = path(head.path())?;
    let query = query(head.query(), without_parameter)?;
    let mut canonical = Canonical::new(head.method(), &path, &query);
    for name in signed_headers.split(';') {
        if name == "host" {
            canonical.header(name, std::iter::once(host.as_bytes()));
        } else if head.has(name) {
            canonical.header(name, head.values(name));
        } else {
            return None;
        }
    }
    Some(canonical.finish(signed_headers, payload))
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]).to_ascii_lowercase());
        out.push(char::from(HEX[usize::from(byte & 15)]).to_ascii_lowercase());
    }
    out
}

/// 32 bytes from 64 hex digits.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let (high, low) = (digit(*pair.first()?)?, digit(*pair.get(1)?)?);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_encoded_once_and_never_normalised() {
        for (raw, canonical) in [
            ("/a b".replace(' ', "%20").as_str(), "/a%20b"),
            ("/a+b(c)'!~", "/a%2Bb%28c%29%27%21~"),
            ("/a//../b/", "/a//../b/"),
            ("/%e3%81%bf", "/%E3%81%BF"),
            ("/%2525", "/%2525"),
        ] {
            assert_eq!(path(raw).unwrap(), canonical);
        }
        assert_eq!(path("/%zz"), None);
    }

    #[test]
    fn a_query_is_sorted_and_encoded() {
        assert_eq!(query("b=2&a=1&a=0&c&d=%2f+", None).unwrap(), "a=0&a=1&b=2&c=&d=%2F%2B");
        assert_eq!(query("X-Amz-Signature=x&a=1", Some("X-Amz-Signature")).unwrap(), "a=1");
        let spelt = query("X-Amz-Signatur%65=x&a=1", Some("X-Amz-Signature")).unwrap();
        assert_eq!(spelt, "X-Amz-Signature=x&a=1");
        assert_eq!(query("=x&a=1", None).unwrap(), "=x&a=1");
    }

    #[test]
    fn values_are_trimmed_and_their_spaces_run_together() {
        let mut out = Vec::new();
        push_value(&mut out, b"  a   b\tc  ");
        assert_eq!(out, b"a b\tc");
    }

    #[test]
    fn hex_is_read_and_written() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 7);
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("zz"), None);
    }
}
