//! Browsers upload directly: preflight requests, and answers that a web page may read.

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request};
use crate::support::gateway::{Gateway, Setup};

const RULES: &str = "    cors:
      - allowed_origins: ['https://app.example.com', 'https://*.apps.example.com']
        allowed_methods: [PUT, POST, DELETE]
        allowed_headers: ['content-type', 'x-amz-*', authorization]
        expose_headers: [ETag, x-amz-request-id]
        max_age_seconds: 3000
      - allowed_origins: ['*']
        allowed_methods: PUT
";

const APP: &str = "https://app.example.com";

async fn pair(rules: &str) -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).bucket(rules).start().await;
    (backend, gateway)
}

/// An OPTIONS with these header lines.
async fn preflight(client: &mut Client, lines: &[(&str, &str)]) -> Answer {
    let mut head = format!("OPTIONS /uploads/k?partNumber=1 HTTP/1.1\r\nHost: {}\r\n", client.host);
    for (name, value) in lines {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    client.raw(head.as_bytes(), b"").await
}

fn ask<'a>(origin: &'a str, method: &'a str) -> Vec<(&'static str, &'a str)> {
    vec![("Origin", origin), ("Access-Control-Request-Method", method)]
}

/// "A browser can send this preflight request to Amazon S3 to determine if it can send an actual
/// request with the specific origin, HTTP method, and headers."
#[tokio::test]
async fn a_preflight_is_answered_without_a_signature() {
    let (_backend, gateway) = pair(RULES).await;
    let mut client = Client::connect(&gateway).await;
    let mut lines = ask(APP, "PUT");
    lines.push(("Access-Control-Request-Headers", "Content-Type,X-Amz-Content-Sha256"));
    let answer = preflight(&mut client, &lines).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    let id = answer.header("x-amz-request-id").unwrap();
    for (name, value) in [
        ("access-control-allow-origin", APP),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "PUT, POST, DELETE"),
        ("access-control-allow-headers", "content-type, x-amz-content-sha256"),
        ("access-control-expose-headers", "ETag, x-amz-request-id"),
        ("access-control-max-age", "3000"),
        ("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"),
    ] {
        assert_eq!(answer.header(name).as_deref(), Some(value), "{name}");
    }
    // The rule for everyone: no credentials, and what it does not name is not there.
    let answer = preflight(&mut client, &ask("https://else.org", "PUT")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("*"));
    assert_eq!(answer.header("access-control-expose-headers").as_deref(), Some("ETag"));
    for name in ["allow-credentials", "allow-headers", "max-age"] {
        assert_eq!(answer.header(&format!("access-control-{name}")), None, "{name}");
    }
    let log = gateway.log_with(&id).await;
    let line = log.lines().find(|line| line.contains(&id)).unwrap();
    assert!(line.contains("operation=Preflight") && line.contains("status=200"), "{line}");
}

#[tokio::test]
async fn a_preflight_that_no_rule_allows_is_forbidden() {
    let (_backend, gateway) = pair(RULES).await;
    let mut client = Client::connect(&gateway).await;
    let with_header =
        [ask("https://else.org", "PUT"), vec![("Access-Control-Request-Headers", "a")]];
    for lines in [ask("https://else.org", "POST"), ask(APP, "GET"), with_header.concat()] {
        let answer = preflight(&mut client, &lines).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "AccessForbidden"), "{lines:?}");
        let message = answer.element("Message").unwrap();
        assert!(
            message.starts_with("CORSResponse: This CORS request is not allowed."),
            "{message}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    for (lines, expected) in [
        (vec![], "Insufficient information. Origin request header needed."),
        (vec![("Origin", APP)], "Invalid Access-Control-Request-Method: null"),
        (ask(APP, "PATCH"), "Invalid Access-Control-Request-Method: PATCH"),
    ] {
        let answer = preflight(&mut client, &lines).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "BadRequest"), "{lines:?}");
        assert_eq!(answer.element("Message").as_deref(), Some(expected));
    }
}

/// "If cors is not enabled on the bucket, then Amazon S3 returns a 403 Forbidden response."
#[tokio::test]
async fn cors_is_off_unless_there_is_a_rule() {
    let (backend, gateway) = pair("").await;
    let mut client = Client::connect(&gateway).await;
    let answer = preflight(&mut client, &ask(APP, "PUT")).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessForbidden"));
    let message = "CORSResponse: CORS is not enabled for this bucket.";
    assert_eq!(answer.element("Message").as_deref(), Some(message));
    let answer = client.send(Request::put("k", 3).header("Origin", APP), b"abc").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), None);
    assert_eq!(backend.object("k").unwrap(), b"abc");
    let nowhere = format!("OPTIONS /nowhere/k HTTP/1.1\r\nHost: h\r\nOrigin: {APP}\r\n\r\n");
    assert_eq!(client.raw(nowhere.as_bytes(), b"").await.code(), "NoSuchBucket");
}

/// A browser shows a page no answer without these headers: neither the ETag of a part, nor an error.
#[tokio::test]
async fn every_answer_to_a_page_may_be_read_errors_too() {
    let (backend, gateway) = pair(RULES).await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("k", 3).header("Origin", APP), b"abc").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("k").unwrap(), b"abc");
    assert!(answer.header("etag").is_some());
    let mut answers = vec![answer];

    // Of the backend, of the operation, and of the signature.
    let gone = Request::method("POST", "k").query("uploadId", "gone").header("Origin", APP);
    answers.push(client.send(gone, b"").await);
    let copy = Request::put("k", 0).header("x-amz-copy-source", "/a/b").header("Origin", APP);
    answers.push(client.send(copy, b"").await);
    let unsigned =
        format!("PUT /uploads/k HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nOrigin: {APP}\r\n\r\n");
    answers.push(client.raw(unsigned.as_bytes(), b"").await);
    let codes: Vec<_> = answers.iter().map(Answer::code).collect();
    assert_eq!(codes, ["", "NoSuchUpload", "NotImplemented", "AccessDenied"]);
    for answer in &answers {
        assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some(APP));
        let exposed = answer.header("access-control-expose-headers");
        assert_eq!(exposed.as_deref(), Some("ETag, x-amz-request-id"));
        assert!(answer.header("vary").unwrap().starts_with("Origin"));
    }
    // No rule is for it: the upload is made, but the page cannot read the answer.
    let post =
        Request::method("POST", "m").query("uploads", "").header("Origin", "https://else.org");
    let answer = client.send(post, b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// "before admission": a page learns that it may upload while the gateway is full.
#[tokio::test]
async fn a_preflight_needs_no_permit() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .bucket(RULES)
        .env("MIZUCHI__ADMISSION__UPLOADS", "1")
        .env("MIZUCHI__ADMISSION__QUEUE_WAIT", "0s")
        .start()
        .await;
    // A body that does not come holds the one permit.
    let mut slow = Client::connect(&gateway).await;
    let head = Request::put("slow", 9).sign(
        &slow.host.clone(),
        &crate::support::client::signer(),
        time::OffsetDateTime::now_utc(),
    );
    tokio::io::AsyncWriteExt::write_all(&mut slow.socket, &head).await.unwrap();
    crate::support::eventually("the permit is taken", async || {
        gateway.metric("mizuchi_permits_in_use").await == 1.0
    })
    .await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(preflight(&mut client, &ask(APP, "PUT")).await.status, 200);
    let answer = client.send(Request::put("k", 0).header("Origin", APP), b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"));
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some(APP));
    assert_eq!(client.raw(&head, b"slow body").await.status, 503);
}
