//! Browsers upload with a form: POST on the bucket.

mod attacks;

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client};
use crate::support::form::{BOUNDARY, Form, part};
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::LedgerS3;
use crate::support::{eventually, payload};
use time::Duration;
use tokio::io::AsyncWriteExt as _;

const MIB: usize = 1 << 20;

const SMALL_PARTS: &str = "    upload:\n      multipart_threshold: 8MiB\n      part_size: 5MiB\n";

async fn books() -> (LedgerS3, Gateway) {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address).bucket(SMALL_PARTS).start().await;
    (s3, gateway)
}

/// Nothing came of whatever was refused: no object, no multipart upload, nothing in flight.
async fn nothing_is_left(s3: &LedgerS3, gateway: &Gateway) {
    gateway.settled().await;
    eventually("no upload is open", async || s3.books(|books| books.uploads.is_empty())).await;
    let objects = s3.books(|books| books.objects.keys().cloned().collect::<Vec<_>>());
    assert!(objects.is_empty(), "{objects:?}");
}

async fn send(gateway: &Gateway, form: &Form, file: &[u8]) -> Answer {
    form.send(&mut Client::connect(gateway).await, file).await
}

/// "The POST operation adds an object to a specified bucket by using HTML forms": it is the bytes of
/// the file, whatever stands in them, and one connection carries one form after the other.
#[tokio::test]
async fn a_form_s_file_is_the_object() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).bucket(SMALL_PARTS).start().await;
    let mut client = Client::connect(&gateway).await;
    let tricky = format!("\r\n--{}", BOUNDARY.replace("gW", "gX"));
    for (key, file) in [
        ("empty", Vec::new()),
        ("small", b"hello".to_vec()),
        ("tricky", format!("{tricky}\r\n--\r\n{tricky}--\r\r\n\r").into_bytes()),
        ("larger", payload(3 * MIB + 1)),
        ("in parts", payload(23 * MIB + 5)),
        ("late", payload(MIB)),
    ] {
        let answer = Form::new(key).send(&mut client, &file).await;
        assert_eq!(answer.status, 204, "{key}: {}", answer.text());
        assert!(answer.header("etag").is_some() && answer.body.is_empty());
        let location = format!("/uploads/{}", key.replace(' ', "%20"));
        assert_eq!(answer.header("location"), Some(location));
        assert_eq!(backend.object(key).unwrap(), file, "{key}");
    }
    assert_eq!(backend.open_uploads(), 0);
    gateway.log_with("operation=PostObject path=\"/uploads\" status=204").await;
    gateway.log_with("principal=\"tester\"").await;
    gateway.settled().await;
}

/// The fields that are headers of a PUT reach the backend as those, whole or in parts.
#[tokio::test]
async fn a_form_s_fields_are_the_object_s_headers() {
    let s3 = LedgerS3::start(true).await;
    let allow = format!("{SMALL_PARTS}      allow: [acl, redirect, tagging]\n");
    let gateway = Setup::over(s3.address).bucket(&allow).start().await;
    for length in [9, 12 * MIB] {
        let form = Form::new("k")
            .field("Content-Type", "image/png")
            .field("Cache-Control", "no-cache")
            .field("x-amz-meta-Name", "${filename}")
            .field("acl", "public-read")
            .field("x-amz-tagging", "a=b")
            .field("x-amz-storage-class", "")
            .field("submit", "Upload it")
            .extra("x-ignore-this", "please")
            .with(|form| form.conditions.push(r#"["starts-with", "$x-amz-meta-name", ""]"#.into()))
            .with(|form| form.conditions.retain(|one| !one.contains("${filename}")));
        let answer = send(&gateway, &form, &payload(length)).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        let object = s3.books(|books| books.objects.remove("k").unwrap());
        assert_eq!(object.length, length as u64);
        for (name, value) in [
            ("content-type", "image/png"),
            ("cache-control", "no-cache"),
            ("x-amz-meta-name", "file.bin"),
            ("x-amz-acl", "public-read"),
            ("x-amz-tagging", "a=b"),
        ] {
            assert_eq!(object.headers[name], value, "{name}");
        }
        for none in ["x-amz-storage-class", "submit", "x-ignore-this", "policy", "x-amz-signature"]
        {
            assert!(!object.headers.contains_key(none), "{none}");
        }
    }
}

/// "success_action_redirect: the URL to which the client is redirected upon successful upload …;
/// success_action_status: 200, 201 or 204; with 201 Amazon S3 returns an XML document."
#[tokio::test]
async fn success_is_answered_as_the_form_asks() {
    let (s3, gateway) = books().await;
    let mut client = Client::connect(&gateway).await;
    for (asked, status) in [("200", 200), ("201", 201), ("204", 204), ("404", 204)] {
        let form = Form::new("a b/ü").field("success_action_status", asked);
        let answer = form.send(&mut client, b"x").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("location").as_deref(), Some("/uploads/a%20b/%C3%BC"));
        if status == 201 {
            let etag = answer.header("etag").unwrap().replace('"', "&quot;");
            for (name, value) in [
                ("Location", "/uploads/a%20b/%C3%BC"),
                ("Bucket", "uploads"),
                ("Key", "a b/ü"),
                ("ETag", &etag),
            ] {
                assert_eq!(answer.element(name).as_deref(), Some(value), "{name}");
            }
            assert!(answer.text().contains("<PostResponse>"));
        } else {
            assert!(answer.body.is_empty());
        }
    }
    let form =
        Form::new("a b").field("success_action_redirect", "https://app.example.com/done?x=1");
    let answer = form.send(&mut client, b"x").await;
    assert_eq!(answer.status, 303);
    let etag = s3.books(|books| books.objects["a b"].etag.replace('"', "%22"));
    let to = format!("https://app.example.com/done?x=1&bucket=uploads&key=a%20b&etag={etag}");
    assert_eq!(answer.header("location"), Some(to));
    for bad in ["javascript:alert(1)", "https://h/\r\nSet-Cookie: a=b", "/there"] {
        let form = Form::new("k").field("redirect", bad).field("success_action_status", "200");
        let answer = form.send(&mut client, b"x").await;
        assert_eq!((answer.status, answer.header("set-cookie")), (200, None), "{bad}");
        assert_eq!(answer.header("location").as_deref(), Some("/uploads/k"));
    }
}

/// "The variable ${filename} is automatically replaced with the name of the file provided by the
/// user": of a path only what follows the last separator; conditions are held against the result.
#[tokio::test]
async fn the_file_s_name_becomes_part_of_the_key() {
    let (s3, gateway) = books().await;
    let of = |filename: &str, prefix: &str| {
        let condition = format!(r#"["starts-with", "$key", "{prefix}"]"#);
        Form::new("").without("key").extra("key", "user/${filename}").condition(&condition).with(
            |form| {
                form.filename = filename.to_owned();
                form.conditions.retain(|one| !one.starts_with(r#"["eq", "$key""#));
            },
        )
    };
    let answer = send(&gateway, &of("a b.txt", "user/"), b"1").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(send(&gateway, &of("../../etc/passwd", "user/"), b"2").await.status, 204);
    assert_eq!(send(&gateway, &of("c.txt", "user/c"), b"3").await.status, 204);
    let denied = send(&gateway, &of("d.txt", "user/c"), b"4").await;
    assert_eq!((denied.status, denied.code().as_str()), (403, "AccessDenied"));
    let mut keys: Vec<String> = s3.books(|books| books.objects.keys().cloned().collect());
    keys.sort();
    assert_eq!(keys, ["user/a b.txt", "user/c.txt", "user/passwd"]);
}

/// "file: must be the last field; fields after it are ignored."
#[tokio::test]
async fn fields_after_the_file_mean_nothing() {
    let (s3, gateway) = books().await;
    let after = part("acl", "public-read") + &part("key", "other") + &part("submit", "Upload");
    let answer =
        send(&gateway, &Form::new("k").with(|form| form.after = after.clone()), b"x").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    s3.books(|books| {
        assert_eq!(books.objects.keys().collect::<Vec<_>>(), ["k"]);
        assert!(!books.objects["k"].headers.contains_key("x-amz-acl"));
    });
    // The file before its key: it has none.
    let early = Form::new("k").without("key").with(|form| form.after = part("key", "k"));
    let answer = send(&gateway, &early, b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidArgument"));
}

/// A file of any length passes through in bounded memory, with or without a Content-Length.
#[tokio::test]
async fn a_large_file_passes_through() {
    let s3 = LedgerS3::start(false).await;
    let gateway = Setup::over(s3.address).bucket(SMALL_PARTS).start().await;
    let file = payload(40 * MIB);
    let answer = send(&gateway, &Form::new("length"), &file).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let form = Form::new("chunked");
    let mut client = Client::connect(&gateway).await;
    let head = form.head(&client.host, "Transfer-Encoding: chunked");
    let mut wire = Vec::new();
    for piece in form.body(&file).chunks(65_521) {
        wire.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let answer = client.raw(&head, &wire).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    // The connection stands at the next head.
    assert_eq!(Form::new("next").send(&mut client, b"x").await.status, 204);
    s3.books(|books| {
        for key in ["length", "chunked"] {
            let object = &books.objects[key];
            assert_eq!((object.length, object.parts), (40 * MIB as u64, 8), "{key}");
        }
        assert!(books.uploads.is_empty());
    });
    let peak = gateway.peak_rss();
    assert!(peak < 120 * MIB as u64, "{} MiB", peak / MIB as u64);
    gateway.settled().await;
}

/// A browser does not, but curl waits for 100 Continue: it is told to send before its form is known,
/// and never when the head alone says no.
#[tokio::test]
async fn a_form_may_wait_for_100_continue() {
    let (_s3, gateway) = books().await;
    let mut client = Client::connect(&gateway).await;
    let form = Form::new("k").with(|form| form.headers = "Expect: 100-continue\r\n".into());
    let body = form.body(b"content");
    let head = form.head(&client.host, &format!("Content-Length: {}", body.len()));
    client.socket.write_all(&head).await.unwrap();
    assert_eq!(client.one(false).await.status, 100);
    client.socket.write_all(&body).await.unwrap();
    assert_eq!(client.one(false).await.status, 204);

    let mut client = Client::connect(&gateway).await;
    let head = [&head[..head.len() - 2], b"Authorization: x\r\n\r\n"].concat();
    client.socket.write_all(&head).await.unwrap();
    assert_eq!(client.one(false).await.status, 400);
}

/// "upload.unknown_length: deny" is about bodies that could say how long they are. A form cannot: it
/// may have one part's bytes.
#[tokio::test]
async fn a_form_s_file_fits_in_a_part_where_unknown_lengths_are_denied() {
    let s3 = LedgerS3::start(true).await;
    let deny = format!("{SMALL_PARTS}      unknown_length: deny\n");
    let gateway = Setup::over(s3.address).bucket(&deny).start().await;
    for (length, status) in [(5 * MIB + 1, 400), (12 * MIB, 400)] {
        let answer = send(&gateway, &Form::new("k"), &payload(length)).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, "EntityTooLarge"));
    }
    nothing_is_left(&s3, &gateway).await;
    assert_eq!(s3.books(|books| books.created), 0, "never in parts");
    assert_eq!(send(&gateway, &Form::new("k"), &payload(5 * MIB)).await.status, 204);
    let object = s3.books(|books| books.objects["k"].clone());
    assert_eq!((object.length, object.parts), (5 * MIB as u64, 0));
}

/// Where nobody is asked who they are a form needs no policy; one that has one is held to it.
#[tokio::test]
async fn an_anonymous_form_needs_no_policy() {
    let s3 = LedgerS3::start(true).await;
    let gateway =
        Setup::over(s3.address).env("MIZUCHI__BUCKETS__0__AUTH__ENABLED", "false").start().await;
    let bare = Form::new("k").with(|form| form.signed = false);
    let answer = send(&gateway, &bare, b"x").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    s3.books(|books| books.objects.clear());
    let held = Form::new("k").condition(r#"{"key": "other"}"#);
    assert_eq!(send(&gateway, &held, b"x").await.status, 403);
    let acl = bare.clone().extra("acl", "public-read");
    assert_eq!(send(&gateway, &acl, b"x").await.status, 403);
    nothing_is_left(&s3, &gateway).await;
}

/// A checksum among the fields is one over the file, and is verified.
#[tokio::test]
async fn a_form_s_checksum_is_verified() {
    let (s3, gateway) = books().await;
    for (length, name, wrong) in [
        (9, "x-amz-checksum-crc32", "AAAAAA=="),
        (9, "content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="),
        (12 * MIB, "x-amz-checksum-crc32", "AAAAAA=="),
    ] {
        let form = Form::new("k").field(name, wrong);
        let answer = send(&gateway, &form, &payload(length)).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "BadDigest"), "{name}");
    }
    nothing_is_left(&s3, &gateway).await;
    let form = Form::new("k").field("x-amz-checksum-crc32", "y/Q5Jg==");
    assert_eq!(send(&gateway, &form, b"123456789").await.status, 204);
    s3.books(|books| assert_eq!(books.objects["k"].headers["x-amz-checksum-crc32"], "y/Q5Jg=="));
}

/// A web page may read the answer to its form as any other.
#[tokio::test]
async fn a_form_s_answer_can_be_read_by_its_page() {
    let s3 = LedgerS3::start(true).await;
    let cors = "    cors:\n      - allowed_origins: ['https://app.example.com']\n        \
                allowed_methods: [POST]\n        expose_headers: [ETag, Location]\n";
    let gateway = Setup::over(s3.address).bucket(cors).start().await;
    for (origin, allowed) in
        [("https://app.example.com", true), ("https://evil.example.com", false)]
    {
        let form = Form::new("k").with(|form| form.headers = format!("Origin: {origin}\r\n"));
        let answer = send(&gateway, &form, b"x").await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin").is_some(), allowed);
    }
}
