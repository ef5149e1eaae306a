//! `cargo bench --bench payload`: what it costs to undo aws-chunked and to verify what the client said
//! of its bytes, over memory, as a ratio to the one hash or checksum that cannot be done without.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use mizuchi_actors::blocks::BLOCK;
use mizuchi_actors::payload::{
    BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, ChunkVerify, Hasher, PayloadLength,
};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::{ChunkSigner, PayloadHash, Signer, UpstreamRequest};
use sha2::{Digest as _, Sha256};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use time::OffsetDateTime;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Payload bytes of one measurement: more than the first two levels of a processor's caches.
const SIZE: usize = 16 << 20;

const KIB: usize = 1024;

/// What is compared: one measurement, the one it is held against, and the ratio to stay under.
const RATIOS: [(&str, &str, f64); 7] = [
    ("signed_64k", "sha256", 1.05),
    ("signed_1m", "sha256", 1.05),
    ("trailer_crc32", "crc32", 1.25),
    ("trailer_crc32c", "crc32c", 1.25),
    ("trailer_crc64nvme", "crc64nvme", 1.25),
    ("trailer_sha256", "sha256", 1.05),
    ("signed_trailer_crc32", "sha256", 1.1),
];

const TRAILERS: [(&str, ChecksumAlgorithm); 4] = [
    ("crc32", ChecksumAlgorithm::Crc32),
    ("crc32c", ChecksumAlgorithm::Crc32c),
    ("crc64nvme", ChecksumAlgorithm::Crc64Nvme),
    ("sha256", ChecksumAlgorithm::Sha256),
];

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let payload: Vec<u8> = (0..SIZE).map(|at| (at * 31 + at / 251) as u8).collect();
    let mut group = criterion.benchmark_group("payload");
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(20);
    for (name, algorithm) in TRAILERS {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut hasher = Hasher::new(algorithm);
                payload.chunks(BLOCK).for_each(|piece| hasher.update(black_box(piece)));
                hasher.finish()
            });
        });
        let wire = unsigned(&payload, algorithm);
        let spec = || spec(BodyMode::UnsignedTrailer, vec![algorithm]);
        push(spec(), &wire)?;
        group.bench_function(format!("trailer_{name}"), |bencher| {
            bencher.iter(|| push(spec(), black_box(&wire)).is_ok());
        });
    }
    for (name, chunk) in [("signed_64k", 64 * KIB), ("signed_1m", KIB * KIB)] {
        let (wire, chain) = signed(&payload, chunk, None);
        let spec = || spec(BodyMode::SignedChunks(Box::new(chain.clone())), Vec::new());
        push(spec(), &wire)?;
        group.bench_function(name, |bencher| {
            bencher.iter(|| push(spec(), black_box(&wire)).is_ok());
        });
    }
    let algorithm = ChecksumAlgorithm::Crc32;
    let (wire, chain) = signed(&payload, 64 * KIB, Some(algorithm));
    let spec = || spec(BodyMode::SignedChunksTrailer(Box::new(chain.clone())), vec![algorithm]);
    push(spec(), &wire)?;
    group.bench_function("signed_trailer_crc32", |bencher| {
        bencher.iter(|| push(spec(), black_box(&wire)).is_ok());
    });
    group.finish();
    criterion.final_summary();
    println!("\n| what | beside | ratio | goal |\n|---|---|---|---|");
    for (one, other, goal) in RATIOS {
        let ratio = median(one)? / median(other)?;
        println!("| {one} | {other} | {ratio:.2} | ≤ {goal} |");
    }
    Ok(())
}

/// The client's side of a chain of signatures, and the verifier's.
#[derive(Clone)]
struct Chain(ChunkSigner);

impl Chain {
    fn check(made: [u8; 32], given: &[u8; 32]) -> std::result::Result<(), S3Error> {
        if made == *given {
            return Ok(());
        }
        Err(S3Error::new(ErrorCode::SignatureDoesNotMatch, "the bench signs wrongly"))
    }
}

impl ChunkVerify for Chain {
    fn verify_chunk(
        &mut self,
        sha256: &[u8; 32],
        signature: &[u8; 32],
    ) -> std::result::Result<(), S3Error> {
        Self::check(self.0.chunk(sha256), signature)
    }

    fn verify_trailer(
        &mut self,
        sha256: &[u8; 32],
        signature: &[u8; 32],
    ) -> std::result::Result<(), S3Error> {
        Self::check(self.0.trailer(sha256), signature)
    }
}

fn spec(mode: BodyMode, trailers: Vec<ChecksumAlgorithm>) -> BodySpec {
    let length = PayloadLength::Exactly(SIZE as u64);
    BodySpec { mode, length, trailers, checksums: Vec::new(), md5: None }
}

/// A body as the copy path verifies it: in pieces of a block.
fn push(spec: BodySpec, wire: &Bytes) -> Result<()> {
    let told = |error: S3Error| error.message.into_owned();
    let mut verifier = BodyVerifier::new(spec).map_err(told)?;
    let mut out = 0;
    for begin in (0..wire.len()).step_by(BLOCK) {
        verifier.push(wire.slice(begin..wire.len().min(begin + BLOCK))).map_err(told)?;
        out += std::iter::from_fn(|| verifier.pop()).map(|piece| piece.len()).sum::<usize>();
    }
    verifier.finish().map_err(told)?;
    out += std::iter::from_fn(|| verifier.pop()).map(|piece| piece.len()).sum::<usize>();
    if out == SIZE { Ok(()) } else { Err("the payload is not whole".into()) }
}

fn checksum_line(payload: &[u8], algorithm: ChecksumAlgorithm) -> String {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(payload);
    format!("{}:{}", algorithm.header(), hasher.finish_value())
}

/// STREAMING-UNSIGNED-PAYLOAD-TRAILER, in chunks of 64 KiB.
fn unsigned(payload: &[u8], algorithm: ChecksumAlgorithm) -> Bytes {
    let mut wire = Vec::new();
    for chunk in payload.chunks(64 * KIB) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    let line = checksum_line(payload, algorithm);
    wire.extend_from_slice(format!("0\r\n{line}\r\n\r\n").as_bytes());
    wire.into()
}

/// STREAMING-AWS4-HMAC-SHA256-PAYLOAD, with `trailer` …-TRAILER; and the chain at its beginning.
fn signed(payload: &[u8], size: usize, trailer: Option<ChecksumAlgorithm>) -> (Bytes, Chain) {
    let secret = Secret::new("a secret of the bench".to_owned());
    let signer = Signer::new("BENCH".to_owned(), secret, None, "us-east-1".to_owned());
    let mut request = UpstreamRequest {
        method: "PUT",
        host: "localhost".to_owned(),
        path: "/bucket/key".to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
    };
    let mut chain = signer.sign(&mut request, PayloadHash::Unsigned, OffsetDateTime::now_utc());
    let first = Chain(chain.clone());
    let mut wire = Vec::new();
    for chunk in payload.chunks(size).chain([&[][..]]) {
        let signature = hex(&chain.chunk(&Sha256::digest(chunk).into()));
        let header = format!("{:x};chunk-signature={signature}\r\n", chunk.len());
        wire.extend_from_slice(header.as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(if chunk.is_empty() { b"" } else { b"\r\n" });
    }
    if let Some(algorithm) = trailer {
        let line = checksum_line(payload, algorithm);
        let signature = hex(&chain.trailer(&Sha256::digest(format!("{line}\n")).into()));
        let lines = format!("{line}\r\nx-amz-trailer-signature:{signature}\r\n");
        wire.extend_from_slice(lines.as_bytes());
    }
    wire.extend_from_slice(b"\r\n");
    (wire.into(), first)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The median that criterion has just written down, nanoseconds.
fn median(name: &str) -> Result<f64> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
    let file = target.join("criterion/payload").join(name).join("new/estimates.json");
    let text =
        std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text)?;
    Ok(estimates["median"]["point_estimate"].as_f64().ok_or("no median")?)
}
