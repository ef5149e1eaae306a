//! The command line.

use crate::support::backend::Backend;
use crate::support::gateway::{ACCESS_KEY, SECRET_KEY, Setup};
use crate::support::payload;
use crate::support::proxy::{Fault, Proxy};
use std::process::{Command, Output};

fn mizuchi(arguments: &[&str], settings: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.yaml");
    std::fs::write(&file, settings).unwrap();
    Command::new(env!("CARGO_BIN_EXE_mizuchi"))
        .args(arguments)
        .env("MIZUCHI_SETTINGS", &file)
        .output()
        .unwrap()
}

/// "`mizuchi check`: every error with its key, exit 64".
#[test]
fn check_shows_every_error_with_its_key() {
    let output = mizuchi(
        &["check"],
        "server:\n  adress: 1\n  max_head: 1\nbuckets:\n  - name: B\n    s3:\n      endpoint: x\n",
    );
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    for key in ["server.adress", "server.max_head", "buckets[0].name", "buckets[0].s3.endpoint"] {
        assert!(text.lines().any(|line| line.starts_with(key)), "{key} is missing:\n{text}");
    }
}

/// "`mizuchi check` prints what the host gives, each limit that the settings may run into, and what
/// helps; the exit status stays 0."
#[test]
fn check_shows_where_the_settings_ask_for_more_than_the_host_gives() {
    let limits = |server: &str| {
        let text = format!(
            "{server}\nauth:\n  enabled: false\nbuckets:\n  - name: uploads\n    s3:\n      endpoint: http://127.0.0.1:1\n      \
             region: r\n      access_key: a\n      secret_key: s\n"
        );
        let output = mizuchi(&["check"], &text);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("the host gives "), "{text}");
        let has = |line: &str| line.starts_with("RLIMIT_NOFILE: ") && line.contains("LimitNOFILE=");
        text.lines().any(has)
    };
    assert!(limits("server:\n  max_connections: 1000000\nadmission:\n  uploads: 1000000"));
    assert!(!limits(
        "server:\n  max_connections: 10\nadmission:\n  uploads: 10\nreplay:\n  pipes: 10"
    ));
}

fn settings(backend: &Backend) -> String {
    format!(
        "buckets:\n  - name: uploads\n    s3:\n      bucket: store\n      region: us-east-1\n      \
         endpoint: http://{}\n      access_key: {}\n      secret_key: {}\n      verifies: [md5]\n    auth:\n      \
         sigv4:\n        credentials:\n          - access_key: {ACCESS_KEY}\n            secret_key: {SECRET_KEY}\n",
        backend.s3.address, backend.s3.access_key, backend.s3.secret_key
    )
}

/// "`--probe` asks each backend what it verifies"; it leaves nothing there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_asks_the_backend_what_it_verifies() {
    let backend = Backend::start().await;
    let text = settings(&backend);
    let output =
        tokio::task::spawn_blocking(move || mizuchi(&["check", "--probe"], &text)).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("uploads: takes UNSIGNED-PAYLOAD"), "{text}");
    assert!(text.contains("uploads: md5: verified"), "{text}");
    assert!(text.contains("uploads: trailer: verified; it could be named"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(backend.objects(), Vec::<String>::new(), "{text}");
}

/// "Compare the ETag with the MD5": where a bucket may write back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_looks_whether_the_etag_is_what_write_back_answers() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let probe = async |mode: &str, faults: Vec<Fault>| {
        proxy.script(faults);
        let text = settings(&backend)
            .replace(&backend.s3.address.to_string(), &proxy.address.to_string())
            .replace("    auth:", &format!("    upload:\n      mode: {mode}\n    auth:"));
        let ran = tokio::task::spawn_blocking(move || mizuchi(&["check", "--probe"], &text));
        let output = ran.await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        text.lines().find(|line| line.contains("ETag is")).map(str::to_owned)
    };
    let own = probe("write_back", Vec::new()).await.unwrap();
    assert!(own.contains("the ETag is the body's MD5"), "{own}");
    let kms = "HTTP/1.1 200 OK\r\netag: \"kms\"\r\ncontent-length: 0\r\n\r\n";
    let other = probe("write_back", vec![Fault::AnswerAfter(1, kms)]).await.unwrap();
    assert!(other.contains("warning: the ETag is kms, not the body's MD5"), "{other}");
    assert_eq!(probe("write_through", Vec::new()).await, None);
}

#[tokio::test]
async fn a_presigned_url_uploads() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).start().await;
    let endpoint = format!("http://{}", gateway.address);
    let arguments = ["presign", "--bucket", "uploads", "--key", "a b+c", "--endpoint", &endpoint];
    let output = mizuchi(&arguments, &settings(&backend));
    let url = String::from_utf8(output.stdout).unwrap();
    let target = url.trim().strip_prefix(&endpoint).unwrap().to_owned();
    let body = payload(100_000);
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        gateway.address,
        body.len()
    );
    let mut client = crate::support::client::Client::connect(&gateway).await;
    let answer = client.raw(head.as_bytes(), &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("a b+c").unwrap(), body);
}
