//! The chain of signatures over an aws-chunked body: each over the chunk and the signature before.

use super::canonical::{hex_digits, unhex};
use super::key::hmac;
use crate::payload::ChunkVerify;
use crate::s3::error::{ErrorCode, S3Error};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// The SHA-256 of no bytes, which stands in each chunk's string to sign.
const SHA256_OF_NOTHING: &[u8; 64] =
    b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Signs chunks, as a client does; the verifier is this and a comparison.
#[derive(Clone)]
pub struct ChunkSigner {
    key: Zeroizing<[u8; 32]>,
    timestamp: String,
    scope: String,
    previous: [u8; 32],
}

impl std::fmt::Debug for ChunkSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkSigner(…)")
    }
}

impl ChunkSigner {
    /// The chain that begins with the head's signature.
    pub(super) fn new(
        key: Zeroizing<[u8; 32]>,
        timestamp: String,
        scope: String,
        seed: [u8; 32],
    ) -> Self {
        ChunkSigner { key, timestamp, scope, previous: seed }
    }

    /// The signature of the next chunk, given its SHA-256; the chain moves on.
    pub fn chunk(&mut self, sha256: &[u8; 32]) -> [u8; 32] {
        let parts: [&[u8]; 10] = [
            b"AWS4-HMAC-SHA256-PAYLOAD\n",
            self.timestamp.as_bytes(),
            b"\n",
            self.scope.as_bytes(),
            b"\n",
            &hex_digits(&self.previous),
            b"\n",
            SHA256_OF_NOTHING,
            b"\n",
            &hex_digits(sha256),
        ];
        self.previous = hmac(&self.key[..], &parts);
        self.previous
    }

    /// The signature of the trailers, given the SHA-256 of their canonical form.
    pub fn trailer(&mut self, sha256: &[u8; 32]) -> [u8; 32] {
        let parts: [&[u8]; 8] = [
            b"AWS4-HMAC-SHA256-TRAILER\n",
            self.timestamp.as_bytes(),
            b"\n",
            self.scope.as_bytes(),
            b"\n",
            &hex_digits(&self.previous),
            b"\n",
            &hex_digits(sha256),
        ];
        self.previous = hmac(&self.key[..], &parts);
        self.previous
    }

    /// The seed: the head's signature, from its hex form.
    pub fn seed_from_hex(text: &str) -> Option<[u8; 32]> {
        unhex(text)
    }
}

/// Verifies a body's chunks and trailers in constant time.
#[derive(Debug, Clone)]
pub struct ChunkVerifier(pub(super) ChunkSigner);

impl ChunkVerify for ChunkVerifier {
    fn verify_chunk(&mut self, sha256: &[u8; 32], signature: &[u8; 32]) -> Result<(), S3Error> {
        same(&self.0.chunk(sha256), signature)
    }

    fn verify_trailer(&mut self, sha256: &[u8; 32], signature: &[u8; 32]) -> Result<(), S3Error> {
        same(&self.0.trailer(sha256), signature)
    }
}

/// Compares decoded signatures in a time that tells nothing.
pub(super) fn same(expected: &[u8; 32], given: &[u8; 32]) -> Result<(), S3Error> {
    if bool::from(expected.ct_eq(given)) { Ok(()) } else { Err(mismatch()) }
}

pub(super) fn mismatch() -> S3Error {
    S3Error::new(
        ErrorCode::SignatureDoesNotMatch,
        "The request signature we calculated does not match the signature you provided. Check your \
         key and signing method.",
    )
}
