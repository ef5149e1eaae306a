//! The checksums that S3 stores with an object, and Content-MD5.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>
//!
//! A value travels as base64 of the digest's bytes, most significant byte first. The algorithm is
//! named three ways: in a header's or trailer's name, in `x-amz-sdk-checksum-algorithm`, and as an
//! XML element; only the first is data that a body can be held against, so only it is here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest;

/// A checksum algorithm of S3 whose value covers a whole body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32/ISO-HDLC, the one of zlib. The default of most SDKs since 2025.
    Crc32,
    /// CRC-32/ISCSI (Castagnoli).
    Crc32c,
    /// CRC-64/NVME, the default of S3 itself.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl ChecksumAlgorithm {
    /// Every algorithm.
    pub const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ];

    /// The header or trailer that carries the value, in lower case.
    pub fn header(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "x-amz-checksum-crc32",
            ChecksumAlgorithm::Crc32c => "x-amz-checksum-crc32c",
            ChecksumAlgorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            ChecksumAlgorithm::Sha1 => "x-amz-checksum-sha1",
            ChecksumAlgorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// The algorithm whose value the header `name` carries (compared without case).
    pub fn from_header(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| name.eq_ignore_ascii_case(algorithm.header()))
    }

    /// Whether it is a CRC: then S3 can tell that of the whole from those of the parts.
    pub fn is_crc(self) -> bool {
        use ChecksumAlgorithm::{Crc32, Crc32c, Crc64Nvme};
        matches!(self, Crc32 | Crc32c | Crc64Nvme)
    }

    /// S3's name of it, as in `x-amz-checksum-algorithm`.
    pub fn name(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32 => "CRC32",
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Crc64Nvme => "CRC64NVME",
            ChecksumAlgorithm::Sha1 => "SHA1",
            ChecksumAlgorithm::Sha256 => "SHA256",
        }
    }

    /// The algorithm of this name, in whichever case, as S3 takes it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| name.eq_ignore_ascii_case(algorithm.name()))
    }

    /// Bytes of the digest.
    pub fn digest_len(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Crc64Nvme => 8,
            ChecksumAlgorithm::Sha1 => 20,
            ChecksumAlgorithm::Sha256 => 32,
        }
    }

    /// Bytes of the header's value: padded base64 of the digest.
    pub fn value_len(self) -> usize {
        self.digest_len().div_ceil(3) * 4
    }

    /// The digest that a header's value stands for; None unless it is canonical base64 of exactly
    /// [`ChecksumAlgorithm::digest_len`] bytes. (A composite value, `…-3`, is none: it covers no
    /// body.)
    pub fn parse_value(self, value: &str) -> Option<Vec<u8>> {
        STANDARD.decode(value).ok().filter(|digest| digest.len() == self.digest_len())
    }
}

/// One checksum over a stream of bytes.
#[derive(Clone)]
pub struct Hasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

#[derive(Clone)]
enum State {
    /// Of 32 or 64 bits; crc-fast yields both as the low bits of an u64.
    Crc(crc_fast::Digest),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// A checksum over nothing yet.
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let crc = |kind| State::Crc(crc_fast::Digest::new(kind));
        let state = match algorithm {
            ChecksumAlgorithm::Crc32 => crc(crc_fast::CrcAlgorithm::Crc32IsoHdlc),
            ChecksumAlgorithm::Crc32c => crc(crc_fast::CrcAlgorithm::Crc32Iscsi),
            ChecksumAlgorithm::Crc64Nvme => crc(crc_fast::CrcAlgorithm::Crc64Nvme),
            ChecksumAlgorithm::Sha1 => State::Sha1(sha1::Sha1::new()),
            ChecksumAlgorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
        };
        Hasher { algorithm, state }
    }

    /// Which checksum it is.
    pub fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(crc) => crc.update(bytes),
            State::Sha1(sha) => sha.update(bytes),
            State::Sha256(sha) => sha.update(bytes),
        }
    }

    /// The digest, [`ChecksumAlgorithm::digest_len`] bytes.
    pub fn finish(self) -> Vec<u8> {
        match self.state {
            State::Crc(crc) => {
                let wide = crc.finalize().to_be_bytes();
                wide.into_iter().skip(wide.len() - self.algorithm.digest_len()).collect()
            }
            State::Sha1(sha) => sha.finalize().to_vec(),
            State::Sha256(sha) => sha.finalize().to_vec(),
        }
    }

    /// The digest as a header's value.
    pub fn finish_value(self) -> String {
        STANDARD.encode(self.finish())
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({:?})", self.algorithm)
    }
}

/// MD5 over a stream of bytes, for Content-MD5 (RFC 1864) only: it protects against accidents.
#[derive(Clone, Default)]
pub struct Md5(md5::Md5);

impl Md5 {
    /// MD5 over nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest.
    pub fn finish(self) -> [u8; 16] {
        self.0.finalize().into()
    }
}

impl std::fmt::Debug for Md5 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Md5")
    }
}

/// The digest of a Content-MD5 header; None unless it is canonical base64 of 16 bytes.
pub fn parse_content_md5(value: &str) -> Option<[u8; 16]> {
    STANDARD.decode(value).ok().and_then(|digest| digest.try_into().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The check values of the catalogue of parametrised CRC algorithms (reveng), and those of
    /// FIPS 180-4 implementations, all over "123456789".
    #[test]
    fn check_values() {
        for (algorithm, expected) in [
            (ChecksumAlgorithm::Crc32, "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
            (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
            (ChecksumAlgorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                ChecksumAlgorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ] {
            let mut whole = Hasher::new(algorithm);
            whole.update(b"123456789");
            let mut pieces = Hasher::new(algorithm);
            pieces.update(b"1234");
            pieces.update(b"");
            pieces.update(b"56789");
            let value = pieces.clone().finish_value();
            assert_eq!(hex(&whole.finish()), expected);
            assert_eq!(hex(&pieces.finish()), expected);
            assert_eq!(hex(&algorithm.parse_value(&value).unwrap()), expected);
            assert_eq!(value.len(), algorithm.value_len());
            assert_eq!(expected.len(), 2 * algorithm.digest_len());
        }
    }

    /// RFC 1321, A.5.
    #[test]
    fn md5_of_the_digits() {
        let mut md5 = Md5::new();
        md5.update(b"1234567890123456789012345678901234567890");
        md5.update(b"1234567890123456789012345678901234567890");
        assert_eq!(hex(&md5.finish()), "57edf4a22be3c955ac49da2e2107b67a");
    }

    #[test]
    fn the_header_names_the_algorithm() {
        for algorithm in ChecksumAlgorithm::ALL {
            let upper = algorithm.header().to_ascii_uppercase();
            assert_eq!(ChecksumAlgorithm::from_header(&upper), Some(algorithm));
        }
        assert_eq!(ChecksumAlgorithm::from_header("x-amz-checksum-md5"), None);
    }

    #[test]
    fn values_are_canonical_base64_of_the_right_length() {
        let crc = ChecksumAlgorithm::Crc32;
        assert_eq!(crc.parse_value("AAAAAA=="), Some(vec![0; 4]));
        for value in ["", "AAAAAA", "AAAAAB==", "AAAAAA== ", "AAAA", "AAAAAAA=", "AAAAAA==-3", "é"]
        {
            assert_eq!(crc.parse_value(value), None, "{value:?}");
        }
        assert_eq!(parse_content_md5("1B2M2Y8AsgTpgAmY7PhCfg==").map(|md5| md5[0]), Some(0xd4));
        assert_eq!(parse_content_md5("AAAAAA=="), None);
    }
}
