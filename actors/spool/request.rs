//! From a client's PutObject to what is recorded of it, and back to the request that is delivered.

use super::entry::{Body, Entry};
use crate::s3::upstream::UpstreamTemplate;
use crate::sigv4::PayloadHash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Where a record keeps the SHA-256 that its client signed, for a backend that takes no unsigned payload.
const CONTENT_SHA256: &str = "x-amz-content-sha256";

/// The headers to record: those that pass on, the checksum that came behind the body, and the hash of the
/// payload.
pub fn recorded_headers(
    mut headers: Vec<(String, Vec<u8>)>,
    trailers: Vec<(String, String)>,
    payload: PayloadHash,
) -> Vec<(String, Vec<u8>)> {
    headers.retain(|(name, _)| name != "x-amz-sdk-checksum-algorithm");
    headers.extend(trailers.into_iter().map(|(name, value)| (name, value.into_bytes())));
    if let PayloadHash::Hash(_) = payload {
        headers.push((CONTENT_SHA256.to_owned(), payload.value().as_bytes().to_vec()));
    }
    headers
}

/// The headers that go to the backend.
pub(super) fn without_payload_hash(recorded: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    recorded.iter().filter(|(name, _)| name != CONTENT_SHA256).cloned().collect()
}

/// The PutObject as its client sent it, with the MD5 that was acknowledged.
pub fn put_object(entry: &Entry, body: &Body) -> UpstreamTemplate {
    let mut headers = entry.headers.clone();
    let hash = headers.iter().position(|(name, _)| name == CONTENT_SHA256);
    let payload = hash
        .map(|at| headers.remove(at).1)
        .and_then(|hex| PayloadHash::from_hex(&hex))
        .unwrap_or(PayloadHash::Unsigned);
    if !headers.iter().any(|(name, _)| name == "content-md5") {
        headers.push(("content-md5".to_owned(), STANDARD.encode(body.md5).into_bytes()));
    }
    UpstreamTemplate {
        method: "PUT",
        key: entry.key.clone(),
        query: Vec::new(),
        headers,
        payload,
        length: Some(body.length),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EntryContent, Place};
    use super::*;

    #[test]
    fn what_was_recorded_is_what_is_sent() {
        let given = [("content-type", "a/b"), ("x-amz-sdk-checksum-algorithm", "CRC32")];
        let given = given.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        let trailer = ("x-amz-checksum-crc32".to_owned(), "AAAAAA==".to_owned());
        for payload in [PayloadHash::Hash([0xab; 32]), PayloadHash::Unsigned] {
            let body = Body { length: 3, md5: [0; 16], place: Place::Inline };
            let entry = Entry {
                bucket: "b".to_owned(),
                key: "k".to_owned(),
                accepted: 0,
                principal: String::new(),
                headers: recorded_headers(given.to_vec(), vec![trailer.clone()], payload),
                content: EntryContent::Whole(body.clone()),
                quarantined: None,
                upload_id: None,
                superseded: None,
            };
            let sent = put_object(&entry, &body);
            assert_eq!((sent.payload, sent.length), (payload, Some(3)));
            let sent = sent.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            let expected: [(&str, &[u8]); 3] = [
                ("content-type", b"a/b"),
                ("x-amz-checksum-crc32", b"AAAAAA=="),
                ("content-md5", b"AAAAAAAAAAAAAAAAAAAAAA=="),
            ];
            assert!(sent.eq(expected));
        }
    }
}
