//! A signed head as boto3 sends it, verified; and the SHA-256 and the HMAC that no verifier can do
//! without, over bytes of the same number.

use super::Result;
use bytes::Bytes;
use criterion::Criterion;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::{
    Credential, Credentials, Hosts, PayloadHash, Signer, UpstreamRequest, Verifier,
};
use sha2::{Digest as _, Sha256};
use std::hint::black_box;
use std::time::Duration;
use time::OffsetDateTime;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const HOST: &str = "uploads.example.com:8080";

pub(crate) fn measure(criterion: &mut Criterion) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let (head, canonical) = signed(now)?;
    let verifier = verifier();
    let hosts = Hosts::new(vec![HOST.to_owned()]);
    verifier.verify(&head, &hosts, now).map_err(|error| error.message.into_owned())?;
    let mut group = criterion.benchmark_group("sigv4");
    group.bench_function("verify", |bencher| {
        bencher.iter(|| black_box(verifier.verify(black_box(&head), &hosts, now).is_ok()));
    });
    // AWS4-HMAC-SHA256, a time, a scope, the hash of the canonical request.
    let to_sign = vec![b'x'; 16 + 1 + 16 + 1 + 38 + 1 + 64];
    group.bench_function("bare", |bencher| {
        bencher.iter(|| {
            let hash = Sha256::digest(black_box(&canonical));
            black_box((hash, hmac(&[7; 32], black_box(&to_sign))))
        });
    });
    group.finish();
    Ok(())
}

/// HMAC-SHA-256 by the same crate that the gateway uses.
pub(crate) fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn verifier() -> Verifier {
    let credential = Credential {
        access_key: "AKIDEXAMPLE".to_owned(),
        secret_key: Secret::new(SECRET.to_owned()),
        session_token: None,
        principal: "bench".to_owned(),
        grants: Default::default(),
    };
    let skew = Duration::from_secs(900);
    Verifier::new("us-east-1".to_owned(), skew, Credentials::new([credential]))
}

/// The head, and its canonical request.
fn signed(now: OffsetDateTime) -> Result<(RequestHead, Vec<u8>)> {
    let secret = Secret::new(SECRET.to_owned());
    let signer = Signer::new("AKIDEXAMPLE".to_owned(), secret, None, "us-east-1".to_owned());
    let mut request = UpstreamRequest {
        method: "PUT",
        host: HOST.to_owned(),
        path: "/uploads/2026/11/21/some-folder/photo%20one.jpg".to_owned(),
        query: Vec::new(),
        headers: vec![
            ("content-type".to_owned(), b"image/jpeg".to_vec()),
            ("x-amz-checksum-crc32".to_owned(), b"iQ5xHA==".to_vec()),
            ("x-amz-sdk-checksum-algorithm".to_owned(), b"CRC32".to_vec()),
            ("amz-sdk-invocation-id".to_owned(), b"e5a3c5f8-9a6c-4c2f-8f5e-0a2f9d1b7c11".to_vec()),
        ],
    };
    signer.sign(&mut request, PayloadHash::Unsigned, now);
    let mut head = format!("PUT {} HTTP/1.1\r\nHost: {HOST}\r\n", request.path).into_bytes();
    let mut canonical = format!("PUT\n{}\n\nhost:{HOST}\n", request.path).into_bytes();
    for (name, value) in &request.headers {
        head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        if name != "authorization" {
            canonical.extend([name.as_bytes(), b":", value, b"\n", name.as_bytes(), b";"].concat());
        }
    }
    head.extend(b"\r\n");
    canonical.extend(b"host\nUNSIGNED-PAYLOAD");
    Ok((RequestHead::parse(Bytes::from(head))?, canonical))
}
