//! The documents that the gateway itself writes.

use crate::s3::error::S3Error;
use crate::s3::list_uploads::{ListQuery, MAX_UPLOADS, Page};
use crate::sigv4::uri_encode;
use quick_xml::escape::escape;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What every document of the gateway begins with.
pub const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
pub(super) const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Escapes text; what XML 1.0 cannot hold (control characters) becomes U+FFFD. A CR is written as a
/// reference: a parser reads a bare one as LF (XML 1.0, 2.11), and a key with one would change.
pub fn text(raw: &str) -> String {
    let allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    let clean: String = raw.chars().map(|c| if allowed(c) { c } else { '\u{fffd}' }).collect();
    escape(clean).replace('\r', "&#13;")
}

/// An error document (S3 API Reference, "REST error responses").
pub fn error_document(error: &S3Error, resource: &str, request_id: &str, host_id: &str) -> String {
    format!(
        "{DECLARATION}<Error><Code>{}</Code><Message>{}</Message><Resource>{}</Resource>\
         <RequestId>{}</RequestId><HostId>{}</HostId></Error>",
        text(&error.code),
        text(&error.message),
        text(resource),
        text(request_id),
        text(host_id)
    )
}

/// GetBucketLocation's answer. us-east-1 has an empty constraint, for history's sake.
pub fn location_document(region: &str) -> String {
    let region = if region == "us-east-1" { "" } else { region };
    format!(
        "{DECLARATION}<LocationConstraint xmlns=\"{NAMESPACE}\">{}</LocationConstraint>",
        text(region)
    )
}

/// The answer to a form that asks for 201 (S3 API Reference, "POST Object").
pub fn post_document(location: &str, bucket: &str, key: &str, etag: &str) -> String {
    format!(
        "{DECLARATION}<PostResponse><Location>{}</Location><Bucket>{}</Bucket><Key>{}</Key>\
         <ETag>{}</ETag></PostResponse>",
        text(location),
        text(bucket),
        text(key),
        text(etag)
    )
}

/// CompleteMultipartUpload's answer when it is known by proof and not from the backend.
pub fn complete_document(bucket: &str, key: &str, etag: &str) -> String {
    format!(
        "{DECLARATION}<CompleteMultipartUploadResult xmlns=\"{NAMESPACE}\"><Location></Location>\
         <Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        text(bucket),
        text(key),
        text(etag)
    )
}

/// ListMultipartUploads' answer. `seal` makes the client's uploadId of a key and the backend's id.
///
/// Errors: whatever `seal` fails with.
pub fn list_uploads_document(
    bucket: &str,
    query: &ListQuery,
    page: &Page,
    seal: impl Fn(&str, &str) -> Result<String, S3Error>,
) -> Result<String, S3Error> {
    let name = |raw: &str| {
        if query.encode { uri_encode(raw.as_bytes(), true) } else { text(raw) }
    };
    let mut out = format!("{DECLARATION}<ListMultipartUploadsResult xmlns=\"{NAMESPACE}\">");
    let mut element = |tag: &str, value: &str| {
        out.push_str(&format!("<{tag}>{value}</{tag}>"));
    };
    element("Bucket", &text(bucket));
    element("KeyMarker", &name(&query.key_marker));
    element("UploadIdMarker", &text(&query.upload_id_marker));
    element("Prefix", &name(&query.prefix));
    if !query.delimiter.is_empty() {
        element("Delimiter", &name(&query.delimiter));
    }
    if query.encode {
        element("EncodingType", "url");
    }
    element("MaxUploads", &query.max_uploads.map_or(MAX_UPLOADS, |most| most as usize).to_string());
    element("IsTruncated", if page.truncated { "true" } else { "false" });
    if page.truncated {
        element("NextKeyMarker", &name(&page.next_key));
        let next = page.next_upload.as_ref().map(|id| seal(&page.next_key, id)).transpose()?;
        element("NextUploadIdMarker", &next.unwrap_or_default());
    }
    for upload in &page.uploads {
        let id = seal(&upload.key, &upload.upload_id)?;
        let initiated = timestamp(upload.initiated);
        element(
            "Upload",
            &format!(
                "<Key>{}</Key><UploadId>{id}</UploadId><StorageClass>STANDARD</StorageClass>\
                 <Initiated>{initiated}</Initiated>",
                name(&upload.key)
            ),
        );
    }
    for prefix in &page.common_prefixes {
        element("CommonPrefixes", &format!("<Prefix>{}</Prefix>", name(prefix)));
    }
    out.push_str("</ListMultipartUploadsResult>");
    Ok(out)
}

/// S3's form of a time, milliseconds since 1970.
pub(super) fn timestamp(milliseconds: u64) -> String {
    let nanoseconds = i128::from(milliseconds) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// CompleteMultipartUpload's request: numbers and ETags, ascending.
pub fn complete_request<'a>(parts: impl IntoIterator<Item = (u32, &'a str)>) -> String {
    checked_complete_request(parts.into_iter().map(|(number, etag)| (number, etag, None)))
}

/// As [`complete_request`], with each part's checksum where it has one: the algorithm's name as S3 spells
/// it (`CRC32C`), and the base64 value.
pub fn checked_complete_request<'a>(
    parts: impl IntoIterator<Item = (u32, &'a str, Option<(&'a str, &'a str)>)>,
) -> String {
    let mut document = format!("{DECLARATION}<CompleteMultipartUpload xmlns=\"{NAMESPACE}\">");
    for (number, etag, checksum) in parts {
        document.push_str("<Part>");
        if let Some((algorithm, value)) = checksum {
            document
                .push_str(&format!("<Checksum{algorithm}>{}</Checksum{algorithm}>", text(value)));
        }
        document.push_str(&format!(
            "<PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>",
            text(etag)
        ));
    }
    document.push_str("</CompleteMultipartUpload>");
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::error::ErrorCode;

    /// "The key is escaped in every error body".
    #[test]
    fn hostile_text_is_escaped() {
        let error = S3Error::new(ErrorCode::NoSuchKey, "a < b & \u{1}");
        let document = error_document(&error, "/b/<script>\r\n", "R", "H");
        assert!(document.contains("<Message>a &lt; b &amp; \u{fffd}</Message>"), "{document}");
        assert!(document.contains("/b/&lt;script&gt;&#13;"), "{document}");
    }
}
