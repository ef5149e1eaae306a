//! `upload.overwrite: deny`: the gateway makes every write conditional, and what a client sends twice runs
//! into itself.

use crate::support::client::{Answer, Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::{LedgerS3, Object, Twist};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{eventually, payload};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::Digest as _;
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use mizuchi_actors::sigv4::PayloadHash;
use std::collections::HashMap;
use std::net::SocketAddr;
use time::OffsetDateTime;

async fn gateway(backend: SocketAddr) -> Gateway {
    Setup::over(backend)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        .bucket("    upload:\n      overwrite: deny\n")
        .start()
        .await
}

fn md5(body: &[u8]) -> String {
    md5::Md5::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn content_md5(body: &[u8]) -> String {
    STANDARD.encode(md5::Md5::digest(body))
}

fn crc32(body: &[u8]) -> String {
    let mut hasher = Hasher::new(ChecksumAlgorithm::Crc32);
    hasher.update(body);
    STANDARD.encode(hasher.finish())
}

async fn put(gateway: &Gateway, request: Request, body: &[u8]) -> Answer {
    Client::connect(gateway).await.send(request, body).await
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    let told = (answer.status, answer.code());
    assert_eq!(told, (412, "PreconditionFailed".to_owned()), "{}", answer.text());
    assert_eq!(answer.header("etag"), None);
}

#[track_caller]
fn assert_there(answer: &Answer, etag: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("etag"), Some(format!("\"{etag}\"")));
}

/// Another's object.
fn there(s3: &LedgerS3, key: &str, etag: &str, headers: &[(&str, &str)]) {
    let length = 1000;
    let headers: HashMap<_, _> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let etag = format!("\"{etag}\"");
    let object = Object { length, etag, headers, ..Object::default() };
    s3.books(|books| books.objects.insert(key.to_owned(), object));
}

/// "A PutObject whose answer is lost and that is sent again is answered 200: its object is there."
#[tokio::test]
async fn what_is_sent_again_is_not_refused_for_itself() {
    let s3 = LedgerS3::start(true).await;
    let gateway = gateway(s3.address).await;
    let mut count = 0;
    // In memory, in pipes, and on the copy path.
    for (index, length) in [0, 1000, 60_000, 300_000, 3 << 20].into_iter().enumerate() {
        let body = payload(length);
        let named = |name: &str| Request::put(&format!("{index}/{name}"), length);
        let requests = [
            named("plain"),
            named("signed").payload(PayloadHash::of(&body)),
            named("crc").header("x-amz-checksum-crc32", &crc32(&body)),
            named("md5")
                .header("content-md5", &content_md5(&body))
                .header("content-type", "text/plain")
                .header("x-amz-meta-owner", "a"),
        ];
        count += requests.len();
        for request in requests {
            let again = || Request {
                path: request.path.clone(),
                query: Vec::new(),
                headers: request.headers.clone(),
                ..request
            };
            // Nothing can be told at first.
            s3.script([("Put", Twist::LoseAnswer), ("Head", Twist::Answer(500, "InternalError"))]);
            let first = put(&gateway, again(), &body).await;
            assert_eq!((first.status, first.code().as_str()), (503, "ServiceUnavailable"));
            s3.script([]);
            for _ in 0..2 {
                assert_there(&put(&gateway, again(), &body).await, &md5(&body));
            }
        }
    }
    assert_eq!(s3.books(|books| books.puts), count);
    gateway.settled().await;
}

/// The same of a body that comes in chunks: as SDKs send it, with a CRC behind it, and without a length. One
/// without a length that goes in parts is another upload each time: 412.
#[tokio::test]
async fn what_comes_in_chunks_is_recognized_while_it_is_whole() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .bucket("    upload:\n      overwrite: deny\n      part_size: 5MiB\n")
        .start()
        .await;
    let framed = |body: &[u8]| [b"3e8\r\n", body, b"\r\n0\r\n\r\n"].concat();
    let small = payload(1000);
    let plain = Request { length: None, ..Request::put("plain", 0) };
    let mut with_crc = framed(&small);
    with_crc.truncate(with_crc.len() - 2);
    with_crc
        .extend_from_slice(format!("x-amz-checksum-crc32:{}\r\n\r\n", crc32(&small)).as_bytes());
    let sdk = Request::put("sdk", with_crc.len())
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .header("x-amz-decoded-content-length", "1000")
        .header("content-encoding", "aws-chunked")
        .payload(PayloadHash::UnsignedTrailer);
    for (request, wire) in
        [(plain.header("transfer-encoding", "chunked"), framed(&small)), (sdk, with_crc)]
    {
        let again = || Request {
            path: request.path.clone(),
            query: Vec::new(),
            headers: request.headers.clone(),
            ..request
        };
        s3.script([("Put", Twist::LoseAnswer), ("Head", Twist::Answer(500, "InternalError"))]);
        assert_eq!(put(&gateway, again(), &wire).await.status, 503);
        s3.script([]);
        assert_there(&put(&gateway, again(), &wire).await, &md5(&small));
    }
    assert_eq!(s3.books(|books| books.puts), 2);
    let large = payload(6 << 20);
    let wire = [format!("{:x}\r\n", large.len()).as_bytes(), &large, b"\r\n0\r\n\r\n"].concat();
    let request = || {
        let request = Request { length: None, ..Request::put("parts", 0) };
        request.header("transfer-encoding", "chunked")
    };
    assert_eq!(put(&gateway, request(), &wire).await.status, 200);
    assert_refused(&put(&gateway, request(), &wire).await);
    // The second one is aborted behind its answer.
    eventually("no upload is left", async || s3.books(|books| books.uploads.is_empty())).await;
    assert_eq!(s3.books(|books| (books.completed, books.aborted)), (1, 1));
    gateway.settled().await;
}

/// The same where the gateway itself sends it again: the backend has it, and said 503.
#[tokio::test]
async fn what_the_gateway_sends_again_is_not_refused_for_itself() {
    let s3 = LedgerS3::start(true).await;
    let gateway = gateway(s3.address).await;
    for (key, length) in [("small", 1000), ("large", 300_000)] {
        let body = payload(length);
        let request = Request::put(key, length);
        s3.script([("Put", Twist::DoneBut(503, "SlowDown"))]);
        assert_there(&put(&gateway, request, &body).await, &md5(&body));
        assert!(s3.script_done());
    }
    assert_eq!(s3.books(|books| books.puts), 2);
    assert_eq!(gateway.metric("mizuchi_part_restarts_total").await, 2.0);
}

/// "It must tell nothing of others' objects beyond what a 412 tells, except that the very same bytes are
/// there": other bytes, other metadata, and what only claims to be the same.
#[tokio::test]
async fn another_s_object_is_still_a_412() {
    let s3 = LedgerS3::start(true).await;
    let gateway = gateway(s3.address).await;
    let body = payload(1000);
    let (same, crc32, sha256) = (md5(&body), "y/Q5Jg==", "sha256 of it");
    let plain = ("content-type", "text/plain");
    there(&s3, "other", &md5(b"other"), &[plain]);
    there(&s3, "type", &same, &[("content-type", "text/html")]);
    there(&s3, "more", &same, &[plain, ("x-amz-meta-more", "1")]);
    there(&s3, "parts", &format!("{same}-1"), &[plain]);
    there(&s3, "crc", &md5(b"other"), &[plain, ("x-amz-checksum-crc32", crc32)]);
    let forged = ("x-amz-meta-x-amz-checksum-sha256", sha256);
    there(&s3, "forged", &md5(b"other"), &[plain, forged]);
    let request = |key: &str| Request::put(key, body.len()).header("content-type", "text/plain");
    let before = s3.books(|books| format!("{:?}", books.objects));
    for key in ["other", "type", "more", "parts"] {
        assert_refused(&put(&gateway, request(key), &body).await);
    }
    let by_crc = request("crc").header("x-amz-checksum-crc32", crc32);
    assert_refused(&put(&gateway, by_crc, &body).await);
    let lock = request("same").header("if-none-match", "*");
    there(&s3, "same", &same, &[plain]);
    assert_refused(&put(&gateway, lock, &body).await);
    s3.books(|books| books.objects.remove("same"));
    let digest = STANDARD.encode([7; 32]);
    let by_forgery = request("forged").header("x-amz-checksum-sha256", &digest);
    there(&s3, "forged", &md5(b"other"), &[plain, (forged.0, &digest)]);
    assert_refused(&put(&gateway, by_forgery, &body).await);
    there(&s3, "forged", &md5(b"other"), &[plain, forged]);
    assert_eq!(s3.books(|books| format!("{:?}", books.objects)).len(), before.len());
    assert_eq!(s3.books(|books| books.puts), 0);
    // The object is the same in all that the request says, so its client is told that it is there.
    there(&s3, "same", &same, &[plain]);
    assert_there(&put(&gateway, request("same"), &body).await, &same);
    gateway.settled().await;
}

/// A backend may refuse before it has the body: what it was announced to be is looked for, and the
/// connection, whose body nobody has read, ends.
#[tokio::test]
async fn a_412_in_the_middle_of_the_body_is_a_question_too() {
    let s3 = LedgerS3::start(true).await;
    let proxy = Proxy::start(s3.address).await;
    let gateway = gateway(proxy.address).await;
    let body = payload(32 << 20);
    let refusal = "HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n";
    for (etag, is_there) in [(md5(&body), true), (md5(b"other"), false)] {
        there(&s3, "k", &etag, &[]);
        proxy.script([Fault::AnswerAfter(500_000, refusal)]);
        let request = Request::put("k", body.len()).header("content-md5", &content_md5(&body));
        let mut client = Client::connect(&gateway).await;
        let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
        // The rest is still to come.
        let answer = client.raw(&head, &body[..1 << 20]).await;
        if is_there {
            assert_there(&answer, &etag);
            assert_eq!(answer.header("connection").as_deref(), Some("close"));
        } else {
            assert_eq!(answer.status, 412, "{}", answer.text());
        }
    }
    assert_eq!(s3.books(|books| books.puts), 0);
    gateway.settled().await;
}

/// A Complete that is repeated runs into its own object where the backend looks for that first: its upload
/// is gone, and the ETag of its parts is there. An upload that is still there has become nothing.
#[tokio::test]
async fn a_complete_that_is_sent_again_is_not_refused_for_itself() {
    let s3 = LedgerS3::start(true).await;
    let gateway = gateway(s3.address).await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(1000);
    let mut begin = async |key: &str| {
        let created = client.send(Request::method("POST", key).query("uploads", ""), b"").await;
        let id = created.element("UploadId").unwrap();
        let part = Request::put(key, body.len()).query("partNumber", "1").query("uploadId", &id);
        assert_eq!(client.send(part, &body).await.status, 200);
        id
    };
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
         </CompleteMultipartUpload>",
        md5(&body)
    );
    let complete = async |key: &str, id: &str| {
        let mut request = Request::method("POST", key).query("uploadId", id);
        request.length = Some(document.len() as u64);
        request.payload = PayloadHash::of(document.as_bytes());
        put(&gateway, request, document.as_bytes()).await
    };
    let etag = format!("{}-1", md5(&md5::Md5::digest(&body)));
    let told = |answer: &Answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.element("ETag").unwrap().replace("&quot;", "").replace('"', "")
    };
    // Lost, and nothing can be told at first: it is made again.
    let id = begin("own").await;
    s3.script([("Complete", Twist::LoseAnswer), ("Head", Twist::Answer(500, "InternalError"))]);
    assert_eq!(told(&complete("own", &id).await), etag);
    assert!(s3.script_done());
    assert_eq!(told(&complete("own", &id).await), etag, "by its client");
    assert_eq!(s3.books(|books| books.completed), 1);
    // The upload is there: the object is another's, whatever its ETag.
    for other in [&etag, &md5(b"other")] {
        let id = begin("other").await;
        there(&s3, "other", other, &[]);
        assert_refused(&complete("other", &id).await);
        let abort = Request::method("DELETE", "other").query("uploadId", &id);
        assert_eq!(put(&gateway, abort, b"").await.status, 204);
        s3.books(|books| books.objects.remove("other"));
    }
    assert_eq!(s3.books(|books| books.uploads.len()), 0);
    gateway.settled().await;
}

/// Alibaba Cloud OSS writes ETags in capitals: they prove no less.
#[tokio::test]
async fn an_etag_in_capitals_proves() {
    let s3 = LedgerS3::start(true).await;
    s3.books(|books| books.capitals = true);
    let gateway = gateway(s3.address).await;
    let body = payload(1000);
    let etag = md5(&body).to_uppercase();
    let request = || Request::put("k", body.len()).header("content-md5", &content_md5(&body));
    s3.script([("Put", Twist::LoseAnswer)]);
    assert_there(&put(&gateway, request(), &body).await, &etag);
    assert!(s3.script_done());
    assert_there(&put(&gateway, request(), &body).await, &etag);
    assert_eq!(s3.books(|books| books.puts), 1);
}
