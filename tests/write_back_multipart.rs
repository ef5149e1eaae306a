//! Clients' multipart uploads in write-back mode: begun, sent and completed without the backend, which is
//! away in all of these (docs/durability.md).

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::proxy::Proxy;
use crate::support::streamed::Streamed;
use crate::support::{eventually, payload};
use md5::Digest as _;
use mizuchi_actors::orphans::{Ledger, wall_clock};
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use mizuchi_actors::sigv4::PayloadHash;
use mizuchi_actors::spool::{ClientUpload, EntryContent, Folder, Limits, Spool};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use time::OffsetDateTime;

/// Bytes of the smallest part that is not the last.
const MIN: usize = 5 << 20;

/// Nobody listens there.
fn nobody() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

/// A gateway whose bucket writes back; its spool and its state outlive it.
struct Rig {
    state: tempfile::TempDir,
    /// Of `spool`.
    spool: &'static str,
    /// Of the bucket's `upload`.
    upload: &'static str,
    gateway: Gateway,
}

async fn gateway(state: &Path, spool: &str, upload: &str) -> Gateway {
    let mut setup = Setup::over(nobody())
        .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.to_str().unwrap())
        .bucket("    upload:\n      mode: write_back\n      mode_header: allow\n      restart:\n        max: 0\n")
        .bucket(upload);
    setup.extra = format!("spool:\n  min_free: 0\n  backoff_base: 1h\n{spool}");
    setup.start().await
}

impl Rig {
    async fn new() -> Rig {
        Rig::with("", "").await
    }

    async fn with(spool: &'static str, upload: &'static str) -> Rig {
        let state = tempfile::tempdir().unwrap();
        let gateway = gateway(state.path(), spool, upload).await;
        Rig { state, spool, upload, gateway }
    }

    async fn kill(&mut self) {
        self.gateway.signal("KILL");
        self.gateway.ended().await;
    }

    async fn kill_and_restart(&mut self) {
        self.kill().await;
        self.gateway = gateway(self.state.path(), self.spool, self.upload).await;
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.state.path().join("spool/bodies")).unwrap().count()
    }

    async fn send(&self, request: Request, body: &[u8]) -> Answer {
        Client::connect(&self.gateway).await.send(request, body).await
    }

    async fn begin(&self, key: &str, headers: &[(&str, &str)]) -> String {
        let request = Request::method("POST", key).query("uploads", "");
        let answer = self.send(with(request, headers), b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-mizuchi-mode").as_deref(), Some("write_back"));
        let named = (answer.element("Bucket").unwrap(), answer.element("Key").unwrap());
        assert_eq!(named, ("uploads".to_owned(), key.to_owned()));
        answer.element("UploadId").unwrap()
    }

    async fn part(&self, to: (&str, &str), number: usize, body: &[u8]) -> Answer {
        self.send(part(to, number, body.len()), body).await
    }

    async fn complete(&self, to: (&str, &str), parts: &[(usize, &[u8])]) -> Answer {
        self.complete_with(to, &document(parts), &[]).await
    }

    async fn complete_with(
        &self,
        to: (&str, &str),
        document: &str,
        headers: &[(&str, &str)],
    ) -> Answer {
        let request = of("POST", to, Some(document.len()));
        self.send(with(request, headers), document.as_bytes()).await
    }

    async fn entries(&self) -> f64 {
        self.gateway.metric("mizuchi_spool_entries").await
    }

    async fn open_uploads(&self) -> f64 {
        self.gateway.metric("mizuchi_spool_multipart_uploads").await
    }
}

fn with(mut request: Request, headers: &[(&str, &str)]) -> Request {
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
}

fn of(method: &'static str, (key, id): (&str, &str), length: Option<usize>) -> Request {
    let request = match length {
        Some(length) => Request { method, ..Request::put(key, length) },
        None => Request::method(method, key),
    };
    request.query("uploadId", id)
}

fn part(to: (&str, &str), number: usize, length: usize) -> Request {
    of("PUT", to, Some(length)).query("partNumber", &number.to_string())
}

fn md5(body: &[u8]) -> String {
    md5::Md5::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn document(parts: &[(usize, &[u8])]) -> String {
    let part = |(number, body): &(usize, &[u8])| {
        let etag = md5(body);
        format!("<Part><PartNumber>{number}</PartNumber><ETag>\"{etag}\"</ETag></Part>")
    };
    let parts: String = parts.iter().map(part).collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

/// "md5(md5s)-N".
fn multipart_etag(parts: &[(usize, &[u8])]) -> String {
    let digests: Vec<u8> =
        parts.iter().flat_map(|(_, body)| md5::Md5::digest(body).to_vec()).collect();
    format!("\"{}-{}\"", md5(&digests), parts.len())
}

fn checksum(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Hasher {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher
}

/// A spool whose gateway is gone.
fn opened(state: &Path) -> Arc<Spool> {
    let limits = Limits { entries: 1000, bytes: 1 << 40, free_bytes: 0, free_files: 0 };
    let folder = PathBuf::from(state).join("spool");
    Spool::open(Arc::new(Folder::open(&folder).unwrap()), limits).unwrap()
}

/// "Everything survives a restart (kill -9 between parts: client goes on with the same uploadId)", "the
/// ETag acknowledged is the ETag delivered (client part boundaries kept)", and the backend is away.
#[tokio::test]
async fn an_upload_is_taken_part_by_part_and_survives_the_gateway() {
    let mut rig = Rig::new().await;
    let (first, second, last) = (payload(MIN), payload(MIN + 7), payload(100));
    let id = rig.begin("dir/key", &[("content-type", "a/b"), ("x-amz-meta-a", "1")]).await;
    let to = ("dir/key", id.as_str());
    let answer = rig.part(to, 1, &first).await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some(format!("\"{}\"", md5(&first)))));
    assert_eq!(answer.header("x-mizuchi-mode").as_deref(), Some("write_back"));
    assert_eq!(rig.part(to, 9, b"to be replaced").await.status, 200);
    rig.kill_and_restart().await;
    assert_eq!(rig.part(to, 4, &second).await.status, 200);
    assert_eq!(rig.part(to, 9, &last).await.status, 200);
    assert_eq!(rig.part(to, 10, b"not named").await.status, 200);
    assert_eq!((rig.open_uploads().await, rig.entries().await), (1.0, 0.0));
    let stored = (first.len() + second.len() + last.len() + 9) as f64;
    assert_eq!(rig.gateway.metric("mizuchi_spool_bytes").await, stored);
    rig.kill_and_restart().await;

    let page = rig.send(of("GET", to, None).query("max-parts", "2"), b"").await;
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(page.element("IsTruncated").as_deref(), Some("true"));
    assert_eq!(page.element("UploadId").as_deref(), Some(id.as_str()));
    let next = page.element("NextPartNumberMarker").unwrap();
    assert_eq!(next, "4");
    let rest = rig.send(of("GET", to, None).query("part-number-marker", &next), b"").await;
    assert_eq!(rest.element("PartNumber").as_deref(), Some("9"));
    assert_eq!(rest.element("Size").as_deref(), Some("100"));
    assert_eq!(rest.element("IsTruncated").as_deref(), Some("false"));

    let parts = [(1, &first[..]), (4, &second), (9, &last)];
    let done = rig.complete(to, &parts).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let etag = done.element("ETag").unwrap().replace("&quot;", "\"");
    assert_eq!(etag, multipart_etag(&parts));
    assert_eq!(done.element("Key").as_deref(), Some("dir/key"));
    assert_eq!(done.header("x-mizuchi-mode").as_deref(), Some("write_back"));
    assert_eq!((rig.open_uploads().await, rig.entries().await), (0.0, 1.0));
    eventually("what was not named is gone", async || rig.files() == 3).await;

    // Whoever did not hear it asks again; also later, also of the next process.
    assert_eq!(rig.complete(to, &parts).await.element("ETag"), done.element("ETag"));
    rig.kill_and_restart().await;
    assert_eq!(rig.complete(to, &parts).await.element("ETag"), done.element("ETag"));
    assert_eq!(rig.complete(to, &parts[..1]).await.code(), "NoSuchUpload");
    assert_eq!(rig.part(to, 2, b"late").await.code(), "NoSuchUpload");
    assert_eq!(rig.send(of("DELETE", to, None), b"").await.code(), "NoSuchUpload");
    assert_eq!(rig.send(of("GET", to, None), b"").await.code(), "NoSuchUpload");
    eventually("the late one is gone", async || rig.files() == 3).await;

    rig.kill().await;
    let spool = opened(rig.state.path());
    let (number, entry) = spool.list(0, 2).pop().unwrap();
    assert_eq!(entry.headers[0], ("content-type".to_owned(), b"a/b".to_vec()));
    let EntryContent::Parts(found) = &entry.content else { panic!("{entry:?}") };
    let numbers: Vec<u16> = found.parts.iter().map(|part| part.number).collect();
    assert_eq!((numbers, entry.key.as_str()), (vec![1, 4, 9], "dir/key"));
    let mut blocks = spool.bytes_of(number).await.unwrap().unwrap();
    let mut bytes = Vec::new();
    while let Some(block) = blocks.next().await.unwrap() {
        bytes.extend_from_slice(&block);
    }
    assert!(bytes == [first, second, last].concat());
}

/// "After the 200 nothing may be refused": what S3 would refuse is refused, and the upload goes on.
#[tokio::test]
async fn what_the_backend_would_refuse_is_refused_before() {
    let rig = Rig::new().await;
    let id = rig.begin("key", &[]).await;
    let to = ("key", id.as_str());
    let (small, large) = (payload(10), payload(MIN));
    assert_eq!(rig.part(to, 1, &small).await.status, 200);
    assert_eq!(rig.part(to, 2, &large).await.status, 200);
    let bad = part(to, 3, 1).header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(rig.send(bad, b"x").await.code(), "BadDigest");
    let crc = part(to, 3, 1).header("x-amz-checksum-crc32", "AAAAAA==");
    assert_eq!(rig.send(crc, b"x").await.code(), "BadDigest");
    let value = checksum(ChecksumAlgorithm::Crc32, b"x").finish_value();
    let crc = part(to, 4, 1).header("x-amz-checksum-crc32", &value);
    let answer = rig.send(crc, b"x").await;
    assert_eq!((answer.status, answer.header("x-amz-checksum-crc32")), (200, Some(value)));
    let through = part(to, 3, 1).header("x-mizuchi-mode", "write_through");
    assert_eq!(rig.send(through, b"x").await.code(), "InvalidRequest");
    let owner = part(to, 3, 1).header("x-amz-expected-bucket-owner", "111122223333");
    assert_eq!(rig.send(owner, b"x").await.code(), "NotImplemented");

    let one = [(2, &large[..])];
    for (parts, code) in [
        (&[(2, &large[..]), (1, &small)][..], "InvalidPartOrder"),
        (&[(1, &small), (2, &large)], "EntityTooSmall"),
        (&[(2, &large), (3, b"x")], "InvalidPart"),
        (&[(2, b"other")], "InvalidPart"),
        (&[], "MalformedXML"),
    ] {
        assert_eq!(rig.complete(to, parts).await.code(), code);
    }
    for (header, value, code) in [
        ("if-none-match", "*", "NotImplemented"),
        ("if-match", "\"a\"", "NotImplemented"),
        ("x-amz-expected-bucket-owner", "111122223333", "NotImplemented"),
        ("x-amz-mp-object-size", "7", "InvalidRequest"),
        ("x-amz-checksum-crc32", "AAAAAA==", "InvalidRequest"),
        ("x-amz-checksum-type", "FULL_OBJECT", "BadDigest"),
        ("x-mizuchi-mode", "write_through", "InvalidRequest"),
    ] {
        let answer = rig.complete_with(to, &document(&one), &[(header, value)]).await;
        assert_eq!(answer.code(), code, "{header}: {}", answer.text());
    }
    // One that was sealed for another key.
    assert_eq!(rig.part(("other", &id), 1, b"x").await.code(), "NoSuchUpload");
    assert_eq!((rig.open_uploads().await, rig.entries().await), (1.0, 0.0));
    let size = MIN.to_string();
    let answer = rig.complete_with(to, &document(&one), &[("x-amz-mp-object-size", &size)]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// "COMPOSITE and FULL_OBJECT": what is told of checksums is what S3 tells.
#[tokio::test]
async fn checksums_are_verified_and_told() {
    let rig = Rig::new().await;
    let (large, last) = (payload(MIN), payload(10));
    let crc = ChecksumAlgorithm::Crc32;
    let value = |bytes: &[u8]| checksum(crc, bytes).finish_value();
    let id = rig.begin("composite", &[("x-amz-checksum-algorithm", "CRC32")]).await;
    let to = ("composite", id.as_str());
    for (number, body) in [(1, &large), (2, &last)] {
        let sent = part(to, number, body.len()).header(crc.header(), &value(body));
        let answer = rig.send(sent, body).await;
        assert_eq!((answer.status, answer.header(crc.header())), (200, Some(value(body))));
    }
    assert_eq!(rig.part(to, 3, &last).await.code(), "InvalidRequest");
    let wrong = part(to, 3, last.len()).header(crc.header(), &value(&large));
    assert_eq!(rig.send(wrong, &last).await.code(), "BadDigest");
    let listed = rig.send(of("GET", to, None), b"").await;
    assert_eq!(listed.element("ChecksumCRC32"), Some(value(&large)), "{}", listed.text());
    assert_eq!(listed.element("ChecksumType").as_deref(), Some("COMPOSITE"));
    let parts = [(1, &large[..]), (2, &last[..])];
    assert_eq!(rig.complete(to, &parts).await.code(), "InvalidRequest", "no checksums");
    let mut named = document(&parts);
    for body in [&large, &last] {
        let etag = format!("\"{}\"</ETag>", md5(body));
        let more = format!("{etag}<ChecksumCRC32>{}</ChecksumCRC32>", value(body));
        named = named.replace(&etag, &more);
    }
    let answer = rig.complete_with(to, &named, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let digests = [checksum(crc, &large).finish(), checksum(crc, &last).finish()].concat();
    let whole = format!("{}-2", value(&digests));
    assert_eq!(answer.element("ChecksumCRC32"), Some(whole), "{}", answer.text());

    // As SDKs send them: in aws-chunked, with the checksum behind the body.
    let id = rig.begin("trailer", &[("x-amz-checksum-algorithm", "CRC32")]).await;
    let mut streamed = Streamed::new("trailer", PayloadHash::UnsignedTrailer, &last);
    streamed.query =
        [("partNumber", "1"), ("uploadId", &id)].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
    let answer = streamed.with_trailer(crc).send(&rig.gateway).await;
    assert_eq!((answer.status, answer.header(crc.header())), (200, Some(value(&last))));

    // The parts without, the whole with one.
    let crc = ChecksumAlgorithm::Crc64Nvme;
    let request = Request::method("POST", "full").query("uploads", "");
    let request = request.header("x-amz-checksum-algorithm", "CRC64NVME");
    let begun = rig.send(request, b"").await;
    assert_eq!(begun.header("x-amz-checksum-type").as_deref(), Some("FULL_OBJECT"));
    let id = begun.element("UploadId").unwrap();
    let to = ("full", id.as_str());
    assert_eq!(rig.part(to, 1, &large).await.status, 200);
    assert_eq!(rig.part(to, 2, &last).await.status, 200);
    let whole = checksum(crc, &[&large[..], &last].concat()).finish_value();
    let wrong = [(crc.header(), "AAAAAAAAAAA=")];
    assert_eq!(rig.complete_with(to, &document(&parts), &wrong).await.code(), "BadDigest");
    let right = [(crc.header(), whole.as_str()), ("x-amz-checksum-type", "FULL_OBJECT")];
    let answer = rig.complete_with(to, &document(&parts), &right).await;
    assert_eq!(answer.element("ChecksumCRC64NVME"), Some(whole), "{}", answer.text());
}

/// "Spool full -> 503 SlowDown before the body is read"; what is aborted makes room.
#[tokio::test]
async fn parts_take_their_room_until_they_are_aborted() {
    let mut rig = Rig::with("  max_bytes: 1MiB\n", "").await;
    let id = rig.begin("key", &[]).await;
    let to = ("key", id.as_str());
    assert_eq!(rig.part(to, 1, &payload(700_000)).await.status, 200);
    rig.kill_and_restart().await;
    let mut client = Client::connect(&rig.gateway).await;
    let host = client.host.clone();
    let expecting = part(to, 2, 700_000).header("expect", "100-continue");
    let head = expecting.sign(&host, &signer(), OffsetDateTime::now_utc());
    let answer = client.raw(&head, b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SlowDown"), "{}", answer.head);
    let aborted = rig.send(of("DELETE", to, None), b"").await;
    assert_eq!((aborted.status, aborted.body.len()), (204, 0));
    assert_eq!(rig.send(of("DELETE", to, None), b"").await.code(), "NoSuchUpload");
    assert_eq!(rig.part(to, 1, b"x").await.code(), "NoSuchUpload");
    eventually("its files are gone", async || rig.files() == 0).await;
    assert_eq!(rig.gateway.metric("mizuchi_spool_bytes").await, 0.0);
    let id = rig.begin("key", &[]).await;
    assert_eq!(rig.part(("key", &id), 1, &payload(700_000)).await.status, 200);
    rig.kill_and_restart().await;
    assert_eq!(rig.open_uploads().await, 1.0, "the aborted one is back");
}

/// "The mode of a multipart binds at Create": what cannot wait, or must not, goes to the backend, which
/// is away.
#[tokio::test]
async fn what_must_go_through_goes_through() {
    let rig = Rig::new().await;
    for headers in [
        &[("x-mizuchi-mode", "write_through")][..],
        &[("x-amz-server-side-encryption", "aws:kms")],
        &[("x-amz-expected-bucket-owner", "111122223333")],
        &[("x-amz-checksum-algorithm", "XXHASH64")],
        &[("x-amz-checksum-algorithm", "SHA256"), ("x-amz-checksum-type", "FULL_OBJECT")],
    ] {
        let request = Request::method("POST", "key").query("uploads", "");
        let answer = rig.send(with(request, headers), b"").await;
        assert_eq!(answer.status, 503, "{headers:?}: {}", answer.text());
        assert_eq!(answer.header("x-mizuchi-mode"), None);
    }
    assert_eq!(rig.open_uploads().await, 0.0);
    // And a bucket that goes through may be asked to write back.
    let state = tempfile::tempdir().unwrap();
    let gateway = Setup::over(nobody())
        .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.path().to_str().unwrap())
        .bucket("    upload:\n      mode_header: allow\n")
        .start()
        .await;
    let mut client = Client::connect(&gateway).await;
    let back = Request::method("POST", "key").query("uploads", "");
    let answer = client.send(back.header("x-mizuchi-mode", "write_back"), b"").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// "Exactly one wins, nothing leaks."
#[tokio::test]
async fn of_those_that_end_an_upload_at_once_one_does() {
    let rig = Rig::new().await;
    for round in 0..12 {
        let key = format!("key{round}");
        let id = rig.begin(&key, &[]).await;
        let to = (key.as_str(), id.as_str());
        let body = payload(1000 + round);
        assert_eq!(rig.part(to, 1, &body).await.status, 200);
        let before = rig.entries().await;
        let parts = [(1, &body[..])];
        let again = rig.part(to, 1, &body);
        let ((first, second), (abort, part)) = tokio::join!(
            async { tokio::join!(rig.complete(to, &parts), rig.complete(to, &parts)) },
            async {
                tokio::join!(
                    async {
                        if round % 2 == 0 {
                            Some(rig.send(of("DELETE", to, None), b"").await)
                        } else {
                            None
                        }
                    },
                    again
                )
            },
        );
        let aborted = abort.as_ref().is_some_and(|answer| answer.status == 204);
        for answer in [first, second] {
            match aborted {
                true => assert_eq!(answer.code(), "NoSuchUpload", "{}", answer.text()),
                false => assert_eq!(answer.status, 200, "{}", answer.text()),
            }
        }
        assert!(matches!((part.status, part.code().as_str()), (200, _) | (404, "NoSuchUpload")));
        let entries = rig.entries().await - before;
        assert_eq!(entries, if aborted { 0.0 } else { 1.0 });
        assert_eq!(rig.open_uploads().await, 0.0);
    }
    let entries = rig.entries().await as usize;
    eventually("a file for each that was completed", async || rig.files() == entries).await;
    rig.gateway.settled().await;
}

/// Gateways that share the key of the seal number their uploads alike: an id of one is none of the other.
#[tokio::test]
async fn an_id_of_another_gateway_s_spool_is_none() {
    let one = Rig::new().await;
    let state = tempfile::tempdir().unwrap();
    std::fs::copy(one.state.path().join("seal.key"), state.path().join("seal.key")).unwrap();
    let gateway = gateway(state.path(), "", "").await;
    let other = Rig { state, spool: "", upload: "", gateway };
    let (id, others) = (one.begin("key", &[]).await, other.begin("key", &[]).await);
    assert_eq!(one.part(("key", &id), 1, b"x").await.status, 200);
    for request in
        [part(("key", &id), 1, 1), of("GET", ("key", &id), None), of("DELETE", ("key", &id), None)]
    {
        let body = if request.length.is_some() { &b"x"[..] } else { b"" };
        assert_eq!(other.send(request, body).await.code(), "NoSuchUpload");
    }
    let answer = other.complete(("key", &id), &[(1, b"x")]).await;
    assert_eq!(answer.code(), "NoSuchUpload");
    assert_eq!(other.part(("key", &others), 1, b"x").await.status, 200);
}

/// "ListMultipartUploads must list spooled ones too where the bucket lists."
#[tokio::test]
async fn a_caller_finds_its_uploads_in_the_list() {
    let mut rig = Rig::with("", "      list_multipart_uploads: true\n").await;
    let list = || Request { path: "/uploads".to_owned(), ..Request::method("GET", "") };
    let id = rig.begin("a/b", &[]).await;
    let ended = rig.begin("a/c", &[]).await;
    assert_eq!(rig.send(of("DELETE", ("a/c", &ended), None), b"").await.status, 204);
    assert_eq!(rig.part(("a/b", &id), 1, b"one").await.status, 200);
    rig.kill_and_restart().await;
    let listed = rig.send(list().query("uploads", ""), b"").await;
    assert_eq!(listed.element("Key").as_deref(), Some("a/b"), "{}", listed.text());
    assert_eq!(listed.text().matches("<Upload>").count(), 1);
    let id = listed.element("UploadId").unwrap();
    assert_eq!(rig.complete(("a/b", &id), &[(1, b"one")]).await.status, 200);
    let listed = rig.send(list().query("uploads", ""), b"").await;
    assert_eq!(listed.text().matches("<Upload>").count(), 0, "{}", listed.text());
}

/// The whole way: begun, sent and completed while the backend is away, through a gateway that is killed,
/// delivered part by part when it is back, with the ETag that was acknowledged.
#[tokio::test]
async fn what_was_completed_arrives_with_the_etag_that_was_told() {
    let backend = Backend::start().await;
    let proxy = Proxy::start(backend.s3.address).await;
    let state = tempfile::tempdir().unwrap();
    let start = async || {
        let mut setup = Setup::new(&backend, proxy.address)
            .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.path().to_str().unwrap())
            .env("MIZUCHI__BUCKETS__0__S3__VERIFIES", "")
            .bucket("    upload:\n      mode: write_back\n      restart:\n        max: 0\n");
        setup.extra =
            "spool:\n  min_free: 0\n  backoff_base: 20ms\n  backoff_cap: 100ms\n".to_owned();
        setup.start().await
    };
    proxy.set_away(true);
    let (first, last) = (payload(MIN), payload(MIN / 2));
    let bodies = [(1, &first[..]), (2, &last[..])];
    let crc = ChecksumAlgorithm::Crc32;
    let mut ids = Vec::new();
    let mut gateway = start().await;
    for (key, rule) in
        [("plain", None), ("composite", Some("COMPOSITE")), ("full", Some("FULL_OBJECT"))]
    {
        let mut client = Client::connect(&gateway).await;
        let mut create = Request::method("POST", key).query("uploads", "");
        if let Some(kind) = rule {
            create = create.header("x-amz-checksum-algorithm", "CRC32");
            create = create.header("x-amz-checksum-type", kind);
        }
        let id = client.send(create, b"").await.element("UploadId").unwrap();
        for (number, body) in bodies {
            let mut sent = part((key, &id), number, body.len());
            if rule == Some("COMPOSITE") {
                sent = sent.header(crc.header(), &checksum(crc, body).finish_value());
            }
            assert_eq!(client.send(sent, body).await.status, 200, "{key}");
        }
        ids.push((key, id, rule));
    }
    gateway.signal("KILL");
    gateway.ended().await;
    let mut gateway = start().await;
    for (key, id, rule) in &ids {
        let mut named = document(&bodies);
        for (_, body) in bodies.iter().filter(|_| *rule == Some("COMPOSITE")) {
            let etag = format!("\"{}\"</ETag>", md5(body));
            let value = checksum(crc, body).finish_value();
            named = named.replace(&etag, &format!("{etag}<ChecksumCRC32>{value}</ChecksumCRC32>"));
        }
        let mut client = Client::connect(&gateway).await;
        let complete = of("POST", (key, id), Some(named.len()));
        let answer = client.send(complete, named.as_bytes()).await;
        let etag = answer.element("ETag").unwrap().replace("&quot;", "\"");
        assert_eq!(etag, multipart_etag(&bodies), "{key}");
    }
    gateway.signal("KILL");
    gateway.ended().await;
    let gateway = start().await;
    proxy.set_away(false);
    eventually("all is delivered", async || gateway.metric("mizuchi_spool_entries").await == 0.0)
        .await;
    let whole = [first.clone(), last.clone()].concat();
    for (key, ..) in &ids {
        assert!(backend.object(key).is_some_and(|found| found == whole), "{key}");
    }
    assert_eq!(gateway.metric("mizuchi_spool_other_etags_total").await, 0.0);
    eventually("nothing is left of it", async || {
        std::fs::read_dir(state.path().join("spool/bodies")).unwrap().count() == 0
    })
    .await;
    assert_eq!(gateway.metric("mizuchi_spool_bytes").await, 0.0);
}

/// `spool.multipart_ttl` and `upload.client_uploads_ttl`: what gives no sign of life is removed with its
/// files, and the backend is not asked about what it does not know.
#[tokio::test]
async fn abandoned_uploads_are_removed() {
    let state = tempfile::tempdir().unwrap();
    let now = wall_clock();
    let upload = |key: &str, initiated| ClientUpload {
        bucket: "uploads".to_owned(),
        key: key.to_owned(),
        principal: "tester".to_owned(),
        initiated,
        token: 7,
        headers: Vec::new(),
        checksum: None,
    };
    let spool = opened(state.path());
    let ledger = Ledger::open(&state.path().join("uploads.redb"), Instant::now()).unwrap();
    // Eight days, a day, and just begun.
    for (key, age) in [("old", 8 * 86_400_000), ("listed", 86_400_000), ("young", 0)] {
        let reservation = spool.reserve(0).unwrap();
        let id = spool.begin_upload(upload(key, now - age), reservation).await.unwrap();
        let (id, begun) = (id.to_string(), now - age);
        if key != "old" {
            ledger.client_began("uploads", key, &id, "tester", begun).await.unwrap();
        }
    }
    ledger.flush().await.unwrap();
    drop((spool, ledger));
    let mut rig = gateway(state.path(), "", "      client_uploads_ttl: 1h\n").await;
    let open = async |rig: &Gateway| rig.metric("mizuchi_spool_multipart_uploads").await;
    eventually("two are left", async || open(&rig).await == 2.0).await;
    eventually("it was swept", async || {
        rig.metric("mizuchi_orphan_sweeps_total{result=\"aborted\"}").await == 1.0
    })
    .await;
    assert_eq!(rig.metric("mizuchi_orphan_sweeps_total{result=\"failed\"}").await, 0.0);
    // The gateway was stopped when the old one became too old: its client may still go on.
    assert_eq!(rig.metric("mizuchi_spool_multipart_expired_total").await, 0.0);
    rig.signal("KILL");
    rig.ended().await;
    let rig = gateway(state.path(), "  multipart_ttl: 1s\n", "").await;
    let expired = "mizuchi_spool_multipart_expired_total";
    eventually("both were removed", async || rig.metric(expired).await == 2.0).await;
    assert_eq!(open(&rig).await, 0.0);
    rig.log_with("of \"old\" was abandoned: removed").await;
}
