//! The audit log: one line for each decision and for the end of each upload that was allowed, whatever
//! happens.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer_with};
use crate::support::eventually;
use crate::support::gateway::{ACCESS_KEY, Gateway, SECRET_KEY, Setup};
use crate::support::ledger_s3::LedgerS3;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use time::OffsetDateTime;

fn to_file(setup: Setup, file: &Path) -> Setup {
    setup.env("MIZUCHI__AUDIT__TARGET", "file").env("MIZUCHI__AUDIT__FILE", file.to_str().unwrap())
}

fn over(backend: &Backend) -> Setup {
    Setup::new(backend, backend.s3.address)
}

/// Every line, each of which must be one JSON object.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'l>(lines: &'l [Value], event: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

async fn stop(mut gateway: Gateway) {
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
}

/// "One JSON line per decision": who, by what means, what for, and by whom it was decided; of a denial the
/// reason, which the client is not told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_decision_has_its_line_and_the_client_is_not_told_the_reason() {
    let backend = Backend::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit");
    let gateway = to_file(over(&backend), &file)
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ACCESS_KEY", "AKIALIMITED")
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__SECRET_KEY", "canary-limited")
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ALLOW__KEY_PREFIXES", "own/")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    let key = "a \"b\"\\ü\u{1F600}";
    let put = Request::put(key, 5).header("x-amz-meta-note", "canary-meta");
    assert_eq!(client.send(put, b"hello").await.status, 200);

    let limited = signer_with("AKIALIMITED", "canary-limited", "us-east-1");
    let wrong = signer_with(ACCESS_KEY, "canary-wrong", "us-east-1");
    let unknown = signer_with("AKIAUNKNOWN", "canary-wrong", "us-east-1");
    let mut told = Vec::new();
    for signer in [&limited, &wrong, &unknown] {
        let mut client = Client::connect(&gateway).await;
        let request = Request::put("elsewhere", 1);
        let head = request.sign(&client.host, signer, OffsetDateTime::now_utc());
        let answer = client.raw(&head, b"x").await;
        assert_eq!(answer.status, 403);
        told.push(answer.text());
    }
    // A request that nobody had to decide on has no line.
    let elsewhere = Request { path: "/nowhere/k".into(), ..Request::put("", 0) };
    assert_eq!(client.send(elsewhere, b"").await.status, 404);
    drop(client);
    stop(gateway).await;

    let lines = lines(&file);
    let decisions = of(&lines, "decision");
    let shown: Vec<_> = decisions
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            (text("principal"), text("by"), line["allowed"] == true, text("code"))
        })
        .collect();
    let row = |principal: &str, by: &str, allowed, code: &str| {
        (principal.to_owned(), by.to_owned(), allowed, code.to_owned())
    };
    assert_eq!(
        shown,
        [
            row("tester", "grants", true, "-"),
            row("AKIALIMITED", "grants", false, "AccessDenied"),
            row("-", "authentication", false, "SignatureDoesNotMatch"),
            row("-", "authentication", false, "InvalidAccessKeyId"),
        ]
    );
    assert_eq!((&decisions[0]["key"], &decisions[0]["means"]), (&key.into(), &"header".into()));
    assert_eq!(
        (&decisions[0]["operation"], &decisions[0]["bucket"]),
        (&"PutObject".into(), &"uploads".into())
    );
    assert_eq!(decisions[0]["client_ip"], "127.0.0.1");
    let reason = decisions[1]["reason"].as_str().unwrap();
    assert!(!reason.is_empty() && !told[0].contains(reason), "{reason}: {}", told[0]);
    let uploads = of(&lines, "upload");
    assert_eq!(uploads.len(), 1);
    assert_eq!(uploads[0]["request_id"], decisions[0]["request_id"]);
    assert_eq!((&uploads[0]["bytes"], &uploads[0]["status"]), (&5.into(), &200.into()));
    assert!(uploads[0]["etag"].as_str().is_some_and(|etag| etag.len() > 10));
    let time = lines[0]["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "RFC 3339, milliseconds: {time}");

    let text = std::fs::read_to_string(&file).unwrap();
    for secret in ["canary", SECRET_KEY, "Signature=", "AWS4-HMAC-SHA256"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// "One per completed PutObject, part and complete": with what came of it, an error too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_of_a_multipart_upload_has_its_end() {
    let backend = Backend::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit");
    let gateway = to_file(over(&backend), &file).start().await;
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let part = || Request::put("k", 5).query("partNumber", "1").query("uploadId", &id);
    let etag = client.send(part(), b"hello").await.header("etag").unwrap();
    let list = Request::method("GET", "k").query("uploadId", &id);
    assert_eq!(client.send(list, b"").await.status, 200);
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    // The second time the upload is gone, and the object is there.
    for _ in 0..2 {
        let complete = Request {
            length: Some(document.len() as u64),
            payload: mizuchi_actors::sigv4::PayloadHash::of(document.as_bytes()),
            ..Request::method("POST", "k").query("uploadId", &id)
        };
        assert_eq!(client.send(complete, document.as_bytes()).await.status, 200);
    }
    assert_eq!(client.send(part(), b"hello").await.status, 404);
    drop(client);
    stop(gateway).await;
    let lines = lines(&file);
    assert_eq!(of(&lines, "decision").len(), 6);
    let ends: Vec<_> = of(&lines, "upload")
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("operation"), line["status"].as_u64().unwrap(), text("code"))
        })
        .collect();
    let row = |operation: &str, status, code: &str| (operation.to_owned(), status, code.to_owned());
    assert_eq!(
        ends,
        [
            row("CreateMultipartUpload", 200, ""),
            row("UploadPart", 200, ""),
            row("CompleteMultipartUpload", 200, ""),
            row("CompleteMultipartUpload", 200, ""),
            row("UploadPart", 404, "NoSuchUpload"),
        ]
    );
    let all = std::fs::read_to_string(&file).unwrap();
    assert!(!all.contains(&id), "an uploadId is a capability");
}

/// "200 concurrent uploads: exactly 200 decisions and 200 uploads"; "SIGTERM keeps every line".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_at_once_have_each_its_two_lines_when_the_gateway_has_ended() {
    let backend = Backend::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit");
    let gateway = to_file(over(&backend), &file).start().await;
    let mut clients = Vec::new();
    for number in 0..200 {
        let mut client = Client::connect(&gateway).await;
        clients.push(tokio::spawn(async move {
            let answer = client.send(Request::put(&format!("k{number}"), 5), b"hello").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    stop(gateway).await;
    let lines = lines(&file);
    for event in ["decision", "upload"] {
        let mut keys: Vec<_> =
            of(&lines, event).iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect();
        assert_eq!(keys.len(), 200, "{event}");
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 200, "{event}");
    }
    assert_eq!(lines.len(), 400);
}

/// "rotation by size with max_files kept", and a restart that goes on where the last run ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_rotate_by_size_and_a_restart_goes_on() {
    let backend = LedgerS3::start(false).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("folder/audit");
    let setup = || {
        to_file(Setup::over(backend.address), &file)
            .env("MIZUCHI__AUDIT__MAX_SIZE", "64KiB")
            .env("MIZUCHI__AUDIT__MAX_FILES", "2")
    };
    let (long, mut total) = ("k".repeat(1000), 0);
    // Each upload is some 2.8 KB of lines: the first run fills no file, the second one five.
    for uploads in [10, 120] {
        let gateway = setup().start().await;
        let mut client = Client::connect(&gateway).await;
        for _ in 0..uploads {
            assert_eq!(client.send(Request::put(&long, 1), b"x").await.status, 200);
            total += 2;
        }
        drop(client);
        stop(gateway).await;
        if uploads == 10 {
            assert_eq!(lines(&file).len(), total, "one file");
        }
    }
    let mut names: Vec<_> = std::fs::read_dir(file.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["audit", "audit.1", "audit.2"]);
    let mut kept = 0;
    for name in names {
        let path = file.with_file_name(name);
        assert!(std::fs::metadata(&path).unwrap().len() <= 64 * 1024);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        kept += lines(&path).len();
    }
    assert!(kept < total && kept > 60, "{kept} of {total}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_may_go_to_standard_output() {
    let backend = Backend::start().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("stdout");
    let mut setup = over(&backend).env("MIZUCHI__AUDIT__TARGET", "stdout");
    setup.stdout = Some(file.clone());
    let gateway = setup.start().await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.send(Request::put("k", 5), b"hello").await.status, 200);
    eventually("both lines", async || lines(&file).len() == 2).await;
}

/// "a request whose decision cannot be recorded is 503 (fail closed)", or goes on and is counted: on a
/// disk that is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_the_uploads_where_the_log_is_required() {
    let backend = Backend::start().await;
    for (required, status) in [("true", 503), ("false", 200)] {
        let setup = to_file(over(&backend), Path::new("/dev/full"));
        let gateway = setup.env("MIZUCHI__AUDIT__REQUIRED", required).start().await;
        let mut client = Client::connect(&gateway).await;
        let answer = client.send(Request::put(required, 5), b"hello").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(backend.object(required).is_some(), status == 200);
        eventually("the loss is counted", async || {
            gateway.metric("mizuchi_audit_lost_total").await >= 1.0
        })
        .await;
        gateway.log_with("No space left on device").await;
    }
}

/// A file that cannot be opened is noticed at the start.
#[test]
fn a_file_that_cannot_be_opened_keeps_the_gateway_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mizuchi"))
        .arg("serve")
        .env("MIZUCHI__SERVER__ADDRESS", "127.0.0.1:0")
        .env("MIZUCHI__ADMIN__ADDRESS", "127.0.0.1:0")
        .env("MIZUCHI__SERVER__STATE_DIRECTORY", directory.path().join("state"))
        .env("MIZUCHI__EMBEDDED__DIRECTORY", directory.path().join("objects"))
        .env("MIZUCHI__AUTH__ENABLED", "false")
        .env("MIZUCHI__BUCKETS__0__NAME", "uploads")
        .env("MIZUCHI__BUCKETS__0__S3__ENDPOINT", "embedded")
        .env("MIZUCHI__AUDIT__TARGET", "file")
        .env("MIZUCHI__AUDIT__FILE", directory.path().join("file/audit"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(70));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("audit.file ") && text.contains("file/audit: "), "{text}");
}
