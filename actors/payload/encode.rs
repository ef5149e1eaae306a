//! Frames a body for the backend as STREAMING-UNSIGNED-PAYLOAD-TRAILER.
//!
//! The checksum that a client sends as a trailer is known only after the payload, so to have the
//! backend store it the body is framed anew and the checksum follows it. The head needs the framed
//! body's Content-Length before the first byte: chunks of one fixed size make it a sum.

use super::checksum::ChecksumAlgorithm;
use super::trailer::Trailers;
use bytes::Bytes;
use std::num::NonZeroU64;

/// Why a body cannot be framed as it was announced. A bug of the caller, not of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// More or fewer payload bytes than the decoded length.
    #[error("the payload is not as long as was announced")]
    Length,
    /// The trailers are not those that were announced, in their order, or a value is not as long
    /// as its algorithm makes it.
    #[error("the trailers are not those that were announced")]
    Trailers,
}

/// Frames one body. Sans I/O.
#[derive(Debug, Clone)]
pub struct UnsignedTrailerEncoder {
    chunk_size: u64,
    trailers: Vec<ChecksumAlgorithm>,
    encoded_length: u64,
    /// Payload bytes of the body still to come.
    left: u64,
    /// Of those, bytes of the chunk whose header has gone out.
    left_in_chunk: u64,
}

impl UnsignedTrailerEncoder {
    /// An encoder of `decoded_length` bytes in chunks of `chunk_size`, the last one smaller,
    /// followed by the checksums `trailers`. None if the framed length overflows 64 bits.
    pub fn new(
        decoded_length: u64,
        chunk_size: NonZeroU64,
        trailers: Vec<ChecksumAlgorithm>,
    ) -> Option<Self> {
        let encoded_length = encoded_length(decoded_length, chunk_size, &trailers)?;
        Some(UnsignedTrailerEncoder {
            chunk_size: chunk_size.get(),
            trailers,
            encoded_length,
            left: decoded_length,
            left_in_chunk: 0,
        })
    }

    /// Content-Length of the framed body, bytes.
    pub fn encoded_length(&self) -> u64 {
        self.encoded_length
    }

    /// Frames the next payload: pieces to write in order. The payload itself is not copied.
    ///
    /// [`EncodeError::Length`] if it is more than was announced.
    pub fn encode(&mut self, mut payload: Bytes) -> Result<Vec<Bytes>, EncodeError> {
        if payload.len() as u64 > self.left {
            return Err(EncodeError::Length);
        }
        let mut framed = Vec::new();
        while !payload.is_empty() {
            if self.left_in_chunk == 0 {
                self.left_in_chunk = self.chunk_size.min(self.left);
                framed.push(Bytes::from(format!("{:x}\r\n", self.left_in_chunk)));
            }
            let count = usize::try_from(self.left_in_chunk)
                .map_or(payload.len(), |left| left.min(payload.len()));
            framed.push(payload.split_to(count));
            self.left -= count as u64;
            self.left_in_chunk -= count as u64;
            if self.left_in_chunk == 0 {
                framed.push(Bytes::from_static(b"\r\n"));
            }
        }
        Ok(framed)
    }

    /// The final chunk and the trailers: `values` are header name and value, as
    /// [`super::BodyVerifier::finish`] gives them, and must be the announced ones in their order.
    pub fn finish(self, values: &Trailers) -> Result<Bytes, EncodeError> {
        if self.left > 0 {
            return Err(EncodeError::Length);
        }
        let announced = self.trailers.len() == values.len()
            && self.trailers.iter().zip(values).all(|(algorithm, (name, value))| {
                name == algorithm.header() && algorithm.parse_value(value).is_some()
            });
        if !announced {
            return Err(EncodeError::Trailers);
        }
        let mut end = String::from("0\r\n");
        for (name, value) in values {
            end.push_str(name);
            end.push(':');
            end.push_str(value);
            end.push_str("\r\n");
        }
        end.push_str("\r\n");
        Ok(Bytes::from(end))
    }
}

/// Bytes of `decoded_length` payload bytes once framed; None on overflow.
fn encoded_length(
    decoded_length: u64,
    chunk_size: NonZeroU64,
    trailers: &[ChecksumAlgorithm],
) -> Option<u64> {
    /// The line ends after a chunk's size and after its data.
    const LINE_ENDS: u64 = 4;
    /// `0 CRLF` before the trailers and CRLF after them.
    const FINAL: u64 = 5;
    let overhead = |size: u64| u64::from(size.ilog2() / 4 + 1) + LINE_ENDS;
    let full = decoded_length / chunk_size;
    let rest = decoded_length % chunk_size;
    let mut length = full
        .checked_mul(overhead(chunk_size.get()))?
        .checked_add(decoded_length)?
        .checked_add(FINAL)?;
    if rest > 0 {
        length = length.checked_add(overhead(rest))?;
    }
    for algorithm in trailers {
        // `name:value CRLF`
        let line = algorithm.header().len() + 1 + algorithm.value_len() + 2;
        length = length.checked_add(line as u64)?;
    }
    Some(length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::aws_chunked::{AwsChunkedDecoder, ChunkSigning};
    use super::super::checksum::Hasher;
    use super::*;
    use proptest::prelude::*;

    fn encoder(length: u64, chunk: u64, trailers: &[ChecksumAlgorithm]) -> UnsignedTrailerEncoder {
        let chunk = NonZeroU64::new(chunk).unwrap();
        UnsignedTrailerEncoder::new(length, chunk, trailers.to_vec()).unwrap()
    }

    /// What botocore sends for "hello world" with its default checksum.
    #[test]
    fn the_wire_form() {
        let mut encoder = encoder(11, 8, &[ChecksumAlgorithm::Crc32]);
        let length = encoder.encoded_length();
        let mut wire = encoder.encode(Bytes::from_static(b"hello world")).unwrap().concat();
        let value = vec![("x-amz-checksum-crc32".to_owned(), "DUoRhQ==".to_owned())];
        wire.extend_from_slice(&encoder.finish(&value).unwrap());
        let expected = "8\r\nhello wo\r\n3\r\nrld\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
        assert_eq!(wire, expected.as_bytes());
        assert_eq!(length, expected.len() as u64);
    }

    #[test]
    fn nothing_but_what_was_announced_is_framed() {
        let mut short = encoder(4, 8, &[]);
        assert_eq!(short.encode(Bytes::from_static(b"hello")), Err(EncodeError::Length));
        assert_eq!(short.finish(&Vec::new()), Err(EncodeError::Length));
        let none = encoder(0, 8, &[ChecksumAlgorithm::Crc32]);
        assert_eq!(none.clone().finish(&Vec::new()), Err(EncodeError::Trailers));
        let wrong = vec![("x-amz-checksum-crc32".to_owned(), "AAAA\r\nX:AA".to_owned())];
        assert_eq!(none.finish(&wrong), Err(EncodeError::Trailers));
        let most = NonZeroU64::new(1).unwrap();
        assert!(UnsignedTrailerEncoder::new(u64::MAX, most, Vec::new()).is_none());
    }

    proptest! {
        #[test]
        fn what_is_framed_decodes_and_has_the_announced_length(
            payload in prop::collection::vec(any::<u8>(), 0..600),
            chunk in 1u64..300,
            step in 1usize..200,
        ) {
            let algorithms = [ChecksumAlgorithm::Crc64Nvme, ChecksumAlgorithm::Sha256];
            let mut encoder = encoder(payload.len() as u64, chunk, &algorithms);
            let length = encoder.encoded_length();
            let mut wire = Vec::new();
            for piece in payload.chunks(step) {
                wire.extend(encoder.encode(Bytes::copy_from_slice(piece)).unwrap().concat());
            }
            let values: Trailers = algorithms.iter().map(|&algorithm| {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&payload);
                (algorithm.header().to_owned(), hasher.finish_value())
            }).collect();
            wire.extend_from_slice(&encoder.finish(&values).unwrap());
            prop_assert_eq!(wire.len() as u64, length);

            let declared = Some(algorithms.to_vec());
            let mut decoder =
                AwsChunkedDecoder::new(ChunkSigning::Unsigned, declared, payload.len() as u64);
            let mut input = Bytes::from(wire);
            let mut decoded = Vec::new();
            while let Some(block) = decoder.decode(&mut input).unwrap() {
                decoded.extend_from_slice(&block);
            }
            prop_assert_eq!(decoded, payload);
            prop_assert_eq!(decoder.finish().unwrap().len(), 2);
        }
    }
}
