//! `mizuchi upload -`: standard input.

use super::*;
use crate::support::eventually;
use crate::support::ledger_s3::{LedgerS3, Twist};
use std::io::Write as _;

/// Writes this to a command's standard input, closes it, and waits for the end.
async fn fed(mut command: Command, input: Vec<u8>) -> Ran {
    command.stdin(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // It may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(&input);
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Starts a command and writes this; its standard input stays open.
fn begun(mut command: Command, input: Vec<u8>) -> (Child, std::thread::JoinHandle<()>) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || {
        // Who is killed reads no more.
        let _ = pipe.write_all(&input);
        // Until it has ended, there is more to come.
        while pipe.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    (child, writing)
}

/// "`-` is standard input": whatever its length, the object is what was written.
#[tokio::test]
async fn what_is_piped_is_the_object() {
    const PART: usize = 5 << 20;
    let served = Served::start().await;
    let desk = Desk::new();
    let endpoint = url(served.gateway.address);
    for checksum in ["md5", "crc32"] {
        for length in [0, 5, PART, PART + 1, 6 * PART + 7] {
            let key = format!("{checksum}/{length}");
            let to = format!("s3://uploads/{key}");
            let arguments = ["-", &to, "--endpoint", &endpoint, "--part-size", "5MiB", "--json"];
            let arguments = [&arguments[..], &["--checksum", checksum]].concat();
            let ran = fed(desk.command(&arguments), payload(length)).await;
            let uploaded = &ran.assert(0).events()[0];
            assert_eq!((&uploaded["path"], &uploaded["key"]), (&"-".into(), &key.clone().into()));
            assert_eq!(uploaded["bytes"], length);
            assert!(served.backend.object(&key).unwrap() == payload(length), "{key}");
        }
    }
    assert_eq!(served.requests("CompleteMultipartUpload").await, 6);
    assert_eq!((served.backend.open_uploads(), desk.state()), (0, None));
}

/// "after Ctrl-C or a failure what was begun is aborted, after a kill by the next run".
#[tokio::test]
async fn what_is_not_read_to_its_end_is_no_object() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    let endpoint = url(s3.address);
    let arguments = ["-", "s3://store/k", "--endpoint", &endpoint, "--part-size", "5MiB"];
    for (name, code) in [("INT", Some(130)), ("KILL", None)] {
        s3.books(|books| books.part_requests = 0);
        let (child, writing) = begun(desk.command(&arguments), payload(11 << 20));
        eventually("parts have come", async || s3.books(|books| books.part_requests) == 2).await;
        signal(&child, name);
        assert_eq!(end(child).await.code(), code);
        writing.join().unwrap();
        let left = usize::from(name == "KILL");
        assert_eq!(s3.books(|books| (books.uploads.len(), books.completed)), (left, 0));
        assert_eq!(desk.state().is_some(), name == "KILL");
    }
    s3.script([("Part", Twist::Answer(400, "InvalidArgument"))]);
    let refused = fed(desk.command(&arguments), payload(11 << 20)).await;
    assert!(refused.assert(1).err.contains("FAILED: -: 400 InvalidArgument"), "{}", refused.err);
    assert_eq!(s3.books(|books| (books.uploads.len(), books.completed)), (1, 0));
    fed(desk.command(&arguments), payload(11 << 20)).await.assert(0);
    s3.books(|books| {
        assert_eq!((books.uploads.len(), books.completed), (0, 1));
        assert_eq!(books.objects["k"].length, 11 << 20);
    });
    assert_eq!(desk.state(), None);
}
