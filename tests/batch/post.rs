//! `POST /{bucket}?batch`.

use super::archives::{Tar, gnu, gzip, zstd};
use super::{ALLOW, Rig, md5, start};
use crate::support::client::{Answer, Client, Request, signer, signer_with};
use crate::support::eventually;
use crate::support::gateway::Setup;
use crate::support::ledger_s3::Twist;
use crate::support::payload;
use serde_json::{Value, json};
use time::OffsetDateTime;

const BOUNDARY: &str = "----boundary";

fn part(disposition: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: a/b\r\n\r\n"
    );
    [head.as_bytes(), body, b"\r\n"].concat()
}

fn form(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let parts =
        entries.iter().map(|(name, body)| part(&format!("name=\"{name}\"; filename=\"f\""), body));
    let mut form: Vec<u8> = parts.flatten().collect();
    form.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    form
}

fn form_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

fn request(kind: &str, length: usize) -> Request {
    Request {
        method: "POST",
        path: "/uploads".to_owned(),
        ..Request::put("", length).query("batch", "").header("content-type", kind)
    }
}

/// The lines of an answer; the last is the summary.
fn lines(answer: &Answer) -> (Vec<Value>, Value) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type").as_deref(), Some("application/x-ndjson"));
    let text = answer.text();
    assert!(text.ends_with('\n'), "{text}");
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.pop().unwrap();
    (lines, last["summary"].clone())
}

fn of<'l>(lines: &'l [Value], key: &str) -> &'l Value {
    let mut found = lines.iter().filter(|line| line["key"] == key);
    let line = found.next().unwrap_or_else(|| panic!("no line for {key}: {lines:?}"));
    assert_eq!(found.next(), None, "{key} twice");
    line
}

impl Rig {
    async fn post(&self, kind: &str, body: &[u8]) -> Answer {
        Client::connect(&self.gateway).await.send(request(kind, body.len()), body).await
    }
}

fn entries() -> Vec<(String, Vec<u8>)> {
    let mut entries = vec![
        ("empty".to_owned(), Vec::new()),
        ("a/ü b".to_owned(), payload(700)),
        ("over".to_owned(), payload(65_537)),
        ("large".to_owned(), payload(3 << 20)),
    ];
    entries.extend((0..100).map(|i| (format!("many/{i}"), payload(i))));
    entries
}

/// `overwrite: deny`, and the same batch again, without a key that says so: what is there already is its
/// own; what another has put there stays, and only its entry fails.
#[tokio::test]
async fn a_batch_sent_twice_is_not_refused_for_itself() {
    let allow = ALLOW.replace("upload:\n", "upload:\n      overwrite: deny\n");
    let rig = Rig::with(&allow, |setup| setup).await;
    let (first, other) = (form(&[("a".to_owned(), b"one".to_vec())]), b"another's".to_vec());
    let (told, summary) = lines(&rig.post(&form_type(), &first).await);
    assert_eq!((of(&told, "a")["status"].as_u64(), &summary["stored"]), (Some(200), &json!(1)));
    let put = Request::put("b", other.len());
    assert_eq!(Client::connect(&rig.gateway).await.send(put, &other).await.status, 200);
    let both = [("a", "one"), ("b", "two"), ("c", "three")];
    let both = both.map(|(name, body)| (name.to_owned(), body.as_bytes().to_vec()));
    let (told, summary) = lines(&rig.post(&form_type(), &form(&both)).await);
    assert_eq!((&summary["stored"], &summary["failed"]), (&json!(2), &json!(1)));
    assert_eq!(of(&told, "a")["status"], 200);
    assert_eq!(of(&told, "b")["status"], 412);
    rig.assert_is("a", b"one");
    rig.assert_is("b", &other);
    rig.assert_is("c", b"three");
}

/// "one NDJSON result line per object, a summary last": of a form and of every tar.
#[tokio::test]
async fn each_object_has_its_line_and_the_summary_is_the_last() {
    let (entries, rig) = (entries(), Rig::new().await);
    let tar = gnu(&entries);
    for (kind, body) in [
        (form_type().as_str(), form(&entries)),
        ("application/zstd", zstd(&tar)),
        ("application/gzip", gzip(&tar)),
        ("application/x-tar", tar),
    ] {
        rig.s3.books(|books| books.objects.clear());
        let (lines, summary) = lines(&rig.post(kind, &body).await);
        let count = entries.len();
        assert_eq!(
            summary,
            json!({"entries": count, "stored": count, "skipped": 0, "failed": 0}),
            "{kind}"
        );
        assert_eq!(lines.len(), count);
        for (key, body) in &entries {
            rig.assert_is(key, body);
            let expected = json!({
                "key": key, "status": 200, "size": body.len(), "etag": format!("\"{}\"", md5(body))
            });
            assert_eq!(of(&lines, key), &expected);
        }
        rig.left_nothing().await;
    }
}

/// "one bad entry does not hurt the rest": neither one that cannot be an object nor one that its backend
/// refuses. The prefix is in the query, where it is signed.
#[tokio::test]
async fn one_bad_entry_does_not_hurt_the_rest() {
    let rig = Rig::with(&format!("{ALLOW}        concurrency: 1\n"), |setup| setup).await;
    rig.s3.script([("Put", Twist::Trickle), ("Put", Twist::Answer(403, "AccessDenied"))]);
    let tar = Tar::new()
        .folder("folder/")
        .file("../evil", b"e")
        .file("one", b"1")
        .file("two", b"2")
        .file("three", b"3")
        .file("one", b"again")
        .end();
    let mut client = Client::connect(&rig.gateway).await;
    let post = request("application/x-tar", tar.len()).query("prefix", "in");
    let (lines, summary) = lines(&client.send(post, &tar).await);
    assert_eq!(summary, json!({"entries": 5, "stored": 2, "skipped": 0, "failed": 3}), "{lines:?}");
    assert_eq!(of(&lines, "../evil")["error"]["code"], "InvalidArgument");
    let once: Vec<_> = lines.iter().filter(|line| line["key"] == "in/one").collect();
    assert_eq!((once[0]["status"].clone(), once[1]["status"].clone()), (json!(400), json!(200)));
    assert_eq!(of(&lines, "in/two")["status"], 200);
    assert_eq!(of(&lines, "in/three")["status"], 403);
    assert_eq!(of(&lines, "in/three")["error"]["code"], "AccessDenied");
    rig.assert_is("in/one", b"again");
    assert_eq!(rig.keys(), ["in/one", "in/two"]);
    // The connection goes on.
    let again = client.send(Request::put("after", 1), b"x").await;
    assert_eq!(again.status, 200);
    rig.left_nothing().await;
}

/// A form's field `file` has the name of its file; a field that is no file becomes no object; a form that
/// is none is nothing.
#[tokio::test]
async fn a_form_s_files_become_objects() {
    let rig = Rig::new().await;
    let end = format!("--{BOUNDARY}--");
    let body = [
        part("name=\"file\"; filename=\"first.txt\"", b"1"),
        part("name=\"file\"; filename=\"second.txt\"", b"2"),
        part("name=\"folder/third\"; filename=\"x\"", b"3"),
        part("name=\"field\"", b"value"),
        part("name=\"file\"; filename=\"../evil\"", b"e"),
        end.as_bytes().to_vec(),
    ]
    .concat();
    let (lines, summary) = lines(&rig.post(&form_type(), &body).await);
    assert_eq!(summary, json!({"entries": 5, "stored": 3, "skipped": 0, "failed": 2}), "{lines:?}");
    assert_eq!(rig.keys(), ["first.txt", "folder/third", "second.txt"]);
    for bad in [&body[..body.len() - 3], &body[1..], b"", b"--", end.as_bytes()] {
        let answer = rig.post(&form_type(), bad).await;
        if bad == end.as_bytes() {
            assert_eq!(answer.status, 200, "no files: {}", answer.text());
        } else {
            assert_eq!(answer.code(), "InvalidRequest", "{}", answer.text());
        }
    }
    let answer = rig.post("multipart/form-data", &body).await;
    assert_eq!(answer.code(), "MalformedPOSTRequest");
    assert_eq!(rig.keys().len(), 3);
    rig.left_nothing().await;
}

/// RFC 7578, 4.4: "Each part MAY have an (optional) Content-Type header field": it is the object's, and no part
/// has that of another, or of the batch.
#[tokio::test]
async fn a_part_s_content_type_is_its_object_s() {
    let types =
        [("a", "image/png"), ("b", ""), ("c", "text/plain; charset=utf-8"), ("d", "image/png")];
    let mut body = Vec::new();
    for (name, kind) in types {
        let part = part(&format!("name=\"{name}\"; filename=\"f\""), b"x");
        let part = String::from_utf8(part).unwrap();
        let line =
            if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        body.extend(part.replace("Content-Type: a/b\r\n", &line).into_bytes());
    }
    body.extend(format!("--{BOUNDARY}--\r\n").into_bytes());
    for mode in ["write_through", "write_back"] {
        let rig = Rig::with(&format!("{ALLOW}      mode: {mode}\n"), |setup| setup).await;
        let (_, summary) = lines(&rig.post(&form_type(), &body).await);
        assert_eq!(summary["stored"], 4);
        eventually("all are at the backend", async || rig.keys().len() == 4).await;
        for (name, kind) in types {
            let object = rig.s3.books(|books| books.objects[name].clone());
            let found = object.headers.get("content-type").map_or("", String::as_str);
            assert_eq!(found, kind, "{mode} {name}");
        }
        let many: Vec<u8> = (0..257)
            .flat_map(|i| {
                let part = part(&format!("name=\"{i}\"; filename=\"f\""), b"x");
                let part = String::from_utf8(part).unwrap();
                part.replace("a/b", &format!("a/{i}")).into_bytes()
            })
            .chain(format!("--{BOUNDARY}--\r\n").into_bytes())
            .collect();
        let answer = rig.post(&form_type(), &many).await;
        assert_eq!(answer.code(), "InvalidRequest");
        assert!(answer.text().contains("Content-Types"), "{}", answer.text());
        assert_eq!(rig.keys().len(), 4);
    }
}

/// "per-entry authorization"; and the batch itself is an operation of its own.
#[tokio::test]
async fn each_entry_is_authorized_and_so_is_the_batch() {
    let rig = Rig::with(ALLOW, |setup| {
        let credential = |n: usize, name: &str| {
            format!("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__{n}__{name}")
        };
        let mut setup = setup;
        for (n, key, rule, value) in [
            (1, "AKIAPREFIX", "ALLOW__KEY_PREFIXES", "own/"),
            (2, "AKIAPUTONLY", "ALLOW__OPERATIONS", "PutObject"),
            (3, "AKIABATCHONLY", "ALLOW__OPERATIONS", "Batch"),
        ] {
            for (name, value) in [("ACCESS_KEY", key), ("SECRET_KEY", "limited"), (rule, value)] {
                let name: &'static str = credential(n, name).leak();
                setup = setup.env(name, value);
            }
        }
        setup
    })
    .await;
    let tar = Tar::new().file("own/a", b"a").file("others/b", b"b").end();
    let send = async |key: &str| {
        let signer = signer_with(key, "limited", "us-east-1");
        let mut client = Client::connect(&rig.gateway).await;
        let head = request("application/x-tar", tar.len());
        let head = head.sign(&client.host, &signer, OffsetDateTime::now_utc());
        client.raw(&head, &tar).await
    };
    let (found, summary) = lines(&send("AKIAPREFIX").await);
    assert_eq!(summary, json!({"entries": 2, "stored": 1, "skipped": 0, "failed": 1}));
    assert_eq!(
        of(&found, "others/b")["error"],
        json!({"code": "AccessDenied", "message": "Access Denied"})
    );
    assert_eq!(rig.keys(), ["own/a"]);
    assert_eq!(send("AKIAPUTONLY").await.code(), "AccessDenied");
    let (_, summary) = lines(&send("AKIABATCHONLY").await);
    assert_eq!(summary, json!({"entries": 2, "stored": 0, "skipped": 0, "failed": 2}));
    assert_eq!(rig.keys(), ["own/a"]);
}

/// "opt-in"; and what is no batch.
#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let tar = Tar::new().file("a", b"x").end();
    let closed = Rig::with("", |setup| setup).await;
    let answer = closed.post("application/x-tar", &tar).await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "MethodNotAllowed"));
    let rig = Rig::new().await;
    assert_eq!(rig.post("text/plain", &tar).await.code(), "InvalidRequest");
    assert_eq!(rig.post("application/x-tar", &tar[..600]).await.code(), "InvalidRequest");
    let mut client = Client::connect(&rig.gateway).await;
    let with = request("application/x-tar", tar.len()).query("uploads", "");
    assert_eq!(client.send(with, &tar).await.code(), "InvalidArgument");
    let get = Request { path: "/uploads".to_owned(), ..Request::method("GET", "") };
    let mut client = Client::connect(&rig.gateway).await;
    assert_eq!(client.send(get.query("batch", ""), b"").await.status, 405);
    let mut client = Client::connect(&rig.gateway).await;
    let put = Request::put("k", 1).query("batch", "");
    assert_eq!(client.send(put, b"x").await.code(), "NotImplemented");
    let mut client = Client::connect(&rig.gateway).await;
    let mut head = request("application/x-tar", tar.len()).query("prefix", "a");
    head.query.retain(|(name, _)| name != "prefix");
    let unsigned = head.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    let unsigned = String::from_utf8(unsigned).unwrap().replacen("batch=", "batch=&prefix=b", 1);
    assert_eq!(client.raw(unsigned.as_bytes(), &tar).await.code(), "SignatureDoesNotMatch");
    assert_eq!(rig.keys(), [""; 0]);
    rig.left_nothing().await;
}

/// "streamed as it ends": a line is there while the next entry is still on its way. "A client that goes
/// away in the middle stops the batch": what is on its way ends, nothing else is begun.
#[tokio::test]
async fn lines_are_streamed_and_a_client_that_goes_ends_the_batch() {
    let slow = format!("{ALLOW}        concurrency: 1\n      restart:\n        max: 0\n");
    let rig =
        Rig::with(&slow, |setup| setup.env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "3s"))
            .await;
    rig.s3.script([("Put", Twist::Trickle), ("Put", Twist::Blackhole)]);
    let entries: Vec<_> = (0..400).map(|i| (format!("n{i:03}"), vec![1])).collect();
    let tar = gnu(&entries);
    let mut client = Client::connect(&rig.gateway).await;
    let head = request("application/x-tar", tar.len());
    let head = head.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    use tokio::io::AsyncWriteExt as _;
    client.socket.write_all(&[&head[..], &tar].concat()).await.unwrap();
    assert_eq!(client.head().await.status, 200);
    let line: Value = serde_json::from_slice(&client.chunk().await.unwrap()).unwrap();
    assert_eq!(line["key"], "n000");
    assert_eq!(rig.gateway.metric("mizuchi_batches_in_flight").await, 1.0);
    drop(client);
    eventually("the batch ends", async || {
        rig.gateway.metric("mizuchi_batches_in_flight").await == 0.0
    })
    .await;
    rig.left_nothing().await;
    let stored = rig.keys().len();
    assert!(stored < 100, "{stored} of 400 were stored for nobody");
}

/// "supervision restarts failed parts without the client noticing"; what nobody can restart, as an entry's own
/// task that dies, is an answer of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_whose_task_dies_has_its_line() {
    let dies = |setup: Setup| setup.env("FAILPOINTS", "batch::entry=1*panic");
    let rig = Rig::with(ALLOW, dies).await;
    let entries: Vec<_> = (0..5).map(|i| (format!("k{i}"), payload(10))).collect();
    let answer = rig.post(&form_type(), &form(&entries)).await;
    let (lines, summary) = lines(&answer);
    assert_eq!(lines.len(), 5, "{lines:?}");
    let failed: Vec<_> = lines.iter().filter(|line| line["status"] == 500).collect();
    assert_eq!(failed.len(), 1, "{lines:?}");
    assert_eq!(failed[0]["error"]["code"], "InternalError");
    assert!(entries.iter().any(|(key, _)| failed[0]["key"] == **key), "{failed:?}");
    assert_eq!((&summary["stored"], &summary["failed"]), (&json!(4), &json!(1)));
    rig.left_nothing().await;
}

/// "One bad entry does not hurt the rest": larger entries of a packed archive stand in the spool while they
/// are sent, and wait where it has no room for more of them; one that never finds room is its own error.
#[tokio::test]
async fn a_spool_without_room_fails_no_other_entry() {
    let rig = Rig::with(ALLOW, |setup| setup.env("MIZUCHI__SPOOL__MAX_BYTES", "1MiB")).await;
    let entries: Vec<_> = (0..20)
        .map(|i| match i {
            7 => ("n07".to_owned(), vec![7; 2 << 20]),
            i => (format!("n{i:02}"), vec![i; 300 << 10]),
        })
        .collect();
    let tar = gzip(&gnu(&entries));
    let (lines, summary) = lines(&rig.post("application/gzip", &tar).await);
    assert_eq!(
        summary,
        json!({"entries": 20, "stored": 19, "skipped": 0, "failed": 1}),
        "{lines:?}"
    );
    assert_eq!(of(&lines, "n07")["error"]["code"], "SlowDown");
    for (key, body) in entries.iter().filter(|(key, _)| key != "n07") {
        rig.assert_is(key, body);
    }
    rig.s3.books(|books| books.objects.clear());
    let ignore =
        |request: Request| request.header("x-amz-meta-minio-snowball-ignore-errors", "true");
    let answer = rig.put_with(&tar, ignore).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-mizuchi-batch-failed").as_deref(), Some("1"));
    assert_eq!(rig.keys().len(), 19);
    assert_eq!(rig.put(&tar).await.code(), "SlowDown");
    rig.left_nothing().await;
}

/// "answers with one line of JSON for each entry": also for those that could not be read any more.
#[tokio::test]
async fn an_archive_that_is_lost_in_the_middle_leaves_no_entry_out() {
    let slow = format!("{ALLOW}        concurrency: 1\n      restart:\n        max: 0\n");
    let rig =
        Rig::with(&slow, |setup| setup.env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "2s"))
            .await;
    rig.s3.script([("Put", Twist::Blackhole)]);
    let entries: Vec<_> = (0..60).map(|i| (format!("n{i:02}"), payload(60_000 + i))).collect();
    let tar = gzip(&gnu(&entries));
    let mut client = Client::connect(&rig.gateway).await;
    let head = request("application/gzip", tar.len());
    let head = head.sign(&client.host, &signer(), OffsetDateTime::now_utc());
    use tokio::io::AsyncWriteExt as _;
    client.socket.write_all(&[&head[..], &tar].concat()).await.unwrap();
    assert_eq!(client.head().await.status, 200);
    let bodies = std::fs::read_dir(rig.spool.path().join("bodies")).unwrap();
    let files: Vec<_> = bodies.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(0).unwrap();
    let mut lines = Vec::new();
    while let Some(line) = client.chunk().await {
        lines.push(serde_json::from_slice::<Value>(&line).unwrap());
    }
    let summary = lines.pop().unwrap()["summary"].clone();
    assert_eq!(lines.len(), 60, "{lines:?}");
    let stored = lines.iter().filter(|line| line["status"] == 200).count();
    assert!(stored < 40, "{stored}");
    assert_eq!(
        summary,
        json!({"entries": 60, "stored": stored, "skipped": 0, "failed": 60 - stored})
    );
    assert_eq!(rig.keys().len(), stored);
    for (key, body) in &entries {
        match of(&lines, key)["status"].as_u64() {
            Some(200) => rig.assert_is(key, body),
            status => assert_eq!(status, Some(503), "{key}"),
        }
    }
    rig.left_nothing().await;
}

/// A batch for which no place comes free is 503 SlowDown, and keeps nothing of what was taken for it.
#[tokio::test]
async fn a_batch_too_many_does_not_wait_for_ever() {
    let one = format!("{ALLOW}        max_batches: 1\n        queue_wait: 100ms\n");
    let rig =
        Rig::with(&one, |setup| setup.env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "1h"))
            .await;
    rig.s3.script([("Put", Twist::Blackhole)]);
    let tar = Tar::new().file("a", b"x").end();
    let mut first = Client::connect(&rig.gateway).await;
    let head = request("application/x-tar", tar.len());
    let head = head.sign(&first.host, &signer(), OffsetDateTime::now_utc());
    use tokio::io::AsyncWriteExt as _;
    first.socket.write_all(&[&head[..], &tar].concat()).await.unwrap();
    assert_eq!(first.head().await.status, 200);
    let more = gnu(&[("b".to_owned(), payload(100_000))]);
    for answer in [rig.post("application/x-tar", &more).await, rig.put(&more).await] {
        assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"));
    }
    assert_eq!(rig.gateway.metric("mizuchi_batches_in_flight").await, 1.0);
    eventually("their files are gone", async || {
        std::fs::read_dir(rig.spool.path().join("bodies")).unwrap().count() == 0
    })
    .await;
    assert_eq!(rig.keys(), [""; 0]);
}

/// Write-back: a line means stable storage.
#[tokio::test]
async fn in_write_back_mode_a_line_means_stable_storage() {
    let rig = Rig::with(&format!("{ALLOW}      mode: write_back\n"), |setup| setup).await;
    let entries = entries();
    let (lines, summary) = lines(&rig.post(&form_type(), &form(&entries)).await);
    assert_eq!(summary["stored"], entries.len());
    assert_eq!(of(&lines, "empty")["etag"], format!("\"{}\"", md5(b"")));
    eventually("everything is delivered", async || {
        rig.gateway.metric("mizuchi_spool_entries").await == 0.0
    })
    .await;
    for (key, body) in &entries {
        rig.assert_is(key, body);
    }
    rig.left_nothing().await;
}

/// "a repeated batch skips what is already delivered", also in another form, after a failure and over a
/// restart; another content under the same key is 422 (draft-ietf-httpapi-idempotency-key-header, 2.7: "If
/// there is an attempt to reuse an idempotency key with a different request payload").
#[tokio::test]
async fn a_batch_that_is_sent_again_stores_only_its_rest() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().to_str().unwrap().to_owned();
    let slow = format!("{ALLOW}        concurrency: 1\n      restart:\n        max: 0\n");
    let with = |setup: Setup| setup.env("MIZUCHI__SERVER__STATE_DIRECTORY", &directory);
    let mut rig = Rig::with(&slow, with).await;
    let entries: Vec<_> = (0..20).map(|i| (format!("n{i:02}"), vec![i])).collect();
    let (tar, form) = (gnu(&entries), form(&entries));
    let post = async |rig: &Rig, kind: &str, body: &[u8], key: &str| {
        let post = request(kind, body.len()).header("idempotency-key", key);
        Client::connect(&rig.gateway).await.send(post, body).await
    };
    let fails = [("Put", Twist::Trickle), ("Put", Twist::Answer(403, "AccessDenied"))];
    rig.s3.script(fails);
    let (_, summary) = lines(&post(&rig, "application/x-tar", &tar, "\"k1\"").await);
    assert_eq!(summary, json!({"entries": 20, "stored": 19, "skipped": 0, "failed": 1}));
    rig.gateway.signal("KILL");
    rig.gateway.ended().await;
    rig.gateway = start(&rig.s3, rig.spool.path(), &slow, with).await;
    rig.s3.books(|books| books.objects.clear());
    let (found, summary) = lines(&post(&rig, &form_type(), &form, "k1").await);
    assert_eq!(summary, json!({"entries": 20, "stored": 1, "skipped": 19, "failed": 0}));
    assert_eq!(rig.keys(), ["n01"]);
    let skipped = json!({
        "key": "n00", "status": 200, "size": 1, "etag": format!("\"{}\"", md5(&[0])), "skipped": true
    });
    assert_eq!(of(&found, "n00"), &skipped);
    let (_, summary) = lines(&post(&rig, "application/x-tar", &tar, "k1").await);
    assert_eq!(summary["skipped"], 20);
    let other = gnu(&entries[1..]);
    let answer = post(&rig, "application/x-tar", &other, "k1").await;
    assert_eq!((answer.status, answer.code().as_str()), (422, "IdempotencyKeyReused"));
    // Another key, and none, are another batch.
    let (_, summary) = lines(&post(&rig, "application/x-tar", &other, "k2").await);
    assert_eq!(summary["stored"], 19);
    let (_, summary) = lines(&rig.post("application/x-tar", &other).await);
    assert_eq!(summary["stored"], 19);
    for bad in ["", "\"\"", "a\"b", &"k".repeat(256)] {
        let answer = post(&rig, "application/x-tar", &tar, bad).await;
        assert_eq!(answer.code(), "InvalidArgument", "{bad:?}");
    }
    rig.left_nothing().await;
}

/// Whether the file, as it is now, has one entry of a batch as stored.
fn knows_one(file: &std::path::Path) -> bool {
    type Row = (u64, [u8; 32], &'static [u8]);
    const BATCHES: redb::TableDefinition<'_, [u8; 32], Row> =
        redb::TableDefinition::new("batches/1");
    let copied = tempfile::tempdir().unwrap();
    let copy = copied.path().join("copy");
    std::fs::copy(file, &copy).unwrap();
    // It may have been copied in the middle of a write.
    let Ok(database) = redb::Database::create(&copy) else { return false };
    let reading = redb::ReadableDatabase::begin_read(&database).unwrap();
    let Ok(table) = reading.open_table(BATCHES) else { return false };
    let first = redb::ReadableTable::first(&table).unwrap();
    first.is_some_and(|(_, row)| row.value().2.iter().any(|byte| *byte != 0))
}

/// "written down at most half a second later", whether or not another entry ends: what a crash in the middle
/// finds is skipped.
#[tokio::test]
async fn after_a_crash_in_the_middle_only_the_rest_is_stored() {
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().to_str().unwrap().to_owned();
    let slow = format!("{ALLOW}        concurrency: 1\n");
    let with = |setup: Setup| {
        let setup = setup.env("MIZUCHI__SERVER__STATE_DIRECTORY", &directory);
        setup.env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "1h")
    };
    let mut rig = Rig::with(&slow, with).await;
    rig.s3.script([("Put", Twist::Trickle), ("Put", Twist::Blackhole)]);
    let entries: Vec<_> = (0..20).map(|i| (format!("n{i:02}"), vec![i])).collect();
    let tar = gnu(&entries);
    let keyed = || request("application/x-tar", tar.len()).header("idempotency-key", "k");
    let mut first = Client::connect(&rig.gateway).await;
    let head = keyed().sign(&first.host, &signer(), OffsetDateTime::now_utc());
    use tokio::io::AsyncWriteExt as _;
    first.socket.write_all(&[&head[..], &tar].concat()).await.unwrap();
    assert_eq!(first.head().await.status, 200);
    let line: Value = serde_json::from_slice(&first.chunk().await.unwrap()).unwrap();
    assert_eq!((line["key"].as_str(), line["status"].as_u64()), (Some("n00"), Some(200)));
    let file = state.path().join("batches.redb");
    eventually("it is written down", async || knows_one(&file)).await;
    rig.gateway.signal("KILL");
    rig.gateway.ended().await;
    rig.s3.script([]);
    rig.gateway = start(&rig.s3, rig.spool.path(), &slow, with).await;
    let (found, summary) = lines(&Client::connect(&rig.gateway).await.send(keyed(), &tar).await);
    assert_eq!(summary, json!({"entries": 20, "stored": 19, "skipped": 1, "failed": 0}));
    assert_eq!(of(&found, "n00")["skipped"], true);
    assert_eq!(rig.keys().len(), 20);
}

/// "If the request is retried, while the original request is still being processed": 409.
#[tokio::test]
async fn a_batch_that_is_under_way_is_not_begun_again() {
    let rig = Rig::with(&format!("{ALLOW}      restart:\n        max: 0\n"), |setup| {
        setup.env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "2s")
    })
    .await;
    rig.s3.script([("Put", Twist::Blackhole)]);
    let tar = Tar::new().file("a", b"x").end();
    let keyed = || request("application/x-tar", tar.len()).header("idempotency-key", "k");
    let mut first = Client::connect(&rig.gateway).await;
    let head = keyed().sign(&first.host, &signer(), OffsetDateTime::now_utc());
    use tokio::io::AsyncWriteExt as _;
    first.socket.write_all(&[&head[..], &tar].concat()).await.unwrap();
    assert_eq!(first.head().await.status, 200);
    let answer = Client::connect(&rig.gateway).await.send(keyed(), &tar).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "OperationAborted"));
    let line: Value = serde_json::from_slice(&first.chunk().await.unwrap()).unwrap();
    assert_ne!(line["status"], 200);
    eventually("it may be sent again", async || {
        let answer = Client::connect(&rig.gateway).await.send(keyed(), &tar).await;
        answer.status == 200
    })
    .await;
    rig.assert_is("a", b"x");
    rig.left_nothing().await;
}
