//! Key sets over real sockets: what is read of them, when they are fetched, and what a token comes
//! to meanwhile.

use super::super::testing::{Pair, ed25519, pairs, rsa};
use super::*;
use crate::backend::Authorities;
use crate::outbound::{Outbound, ServiceUrl};
use prometheus::{IntCounterVec, Opts};
use serde_json::json;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn with(pair: &Pair, members: Value) -> Value {
    let mut jwk = pair.jwk.clone();
    for (name, value) in members.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}

/// RFC 7517, 4: what a key is for is said by kty, use, key_ops and alg.
#[test]
fn only_keys_for_signatures_are_taken() {
    let (rsa_pair, p256) = (&pairs().rsa, &pairs().p256);
    for (jwk, taken) in [
        (with(rsa_pair, json!({"kid": "a", "use": "sig", "alg": "RS256"})), true),
        (with(rsa_pair, json!({"key_ops": ["verify"]})), true),
        (with(rsa_pair, json!({"x5c": ["AAAA"], "x5t": "x", "unknown": {}})), true),
        (with(rsa_pair, json!({"use": "enc"})), false),
        (with(rsa_pair, json!({"use": 7})), false),
        (with(rsa_pair, json!({"key_ops": ["encrypt"]})), false),
        (with(rsa_pair, json!({"key_ops": "verify"})), false),
        (with(rsa_pair, json!({"alg": "RSA-OAEP"})), false),
        (with(rsa_pair, json!({"alg": "ES256"})), false),
        (with(rsa_pair, json!({"alg": "HS256"})), false),
        (with(rsa_pair, json!({"alg": 7})), false),
        (with(rsa_pair, json!({"kid": 7})), false),
        (with(rsa_pair, json!({"kty": "rsa"})), false),
        (with(rsa_pair, json!({"n": 7})), false),
        (with(rsa_pair, json!({"n": "!"})), false),
        (with(&rsa(1024), json!({})), false),
        (with(rsa_pair, json!({"n": format!("{}AAAA", "A".repeat(340))})), false),
        (with(p256, json!({})), true),
        (with(p256, json!({"crv": "P-384"})), false),
        (with(p256, json!({"crv": "P-521"})), false),
        (with(p256, json!({"x": "AA"})), false),
        (with(&pairs().p384, json!({"use": "sig"})), true),
        (with(&pairs().ed25519, json!({"alg": "EdDSA"})), true),
        (with(&pairs().ed25519, json!({"crv": "X25519"})), false),
        (json!({"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}), false),
        (json!({"kty": "oct", "k": "AAAA", "alg": "HS256", "kid": "a"}), false),
        (json!({}), false),
        (json!("text"), false),
    ] {
        assert_eq!(set(std::slice::from_ref(&jwk)).len() == 1, taken, "{jwk}");
    }
    for garbage in ["", "x", "[]", "{}", "{\"keys\": {}}", "null", "<html>", "{\"keys\": [1,]}"] {
        assert_eq!(KeySet::parse(garbage.as_bytes()).unwrap_err(), KeySetError::Malformed);
    }
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(KeySet::parse(deep.as_bytes()).unwrap_err(), KeySetError::Malformed);
    let many = vec![json!({}); MAX_KEYS + 1];
    let error = KeySet::parse(json!({"keys": many}).to_string().as_bytes()).unwrap_err();
    assert_eq!(error, KeySetError::TooMany);
}

#[test]
fn a_key_is_found_by_its_name_or_when_it_is_the_only_one() {
    let (one, two, ed) = (&pairs().rsa, &rsa(2048), &pairs().ed25519);
    let named = |pair: &Pair, kid: &str| with(pair, json!({"kid": kid}));
    let told = |keys: &[Value], kid: Option<&str>, algorithm| match set(keys).find(kid, algorithm) {
        Found::Key(key) => key.id().unwrap_or("no name").to_owned(),
        Found::Unknown => "unknown".to_owned(),
        Found::Unusable(_) => "unusable".to_owned(),
    };
    let rs = Algorithm::RS256;
    let both = [named(one, "a"), named(two, "b"), named(ed, "c")];
    for (kid, algorithm, expected) in [
        (Some("a"), rs, "a"),
        (Some("b"), Algorithm::PS512, "b"),
        (Some("c"), Algorithm::EdDSA, "c"),
        (Some("c"), rs, "unusable"),
        (Some("a"), Algorithm::EdDSA, "unusable"),
        (Some("d"), rs, "unknown"),
        (Some(""), rs, "unknown"),
        (None, rs, "unusable"),
        (None, Algorithm::EdDSA, "c"),
        (None, Algorithm::ES256, "unknown"),
    ] {
        assert_eq!(told(&both, kid, algorithm), expected, "{kid:?} {algorithm:?}");
    }
    let nameless = [one.jwk.clone(), ed.jwk.clone()];
    assert_eq!(told(&nameless, None, rs), "no name");
    assert_eq!(told(&nameless, Some("x"), rs), "no name");
    let two_nameless = [one.jwk.clone(), two.jwk.clone()];
    assert_eq!(told(&two_nameless, Some("x"), rs), "unknown");
    assert_eq!(told(&two_nameless, None, rs), "unusable");
    assert_eq!(told(&[named(one, "a"), two.jwk.clone()], Some("x"), rs), "unknown");
    assert_eq!(told(&[named(one, "a"), named(two, "a")], Some("a"), rs), "unusable");
    let only = [with(one, json!({"kid": "a", "alg": "RS512"}))];
    assert_eq!(told(&only, Some("a"), rs), "unusable");
    assert_eq!(told(&[], Some("a"), rs), "unknown");
    assert_eq!(told(&[], None, rs), "unknown");
}

/// An issuer that answers what it is told to, and counts.
struct Published {
    url: ServiceUrl,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Published {
    async fn start() -> Published {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let url = ServiceUrl::parse(&url, true).unwrap();
        let answer: Arc<Mutex<Option<String>>> = Arc::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let published = Published { url, answer: Arc::clone(&answer), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                tokio::spawn(async move {
                    let _ = socket.read(&mut [0; 4096]).await;
                    asked.fetch_add(1, Ordering::Relaxed);
                    let answer = answer.lock().unwrap().clone();
                    match answer {
                        Some(answer) => drop(socket.write_all(answer.as_bytes()).await),
                        // It hangs.
                        None => std::future::pending().await,
                    }
                });
            }
        });
        published
    }

    fn keys(&self, keys: &[Value]) {
        self.document(&json!({"keys": keys}).to_string());
    }

    fn document(&self, text: &str) {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        self.raw(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()));
    }

    fn raw(&self, answer: String) {
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Its keys, kept by a task.
    fn kept(&self, policy: JwksPolicy) -> (Arc<JwksCache>, IntCounterVec, JoinSet<()>) {
        let outbound = Arc::new(Outbound::new(Authorities::none()).unwrap());
        let cache = JwksCache::new(self.url.clone(), outbound, policy);
        let fetches = IntCounterVec::new(Opts::new("fetches", "-"), &["result"]).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&cache).keep(fetches.clone()));
        (cache, fetches, tasks)
    }
}

use tokio::task::JoinSet;

const HOURS: JwksPolicy =
    JwksPolicy { ttl: Duration::from_secs(3600), max_stale: Duration::from_secs(7200) };

async fn told(cache: &JwksCache, kid: &str) -> String {
    match cache.key(Some(kid), Algorithm::RS256).await {
        Ok(key) => key.id().unwrap().to_owned(),
        Err(refused) => refused.error.code.into_owned(),
    }
}

async fn eventually_told(cache: &JwksCache, kid: &str, expected: &str) {
    let started = Instant::now();
    while told(cache, kid).await != expected {
        assert!(started.elapsed() < Duration::from_secs(10), "never {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// "unknown `kid`: refetch JWKS: rate-limited, single-flight; then deny".
#[tokio::test]
async fn an_unknown_key_causes_one_fetch_for_all_who_ask() {
    let published = Published::start().await;
    let named = |kid: &str| with(&pairs().rsa, json!({"kid": kid}));
    published.keys(&[named("old")]);
    let (cache, fetches, _task) = published.kept(HOURS);
    eventually_told(&cache, "old", "old").await;
    assert_eq!(published.asked(), 1);
    published.keys(&[named("old"), named("new")]);
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        let cache = Arc::clone(&cache);
        asking.spawn(async move { told(&cache, "new").await });
    }
    assert!(asking.join_all().await.iter().all(|told| told == "new"));
    assert_eq!(published.asked(), 2, "one fetch for all of them");
    // Names that are made up are denied at once, and cause no fetch for a while.
    let started = Instant::now();
    for made_up in 0..1000 {
        assert_eq!(told(&cache, &made_up.to_string()).await, "AccessDenied");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(published.asked(), 2);
    assert_eq!(told(&cache, "new").await, "new");
    assert_eq!(fetches.with_label_values(&["fetched"]).get(), 2);
}

/// Whoever waits for an issuer that hangs waits two seconds, and is denied.
#[tokio::test]
async fn waiting_for_an_issuer_has_an_end() {
    let published = Published::start().await;
    published.keys(&[with(&pairs().rsa, json!({"kid": "old"}))]);
    let (cache, _, _task) = published.kept(HOURS);
    eventually_told(&cache, "old", "old").await;
    *published.answer.lock().unwrap() = None;
    let started = Instant::now();
    assert_eq!(told(&cache, "new").await, "AccessDenied");
    let waited = started.elapsed();
    assert!((1900..4900).contains(&waited.as_millis()), "{waited:?}");
    assert_eq!(told(&cache, "old").await, "old", "known keys go on");
}

/// An issuer that hangs does not let strangers hold more than a few of the gateway's permits.
#[tokio::test]
async fn only_so_many_wait() {
    let published = Published::start().await;
    published.keys(&[with(&pairs().rsa, json!({"kid": "old"}))]);
    let (cache, _, _task) = published.kept(HOURS);
    eventually_told(&cache, "old", "old").await;
    *published.answer.lock().unwrap() = None;
    let mut asking = JoinSet::new();
    for _ in 0..400 {
        let cache = Arc::clone(&cache);
        asking.spawn(async move { told(&cache, "new").await });
    }
    let told = asking.join_all().await;
    let count = |code: &str| told.iter().filter(|told| *told == code).count();
    assert_eq!((count("AccessDenied"), count("ServiceUnavailable")), (256, 144));
    assert_eq!(published.asked(), 2);
}

/// Until its first fetch succeeds an issuer's tokens are undecided; then all goes on by itself.
#[tokio::test]
async fn an_issuer_that_comes_up_later_is_noticed() {
    let published = Published::start().await;
    published.raw("HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".into());
    let (cache, fetches, _task) = published.kept(HOURS);
    let failed = || fetches.with_label_values(&["failed"]).get();
    let started = Instant::now();
    while failed() == 0 {
        assert_eq!(told(&cache, "a").await, "ServiceUnavailable");
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    published.keys(&[with(&pairs().rsa, json!({"kid": "a"}))]);
    eventually_told(&cache, "a", "a").await;
}

/// Keys are renewed at four fifths of their time; when that fails they are used for as long as
/// `max_stale` says, and not longer; what the issuer has dropped is not taken any more.
#[tokio::test]
async fn keys_grow_old() {
    let published = Published::start().await;
    let named = |kid: &str| with(&pairs().rsa, json!({"kid": kid}));
    published.keys(&[named("a")]);
    let policy = JwksPolicy { ttl: Duration::from_millis(100), max_stale: Duration::from_secs(3) };
    let (cache, _, _task) = published.kept(policy);
    eventually_told(&cache, "a", "a").await;
    published.keys(&[named("b")]);
    eventually_told(&cache, "b", "b").await;
    assert_eq!(told(&cache, "a").await, "AccessDenied");
    assert!(published.asked() >= 2);
    published.document("no keys");
    let failing = Instant::now();
    eventually_told(&cache, "b", "ServiceUnavailable").await;
    assert!(failing.elapsed() > Duration::from_millis(1500), "stale keys were used meanwhile");
    published.keys(&[named("b")]);
    eventually_told(&cache, "b", "b").await;
}

/// What is no key set, or comes in no acceptable way, never gives a key.
#[tokio::test]
async fn nothing_but_a_plain_key_set_counts() {
    let good = with(&ed25519(), json!({"kid": "a"}));
    let document = json!({"keys": [good]}).to_string();
    let elsewhere = Published::start().await;
    elsewhere.keys(&[with(&pairs().rsa, json!({"kid": "a"}))]);
    let target = format!("http://{}/", elsewhere.url.to_string().split('/').nth(2).unwrap());
    let padding = " ".repeat(2 << 20);
    for (name, answer) in [
        ("redirect", format!("HTTP/1.1 302 F\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n")),
        ("garbage", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html>...".to_owned()),
        ("no HTTP", document.clone()),
        ("cut off", format!("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{document}")),
        ("oversized", format!("HTTP/1.1 200 OK\r\nContent-Length: 2097152\r\n\r\n{padding}")),
    ] {
        let published = Published::start().await;
        published.raw(answer);
        let (cache, fetches, _task) = published.kept(HOURS);
        let started = Instant::now();
        while fetches.with_label_values(&["failed"]).get() == 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "{name}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(told(&cache, "a").await, "ServiceUnavailable", "{name}");
    }
    assert_eq!(elsewhere.asked(), 0, "no redirect is followed");
}
