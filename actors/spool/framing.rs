//! How records stand in the journal: one byte, the format of what follows, the CRC-32C of the JSON that ends
//! it (big-endian), and the JSON. The database does not look at its checksums whenever it reads: a bit that
//! flips in a record must not make another one of it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;

/// The record.
pub(super) fn encode<T: Serialize>(format: u8, record: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(record).map_err(io::Error::other)?;
    Ok([&[format], &crc(&json)[..], &json].concat())
}

/// Reads a record. Errors: it is not one, or one of another format.
pub(super) fn decode<T: DeserializeOwned>(format: u8, record: &[u8]) -> io::Result<T> {
    let rest = match record.split_first() {
        Some((found, rest)) if *found == format => rest,
        Some((found, _)) => return Err(io::Error::other(format!("unknown format {found}"))),
        None => return Err(io::Error::other("empty")),
    };
    match rest.split_first_chunk() {
        Some((found, json)) if *found == crc(json) => {
            serde_json::from_slice(json).map_err(io::Error::other)
        }
        _ => Err(io::Error::other("it is damaged: its CRC is another")),
    }
}

/// CRC-32C (RFC 9260, appendix A), big-endian.
pub(super) fn crc(json: &[u8]) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(json);
    // The other half is for CRC-64.
    (digest.finalize() as u32).to_be_bytes()
}
