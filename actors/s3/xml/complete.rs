//! CompleteMultipartUpload's document: the list of parts.
//!
//! The backend is sent the client's own bytes, so that no field (a checksum, or one that S3 adds
//! later) is lost. Then both must read the same list in them: a field given twice, or one with
//! elements inside, reads differently in different parsers and is refused here.

use super::reader::{Node, Reader, XmlError};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::names::PartNumber;
use md5::{Digest, Md5};

/// The document, checked. The client's own bytes go to the backend, so that no field is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompleteRequest {
    /// Ascending by number; 1 to 10,000.
    pub parts: Vec<CompletedPart>,
}

/// One part of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// Its number.
    pub number: PartNumber,
    /// Its ETag, as given.
    pub etag: String,
    /// Its checksums, as given: the element's name behind `Checksum`, and its value.
    pub checksums: Vec<(String, String)>,
}

/// Reads the list of parts.
///
/// Errors: 400 MalformedXML, InvalidPartOrder, InvalidArgument (a part's number).
pub fn parse_complete(body: &[u8]) -> Result<CompleteRequest, S3Error> {
    let mut reader = Reader::new(body).map_err(malformed)?;
    let mut parts: Vec<CompletedPart> = Vec::new();
    let (mut number, mut etag, mut text) = (None, None, String::new());
    let mut checksums: Vec<(String, String)> = Vec::new();
    while let Some(node) = reader.next().map_err(malformed)? {
        match node {
            Node::Open { name, depth: 1, .. } if name != "CompleteMultipartUpload" => {
                return Err(malformed(XmlError::Unexpected));
            }
            Node::Open { name, depth: 2, .. } if name != "Part" => {
                return Err(malformed(XmlError::Unexpected));
            }
            // Elements inside a part's fields: none is defined.
            Node::Open { depth: 4.., .. } => return Err(malformed(XmlError::Unexpected)),
            Node::Open { .. } => text.clear(),
            Node::Text(more) => text.push_str(&more),
            Node::Close { name, depth: 3 } if name == "PartNumber" => {
                once(&mut number, PartNumber::parse(text.trim())?)?;
            }
            Node::Close { name, depth: 3 } if name == "ETag" => {
                once(&mut etag, text.trim().to_owned())?;
            }
            Node::Close { name, depth: 3 } => {
                if let Some(of) = name.strip_prefix("Checksum") {
                    if checksums.iter().any(|(have, _)| have == of) {
                        return Err(malformed(XmlError::Unexpected));
                    }
                    checksums.push((of.to_owned(), text.trim().to_owned()));
                }
            }
            Node::Close { depth: 2, .. } => {
                let (Some(number), Some(etag)) = (number.take(), etag.take()) else {
                    return Err(malformed(XmlError::Unexpected));
                };
                if parts.last().is_some_and(|last| last.number >= number) {
                    let message = "The list of parts was not in ascending order. Parts must be ordered by part number.";
                    return Err(S3Error::new(ErrorCode::InvalidPartOrder, message));
                }
                let checksums = std::mem::take(&mut checksums);
                parts.push(CompletedPart { number, etag, checksums });
            }
            Node::Close { .. } => {}
        }
    }
    if parts.is_empty() {
        return Err(malformed(XmlError::Unexpected));
    }
    Ok(CompleteRequest { parts })
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), S3Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed(XmlError::Unexpected)),
    }
}

fn malformed(error: XmlError) -> S3Error {
    let message = format!(
        "The XML you provided was not well-formed or did not validate against our published schema ({error})"
    );
    S3Error::new(ErrorCode::MalformedXML, message)
}

/// The ETag of the object that these parts make: the MD5 of the parts' MD5s, and their count. None
/// when a part's ETag is no MD5 (SSE-KMS, SSE-C), or there are no parts.
pub fn multipart_etag<'a>(etags: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut md5 = Md5::new();
    let mut parts = 0;
    for etag in etags {
        parts += 1;
        let hex = etag.trim_matches('"');
        // All digits: from_str_radix alone would take "+f".
        if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for pair in hex.as_bytes().chunks(2) {
            let byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
            md5.update([byte]);
        }
    }
    let digest: String = md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    (parts > 0).then(|| format!("{digest}-{parts}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn document(parts: &[(&str, &str)]) -> String {
        let parts: String = parts
            .iter()
            .map(|(number, etag)| {
                format!("<Part><ETag>{etag}</ETag><Later>1</Later><PartNumber>{number}</PartNumber></Part>")
            })
            .collect();
        format!(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
        )
    }

    fn code(body: &str) -> String {
        parse_complete(body.as_bytes()).unwrap_err().code.into_owned()
    }

    #[test]
    fn parts_are_read_in_order() {
        let request =
            parse_complete(document(&[("1", "&quot;a&quot;"), ("3", "b")]).as_bytes()).unwrap();
        assert_eq!(request.parts[0].etag, "\"a\"");
        assert_eq!(request.parts[1].number.get(), 3);
        let with = "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag>\
                    <ChecksumSHA1> x </ChecksumSHA1></Part><Part><PartNumber>2</PartNumber><ETag>b</ETag>\
                    </Part></CompleteMultipartUpload>";
        let request = parse_complete(with.as_bytes()).unwrap();
        assert_eq!(request.parts[0].checksums, [("SHA1".to_owned(), "x".to_owned())]);
        assert!(request.parts[1].checksums.is_empty());
    }

    #[test]
    fn bad_lists_are_refused_by_their_codes() {
        assert_eq!(code(&document(&[("2", "a"), ("1", "b")])), "InvalidPartOrder");
        assert_eq!(code(&document(&[("1", "a"), ("1", "b")])), "InvalidPartOrder");
        assert_eq!(code(&document(&[])), "MalformedXML");
        assert_eq!(code("<Other/>"), "MalformedXML");
        assert_eq!(
            code("<CompleteMultipartUpload><Part></Part></CompleteMultipartUpload>"),
            "MalformedXML"
        );
        assert_eq!(code(&document(&[("10001", "a")])), "InvalidArgument");
    }

    /// The backend reads the same bytes: what two parsers may read differently is refused.
    #[test]
    fn a_field_means_one_thing_or_is_refused() {
        let part = |fields: &str| {
            code(&format!(
                "<CompleteMultipartUpload><Part>{fields}</Part></CompleteMultipartUpload>"
            ))
        };
        for fields in [
            "<PartNumber>1</PartNumber><PartNumber>2</PartNumber><ETag>a</ETag>",
            "<PartNumber>1</PartNumber><ETag>a</ETag><ETag>b</ETag>",
            "<PartNumber>1</PartNumber><ETag>a<X>b</X></ETag>",
            "<PartNumber>1</PartNumber><ETag>a</ETag><ChecksumCRC32>a</ChecksumCRC32>\
             <ChecksumCRC32>b</ChecksumCRC32>",
        ] {
            assert_eq!(part(fields), "MalformedXML", "{fields}");
        }
    }

    /// S3: "upload up to 10,000 parts"; with their checksums they fit the bound of the document.
    #[test]
    fn ten_thousand_parts_are_read() {
        let numbers: Vec<String> = (1..=10_000).map(|number: u32| number.to_string()).collect();
        let parts: Vec<(&str, &str)> =
            numbers.iter().map(|number| (number.as_str(), "b")).collect();
        let body = document(&parts);
        assert_eq!(parse_complete(body.as_bytes()).unwrap().parts.len(), 10_000);
    }

    /// printf '\x90\x01…' | md5sum of two parts' digests, as `aws s3api` shows it.
    #[test]
    fn the_etag_of_the_whole_is_known() {
        let hex = |text: &str| -> String {
            Md5::digest(text).iter().map(|b| format!("{b:02x}")).collect()
        };
        let parts = [format!("\"{}\"", hex("a")), hex("b")];
        let both = [Md5::digest("a").as_slice(), Md5::digest("b").as_slice()].concat();
        let expected: String = Md5::digest(both).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(multipart_etag(parts.iter().map(String::as_str)), Some(format!("{expected}-2")));
        assert_eq!(multipart_etag(["opaque"]), None);
        assert_eq!(multipart_etag(["+f".repeat(16).as_str()]), None);
        assert_eq!(multipart_etag([]), None);
    }
}
