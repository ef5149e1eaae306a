//! security.md, "HTTP": a test per row over a real socket.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::payload;
use crate::support::proxy::{Fault, Proxy};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

async fn pair() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let address = backend.s3.address;
    let gateway = Setup::new(&backend, address).start().await;
    (backend, gateway)
}

/// No object and no multipart upload came of it.
fn left_nothing(backend: &Backend) {
    assert_eq!((backend.objects(), backend.open_uploads()), (Vec::new(), 0));
}

/// A signed PUT of `k`, UNSIGNED-PAYLOAD, with other lines in place of its Content-Length: what is
/// refused is the framing and not the signature.
fn framed(gateway: &Gateway, lines: &str) -> String {
    let host = gateway.address.to_string();
    let head = Request::put("k", 5).sign(&host, &signer(), OffsetDateTime::now_utc());
    String::from_utf8(head).unwrap().replace("Content-Length: 5\r\n", lines)
}

/// The same with heads that are rightly signed: the framing alone is why.
#[tokio::test]
async fn a_signature_does_not_excuse_ambiguous_framing() {
    let (backend, gateway) = pair().await;
    let length = "Content-Length: 5\r\n";
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 5\r\n\tTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\nX-A: b\r\n",
        "Content-Length: 5\rX-A: b\r\n",
        "Content-Length: 5\r\nHost: other\r\n",
    ] {
        let head = framed(&gateway, lines);
        let mut client = Client::connect(&gateway).await;
        let answer = client.raw(head.as_bytes(), b"hello").await;
        assert_eq!(answer.status, 400, "{lines:?}: {}", answer.text());
        assert!(!answer.code().is_empty(), "{lines:?}: no S3 error: {}", answer.text());
        assert!(client.ends().await, "{lines:?}: the connection went on");
    }
    left_nothing(&backend);
    let head = framed(&gateway, length);
    assert_eq!(Client::connect(&gateway).await.raw(head.as_bytes(), b"hello").await.status, 200);
}

/// "Content-Length with Transfer-Encoding, duplicate Content-Length, `+5`, TE other than chunked,
/// TE on HTTP/1.0, bare LF, obs-fold, space before the colon: 400 and close".
#[tokio::test]
async fn ambiguous_requests_are_refused_and_the_connection_closed() {
    let (backend, gateway) = pair().await;
    for head in [
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "PUT /uploads/k HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\nHost: h\nContent-Length: 5\n\n",
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nX-A: b\r\n c\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\r\nHost: h\r\nX-A : b\r\n\r\n",
        "PUT /uploads/k HTTP/1.1\r\n\r\n",
        "\u{1}\u{2}\u{3}\r\n\r\n",
    ] {
        let mut client = Client::connect(&gateway).await;
        let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
        let answer = client.raw(head.as_bytes(), smuggled).await;
        assert_eq!(answer.status, 400, "{head:?}: {}", answer.text());
        assert!(client.ends().await, "{head:?}: the connection went on");
    }
    let mut client = Client::connect(&gateway).await;
    let last = client.raw(b"GET /last HTTP/1.1\r\nHost: h\r\n\r\n", b"").await;
    let log = gateway.log_with(&last.header("x-amz-request-id").unwrap()).await;
    assert!(!log.contains("smuggled"));
    left_nothing(&backend);
}

#[tokio::test]
async fn an_odd_expectation_is_417() {
    let (backend, gateway) = pair().await;
    for expectation in ["200-ok", "100-continue, x", "100-continue\r\nExpect: 100-continue"] {
        let head = framed(&gateway, &format!("Content-Length: 5\r\nExpect: {expectation}\r\n"));
        let mut client = Client::connect(&gateway).await;
        let answer = client.raw(head.as_bytes(), b"hello").await;
        assert_eq!(answer.status, 417, "{expectation}: {}", answer.text());
    }
    left_nothing(&backend);
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let head =
        format!("PUT /uploads/k HTTP/1.1\r\nHost: h\r\nX-A: {}\r\n\r\n", "a".repeat(17 * 1024));
    let answer = client.raw(head.as_bytes(), b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "RequestHeaderSectionTooLarge"));
    left_nothing(&backend);
}

/// "early error with an unread body: answer, half-close, drain up to a cap, close: the client
/// reads the answer".
#[tokio::test]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let (backend, gateway) = pair().await;
    let body = payload(8 << 20);
    for _ in 0..20 {
        let mut client = Client::connect(&gateway).await;
        let request = Request::put("k", body.len());
        let other = crate::support::client::signer_with("AKIANOBODY", "x", "us-east-1");
        let head = request.sign(&client.host.clone(), &other, OffsetDateTime::now_utc());
        let answer = client.raw(&head, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "InvalidAccessKeyId"));
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
    }
    left_nothing(&backend);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let mut wire = Vec::new();
    let bodies: Vec<Vec<u8>> = [10, 70_000, 0, 300_000].map(payload).to_vec();
    for (index, body) in bodies.iter().enumerate() {
        let request = Request::put(&format!("pipe/{index}"), body.len());
        wire.extend(request.sign(&client.host, &signer(), OffsetDateTime::now_utc()));
        wire.extend(body);
    }
    let (reader, mut writer) = client.socket.into_split();
    let sending = tokio::spawn(async move { writer.write_all(&wire).await.map(|()| writer) });
    let writer = sending.await.unwrap().unwrap();
    client.socket = reader.reunite(writer).unwrap();
    for (index, body) in bodies.iter().enumerate() {
        assert_eq!(client.answer(false).await.status, 200, "{index}");
        assert_eq!(&backend.object(&format!("pipe/{index}")).unwrap(), body);
    }
}

/// "Expect: 100-continue answered only after auth and admission".
#[tokio::test]
async fn continue_comes_after_authentication() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let request = Request::put("waited", 200_000).header("expect", "100-continue");
    let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    client.socket.write_all(&head).await.unwrap();
    assert_eq!(client.one(false).await.status, 100);
    let body = payload(200_000);
    client.socket.write_all(&body).await.unwrap();
    assert_eq!(client.one(false).await.status, 200);
    assert_eq!(backend.object("waited").unwrap(), body);

    let request = Request::put("refused", 200_000).header("expect", "100-continue");
    let other = crate::support::client::signer_with("AKIANOBODY", "x", "us-east-1");
    let head = request.sign(&client.host, &other, OffsetDateTime::now_utc());
    client.socket.write_all(&head).await.unwrap();
    assert_eq!(client.one(false).await.status, 403);
}

/// R15: "short or extra body: 400 IncompleteBody; extra bytes are never parsed as a request" of
/// another kind than the next one.
#[tokio::test]
async fn a_short_body_makes_no_object() {
    let (backend, gateway) = pair().await;
    for length in [10, 100_000] {
        let mut client = Client::connect(&gateway).await;
        let head =
            Request::put("short", length).sign(&client.host, &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        client.socket.write_all(&payload(length - 3)).await.unwrap();
        client.socket.shutdown().await.unwrap();
        let answer = client.one(false).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "IncompleteBody"));
        assert_eq!(backend.object("short"), None);
    }
    gateway.settled().await;
}

/// Only a PutObject may come without a length: a part of one is the client's own business.
#[tokio::test]
async fn a_chunked_part_without_a_decoded_length_is_411() {
    let (_backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let request = Request { length: None, ..Request::put("k", 0) }
        .query("partNumber", "1")
        .query("uploadId", &created.element("UploadId").unwrap());
    let request = request.header("transfer-encoding", "chunked");
    let answer = client.send(request, b"3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!((answer.status, answer.code().as_str()), (411, "MissingContentLength"));
}

/// "empty chunk-size line; flood of chunk extensions: 400 and close".
#[tokio::test]
async fn odd_chunks_are_refused_and_the_connection_closed() {
    let (backend, gateway) = pair().await;
    let flood = format!("1{}\r\nx\r\n0\r\n\r\n", ";a=b".repeat(100));
    for wire in [
        "\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "1\nx\r\n0\r\n\r\n",
        "1\r\nxx\r\n0\r\n\r\n",
        &flood,
    ] {
        let mut client = Client::connect(&gateway).await;
        let request = Request {
            length: None,
            payload: mizuchi_actors::sigv4::PayloadHash::UnsignedTrailer,
            ..Request::put("k", 0)
        }
        .header("transfer-encoding", "chunked")
        .header("x-amz-decoded-content-length", "1");
        let answer = client.send(request, wire.as_bytes()).await;
        assert_eq!(answer.status, 400, "{wire:?}: {}", answer.text());
        assert!(client.ends().await, "{wire:?}: the connection went on");
        assert_eq!(backend.object("k"), None);
    }
}

/// "upstream framing: regenerated; the client's TE, CL, Expect and hop-by-hop headers are never
/// forwarded".
#[tokio::test]
async fn what_belongs_to_the_client_s_connection_stays_there() {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, listener.local_addr().unwrap()).start().await;
    let mut client = Client::connect(&gateway).await;
    let request = Request::put("k", 5)
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers")
        .header("expect", "100-continue")
        .header("upgrade", "h2c")
        .header("x-forwarded-for", "1.2.3.4")
        .header("authorization-x", "secret")
        .header("content-type", "text/plain");
    let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    client.socket.write_all(&head).await.unwrap();
    assert_eq!(client.one(false).await.status, 100);
    client.socket.write_all(b"hello").await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut wire = Vec::new();
    while !wire.ends_with(b"hello") {
        assert!(upstream.read_buf(&mut wire).await.unwrap() > 0);
    }
    let text = String::from_utf8(wire).unwrap().to_ascii_lowercase();
    for name in [
        "connection",
        "x-hop",
        "keep-alive",
        "te",
        "expect",
        "upgrade",
        "x-forwarded-for",
        "authorization-x",
        "transfer-encoding",
    ] {
        assert!(!text.contains(&format!("\r\n{name}:")), "{name} was forwarded:\n{text}");
    }
    assert!(text.contains("\r\ncontent-length: 5\r\n"), "{text}");
    assert!(text.contains("\r\ncontent-type: text/plain\r\n"), "{text}");
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\nETag: \"x\"\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.one(false).await.status, 200);
}

/// R15: "extra bytes are never parsed" as part of the upload: they are the next request, and a
/// malformed one.
#[tokio::test]
async fn bytes_past_the_body_are_no_part_of_it() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let head = Request::put("k", 5).sign(&client.host, &signer(), OffsetDateTime::now_utc());
    assert_eq!(client.raw(&head, b"helloEXTRA\r\n\r\n").await.status, 200);
    assert_eq!(client.one(false).await.status, 400);
    assert!(client.ends().await);
    assert_eq!(backend.object("k").unwrap(), b"hello");
}

/// "server.keep_alive: how long an idle connection stays open": one that waits for its answer is not
/// idle, and goes on after it.
#[tokio::test]
async fn a_connection_that_is_being_answered_is_not_idle() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let gateway =
        Setup::new(&backend, proxy.address).env("MIZUCHI__SERVER__KEEP_ALIVE", "1s").start().await;
    let mut client = Client::connect(&gateway).await;
    proxy.script([Fault::DelayAnswer(Duration::from_secs(2))]);
    for key in ["slow", "next"] {
        let answer = client.send(Request::put(key, 5), b"hello").await;
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
    }
    let answered = Instant::now();
    assert!(client.ends().await);
    assert!(answered.elapsed() > Duration::from_millis(900), "{:?}", answered.elapsed());
}
