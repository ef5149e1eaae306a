//! security.md, "JWT": tokens over a real socket, and what each attack comes to. None of them may
//! leave an object.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{
    Issuer, Mode, Signing, bearer, claims, published, settings, signed_as, token, unsigned,
};
use crate::support::payload;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use sha2::Digest as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ISS: &str = "https://id.example.com";
const SHARED: &str = "https://shared.example.com";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A backend, a gateway with this `auth.jwt`, and a bit of both.
async fn with_jwt(jwt: &Value) -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).bucket(&settings(jwt)).start().await;
    (backend, gateway)
}

/// One issuer with a public key in the settings.
fn fixed(signing: &Signing, algorithms: &[&str]) -> Value {
    json!({"issuer": ISS, "algorithms": algorithms, "audience": "mizuchi",
           "public_key": signing.pem})
}

fn shared() -> Value {
    json!({"issuer": SHARED, "algorithms": ["HS256", "HS384", "HS512"], "audience": "mizuchi",
           "secret": SECRET})
}

async fn put(gateway: &Gateway, key: &str, token: &str, body: &[u8]) -> (u16, String) {
    let answer =
        Client::connect(gateway).await.raw(&bearer("PUT", key, token, body.len()), body).await;
    (answer.status, answer.code())
}

/// Waits until the issuer's keys have come.
async fn until_taken(gateway: &Gateway, token: &str) {
    crate::support::eventually("the token is taken", async || {
        put(gateway, "first", token, b"").await.0 == 200
    })
    .await;
}

fn with(mut value: Value, changes: Value) -> Value {
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(name)),
            change => value[name] = change.clone(),
        }
    }
    value
}

#[tokio::test]
async fn all_algorithms_upload_objects_and_parts() {
    let keys =
        [Signing::rsa("rsa"), Signing::p256("p256"), Signing::p384("p384"), Signing::ed25519("ed")];
    let issuer = Issuer::start(Mode::Keys(keys.iter().map(|key| key.jwk.clone()).collect())).await;
    let all = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    let jwt = json!({"issuers": [published(ISS, &issuer.url(), &all), shared()]});
    let (backend, gateway) = with_jwt(&jwt).await;
    let [rsa, p256, p384, ed] = &keys;
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let hs = |name: &str| token(&json!({"alg": name}), &claims(SHARED), &secret);
    let mut tokens: Vec<(&str, String)> =
        ["HS256", "HS384", "HS512"].into_iter().map(|name| (name, hs(name))).collect();
    for name in all {
        let key = match name {
            "ES256" => p256,
            "ES384" => p384,
            "EdDSA" => ed,
            _ => rsa,
        };
        tokens.push((name, key.sign(name.parse().unwrap(), &claims(ISS))));
    }
    assert_eq!(tokens.len(), 12);
    until_taken(&gateway, &tokens[3].1).await;
    for (name, token) in &tokens {
        let body = payload(100_000);
        assert_eq!(put(&gateway, name, token, &body).await, (200, String::new()), "{name}");
        assert!(backend.object(name).unwrap() == body, "{name}");

        let key = format!("parts-{name}");
        let mut client = Client::connect(&gateway).await;
        let created = client.raw(&bearer("POST", &format!("{key}?uploads"), token, 0), b"").await;
        let id = created.element("UploadId").unwrap();
        let target = format!("{key}?partNumber=1&uploadId={id}");
        let part = client.raw(&bearer("PUT", &target, token, body.len()), &body).await;
        assert_eq!(part.status, 200, "{name}: {}", part.text());
        let etag = part.header("etag").unwrap();
        let document = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>\
             </CompleteMultipartUpload>"
        );
        let target = format!("{key}?uploadId={id}");
        let complete = bearer("POST", &target, token, document.len());
        let completed = client.raw(&complete, document.as_bytes()).await;
        assert_eq!(completed.status, 200, "{name}: {}", completed.text());
        assert!(backend.object(&key).unwrap() == body, "{name}");
    }
    assert_eq!(backend.open_uploads(), 0);
    let log = gateway.log_with("operation=CompleteMultipartUpload").await;
    assert!(log.contains("principal=\"ann\""), "{log}");
    let allowed = "mizuchi_auth_attempts_total{method=\"jwt\",result=\"allowed\"}";
    assert!(gateway.metric(allowed).await >= 48.0);
    gateway.settled().await;
}

/// Every row of security.md's table, and the ones beside them.
#[tokio::test]
async fn every_attack_is_refused_and_leaves_no_object() {
    let (own, stranger) = (Signing::rsa("own"), Signing::rsa("own"));
    let required = json!({"required_claims": {"groups": ["uploaders", "admins"]}});
    let elsewhere = Issuer::start(Mode::Keys(vec![stranger.jwk.clone()])).await;
    let jwt = json!({"issuers": [fixed(&own, &["RS256", "PS256"]), shared(),
        with(json!({"issuer": "strict", "algorithms": ["RS256"], "audience": "mizuchi",
                    "public_key": own.pem}), required)]});
    let (backend, gateway) = with_jwt(&jwt).await;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let rs = Algorithm::RS256;
    let good = own.sign(rs, &claims(ISS));
    let changed = |changes| own.sign(rs, &with(claims(ISS), changes));
    let header = |changes, by: &Signing| {
        token(&with(json!({"alg": "RS256", "kid": "own"}), changes), &claims(ISS), &by.private)
    };
    let (message, _) = good.rsplit_once('.').unwrap();
    let (_, payload) = message.split_once('.').unwrap();
    let unsigned_as = |alg: &str| {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg }).to_string());
        format!("{header}.{payload}.")
    };
    let by_public_key = |bytes: &[u8]| {
        let key = EncodingKey::from_secret(bytes);
        signed_as(&json!({"alg": "HS256"}), &claims(ISS), &key, Algorithm::HS256)
    };
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let place = elsewhere.url();
    let (denied, invalid) = ((403, "AccessDenied"), (400, "InvalidToken"));
    let attacks = vec![
        ("alg none", unsigned_as("none"), denied),
        ("alg NONE", unsigned_as("NONE"), denied),
        ("no signature", format!("{message}."), denied),
        ("HS256 by the public key", by_public_key(own.pem.as_bytes()), denied),
        ("HS256 by nothing", by_public_key(b""), denied),
        ("an algorithm that is not pinned", own.sign(Algorithm::RS512, &claims(ISS)), denied),
        (
            "the header says another algorithm",
            signed_as(&json!({"alg": "PS256"}), &claims(ISS), &own.private, rs),
            denied,
        ),
        ("another key", stranger.sign(rs, &claims(ISS)), denied),
        ("jku", header(json!({"jku": place}), &stranger), denied),
        ("x5u", header(json!({"x5u": place}), &stranger), denied),
        ("jwk", header(json!({"jwk": stranger.jwk}), &stranger), denied),
        ("crit", header(json!({"crit": ["exp"]}), &own), denied),
        (
            "altered claims",
            good.replace(payload, &URL_SAFE_NO_PAD.encode(claims(ISS).to_string() + " ")),
            denied,
        ),
        ("another issuer's name", token(&json!({"alg": "HS256"}), &claims(ISS), &secret), denied),
        ("an unknown issuer", changed(json!({"iss": "https://evil.example.com"})), denied),
        ("no issuer", changed(json!({ "iss": null })), denied),
        ("another audience", changed(json!({"aud": ["other"]})), denied),
        ("no audience", changed(json!({ "aud": null })), denied),
        ("no sub", changed(json!({ "sub": null })), denied),
        ("sub is no text", changed(json!({"sub": 7})), denied),
        ("sub has a line break", changed(json!({"sub": "a\nb"})), denied),
        ("not valid yet", changed(json!({"nbf": now + 3600})), denied),
        ("required claims are missing", changed(json!({"iss": "strict"})), denied),
        (
            "required claims differ",
            changed(json!({"iss": "strict", "groups": ["readers"]})),
            denied,
        ),
        ("exp is text", changed(json!({"exp": (now + 300).to_string()})), invalid),
        ("nbf is text", changed(json!({"nbf": "0"})), invalid),
        ("no exp", changed(json!({ "exp": null })), invalid),
        ("expired", changed(json!({"exp": now - 31})), (400, "ExpiredToken")),
        ("no token at all", "x".to_owned(), invalid),
        ("four parts", format!("{good}.x"), invalid),
        ("too long", format!("{good}{}", "A".repeat(8192)), invalid),
    ];
    for (name, token, (status, code)) in attacks {
        for target in ["k", "k?uploads", "k?partNumber=1&uploadId=x", "k?uploadId=x"] {
            let method = if target.ends_with("uploads") { "POST" } else { "PUT" };
            let method = if target == "k?uploadId=x" { "DELETE" } else { method };
            let body: &[u8] = if method == "PUT" { b"x" } else { b"" };
            let head = bearer(method, target, &token, body.len());
            let answer = Client::connect(&gateway).await.raw(&head, body).await;
            let text = answer.text();
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{name}: {text}");
            if code == "AccessDenied" {
                let message = answer.element("Message").unwrap();
                assert_eq!(message, "Access Denied", "{name}: no more is told");
            }
        }
        assert_eq!(backend.objects(), Vec::<String>::new(), "{name}");
        assert_eq!(backend.open_uploads(), 0, "{name}");
    }
    assert_eq!(elsewhere.asked(), 0, "what a token names is not asked");
    let member = changed(json!({"iss": "strict", "groups": ["readers", "admins"]}));
    for (key, token) in [("good", good), ("late", changed(json!({"exp": now - 5}))), ("in", member)]
    {
        assert_eq!(put(&gateway, key, &token, b"x").await, (200, String::new()), "{key}");
    }
    let refused = "mizuchi_auth_attempts_total{method=\"jwt\",result=\"denied\"}";
    assert!(gateway.metric(refused).await >= 31.0 * 4.0);
    gateway.settled().await;
}

/// "JWT and anonymous → absent, hash, UNSIGNED-PAYLOAD, unsigned trailer. All other cells: 400
/// InvalidRequest."
#[tokio::test]
async fn every_cell_of_the_payload_table() {
    let own = Signing::ed25519("own");
    let (backend, gateway) = with_jwt(&json!({"issuers": [fixed(&own, &["EdDSA"])]})).await;
    let token = own.sign(Algorithm::EdDSA, &claims(ISS));
    let hash = |body: &[u8]| {
        sha2::Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let plain = b"hello".to_vec();
    let chunked = |extension: &str, trailer: &str| {
        format!("5{extension}\r\nhello\r\n0{extension}\r\n{trailer}\r\n").into_bytes()
    };
    let signature = format!(";chunk-signature={}", "0".repeat(64));
    let sum = "x-amz-checksum-crc32:NhCmhg==\r\n";
    let trailing = "x-amz-trailer: x-amz-checksum-crc32\r\n";
    let signed = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
    let cells = [
        (String::new(), "", plain.clone(), 200, ""),
        (hash(b"hello"), "", plain.clone(), 200, ""),
        (hash(b"other"), "", plain.clone(), 400, "XAmzContentSHA256Mismatch"),
        ("UNSIGNED-PAYLOAD".into(), "", plain, 200, ""),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER".into(), trailing, chunked("", sum), 200, ""),
        (
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER".into(),
            trailing,
            chunked("", "x-amz-checksum-crc32:AAAAAA==\r\n"),
            400,
            "BadDigest",
        ),
        (signed.into(), "", chunked(&signature, ""), 400, "InvalidRequest"),
        (format!("{signed}-TRAILER"), trailing, chunked(&signature, sum), 400, "InvalidRequest"),
    ];
    for (position, (mode, lines, body, status, code)) in cells.into_iter().enumerate() {
        let mut lines = format!("Authorization: Bearer {token}\r\n{lines}");
        if !mode.is_empty() {
            lines += &format!("x-amz-content-sha256: {mode}\r\n");
        }
        if mode.starts_with("STREAMING") {
            lines += "x-amz-decoded-content-length: 5\r\ncontent-encoding: aws-chunked\r\n";
        }
        let key = format!("cell-{position}");
        let head = unsigned("PUT", &key, &lines, body.len());
        let answer = Client::connect(&gateway).await.raw(&head, &body).await;
        let text = answer.text();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{mode}: {text}");
        let stored = backend.object(&key);
        assert_eq!(stored.as_deref(), (status == 200).then_some(b"hello".as_slice()), "{mode}");
    }
    gateway.settled().await;
}

/// A backend that keeps what it is sent, and takes everything.
async fn recorder() -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let wire: Arc<Mutex<String>> = Arc::default();
    let kept = Arc::clone(&wire);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut buffer = [0; 16384];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    kept.lock().unwrap().push_str(&text);
                    if text.ends_with("hello") {
                        let answer = b"HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\n\r\n";
                        let _ = socket.write_all(answer).await;
                    }
                }
            });
        }
    });
    (address, wire)
}

/// A token counts in each place that is named, goes no further, and shows in no log.
#[tokio::test]
async fn a_token_is_taken_from_its_place_and_kept_there() {
    let (own, (address, wire)) = (Signing::ed25519("own"), recorder().await);
    let jwt = json!({
        "token_sources": [
            {"type": "bearer"}, {"type": "header", "name": "X-Access-Token", "prefix": "JWT "},
            {"type": "query", "name": "access_token"}, {"type": "cookie", "name": "session"},
        ],
        "cookie_origins": ["https://app.example.com"],
        "issuers": [fixed(&own, &["EdDSA"])],
    });
    let gateway = Setup::over(address)
        .bucket(&settings(&jwt))
        .env("MIZUCHI__LOGGING__LEVEL", "trace")
        .start()
        .await;
    let token = own.sign(Algorithm::EdDSA, &claims(ISS));
    let authorization = format!("Authorization: Bearer {token}\r\n");
    let header = format!("X-Access-Token: jwt {token}\r\n");
    let cookie = format!("Cookie: theme=dark; session={token}\r\n");
    let origin = "Origin: https://app.example.com\r\n";
    let sigv4 = "Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, \
                 SignedHeaders=host, Signature=00\r\n";
    let query = format!("?access_token={token}");
    let two = (400, "InvalidArgument");
    for (name, query, lines, (status, code)) in [
        ("bearer", "", authorization.clone(), (200, "")),
        ("header", "", header.clone(), (200, "")),
        ("query", query.as_str(), String::new(), (200, "")),
        ("cookie", "", format!("{cookie}{origin}"), (200, "")),
        ("cookie without Origin", "", cookie.clone(), (403, "AccessDenied")),
        (
            "cookie of another site",
            "",
            format!("{cookie}Origin: https://evil.example.com\r\n"),
            (403, "AccessDenied"),
        ),
        ("cookie of no site", "", format!("{cookie}Origin: null\r\n"), (403, "AccessDenied")),
        ("two tokens", "", format!("{authorization}{header}"), two),
        ("two of one kind", "", format!("{authorization}{authorization}"), two),
        ("token and signature", "", format!("{header}{sigv4}"), two),
        ("token in the query and signature", query.as_str(), sigv4.to_owned(), two),
        ("token and presigned", "?X-Amz-Signature=00", authorization.clone(), two),
        ("token and SigV2", "?AWSAccessKeyId=A&Signature=s", authorization.clone(), two),
        ("a token in no place", "", format!("X-Token: {token}\r\n"), (403, "AccessDenied")),
        // The parameter is this bucket's; any other is still no PutObject.
        ("another parameter", "?token=x", authorization.clone(), (501, "NotImplemented")),
    ] {
        let head = unsigned("PUT", &format!("k{query}"), &lines, 5);
        let answer = Client::connect(&gateway).await.raw(&head, b"hello").await;
        let text = answer.text();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{name}: {text}");
        assert!(!text.contains(&token), "{name}: {text}");
    }
    let signature = token.rsplit('.').next().unwrap();
    let sent = wire.lock().unwrap().clone();
    assert_eq!(sent.matches("PUT /store/k HTTP/1.1").count(), 4, "{sent}");
    for word in [signature, "access_token", "x-access-token", "X-Access-Token", "ookie"] {
        assert!(!sent.contains(word), "{word} went to the backend: {sent}");
    }
    let log = gateway.log_with("operation=PutObject").await;
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    assert!(!log.contains(signature) && !log.contains(&own.pem[40..80]), "{log}");
}

/// A bucket whose settings name no parameter of its own refuses it.
#[tokio::test]
async fn a_parameter_is_of_its_bucket_alone() {
    let own = Signing::ed25519("own");
    let (backend, gateway) = with_jwt(&json!({"issuers": [fixed(&own, &["EdDSA"])]})).await;
    let token = own.sign(Algorithm::EdDSA, &claims(ISS));
    let head = unsigned("PUT", &format!("k?access_token={token}"), "", 1);
    let answer = Client::connect(&gateway).await.raw(&head, b"x").await;
    assert_eq!((answer.status, answer.code().as_str()), (501, "NotImplemented"));
    assert!(backend.objects().is_empty());
    // What signs goes on as ever.
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.send(Request::put("k", 1), b"x").await.status, 200);
}

/// What a token is good for is its issuer's `allow`; an uploadId is of no use to another principal.
#[tokio::test]
async fn a_token_is_good_for_what_its_issuer_s_is() {
    let own = Signing::ed25519("own");
    let allow = json!({"allow": {"key_prefixes": ["home/{principal}/"]}});
    let jwt = json!({"issuers": [with(fixed(&own, &["EdDSA"]), allow)]});
    let (backend, gateway) = with_jwt(&jwt).await;
    let of = |sub: &str| own.sign(Algorithm::EdDSA, &with(claims(ISS), json!({ "sub": sub })));
    let (ann, bob) = (of("ann"), of("bob"));
    assert_eq!(put(&gateway, "home/ann/k", &ann, b"x").await.0, 200);
    for (key, token) in [("home/ann/k", &bob), ("k", &ann), ("home/a/b/k", &of("a/b"))] {
        let denied = (403, "AccessDenied".to_owned());
        assert_eq!(put(&gateway, key, token, b"y").await, denied, "{key}");
    }
    assert_eq!(backend.object("home/ann/k").unwrap(), b"x");
    // With the same rights, but not the same name, or not of the same issuer.
    let jwt = json!({"issuers": [fixed(&own, &["EdDSA"]), shared()]});
    let (backend, gateway) = with_jwt(&jwt).await;
    let mut client = Client::connect(&gateway).await;
    let created = client.raw(&bearer("POST", "k?uploads", &ann, 0), b"").await;
    let id = created.element("UploadId").unwrap();
    let part = format!("k?partNumber=1&uploadId={id}");
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let other_ann = token(&json!({"alg": "HS256"}), &claims(SHARED), &secret);
    for other in [&bob, &other_ann] {
        assert_eq!(put(&gateway, &part, other, b"x").await, (404, "NoSuchUpload".to_owned()));
    }
    assert_eq!(put(&gateway, "k", &other_ann, b"x").await.0, 200, "it is let in");
    assert_eq!(put(&gateway, &part, &ann, b"x").await.0, 200);
    assert_eq!(backend.open_uploads(), 1);
}

/// Bad settings: exit 64, all errors at once, and no secret among them.
#[test]
fn bad_settings_are_all_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.yaml");
    let issuer = |name: &str, keys: &str| format!("{{issuer: {name}, audience: a, {keys}}}");
    let issuers = [
        issuer("a", "algorithms: [RS256], public_key_file: /no/such/file.pem"),
        issuer("b", "algorithms: [HS256, RS256], secret: canary-canary-canary-canary-canary"),
        issuer("c", "algorithms: [RS256], secret: canary-canary-canary-canary-canary"),
        issuer("d", "algorithms: [RS256], jwks_url: 'http://id.example.com/keys'"),
        issuer("e", "algorithms: [none], jwks_url: 'https://id.example.com/keys'"),
        issuer("e", "algorithms: [RS256]"),
    ];
    let text = format!(
        "auth:\n  jwt:\n    token_sources: [{{type: cookie, name: s}}]\n    issuers: [{}]\n\
         buckets:\n  - {{name: uploads, s3: {{endpoint: embedded}}}}\n",
        issuers.join(", ")
    );
    std::fs::write(&file, text).unwrap();
    for command in ["check", "serve"] {
        let output = Command::new(env!("CARGO_BIN_EXE_mizuchi"))
            .arg(command)
            .env("MIZUCHI_SETTINGS", &file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64));
        let text = String::from_utf8(output.stderr).unwrap();
        for key in [
            "auth.jwt.cookie_origins: must name",
            "auth.jwt.issuers[0].public_key_file: cannot be read",
            "auth.jwt.issuers[1].algorithms: HS256 needs a secret and RS256 a public key",
            "auth.jwt.issuers[2].algorithms: RS256 needs a public key",
            "auth.jwt.issuers[3].jwks_url: must begin with https:// (http:// needs allow_insecure",
            "auth.jwt.issuers[4].algorithms[0]: must be one of HS256",
            "auth.jwt.issuers[5].jwks_url: must be set, or one of secret",
        ] {
            assert!(text.lines().any(|line| line.starts_with(key)), "{key} is missing:\n{text}");
        }
        assert!(!text.contains("canary"), "{text}");
    }
}
