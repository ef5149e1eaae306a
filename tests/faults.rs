//! reliability.md, through a fault proxy between gateway and backend.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{eventually, payload};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

async fn trio() -> (Backend, Proxy, Gateway) {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let setup = Setup::new(&backend, proxy.address);
    let gateway = setup
        .bucket(
            "    upload:\n      restart:\n        max: 4\n        backoff_base: 5ms\n        backoff_cap: 50ms\n",
        )
        .start()
        .await;
    (backend, proxy, gateway)
}

const SLOW_DOWN: &str = "HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\ncontent-length: 62\r\n\r\n\
    <Error><Code>SlowDown</Code><Message>later</Message></Error>\r\n";

/// Must show: "the backend dies in the middle of a part: the client's upload succeeds".
#[tokio::test]
async fn a_backend_that_dies_in_the_middle_of_a_part_is_not_noticed() {
    let (backend, proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    // What is left when the proxy resets is more than the sockets' buffers take.
    let body = payload(32 << 20);
    proxy.script([Fault::ResetAfter(5 << 20), Fault::ResetAfter(9 << 20)]);
    let answer = client.send(Request::put("survivor", body.len()), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("survivor").unwrap(), body);
    assert_eq!(gateway.metric("mizuchi_part_restarts_total").await, 2.0);
    gateway.assert_spliced(body.len()).await;
    gateway.settled().await;
}

#[tokio::test]
async fn a_refusal_queued_before_the_end_of_the_body_restarts_the_part() {
    let (backend, proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    for (index, length) in [200, 100_000, 6 << 20].into_iter().enumerate() {
        let key = format!("later/{index}");
        let body = payload(length);
        proxy.script([Fault::AnswerAfter(length / 2, SLOW_DOWN)]);
        let answer = client.send(Request::put(&key, length), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(backend.object(&key).unwrap(), body);
        assert!(proxy.script_done());
    }
}

#[tokio::test]
async fn past_the_restart_budget_the_backend_s_own_error_is_answered() {
    let (backend, proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(1 << 20);
    proxy.script(vec![Fault::AnswerAfter(1000, SLOW_DOWN); 5]);
    let answer = client.send(Request::put("never", body.len()), &body).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.text());
    assert_eq!(backend.object("never"), None);
    gateway.settled().await;
}

/// R11: "the answer of a wholly sent PutObject is lost: reconciled by HEAD; unprovable → 503".
#[tokio::test]
async fn a_lost_answer_is_reconciled_or_is_503() {
    let (backend, proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(100_000);
    let lose = || [Fault::LoseAnswerAfter(100_000)];

    proxy.script(lose());
    let answer = client.send(Request::put("unprovable", body.len()), &body).await;
    assert_eq!(answer.status, 503, "{}", answer.text());

    use base64::Engine as _;
    use md5::Digest as _;
    let md5 = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(&body));
    proxy.script(lose());
    let request = Request::put("proven", body.len()).header("content-md5", &md5);
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(request, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("proven").unwrap(), body);
    assert!(answer.header("etag").is_some());
}

/// What the backend has carried out is never sent again on the quiet, also when it is small and its
/// kernel had not acknowledged it yet.
#[tokio::test]
async fn a_small_upload_whose_answer_is_lost_is_not_sent_twice() {
    let (_backend, proxy, gateway) = trio().await;
    for index in 0..20 {
        let mut client = Client::connect(&gateway).await;
        let body = payload(2000);
        assert_eq!(client.send(Request::put("warm", 2000), &body).await.status, 200);
        proxy.script([Fault::LoseAnswerAfter(2000)]);
        let answer = client.send(Request::put("once", 2000), &body).await;
        assert_eq!(answer.status, 503, "{index}: {}", answer.text());
    }
    assert_eq!(gateway.metric("mizuchi_part_restarts_total").await, 0.0);
}

/// R14: "client aborts at a random offset: 0 leaks".
#[tokio::test]
async fn clients_that_abort_leave_nothing_behind() {
    let (backend, _proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.send(Request::put("warm", 100_000), &payload(100_000)).await.status, 200);
    drop(client);
    gateway.settled().await;
    let before = gateway.descriptors();
    let body = payload(300_000);
    let aborts = crate::support::times(1000, 10_000);
    for index in 0..aborts {
        let mut client = Client::connect(&gateway).await;
        let request = Request::put(&format!("aborted/{index}"), body.len());
        let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
        let offset = index * 7919 % body.len();
        let _ = client.socket.write_all(&head).await;
        let _ = client.socket.write_all(&body[..offset]).await;
        if index % 2 == 0 {
            let _ = client.socket.set_zero_linger();
        }
    }
    gateway.settled().await;
    for index in 0..aborts {
        assert_eq!(backend.object(&format!("aborted/{index}")), None);
    }
    // What two workers may keep for the next: 64 idle connections each, and 64 pipes.
    let kept = 2 * (64 + 2 * 64);
    eventually("descriptors back at the baseline", async || gateway.descriptors() <= before + kept)
        .await;
}

/// R12: "PartWorker panics 1 % of the time: all uploads succeed through restarts".
#[tokio::test]
async fn workers_that_panic_are_restarted() {
    let backend = Backend::start().await;
    let parts = "    upload:\n      multipart_threshold: 5MiB\n      part_size: 5MiB\n";
    let setup = Setup::new(&backend, backend.s3.address).bucket(parts);
    let points = "part_worker::start=1%panic(start);part::spliced=1%panic(spliced);part::kept=1%panic(kept);part::copied=1%panic(copied)";
    let gateway = setup.env("FAILPOINTS", points).start().await;
    let mut client = Client::connect(&gateway).await;
    let (large, small, split) = (payload(3 << 20), payload(2000), payload(11 << 20));
    for index in 0..crate::support::times(150, 5000) {
        let body = match index % 10 {
            0 => &split,
            even if even % 2 == 0 => &large,
            _ => &small,
        };
        let key = format!("panics/{index}");
        let answer = client.send(Request::put(&key, body.len()), body).await;
        assert_eq!(answer.status, 200, "{index}: {}", answer.text());
        assert!(&backend.object(&key).unwrap() == body, "{index}: other bytes");
    }
    assert!(gateway.metric("mizuchi_part_restarts_total{cause=\"died\"}").await > 0.0);
    assert_eq!(backend.open_uploads(), 0);
    gateway.settled().await;
}

/// R12: "past the restart budget: 503 and Abort".
#[tokio::test]
async fn workers_that_always_panic_end_in_503_and_abort() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .bucket("    upload:\n      multipart_threshold: 5MiB\n      part_size: 5MiB\n")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        // Every attempt takes a little more from the client before it dies.
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__MAX", "1")
        .env("FAILPOINTS", "part::kept=panic(kept);part::copied=panic(copied)")
        .start()
        .await;
    for length in [4 << 20, 11 << 20] {
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(Request::put("never", length), &payload(length)).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.text());
        assert_eq!(backend.object("never"), None);
    }
    eventually("the split is aborted", async || backend.open_uploads() == 0).await;
    // A bystander whose body takes another way.
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.send(Request::put("beside", 2000), &payload(2000)).await.status, 200);
    gateway.settled().await;
}

/// R22: "SIGTERM under load: everything in flight finishes or gets a clean error".
#[tokio::test]
async fn sigterm_lets_what_is_in_flight_finish() {
    let (backend, _proxy, mut gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    let body = payload(4 << 20);
    let head =
        Request::put("last", body.len()).sign(&client.host, &signer(), OffsetDateTime::now_utc());
    client.socket.write_all(&head).await.unwrap();
    client.socket.write_all(&body[..1 << 20]).await.unwrap();
    eventually("the upload is in flight", async || {
        gateway.metric("mizuchi_uploads_in_flight").await == 1.0
    })
    .await;
    gateway.signal("TERM");
    client.socket.write_all(&body[1 << 20..]).await.unwrap();
    assert_eq!(client.one(false).await.status, 200);
    assert_eq!(backend.object("last").unwrap(), body);
    assert!(gateway.ended().await.success());
}

/// R29: "keep-alive connections to the backend closed while idle: 0 client-visible errors".
#[tokio::test]
async fn stale_backend_connections_are_not_used() {
    let (_backend, proxy, gateway) = trio().await;
    let mut client = Client::connect(&gateway).await;
    for index in 0..50 {
        proxy.script([Fault::CloseAfterAnswer]);
        let length = if index % 2 == 0 { 500 } else { 100_000 };
        let answer = client.send(Request::put("idle", length), &payload(length)).await;
        assert_eq!(answer.status, 200, "{index}: {}", answer.text());
    }
}

/// R22, under load: what was acknowledged is at the backend, the rest got a clean error or the end
/// of its connection, and the process ends by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_loses_nothing_that_was_acknowledged() {
    let (backend, _proxy, mut gateway) = trio().await;
    let mut loops = Vec::new();
    for worker in 0..20usize {
        let mut client = Client::connect(&gateway).await;
        loops.push(tokio::spawn(async move {
            let body = payload(50_000 + worker * 10_000);
            let mut acknowledged = Vec::new();
            for index in 0.. {
                let key = format!("load/{worker}/{index}");
                let answer = client.send(Request::put(&key, body.len()), &body).await;
                match answer.status {
                    200 => acknowledged.push((key, body.clone())),
                    // The connection ended between two answers, or in the drain.
                    503 | 999 => break,
                    status => panic!("{status} {}", answer.text()),
                }
                if answer.header("connection").as_deref() == Some("close") {
                    break;
                }
            }
            acknowledged
        }));
    }
    eventually("the load is on", async || {
        gateway
            .metric(
                "mizuchi_uploads_total{bucket=\"uploads\",operation=\"PutObject\",status=\"200\"}",
            )
            .await
            > 100.0
    })
    .await;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success(), "{}", gateway.log());
    for one in loops {
        for (key, body) in one.await.unwrap() {
            assert_eq!(backend.object(&key).as_ref(), Some(&body), "{key} was acknowledged");
        }
    }
}

/// The tree: a supervisor that dies is rebuilt; its uploads answer an error, their workers are
/// cancelled, and what it had begun in parts is swept.
#[tokio::test]
async fn a_supervisor_that_dies_leaves_nothing_behind() {
    let s3 = crate::support::ledger_s3::LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .bucket("    upload:\n      multipart_threshold: 5MiB\n      part_size: 5MiB\n")
        .env("MIZUCHI__SERVER__WORKERS", "1")
        // Where a whole upload begins; one in parts begins elsewhere.
        .env("FAILPOINTS", "upload_supervisor::begin=panic(begin)")
        .start()
        .await;
    let body = payload(12 << 20);
    let mut split = Client::connect(&gateway).await;
    let request = Request::put("split", body.len());
    let head = request.sign(&split.host, &signer(), OffsetDateTime::now_utc());
    split.socket.write_all(&head).await.unwrap();
    split.socket.write_all(&body[..7 << 20]).await.unwrap();
    eventually("a part is there", async || {
        s3.books(|books| books.uploads.values().any(|upload| !upload.parts.is_empty()))
    })
    .await;
    let mut client = Client::connect(&gateway).await;
    let killed = client.send(Request::put("killer", 100), &payload(100)).await;
    assert_eq!((killed.status, killed.code().as_str()), (500, "InternalError"));
    assert_eq!(split.one(false).await.status, 500);
    eventually("it is swept", async || s3.books(|books| books.uploads.is_empty())).await;
    gateway.settled().await;
    let rebuilt = "mizuchi_actor_restarts_total{actor=\"upload supervisor\"}";
    assert_eq!(gateway.metric(rebuilt).await, 1.0);
    // The one that was built anew works.
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("split", body.len()), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(s3.books(|books| books.objects["split"].length) == body.len() as u64);
}
