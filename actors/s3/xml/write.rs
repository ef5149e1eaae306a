//! The documents that the gateway itself writes.

use crate::s3::error::S3Error;
use quick_xml::escape::escape;

/// What every document of the gateway begins with.
pub const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Escapes text; what XML 1.0 cannot hold (control characters) becomes U+FFFD. A CR is written as a
/// reference: a parser reads a bare one as LF (XML 1.0, 2.11), and a key with one would change.
pub(super) fn text(raw: &str) -> String {
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
