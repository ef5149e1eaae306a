//! What is on record of a client's multipart upload whose parts stand here, and of one that was
//! completed.
//!
//! A record is framed (framing.rs): a bit that flips in it must not put a part into another place, or an object
//! under another key.

use super::super::entry::{Body, BodyId, PartBody, Place, header_list};
use super::super::framing;
use crate::payload::{ChecksumAlgorithm, ChecksumType};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::xml::WholeChecksum;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;

/// The format of all records of this file.
const FORMAT: u8 = 1;

/// What the ids of such uploads begin with; a backend's id is something else.
const MARK: &str = "mizuchi-spool-";

/// Which upload: its number in the journal, and a random number that is on record with it. Gateways that
/// share the key of the seal have spools of their own, whose numbers are the same: an id of one must not
/// name an upload of the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UploadId {
    pub(crate) number: u64,
    pub(crate) token: u64,
}

impl UploadId {
    /// The id that this text is; None: it is a backend's. The one place that tells one from the other.
    pub fn parse(id: &str) -> Option<UploadId> {
        let (number, token) = id.strip_prefix(MARK)?.split_once('-')?;
        let parse = |text: &str| u64::from_str_radix(text, 16).ok();
        let parsed = UploadId { number: parse(number)?, token: parse(token)? };
        // Only the one spelling.
        (parsed.to_string() == id).then_some(parsed)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK}{:016x}-{:016x}", self.number, self.token)
    }
}

/// A multipart upload that a client has begun, and neither completed nor aborted. Times are milliseconds
/// since 1970, by this machine's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientUpload {
    /// The gateway's name of the bucket.
    pub bucket: String,
    /// The key at the backend, prefix included.
    pub key: String,
    /// Who began it.
    pub principal: String,
    /// When it was begun.
    pub initiated: u64,
    /// Must be in its id.
    pub token: u64,
    /// The headers that pass on to the backend.
    #[serde(with = "header_list")]
    pub headers: Vec<(String, Vec<u8>)>,
    /// The checksums of its parts and its object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<ChecksumRule>,
}

/// What a CreateMultipartUpload says of checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChecksumRule {
    /// Which: `x-amz-checksum-algorithm`.
    #[serde(with = "algorithm")]
    pub algorithm: ChecksumAlgorithm,
    /// What the object's is made of: `x-amz-checksum-type`.
    #[serde(rename = "type", with = "kind")]
    pub kind: ChecksumType,
}

impl ChecksumRule {
    /// What these headers of a CreateMultipartUpload say; None: nothing.
    ///
    /// Errors: 400 InvalidRequest: what is not known here, or what S3 does not have.
    pub fn of(headers: &[(String, Vec<u8>)]) -> Result<Option<ChecksumRule>, S3Error> {
        let odd = || {
            let message = "This x-amz-checksum-algorithm or x-amz-checksum-type is not known, or does \
                           not go with the other.";
            S3Error::new(ErrorCode::InvalidRequest, message)
        };
        let named = |name: &str| {
            let value = headers.iter().find(|(have, _)| have == name)?;
            Some(std::str::from_utf8(&value.1).unwrap_or_default())
        };
        let kind = named("x-amz-checksum-type");
        let Some(algorithm) = named("x-amz-checksum-algorithm") else {
            return if kind.is_none() { Ok(None) } else { Err(odd()) };
        };
        let algorithm = ChecksumAlgorithm::from_name(algorithm).ok_or_else(odd)?;
        let kind = match kind {
            Some(kind) => ChecksumType::from_name(kind).ok_or_else(odd)?,
            None => ChecksumType::default_of(algorithm),
        };
        if kind.goes_with(algorithm) {
            Ok(Some(ChecksumRule { algorithm, kind }))
        } else {
            Err(odd())
        }
    }
}

/// A part that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredPart {
    /// When.
    pub stored: u64,
    /// The part; its body is in a file.
    pub part: PartBody,
}

impl StoredPart {
    pub(crate) fn body(&self) -> &Body {
        &self.part.body
    }

    pub(crate) fn file(&self) -> Option<BodyId> {
        match self.part.body.place {
            Place::File(id) => Some(id),
            Place::Inline => None,
        }
    }
}

/// A completed upload, as its client was told: for one that asks again because it did not hear that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completed {
    /// The upload's number.
    pub upload: u64,
    /// See [`ClientUpload::token`].
    pub token: u64,
    /// The object's ETag, without quotes.
    pub etag: String,
    /// The object's checksum.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "whole")]
    pub checksum: Option<WholeChecksum>,
}

/// The record.
pub(crate) fn encode<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    framing::encode(FORMAT, record)
}

/// Reads a record. Errors: it is not one, or one of another format.
pub(crate) fn decode<T: DeserializeOwned>(record: &[u8]) -> io::Result<T> {
    framing::decode(FORMAT, record)
}

mod algorithm {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        algorithm: &ChecksumAlgorithm,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(algorithm.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ChecksumAlgorithm, D::Error> {
        let name = String::deserialize(deserializer)?;
        ChecksumAlgorithm::from_name(&name).ok_or_else(|| D::Error::custom("unknown checksum"))
    }
}

mod kind {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        kind: &ChecksumType,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ChecksumType, D::Error> {
        let name = String::deserialize(deserializer)?;
        ChecksumType::from_name(&name).ok_or_else(|| D::Error::custom("unknown checksum type"))
    }
}

mod whole {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        #[serde(with = "algorithm")]
        algorithm: ChecksumAlgorithm,
        #[serde(rename = "type", with = "kind")]
        kind: ChecksumType,
        value: String,
    }

    pub(super) fn serialize<S: Serializer>(
        whole: &Option<WholeChecksum>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let written = whole.as_ref().map(|whole| Written {
            algorithm: whole.algorithm,
            kind: whole.kind,
            value: whole.value.clone(),
        });
        written.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<WholeChecksum>, D::Error> {
        let written = Option::<Written>::deserialize(deserializer)?;
        let whole = |Written { algorithm, kind, value }| WholeChecksum { algorithm, kind, value };
        Ok(written.map(whole))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_has_one_spelling_and_is_no_backend_s() {
        let id = UploadId { number: 0x1_0000_0000_0001, token: 0xab };
        let text = id.to_string();
        assert_eq!(text, "mizuchi-spool-0001000000000001-00000000000000ab");
        assert_eq!(UploadId::parse(&text), Some(id));
        for other in [
            "",
            "2~abc",
            "mizuchi-spool-1-2",
            "mizuchi-spool-0001000000000001",
            "mizuchi-spool-0001000000000001-00000000000000AB",
            "mizuchi-spool-0001000000000001-00000000000000ab-",
        ] {
            assert_eq!(UploadId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_create_says_of_checksums() {
        let of = |pairs: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| {
                (format!("x-amz-checksum-{name}"), value.as_bytes().to_vec())
            };
            let headers: Vec<_> = pairs.iter().map(own).collect();
            ChecksumRule::of(&headers)
        };
        let rule = |algorithm, kind| Ok(Some(ChecksumRule { algorithm, kind }));
        use ChecksumAlgorithm::{Crc32, Crc64Nvme};
        use ChecksumType::{Composite, FullObject};
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("algorithm", "CRC32")]), rule(Crc32, Composite));
        assert_eq!(of(&[("algorithm", "crc64nvme")]), rule(Crc64Nvme, FullObject));
        assert_eq!(of(&[("algorithm", "CRC32"), ("type", "FULL_OBJECT")]), rule(Crc32, FullObject));
        for odd in [
            &[("algorithm", "XXHASH64")][..],
            &[("type", "COMPOSITE")],
            &[("algorithm", "SHA256"), ("type", "FULL_OBJECT")],
            &[("algorithm", "CRC64NVME"), ("type", "COMPOSITE")],
            &[("algorithm", "CRC32"), ("type", "HALF")],
        ] {
            assert_eq!(of(odd).unwrap_err().code, "InvalidRequest", "{odd:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            names in (any::<String>(), any::<String>(), any::<String>()),
            numbers in any::<(u64, u64, u64)>(),
            headers in prop::collection::vec((any::<String>(), any::<Vec<u8>>()), 0..3),
            algorithm in prop::option::of(prop::sample::select(ChecksumAlgorithm::ALL.to_vec())),
            value in any::<String>(),
        ) {
            let ((bucket, key, principal), (initiated, token, upload)) = (names, numbers);
            let kind = ChecksumType::Composite;
            let checksum = algorithm.map(|algorithm| ChecksumRule { algorithm, kind });
            let record = ClientUpload {
                bucket, key, principal, initiated, token, headers, checksum,
            };
            prop_assert_eq!(decode::<ClientUpload>(&encode(&record).unwrap()).unwrap(), record);
            let checksum = algorithm.map(|algorithm| WholeChecksum { algorithm, kind, value });
            let completed = Completed { upload, token, etag: "e-1".to_owned(), checksum };
            prop_assert_eq!(decode::<Completed>(&encode(&completed).unwrap()).unwrap(), completed);
        }

        #[test]
        fn what_is_no_record_is_an_error_and_no_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(decode::<ClientUpload>(&bytes).is_err());
            prop_assert!(decode::<StoredPart>(&bytes).is_err());
            prop_assert!(decode::<Completed>(&bytes).is_err());
        }
    }

    /// Whichever bit flips, it is not another record.
    #[test]
    fn no_flipped_bit_makes_another_record() {
        let completed = Completed { upload: 5, token: 6, etag: "e-1".to_owned(), checksum: None };
        let record = encode(&completed).unwrap();
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Completed>(&flipped).is_err(), "bit {bit}");
        }
    }

    /// The format of what is on disks already must not change unnoticed.
    #[test]
    fn the_first_format_stays_as_it_is() {
        let of = |json: &str| [&[1], &framing::crc(json.as_bytes())[..], json.as_bytes()].concat();
        let upload = ClientUpload {
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            principal: "p".to_owned(),
            initiated: 1,
            token: 2,
            headers: vec![("a".to_owned(), vec![0xff])],
            checksum: Some(ChecksumRule {
                algorithm: ChecksumAlgorithm::Crc32c,
                kind: ChecksumType::FullObject,
            }),
        };
        let text = concat!(
            r#"{"bucket":"b","key":"k","principal":"p","initiated":1,"token":2,"#,
            r#""headers":[["a","/w=="]],"checksum":{"algorithm":"CRC32C","type":"FULL_OBJECT"}}"#
        );
        assert_eq!(encode(&upload).unwrap(), of(text));
        let body = Body { length: 3, md5: [0xa1; 16], place: Place::File(BodyId(0x1f)) };
        let part = StoredPart { stored: 7, part: PartBody { number: 2, body, checksum: None } };
        let text = concat!(
            r#"{"stored":7,"part":{"number":2,"body":{"length":3,"#,
            r#""md5":"a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1","place":{"file":"000000000000001f"}}}}"#
        );
        assert_eq!(encode(&part).unwrap(), of(text));
        let completed = Completed {
            upload: 5,
            token: 6,
            etag: "e-1".to_owned(),
            checksum: Some(WholeChecksum {
                algorithm: ChecksumAlgorithm::Sha1,
                kind: ChecksumType::Composite,
                value: "v-1".to_owned(),
            }),
        };
        let text = concat!(
            r#"{"upload":5,"token":6,"etag":"e-1","#,
            r#""checksum":{"algorithm":"SHA1","type":"COMPOSITE","value":"v-1"}}"#
        );
        assert_eq!(encode(&completed).unwrap(), of(text));
        assert_eq!(encode(&7u8).unwrap(), [1, 0xb6, 0x54, 0x7e, 0x0b, b'7']);
    }
}
