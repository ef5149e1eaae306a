//! The chunked transfer coding (RFC 9112, section 7.1), decoded strictly.
//!
//! Where this parser and that of a proxy in front of it could read one body differently, a request
//! can be hidden in the difference. So nothing that the grammar leaves to leniency is repaired: no
//! white space around the size, no bare LF, no lone CR, no size without digits, and no sea of
//! extensions to hide in. After an error the position in the stream is lost for good: close.
//!
//! This is the framing of the connection. `payload::aws_chunked` looks alike, is another grammar,
//! and stands inside of this one when both are used.

use bytes::{Buf, Bytes, BytesMut};

/// Most hexadecimal digits of a chunk's size: 16 always fit an unsigned 64-bit number.
const MAX_SIZE_DIGITS: u8 = 16;

/// Most bytes of extensions in one size line. No client of S3 is known to send any.
const MAX_LINE_EXTENSION: usize = 256;

/// Most bytes of extensions in one body: a flood of short ones is a flood all the same.
const MAX_BODY_EXTENSION: usize = 4 * 1024;

/// Most bytes of the trailer section, line ends included. It is discarded: S3 defines no field in
/// it (its own trailers are those of aws-chunked).
const MAX_TRAILER_SECTION: usize = 4 * 1024;

/// What [`ChunkedDecoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Payload, never empty: a slice of the input, not a copy.
    Data(Bytes),
    /// The whole input is consumed and the body goes on.
    NeedMore,
    /// The body is complete. What is left of the input comes after it.
    End,
}

/// Why bytes are not a chunked body. Each is answered 400 and the connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkedError {
    /// The size line does not begin with a digit (RFC 9112, 7.1: `chunk-size = 1*HEXDIG`), or the
    /// digits are followed by something else than `;` or CRLF.
    #[error("a chunk's size is not a plain hexadecimal number")]
    BadSize,
    /// More than 16 digits (7.1: recipients "MUST anticipate potentially large hexadecimal
    /// numerals and prevent parsing errors due to integer conversion overflows").
    #[error("a chunk's size has too many digits")]
    SizeOverflow,
    /// More than 256 bytes of extensions in a line, or 4 KiB in the body (7.1.1: a recipient
    /// "ought to limit the total length of chunk extensions").
    #[error("the chunk extensions are too long")]
    ExtensionsTooLong,
    /// A line ends in anything but CRLF, or holds a control character.
    #[error("a line of the chunked framing does not end in CRLF")]
    BadLineEnd,
    /// The data is not followed by CRLF: it is not as long as its size said.
    #[error("a chunk's data does not end where its size says")]
    BadDataEnd,
    /// A trailer line is not `name: value`.
    #[error("a trailer line does not parse")]
    BadTrailer,
    /// The trailer section is over 4 KiB.
    #[error("the trailer section is too long")]
    TrailersTooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size line.
    Size { size: u64, digits: u8 },
    /// After the `;`, `length` bytes into the extensions.
    Extension { size: u64, length: usize },
    /// After the CR of a size line.
    SizeLf { size: u64 },
    /// In a chunk's data. Invariant: `left > 0`.
    Data { left: u64 },
    /// After the data.
    DataCr,
    /// After the data and CR.
    DataLf,
    /// At the beginning of a trailer line, or of the empty line that ends the body.
    TrailerStart,
    /// In a trailer line.
    Trailer { colon: bool },
    /// After the CR of a trailer line.
    TrailerLf,
    /// After the CR of the empty line.
    EndLf,
    /// The body is complete.
    Ended,
    /// The position is lost.
    Failed(ChunkedError),
}

/// Decodes one chunked body. Sans I/O: give it what was read, as it was read.
#[derive(Debug, Clone)]
pub struct ChunkedDecoder {
    state: State,
    /// Bytes of extensions so far, in the whole body.
    extensions: usize,
    /// Bytes of the trailer section so far.
    trailers: usize,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    /// A decoder at the first byte of a body.
    pub fn new() -> Self {
        let state = State::Size { size: 0, digits: 0 };
        ChunkedDecoder { state, extensions: 0, trailers: 0 }
    }

    /// Takes the next payload from the front of `input`: at most `max` bytes (0 counts as 1).
    ///
    /// Call it again after `Data`. After `End` it answers `End` and takes nothing; after an error
    /// it answers that error and takes nothing.
    pub fn decode(&mut self, input: &mut BytesMut, max: usize) -> Result<Decoded, ChunkedError> {
        loop {
            match self.state {
                State::Ended => return Ok(Decoded::End),
                State::Failed(error) => return Err(error),
                State::Data { left } => {
                    if input.is_empty() {
                        return Ok(Decoded::NeedMore);
                    }
                    let room = usize::try_from(left).unwrap_or(usize::MAX);
                    let count = input.len().min(max.max(1)).min(room);
                    self.state = match left - count as u64 {
                        0 => State::DataCr,
                        left => State::Data { left },
                    };
                    return Ok(Decoded::Data(input.split_to(count).freeze()));
                }
                _ => {
                    let Some(&byte) = input.first() else {
                        return Ok(Decoded::NeedMore);
                    };
                    input.advance(1);
                    self.state = self.step(byte).unwrap_or_else(State::Failed);
                }
            }
        }
    }

    /// Bytes of the current chunk's data that are still to come: what a reader may ask for without
    /// reading framing. 0 between chunks.
    pub fn remaining_in_chunk(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Whether the body is complete.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The state after one byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, ChunkedError> {
        match self.state {
            State::Size { size, digits } => match (hex_digit(byte), byte) {
                (Some(_), _) if digits == MAX_SIZE_DIGITS => Err(ChunkedError::SizeOverflow),
                (Some(digit), _) => {
                    let size = size
                        .checked_mul(16)
                        .and_then(|size| size.checked_add(digit))
                        .ok_or(ChunkedError::SizeOverflow)?;
                    Ok(State::Size { size, digits: digits + 1 })
                }
                (None, b';') if digits > 0 => Ok(State::Extension { size, length: 0 }),
                (None, b'\r') if digits > 0 => Ok(State::SizeLf { size }),
                _ => Err(ChunkedError::BadSize),
            },
            State::Extension { size, .. } if byte == b'\r' => Ok(State::SizeLf { size }),
            State::Extension { size, length } => {
                self.extensions += 1;
                if length == MAX_LINE_EXTENSION || self.extensions > MAX_BODY_EXTENSION {
                    return Err(ChunkedError::ExtensionsTooLong);
                }
                if !is_text(byte) {
                    return Err(ChunkedError::BadLineEnd);
                }
                Ok(State::Extension { size, length: length + 1 })
            }
            State::SizeLf { size } => match (byte, size) {
                (b'\n', 0) => Ok(State::TrailerStart),
                (b'\n', left) => Ok(State::Data { left }),
                _ => Err(ChunkedError::BadLineEnd),
            },
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
            State::DataCr | State::DataLf => Err(ChunkedError::BadDataEnd),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLf),
            State::TrailerStart if is_token(byte) => self.trailer(false),
            State::TrailerStart => Err(ChunkedError::BadTrailer),
            State::Trailer { colon: true } if byte == b'\r' => Ok(State::TrailerLf),
            State::Trailer { colon: true } if is_text(byte) => self.trailer(true),
            State::Trailer { colon: true } => Err(ChunkedError::BadLineEnd),
            State::Trailer { colon: false } if byte == b':' => self.trailer(true),
            State::Trailer { colon: false } if is_token(byte) => self.trailer(false),
            State::Trailer { colon: false } => Err(ChunkedError::BadTrailer),
            State::TrailerLf if byte == b'\n' => Ok(State::TrailerStart),
            State::EndLf if byte == b'\n' => Ok(State::Ended),
            State::TrailerLf | State::EndLf => Err(ChunkedError::BadLineEnd),
            // Not reached: `decode` takes no byte of framing in these.
            State::Data { .. } | State::Ended | State::Failed(_) => Err(ChunkedError::BadDataEnd),
        }
    }

    /// Counts one byte of a trailer line.
    fn trailer(&mut self, colon: bool) -> Result<State, ChunkedError> {
        self.trailers += 1;
        if self.trailers > MAX_TRAILER_SECTION {
            return Err(ChunkedError::TrailersTooLong);
        }
        Ok(State::Trailer { colon })
    }
}

/// The value of a hexadecimal digit in either case.
fn hex_digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// A byte that may stand within a line: anything but control characters, horizontal tab excepted.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || !byte.is_ascii_control()
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `body` in pieces of `step` bytes; the payload and what was left after the end.
    fn run(body: &[u8], step: usize, max: usize) -> Result<(Vec<u8>, Vec<u8>, bool), ChunkedError> {
        let mut decoder = ChunkedDecoder::new();
        let mut payload = Vec::new();
        let mut input = BytesMut::new();
        for piece in body.chunks(step.max(1)) {
            input.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut input, max)? {
                    Decoded::Data(bytes) => {
                        assert!(!bytes.is_empty() && bytes.len() <= max);
                        payload.extend_from_slice(&bytes);
                    }
                    Decoded::NeedMore => {
                        assert!(input.is_empty(), "NeedMore means that all was consumed");
                        break;
                    }
                    Decoded::End => break,
                }
            }
        }
        Ok((payload, input.to_vec(), decoder.is_ended()))
    }

    fn error(body: &str) -> ChunkedError {
        run(body.as_bytes(), usize::MAX, usize::MAX).unwrap_err()
    }

    /// RFC 9112, 7.1: `chunked-body = *chunk last-chunk trailer-section CRLF`.
    #[test]
    fn a_body_is_decoded_and_what_follows_is_left_alone() {
        let body =
            b"5\r\nhello\r\nA;name=\"v, w\"\r\n, world...\r\n000\r\nX-T: v\r\nY:\r\n\r\nPUT / HTTP";
        for step in 1..=body.len() {
            let (payload, rest, ended) = run(body, step, 7).unwrap();
            assert_eq!((payload.as_slice(), ended), (b"hello, world...".as_slice(), true));
            if step == body.len() {
                assert_eq!(rest, b"PUT / HTTP");
            }
        }
    }

    #[test]
    fn the_end_takes_nothing_more() {
        let mut decoder = ChunkedDecoder::default();
        let mut input = BytesMut::from(&b"0\r\n\r\n0\r\n\r\n"[..]);
        assert_eq!(decoder.decode(&mut input, 9), Ok(Decoded::End));
        assert_eq!(decoder.decode(&mut input, 9), Ok(Decoded::End));
        assert_eq!(&input[..], b"0\r\n\r\n");
    }

    #[test]
    fn the_rest_of_the_chunk_is_known() {
        let mut decoder = ChunkedDecoder::new();
        let mut input = BytesMut::from(&b"10\r\nabc"[..]);
        assert_eq!(decoder.remaining_in_chunk(), 0);
        assert_eq!(decoder.decode(&mut input, 2), Ok(Decoded::Data(Bytes::from_static(b"ab"))));
        assert_eq!(decoder.remaining_in_chunk(), 14);
        assert_eq!(decoder.decode(&mut input, 2), Ok(Decoded::Data(Bytes::from_static(b"c"))));
        assert_eq!(decoder.decode(&mut input, 2), Ok(Decoded::NeedMore));
        assert_eq!(decoder.remaining_in_chunk(), 13);
    }

    #[test]
    fn data_is_not_copied() {
        let mut decoder = ChunkedDecoder::new();
        let mut input = BytesMut::from(&b"3\r\nabc\r\n"[..]);
        let at = input[3..].as_ptr();
        let Decoded::Data(bytes) = decoder.decode(&mut input, 9).unwrap() else { panic!() };
        assert_eq!(bytes.as_ptr(), at);
    }

    /// RFC 9112, 7.1: `chunk-size = 1*HEXDIG`.
    #[test]
    fn a_size_is_hexadecimal_digits_and_nothing_else() {
        for size in ["", "+5", "-5", "0x5", " 5", "5 ", "\t5", "5\t", "5_0", "g", ";a", "5 ;a"] {
            assert_eq!(error(&format!("{size}\r\nhello\r\n")), ChunkedError::BadSize, "{size:?}");
        }
        assert_eq!(error("1\r\na\r\n\r\n0\r\n\r\n"), ChunkedError::BadSize);
    }

    #[test]
    fn a_size_over_64_bits_is_refused() {
        assert_eq!(error("10000000000000000\r\n"), ChunkedError::SizeOverflow);
        assert_eq!(error("00000000000000005\r\n"), ChunkedError::SizeOverflow);
        let mut decoder = ChunkedDecoder::new();
        let mut input = BytesMut::from(&b"ffffFFFFffffFFFF\r\n"[..]);
        assert_eq!(decoder.decode(&mut input, 1), Ok(Decoded::NeedMore));
        assert_eq!(decoder.remaining_in_chunk(), u64::MAX);
    }

    #[test]
    fn lines_end_in_crlf_only() {
        assert_eq!(error("5\nhello\r\n"), ChunkedError::BadSize);
        assert_eq!(error("5\r5\r\n"), ChunkedError::BadLineEnd);
        assert_eq!(error("5;a\nhello\r\n"), ChunkedError::BadLineEnd);
        assert_eq!(error("5;a\rb\r\nhello\r\n"), ChunkedError::BadLineEnd);
        assert_eq!(error("5;a\0\r\n"), ChunkedError::BadLineEnd);
        assert_eq!(error("5\r\nhello\n0\r\n\r\n"), ChunkedError::BadDataEnd);
        assert_eq!(error("5\r\nhello\r0\r\n\r\n"), ChunkedError::BadDataEnd);
        assert_eq!(error("5\r\nhello!\r\n"), ChunkedError::BadDataEnd);
        assert_eq!(error("0\r\n\n"), ChunkedError::BadTrailer);
        assert_eq!(error("0\r\n\rX"), ChunkedError::BadLineEnd);
        assert_eq!(error("0\r\nA: b\n\r\n"), ChunkedError::BadLineEnd);
        assert_eq!(error("0\r\nA: b\rc\r\n\r\n"), ChunkedError::BadLineEnd);
    }

    #[test]
    fn trailer_lines_are_fields() {
        assert_eq!(error("0\r\nGET / HTTP/1.1\r\n"), ChunkedError::BadTrailer);
        assert_eq!(error("0\r\nA: b\r\n c\r\n\r\n"), ChunkedError::BadTrailer);
        assert_eq!(error("0\r\nA : b\r\n\r\n"), ChunkedError::BadTrailer);
        assert_eq!(error("0\r\n: b\r\n\r\n"), ChunkedError::BadTrailer);
        let flood = format!("0\r\n{}", "A: b\r\n".repeat(MAX_TRAILER_SECTION));
        assert_eq!(error(&flood), ChunkedError::TrailersTooLong);
        assert_eq!(error(&format!("0\r\nA: {}", "b".repeat(5000))), ChunkedError::TrailersTooLong);
    }

    /// RFC 9112, 7.1.1: "A server ought to limit the total length of chunk extensions received".
    #[test]
    fn floods_of_extensions_are_refused() {
        let fits = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_LINE_EXTENSION));
        assert!(run(fits.as_bytes(), 1000, 1000).unwrap().2);
        let long = format!("1;{}", "x".repeat(MAX_LINE_EXTENSION + 1));
        assert_eq!(error(&long), ChunkedError::ExtensionsTooLong);
        let many = format!("1;{}\r\na\r\n", "x".repeat(100)).repeat(50);
        assert_eq!(error(&many), ChunkedError::ExtensionsTooLong);
    }

    #[test]
    fn an_error_is_final() {
        let mut decoder = ChunkedDecoder::new();
        let mut input = BytesMut::from(&b"x0\r\n\r\n"[..]);
        assert_eq!(decoder.decode(&mut input, 9), Err(ChunkedError::BadSize));
        assert_eq!(decoder.decode(&mut input, 9), Err(ChunkedError::BadSize));
        assert_eq!(&input[..], b"0\r\n\r\n");
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_payload(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            step in 1usize..50,
            max in 1usize..50,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nT: v\r\n\r\n");
            prop_assert_eq!(run(&body, step, max), Ok((chunks.concat(), Vec::new(), true)));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(
            body in prop::collection::vec(any::<u8>(), 0..200),
            step in 1usize..20,
        ) {
            let _ = run(&body, step, 16);
        }

        #[test]
        fn bytes_of_the_grammar_do_not_panic(body in "[0-2a;:\r\n]{0,60}", step in 1usize..20) {
            let _ = run(body.as_bytes(), step, 16);
        }
    }
}
