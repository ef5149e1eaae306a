//! What a decision is kept under: everything that it was made of, so that two are one only where the
//! engine would be asked the very same.

use super::question::Question;
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;

/// Bytes of the longest key that is kept as it is: an ordinary request without a token has some 200. Of a
/// longer one (claims, mostly) the digest is kept: the keys of ten thousand decisions stay below 5 MiB.
const LONGEST: usize = 512;

/// The first byte, so that no key is read as one of another kind.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Digest,
    Text,
    Question,
    QuestionOfVersion,
}

/// See the module.
pub(super) struct CacheKey(Vec<u8>);

impl CacheKey {
    /// Of what is asked, as it is sent.
    pub(super) fn of_text(text: &str) -> Self {
        let mut key = CacheKey::new(Kind::Text);
        key.0.extend_from_slice(text.as_bytes());
        key.shortened()
    }

    /// Of a question whose engine sees all of it, and of the policy's version where that is known.
    ///
    /// Each field stands in its place, with its length before it, so that the bytes can be read in one
    /// way only. A field that is added and left out here does not compile.
    pub(super) fn of_question(question: &Question<'_>, version: Option<&[u8; 32]>) -> Self {
        let Question {
            principal,
            authentication,
            claims,
            method,
            operation,
            bucket,
            key: object,
            size,
            client_ip,
            headers,
        } = question;
        let kind = if version.is_some() { Kind::QuestionOfVersion } else { Kind::Question };
        let mut key = CacheKey::new(kind);
        key.0.extend_from_slice(version.map_or(&[], |version| version));
        for text in [principal, authentication, method, operation, bucket] {
            key.text(text);
        }
        key.optional(*object);
        key.optional(claims.map(|claims| claims.text()));
        match size {
            None => key.0.push(0),
            Some(size) => {
                key.0.push(1);
                key.0.extend_from_slice(&size.to_le_bytes());
            }
        }
        match client_ip {
            None => key.0.push(0),
            Some(IpAddr::V4(address)) => {
                key.0.push(4);
                key.0.extend_from_slice(&address.octets());
            }
            Some(IpAddr::V6(address)) => {
                key.0.push(6);
                key.0.extend_from_slice(&address.octets());
            }
        }
        for (name, value) in headers {
            key.text(name);
            key.text(value);
        }
        key.shortened()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Box<[u8]> {
        self.0.into_boxed_slice()
    }

    fn new(kind: Kind) -> Self {
        let mut bytes = Vec::with_capacity(LONGEST);
        bytes.push(kind as u8);
        CacheKey(bytes)
    }

    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(&text.len().to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.0.push(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn shortened(self) -> Self {
        if self.0.len() <= LONGEST {
            return self;
        }
        let mut key = CacheKey(vec![Kind::Digest as u8]);
        key.0.extend_from_slice(&Sha256::digest(&self.0));
        key
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::question::tests::put;
    use super::*;
    use crate::claims::Claims;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn of(question: &Question<'_>) -> Vec<u8> {
        CacheKey::of_question(question, None).0
    }

    #[test]
    fn a_version_and_a_kind_are_part_of_it() {
        let question = put("anne", "k");
        let [none, one, two] = [None, Some(&[1; 32]), Some(&[2; 32])]
            .map(|version| CacheKey::of_question(&question, version).0);
        assert!(none != one && one != two && none != two);
        assert_ne!(CacheKey::of_text("a").0, CacheKey::of_text("b").0);
        let text = String::from_utf8_lossy(&none[1..]).into_owned();
        assert_ne!(CacheKey::of_text(&text).0, none);
    }

    #[test]
    fn a_long_one_is_short_and_still_its_own() {
        let long = "k".repeat(1024);
        let (one, two) = (of(&put("anne", &long)), of(&put("anna", &long)));
        assert_eq!((one.len(), two.len()), (33, 33));
        assert_ne!(one, two);
        let edge = "k".repeat(LONGEST - 1);
        assert_eq!(CacheKey::of_text(&edge).0.len(), LONGEST);
        assert_eq!(CacheKey::of_text(&format!("{edge}k")).0.len(), 33);
    }

    type Fields = (
        (String, &'static str, Option<&'static str>, &'static str, &'static str, String),
        (Option<String>, Option<u64>, Option<IpAddr>, Vec<(&'static str, String)>),
    );

    /// Few values, so that two are often the same; texts that run into each other where nothing says
    /// where one ends.
    fn fields() -> impl Strategy<Value = Fields> {
        let address = select(&["192.0.2.1", "192.0.2.2", "::1", "c000:201::"][..])
            .prop_map(|text| text.parse().unwrap());
        let header = (select(&["x-a", "x-b", "x"][..]), "[-ab, ]{0,2}");
        let claims = select(&["{}", r#"{"a":1}"#, r#"{"a":2}"#][..]);
        (
            (
                "[ab]{0,2}",
                select(&["jwt", "header"][..]),
                prop::option::of(claims),
                select(&["PUT", "POST"][..]),
                select(&["PutObject", "UploadPart"][..]),
                "[ab]{0,2}",
            ),
            (
                prop::option::of("[ab\0]{0,2}"),
                prop::option::of(select(&[0, 1, 256][..])),
                prop::option::of(address),
                prop::collection::vec(header, 0..3),
            ),
        )
    }

    fn question<'q>(fields: &'q Fields, claims: &'q Option<Claims>) -> Question<'q> {
        let ((principal, authentication, _, method, operation, bucket), rest) = fields;
        let (key, size, client_ip, headers) = rest;
        Question {
            principal,
            authentication,
            claims: claims.as_ref(),
            method,
            operation,
            bucket,
            key: key.as_deref(),
            size: *size,
            client_ip: *client_ip,
            headers: headers.iter().map(|(name, value)| (*name, value.clone())).collect(),
        }
    }

    proptest! {
        /// Of two questions the keys are the same where all that an engine sees is, and nowhere else.
        #[test]
        fn one_key_is_one_question(one in fields(), other in fields(), mix in 0u32..1024) {
            // The other differs in some fields only.
            let mut two = one.clone();
            if mix & 1 != 0 { two.0.0 = other.0.0 }
            if mix & 2 != 0 { two.0.1 = other.0.1 }
            if mix & 4 != 0 { two.0.2 = other.0.2 }
            if mix & 8 != 0 { two.0.3 = other.0.3 }
            if mix & 16 != 0 { two.0.4 = other.0.4 }
            if mix & 32 != 0 { two.0.5 = other.0.5 }
            if mix & 64 != 0 { two.1.0 = other.1.0 }
            if mix & 128 != 0 { two.1.1 = other.1.1 }
            if mix & 256 != 0 { two.1.2 = other.1.2 }
            if mix & 512 != 0 { two.1.3 = other.1.3 }
            let claims =
                |fields: &Fields| fields.0.2.map(|text| Claims::from_text(text.to_owned()));
            let (one_claims, two_claims) = (claims(&one), claims(&two));
            let (one, two) = (question(&one, &one_claims), question(&two, &two_claims));
            let json = |question: &Question<'_>| serde_json::to_string(question).unwrap();
            prop_assert_eq!(of(&one) == of(&two), json(&one) == json(&two));
        }
    }
}
