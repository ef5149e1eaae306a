//! The MD5 of a large body. It bounds how fast one can be stored, as it cannot be shared out among
//! threads; OpenSSL's, written for the processor, takes a fifth less time than the one of
//! [`crate::payload::Md5`], and costs more to begin, which shows with small bodies only.

use openssl::hash::{Hasher, MessageDigest};
use std::fmt;
use std::io;

/// See the module.
pub(super) struct LargeMd5(Hasher);

impl LargeMd5 {
    /// Over nothing yet. Errors: OpenSSL has no MD5 (it may be configured so).
    pub(super) fn new() -> io::Result<Self> {
        Ok(LargeMd5(Hasher::new(MessageDigest::md5())?))
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) -> io::Result<()> {
        Ok(self.0.update(bytes)?)
    }

    /// The digest.
    pub(super) fn finish(mut self) -> io::Result<[u8; 16]> {
        let digest = self.0.finish()?;
        (*digest).try_into().map_err(io::Error::other)
    }
}

impl fmt::Debug for LargeMd5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LargeMd5")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::payload::Md5;

    /// Inline bodies and files are checked against each other's.
    #[test]
    fn both_compute_the_same() {
        let bytes: Vec<u8> = (0..100_000).map(|at| (at % 251) as u8).collect();
        for length in [0, 1, 63, 64, 65, bytes.len()] {
            let (mut large, mut other) = (LargeMd5::new().unwrap(), Md5::new());
            for piece in bytes[..length].chunks(999) {
                large.update(piece).unwrap();
                other.update(piece);
            }
            assert_eq!(large.finish().unwrap(), other.finish());
        }
    }
}
