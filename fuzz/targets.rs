//! The fuzz targets' bodies: bytes in, properties checked, a panic is a finding. libFuzzer calls
//! them (`fuzz_targets/`), and so do the tests, over the kept corpora and mutations of them.

use bytes::{Bytes, BytesMut};
use mizuchi_actors::backend::ResponseHead;
use mizuchi_actors::http::{RequestHead, expects_continue, framing, wants_close};
use mizuchi_actors::payload::{BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, PayloadLength};
use mizuchi_actors::s3::address::{BucketAddress, Router};
use mizuchi_actors::s3::headers::{self, Permissions};
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::upload_id::UploadIdSealer;
use mizuchi_actors::s3::xml;
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::PayloadHash;
use mizuchi_actors::sigv4::{Credential, Credentials, Hosts, Signer, UpstreamRequest, Verifier};
use mizuchi_actors::tap::chunked::{ChunkedDecoder, Decoded};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;
use time::OffsetDateTime;

/// A target's name and body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them, by the names of their corpora.
pub const TARGETS: [Target; 9] = [
    ("head", head),
    ("chunked", chunked),
    ("aws_chunked", aws_chunked),
    ("authorization", authorization),
    ("presigned", presigned),
    ("xml", xml_documents),
    ("settings", settings),
    ("response", response),
    ("upload_id", upload_id),
];

/// A request's head, through everything that reads one: parser, framing, router, operation, headers.
pub fn head(data: &[u8]) {
    let Ok(parsed) = RequestHead::parse(Bytes::copy_from_slice(data)) else { return };
    let _ = (framing(&parsed), expects_continue(&parsed), wants_close(&parsed));
    // A second parser of the same bytes reads the same.
    let again = RequestHead::parse(parsed.raw().clone()).expect("what parsed once parses again");
    assert_eq!(parsed.target(), again.target());
    assert_eq!(parsed.headers().count(), again.headers().count());
    let buckets = vec![
        BucketAddress { name: "uploads".into(), path_prefix: "/uploads".into() },
        BucketAddress { name: "inner".into(), path_prefix: "/uploads/inner".into() },
    ];
    let router = Router::new(buckets, vec!["s3.example.com".into()]);
    let Ok(address) = router.resolve(&parsed) else { return };
    let Ok(operation) = Operation::parse(&parsed, &address.key) else { return };
    if let Some(key) = operation.key() {
        assert!((1..=1024).contains(&key.as_str().len()));
        assert!(!key.as_str().contains('\0'));
    }
    let all = Permissions { acl: true, tagging: true, lock: true, redirect: true };
    for (name, value) in headers::plan(&parsed, &operation, &all).into_iter().flatten() {
        assert!(!name.contains(['\r', '\n', ':', ' ']), "{name:?}");
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        let mut codings = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let framing = codings.any(|coding| coding.eq_ignore_ascii_case(b"aws-chunked"));
        assert!(name != "content-encoding" || !framing, "the framing is stored");
    }
}

/// The chunked transfer coding: however it is cut, the payload and the end are the same.
pub fn chunked(data: &[u8]) {
    let (step, data) = cut(data);
    let decode = |step: usize| {
        let mut decoder = ChunkedDecoder::new();
        let (mut input, mut out, mut fed) = (BytesMut::new(), Vec::new(), 0);
        loop {
            match decoder.decode(&mut input, usize::MAX) {
                Ok(Decoded::Data(bytes)) => {
                    assert!(!bytes.is_empty());
                    out.extend_from_slice(&bytes);
                }
                Ok(Decoded::End) => return (out, Ok(Some(fed - input.len()))),
                Err(error) => return (out, Err(error)),
                Ok(Decoded::NeedMore) if fed == data.len() => return (out, Ok(None)),
                Ok(Decoded::NeedMore) => {
                    let next = data.len().min(fed + step);
                    input.extend_from_slice(&data[fed..next]);
                    fed = next;
                }
            }
        }
    };
    assert_eq!(decode(step), decode(data.len().max(1)));
}

/// A body on the copy path, in each mode: however it is cut, the outcome is the same; nothing but the
/// whole payload comes out of a success, and never all of it before the end is verified.
pub fn aws_chunked(data: &[u8]) {
    let (step, data) = cut(data);
    let Some((&kind, wire)) = data.split_first() else { return };
    let run = |step: usize| {
        let (mode, trailers) = match kind % 4 {
            0 => (BodyMode::Plain { sha256: None }, vec![]),
            1 => (BodyMode::SignedChunks(Box::new(Recorder)), vec![]),
            2 => {
                (BodyMode::SignedChunksTrailer(Box::new(Recorder)), vec![ChecksumAlgorithm::Crc32])
            }
            _ => (BodyMode::UnsignedTrailer, vec![ChecksumAlgorithm::Crc32]),
        };
        let length = PayloadLength::Exactly(u64::from(kind / 4));
        let spec = BodySpec { mode, length, trailers, checksums: vec![], md5: None };
        let mut verifier = BodyVerifier::new(spec).expect("the spec is sound");
        let mut out = Vec::new();
        for piece in wire.chunks(step) {
            if let Err(error) = verifier.push(Bytes::copy_from_slice(piece)) {
                assert!(verifier.pop().is_none(), "nothing comes out after an error");
                return (Vec::new(), Err(error.code));
            }
            while let Some(block) = verifier.pop() {
                out.extend_from_slice(&block);
            }
            assert!(kind / 4 == 0 || out.len() < usize::from(kind / 4), "the end is held back");
        }
        let end = verifier.finish();
        while let Some(block) = verifier.pop() {
            out.extend_from_slice(&block);
        }
        match end {
            Ok(trailers) => {
                assert_eq!(out.len(), usize::from(kind / 4));
                (out, Ok(trailers))
            }
            // How much had come out before depends on the cuts.
            Err(error) => (Vec::new(), Err(error.code)),
        }
    };
    assert_eq!(run(step), run(wire.len().max(1)));
}

/// Takes every chunk's signature for right.
struct Recorder;

impl mizuchi_actors::payload::ChunkVerify for Recorder {
    fn verify_chunk(
        &mut self,
        _: &[u8; 32],
        _: &[u8; 32],
    ) -> Result<(), mizuchi_actors::s3::error::S3Error> {
        Ok(())
    }

    fn verify_trailer(
        &mut self,
        _: &[u8; 32],
        _: &[u8; 32],
    ) -> Result<(), mizuchi_actors::s3::error::S3Error> {
        Ok(())
    }
}

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let known = Credential {
            access_key: "AKIDEXAMPLE".into(),
            secret_key: Secret::new("secret".into()),
            principal: "someone".into(),
        };
        let skew = Duration::from_secs(900);
        Verifier::new("us-east-1".into(), skew, Credentials::new([known]))
    })
}

fn noon() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time")
}

/// An Authorization header and whatever stands around it: nobody without the key is let in.
pub fn authorization(data: &[u8]) {
    let mut raw = b"PUT /uploads/k HTTP/1.1\r\nhost: h\r\nx-amz-date: 20270115T080000Z\r\n\
        x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nauthorization: "
        .to_vec();
    raw.extend_from_slice(data);
    raw.extend_from_slice(b"\r\n\r\n");
    refused(&raw);
    refused(data);
    altered(data);
}

/// The query of a presigned URL.
pub fn presigned(data: &[u8]) {
    let mut raw = b"PUT /uploads/k?".to_vec();
    raw.extend_from_slice(data);
    raw.extend_from_slice(b" HTTP/1.1\r\nhost: h\r\n\r\n");
    refused(&raw);
}

fn refused(raw: &[u8]) {
    let Ok(head) = RequestHead::parse(Bytes::copy_from_slice(raw)) else { return };
    let verified = verifier().verify(&head, &Hosts::new(vec!["h".into()]), noon());
    assert!(verified.is_err(), "let in without the key");
}

/// A rightly signed head of which one byte is changed: refused, or the change means nothing (the case
/// of a header's name, white space around a value).
fn altered(data: &[u8]) {
    let [at_high, at_low, flip, ..] = *data else { return };
    static SIGNED: OnceLock<Vec<u8>> = OnceLock::new();
    let signed = SIGNED.get_or_init(|| {
        let secret = Secret::new("secret".into());
        let signer = Signer::new("AKIDEXAMPLE".into(), secret, None, "us-east-1".into());
        let mut request = UpstreamRequest {
            method: "PUT",
            host: "h".into(),
            path: "/uploads/k".into(),
            query: vec![("partNumber".into(), "1".into()), ("uploadId".into(), "u".into())],
            headers: vec![("x-amz-meta-a".into(), b"b c".to_vec())],
        };
        signer.sign(&mut request, PayloadHash::Unsigned, noon());
        let mut raw = b"PUT /uploads/k?partNumber=1&uploadId=u HTTP/1.1\r\nhost: h\r\n".to_vec();
        for (name, value) in &request.headers {
            raw.extend_from_slice(name.as_bytes());
            raw.extend_from_slice(b": ");
            raw.extend_from_slice(value);
            raw.extend_from_slice(b"\r\n");
        }
        raw.extend_from_slice(b"\r\n");
        raw
    });
    let hosts = Hosts::new(vec!["h".into()]);
    let parse = |raw: &[u8]| RequestHead::parse(Bytes::copy_from_slice(raw));
    let whole = parse(signed).expect("a good head");
    assert!(verifier().verify(&whole, &hosts, noon()).is_ok(), "the untouched head is let in");
    let mut bad = signed.clone();
    let at = (usize::from(at_high) << 8 | usize::from(at_low)) % bad.len();
    bad[at] ^= flip;
    let Ok(head) = parse(&bad) else { return };
    // As the gateway does it: the candidates come from the request itself.
    let hosts = Hosts::new(head.header("host").map(str::to_owned).into_iter().collect());
    if verifier().verify(&head, &hosts, noon()).is_ok() {
        let lower = |head: &RequestHead| -> Vec<(String, Vec<u8>)> {
            let mut all: Vec<_> = head
                .headers()
                .map(|(name, value)| (name.to_ascii_lowercase(), squeeze(value)))
                .filter(|(name, _)| name != "authorization")
                .collect();
            all.sort();
            all
        };
        assert_eq!((head.method(), head.target()), (whole.method(), whole.target()));
        assert_eq!(lower(&head), lower(&whole), "another request was let in");
    }
}

/// SigV4's own view of a value: trimmed, runs of spaces as one.
fn squeeze(value: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> =
        value.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
    words.join(&b' ')
}

/// The documents that come from clients and backends.
pub fn xml_documents(data: &[u8]) {
    if let Ok(complete) = xml::parse_complete(data) {
        assert!((1..=10_000).contains(&complete.parts.len()));
        assert!(complete.parts.windows(2).all(|two| two[0].number < two[1].number));
    }
    let _ = (xml::parse_error(data), xml::parse_initiate(data), xml::parse_completed(data));
    if let Ok(once) = xml::rewrite(data, "Root", &[("Key", "k<&>"), ("Bucket", "b")]) {
        let twice = xml::rewrite(&once, "Root", &[("Key", "k<&>"), ("Bucket", "b")]);
        assert_eq!(twice.as_deref(), Ok(once.as_slice()), "a rewrite is stable");
    }
}

/// A settings file, and a variable: whatever is wrong is an error with its key.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (variable, file) = text.split_once('\u{1}').unwrap_or(("", &text));
    let mut environment = BTreeMap::new();
    if let Some((name, value)) = variable.split_once('=') {
        environment.insert(format!("MIZUCHI__{name}"), value.to_owned());
    }
    if let Err(errors) = mizuchi::settings::load_text(file, &environment) {
        assert!(!errors.to_string().trim().is_empty());
    }
}

/// A backend's answer.
pub fn response(data: &[u8]) {
    for to_head in [false, true] {
        if let Ok(head) = ResponseHead::parse(data, to_head) {
            assert!((100..=599).contains(&head.status));
            assert!(head.headers.iter().all(|(name, _)| *name == name.to_ascii_lowercase()));
        }
    }
}

/// A sealed uploadId opens only if it was sealed here.
pub fn upload_id(data: &[u8]) {
    let sealer = UploadIdSealer::new([7; 32]);
    let text = String::from_utf8_lossy(data);
    assert!(sealer.open(&text, "b", "k", "p").is_err());
}

/// The first byte chooses the size of the pieces.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((&step, rest)) => (usize::from(step).max(1), rest),
        None => (1, data),
    }
}
