//! What may be tried with a form: nothing comes of it.

use super::*;

/// security.md, "POST form upload": "Expired policy, failed condition, or a field that the policy does
/// not name: 403 AccessDenied. Bad base64 or JSON: 400 InvalidPolicyDocument."
#[tokio::test]
async fn what_the_policy_does_not_allow_is_refused() {
    let (s3, gateway) = books().await;
    let new = || Form::new("k");
    let sealed = |document: &str| {
        let document = document.to_owned();
        new()
            .sign()
            .without("policy")
            .without("x-amz-signature")
            .seal(&document)
            .with(|form| form.signed = false)
    };
    let raw_policy = |text: &str| {
        let text = text.to_owned();
        let mut form =
            new().sign().without("policy").without("x-amz-signature").extra("policy", &text);
        form = form.extra("x-amz-signature", &"0".repeat(64));
        form.signed = false;
        form
    };
    for (what, form, status, code) in [
        ("expired", new().with(|form| form.expires = Duration::seconds(-1)), 403, "AccessDenied"),
        ("another value", new().condition(r#"{"key": "other"}"#), 403, "AccessDenied"),
        (
            "another prefix",
            new().condition(r#"["starts-with", "$key", "x/"]"#),
            403,
            "AccessDenied",
        ),
        ("a field that is missing", new().condition(r#"{"acl": "private"}"#), 403, "AccessDenied"),
        ("an extra field", new().extra("x-amz-meta-a", "b"), 403, "AccessDenied"),
        ("an extra field without a meaning", new().extra("submit", "b"), 403, "AccessDenied"),
        ("another bucket", new().condition(r#"{"bucket": "other"}"#), 403, "AccessDenied"),
        ("a bucket field", new().extra("bucket", "other"), 403, "AccessDenied"),
        (
            "no bucket",
            new().with(|form| form.conditions.retain(|one| !one.contains("bucket"))),
            403,
            "AccessDenied",
        ),
        ("not base64", raw_policy("{}"), 400, "InvalidPolicyDocument"),
        ("not JSON", sealed("nonsense"), 400, "InvalidPolicyDocument"),
        (
            "not a policy",
            sealed("{\"expiration\": \"2099-01-01T00:00:00Z\"}"),
            400,
            "InvalidPolicyDocument",
        ),
        ("no expiration", sealed("{\"conditions\": []}"), 400, "InvalidPolicyDocument"),
        ("deep", sealed(&"[".repeat(9000)), 400, "InvalidPolicyDocument"),
        (
            "a bad range",
            new().condition(r#"["content-length-range", -1, 0]"#),
            400,
            "InvalidPolicyDocument",
        ),
        (
            "half a range",
            new().condition(r#"["content-length-range", 0]"#),
            400,
            "InvalidPolicyDocument",
        ),
    ] {
        let answer = send(&gateway, &form, b"content").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{what}: {}",
            answer.text()
        );
    }
    let expired = new().with(|form| form.expires = Duration::seconds(-1));
    let message = send(&gateway, &expired, b"x").await.element("Message").unwrap();
    assert_eq!(message, "Invalid according to Policy: Policy expired.");
    nothing_is_left(&s3, &gateway).await;
}

/// The same verifier as for every request: who does not know the key is nobody.
#[tokio::test]
async fn a_form_is_who_signed_its_policy() {
    let (s3, gateway) = books().await;
    let new = || Form::new("k");
    let signed = |change: &dyn Fn(&mut Form)| {
        let mut form = new().sign();
        form.signed = false;
        change(&mut form);
        form
    };
    let set = |name: &'static str, value: &'static str| {
        move |form: &mut Form| {
            let field = form.fields.iter_mut().find(|(have, _)| have == name).unwrap();
            field.1 = value.to_owned();
        }
    };
    let zeros = "0000000000000000000000000000000000000000000000000000000000000000";
    let stranger = |form: &mut Form| {
        let scope = form.scope.clone();
        let field = form.fields.iter_mut().find(|(have, _)| have == "x-amz-credential").unwrap();
        field.1 = format!("AKIDSTRANGER/{scope}");
    };
    for (what, form, status, code) in [
        ("no signature", new().with(|form| form.signed = false), 403, "AccessDenied"),
        (
            "another secret",
            new().with(|form| form.secret = "other".into()),
            403,
            "SignatureDoesNotMatch",
        ),
        ("another signature", signed(&set("x-amz-signature", zeros)), 403, "SignatureDoesNotMatch"),
        ("a stranger", signed(&stranger), 403, "InvalidAccessKeyId"),
        ("half a signature", signed(&set("x-amz-signature", "00")), 400, "InvalidArgument"),
        ("another algorithm", signed(&set("x-amz-algorithm", "AWS4-ECDSA")), 400, "InvalidRequest"),
        ("another date", signed(&set("x-amz-date", "20000101T000000Z")), 400, "InvalidArgument"),
        (
            "no date",
            signed(&|form| *form = form.clone().without("x-amz-date")),
            400,
            "InvalidArgument",
        ),
        (
            "no policy",
            signed(&|form| *form = form.clone().without("policy")),
            400,
            "InvalidArgument",
        ),
        (
            "no algorithm",
            signed(&|form| *form = form.clone().without("x-amz-algorithm")),
            400,
            "InvalidArgument",
        ),
        (
            "another region",
            new().with(|form| form.scope = form.scope.replace("us-east-1", "eu-west-1")),
            400,
            "InvalidArgument",
        ),
        ("a session token", new().field("x-amz-security-token", "t"), 400, "InvalidToken"),
        (
            "SigV2",
            new().field("AWSAccessKeyId", "a").field("signature", "s"),
            400,
            "InvalidRequest",
        ),
        (
            "a header beside it",
            new().with(|form| form.headers = "Authorization: AWS4-HMAC-SHA256 x\r\n".into()),
            400,
            "InvalidArgument",
        ),
        (
            "a query beside it",
            new().with(|form| form.path.push_str("?X-Amz-Signature=a")),
            400,
            "InvalidArgument",
        ),
        (
            "an unsigned header",
            new().with(|form| form.headers = "x-amz-acl: public-read\r\n".into()),
            403,
            "AccessDenied",
        ),
        (
            "a payload's hash",
            new().with(|form| form.headers = "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n".into()),
            400,
            "InvalidRequest",
        ),
        (
            "another operation",
            new().with(|form| form.path.push_str("?delete")),
            501,
            "NotImplemented",
        ),
        ("a key in the path", new().with(|form| form.path.push_str("/k")), 405, "MethodNotAllowed"),
    ] {
        let answer = send(&gateway, &form, b"content").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{what}: {}",
            answer.text()
        );
    }
    nothing_is_left(&s3, &gateway).await;
    let metrics = gateway.metrics().await;
    let denied = r#"mizuchi_auth_attempts_total{method="post-policy",result="denied"}"#;
    assert!(metrics.contains(denied), "{metrics}");
}

/// Temporary credentials: the token is a field, and the policy names it as any other.
#[tokio::test]
async fn a_form_s_session_token_is_a_field() {
    let s3 = LedgerS3::start(true).await;
    let temporary = "          - access_key: ASIATEMPORARY\n            secret_key: temporary-secret\n\
        \x20           session_token: the/token+of=it\n";
    let gateway = Setup::over(s3.address).bucket(temporary).start().await;
    let by = || {
        Form::new("k").with(|form| {
            form.access_key = "ASIATEMPORARY".into();
            form.secret = "temporary-secret".into();
        })
    };
    let token = "x-amz-security-token";
    for (form, status, code) in [
        (by(), 403, "InvalidAccessKeyId"),
        (by().field(token, "another"), 400, "InvalidToken"),
        (by().extra(token, "the/token+of=it"), 403, "AccessDenied"),
        (Form::new("k").field(token, "any"), 400, "InvalidToken"),
    ] {
        let answer = send(&gateway, &form, b"x").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
    }
    nothing_is_left(&s3, &gateway).await;
    let answer = send(&gateway, &by().field(token, "the/token+of=it"), b"x").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    let stored = s3.books(|books| books.objects["k"].headers.get(token).cloned());
    assert_eq!(stored, None, "the token ends here");
}

/// "POST requires exactly one file upload per request"; "MaxPostPreDataLengthExceeded: your POST
/// request fields preceding the upload file were too large".
#[tokio::test]
async fn what_is_no_form_is_refused() {
    let (s3, gateway) = books().await;
    let new = || Form::new("k");
    let second = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"b\"\r\n\r\nsecond\r\n"
    );
    let wide =
        |form: Form| (0..200).fold(form, |form, number| form.field(&format!("f{number}"), ""));
    let large = "MaxPostPreDataLengthExceededError";
    for (what, form, code) in [
        ("two files", new().with(|form| form.after = second.clone()), "InvalidArgument"),
        ("a large field", new().field("x-ignore-a", &"v".repeat(21_000)), large),
        ("many fields", wide(new()), large),
        ("twice", new().extra("Key", "other"), "InvalidArgument"),
        (
            "no key",
            new().without("key").with(|form| form.conditions.retain(|one| !one.contains("$key"))),
            "InvalidArgument",
        ),
        ("a line end", new().field("x-amz-meta-a", "b\r\nx-amz-acl: private"), "InvalidArgument"),
        ("a long key", new().without("key").field("key", &"k".repeat(1025)), "KeyTooLongError"),
        (
            "much after the file",
            new().with(|form| form.after = part("a", &"v".repeat(200_000))),
            "MalformedPOSTRequest",
        ),
        (
            "much after the end",
            new().with(|form| form.closing.push_str(&"v".repeat(200_000))),
            "MalformedPOSTRequest",
        ),
        ("no closing boundary", new().with(|form| form.closing.clear()), "MalformedPOSTRequest"),
        (
            "another boundary",
            new().with(|form| form.closing = "--other--\r\n".into()),
            "MalformedPOSTRequest",
        ),
        (
            "metadata over S3's bound",
            new().field("x-amz-meta-a", &"v".repeat(2100)),
            "MetadataTooLarge",
        ),
    ] {
        let answer = send(&gateway, &form, b"content").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{what}: {}",
            answer.text()
        );
    }
    let tagging = send(&gateway, &new().field("tagging", "<Tagging/>"), b"x").await;
    assert_eq!((tagging.status, tagging.code().as_str()), (501, "NotImplemented"));
    let only = new().parts() + &format!("--{BOUNDARY}--\r\n");
    let only = only.as_bytes();
    for (what, body, code) in [
        ("no file", only, "InvalidArgument"),
        ("nothing", b"", "MalformedPOSTRequest"),
        ("a preamble without an end", &[b'v'; 100_000], large),
        ("part of a field", &only[..100], "MalformedPOSTRequest"),
    ] {
        let mut client = Client::connect(&gateway).await;
        let answer = new().send_body(&mut client, body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, code),
            "{what}: {}",
            answer.text()
        );
    }
    for kind in
        ["multipart/form-data", &format!("multipart/form-data; boundary={}", "b".repeat(71))]
    {
        let mut client = Client::connect(&gateway).await;
        let head = format!(
            "POST /uploads HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\nContent-Length: 4\r\n\r\n"
        );
        let answer = client.raw(head.as_bytes(), b"--b\r").await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "MalformedPOSTRequest"),
            "{kind}"
        );
    }
    nothing_is_left(&s3, &gateway).await;
}

/// "content-length-range: the minimum and maximum allowable size for the uploaded content", held while
/// the file streams: what is too long or too short never becomes an object.
#[tokio::test]
async fn the_file_is_as_long_as_the_policy_says() {
    let (s3, gateway) = books().await;
    let of = |least: usize, most: usize| {
        Form::new("k").condition(&format!("[\"content-length-range\", {least}, {most}]"))
    };
    for (least, most, length, code) in [
        (1, 10, 11, "EntityTooLarge"),
        (0, 0, 3, "EntityTooLarge"),
        (5, 10, 4, "EntityTooSmall"),
        (1, 10, 0, "EntityTooSmall"),
        (0, 12 * MIB, 12 * MIB + 1, "EntityTooLarge"),
        (0, MIB, 40 * MIB, "EntityTooLarge"),
        (12 * MIB + 1, 50 * MIB, 12 * MIB, "EntityTooSmall"),
    ] {
        let answer = send(&gateway, &of(least, most), &payload(length)).await;
        let got = (answer.status, answer.code());
        assert_eq!(got, (400, code.to_owned()), "{least}..{most}: {length}");
    }
    nothing_is_left(&s3, &gateway).await;
    assert!(s3.books(|books| books.created > 0 && books.created == books.aborted));
    for length in [5, 10, 12 * MIB] {
        let answer = send(&gateway, &of(length.min(5), length), &payload(length)).await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        assert_eq!(s3.books(|books| books.objects["k"].length), length as u64);
    }
}

/// A client that goes away in the middle, or says that its body ends where it does not, leaves nothing.
#[tokio::test]
async fn a_form_that_is_cut_off_leaves_nothing() {
    let (s3, gateway) = books().await;
    let form = Form::new("k");
    let file = payload(12 * MIB);
    let body = form.body(&file);
    let start = form.around().0.len();
    let cuts =
        [0, 10, start, start + 1, start + 6 * MIB, body.len() - BOUNDARY.len() - 8, body.len() - 3];
    for cut in cuts {
        let mut client = Client::connect(&gateway).await;
        let head = form.head(&client.host, &format!("Content-Length: {}", body.len()));
        client.socket.write_all(&head).await.unwrap();
        client.socket.write_all(&body[..cut]).await.unwrap();
        drop(client);
        nothing_is_left(&s3, &gateway).await;
    }
    // Half-closed: the client is still there to read why.
    let mut client = Client::connect(&gateway).await;
    let head = form.head(&client.host, &format!("Content-Length: {}", body.len()));
    client.socket.write_all(&head).await.unwrap();
    client.socket.write_all(&body[..start + 100]).await.unwrap();
    client.socket.shutdown().await.unwrap();
    let answer = client.answer(false).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "IncompleteBody"));
    // The framing is whole, the form is not.
    for cut in
        [start, start + 100, start + 6 * MIB, body.len() - BOUNDARY.len() - 8, body.len() - 4]
    {
        let mut client = Client::connect(&gateway).await;
        let answer = form.send_body(&mut client, &body[..cut]).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "MalformedPOSTRequest"), "{cut}");
    }
    nothing_is_left(&s3, &gateway).await;
}

/// A backend that takes nothing holds the client back: nothing piles up in between.
#[tokio::test]
async fn a_slow_backend_holds_the_form_back() {
    use crate::support::ledger_s3::Twist;
    let s3 = LedgerS3::start(false).await;
    let gateway = Setup::over(s3.address)
        .bucket(SMALL_PARTS)
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__PROGRESS", "4s")
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "4s")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__MAX", "0")
        .start()
        .await;
    s3.script((0..20).map(|_| ("Part", Twist::Hang)));
    let form = Form::new("k");
    let file = payload(200 * MIB);
    let body = form.body(&file);
    let mut client = Client::connect(&gateway).await;
    let head = form.head(&client.host, &format!("Content-Length: {}", body.len()));
    client.socket.write_all(&head).await.unwrap();
    let mut sent = 0;
    let stuck = std::time::Duration::from_secs(1);
    while let Ok(count) = tokio::time::timeout(stuck, client.socket.write(&body[sent..])).await {
        sent += count.unwrap();
        assert!(sent < body.len(), "all of it was taken");
    }
    assert!(sent < 80 * MIB, "{} MiB were taken", sent / MIB);
    // The backend is given up, and the client told.
    assert_eq!(client.answer(false).await.status, 503);
    nothing_is_left(&s3, &gateway).await;
}

/// "Same authorization as PUT" (MinIO CVE-2021-21362): grants, permissions, overwrite.
#[tokio::test]
async fn a_form_may_do_what_a_put_may() {
    let s3 = LedgerS3::start(true).await;
    let allow = "            allow:\n              key_prefixes: ['home/{principal}/']\n              \
                 operations: [PutObject]\n";
    let gateway = Setup::over(s3.address).bucket(allow).start().await;
    let answer = send(&gateway, &Form::new("home/other/x"), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    for (name, value) in [
        ("acl", "public-read"),
        ("x-amz-acl", "public-read"),
        ("x-amz-grant-read", "id=1"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-website-redirect-location", "/x"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
    ] {
        let form = Form::new("home/tester/x").field(name, value);
        let answer = send(&gateway, &form, b"x").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"), "{name}");
    }
    for (name, value) in [("x-amz-copy-source", "/a/b"), ("x-amz-trailer", "x-amz-checksum-crc32")]
    {
        let form = Form::new("home/tester/x").field(name, value);
        assert_eq!(send(&gateway, &form, b"x").await.status, 501, "{name}");
    }
    nothing_is_left(&s3, &gateway).await;
    assert_eq!(send(&gateway, &Form::new("home/tester/x"), b"x").await.status, 204);

    let create =
        "            allow:\n              operations: [CreateMultipartUpload, UploadPart]\n";
    let gateway = Setup::over(s3.address)
        .bucket(create)
        .bucket("    upload:\n      overwrite: deny\n")
        .start()
        .await;
    assert_eq!(send(&gateway, &Form::new("k"), b"x").await.status, 403);
    let gateway =
        Setup::over(s3.address).bucket("    upload:\n      overwrite: deny\n").start().await;
    assert_eq!(send(&gateway, &Form::new("k"), b"x").await.status, 204);
    s3.books(|books| assert_eq!(books.objects["k"].headers["if-none-match"], "*"));
}

/// "The bucket comes from the URL, never from a form field" (Ceph CVE-2023-43040).
#[tokio::test]
async fn the_bucket_is_that_of_the_url() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .env("MIZUCHI__SERVER__VIRTUAL_HOST_DOMAINS", "s3.test")
        .start()
        .await;
    let named = Form::new("k").extra("bucket", "uploads");
    assert_eq!(send(&gateway, &named, b"x").await.status, 204);
    // Signed for another bucket, sent to this one, which it names too.
    let other = Form::new("k2").with(|form| form.conditions[0] = r#"{"bucket": "other"}"#.into());
    let answer = send(&gateway, &other.clone().extra("bucket", "other"), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    assert_eq!(
        send(&gateway, &other.with(|form| form.path = "/other".into()), b"x").await.status,
        404
    );
    let mut client = Client::connect(&gateway).await;
    client.host = "uploads.s3.test".into();
    let answer = Form::new("v").with(|form| form.path = "/".into()).send(&mut client, b"x").await;
    assert_eq!(
        (answer.status, answer.header("location").as_deref()),
        (204, Some("/v")),
        "{}",
        answer.text()
    );
    let mut keys: Vec<String> = s3.books(|books| books.objects.keys().cloned().collect());
    keys.sort();
    assert_eq!(keys, ["k", "v"]);
}

/// "A canary secret never shows in a TRACE log": nor does what a form is allowed by.
#[tokio::test]
async fn a_form_s_credentials_are_in_no_log() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address).env("RUST_LOG", "trace").start().await;
    let mut form = Form::new("k").extra("x-ignore-canary", "canary-in-a-field").sign();
    form.signed = false;
    let value = |name: &str| form.fields.iter().find(|(have, _)| have == name).unwrap().1.clone();
    let secrets = [value("x-amz-signature"), value("policy"), "canary-in-a-field".to_owned()];
    assert_eq!(send(&gateway, &form, b"x").await.status, 204);
    let token = Form::new("k").field("x-amz-security-token", "canary-in-a-token");
    assert_eq!(send(&gateway, &token, b"x").await.code(), "InvalidToken");
    let unsigned = form.clone().extra("x-amz-meta-a", "canary-in-metadata");
    assert_eq!(send(&gateway, &unsigned, b"x").await.code(), "AccessDenied");
    let log = gateway.log_with("code=AccessDenied").await;
    assert!(log.contains("TRACE"), "{log}");
    for secret in secrets.iter().map(String::as_str).chain(["canary-in-a-token"]) {
        assert!(!log.contains(secret), "{secret}");
    }
}
