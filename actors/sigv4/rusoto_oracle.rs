//! The signer held against another implementation: rusoto_signature signs, the verifier verifies;
//! and the signer's Authorization is the oracle's, byte for byte.
//!
//! Known of the oracle, and kept out of the way: runs of three or more spaces in a value give a
//! wrong signature, a value that is not UTF-8 panics, `sign()` takes the time from the clock.

use super::*;
use crate::http::RequestHead;
use crate::secret::Secret;
use bytes::Bytes;
use proptest::prelude::*;
use rusoto_core::Region;
use rusoto_credential::AwsCredentials;
use rusoto_signature::SignedRequest;
use std::time::Duration;
use time::OffsetDateTime;

const HOST: &str = "s3.example.com";
const SECRET_KEY: &str = "oracle/secret+key";

fn signed_by_oracle(key: &str, query: &[(String, String)], meta: &str) -> SignedRequest {
    let region = Region::Custom { name: "eu-west-1".into(), endpoint: format!("http://{HOST}") };
    let mut request = SignedRequest::new("PUT", "s3", &region, &format!("/bucket/{key}"));
    request.set_hostname(Some(HOST.to_owned()));
    for (name, value) in query {
        request.add_param(name, value);
    }
    request.add_header("x-amz-meta-a", meta);
    request.sign(&AwsCredentials::new("ORACLE", SECRET_KEY, None, None));
    request
}

fn header(request: &SignedRequest, name: &str) -> String {
    String::from_utf8(request.headers()[name][0].clone()).unwrap()
}

proptest! {
    #[test]
    fn the_oracle_and_the_signer_agree(
        key in "[ -~é]{1,40}",
        query in proptest::collection::btree_map("[a-z]{1,8}", "[ -~]{0,12}", 0..4),
        meta in "[!-~]{1,10}( [!-~]{1,10}){0,3}",
    ) {
        let query: Vec<(String, String)> = query.into_iter().collect();
        let oracle = signed_by_oracle(&key, &query, &meta);

        let mut lines = format!("PUT {}", oracle.canonical_path());
        if !oracle.canonical_query_string().is_empty() {
            lines += &format!("?{}", oracle.canonical_query_string());
        }
        lines += " HTTP/1.1\r\n";
        for (name, values) in oracle.headers() {
            for value in values {
                lines += &format!("{name}: {}\r\n", String::from_utf8_lossy(value));
            }
        }
        let head = RequestHead::parse(Bytes::from(lines + "\r\n")).unwrap();
        let known = Credential {
            access_key: "ORACLE".into(),
            secret_key: Secret::new(SECRET_KEY.into()),
            principal: "p".into(),
        session_token: None,
            grants: Default::default(),
        };
        let verifier =
            Verifier::new("eu-west-1".into(), Duration::from_secs(60), Credentials::new([known]));
        let hosts = Hosts::new(vec![HOST.into()]);
        let verified = verifier.verify(&head, &hosts, OffsetDateTime::now_utc());
        prop_assert!(verified.is_ok(), "{:?}", verified.map(|_| ()));

        let signer =
            Signer::new("ORACLE".into(), Secret::new(SECRET_KEY.into()), None, "eu-west-1".into());
        let mut request = UpstreamRequest {
            method: "PUT",
            host: HOST.into(),
            path: uri_encode(format!("/bucket/{key}").as_bytes(), true),
            query,
            headers: vec![
                ("x-amz-meta-a".into(), meta.into_bytes()),
                ("content-type".into(), header(&oracle, "content-type").into_bytes()),
            ],
        };
        let time = date::parse(&header(&oracle, "x-amz-date")).unwrap();
        signer.sign(&mut request, PayloadHash::Empty, time);
        let (_, ours) = request.headers.iter().find(|(name, _)| name == "authorization").unwrap();
        prop_assert_eq!(String::from_utf8_lossy(ours), header(&oracle, "authorization"));
    }
}
