//! The canonical request: the bytes that both sides must agree on.
//!
//! S3's rules differ from other services': the path is encoded once and never normalised, so `//`
//! and `..` stay. Clients disagree on which characters they leave raw on the wire (`+`, `(`, `~`),
//! but all sign the one form that results from decoding and encoding again: that is what is built.

use crate::http::RequestHead;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789ABCDEF";
const HEX_LOWER: &[u8; 16] = b"0123456789abcdef";

/// Bytes that most canonical requests are under.
const USUAL: usize = 1024;

/// AWS's unreserved characters: A–Z a–z 0–9 `-` `.` `_` `~`.
fn unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Percent-encodes everything but AWS's unreserved characters, and `/` if `keep_slash`.
pub fn uri_encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    push_encoded(&mut out, bytes, keep_slash);
    // What was pushed is ASCII.
    String::from_utf8(out).unwrap_or_default()
}

fn push_encoded(out: &mut Vec<u8>, bytes: &[u8], keep_slash: bool) {
    for &byte in bytes {
        if unreserved(byte) || (keep_slash && byte == b'/') {
            out.push(byte);
        } else {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(&[b'%', digits[0], digits[1]]);
        }
    }
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

/// Whether a raw path is in the canonical form already, as that of most SDKs is.
fn is_canonical(mut raw: &[u8]) -> bool {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    loop {
        raw = match raw {
            [] => return true,
            [b'%', high, low, rest @ ..] => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    let byte = high << 4 | low;
                    if unreserved(byte) || byte == b'/' {
                        return false;
                    }
                    rest
                }
                _ => return false,
            },
            [byte, rest @ ..] if unreserved(*byte) || *byte == b'/' => rest,
            _ => return false,
        };
    }
}

/// The canonical form of a raw path; None if it does not decode.
pub(super) fn path(raw: &str) -> Option<Cow<'_, str>> {
    if is_canonical(raw.as_bytes()) {
        return Some(Cow::Borrowed(raw));
    }
    Some(Cow::Owned(uri_encode(&uri_decode(raw)?, true)))
}

/// The canonical form of a raw query, without the parameter that is spelt `except`; None if it does
/// not decode. Another spelling of that name (`X-Amz-Signatur%65`) is a parameter like any other: it
/// would be one that nobody signed.
pub(super) fn query(raw: &str, except: Option<&str>) -> Option<String> {
    if raw.is_empty() {
        return Some(String::new());
    }
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
    let value = value.trim_ascii();
    if !value.contains(&b' ') {
        out.extend_from_slice(value);
        return;
    }
    let mut spaces = false;
    for &byte in value {
        let space = byte == b' ';
        if !(space && spaces) {
            out.push(byte);
        }
        spaces = space;
    }
}

/// A canonical request as it grows: hashed at once, since that is faster than line by line.
pub(super) struct Canonical(Vec<u8>);

impl Canonical {
    pub(super) fn new(method: &str, path: &str, query: &str) -> Self {
        let mut text = Vec::with_capacity(USUAL);
        for part in [method, "\n", path, "\n", query, "\n"] {
            text.extend_from_slice(part.as_bytes());
        }
        Canonical(text)
    }

    /// `values`: all values of the header, in order.
    pub(super) fn header<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a [u8]>) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b':');
        for (index, value) in values.enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            push_value(&mut self.0, value);
        }
        self.0.push(b'\n');
    }

    /// The SHA-256 of the whole.
    pub(super) fn finish(mut self, signed_headers: &str, payload: &str) -> [u8; 32] {
        for part in ["\n", signed_headers, "\n", payload] {
            self.0.extend_from_slice(part.as_bytes());
        }
        Sha256::digest(&self.0).into()
    }
}

/// SignedHeaders, taken apart once: `host;x-amz-date`.
pub(super) struct SignedHeaders<'t> {
    text: &'t str,
    names: Vec<&'t str>,
}

impl<'t> SignedHeaders<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let mut names = Vec::with_capacity(16);
        names.extend(split(text, b';'));
        SignedHeaders { text, names }
    }

    /// Whether the name of a header of the head is there. Names there are in lower case; this one is
    /// compared as if it were.
    pub(super) fn holds(&self, name: &[u8]) -> bool {
        self.names.iter().any(|have| {
            have.len() == name.len()
                && have.bytes().zip(name).all(|(have, byte)| have == byte.to_ascii_lowercase())
        })
    }
}

/// The canonical hash of a request as it came from the wire. `host` stands for the Host header.
/// None: the path or query does not decode, or a signed header is not there (a query parameter of
/// that name never stands in for it).
pub(super) fn of_head(
    head: &RequestHead,
    host: &str,
    signed_headers: &SignedHeaders<'_>,
    payload: &str,
    without_parameter: Option<&str>,
) -> Option<[u8; 32]> {
    let path = path(head.path())?;
    let query = query(head.query(), without_parameter)?;
    let mut canonical = Canonical::new(head.method(), &path, &query);
    for name in &signed_headers.names {
        if *name == "host" {
            canonical.header(name, std::iter::once(host.as_bytes()));
        } else {
            let mut values = head.values(name).peekable();
            values.peek()?;
            canonical.header(name, values);
        }
    }
    Some(canonical.finish(signed_headers.text, payload))
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    // Digits are ASCII.
    std::str::from_utf8(&hex_digits(bytes)).unwrap_or_default().to_owned()
}

/// The 64 digits of [`hex`].
pub(super) fn hex_digits(bytes: &[u8; 32]) -> [u8; 64] {
    let mut out = [0; 64];
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[
            HEX_LOWER[usize::from(byte >> 4)],
            HEX_LOWER[usize::from(byte & 15)],
        ]);
    }
    out
}

/// 32 bytes from 64 hex digits, in either case.
pub(super) fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(out)
}

/// `text` before and after the first `byte`, which is ASCII. On texts as short as these it is faster
/// than the general search for a character.
pub(super) fn split_once(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = text.bytes().position(|have| have == byte)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The parts of `text` between each `byte`, which is ASCII.
pub(super) fn split(text: &str, byte: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match split_once(text, byte) {
            Some((part, after)) => {
                rest = Some(after);
                Some(part)
            }
            None => rest.take(),
        }
    })
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
        for raw in ["/a%2", "/a%", "/%4g"] {
            assert_eq!(path(raw), None, "{raw}");
        }
        assert_eq!(path("/%41%2F%7e%20").unwrap(), "/A/~%20");
    }

    proptest::proptest! {
        #[test]
        fn a_path_that_is_canonical_already_is_left_as_it_is(raw in "[/a~%2-4AFf]{0,12}") {
            let built = uri_decode(&raw).map(|path| uri_encode(&path, true));
            let read = path(&raw);
            proptest::prop_assert_eq!(read.as_deref(), built.as_deref());
        }
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

    proptest::proptest! {
        #[test]
        fn texts_are_split_as_by_the_library(text in "[a;é]{0,12}") {
            proptest::prop_assert!(split(&text, b';').eq(text.split(';')));
            proptest::prop_assert_eq!(split_once(&text, b';'), text.split_once(';'));
        }
    }

    #[test]
    fn hex_is_read_and_written() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8 * 7);
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("zz"), None);
    }
}
