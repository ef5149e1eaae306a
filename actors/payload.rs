//! Bodies on the copy path: undoing aws-chunked, and proving what the client said of its bytes.
//!
//! Everything here is sans I/O: bytes in, bytes or an error out. The one invariant that the rest of
//! the engine builds on: as long as a body is not proven to its end, its last block stays here
//! ([`BodyVerifier`]), so the request to the backend is short of its Content-Length and no object
//! can come of it, whatever arrived before the mismatch.

mod aws_chunked;
mod checksum;
mod digests;
mod encode;
mod pieces;
mod trailer;
mod verify;
mod whole;

pub use aws_chunked::{ChunkVerify, MAX_LINE, MAX_SIGNED_CHUNK, MIN_SIGNED_CHUNK};
pub use checksum::{ChecksumAlgorithm, Hasher, Md5, parse_content_md5};
pub use encode::{EncodeError, UnsignedTrailerEncoder};
pub use trailer::{MAX_TRAILER_SECTION, Trailers, parse_declared};
pub use verify::{BodyMode, BodySpec, BodyVerifier, MAX_HOLD_BACK, PayloadLength, no_trailers};
pub use whole::{ChecksumType, whole_of_parts};
