//! TLS on the clients' listener, HTTP/1.1 in it: the tap over a session, client certificates,
//! certificates that change.

use crate::support::authority::{Authority, Pair};
use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request, signer};
use crate::support::gateway::{Gateway, Setup};
use crate::support::streamed::Streamed;
use crate::support::{eventually, payload};
use mizuchi_actors::sigv4::PayloadHash;
use rcgen::SanType;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn start(change: impl FnOnce(Setup, &Authority) -> Setup) -> (Backend, Authority, Gateway) {
    let backend = Backend::start().await;
    let authority = Authority::new();
    let setup = authority.serve(Setup::new(&backend, backend.s3.address));
    let gateway = change(setup, &authority).start().await;
    (backend, authority, gateway)
}

async fn plain() -> (Backend, Authority, Gateway) {
    start(|setup, _| setup).await
}

/// A PUT that nobody signed.
fn unsigned(gateway: &Gateway, key: &str, body: &str) -> String {
    format!(
        "PUT /uploads/{key} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
        gateway.address,
        body.len()
    )
}

/// "TLS 1.2 and 1.3": bodies of all sizes and framings, one after the other on one connection.
#[tokio::test]
async fn bodies_of_all_sizes_and_framings_arrive() {
    let (backend, authority, gateway) = plain().await;
    for version in [2, 3] {
        let mut client = authority.trust().only(version).connect(&gateway).await;
        for length in [0, 1, 2000, 16 << 10, 100_000, 64 << 20] {
            let key = format!("size-{version}-{length}");
            let body = payload(length);
            let answer = client.send(Request::put(&key, length), &body).await;
            assert_eq!(answer.status, 200, "{key}: {}", answer.text());
            assert!(backend.object(&key).unwrap() == body, "{key}: other bytes");
        }
        let body = payload(300_000);
        let mut wire = Vec::new();
        for chunk in body.chunks(70_000) {
            wire.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend(chunk);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        let chunked = Request { length: None, ..Request::put("chunked", 0) }
            .header("transfer-encoding", "chunked");
        let answer = client.send(chunked, &wire).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(backend.object("chunked").unwrap() == body);
        let streamed = Streamed::new("streamed", PayloadHash::SignedChunks, &body);
        let (head, wire) = streamed.wire(&gateway.address.to_string());
        assert_eq!(client.raw(&head, &wire).await.status, 200);
        assert!(backend.object("streamed").unwrap() == body);
    }
    assert_eq!(gateway.metric("mizuchi_zero_copy_bytes_total").await, 0.0);
    gateway.settled().await;
}

/// RFC 9112, 9.3.2: "A server [...] MUST send the corresponding responses in the same order": also of
/// requests that came in one record of the session, which the socket then says nothing of.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (backend, authority, gateway) = plain().await;
    let mut client = authority.trust().connect(&gateway).await;
    let mut wire = Vec::new();
    // More than one read of the tap, less than one record: the session holds the rest.
    let all = [("first", 9000), ("second", 5), ("third", 5000)];
    for (key, length) in all {
        let request = Request::put(key, length);
        wire.extend(request.sign(&client.host, &signer(), OffsetDateTime::now_utc()));
        wire.extend(payload(length));
    }
    assert!((8 << 10..16 << 10).contains(&wire.len()));
    client.socket.write_all(&wire).await.unwrap();
    client.socket.flush().await.unwrap();
    for (key, length) in all {
        let answer = client.answer(false).await;
        assert_eq!(answer.status, 200, "{key}: {}", answer.text());
        assert_eq!(backend.object(key).unwrap(), payload(length));
    }
}

/// RFC 9110, 10.1.1: the client "will wait for a 100 (Continue) response before sending".
#[tokio::test]
async fn a_client_that_waits_is_told_to_send() {
    let (backend, authority, gateway) = plain().await;
    let mut client = authority.trust().connect(&gateway).await;
    for key in ["one", "two"] {
        let request = Request::put(key, 5).header("expect", "100-continue");
        let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        assert_eq!(client.one(false).await.status, 100, "{key}");
        client.socket.write_all(b"hello").await.unwrap();
        assert_eq!(client.answer(false).await.status, 200, "{key}");
        assert_eq!(backend.object(key).unwrap(), b"hello");
    }
}

/// RFC 9112, 9.6: the answer is not lost to a reset while "the client is still sending".
#[tokio::test]
async fn a_refused_client_that_goes_on_sending_sees_its_answer() {
    let (backend, authority, gateway) = plain().await;
    for _ in 0..5 {
        let mut client = authority.trust().connect(&gateway).await;
        let body = payload(8 << 20);
        let head = Request::put("k", body.len()).sign(
            &client.host,
            &crate::support::client::signer_with("AKIATESTTESTTESTTEST", "wrong", "us-east-1"),
            OffsetDateTime::now_utc(),
        );
        let answer = client.raw(&head, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"));
        assert!(client.ends().await);
    }
    assert_eq!(backend.objects(), [""; 0]);
    gateway.settled().await;
}

/// RFC 8446, 6.1: "truncation attack": whoever cuts the connection, at any place, no object comes of
/// what is not whole.
#[tokio::test]
async fn a_body_that_is_cut_off_leaves_nothing() {
    let (backend, authority, gateway) = plain().await;
    let chunked = "8\r\ntruncate\r\n";
    for (closes, length, body) in [
        (false, Some(100), "half"),
        (true, Some(100), "half"),
        (false, None, chunked),
        (true, None, chunked),
    ] {
        let mut client = authority.trust().connect(&gateway).await;
        let mut request = Request { length, ..Request::put("cut", 0) };
        if length.is_none() {
            request = request.header("transfer-encoding", "chunked");
        }
        let head = request.sign(&client.host, &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        client.socket.write_all(body.as_bytes()).await.unwrap();
        client.socket.flush().await.unwrap();
        if closes {
            client.socket.shutdown().await.unwrap();
        }
        drop(client);
    }
    gateway.log_with("code=IncompleteBody").await;
    gateway.settled().await;
    assert_eq!(backend.objects(), [""; 0]);
    assert_eq!(backend.open_uploads(), 0);
}

/// `server.tls.min_version`, `server.tls.http2`: "HTTP/2 is offered (ALPN)".
#[tokio::test]
async fn versions_and_protocols_are_as_set() {
    let (_backend, authority, gateway) = plain().await;
    let protocol = async |trust: crate::support::authority::Trust, gateway: &Gateway| {
        let stream = trust.open(gateway.address).await.unwrap();
        stream.get_ref().1.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap())
    };
    let both = || authority.trust().protocol("http/1.1").protocol("h2");
    assert_eq!(protocol(both(), &gateway).await.as_deref(), Some("h2"));
    assert_eq!(protocol(authority.trust(), &gateway).await, None);
    let (_backend, newer, gateway) = start(|setup, _| {
        setup
            .env("MIZUCHI__SERVER__TLS__MIN_VERSION", "1.3")
            .env("MIZUCHI__SERVER__TLS__HTTP2", "false")
    })
    .await;
    let both = newer.trust().protocol("h2").protocol("http/1.1");
    assert_eq!(protocol(both, &gateway).await.as_deref(), Some("http/1.1"));
    assert!(newer.trust().only(2).open(gateway.address).await.is_err());
    assert!(newer.trust().only(3).open(gateway.address).await.is_ok());
}

/// RFC 8996: "TLS 1.1 MUST NOT be used": a ClientHello (RFC 4346, 7.4.1.2) of it is answered with
/// the alert protocol_version. What is no TLS at all is not served either.
#[tokio::test]
async fn what_is_older_or_plain_is_refused() {
    let (backend, _authority, gateway) = plain().await;
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    // signature_algorithms, without which rustls looks no further.
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    socket.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]), "{answer:?}");

    let mut client = Client::connect(&gateway).await;
    let head = unsigned(&gateway, "k", "x");
    client.socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = client.socket.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(backend.objects(), [""; 0]);
    let series = "mizuchi_tls_handshakes_failed_total{reason=\"refused\"}";
    eventually("both are counted", async || gateway.metric(series).await == 2.0).await;
}

/// `server.tls.handshake_timeout`: handshakes that stall are ended, and nobody waits for them.
#[tokio::test]
async fn stalled_handshakes_end_and_stop_nobody() {
    let (_backend, authority, gateway) =
        start(|setup, _| setup.env("MIZUCHI__SERVER__TLS__HANDSHAKE_TIMEOUT", "2s")).await;
    let mut stalled = Vec::new();
    for number in 0..200 {
        let mut socket = TcpStream::connect(gateway.address).await.unwrap();
        // Some say nothing, some stop within their first record.
        if number % 2 == 0 {
            socket.write_all(&[22, 3, 1, 1, 0, 1, 0]).await.unwrap();
        }
        stalled.push(socket);
    }
    let began = Instant::now();
    let mut client = authority.trust().connect(&gateway).await;
    assert_eq!(client.send(Request::put("k", 5), b"hello").await.status, 200);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    for mut socket in stalled {
        let mut rest = Vec::new();
        // The end, or a reset.
        let _ = socket.read_to_end(&mut rest).await;
    }
    let series = "mizuchi_tls_handshakes_failed_total{reason=\"timeout\"}";
    eventually("all are counted", async || gateway.metric(series).await == 200.0).await;
    eventually("only one connection is left", async || {
        gateway.metric("mizuchi_client_connections").await == 1.0
    })
    .await;
}

const CERTIFICATES: &str = "      client_certificates:\n        enabled: true\n        allow:\n          \
     key_prefixes: [\"home/{principal}/\"]\n";

/// A PUT with a certificate; None: there is no session to send it in.
async fn put_with(
    authority: &Authority,
    gateway: &Gateway,
    pair: Option<Pair>,
    request: &str,
) -> Option<Answer> {
    let trust = match pair {
        Some(pair) => authority.trust().with(pair),
        None => authority.trust(),
    };
    let stream = trust.open(gateway.address).await.ok()?;
    let mut client = Client::over(stream, gateway.address.to_string());
    // TLS 1.3 tells a client only after its handshake that its certificate was refused.
    let answer = client.raw(request.as_bytes(), b"").await;
    (!answer.head.is_empty()).then_some(answer)
}

/// `server.tls.client_auth: required`: none, another authority's and an expired certificate end the
/// handshake; the right one is who it names, and its `allow` holds.
#[tokio::test]
async fn a_required_certificate_is_verified_and_names_the_principal() {
    let (backend, authority, gateway) =
        start(|setup, authority| authority.ask(setup, "required").bucket(CERTIFICATES)).await;
    let request = unsigned(&gateway, "home/backup/k", "hello");
    let stranger = Authority::new();
    for (name, pair) in [
        ("none", None),
        ("another's", Some(stranger.client("backup", Vec::new(), false))),
        ("expired", Some(authority.client("backup", Vec::new(), true))),
    ] {
        let answer = put_with(&authority, &gateway, pair, &request).await;
        assert!(answer.is_none(), "{name}: {answer:?}");
    }
    assert_eq!(backend.object("home/backup/k"), None);
    let backup = || Some(authority.client("backup", Vec::new(), false));
    let answer = put_with(&authority, &gateway, backup(), &request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(backend.object("home/backup/k").unwrap(), b"hello");
    gateway.log_with("principal=\"backup\" operation=PutObject").await;
    let other = unsigned(&gateway, "home/other/k", "hello");
    let answer = put_with(&authority, &gateway, backup(), &other).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
    let series = "mizuchi_auth_attempts_total{method=\"certificate\",result=\"allowed\"}";
    assert_eq!(gateway.metric(series).await, 2.0);
}

/// `client_auth: optional`: who has none signs. A request that claims another credential is held to
/// that one, and a certificate whose name is ambiguous is nobody's.
#[tokio::test]
async fn an_optional_certificate_is_one_credential_of_several() {
    let (backend, authority, gateway) =
        start(|setup, authority| authority.ask(setup, "optional").bucket(CERTIFICATES)).await;
    let mut client = authority.trust().connect(&gateway).await;
    assert_eq!(client.send(Request::put("k", 5), b"hello").await.status, 200);
    let request = unsigned(&gateway, "home/backup/k", "hello");
    let answer = put_with(&authority, &gateway, None, &request).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));

    let backup = || authority.client("backup", Vec::new(), false);
    let mut client = authority.trust().with(backup()).connect(&gateway).await;
    // As the key's principal, to whom any key is open.
    assert_eq!(client.send(Request::put("signed", 5), b"hello").await.status, 200);
    gateway.log_with("principal=\"tester\" operation=PutObject path=\"/uploads/signed\"").await;
    for claim in ["?X-Amz-Signature=0", "?X-Amz-Algorithm=AWS4-HMAC-SHA256", "?AWSAccessKeyId=a"] {
        let request = unsigned(&gateway, &format!("home/backup/claimed{claim}"), "hello");
        let answer = put_with(&authority, &gateway, Some(backup()), &request).await.unwrap();
        assert!([400, 403].contains(&answer.status), "{claim}: {}", answer.text());
    }
    let wrong = request.replace("\r\n\r\n", "\r\nAuthorization: Basic eA==\r\n\r\n");
    let answer = put_with(&authority, &gateway, Some(backup()), &wrong).await.unwrap();
    assert_eq!(answer.code(), "InvalidRequest");
    for name in ["", &"x".repeat(64).repeat(5), "a\u{7}b"] {
        let pair = authority.client(name, Vec::new(), false);
        let answer = put_with(&authority, &gateway, Some(pair), &request).await.unwrap();
        assert_eq!(answer.code(), "AccessDenied", "{name:?}");
    }
    assert_eq!(backend.object("home/backup/k"), None);
    assert_eq!(backend.object("home/backup/claimed"), None);
    let answer = put_with(&authority, &gateway, Some(backup()), &request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A browser shows its certificate whichever page it is that asks (cross-site request forgery): a
/// request with an Origin counts only where a CORS rule names that origin, and `*` names none.
#[tokio::test]
async fn a_page_cannot_use_its_visitor_s_certificate() {
    let (backend, authority, gateway) = start(|setup, authority| {
        let cors = "    cors:\n      - allowed_origins: [\"https://app.test\"]\n      - \
                    allowed_origins: [\"*\"]\n";
        authority.ask(setup, "required").bucket(CERTIFICATES).bucket(cors)
    })
    .await;
    for (origin, status) in [("https://evil.test", 403), ("null", 403), ("https://app.test", 200)] {
        let request = unsigned(&gateway, "home/backup/k", "hello").replacen(
            "\r\n",
            &format!("\r\nOrigin: {origin}\r\n"),
            1,
        );
        let pair = Some(authority.client("backup", Vec::new(), false));
        let answer = put_with(&authority, &gateway, pair, &request).await.unwrap();
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
        assert_eq!(backend.object("home/backup/k").is_some(), status == 200);
    }
}

/// "Names ambiguous: refuse": two URIs in one certificate are no principal, one is.
#[tokio::test]
async fn two_names_of_the_kind_are_nobody() {
    let (_backend, authority, gateway) = start(|setup, authority| {
        authority
            .ask(setup, "required")
            .bucket("      client_certificates: {enabled: true, principal: san_uri}\n")
    })
    .await;
    let uri = |name: &str| SanType::URI(format!("spiffe://test/{name}").try_into().unwrap());
    let request = unsigned(&gateway, "k", "hello");
    for (names, status) in
        [(vec![uri("a")], 200), (vec![uri("a"), uri("b")], 403), (Vec::new(), 403)]
    {
        let pair = authority.client("cn", names, false);
        let answer = put_with(&authority, &gateway, Some(pair), &request).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    gateway.log_with("principal=\"spiffe://test/a\"").await;
}

/// "New connections get what is new, and files that cannot be used change nothing": a connection goes
/// on with what it began with.
#[tokio::test]
async fn certificates_are_read_again_when_they_change() {
    let (_backend, authority, gateway) =
        start(|setup, _| setup.env("MIZUCHI__SERVER__RELOAD_INTERVAL", "1s")).await;
    let shown = async || {
        let stream = authority.trust().open(gateway.address).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    let mut before = authority.trust().connect(&gateway).await;
    assert_eq!(before.send(Request::put("k", 5), b"hello").await.status, 200);

    authority.install(&authority.server());
    eventually("the new certificate is shown", async || shown().await != first).await;
    let second = shown().await;
    assert_eq!(before.send(Request::put("k", 5), b"hello").await.status, 200);

    let failed = "mizuchi_reloads_total{result=\"refused\",what=\"server.tls\"}";
    std::fs::write(authority.path("server.pem"), "broken").unwrap();
    gateway.signal("HUP");
    eventually("the broken file is noticed", async || gateway.metric(failed).await > 0.0).await;
    gateway.log_with("holds no certificate").await;
    assert!(shown().await == second, "the broken file changed something");
    // A certificate whose key is another's.
    std::fs::write(authority.path("server.pem"), authority.server().cert).unwrap();
    gateway.log_with("is not the key of the certificate").await;
    assert!(shown().await == second);
    assert_eq!(before.send(Request::put("k", 5), b"hello").await.status, 200);

    authority.install(&authority.server());
    eventually("a mended pair is shown", async || {
        let now = shown().await;
        now != first && now != second
    })
    .await;
    assert!(
        gateway.metric("mizuchi_reloads_total{result=\"loaded\",what=\"server.tls\"}").await >= 2.0
    );
}

/// "Accept no more, finish what is in flight within the grace": also in a session, and one that has
/// only begun its handshake keeps nobody.
#[tokio::test]
async fn a_drain_lets_uploads_end() {
    let (backend, authority, mut gateway) = plain().await;
    let _stalled = TcpStream::connect(gateway.address).await.unwrap();
    let mut client = authority.trust().connect(&gateway).await;
    let head = Request::put("k", 10).sign(&client.host, &signer(), OffsetDateTime::now_utc());
    client.socket.write_all(&head).await.unwrap();
    client.socket.write_all(b"hello").await.unwrap();
    eventually("the upload has begun", async || {
        gateway.metric("mizuchi_uploads_in_flight").await == 1.0
    })
    .await;
    gateway.signal("TERM");
    gateway.log_with("SIGTERM: draining").await;
    client.socket.write_all(b"world").await.unwrap();
    assert_eq!(client.answer(false).await.status, 200);
    assert!(client.ends().await);
    assert!(gateway.ended().await.success());
    assert_eq!(backend.object("k").unwrap(), b"helloworld");
}
