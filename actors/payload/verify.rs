//! A body of the copy path, verified on its way through.
//!
//! What a client says of its bytes (a hash, a checksum, a signature) is mostly proven only by the
//! last of them, when nearly all has gone to the backend. So the last block stays here until
//! [`BodyVerifier::finish`] has verified everything: a request that is short of its Content-Length
//! can be broken off, and no object comes of it. After an error nothing more is given out.
//!
//! A body of zero bytes has no block to keep: finish it before its head is sent.

use super::aws_chunked::{AwsChunkedDecoder, ChunkSigning, ChunkVerify};
use super::checksum::ChecksumAlgorithm;
use super::digests::Digests;
use super::pieces::Pieces;
use super::trailer::{Trailer, Trailers};
use crate::s3::error::{ErrorCode, S3Error};
use bytes::Bytes;
use std::collections::VecDeque;

/// Most bytes that are kept back of a large piece. One would do; some spare the backend a write of
/// one byte. Few, as the rest goes on while the processor's caches still hold it.
pub const MAX_HOLD_BACK: usize = 16 * 1024;

/// A last piece is cut only if it lets so many bytes go: a body of one piece stays one.
const MIN_RELEASE: usize = 64 * 1024;

/// How the payload is authenticated: what `x-amz-content-sha256` says of the body.
pub enum BodyMode {
    /// The bytes as they are; their SHA-256 if one was signed.
    Plain {
        /// None: UNSIGNED-PAYLOAD or absent.
        sha256: Option<[u8; 32]>,
    },
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD.
    SignedChunks(Box<dyn ChunkVerify + Send>),
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER.
    SignedChunksTrailer(Box<dyn ChunkVerify + Send>),
    /// STREAMING-UNSIGNED-PAYLOAD-TRAILER.
    UnsignedTrailer,
}

impl std::fmt::Debug for BodyMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BodyMode::Plain { sha256: None } => "Plain",
            BodyMode::Plain { sha256: Some(_) } => "Plain with SHA-256",
            BodyMode::SignedChunks(_) => "SignedChunks",
            BodyMode::SignedChunksTrailer(_) => "SignedChunksTrailer",
            BodyMode::UnsignedTrailer => "UnsignedTrailer",
        })
    }
}

/// How many bytes a payload has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadLength {
    /// As announced: x-amz-decoded-content-length, or Content-Length of a plain body.
    Exactly(u64),
    /// Nobody knows yet; more than this is 400 EntityTooLarge.
    AtMost(u64),
}

/// What is to be verified of one body.
#[derive(Debug)]
pub struct BodySpec {
    /// How the payload is authenticated.
    pub mode: BodyMode,
    /// Bytes of the payload. Of an aws-chunked body they are always announced.
    pub length: PayloadLength,
    /// `x-amz-trailer`, see [`super::parse_declared`]. Empty unless `mode` has trailers.
    pub trailers: Vec<ChecksumAlgorithm>,
    /// Checksums that came in headers and are verified here, digests of the algorithm's length.
    pub checksums: Vec<(ChecksumAlgorithm, Vec<u8>)>,
    /// Content-MD5, if it is verified here.
    pub md5: Option<[u8; 16]>,
}

/// Verifies one body. Sans I/O: push what was read, pop what may go on, finish at the end.
#[derive(Debug)]
pub struct BodyVerifier {
    /// None: a plain body. Taken when the body is finished.
    decoder: Option<AwsChunkedDecoder>,
    digests: Digests,
    /// Payload bytes still to come: exactly so many, or at most.
    left: PayloadLength,
    /// Verified as far as it can be by now; the last block is what is kept back.
    ready: VecDeque<Bytes>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Open,
    Verified(Trailers),
    Failed(S3Error),
}

impl BodyVerifier {
    /// A verifier at the first byte of a body.
    ///
    /// 400 InvalidRequest if trailers are declared for a body that has none.
    pub fn new(spec: BodySpec) -> Result<Self, S3Error> {
        let BodySpec { mode, length, trailers, checksums, md5 } = spec;
        let (PayloadLength::Exactly(decoded_length) | PayloadLength::AtMost(decoded_length)) =
            length;
        let digests = Digests::new(&mode, &trailers, checksums, md5);
        let chunked =
            |signing, declared| Some(AwsChunkedDecoder::new(signing, declared, decoded_length));
        let takes_trailers =
            matches!(mode, BodyMode::SignedChunksTrailer(_) | BodyMode::UnsignedTrailer);
        if !takes_trailers && !trailers.is_empty() {
            return Err(no_trailers());
        }
        let decoder = match mode {
            BodyMode::Plain { .. } => None,
            BodyMode::SignedChunks(verify) => chunked(ChunkSigning::Signed(verify), None),
            BodyMode::SignedChunksTrailer(verify) => {
                chunked(ChunkSigning::Signed(verify), Some(trailers))
            }
            BodyMode::UnsignedTrailer => chunked(ChunkSigning::Unsigned, Some(trailers)),
        };
        let ready = VecDeque::new();
        Ok(BodyVerifier { decoder, digests, left: length, ready, phase: Phase::Open })
    }

    /// Takes the next bytes of the body as they came (framed, if the body is). They are hashed
    /// here and now: the caller bounds how many it pushes between yields.
    ///
    /// Errors, all final: 400 IncompleteBody (longer than announced), InvalidChunkSizeError,
    /// MalformedTrailerError, InvalidRequest, 403 SignatureDoesNotMatch.
    pub fn push(&mut self, bytes: Bytes) -> Result<(), S3Error> {
        match &self.phase {
            Phase::Open => {}
            Phase::Failed(error) => return Err(error.clone()),
            Phase::Verified(_) if bytes.is_empty() => return Ok(()),
            Phase::Verified(_) => return Err(too_long()),
        }
        let taken = self.take(bytes);
        self.settle(taken)
    }

    /// The next payload that may go to the backend; None when there is none for now.
    ///
    /// Before [`BodyVerifier::finish`] the last block stays here: at least 1 byte of a payload that
    /// has any, at most [`MAX_HOLD_BACK`] of a piece that is worth cutting.
    pub fn pop(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Failed(_) => None,
            Phase::Verified(_) => self.ready.pop_front(),
            Phase::Open if self.ready.len() > 1 => self.ready.pop_front(),
            Phase::Open => {
                let last = self.ready.front_mut()?;
                let release = last.len().saturating_sub(MAX_HOLD_BACK);
                (release >= MIN_RELEASE).then(|| last.split_to(release))
            }
        }
    }

    /// The end of the body: verifies all that was announced, and lets the last block go.
    ///
    /// Returns the checksums that came as trailers. Errors, all final: 400 IncompleteBody (short),
    /// MalformedTrailerError, XAmzContentSHA256Mismatch, BadDigest, 403 SignatureDoesNotMatch.
    pub fn finish(&mut self) -> Result<Trailers, S3Error> {
        match &self.phase {
            Phase::Open => {}
            Phase::Failed(error) => return Err(error.clone()),
            Phase::Verified(trailers) => return Ok(trailers.clone()),
        }
        let verified = self.verify();
        let trailers = self.settle(verified)?;
        self.phase = Phase::Verified(trailers.clone());
        Ok(trailers)
    }

    /// Remembers an error, and drops what was kept back.
    fn settle<T>(&mut self, result: Result<T, S3Error>) -> Result<T, S3Error> {
        if let Err(error) = &result {
            self.phase = Phase::Failed(error.clone());
            self.ready.clear();
        }
        result
    }

    fn take(&mut self, mut bytes: Bytes) -> Result<(), S3Error> {
        let mut pieces = Pieces::default();
        loop {
            let block = match &mut self.decoder {
                Some(decoder) => decoder.decode(&mut bytes)?,
                None => Some(std::mem::take(&mut bytes)).filter(|block| !block.is_empty()),
            };
            let Some(block) = block else { break };
            self.left = self.left.less(block.len() as u64)?;
            self.digests.update(&block);
            pieces.push(block);
        }
        pieces.move_to(&mut self.ready);
        Ok(())
    }

    fn verify(&mut self) -> Result<Trailers, S3Error> {
        let trailers = match self.decoder.take() {
            Some(decoder) => decoder.finish()?,
            None => Vec::new(),
        };
        if matches!(self.left, PayloadLength::Exactly(1..)) {
            return Err(S3Error::new(
                ErrorCode::IncompleteBody,
                "The body ended before the number of bytes that was announced.",
            ));
        }
        std::mem::take(&mut self.digests).verify(&trailers)?;
        let name = |trailer: Trailer| (trailer.algorithm.header().to_owned(), trailer.value);
        Ok(trailers.into_iter().map(name).collect())
    }
}

impl PayloadLength {
    /// What is left after `bytes` more. 400 IncompleteBody or EntityTooLarge: less than nothing.
    fn less(self, bytes: u64) -> Result<Self, S3Error> {
        match self {
            PayloadLength::Exactly(left) => {
                left.checked_sub(bytes).map(PayloadLength::Exactly).ok_or_else(too_long)
            }
            PayloadLength::AtMost(left) => {
                left.checked_sub(bytes).map(PayloadLength::AtMost).ok_or_else(too_large)
            }
        }
    }
}

/// 400: trailers were announced for a body that has none.
pub fn no_trailers() -> S3Error {
    S3Error::new(
        ErrorCode::InvalidRequest,
        "x-amz-trailer needs a value of x-amz-content-sha256 that ends in -TRAILER.",
    )
}

fn too_large() -> S3Error {
    S3Error::new(ErrorCode::EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
}

fn too_long() -> S3Error {
    S3Error::new(ErrorCode::IncompleteBody, "The body is longer than was announced.")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::checksum::{Hasher, Md5};
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    /// A chain of signatures without a key: each is the hash of the one before and of the data's.
    #[derive(Clone, Default)]
    struct Chain([u8; 32]);

    impl Chain {
        fn next(&mut self, kind: &[u8], sha256: &[u8; 32]) -> [u8; 32] {
            self.0 = Sha256::digest([kind, &self.0, sha256].concat()).into();
            self.0
        }

        fn check(&mut self, kind: &[u8], hash: &[u8; 32], given: &[u8; 32]) -> Result<(), S3Error> {
            if self.next(kind, hash) == *given {
                return Ok(());
            }
            Err(S3Error::new(ErrorCode::SignatureDoesNotMatch, ""))
        }
    }

    impl ChunkVerify for Chain {
        fn verify_chunk(&mut self, hash: &[u8; 32], given: &[u8; 32]) -> Result<(), S3Error> {
            self.check(b"chunk", hash, given)
        }
        fn verify_trailer(&mut self, hash: &[u8; 32], given: &[u8; 32]) -> Result<(), S3Error> {
            self.check(b"trailer", hash, given)
        }
    }

    const CRC: ChecksumAlgorithm = ChecksumAlgorithm::Crc32;

    /// The four kinds of body, in the order of [`BodyMode`].
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Kind {
        Plain,
        Signed,
        SignedTrailer,
        UnsignedTrailer,
    }
    use Kind::{Plain, Signed, SignedTrailer, UnsignedTrailer};
    const KINDS: [Kind; 4] = [Plain, Signed, SignedTrailer, UnsignedTrailer];

    fn hex(bytes: [u8; 32]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn wire(kind: Kind, payload: &[u8], chunk: usize) -> Vec<u8> {
        if kind == Plain {
            return payload.to_vec();
        }
        let mut chain = Chain::default();
        let mut wire = Vec::new();
        for data in payload.chunks(chunk).chain([b"".as_slice()]) {
            wire.extend_from_slice(format!("{:x}", data.len()).as_bytes());
            if kind != UnsignedTrailer {
                let signature = hex(chain.next(b"chunk", &Sha256::digest(data).into()));
                wire.extend_from_slice(format!(";chunk-signature={signature}").as_bytes());
            }
            wire.extend_from_slice(b"\r\n");
            wire.extend_from_slice(data);
            wire.extend_from_slice(if data.is_empty() { b"" } else { b"\r\n" });
        }
        if kind != Signed {
            let mut crc = Hasher::new(CRC);
            crc.update(payload);
            let line = format!("{}:{}", CRC.header(), crc.finish_value());
            wire.extend_from_slice(format!("{line}\r\n").as_bytes());
            if kind == SignedTrailer {
                let canonical = Sha256::digest(format!("{line}\n")).into();
                let signature = hex(chain.next(b"trailer", &canonical));
                let line = format!("x-amz-trailer-signature:{signature}\r\n");
                wire.extend_from_slice(line.as_bytes());
            }
        }
        wire.extend_from_slice(b"\r\n");
        wire
    }

    fn spec(kind: Kind, payload: &[u8]) -> BodySpec {
        let chain = Box::new(Chain::default());
        let (mode, trailers) = match kind {
            Plain => (BodyMode::Plain { sha256: Some(Sha256::digest(payload).into()) }, vec![]),
            Signed => (BodyMode::SignedChunks(chain), vec![]),
            SignedTrailer => (BodyMode::SignedChunksTrailer(chain), vec![CRC]),
            UnsignedTrailer => (BodyMode::UnsignedTrailer, vec![CRC]),
        };
        let length = PayloadLength::Exactly(payload.len() as u64);
        BodySpec { mode, length, trailers, checksums: vec![], md5: None }
    }

    /// Pushes `wire` in pieces; the payload that came out and the outcome. Checks on the way that
    /// something is always kept back.
    fn run(spec: BodySpec, wire: &[u8], step: usize) -> (Vec<u8>, Result<Trailers, S3Error>) {
        let PayloadLength::Exactly(length) = spec.length else { panic!() };
        let mut verifier = BodyVerifier::new(spec).unwrap();
        let mut out = Vec::new();
        for piece in wire.chunks(step) {
            let pushed = verifier.push(Bytes::copy_from_slice(piece));
            while let Some(block) = verifier.pop() {
                assert!(!block.is_empty());
                out.extend_from_slice(&block);
            }
            assert!(length == 0 || (out.len() as u64) < length, "nothing was kept back");
            if let Err(error) = pushed {
                assert_eq!(verifier.finish(), Err(error.clone()));
                return (out, Err(error));
            }
        }
        let outcome = verifier.finish();
        while let Some(block) = verifier.pop() {
            out.extend_from_slice(&block);
        }
        assert_eq!(verifier.finish(), outcome);
        (out, outcome)
    }

    fn code(spec: BodySpec, wire: &[u8]) -> String {
        run(spec, wire, usize::MAX).1.unwrap_err().code.into_owned()
    }

    #[test]
    fn trailers_are_returned_once_verified() {
        for kind in [SignedTrailer, UnsignedTrailer] {
            let (out, outcome) = run(spec(kind, b"123456789"), &wire(kind, b"123456789", 9), 5);
            assert_eq!(out, b"123456789");
            assert_eq!(outcome.unwrap(), [(CRC.header().to_owned(), "y/Q5Jg==".to_owned())]);
        }
    }

    #[test]
    fn what_differs_from_its_digest_is_refused() {
        let plain = || spec(Plain, b"hello");
        assert_eq!(code(plain(), b"hellO"), "XAmzContentSHA256Mismatch");
        let unsigned = || BodySpec { mode: BodyMode::Plain { sha256: None }, ..plain() };
        assert_eq!(code(BodySpec { md5: Some([0; 16]), ..unsigned() }, b"hello"), "BadDigest");
        for algorithm in ChecksumAlgorithm::ALL {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"hello");
            let digest = hasher.finish();
            let with = || BodySpec { checksums: vec![(algorithm, digest.clone())], ..unsigned() };
            assert!(run(with(), b"hello", 2).1.is_ok());
            assert_eq!(code(with(), b"hellO"), "BadDigest");
        }
        let mut md5 = Md5::new();
        md5.update(b"hello");
        assert!(run(BodySpec { md5: Some(md5.finish()), ..unsigned() }, b"hello", 2).1.is_ok());
        let forged = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        assert_eq!(code(spec(UnsignedTrailer, b"hello"), forged), "BadDigest");
    }

    #[test]
    fn a_body_is_as_long_as_announced() {
        assert_eq!(code(spec(Plain, b"hello"), b"hell"), "IncompleteBody");
        assert_eq!(code(spec(Plain, b"hello"), b"hello!"), "IncompleteBody");
        for kind in [Signed, SignedTrailer, UnsignedTrailer] {
            let whole = wire(kind, b"hello", 9);
            let cut = whole.iter().rposition(|&byte| byte == b'0').unwrap();
            let end = whole.windows(2).position(|pair| pair == b"o\r").unwrap() + 3;
            assert!(cut >= end);
            assert_eq!(code(spec(kind, b"hello"), &whole[..end]), "IncompleteBody");
        }
    }

    #[test]
    fn a_body_of_unknown_length_ends_where_it_ends_and_is_bounded() {
        let most = |most| BodySpec { length: PayloadLength::AtMost(most), ..spec(Plain, b"hello") };
        for limit in [5, 6] {
            assert_eq!(
                BodyVerifier::new(most(limit))
                    .map(|mut verifier| {
                        verifier.push(Bytes::from_static(b"hello")).unwrap();
                        verifier.finish()
                    })
                    .unwrap(),
                Ok(vec![])
            );
        }
        let mut verifier = BodyVerifier::new(most(4)).unwrap();
        let error = verifier.push(Bytes::from_static(b"hello")).unwrap_err();
        assert_eq!(error.code, "EntityTooLarge");
    }

    #[test]
    fn chunks_are_neither_reordered_nor_replayed() {
        let payload: Vec<u8> = (0..3 * 8192u32).map(|at| (at / 8192) as u8).collect();
        let good = wire(Signed, &payload, 8192);
        let chunk = good.windows(2).position(|pair| pair == b"\r\n").unwrap() + 8192 + 4;
        let (first, rest) = good.split_at(chunk);
        let (second, rest) = rest.split_at(chunk);
        for bad in [[second, first, rest].concat(), [first, first, rest].concat()] {
            assert_eq!(code(spec(Signed, &payload), &bad), "SignatureDoesNotMatch");
        }
        assert!(run(spec(Signed, &payload), &good, 1000).1.is_ok());
    }

    #[test]
    fn trailers_need_a_mode_that_has_them() {
        for kind in [Plain, Signed] {
            let spec = BodySpec { trailers: vec![CRC], ..spec(kind, b"") };
            assert_eq!(BodyVerifier::new(spec).unwrap_err().code, "InvalidRequest");
        }
    }

    #[test]
    fn the_last_block_is_kept_back_and_bounded() {
        let payload = vec![7u8; MIN_RELEASE + MAX_HOLD_BACK];
        let mut verifier = BodyVerifier::new(spec(Plain, &payload)).unwrap();
        verifier.push(Bytes::from(payload)).unwrap();
        assert_eq!(verifier.pop().map(|block| block.len()), Some(MIN_RELEASE));
        assert_eq!(verifier.pop(), None);
        verifier.finish().unwrap();
        assert_eq!(verifier.pop().map(|block| block.len()), Some(MAX_HOLD_BACK));
        assert_eq!(verifier.pop(), None);
    }

    #[test]
    fn tiny_chunks_are_gathered() {
        let payload = [5u8; 3000];
        let mut verifier = BodyVerifier::new(spec(UnsignedTrailer, &payload)).unwrap();
        verifier.push(Bytes::from(wire(UnsignedTrailer, &payload, 1))).unwrap();
        verifier.finish().unwrap();
        assert_eq!(verifier.pop().map(|block| block.len()), Some(3000));
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop::sample::select(KINDS.to_vec())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_result(
            kind in kinds(),
            payload in prop::collection::vec(any::<u8>(), 0..20_000),
            step in 1usize..9000,
        ) {
            let wire = wire(kind, &payload, 8192);
            let (out, outcome) = run(spec(kind, &payload), &wire, step);
            prop_assert_eq!(outcome.map(|trailers| trailers.len()),
                Ok(usize::from(matches!(kind, SignedTrailer | UnsignedTrailer))));
            prop_assert_eq!(out, payload);
        }

        /// A flipped bit anywhere is an error, or (the case of a hexadecimal digit, say) leaves the
        /// payload as it was.
        #[test]
        fn a_mutated_byte_never_gives_another_payload(
            kind in kinds(),
            payload in prop::collection::vec(any::<u8>(), 1..200),
            chunk in 1usize..300,
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let chunk = if kind == UnsignedTrailer { chunk } else { payload.len() };
            let mut wire = wire(kind, &payload, chunk);
            let at = at.index(wire.len());
            wire[at] ^= flip;
            let (out, outcome) = run(spec(kind, &payload), &wire, 64);
            if outcome.is_ok() {
                prop_assert_eq!(out, payload);
            } else {
                prop_assert!(out.len() < payload.len());
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(
            kind in kinds(),
            wire in prop::collection::vec(any::<u8>(), 0..300),
            step in 1usize..40,
        ) {
            let _ = run(spec(kind, b"0123456789"), &wire, step);
        }

        #[test]
        fn bytes_of_the_grammar_do_not_panic(
            kind in kinds(),
            wire in "([0-3a;:\r\n]|;chunk-signature=|x-amz-checksum-crc32:){0,40}",
            step in 1usize..40,
        ) {
            let _ = run(spec(kind, b"0123456789"), wire.as_bytes(), step);
        }
    }
}
