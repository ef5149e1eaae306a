//! A CompleteMultipartUpload that takes long: "After Amazon S3 begins processing the request, it sends
//! an HTTP response header that specifies a 200 OK response. While processing is in progress, Amazon
//! S3 periodically sends white space characters to keep the connection from timing out. A request
//! could fail after the initial 200 OK response has been sent." (API Reference)

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{eventually, payload};
use mizuchi_actors::sigv4::PayloadHash;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const ORIGIN: &str = "https://app.example.com";
const SECOND: Duration = Duration::from_secs(1);

async fn trio(environment: &[(&'static str, &str)]) -> (Backend, Proxy, Gateway) {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let mut setup = Setup::new(&backend, proxy.address)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__COMPLETE_KEEPALIVE", "1s")
        .bucket("    cors:\n      - allowed_origins: '*'\n        allowed_methods: POST\n");
    for (name, value) in environment {
        setup = setup.env(name, value);
    }
    (backend, proxy, setup.start().await)
}

/// An upload of one part: its id, and the part's ETag.
async fn upload(client: &mut Client, key: &str) -> (String, String) {
    let created = client.send(Request::method("POST", key).query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let part = Request::put(key, 1000).query("partNumber", "1").query("uploadId", &id);
    let etag = client.send(part, &payload(1000)).await.header("etag").unwrap();
    (id, etag)
}

/// A Complete of part `number`: its signed head with its document.
fn complete(client: &Client, key: &str, id: &str, number: u32, etag: &str) -> Vec<u8> {
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    let request = Request {
        length: Some(document.len() as u64),
        payload: PayloadHash::of(document.as_bytes()),
        ..Request::method("POST", key).query("uploadId", id).header("Origin", ORIGIN)
    };
    let mut bytes = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    bytes.extend_from_slice(document.as_bytes());
    bytes
}

/// The access line of a request.
fn access_line(gateway: &Gateway, id: &str) -> Option<String> {
    let log = gateway.log();
    log.lines().find(|line| line.contains("operation=") && line.contains(id)).map(str::to_owned)
}

#[tokio::test]
async fn white_space_flows_until_the_outcome_is_known() {
    // An idle connection ends after a second: one that is being answered is not idle.
    let (backend, proxy, gateway) = trio(&[("MIZUCHI__SERVER__KEEP_ALIVE", "1s")]).await;
    let mut client = Client::connect(&gateway).await;
    let (id, etag) = upload(&mut client, "k").await;
    proxy.script([Fault::DelayAnswer(3 * SECOND + SECOND / 2)]);
    let started = Instant::now();
    let request = complete(&client, "k", &id, 1, &etag);
    client.socket.write_all(&request).await.unwrap();

    let head = client.head().await;
    let after = started.elapsed();
    assert!(after >= SECOND && after < 3 * SECOND, "{after:?}");
    assert_eq!(head.status, 200);
    assert!(head.is_chunked() && head.header("content-length").is_none(), "{}", head.head);
    assert_eq!(head.header("content-type").as_deref(), Some("application/xml"));
    assert_eq!(head.header("access-control-allow-origin").as_deref(), Some("*"));
    assert!(head.header("x-amz-id-2").is_some());
    let request_id = head.header("x-amz-request-id").unwrap();
    assert_eq!(client.chunk().await.unwrap(), DECLARATION.as_bytes());
    for space in 2..4 {
        assert_eq!(client.chunk().await.unwrap(), b" ");
        assert!(started.elapsed() >= space * SECOND, "{:?}", started.elapsed());
        // It is recorded when it ends.
        assert_eq!(access_line(&gateway, &request_id), None);
    }
    let mut rest = Vec::new();
    while let Some(chunk) = client.chunk().await {
        rest.extend_from_slice(&chunk);
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.trim_start().starts_with("<CompleteMultipartUploadResult"), "{rest}");
    assert!(rest.contains("<Bucket>uploads</Bucket>") && !rest.contains("<?xml"), "{rest}");
    assert!(started.elapsed() > 3 * SECOND);
    assert_eq!(backend.object("k").unwrap(), payload(1000));

    gateway.log_with(&request_id).await;
    gateway.log_with(&format!("access] request_id={request_id}")).await;
    let line = access_line(&gateway, &request_id).unwrap();
    assert!(line.contains("status=200 code= "), "{line}");
    let took: f64 = line.rsplit("duration_ms=").next().unwrap().trim().parse().unwrap();
    assert!(took > 3000.0, "{line}");
    let series = "mizuchi_uploads_total{bucket=\"uploads\",operation=\"CompleteMultipartUpload\",status=\"200\"}";
    assert_eq!(gateway.metric(series).await, 1.0);
    // The connection goes on.
    let answer = client.send(Request::put("next", 5), b"hello").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(client.ends().await, "and then it is idle");
    gateway.settled().await;
}

/// "This means that a 200 OK response can contain either a success or an error."
#[tokio::test]
async fn a_late_failure_is_an_error_inside_the_200() {
    let (backend, proxy, gateway) = trio(&[]).await;
    let mut client = Client::connect(&gateway).await;
    let (id, etag) = upload(&mut client, "k").await;
    // What it is when it is early: the backend's own word. There is no part 7.
    let early = client.raw(&complete(&client, "k", &id, 7, &etag), b"").await;
    assert!(early.status >= 400 && !early.is_chunked(), "{}", early.head);
    let (id, etag) = upload(&mut client, "k").await;
    let late = complete(&client, "k", &id, 7, &etag);
    // One space, and half a second to the next.
    proxy.script([Fault::DelayAnswer(2 * SECOND + SECOND / 2)]);
    let answer = client.raw(&late, b"").await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let root = text.strip_prefix(DECLARATION).unwrap();
    assert!(root.trim_start().starts_with("<Error><Code>"), "{text}");
    assert!(root.starts_with(' ') && root.ends_with("</Error>"), "{text}");
    assert_eq!(answer.code(), early.code());
    assert_eq!(answer.element("Message"), early.element("Message"));
    assert_eq!(answer.element("Resource").as_deref(), Some("/uploads/k"));
    let request_id = answer.header("x-amz-request-id");
    assert_eq!(answer.element("RequestId"), request_id);
    let request_id = request_id.unwrap();
    gateway.log_with(&request_id).await;
    gateway.log_with(&format!("access] request_id={request_id}")).await;
    let line = access_line(&gateway, &request_id).unwrap();
    assert!(line.contains(&format!("status=200 code={} ", early.code())), "{line}");
    assert_eq!(backend.object("k"), None);
    assert_eq!(client.send(Request::put("next", 5), b"hello").await.status, 200);
}

#[tokio::test]
async fn a_quick_answer_keeps_its_status() {
    let (_backend, proxy, gateway) = trio(&[]).await;
    let mut client = Client::connect(&gateway).await;
    let (id, etag) = upload(&mut client, "k").await;
    let request = complete(&client, "k", &id, 1, &etag);
    proxy.script([Fault::DelayAnswer(SECOND / 2)]);
    let answer = client.raw(&request, b"").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.is_chunked() && answer.text().starts_with(DECLARATION), "{}", answer.head);
    let (id, _) = upload(&mut client, "gone").await;
    let abort = Request::method("DELETE", "gone").query("uploadId", &id);
    assert_eq!(client.send(abort, b"").await.status, 204);
    let request = complete(&client, "other", &id, 1, &etag);
    let answer = client.raw(&request, b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "NoSuchUpload"));
}

/// A Complete is an intent: it is carried out, and recorded, whoever is still there.
#[tokio::test]
async fn a_client_that_goes_away_changes_nothing() {
    let (backend, proxy, gateway) = trio(&[]).await;
    for (key, wait_for_head) in [("before", false), ("after", true)] {
        let mut client = Client::connect(&gateway).await;
        let (id, etag) = upload(&mut client, key).await;
        proxy.script([Fault::DelayAnswer(2 * SECOND)]);
        let request = complete(&client, key, &id, 1, &etag);
        client.socket.write_all(&request).await.unwrap();
        if wait_for_head {
            assert_eq!(client.head().await.status, 200);
        } else {
            eventually("the Complete arrives", async || proxy.script_done()).await;
        }
        client.socket.set_zero_linger().unwrap();
        drop(client);
        let path = format!("path=\"/uploads/{key}\" status=200 code= ");
        eventually("the Complete is recorded", async || {
            gateway.log().lines().any(|line| {
                line.contains("operation=CompleteMultipartUpload") && line.contains(&path)
            })
        })
        .await;
        assert_eq!(backend.object(key).unwrap(), payload(1000));
    }
    gateway.settled().await;
}

/// HTTP/1.0 has no chunked bodies: its clients wait for the one answer.
#[tokio::test]
async fn a_client_of_http_10_gets_one_answer() {
    let (_backend, proxy, gateway) = trio(&[]).await;
    let mut client = Client::connect(&gateway).await;
    let (id, etag) = upload(&mut client, "k").await;
    let request = String::from_utf8(complete(&client, "k", &id, 1, &etag)).unwrap();
    proxy.script([Fault::DelayAnswer(2 * SECOND)]);
    let answer = client.raw(request.replacen("HTTP/1.1", "HTTP/1.0", 1).as_bytes(), b"").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.is_chunked() && answer.header("content-length").is_some(), "{}", answer.head);
}

/// `s3.timeouts.complete`, not `first_byte`, bounds the wait for a Complete's answer.
#[tokio::test]
async fn a_complete_may_take_longer_than_other_requests() {
    let first_byte = ("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "500ms");
    for (limit, patient) in [("5s", true), ("600ms", false)] {
        let complete_limit = ("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__COMPLETE", limit);
        let (backend, proxy, gateway) = trio(&[first_byte, complete_limit]).await;
        let mut client = Client::connect(&gateway).await;
        let (id, etag) = upload(&mut client, "k").await;
        proxy.script([Fault::DelayAnswer(Duration::from_millis(900))]);
        let request = complete(&client, "k", &id, 1, &etag);
        let answer = client.raw(&request, b"").await;
        // An answer that is given up is not a failure either: a HEAD shows the object.
        assert_eq!(answer.status, 200, "{}", answer.text());
        let log = gateway.log_with(&answer.header("x-amz-request-id").unwrap()).await;
        let lost = log.contains("attempt 0: ");
        assert_eq!(lost, !patient, "{limit}: {}", gateway.log());
        assert_eq!(backend.object("k").unwrap(), payload(1000));
    }
}

/// SIGTERM: what is in flight is finished, an answer of which half is out too.
#[tokio::test]
async fn a_shutdown_waits_for_the_outcome() {
    let (_backend, proxy, mut gateway) = trio(&[]).await;
    let mut client = Client::connect(&gateway).await;
    let (id, etag) = upload(&mut client, "k").await;
    proxy.script([Fault::DelayAnswer(2 * SECOND)]);
    let request = complete(&client, "k", &id, 1, &etag);
    client.socket.write_all(&request).await.unwrap();
    assert_eq!(client.head().await.status, 200);
    gateway.signal("TERM");
    let mut last = Vec::new();
    while let Some(chunk) = client.chunk().await {
        last = chunk;
    }
    assert!(last.ends_with(b"</CompleteMultipartUploadResult>"));
    assert!(gateway.ended().await.success());
}
