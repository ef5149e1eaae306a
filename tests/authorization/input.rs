//! What the engine is told: only what the gateway itself derived decides.

use super::{OTHER, another_bucket, assert_denied, put, send, send_as_other, setup};
use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer_with};
use crate::support::gateway::{ACCESS_KEY, Setup};
use crate::support::issuer::{bearer, claims, settings, token};
use crate::support::opa::Opa;
use jsonwebtoken::EncodingKey;
use serde_json::json;
use time::OffsetDateTime;

const POLICY: &str = "package mizuchi
default decision := {\"allow\": false, \"reason\": \"canary-reason\"}
decision := {\"allow\": true} if {
	input.principal in {\"tester\", \"anonymous\"}
	input.bucket in {\"uploads\", \"open\"}
	input.size <= 10
}
";

fn yaml(opa: &Opa) -> String {
    format!(
        "      engine: opa\n      timeout: 5s\n      headers: [Principal, bucket, size, key, X-Team]\n      \
         opa:\n        url: {}\n        path: mizuchi/decision\n",
        opa.service.url()
    )
}

/// "Headers never overwrite what the server derived."
#[tokio::test]
async fn headers_overwrite_nothing() {
    let (backend, opa) = (Backend::start().await, Opa::start(POLICY, None).await);
    let gateway = setup(&backend, &yaml(&opa)).start().await;
    let request = || {
        Request::put("a b/ü", 3)
            .header("principal", "tester")
            .header("bucket", "uploads")
            .header("size", "1")
            .header("key", "k")
            .header("x-team", "blue")
            .header("x-other", "red")
    };
    assert_denied(&send_as_other(&gateway, request(), b"abc").await);
    assert_eq!(
        opa.inputs(),
        [json!({
            "principal": OTHER, "authentication": "header", "claims": null, "method": "PUT",
            "operation": "PutObject", "bucket": "uploads", "key": "a b/ü", "size": 3,
            "client_ip": "127.0.0.1",
            "headers": {
                "principal": "tester", "bucket": "uploads", "size": "1", "key": "k", "x-team": "blue"
            },
        })]
    );
    assert_eq!(send(&gateway, request(), b"abc").await.status, 200);
    assert_eq!(backend.object("a b/ü").unwrap(), b"abc");
}

/// The size is the one that the body is held to: no header makes a large body a small one.
#[tokio::test]
async fn no_header_makes_a_body_small() {
    let (backend, opa) = (Backend::start().await, Opa::start(POLICY, None).await);
    let gateway = setup(&backend, &yaml(&opa)).start().await;
    let request = Request::put("k", 11).header("x-amz-decoded-content-length", "3");
    let answer = send(&gateway, request, b"abcdefghijk").await;
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(backend.object("k"), None);
    assert!(opa.inputs().iter().all(|input| input["size"] == json!(11)), "{:?}", opa.inputs());
    assert_eq!(put(&gateway, "k").await.status, 200);
}

/// "Authentication failures never reach the engine"; where nobody is asked who they are, they are
/// `anonymous`.
#[tokio::test]
async fn the_unknown_are_asked_about_only_where_everybody_is() {
    let (backend, opa) = (Backend::start().await, Opa::start(POLICY, None).await);
    let rest = format!("    auth:\n      enabled: false\n    authorization:\n{}", yaml(&opa));
    let open = another_bucket(&backend, "open", &rest);
    let gateway = setup(&backend, &yaml(&opa)).bucket(&open).start().await;
    let mut client = Client::connect(&gateway).await;
    let wrong = signer_with(ACCESS_KEY, "wrong", "us-east-1");
    let head = Request::put("k", 3).sign(&client.host, &wrong, OffsetDateTime::now_utc());
    assert_eq!(client.raw(&head, b"abc").await.code(), "SignatureDoesNotMatch");
    let head = b"PUT /uploads/k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(Client::connect(&gateway).await.raw(head, b"abc").await.status, 403);
    assert_eq!(opa.service.count(), 0);
    let head = b"PUT /open/k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(Client::connect(&gateway).await.raw(head, b"abc").await.status, 200);
    assert_eq!(opa.inputs()[0]["principal"], json!("anonymous"));
    assert_eq!(opa.inputs()[0]["authentication"], json!("anonymous"));
    let head = b"PUT /open/l HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n";
    assert_denied(&Client::connect(&gateway).await.raw(head, b"abcdefghijk").await);
}

/// The claims of a token are the policy's to decide by; the token itself is nobody's to see.
#[tokio::test]
async fn a_policy_decides_by_claims() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let policy = "package mizuchi
default decision := {\"allow\": false, \"reason\": \"canary-reason\"}
decision := {\"allow\": true} if \"blue\" in input.claims.teams
";
    let (backend, opa) = (Backend::start().await, Opa::start(policy, None).await);
    let issuer = "https://id.example.com";
    let jwt = json!({"issuers": [{
        "issuer": issuer, "algorithms": ["HS256"], "audience": "mizuchi", "secret": SECRET,
    }]});
    let gateway = Setup::new(&backend, backend.s3.address)
        .bucket(&settings(&jwt))
        .bucket(&format!("    authorization:\n{}", yaml(&opa)))
        .start()
        .await;
    let send = async |team: &str| {
        let mut claims = claims(issuer);
        claims["teams"] = json!([team]);
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = token(&json!({"alg": "HS256", "typ": "JWT"}), &claims, &key);
        Client::connect(&gateway).await.raw(&bearer("PUT", "k", &token, 3), b"abc").await
    };
    assert_denied(&send("red").await);
    assert_eq!(backend.object("k"), None);
    assert_eq!(send("blue").await.status, 200);
    let inputs = opa.inputs();
    assert_eq!(inputs[1]["authentication"], json!("jwt"));
    assert_eq!(inputs[1]["claims"]["teams"], json!(["blue"]));
    assert!(!inputs[1].to_string().contains("eyJ"), "{}", inputs[1]);
}
