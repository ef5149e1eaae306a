//! The trailer section of an aws-chunked body: checksums not yet known when the head went out.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html>
//!
//! The names are announced in `x-amz-trailer` (which the head's signature covers), so what arrives
//! must be exactly those, once each: a checksum that was announced and left out would otherwise be
//! a check that an attacker can drop.

use super::aws_chunked::ChunkVerify;
use super::checksum::ChecksumAlgorithm;
use crate::s3::error::{ErrorCode, S3Error};
use sha2::{Digest, Sha256};

/// Most bytes of the trailer section: five checksums and a signature take under 500.
pub const MAX_TRAILER_SECTION: usize = 4 * 1024;

/// The line that signs the trailers of a signed body.
const SIGNATURE_NAME: &str = "x-amz-trailer-signature";

/// Header name (lower case) and value of each checksum that came as a trailer, in order.
pub type Trailers = Vec<(String, String)>;

/// Reads the value of `x-amz-trailer`: a comma-separated list of checksum names.
///
/// A name that is not a checksum of S3, or that stands there twice, is 400 InvalidRequest.
pub fn parse_declared(value: &str) -> Result<Vec<ChecksumAlgorithm>, S3Error> {
    let mut declared = Vec::new();
    for name in value.split(',') {
        match ChecksumAlgorithm::from_header(name.trim_matches([' ', '\t'])) {
            Some(algorithm) if !declared.contains(&algorithm) => declared.push(algorithm),
            _ => {
                return Err(S3Error::new(
                    ErrorCode::InvalidRequest,
                    "The value specified in the x-amz-trailer header is not supported: name each \
                     x-amz-checksum-* trailer once.",
                ));
            }
        }
    }
    Ok(declared)
}

/// One checksum as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) algorithm: ChecksumAlgorithm,
    pub(super) digest: Vec<u8>,
    /// As sent: it is part of what the trailer's signature covers.
    pub(super) value: String,
}

/// The section while it is read, line by line.
#[derive(Debug)]
pub(super) struct TrailerSection {
    /// Announced and not yet seen.
    missing: Vec<ChecksumAlgorithm>,
    seen: Vec<Trailer>,
    /// A signature line ends the section.
    signed: bool,
    signature: Option<[u8; 32]>,
    bytes: usize,
    /// Empty lines that ended the section: 0 while it goes on.
    ends: u8,
}

/// The empty line that ends the section, and one more (minio-go's).
const MAX_ENDS: u8 = 2;

impl TrailerSection {
    /// `declared`: the names in `x-amz-trailer`. `signed`: a signature must follow them.
    pub(super) fn new(declared: Vec<ChecksumAlgorithm>, signed: bool) -> Self {
        let seen = Vec::with_capacity(declared.len());
        TrailerSection { missing: declared, seen, signed, signature: None, bytes: 0, ends: 0 }
    }

    /// Takes one line without its line end.
    ///
    /// After the empty line one more is let pass, and an empty line may stand before the signature:
    /// minio-go writes `name:value LF CRLF` where the specification has `name:value CRLF`.
    /// Nothing is behind this section but the end of a body whose length the connection's framing
    /// gives, so this leniency hides no bytes.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), S3Error> {
        self.bytes = self.bytes.saturating_add(line.len()).saturating_add(1);
        if self.bytes > MAX_TRAILER_SECTION {
            return Err(malformed("The trailer section is too long."));
        }
        if line.is_empty() {
            if self.ends == MAX_ENDS {
                return Err(after_the_end());
            }
            let gap = self.signed && self.signature.is_none() && !self.seen.is_empty();
            self.ends += u8::from(!gap);
            return Ok(());
        }
        if self.ends > 0 {
            return Err(after_the_end());
        }
        if self.signature.is_some() {
            return Err(malformed("The trailer's signature must be its last line."));
        }
        let (name, value) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
            .ok_or_else(|| malformed("A trailer is not of the form name:value."))?;
        let value = value.trim_matches([' ', '\t']);
        if self.signed && name.eq_ignore_ascii_case(SIGNATURE_NAME) {
            let signature = parse_signature(value.as_bytes());
            self.signature = Some(signature.ok_or_else(|| {
                malformed("The trailer's signature is not 64 hexadecimal digits.")
            })?);
            return Ok(());
        }
        self.checksum(name, value)
    }

    fn checksum(&mut self, name: &str, value: &str) -> Result<(), S3Error> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || !name.bytes().all(token) {
            return Err(malformed("A trailer's name is malformed."));
        }
        let announced = ChecksumAlgorithm::from_header(name)
            .and_then(|found| self.missing.iter().position(|&missing| missing == found));
        let Some(announced) = announced else {
            return Err(S3Error::new(
                ErrorCode::InvalidRequest,
                "The body has a trailer that x-amz-trailer does not announce, or has it twice.",
            ));
        };
        let algorithm = self.missing.remove(announced);
        let digest = algorithm.parse_value(value).ok_or_else(|| {
            malformed("The value of a trailing checksum is not a valid checksum.")
        })?;
        self.seen.push(Trailer { algorithm, digest, value: value.to_owned() });
        Ok(())
    }

    /// The end of the body: everything that was announced must be there, and signed if it must be.
    ///
    /// A missing signature is answered before a missing trailer: nothing is said of bytes that
    /// nobody vouched for.
    pub(super) fn finish(
        self,
        verify: Option<&mut (dyn ChunkVerify + Send)>,
    ) -> Result<Vec<Trailer>, S3Error> {
        if self.signed {
            let (Some(signature), Some(verify)) = (self.signature, verify) else {
                return Err(S3Error::new(
                    ErrorCode::SignatureDoesNotMatch,
                    "The body's trailer is not signed: send x-amz-trailer-signature.",
                ));
            };
            let mut canonical = Sha256::new();
            for trailer in &self.seen {
                canonical.update(format!("{}:{}\n", trailer.algorithm.header(), trailer.value));
            }
            verify.verify_trailer(&canonical.finalize().into(), &signature)?;
        }
        if !self.missing.is_empty() {
            return Err(malformed("A trailer that x-amz-trailer announces did not come."));
        }
        Ok(self.seen)
    }
}

/// 64 hexadecimal digits as 32 bytes: signatures are compared decoded.
pub(super) fn parse_signature(hex: &[u8]) -> Option<[u8; 32]> {
    let mut signature = [0u8; 32];
    if hex.len() != 2 * signature.len() {
        return None;
    }
    let nibble =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (out, pair) in signature.iter_mut().zip(hex.as_chunks::<2>().0) {
        let [high, low] = *pair;
        *out = (nibble(high)? << 4) | nibble(low)?;
    }
    Some(signature)
}

fn malformed(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::MalformedTrailerError, message)
}

fn after_the_end() -> S3Error {
    S3Error::new(ErrorCode::InvalidRequest, "The body goes on after its end.")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use ChecksumAlgorithm::{Crc32, Crc32c};

    fn read(lines: &[&str], signed: bool) -> Result<TrailerSection, S3Error> {
        let mut section = TrailerSection::new(vec![Crc32], signed);
        for line in lines {
            section.line(line.as_bytes())?;
        }
        Ok(section)
    }

    fn code(lines: &[&str]) -> String {
        let result = read(lines, false).and_then(|section| section.finish(None));
        result.unwrap_err().code.into_owned()
    }

    #[test]
    fn the_announcement_is_a_list_of_checksums() {
        assert_eq!(parse_declared("x-amz-checksum-crc32").unwrap(), [Crc32]);
        assert_eq!(
            parse_declared("X-Amz-Checksum-CRC32 ,\tx-amz-checksum-crc32c").unwrap(),
            [Crc32, Crc32c]
        );
        for bad in ["", "x-amz-meta-a", "x-amz-checksum-crc32,", "x-amz-trailer-signature"] {
            assert_eq!(parse_declared(bad).unwrap_err().code, "InvalidRequest", "{bad:?}");
        }
        let twice = "x-amz-checksum-crc32,x-amz-checksum-crc32";
        assert_eq!(parse_declared(twice).unwrap_err().code, "InvalidRequest");
    }

    #[test]
    fn what_was_announced_must_come() {
        assert_eq!(code(&[]), "MalformedTrailerError");
        assert_eq!(code(&[""]), "MalformedTrailerError");
        let seen = read(&["X-Amz-Checksum-Crc32: AAAAAA== ", ""], false).unwrap();
        let seen = seen.finish(None).unwrap();
        assert_eq!((seen[0].algorithm, seen[0].value.as_str()), (Crc32, "AAAAAA=="));
    }

    #[test]
    fn nothing_else_may_come() {
        let good = "x-amz-checksum-crc32:AAAAAA==";
        assert_eq!(code(&["x-amz-checksum-crc32c:AAAAAA=="]), "InvalidRequest");
        assert_eq!(code(&["x-amz-meta-a:b"]), "InvalidRequest");
        assert_eq!(code(&[good, good]), "InvalidRequest");
        assert_eq!(code(&[good, "", good]), "InvalidRequest");
        assert_eq!(code(&[good, "", "", ""]), "InvalidRequest");
        let signature = format!("x-amz-trailer-signature:{}", "0".repeat(64));
        assert_eq!(code(&[good, &signature]), "InvalidRequest");
    }

    #[test]
    fn lines_that_do_not_parse() {
        for line in [
            "x-amz-checksum-crc32",
            "x-amz-checksum-crc32 :AAAAAA==",
            " x-amz-checksum-crc32:AAAAAA==",
            ":AAAAAA==",
            "x-amz-checksum-crc32:",
            "x-amz-checksum-crc32:AAAA",
            "x-amz-checksum-crc32:AAAAAA==\r",
        ] {
            assert_eq!(code(&[line]), "MalformedTrailerError", "{line:?}");
        }
        let long = format!("x:{}", "y".repeat(MAX_TRAILER_SECTION));
        assert_eq!(code(&[&long]), "MalformedTrailerError");
    }

    #[test]
    fn the_signature_is_the_last_line() {
        let good = "x-amz-checksum-crc32:AAAAAA==";
        let signature = format!("x-amz-trailer-signature:{}", "0".repeat(64));
        assert!(read(&[good, &signature, ""], true).is_ok());
        assert!(read(&[good, "", &signature, ""], true).is_ok());
        let error = read(&[&signature, good], true).unwrap_err();
        assert_eq!(error.code, "MalformedTrailerError");
        let error = read(&[good, "x-amz-trailer-signature:00"], true).unwrap_err();
        assert_eq!(error.code, "MalformedTrailerError");
        let error = read(&[good, ""], true).unwrap().finish(None).unwrap_err();
        assert_eq!(error.code, "SignatureDoesNotMatch");
    }

    #[test]
    fn a_signature_is_64_digits() {
        let hex = "00ff".repeat(16);
        assert_eq!(
            parse_signature(hex.as_bytes()).map(|bytes| bytes[..2].to_vec()),
            Some(vec![0, 255])
        );
        assert_eq!(parse_signature(&hex.as_bytes()[1..]), None);
        assert_eq!(parse_signature("+f".repeat(32).as_bytes()), None);
    }
}
