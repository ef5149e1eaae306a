//! Uploads that are acknowledged from stable storage: `upload.mode: write_back` (docs/durability.md).

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{PATIENCE, eventually, payload, times};
use mizuchi_actors::sigv4::PayloadHash;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::net::TcpStream;

/// What [`Client`] says when the connection ended before an answer.
const GONE: u16 = 999;

/// A gateway whose bucket writes back, with a spool that outlives it.
async fn writing_back(backend: &Backend, proxy: &Proxy, spool: &Path, more: &str) -> Gateway {
    setup(backend, proxy, spool, more).start().await
}

/// How that gateway is set up.
pub fn setup(backend: &Backend, proxy: &Proxy, spool: &Path, more: &str) -> Setup {
    // s3s-fs stores a body before it looks at its MD5.
    let mut setup = Setup::new(backend, proxy.address).env("MIZUCHI__BUCKETS__0__S3__VERIFIES", "").bucket(
        "    upload:\n      mode: write_back\n      mode_header: allow\n      restart:\n        max: 0\n",
    );
    setup.extra = format!(
        "spool:\n  directory: {}\n  backoff_base: 20ms\n  backoff_cap: 100ms\n  wait: 300ms\n  \
         min_free: 0\n{more}",
        spool.display()
    );
    setup
}

struct Rig {
    backend: Backend,
    proxy: Proxy,
    spool: tempfile::TempDir,
    gateway: Gateway,
}

impl Rig {
    async fn new() -> Rig {
        Rig::with("").await
    }

    async fn with(more: &str) -> Rig {
        let backend = Backend::start().await;
        let proxy = Proxy::start(backend.s3.address).await;
        let spool = tempfile::tempdir().unwrap();
        let gateway = writing_back(&backend, &proxy, spool.path(), more).await;
        Rig { backend, proxy, spool, gateway }
    }

    /// Ends the gateway at once, as a loss of power to the process would, and starts it again.
    async fn kill_and_restart(&mut self) {
        self.gateway.signal("KILL");
        self.gateway.ended().await;
        self.gateway = writing_back(&self.backend, &self.proxy, self.spool.path(), "").await;
    }

    async fn put(&self, key: &str, body: &[u8]) -> Answer {
        let mut client = Client::connect(&self.gateway).await;
        client.send(Request::put(key, body.len()), body).await
    }

    async fn delivered(&self) {
        eventually("everything is delivered", async || {
            self.gateway.metric("mizuchi_spool_entries").await == 0.0
        })
        .await;
    }
}

fn etag(body: &[u8]) -> String {
    use md5::Digest as _;
    let digest = md5::Md5::digest(body);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// "A 2xx means stable storage, and it arrives": the backend is away, the gateway is killed, and what was
/// acknowledged is at the backend afterwards, byte for byte, with its headers.
#[tokio::test]
async fn what_was_acknowledged_arrives_though_backend_and_gateway_were_gone() {
    let mut rig = Rig::new().await;
    rig.proxy.set_away(true);
    let sizes = [0, 1, 4096, 65_536, 65_537, 3 << 20];
    for size in sizes {
        let body = payload(size);
        let answer = rig.put(&format!("size/{size}"), &body).await;
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        assert_eq!(answer.header("etag"), Some(etag(&body)), "{size}");
        assert_eq!(answer.header("x-mizuchi-mode").as_deref(), Some("write_back"));
    }
    assert_eq!(rig.gateway.metric("mizuchi_spool_entries").await, sizes.len() as f64);
    rig.kill_and_restart().await;
    assert_eq!(rig.gateway.metric("mizuchi_spool_entries").await, sizes.len() as f64);
    rig.proxy.set_away(false);
    rig.delivered().await;
    for size in sizes {
        let found = rig.backend.object(&format!("size/{size}"));
        assert!(found.is_some_and(|found| found == payload(size)), "{size}");
    }
    eventually("the body files of what was delivered are gone", async || {
        std::fs::read_dir(rig.spool.path().join("bodies")).unwrap().count() == 0
    })
    .await;
    rig.gateway.settled().await;
}

/// "Per-key order kept": the backend ends with the last that was acknowledged.
#[tokio::test]
async fn the_last_acknowledged_of_a_key_is_the_one_that_stays() {
    let mut rig = Rig::new().await;
    rig.proxy.set_away(true);
    for round in 0..20u8 {
        let body = vec![round; if round % 2 == 0 { 100 } else { 100_000 }];
        assert_eq!(rig.put("same", &body).await.status, 200);
        if round == 10 {
            rig.kill_and_restart().await;
        }
    }
    rig.proxy.set_away(false);
    rig.delivered().await;
    assert!(rig.backend.object("same").is_some_and(|found| found == [19; 100_000]));
}

/// "A write-through or conditional write to a key with undelivered data queues behind it, else 409."
#[tokio::test]
async fn what_goes_through_waits_for_what_was_acknowledged_before_it() {
    let rig = Rig::new().await;
    rig.proxy.set_away(true);
    assert_eq!(rig.put("key", b"first").await.status, 200);
    let mut client = Client::connect(&rig.gateway).await;
    let through = || Request::put("key", 6).header("x-mizuchi-mode", "write_through");
    let answer = client.send(through(), b"second").await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "OperationAborted"));
    let mut client = Client::connect(&rig.gateway).await;
    let conditional = Request::put("key", 6).header("if-none-match", "*");
    assert_eq!(client.send(conditional, b"second").await.code(), "OperationAborted");
    rig.proxy.set_away(false);
    rig.delivered().await;
    let mut client = Client::connect(&rig.gateway).await;
    let answer = client.send(through(), b"second").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-mizuchi-mode"), None);
    assert_eq!(rig.backend.object("key"), Some(b"second".to_vec()));
}

/// "Per request `x-mizuchi-mode` (signed, where the bucket allows)".
#[tokio::test]
async fn a_mode_that_was_not_signed_or_is_none_is_refused() {
    let rig = Rig::new().await;
    let mut client = Client::connect(&rig.gateway).await;
    let host = client.host.clone();
    let head = Request::put("key", 1).sign(&host, &signer(), OffsetDateTime::now_utc());
    let text = String::from_utf8(head).unwrap();
    let text = text.replacen("\r\n", "\r\nX-Mizuchi-Mode: write_through\r\n", 1);
    let answer = client.raw(text.as_bytes(), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    let mut client = Client::connect(&rig.gateway).await;
    let odd = Request::put("key", 1).header("x-mizuchi-mode", "later");
    assert_eq!(client.send(odd, b"x").await.code(), "InvalidArgument");
    // A bucket that does not allow it.
    let gateway = Setup::new(&rig.backend, rig.proxy.address).start().await;
    let mut client = Client::connect(&gateway).await;
    let back = Request::put("key", 1).header("x-mizuchi-mode", "write_back");
    assert_eq!(client.send(back, b"x").await.code(), "AccessDenied");
    assert_eq!(rig.backend.object("key"), None);
}

/// R7: "bit rot in the spool: 0 corrupt objects uploaded; entry quarantined; metric".
#[tokio::test]
async fn rotten_bytes_are_set_aside_and_hold_nobody_up() {
    let rig = Rig::new().await;
    rig.proxy.set_away(true);
    assert_eq!(rig.put("rotten", &payload(200_000)).await.status, 200);
    let file = std::fs::read_dir(rig.spool.path().join("bodies")).unwrap().next().unwrap();
    let path = file.unwrap().path();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(rig.put("sound", &payload(200_000)).await.status, 200);
    rig.proxy.set_away(false);
    eventually("the rotten one is set aside", async || {
        rig.gateway.metric("mizuchi_spool_quarantined").await == 1.0
    })
    .await;
    eventually("the other one arrives", async || {
        rig.backend.object("sound").is_some_and(|found| found == payload(200_000))
    })
    .await;
    assert!(rig.backend.object("rotten").is_none());
    assert!(path.exists(), "never deleted");
    // It is in nobody's way, not even of its own key.
    assert_eq!(rig.put("rotten", b"anew").await.status, 200);
    eventually("the key's next", async || rig.backend.object("rotten") == Some(b"anew".to_vec()))
        .await;
}

/// "Watermarks → SlowDown before the body is read".
#[tokio::test]
async fn a_full_spool_says_so_before_the_body_is_read() {
    let rig = Rig::with("  max_bytes: 1MiB\n").await;
    rig.proxy.set_away(true);
    assert_eq!(rig.put("first", &payload(700_000)).await.status, 200);
    let mut client = Client::connect(&rig.gateway).await;
    let request = Request::put("second", 700_000).header("expect", "100-continue");
    let host = client.host.clone();
    let head = request.sign(&host, &signer(), OffsetDateTime::now_utc());
    let answer = client.raw(&head, b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.head);
    rig.proxy.set_away(false);
    rig.delivered().await;
    assert_eq!(rig.put("second", &payload(700_000)).await.status, 200);
}

/// R1: "kill -9 at random times, write-back on: 0 acknowledged objects lost, 0 partial".
#[tokio::test]
async fn killed_at_any_moment_nothing_acknowledged_is_lost() {
    let mut rig = Rig::new().await;
    let mut acknowledged = Vec::new();
    for cycle in 0..times(50, 1000) {
        rig.proxy.set_away(cycle % 3 == 0);
        let address = rig.gateway.address;
        let (told, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4 {
            let told = told.clone();
            clients.spawn(async move {
                for number in 0.. {
                    let key = format!("{cycle}-{client}-{number}");
                    let size = [100, 5000, 90_000, 400_000][(number + client) % 4];
                    let body = payload(size + number);
                    let Ok(socket) = TcpStream::connect(address).await else { return };
                    let mut client = Client::over(socket, address.to_string());
                    let answer = client.send(Request::put(&key, body.len()), &body).await;
                    match answer.status {
                        200 => told.send((key, size + number)).unwrap(),
                        GONE => return,
                        status => panic!("{status}: {}", answer.text()),
                    }
                }
            });
        }
        drop(told);
        // From before the first acknowledgement to some way past it; every other time there is one.
        if cycle % 2 == 0 {
            acknowledged.extend(answers.recv().await);
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..40))).await;
        rig.kill_and_restart().await;
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        while let Some(one) = answers.recv().await {
            acknowledged.push(one);
        }
    }
    rig.proxy.set_away(false);
    rig.delivered().await;
    println!("{} were acknowledged", acknowledged.len());
    assert!(acknowledged.len() >= times(25, 500), "only {}", acknowledged.len());
    for (key, size) in &acknowledged {
        let found = rig.backend.object(key).map(|bytes| Sha256::digest(&bytes));
        assert_eq!(found, Some(Sha256::digest(payload(*size))), "{key}");
    }
    assert_eq!(rig.gateway.metric("mizuchi_spool_quarantined").await, 0.0);
}

const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: 62\r\n\r\n\
    <Error><Code>AccessDenied</Code><Message>no</Message></Error>\r\n";

/// "Permanent refusals go to quarantine: never deleted, never blocking others."
#[tokio::test]
async fn what_the_backend_will_never_take_is_set_aside() {
    let mut rig = Rig::new().await;
    rig.proxy.script([Fault::AnswerAfter(1, FORBIDDEN)]);
    assert_eq!(rig.put("refused", b"x").await.status, 200);
    let set_aside = async |rig: &Rig| {
        eventually("one is set aside", async || {
            rig.gateway.metric("mizuchi_spool_quarantined").await == 1.0
        })
        .await;
    };
    set_aside(&rig).await;
    rig.gateway.log_with("AccessDenied").await;
    rig.kill_and_restart().await;
    set_aside(&rig).await;
    assert_eq!(rig.put("next", b"y").await.status, 200);
    eventually("the next arrives", async || rig.backend.object("next").is_some()).await;
    assert_eq!(rig.backend.object("refused"), None);
}

/// R8: the backend had it, and the answer was lost: an ETag would not prove the headers, and sending it once
/// more harms nobody.
#[tokio::test]
async fn a_delivery_whose_answer_is_lost_is_sent_again() {
    let rig = Rig::new().await;
    rig.proxy.script([Fault::LoseAnswerAfter(100_000)]);
    let body = payload(100_000);
    assert_eq!(rig.put("lost", &body).await.status, 200);
    rig.delivered().await;
    assert!(rig.backend.object("lost").is_some_and(|found| found == body));
    let again = "mizuchi_spool_deliveries_total{outcome=\"retried\"}";
    assert_eq!(rig.gateway.metric(again).await, 1.0);
}

const BAD_DIGEST: &str = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/xml\r\ncontent-length: 60\r\n\r\n\
    <Error><Code>BadDigest</Code><Message>no</Message></Error>\r\n";

/// Bytes that were damaged on the way are sent again: only what is damaged here is set aside.
#[tokio::test]
async fn a_digest_that_differs_only_at_the_backend_is_tried_again() {
    let rig = Rig::new().await;
    let bodies = [payload(100), payload(100_000)];
    for (number, body) in bodies.iter().enumerate() {
        let key = format!("again/{number}");
        rig.proxy.script([Fault::AnswerAfter(1, BAD_DIGEST)]);
        assert_eq!(rig.put(&key, body).await.status, 200);
        eventually("it arrives", async || {
            rig.backend.object(&key).is_some_and(|found| &found == body)
        })
        .await;
        assert!(rig.proxy.script_done());
    }
    rig.delivered().await;
}

/// "Backend away during 10,000 × 4 KiB and 20 × 256 MiB acknowledged uploads, gateway killed three times
/// meanwhile; backend back: everything arrives, SHA-256 equal, per-key order." Each of eight clients
/// writes its keys over and over, and retries what was not acknowledged, as clients do.
#[tokio::test]
async fn a_backend_that_was_away_for_long_gets_everything_in_order() {
    const CLIENTS: usize = 8;
    const KEYS: usize = 10;
    let (small, large) = (times(400, 10_000), times(2, 20));
    let large_size = times(8 << 20, 256 << 20);
    let mut rig = Rig::new().await;
    rig.proxy.set_away(true);
    let (place, address) = tokio::sync::watch::channel(rig.gateway.address);
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&acknowledged);
    let upload = move |key: String, body: Vec<u8>| {
        let (mut address, acknowledged) = (address.clone(), Arc::clone(&counted));
        async move {
            loop {
                let to = *address.borrow_and_update();
                if let Ok(socket) = TcpStream::connect(to).await {
                    let mut client = Client::over(socket, to.to_string());
                    let answer = client.send(Request::put(&key, body.len()), &body).await;
                    match answer.status {
                        200 => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        GONE => {}
                        status => panic!("{status}: {}", answer.text()),
                    }
                }
                // It is being started again.
                let _ = tokio::time::timeout(PATIENCE, address.changed()).await.unwrap();
            }
        }
    };
    let body = |client: usize, round: usize| {
        let mut body = payload(4096);
        body[..16].copy_from_slice(&[client.to_le_bytes(), round.to_le_bytes()].concat());
        body
    };
    let mut clients = tokio::task::JoinSet::new();
    let rounds = small / CLIENTS;
    for client in 0..CLIENTS {
        let upload = upload.clone();
        clients.spawn(async move {
            for round in 0..rounds {
                upload(format!("small/{client}/{}", round % KEYS), body(client, round)).await;
            }
        });
    }
    let big = move |number: usize| {
        let mut body = payload(large_size);
        body[..8].copy_from_slice(&number.to_le_bytes());
        body
    };
    let of_large = upload.clone();
    clients.spawn(async move {
        for number in 0..large {
            of_large(format!("large/{number}"), big(number)).await;
        }
    });
    let all = CLIENTS * rounds + large;
    for kill in 1..=3 {
        while acknowledged.load(Ordering::Relaxed) < all * kill / 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        rig.kill_and_restart().await;
        place.send(rig.gateway.address).unwrap();
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(acknowledged.load(Ordering::Relaxed), all);
    rig.proxy.set_away(false);
    let started = Instant::now();
    while rig.gateway.metric("mizuchi_spool_entries").await > 0.0 {
        assert!(started.elapsed() < 30 * PATIENCE, "not everything is delivered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for client in 0..CLIENTS {
        for round in rounds - KEYS..rounds {
            let key = format!("small/{client}/{}", round % KEYS);
            let found = rig.backend.object(&key).map(Sha256::digest);
            assert_eq!(found, Some(Sha256::digest(body(client, round))), "{key}");
        }
    }
    for number in 0..large {
        let found = rig.backend.object(&format!("large/{number}")).map(Sha256::digest);
        assert_eq!(found, Some(Sha256::digest(big(number))), "{number}");
    }
}

/// What stands between gateway and backend, and is no S3.
const PORTAL: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\n\r\n<p>Hello!";
const BLOCKED: &str =
    "HTTP/1.1 403 Forbidden\r\ncontent-type: text/html\r\ncontent-length: 7\r\n\r\n<p>Stop";
const UNKNOWN_KEY: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: 68\r\n\r\n\
    <Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>\r\n";

/// "It arrives": neither a stranger's 200 nor a refusal that will pass ends a delivery.
#[tokio::test]
async fn what_only_stands_in_between_neither_takes_nor_refuses() {
    let rig = Rig::new().await;
    for (number, answer) in [PORTAL, BLOCKED, UNKNOWN_KEY].into_iter().enumerate() {
        let key = format!("between/{number}");
        rig.proxy.script([Fault::AnswerAfter(1, answer)]);
        assert_eq!(rig.put(&key, b"kept").await.status, 200);
        eventually("it arrives", async || {
            rig.backend.object(&key).is_some_and(|found| found == b"kept")
        })
        .await;
        assert!(rig.proxy.script_done());
    }
    rig.delivered().await;
    assert_eq!(
        rig.gateway.metric("mizuchi_spool_deliveries_total{outcome=\"retried\"}").await,
        3.0
    );
}

/// A checksum in a header and another behind the body: S3 takes one, so that is said at once.
#[tokio::test]
async fn two_checksums_are_refused_before_they_are_acknowledged() {
    let rig = Rig::new().await;
    let mut client = Client::connect(&rig.gateway).await;
    let request = Request::put("twice", 4)
        .header("x-amz-checksum-crc32", "AAAAAA==")
        .header("x-amz-trailer", "x-amz-checksum-sha256")
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", "4")
        .payload(PayloadHash::UnsignedTrailer);
    let answer = client.send(request, b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidRequest"));
}
