//! docs/operations.md: a gateway on a host that gives less than the settings ask for.

use crate::support::client::{Client, Request, signer};
use crate::support::gateway::Setup;
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::{eventually, payload};
use md5::Digest as _;
use mizuchi_actors::platform::ZERO_COPY;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;

/// As many as find no pipe any more: in 64 MiB of pages there are 192 of falling sizes, two for each
/// upload, and at most 128 more out of what the broken ones give back.
const UPLOADS: usize = 200;

/// Uploads whose first attempt breaks, among the first: they have kept large pipes, and find small ones
/// for their second.
const BROKEN: usize = 8;

/// "Without CAP_SYS_RESOURCE a user has 64 pipes of 1 MiB (fs.pipe-user-pages-soft): uploads get
/// smaller pipes, then are copied; every one of them succeeds, also those that are sent again."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_go_on_where_the_host_gives_no_more_pipes() {
    let soft = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    assert_eq!(soft.trim(), "16384", "this test needs `sysctl -w fs.pipe-user-pages-soft=16384`");
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        .unprivileged()
        .start()
        .await;
    if ZERO_COPY {
        gateway.log_with("fs.pipe-user-pages-soft: 16384 pages in pipes").await;
    }
    let gateway = Arc::new(gateway);
    let body = Arc::new(payload(2 << 20));
    s3.script((0..BROKEN).map(|_| ("Put", Twist::ResetInside)));
    let mut clients = Vec::new();
    for index in 0..UPLOADS {
        let mut client = Client::connect(&gateway).await;
        let request = Request::put(&format!("k{index}"), body.len());
        let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        clients.push(client);
    }
    let begun = clients.into_iter().map(|mut client| {
        let body = Arc::clone(&body);
        tokio::spawn(async move {
            client.socket.write_all(&body[..3 << 19]).await.unwrap();
            client
        })
    });
    let mut clients = Vec::new();
    for begun in begun.collect::<Vec<_>>() {
        clients.push(begun.await.unwrap());
    }
    eventually("all are on their way", async || {
        gateway.metric("mizuchi_backend_connections_leased").await == UPLOADS as f64
    })
    .await;
    // Before the rest is on its way: of a request that was sent whole nobody could tell what came of it.
    eventually("the broken ones are sent again", async || {
        gateway.metric("mizuchi_part_restarts_total").await >= BROKEN as f64
    })
    .await;
    let refused = |what: &str| format!("mizuchi_pipes_refused_total{{what=\"{what}\"}}");
    if ZERO_COPY {
        for what in ["smaller", "copied", "kept"] {
            let count = async || gateway.metric(&refused(what)).await;
            eventually(what, async || count().await > 0.0).await;
        }
        gateway.log_with("no more pipes of full size").await;
    }
    let ended = clients.into_iter().map(|mut client| {
        let body = Arc::clone(&body);
        tokio::spawn(async move {
            client.socket.write_all(&body[3 << 19..]).await.unwrap();
            client.one(false).await
        })
    });
    for (index, ended) in ended.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = ended.await.unwrap();
        assert_eq!(answer.status, 200, "{index}: {}", answer.text());
    }
    let md5: String = md5::Md5::digest(&*body).iter().map(|byte| format!("{byte:02x}")).collect();
    s3.books(|books| {
        assert_eq!(books.objects.len(), UPLOADS);
        for (key, object) in &books.objects {
            assert!(object.etag.contains(&md5), "{key}: {}", object.etag);
        }
    });
    gateway.settled().await;
    // With the crowd gone there are pipes of full size again.
    let before = gateway.metric("mizuchi_pipes_refused_total").await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("after", body.len()), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(gateway.metric("mizuchi_pipes_refused_total").await, before);
}
