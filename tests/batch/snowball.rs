//! `x-amz-meta-snowball-auto-extract: true`.

use super::archives::{Tar, gnu, gzip, zstd};
use super::{ALLOW, Rig, md5, start};
use crate::support::client::{Client, Request};
use crate::support::eventually;
use crate::support::ledger_s3::Twist;
use crate::support::payload;
use mizuchi_actors::sigv4::PayloadHash;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn entries() -> Vec<(String, Vec<u8>)> {
    let long = format!("{}/{}", "folder".repeat(30), "name".repeat(40));
    let mut entries = vec![
        ("empty".to_owned(), Vec::new()),
        ("a/one".to_owned(), b"1".to_vec()),
        ("a b/ü+%41".to_owned(), payload(700)),
        ("edge".to_owned(), payload(65_536)),
        ("over".to_owned(), payload(65_537)),
        ("large".to_owned(), payload(3 << 20)),
        (long, payload(513)),
    ];
    entries.extend((0..200).map(|i| (format!("many/{i}"), payload(i))));
    entries
}

/// "whose entries become objects": all of them, byte for byte, however the archive is packed; the archive
/// itself becomes none, and nothing of it stays in the spool. The ETag is the archive's MD5.
#[tokio::test]
async fn every_file_of_an_archive_becomes_an_object() {
    let (entries, rig) = (entries(), Rig::new().await);
    let plain = gnu(&entries);
    for archive in [gzip(&plain), zstd(&plain), plain] {
        rig.s3.books(|books| books.objects.clear());
        let answer = rig.put(&archive).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("etag"), Some(format!("\"{}\"", md5(&archive))));
        let count = entries.len().to_string();
        assert_eq!(answer.header("x-mizuchi-batch-stored"), Some(count));
        assert_eq!(answer.header("x-mizuchi-batch-failed").as_deref(), Some("0"));
        for (key, body) in &entries {
            rig.assert_is(key, body);
        }
        assert_eq!(rig.keys().len(), entries.len());
        rig.left_nothing().await;
    }
    let stored = rig.gateway.metric("mizuchi_batch_entries_total{outcome=\"stored\"}").await;
    assert_eq!(stored, 3.0 * entries.len() as f64);
}

/// A small archive is never a file: it is unpacked from memory.
#[tokio::test]
async fn a_small_archive_and_an_empty_one_do_too() {
    let rig = Rig::new().await;
    let answer = rig.put(&Tar::new().file("./a", b"x").end()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    rig.assert_is("a", b"x");
    let answer = rig.put(&Tar::new().end()).await;
    assert_eq!(answer.header("x-mizuchi-batch-stored").as_deref(), Some("0"), "{}", answer.text());
    rig.left_nothing().await;
}

/// MinIO: "MinIOSnowballPrefix will apply this prefix (plus / at end) to all extracted objects"; "IgnoreDirs
/// will skip creating empty directory objects". Metadata is that of the PUT, but for what describes the
/// archive.
#[tokio::test]
async fn the_options_are_minio_s_and_metadata_is_that_of_the_put() {
    let rig = Rig::new().await;
    let archive = gzip(&Tar::new().folder("./").folder("d/").file("d/a", b"x").end());
    let with = |request: Request| {
        request
            .header("x-amz-meta-minio-snowball-prefix", "/in/here/")
            .header("x-amz-meta-owner", "me")
            .header("cache-control", "no-store")
            .header("content-type", "application/x-tar")
            .header("content-encoding", "gzip")
    };
    let answer = rig.put_with(&archive, with).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(rig.keys(), ["in/here/d/", "in/here/d/a"]);
    let headers = rig.s3.books(|books| books.objects["in/here/d/a"].headers.clone());
    let of = |name: &str| headers.get(name).map(String::as_str);
    assert_eq!(of("x-amz-meta-owner"), Some("me"));
    assert_eq!(of("cache-control"), Some("no-store"));
    assert_eq!(of("content-type"), None);
    assert_eq!(of("content-encoding"), None);
    assert!(of("content-md5").is_some());
    assert!(!headers.keys().any(|name| name.contains("snowball")), "{headers:?}");
    rig.s3.books(|books| books.objects.clear());
    let without =
        |request: Request| request.header("x-amz-meta-minio-snowball-ignore-dirs", "true");
    assert_eq!(rig.put_with(&archive, without).await.status, 200);
    assert_eq!(rig.keys(), ["d/a"]);
    let odd = |request: Request| request.header("x-amz-meta-minio-snowball-prefix", "a/../b");
    assert_eq!(rig.put_with(&archive, odd).await.code(), "InvalidArgument");
    let conditional = |request: Request| request.header("if-match", "\"e\"");
    assert_eq!(rig.put_with(&archive, conditional).await.code(), "InvalidRequest");
}

/// "duplicate names": the last of a name is its object, and no other ever was.
#[tokio::test]
async fn of_one_name_the_last_counts() {
    let rig = Rig::new().await;
    let mut tar = Tar::new();
    for round in 0..50u8 {
        tar = tar.file("same", &[round; 10]).file("./same", &[round + 100; 10]);
    }
    let answer = rig.put(&tar.file("other", b"o").end()).await;
    assert_eq!(answer.header("x-mizuchi-batch-stored").as_deref(), Some("2"), "{}", answer.text());
    rig.assert_is("same", &[149; 10]);
    assert_eq!(rig.gateway.metric("mizuchi_batch_entries_total").await, 2.0);
}

/// "opt-in per bucket".
#[tokio::test]
async fn an_archive_is_refused_where_nobody_has_asked_for_it() {
    let rig = Rig::with("", |setup| setup).await;
    let archive = Tar::new().file("a", b"x").end();
    let answer = rig.put(&archive).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    // Only `true` asks for it.
    let mut client = Client::connect(&rig.gateway).await;
    let request =
        Request::put("kept.tar", archive.len()).header("x-amz-meta-snowball-auto-extract", "false");
    assert_eq!(client.send(request, &archive).await.status, 200);
    assert_eq!(rig.keys(), ["kept.tar"]);
    let rig = Rig::new().await;
    let mut client = Client::connect(&rig.gateway).await;
    let create = Request::method("POST", "k")
        .query("uploads", "")
        .header("x-amz-meta-snowball-auto-extract", "true");
    assert_eq!(client.send(create, b"").await.code(), "NotImplemented");
}

/// "the archive is spooled and verified before any entry is published": a body that is not what its client
/// signed, or that ends early, is nothing.
#[tokio::test]
async fn nothing_is_published_of_a_body_that_is_not_what_was_signed() {
    let rig = Rig::new().await;
    let archive = gnu(&entries());
    let wrong = PayloadHash::Hash(Sha256::digest(b"other").into());
    let answer = rig.put_with(&archive, |request| request.payload(wrong)).await;
    assert_eq!(answer.code(), "XAmzContentSHA256Mismatch");
    let md5 = |request: Request| request.header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==");
    assert_eq!(rig.put_with(&archive, md5).await.code(), "BadDigest");
    let crc = |request: Request| request.header("x-amz-checksum-crc32", "AAAAAA==");
    assert_eq!(rig.put_with(&archive, crc).await.code(), "BadDigest");
    let right = PayloadHash::Hash(Sha256::digest(&archive).into());
    let mut client = Client::connect(&rig.gateway).await;
    let head = Request::put("s.tar", archive.len())
        .header("x-amz-meta-snowball-auto-extract", "true")
        .payload(right)
        .sign(&client.host, &crate::support::client::signer(), time::OffsetDateTime::now_utc());
    use tokio::io::AsyncWriteExt as _;
    client.socket.write_all(&head).await.unwrap();
    client.socket.write_all(&archive[..archive.len() - 1]).await.unwrap();
    client.socket.shutdown().await.unwrap();
    assert_eq!(client.answer(false).await.code(), "IncompleteBody");
    assert_eq!(rig.keys(), [""; 0]);
    rig.left_nothing().await;
}

/// "partial success documented": the error says which entry it was and how many are stored; with
/// ignore-errors the others are.
#[tokio::test]
async fn a_backend_that_fails_in_the_middle_leaves_what_was_stored() {
    let one_at_a_time = format!("{ALLOW}        concurrency: 1\n      restart:\n        max: 0\n");
    let rig = Rig::with(&one_at_a_time, |setup| setup).await;
    let names: Vec<_> = (0..20).map(|i| (format!("n{i:02}"), vec![i; 10])).collect();
    let archive = gnu(&names);
    let fails = || {
        let mut twists = vec![("Put", Twist::Trickle); 5];
        twists.push(("Put", Twist::Answer(403, "AccessDenied")));
        twists
    };
    rig.s3.script(fails());
    let answer = rig.put(&archive).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    let text = answer.text();
    assert!(text.contains("5 of the archive") && text.contains("n05"), "{text}");
    assert_eq!(rig.keys().len(), 5);
    rig.left_nothing().await;
    rig.s3.script(fails());
    let ignoring =
        |request: Request| request.header("x-amz-meta-minio-snowball-ignore-errors", "true");
    let answer = rig.put_with(&archive, ignoring).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-mizuchi-batch-stored").as_deref(), Some("19"));
    assert_eq!(answer.header("x-mizuchi-batch-failed").as_deref(), Some("1"));
    assert_eq!(rig.keys().len(), 19);
    // The same again: all of it is there then.
    assert_eq!(rig.put(&archive).await.status, 200);
    assert_eq!(rig.keys().len(), 20);
    rig.left_nothing().await;
}

/// Write-back: the answer comes when all entries are on stable storage; they are delivered though the
/// backend was away and the gateway was killed.
#[tokio::test]
async fn in_write_back_mode_the_answer_means_stable_storage() {
    let bucket = format!("{ALLOW}      mode: write_back\n      restart:\n        max: 0\n");
    let mut rig = Rig::with(&bucket, |setup| setup).await;
    let entries = entries();
    rig.s3.script(vec![("Put", Twist::Answer(503, "SlowDown")); 100_000]);
    let archive = gzip(&gnu(&entries));
    let answer = rig.put(&archive).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-mizuchi-mode").as_deref(), Some("write_back"));
    let waiting = rig.gateway.metric("mizuchi_spool_entries").await;
    assert_eq!(waiting, entries.len() as f64);
    rig.gateway.signal("KILL");
    rig.gateway.ended().await;
    assert_eq!(rig.keys(), [""; 0]);
    rig.gateway = start(&rig.s3, rig.spool.path(), &bucket, |setup| setup).await;
    rig.s3.script([]);
    eventually("everything is delivered", async || {
        rig.gateway.metric("mizuchi_spool_entries").await == 0.0
    })
    .await;
    for (key, body) in &entries {
        rig.assert_is(key, body);
    }
    rig.left_nothing().await;
}

/// A condition is the backend's to judge: in write-back mode such a batch goes through, and says so.
#[tokio::test]
async fn what_cannot_wait_goes_through_in_write_back_mode_too() {
    let rig = Rig::with(&format!("{ALLOW}      mode: write_back\n"), |setup| setup).await;
    let archive = gzip(&gnu(&entries()));
    let conditional = |request: Request| request.header("if-none-match", "*");
    let answer = rig.put_with(&archive, conditional).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-mizuchi-mode"), None);
    assert_eq!(rig.keys().len(), entries().len());
    let first = rig.s3.books(|books| books.objects["empty"].headers.clone());
    assert_eq!(first["if-none-match"], "*");
    rig.left_nothing().await;
}

/// A backend that takes no unsigned payload gets each entry's own SHA-256.
#[tokio::test]
async fn entries_carry_their_own_hash_where_the_backend_wants_one() {
    let rig =
        Rig::with(ALLOW, |setup| setup.env("MIZUCHI__BUCKETS__0__S3__ALLOW_UNSIGNED", "false"))
            .await;
    let archive = Tar::new().file("a", b"one").end();
    let hash = PayloadHash::Hash(Sha256::digest(&archive).into());
    let answer = rig.put_with(&archive, |request| request.payload(hash)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let headers = rig.s3.books(|books| books.objects["a"].headers.clone());
    let expected: String = Sha256::digest(b"one").iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(headers["x-amz-content-sha256"], expected);
}

/// "Audit: one line per published object", and one for each decision.
#[tokio::test]
async fn each_object_has_its_lines_in_the_audit_log() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit");
    let path = file.to_str().unwrap().to_owned();
    let mut rig = Rig::with(ALLOW, |setup| {
        setup.env("MIZUCHI__AUDIT__TARGET", "file").env("MIZUCHI__AUDIT__FILE", &path)
    })
    .await;
    let archive = Tar::new().file("a", b"one").file("b", b"two").end();
    let answer = rig.put(&archive).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    rig.gateway.signal("TERM");
    assert!(rig.gateway.ended().await.success());
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| {
        let lines = lines.iter().filter(|line| line["event"] == event);
        let mut keys: Vec<_> = lines.map(|line| line["key"].as_str().unwrap()).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(of("decision"), ["a", "b", "snowball.tar"]);
    assert!(lines.iter().all(|line| line["event"] != "decision" || line["by"] == "grants"));
    assert_eq!(of("upload"), ["a", "b"]);
    let ids: std::collections::HashSet<_> =
        lines.iter().map(|line| line["request_id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
}
