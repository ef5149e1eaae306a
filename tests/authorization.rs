//! Policy engines after authentication, through the real binary: Open Policy Agent's and OpenFGA's
//! APIs as they are published (`support::opa`, `support::openfga`), and Rego in the process.
//!
//! security.md, "Authorization": "Fail closed on timeout, non-200, undefined result and on
//! misconfiguration. Check at create AND every part AND complete/abort."

mod audit;
mod cache;
mod every_operation;
mod examples;
mod faults;
mod forms;
mod input;
mod openfga;
mod rego;
mod settings;

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request, signer_with};
use crate::support::gateway::{Gateway, SECRET_KEY, Setup};
use time::OffsetDateTime;

/// A second client's access key, and its principal.
pub const OTHER_KEY: &str = "AKIAOTHEROTHEROTHER0";
pub const OTHER: &str = "mallory";

/// What no client may ever see.
pub const REASON: &str = "canary-reason";

/// A gateway whose bucket `uploads` has this `authorization` (YAML, indented by six), and which knows
/// a second client.
fn setup(backend: &Backend, authorization: &str) -> Setup {
    second_client(Setup::new(backend, backend.s3.address))
        .bucket(&format!("    authorization:\n{authorization}"))
        .env("MIZUCHI__SERVER__RELOAD_INTERVAL", "100ms")
}

fn second_client(setup: Setup) -> Setup {
    setup
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ACCESS_KEY", OTHER_KEY)
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__SECRET_KEY", SECRET_KEY)
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__PRINCIPAL", OTHER)
}

/// One more bucket over the same backend.
fn another_bucket(backend: &Backend, name: &str, rest: &str) -> String {
    format!(
        "  - name: {name}\n    s3:\n      bucket: store\n      region: us-east-1\n      \
         endpoint: http://{}\n      access_key: {}\n      secret_key: {}\n{rest}",
        backend.s3.address, backend.s3.access_key, backend.s3.secret_key
    )
}

async fn send(gateway: &Gateway, request: Request, body: &[u8]) -> Answer {
    Client::connect(gateway).await.send(request, body).await
}

/// Signed by the second client.
async fn send_as_other(gateway: &Gateway, request: Request, body: &[u8]) -> Answer {
    let mut client = Client::connect(gateway).await;
    let signer = signer_with(OTHER_KEY, SECRET_KEY, "us-east-1");
    let head = request.sign(&client.host, &signer, OffsetDateTime::now_utc());
    client.raw(&head, body).await
}

async fn put(gateway: &Gateway, key: &str) -> Answer {
    send(gateway, Request::put(key, 3), b"abc").await
}

async fn create(gateway: &Gateway, key: &str) -> Answer {
    send(gateway, Request::method("POST", key).query("uploads", ""), b"").await
}

/// 403, and the client is not told why.
fn assert_denied(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "{}", answer.text());
    assert_eq!(answer.element("Message").unwrap(), "Access Denied");
    assert!(!answer.text().contains(REASON) && !answer.head.contains(REASON));
}

/// 503, worth another try.
fn assert_undecided(answer: &Answer) {
    let text = answer.text();
    assert_eq!((answer.status, answer.code().as_str()), (503, "ServiceUnavailable"), "{text}");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"), "{}", answer.head);
}
