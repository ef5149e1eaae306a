//! HTTP/2: uploads, and what an attacker does with its frames.

use crate::support::authority::{Authority, Trust};
use crate::support::backend::Backend;
use crate::support::client::{Request, signer_with};
use crate::support::gateway::{Gateway, Setup};
use crate::support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, Raw, connect, frame,
    literal, send, signed, whole,
};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{PATIENCE, eventually, payload};
use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::body::Frame;
use mizuchi_actors::sigv4::PayloadHash;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

async fn start(change: impl FnOnce(Setup) -> Setup) -> (Backend, Trust, Authority, Gateway) {
    let backend = Backend::start().await;
    let authority = Authority::new();
    let setup = authority.serve(Setup::new(&backend, backend.s3.address));
    let gateway = change(setup).start().await;
    (backend, authority.trust().protocol("h2"), authority, gateway)
}

/// Pieces of a body, sent as the test says.
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn pieces() -> (mpsc::Sender<Bytes>, BoxBody<Bytes, Infallible>) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Pieces(receiver).boxed())
}

/// Bodies with a length and without, and documents, all on one connection.
#[tokio::test]
async fn uploads_of_all_sizes_arrive() {
    let (backend, trust, _authority, gateway) = start(|setup| setup).await;
    let mut sender = connect(&trust, &gateway).await;
    for length in [0, 1, 2000, 100_000, 3 << 20] {
        let body = payload(length);
        let key = format!("size-{length}");
        let request = signed(Request::put(&key, length), &gateway, whole(&body));
        let answer = send(&mut sender, request).await.unwrap();
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
        assert!(answer.headers.contains_key("x-amz-request-id"));
        assert!(answer.headers.contains_key("etag"));
        assert!(backend.object(&key).unwrap() == body, "{key}: other bytes");
    }
    // No Content-Length: the frames say where it ends.
    let (pieces, body) = pieces();
    let request = Request { length: None, ..Request::put("unknown", 0) };
    let sent = tokio::spawn(async move {
        for piece in payload(200_000).chunks(30_000) {
            pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
    });
    let answer = send(&mut sender, signed(request, &gateway, body)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    sent.await.unwrap();
    assert!(backend.object("unknown").unwrap() == payload(200_000));

    let create = Request::method("POST", "multi").query("uploads", "");
    let answer = send(&mut sender, signed(create, &gateway, whole(b""))).await.unwrap();
    let text = answer.text();
    let id = text.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let part = Request::put("multi", 6).query("partNumber", "1").query("uploadId", &id);
    let answer = send(&mut sender, signed(part, &gateway, whole(b"part 1"))).await.unwrap();
    let tag = answer.headers["etag"].to_str().unwrap().to_owned();
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    let complete = Request { method: "POST", ..Request::put("multi", document.len()) }
        .query("uploadId", &id)
        .payload(PayloadHash::of(document.as_bytes()));
    let request = signed(complete, &gateway, whole(document.as_bytes()));
    let answer = send(&mut sender, request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("multi").unwrap(), b"part 1");
    gateway.settled().await;
}

/// Memory stays where it is: a large body, and many at once, go through windows.
#[tokio::test]
async fn large_bodies_and_many_streams_take_little_memory() {
    let (backend, trust, _authority, gateway) =
        start(|setup| setup.env("MIZUCHI__REPLAY__MEMORY_PER_PART", "256KiB")).await;
    let mut sender = connect(&trust, &gateway).await;
    let body = payload(64 << 20);
    let small = payload(50_000);
    let request = signed(Request::put("first", small.len()), &gateway, whole(&small));
    assert_eq!(send(&mut sender, request).await.unwrap().status, 200);
    let before = gateway.peak_rss();
    let request = signed(Request::put("large", body.len()), &gateway, whole(&body));
    assert_eq!(send(&mut sender, request).await.unwrap().status, 200);
    assert!(backend.object("large").unwrap() == body);
    let mut all = Vec::new();
    for number in 0..80 {
        let request =
            signed(Request::put(&format!("many-{number}"), small.len()), &gateway, whole(&small));
        let mut sender = sender.clone();
        all.push(tokio::spawn(async move { send(&mut sender, request).await.unwrap().status }));
    }
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    let grown = gateway.peak_rss().saturating_sub(before);
    assert!(grown < 32 << 20, "{} MiB more", grown >> 20);
}

/// RFC 9113, 8.1: after a complete answer "a server MAY request that the client abort transmission
/// of a request without error by sending a RST_STREAM with an error code of NO_ERROR": the client
/// sees the answer, and the connection goes on.
#[tokio::test]
async fn a_refused_upload_sees_its_answer_and_the_connection_goes_on() {
    let (backend, trust, _authority, gateway) = start(|setup| setup).await;
    let mut sender = connect(&trust, &gateway).await;
    for _ in 0..5 {
        let (pieces, body) = pieces();
        let head = Request::put("k", 8 << 20);
        let mut request = signed(head, &gateway, body);
        let forged = request.headers()["authorization"]
            .to_str()
            .unwrap()
            .replace("Signature=", "Signature=0");
        let forged = forged[..forged.len() - 1].to_owned();
        request.headers_mut().insert("authorization", forged.parse().unwrap());
        let feeding = tokio::spawn(async move {
            let piece = Bytes::from(payload(16 << 10));
            while pieces.send(piece.clone()).await.is_ok() {}
        });
        let answer = send(&mut sender, request).await.unwrap();
        assert_eq!(answer.status, 403, "{}", answer.text());
        assert!(answer.text().contains("<Code>SignatureDoesNotMatch</Code>"));
        timeout(PATIENCE, feeding).await.expect("the client goes on sending").unwrap();
    }
    let request = signed(Request::put("good", 5), &gateway, whole(b"hello"));
    assert_eq!(send(&mut sender, request).await.unwrap().status, 200);
    assert_eq!(backend.objects(), ["good"]);
    gateway.settled().await;
}

/// A client that resets its stream, or goes, in the middle of a body leaves no object.
#[tokio::test]
async fn a_body_that_is_reset_leaves_nothing() {
    let (backend, trust, _authority, gateway) = start(|setup| setup).await;
    for length in [Some(100_000), None] {
        let mut sender = connect(&trust, &gateway).await;
        let (pieces, body) = pieces();
        let request = signed(Request { length, ..Request::put("cut", 0) }, &gateway, body);
        let mut other = sender.clone();
        let sending = tokio::spawn(async move { send(&mut sender, request).await.map(|_| ()) });
        pieces.send(Bytes::from(payload(20_000))).await.unwrap();
        eventually("the upload has begun", async || {
            gateway.metric("mizuchi_uploads_in_flight").await >= 1.0
        })
        .await;
        // The request's future is dropped: hyper resets its stream.
        sending.abort();
        gateway.settled().await;
        let request = signed(Request::put("good", 5), &gateway, whole(b"hello"));
        assert_eq!(send(&mut other, request).await.unwrap().status, 200);
        drop(pieces);
    }
    assert_eq!(backend.objects(), ["good"]);
    assert_eq!(backend.open_uploads(), 0);
}

/// `server.body_progress` holds for each stream; the others go on.
#[tokio::test]
async fn a_slow_body_times_out_and_stops_nobody() {
    let (backend, trust, _authority, gateway) =
        start(|setup| setup.env("MIZUCHI__SERVER__BODY_PROGRESS__INTERVAL", "1s")).await;
    let mut sender = connect(&trust, &gateway).await;
    let mut slow = Vec::new();
    for number in 0..20 {
        let (pieces, body) = pieces();
        let request = signed(Request::put(&format!("slow-{number}"), 100_000), &gateway, body);
        let mut sender = sender.clone();
        let feeding = tokio::spawn(async move {
            while pieces.send(Bytes::from_static(b"x")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        slow.push((tokio::spawn(async move { send(&mut sender, request).await }), feeding));
    }
    let request = signed(Request::put("good", 5), &gateway, whole(b"hello"));
    assert_eq!(send(&mut sender, request).await.unwrap().status, 200);
    for (answer, feeding) in slow {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("<Code>RequestTimeout</Code>"), "{}", answer.text());
        timeout(PATIENCE, feeding).await.unwrap().unwrap();
    }
    assert_eq!(backend.objects(), ["good"]);
}

async fn others_are_served(trust: &Trust, gateway: &Gateway) {
    let began = Instant::now();
    let mut sender = connect(trust, gateway).await;
    let request = signed(Request::put("good", 5), gateway, whole(b"hello"));
    assert_eq!(send(&mut sender, request).await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// Whether the gateway ends the connection, with GOAWAY or without.
async fn ends(raw: &mut Raw) -> bool {
    let reading = async {
        loop {
            match raw.next().await {
                None => return true,
                Some((GOAWAY, _, _)) => return true,
                Some(_) => {}
            }
        }
    };
    timeout(PATIENCE, reading).await.is_ok()
}

/// CVE-2023-44487 (rapid reset): streams that are opened and reset at once. The connection ends, or
/// it is served at a bounded cost; others are served meanwhile.
#[tokio::test]
async fn rapid_resets_stop_nobody() {
    for signed in ["true", "false"] {
        rapid_resets(signed).await;
    }
}

/// `signed`: whether requests must be; those that need not get as far as the engine.
async fn rapid_resets(signed: &str) {
    let (backend, trust, _authority, gateway) =
        start(|setup| setup.env("MIZUCHI__BUCKETS__0__AUTH__ENABLED", signed)).await;
    let mut raw = Raw::connect(&trust, &gateway, &[]).await;
    let before = gateway.peak_rss();
    let block = raw.put("reset");
    let mut refused = false;
    'flood: for round in 0..200u32 {
        let mut wire = Vec::new();
        for number in 0..100 {
            let stream = (round * 100 + number) * 2 + 1;
            wire.extend(frame(HEADERS, END_HEADERS, stream, &block));
            wire.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        }
        if !raw.write(&wire).await {
            refused = true;
            break 'flood;
        }
    }
    others_are_served(&trust, &gateway).await;
    assert!(refused || ends(&mut raw).await, "20,000 resets, and the connection goes on");
    assert!(gateway.peak_rss() - before < 64 << 20);
    gateway.settled().await;
    assert_eq!(backend.objects(), ["good"]);
}

/// CERT VU#421644 (CONTINUATION flood): a header block that does not end.
#[tokio::test]
async fn a_header_block_without_end_is_refused() {
    let (_backend, trust, _authority, gateway) = start(|setup| setup).await;
    let mut raw = Raw::connect(&trust, &gateway, &[]).await;
    let before = gateway.peak_rss();
    let block = raw.put("endless");
    assert!(raw.write(&frame(HEADERS, 0, 1, &block)).await);
    let mut more = Vec::new();
    for number in 0..100 {
        literal(&mut more, &format!("x-{number}"), &"y".repeat(100));
    }
    let mut refused = false;
    for _ in 0..2000 {
        if !raw.write(&frame(CONTINUATION, 0, 1, &more)).await {
            refused = true;
            break;
        }
    }
    assert!(refused || ends(&mut raw).await, "20 MB of headers were taken");
    others_are_served(&trust, &gateway).await;
    assert!(gateway.peak_rss() - before < 32 << 20);
}

/// `server.max_head` holds for HTTP/2 too.
#[tokio::test]
async fn large_heads_are_refused() {
    let (backend, trust, _authority, gateway) = start(|setup| setup).await;
    let mut sender = connect(&trust, &gateway).await;
    let request = Request::put("k", 5).header("x-amz-meta-a", &"x".repeat(17 << 10));
    let answer = send(&mut sender, signed(request, &gateway, whole(b"hello"))).await;
    if let Ok(answer) = answer {
        assert!([400, 431].contains(&answer.status), "{}", answer.status);
    }
    others_are_served(&trust, &gateway).await;
    assert_eq!(backend.objects(), ["good"]);
}

/// RFC 9113, 8.3.1, 8.2.2: a Host that is another than `:authority`, and headers that belong to a
/// connection, are malformed; what is not signed is not uploaded.
#[tokio::test]
async fn heads_that_say_two_things_are_refused() {
    let (backend, trust, _authority, gateway) = start(|setup| setup).await;
    for (name, value) in
        [("host", "other"), ("connection", "x"), ("transfer-encoding", "chunked"), ("upgrade", "x")]
    {
        let mut raw = Raw::connect(&trust, &gateway, &[]).await;
        let mut block = raw.put("k");
        literal(&mut block, name, value);
        raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        let refused = async {
            loop {
                match raw.next().await {
                    // The answer, or the reset, of this stream.
                    Some((HEADERS | RST_STREAM | GOAWAY, _, _)) | None => return,
                    Some(_) => {}
                }
            }
        };
        timeout(PATIENCE, refused).await.unwrap();
    }
    let mut sender = connect(&trust, &gateway).await;
    let host = gateway.address.to_string();
    let head = Request::put("k", 5).sign(
        &host,
        &signer_with("AKIATESTTESTTESTTEST", "wrong", "us-east-1"),
        time::OffsetDateTime::now_utc(),
    );
    assert!(!head.is_empty());
    let request =
        hyper::Request::put(format!("https://{host}/uploads/k")).body(whole(b"hello")).unwrap();
    let answer = send(&mut sender, request).await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(backend.objects(), [""; 0]);
}

/// `server.keep_alive`: a connection on which nothing moves ends, also one whose answers the client
/// does not take (its window is closed); before a first request, `server.head_timeout`.
#[tokio::test]
async fn idle_connections_and_answers_that_nobody_takes_end() {
    let (_backend, trust, _authority, gateway) = start(|setup| {
        setup.env("MIZUCHI__SERVER__KEEP_ALIVE", "1s").env("MIZUCHI__SERVER__HEAD_TIMEOUT", "1s")
    })
    .await;
    let mut silent = Raw::connect(&trust, &gateway, &[]).await;
    assert!(ends(&mut silent).await);
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let mut closed = Raw::connect(&trust, &gateway, &[0, 4, 0, 0, 0, 0]).await;
    let block = closed.put("k");
    closed.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
    assert!(ends(&mut closed).await);
    let mut half = Raw::connect(&trust, &gateway, &[]).await;
    let block = half.put("k");
    half.write(&frame(HEADERS, 0, 1, &block)).await;
    assert!(ends(&mut half).await);
    eventually("no connection is left", async || {
        gateway.metric("mizuchi_client_connections").await == 0.0
    })
    .await;
    gateway.settled().await;
}

/// RFC 9113, 5.1.2: streams past SETTINGS_MAX_CONCURRENT_STREAMS are refused: no more uploads of one
/// connection are in flight.
#[tokio::test]
async fn streams_are_bounded() {
    let (_backend, trust, _authority, gateway) =
        start(|setup| setup.env("MIZUCHI__BUCKETS__0__AUTH__ENABLED", "false")).await;
    let mut raw = Raw::connect(&trust, &gateway, &[]).await;
    for number in 0..150u32 {
        let mut block = raw.put(&format!("open-{number}"));
        literal(&mut block, "content-length", "10");
        let stream = number * 2 + 1;
        if !raw.write(&frame(HEADERS, END_HEADERS, stream, &block)).await {
            break;
        }
        raw.write(&frame(DATA, 0, stream, b"x")).await;
    }
    eventually("many are in flight", async || {
        gateway.metric("mizuchi_uploads_in_flight").await >= 100.0
    })
    .await;
    others_are_served(&trust, &gateway).await;
    assert_eq!(gateway.metric("mizuchi_uploads_in_flight").await, 100.0);
    drop(raw);
    gateway.settled().await;
}

/// A Complete that takes long is kept alive as on HTTP/1: its 200 at once, white space, then the
/// document.
#[tokio::test]
async fn a_long_complete_is_kept_alive() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let authority = Authority::new();
    let setup = authority
        .serve(Setup::new(&backend, proxy.address))
        .env("MIZUCHI__BUCKETS__0__UPLOAD__COMPLETE_KEEPALIVE", "1s");
    let gateway = setup.start().await;
    let mut sender = connect(&authority.trust().protocol("h2"), &gateway).await;
    let create = Request::method("POST", "multi").query("uploads", "");
    let answer = send(&mut sender, signed(create, &gateway, whole(b""))).await.unwrap();
    let text = answer.text();
    let id = text.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let part = Request::put("multi", 6).query("partNumber", "1").query("uploadId", &id);
    let answer = send(&mut sender, signed(part, &gateway, whole(b"part 1"))).await.unwrap();
    let tag = answer.headers["etag"].to_str().unwrap().to_owned();
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    let complete = Request { method: "POST", ..Request::put("multi", document.len()) }
        .query("uploadId", &id)
        .payload(PayloadHash::of(document.as_bytes()));
    proxy.script([Fault::DelayAnswer(Duration::from_secs(4))]);
    let request = signed(complete, &gateway, whole(document.as_bytes()));
    let answer = send(&mut sender, request).await.unwrap();
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert!(text.contains("?>\n  ") || text.contains("?>  "), "no white space: {text:?}");
    assert!(text.contains("<CompleteMultipartUploadResult"), "{text:?}");
    assert!(!answer.headers.contains_key("content-length"));
    assert_eq!(backend.object("multi").unwrap(), b"part 1");
}

/// "Finish what is in flight within the grace": an upload ends, an idle connection is told to go.
#[tokio::test]
async fn a_drain_lets_streams_end() {
    let (backend, trust, _authority, mut gateway) = start(|setup| setup).await;
    let mut idle = Raw::connect(&trust, &gateway, &[]).await;
    let mut sender = connect(&trust, &gateway).await;
    let (pieces, body) = pieces();
    let request = signed(Request::put("k", 10), &gateway, body);
    let sending = tokio::spawn(async move { send(&mut sender, request).await });
    pieces.send(Bytes::from_static(b"hello")).await.unwrap();
    eventually("the upload has begun", async || {
        gateway.metric("mizuchi_uploads_in_flight").await == 1.0
    })
    .await;
    gateway.signal("TERM");
    gateway.log_with("SIGTERM: draining").await;
    assert!(ends(&mut idle).await);
    pieces.send(Bytes::from_static(b"world")).await.unwrap();
    drop(pieces);
    let answer = sending.await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    drop(idle);
    assert!(gateway.ended().await.success());
    assert_eq!(backend.object("k").unwrap(), b"helloworld");
}
