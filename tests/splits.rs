//! PutObjects that go to the backend in parts: above the threshold, and of unknown length.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::LedgerS3;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{eventually, payload};
use mizuchi_actors::sigv4::PayloadHash;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;

const MIB: usize = 1 << 20;

const SMALL_PARTS: &str = "    upload:\n      multipart_threshold: 8MiB\n      part_size: 5MiB\n      restart:\n        backoff_base: 5ms\n";

async fn embedded() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).bucket(SMALL_PARTS).start().await;
    (backend, gateway)
}

async fn books() -> (LedgerS3, Gateway) {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address).bucket(SMALL_PARTS).start().await;
    (s3, gateway)
}

/// "A PutObject above the threshold becomes a multipart upload whose parts are equal."
#[tokio::test]
async fn above_the_threshold_a_put_goes_in_equal_parts() {
    let (s3, gateway) = books().await;
    let mut client = Client::connect(&gateway).await;
    for (length, parts) in [(8 * MIB, 0), (8 * MIB + 1, 2), (10 * MIB, 2), (10 * MIB + 1, 3)] {
        let body = payload(length);
        let answer = client.send(Request::put("k", length), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let object = s3.books(|books| books.objects["k"].clone());
        assert_eq!((object.length, object.parts), (length as u64, parts));
        // What a split changes for the client: the ETag is that of a multipart upload.
        assert_eq!(answer.header("etag"), Some(object.etag));
        assert!(answer.body.is_empty());
    }
    let open = s3.books(|books| (books.uploads.len(), books.created, books.completed));
    assert_eq!(open, (0, 3, 3));
    gateway.settled().await;
}

/// The same bytes, through either plan; the splice path copies next to nothing.
#[tokio::test]
async fn a_split_put_is_the_object_that_was_sent() {
    let (backend, gateway) = embedded().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(33 * MIB + 17);
    let answer = client.send(Request::put("spliced", body.len()), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("spliced").unwrap(), body);
    gateway.assert_spliced(body.len()).await;

    use base64::Engine as _;
    use md5::Digest as _;
    let md5 = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(&body));
    let request = Request::put("copied", body.len()).header("content-md5", &md5);
    let answer = client.send(request, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("copied").unwrap(), body);
    gateway.assert_spliced(body.len()).await;
    assert_eq!(backend.open_uploads(), 0);
    gateway.settled().await;
}

/// "A whole-object Content-MD5 or hash is verified here before Complete."
#[tokio::test]
async fn a_whole_object_s_digest_that_is_wrong_leaves_nothing() {
    let (s3, gateway) = books().await;
    let body = payload(17 * MIB);
    let wrong = [("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="), ("x-amz-checksum-crc32", "AAAAAA==")];
    for (name, value) in wrong {
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(Request::put("k", body.len()).header(name, value), &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "BadDigest"), "{name}");
        eventually("the upload is aborted", async || s3.books(|books| books.uploads.is_empty()))
            .await;
    }
    s3.books(|books| {
        assert!(books.objects.is_empty());
        assert_eq!((books.created, books.completed, books.aborted), (2, 0, 2));
    });
    gateway.settled().await;
}

/// "On Create metadata …; on parts SSE-C; on Complete the conditional headers …; never split:
/// conditional PUTs up to 5 GiB, bodies whose hash the client signed."
#[tokio::test]
async fn headers_go_where_s3_reads_them_and_some_puts_stay_whole() {
    let (s3, gateway) = books().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(9 * MIB);
    let request = Request::put("k", body.len())
        .header("content-type", "text/x")
        .header("x-amz-meta-a", "b")
        .header("x-amz-storage-class", "STANDARD_IA")
        .header("x-amz-expected-bucket-owner", "123456789012");
    assert_eq!(client.send(request, &body).await.status, 200);
    s3.books(|books| {
        let created = &books.objects["k"].headers;
        assert_eq!(created["content-type"], "text/x");
        assert_eq!(created["x-amz-meta-a"], "b");
        assert_eq!(created["x-amz-storage-class"], "STANDARD_IA");
        assert_eq!(created["x-amz-expected-bucket-owner"], "123456789012");
        assert_eq!(books.complete_headers["x-amz-expected-bucket-owner"], "123456789012");
        assert!(!books.complete_headers.contains_key("x-amz-meta-a"));
    });
    let conditional = Request::put("once", body.len()).header("if-none-match", "*");
    let hash = Request::put("hash", body.len()).payload(PayloadHash::of(&body));
    for (key, request) in [("once", conditional), ("hash", hash)] {
        assert_eq!(client.send(request, &body).await.status, 200);
        assert_eq!(s3.books(|books| books.objects[key].parts), 0, "{key}");
    }
}

/// "A part that failed is restarted without the client noticing": the backend dies twice.
#[tokio::test]
async fn a_part_that_fails_is_sent_again() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let gateway = Setup::new(&backend, proxy.address).bucket(SMALL_PARTS).start().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(22 * MIB);
    // Create, then two parts that break in the middle.
    proxy.script([Fault::None, Fault::ResetAfter(MIB), Fault::ResetAfter(4 * MIB)]);
    let answer = client.send(Request::put("k", body.len()), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("k").unwrap(), body);
    assert!(gateway.metric("mizuchi_part_restarts_total").await >= 2.0);
    assert_eq!(backend.open_uploads(), 0);
    gateway.settled().await;
}

/// A client that goes away in the middle leaves no object and no multipart upload.
#[tokio::test]
async fn an_abandoned_split_is_aborted() {
    let (s3, gateway) = books().await;
    let body = payload(12 * MIB);
    for sent in [0, 100, MIB, 5 * MIB, 6 * MIB, 12 * MIB - 1] {
        let mut client = Client::connect(&gateway).await;
        let head =
            Request::put("k", body.len()).sign(&client.host, &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        client.socket.write_all(&body[..sent]).await.unwrap();
        eventually("it was begun", async || s3.books(|books| books.created) > 0).await;
        drop(client);
        eventually("it was aborted", async || {
            s3.books(|books| books.uploads.is_empty() && books.created == books.aborted)
        })
        .await;
        s3.books(|books| (books.created, books.aborted) = (0, 0));
    }
    assert!(s3.books(|books| books.objects.is_empty()));
    gateway.settled().await;
    eventually("nothing is on record", async || {
        gateway.metric("mizuchi_uploads_on_record").await == 0.0
    })
    .await;
}

/// A body without a length, chunked.
async fn send_chunked(client: &mut Client, key: &str, body: &[u8], chunk: usize) -> u16 {
    let mut head = Request::put(key, 0);
    head.length = None;
    let request = head.header("transfer-encoding", "chunked");
    let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    let mut wire = Vec::new();
    for piece in body.chunks(chunk) {
        wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    client.raw(&head, &wire).await.status
}

/// "Bodies of unknown length: streamed as a multipart upload of replayable parts; under 5 MiB or
/// empty: a PutObject."
#[tokio::test]
async fn a_body_of_unknown_length_goes_in_parts_or_whole() {
    let (s3, gateway) = books().await;
    let mut client = Client::connect(&gateway).await;
    for (length, parts) in
        [(0, 0), (1, 0), (3 * MIB, 0), (5 * MIB, 0), (5 * MIB + 1, 2), (10 * MIB, 2), (23 * MIB, 5)]
    {
        let body = payload(length);
        assert_eq!(send_chunked(&mut client, "k", &body, 100_000).await, 200, "{length}");
        let object = s3.books(|books| books.objects["k"].clone());
        assert_eq!((object.length, object.parts), (length as u64, parts));
    }
    assert!(s3.books(|books| books.uploads.is_empty()));
    gateway.settled().await;

    let (backend, gateway) = embedded().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(23 * MIB + 5);
    assert_eq!(send_chunked(&mut client, "k", &body, 65_537).await, 200);
    assert_eq!(backend.object("k").unwrap(), body);
}

#[tokio::test]
async fn an_unknown_length_is_bounded_and_can_be_denied() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .bucket(SMALL_PARTS)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__MAX_OBJECT_SIZE", "7MiB")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(send_chunked(&mut client, "k", &payload(8 * MIB), 65_536).await, 400);
    eventually("aborted", async || s3.books(|books| books.uploads.is_empty())).await;
    assert!(s3.books(|books| books.objects.is_empty()));
    let gateway = Setup::over(s3.address)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__UNKNOWN_LENGTH", "deny")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(send_chunked(&mut client, "k", &payload(100), 65_536).await, 411);
}

/// R26: "the gateway dies holding multipart uploads: they are aborted after restart: its own only".
#[tokio::test]
async fn what_a_crash_leaves_behind_is_aborted_after_the_restart() {
    let s3 = LedgerS3::start(true).await;
    let state = tempfile::tempdir().unwrap();
    let start = || {
        Setup::over(s3.address)
            .bucket(SMALL_PARTS)
            .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.path().to_str().unwrap())
            .start()
    };
    let mut gateway = start().await;
    let mut owner = Client::connect(&gateway).await;
    let created = owner.send(Request::method("POST", "theirs").query("uploads", ""), b"").await;
    assert_eq!(created.status, 200);
    for round in 0..crate::support::times(3, 50) {
        let body = payload(12 * MIB);
        let mut clients = Vec::new();
        for index in 0..4 {
            let mut client = Client::connect(&gateway).await;
            let request = Request::put(&format!("k{index}"), body.len());
            let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
            client.socket.write_all(&head).await.unwrap();
            client.socket.write_all(&body[..(3 + 2 * index) * MIB]).await.unwrap();
            clients.push(client);
        }
        eventually("all are begun", async || s3.books(|books| books.uploads.len()) == 5).await;
        gateway.signal("KILL");
        gateway.ended().await;
        gateway = start().await;
        // A live one beside them.
        let mut client = Client::connect(&gateway).await;
        let live = client.send(Request::put("live", body.len()), &body).await;
        assert_eq!(live.status, 200, "{round}: {}", live.text());
        eventually("its own are aborted", async || s3.books(|books| books.uploads.len()) == 1)
            .await;
        let left = s3.books(|books| books.uploads.values().next().unwrap().key.clone());
        assert_eq!(left, "theirs", "a client's own is never touched");
    }
    eventually("nothing is on record", async || {
        gateway.metric("mizuchi_uploads_on_record").await == 0.0
    })
    .await;
}

/// "`s3.require_checksum` (object-lock buckets) adds one": every body goes on with a checksum, the
/// client's where it sent one.
#[tokio::test]
async fn where_checksums_are_required_every_body_has_one() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .bucket(SMALL_PARTS)
        .env("MIZUCHI__BUCKETS__0__S3__REQUIRE_CHECKSUM", "true")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    let md5_of = |body: &[u8]| {
        use base64::Engine as _;
        use md5::Digest as _;
        base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(body))
    };
    for length in [0, 100, 300_000] {
        let body = payload(length);
        let answer = client.send(Request::put("plain", length), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sent = s3.books(|books| books.objects["plain"].clone());
        assert_eq!(sent.headers["content-md5"], md5_of(&body), "{length}");
        assert_eq!(sent.length, length as u64);
    }
    let own = Request::put("own", 9).header("x-amz-checksum-crc32", "y/Q5Jg==");
    assert_eq!(client.send(own, b"123456789").await.status, 200);
    let sent = s3.books(|books| books.objects["own"].headers.clone());
    assert!(sent.contains_key("x-amz-checksum-crc32") && !sent.contains_key("content-md5"));

    let body = payload(12 * MIB);
    let lose_one = [("Part", crate::support::ledger_s3::Twist::ResetInside)];
    s3.script(lose_one);
    assert_eq!(client.send(Request::put("split", body.len()), &body).await.status, 200);
    assert_eq!(send_chunked(&mut client, "unknown", &body, 100_000).await, 200);
    for key in ["split", "unknown"] {
        let sums = s3.books(|books| books.objects[key].part_md5s.clone());
        let expected: Vec<_> = body.chunks(5 * MIB).map(md5_of).collect();
        assert_eq!(sums, expected, "{key}");
    }
}
