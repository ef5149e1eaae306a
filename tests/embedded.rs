//! The embedded backend: keys that are names of files.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::Setup;

/// "A key never becomes a file path": where the backend makes it one all the same, it stays in its bucket.
#[tokio::test]
async fn no_key_leads_out_of_its_bucket() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).start().await;
    for key in ["../out", "a/../../out", "../../out", "/out"] {
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(Request::put(key, 1), b"x").await;
        let told = (answer.status, answer.code());
        assert_eq!(told, (400, "InvalidArgument".to_owned()), "{key}: {}", answer.text());
        assert!(backend.object("../out").is_none() && backend.object("out").is_none(), "{key}");
    }
    let answer = Client::connect(&gateway).await.send(Request::put("..a/b..", 1), b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("..a/b..").unwrap(), b"x");
}
