//! What goes wrong: backends, networks, and files that somebody writes to.

use super::*;
use crate::support::eventually;
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::proxy::{Fault, Proxy};
use std::io::Write as _;

/// Whatever becomes of single requests: the command ends with everything there.
#[tokio::test]
async fn requests_that_fail_are_made_again() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    for index in 0..20 {
        desk.file(&format!("f{index}"), &payload(1000 + index));
    }
    desk.file("middle", &payload(400_000));
    desk.file("large", &payload(16 << 20));
    let busy = || Twist::Answer(503, "SlowDown");
    s3.script([
        ("Put", Twist::ResetBefore),
        ("Put", Twist::LoseAnswer),
        ("Put", Twist::Truncate),
        // More than the engine makes up for by itself.
        ("Put", busy()),
        ("Put", busy()),
        ("Put", busy()),
        ("Put", busy()),
        // Damaged on its way.
        ("Put", Twist::Answer(400, "BadDigest")),
        ("Create", busy()),
        ("Part", Twist::ResetInside),
        ("Part", Twist::LoseAnswer),
        ("Complete", Twist::LoseAnswer),
    ]);
    let arguments = ["files", "s3://store", "--endpoint", &url(s3.address), "--part-size", "5MiB"];
    desk.run(&arguments).await.assert(0);
    assert!(s3.script_done());
    s3.books(|books| {
        assert_eq!(books.objects.len(), 22);
        for index in 0..20 {
            assert_eq!(books.objects[&format!("f{index}")].length, 1000 + index);
        }
        assert_eq!((books.objects["large"].length, books.completed), (16 << 20, 1));
    });
}

/// A backend that is away for longer than one file's tries is waited for.
#[tokio::test]
async fn a_backend_that_comes_back_is_gone_on_with() {
    let s3 = LedgerS3::start(true).await;
    let proxy = Proxy::start(s3.address).await;
    let desk = Desk::new();
    for index in 0..50 {
        desk.file(&format!("f{index}"), &payload(index));
    }
    proxy.set_away(true);
    let endpoint = url(proxy.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--verbose"];
    let mut child = desk.command(&arguments).spawn().unwrap();
    until_it_says(&mut child, "tried again").await;
    proxy.set_away(false);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(s3.books(|books| books.objects.len()), 50);
}

/// "permanent errors (403, 404 NoSuchBucket) on the first file end the run early with what to do"
#[tokio::test]
async fn what_no_file_survives_ends_the_run_early() {
    let served = Served::start().await;
    let desk = Desk::new();
    for index in 0..300 {
        desk.file(&format!("f{index}"), b"x");
    }
    let endpoint = url(served.gateway.address);
    for (bucket, secret, problem) in [
        ("nowhere", SECRET_KEY, "404 NoSuchBucket"),
        ("uploads", "wrong", "403 SignatureDoesNotMatch"),
    ] {
        let to = format!("s3://{bucket}/p");
        let arguments = ["files", &to, "--endpoint", &endpoint, "--concurrency", "8"];
        let mut command = desk.command(&arguments);
        command.env("AWS_SECRET_ACCESS_KEY", secret);
        let ran = ran(command).await;
        ran.assert(1);
        assert_eq!(ran.err.matches(problem).count(), 1, "{}", ran.err);
        assert!(ran.err.contains("ended early") && ran.err.contains("(check "), "{}", ran.err);
        assert!(!ran.err.contains(secret));
        assert_eq!(desk.state(), None, "nothing was done");
    }
    let denied = "mizuchi_auth_attempts_total{method=\"header\",result=\"denied\"}";
    let denied = served.gateway.metric(denied).await;
    assert!((1.0..=8.0).contains(&denied), "{denied}: as many as were under way");
    assert_eq!(served.backend.objects().len(), 0);
    let unreachable =
        ["files", "s3://uploads", "--endpoint", "http://127.0.0.1:1", "--retries", "0"];
    let mut command = desk.command(&unreachable);
    command.env("HTTPS_PROXY", "http://127.0.0.1:2");
    let unreached = ran(command).await;
    for text in [
        "cannot be reached: no connection: Connection refused",
        "nothing gets through",
        "HTTPS_PROXY is set",
    ] {
        assert!(unreached.assert(1).err.contains(text), "{text}: {}", unreached.err);
    }
    assert!(!unreached.err.contains("503"), "{}", unreached.err);
}

/// "403 … on the first file": where others are taken, a policy may be about this one.
#[tokio::test]
async fn a_refusal_of_one_file_is_that_file_s_alone() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    for index in 0..10 {
        desk.file(&format!("f{index}"), b"x");
    }
    s3.script([("Put", Twist::Trickle), ("Put", Twist::Answer(403, "AccessDenied"))]);
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--concurrency", "1"];
    let ran = desk.run(&[&arguments[..], &["--json"]].concat()).await;
    let events = ran.assert(1).events();
    let failed: Vec<_> = events.iter().filter(|line| line["event"] == "failed").collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0]["why"].as_str().unwrap().starts_with("403 AccessDenied"));
    assert_eq!(failed[0]["code"], "AccessDenied");
    assert!(failed[0]["key"].as_str().unwrap().starts_with('f'), "{}", failed[0]);
    assert_eq!(events.last().unwrap()["uploaded"], 9);
    // What earlier runs have sent shows the same: its first answer need not be a success.
    desk.file("g0", b"x");
    desk.file("g1", b"x");
    s3.script([("Put", Twist::Answer(403, "AccessDenied"))]);
    let again = desk.run(&[&arguments[..], &["--json"]].concat()).await;
    let summary = again.assert(1).events().pop().unwrap();
    assert_eq!((&summary["failed"], &summary["uploaded"]), (&1.into(), &2.into()));
    desk.run(&arguments).await.assert(0);
    assert_eq!(s3.books(|books| (books.objects.len(), books.puts)), (12, 12));
}

/// "so many 403 one after another end the run": it is not about single files then.
#[tokio::test]
async fn refusals_without_end_end_the_run() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    for index in 0..100 {
        desk.file(&format!("f{index}"), b"x");
    }
    let refused = std::iter::repeat_n(("Put", Twist::Answer(403, "AccessDenied")), 99);
    s3.script(std::iter::once(("Put", Twist::Trickle)).chain(refused));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--concurrency", "1"];
    let ran = desk.run(&arguments).await;
    ran.assert(1);
    assert_eq!(ran.err.matches("FAILED: ").count(), 31, "{}", ran.err);
    assert!(ran.err.contains("ended early: 403 AccessDenied"), "{}", ran.err);
    assert!(ran.err.contains(", for \"f"), "{}", ran.err);
}

/// "Where the gateway's bucket has `overwrite: deny`": what is there already is that file's failure.
#[tokio::test]
async fn what_may_not_be_overwritten_is_that_file_s_failure() {
    let backend = Backend::start().await;
    let setup = Setup::new(&backend, backend.s3.address);
    let gateway = setup.bucket("    upload:\n      overwrite: deny\n").start().await;
    let desk = Desk::new();
    desk.file("old", b"1");
    let endpoint = url(gateway.address);
    let arguments = ["files", "s3://uploads", "--endpoint", &endpoint];
    desk.run(&arguments).await.assert(0);
    desk.file("old", b"2");
    desk.file("new", b"3");
    let ran = desk.run(&[&arguments[..], &["--json"]].concat()).await;
    let events = ran.assert(1).events();
    let failed = events.iter().find(|line| line["event"] == "failed").unwrap();
    assert_eq!((&failed["key"], &failed["code"]), (&"old".into(), &"PreconditionFailed".into()));
    assert_eq!(backend.object("old").unwrap(), b"1");
    assert_eq!(backend.object("new").unwrap(), b"3");
}

/// "Individual objects … in a single PUT operation … 5 GB": a longer file goes in parts, however large these
/// may be.
#[tokio::test]
async fn no_request_is_larger_than_s3_takes() {
    let s3 = LedgerS3::start(false).await;
    let desk = Desk::new();
    let file = std::fs::File::create(desk.path("files/sparse")).unwrap();
    file.set_len((5 << 30) + 1).unwrap();
    s3.script([("Create", Twist::Answer(400, "InvalidArgument"))]);
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5GiB"];
    let ran = desk.run(&[&arguments[..], &["--checksum", "none"]].concat()).await;
    assert!(ran.assert(1).err.contains("400 InvalidArgument"), "{}", ran.err);
    assert!(s3.script_done() && s3.books(|books| books.puts) == 0);
}

/// "a file that changes while it is sent: detected -> failed for that file, said so". One in parts never
/// comes to be, and nothing is left of it.
#[tokio::test]
async fn a_file_that_changes_is_not_taken_for_sent() {
    tokio::join!(
        changes_while_it_is_sent(400_000, false),
        changes_while_it_is_sent(11 << 20, true)
    );
}

async fn changes_while_it_is_sent(length: usize, parts: bool) {
    let s3 = LedgerS3::start(true).await;
    let proxy = Proxy::start(s3.address).await;
    let desk = Desk::new();
    let path = desk.file("changing", &payload(length));
    // Nothing is answered until the file is another.
    let delay = Fault::DelayAnswer(Duration::from_millis(700));
    let before = parts.then_some(Fault::None);
    proxy.script(before.into_iter().chain([delay.clone(), delay.clone(), delay]));
    let endpoint = url(proxy.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let child = desk.command(&arguments).spawn().unwrap();
    eventually("its bytes have arrived", async || {
        s3.books(|books| {
            if parts { books.part_requests > 0 } else { books.objects.contains_key("changing") }
        })
    })
    .await;
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"more").unwrap();
    drop(file);
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED: files/changing: it changed while it was sent"), "{text}");
    if parts {
        s3.books(|books| {
            assert_eq!((books.completed, books.uploads.len()), (0, 0));
            assert!(!books.objects.contains_key("changing"));
        });
    }
    desk.run(&arguments).await.assert(0);
    assert_eq!(s3.books(|books| books.objects["changing"].length), length as u64 + 4);
}

/// "the answer's ETag/checksum compared"
#[tokio::test]
async fn an_etag_of_other_bytes_is_a_failure() {
    // Bodies are not hashed there: every ETag is that of nothing.
    let s3 = LedgerS3::start(false).await;
    let desk = Desk::new();
    desk.file("f", b"x");
    let endpoint = url(s3.address);
    let ran = desk.run(&["files", "s3://store", "--endpoint", &endpoint]).await;
    assert!(ran.assert(1).err.contains("the backend's ETag is d41d8cd9"), "{}", ran.err);
}

/// Hexadecimal digits have no case: Alibaba Cloud OSS writes ETags in capitals.
#[tokio::test]
async fn etags_in_capitals_are_the_same() {
    let s3 = LedgerS3::start(true).await;
    s3.books(|books| books.capitals = true);
    let desk = Desk::new();
    desk.file("small", b"x");
    desk.file("large", &payload(15 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    s3.script([("Part", Twist::Trickle), ("Part", Twist::Answer(400, "InvalidArgument"))]);
    desk.run(&[&arguments[..], &["--concurrency", "1"]].concat()).await.assert(1);
    desk.run(&arguments).await.assert(0);
    s3.books(|books| {
        assert_eq!(books.objects["small"].etag, "\"9DD4E461268C8034F5C8564E155C67A6\"");
        assert_eq!((books.created, books.completed, books.part_requests), (1, 1, 3));
    });
}
