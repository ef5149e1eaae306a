//! Every digest that one body is held against, computed in one pass over its payload.

use super::checksum::{ChecksumAlgorithm, Hasher, Md5};
use super::trailer::Trailer;
use super::verify::BodyMode;
use crate::s3::error::{ErrorCode, S3Error};

/// The digests over the payload, with what each must be.
#[derive(Debug, Default)]
pub(super) struct Digests {
    sha256: Option<(Hasher, [u8; 32])>,
    md5: Option<(Md5, [u8; 16])>,
    headers: Vec<(Hasher, Vec<u8>)>,
    /// What these must be comes last.
    trailers: Vec<Hasher>,
}

impl Digests {
    pub(super) fn new(
        mode: &BodyMode,
        trailers: &[ChecksumAlgorithm],
        checksums: Vec<(ChecksumAlgorithm, Vec<u8>)>,
        md5: Option<[u8; 16]>,
    ) -> Self {
        let sha256 = match mode {
            BodyMode::Plain { sha256: Some(expected) } => {
                Some((Hasher::new(ChecksumAlgorithm::Sha256), *expected))
            }
            _ => None,
        };
        Digests {
            sha256,
            md5: md5.map(|expected| (Md5::new(), expected)),
            headers: checksums
                .into_iter()
                .map(|(algorithm, expected)| (Hasher::new(algorithm), expected))
                .collect(),
            trailers: trailers.iter().copied().map(Hasher::new).collect(),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        if let Some((sha256, _)) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some((md5, _)) = &mut self.md5 {
            md5.update(bytes);
        }
        let headers = self.headers.iter_mut().map(|(hasher, _)| hasher);
        for hasher in headers.chain(&mut self.trailers) {
            hasher.update(bytes);
        }
    }

    /// Compares each digest with what it must be, in plain time: the client itself sent both sides.
    ///
    /// 400 XAmzContentSHA256Mismatch or BadDigest.
    pub(super) fn verify(self, trailers: &[Trailer]) -> Result<(), S3Error> {
        if let Some((sha256, expected)) = self.sha256
            && sha256.finish() != expected
        {
            return Err(S3Error::new(
                ErrorCode::XAmzContentSHA256Mismatch,
                "The provided x-amz-content-sha256 header does not match what was computed.",
            ));
        }
        if let Some((md5, expected)) = self.md5
            && md5.finish() != expected
        {
            return Err(S3Error::new(
                ErrorCode::BadDigest,
                "The Content-MD5 you specified did not match what we received.",
            ));
        }
        for (hasher, expected) in self.headers {
            compare(hasher, Some(&expected))?;
        }
        for hasher in self.trailers {
            let came = trailers.iter().find(|trailer| trailer.algorithm == hasher.algorithm());
            compare(hasher, came.map(|trailer| &trailer.digest))?;
        }
        Ok(())
    }
}

/// 400 BadDigest unless the digest is the expected one; None equals nothing.
fn compare(hasher: Hasher, expected: Option<&Vec<u8>>) -> Result<(), S3Error> {
    let algorithm = hasher.algorithm();
    if expected == Some(&hasher.finish()) {
        return Ok(());
    }
    let name = algorithm.header();
    Err(S3Error::new(
        ErrorCode::BadDigest,
        format!("The {name} you specified did not match the calculated checksum."),
    ))
}
