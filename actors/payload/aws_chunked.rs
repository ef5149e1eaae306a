//! The aws-chunked content coding, in its three modes, decoded and verified chunk by chunk.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>
//!
//! ```text
//! 10000;chunk-signature=<64 hex>\r\n  <65536 bytes> \r\n
//! 0;chunk-signature=<64 hex>\r\n
//! [x-amz-checksum-crc32:<base64>\r\n  [x-amz-trailer-signature:<64 hex>\r\n]]
//! \r\n
//! ```
//!
//! A signed chunk is kept until its signature has been checked: bytes that nobody vouched for never
//! leave this module. That is why its size has an upper bound. Payload goes through as slices of
//! what was read; only tiny pieces of a signed chunk are gathered, so that a slow client's chunk is
//! not held as thousands of slices.

use super::checksum::ChecksumAlgorithm;
use super::pieces::Pieces;
use super::trailer::{Trailer, TrailerSection, parse_signature};
use crate::s3::error::{ErrorCode, S3Error};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;

/// Most bytes of a chunk's header line or of a trailer line, line end included. A signed header
/// takes under 110; the rest is room that an endless line cannot outgrow.
pub const MAX_LINE: usize = 4 * 1024;

/// Least bytes of a signed chunk that is not the last non-empty one. S3: "The size of each chunk of
/// data except the last must be at least 8 KB".
pub const MIN_SIGNED_CHUNK: u64 = 8 * 1024;

/// Most bytes of a signed chunk: it is held in memory until it is verified. SDKs send 64 KiB to
/// 1 MiB.
pub const MAX_SIGNED_CHUNK: u64 = 16 * 1024 * 1024;

/// Most digits of a chunk's size: 16 always fit an unsigned 64-bit number.
const MAX_SIZE_DIGITS: usize = 16;

/// What stands before the signature in a signed chunk's header.
const SIGNATURE_EXTENSION: &[u8] = b"chunk-signature=";

/// Checks the chain of signatures of one body. Each call moves the chain on.
pub trait ChunkVerify {
    /// Checks the signature of the next chunk, the final empty one included.
    ///
    /// `sha256` is that of the chunk's data. 403 SignatureDoesNotMatch if it is not the right one.
    fn verify_chunk(&mut self, sha256: &[u8; 32], signature: &[u8; 32]) -> Result<(), S3Error>;

    /// Checks the signature of the trailers, after the final chunk.
    ///
    /// `sha256` is that of the canonical trailers: `name:value\n` each, in the order sent. 403
    /// SignatureDoesNotMatch if it is not the right one.
    fn verify_trailer(&mut self, sha256: &[u8; 32], signature: &[u8; 32]) -> Result<(), S3Error>;
}

/// How the chunks of a body are authenticated.
pub(super) enum ChunkSigning {
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD and, with trailers, …-PAYLOAD-TRAILER.
    Signed(Box<dyn ChunkVerify + Send>),
    /// STREAMING-UNSIGNED-PAYLOAD-TRAILER.
    Unsigned,
}

/// A signed chunk on its way in.
struct Held {
    signature: [u8; 32],
    sha256: Sha256,
}

enum State {
    /// In a header line.
    Header,
    /// In a chunk's data. Invariant: `left > 0`.
    Data { left: u64 },
    /// In the CRLF after the data.
    DataEnd,
    /// After the final chunk's header.
    Trailers,
}

/// Decodes one body. Sans I/O. After an error it must not be used again.
pub(super) struct AwsChunkedDecoder {
    signing: ChunkSigning,
    trailers: TrailerSection,
    state: State,
    /// The line being read, up to [`MAX_LINE`].
    line: Vec<u8>,
    /// Decoded bytes that no header has announced yet.
    unannounced: u64,
    /// The signed chunk being read.
    held: Option<Held>,
    /// Its data.
    unverified: Pieces,
    /// Data of verified chunks, on its way out.
    verified: VecDeque<Bytes>,
    /// A chunk under [`MIN_SIGNED_CHUNK`] went by: no non-empty one may follow.
    short_seen: bool,
}

impl AwsChunkedDecoder {
    /// A decoder of a body without trailers (`declared: None`) or with those that `x-amz-trailer`
    /// declared.
    ///
    /// `decoded_length`: x-amz-decoded-content-length, bytes.
    pub(super) fn new(
        signing: ChunkSigning,
        declared: Option<Vec<ChecksumAlgorithm>>,
        decoded_length: u64,
    ) -> Self {
        let signed = declared.is_some() && matches!(signing, ChunkSigning::Signed(_));
        AwsChunkedDecoder {
            signing,
            trailers: TrailerSection::new(declared.unwrap_or_default(), signed),
            state: State::Header,
            line: Vec::new(),
            unannounced: decoded_length,
            held: None,
            unverified: Pieces::default(),
            verified: VecDeque::new(),
            short_seen: false,
        }
    }

    /// Takes the next payload from the front of `input`, never empty; None when all of `input` is
    /// consumed. Of a signed body it is (a piece of) a chunk that was verified as a whole.
    ///
    /// Errors: 400 InvalidChunkSizeError, IncompleteBody, MalformedTrailerError, InvalidRequest,
    /// 403 SignatureDoesNotMatch.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, S3Error> {
        loop {
            if let Some(payload) = self.verified.pop_front() {
                return Ok(Some(payload));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let payload = match self.state {
                State::Header => {
                    if self.fill_line(input)? {
                        self.header()?;
                    }
                    None
                }
                State::Data { left } => self.data(input, left),
                State::DataEnd => {
                    self.data_end(input)?;
                    None
                }
                State::Trailers => {
                    if self.fill_line(input)? {
                        self.trailer()?;
                    }
                    None
                }
            };
            if payload.is_some() {
                return Ok(payload);
            }
        }
    }

    /// The end of the body: the checksums that came as trailers, their signature verified.
    ///
    /// The CRLF after the last line may be missing: some writers leave it out, and the end is known
    /// from the connection's framing. 400 IncompleteBody if chunks are missing.
    pub(super) fn finish(mut self) -> Result<Vec<Trailer>, S3Error> {
        if !matches!(self.state, State::Trailers) {
            return Err(incomplete("The body ended before its final chunk."));
        }
        if !self.line.is_empty() {
            self.trailer()?;
        }
        match &mut self.signing {
            ChunkSigning::Signed(verify) => self.trailers.finish(Some(&mut **verify)),
            ChunkSigning::Unsigned => self.trailers.finish(None),
        }
    }

    /// Moves bytes into the line up to and including LF; whether the line is complete.
    fn fill_line(&mut self, input: &mut Bytes) -> Result<bool, S3Error> {
        let room = (MAX_LINE - self.line.len().min(MAX_LINE)).min(input.len());
        let end = input.iter().take(room).position(|&byte| byte == b'\n');
        self.line.extend_from_slice(&input.split_to(end.map_or(room, |end| end + 1)));
        if end.is_none() && self.line.len() >= MAX_LINE {
            return Err(match self.state {
                State::Trailers => {
                    S3Error::new(ErrorCode::MalformedTrailerError, "A trailer is too long.")
                }
                _ => bad_size("A chunk's header is too long."),
            });
        }
        Ok(end.is_some())
    }

    /// Reads a chunk's header from the complete line.
    fn header(&mut self) -> Result<(), S3Error> {
        let line = std::mem::take(&mut self.line);
        let line = line
            .strip_suffix(b"\r\n")
            .ok_or_else(|| bad_size("A chunk's header does not end in CRLF."))?;
        let (size, signature) = match line.iter().position(|&byte| byte == b';') {
            Some(at) => (line.get(..at), line.get(at + 1..)),
            None => (Some(line), None),
        };
        let size = size
            .and_then(parse_size)
            .ok_or_else(|| bad_size("A chunk's size is not a hexadecimal number."))?;
        self.unannounced = self.unannounced.checked_sub(size).ok_or_else(|| {
            incomplete("The chunks hold more than x-amz-decoded-content-length announces.")
        })?;
        if let ChunkSigning::Signed(_) = self.signing {
            self.signed_header(size, signature)?;
        } else if signature.is_some() {
            return Err(bad_size("A chunk of an unsigned body has an extension."));
        }
        self.state = match size {
            0 if self.unannounced > 0 => {
                return Err(incomplete(
                    "The chunks hold less than x-amz-decoded-content-length announces.",
                ));
            }
            0 => {
                self.verify_held()?;
                State::Trailers
            }
            left => State::Data { left },
        };
        Ok(())
    }

    fn signed_header(&mut self, size: u64, extension: Option<&[u8]>) -> Result<(), S3Error> {
        if size > MAX_SIGNED_CHUNK {
            return Err(bad_size("A signed chunk may have at most 16 MiB."));
        }
        if size > 0 && self.short_seen {
            return Err(bad_size("Only the last chunk may be smaller than 8 KiB."));
        }
        self.short_seen = size < MIN_SIGNED_CHUNK;
        let signature = extension
            .and_then(|extension| extension.strip_prefix(SIGNATURE_EXTENSION))
            .and_then(parse_signature)
            .ok_or_else(|| {
                S3Error::new(
                    ErrorCode::SignatureDoesNotMatch,
                    "A chunk has no signature of the form chunk-signature=<64 hexadecimal digits>.",
                )
            })?;
        self.held = Some(Held { signature, sha256: Sha256::new() });
        Ok(())
    }

    /// Takes data of the current chunk: out at once if unsigned, else into what is held.
    fn data(&mut self, input: &mut Bytes, left: u64) -> Option<Bytes> {
        let count = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
        let data = input.split_to(count);
        self.state = match left - count as u64 {
            0 => State::DataEnd,
            left => State::Data { left },
        };
        let Some(held) = &mut self.held else {
            return Some(data);
        };
        held.sha256.update(&data);
        self.unverified.push(data);
        None
    }

    /// Reads the CRLF after a chunk's data; then the held chunk is complete and is verified.
    fn data_end(&mut self, input: &mut Bytes) -> Result<(), S3Error> {
        let count = input.len().min(2 - self.line.len().min(2));
        self.line.extend_from_slice(&input.split_to(count));
        if !b"\r\n".starts_with(&self.line) {
            return Err(bad_size("A chunk's data does not end where its size says."));
        }
        if self.line.len() < 2 {
            return Ok(());
        }
        self.line.clear();
        self.state = State::Header;
        self.verify_held()
    }

    /// Verifies the chunk that is held, if there is one, and lets its data out.
    fn verify_held(&mut self) -> Result<(), S3Error> {
        let (Some(held), ChunkSigning::Signed(verify)) = (self.held.take(), &mut self.signing)
        else {
            return Ok(());
        };
        verify.verify_chunk(&held.sha256.finalize().into(), &held.signature)?;
        self.unverified.move_to(&mut self.verified);
        Ok(())
    }

    /// Hands the line to the trailer section, its line end taken off (minio-go ends some in LF).
    fn trailer(&mut self) -> Result<(), S3Error> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        self.trailers.line(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

impl std::fmt::Debug for AwsChunkedDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let signed = matches!(self.signing, ChunkSigning::Signed(_));
        write!(f, "AwsChunkedDecoder(signed={signed} unannounced={})", self.unannounced)
    }
}

/// 1 to 16 hexadecimal digits, nothing else.
fn parse_size(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > MAX_SIZE_DIGITS {
        return None;
    }
    digits.iter().try_fold(0u64, |size, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        size.checked_mul(16)?.checked_add(u64::from(digit))
    })
}

fn bad_size(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::InvalidChunkSizeError, message)
}

fn incomplete(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::IncompleteBody, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a verifier was asked: (trailer?, sha256, signature).
    type Asked = Arc<Mutex<Vec<(bool, [u8; 32], [u8; 32])>>>;

    /// Records what it is asked, and accepts every signature but one of zeros.
    #[derive(Default)]
    struct Recorder(Asked);

    impl Recorder {
        fn ask(
            &self,
            trailer: bool,
            sha256: &[u8; 32],
            signature: &[u8; 32],
        ) -> Result<(), S3Error> {
            self.0.lock().unwrap().push((trailer, *sha256, *signature));
            match signature {
                [0, .., 0] => Err(S3Error::new(ErrorCode::SignatureDoesNotMatch, "")),
                _ => Ok(()),
            }
        }
    }

    impl ChunkVerify for Recorder {
        fn verify_chunk(&mut self, sha256: &[u8; 32], signature: &[u8; 32]) -> Result<(), S3Error> {
            self.ask(false, sha256, signature)
        }
        fn verify_trailer(
            &mut self,
            sha256: &[u8; 32],
            signature: &[u8; 32],
        ) -> Result<(), S3Error> {
            self.ask(true, sha256, signature)
        }
    }

    fn run(
        mut decoder: AwsChunkedDecoder,
        wire: &[u8],
    ) -> Result<(Vec<Bytes>, Vec<Trailer>), S3Error> {
        let mut input = Bytes::copy_from_slice(wire);
        let mut blocks = Vec::new();
        while let Some(block) = decoder.decode(&mut input)? {
            assert!(!block.is_empty());
            blocks.push(block);
        }
        assert!(input.is_empty());
        Ok((blocks, decoder.finish()?))
    }

    fn signed(declared: Option<Vec<ChecksumAlgorithm>>, length: u64) -> (AwsChunkedDecoder, Asked) {
        let recorder = Recorder::default();
        let asked = Arc::clone(&recorder.0);
        (AwsChunkedDecoder::new(ChunkSigning::Signed(Box::new(recorder)), declared, length), asked)
    }

    /// A signed chunk with a signature that [`Recorder`] accepts.
    fn chunk(size: usize) -> Vec<u8> {
        let mut wire = format!("{size:x};chunk-signature={}\r\n", "ab".repeat(32)).into_bytes();
        wire.resize(wire.len() + size, b'a');
        wire.extend_from_slice(if size > 0 { b"\r\n" } else { b"" });
        wire
    }

    fn signed_code(wire: &[u8], length: u64) -> String {
        run(signed(None, length).0, wire).unwrap_err().code.into_owned()
    }

    fn unsigned_code(wire: &str, length: u64) -> String {
        let decoder = AwsChunkedDecoder::new(ChunkSigning::Unsigned, Some(Vec::new()), length);
        run(decoder, wire.as_bytes()).unwrap_err().code.into_owned()
    }

    /// AWS's example body: 65,536, 1,024 and 0 bytes of `a`, and what ends it.
    fn example(signatures: [&str; 3], end: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for (size, signature) in [0x10000, 0x400, 0].into_iter().zip(signatures) {
            wire.extend_from_slice(format!("{size:x};chunk-signature={signature}\r\n").as_bytes());
            wire.resize(wire.len() + size, b'a');
            wire.extend_from_slice(if size > 0 { b"\r\n" } else { b"" });
        }
        wire.extend_from_slice(end.as_bytes());
        wire
    }

    fn sha256(size: usize) -> [u8; 32] {
        Sha256::digest(vec![b'a'; size]).into()
    }

    fn hex(text: &str) -> [u8; 32] {
        parse_signature(text.as_bytes()).unwrap()
    }

    /// "Signature Calculations … Transferring Payload in Multiple Chunks", the example: a body of
    /// 66,560 bytes that takes a Content-Length of 66,824.
    #[test]
    fn the_published_example() {
        let signatures = [
            "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
            "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
        ];
        let wire = example(signatures, "\r\n");
        assert_eq!(wire.len(), 66_824);
        // Also without the last line end.
        for wire in [wire.as_slice(), &wire[..wire.len() - 2]] {
            let (decoder, asked) = signed(None, 66_560);
            let (blocks, trailers) = run(decoder, wire).unwrap();
            assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), [65_536, 1024]);
            assert!(blocks.iter().flatten().all(|&byte| byte == b'a') && trailers.is_empty());
            let expected = [65_536, 1024, 0].map(sha256).into_iter().zip(signatures);
            let expected: Vec<_> =
                expected.map(|(sha256, signature)| (false, sha256, hex(signature))).collect();
            assert_eq!(*asked.lock().unwrap(), expected);
        }
    }

    /// "Signature Calculations … Including Trailing Headers", the example: Content-Length 66,946;
    /// the hash of the canonical trailers is printed in the string to sign.
    #[test]
    fn the_published_example_with_a_trailer() {
        let signatures = [
            "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
            "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
            "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
        ];
        let trailer = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";
        let value = "x-amz-checksum-crc32c:sOO8/Q==";
        let line = format!("x-amz-trailer-signature:{trailer}");
        let crlf = format!("{value}\r\n{line}\r\n\r\n");
        assert_eq!(example(signatures, &crlf).len(), 66_946);
        // Also as minio-go writes it, and without the last line end.
        for end in [crlf, format!("{value}\n\r\n{line}\r\n\r\n"), format!("{value}\r\n{line}")] {
            let (decoder, asked) = signed(Some(vec![ChecksumAlgorithm::Crc32c]), 66_560);
            let (blocks, trailers) = run(decoder, &example(signatures, &end)).unwrap();
            assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), [65_536, 1024]);
            assert_eq!(trailers[0].value, "sOO8/Q==");
            let canonical = hex("1e376db7e1a34a8ef1c4bcee131a2d60a1cb62503747488624e10995f448d774");
            let expected = [
                (false, sha256(65_536), hex(signatures[0])),
                (false, sha256(1024), hex(signatures[1])),
                (false, sha256(0), hex(signatures[2])),
                (true, canonical, hex(trailer)),
            ];
            assert_eq!(*asked.lock().unwrap(), expected);
        }
    }

    /// "The size of each chunk of data except the last must be at least 8 KB".
    #[test]
    fn a_small_signed_chunk_must_be_the_last() {
        let end = [chunk(0), b"\r\n".to_vec()].concat();
        let wire = [chunk(8191), chunk(1), end.clone()].concat();
        assert_eq!(signed_code(&wire, 8192), "InvalidChunkSizeError");
        let wire = [chunk(8192), chunk(1), end].concat();
        assert!(run(signed(None, 8193).0, &wire).is_ok());
    }

    /// Endless chunk header, huge chunk size.
    #[test]
    fn sizes_and_lines_are_bounded() {
        let large = format!("1000001;chunk-signature={}\r\n", "ab".repeat(32));
        assert_eq!(signed_code(large.as_bytes(), u64::MAX), "InvalidChunkSizeError");
        let endless = format!("5;{}", "x".repeat(MAX_LINE));
        assert_eq!(signed_code(endless.as_bytes(), 5), "InvalidChunkSizeError");
        assert_eq!(unsigned_code("10000000000000005\r\nhello", 5), "InvalidChunkSizeError");
        assert_eq!(unsigned_code("ffffffffffffffff\r\nhello", 5), "IncompleteBody");
        assert_eq!(
            unsigned_code(&format!("0\r\nx:{}", "y".repeat(MAX_LINE)), 0),
            "MalformedTrailerError"
        );
    }

    #[test]
    fn a_header_is_a_size_and_a_signature() {
        for size in ["", "+5", "0x5", " 5", "5 ", "5_0", "g", ";"] {
            let wire = format!("{size}\r\nhello\r\n0\r\n\r\n");
            assert_eq!(unsigned_code(&wire, 5), "InvalidChunkSizeError", "{size:?}");
        }
        assert_eq!(unsigned_code("5\nhello\r\n0\r\n\r\n", 5), "InvalidChunkSizeError");
        assert_eq!(unsigned_code("5;a=b\r\nhello\r\n0\r\n\r\n", 5), "InvalidChunkSizeError");
        assert_eq!(unsigned_code("5\r\nhello!\r\n0\r\n\r\n", 5), "InvalidChunkSizeError");
        for header in
            ["0", "0;", "0;chunk-signature=", "0;chunk-signature=abc", "0;Chunk-signature=ab"]
        {
            let wire = format!("{header}\r\n\r\n");
            assert_eq!(signed_code(wire.as_bytes(), 0), "SignatureDoesNotMatch", "{header:?}");
        }
    }

    #[test]
    fn a_chunk_with_a_bad_signature_is_not_given_out() {
        let wire = format!("5;chunk-signature={}\r\nhello\r\n", "00".repeat(32));
        let mut decoder = signed(None, 5).0;
        let error = decoder.decode(&mut Bytes::from(wire)).unwrap_err();
        assert_eq!(error.code, "SignatureDoesNotMatch");
    }

    /// Sum differs from x-amz-decoded-content-length; the final chunk is missing.
    #[test]
    fn the_chunks_are_as_long_as_announced_and_end() {
        assert_eq!(unsigned_code("5\r\nhello\r\n0\r\n\r\n", 4), "IncompleteBody");
        assert_eq!(unsigned_code("5\r\nhello\r\n0\r\n\r\n", 6), "IncompleteBody");
        for wire in
            ["", "5", "5\r\n", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0"]
        {
            assert_eq!(unsigned_code(wire, 5), "IncompleteBody", "{wire:?}");
        }
        assert_eq!(unsigned_code("0\r\n\r\n\r\n0\r\n", 0), "InvalidRequest");
        assert_eq!(unsigned_code("0\r\n\r\nPUT /", 0), "InvalidRequest");
        assert_eq!(signed_code(&[chunk(0), b"a:b\r\n".to_vec()].concat(), 0), "InvalidRequest");
    }
}
