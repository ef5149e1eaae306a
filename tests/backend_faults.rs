//! R9: the backend fails at every point of a PutObject and an UploadPart; the client gets the right
//! bytes stored or the right error, and nothing is left behind.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::payload;
use crate::support::proxy::{Fault, Proxy};
use md5::Digest as _;

const ERROR_500: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 55\r\n\r\n\
    <Error><Code>InternalError</Code><Message>x</Message></Error>";
const ERROR_503: &str = "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\n\r\n";
const GARBAGE: &str = "\u{0}\u{1}garbage\r\n\r\n";
const CUT: &str = "HTTP/1.1 200 OK\r\nconte";

async fn trio() -> (Backend, Proxy, Gateway) {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let gateway = Setup::new(&backend, proxy.address)
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "800ms")
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__PROGRESS", "800ms")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        .start()
        .await;
    (backend, proxy, gateway)
}

/// Every fault, in terms of a request of about `length` bytes.
fn faults(length: usize) -> Vec<(&'static str, Fault)> {
    vec![
        ("reset before the body", Fault::ResetAfter(1)),
        ("reset in the middle", Fault::ResetAfter(length / 2)),
        ("reset after the body", Fault::LoseAnswerAfter(length)),
        ("500", Fault::AnswerAfter(length / 3, ERROR_500)),
        ("503", Fault::AnswerAfter(length / 3, ERROR_503)),
        ("blackhole", Fault::BlackholeAfter(length / 2)),
        ("garbage", Fault::AnswerAfter(length / 2, GARBAGE)),
        ("cut answer", Fault::AnswerAfter(length, CUT)),
        ("truncated answer", Fault::CutAnswerAfter(20)),
    ]
}

/// An upload beside the faults: it knows nothing of them. Its success also refills what the retry
/// budget gave to the fault before: a backend that fails every time is not retried for ever.
async fn bystander(gateway: &Gateway) {
    let mut client = Client::connect(gateway).await;
    for _ in 0..2 {
        let answer = client.send(Request::put("bystander", 1000), &payload(1000)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

#[tokio::test]
async fn every_fault_of_a_put_is_right_bytes_or_the_right_error() {
    let (backend, proxy, gateway) = trio().await;
    // More than a socket's buffers take: what the proxy has not read is then not delivered.
    let body = payload(2 << 20);
    for (name, fault) in faults(body.len()) {
        for round in 0..crate::support::times(10, 200) {
            let mut client = Client::connect(&gateway).await;
            let key = format!("{name}/{round}").replace(' ', "-");
            proxy.script([fault.clone()]);
            let answer = client.send(Request::put(&key, body.len()), &body).await;
            assert!(proxy.script_done(), "{name}: the fault did not happen");
            match answer.status {
                200 => assert_eq!(backend.object(&key).as_ref(), Some(&body), "{name}"),
                // A wholly sent PutObject without an answer, and nothing to prove it by.
                503 => {
                    assert_eq!(answer.code(), "ServiceUnavailable", "{name}");
                    let stored = backend.object(&key);
                    assert!(stored.is_none_or(|stored| stored == body), "{name}: a partial object");
                }
                status => panic!("{name}: {status} {}", answer.text()),
            }
            // Only a kernel that says what has arrived tells a reset from a lost answer.
            let told = mizuchi_actors::platform::ZERO_COPY || name != "reset before the body";
            if told && ["reset before the body", "500", "503"].contains(&name) {
                assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            }
            bystander(&gateway).await;
        }
    }
    gateway.settled().await;
}

#[tokio::test]
async fn every_fault_of_a_part_is_invisible() {
    let (_backend, proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(200_000);
    let created = client.send(Request::method("POST", "parts").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let md5: String = md5::Md5::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut number = 0;
    for (name, fault) in faults(body.len()) {
        for _ in 0..crate::support::times(10, 200) {
            number += 1;
            proxy.script([fault.clone()]);
            let request = Request::put("parts", body.len())
                .query("partNumber", &number.to_string())
                .query("uploadId", &id);
            let answer = client.send(request, &body).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            assert!(proxy.script_done(), "{name}: the fault did not happen");
            // s3s answers the MD5 of what it has stored.
            assert_eq!(answer.header("etag"), Some(format!("\"{md5}\"")), "{name}");
            bystander(&gateway).await;
        }
    }
    proxy.script([]);
    let abort = Request::method("DELETE", "parts").query("uploadId", &id);
    assert_eq!(client.send(abort, b"").await.status, 204);
    gateway.settled().await;
}

/// "The cause goes to the log. The client is not told: it may name hosts of the inside."
#[tokio::test]
async fn what_is_behind_a_failure_is_told_to_the_operator_alone() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Setup::over(nobody)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        .bucket("    upload:\n      multipart_threshold: 5MiB\n      part_size: 5MiB\n")
        .start()
        .await;
    let (small, large) = (payload(1000), payload(6 << 20));
    let requests = [
        (Request::put("k", small.len()), &small[..]),
        (Request::put("k", large.len()), &large[..]),
        (Request::method("POST", "k").query("uploads", ""), &[][..]),
    ];
    for (request, body) in requests {
        let answer = Client::connect(&gateway).await.send(request, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"));
        let all = format!("{} {}", answer.head, answer.text()).to_lowercase();
        let port = format!(":{}", nobody.port());
        for word in ["refused", "os error", "127.0.0.1", &port] {
            assert!(!all.contains(word), "{word}: {all}");
        }
    }
    let log = gateway.log_with("no connection").await;
    assert!(log.contains("refused"), "{log}");
}
