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

/// An attack: its name, its head, the status and the code that answer it.
type Attack = (&'static str, String, u16, &'static str);

const MISMATCH: &str = "SignatureDoesNotMatch";

/// Sends each head with a body of one byte: it must be refused as its row says and leave nothing. The
/// head from which all of them were made is let in afterwards.
async fn all_refused(backend: &Backend, gateway: &Gateway, good: &str, attacks: Vec<Attack>) {
    for (name, head, status, code) in attacks {
        assert_ne!(head, good, "{name}: nothing was changed");
        let answer = Client::connect(gateway).await.raw(head.as_bytes(), b"x").await;
        let text = answer.text();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{name}: {text}\n{head}"
        );
        assert_eq!(backend.objects(), Vec::<String>::new(), "{name}");
        assert_eq!(backend.open_uploads(), 0, "{name}");
    }
    let answer = Client::connect(gateway).await.raw(good.as_bytes(), b"x").await;
    assert_eq!(answer.status, 200, "the head itself is good: {}", answer.text());
}

/// The head without the lines that begin with `name`.
fn without(head: &str, name: &str) -> String {
    head.split_inclusive("\r\n").filter(|line| !line.starts_with(name)).collect()
}

/// The head with one line more.
fn with(head: &str, line: &str) -> String {
    head.replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"))
}

#[tokio::test]
async fn whatever_was_signed_cannot_be_altered() {
    let (backend, gateway) = pair().await;
    let host = gateway.address.to_string();
    let good = signed(&host);
    let by = |access_key, secret_key| {
        let signer = signer_with(access_key, secret_key, "us-east-1");
        String::from_utf8(Request::put("k", 1).sign(&host, &signer, now())).unwrap()
    };
    let gone = without(&good, "x-amz-meta-a");
    let attacks = vec![
        ("path", good.replace("/uploads/k?", "/uploads/other?"), 403, MISMATCH),
        ("query", good.replace("x-id=PutObject", "x-id=PutObjecu"), 403, MISMATCH),
        ("header", good.replace("x-amz-meta-a: 1", "x-amz-meta-a: 2"), 403, MISMATCH),
        // A query parameter of its name never stands in for a signed header.
        ("query for header", gone.replace("?x-id=", "?x-amz-meta-a=1&x-id="), 403, MISMATCH),
        ("header gone", gone, 403, MISMATCH),
        ("payload", good.replace("UNSIGNED-PAYLOAD", &"0".repeat(64)), 403, MISMATCH),
        (
            "method and query",
            good.replace("PUT /uploads/k?x-id=PutObject", "POST /uploads/k?uploads"),
            403,
            MISMATCH,
        ),
        ("secret", by(ACCESS_KEY, "wrong"), 403, MISMATCH),
        ("access key", by("AKIANOBODY", SECRET_KEY), 403, "InvalidAccessKeyId"),
    ];
    all_refused(&backend, &gateway, &good, attacks).await;
}

/// "`host`, or any `x-amz-*` header that is present, not in SignedHeaders: 403 AccessDenied".
#[tokio::test]
async fn headers_that_were_not_signed_are_refused() {
    let (backend, gateway) = pair().await;
    let good = signed(&gateway.address.to_string());
    let attacks = vec![
        ("acl", with(&good, "x-amz-acl: public-read"), 403, "AccessDenied"),
        ("storage class", with(&good, "x-amz-storage-class: GLACIER"), 403, "AccessDenied"),
        ("metadata", with(&good, "x-amz-meta-b: 1"), 403, "AccessDenied"),
        // Copies are not served at all: that is said before anything is verified.
        ("copy source", with(&good, "x-amz-copy-source: /uploads/a"), 501, "NotImplemented"),
        ("host", good.replace("SignedHeaders=host;", "SignedHeaders="), 403, "AccessDenied"),
    ];
    all_refused(&backend, &gateway, &good, attacks).await;
}

#[tokio::test]
async fn malformed_claims_are_refused_by_their_codes() {
    let (backend, gateway) = pair().await;
    let good = signed(&gateway.address.to_string());
    let malformed = "AuthorizationHeaderMalformed";
    let day = &good[good.find("x-amz-date: ").unwrap() + 12..][..8];
    let authorization = good.lines().find(|line| line.starts_with("authorization")).unwrap();
    let algorithm = |other| good.replace("AWS4-HMAC-SHA256 ", other);
    let attacks = vec![
        ("no signature", good.replace(", Signature=", ", Sig="), 400, malformed),
        ("short signature", good.replace("Signature=", "Signature=00"), 400, malformed),
        ("region", good.replace("/us-east-1/", "/eu-west-1/"), 400, malformed),
        ("service", good.replace("/s3/", "/ec2/"), 400, malformed),
        ("terminator", good.replace("/aws4_request", "/aws5_request"), 400, malformed),
        ("scope's date", good.replace(&format!("/{day}/"), "/20200101/"), 400, malformed),
        ("SigV2", algorithm("AWS AKIA:c2ln "), 400, "InvalidRequest"),
        ("SigV4A", algorithm("AWS4-ECDSA-P256-SHA256 "), 400, "InvalidRequest"),
        ("another algorithm", algorithm("Bearer "), 400, "InvalidRequest"),
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
        ("no payload hash", without(&good, "x-amz-content-sha256"), 400, "MissingSecurityHeader"),
        ("odd payload hash", good.replace("UNSIGNED-PAYLOAD", "unsigned"), 400, "InvalidArgument"),
        ("authorization twice", with(&good, authorization), 400, "InvalidArgument"),
        ("no date", without(&good, "x-amz-date"), 403, "AccessDenied"),
        ("no credentials", without(&good, "authorization"), 403, "AccessDenied"),
    ];
    all_refused(&backend, &gateway, &good, attacks).await;
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
    let attacks = vec![
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
        ("longer", good.replace("X-Amz-Expires=600", "X-Amz-Expires=601"), 403, MISMATCH),
        ("another key", good.replace("/uploads/k?", "/uploads/l?"), 403, MISMATCH),
        ("an unsigned header", with(&good, "x-amz-meta-a: 1"), 403, "AccessDenied"),
        ("another spelling", good.replace("?X-Amz", "?X-Amz-Signatur%65=0&X-Amz"), 403, MISMATCH),
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
    ];
    all_refused(&backend, &gateway, &good, attacks).await;
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
    let answer = Client::connect(&gateway).await.raw(forwarded.as_bytes(), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, MISMATCH), "a proxy not trusted");
    let trusting = Setup::new(&backend, backend.s3.address)
        .env("MIZUCHI__SERVER__TRUSTED_PROXIES", "127.0.0.0/8")
        .start()
        .await;
    let mut client = Client::connect(&trusting).await;
    assert_eq!(client.raw(forwarded.as_bytes(), b"x").await.status, 200);
}

/// "X-Forwarded-For counts only from configured proxies."
#[tokio::test]
async fn the_client_s_address_is_believed_from_trusted_proxies_only() {
    let backend = Backend::start().await;
    for (trusted, client) in
        [("192.0.2.0/24", "client=127.0.0.1 "), ("127.0.0.0/8", "client=192.0.2.7 ")]
    {
        let gateway = Setup::new(&backend, backend.s3.address)
            .env("MIZUCHI__SERVER__TRUSTED_PROXIES", trusted)
            .start()
            .await;
        let request = Request::put("k", 1).header("x-forwarded-for", "10.1.1.1, 192.0.2.7");
        assert_eq!(Client::connect(&gateway).await.send(request, b"x").await.status, 200);
        gateway.log_with(client).await;
    }
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
    let log = gateway.log_with("path=\"/uploads/k\"").await;
    let signature = &head[head.find("X-Amz-Signature=").unwrap() + 16..][..64];
    for secret in [SECRET_KEY, &backend.s3.secret_key, signature] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

/// "Over-long → 400 KeyTooLongError"; `..` and `//` are just characters.
#[tokio::test]
async fn keys_are_bounded() {
    let (backend, gateway) = pair().await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(Request::put(&"k".repeat(1025), 1), b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "KeyTooLongError"));
    assert_eq!(backend.objects(), Vec::<String>::new());
}
