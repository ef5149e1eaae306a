//! Signed heads with a byte changed, taken out or put in: what is still accepted means what was
//! signed. And heads of any kind: never a panic.

use super::*;
use crate::http::{RequestHead, framing};
use crate::s3::error::S3Error;
use crate::secret::Secret;
use bytes::Bytes;
use proptest::prelude::*;
use std::time::Duration;
use time::OffsetDateTime;

const HOST: &str = "s3.example.com";

fn now() -> OffsetDateTime {
    date::parse("20130524T000000Z").unwrap()
}

fn signer() -> Signer {
    let secret = Secret::new("a secret".to_owned());
    Signer::new("AKIAEXAMPLE".to_owned(), secret, None, "us-east-1".to_owned())
}

fn request() -> UpstreamRequest {
    UpstreamRequest {
        method: "PUT",
        host: HOST.to_owned(),
        path: object_path("uploads", "a key/with+%"),
        query: vec![
            ("partNumber".to_owned(), "1".to_owned()),
            ("uploadId".to_owned(), "an id".to_owned()),
        ],
        headers: vec![
            ("content-type".to_owned(), b"text/plain".to_vec()),
            ("x-amz-meta-a".to_owned(), b"one  two".to_vec()),
        ],
    }
}

/// A request as it is sent.
fn written(request: &UpstreamRequest, query: &str) -> Vec<u8> {
    let mut raw = format!("PUT {}?{query} HTTP/1.1\r\nHost: {HOST}\r\n", request.path).into_bytes();
    for (name, value) in &request.headers {
        raw.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    raw.extend_from_slice(b"\r\n");
    raw
}

fn signed_in_header() -> Vec<u8> {
    let mut request = request();
    signer().sign(&mut request, PayloadHash::Unsigned, now());
    written(&request, &canonical::query_of(&request.query))
}

fn presigned() -> Vec<u8> {
    let request = request();
    written(&request, &signer().presign(&request, Duration::from_secs(600), now()))
}

/// As the gateway does it: the Host that may have been signed is the one that came.
fn verify(head: &RequestHead) -> Result<Verified, S3Error> {
    let credential = Credential {
        access_key: "AKIAEXAMPLE".to_owned(),
        secret_key: Secret::new("a secret".to_owned()),
        principal: "example".to_owned(),
        session_token: None,
        grants: Default::default(),
    };
    let skew = Duration::from_secs(900);
    let verifier = Verifier::new("us-east-1".to_owned(), skew, Credentials::new([credential]));
    let hosts = head.header("host").map(str::to_owned).into_iter().collect();
    verifier.verify(head, &Hosts::new(hosts), now())
}

/// As the tap does it: a head in doubt (two Host lines) gets no further.
fn parse(raw: &[u8]) -> Option<RequestHead> {
    let head = RequestHead::parse(Bytes::copy_from_slice(raw)).ok()?;
    framing(&head).is_ok().then_some(head)
}

/// What was signed, read without the verifier's own code: method, path, query and headers.
type Meaning = (String, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>, Vec<(String, Vec<Vec<u8>>)>);

fn meaning(head: &RequestHead) -> Meaning {
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let mut query: Vec<_> = head
        .query()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(name, _)| *name != "X-Amz-Signature")
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    query.sort();
    let words = |value: &[u8]| -> Vec<Vec<u8>> {
        value.split(|&b| b == b' ').filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let mut headers: Vec<_> = head
        .headers()
        .map(|(name, value)| (name.to_ascii_lowercase(), words(value)))
        .filter(|(name, _)| name == "host" || name == "content-type" || name.starts_with("x-amz-"))
        .collect();
    headers.sort();
    (head.method().to_owned(), decoded(head.path()), query, headers)
}

/// The change is refused, or it means nothing.
fn means_the_same(signed: &[u8], changed: &[u8]) {
    let Some(head) = parse(changed) else { return };
    if verify(&head).is_ok() {
        let changed = String::from_utf8_lossy(changed);
        assert_eq!(meaning(&head), meaning(&parse(signed).unwrap()), "{changed}");
    }
}

/// "wrong secret; altered method, path, query or signed header: 403": every byte, every bit, and
/// every byte left out.
#[test]
fn no_byte_of_a_signed_head_can_be_changed() {
    for signed in [signed_in_header(), presigned()] {
        assert!(verify(&parse(&signed).unwrap()).is_ok(), "the untouched head is accepted");
        for at in 0..signed.len() {
            for bit in 0..8 {
                let mut changed = signed.clone();
                changed[at] ^= 1 << bit;
                means_the_same(&signed, &changed);
            }
            let mut shorter = signed.clone();
            shorter.remove(at);
            means_the_same(&signed, &shorter);
        }
    }
}

/// A parameter or header that nobody signed is refused wherever it is put in, in any spelling.
#[test]
fn nothing_can_be_put_into_a_signed_head() {
    for signed in [signed_in_header(), presigned()] {
        for more in [
            "acl&",
            "=&",
            "=x&",
            "X-Amz-Signatur%65=x&",
            "%58-Amz-Expires=604800&",
            "\r\nx-amz-acl: public-read",
            "\r\nX-AMZ-Meta-A: three",
            "\r\nHost: other",
            "%2e%2e/",
        ] {
            for at in 0..signed.len() {
                let changed = [&signed[..at], more.as_bytes(), &signed[at..]].concat();
                means_the_same(&signed, &changed);
            }
        }
    }
}

proptest! {
    #[test]
    fn several_changes_are_no_better_than_one(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        in_query: bool,
    ) {
        let signed = if in_query { presigned() } else { signed_in_header() };
        let mut changed = signed.clone();
        for (at, byte) in changes {
            changed[at.index(signed.len())] = byte;
        }
        means_the_same(&signed, &changed);
    }

    #[test]
    fn no_head_makes_it_panic(
        target in "/[ -~]{0,40}", names in prop::collection::vec(
            "(authorization|host|date|x-amz-(date|content-sha256|security-token)|[a-z-]{1,9})", 0..6),
        values in prop::collection::vec("[\\PC]{0,40}|AWS4-HMAC-SHA256 [A-Za-z0-9=/,; ]{0,60}", 6),
    ) {
        let lines: String =
            names.iter().zip(&values).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        if let Some(head) = parse(format!("PUT {target} HTTP/1.1\r\n{lines}\r\n").as_bytes()) {
            prop_assert!(verify(&head).is_err());
        }
    }

    #[test]
    fn no_claim_makes_it_panic(
        credential in "[A-Za-z0-9/%-]{0,40}", names in "[a-z;-]{0,30}", signature in "[0-9a-fx]{0,70}",
        date in "[0-9TZ]{0,17}", query: bool,
    ) {
        let raw = if query {
            format!(
                "PUT /b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={date}\
                 &X-Amz-Expires=600&X-Amz-SignedHeaders={names}&X-Amz-Signature={signature} \
                 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
            )
        } else {
            format!(
                "PUT /b/k HTTP/1.1\r\nHost: {HOST}\r\nx-amz-date: {date}\r\nx-amz-content-sha256: \
                 UNSIGNED-PAYLOAD\r\nAuthorization: AWS4-HMAC-SHA256 Credential={credential}, \
                 SignedHeaders={names}, Signature={signature}\r\n\r\n"
            )
        };
        prop_assert!(parse(raw.as_bytes()).is_none_or(|head| verify(&head).is_err()));
    }
}
