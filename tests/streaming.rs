//! security.md, "Streaming bodies (aws-chunked)", and R16: what a client says of its bytes must hold.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::payload;
use crate::support::streamed::Streamed;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Digest as _;
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use mizuchi_actors::platform::ZERO_COPY;
use mizuchi_actors::sigv4::PayloadHash;
use sha2::Sha256;

/// A gateway that verifies everything itself.
async fn pair() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__BUCKETS__0__S3__VERIFIES", "")
        .start()
        .await;
    (backend, gateway)
}

const ALGORITHMS: [ChecksumAlgorithm; 5] = ChecksumAlgorithm::ALL;

#[tokio::test]
async fn all_three_modes_arrive_decoded() {
    let (backend, gateway) = pair().await;
    for length in [0, 1, 65536, 65536 + 1024, (1 << 20) + 7] {
        let body = payload(length);
        let mut cases = vec![Streamed::new("signed", PayloadHash::SignedChunks, &body)];
        for algorithm in ALGORITHMS {
            let name = algorithm.header();
            let unsigned = Streamed::new(&format!("u-{name}"), PayloadHash::UnsignedTrailer, &body);
            cases.push(unsigned.with_trailer(algorithm));
            let signed =
                Streamed::new(&format!("s-{name}"), PayloadHash::SignedChunksTrailer, &body);
            cases.push(signed.with_trailer(algorithm));
        }
        for case in cases {
            let answer = case.send(&gateway).await;
            assert_eq!(answer.status, 200, "{} {length}: {}", case.key, answer.text());
            assert_eq!(backend.object(&case.key).unwrap(), body, "{} {length}", case.key);
        }
    }
    gateway.settled().await;
}

#[tokio::test]
async fn every_attack_on_the_framing_is_refused_and_leaves_no_object() {
    let (backend, gateway) = pair().await;
    let body = payload(200_000);
    let signed = Streamed::new("k", PayloadHash::SignedChunks, &body);
    let unsigned = Streamed::new("k", PayloadHash::UnsignedTrailer, &body)
        .with_trailer(ChecksumAlgorithm::Crc32);
    let with = |base: &Streamed, spoil: fn(&mut Streamed)| {
        let mut spoiled = base.clone();
        spoil(&mut spoiled);
        spoiled
    };
    for (name, case, status, code) in [
        ("final chunk missing", with(&signed, |s| s.last_chunk = false), 400, "IncompleteBody"),
        ("no decoded length", with(&signed, |s| s.decoded = None), 411, "MissingContentLength"),
        (
            "a bad decoded length",
            with(&signed, |s| s.decoded = Some("+5".into())),
            411,
            "MissingContentLength",
        ),
        (
            "decoded length too small",
            with(&signed, |s| s.decoded = Some("199999".into())),
            400,
            "IncompleteBody",
        ),
        (
            "decoded length too large",
            with(&signed, |s| s.decoded = Some("200001".into())),
            400,
            "IncompleteBody",
        ),
        (
            "small chunk first",
            with(&signed, |s| s.chunks.insert(0, vec![1; 100])),
            400,
            "InvalidChunkSizeError",
        ),
        (
            "trailer wrong",
            with(&unsigned, |s| s.trailer = Some((ChecksumAlgorithm::Crc32, "AAAAAA==".into()))),
            400,
            "BadDigest",
        ),
        (
            "trailer malformed",
            with(&unsigned, |s| s.trailer = Some((ChecksumAlgorithm::Crc32, "!".into()))),
            400,
            "MalformedTrailerError",
        ),
        ("trailer not declared", with(&unsigned, |s| s.declared = None), 400, "InvalidRequest"),
        ("trailer missing", with(&unsigned, |s| s.trailer = None), 400, "MalformedTrailerError"),
    ] {
        let answer = case.send(&gateway).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{name}: {}",
            answer.text()
        );
        assert_eq!(backend.object("k"), None, "{name}");
    }
    let host = gateway.address.to_string();
    let (head, good) = signed.wire(&host);
    let text = |needle: &[u8]| good.windows(needle.len()).position(|w| w == needle).unwrap();
    let mut bad_signature = good.clone();
    let at = text(b"chunk-signature=") + 20;
    bad_signature[at] = if bad_signature[at] == b'0' { b'1' } else { b'0' };
    let mut endless = b"10000".to_vec();
    endless.resize(good.len(), b';');
    let huge = [b"ffffffffffffffff;chunk-signature=".as_slice(), &good[33..]].concat();
    // The first two chunks change places, signatures and all: sizes stay the same.
    let frame = text(b"\r\n") + 2 + 65536 + 2;
    let swapped = [&good[frame..2 * frame], &good[..frame], &good[2 * frame..]].concat();
    // The second chunk is the first once more.
    let replayed = [&good[..frame], &good[..frame], &good[2 * frame..]].concat();
    for (name, body, codes) in [
        ("bad chunk signature", bad_signature, ["SignatureDoesNotMatch", ""]),
        ("chunks reordered", swapped, ["SignatureDoesNotMatch", ""]),
        ("chunk replayed", replayed, ["SignatureDoesNotMatch", ""]),
        ("endless size line", endless, ["InvalidChunkSizeError", "IncompleteBody"]),
        ("huge size", huge, ["InvalidChunkSizeError", "IncompleteBody"]),
    ] {
        let mut client = Client::connect(&gateway).await;
        let answer = client.raw(&head, &body).await;
        assert!(codes.contains(&answer.code().as_str()), "{name}: {}", answer.text());
        assert_eq!(backend.object("k"), None, "{name}");
    }
    assert_eq!(backend.open_uploads(), 0);
    gateway.settled().await;
}

/// "bad chunk or trailer signature: 403 SignatureDoesNotMatch": another checksum under the signature,
/// another signature, and none.
#[tokio::test]
async fn a_trailer_that_was_not_signed_is_refused() {
    let (backend, gateway) = pair().await;
    let case = Streamed::new("k", PayloadHash::SignedChunksTrailer, &payload(100_000))
        .with_trailer(ChecksumAlgorithm::Crc32);
    let (head, good) = case.wire(&gateway.address.to_string());
    let mark = b"x-amz-trailer-signature:";
    let at = good.windows(mark.len()).position(|window| window == mark).unwrap();
    let mut other = good.clone();
    // Another digit, and another character of base64: a flipped bit might be neither.
    let digit = &mut other[at + mark.len()];
    *digit = if *digit == b'0' { b'1' } else { b'0' };
    let none = [&good[..at], b"\r\n"].concat();
    let mut checksum = good.clone();
    let first = &mut checksum[at - 10];
    *first = if *first == b'A' { b'B' } else { b'A' };
    // Content-Length is not signed here: it is made to fit.
    let (announced, fits) = (good.len(), |length| format!("Content-Length: {length}\r\n"));
    let head = String::from_utf8(head).unwrap();
    for (name, body, code) in [
        ("another signature", other, "SignatureDoesNotMatch"),
        ("no signature", none, "SignatureDoesNotMatch"),
        ("another checksum", checksum, "SignatureDoesNotMatch"),
        ("the good one", good, ""),
    ] {
        let head = head.replace(&fits(announced), &fits(body.len()));
        let answer = Client::connect(&gateway).await.raw(head.as_bytes(), &body).await;
        assert_eq!(answer.code(), code, "{name}: {}", answer.text());
        assert_eq!(backend.object("k").is_some(), code.is_empty(), "{name}");
    }
}

/// The head with a signature that its key never made.
fn forged(head: &[u8]) -> Vec<u8> {
    let head = std::str::from_utf8(head).unwrap();
    let at = head.find("Signature=").unwrap() + 10;
    format!("{}{}{}", &head[..at], "0".repeat(64), &head[at + 64..]).into_bytes()
}

/// "unsigned-trailer with a forged seed signature: PUT, UploadPart, batch: 403
/// SignatureDoesNotMatch"; and in the other modes. (Batches are not served: 501.)
#[tokio::test]
async fn a_forged_seed_signature_is_refused() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let part = vec![("partNumber".to_owned(), "1".to_owned()), ("uploadId".to_owned(), id.clone())];
    for (mode, trailer) in [
        (PayloadHash::UnsignedTrailer, true),
        (PayloadHash::SignedChunks, false),
        (PayloadHash::SignedChunksTrailer, true),
    ] {
        for query in [Vec::new(), part.clone()] {
            let mut case = Streamed::new("k", mode, &payload(100_000));
            if trailer {
                case = case.with_trailer(ChecksumAlgorithm::Crc32);
            }
            case.query = query;
            let (head, body) = case.wire(&host);
            let mut client = Client::connect(&gateway).await;
            let answer = client.raw(&forged(&head), &body).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"));
            assert_eq!(backend.object("k"), None);
        }
    }
    let listed = client.send(Request::method("GET", "k").query("uploadId", &id), b"").await;
    assert_eq!((listed.status, listed.text().contains("<PartNumber>")), (200, false));
    assert_eq!(backend.open_uploads(), 1);
}

/// The same attacks on a part: "Every route that takes a body goes through it".
#[tokio::test]
async fn an_attacked_part_is_refused_and_not_there() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let body = payload(100_000);
    let part = |mode| {
        let query = [("partNumber", "1"), ("uploadId", id.as_str())];
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Streamed { query, ..Streamed::new("k", mode, &body) }
    };
    let unsigned = part(PayloadHash::UnsignedTrailer).with_trailer(ChecksumAlgorithm::Crc32);
    let signed = part(PayloadHash::SignedChunks);
    let wrong = Some((ChecksumAlgorithm::Crc32, "AAAAAA==".to_owned()));
    for (name, case, status, code) in [
        ("trailer wrong", Streamed { trailer: wrong, ..unsigned.clone() }, 400, "BadDigest"),
        ("not declared", Streamed { declared: None, ..unsigned }, 400, "InvalidRequest"),
        ("no final chunk", Streamed { last_chunk: false, ..signed.clone() }, 400, "IncompleteBody"),
        ("no length", Streamed { decoded: None, ..signed.clone() }, 411, "MissingContentLength"),
    ] {
        let answer = case.send(&gateway).await;
        let text = answer.text();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{name}: {text}");
    }
    let (head, mut wire) = signed.wire(&gateway.address.to_string());
    let middle = wire.len() / 2;
    wire[middle] ^= 1;
    let answer = Client::connect(&gateway).await.raw(&head, &wire).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"));
    let listed = client.send(Request::method("GET", "k").query("uploadId", &id), b"").await;
    assert_eq!((listed.status, listed.text().contains("<PartNumber>")), (200, false));
    assert_eq!((backend.object("k"), backend.open_uploads()), (None, 1));
    gateway.settled().await;
}

/// R16: "payload bit flips under SHA-256, MD5, CRC, chunk signature, trailer: 0 objects, the exact
/// code".
#[tokio::test]
async fn flipped_bits_never_become_objects() {
    let (backend, gateway) = pair().await;
    let body = payload(150_000);
    let sha256: [u8; 32] = Sha256::digest(&body).into();
    let md5 = STANDARD.encode(md5::Md5::digest(&body));
    let mut crc = Hasher::new(ChecksumAlgorithm::Crc32c);
    crc.update(&body);
    let crc = crc.finish_value();
    let rounds = crate::support::times(40, 2000);
    for round in 0..rounds {
        let at = round * 3_701 % body.len();
        let bit = 1u8 << (round % 8);
        let mut flipped = body.clone();
        flipped[at] ^= bit;
        let put = || Request::put("k", flipped.len());
        for (request, code) in [
            (put().payload(PayloadHash::Hash(sha256)), "XAmzContentSHA256Mismatch"),
            (put().header("content-md5", &md5), "BadDigest"),
            (put().header("x-amz-checksum-crc32c", &crc), "BadDigest"),
        ] {
            let mut client = Client::connect(&gateway).await;
            let answer = client.send(request, &flipped).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, code), "{}", answer.text());
        }
        let host = gateway.address.to_string();
        for (case, code) in [
            (Streamed::new("k", PayloadHash::SignedChunks, &body), "SignatureDoesNotMatch"),
            (
                Streamed::new("k", PayloadHash::UnsignedTrailer, &body)
                    .with_trailer(ChecksumAlgorithm::Sha256),
                "BadDigest",
            ),
        ] {
            let (head, mut wire) = case.wire(&host);
            // A byte of the payload, wherever the framing has put it.
            let needle = &body[at..(at + 16).min(body.len())];
            let Some(place) = wire.windows(needle.len()).position(|window| window == needle) else {
                continue;
            };
            wire[place] ^= bit;
            let mut client = Client::connect(&gateway).await;
            let answer = client.raw(&head, &wire).await;
            assert_eq!(answer.code(), code, "{}", answer.text());
        }
        assert_eq!(backend.object("k"), None);
    }
    gateway.settled().await;
}

/// "`aws-chunked` stored as Content-Encoding: never", also when the framing stands inside of
/// Transfer-Encoding: chunked.
#[tokio::test]
async fn both_framings_at_once_are_undone() {
    let (backend, gateway) = pair().await;
    let body = payload(100_000);
    let mut case = Streamed::new("k", PayloadHash::UnsignedTrailer, &body)
        .with_trailer(ChecksumAlgorithm::Crc64Nvme);
    case.headers = vec![("content-encoding", "aws-chunked,gzip")];
    let (head, inner) = case.wire(&gateway.address.to_string());
    let head = String::from_utf8(head).unwrap();
    let head: String = head
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("Content-Length"))
        .collect::<String>()
        .replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut wire = Vec::new();
    for piece in inner.chunks(10_007) {
        wire.extend(format!("{:X}\r\n", piece.len()).as_bytes());
        wire.extend(piece);
        wire.extend(b"\r\n");
    }
    wire.extend(b"0\r\n\r\n");
    let mut client = Client::connect(&gateway).await;
    let answer = client.raw(head.as_bytes(), &wire).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("k").unwrap(), body);
    // The connection goes on: the framing ended exactly where it should.
    let answer = client.send(Request::put("next", 3), b"abc").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A backend that takes trailers (`s3.verifies: [trailer]`) gets the body framed again, with the
/// checksum to store; a restart sends the same frames.
#[tokio::test]
async fn trailers_go_on_to_a_backend_that_takes_them() {
    let backend = Backend::start().await;
    let proxy = crate::support::proxy::Proxy::start(backend.s3.address).await;
    let gateway = Setup::new(&backend, proxy.address)
        .env("MIZUCHI__BUCKETS__0__S3__VERIFIES", "trailer")
        .start()
        .await;
    // Where nothing tells what a socket's buffer still held, a body must not fit into buffers.
    let large = if ZERO_COPY { 3 << 20 } else { 24 << 20 };
    for length in [1000, 65536, 300_000, large + 5] {
        let body = payload(length);
        for (mode, key) in [
            (PayloadHash::UnsignedTrailer, "unsigned"),
            (PayloadHash::SignedChunksTrailer, "signed"),
        ] {
            // A smaller one would be delivered whole before the reset: ambiguous, not replayable.
            if length > 2 << 20 {
                proxy.script([crate::support::proxy::Fault::ResetAfter(length / 3)]);
            }
            let case = Streamed::new(key, mode, &body).with_trailer(ChecksumAlgorithm::Crc32);
            let answer = case.send(&gateway).await;
            assert_eq!(answer.status, 200, "{key} {length}: {}", answer.text());
            assert_eq!(backend.object(key).unwrap(), body, "{key} {length}");
            let crc = case.trailer.unwrap().1;
            assert_eq!(answer.header("x-amz-checksum-crc32"), Some(crc), "{key} {length}");
        }
    }
    gateway.settled().await;
}
