//! The replay buffer at its limits: past its memory, without a file, and against tiny segments.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::payload;
use crate::support::proxy::{Fault, Proxy};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

async fn trio(settings: &[(&'static str, &str)]) -> (Backend, Proxy, Gateway) {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let mut setup = Setup::new(&backend, proxy.address)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms");
    for (name, value) in settings {
        setup = setup.env(name, value);
    }
    let gateway = setup.start().await;
    (backend, proxy, gateway)
}

/// "past the budget a part's replay goes to an unlinked file".
#[tokio::test]
async fn past_its_memory_a_part_is_kept_in_a_file() {
    for zero_copy in ["true", "false"] {
        let (backend, proxy, gateway) = trio(&[
            ("MIZUCHI__REPLAY__MEMORY", "4MiB"),
            ("MIZUCHI__SERVER__ZERO_COPY__ENABLED", zero_copy),
        ])
        .await;
        let body = payload(32 << 20);
        // What is left is more than the sockets' buffers take.
        proxy.script([Fault::ResetAfter(6 << 20)]);
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(Request::put("spilled", body.len()), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(backend.object("spilled").unwrap() == body);
        assert_eq!(gateway.metric("mizuchi_part_restarts_total").await, 1.0);
        gateway.settled().await;
        assert_eq!(gateway.metric("mizuchi_replay_file_bytes").await, 0.0);
    }
}

/// "or is given up (`none`: a failure then answers 503 and the client retries)".
#[tokio::test]
async fn without_a_file_a_failure_past_the_memory_is_503() {
    let (backend, proxy, gateway) =
        trio(&[("MIZUCHI__REPLAY__MEMORY", "4MiB"), ("MIZUCHI__REPLAY__OVERFLOW", "none")]).await;
    let body = payload(32 << 20);
    let mut client = Client::connect(&gateway).await;
    proxy.script([Fault::ResetAfter(6 << 20)]);
    let answer = client.send(Request::put("given-up", body.len()), &body).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.text());
    assert_eq!(backend.object("given-up"), None);
    // Without a fault it goes through all the same.
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("fine", body.len()), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(backend.object("fine").unwrap() == body);
    gateway.settled().await;
}

/// "a client that sends tiny segments fills a 256-slot pipe with almost nothing": below the floor
/// what is kept is read into memory, and the pipes stay few.
#[tokio::test]
async fn tiny_segments_do_not_hold_pipes() {
    let (backend, proxy, gateway) = trio(&[]).await;
    let body = payload(100_000);
    proxy.script([Fault::ResetAfter(90_000)]);
    let mut client = Client::connect(&gateway).await;
    let head =
        Request::put("tiny", body.len()).sign(&client.host, &signer(), OffsetDateTime::now_utc());
    client.socket.write_all(&head).await.unwrap();
    let mut pipes: f64 = 0.0;
    for (index, byte) in body[..2000].iter().enumerate() {
        client.socket.write_all(&[*byte]).await.unwrap();
        if index % 100 == 99 {
            pipes = pipes.max(gateway.metric("mizuchi_replay_pipes").await);
        }
    }
    assert!(pipes <= 4.0, "{pipes} pipes for 2,000 bytes");
    client.socket.write_all(&body[2000..]).await.unwrap();
    let answer = client.one(false).await;
    assert!([200, 503].contains(&answer.status), "{}", answer.text());
    if answer.status == 200 {
        assert_eq!(backend.object("tiny").unwrap(), body);
    }
    gateway.settled().await;
}
