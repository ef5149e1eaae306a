//! "Hostile archives: the right error or per-entry result, bounded memory, nothing published that was not
//! authorized."

use super::archives::{Tar, gnu, gzip, zstd};
use super::{ALLOW, Rig};
use crate::support::client::{Client, Request, signer_with};
use crate::support::eventually;
use crate::support::form::Form;
use crate::support::opa::Opa;
use crate::support::service::Fault;
use crate::support::times;
use std::io::Write as _;
use tar::EntryType;

const MIB: u64 = 1 << 20;

fn ignoring(request: Request) -> Request {
    request.header("x-amz-meta-minio-snowball-ignore-errors", "true")
}

/// "path traversal names, links": each refuses the whole archive, before anything is stored; with
/// ignore-errors only itself.
#[tokio::test]
async fn an_entry_that_would_lead_elsewhere_is_refused() {
    let rig = Rig::new().await;
    let good = || Tar::new().file("good", b"g");
    for (archive, name) in [
        (good().file("../evil", b"e"), "../evil"),
        (good().file("a/../../evil", b"e"), "a/../../evil"),
        (good().file("/etc/passwd", b"e"), "/etc/passwd"),
        (good().file("a/./evil", b"e"), "a/./evil"),
        (good().file("..", b"e"), ".."),
        (good().file("", b"e"), ""),
        (good().folder("../evil/"), "../evil/"),
        (good().entry(EntryType::Symlink, "evil", "/etc/passwd", b""), "evil"),
        (good().entry(EntryType::Link, "evil", "good", b""), "evil"),
        (good().entry(EntryType::Char, "evil", "", b""), "evil"),
        (good().entry(EntryType::Block, "evil", "", b""), "evil"),
        (good().entry(EntryType::Fifo, "evil", "", b""), "evil"),
        (good().entry(EntryType::new(b'?'), "evil", "", b"e"), "evil"),
    ] {
        let archive = archive.file("last", b"l").end();
        let answer = rig.put(&archive).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidArgument"), "{name}");
        let text = answer.text();
        let named = format!("the entry &quot;{name}&quot;");
        assert!(text.contains(&named) || text.contains(&named.replace("&quot;", "\"")), "{text}");
        assert!(text.contains("Nothing of the archive was stored"), "{text}");
        assert_eq!(rig.keys(), [""; 0], "{name}");
        let answer = rig.put_with(&archive, ignoring).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        assert_eq!(answer.header("x-mizuchi-batch-failed").as_deref(), Some("1"), "{name}");
        assert_eq!(rig.keys(), ["good", "last"], "{name}");
        rig.s3.books(|books| books.objects.clear());
    }
    let long = gnu(&[("k".repeat(1025), vec![1])]);
    assert_eq!(rig.put(&long).await.code(), "KeyTooLongError");
    assert_eq!(rig.keys(), [""; 0]);
    rig.left_nothing().await;
}

/// "truncated": an archive that is damaged, cut off or ambiguous is refused whole, whatever is to be
/// ignored.
#[tokio::test]
async fn a_damaged_archive_is_nothing() {
    let rig = Rig::new().await;
    let whole = Tar::new().file("a", &[1; 2000]).file("b", b"x").end();
    let packed = gzip(&whole);
    let mut corrupt = packed.clone();
    let middle = corrupt.len() / 2;
    corrupt[middle] ^= 0x55;
    let mut checksum = whole.clone();
    checksum[1] ^= 1;
    for (what, archive) in [
        ("no archive", b"hello".repeat(1000)),
        ("nothing", Vec::new()),
        ("cut off in a body", whole[..1500].to_vec()),
        ("cut off between entries", Tar::new().file("a", b"x").open_ended()),
        ("a changed header", checksum),
        ("another archive behind it", [whole.clone(), whole.clone()].concat()),
        ("a body behind a link", Tar::new().entry(EntryType::Symlink, "l", "x", &whole).end()),
        ("gzip, cut off", packed[..packed.len() - 9].to_vec()),
        ("gzip, corrupt", corrupt),
        ("zstd, cut off", zstd(&whole)[..60].to_vec()),
        ("gzip in gzip", gzip(&packed)),
    ] {
        for answer in [rig.put(&archive).await, rig.put_with(&archive, ignoring).await] {
            let told = (answer.status, answer.code());
            assert_eq!(told, (400, "InvalidRequest".to_owned()), "{what}: {}", answer.text());
        }
    }
    assert_eq!(rig.keys(), [""; 0]);
    rig.left_nothing().await;
}

/// What unpacks to `blocks` times 64 KiB of zeros, in the body of one file.
fn bomb(blocks: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(blocks * 65_536);
    header.set_mode(0o644);
    header.set_cksum();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..blocks {
        encoder.write_all(&[0; 65_536]).unwrap();
    }
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

/// "bombs ... bounded memory": each bound is met before more than it was unpacked.
#[tokio::test]
async fn what_is_too_much_is_refused_and_memory_stays_bounded() {
    let rig = Rig::with(
        &format!("{ALLOW}        max_entry_size: 1MiB\n        max_total_size: 64MiB\n"),
        |s| s,
    )
    .await;
    let before = rig.gateway.peak_rss();
    let bomb = bomb(times(2048, 65_536) as u64);
    let answer = rig.put(&bomb).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "EntityTooLarge"));
    assert!(answer.text().contains("more than 200 times its size"), "{}", answer.text());
    let large = Tar::new().file("a", &vec![1; (MIB + 1) as usize]).end();
    assert_eq!(rig.put(&large).await.code(), "EntityTooLarge");
    let many = Tar::new().file("a", b"").file("b", &vec![1; 1000]);
    let mut many = many;
    for i in 0..66 {
        many = many.file(&format!("n{i}"), &vec![i; MIB as usize - 512]);
    }
    let answer = rig.put(&many.end()).await;
    assert_eq!(answer.code(), "EntityTooLarge", "{}", answer.text());
    assert!(answer.text().contains("than the 67108864 bytes"), "{}", answer.text());
    // It asks for a window of 128 MiB.
    let mut window = zstd::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(27).unwrap();
    window.write_all(&Tar::new().file("a", b"x").end()).unwrap();
    assert_eq!(rig.put(&window.finish().unwrap()).await.code(), "InvalidRequest");
    assert_eq!(rig.keys(), [""; 0]);
    let grown = rig.gateway.peak_rss() - before;
    assert!(grown < 80 * MIB, "{} MiB", grown / MIB);
    rig.left_nothing().await;
}

/// "The largest PutObject": what a batch unpacks to is no way around it.
#[tokio::test]
async fn an_entry_is_no_larger_than_any_other_object() {
    let rig = Rig::with(&format!("{ALLOW}      max_object_size: 1MiB\n"), |setup| setup).await;
    let fits = vec![0; MIB as usize];
    let over = vec![0; MIB as usize + 1];
    let answer = rig.put(&gzip(&Tar::new().file("fits", &fits).end())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let archive = gzip(&Tar::new().file("a", b"x").file("over", &over).end());
    assert_eq!(rig.put(&archive).await.code(), "EntityTooLarge");
    assert_eq!(rig.keys(), ["fits"]);
    assert_eq!(rig.put_with(&archive, ignoring).await.status, 200);
    assert_eq!(rig.keys(), ["a", "fits"]);
    rig.left_nothing().await;
}

/// A packed tar of so many empty files.
fn empties(count: usize) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for i in 0..count {
        encoder.write_all(&Tar::new().file(&format!("empty/{i}"), b"").open_ended()).unwrap();
    }
    encoder.write_all(&[0; 1024]).unwrap();
    encoder.finish().unwrap()
}

/// "1e6 empty entries": too many by default; where as many may be, the index of them is what they cost.
#[tokio::test]
async fn a_million_empty_entries_are_too_many_and_cost_little() {
    let rig = Rig::new().await;
    let before = rig.gateway.peak_rss();
    let million = empties(times(110_000, 999_999));
    let answer = rig.put(&million).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidRequest"));
    assert!(answer.text().contains("more entries"), "{}", answer.text());
    let grown = rig.gateway.peak_rss() - before;
    assert!(grown < 64 * MIB, "{} MiB", grown / MIB);
    let raised = format!("{ALLOW}        max_entries: 1000000\n        max_ratio: 1000\n");
    let all = Rig::with(&raised, |setup| setup).await;
    let before = all.gateway.peak_rss();
    // The last one is refused: every other was looked at, and none is published.
    let mut archive = zstd::decode_all(million.as_slice()).unwrap();
    archive.truncate(archive.len() - 1024);
    archive.extend(Tar::new().file("../last", b"").end());
    let archive = zstd(&archive);
    let answer = all.put(&archive).await;
    assert_eq!(answer.code(), "InvalidArgument", "{}", answer.text());
    let grown = all.gateway.peak_rss() - before;
    assert!(grown < 160 * MIB, "{} MiB", grown / MIB);
    assert_eq!(all.keys(), [""; 0]);
    all.left_nothing().await;
}

/// "per-entry authorization on the final key": what the credential is good for, prefix and all.
#[tokio::test]
async fn no_entry_goes_where_its_sender_may_not() {
    let rig = Rig::with(ALLOW, |setup| {
        setup
            .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ACCESS_KEY", "AKIALIMITED")
            .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__SECRET_KEY", "limited")
            .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ALLOW__KEY_PREFIXES", "own/")
    })
    .await;
    let limited = signer_with("AKIALIMITED", "limited", "us-east-1");
    let send = async |key: &str, archive: &[u8], options: &[(&str, &str)]| {
        let mut client = Client::connect(&rig.gateway).await;
        let mut request =
            Request::put(key, archive.len()).header("x-amz-meta-snowball-auto-extract", "true");
        for (name, value) in options {
            request = request.header(name, value);
        }
        let head = request.sign(&client.host, &limited, time::OffsetDateTime::now_utc());
        client.raw(&head, archive).await
    };
    let archive = Tar::new().file("own/a", b"a").file("others/b", b"b").end();
    // The archive's own key counts too.
    assert_eq!(send("x.tar", &archive, &[]).await.code(), "AccessDenied");
    let answer = send("own/x.tar", &archive, &[]).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    assert!(answer.text().contains("others/b"), "{}", answer.text());
    assert_eq!(rig.keys(), [""; 0]);
    let ignore = ("x-amz-meta-minio-snowball-ignore-errors", "true");
    let answer = send("own/x.tar", &archive, &[ignore]).await;
    assert_eq!(answer.header("x-mizuchi-batch-failed").as_deref(), Some("1"));
    assert_eq!(rig.keys(), ["own/a"]);
    // The prefix is part of what is decided over.
    let prefix = ("x-amz-meta-minio-snowball-prefix", "others");
    assert_eq!(send("own/x.tar", &archive, &[prefix]).await.status, 403);
    assert_eq!(rig.keys(), ["own/a"]);
    let prefix = ("x-amz-meta-minio-snowball-prefix", "own");
    assert_eq!(send("own/x.tar", &archive, &[prefix]).await.status, 200);
    assert_eq!(rig.keys(), ["own/a", "own/others/b", "own/own/a"]);
    rig.left_nothing().await;
}

/// MinIO unpacks what it is sent if "true" stands somewhere in any value of the header, under keys that nobody
/// has decided over. So no value of it, and none of its options, goes on to a backend: not by a PUT, a form, a
/// multipart upload, nor with a delivery; what is neither true nor false is refused.
#[tokio::test]
async fn no_backend_is_asked_to_unpack_an_archive() {
    const EXTRACT: &str = "x-amz-meta-snowball-auto-extract";
    const PREFIX: &str = "x-amz-meta-minio-snowball-prefix";
    let archive = Tar::new().file("a", b"x").end();
    for bucket in ["", "    upload:\n      mode: write_back\n", ALLOW] {
        let rig = Rig::with(bucket, |setup| setup).await;
        let send = async |request: Request, body: &[u8]| {
            Client::connect(&rig.gateway).await.send(request, body).await
        };
        let put = || Request::put("k.tar", archive.len()).header(PREFIX, "p");
        for value in ["untrue", "true,", "xtrue", "1", "truefalse", "", "\u{e9}true"] {
            let answer = send(put().header(EXTRACT, value), &archive).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "InvalidArgument"),
                "{value}"
            );
            let create = Request::method("POST", "k").query("uploads", "").header(EXTRACT, value);
            assert_eq!(send(create, b"").await.code(), "InvalidArgument", "{value}");
            let form = Form::new("k").field(EXTRACT, value);
            let answer = form.send(&mut Client::connect(&rig.gateway).await, &archive).await;
            assert_eq!(answer.code(), "InvalidArgument", "{value}");
        }
        let both = put().header(EXTRACT, "false").header(EXTRACT, "true");
        let answer = send(both, &archive).await;
        let status = if bucket == ALLOW { 200 } else { 403 };
        assert_eq!(answer.status, status, "{}", answer.text());
        rig.s3.books(|books| books.objects.clear());
        // What asks for nothing is an object, without a word of it.
        let owner = put().header(EXTRACT, "False").header("x-amz-meta-owner", "me");
        assert_eq!(send(owner, &archive).await.status, 200);
        let form = Form::new("form.tar").field(EXTRACT, "false").field(PREFIX, "p");
        let answer = form.send(&mut Client::connect(&rig.gateway).await, &archive).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        eventually("both are at the backend", async || rig.keys() == ["form.tar", "k.tar"]).await;
        rig.s3.books(|books| {
            for object in books.objects.values() {
                let names: Vec<_> =
                    object.headers.keys().filter(|n| n.contains("snowball")).collect();
                assert!(names.is_empty(), "{names:?}");
            }
            assert_eq!(books.objects["k.tar"].headers["x-amz-meta-owner"], "me");
        });
        let create = Request::method("POST", "parts").query("uploads", "").header(EXTRACT, "false");
        let answer = send(create.header(PREFIX, "p"), b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        rig.s3.books(|books| {
            for upload in books.uploads.values() {
                assert!(!upload.headers.keys().any(|name| name.contains("snowball")));
            }
        });
    }
}

/// The policy engine is asked about each final key, with the entry's own size; where it does not answer
/// nothing is stored.
#[tokio::test]
async fn a_policy_decides_over_each_entry() {
    let policy = "package mizuchi\ndefault allow := false\n\
                  allow if input.key == \"snowball.tar\"\n\
                  allow if { not startswith(input.key, \"in/secret\"); input.size < 5000 }\n";
    let opa = Opa::start(policy, None).await;
    let bucket = format!(
        "{ALLOW}    authorization:\n      engine: opa\n      timeout: 5s\n      opa:\n        url: {}\n        \
         path: mizuchi/allow\n",
        opa.service.url()
    );
    let rig = Rig::with(&bucket, |setup| setup).await;
    let prefix = |request: Request| request.header("x-amz-meta-minio-snowball-prefix", "in");
    let secret = Tar::new().file("a", b"a").file("secret", b"b").end();
    let answer = rig.put_with(&secret, prefix).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    assert_eq!(rig.keys(), [""; 0]);
    let answer = rig.put_with(&secret, |request| ignoring(prefix(request))).await;
    assert_eq!(answer.header("x-mizuchi-batch-stored").as_deref(), Some("1"));
    assert_eq!(rig.keys(), ["in/a"]);
    let asked = opa.inputs();
    let of = |key: &str| asked.iter().find(|input| input["key"] == key).unwrap().clone();
    assert_eq!(of("in/secret")["size"], 1);
    assert_eq!(of("in/secret")["operation"], "PutObject");
    assert_eq!(of("in/secret")["principal"], "tester");
    let large = gzip(&Tar::new().file("large", &[1; 6000]).end());
    assert_eq!(rig.put(&large).await.code(), "AccessDenied");
    // Many: in parallel, and each one.
    let many: Vec<_> = (0..600).map(|i| (format!("many/{i}"), vec![1])).collect();
    let archive = gzip(&gnu(&many));
    let before = opa.service.count();
    let answer = rig.put(&archive).await;
    assert_eq!(
        answer.header("x-mizuchi-batch-stored").as_deref(),
        Some("600"),
        "{}",
        answer.text()
    );
    assert_eq!(opa.service.count() - before, 601);
    // It cannot be asked any more: the archive's own decision is remembered, those of its entries not.
    rig.s3.books(|books| books.objects.clear());
    opa.service.fail(Fault::Status(500));
    let archive = Tar::new().file("new/1", b"a").file("new/2", b"b").end();
    let answer = rig.put(&archive).await;
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(rig.keys(), [""; 0]);
    rig.left_nothing().await;
}
