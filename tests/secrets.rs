//! security.md, "Admin, secrets" and "The gateway's own power": what must not be seen, and by whom.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer_with};
use crate::support::gateway::{Gateway, Setup, get};
use crate::support::{PATIENCE, eventually};
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Instant;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn pair() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).start().await;
    (backend, gateway)
}

/// "No key names as Prometheus labels": keys, uploadIds and access keys neither, known or not.
#[tokio::test]
async fn metrics_name_no_key_and_no_client() {
    let (_backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.send(Request::put("canary-key", 1), b"x").await.status, 200);
    let created = client.send(Request::method("POST", "canary-2").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let stranger = signer_with("AKIACANARY", "x", "us-east-1");
    let head = Request::put("canary-3", 1).sign(&client.host, &stranger, OffsetDateTime::now_utc());
    assert_eq!(client.raw(&head, b"x").await.status, 403);
    let mut client = Client::connect(&gateway).await;
    let elsewhere = Request { path: "/canary-bucket/k".into(), ..Request::put("", 0) };
    assert_eq!(client.send(elsewhere, b"").await.status, 404);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("mizuchi_"), "{metrics}");
    for word in ["canary", "CANARY", id.as_str(), crate::support::gateway::ACCESS_KEY] {
        assert!(!metrics.contains(word), "{word} is in the metrics");
    }
}

/// "Metrics, health and admin live on their own listener": on the clients' they are keys and buckets.
#[tokio::test]
async fn the_clients_listener_serves_no_metrics() {
    let (_backend, gateway) = pair().await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(!get(gateway.admin, path).await.contains("<Error>"), "{path}");
        let text = get(gateway.address, path).await;
        assert!(text.contains("<Code>NoSuchBucket</Code>") && !text.contains("mizuchi_"), "{text}");
    }
}

/// "No default credentials: a development run makes random ones"; "0700/0600".
#[tokio::test]
async fn development_credentials_are_random_and_their_owner_s() {
    let mut seen = HashSet::new();
    for _ in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_mizuchi"))
            .args(["serve", "--development", "--settings"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/settings/development.yaml"))
            .env("MIZUCHI__SERVER__ADDRESS", "127.0.0.1:0")
            .env("MIZUCHI__ADMIN__ADDRESS", "127.0.0.1:0")
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let file = directory.path().join("data/credentials");
        let started = Instant::now();
        let text = loop {
            match std::fs::read_to_string(&file) {
                Ok(text) if text.lines().count() == 2 => break text,
                _ => assert!(started.elapsed() < PATIENCE, "no credentials were made"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        child.kill().unwrap();
        child.wait().unwrap();
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(file.as_path()), mode(file.parent().unwrap())), (0o600, 0o700));
        for line in text.lines() {
            let (_, value) = line.split_once('=').unwrap();
            assert!(value.len() >= 20, "{line}");
            assert!(seen.insert(value.to_owned()), "the same twice: {line}");
        }
    }
}

/// "Nothing of the backend's own body leaks unless it is itself an S3 error".
#[tokio::test]
async fn a_backend_s_page_does_not_reach_the_client() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Setup::over(listener.local_addr().unwrap()).start().await;
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut wire = Vec::new();
            while !wire.ends_with(b"hello") {
                if socket.read_buf(&mut wire).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let page = "<html>canary.internal</html>";
            let length = page.len();
            let head = format!(
                "HTTP/1.1 400 Bad Request\r\nServer: canary\r\nX-Canary: 1\r\nContent-Length: {length}"
            );
            let _ = socket.write_all(format!("{head}\r\n\r\n{page}").as_bytes()).await;
        }
    });
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put("k", 5), b"hello").await;
    assert!(answer.status >= 400, "{}", answer.text());
    assert!(!answer.code().is_empty(), "an S3 error: {}", answer.text());
    let all = format!("{}{}", answer.head, answer.text()).to_ascii_lowercase();
    assert!(!all.contains("canary"), "{all}");
}

/// "An uploadId is sealed to bucket, key and principal": another principal with the same rights has
/// no use for it, for a part, a Complete, an Abort and a list.
#[tokio::test]
async fn an_upload_id_is_of_no_use_to_another_principal() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ACCESS_KEY", "AKIAOTHER")
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__SECRET_KEY", "other")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let other = signer_with("AKIAOTHER", "other", "us-east-1");
    let document =
        b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>e</ETag></Part></CompleteMultipartUpload>";
    let complete = Request {
        length: Some(document.len() as u64),
        payload: mizuchi_actors::sigv4::PayloadHash::of(document),
        ..Request::method("POST", "k")
    };
    for (name, request, body) in [
        ("part", Request::put("k", 1).query("partNumber", "1"), &b"x"[..]),
        ("complete", complete, document),
        ("list", Request::method("GET", "k"), b""),
        ("abort", Request::method("DELETE", "k"), b""),
    ] {
        let mut client = Client::connect(&gateway).await;
        let request = request.query("uploadId", &id);
        let head = request.sign(&client.host, &other, OffsetDateTime::now_utc());
        let answer = client.raw(&head, body).await;
        let text = answer.text();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "NoSuchUpload"),
            "{name}: {text}"
        );
        assert_eq!(backend.open_uploads(), 1, "{name}");
    }
    let abort = Request::method("DELETE", "k").query("uploadId", &id);
    assert_eq!(client.send(abort, b"").await.status, 204);
    eventually("the owner's abort", async || backend.open_uploads() == 0).await;
}
