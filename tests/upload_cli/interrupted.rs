//! Runs that are ended before they have ended: every object comes to be, and none is sent twice but what was
//! under way.

use super::*;
use crate::support::eventually;
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::proxy::{Fault, Proxy};

/// "killed three times and resumed: every object once and equal". SIGKILL: at most the requests that were
/// under way are made again.
#[tokio::test]
async fn killed_three_times_every_object_is_there_once() {
    const FILES: usize = 500;
    const LANES: usize = 4;
    let served = Served::start().await;
    let desk = Desk::new();
    for index in 0..FILES {
        desk.file(&format!("{}/f{index}", index % 7), &payload(index * 17));
    }
    desk.file("large", &payload(40 << 20));
    let endpoint = url(served.gateway.address);
    let arguments = ["files", "s3://uploads/p", "--endpoint", &endpoint, "--concurrency", "4"];
    let arguments = [&arguments[..], &["--part-size", "5MiB", "--quiet"]].concat();
    for (done, parts) in [(100, 0), (200, 3), (300, 0)] {
        let mut child = desk.command(&arguments).spawn().unwrap();
        let started = Instant::now();
        // Never between the answer to Create and its record: nobody can know of that upload then.
        while desk.state_lines("begun") == 0
            || desk.state_lines("done") < done
            || desk.state_lines("part") < parts
        {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
            assert!(started.elapsed() < PATIENCE, "not enough was done");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        end(child).await;
    }
    assert!(desk.state_lines("done") < FILES + 1, "it was killed too late to show anything");
    desk.run(&arguments).await.assert(0);
    served.assert_same(&desk.path("files"), "p");
    let (puts, parts) = (served.requests("PutObject").await, served.requests("UploadPart").await);
    assert!((FILES..=FILES + 3 * LANES).contains(&puts), "{puts} PutObjects");
    assert!((8..=8 + 3 * LANES).contains(&parts), "{parts} UploadParts");
    assert_eq!(served.requests("CreateMultipartUpload").await, 1);
    assert_eq!(served.requests("CompleteMultipartUpload").await, 1);
    assert_eq!(served.backend.open_uploads(), 0);
    assert_eq!(desk.state(), None, "it is removed at full success");
}

/// A Complete that is killed on the embedded backend before it writes the object has ended the upload: its parts
/// are good for nothing, and the file is sent anew.
#[tokio::test]
async fn an_upload_that_ended_without_its_object_is_begun_anew() {
    let served = Served::start().await;
    let desk = Desk::new();
    desk.file("large", &payload(60 << 20));
    let endpoint = url(served.gateway.address);
    let arguments = ["files", "s3://uploads/p", "--endpoint", &endpoint, "--concurrency", "1"];
    let arguments = [&arguments[..], &["--part-size", "5MiB", "--quiet"]].concat();
    let mut child = desk.command(&arguments).spawn().unwrap();
    eventually("a part is there", async || desk.state_lines("part") > 0).await;
    child.kill().unwrap();
    end(child).await;
    assert_eq!(served.backend.end_uploads(), 1);
    desk.run(&arguments).await.assert(0);
    served.assert_same(&desk.path("files"), "p");
    assert_eq!(served.requests("CreateMultipartUpload").await, 2);
    assert_eq!(served.backend.open_uploads(), 0);
    assert_eq!(desk.state(), None);
}

/// "Ctrl-C: stops taking new files, in-flight single PUTs finish, multipart stays resumable"
#[tokio::test]
async fn after_ctrl_c_nothing_is_sent_twice() {
    const FILES: usize = 400;
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    for index in 0..FILES {
        desk.file(&format!("f{index}"), &payload(index));
    }
    desk.file("large", &payload(60 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let child = desk.command(&[&arguments[..], &["--concurrency", "2"]].concat()).spawn().unwrap();
    eventually("something is done", async || {
        desk.state_lines("done") >= 20 && desk.state_lines("part") >= 2
    })
    .await;
    signal(&child, "INT");
    assert_eq!(end(child).await.code(), Some(130));
    let (puts, parts) = s3.books(|books| (books.puts, books.part_requests));
    assert!(puts < FILES && parts < 12, "{puts} {parts}: it ended too late to show anything");
    let known = (desk.state_lines("done"), desk.state_lines("part"));
    assert_eq!((puts, parts), known, "what was under way has ended, and is on record");
    let ran = desk.run(&[&arguments[..], &["--json"]].concat()).await;
    let summary = ran.assert(0).events().pop().unwrap();
    assert_eq!(
        (summary["uploaded"].as_u64(), summary["already"].as_u64()),
        (Some((FILES - puts + 1) as u64), Some(puts as u64))
    );
    s3.books(|books| {
        assert_eq!((books.puts, books.part_requests), (FILES, 12));
        assert_eq!((books.created, books.completed), (1, 1));
        assert_eq!(books.objects.len(), FILES + 1);
    });
}

/// "second Ctrl-C: at once"
#[tokio::test]
async fn a_second_ctrl_c_ends_it_at_once() {
    let s3 = LedgerS3::start(true).await;
    s3.script([("Put", Twist::Hang)]);
    let desk = Desk::new();
    desk.file("f", b"x");
    let child = desk.command(&["files", "s3://store", "--endpoint", &url(s3.address)]).spawn();
    let mut child = child.unwrap();
    eventually("the request hangs", async || s3.script_done()).await;
    signal(&child, "INT");
    until_it_says(&mut child, "once more ends at once").await;
    assert!(child.try_wait().unwrap().is_none(), "what is under way is waited for");
    signal(&child, "TERM");
    assert_eq!(end(child).await.code(), Some(130));
    desk.run(&["files", "s3://store", "--endpoint", &url(s3.address)]).await.assert(0);
    assert_eq!(s3.books(|books| books.puts), 1);
}

/// A power loss between Complete and its record: the object that is there is recognised by its ETag.
#[tokio::test]
async fn a_completed_upload_that_is_not_on_record_is_not_sent_again() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("large", &payload(11 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    desk.run(&[&arguments[..], &["--keep-state"]].concat()).await.assert(0);
    let state = desk.state().unwrap();
    let text = std::fs::read_to_string(&state).unwrap();
    let without: String = text
        .lines()
        .filter(|line| !line.contains("done"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(without.lines().count() + 1, text.lines().count());
    // The last line is torn as well.
    std::fs::write(&state, format!("{without}{{\"do")).unwrap();
    let ran = desk.run(&[&arguments[..], &["--json"]].concat()).await;
    assert_eq!(ran.assert(0).events()[0]["resumed_bytes"], 11 << 20);
    s3.books(|books| {
        assert_eq!((books.created, books.completed, books.part_requests), (1, 1, 3));
    });
}

/// A kill between CreateMultipartUpload and its answer: the upload that nobody knows is found by its key and
/// time, and aborted.
#[tokio::test]
async fn an_upload_that_was_begun_in_the_moment_of_a_kill_is_aborted() {
    let s3 = LedgerS3::start(true).await;
    let proxy = Proxy::start(s3.address).await;
    proxy.script([Fault::DelayAnswer(Duration::from_secs(3600))]);
    let desk = Desk::new();
    desk.file("large", &payload(11 << 20));
    let endpoint = url(proxy.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let mut child = desk.command(&arguments).spawn().unwrap();
    eventually("it is begun", async || s3.books(|books| books.created) == 1).await;
    child.kill().unwrap();
    end(child).await;
    desk.run(&arguments).await.assert(0);
    s3.books(|books| {
        assert_eq!((books.created, books.completed, books.aborted), (2, 1, 1));
        assert!(books.uploads.is_empty());
    });
    assert_eq!(desk.state(), None);
}

/// What the backend has lost, or the user has changed, is begun anew, and nothing is left behind.
#[tokio::test]
async fn an_upload_that_cannot_be_gone_on_with_is_begun_anew() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("large", &payload(15 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let arguments = [&arguments[..], &["--retries", "0", "--concurrency", "1"]].concat();
    let broken = || {
        let refused = ("Part", Twist::Answer(400, "InvalidArgument"));
        s3.script([("Part", Twist::Trickle), refused]);
    };
    broken();
    desk.run(&arguments).await.assert(1);
    assert_eq!(desk.state_lines("part"), 1);
    // The backend expires what lies about.
    s3.books(|books| books.uploads.clear());
    broken();
    desk.run(&arguments).await.assert(1);
    assert_eq!(s3.books(|books| (books.created, books.uploads.len())), (2, 1));
    // S3 takes one kind of checksum in an upload.
    broken();
    desk.run(&[&arguments[..], &["--checksum", "crc32"]].concat()).await.assert(1);
    assert_eq!(s3.books(|books| (books.created, books.aborted, books.uploads.len())), (3, 1, 1));
    // It is another file now: what was begun of the old one is aborted in the end.
    desk.file("large", &payload(16 << 20));
    desk.run(&arguments).await.assert(0);
    s3.books(|books| {
        assert_eq!((books.created, books.completed, books.aborted), (4, 1, 2));
        assert_eq!(books.objects["large"].length, 16 << 20);
        assert!(books.uploads.is_empty());
    });
    assert_eq!(desk.state(), None);
}

/// "keep the state file after success: the next run sends only what is new or has changed"; `--fresh`
/// forgets it.
#[tokio::test]
async fn what_is_there_is_sent_again_only_when_asked() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("a", b"1");
    desk.file("b", b"1");
    let endpoint = url(s3.address);
    let state = desk.path("state");
    let resume = format!("--resume={}", state.display());
    let arguments = ["files", "s3://store/p", "--endpoint", &endpoint, "--keep-state", &resume];
    desk.run(&arguments).await.assert(0);
    desk.file("b", b"22");
    desk.file("c", b"3");
    desk.run(&arguments).await.assert(0);
    assert_eq!(s3.books(|books| books.puts), 4);
    desk.run(&[&arguments[..], &["--fresh"]].concat()).await.assert(0);
    assert_eq!(s3.books(|books| books.puts), 7);
    let elsewhere = ["files", "s3://store/q", "--endpoint", &endpoint, &resume];
    let ran = desk.run(&elsewhere).await;
    assert!(ran.assert(64).err.contains("the state of another upload"), "{}", ran.err);
}

/// "Of a key the latest counts": what was there once, and is not any more, is sent again.
#[tokio::test]
async fn what_was_overwritten_is_not_there_already() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("a", b"1");
    desk.file("b", b"2");
    let endpoint = url(s3.address);
    let arguments = ["--manifest", "list.csv", "s3://store", "--endpoint", &endpoint];
    let arguments = [&arguments[..], &["--keep-state"]].concat();
    let list = |name: &str| {
        std::fs::write(desk.path("list.csv"), format!("path,key\nfiles/{name},k\n")).unwrap();
    };
    let mut etags = Vec::new();
    for name in ["a", "b", "a", "a", "b"] {
        list(name);
        desk.run(&arguments).await.assert(0);
        etags.push(s3.books(|books| books.objects["k"].etag.clone()));
    }
    assert_eq!(s3.books(|books| books.puts), 4, "the same twice is sent once");
    assert!(etags[0] != etags[1] && etags[0] == etags[2] && etags[1] == etags[4], "{etags:?}");
    // One that was under way at a kill may be there or not: neither is taken for granted.
    s3.script([("Put", Twist::Hang)]);
    list("a");
    let mut child = desk.command(&arguments).spawn().unwrap();
    eventually("it is under way", async || s3.script_done()).await;
    child.kill().unwrap();
    end(child).await;
    list("b");
    desk.run(&arguments).await.assert(0);
    assert_eq!(s3.books(|books| books.puts), 5);
}

/// A file that takes another's place keeps its length and time (`cp -p`, `rsync -t`): the parts of the one
/// are no parts of the other.
#[tokio::test]
async fn a_file_in_another_s_place_is_another() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    let path = desk.file("large", &payload(15 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let arguments = [&arguments[..], &["--concurrency", "1"]].concat();
    s3.script([("Part", Twist::Trickle), ("Part", Twist::Answer(400, "InvalidArgument"))]);
    desk.run(&arguments).await.assert(1);
    assert_eq!(desk.state_lines("part"), 1);
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut other = payload(15 << 20);
    other.reverse();
    let beside = desk.path("other");
    std::fs::write(&beside, &other).unwrap();
    let file = std::fs::File::options().append(true).open(&beside).unwrap();
    file.set_modified(time).unwrap();
    std::fs::rename(&beside, &path).unwrap();
    desk.run(&arguments).await.assert(0);
    s3.books(|books| {
        assert_eq!((books.created, books.completed, books.aborted), (2, 1, 1));
        assert_eq!(books.part_requests, 4, "each of the other's, and one of the first's");
    });
}

/// "one for the same paths and destination", however they are spelt.
#[tokio::test]
async fn a_slash_at_the_end_is_no_other_upload() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("f", b"x");
    let endpoint = url(s3.address);
    for (path, to) in
        [("files", "s3://store/p"), ("files/", "s3://store/p/"), ("./files/.", "s3://store/p")]
    {
        let arguments = [path, to, "--endpoint", &endpoint, "--keep-state"];
        desk.run(&arguments).await.assert(0);
    }
    assert_eq!(s3.books(|books| books.puts), 1);
}

/// "One that cannot be aborted stays on record", and the next run tries again.
#[tokio::test]
async fn an_upload_that_is_not_aborted_is_not_forgotten() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("large", &payload(15 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let arguments = [&arguments[..], &["--concurrency", "1"]].concat();
    let refused = ("Part", Twist::Answer(400, "InvalidArgument"));
    s3.script([("Part", Twist::Trickle), refused]);
    desk.run(&arguments).await.assert(1);
    let busy = ("Abort", Twist::Answer(503, "SlowDown"));
    // What was begun with another checksum is to be aborted before all else.
    s3.script([busy.clone()]);
    let ran = desk.run(&[&arguments[..], &["--checksum", "crc32"]].concat()).await;
    assert!(
        ran.assert(0).err.contains("large: a multipart upload is not aborted: 503"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("the same command aborts what is left"), "{}", ran.err);
    assert_eq!(s3.books(|books| (books.created, books.uploads.len())), (2, 1));
    assert!(desk.state().is_some());
    s3.script([busy]);
    desk.run(&arguments).await.assert(0);
    assert!(s3.script_done() && desk.state().is_some());
    desk.run(&arguments).await.assert(0);
    assert_eq!(s3.books(|books| (books.puts, books.completed, books.uploads.len())), (0, 1, 0));
    assert_eq!(desk.state(), None);
}

/// "Ctrl-C": also while nothing but leftovers is dealt with.
#[tokio::test]
async fn ctrl_c_is_heard_when_all_files_are_sent() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("large", &payload(15 << 20));
    let endpoint = url(s3.address);
    let arguments = ["files", "s3://store", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let arguments = [&arguments[..], &["--concurrency", "1"]].concat();
    s3.script([("Part", Twist::Trickle), ("Part", Twist::Answer(400, "InvalidArgument"))]);
    desk.run(&arguments).await.assert(1);
    desk.file("large", b"small");
    s3.script([("Abort", Twist::Hang)]);
    let mut child = desk.command(&arguments).spawn().unwrap();
    eventually("the abort hangs", async || s3.script_done()).await;
    signal(&child, "INT");
    until_it_says(&mut child, "once more ends at once").await;
    signal(&child, "INT");
    assert_eq!(end(child).await.code(), Some(130));
    desk.run(&arguments).await.assert(0);
    assert_eq!(s3.books(|books| (books.puts, books.uploads.len())), (1, 0));
}
