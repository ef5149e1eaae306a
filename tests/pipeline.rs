//! The route of an upload, end to end.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::payload;
use mizuchi_actors::sigv4::PayloadHash;
use sha2::{Digest, Sha256};

async fn pair() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let address = backend.s3.address;
    let gateway = Setup::new(&backend, address).start().await;
    (backend, gateway)
}

#[tokio::test]
async fn a_put_arrives_whole_on_both_paths_and_every_size() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    for length in [0, 1, 4096, 65535, 65536, 65537, 1 << 20, (9 << 20) + 13] {
        let body = payload(length);
        let key = format!("sizes/{length}");
        let answer = client.send(Request::put(&key, length), &body).await;
        assert_eq!(answer.status, 200, "{length}: {}", answer.text());
        assert!(answer.header("etag").is_some());
        assert!(answer.header("x-amz-request-id").is_some());
        assert_eq!(backend.object(&key).unwrap(), body, "{length}");
    }
    gateway.settled().await;
}

/// Must show: the splice path is taken, and but for what came with the head no payload is copied.
#[tokio::test]
async fn large_plain_bodies_are_spliced() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(8 << 20);
    assert_eq!(client.send(Request::put("spliced", body.len()), &body).await.status, 200);
    assert_eq!(backend.object("spliced").unwrap(), body);
    gateway.assert_spliced(body.len()).await;
    let plan = match mizuchi_actors::platform::ZERO_COPY {
        true => "mizuchi_transfer_bytes_total{plan=\"splice\",reason=\"plain\"}",
        false => "mizuchi_transfer_bytes_total{plan=\"copy\",reason=\"disabled\"}",
    };
    assert_eq!(gateway.metric(plan).await, body.len() as f64);
}

#[tokio::test]
async fn a_signed_hash_is_spliced_and_held_by_the_backend() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(1 << 20);
    let hash: [u8; 32] = Sha256::digest(&body).into();
    let request = Request::put("hashed", body.len()).payload(PayloadHash::Hash(hash));
    assert_eq!(client.send(request, &body).await.status, 200);
    assert_eq!(backend.object("hashed").unwrap(), body);

    let mut wrong = body.clone();
    wrong[500_000] ^= 1;
    let request = Request::put("flipped", body.len()).payload(PayloadHash::Hash(hash));
    let answer = client.send(request, &wrong).await;
    // What a mismatch is called is the backend's word: s3s says InternalError.
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(backend.object("flipped"), None);
    gateway.settled().await;
}

#[tokio::test]
async fn a_multipart_upload_is_assembled() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::method("POST", "multi part").query("uploads", ""), b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.element("Bucket").as_deref(), Some("uploads"));
    assert_eq!(answer.element("Key").as_deref(), Some("multi part"));
    let id = answer.element("UploadId").unwrap();

    let body = payload((5 << 20) + 777);
    let mut document = String::from("<CompleteMultipartUpload>");
    for (number, part) in body.chunks(5 << 20).enumerate() {
        let number = (number + 1).to_string();
        let request = Request::put("multi part", part.len())
            .query("partNumber", &number)
            .query("uploadId", &id);
        let answer = client.send(request, part).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let etag = answer.header("etag").unwrap();
        document.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        ));
    }
    document.push_str("</CompleteMultipartUpload>");

    let listed =
        client.send(Request::method("GET", "multi part").query("uploadId", &id), b"").await;
    assert_eq!(listed.status, 200, "{}", listed.text());
    assert_eq!(listed.element("UploadId").as_deref(), Some(id.as_str()));
    assert_eq!(listed.text().matches("<PartNumber>").count(), 2, "{}", listed.text());

    let request = Request {
        length: Some(document.len() as u64),
        payload: PayloadHash::of(document.as_bytes()),
        ..Request::method("POST", "multi part").query("uploadId", &id)
    };
    let answer = client.send(request, document.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.element("Bucket").as_deref(), Some("uploads"));
    assert!(answer.element("ETag").is_some());
    assert_eq!(backend.object("multi part").unwrap(), body);
}

/// The uploadId is sealed to bucket, key and principal: anything else is NoSuchUpload.
#[tokio::test]
async fn an_upload_id_opens_for_its_own_key_only() {
    let (_backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::method("POST", "mine").query("uploads", ""), b"").await;
    let id = answer.element("UploadId").unwrap();
    let mut flipped = id.clone();
    let last = if flipped.ends_with('A') { 'B' } else { 'A' };
    flipped.pop();
    flipped.push(last);
    for (key, id) in [("other", id.as_str()), ("mine", flipped.as_str()), ("mine", "nonsense")] {
        let request = Request::method("DELETE", key).query("uploadId", id);
        let answer = client.send(request, b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "NoSuchUpload"), "{key} {id}");
    }
    let request = Request::method("DELETE", "mine").query("uploadId", &id);
    assert_eq!(client.send(request, b"").await.status, 204);
}

#[tokio::test]
async fn what_is_not_an_upload_is_refused() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    for (request, status, code) in [
        (Request::method("GET", "k"), 405, "MethodNotAllowed"),
        (Request::method("DELETE", "k"), 405, "MethodNotAllowed"),
        (Request::method("GET", ""), 405, "MethodNotAllowed"),
        (Request::put("k", 0).query("acl", ""), 501, "NotImplemented"),
        (Request::put("k", 0).query("tagging", ""), 501, "NotImplemented"),
        (Request::put("k", 0).header("x-amz-copy-source", "/a/b"), 501, "NotImplemented"),
    ] {
        let answer = client.send(request, b"").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
    assert_eq!(backend.object("k"), None);
    let answer = client.send(Request::method("HEAD", ""), b"").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-amz-bucket-region").as_deref(), Some("us-east-1"));
    let answer = client.send(Request::method("GET", "").query("location", ""), b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Headers with power over others' data need the bucket's permission: 403, never dropped.
#[tokio::test]
async fn headers_that_need_a_permission_are_refused_without_it() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    for (name, value) in [
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-read", "id=1"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-website-redirect-location", "/x"),
    ] {
        let answer = client.send(Request::put("k", 1).header(name, value), b"x").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "{name}");
        client = Client::connect(&gateway).await;
    }
    assert_eq!(backend.object("k"), None);
}

#[tokio::test]
async fn health_and_readiness_are_on_the_admin_listener() {
    let (_backend, gateway) = pair().await;
    assert_eq!(crate::support::gateway::get(gateway.admin, "/healthz").await, "ok\n");
    assert_eq!(crate::support::gateway::get(gateway.admin, "/readyz").await, "ready\n");
}

/// "Path and virtual-host style."
#[tokio::test]
async fn the_host_may_name_the_bucket() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__SERVER__VIRTUAL_HOST_DOMAINS", "s3.example.com")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    client.host = "uploads.s3.example.com".to_owned();
    let request = Request { path: "/a/key".to_owned(), ..Request::put("", 3) };
    let answer = client.send(request, b"abc").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("a/key").unwrap(), b"abc");
    client.host = "nobody.s3.example.com".to_owned();
    let request = Request { path: "/a/key".to_owned(), ..Request::put("", 3) };
    assert_eq!(client.send(request, b"abc").await.code(), "NoSuchBucket");
}

/// The access line as JSON: request id, principal, operation, bytes, plan, duration.
#[tokio::test]
async fn the_access_line_may_be_json() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__LOGGING__FORMAT", "json")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("k", 100_000), &payload(100_000)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.header("x-amz-request-id").unwrap();
    let log = gateway.log_with(&id).await;
    let line = log.lines().find(|line| line.contains(&id)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["operation"], "PutObject");
    assert_eq!(line["principal"], "tester");
    assert_eq!(line["bytes"], 100_000);
    let plan = if mizuchi_actors::platform::ZERO_COPY { "splice" } else { "copy" };
    assert_eq!(line["plan"], plan);
    assert!(line["duration_ms"].as_f64().unwrap() > 0.0);
}
