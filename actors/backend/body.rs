//! An answer's body, taken out of the connection's read buffer as it fills: a pure state machine
//! that never takes a byte past the body's end, so that what follows shows as unexpected.
//!
//! The chunked reader (RFC 9112, 7.1) skips extensions and drops trailers, as no S3 answer carries
//! meaning in them, but bounds both.

use super::response::{BodyFraming, ResponseError};
use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the longest chunk-size line without its line end: 16 hex digits, and some extension.
const MAX_SIZE_LINE: usize = 256;

/// Bytes of all trailer lines together: S3 answers have none.
const MAX_TRAILERS: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length { left: u64 },
    ChunkSize,
    ChunkData { left: u64 },
    ChunkEnd,
    Trailers { seen: usize },
    UntilClose,
    Done,
}

/// Collects one body of at most `cap` bytes.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    cap: usize,
    body: BytesMut,
}

impl BodyReader {
    /// A reader for a body framed like this. Errors: a length above `cap`.
    pub fn new(framing: BodyFraming, cap: usize) -> Result<Self, ResponseError> {
        let state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(left) if left > cap as u64 => {
                return Err(ResponseError::BodyTooLarge);
            }
            BodyFraming::Length(left) => State::Length { left },
            BodyFraming::Chunked => State::ChunkSize,
            BodyFraming::UntilClose => State::UntilClose,
        };
        Ok(BodyReader { state, cap, body: BytesMut::new() })
    }

    /// Takes what belongs to the body from the front of `input`. True: the body is complete.
    pub fn advance(&mut self, input: &mut BytesMut) -> Result<bool, ResponseError> {
        loop {
            let before = (self.state, input.len());
            match self.state {
                State::Done => return Ok(true),
                State::UntilClose => {
                    self.take(input, u64::MAX)?;
                }
                State::Length { left } => {
                    let left = left - self.take(input, left)?;
                    self.state = if left == 0 { State::Done } else { State::Length { left } };
                }
                State::ChunkSize => {
                    if let Some(line) = take_line(input, MAX_SIZE_LINE)? {
                        self.state = match chunk_size(&line)? {
                            0 => State::Trailers { seen: 0 },
                            left => State::ChunkData { left },
                        };
                    }
                }
                State::ChunkData { left } => {
                    let left = left - self.take(input, left)?;
                    self.state =
                        if left == 0 { State::ChunkEnd } else { State::ChunkData { left } };
                }
                State::ChunkEnd => {
                    if take_line(input, 0)?.is_some() {
                        self.state = State::ChunkSize;
                    }
                }
                State::Trailers { seen } => {
                    if let Some(line) = take_line(input, MAX_TRAILERS - seen)? {
                        let seen = seen + line.len();
                        let last = line.is_empty();
                        self.state = if last { State::Done } else { State::Trailers { seen } };
                    }
                }
            }
            if before == (self.state, input.len()) {
                return Ok(false);
            }
        }
    }

    /// The backend has closed. True: that ends the body, and nothing is missing.
    pub fn closed(&self) -> bool {
        matches!(self.state, State::Done | State::UntilClose)
    }

    /// What was collected.
    pub fn into_body(self) -> Bytes {
        self.body.freeze()
    }

    /// Moves at most `left` bytes into the body; returns how many.
    fn take(&mut self, input: &mut BytesMut, left: u64) -> Result<u64, ResponseError> {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        if count > self.cap - self.body.len() {
            return Err(ResponseError::BodyTooLarge);
        }
        self.body.extend_from_slice(&input.split_to(count));
        Ok(count as u64)
    }
}

/// Takes one line of at most `max` bytes off `input`, its CRLF dropped; None: it is not whole yet.
fn take_line(input: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, ResponseError> {
    let Some(end) = input.iter().take(max + 2).position(|&byte| byte == b'\n') else {
        return if input.len() >= max + 2 { Err(ResponseError::BadChunk) } else { Ok(None) };
    };
    let mut line = input.split_to(end);
    input.advance(1);
    if line.last() != Some(&b'\r') {
        return Err(ResponseError::BadChunk);
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, ResponseError> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    // RFC 9112, 7.1.1: white space before an extension is bad, but must be tolerated.
    let digits = digits.trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(ResponseError::BadChunk);
    }
    let text = std::str::from_utf8(digits).map_err(|_| ResponseError::BadChunk)?;
    u64::from_str_radix(text, 16).map_err(|_| ResponseError::BadChunk)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAP: usize = 1024;

    /// Feeds `wire` in pieces of `step` bytes: the body if it is complete, and what is left over.
    fn read(
        framing: BodyFraming,
        wire: &[u8],
        step: usize,
    ) -> Result<(Option<Bytes>, Vec<u8>), ResponseError> {
        let mut reader = BodyReader::new(framing, CAP)?;
        let mut input = BytesMut::new();
        let mut complete = reader.advance(&mut input)?;
        for piece in wire.chunks(step.max(1)) {
            input.extend_from_slice(piece);
            complete = reader.advance(&mut input)?;
        }
        Ok((complete.then(|| reader.into_body()), input.to_vec()))
    }

    /// RFC 9112, 7.1: chunks, extensions, trailers; what follows is not touched.
    #[test]
    fn chunks_are_joined() {
        let wire = b"4\r\nWiki\r\n6;name=value\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n\
                     0\r\nX: y\r\n\r\nNEXT";
        for step in 1..=wire.len() {
            let (body, left) = read(BodyFraming::Chunked, wire, step).unwrap();
            assert_eq!(body.unwrap(), &b"Wikipedia in \r\n\r\nchunks."[..]);
            assert_eq!(left, b"NEXT");
        }
    }

    /// A body with a length ends there; a truncated one is not complete.
    #[test]
    fn a_length_is_exact() {
        let (body, left) = read(BodyFraming::Length(4), b"bodyNEXT", 3).unwrap();
        assert_eq!((body.unwrap(), left), (Bytes::from_static(b"body"), b"NEXT".to_vec()));
        assert_eq!(read(BodyFraming::Length(5), b"body", 9).unwrap().0, None);
        assert_eq!(read(BodyFraming::None, b"NEXT", 9).unwrap().1, b"NEXT");
    }

    /// Only a body without any other framing ends with the connection.
    #[test]
    fn a_close_ends_only_an_unframed_body() {
        for (framing, whole) in [
            (BodyFraming::UntilClose, true),
            (BodyFraming::None, true),
            (BodyFraming::Length(9), false),
            (BodyFraming::Chunked, false),
        ] {
            let mut reader = BodyReader::new(framing, CAP).unwrap();
            reader.advance(&mut BytesMut::from(&b"1\r\na"[..])).unwrap();
            assert_eq!(reader.closed(), whole, "{framing:?}");
        }
    }

    /// Broken chunk framing is an error as soon as it shows.
    #[test]
    fn bad_chunks_are_refused() {
        let long_line = format!("1;{}\r\n", "x".repeat(MAX_SIZE_LINE));
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(MAX_TRAILERS));
        for wire in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1\na\n",
            "1\r\nab\r\n",
            "11111111111111111\r\n",
            "1\r\na\n",
            &long_line,
            &trailers,
        ] {
            for step in [1, wire.len()] {
                let result = read(BodyFraming::Chunked, wire.as_bytes(), step);
                assert_eq!(result.unwrap_err(), ResponseError::BadChunk, "{wire:.40?}");
            }
        }
    }

    /// No framing gets past the cap.
    #[test]
    fn the_cap_holds_for_every_framing() {
        let wire = [b"401\r\n".as_slice(), &[b'a'; CAP + 1]].concat();
        for framing in [
            BodyFraming::Length(CAP as u64 + 1),
            BodyFraming::Length(u64::MAX),
            BodyFraming::Chunked,
            BodyFraming::UntilClose,
        ] {
            assert_eq!(read(framing, &wire, 64), Err(ResponseError::BodyTooLarge), "{framing:?}");
        }
    }

    proptest! {
        /// What was cut into chunks comes back, however it was cut and however it arrives.
        #[test]
        fn chunked_round_trip(
            pieces in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 1..60), 0..10),
            step in 1usize..50,
        ) {
            let mut wire = Vec::new();
            for piece in &pieces {
                wire.extend(format!("{:x}\r\n", piece.len()).bytes());
                wire.extend(piece);
                wire.extend(b"\r\n");
            }
            wire.extend(b"0\r\n\r\nNEXT");
            let (body, left) = read(BodyFraming::Chunked, &wire, step).unwrap();
            prop_assert_eq!(body.unwrap(), pieces.concat());
            prop_assert_eq!(left, b"NEXT");
        }

        /// Arbitrary bytes never panic, and how they are cut never changes the outcome.
        #[test]
        fn arbitrary_bytes_never_panic(
            wire in "([0-9a-f;x]{0,3}\r?\n?){0,20}", more in any::<Vec<u8>>(), step in 1usize..20,
        ) {
            let wire = [wire.as_bytes(), &more].concat();
            for framing in [BodyFraming::Chunked, BodyFraming::Length(9), BodyFraming::UntilClose] {
                prop_assert_eq!(read(framing, &wire, step), read(framing, &wire, wire.len()));
            }
        }
    }
}
