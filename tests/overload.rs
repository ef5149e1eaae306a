//! reliability.md: clients that are slow, and more of them than there are descriptors.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer};
use crate::support::gateway::Setup;
use crate::support::{eventually, payload};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

/// R17: "slowloris head; 1 B/s body: 5,000 connections; RequestTimeout".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_timed_out_and_others_served() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__SERVER__HEAD_TIMEOUT", "3s")
        .env("MIZUCHI__SERVER__BODY_PROGRESS__INTERVAL", "3s")
        .env("MIZUCHI__ADMISSION__UPLOADS", "4096")
        .start()
        .await;
    let mut slow = Vec::new();
    for index in 0..5000 {
        let mut client = Client::connect(&gateway).await;
        // One in ten has begun its body, and so holds a backend connection.
        if index % 10 != 0 {
            client.socket.write_all(b"PUT /uploads/slow HTTP/1.1\r\nHost: h\r\nX-").await.unwrap();
        } else {
            let request = Request::put(&format!("slow/{index}"), 100_000);
            let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
            client.socket.write_all(&head).await.unwrap();
            client.socket.write_all(b"x").await.unwrap();
        }
        slow.push(client);
    }
    let mut bystander = Client::connect(&gateway).await;
    for index in 0..100 {
        let key = format!("bystander/{index}");
        let answer = bystander.send(Request::put(&key, 4096), &payload(4096)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for (index, client) in slow.iter_mut().enumerate() {
        let answer = client.one(false).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "RequestTimeout"), "{index}");
    }
    drop(slow);
    gateway.settled().await;
    eventually("the connections are closed", async || {
        gateway.metric("mizuchi_client_connections").await <= 1.0
    })
    .await;
}

/// "A slow client never holds a backend connection that a fast one waits for": the fast one's uploads
/// end while the slow ones still have theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_slow_clients_are_waited_for_by_nobody() {
    const SLOW: usize = 300;
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__BUCKETS__0__S3__POOL__IDLE_PER_WORKER", "1")
        .start()
        .await;
    let mut slow = Vec::new();
    for index in 0..SLOW {
        let mut client = Client::connect(&gateway).await;
        let request = Request::put(&format!("slow/{index}"), 100_000);
        let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        client.socket.write_all(b"x").await.unwrap();
        slow.push(client);
    }
    let leased = async || gateway.metric("mizuchi_backend_connections_leased").await;
    eventually("each slow one has a connection", async || leased().await == SLOW as f64).await;
    for size in [4096, 100_000] {
        let mut fast = Client::connect(&gateway).await;
        for index in 0..20 {
            let answer = fast.send(Request::put(&format!("{index}"), size), &payload(size)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    assert!(leased().await >= SLOW as f64, "a slow one has ended");
    drop(slow);
    gateway.settled().await;
}

/// R19: "`ulimit -n 256`, 1,000 connections: no accept spin, no panic, recovers".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_descriptors_is_survived() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).descriptors(256).start().await;
    let mut clients = Vec::new();
    for _ in 0..1000 {
        clients.push(Client::connect(&gateway).await);
    }
    eventually("the descriptors are used up", async || gateway.descriptors() >= 250).await;
    let before = gateway.cpu_ticks();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let ticks = gateway.cpu_ticks() - before;
    assert!(ticks < 100, "{ticks} ticks of CPU in two idle seconds: accept spins");
    drop(clients);
    eventually("an upload succeeds again", async || {
        let mut client = Client::connect(&gateway).await;
        client.send(Request::put("after", 100_000), &payload(100_000)).await.status == 200
    })
    .await;
    assert!(!gateway.log().contains("panicked"), "{}", gateway.log());
}
