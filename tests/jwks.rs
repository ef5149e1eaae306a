//! The keys that issuers publish: rotated under load, gone, hanging, and made up by attackers.

use crate::support::backend::Backend;
use crate::support::client::{Client, Request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{
    Issuer, Mode, Signing, bearer, claims, published, settings, token, url,
};
use crate::support::tls::Terminator;
use jsonwebtoken::Algorithm::{self, EdDSA};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ISS: &str = "https://id.example.com";

async fn start(issuers: &[Value]) -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let jwt = settings(&json!({ "issuers": issuers }));
    let gateway = Setup::new(&backend, backend.s3.address).bucket(&jwt).start().await;
    (backend, gateway)
}

async fn put(gateway: &Gateway, key: &str, token: &str) -> (u16, String) {
    let answer = Client::connect(gateway).await.raw(&bearer("PUT", key, token, 1), b"x").await;
    (answer.status, answer.code())
}

async fn until(gateway: &Gateway, token: &str, status: u16) {
    eventually(&format!("the token is answered {status}"), async || {
        put(gateway, "first", token).await.0 == status
    })
    .await;
}

/// A request that is signed is let in.
async fn signed_passes(gateway: &Gateway) {
    let answer = Client::connect(gateway).await.send(Request::put("signed", 1), b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Keys are rotated under a stream of uploads, and none of them fails: the old key is good until the
/// issuer drops it, the new one from its first token on. Then the old one is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_without_a_failure() {
    let (old, new, newer) =
        (Signing::ed25519("old"), Signing::ed25519("new"), Signing::ed25519("newer"));
    let issuer = Issuer::start(Mode::Keys(vec![old.jwk.clone()])).await;
    let (_backend, gateway) = start(&[published(ISS, &issuer.url(), &["EdDSA"])]).await;
    let sign = |key: &Signing| key.sign(EdDSA, &claims(ISS));
    until(&gateway, &sign(&old), 200).await;
    assert_eq!(issuer.asked(), 1);

    let current = Arc::new(Mutex::new(old.clone()));
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut streams = tokio::task::JoinSet::new();
    for stream in 0..4 {
        let (current, stop, done) = (Arc::clone(&current), Arc::clone(&stop), Arc::clone(&done));
        let mut client = Client::connect(&gateway).await;
        streams.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let token = current.lock().unwrap().sign(EdDSA, &claims(ISS));
                let head = bearer("PUT", &format!("stream-{stream}"), &token, 1);
                let answer = client.raw(&head, b"x").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let more = async |count: usize| {
        let goal = done.load(Ordering::Relaxed) + count;
        eventually("the streams go on", async || done.load(Ordering::Relaxed) >= goal).await;
    };
    more(50).await;
    issuer.set(Mode::Keys(vec![old.jwk.clone(), new.jwk.clone()]));
    more(50).await;
    *current.lock().unwrap() = new.clone();
    more(50).await;
    assert_eq!(put(&gateway, "old", &sign(&old)).await.0, 200, "it is still published");
    assert_eq!(issuer.asked(), 2, "one fetch for all that met the new key");
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = streams.join_next().await {
        ended.unwrap();
    }
    // The next unknown key brings the set without the old one, when its turn has come.
    issuer.set(Mode::Keys(vec![new.jwk.clone(), newer.jwk.clone()]));
    until(&gateway, &sign(&newer), 200).await;
    assert_eq!(put(&gateway, "old", &sign(&old)).await, (403, "AccessDenied".to_owned()));
    assert_eq!(put(&gateway, "new", &sign(&new)).await.0, 200);
    assert_eq!(issuer.asked(), 3);
    gateway.settled().await;
}

/// "unknown `kid`: refetch JWKS: rate-limited, single-flight; then deny".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_keys_costs_the_issuer_next_to_nothing() {
    let own = Signing::ed25519("own");
    let issuer = Issuer::start(Mode::Keys(vec![own.jwk.clone()])).await;
    let (backend, gateway) = start(&[published(ISS, &issuer.url(), &["EdDSA"])]).await;
    let good = own.sign(EdDSA, &claims(ISS));
    until(&gateway, &good, 200).await;
    let started = Instant::now();
    let mut flood = tokio::task::JoinSet::new();
    for stream in 0..8 {
        let (own, mut client) = (own.clone(), Client::connect(&gateway).await);
        flood.spawn(async move {
            for number in 0..100 {
                let header = json!({"alg": "EdDSA", "kid": format!("made-up-{stream}-{number}")});
                let token = token(&header, &claims(ISS), &own.private);
                let answer = client.raw(&bearer("PUT", "flood", &token, 0), b"").await;
                assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
            }
        });
    }
    for _ in 0..20 {
        assert_eq!(put(&gateway, "good", &good).await.0, 200);
        signed_passes(&gateway).await;
    }
    while let Some(ended) = flood.join_next().await {
        ended.unwrap();
    }
    let most = 2 + started.elapsed().as_secs() as usize / 10;
    assert!((2..=most).contains(&issuer.asked()), "{} of {most}", issuer.asked());
    assert!(backend.object("flood").is_none());
    gateway.settled().await;
}

/// "An issuer that cannot be reached never ends the process": its tokens are 503 until it is there,
/// and everything else goes on.
#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_is_found_later() {
    let own = Signing::ed25519("own");
    let address = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let other = Signing::p256("other");
    let fixed = json!({"issuer": "fixed", "algorithms": ["ES256"], "audience": "mizuchi",
                       "public_key": other.pem});
    let (backend, gateway) = start(&[published(ISS, &url(address), &["EdDSA"]), fixed]).await;
    let token = own.sign(EdDSA, &claims(ISS));
    gateway.log_with("the issuer's keys could not be fetched: no connection").await;
    assert_eq!(put(&gateway, "k", &token).await, (503, "ServiceUnavailable".to_owned()));
    assert!(backend.object("k").is_none());
    signed_passes(&gateway).await;
    let fixed = other.sign(Algorithm::ES256, &claims("fixed"));
    assert_eq!(put(&gateway, "fixed", &fixed).await.0, 200);
    let _issuer = Issuer::at(address, Mode::Keys(vec![own.jwk.clone()])).await;
    until(&gateway, &token, 200).await;
    assert!(gateway.metric("mizuchi_jwks_fetches_total{result=\"failed\"}").await >= 1.0);
    assert_eq!(gateway.metric("mizuchi_jwks_fetches_total{result=\"fetched\"}").await, 1.0);
}

/// "JWKS address: redirects, private addresses by DNS: static issuer list, no redirects, size and
/// time caps": whatever an issuer answers, only a plain key set is one.
#[tokio::test]
async fn no_other_answer_lets_anybody_in() {
    let own = Signing::ed25519("own");
    let keys = json!({"keys": [own.jwk]}).to_string();
    let target = Issuer::start(Mode::Keys(vec![own.jwk.clone()])).await;
    let secret = json!({"kty": "oct", "kid": "own", "alg": "EdDSA", "k": own.jwk["x"]});
    let modes = [
        ("redirect", Mode::Redirect(target.url())),
        ("garbage", Mode::Answer(200, "<html>".into())),
        ("an error", Mode::Answer(500, keys.clone())),
        ("not found", Mode::Answer(404, keys.clone())),
        ("oversized", Mode::Answer(200, keys.clone() + &" ".repeat(1 << 20))),
        ("too many", Mode::Keys(vec![own.jwk.clone(); 65])),
        ("gone", Mode::Down),
        ("hanging", Mode::Hanging),
    ];
    let (mut issuers, mut running) = (Vec::new(), Vec::new());
    for (name, mode) in modes {
        let issuer = Issuer::start(mode).await;
        issuers.push(published(name, &issuer.url(), &["EdDSA"]));
        running.push((name, issuer));
    }
    let secrets = Issuer::start(Mode::Keys(vec![secret])).await;
    issuers.push(published("secrets", &secrets.url(), &["EdDSA"]));
    let (backend, gateway) = start(&issuers).await;
    for (name, issuer) in &running {
        eventually("every issuer was asked", async || issuer.asked() > 0).await;
        let token = own.sign(EdDSA, &claims(name));
        let undecided = (503, "ServiceUnavailable".to_owned());
        assert_eq!(put(&gateway, "k", &token).await, undecided, "{name}");
        signed_passes(&gateway).await;
    }
    eventually("the time's cap is over too", async || {
        gateway.log().contains("fetched: no answer in time")
    })
    .await;
    // A set without a key that can be used is a set: its issuer's tokens are wrong.
    let token = own.sign(EdDSA, &claims("secrets"));
    until(&gateway, &token, 403).await;
    assert_eq!(target.asked(), 0, "no redirect is followed");
    assert_eq!(backend.objects(), ["signed"]);
    for reason in
        ["status 302", "status 500", "not a JSON Web Key Set", "larger than", "than 64 keys"]
    {
        gateway.log_with(reason).await;
    }
}

/// Certificates are verified, by the issuer's own authorities where they are named.
#[tokio::test]
async fn keys_come_over_tls() {
    let own = Signing::rsa("own");
    let issuer = Issuer::start(Mode::Keys(vec![own.jwk.clone()])).await;
    let (terminator, stranger) =
        (Terminator::start(issuer.address).await, Terminator::start(issuer.address).await);
    let at = |iss: &str, terminator: &Terminator, trusted: &Terminator| {
        json!({"issuer": iss, "algorithms": ["RS256"], "audience": "mizuchi",
               "jwks_url": format!("{}/.well-known/jwks.json", terminator.url()),
               "ca_file": trusted.ca_file().to_str().unwrap()})
    };
    let issuers = [at(ISS, &terminator, &terminator), at("stranger", &stranger, &terminator)];
    let (_backend, gateway) = start(&issuers).await;
    until(&gateway, &own.sign(Algorithm::RS256, &claims(ISS)), 200).await;
    gateway.log_with("invalid peer certificate").await;
    let refused = own.sign(Algorithm::RS256, &claims("stranger"));
    assert_eq!(put(&gateway, "k", &refused).await, (503, "ServiceUnavailable".to_owned()));
    assert_eq!(issuer.asked(), 1);
}

/// Buckets whose issuers publish in one place share its keys.
#[tokio::test]
async fn a_key_set_is_fetched_once_for_all_buckets() {
    let own = Signing::ed25519("own");
    let issuer = Issuer::start(Mode::Keys(vec![own.jwk.clone()])).await;
    let backend = Backend::start().await;
    let jwt = json!({"issuers": [published(ISS, &issuer.url(), &["EdDSA"])]});
    let second = format!(
        "  - name: second\n    path_prefix: /second\n    s3: {{bucket: store, region: us-east-1, \
         endpoint: 'http://{}', access_key: {}, secret_key: {}}}\n    auth:\n{}",
        backend.s3.address,
        backend.s3.access_key,
        backend.s3.secret_key,
        settings(&jwt)
    );
    let gateway =
        Setup::new(&backend, backend.s3.address).bucket(&(settings(&jwt) + &second)).start().await;
    let token = own.sign(EdDSA, &claims(ISS));
    until(&gateway, &token, 200).await;
    let head = bearer("PUT", "k", &token, 1);
    let head = String::from_utf8(head).unwrap().replace("/uploads/", "/second/");
    let answer = Client::connect(&gateway).await.raw(head.as_bytes(), b"x").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(issuer.asked(), 1);
}
