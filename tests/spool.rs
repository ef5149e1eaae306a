//! The operator's side of the spool: `mizuchi spool`, of a gateway that runs and of one that is stopped
//! (docs/durability.md).

mod admin;
mod stopped;

use crate::support::authority::Authority;
use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request, signer};
use crate::support::eventually;
use crate::support::gateway::{ACCESS_KEY, Gateway, SECRET_KEY, Setup, get};
use crate::support::payload;
use crate::support::proxy::{Fault, Proxy};
use bytes::Bytes;
use md5::Digest as _;
use mizuchi_actors::spool::{
    Body, Entry, EntryContent, Folder, Limits, PartBody, Parts, Place, Spool,
};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;

const TOKEN: &str = "canary-token-of-the-admin";

struct Rig {
    backend: Backend,
    proxy: Proxy,
    directory: tempfile::TempDir,
    /// YAML inside `admin`, indented by two.
    admin: String,
    /// Where the gateway's admin listener is, or was.
    address: SocketAddr,
    gateway: Option<Gateway>,
}

/// What a command said.
struct Ran {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output, if all went well.
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.text(), self.stderr);
        self.text()
    }

    /// Standard error, if it ended with this.
    fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.stderr);
        self.stderr
    }
}

impl Rig {
    async fn new(admin: &str) -> Rig {
        let backend = Backend::start().await;
        let proxy = Proxy::start(backend.s3.address).await;
        let mut rig = Rig {
            backend,
            proxy,
            directory: tempfile::tempdir().unwrap(),
            admin: admin.to_owned(),
            address: ([127, 0, 0, 1], 0).into(),
            gateway: None,
        };
        rig.start().await;
        rig
    }

    /// With a token, as an operator would have it.
    async fn protected() -> Rig {
        Rig::new(&format!("  token: {TOKEN}\n")).await
    }

    fn spool(&self) -> PathBuf {
        self.directory.path().join("spool")
    }

    fn settings(&self, admin: SocketAddr) -> String {
        format!(
            "server:\n  address: 127.0.0.1:0\n  workers: 2\n  shutdown_grace: 10s\n  state_directory: \
             {0}\nspool:\n  directory: {0}/spool\n  backoff_base: 20ms\n  backoff_cap: 100ms\n  min_free: 0\n\
             admin:\n  address: {admin}\n{1}buckets:\n  - name: uploads\n    upload:\n      mode: write_back\n      \
             restart:\n        max: 0\n    s3:\n      bucket: store\n      region: us-east-1\n      endpoint: http://{2}\n      \
             path_style: true\n      verifies: []\n      access_key: {3}\n      secret_key: {4}\n    auth:\n      \
             sigv4:\n        credentials:\n          - access_key: {ACCESS_KEY}\n            secret_key: {SECRET_KEY}\n            \
             principal: tester\n",
            self.directory.path().display(),
            self.admin,
            self.proxy.address,
            self.backend.s3.access_key,
            self.backend.s3.secret_key,
        )
    }

    /// The spool of a gateway that is stopped.
    fn opened(&self) -> Arc<Spool> {
        let disk = Arc::new(Folder::open(&self.spool()).unwrap());
        let limits = Limits { entries: 10_000, bytes: 1 << 30, free_bytes: 0, free_files: 0 };
        Spool::open(disk, limits).unwrap()
    }

    async fn start(&mut self) {
        let mut setup = Setup::new(&self.backend, self.proxy.address);
        setup.settings = Some(self.settings(([127, 0, 0, 1], 0).into()));
        let gateway = setup.start().await;
        self.address = gateway.admin;
        self.gateway = Some(gateway);
    }

    async fn stop(&mut self) {
        let mut gateway = self.gateway.take().unwrap();
        gateway.signal("TERM");
        assert!(gateway.ended().await.success());
    }

    async fn put(&self, key: &str, body: &[u8]) {
        let mut client = Client::connect(self.gateway.as_ref().unwrap()).await;
        let request = Request::put(key, body.len()).header("x-amz-meta-colour", "blue");
        let answer = client.send(request, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// An upload that the backend refuses for good: it is set aside.
    async fn put_refused(&self, key: &str, body: &[u8]) {
        self.proxy.script([Fault::AnswerAfter(1, FORBIDDEN)]);
        let before = self.status().await["quarantined"].as_u64().unwrap();
        self.put(key, body).await;
        eventually("it is set aside", async || {
            self.status().await["quarantined"].as_u64().unwrap() == before + 1
        })
        .await;
    }

    async fn with(&self, settings: &str, arguments: &[&str]) -> Ran {
        let file = self.directory.path().join(format!("{:016x}.yaml", rand::random::<u64>()));
        std::fs::write(&file, settings).unwrap();
        run(&file, arguments).await
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        self.with(&self.settings(self.address), arguments).await
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.run(&["status", "--json"]).await.well()).unwrap()
    }

    /// `ls --json`, by key.
    async fn number(&self, key: &str) -> String {
        let lines = self.run(&["ls", "--json"]).await.well();
        let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut found = rows.filter(|row| row["key"] == key);
        found.next().unwrap_or_else(|| panic!("{key}: {lines}"))["number"].to_string()
    }

    /// The only body's file.
    fn file(&self) -> PathBuf {
        let mut files = std::fs::read_dir(self.spool().join("bodies")).unwrap();
        files.next().unwrap().unwrap().path()
    }
}

/// `mizuchi spool …`
async fn run(settings: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
    command.arg("spool").args(arguments).arg("--settings").arg(settings);
    // The backend and the proxy run on this thread.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    for said in [&stderr, &String::from_utf8_lossy(&output.stdout).into_owned()] {
        assert!(!said.contains("canary"), "{arguments:?}: {said}");
    }
    Ran { code: output.status.code(), stdout: output.stdout, stderr }
}

const FORBIDDEN: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: 62\r\n\r\n\
    <Error><Code>AccessDenied</Code><Message>no</Message></Error>\r\n";

/// What passes with time, taken out.
fn timeless(text: &str) -> String {
    let lines =
        text.lines().filter(|line| !line.starts_with("gateway") && !line.starts_with("oldest"));
    let mut kept = String::new();
    for line in lines {
        match serde_json::from_str::<Value>(line) {
            Ok(mut value) => {
                value["age_seconds"] = Value::Null;
                value["oldest_seconds"] = Value::Null;
                kept.push_str(&value.to_string());
            }
            Err(_) => {
                // What stands before "N s ago" is a date.
                let before = line.split(" ago").next().unwrap();
                kept.push_str(before.rsplit_once(", ").map_or(before, |(date, _)| date));
            }
        }
        kept.push('\n');
    }
    kept
}

/// "Works against a stopped gateway and against a running one": the same commands say the same, and the
/// bytes that come out are those that went in.
#[tokio::test]
async fn a_spool_is_the_same_from_both_sides() {
    let mut rig = Rig::protected().await;
    rig.put_refused("refused \u{1b}[2J", b"refused").await;
    rig.proxy.set_away(true);
    let large = payload(3_000_000);
    rig.put("large", &large).await;
    rig.put("empty", b"").await;
    let (refused, number) = (rig.number("refused \u{1b}[2J").await, rig.number("large").await);
    let empty = rig.number("empty").await;
    let mut said = Vec::new();
    for side in ["running", "stopped"] {
        if side == "stopped" {
            rig.stop().await;
        }
        let status = rig.status().await;
        assert_eq!(
            (status["waiting"].as_u64(), status["quarantined"].as_u64()),
            (Some(2), Some(1))
        );
        assert_eq!(status["bytes"], large.len() + 7);
        assert_eq!((&status["latched"], &status["unreadable"]), (&false.into(), &0.into()));
        let mut all = String::new();
        for arguments in [
            &["status"][..],
            &["status", "--json"],
            &["ls", "--json"],
            &["ls", "--quarantined", "--json"],
            &["show", &number],
            &["show", &refused, "--json"],
            &["verify"],
        ] {
            all.push_str(&rig.run(arguments).await.well());
        }
        let ls = rig.run(&["ls"]).await.well();
        assert!(ls.contains("uploads/large, waiting"), "{ls}");
        assert!(ls.contains("set aside: the backend refuses it"), "{ls}");
        assert!(!ls.contains('\u{1b}'), "it steers the terminal: {ls:?}");
        assert_eq!(rig.run(&["ls", "--quarantined"]).await.well().lines().count(), 2);
        assert!(all.contains("x-amz-meta-colour: blue"), "{all}");
        said.push(timeless(&all));
        let out = rig.directory.path().join(side);
        rig.run(&["export", &number, out.to_str().unwrap()]).await.well();
        assert!(std::fs::read(&out).unwrap() == large, "{side}");
        let again = rig.run(&["export", &number, out.to_str().unwrap()]).await.failed(64);
        assert!(again.contains("exists"), "{again}");
        assert!(rig.run(&["export", &number, "-"]).await.stdout == large, "{side}");
        assert_eq!(rig.run(&["export", &empty, "-"]).await.well(), "");
        assert_eq!(rig.run(&["export", &refused, "-"]).await.well(), "refused");
        for arguments in
            [&["show", "1"][..], &["retry", "1"], &["export", "1", "-"], &["retry", &number]]
        {
            rig.run(arguments).await.failed(64);
        }
    }
    assert_eq!(said[0], said[1]);
}

/// "retry: so that it is delivered again", "drain: waits until nothing waits".
#[tokio::test]
async fn what_was_set_aside_is_delivered_after_a_retry() {
    let mut rig = Rig::protected().await;
    for key in ["a", "b", "c"] {
        rig.put_refused(key, key.as_bytes()).await;
    }
    assert!(rig.run(&["drain"]).await.well().contains("nothing waits; 3 are set aside"));
    let number = rig.number("a").await;
    rig.run(&["retry", &number]).await.well();
    eventually("a arrives", async || rig.backend.object("a").is_some()).await;
    assert!(rig.run(&["retry", "--all"]).await.well().starts_with("2 wait"));
    rig.run(&["drain", "--timeout", "20s"]).await.well();
    assert!(rig.backend.object("b").is_some() && rig.backend.object("c").is_some());
    // While it is stopped.
    rig.put_refused("d", b"d").await;
    rig.put_refused("e", b"e").await;
    rig.stop().await;
    let number = rig.number("d").await;
    rig.run(&["retry", &number]).await.well();
    let error = rig.run(&["drain"]).await.failed(69);
    assert!(error.contains("1 wait, and the gateway is stopped: start it"), "{error}");
    assert!(rig.run(&["retry", "--all"]).await.well().starts_with("1 wait"));
    rig.start().await;
    assert!(rig.run(&["drain", "--timeout", "20s"]).await.well().starts_with("nothing waits\n"));
    assert!(rig.backend.object("d").is_some() && rig.backend.object("e").is_some());
    assert_eq!(rig.status().await["entries"], 0);
}

/// "retry refuses what was superseded, unless --force; ls and show say so."
#[tokio::test]
async fn what_is_older_than_what_was_delivered_is_not_written_over_it() {
    let mut rig = Rig::protected().await;
    rig.put_refused("key", b"old").await;
    let number = rig.number("key").await;
    rig.put("key", b"new").await;
    eventually("the newer one arrives", async || rig.backend.object("key").is_some()).await;
    rig.run(&["drain"]).await.well();
    for side in ["running", "stopped"] {
        if side == "stopped" {
            rig.stop().await;
        }
        for command in [&["ls"][..], &["show", &number]] {
            assert!(rig.run(command).await.well().contains("set aside, superseded by "), "{side}");
        }
        let error = rig.run(&["retry", &number]).await.failed(1);
        assert!(error.contains("its key was written anew by "), "{error}");
        let all = rig.run(&["retry", "--all"]).await.well();
        assert!(all.starts_with("0 wait") && all.contains("1 stay set aside: newer"), "{all}");
    }
    rig.start().await;
    assert_eq!(rig.backend.object("key"), Some(b"new".to_vec()));
    rig.run(&["retry", &number, "--force"]).await.well();
    eventually("it is written over", async || rig.backend.object("key") == Some(b"old".to_vec()))
        .await;
}

/// "status: number and bytes; verify covers their parts": of multipart uploads that are open still.
#[tokio::test]
async fn open_multipart_uploads_are_counted_and_their_parts_verified() {
    let mut rig = Rig::protected().await;
    rig.proxy.set_away(true);
    let mut client = Client::connect(rig.gateway.as_ref().unwrap()).await;
    let begun = client.send(Request::method("POST", "open").query("uploads", ""), b"").await;
    let id = begun.element("UploadId").unwrap();
    for (number, body) in [("1", payload(3000)), ("2", payload(100))] {
        let part = Request::put("open", body.len()).query("partNumber", number);
        assert_eq!(client.send(part.query("uploadId", &id), &body).await.status, 200);
    }
    let mut said = Vec::new();
    for side in ["running", "stopped"] {
        if side == "stopped" {
            rig.stop().await;
        }
        let status = rig.run(&["status"]).await.well();
        assert!(status.contains("multipart    1 open, 2 parts, 3.0 KiB\n"), "{status}");
        let status = rig.status().await;
        assert_eq!((&status["waiting"], &status["bytes"]), (&0.into(), &3100.into()));
        said.push(rig.run(&["verify"]).await.well());
    }
    assert_eq!(said, ["1 sound, 0 rotten, 0 unknown; 3.0 KiB read\n"; 2]);
    rig.start().await;
    let mut files: Vec<PathBuf> = std::fs::read_dir(rig.spool().join("bodies"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut bytes = std::fs::read(&files[1]).unwrap();
    bytes[7] ^= 1;
    std::fs::write(&files[1], bytes).unwrap();
    for side in ["running", "stopped"] {
        if side == "stopped" {
            rig.stop().await;
        }
        let verify = rig.run(&["verify"]).await;
        let out = String::from_utf8(verify.stdout.clone()).unwrap();
        assert!(out.contains("uploads/open: rotten: part 2: its MD5 is"), "{out}");
        verify.failed(1);
    }
}

/// "drain … `--timeout`", "Exit codes: 1 something is wrong with the spool".
#[tokio::test]
async fn a_drain_waits_no_longer_than_it_was_told() {
    let rig = Rig::protected().await;
    rig.proxy.set_away(true);
    rig.put("waits", b"x").await;
    assert!(rig.run(&["drain", "--timeout", "1s"]).await.failed(1).contains("1 wait still"));
    let waiting = rig.run(&["drain"]);
    let back = async {
        eventually("it asks", async || rig.status().await["waiting"] == 1).await;
        rig.proxy.set_away(false);
    };
    let (drained, ()) = tokio::join!(waiting, back);
    assert_eq!(drained.well(), "nothing waits\n");
}

/// "verify: every body re-read against its MD5, exit code 1 if any is rotten"; what is rotten is exported
/// as nothing.
#[tokio::test]
async fn rot_is_found_on_both_sides() {
    let mut rig = Rig::protected().await;
    rig.proxy.set_away(true);
    rig.put("rots", &payload(400_000)).await;
    rig.put("sound", b"in the journal").await;
    assert!(rig.run(&["verify"]).await.well().starts_with("2 sound, 0 rotten, 0 unknown"));
    let file = rig.file();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[399_999] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let number = rig.number("rots").await;
    let out = rig.directory.path().join("out");
    for side in ["running", "stopped"] {
        if side == "stopped" {
            rig.stop().await;
        }
        let verified = rig.run(&["verify"]).await;
        assert!(
            verified.text().contains("uploads/rots: rotten: its MD5 is"),
            "{}",
            verified.text()
        );
        assert!(verified.text().contains("1 sound, 1 rotten, 0 unknown"), "{}", verified.text());
        verified.failed(1);
        let error = rig.run(&["export", &number, out.to_str().unwrap()]).await.failed(1);
        assert!(error.contains("the body is rotten"), "{error}");
        assert!(!out.exists());
    }
    // A shorter one is noticed when the spool is opened; it stays what it is, whatever is tried.
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1000).unwrap();
    assert_eq!(rig.status().await["quarantined"], 1);
    assert!(rig.run(&["retry", &number]).await.failed(1).contains("stays set aside"));
    assert!(rig.run(&["retry", "--all"]).await.failed(1).contains("1 stay set aside"));
    rig.run(&["export", &number, out.to_str().unwrap()]).await.failed(1);
    assert!(!out.exists() && file.exists());
}

/// "If that fails says so and what to do", exit status 69; a token is never shown ([`run`] looks).
#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let mut rig = Rig::protected().await;
    rig.put("one", b"x").await;
    let asked =
        |error: &str| error.contains("a gateway runs on this spool, and its admin listener at");
    let good = rig.settings(rig.address);
    let error =
        rig.with(&good.replace(TOKEN, "canary-token-of-others"), &["status"]).await.failed(69);
    assert!(asked(&error) && error.contains("it refuses admin.token"), "{error}");
    let tokenless = good.replace(&rig.admin, "");
    let error = rig.with(&tokenless, &["status"]).await.failed(69);
    assert!(asked(&error) && error.contains("a token is needed"), "{error}");
    let closed = rig.settings(([127, 0, 0, 1], 1).into());
    let error = rig.with(&closed, &["ls"]).await.failed(69);
    assert!(asked(&error) && error.contains("refused"), "{error}");
    // What listens there is no admin listener: it gets no further than its answer.
    let client_side = rig.settings(rig.gateway.as_ref().unwrap().address);
    assert!(asked(&rig.with(&client_side, &["status"]).await.failed(69)));
    rig.stop().await;
    let elsewhere = good.replace("/spool\n", "/no-spool\n");
    let error = rig.with(&elsewhere, &["status"]).await.failed(69);
    assert!(error.contains("there is no spool in"), "{error}");
    assert!(!rig.directory.path().join("no-spool").exists(), "looking made one");
    rig.with("server: {adress: 1}\n", &["status"]).await.failed(64);
    for arguments in
        [&["retry"][..], &["retry", "1", "--all"], &["show", "x"], &["delete", "1"], &[]]
    {
        rig.run(arguments).await.failed(64);
    }
    // A record that is none: the journal is damaged.
    std::fs::write(rig.spool().join("journal.redb"), [1; 8192]).unwrap();
    assert!(rig.run(&["status"]).await.failed(1).contains("keep the folder"));
}

/// "address, token, TLS as settings/admin has them": the listener must be the one with the certificate of
/// the settings, and a client certificate does where there is no token.
#[tokio::test]
async fn a_listener_with_tls_is_known_by_its_certificate() {
    let authority = Authority::new();
    authority.install(&authority.server());
    let path = |name: &str| authority.path(name).display().to_string();
    let rig = Rig::new(&format!(
        "  tls:\n    cert_file: {}\n    key_file: {}\n    client_ca_file: {}\n",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    ))
    .await;
    let pair = authority.client("operator", Vec::new(), false);
    std::fs::write(path("client.pem"), &pair.cert).unwrap();
    std::fs::write(path("client.key"), &pair.key).unwrap();
    let own = ["--cert", &path("client.pem"), "--key", &path("client.key")];
    let with = |arguments: &[&'static str]| {
        arguments
            .iter()
            .copied()
            .map(str::to_owned)
            .chain(own.map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let status = with(&["status", "--json"]);
    let status: Vec<&str> = status.iter().map(String::as_str).collect();
    assert!(rig.run(&status).await.well().contains("\"latched\":false"));
    let error = rig.run(&["status"]).await.failed(69);
    assert!(error.contains("a client certificate is needed"), "{error}");
    // Somebody else who listens there, and has a certificate of the same authority.
    let other = authority.server();
    std::fs::write(path("other.pem"), &other.cert).unwrap();
    std::fs::write(path("other.key"), &other.key).unwrap();
    let settings = rig.settings(rig.address);
    let settings = settings.replace("server.pem", "other.pem").replace("server.key", "other.key");
    let error = rig.with(&settings, &status).await.failed(69);
    assert!(error.contains("certificate"), "{error}");
}

/// What is stored here is under way too, holds a permit, and was taken from a client; a delivery is under
/// way without one.
#[tokio::test]
async fn the_gauges_tell_of_stores_and_of_deliveries() {
    let rig = Rig::new("").await;
    let gateway = rig.gateway.as_ref().unwrap();
    let shows = async |uploads: f64, permits: f64, waiting: f64| {
        eventually(&format!("{uploads} uploads, {permits} permits, {waiting} wait"), async || {
            gateway.metric("mizuchi_uploads_in_flight").await == uploads
                && gateway.metric("mizuchi_permits_in_use").await == permits
                && gateway.metric("mizuchi_spool_waiting").await == waiting
        })
        .await;
    };
    rig.put_refused("refused", b"x").await;
    rig.proxy.script([Fault::BlackholeAfter(1)]);
    let body = payload(300_000);
    let mut client = Client::connect(gateway).await;
    let host = client.host.clone();
    let head = Request::put("key", body.len()).sign(&host, &signer(), OffsetDateTime::now_utc());
    client.socket.write_all(&[&head, &body[..200_000]].concat()).await.unwrap();
    shows(1.0, 1.0, 0.0).await;
    client.socket.write_all(&body[200_000..]).await.unwrap();
    assert_eq!(client.answer(false).await.status, 200);
    shows(1.0, 0.0, 1.0).await;
    assert_eq!(gateway.metric("mizuchi_spool_entries").await, 2.0);
    let taken = "mizuchi_transfer_bytes_total{plan=\"spool\",reason=\"write_back\"}";
    assert_eq!(gateway.metric(taken).await, 300_001.0);
    assert_eq!(gateway.metric("mizuchi_transfer_bytes_total").await, 300_001.0);
}

/// Exit status 1: "a record cannot be read": whoever drains a spool before taking it away must not be told
/// that nothing is left.
#[tokio::test]
async fn a_record_that_cannot_be_read_is_no_all_clear() {
    let mut rig = Rig::new(&format!("  token: {TOKEN}\n  open: [metrics]\n")).await;
    rig.stop().await;
    let journal = redb::Database::open(rig.spool().join("journal.redb")).unwrap();
    let begun = journal.begin_write().unwrap();
    let entries = redb::TableDefinition::<u64, &[u8]>::new("entries");
    begun.open_table(entries).unwrap().insert(7, &b"\x01{}"[..]).unwrap();
    begun.commit().unwrap();
    drop(journal);
    for side in ["stopped", "running"] {
        for verb in ["verify", "drain"] {
            let ran = rig.run(&[verb]).await;
            let said = ran.text();
            let error = ran.failed(1);
            assert!(error.contains("1 records of uploads cannot be read"), "{side}: {error}");
            assert!(said.contains("0 sound") || said.contains("nothing waits"), "{said}");
        }
        if side == "stopped" {
            rig.start().await;
        }
    }
    let gateway = rig.gateway.as_ref().unwrap();
    assert_eq!(gateway.metric("mizuchi_spool_unreadable").await, 1.0);
}

/// "`mizuchi check` says what write-back gives up, warns when spool.directory is on tmpfs and when the disk
/// has less free than spool.max_bytes."
#[tokio::test]
async fn check_says_what_write_back_gives_up() {
    let check = async |spool: &str, mode: &str| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("settings.yaml");
        let text = format!(
            "spool:\n  {spool}\nbuckets:\n  - name: uploads\n    upload:\n      mode: {mode}\n    \
             s3:\n      endpoint: http://127.0.0.1:1\n      region: r\n      access_key: a\n      secret_key: s\n    \
             auth:\n      enabled: false\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
        let output = command.arg("check").arg("--settings").arg(&file).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (stdout, stderr) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(0), "{stdout}{stderr}");
        let stderr = stderr.lines().filter(|line| line.contains("spool.")).collect::<String>();
        (stdout.matches("What that gives up: reading them at the backend").count(), stderr)
    };
    let small = "directory: /var/lib/none/spool\n  max_bytes: 1MiB\n  min_free: 0";
    assert_eq!(check(small, "write_back").await, (1, String::new()));
    let huge = "directory: /var/lib/none/spool\n  max_bytes: 1000TiB\n  min_free: 0";
    let (given_up, warnings) = check(huge, "write_back").await;
    assert_eq!(given_up, 1);
    assert!(warnings.contains("warning: spool.max_bytes: 1000.0 TiB"), "{warnings}");
    assert_eq!(check(huge, "write_through").await, (0, String::new()));
    let memory = "directory: /dev/shm/none/spool\n  max_bytes: 1MiB\n  min_free: 0";
    let (_, warnings) = check(memory, "write_back").await;
    assert_eq!(warnings.contains("is in memory (tmpfs)"), cfg!(target_os = "linux"), "{warnings}");
}
