//! The admin listener: who may read what.

use crate::support::authority::{Authority, Trust};
use crate::support::backend::Backend;
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Gateway, Setup, get};
use std::process::Command;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

const TOKEN: &str = "0123456789abcdef-canary";
const PAGES: [&str; 5] = ["/healthz", "/readyz", "/metrics", "/", "/status.json"];

async fn start(change: impl FnOnce(Setup) -> Setup) -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = change(Setup::new(&backend, backend.s3.address)).start().await;
    (backend, gateway)
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(socket: S, head: &str) -> Answer {
    let mut client = Client::over(socket, "admin".to_owned());
    client.raw(head.as_bytes(), b"").await
}

async fn request(gateway: &Gateway, method: &str, path: &str, line: &str) -> Answer {
    let socket = TcpStream::connect(gateway.admin).await.unwrap();
    ask(socket, &format!("{method} {path} HTTP/1.1\r\nHost: admin\r\n{line}\r\n")).await
}

/// On loopback everyone may read; there is nothing else, and nothing to change.
#[tokio::test]
async fn on_loopback_all_pages_are_open_and_there_are_no_others() {
    let (_backend, gateway) = start(|setup| setup).await;
    for path in PAGES {
        let answer = request(&gateway, "GET", path, "").await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    }
    for path in ["/status", "/metrics/", "//metrics", "/../metrics", "/healthz/x", "/admin"] {
        assert_eq!(request(&gateway, "GET", path, "").await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        let answer = request(&gateway, method, "/metrics", "Content-Length: 0\r\n").await;
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow").as_deref(), Some("GET, HEAD"));
    }
}

/// The status page and its JSON say the same: version, state, backends and their health.
#[tokio::test]
async fn the_status_tells_how_the_gateway_is() {
    let (backend, gateway) = start(|setup| setup).await;
    let page = get(gateway.admin, "/").await;
    let endpoint = format!("http://{}", backend.s3.address);
    for text in [env!("CARGO_PKG_VERSION"), "ready", "uploads", &endpoint, "well"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("<script"));
    let status: serde_json::Value =
        serde_json::from_str(&get(gateway.admin, "/status.json").await).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["state"], "ready");
    assert_eq!(status["permits"], 4096);
    assert_eq!(status["buckets"][0]["name"], "uploads");
    assert_eq!(status["buckets"][0]["endpoints"][0]["endpoint"], endpoint);
    assert_eq!(status["buckets"][0]["endpoints"][0]["failures"], 0);
}

/// RFC 6750, 3: without the token "the resource server MUST include the HTTP WWW-Authenticate
/// response header field". What `admin.open` names needs none.
#[tokio::test]
async fn a_token_protects_what_is_not_open() {
    let (_backend, gateway) = start(|setup| {
        setup.env("MIZUCHI__ADMIN__TOKEN", TOKEN).env("MIZUCHI__ADMIN__OPEN", "health")
    })
    .await;
    for path in PAGES {
        let open = ["/healthz", "/readyz"].contains(&path);
        for line in [
            String::new(),
            format!("Authorization: Bearer {TOKEN}x\r\n"),
            format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
            format!("Authorization: Basic {TOKEN}\r\n"),
            "Authorization: Bearer\r\n".to_owned(),
        ] {
            let answer = request(&gateway, "GET", path, &line).await;
            assert_eq!(answer.status, if open { 200 } else { 401 }, "{path} {line}");
            assert_eq!(answer.header("www-authenticate").is_some(), !open, "{path}");
        }
        let line = format!("Authorization: Bearer {TOKEN}\r\n");
        assert_eq!(request(&gateway, "GET", path, &line).await.status, 200, "{path}");
        assert_eq!(request(&gateway, "HEAD", path, "").await.status, if open { 200 } else { 401 });
    }
    assert!(!gateway.log().contains("canary"));
}

/// "Not on loopback and neither token nor client_ca_file": exit status 64.
#[tokio::test]
async fn beyond_loopback_it_does_not_start_unprotected() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.yaml");
    let check = |admin: &str| {
        let text = format!(
            "admin: {{{admin}}}\nauth: {{enabled: false}}\nbuckets:\n  - name: uploads\n    \
             s3: {{endpoint: embedded}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
        let output = command.arg("check").arg("--settings").arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = check("address: '0.0.0.0:9090', open: [health, metrics]");
    assert_eq!(code, Some(64), "{text}");
    assert!(text.contains("admin.address: other machines may reach it"), "{text}");
    let (code, text) = check(&format!("address: '0.0.0.0:9090', token: {TOKEN}"));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning: admin.token: travels unencrypted"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}

/// `admin.tls.client_ca_file`: "whoever has one may read everything"; what is open needs none.
#[tokio::test]
async fn a_client_certificate_is_a_credential() {
    let authority = Authority::new();
    authority.install(&authority.server());
    let path = |name: &str| authority.path(name).to_str().unwrap().to_owned();
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__ADMIN__TLS__CERT_FILE", &path("server.pem"))
        .env("MIZUCHI__ADMIN__TLS__KEY_FILE", &path("server.key"))
        .env("MIZUCHI__ADMIN__TLS__CLIENT_CA_FILE", &path("ca.pem"))
        .env("MIZUCHI__ADMIN__OPEN", "metrics")
        .start()
        .await;
    let read = async |trust: Trust, page: &str| {
        let stream = trust.open(gateway.admin).await.unwrap();
        ask(stream, &format!("GET {page} HTTP/1.1\r\nHost: admin\r\n\r\n")).await.status
    };
    for page in PAGES {
        let known = authority.client("reader", Vec::new(), false);
        assert_eq!(read(authority.trust().with(known), page).await, 200, "{page}");
        let open = page == "/metrics";
        assert_eq!(read(authority.trust(), page).await, if open { 200 } else { 401 }, "{page}");
        let stranger = Authority::new().client("reader", Vec::new(), false);
        // No session, and so no answer.
        assert_eq!(read(authority.trust().with(stranger), page).await, 999, "{page}");
    }
}

/// "Bounded request sizes": a head that is too large is refused, one that never ends is not waited for,
/// and neither stops others.
#[tokio::test]
async fn heads_are_bounded() {
    let (_backend, gateway) = start(|setup| setup).await;
    let large = format!("X-Large: {}\r\n", "x".repeat(32 * 1024));
    let answer = request(&gateway, "GET", "/metrics", &large).await;
    assert_eq!(answer.status, 431, "{}", answer.head);
    let mut stalled = Vec::new();
    for _ in 0..32 {
        let mut socket = TcpStream::connect(gateway.admin).await.unwrap();
        socket.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        stalled.push(socket);
    }
    assert_eq!(request(&gateway, "GET", "/healthz", "").await.status, 200);
    let mut rest = Vec::new();
    let _ = stalled[0].read_to_end(&mut rest).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}
