//! What S3 would refuse of a part or a Complete. Pure. A Complete is acknowledged before the backend has
//! seen any of it, so everything that could be refused then is refused here.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>

use super::super::entry::{PartBody, Parts};
use super::record::{ChecksumRule, ClientUpload, Completed, StoredPart, UploadId};
use crate::payload::{ChecksumAlgorithm, ChecksumType, whole_of_parts};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::xml::{CompleteRequest, CompletedPart, WholeChecksum, multipart_etag};
use std::collections::BTreeMap;

/// Bytes of the smallest part that is not the last (S3 User Guide, "Amazon S3 multipart upload limits").
pub(crate) const MIN_PART: u64 = 5 * 1024 * 1024;

/// Bytes of the largest object (the same).
const MAX_OBJECT: u64 = 5 * 1024 * 1024 * 1024 * 1024;

/// Whether a part may come with this checksum (None: without one): S3 wants that of the upload's
/// algorithm, and does without one only where the object's is not made of the parts'. Where the upload
/// has none, SDKs send one all the same: it says what the bytes are, and no more.
///
/// Errors: 400 InvalidRequest.
pub fn part_checksum(
    rule: Option<ChecksumRule>,
    given: Option<ChecksumAlgorithm>,
) -> Result<(), S3Error> {
    let expected = rule.map(|rule| rule.algorithm);
    let optional = rule.is_some_and(|rule| rule.kind == ChecksumType::FullObject);
    if expected.is_none() || expected == given || (given.is_none() && optional) {
        return Ok(());
    }
    Err(other_checksum(expected, given))
}

fn other_checksum(
    expected: Option<ChecksumAlgorithm>,
    given: Option<ChecksumAlgorithm>,
) -> S3Error {
    let name = |one: Option<ChecksumAlgorithm>| one.map_or("null", ChecksumAlgorithm::name);
    let message = format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
        name(expected),
        name(given)
    );
    S3Error::new(ErrorCode::InvalidRequest, message)
}

/// What becomes of an upload with these parts that is to be completed with these: the object's parts, and
/// what its client is told. `headers`: those of the request that pass on.
///
/// Errors: 400 InvalidPart, InvalidPartOrder, EntityTooSmall, EntityTooLarge, InvalidRequest, BadDigest.
pub(crate) fn complete(
    (id, upload): (UploadId, &ClientUpload),
    parts: &BTreeMap<u16, StoredPart>,
    asked: &CompleteRequest,
    mut headers: Vec<(String, Vec<u8>)>,
) -> Result<(Parts, Completed), S3Error> {
    let mut named = Vec::with_capacity(asked.parts.len());
    for (at, one) in asked.parts.iter().enumerate() {
        let stored = parts.get(&one.number.get()).ok_or_else(invalid_part)?;
        part_of(upload.checksum, one, &stored.part)?;
        // "When an additional checksum is applied to each part, the PartNumber must start at 1 and the
        // part numbers must be consecutive." (CompletedPart)
        if upload.checksum.is_some() && usize::from(one.number.get()) != at + 1 {
            let message = "Parts that have checksums must be numbered consecutively, from 1 on.";
            return Err(S3Error::new(ErrorCode::InvalidPartOrder, message));
        }
        let mut part = stored.part.clone();
        // One that was sent without an algorithm of the upload is no part of the object.
        part.checksum = part.checksum.filter(|_| upload.checksum.is_some());
        named.push(part);
    }
    let all_but_last = named.split_last().map_or(&[][..], |(_, before)| before);
    if all_but_last.iter().any(|part| part.body.length < MIN_PART) {
        let message = "Your proposed upload is smaller than the minimum allowed size";
        return Err(S3Error::new(ErrorCode::EntityTooSmall, message));
    }
    let size = named.iter().fold(0, |sum: u64, part| sum.saturating_add(part.body.length));
    if size > MAX_OBJECT {
        let message = "Your proposed upload exceeds the maximum allowed object size.";
        return Err(S3Error::new(ErrorCode::EntityTooLarge, message));
    }
    let checksum = upload.checksum.map(|rule| whole(rule, &named)).transpose()?;
    check_headers(upload.checksum, checksum.as_ref(), size, &headers)?;
    // S3s disagree on how a composite one is written in a request. It was held against the parts here, and
    // each of them brings its own.
    let composite = upload.checksum.is_some_and(|rule| rule.kind == ChecksumType::Composite);
    headers.retain(|(name, _)| !composite || ChecksumAlgorithm::from_header(name).is_none());
    let etags: Vec<String> = named.iter().map(|part| part.body.md5_hex()).collect();
    let etag = multipart_etag(etags.iter().map(String::as_str)).ok_or_else(invalid_part)?;
    let completed = Completed { upload: id.number, token: id.token, etag, checksum };
    Ok((Parts { parts: named, headers }, completed))
}

/// The ETag of the object that these parts would be, without quotes; None: they have other ETags than
/// parts that stand here have.
pub(crate) fn etag_of(asked: &CompleteRequest) -> Option<String> {
    multipart_etag(asked.parts.iter().map(|part| part.etag.as_str()))
}

/// Whether the document means this part.
fn part_of(
    rule: Option<ChecksumRule>,
    one: &CompletedPart,
    stored: &PartBody,
) -> Result<(), S3Error> {
    if one.etag.trim_matches('"') != stored.body.md5_hex() {
        return Err(invalid_part());
    }
    let recorded = stored.checksum.as_ref();
    let recorded = recorded.and_then(|(header, value)| {
        Some((ChecksumAlgorithm::from_header(header)?.name(), value.as_str()))
    });
    let given = one.checksums.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    if given.into_iter().any(|given| Some(given) != recorded) {
        return Err(invalid_part());
    }
    match rule {
        Some(rule) if rule.kind == ChecksumType::Composite && one.checksums.is_empty() => {
            let message = format!(
                "The upload was created using a {} checksum. The complete request must include the \
                 checksum for each part. It was missing for part {} in the request.",
                rule.algorithm.name().to_ascii_lowercase(),
                one.number
            );
            Err(S3Error::new(ErrorCode::InvalidRequest, message))
        }
        _ => Ok(()),
    }
}

/// The object's checksum.
fn whole(rule: ChecksumRule, named: &[PartBody]) -> Result<WholeChecksum, S3Error> {
    let digest = |part: &PartBody| {
        let (header, value) = part.checksum.as_ref()?;
        let algorithm = ChecksumAlgorithm::from_header(header)?;
        (algorithm == rule.algorithm).then(|| algorithm.parse_value(value)).flatten()
    };
    let digests: Option<Vec<(Vec<u8>, u64)>> =
        named.iter().map(|part| Some((digest(part)?, part.body.length))).collect();
    let value = digests.and_then(|digests| whole_of_parts(rule.algorithm, rule.kind, &digests));
    // No part without its checksum is taken.
    let value = value.ok_or_else(invalid_part)?;
    Ok(WholeChecksum { algorithm: rule.algorithm, kind: rule.kind, value })
}

/// What the request's headers say of the whole.
fn check_headers(
    rule: Option<ChecksumRule>,
    whole: Option<&WholeChecksum>,
    size: u64,
    headers: &[(String, Vec<u8>)],
) -> Result<(), S3Error> {
    for (name, value) in headers {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match name.as_str() {
            "x-amz-mp-object-size" if text.parse() != Ok(size) => {
                let message = "The provided x-amz-mp-object-size is not the size of the object.";
                return Err(S3Error::new(ErrorCode::InvalidRequest, message));
            }
            // "If the checksum type doesn't match the checksum type that was specified for the object
            // during the CreateMultipartUpload request, it'll result in a BadDigest error."
            "x-amz-checksum-type"
                if ChecksumType::from_name(text) != rule.map(|rule| rule.kind) =>
            {
                let message = "The x-amz-checksum-type is another than the upload was begun with.";
                return Err(S3Error::new(ErrorCode::BadDigest, message));
            }
            name => {
                let Some(given) = ChecksumAlgorithm::from_header(name) else { continue };
                let Some(whole) = whole.filter(|whole| whole.algorithm == given) else {
                    return Err(other_checksum(rule.map(|rule| rule.algorithm), Some(given)));
                };
                // S3 takes a composite one with or without the parts' number.
                let bare = whole.value.split_once('-').map_or(&*whole.value, |(bare, _)| bare);
                if text != whole.value && text != bare {
                    let message = format!(
                        "The {} you specified did not match the calculated checksum.",
                        given.name()
                    );
                    return Err(S3Error::new(ErrorCode::BadDigest, message));
                }
            }
        }
    }
    Ok(())
}

fn invalid_part() -> S3Error {
    let message = "One or more of the specified parts could not be found. The part may not have been \
                   uploaded, or the specified entity tag may not match the part's entity tag.";
    S3Error::new(ErrorCode::InvalidPart, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::super::entry::{Body, BodyId, Place};
    use super::*;
    use crate::payload::Hasher;
    use crate::s3::names::PartNumber;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    const ID: UploadId = UploadId { number: 1, token: 2 };
    const BIG: u64 = MIN_PART;

    fn value(algorithm: ChecksumAlgorithm, number: u16) -> String {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(&number.to_be_bytes());
        hasher.finish_value()
    }

    fn upload(rule: Option<(ChecksumAlgorithm, ChecksumType)>) -> ClientUpload {
        ClientUpload {
            bucket: String::new(),
            key: String::new(),
            principal: String::new(),
            initiated: 0,
            token: 2,
            headers: Vec::new(),
            checksum: rule.map(|(algorithm, kind)| ChecksumRule { algorithm, kind }),
        }
    }

    fn stored(
        rule: Option<ChecksumAlgorithm>,
        lengths: &[(u16, u64)],
    ) -> BTreeMap<u16, StoredPart> {
        let part = |(number, length): &(u16, u64)| {
            let place = Place::File(BodyId(u64::from(*number)));
            let body = Body { length: *length, md5: [*number as u8; 16], place };
            let checksum = rule.map(|one| (one.header().to_owned(), value(one, *number)));
            let part = PartBody { number: *number, body, checksum };
            (*number, StoredPart { stored: 0, part })
        };
        lengths.iter().map(part).collect()
    }

    fn asked(numbers: &[u16], rule: Option<ChecksumAlgorithm>) -> CompleteRequest {
        let part = |number: &u16| CompletedPart {
            number: PartNumber::parse(&number.to_string()).unwrap(),
            etag: format!("\"{}\"", format!("{number:02x}").repeat(16)),
            checksums: rule
                .map(|one| (one.name().to_owned(), value(one, *number)))
                .into_iter()
                .collect(),
        };
        CompleteRequest { parts: numbers.iter().map(part).collect() }
    }

    fn header(name: &str, value: &str) -> Vec<(String, Vec<u8>)> {
        vec![(name.to_owned(), value.as_bytes().to_vec())]
    }

    fn code<T>(result: Result<T, S3Error>) -> String {
        result.map_or_else(|error| error.code.into_owned(), |_| "200".to_owned())
    }

    #[test]
    fn parts_are_those_that_are_there_and_large_enough() {
        let upload = upload(None);
        let parts = stored(None, &[(1, BIG), (3, BIG), (4, 1), (5, 0)]);
        let done = |numbers: &[u16]| {
            code(complete((ID, &upload), &parts, &asked(numbers, None), Vec::new()))
        };
        assert_eq!(done(&[1, 3, 4]), "200");
        assert_eq!(done(&[3]), "200");
        assert_eq!(done(&[5]), "200");
        assert_eq!(done(&[1, 2]), "InvalidPart");
        assert_eq!(done(&[1, 4, 5]), "EntityTooSmall");
        let mut other = asked(&[1], None);
        other.parts[0].etag = "\"00\"".to_owned();
        assert_eq!(code(complete((ID, &upload), &parts, &other, Vec::new())), "InvalidPart");
        let huge = stored(None, &[(1, MAX_OBJECT), (2, 1)]);
        let both = asked(&[1, 2], None);
        assert_eq!(code(complete((ID, &upload), &huge, &both, Vec::new())), "EntityTooLarge");
    }

    /// "The ETag of the whole is that of its parts as the client made them."
    #[test]
    fn what_is_made_of_it_is_what_was_named_in_order() {
        let parts = stored(None, &[(1, BIG), (2, BIG), (7, 1)]);
        let headers = header("x-amz-mp-object-size", &(BIG + 1).to_string());
        let made = complete((ID, &upload(None)), &parts, &asked(&[2, 7], None), headers.clone());
        let (made, completed) = made.unwrap();
        let numbers: Vec<u16> = made.parts.iter().map(|part| part.number).collect();
        assert_eq!((numbers, made.headers), (vec![2, 7], headers));
        assert!(completed.etag.ends_with("-2"), "{}", completed.etag);
        let expected = multipart_etag(["02".repeat(16).as_str(), "07".repeat(16).as_str()]);
        assert_eq!((completed.etag, completed.checksum), (expected.unwrap(), None));
        let wrong = header("x-amz-mp-object-size", "7");
        let wrong = complete((ID, &upload(None)), &parts, &asked(&[2, 7], None), wrong);
        assert_eq!(code(wrong), "InvalidRequest");
    }

    #[test]
    fn composite_checksums_are_held_against_the_parts() {
        let algorithm = ChecksumAlgorithm::Sha256;
        let upload = upload(Some((algorithm, ChecksumType::Composite)));
        let parts = stored(Some(algorithm), &[(1, BIG), (2, 1), (3, 1)]);
        let done =
            |asked: CompleteRequest, headers| complete((ID, &upload), &parts, &asked, headers);
        let whole = done(asked(&[1, 2], Some(algorithm)), Vec::new()).unwrap().1.checksum.unwrap();
        assert!(whole.value.ends_with("-2"), "{}", whole.value);
        let both = || asked(&[1, 2], Some(algorithm));
        let name = algorithm.header();
        let bare = whole.value.trim_end_matches("-2");
        let made = done(both(), header(name, &whole.value)).unwrap().0;
        assert!(made.headers.is_empty(), "it was judged here");
        assert_eq!(code(done(both(), header(name, bare))), "200");
        assert_eq!(code(done(both(), header(name, &format!("{bare}-3")))), "BadDigest");
        assert_eq!(
            code(done(both(), header("x-amz-checksum-crc32", "AAAAAA=="))),
            "InvalidRequest"
        );
        assert_eq!(code(done(both(), header("x-amz-checksum-type", "COMPOSITE"))), "200");
        assert_eq!(code(done(both(), header("x-amz-checksum-type", "FULL_OBJECT"))), "BadDigest");
        assert_eq!(code(done(asked(&[1, 2], None), Vec::new())), "InvalidRequest");
        let mut other = both();
        other.parts[1].checksums[0].1 = value(algorithm, 9);
        assert_eq!(code(done(other, Vec::new())), "InvalidPart");
        assert_eq!(code(done(asked(&[2, 3], Some(algorithm)), Vec::new())), "InvalidPartOrder");
    }

    /// SDKs send parts with checksums though the upload was begun without: they are held against what the
    /// document says, and are not the object's.
    #[test]
    fn checksums_of_parts_alone_are_not_the_object_s() {
        let sha = ChecksumAlgorithm::Sha1;
        let (upload, parts) = (upload(None), stored(Some(sha), &[(3, 1)]));
        for asked in [asked(&[3], Some(sha)), asked(&[3], None)] {
            let (made, completed) = complete((ID, &upload), &parts, &asked, Vec::new()).unwrap();
            assert_eq!((&made.parts[0].checksum, &completed.checksum), (&None, &None));
        }
        let other = asked(&[3], Some(ChecksumAlgorithm::Crc32));
        assert_eq!(code(complete((ID, &upload), &parts, &other, Vec::new())), "InvalidPart");
    }

    /// "The CRC of the whole from those of its parts": no byte is read again.
    #[test]
    fn a_full_object_checksum_is_that_of_all_bytes() {
        let algorithm = ChecksumAlgorithm::Crc64Nvme;
        let upload = upload(Some((algorithm, ChecksumType::FullObject)));
        let bytes: Vec<u8> = (0..MIN_PART + 7).map(|at| (at % 251) as u8).collect();
        let of = |bytes: &[u8]| {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(bytes);
            hasher.finish()
        };
        let mut parts = stored(None, &[(1, BIG), (2, 7)]);
        for (number, piece) in [(1, &bytes[..MIN_PART as usize]), (2, &bytes[MIN_PART as usize..])]
        {
            let value = STANDARD.encode(of(piece));
            parts.get_mut(&number).unwrap().part.checksum =
                Some((algorithm.header().to_owned(), value));
        }
        let done = |headers| complete((ID, &upload), &parts, &asked(&[1, 2], None), headers);
        let whole = STANDARD.encode(of(&bytes));
        let (parts, made) = done(header(algorithm.header(), &whole)).unwrap();
        let made = made.checksum.unwrap();
        assert_eq!((made.value, made.kind), (whole, ChecksumType::FullObject));
        assert_eq!(parts.headers.len(), 1, "the backend looks at it, too");
        assert_eq!(code(done(header(algorithm.header(), "AAAAAAAAAAA="))), "BadDigest");
    }

    #[test]
    fn a_part_s_checksum_is_that_of_the_upload() {
        use ChecksumAlgorithm::{Crc32, Sha1};
        let rule = |algorithm, kind| Some(ChecksumRule { algorithm, kind });
        let composite = rule(Crc32, ChecksumType::Composite);
        assert!(part_checksum(None, None).is_ok());
        assert!(part_checksum(None, Some(Crc32)).is_ok());
        assert!(part_checksum(composite, Some(Crc32)).is_ok());
        assert!(part_checksum(rule(Crc32, ChecksumType::FullObject), None).is_ok());
        let full = rule(Crc32, ChecksumType::FullObject);
        for (rule, given) in [(composite, None), (composite, Some(Sha1)), (full, Some(Sha1))] {
            assert_eq!(part_checksum(rule, given).unwrap_err().code, "InvalidRequest");
        }
    }
}
