//! TLS to the backend: a terminator before the fault proxy.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::{ACCESS_KEY, Gateway, SECRET_KEY, Setup};
use crate::support::payload;
use crate::support::proxy::{Fault, Proxy};
use crate::support::tls::Terminator;
use base64::Engine as _;
use md5::Digest as _;
use std::path::Path;
use std::process::{Command, Output};

const ENDPOINT: &str = "MIZUCHI__BUCKETS__0__S3__ENDPOINT";
const CA_FILE: &str = "MIZUCHI__BUCKETS__0__S3__TLS__CA_FILE";

fn setup(backend: &Backend, endpoint: &str, ca_file: &Path) -> Setup {
    Setup::new(backend, backend.s3.address)
        .env(ENDPOINT, endpoint)
        .env(CA_FILE, ca_file.to_str().unwrap())
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "5ms")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_CAP", "50ms")
}

async fn start() -> (Backend, Proxy, Terminator, Gateway) {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let terminator = Terminator::start(proxy.address).await;
    let gateway = setup(&backend, &terminator.url(), &terminator.ca_file()).start().await;
    (backend, proxy, terminator, gateway)
}

async fn put(gateway: &Gateway, backend: &Backend, key: &str, body: &[u8]) {
    let mut client = Client::connect(gateway).await;
    let answer = client.send(Request::put(key, body.len()), body).await;
    assert_eq!(answer.status, 200, "{key}: {}", answer.text());
    assert!(backend.object(key).unwrap() == body, "{key}: other bytes");
}

#[tokio::test]
async fn bodies_of_all_sizes_arrive() {
    let (backend, _proxy, terminator, gateway) = start().await;
    for length in [0, 1, 2000, 100_000, 32 << 20] {
        put(&gateway, &backend, &format!("size/{length}"), &payload(length)).await;
    }
    assert_eq!(gateway.metric("mizuchi_zero_copy_bytes_total").await, 0.0);
    // Where nothing is spliced, that is the reason.
    let (reason, small) =
        if mizuchi_actors::platform::ZERO_COPY { ("tls", 0) } else { ("disabled", 2001) };
    let series = format!("mizuchi_transfer_bytes_total{{plan=\"copy\",reason=\"{reason}\"}}");
    let over_tls = gateway.metric(&series).await;
    assert_eq!(over_tls, f64::from(100_000 + (32 << 20) + small));
    // Connections are kept: session tickets do not make them stale.
    let (begun, resumed) = terminator.sessions();
    assert!(begun + resumed <= 2, "{begun} begun, {resumed} resumed");
    gateway.settled().await;
}

#[tokio::test]
async fn multipart_uploads_arrive() {
    let (backend, proxy, _terminator, gateway) = start().await;
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "parts").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let (parts, mut document) = ([payload(6 << 20), payload(70_000)], String::new());
    for (number, body) in (1..).zip(&parts) {
        // A part whose answer is lost is sent again, proof or none.
        proxy.script([Fault::LoseAnswerAfter(body.len())]);
        let request = Request::put("parts", body.len())
            .query("partNumber", &number.to_string())
            .query("uploadId", &id);
        let answer = client.send(request, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(proxy.script_done());
        let etag = answer.header("etag").unwrap();
        document += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>");
    }
    let document = format!("<CompleteMultipartUpload>{document}</CompleteMultipartUpload>");
    let mut request = Request::put("parts", document.len()).query("uploadId", &id);
    request.method = "POST";
    let answer = client.send(request, document.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(backend.object("parts").unwrap() == parts.concat());
    gateway.settled().await;
}

#[tokio::test]
async fn an_ipv6_endpoint_is_reached_and_verified() {
    let backend = Backend::start().await;
    let terminator = Terminator::on("[::1]:0", backend.s3.address).await;
    assert!(terminator.url().starts_with("https://[::1]:"));
    let gateway = setup(&backend, &terminator.url(), &terminator.ca_file()).start().await;
    put(&gateway, &backend, "six", &payload(100_000)).await;
}

/// "The backend dies in the middle of a part: the client's upload succeeds", and so it does when
/// the backend refuses in the middle.
#[tokio::test]
async fn a_backend_that_fails_in_the_middle_is_not_noticed() {
    const SLOW_DOWN: &str = "HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\n\r\n";
    let (backend, proxy, _terminator, gateway) = start().await;
    let body = payload(32 << 20);
    proxy.script([Fault::ResetAfter(5 << 20), Fault::ResetAfter(9 << 20)]);
    put(&gateway, &backend, "reset", &body).await;
    assert!(proxy.script_done());
    assert_eq!(gateway.metric("mizuchi_part_restarts_total").await, 2.0);
    for (index, length) in [200, 100_000, 6 << 20].into_iter().enumerate() {
        proxy.script([Fault::AnswerAfter(length / 2, SLOW_DOWN)]);
        put(&gateway, &backend, &format!("refused/{index}"), &body[..length]).await;
        assert!(proxy.script_done());
    }
    gateway.settled().await;
}

#[tokio::test]
async fn a_lost_answer_is_proven_or_is_503() {
    let (backend, proxy, _terminator, gateway) = start().await;
    for length in [2000, 100_000] {
        let body = payload(length);
        proxy.script([Fault::LoseAnswerAfter(length)]);
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(Request::put("unprovable", length), &body).await;
        assert_eq!(answer.status, 503, "{}", answer.text());

        let md5 = base64::engine::general_purpose::STANDARD.encode(md5::Md5::digest(&body));
        proxy.script([Fault::LoseAnswerAfter(length)]);
        let key = format!("proven/{length}");
        let request = Request::put(&key, length).header("content-md5", &md5);
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(request, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(proxy.script_done() && answer.header("etag").is_some());
        assert_eq!(backend.object(&key).unwrap(), body);
    }
    gateway.settled().await;
}

/// Connections that the backend closes while idle are not used, and new ones resume a session.
#[tokio::test]
async fn closed_connections_are_replaced_by_resumed_sessions() {
    let (backend, proxy, terminator, gateway) = start().await;
    for index in 0..30 {
        proxy.script([Fault::CloseAfterAnswer]);
        let length = if index % 2 == 0 { 500 } else { 100_000 };
        put(&gateway, &backend, &format!("idle/{index}"), &payload(length)).await;
    }
    let (begun, resumed) = terminator.sessions();
    assert!(begun <= 2 && resumed >= 25, "{begun} begun, {resumed} resumed");
}

/// A bucket may have endpoints of both kinds.
#[tokio::test]
async fn http_and_https_endpoints_serve_one_bucket() {
    let (backend, _proxy, terminator, _) = start().await;
    let endpoints = format!("http://{},{}", backend.s3.address, terminator.url());
    let gateway = setup(&backend, &endpoints, &terminator.ca_file()).start().await;
    for index in 0..30 {
        put(&gateway, &backend, &format!("both/{index}"), &payload(80_000)).await;
    }
    assert_ne!(terminator.sessions(), (0, 0));
    assert_eq!(gateway.metric("mizuchi_zero_copy_bytes_total").await, 0.0);
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_503_and_the_log_says_why() {
    let backend = Backend::start().await;
    let terminator = Terminator::start(backend.s3.address).await;
    let stranger = Terminator::start(backend.s3.address).await;
    let untrusted = setup(&backend, &terminator.url(), &stranger.ca_file());
    let misnamed = setup(&backend, &terminator.url(), &terminator.ca_file())
        .env("MIZUCHI__BUCKETS__0__S3__TLS__SERVER_NAME", "other.test");
    for (setup, told) in [
        (untrusted, ["unknown issuer", "s3.tls.ca_file"]),
        (misnamed, ["not for other.test, but for", "s3.tls.server_name"]),
    ] {
        let gateway = setup.start().await;
        for length in [500, 100_000] {
            let mut client = Client::connect(&gateway).await;
            let answer = client.send(Request::put("never", length), &payload(length)).await;
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(!answer.text().contains("TLS"), "{}", answer.text());
        }
        for words in told {
            gateway.log_with(words).await;
        }
        gateway.settled().await;
    }
    assert_eq!(backend.object("never"), None);
    let named = setup(&backend, &terminator.url(), &terminator.ca_file())
        .env("MIZUCHI__BUCKETS__0__S3__TLS__SERVER_NAME", "backend.test");
    put(&named.start().await, &backend, "named", b"body").await;
}

fn mizuchi(arguments: &[&str], backend: &Backend, terminator: &Terminator) -> Command {
    let text = format!(
        "server: {{address: '127.0.0.1:0'}}\nadmin: {{address: '127.0.0.1:0'}}\n\
         buckets:\n  - name: uploads\n    s3: {{bucket: store, region: us-east-1, endpoint: '{}',\n      \
         verifies: [md5], access_key: '{}', secret_key: '{}'}}\n\
         auth: {{sigv4: {{credentials: [{{access_key: {ACCESS_KEY}, secret_key: {SECRET_KEY}}}]}}}}\n",
        terminator.url(),
        backend.s3.access_key,
        backend.s3.secret_key,
    );
    // Beside the authority's certificate, in a folder that lives as long.
    let file = terminator.ca_file().with_file_name("settings.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
    command.args(arguments).env("MIZUCHI_SETTINGS", &file);
    command.current_dir(terminator.ca_file().parent().unwrap());
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_works_through_tls() {
    let backend = Backend::start().await;
    let terminator = Terminator::start(backend.s3.address).await;
    let mut command = mizuchi(&["check", "--probe"], &backend, &terminator);
    command.env(CA_FILE, terminator.ca_file());
    let output = output(command).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("uploads: md5: verified"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(backend.objects(), Vec::<String>::new(), "{text}");
}

/// What is missing for TLS is said at the start, with what to do about it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_authorities_fails() {
    let backend = Backend::start().await;
    let terminator = Terminator::start(backend.s3.address).await;
    let empty = terminator.ca_file().with_file_name("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let mut command = mizuchi(&["check", "--probe"], &backend, &terminator);
    command.env("SSL_CERT_FILE", &empty).env_remove("SSL_CERT_DIR");
    let told = output(command).await;
    let text = String::from_utf8(told.stderr).unwrap();
    assert!(text.contains("bucket uploads: this system has no certificates"), "{text}");
    assert!(text.contains("s3.tls.ca_file") && !told.status.success(), "{text}");

    for (file, problem) in [("none.pem", "cannot be read"), ("empty.pem", "holds no certificate")] {
        let mut command = mizuchi(&["check"], &backend, &terminator);
        command.env(CA_FILE, file);
        let told = output(command).await;
        let text = String::from_utf8(told.stderr).unwrap();
        assert!(text.starts_with("buckets[0].s3.tls.ca_file: "), "{text}");
        assert!(text.contains(problem) && text.contains(file), "{text}");
        assert_eq!(told.status.code(), Some(64));
    }
}
