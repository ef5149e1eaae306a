//! The few XML documents of S3 uploads: read with bounds, written with everything escaped.
//!
//! A reader of documents from the network has no use for DTDs, entities, processing instructions
//! or depth: each has been an attack. Documents of the backend that the client will read are
//! rewritten element by element, so that fields unknown here are not lost.

mod complete;
mod multipart;
mod reader;
mod write;

pub use complete::{CompleteRequest, CompletedPart, multipart_etag, parse_complete};
pub use multipart::{
    ListedPart, PartsPage, WholeChecksum, completed_document, initiate_document,
    list_parts_document,
};
pub use reader::{MAX_DEPTH, MAX_DOCUMENT, XmlError};
pub use write::{
    DECLARATION, checked_complete_request, complete_document, complete_request, error_document,
    list_uploads_document, location_document, post_document,
};

use reader::{Node, Reader};
pub use write::text as escaped;

/// An S3 error document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorDocument {
    /// `<Code>`.
    pub code: String,
    /// `<Message>`; may be empty.
    pub message: String,
}

/// Reads an S3 error document; None when the bytes are none. White space before it is skipped: a
/// backend sends it to keep a long Complete alive.
pub fn parse_error(body: &[u8]) -> Option<ErrorDocument> {
    let fields = children(body, |root| root == "Error").ok()?;
    let field =
        |name: &str| fields.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone());
    Some(ErrorDocument { code: field("Code")?, message: field("Message").unwrap_or_default() })
}

/// The UploadId of an InitiateMultipartUploadResult.
pub fn parse_initiate(body: &[u8]) -> Result<String, XmlError> {
    children(body, |root| root != "Error")?
        .into_iter()
        .find(|(name, value)| name == "UploadId" && !value.is_empty())
        .map(|(_, value)| value)
        .ok_or(XmlError::Unexpected)
}

/// What a CompleteMultipartUploadResult says of the object, as headers of a PutObject's answer: its
/// ETag and checksums.
pub fn parse_completed(body: &[u8]) -> Result<Vec<(String, String)>, XmlError> {
    let fields = children(body, |root| root == "CompleteMultipartUploadResult")?;
    let header = |(name, value): (String, String)| match name.as_str() {
        "ETag" => Some(("etag".to_owned(), value)),
        _ => {
            let kind = name.strip_prefix("Checksum")?.to_ascii_lowercase();
            Some((format!("x-amz-checksum-{kind}"), value))
        }
    };
    Ok(fields.into_iter().filter_map(header).collect())
}

/// The text of the root's direct children that have no children of their own.
fn children(body: &[u8], is: fn(&str) -> bool) -> Result<Vec<(String, String)>, XmlError> {
    let mut reader = Reader::new(body)?;
    let mut found = Vec::new();
    let mut text = String::new();
    while let Some(node) = reader.next()? {
        match node {
            Node::Open { name, depth: 1, .. } if !is(&name) => return Err(XmlError::Unexpected),
            Node::Open { .. } => text.clear(),
            Node::Text(more) => text.push_str(&more),
            Node::Close { name, depth: 2 } => found.push((name, std::mem::take(&mut text))),
            Node::Close { .. } => text.clear(),
        }
    }
    Ok(found)
}

/// Copies a document with the text of the root's direct children replaced where `replace` names
/// them. Everything else is kept, unknown elements too. The root becomes `root`: servers disagree on
/// its name (`ListPartsOutput`), clients do not care. An `<Error>` is an error.
pub fn rewrite(body: &[u8], root: &str, replace: &[(&str, &str)]) -> Result<Vec<u8>, XmlError> {
    let mut reader = Reader::new(body)?;
    let mut out = String::with_capacity(body.len() + 256);
    out.push_str(DECLARATION);
    let mut replaced: Option<&str> = None;
    while let Some(node) = reader.next()? {
        match node {
            Node::Open { name, depth: 1, .. } if name == "Error" => {
                return Err(XmlError::Unexpected);
            }
            Node::Open { name, attributes, depth } => {
                let name = if depth == 1 { root.to_owned() } else { name };
                if depth == 2 {
                    replaced =
                        replace.iter().find(|(have, _)| *have == name).map(|(_, value)| *value);
                }
                if depth == 2 || replaced.is_none() {
                    out.push('<');
                    out.push_str(&name);
                    out.push_str(&attributes);
                    out.push('>');
                }
            }
            Node::Text(text) if replaced.is_none() => out.push_str(&escaped(&text)),
            Node::Text(_) => {}
            Node::Close { name, depth } => {
                if depth == 2
                    && let Some(value) = replaced.take()
                {
                    out.push_str(&escaped(value));
                }
                if replaced.is_none() {
                    out.push_str("</");
                    out.push_str(if depth == 1 { root } else { &name });
                    out.push('>');
                }
            }
        }
    }
    Ok(out.into_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_backend_s_document_is_rewritten_and_nothing_lost() {
        let body = b"  <?xml version=\"1.0\"?>\n<ListPartsResult xmlns=\"http://x/\"><Bucket>store</Bucket>\
            <Key>p/k</Key><New>&lt;1&#x3E;</New><Owner><Bucket>kept</Bucket></Owner><Empty/></ListPartsResult>";
        let out = rewrite(body, "ListPartsResult", &[("Bucket", "b&c"), ("Key", "k")]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(
                "<ListPartsResult xmlns=\"http://x/\"><Bucket>b&amp;c</Bucket><Key>k</Key>"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "<New>&lt;1&gt;</New><Owner><Bucket>kept</Bucket></Owner><Empty></Empty>"
            ),
            "{text}"
        );
        let renamed = rewrite(b"<ListPartsOutput><A/></ListPartsOutput>", "ListPartsResult", &[]);
        assert!(renamed.unwrap().ends_with(b"<ListPartsResult><A></A></ListPartsResult>"));
        assert!(rewrite(b"<Error><Code>x</Code></Error>", "ListPartsResult", &[]).is_err());
    }

    #[test]
    fn errors_are_told_from_everything_else() {
        let error =
            parse_error(b"\n\n<Error><Code>SlowDown</Code><Message>a &amp; b</Message></Error>");
        assert_eq!(
            error.unwrap(),
            ErrorDocument { code: "SlowDown".into(), message: "a & b".into() }
        );
        assert_eq!(parse_error(b"<html>502</html>"), None);
        assert_eq!(parse_error(b""), None);
        assert_eq!(parse_error(b"<Error><Code>cut"), None);
    }

    #[test]
    fn the_upload_id_is_found() {
        let body = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>";
        assert_eq!(parse_initiate(body).unwrap(), "u1");
        assert!(
            parse_initiate(b"<InitiateMultipartUploadResult></InitiateMultipartUploadResult>")
                .is_err()
        );
    }

    /// XML 1.0, 2.2: most control characters cannot be in a document, not even as references; keys
    /// of S3 may hold them.
    #[test]
    fn a_key_with_control_characters_leaves_the_document_well_formed() {
        let out = rewrite(b"<R><Key>x</Key></R>", "R", &[("Key", "a\u{1}b\rc")]).unwrap();
        let text = std::str::from_utf8(&out).unwrap();
        assert!(text.contains("<Key>a\u{fffd}b&#13;c</Key>"), "{text}");
        assert_eq!(
            children(&out, |root| root == "R").unwrap(),
            [("Key".into(), "a\u{fffd}b\rc".into())]
        );
    }

    proptest! {
        /// Whatever the backend adds, the client sees it; only what is replaced differs.
        #[test]
        fn rewriting_keeps_every_other_element(
            fields in proptest::collection::vec(("[A-Z][a-z]{3,8}", "[ -~\r\né]{0,20}"), 0..8),
            key in "[ -~é]{0,20}",
        ) {
            let body: String =
                fields.iter().map(|(name, value)| format!("<{name}>{}</{name}>", escaped(value))).collect();
            let body = format!("<R>{body}<Key>old</Key></R>");
            let out = rewrite(body.as_bytes(), "R", &[("Key", &key)]).unwrap();
            let mut expected = fields;
            expected.push(("Key".into(), key));
            prop_assert_eq!(children(&out, |root| root == "R").unwrap(), expected);
        }

        #[test]
        fn no_document_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_error(&body);
            let _ = rewrite(&body, "a", &[("b", "c")]);
            let _ = parse_complete(&body);
        }
    }
}
