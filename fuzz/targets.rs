//! The fuzz targets' bodies: bytes in, properties checked, a panic is a finding. libFuzzer calls
//! them (`fuzz_targets/`), and so do the tests, over the kept corpora and mutations of them.

#[path = "targets/archive.rs"]
mod archive;
#[path = "targets/form.rs"]
mod form;
#[path = "targets/framing.rs"]
mod framing;
#[path = "targets/streams.rs"]
mod streams;

use bytes::{Bytes, BytesMut};
use mizuchi_actors::backend::ResponseHead;
use mizuchi_actors::http::{self, RequestHead, expects_continue, wants_close};
use mizuchi_actors::payload::{BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, PayloadLength};
use mizuchi_actors::s3::address::{BucketAddress, Router};
use mizuchi_actors::s3::headers::{self, Permissions};
use mizuchi_actors::s3::names::{self, BackendUploadId};
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
pub const TARGETS: [Target; 11] = [
    ("head", head),
    ("chunked", chunked),
    ("aws_chunked", aws_chunked),
    ("authorization", authorization),
    ("presigned", presigned),
    ("xml", xml_documents),
    ("settings", settings),
    ("response", response),
    ("upload_id", upload_id),
    ("post_form", post_form),
    ("archive", archive),
];

/// A request's head, through everything that reads one: parser, framing, router, operation, headers.
pub fn head(data: &[u8]) {
    framing::scanned(cut(data).0, data);
    let Ok(parsed) = RequestHead::parse(Bytes::copy_from_slice(data)) else { return };
    let _ = (http::framing(&parsed), expects_continue(&parsed), wants_close(&parsed));
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
    if matches!(operation, Operation::PutObject { .. }) {
        assert!(!parsed.has("x-amz-copy-source"));
        // Nothing in the query says that another operation is meant.
        for pair in parsed.query().split('&').filter(|pair| !pair.is_empty()) {
            let name = names::decode(pair.split('=').next().unwrap_or_default()).expect("decodes");
            let lower = name.to_ascii_lowercase();
            let signing = ["AWSAccessKeyId", "Expires", "Signature", "x-id"];
            assert!(signing.contains(&name.as_str()) || lower.starts_with("x-amz-"), "{name}");
        }
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
    streams::tampered(step, data);
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
            session_token: None,
            grants: Default::default(),
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
    altered(&signed()[0], data);
}

/// The query of a presigned URL.
pub fn presigned(data: &[u8]) {
    let mut raw = b"PUT /uploads/k?".to_vec();
    raw.extend_from_slice(data);
    raw.extend_from_slice(b" HTTP/1.1\r\nhost: h\r\n\r\n");
    refused(&raw);
    altered(&signed()[1], data);
}

fn refused(raw: &[u8]) {
    let Ok(head) = RequestHead::parse(Bytes::copy_from_slice(raw)) else { return };
    let verified = verifier().verify(&head, &Hosts::new(vec!["h".into()]), noon());
    assert!(verified.is_err(), "let in without the key");
}

fn signer() -> Signer {
    let secret = Secret::new("secret".into());
    Signer::new("AKIDEXAMPLE".into(), secret, None, "us-east-1".into())
}

/// The head of a request as it is sent; `query` is as it is.
fn write(request: &UpstreamRequest, query: &str) -> Vec<u8> {
    let mark = if query.is_empty() { "" } else { "?" };
    let line = format!("PUT {}{mark}{query} HTTP/1.1\r\nhost: h\r\n", request.path);
    let mut raw = line.into_bytes();
    for (name, value) in &request.headers {
        raw.extend_from_slice(format!("{name}: ").as_bytes());
        raw.extend_from_slice(value);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n");
    raw
}

/// Two rightly signed heads: with an Authorization header, and presigned.
fn signed() -> &'static [Vec<u8>; 2] {
    static SIGNED: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    SIGNED.get_or_init(|| {
        let mut request = UpstreamRequest {
            method: "PUT",
            host: "h".into(),
            path: "/uploads/k".into(),
            query: vec![("partNumber".into(), "1".into()), ("uploadId".into(), "u".into())],
            headers: vec![("x-amz-meta-a".into(), b"b c".to_vec())],
        };
        let query = signer().presign(&request, Duration::from_secs(3600), noon());
        let presigned = write(&request, &query);
        signer().sign(&mut request, PayloadHash::Unsigned, noon());
        [write(&request, "partNumber=1&uploadId=u"), presigned]
    })
}

/// A rightly signed head of which some bytes are changed, or into which some are put: refused, or the
/// change means nothing (the case of a header's name, white space around a value).
fn altered(signed: &[u8], data: &[u8]) {
    let hosts = Hosts::new(vec!["h".into()]);
    // As the tap does it: a head in doubt (two Host lines) gets no further.
    let parse = |raw: &[u8]| {
        let head = RequestHead::parse(Bytes::copy_from_slice(raw)).ok()?;
        http::framing(&head).is_ok().then_some(head)
    };
    let whole = parse(signed).expect("a good head");
    assert!(verifier().verify(&whole, &hosts, noon()).is_ok(), "the untouched head is let in");
    let [at_high, at_low, flip, ref inserted @ ..] = *data else { return };
    let at = (usize::from(at_high) << 8 | usize::from(at_low)) % signed.len();
    let mut flipped = signed.to_vec();
    flipped[at] ^= flip;
    let grown = [&signed[..at], inserted, &signed[at..]].concat();
    for bad in [flipped, grown] {
        let Some(head) = parse(&bad) else { continue };
        // As the gateway does it: the candidates come from the request itself.
        let hosts = Hosts::new(head.header("host").map(str::to_owned).into_iter().collect());
        if verifier().verify(&head, &hosts, noon()).is_ok() {
            assert_eq!(meaning(&head), meaning(&whole), "another request was let in");
        }
    }
}

/// What a signature is over: method, path, query, host and the headers that S3 acts on.
fn meaning(head: &RequestHead) -> impl PartialEq + std::fmt::Debug {
    let decoded = |text| names::decode(text).expect("a signed query decodes");
    let pairs = head.query().split('&').filter(|pair| !pair.is_empty());
    let mut query: Vec<_> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        // In this spelling only: another one would be a parameter that nobody signed.
        .filter(|(name, _)| *name != "X-Amz-Signature")
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    query.sort();
    let mut headers: Vec<_> = head
        .headers()
        .map(|(name, value)| (name.to_ascii_lowercase(), squeeze(value)))
        .filter(|(name, _)| name == "host" || name.starts_with("x-amz-"))
        .collect();
    headers.sort();
    (head.method().to_owned(), names::decode(head.path()).expect("decodes"), query, headers)
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
    let load = || mizuchi::settings::load_text(file, &environment);
    match (load(), load()) {
        (Ok(loaded), Ok(again)) => {
            assert!(!loaded.settings.buckets.is_empty());
            let shown = format!("{:?}", loaded.settings);
            assert_eq!(shown, format!("{:?}", again.settings), "the same twice");
        }
        (Err(errors), Err(again)) => {
            assert!(errors.errors().iter().all(|error| !error.key.is_empty()));
            assert_eq!(errors.to_string(), again.to_string(), "the same twice");
        }
        _ => panic!("once an error, once none"),
    }
}

/// A backend's answer.
pub fn response(data: &[u8]) {
    framing::answered(cut(data).0, data);
    for to_head in [false, true] {
        if let Ok(head) = ResponseHead::parse(data, to_head) {
            assert!((100..=599).contains(&head.status));
            assert!(head.headers.iter().all(|(name, _)| *name == name.to_ascii_lowercase()));
        }
    }
}

/// A sealed uploadId opens only as it was sealed here, and only for what it was sealed for.
pub fn upload_id(data: &[u8]) {
    let sealer = UploadIdSealer::new([7; 32]);
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    assert!(sealer.open(text, "b", "k", "p").is_err());
    let id = BackendUploadId::new(text.to_owned());
    let Ok(sealed) = sealer.seal(&id, "b", text, "p", [9; 24]) else { return };
    assert!(sealer.open(&sealed, "b", text, "p").is_ok_and(|opened| opened == id));
    for (bucket, key, principal) in [("c", text, "p"), ("b", text, "q"), (text, "b", "p")] {
        if (bucket, key) != ("b", text) || principal != "p" {
            assert!(sealer.open(&sealed, bucket, key, principal).is_err());
        }
    }
    let [at, with, ..] = *data else { return };
    let at = usize::from(at) % sealed.len();
    let changed = [&sealed[..at], &char::from(with).to_string(), &sealed[at + 1..]].concat();
    assert!(changed == sealed || sealer.open(&changed, "b", text, "p").is_err());
}

/// A browser's form: its body, its policy, and the PUT that it becomes.
pub fn post_form(data: &[u8]) {
    let (step, data) = cut(data);
    form::taken_apart(step, data);
}

/// An archive whose files are to become objects.
pub fn archive(data: &[u8]) {
    archive::looked_through(data);
}

/// The first byte chooses the size of the pieces.
fn cut(data: &[u8]) -> (usize, &[u8]) {
    match data.split_first() {
        Some((&step, rest)) => (usize::from(step).max(1), rest),
        None => (1, data),
    }
}
