//! The bounded reader under every document.

use quick_xml::events::{BytesStart, Event};

/// Bytes of the largest document: S3's own bound for a CompleteMultipartUpload.
pub const MAX_DOCUMENT: usize = 1024 * 1024;

/// Elements in each other: S3's deepest (Owner in a listing) has four.
pub const MAX_DEPTH: usize = 8;

/// Bytes of one element's attributes: S3 has `xmlns` and `xsi:type`.
const MAX_ATTRIBUTES: usize = 512;

/// Why a document is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not well-formed, or not UTF-8.
    #[error("the XML is not well-formed")]
    Malformed,
    /// A DTD, an entity other than the five, or a processing instruction.
    #[error("the XML has a DTD, an entity or a processing instruction")]
    Forbidden,
    /// Over a bound.
    #[error("the XML is too large, too deep, or has too many attributes")]
    TooLarge,
    /// Well-formed, but not the document that was expected.
    #[error("the XML is not the expected document")]
    Unexpected,
}

/// One step through a document. The root has depth 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// `<name …>`; an empty element is an Open and a Close.
    Open { name: String, attributes: String, depth: usize },
    /// Character data, unescaped.
    Text(String),
    /// `</name>`.
    Close { name: String, depth: usize },
}

pub(super) struct Reader<'a> {
    inner: quick_xml::Reader<&'a [u8]>,
    open: Vec<String>,
    /// The close of an empty element, still to be given out.
    pending: Option<Node>,
    rooted: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, XmlError> {
        if body.len() > MAX_DOCUMENT {
            return Err(XmlError::TooLarge);
        }
        let text = std::str::from_utf8(body).map_err(|_| XmlError::Malformed)?;
        let inner = quick_xml::Reader::from_str(text.trim_start());
        Ok(Reader { inner, open: Vec::new(), pending: None, rooted: false })
    }

    /// The next step; None at the end of a complete document.
    pub(super) fn next(&mut self) -> Result<Option<Node>, XmlError> {
        if let Some(node) = self.pending.take() {
            self.open.pop();
            return Ok(Some(node));
        }
        loop {
            match self.inner.read_event().map_err(|_| XmlError::Malformed)? {
                Event::Start(start) => return self.opened(&start).map(Some),
                Event::Empty(start) => {
                    let node = self.opened(&start)?;
                    let (name, depth) = (start.name().as_ref().to_owned(), self.open.len());
                    self.pending = Some(Node::Close { name, depth });
                    return Ok(Some(node));
                }
                Event::End(_) => {
                    let depth = self.open.len();
                    let name = self.open.pop().ok_or(XmlError::Malformed)?;
                    return Ok(Some(Node::Close { name, depth }));
                }
                Event::Text(text) => {
                    let text = text.xml10_content().into_owned();
                    if !self.open.is_empty() {
                        return Ok(Some(Node::Text(text)));
                    }
                    if !text.trim().is_empty() {
                        return Err(XmlError::Malformed);
                    }
                }
                Event::CData(data) if !self.open.is_empty() => {
                    return Ok(Some(Node::Text(data.xml10_content().into_owned())));
                }
                Event::GeneralRef(reference) if !self.open.is_empty() => {
                    let resolved = match reference.resolve_char_ref() {
                        Ok(Some(character)) => character,
                        Ok(None) => predefined(&reference.xml10_content())?,
                        Err(_) => return Err(XmlError::Malformed),
                    };
                    return Ok(Some(Node::Text(resolved.to_string())));
                }
                Event::Comment(_) => {}
                Event::Decl(_) if !self.rooted => {}
                Event::DocType(_) | Event::PI(_) => return Err(XmlError::Forbidden),
                Event::CData(_) | Event::GeneralRef(_) | Event::Decl(_) => {
                    return Err(XmlError::Malformed);
                }
                Event::Eof if self.rooted && self.open.is_empty() => return Ok(None),
                Event::Eof => return Err(XmlError::Malformed),
            }
        }
    }

    fn opened(&mut self, start: &BytesStart<'_>) -> Result<Node, XmlError> {
        let (name, attributes) =
            (start.name().as_ref().to_owned(), start.attributes_raw().to_owned());
        if self.open.is_empty() && std::mem::replace(&mut self.rooted, true) {
            return Err(XmlError::Malformed);
        }
        if self.open.len() == MAX_DEPTH || attributes.len() > MAX_ATTRIBUTES {
            return Err(XmlError::TooLarge);
        }
        // Attributes are copied raw by a rewrite: no reference in them is needed, none is trusted.
        if attributes.contains('&') {
            return Err(XmlError::Forbidden);
        }
        // Names and attributes are written as they came: what is no name here would be read as
        // something else there.
        let well_formed = !attributes.contains('<')
            && is_name(&name)
            && start.attributes().all(|found| found.is_ok_and(|found| is_name(found.key.as_ref())));
        if !well_formed {
            return Err(XmlError::Malformed);
        }
        self.open.push(name.clone());
        Ok(Node::Open { name, attributes, depth: self.open.len() })
    }
}

/// XML 1.0, 2.3: a Name, but that of characters beyond ASCII all letters and digits are let pass.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_alphabetic() || matches!(first, '_' | ':'))
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '-' | '.'))
}

/// XML 1.0, 4.6: the five entities that need no declaration. There are no others here.
fn predefined(name: &str) -> Result<char, XmlError> {
    match name {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "apos" => Ok('\''),
        "quot" => Ok('"'),
        _ => Err(XmlError::Forbidden),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<usize, XmlError> {
        let mut reader = Reader::new(body.as_bytes())?;
        let mut nodes = 0;
        while reader.next()?.is_some() {
            nodes += 1;
        }
        Ok(nodes)
    }

    /// security.md, XML: "No DOCTYPE or ENTITY, depth and attribute caps, 1 MiB body".
    #[test]
    fn what_a_document_of_s3_never_has_is_refused() {
        let deep = format!("{}{}", "<a>".repeat(9), "</a>".repeat(9));
        let wide = format!("<a {}/>", "x='1' ".repeat(200));
        for (body, error) in [
            ("<!DOCTYPE a><a/>", XmlError::Forbidden),
            ("<!DOCTYPE a [<!ENTITY x \"y\">]><a>&x;</a>", XmlError::Forbidden),
            ("<a>&x;</a>", XmlError::Forbidden),
            ("<a x='&y;'/>", XmlError::Forbidden),
            ("<a x='<'/>", XmlError::Malformed),
            ("<a>< //></a>", XmlError::Malformed),
            ("<a //>", XmlError::Malformed),
            ("<a'>'/>", XmlError::Malformed),
            ("<1/>", XmlError::Malformed),
            ("<a b/>", XmlError::Malformed),
            ("<a b=c/>", XmlError::Malformed),
            ("<a b='1' b='2'/>", XmlError::Malformed),
            ("<a /='1'/>", XmlError::Malformed),
            ("<?php ?><a/>", XmlError::Forbidden),
            (deep.as_str(), XmlError::TooLarge),
            (wide.as_str(), XmlError::TooLarge),
            ("<a/><b/>", XmlError::Malformed),
            ("<a></b>", XmlError::Malformed),
            ("<a>", XmlError::Malformed),
            ("text", XmlError::Malformed),
            ("", XmlError::Malformed),
        ] {
            assert_eq!(read(body), Err(error), "{body}");
        }
        assert!(Reader::new(&vec![b' '; MAX_DOCUMENT + 1]).is_err());
        assert_eq!(read("<?xml version='1.0'?><!-- c --><a><b/>t</a>"), Ok(5));
        assert_eq!(read("<a xmlns='http://x/' xmlns:i=\"y\" i:type='>'><é.1-b/></a>"), Ok(4));
    }
}
