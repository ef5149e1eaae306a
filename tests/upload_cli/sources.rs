//! What is sent: names, lists, filters, headers, checksums, and where credentials come from.

use super::*;
use crate::support::authority::Authority;
use crate::support::ledger_s3::LedgerS3;
use std::os::unix::ffi::OsStrExt as _;

/// Keys are the names as they are, however they look; what cannot be a key is named, and the rest is sent.
#[tokio::test]
async fn hostile_names_are_keys_or_errors() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    let names = [
        "spaced name",
        "per%41cent",
        "plus+minus",
        "ask?and#hash",
        "line\nbreak",
        "q\"uote'",
        "e\u{301}\u{65e5}",
        "\u{1b}[2J",
        "..dots..",
        "&<>",
        "a\\b",
        "sub/-dash",
        "\u{ff0f}",
    ];
    for name in names {
        desk.file(name, name.as_bytes());
    }
    std::fs::write(desk.path("files").join(std::ffi::OsStr::from_bytes(b"bad\xff")), b"").unwrap();
    std::os::unix::fs::symlink("sub", desk.path("files/link")).unwrap();
    nix::unistd::mkfifo(&desk.path("files/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let endpoint = url(s3.address);
    let ran = desk.run(&["files", "s3://store/p", "--endpoint", &endpoint]).await;
    ran.assert(1);
    assert!(ran.err.contains("not UTF-8") && ran.err.contains("13 files uploaded"), "{}", ran.err);
    for skipped in ["skipped: files/link", "skipped: files/fifo"] {
        assert!(ran.err.contains(skipped), "{}", ran.err);
    }
    assert!(!ran.err.contains('\u{1b}'));
    s3.books(|books| {
        for name in names {
            let object = &books.objects[&format!("p/{name}")];
            assert_eq!(object.length, name.len() as u64, "{name:?}");
        }
        assert_eq!(books.objects.len(), names.len());
    });
}

/// "validated whole … before the first byte, all errors with their line numbers at once"; then rows are
/// objects with their headers.
#[tokio::test]
async fn a_manifest_is_sent_when_it_is_right_to_its_end() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    desk.file("a.html", b"<p>");
    desk.file("large", &payload(11 << 20));
    let list = desk.path("list.csv");
    let right = "path,key,cache-control,x-amz-meta-owner,content-type\n\
                 files/a.html,x/one,no-store,me,\nfiles/a.html,two,,,text/plain\n";
    std::fs::write(&list, format!("{right}files/none,three,,,\nfiles/a.html,two,,,\n")).unwrap();
    let endpoint = url(s3.address);
    let arguments = ["--manifest", "list.csv", "s3://store/p", "--endpoint", &endpoint];
    let ran = desk.run(&arguments).await;
    ran.assert(64);
    for error in ["line 4: \"files/none\": No such file", "line 5: the key \"p/two\""] {
        assert!(ran.err.contains(error), "{}", ran.err);
    }
    assert_eq!(s3.books(|books| books.puts), 0);
    std::fs::write(&list, format!("{right}files/large,big,max-age=1,you,\n")).unwrap();
    desk.run(&[&arguments[..], &["--part-size", "5MiB"]].concat()).await.assert(0);
    s3.books(|books| {
        let header = |key: &str, name: &str| books.objects[key].headers.get(name).cloned();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(header("p/x/one", "cache-control"), some("no-store"));
        assert_eq!(header("p/x/one", "x-amz-meta-owner"), some("me"));
        assert_eq!(header("p/x/one", "content-type"), some("text/html"));
        assert_eq!(header("p/two", "content-type"), some("text/plain"));
        assert_eq!(header("p/two", "cache-control"), None);
        assert_eq!(header("p/big", "cache-control"), some("max-age=1"));
        assert_eq!(books.objects.len(), 3);
    });
}

/// "one object per finished file, and a summary"; `--dry-run` sends nothing and says what it would.
#[tokio::test]
async fn programs_read_a_line_for_each_file() {
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    for name in ["a.txt", "b.tmp", "sub/c.txt", "sub/d.tmp", "keep.tmp"] {
        desk.file(name, name.as_bytes());
    }
    let endpoint = url(s3.address);
    let filters = ["--exclude", "*.tmp", "--include", "keep*"];
    let arguments = ["files", "s3://store/p/", "--endpoint", &endpoint, "--json"];
    let arguments = [&arguments[..], &filters].concat();
    let keys = |ran: &Ran, event: &str| {
        let events = ran.events();
        let mine = events.iter().filter(|line| line["event"] == event);
        let mut keys: Vec<_> = mine.map(|line| line["key"].as_str().unwrap().to_owned()).collect();
        keys.sort();
        keys
    };
    let mut dry = desk.command(&[&arguments[..], &["--dry-run"]].concat());
    dry.env_remove("AWS_ACCESS_KEY_ID");
    let dry = ran(dry).await;
    let expected = ["p/a.txt", "p/keep.tmp", "p/sub/c.txt"];
    assert_eq!(keys(dry.assert(0), "would_upload"), expected);
    let would = |ran: &Ran| {
        let summary = ran.events().pop().unwrap();
        assert_eq!(summary["event"], "summary");
        ["uploaded", "already", "would_upload", "would_upload_bytes"]
            .map(|name| summary[name].as_u64().unwrap())
    };
    assert_eq!(would(&dry), [0, 0, 3, 22]);
    assert_eq!((s3.books(|books| books.puts), desk.state()), (0, None));
    let ran = desk.run(&arguments).await;
    assert_eq!(keys(ran.assert(0), "uploaded"), expected);
    let events = ran.events();
    let summary = events.last().unwrap();
    assert_eq!((&summary["event"], &summary["uploaded"]), (&"summary".into(), &3.into()));
    let one = events.iter().find(|line| line["key"] == "p/a.txt").unwrap();
    assert_eq!((&one["path"], &one["bytes"]), (&"files/a.txt".into(), &5.into()));
    assert_eq!(one["etag"], s3.books(|books| books.objects["p/a.txt"].etag.replace('"', "")));
    // What the state has is not sent, and is not said to be.
    desk.run(&[&arguments[..], &["--keep-state"]].concat()).await.assert(0);
    desk.file("new.txt", b"1");
    let dry_again = [&arguments[..], &["--dry-run"]].concat();
    let ran = desk.run(&dry_again).await;
    assert_eq!(keys(ran.assert(0), "would_upload"), ["p/new.txt"]);
    assert_eq!(would(&ran), [0, 3, 1, 1]);
    let ran = desk.run(&[&dry_again[..], &["--fresh"]].concat()).await;
    assert_eq!(would(&ran), [0, 0, 4, 23]);
    let words: Vec<&str> = dry_again.into_iter().filter(|word| *word != "--json").collect();
    let ran = desk.run(&words).await;
    assert_eq!(ran.assert(0).out, "files/new.txt -> s3://store/p/new.txt (1 B)\n");
    assert_eq!(ran.err, "1 file would be uploaded, 1 B, 3 there already\n");
}

/// Every checksum, of a small file, a larger one and one in parts, is one that a backend which looks at it
/// takes.
#[tokio::test]
async fn every_checksum_is_right() {
    let backend = Backend::start().await;
    let s3 = LedgerS3::start(true).await;
    let desk = Desk::new();
    for (name, length) in [("empty", 0), ("small", 1000), ("middle", 300_000), ("large", 11 << 20)]
    {
        desk.file(name, &payload(length));
    }
    let books = url(s3.address);
    let endpoint = url(backend.s3.address);
    for checksum in ["md5", "crc32", "crc32c", "crc64nvme", "sha256", "none"] {
        let prefix = format!("s3://store/{checksum}");
        let arguments = ["files", &prefix, "--checksum", checksum, "--part-size", "5MiB"];
        let mut command = desk.command(&[&arguments[..], &["--endpoint", &endpoint]].concat());
        command.env("AWS_ACCESS_KEY_ID", &backend.s3.access_key);
        command.env("AWS_SECRET_ACCESS_KEY", &backend.s3.secret_key);
        ran(command).await.assert(0);
        for name in ["empty", "small", "middle", "large"] {
            let object = backend.object(&format!("{checksum}/{name}")).unwrap();
            let file = std::fs::read(desk.path("files").join(name)).unwrap();
            assert!(object == file, "{checksum}/{name}");
        }
        desk.run(&[&arguments[..], &["--endpoint", &books]].concat()).await.assert(0);
    }
    s3.books(|books| {
        for (checksum, header) in [
            ("md5", "content-md5"),
            ("crc32", "x-amz-checksum-crc32"),
            ("crc32c", "x-amz-checksum-crc32c"),
            ("crc64nvme", "x-amz-checksum-crc64nvme"),
            ("sha256", "x-amz-checksum-sha256"),
        ] {
            for name in ["empty", "small", "middle"] {
                let headers = &books.objects[&format!("{checksum}/{name}")].headers;
                assert!(headers.contains_key(header), "{checksum}/{name}: {headers:?}");
            }
        }
        assert_eq!(books.objects["md5/large"].part_md5s.len(), 3);
        let signed = &books.objects["sha256/small"].headers["x-amz-content-sha256"];
        assert_eq!(signed.len(), 64, "{signed}");
    });
}

/// "Credentials like any AWS tool's": a profile with region and endpoint; TLS with an authority of one's own.
#[tokio::test]
async fn profiles_and_tls_endpoints_work() {
    let backend = Backend::start().await;
    let authority = Authority::new();
    let setup = Setup::new(&backend, backend.s3.address);
    let gateway = authority.serve(setup).start().await;
    let desk = Desk::new();
    desk.file("small", b"12345");
    desk.file("large", &payload(11 << 20));
    let config = format!(
        "[profile mine]\nregion = us-east-1\nendpoint_url = https://{}\n\
         aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n",
        gateway.address
    );
    std::fs::create_dir(desk.path(".aws")).unwrap();
    std::fs::write(desk.path(".aws/config"), config).unwrap();
    let ca = authority.path("ca.pem");
    let arguments = ["files", "s3://uploads/p", "--profile", "mine", "--part-size", "5MiB"];
    let with_ca = [&arguments[..], &["--ca-file", ca.to_str().unwrap()]].concat();
    let mut command = desk.command(&with_ca);
    // As good as none.
    command.env("AWS_CA_BUNDLE", "");
    // The profile that was named wins over the environment.
    command.env("AWS_ACCESS_KEY_ID", "AKIDOTHER");
    ran(command).await.assert(0);
    assert_eq!(backend.object("p/small").unwrap(), b"12345");
    assert!(backend.object("p/large").unwrap() == payload(11 << 20));
    let mut bundle = desk.command(&[&arguments[..], &["--fresh"]].concat());
    bundle.env("AWS_CA_BUNDLE", &ca);
    ran(bundle).await.assert(0);
    // It ends at once: no try fares better.
    let mut untrusted = desk.command(&[&arguments[..], &["--fresh"]].concat());
    untrusted.env("AWS_CA_BUNDLE", "");
    let untrusted = ran(untrusted).await;
    assert!(!untrusted.assert(1).err.contains("FAILED"), "{}", untrusted.err);
    for text in ["ended early: ", "certificate in --ca-file"] {
        assert!(untrusted.err.contains(text), "{text}: {}", untrusted.err);
    }
}

/// "64 the command or the manifest is wrong, nothing was sent"
#[tokio::test]
async fn a_wrong_command_is_64() {
    let desk = Desk::new();
    desk.file("f", b"x");
    let endpoint = ["--endpoint", "http://127.0.0.1:1"];
    for (arguments, problem) in [
        (&["files"][..], "s3://bucket/prefix"),
        (&["s3://store/p"], "name a file or a folder"),
        (&["none", "s3://store/p"], "No such file"),
        (&["files", "s3://x/p"], "no bucket's name"),
        (&["-", "s3://store/p/"], "goes alone, and to a key"),
        (&["-", "files", "s3://store/p"], "goes alone, and to a key"),
        (&["-", "s3://store/p", "--exclude", "*"], "are for files"),
        (&["-", "s3://store/p", "--dry-run"], "nothing is known of standard input"),
        (&["files", "s3://store", "--manifest", "m.csv"], "either --manifest or paths"),
        (&["--manifest", "none.csv", "s3://store"], "No such file"),
        (&["--manifest", "none.csv", "s3://store", "--exclude", "*"], "cannot be used with"),
        (&["--manifest", "none.csv", "s3://store", "--follow-links"], "cannot be used with"),
        (&["files", "s3://store", "--part-size", "1MiB"], "5MiB to 5GiB"),
        (&["files", "s3://store", "--endpoint", "http://h/path"], "must have no path"),
        (&["files", "s3://store", "--virtual-host"], "is an address"),
        (&["files", "s3://store", "--profile", "nobody"], "no credentials from the profile nobody"),
    ] {
        let ran = desk
            .run(
                &[arguments, &endpoint[..if arguments.contains(&"--endpoint") { 0 } else { 2 }]]
                    .concat(),
            )
            .await;
        assert!(ran.assert(64).err.contains(problem), "{problem}: {}", ran.err);
    }
    let mut command = desk.command(&[&["files", "s3://store"][..], &endpoint].concat());
    command.env_remove("AWS_ACCESS_KEY_ID");
    let ran = super::ran(command).await;
    assert!(ran.assert(64).err.contains("no credentials from the environment"), "{}", ran.err);
    assert_eq!(desk.state(), None);
}
