//! The log, whoever reads it.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::Setup;

/// "Nothing blocks an arbiter thread": nor does standard error, when nobody reads it.
#[tokio::test]
async fn a_log_that_nobody_reads_delays_no_upload() {
    // More lines than a pipe's 64 KiB hold.
    const UPLOADS: usize = 1000;
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).start().await;
    let mut client = Client::connect(&gateway).await;
    let unread = gateway.leave_log_unread();
    for index in 0..UPLOADS {
        let request = Request::put(&format!("upload-{index}"), 1);
        assert_eq!(client.send(request, b"x").await.status, 200, "{index}");
    }
    assert_eq!(gateway.metric("mizuchi_log_lines_lost").await, 0.0);
    drop(unread);
    let log = gateway.log_with(&format!("upload-{}\"", UPLOADS - 1)).await;
    assert!(log.len() > 64 * 1024, "{}", log.len());
}
