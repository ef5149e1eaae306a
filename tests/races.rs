//! Several writers of one key, and a backend that hangs.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::Setup;
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::{eventually, payload, times};
use mizuchi_actors::sigv4::PayloadHash;
use std::time::{Duration, Instant};

/// R21: "concurrent PUT and Complete on one key: the final object equals one whole input".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_writes_one_whole_input_remains() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .bucket("    upload:\n      multipart_threshold: 5MiB\n      part_size: 5MiB\n")
        .start()
        .await;
    let small = payload(300_000);
    let split: Vec<u8> = payload(11 << 20).iter().map(|byte| byte ^ 1).collect();
    let part: Vec<u8> = payload(400_000).iter().map(|byte| byte ^ 2).collect();
    for round in 0..times(20, 300) {
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(Client::connect(&gateway).await);
        }
        let [mut one, mut two, mut three] = <[_; 3]>::try_from(clients).ok().unwrap();
        let created = three.send(Request::method("POST", "k").query("uploads", ""), b"").await;
        let id = created.element("UploadId").unwrap();
        let request = Request::put("k", part.len()).query("partNumber", "1").query("uploadId", &id);
        let etag = three.send(request, &part).await.header("etag").unwrap();
        let document = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
             </CompleteMultipartUpload>",
            etag.replace('"', "&quot;")
        );
        let mut complete = Request::method("POST", "k").query("uploadId", &id);
        complete.length = Some(document.len() as u64);
        complete.payload = PayloadHash::of(document.as_bytes());
        let answers = tokio::join!(
            one.send(Request::put("k", small.len()), &small),
            two.send(Request::put("k", split.len()), &split),
            three.send(complete, document.as_bytes()),
        );
        for answer in [answers.0, answers.1, answers.2] {
            assert_eq!(answer.status, 200, "{round}: {}", answer.text());
        }
        let object = backend.object("k").unwrap();
        assert!([&small, &split, &part].contains(&&object), "{round}: {} bytes", object.len());
    }
    assert_eq!(backend.open_uploads(), 0);
    gateway.settled().await;
}

/// R13: "every pooled connection hangs: deadline, 503 SlowDown; pool refilled ≤ 1 s after recovery".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_hangs_is_a_slow_down_and_is_used_again_at_once() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__PROGRESS", "200ms")
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "200ms")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__MAX", "2")
        .start()
        .await;
    // More than the sockets' buffers take: it cannot have arrived.
    let body = payload(24 << 20);
    // Connections in the pool first.
    let mut clients = Vec::new();
    for index in 0..16 {
        let mut client = Client::connect(&gateway).await;
        let warm =
            client.send(Request::put(&format!("warm{index}"), 100_000), &body[..100_000]).await;
        assert_eq!(warm.status, 200);
        clients.push(client);
    }
    s3.script(vec![("Put", Twist::Hang); 1000]);
    let uploads: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(index, mut client)| {
            let body = body.clone();
            tokio::spawn(async move {
                let answer =
                    client.send(Request::put(&format!("k{index}"), body.len()), &body).await;
                (answer.status, answer.code())
            })
        })
        .collect();
    for upload in uploads {
        assert_eq!(upload.await.unwrap(), (503, "SlowDown".to_owned()));
    }
    s3.script([]);
    let recovered = Instant::now();
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("after", 100_000), &body[..100_000]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let took = recovered.elapsed();
    println!("the first upload after the recovery took {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1));
    eventually("connections are in the pool again", async || {
        gateway.metric("mizuchi_backend_connections_idle").await >= 1.0
    })
    .await;
    gateway.settled().await;
}

/// R11: a PutObject whose answer is lost is proven by a checksum that came as a trailer, once it was
/// verified and the backend was given it.
#[tokio::test]
async fn a_lost_answer_is_proven_by_a_trailer() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address).start().await;
    let mut client = Client::connect(&gateway).await;
    let body = b"123456789";
    let request = Request::put("k", 0)
        .header("x-amz-trailer", "x-amz-checksum-crc32")
        .header("x-amz-decoded-content-length", "9")
        .header("content-encoding", "aws-chunked")
        .payload(PayloadHash::UnsignedTrailer);
    let wire = b"9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
    let request = Request { length: Some(wire.len() as u64), ..request };
    s3.script([("Put", Twist::LoseAnswer)]);
    let answer = client.send(request, wire).await;
    assert!(s3.script_done());
    assert_eq!(answer.status, 200, "{}", answer.text());
    let object = s3.books(|books| books.objects["k"].clone());
    assert_eq!(object.length, body.len() as u64);
    assert_eq!(answer.header("etag"), Some(object.etag));
}

/// "A conditional write never fails on its own first attempt": its answer lost, it is proven, or 503,
/// and never 412.
#[tokio::test]
async fn a_conditional_write_does_not_run_into_its_own_first_attempt() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address).start().await;
    for (index, twist) in [Twist::LoseAnswer, Twist::Answer(500, "InternalError"), Twist::Truncate]
        .into_iter()
        .enumerate()
    {
        let mut client = Client::connect(&gateway).await;
        s3.script([("Put", twist.clone())]);
        let request = Request::put(&format!("k{index}"), 1000).header("if-none-match", "*");
        let answer = client.send(request, &payload(1000)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "ServiceUnavailable"),
            "{twist:?}"
        );
    }
}
