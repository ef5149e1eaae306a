//! The request that every connection sends: its signed head, and its body as it goes over the wire.

use crate::Result;
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::{ChunkSigner, PayloadHash, Signer, UpstreamRequest};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// The credential that all subjects know.
pub(crate) const ACCESS_KEY: &str = "BENCHBENCHBENCHBENCH";
/// Its secret.
pub(crate) const SECRET_KEY: &str = "a secret of the bench, long enough to be one";
/// The bucket that all subjects serve.
pub(crate) const BUCKET: &str = "uploads";

/// Bodies below it go out in one write with their head.
const SMALL: u64 = 64 << 10;
/// A longer body is this much, over and over: it is more than the caches of a core hold.
const REPEATED: u64 = 64 << 20;

/// How the payload travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Plan {
    /// As it is, unsigned, in a request without a signature.
    Raw,
    /// As it is: UNSIGNED-PAYLOAD.
    Plain,
    /// The same, sent only after 100 Continue (RFC 9110, 10.1.1), as SDKs and aws-cli do.
    Expecting,
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD in chunks of so many bytes.
    SignedChunks(u64),
    /// STREAMING-UNSIGNED-PAYLOAD-TRAILER with x-amz-checksum-crc32.
    TrailerCrc32,
    /// The same with x-amz-checksum-crc64nvme.
    TrailerCrc64,
}

impl Plan {
    fn trailer(self) -> Option<ChecksumAlgorithm> {
        match self {
            Plan::TrailerCrc32 => Some(ChecksumAlgorithm::Crc32),
            Plan::TrailerCrc64 => Some(ChecksumAlgorithm::Crc64Nvme),
            Plan::Raw | Plan::Plain | Plan::Expecting | Plan::SignedChunks(_) => None,
        }
    }
}

/// Where a body's bytes are.
pub(super) enum Body {
    /// Behind the head.
    InFirst,
    /// To be sent by sendfile(2), from its start again when it is over.
    File { file: File, length: u64 },
    /// To be encrypted, from its start again when it is over.
    Memory(Vec<u8>),
}

pub(super) struct Template {
    plan: Plan,
    size: u64,
    host: String,
    tls: bool,
    first: Vec<u8>,
    body: Body,
    length: u64,
    signed: Instant,
}

impl Template {
    pub(super) fn new(plan: Plan, size: u64, target: SocketAddr, tls: bool) -> Result<Template> {
        let (host, signed) = (target.to_string(), Instant::now());
        let (first, body) = (Vec::new(), Body::InFirst);
        let mut template = Template { plan, size, host, tls, first, body, length: 0, signed };
        template.sign()?;
        Ok(template)
    }

    /// What is sent first.
    pub(super) fn first(&self) -> &[u8] {
        &self.first
    }

    pub(super) fn body(&self) -> &Body {
        &self.body
    }

    /// Whether the body is to wait for 100 Continue.
    pub(super) fn expects(&self) -> bool {
        self.plan == Plan::Expecting
    }

    /// Bytes of head and body.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How long ago it was signed.
    pub(super) fn age(&self) -> Duration {
        self.signed.elapsed()
    }

    /// Signs the request, as of now.
    pub(super) fn sign(&mut self) -> Result<()> {
        self.signed = Instant::now();
        let mut request = UpstreamRequest {
            method: "PUT",
            host: self.host.clone(),
            path: format!("/{BUCKET}/bench/object"),
            query: Vec::new(),
            headers: Vec::new(),
        };
        let framed = matches!(self.plan, Plan::SignedChunks(_)) || self.plan.trailer().is_some();
        if framed {
            let mut add = |name: &str, value: String| {
                request.headers.push((name.to_owned(), value.into_bytes()));
            };
            add("content-encoding", "aws-chunked".to_owned());
            add("x-amz-decoded-content-length", self.size.to_string());
            if let Some(algorithm) = self.plan.trailer() {
                add("x-amz-trailer", algorithm.header().to_owned());
            }
        }
        if self.expects() {
            request.headers.push(("expect".to_owned(), b"100-continue".to_vec()));
        }
        let hash = match self.plan {
            Plan::Raw | Plan::Plain | Plan::Expecting => PayloadHash::Unsigned,
            Plan::SignedChunks(_) => PayloadHash::SignedChunks,
            Plan::TrailerCrc32 | Plan::TrailerCrc64 => PayloadHash::UnsignedTrailer,
        };
        let chunks = (self.plan != Plan::Raw)
            .then(|| signer().sign(&mut request, hash, OffsetDateTime::now_utc()));
        let body = match (self.plan, chunks) {
            (Plan::SignedChunks(size), Some(chunks)) => signed_chunks(self.size, size, chunks),
            (plan, _) => match plan.trailer() {
                Some(algorithm) => with_trailer(self.size, algorithm),
                None => payload(self.size.min(REPEATED)),
            },
        };
        let length = if framed { body.len() as u64 } else { self.size };
        self.first = head(&request, length)?;
        self.length = self.first.len() as u64 + length;
        let is_small = length < SMALL;
        self.body = if is_small {
            self.first.extend(&body);
            Body::InFirst
        } else if self.tls {
            Body::Memory(body)
        } else {
            let mut file = File::from(memfd_create("body", MFdFlags::MFD_CLOEXEC)?);
            file.write_all(&body)?;
            Body::File { file, length: body.len() as u64 }
        };
        Ok(())
    }
}

fn signer() -> Signer {
    let secret = Secret::new(SECRET_KEY.to_owned());
    Signer::new(ACCESS_KEY.to_owned(), secret, None, "us-east-1".to_owned())
}

fn head(request: &UpstreamRequest, length: u64) -> Result<Vec<u8>> {
    let mut head = format!("PUT {} HTTP/1.1\r\nHost: {}\r\n", request.path, request.host);
    for (name, value) in &request.headers {
        write!(head, "{name}: {}\r\n", std::str::from_utf8(value)?)?;
    }
    write!(head, "content-length: {length}\r\n\r\n")?;
    Ok(head.into_bytes())
}

/// Bytes that do not repeat soon (xorshift64).
fn payload(size: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size as usize + 8);
    while (bytes.len() as u64) < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size as usize);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>
fn signed_chunks(size: u64, chunk: u64, mut signer: ChunkSigner) -> Vec<u8> {
    let payload = payload(size);
    let mut body = Vec::with_capacity(payload.len() + payload.len() / 100 + 1024);
    let empty: &[u8] = b"";
    for piece in payload.chunks(chunk.max(1) as usize).chain([empty]) {
        let signature = hex(&signer.chunk(&Sha256::digest(piece).into()));
        body.extend(format!("{:x};chunk-signature={signature}\r\n", piece.len()).as_bytes());
        body.extend(piece);
        body.extend(b"\r\n");
    }
    body
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html>; chunks of 64 KiB.
fn with_trailer(size: u64, algorithm: ChecksumAlgorithm) -> Vec<u8> {
    let payload = payload(size);
    let mut hasher = Hasher::new(algorithm);
    hasher.update(&payload);
    let mut body = Vec::with_capacity(payload.len() + payload.len() / 100 + 1024);
    for piece in payload.chunks(64 << 10) {
        body.extend(format!("{:x}\r\n", piece.len()).as_bytes());
        body.extend(piece);
        body.extend(b"\r\n");
    }
    let value = hasher.finish_value();
    body.extend(format!("0\r\n{}:{value}\r\n\r\n", algorithm.header()).as_bytes());
    body
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn target() -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }

    #[test]
    fn a_small_request_is_one_piece_and_a_large_one_has_a_file() {
        let template = Template::new(Plan::Plain, 4096, target(), false).unwrap();
        assert!(matches!(template.body(), Body::InFirst));
        assert_eq!(template.length(), template.first().len() as u64);
        let template = Template::new(Plan::Raw, 1 << 40, target(), false).unwrap();
        assert!(matches!(template.body(), Body::File { length: REPEATED, .. }));
        assert_eq!(template.length(), template.first().len() as u64 + (1 << 40));
        assert!(!template.first().windows(13).any(|bytes| bytes == b"authorization"));
    }

    #[test]
    fn chunks_are_framed_to_the_announced_length() {
        let template = Template::new(Plan::SignedChunks(100), 250, target(), false).unwrap();
        let text = template.first().to_vec();
        let at = text.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let signature = ";chunk-signature=".len() + 64 + 4;
        assert_eq!(text.len() - at, 250 + (2 + signature) * 3 + 1 + signature);
        assert!(text.ends_with(b"\r\n\r\n"));
    }
}
