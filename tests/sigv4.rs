//! security.md, "SigV4, all modes" and "Presigned": a test per row over a real socket. None of the
//! attacks may leave an object.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request, signer, signer_with, write_head};
use crate::support::gateway::{ACCESS_KEY, Gateway, SECRET_KEY, Setup};
use mizuchi_actors::sigv4::UpstreamRequest;
use std::time::Duration;
use time::OffsetDateTime;

async fn pair() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let address = backend.s3.address;
    let gateway = Setup::new(&backend, address).start().await;
    (backend, gateway)
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// A signed PUT of one byte, as text to be tampered with.
fn signed(host: &str) -> String {
    let request = Request::put("k", 1).header("x-amz-meta-a", "1").query("x-id", "PutObject");
    String::from_utf8(request.sign(host, &signer(), now())).unwrap()
}

async fn expect(gateway: &Gateway, name: &str, head: &str, status: u16, code: &str) {
    let mut client = Client::connect(gateway).await;
    let answer = client.raw(head.as_bytes(), b"x").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (status, code),
        "{name}: {}\n{head}",
        answer.text()
    );
}

#[tokio::test]
async fn whatever_was_signed_cannot_be_altered() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    let good = signed(&host);
    let wrong = "SignatureDoesNotMatch";
    for (name, head) in [
        ("path", good.replace("/uploads/k?", "/uploads/other?")),
        ("query", good.replace("x-id=PutObject", "x-id=PutObjecu")),
        ("header", good.replace("x-amz-meta-a: 1", "x-amz-meta-a: 2")),
        ("header gone", good.replace("x-amz-meta-a: 1\r\n", "")),
        ("payload", good.replace("UNSIGNED-PAYLOAD", &"0".repeat(64))),
    ] {
        assert_ne!(head, good, "{name}");
        expect(&gateway, name, &head, 403, wrong).await;
    }
    let head = good.replace("PUT /uploads/k?x-id=PutObject", "POST /uploads/k?uploads");
    expect(&gateway, "method and query", &head, 403, wrong).await;
    let secret =
        Request::put("k", 1).sign(&host, &signer_with(ACCESS_KEY, "wrong", "us-east-1"), now());
    expect(&gateway, "secret", &String::from_utf8(secret).unwrap(), 403, wrong).await;
    let stranger = Request::put("k", 1).sign(
        &host,
        &signer_with("AKIANOBODY", SECRET_KEY, "us-east-1"),
        now(),
    );
    let stranger = String::from_utf8(stranger).unwrap();
    expect(&gateway, "access key", &stranger, 403, "InvalidAccessKeyId").await;
    // A query parameter of its name never stands in for a signed header.
    let smuggled =
        good.replace("x-amz-meta-a: 1\r\n", "").replace("?x-id=", "?x-amz-meta-a=1&x-id=");
    expect(&gateway, "query for header", &smuggled, 403, wrong).await;
    assert_eq!(backend.objects(), Vec::<String>::new());
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.raw(good.as_bytes(), b"x").await.status, 200);
}

#[tokio::test]
async fn headers_that_were_not_signed_are_refused() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    let good = signed(&host);
    for added in ["x-amz-acl: public-read", "x-amz-storage-class: GLACIER", "x-amz-meta-b: 1"] {
        let head = good.replace("\r\n\r\n", &format!("\r\n{added}\r\n\r\n"));
        expect(&gateway, added, &head, 403, "AccessDenied").await;
    }
    let unsigned_host = good.replace("SignedHeaders=host;", "SignedHeaders=");
    expect(&gateway, "host", &unsigned_host, 403, "AccessDenied").await;
    assert_eq!(backend.objects(), Vec::<String>::new());
}

#[tokio::test]
async fn malformed_claims_are_refused_by_their_codes() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    let good = signed(&host);
    let malformed = "AuthorizationHeaderMalformed";
    let day = &good[good.find("x-amz-date: ").unwrap() + 12..][..8];
    for (name, head, status, code) in [
        ("no signature", good.replace(", Signature=", ", Sig="), 400, malformed),
        ("short signature", good.replace("Signature=", "Signature=00"), 400, malformed),
        ("region", good.replace("/us-east-1/", "/eu-west-1/"), 400, malformed),
        ("service", good.replace("/s3/", "/ec2/"), 400, malformed),
        ("terminator", good.replace("/aws4_request", "/aws5_request"), 400, malformed),
        ("scope's date", good.replace(&format!("/{day}/"), "/20200101/"), 400, malformed),
        (
            "SigV2",
            good.replace("AWS4-HMAC-SHA256 Credential", "AWS AKIA:c2ln Credential"),
            400,
            "InvalidRequest",
        ),
        (
            "SigV4A",
            good.replace("AWS4-HMAC-SHA256 ", "AWS4-ECDSA-P256-SHA256 "),
            400,
            "InvalidRequest",
        ),
        ("another algorithm", good.replace("AWS4-HMAC-SHA256 ", "Bearer "), 400, "InvalidRequest"),
        (
            "date twice",
            good.replace("x-amz-date: ", "x-amz-date: 20200101T000000Z\r\nx-amz-date: "),
            400,
            "InvalidArgument",
        ),
        (
            "both places",
            good.replace("?x-id=", "?X-Amz-Algorithm=AWS4-HMAC-SHA256&x-id="),
            400,
            "InvalidArgument",
        ),
        (
            "no payload hash",
            good.replace("x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n", ""),
            400,
            "MissingSecurityHeader",
        ),
        ("odd payload hash", good.replace("UNSIGNED-PAYLOAD", "unsigned"), 400, "InvalidArgument"),
    ] {
        assert_ne!(head, good, "{name}");
        expect(&gateway, name, &head, status, code).await;
    }
    let authorization = good.lines().find(|line| line.starts_with("authorization")).unwrap();
    let twice = good.replace("\r\n\r\n", &format!("\r\n{authorization}\r\n\r\n"));
    expect(&gateway, "authorization twice", &twice, 400, "InvalidArgument").await;
    let dateless: String =
        good.split_inclusive("\r\n").filter(|line| !line.starts_with("x-amz-date")).collect();
    expect(&gateway, "no date", &dateless, 403, "AccessDenied").await;
    let none: String =
        good.split_inclusive("\r\n").filter(|line| !line.starts_with("authorization")).collect();
    expect(&gateway, "no credentials", &none, 403, "AccessDenied").await;
    assert_eq!(backend.objects(), Vec::<String>::new());
}

/// "clock skew over 15 minutes, header mode too: 403 RequestTimeTooSkewed".
#[tokio::test]
async fn skewed_clocks_are_refused() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    for (offset, status) in [(-16, 403), (16, 403), (-14, 200), (14, 200)] {
        let time = now() + time::Duration::minutes(offset);
        let head = Request::put("skewed", 1).sign(&host, &signer(), time);
        let mut client = Client::connect(&gateway).await;
        let answer = client.raw(&head, b"x").await;
        assert_eq!(answer.status, status, "{offset} minutes: {}", answer.text());
        if status == 403 {
            assert_eq!(answer.code(), "RequestTimeTooSkewed");
            assert_eq!(backend.object("skewed"), None);
        }
    }
}

fn presigned(host: &str, expires: u64, time: OffsetDateTime) -> String {
    let request = UpstreamRequest {
        method: "PUT",
        host: host.to_owned(),
        path: "/uploads/k".to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
    };
    let query = signer().presign(&request, Duration::from_secs(expires), time);
    let head = String::from_utf8(write_head(&request, Some(1))).unwrap();
    head.replace("/uploads/k HTTP", &format!("/uploads/k?{query} HTTP"))
}

#[tokio::test]
async fn presigned_urls_hold_for_their_time_and_as_they_are() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    let good = presigned(&host, 600, now());
    let parameters = "AuthorizationQueryParametersError";
    for (name, head, status, code) in [
        ("expired", presigned(&host, 10, now() - time::Duration::minutes(1)), 403, "AccessDenied"),
        ("future", presigned(&host, 600, now() + time::Duration::hours(1)), 403, "AccessDenied"),
        ("expires 0", good.replace("X-Amz-Expires=600", "X-Amz-Expires=0"), 400, parameters),
        (
            "expires 8 days",
            good.replace("X-Amz-Expires=600", "X-Amz-Expires=691200"),
            400,
            parameters,
        ),
        ("expires -1", good.replace("X-Amz-Expires=600", "X-Amz-Expires=-1"), 400, parameters),
        ("no date", good.replace("X-Amz-Date=", "X-Amz-Dato="), 400, parameters),
        ("credential", good.replace("%2Faws4_request", ""), 400, parameters),
        (
            "longer",
            good.replace("X-Amz-Expires=600", "X-Amz-Expires=601"),
            403,
            "SignatureDoesNotMatch",
        ),
        ("another key", good.replace("/uploads/k?", "/uploads/l?"), 403, "SignatureDoesNotMatch"),
        (
            "an unsigned header",
            good.replace("\r\n\r\n", "\r\nx-amz-meta-a: 1\r\n\r\n"),
            403,
            "AccessDenied",
        ),
        (
            "twice",
            good.replace("X-Amz-Date=", "X-Amz-Date=20200101T000000Z&X-Amz-Date="),
            400,
            "InvalidArgument",
        ),
        (
            "SigV2",
            good.replace("X-Amz-Algorithm=", "AWSAccessKeyId=a&X-Amz-Algorithm="),
            400,
            "InvalidRequest",
        ),
        (
            "streaming",
            good.replace(
                "?X-Amz",
                "?X-Amz-Content-Sha256=STREAMING-UNSIGNED-PAYLOAD-TRAILER&X-Amz",
            ),
            400,
            "InvalidRequest",
        ),
    ] {
        assert_ne!(head, good, "{name}");
        expect(&gateway, name, &head, status, code).await;
    }
    assert_eq!(backend.objects(), Vec::<String>::new());
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.raw(good.as_bytes(), b"x").await.status, 200);
}

/// Signatures fail behind a load balancer because of Host: `server.public_hosts`, and
/// X-Forwarded-Host from trusted proxies only.
#[tokio::test]
async fn the_host_that_was_signed_survives_a_balancer() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__SERVER__PUBLIC_HOSTS", "s3.example.com")
        .start()
        .await;
    let behind = |host: &str, line: &str| {
        let head = signed(host).replace(&format!("Host: {host}"), "Host: 10.0.0.1:8080");
        head.replace("\r\n\r\n", &format!("\r\n{line}X-Last: 1\r\n\r\n"))
    };
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.raw(behind("s3.example.com", "").as_bytes(), b"x").await.status, 200);
    let forwarded = behind("other.example.com", "X-Forwarded-Host: other.example.com\r\n");
    expect(&gateway, "not trusted", &forwarded, 403, "SignatureDoesNotMatch").await;
    let trusting = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__SERVER__TRUSTED_PROXIES", "127.0.0.0/8")
        .start()
        .await;
    let mut client = Client::connect(&trusting).await;
    assert_eq!(client.raw(forwarded.as_bytes(), b"x").await.status, 200);
}

/// No signature, token or secret reaches the log.
#[tokio::test]
async fn nothing_secret_is_logged() {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).env("RUST_LOG", "trace").start().await;
    let host = gateway.address.to_string();
    let head = presigned(&host, 600, now());
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.raw(head.as_bytes(), b"x").await.status, 200);
    assert_eq!(client.raw(signed(&host).as_bytes(), b"x").await.status, 200);
    let log = gateway.log();
    assert!(log.contains("/uploads/k"), "the access line is there");
    let signature = &head[head.find("X-Amz-Signature=").unwrap() + 16..][..64];
    for secret in [SECRET_KEY, &backend.s3.secret_key, signature] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

/// "Over-long → 400 KeyTooLongError"; `..` and `//` are just characters.
#[tokio::test]
async fn keys_are_bounded() {
    let (_backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put(&"k".repeat(1025), 1), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "KeyTooLongError"));
}
