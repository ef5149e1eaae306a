//! The checksum of a multipart upload's object, from those of its parts.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html>,
//! "Full object and composite checksum types for multipart uploads".

use super::checksum::{ChecksumAlgorithm, Hasher};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What the checksum of a multipart upload's object is made of (`x-amz-checksum-type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumType {
    /// Of the parts' digests, one after the other; `-` and how many they are stand behind it.
    Composite,
    /// Of all its bytes.
    FullObject,
}

impl ChecksumType {
    /// S3's name of it.
    pub fn name(self) -> &'static str {
        match self {
            ChecksumType::Composite => "COMPOSITE",
            ChecksumType::FullObject => "FULL_OBJECT",
        }
    }

    /// The type of this name, in whichever case, as S3 takes it.
    pub fn from_name(name: &str) -> Option<Self> {
        [ChecksumType::Composite, ChecksumType::FullObject]
            .into_iter()
            .find(|kind| name.eq_ignore_ascii_case(kind.name()))
    }

    /// The type of an upload that names none.
    pub fn default_of(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc64Nvme => ChecksumType::FullObject,
            _ => ChecksumType::Composite,
        }
    }

    /// Whether S3 has this type with this algorithm.
    pub fn goes_with(self, algorithm: ChecksumAlgorithm) -> bool {
        match self {
            ChecksumType::Composite => algorithm != ChecksumAlgorithm::Crc64Nvme,
            ChecksumType::FullObject => algorithm.is_crc(),
        }
    }
}

/// The checksum of the whole, as a header's value. `parts`: the digest and the bytes of each, in order.
///
/// None: there is no such checksum (a SHA of the whole is not to be had from those of its parts), or a
/// digest has the wrong length.
pub fn whole_of_parts(
    algorithm: ChecksumAlgorithm,
    kind: ChecksumType,
    parts: &[(Vec<u8>, u64)],
) -> Option<String> {
    if parts.iter().any(|(digest, _)| digest.len() != algorithm.digest_len()) {
        return None;
    }
    match kind {
        ChecksumType::Composite => {
            let mut hasher = Hasher::new(algorithm);
            parts.iter().for_each(|(digest, _)| hasher.update(digest));
            Some(format!("{}-{}", hasher.finish_value(), parts.len()))
        }
        ChecksumType::FullObject => {
            let of = match algorithm {
                ChecksumAlgorithm::Crc32 => crc_fast::CrcAlgorithm::Crc32IsoHdlc,
                ChecksumAlgorithm::Crc32c => crc_fast::CrcAlgorithm::Crc32Iscsi,
                ChecksumAlgorithm::Crc64Nvme => crc_fast::CrcAlgorithm::Crc64Nvme,
                ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => return None,
            };
            let mut whole = None;
            for (digest, length) in parts {
                let crc = digest.iter().fold(0, |crc, byte| crc << 8 | u64::from(*byte));
                whole = Some(match whole {
                    None => crc,
                    // Nothing follows: it stays as it is.
                    Some(before) if *length == 0 => before,
                    Some(before) => crc_fast::checksum_combine(of, before, crc, *length),
                });
            }
            let wide = whole?.to_be_bytes();
            let digest = wide.get(wide.len() - algorithm.digest_len()..)?;
            Some(STANDARD.encode(digest))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Vec<u8> {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    fn parts(algorithm: ChecksumAlgorithm, pieces: &[Vec<u8>]) -> Vec<(Vec<u8>, u64)> {
        pieces.iter().map(|piece| (digest(algorithm, piece), piece.len() as u64)).collect()
    }

    proptest! {
        /// "Full object checksums: calculated based on all of the content of a multipart upload."
        #[test]
        fn the_whole_s_crc_is_that_of_all_bytes(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        ) {
            for algorithm in ChecksumAlgorithm::ALL.into_iter().filter(|one| one.is_crc()) {
                let parts = parts(algorithm, &pieces);
                let whole = whole_of_parts(algorithm, ChecksumType::FullObject, &parts).unwrap();
                let expected = STANDARD.encode(digest(algorithm, &pieces.concat()));
                prop_assert_eq!(whole, expected);
            }
        }
    }

    /// "Composite checksums: calculated based on the individual checksums of each part", with the parts'
    /// number behind it.
    #[test]
    fn a_composite_one_is_made_of_the_parts_digests() {
        for algorithm in ChecksumAlgorithm::ALL {
            let pieces = [b"one".to_vec(), b"two".to_vec()];
            let both: Vec<u8> = pieces.iter().flat_map(|one| digest(algorithm, one)).collect();
            let expected = format!("{}-2", STANDARD.encode(digest(algorithm, &both)));
            let parts = parts(algorithm, &pieces);
            let whole = whole_of_parts(algorithm, ChecksumType::Composite, &parts);
            assert_eq!(whole, Some(expected));
        }
    }

    #[test]
    fn what_s3_has_not_is_not_made_up() {
        let sha = ChecksumAlgorithm::Sha256;
        let of_sha = parts(sha, &[b"one".to_vec()]);
        assert_eq!(whole_of_parts(sha, ChecksumType::FullObject, &of_sha), None);
        assert_eq!(
            whole_of_parts(ChecksumAlgorithm::Crc32, ChecksumType::Composite, &of_sha),
            None
        );
        assert!(!ChecksumType::FullObject.goes_with(sha));
        assert!(!ChecksumType::Composite.goes_with(ChecksumAlgorithm::Crc64Nvme));
        assert_eq!(ChecksumType::from_name("full_object"), Some(ChecksumType::FullObject));
    }
}
