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

/// "404 NoSuchUpload: The specified multipart upload does not exist. The upload ID might be invalid, or the
/// multipart upload might have been aborted or completed" (Amazon S3 API Reference): of one that was ended in the
/// middle of a Complete as well, so that clients begin anew.
#[tokio::test]
async fn an_upload_that_has_ended_is_none() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).start().await;
    let mut client = Client::connect(&gateway).await;
    let begun = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    let id = begun.element("UploadId").unwrap();
    let part = || Request::put("k", 1).query("partNumber", "1").query("uploadId", &id);
    assert_eq!(client.send(part(), b"x").await.status, 200);
    // So far a Complete comes before it writes the object.
    assert_eq!(backend.end_uploads(), 1);
    let answer = client.send(part(), b"x").await;
    assert_eq!((answer.status, answer.code()), (404, "NoSuchUpload".to_owned()));
}
