//! Bodies in aws-chunked that are rightly signed, but for one byte.

use super::{noon, signer, verifier};
use bytes::Bytes;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::payload::{
    BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, Hasher, PayloadLength,
};
use mizuchi_actors::sigv4::{ChunkSigner, ChunkVerifier, Hosts, PayloadHash, UpstreamRequest};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// Bytes of the chunks but for the last: the least that a signed one may have.
const CHUNK: usize = 8 * 1024;

const CRC: ChecksumAlgorithm = ChecksumAlgorithm::Crc32;

/// The chain of a signed head, as its signer and as its verifier have it.
fn chains() -> (ChunkSigner, ChunkVerifier) {
    static CHAINS: OnceLock<(ChunkSigner, ChunkVerifier)> = OnceLock::new();
    let made = CHAINS.get_or_init(|| {
        let mut request = UpstreamRequest {
            method: "PUT",
            host: "h".into(),
            path: "/uploads/k".into(),
            query: Vec::new(),
            headers: Vec::new(),
        };
        let chain = signer().sign(&mut request, PayloadHash::SignedChunksTrailer, noon());
        let raw = super::write(&request, "");
        let head = RequestHead::parse(Bytes::from(raw)).expect("a good head");
        let verified = verifier().verify(&head, &Hosts::new(vec!["h".into()]), noon());
        (chain, verified.expect("a good signature").chunks.expect("signed chunks"))
    });
    made.clone()
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Signed,
    SignedTrailer,
    UnsignedTrailer,
}

fn wire(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let (mut chain, _) = chains();
    let mut wire = Vec::with_capacity(payload.len() + 1024);
    for data in payload.chunks(CHUNK).chain([b"".as_slice()]) {
        wire.extend(format!("{:x}", data.len()).bytes());
        if kind != Kind::UnsignedTrailer {
            let signature = hex(chain.chunk(&Sha256::digest(data).into()));
            wire.extend(format!(";chunk-signature={signature}").bytes());
        }
        wire.extend(b"\r\n");
        wire.extend(data);
        wire.extend(if data.is_empty() { b"".as_slice() } else { b"\r\n" });
    }
    if kind != Kind::Signed {
        let mut crc = Hasher::new(CRC);
        crc.update(payload);
        let line = format!("{}:{}", CRC.header(), crc.finish_value());
        wire.extend(format!("{line}\r\n").bytes());
        if kind == Kind::SignedTrailer {
            let signature = chain.trailer(&Sha256::digest(format!("{line}\n")).into());
            wire.extend(format!("x-amz-trailer-signature:{}\r\n", hex(signature)).bytes());
        }
    }
    wire.extend(b"\r\n");
    wire
}

/// Builds a signed body from the input, changes one byte of it, and reads it: what comes out is the
/// payload that was signed, or an error and less than the whole of it.
pub(super) fn tampered(step: usize, data: &[u8]) {
    let [kind, at_high, at_low, flip, ref seed @ ..] = *data else { return };
    let (kind, trailers) = match kind % 3 {
        0 => (Kind::Signed, vec![]),
        1 => (Kind::SignedTrailer, vec![CRC]),
        _ => (Kind::UnsignedTrailer, vec![CRC]),
    };
    // None, or one whole chunk before a short one.
    let mut payload = if kind == Kind::Signed { vec![b'a'; CHUNK] } else { Vec::new() };
    payload.extend_from_slice(seed);
    let mut wire = wire(kind, &payload);
    let at = (usize::from(at_high) << 8 | usize::from(at_low)) % wire.len();
    wire[at] ^= flip;

    let (_, chain) = chains();
    let mode = match kind {
        Kind::Signed => BodyMode::SignedChunks(Box::new(chain)),
        Kind::SignedTrailer => BodyMode::SignedChunksTrailer(Box::new(chain)),
        Kind::UnsignedTrailer => BodyMode::UnsignedTrailer,
    };
    let length = PayloadLength::Exactly(payload.len() as u64);
    let spec = BodySpec { mode, length, trailers, checksums: vec![], md5: None };
    let mut verifier = BodyVerifier::new(spec).expect("the spec is sound");
    let mut out = Vec::new();
    let pushed = wire.chunks(step * 16).try_for_each(|piece| {
        verifier.push(Bytes::copy_from_slice(piece))?;
        out.extend(std::iter::from_fn(|| verifier.pop()).flatten());
        Ok(())
    });
    let result = pushed.and_then(|()| verifier.finish());
    assert!(payload.is_empty() || out.len() < payload.len(), "the end is held back");
    if kind != Kind::UnsignedTrailer {
        assert!(payload.starts_with(&out), "nobody signed that");
    }
    out.extend(std::iter::from_fn(|| verifier.pop()).flatten());
    match result {
        Ok(_) => assert!(out == payload, "another payload was accepted"),
        Err(error) => {
            assert!(flip != 0, "an untouched body is refused: {error}");
            assert!(payload.is_empty() || out.len() < payload.len(), "all of it came out");
        }
    }
}
