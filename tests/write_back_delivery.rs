//! How what was acknowledged goes to its backend: multipart uploads part by part, buckets beside each
//! other, at a pace (docs/durability.md).

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{payload, times};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::Digest as _;
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use mizuchi_actors::spool::{
    Body, Entry, EntryContent, Folder, Limits, PartBody, Parts, Place, Spool,
};
use sha2::Sha256;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A spool and a state directory that outlive their gateways.
struct Kept(tempfile::TempDir);

impl Kept {
    fn new() -> Kept {
        Kept(tempfile::tempdir().unwrap())
    }

    fn spool(&self) -> std::path::PathBuf {
        self.0.path().join("spool")
    }

    async fn start(&self, setup: Setup, more: &str) -> Gateway {
        self.start_with(setup, more, "").await
    }

    /// `more`: YAML in `spool`; `buckets`: further ones.
    async fn start_with(&self, setup: Setup, more: &str, buckets: &str) -> Gateway {
        let state = self.0.path().join("state");
        let mut setup = setup
            .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.to_str().unwrap())
            .bucket("    upload:\n      mode: write_back\n      mode_header: allow\n      restart:\n        max: 0\n");
        setup.bucket_extra.push_str(buckets);
        setup.extra.push_str(&format!(
            "spool:\n  directory: {}\n  backoff_base: 20ms\n  backoff_cap: 100ms\n  min_free: 0\n{more}",
            self.spool().display()
        ));
        setup.start().await
    }

    /// Acknowledges uploads while no gateway runs.
    async fn store(&self, entries: impl IntoIterator<Item = (&str, &str, Vec<Vec<u8>>)>) {
        let spool = opened(&self.spool());
        for (bucket, key, parts) in entries {
            store(&spool, bucket, key, &parts).await;
        }
    }
}

fn opened(path: &Path) -> Arc<Spool> {
    let limits = Limits { entries: 10_000, bytes: 1 << 32, free_bytes: 0, free_files: 0 };
    Spool::open(Arc::new(Folder::open(path).unwrap()), limits).unwrap()
}

/// One part: a PutObject. More: a client's multipart upload, numbered 1, 2, ….
async fn store(spool: &Arc<Spool>, bucket: &str, key: &str, parts: &[Vec<u8>]) {
    let mut bodies = Vec::new();
    for bytes in parts {
        let id = spool.new_body();
        let mut file = spool.disk().create(id, None).unwrap();
        file.append(&[Bytes::copy_from_slice(bytes)]).unwrap();
        file.sync().unwrap();
        let md5 = md5::Md5::digest(bytes).into();
        bodies.push(Body { length: bytes.len() as u64, md5, place: Place::File(id) });
    }
    let content = if let [body] = bodies.as_slice() {
        EntryContent::Whole(body.clone())
    } else {
        let numbered = (1..).zip(bodies);
        let part = |(number, body)| PartBody { number, body, checksum: None };
        EntryContent::Parts(Parts { parts: numbered.map(part).collect(), headers: Vec::new() })
    };
    let entry = Entry {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        accepted: 1_700_000_000_000,
        principal: "tester".to_owned(),
        headers: vec![("x-amz-meta-colour".to_owned(), b"blue".to_vec())],
        content,
        quarantined: None,
        upload_id: None,
        superseded: None,
    };
    let reservation = spool.reserve(entry.length()).unwrap();
    spool.commit(entry, None, reservation).await.unwrap();
}

fn etag(parts: &[Vec<u8>]) -> String {
    let md5s: Vec<u8> = parts.iter().flat_map(|part| md5::Md5::digest(part).to_vec()).collect();
    let digest = md5::Md5::digest(md5s);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}-{}\"", parts.len())
}

fn crc32c(body: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(ChecksumAlgorithm::Crc32c);
    hasher.update(body);
    hasher.finish()
}

async fn delivered(gateway: &Gateway) {
    eventually("everything is delivered", async || {
        gateway.metric("mizuchi_spool_entries").await == 0.0
    })
    .await;
}

fn parts(sizes: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
    sizes.into_iter().map(payload).collect()
}

/// "Client part boundaries kept; the ETag acknowledged is the ETag delivered", through a real backend.
#[tokio::test]
async fn a_multipart_upload_arrives_as_it_was_acknowledged() {
    let (kept, backend) = (Kept::new(), Backend::start().await);
    let parts = parts([(5 << 20) + 1, 5 << 20, 77]);
    kept.store([("uploads", "whole", parts.clone())]).await;
    let gateway = kept.start(Setup::new(&backend, backend.s3.address), "").await;
    delivered(&gateway).await;
    let found = backend.object("whole").map(Sha256::digest);
    assert_eq!(found, Some(Sha256::digest(parts.concat())));
    assert_eq!(backend.open_uploads(), 0);
    assert_eq!(gateway.metric("mizuchi_spool_other_etags_total").await, 0.0);
    assert_eq!(gateway.metric("mizuchi_uploads_on_record").await, 0.0);
    gateway.settled().await;
}

/// The same from the client to the backend: acknowledged while it is away, with checksums, and delivered as the
/// client would have sent it.
#[tokio::test]
async fn a_client_s_multipart_upload_is_what_the_backend_gets() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    let proxy = Proxy::start(s3.address).await;
    proxy.set_away(true);
    let gateway = kept.start(Setup::over(proxy.address), "").await;
    let mut client = Client::connect(&gateway).await;
    let begin = Request::method("POST", "key").query("uploads", "");
    let begin =
        begin.header("x-amz-meta-colour", "blue").header("x-amz-checksum-algorithm", "CRC32C");
    let id = client.send(begin, b"").await.element("UploadId").unwrap();
    let parts = parts([(5 << 20) + 3, 77]);
    let mut document = String::new();
    for (number, body) in (1..).zip(&parts) {
        let crc = BASE64.encode(crc32c(body));
        let part = Request::put("key", body.len()).query("partNumber", &number.to_string());
        let part = part.query("uploadId", &id).header("x-amz-checksum-crc32c", &crc);
        let answer = client.send(part, body).await;
        let etag = answer.header("etag").unwrap();
        document.push_str(&format!(
            "<Part><ChecksumCRC32C>{crc}</ChecksumCRC32C><ETag>{etag}</ETag><PartNumber>{number}\
             </PartNumber></Part>"
        ));
    }
    let sent = format!("<CompleteMultipartUpload>{document}</CompleteMultipartUpload>");
    let complete = Request { method: "POST", ..Request::put("key", sent.len()) };
    let answer = client.send(complete.query("uploadId", &id), sent.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.element("ETag").map(|etag| etag.replace("&quot;", "\"")), Some(etag(&parts)));
    assert_eq!(s3.books(|books| books.created), 0);
    proxy.set_away(false);
    delivered(&gateway).await;
    s3.books(|books| {
        let object = &books.objects["key"];
        assert_eq!(object.etag, etag(&parts));
        assert_eq!(object.headers["x-amz-meta-colour"], "blue");
        assert_eq!(object.headers["x-amz-checksum-algorithm"], "CRC32C");
        assert_eq!(books.complete_document.matches("<ChecksumCRC32C>").count(), 2);
        for (body, md5) in parts.iter().zip(&object.part_md5s) {
            assert_eq!(*md5, BASE64.encode(md5::Md5::digest(body)));
            assert!(books.complete_document.contains(&BASE64.encode(crc32c(body))));
        }
    });
    gateway.settled().await;
}

/// The same when it is killed in the middle, at a backend that says nothing of its parts: all are sent
/// again, to the same upload.
#[tokio::test]
async fn a_backend_that_lists_no_etags_gets_all_parts_again() {
    let (kept, backend) = (Kept::new(), Backend::start().await);
    let proxy = Proxy::start(backend.s3.address).await;
    let parts = parts([(5 << 20) + 1, 5 << 20, 77]);
    kept.store([("uploads", "whole", parts.clone())]).await;
    // Its Create goes through; of the parts, the second to begin does not.
    proxy.script([Fault::None, Fault::None, Fault::BlackholeAfter(1 << 20), Fault::None]);
    let mut gateway = kept.start(Setup::new(&backend, proxy.address), "  deliveries: 1\n").await;
    eventually("the second part hangs", async || proxy.left() == 1).await;
    gateway.signal("KILL");
    gateway.ended().await;
    assert_eq!(backend.open_uploads(), 1);
    proxy.script([]);
    let gateway = kept.start(Setup::new(&backend, proxy.address), "").await;
    delivered(&gateway).await;
    let found = backend.object("whole").map(Sha256::digest);
    assert_eq!(found, Some(Sha256::digest(parts.concat())));
    assert_eq!(backend.open_uploads(), 0);
    assert_eq!(gateway.metric("mizuchi_spool_other_etags_total").await, 0.0);
}

/// R1: "kill -9 at random times": whatever it was at, every upload arrives as it was acknowledged, and no
/// multipart upload is left behind.
#[tokio::test]
async fn killed_at_any_moment_a_multipart_delivery_leaves_nothing_behind() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    let keys: Vec<String> = (0..times(6, 100)).map(|number| format!("key-{number}")).collect();
    let bodies = |at: usize| parts([60_000 + at, 50_000, 40_000 + at]);
    let entries = keys.iter().enumerate().map(|(at, key)| ("uploads", key.as_str(), bodies(at)));
    kept.store(entries).await;
    for _ in 0..times(8, 200) {
        // Slow enough to be caught at it.
        let mut gateway = kept.start(Setup::over(s3.address), "  max_rate: 1MiB\n").await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..150))).await;
        gateway.signal("KILL");
        gateway.ended().await;
    }
    let gateway = kept.start(Setup::over(s3.address), "").await;
    delivered(&gateway).await;
    eventually("no upload is left", async || s3.books(|books| books.uploads.is_empty())).await;
    s3.books(|books| {
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(books.objects[key].etag, etag(&bodies(at)), "{key}");
        }
    });
    assert_eq!(gateway.metric("mizuchi_spool_quarantined").await, 0.0);
}

/// R1: "kill -9 in the middle": what the backend has of it is not sent again, and nothing is left behind.
#[tokio::test]
async fn a_delivery_that_was_killed_goes_on_with_the_parts_that_are_there() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    let parts = parts([100_000, 90_000, 80_000, 70_000, 60_000, 50_000]);
    kept.store([("uploads", "key", parts.clone())]).await;
    let stuck = std::iter::repeat_n(("Part", Twist::Blackhole), 10);
    s3.script([("Part", Twist::Trickle), ("Part", Twist::Trickle)].into_iter().chain(stuck));
    let mut gateway = kept.start(Setup::over(s3.address), "").await;
    let there =
        || s3.books(|books| books.uploads.values().map(|one| one.parts.len()).sum::<usize>());
    eventually("two parts are there", async || there() == 2).await;
    gateway.signal("KILL");
    gateway.ended().await;
    s3.script([]);
    let sent = s3.books(|books| books.part_requests);
    let gateway = kept.start(Setup::over(s3.address), "").await;
    delivered(&gateway).await;
    s3.books(|books| {
        assert_eq!(books.part_requests - sent, 4, "what was there is sent again");
        assert_eq!((books.created, books.completed, books.uploads.len()), (1, 1, 0));
        let lengths: Vec<u64> = parts.iter().map(|part| part.len() as u64).collect();
        assert_eq!(books.part_lengths, lengths);
        let object = &books.objects["key"];
        assert_eq!(object.etag, etag(&parts));
        assert_eq!(object.part_md5s.len(), 6, "every part has its Content-MD5");
        assert_eq!(object.headers["x-amz-meta-colour"], "blue");
    });
    gateway.settled().await;
}

/// R8: the backend has completed it, and nobody here knows: it is sent again, and the same is there.
#[tokio::test]
async fn a_complete_whose_answer_is_lost_leaves_the_same_object_and_nothing_else() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    let parts = parts([100_000, 50_000]);
    kept.store([("uploads", "key", parts.clone())]).await;
    s3.script([("Create", Twist::LoseAnswer), ("Complete", Twist::LoseAnswer)]);
    let gateway = kept.start(Setup::over(s3.address), "").await;
    delivered(&gateway).await;
    // The lost Create is found when its key is looked at.
    eventually("no upload is left", async || s3.books(|books| books.uploads.is_empty())).await;
    s3.books(|books| {
        assert_eq!((books.created, books.completed), (3, 2));
        assert_eq!(books.objects["key"].etag, etag(&parts));
    });
    gateway.settled().await;
}

/// Alibaba Cloud OSS writes ETags in capitals: a part that is there counts as there, Complete names it as its
/// backend does, and the object is the one that was acknowledged.
#[tokio::test]
async fn etags_in_capitals_are_those_that_were_acknowledged() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    s3.books(|books| books.capitals = true);
    let parts = parts([100_000, 50_000]);
    kept.store([("uploads", "key", parts.clone())]).await;
    s3.script(vec![("Complete", Twist::Answer(503, "SlowDown")); 12]);
    let gateway = kept.start(Setup::over(s3.address), "").await;
    delivered(&gateway).await;
    assert!(s3.script_done());
    s3.books(|books| {
        assert_eq!(books.part_requests, 2, "what was there is sent again");
        assert_eq!(books.objects["key"].etag.to_lowercase(), etag(&parts));
    });
    assert_eq!(gateway.metric("mizuchi_spool_other_etags_total").await, 0.0);
    gateway.settled().await;
}

/// "Set aside: its upload is aborted first", also where the abort fails at first.
#[tokio::test]
async fn what_is_set_aside_leaves_no_upload_behind() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    kept.store([("uploads", "key", parts([100_000, 50_000]))]).await;
    let refused = || ("Part", Twist::Answer(400, "InvalidArgument"));
    s3.script([refused(), refused(), ("Abort", Twist::Answer(503, "SlowDown"))]);
    let gateway = kept.start(Setup::over(s3.address), "").await;
    eventually("it is set aside", async || {
        gateway.metric("mizuchi_spool_quarantined").await == 1.0
    })
    .await;
    eventually("no upload is left", async || s3.books(|books| books.uploads.is_empty())).await;
    assert_eq!(s3.books(|books| (books.created, books.aborted, books.completed)), (1, 1, 0));
    assert!(s3.script_done());
    eventually("nothing is on record", async || {
        gateway.metric("mizuchi_uploads_on_record").await == 0.0
    })
    .await;
}

/// A second bucket behind the gateway's first, at this backend.
fn second_bucket(at: SocketAddr, more: &str) -> String {
    format!(
        "  - name: second\n    upload:\n      mode: write_back\n      restart:\n        max: 0\n    s3:\n      bucket: store\n      \
         region: us-east-1\n      endpoint: http://{at}\n      path_style: true\n      access_key: B\n      \
         secret_key: b\n{more}    auth:\n      enabled: false\n"
    )
}

/// "A blackholed backend must not hold all deliveries", and when it is back, all that waits is due.
#[tokio::test]
async fn a_backend_that_swallows_everything_holds_up_its_own_alone() {
    let (kept, away, well) =
        (Kept::new(), LedgerS3::start(true).await, LedgerS3::start(true).await);
    let keys: Vec<String> = (0..60).map(|number| format!("key-{number}")).collect();
    let of = |bucket: &'static str, count: usize| {
        keys.iter().take(count).map(move |key| (bucket, key.as_str(), parts([2000])))
    };
    kept.store(of("uploads", 30).chain(of("second", 60))).await;
    away.script(std::iter::repeat_n(("Put", Twist::Hang), 1000));
    let setup =
        Setup::over(away.address).env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "2s");
    let setup = setup.env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__PROGRESS", "2s");
    let gateway =
        kept.start_with(setup, "  deliveries: 4\n", &second_bucket(well.address, "")).await;
    let hung = || 1000 - away.books(|books| books.twists_left());
    eventually("the healthy one's arrive", async || well.books(|books| books.objects.len()) == 60)
        .await;
    assert!((1..=2).contains(&hung()), "{} at a time", hung());
    eventually("one probe at a time", async || hung() == 3).await;
    away.script([]);
    let back = Instant::now();
    delivered(&gateway).await;
    assert_eq!(away.books(|books| books.objects.len()), 30);
    // The probe that hangs, its pause, and then all at once.
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}", back.elapsed());
}

/// Two buckets that write to one place share its order: what was acknowledged last stays.
#[tokio::test]
async fn what_two_buckets_write_to_one_place_arrives_in_one_order() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    let (old, new) = (payload(3000), payload(4000));
    kept.store([
        ("second", "p/key", vec![old]),
        ("uploads", "p/key", vec![new.clone()]),
        ("uploads", "p/other", vec![new.clone()]),
    ])
    .await;
    s3.script([("Put", Twist::Answer(500, "InternalError"))]);
    let second = second_bucket(s3.address, "      key_prefix: p/\n");
    let gateway = kept.start_with(Setup::over(s3.address), "  deliveries: 1\n", &second).await;
    delivered(&gateway).await;
    assert_eq!(s3.books(|books| books.objects["p/key"].length), new.len() as u64);
    assert!(s3.script_done());
}

/// "spool.max_rate: bytes per second over all deliveries", whole objects and parts beside each other.
#[tokio::test]
async fn deliveries_send_no_faster_and_hardly_slower_than_they_may() {
    const RATE: f64 = 1_048_576.0;
    const SIZE: usize = 100_000;
    let (kept, s3) = (Kept::new(), LedgerS3::start(false).await);
    let keys: Vec<String> = (0..8).map(|number| format!("key-{number}")).collect();
    let small = keys.iter().map(|key| ("uploads", key.as_str(), parts([SIZE])));
    let large = [("uploads", "parts", parts([SIZE; 6])), ("uploads", "one", parts([5 * SIZE]))];
    kept.store(small.chain(large)).await;
    let gateway = kept.start(Setup::over(s3.address), "  max_rate: 1MiB\n").await;
    let there = || s3.books(|books| books.objects.len());
    eventually("the first arrives", async || there() > 0).await;
    let (started, first) = (Instant::now(), there());
    eventually("all arrive", async || there() == 10).await;
    let rate = ((19 - first) * SIZE) as f64 / started.elapsed().as_secs_f64();
    assert!((0.8..1.2).contains(&(rate / RATE)), "{rate} bytes a second");
    assert!(started.elapsed() >= Duration::from_secs(1));
    delivered(&gateway).await;
}

/// "A write-through to a key with undelivered data queues behind it": it takes nobody's turn meanwhile, and waits
/// for what was there when it came.
#[tokio::test]
async fn who_waits_for_a_key_holds_nobody_up_and_is_not_overtaken_for_ever() {
    let (kept, s3) = (Kept::new(), LedgerS3::start(true).await);
    let proxy = Proxy::start(s3.address).await;
    proxy.set_away(true);
    let mut setup = Setup::over(proxy.address);
    setup.extra = "admission:\n  uploads: 1\n".to_owned();
    let gateway = kept.start(setup, "  wait: 20s\n").await;
    let put = async |key: &str, body: &[u8]| {
        Client::connect(&gateway).await.send(Request::put(key, body.len()), body).await.status
    };
    assert_eq!(put("key", b"first").await, 200);
    let through = async {
        let request = Request::put("key", 7).header("x-mizuchi-mode", "write_through");
        Client::connect(&gateway).await.send(request, b"through").await.status
    };
    let meanwhile = async {
        for _ in 0..20 {
            assert_eq!(put("other", b"x").await, 200);
        }
        proxy.set_away(false);
        // On and on: there is always one of them that waits.
        for _ in 0..20 {
            assert_eq!(put("key", b"later").await, 200);
        }
    };
    let started = Instant::now();
    let (through, ()) = tokio::join!(through, meanwhile);
    assert_eq!(through, 200);
    assert!(started.elapsed() < Duration::from_secs(10));
    delivered(&gateway).await;
    assert_eq!(s3.books(|books| books.objects["key"].length), 5);
}
