//! What an engine is asked: the input document of a policy.

use crate::claims::Claims;
use crate::http::RequestHead;
use crate::identity::Identity;
use crate::s3::operation::Operation;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Headers that hold credentials, or belong to the gateway itself: no setting shows them to an
/// engine, which may log what it is asked.
pub const NEVER_SHOWN: [&str; 5] =
    ["authorization", "proxy-authorization", "cookie", "x-amz-security-token", "x-mizuchi-tap"];

/// The input document. What the server derived stands at the top; what the client merely says of
/// itself stands below `headers`, so that no header can take the place of anything else.
#[derive(Debug, Clone, Serialize)]
pub struct Question<'q> {
    /// Who asks; `anonymous` where `auth.enabled` is false.
    pub principal: &'q str,
    /// How that is known ([`crate::identity::Means::as_str`]).
    pub authentication: &'static str,
    /// The claims of its token; null without one.
    pub claims: Option<&'q Claims>,
    /// The HTTP method.
    pub method: &'q str,
    /// S3's name of the operation ([`Operation::NAMES`]).
    pub operation: &'static str,
    /// The bucket, as clients see it.
    pub bucket: &'q str,
    /// The object's key, decoded; null for an operation on the bucket.
    pub key: Option<&'q str>,
    /// Bytes of the payload, as announced and later held to; null: it does not say.
    pub size: Option<u64>,
    /// Where the request comes from; an IPv4 address is never written as an IPv6 one.
    pub client_ip: Option<IpAddr>,
    /// The headers that the settings show, names in lower case; one that is given more than once is
    /// joined with `, ` (RFC 9110, 5.3), so that no value can hide another. Absent ones are absent.
    pub headers: BTreeMap<&'q str, String>,
}

impl<'q> Question<'q> {
    /// The question about one request. `shown`: the headers that the engine may see.
    ///
    /// Errors: in words for the audit log, why it cannot be asked: a header that is shown is not
    /// UTF-8, and what it is turned into could be read in two ways.
    pub fn new(
        identity: &'q Identity,
        head: &'q RequestHead,
        operation: &'q Operation,
        bucket: &'q str,
        (size, client_ip): (Option<u64>, Option<IpAddr>),
        shown: &'q [String],
    ) -> Result<Self, String> {
        let mut headers = BTreeMap::new();
        for name in shown {
            let mut values = Vec::new();
            for value in head.values(name) {
                let text = std::str::from_utf8(value);
                values.push(text.map_err(|_| format!("the header {name} is not UTF-8"))?);
            }
            if !values.is_empty() {
                headers.insert(name.as_str(), values.join(", "));
            }
        }
        Ok(Question {
            principal: &identity.principal,
            authentication: identity.means.as_str(),
            claims: identity.claims.as_deref(),
            method: head.method(),
            operation: operation.name(),
            bucket,
            key: operation.key().map(|key| key.as_str()),
            size,
            client_ip: client_ip.map(|address| address.to_canonical()),
            headers,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(super) mod tests {
    use super::*;
    use crate::s3::names::ObjectKey;
    use bytes::Bytes;
    use serde_json::json;

    /// A PutObject of `key` by `principal`.
    pub(in crate::policy) fn put<'q>(principal: &'q str, key: &'q str) -> Question<'q> {
        Question {
            principal,
            authentication: "header",
            claims: None,
            method: "PUT",
            operation: "PutObject",
            bucket: "uploads",
            key: Some(key),
            size: Some(3),
            client_ip: None,
            headers: BTreeMap::new(),
        }
    }

    fn head(lines: &str) -> RequestHead {
        let text = format!("PUT /uploads/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        RequestHead::parse(Bytes::from(text)).unwrap()
    }

    /// "Headers never overwrite what the server derived."
    #[test]
    fn headers_stand_below_headers_whatever_their_names() {
        let identity = Identity::anonymous();
        let operation = Operation::PutObject { key: ObjectKey::decode("a%2Fb").unwrap() };
        let head = head("Principal: root\r\nBUCKET: other\r\nx-a: 1\r\nX-A: 2\r\nx-b: hidden\r\n");
        let shown = ["principal", "bucket", "x-a", "x-c"].map(str::to_owned);
        let address = "::ffff:192.0.2.1".parse().ok();
        let question =
            Question::new(&identity, &head, &operation, "uploads", (Some(3), address), &shown);
        assert_eq!(
            serde_json::to_value(question.unwrap()).unwrap(),
            json!({
                "principal": "anonymous", "authentication": "anonymous", "claims": null,
                "method": "PUT", "operation": "PutObject", "bucket": "uploads", "key": "a/b",
                "size": 3, "client_ip": "192.0.2.1",
                "headers": {"principal": "root", "bucket": "other", "x-a": "1, 2"},
            })
        );
    }

    #[test]
    fn a_header_that_is_not_utf_8_cannot_be_asked_about() {
        let raw = b"PUT /uploads/k HTTP/1.1\r\nHost: h\r\nx-a: \xe4\r\n\r\n";
        let head = RequestHead::parse(Bytes::from_static(raw)).unwrap();
        let (identity, operation) = (Identity::anonymous(), Operation::HeadBucket);
        let ask = |shown: &[String]| {
            Question::new(&identity, &head, &operation, "uploads", (None, None), shown).is_ok()
        };
        assert!(!ask(&["x-a".to_owned()]));
        assert!(ask(&["x-b".to_owned()]));
    }
}
