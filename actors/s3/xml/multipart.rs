//! The answers to a client's multipart upload whose parts stand in the spool. They are written as a
//! backend would answer: the backend's names in them are replaced later, like a backend's own
//! ([`super::rewrite`]).

use super::write::{DECLARATION, NAMESPACE, text, timestamp};
use crate::payload::{ChecksumAlgorithm, ChecksumType};

/// The checksum of a completed upload's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeChecksum {
    /// Which.
    pub algorithm: ChecksumAlgorithm,
    /// What it is made of.
    pub kind: ChecksumType,
    /// Its value, as a header has it.
    pub value: String,
}

/// CreateMultipartUpload's answer.
pub fn initiate_document(upload_id: &str) -> String {
    format!(
        "{DECLARATION}<InitiateMultipartUploadResult xmlns=\"{NAMESPACE}\"><Bucket></Bucket><Key></Key>\
         <UploadId>{}</UploadId></InitiateMultipartUploadResult>",
        text(upload_id)
    )
}

/// CompleteMultipartUpload's answer. `etag`: with its quotes.
pub fn completed_document(etag: &str, checksum: Option<&WholeChecksum>) -> String {
    let checksum = checksum.map(|whole| {
        let (name, kind) = (whole.algorithm.name(), whole.kind.name());
        let value = text(&whole.value);
        format!("<Checksum{name}>{value}</Checksum{name}><ChecksumType>{kind}</ChecksumType>")
    });
    format!(
        "{DECLARATION}<CompleteMultipartUploadResult xmlns=\"{NAMESPACE}\"><Location></Location>\
         <Bucket></Bucket><Key></Key><ETag>{}</ETag>{}</CompleteMultipartUploadResult>",
        text(etag),
        checksum.unwrap_or_default()
    )
}

/// One part of [`PartsPage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPart {
    /// Its number.
    pub number: u16,
    /// When it was stored, milliseconds since 1970.
    pub stored: u64,
    /// Its ETag, without quotes.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
    /// Its checksum: the algorithm, and the value as a header has it.
    pub checksum: Option<(ChecksumAlgorithm, String)>,
}

/// What ListParts answers, but for bucket and key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartsPage {
    /// Whose the upload is.
    pub principal: String,
    /// Of the object; empty: STANDARD.
    pub storage_class: String,
    /// What the upload was begun with.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumType)>,
    /// Parts up to this number are on earlier pages.
    pub marker: u32,
    /// As many parts the page may have.
    pub most: usize,
    /// Ascending.
    pub parts: Vec<ListedPart>,
    /// More follow.
    pub truncated: bool,
}

/// ListParts' answer (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListParts.html>).
pub fn list_parts_document(page: &PartsPage) -> String {
    let mut out = format!("{DECLARATION}<ListPartsResult xmlns=\"{NAMESPACE}\">");
    let mut element = |tag: &str, value: &str| {
        out.push_str(&format!("<{tag}>{value}</{tag}>"));
    };
    let principal = text(&page.principal);
    let whose = format!("<ID>{principal}</ID><DisplayName>{principal}</DisplayName>");
    let class = if page.storage_class.is_empty() { "STANDARD" } else { &page.storage_class };
    element("Bucket", "");
    element("Key", "");
    element("UploadId", "");
    element("Initiator", &whose);
    element("Owner", &whose);
    element("StorageClass", &text(class));
    element("PartNumberMarker", &page.marker.to_string());
    if let Some(last) = page.parts.last() {
        element("NextPartNumberMarker", &last.number.to_string());
    }
    element("MaxParts", &page.most.to_string());
    element("IsTruncated", if page.truncated { "true" } else { "false" });
    if let Some((algorithm, kind)) = page.checksum {
        element("ChecksumAlgorithm", algorithm.name());
        element("ChecksumType", kind.name());
    }
    for part in &page.parts {
        let checksum = part.checksum.as_ref().map(|(algorithm, value)| {
            let name = algorithm.name();
            format!("<Checksum{name}>{}</Checksum{name}>", text(value))
        });
        element(
            "Part",
            &format!(
                "<PartNumber>{}</PartNumber><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag>\
                 <Size>{}</Size>{}",
                part.number,
                timestamp(part.stored),
                text(&part.etag),
                part.size,
                checksum.unwrap_or_default()
            ),
        );
    }
    out.push_str("</ListPartsResult>");
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::{MAX_DOCUMENT, parse_completed, parse_initiate, rewrite};
    use super::*;

    /// What is read of a backend's answer is in these too.
    #[test]
    fn they_are_read_as_a_backend_s_answers_are() {
        assert_eq!(parse_initiate(initiate_document("id").as_bytes()).unwrap(), "id");
        let whole = WholeChecksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumType::Composite,
            value: "AAAAAA==-2".to_owned(),
        };
        let document = completed_document("\"a-2\"", Some(&whole));
        let read = parse_completed(document.as_bytes()).unwrap();
        assert!(read.contains(&("etag".to_owned(), "\"a-2\"".to_owned())), "{read:?}");
        assert!(read.contains(&("x-amz-checksum-crc32".to_owned(), "AAAAAA==-2".to_owned())));
        let named = rewrite(document.as_bytes(), "R", &[("Bucket", "b"), ("Key", "k")]).unwrap();
        let named = String::from_utf8(named).unwrap();
        assert!(named.contains("<Bucket>b</Bucket><Key>k</Key>"), "{named}");
    }

    /// The largest page can be rewritten for the client.
    #[test]
    fn the_largest_page_fits_a_document() {
        let part = |number| ListedPart {
            number,
            stored: 1_700_000_000_000,
            etag: "e".repeat(32),
            size: u64::MAX,
            checksum: Some((ChecksumAlgorithm::Sha256, "=".repeat(44))),
        };
        let page = PartsPage { parts: (9001..=10_000).map(part).collect(), ..PartsPage::default() };
        let document = list_parts_document(&page);
        assert!(document.len() < MAX_DOCUMENT / 2, "{}", document.len());
        assert!(
            document.contains("<LastModified>2023-11-14T22:13:20Z</LastModified>"),
            "{document:.900}"
        );
        rewrite(document.as_bytes(), "ListPartsResult", &[("Key", "k")]).unwrap();
    }
}
