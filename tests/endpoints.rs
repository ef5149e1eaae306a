//! Several gateways, several endpoints.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::Setup;
use crate::support::payload;

/// "It stays valid across restarts and gateways that share the key."
#[tokio::test]
async fn an_upload_id_outlives_its_gateway() {
    let backend = Backend::start().await;
    let state = tempfile::tempdir().unwrap();
    let start = || {
        Setup::new(&backend, backend.s3.address)
            .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.path().to_str().unwrap())
            .start()
    };
    let first = start().await;
    let mut client = Client::connect(&first).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    drop(first);
    let second = start().await;
    let body = payload(100_000);
    let part = || Request::put("k", body.len()).query("partNumber", "1").query("uploadId", &id);
    let mut client = Client::connect(&second).await;
    assert_eq!(client.send(part(), &body).await.status, 200);

    // A gateway with a key of its own does not know it.
    let stranger = Setup::new(&backend, backend.s3.address).start().await;
    let mut client = Client::connect(&stranger).await;
    let answer = client.send(part(), &body).await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "NoSuchUpload"));
}

/// Several endpoints of one bucket: one that is down costs no client an upload.
#[tokio::test]
async fn an_endpoint_that_is_down_is_avoided() {
    let backend = Backend::start().await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let endpoints = format!("http://{nobody},http://{}", backend.s3.address);
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__BUCKETS__0__S3__ENDPOINT", &endpoints)
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    for index in 0..50 {
        let body = payload(if index % 2 == 0 { 500 } else { 200_000 });
        let answer = client.send(Request::put(&format!("e/{index}"), body.len()), &body).await;
        assert_eq!(answer.status, 200, "{index}: {}", answer.text());
        assert_eq!(backend.object(&format!("e/{index}")).unwrap(), body);
    }
    // Its access line comes last.
    let log = gateway.log_with("path=\"/uploads/e/49\"").await;
    let refused = log.matches("no connection").count();
    assert!((1..25).contains(&refused), "{refused} attempts at an endpoint that is down");
}
