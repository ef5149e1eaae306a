//! The requests that deliver a client's multipart upload: its own parts, by its own numbers, so that the
//! ETag is the one that was acknowledged.

use super::entry::{Entry, PartBody, Parts};
use super::request::without_payload_hash;
use crate::payload::ChecksumAlgorithm;
use crate::s3::split_headers;
use crate::s3::upstream::UpstreamTemplate;
use crate::s3::xml;
use crate::sigv4::PayloadHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// What a client says it will send checksums of.
const ALGORITHM: &str = "x-amz-checksum-algorithm";

/// CreateMultipartUpload, as the client sent it.
pub fn create(entry: &Entry) -> UpstreamTemplate {
    let headers = without_payload_hash(&entry.headers);
    let query = vec![("uploads".to_owned(), String::new())];
    request("POST", entry, query, headers, PayloadHash::Empty, Some(0))
}

/// UploadPart, with the MD5 that was acknowledged.
pub fn part(entry: &Entry, part: &PartBody, upload_id: &str) -> UpstreamTemplate {
    let mut headers = split_headers::divide(&without_payload_hash(&entry.headers)).part;
    headers.push(("content-md5".to_owned(), STANDARD.encode(part.body.md5).into_bytes()));
    let mut payload = PayloadHash::Unsigned;
    if let Some((algorithm, value)) = checksum(entry, part) {
        headers.push((algorithm.header().to_owned(), value.as_bytes().to_vec()));
        let digest = STANDARD.decode(value).ok().and_then(|digest| digest.try_into().ok());
        if let (ChecksumAlgorithm::Sha256, Some(digest)) = (algorithm, digest) {
            payload = PayloadHash::Hash(digest);
        }
    }
    let query = vec![
        ("partNumber".to_owned(), part.number.to_string()),
        ("uploadId".to_owned(), upload_id.to_owned()),
    ];
    request("PUT", entry, query, headers, payload, Some(part.body.length))
}

/// CompleteMultipartUpload, and its document. `etags`: the backend's, one for each part.
pub fn complete(
    entry: &Entry,
    parts: &Parts,
    etags: &[String],
    upload_id: &str,
) -> (UpstreamTemplate, Bytes) {
    let named = parts.parts.iter().zip(etags).map(|(part, etag)| {
        let checksum = checksum(entry, part).map(|(algorithm, value)| (algorithm.name(), value));
        (u32::from(part.number), etag.as_str(), checksum)
    });
    let document = Bytes::from(xml::checked_complete_request(named));
    let headers = without_payload_hash(&parts.headers);
    let query = vec![("uploadId".to_owned(), upload_id.to_owned())];
    let (payload, length) = (PayloadHash::of(&document), Some(document.len() as u64));
    (request("POST", entry, query, headers, payload, length), document)
}

/// AbortMultipartUpload.
pub fn abort(entry: &Entry, upload_id: &str) -> UpstreamTemplate {
    let headers = split_headers::divide(&without_payload_hash(&entry.headers)).part;
    let query = vec![("uploadId".to_owned(), upload_id.to_owned())];
    request("DELETE", entry, query, headers, PayloadHash::Empty, None)
}

/// The ETag of the object: None: there are no parts.
pub fn etag(parts: &Parts) -> Option<String> {
    let md5s: Vec<String> = parts.parts.iter().map(|part| part.body.md5_hex()).collect();
    xml::multipart_etag(md5s.iter().map(String::as_str))
}

/// A part's checksum, if it is of the algorithm that Create named: S3 refuses any other.
fn checksum<'p>(entry: &Entry, part: &'p PartBody) -> Option<(ChecksumAlgorithm, &'p str)> {
    let (name, value) = part.checksum.as_ref()?;
    let algorithm = ChecksumAlgorithm::from_header(name)?;
    let named = entry.headers.iter().find(|(name, _)| name == ALGORITHM)?;
    named.1.eq_ignore_ascii_case(algorithm.name().as_bytes()).then_some((algorithm, value))
}

fn request(
    method: &'static str,
    entry: &Entry,
    query: Vec<(String, String)>,
    headers: Vec<(String, Vec<u8>)>,
    payload: PayloadHash,
    length: Option<u64>,
) -> UpstreamTemplate {
    UpstreamTemplate { method, key: entry.key.clone(), query, headers, payload, length }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{Body, EntryContent, Place};
    use super::*;

    fn entry(algorithm: Option<&str>) -> (Entry, Parts) {
        let part = |number, md5| PartBody {
            number,
            body: Body { length: 3, md5: [md5; 16], place: Place::Inline },
            checksum: Some(("x-amz-checksum-crc32c".to_owned(), "AAAAAA==".to_owned())),
        };
        let parts = Parts {
            parts: vec![part(2, 0), part(7, 1)],
            headers: vec![("x-amz-mp-object-size".to_owned(), b"6".to_vec())],
        };
        let mut headers = vec![
            ("content-type".to_owned(), b"a/b".to_vec()),
            ("x-amz-request-payer".to_owned(), b"requester".to_vec()),
        ];
        headers.extend(algorithm.map(|name| (ALGORITHM.to_owned(), name.as_bytes().to_vec())));
        let entry = Entry {
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            accepted: 0,
            principal: String::new(),
            headers,
            content: EntryContent::Parts(parts.clone()),
            quarantined: None,
            upload_id: None,
            superseded: None,
        };
        (entry, parts)
    }

    fn text(headers: &[(String, Vec<u8>)]) -> Vec<String> {
        let line = |(name, value): &(String, Vec<u8>)| {
            format!("{name}: {}", String::from_utf8_lossy(value))
        };
        headers.iter().map(line).collect()
    }

    /// "Part boundaries, numbers, checksums and headers are the client's own."
    #[test]
    fn the_requests_are_those_of_the_client() {
        let (entry, parts) = entry(Some("CRC32C"));
        assert_eq!(text(&create(&entry).headers).len(), 3);
        let sent = part(&entry, &parts.parts[1], "id");
        assert_eq!(
            text(&sent.headers),
            [
                "x-amz-request-payer: requester",
                "content-md5: AQEBAQEBAQEBAQEBAQEBAQ==",
                "x-amz-checksum-crc32c: AAAAAA=="
            ]
        );
        assert_eq!(sent.query[0].1, "7");
        assert_eq!(sent.length, Some(3));
        let etags = ["\"a\"".to_owned(), "b".to_owned()];
        let (sent, document) = complete(&entry, &parts, &etags, "id");
        assert_eq!(text(&sent.headers), ["x-amz-mp-object-size: 6"]);
        let document = String::from_utf8(document.to_vec()).unwrap();
        assert!(
            document.contains(
                "<Part><ChecksumCRC32C>AAAAAA==</ChecksumCRC32C><PartNumber>2</PartNumber>\
                 <ETag>&quot;a&quot;</ETag></Part><Part><ChecksumCRC32C>"
            ),
            "{document}"
        );
    }

    /// A checksum that Create did not announce was verified here; S3 would refuse it.
    #[test]
    fn a_checksum_of_another_algorithm_stays_here() {
        for algorithm in [None, Some("SHA256")] {
            let (entry, parts) = entry(algorithm);
            let sent = text(&part(&entry, &parts.parts[0], "id").headers);
            assert!(!sent.iter().any(|line| line.contains("crc32c")), "{sent:?}");
            let (_, document) = complete(&entry, &parts, &["a".to_owned(), "b".to_owned()], "id");
            assert!(!String::from_utf8_lossy(&document).contains("Checksum"));
        }
    }

    #[test]
    fn a_sha256_is_the_payload_s_hash_as_well() {
        let (entry, mut parts) = entry(Some("SHA256"));
        parts.parts[0].checksum =
            Some(("x-amz-checksum-sha256".to_owned(), STANDARD.encode([5; 32])));
        assert_eq!(part(&entry, &parts.parts[0], "id").payload, PayloadHash::Hash([5; 32]));
    }
}
