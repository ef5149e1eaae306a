//! SigV4 principals: what a credential is good for, where it may come from, and temporary ones.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer, signer_with};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::Signer;
use time::OffsetDateTime;

async fn over(backend: &Backend, setup: impl FnOnce(Setup) -> Setup) -> Gateway {
    setup(Setup::new(backend, backend.s3.address)).start().await
}

/// Status and code of a request signed by `signer`.
async fn sent(gateway: &Gateway, request: Request, signer: &Signer) -> (u16, String) {
    let mut client = Client::connect(gateway).await;
    let head = request.sign(&client.host, signer, OffsetDateTime::now_utc());
    let answer = client.raw(&head, b"x").await;
    (answer.status, answer.code())
}

fn denied() -> (u16, String) {
    (403, "AccessDenied".to_owned())
}

fn allowed() -> (u16, String) {
    (200, String::new())
}

const LIMITED: &str = "          - access_key: AKIALIMITED\n            secret_key: limited-secret-key\n\
    \x20           principal: camera\n            allow:\n              buckets: [uploads]\n              \
    key_prefixes: [\"in/\", \"home/{principal}/\"]\n              operations: [PutObject, HeadBucket]\n\
    \x20         - access_key: AKIAELSEWHERE\n            secret_key: elsewhere-secret\n            \
    allow: {buckets: [another]}\n";

/// "credentials from settings …; each with `principal`, allowed buckets, key prefixes and operations".
#[tokio::test]
async fn a_credential_is_good_for_what_it_names() {
    let backend = Backend::start().await;
    let gateway = over(&backend, |setup| setup.bucket(LIMITED)).await;
    let limited = signer_with("AKIALIMITED", "limited-secret-key", "us-east-1");
    let elsewhere = signer_with("AKIAELSEWHERE", "elsewhere-secret", "us-east-1");
    for (request, expected) in [
        (Request::put("in/a", 1), allowed()),
        (Request::put("home/camera/a", 1), allowed()),
        (Request::put("home/other/a", 1), denied()),
        (Request::put("home/camera", 1), denied()),
        (Request::put("a", 1), denied()),
        (Request::put("in/a", 0).query("partNumber", "1").query("uploadId", "x"), denied()),
        (Request { method: "POST", ..Request::put("in/a", 0).query("uploads", "") }, denied()),
    ] {
        let what = format!("{} {} {:?}", request.method, request.path, request.query);
        assert_eq!(sent(&gateway, request, &limited).await, expected, "{what}");
    }
    assert_eq!(sent(&gateway, Request::put("in/b", 1), &elsewhere).await, denied());
    assert_eq!(sent(&gateway, Request::put("anywhere", 1), &signer()).await, allowed());
    assert!(backend.object("in/a").is_some() && backend.object("in/b").is_none());
    assert!(backend.object("a").is_none() && backend.object("home/other/a").is_none());
    assert_eq!(backend.open_uploads(), 0);
}

/// "or from the environment".
#[tokio::test]
async fn a_credential_may_come_from_the_environment() {
    let backend = Backend::start().await;
    let name = |key: &str| format!("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__{key}");
    let (key, secret) = (name("ACCESS_KEY"), name("SECRET_KEY"));
    let gateway = over(&backend, |setup| {
        setup
            .env(Box::leak(key.into_boxed_str()), "AKIAENVIRONMENT")
            .env(Box::leak(secret.into_boxed_str()), "from-the-environment")
    })
    .await;
    let signer = signer_with("AKIAENVIRONMENT", "from-the-environment", "us-east-1");
    assert_eq!(sent(&gateway, Request::put("a", 1), &signer).await, allowed());
}

/// "from a file that is re-read on change": a new credential works, an old one ends, and a file with an
/// error in it changes nothing.
#[tokio::test]
async fn a_file_of_credentials_is_read_again() {
    let backend = Backend::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials.yaml");
    let write = |names: &[&str], more: &str| {
        let mut text = String::from("credentials:\n");
        for name in names {
            text += &format!("  - access_key: AKIA{name}\n    secret_key: secret-key-of-{name}\n");
        }
        std::fs::write(&file, text + more).unwrap();
    };
    let by = |name: &str| {
        signer_with(&format!("AKIA{name}"), &format!("secret-key-of-{name}"), "us-east-1")
    };
    write(&["ONE"], "");
    let gateway = over(&backend, |setup| {
        setup
            .env("MIZUCHI__AUTH__SIGV4__CREDENTIALS_FILE", file.to_str().unwrap())
            .env("MIZUCHI__SERVER__RELOAD_INTERVAL", "100ms")
    })
    .await;
    let unknown = || (403, "InvalidAccessKeyId".to_owned());
    assert_eq!(sent(&gateway, Request::put("a", 1), &by("ONE")).await, allowed());
    assert_eq!(sent(&gateway, Request::put("a", 1), &by("TWO")).await, unknown());

    write(&["TWO"], "");
    eventually("the new credential works", async || {
        sent(&gateway, Request::put("b", 1), &by("TWO")).await == allowed()
    })
    .await;
    assert_eq!(sent(&gateway, Request::put("a", 1), &by("ONE")).await, unknown());

    write(&["THREE"], "  - access_key: AKIAFOUR\n");
    let log = gateway.log_with("what was there before goes on").await;
    assert!(log.contains("credentials[1].secret_key"), "{log}");
    assert_eq!(sent(&gateway, Request::put("a", 1), &by("THREE")).await, unknown());
    assert_eq!(sent(&gateway, Request::put("a", 1), &by("TWO")).await, allowed());
    assert_eq!(sent(&gateway, Request::put("a", 1), &signer()).await, allowed());
    assert_eq!(gateway.metric("mizuchi_reloads_total").await, 2.0);
}

/// "session tokens for temporary credentials": the token must come along, signed, and be the right one.
#[tokio::test]
async fn temporary_credentials_need_their_token() {
    let backend = Backend::start().await;
    let temporary = "          - access_key: ASIATEMPORARY\n            secret_key: temporary-secret\n\
        \x20           session_token: the/token+of=it\n";
    let gateway = over(&backend, |setup| setup.bucket(temporary)).await;
    let with = |token: Option<&str>| {
        let token = token.map(|token| Secret::new(token.to_owned()));
        let secret = Secret::new("temporary-secret".to_owned());
        Signer::new("ASIATEMPORARY".to_owned(), secret, token, "us-east-1".to_owned())
    };
    let put = || Request::put("a", 1);
    let invalid = || (400, "InvalidToken".to_owned());
    let unknown = (403, "InvalidAccessKeyId".to_owned());
    assert_eq!(sent(&gateway, put(), &with(Some("the/token+of=it"))).await, allowed());
    assert_eq!(sent(&gateway, put(), &with(Some("the/token+of=i"))).await, invalid());
    assert_eq!(sent(&gateway, put(), &with(None)).await, unknown);
    // One that is not signed was put there by somebody else.
    let host = gateway.address.to_string();
    let head = put().sign(&host, &with(None), OffsetDateTime::now_utc());
    let head = String::from_utf8(head).unwrap();
    let head = head.replace("\r\n\r\n", "\r\nx-amz-security-token: the/token+of=it\r\n\r\n");
    let answer = Client::connect(&gateway).await.raw(head.as_bytes(), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    // A credential that is not temporary has none.
    let secret = Secret::new(crate::support::gateway::SECRET_KEY.to_owned());
    let token = Some(Secret::new("any".to_owned()));
    let key = crate::support::gateway::ACCESS_KEY.to_owned();
    let signer = Signer::new(key, secret, token, "us-east-1".to_owned());
    assert_eq!(sent(&gateway, put(), &signer).await, invalid());
}
