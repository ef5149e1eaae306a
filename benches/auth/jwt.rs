//! A token as identity providers issue it (a KiB of claims), verified by HS256; and the bare HMAC over
//! the bytes that it signs.

use super::sigv4::hmac;
use super::{Result, at_once};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::Criterion;
use mizuchi_actors::jwt::{
    Algorithm, Authenticator, ClaimRules, Issuer, Key, Keys, TokenSource, TokenSources,
};
use mizuchi_actors::secret::Secret;
use serde_json::json;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

const SECRET: &[u8] = b"a secret of 32 bytes or of more.";

pub(crate) fn measure(criterion: &mut Criterion) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let authenticator = authenticator()?;
    let token = token(now);
    let verified = at_once(authenticator.verify_token(&token, now));
    verified.ok_or("it waits")?.map_err(|refused| refused.reason.into_owned())?;
    let mut group = criterion.benchmark_group("jwt");
    group.bench_function("verify_hs256", |bencher| {
        bencher.iter(|| {
            let verified = authenticator.verify_token(black_box(&token), now);
            black_box(at_once(verified).is_some_and(|verified| verified.is_ok()))
        });
    });
    let (message, _) = token.rsplit_once('.').ok_or("no token")?;
    group.bench_function("bare", |bencher| {
        bencher.iter(|| black_box(hmac(SECRET, black_box(message.as_bytes()))));
    });
    group.finish();
    Ok(())
}

fn authenticator() -> Result<Authenticator> {
    let secret = Secret::new(String::from_utf8(SECRET.to_vec())?);
    let issuer = Issuer {
        name: Arc::from("https://id.example.com/realms/uploads"),
        algorithms: vec![Algorithm::HS256],
        keys: Keys::Fixed(Box::new(Key::from_secret(&secret))),
        rules: ClaimRules {
            audiences: Some(vec!["uploads".to_owned()]),
            leeway: Duration::from_secs(30),
            principal: "sub".to_owned(),
            required: Vec::new(),
        },
        grants: Default::default(),
    };
    let sources = TokenSources::new(vec![TokenSource::Bearer], Vec::new());
    Ok(Authenticator::new(sources, [issuer]))
}

/// What a Keycloak realm puts into an access token.
fn token(now: OffsetDateTime) -> String {
    let header =
        json!({"alg": "HS256", "typ": "JWT", "kid": "0c1f5a0e-7f5a-4a0e-9a53-7d3b3f7d9c11"});
    let second = now.unix_timestamp();
    let claims = json!({
        "exp": second + 300, "iat": second, "auth_time": second - 20,
        "jti": "c3bb5e2f-5b1d-4a35-9a3c-3d9a6f0f6d55",
        "iss": "https://id.example.com/realms/uploads",
        "aud": ["uploads", "account"],
        "sub": "f:7b1c5a3e-08d2-4b53-a2a4-2b8d8d7f4f1e:alice",
        "typ": "Bearer", "azp": "uploader", "session_state": "a9f4a0b2-8cf4-4b6a-bb0c-1f3f5a6f1f9a",
        "acr": "1", "allowed-origins": ["https://app.example.com"],
        "realm_access": {"roles": ["offline_access", "uma_authorization", "uploader"]},
        "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
        "scope": "openid email profile", "sid": "a9f4a0b2-8cf4-4b6a-bb0c-1f3f5a6f1f9a",
        "email_verified": true, "name": "Alice Example", "preferred_username": "alice",
        "given_name": "Alice", "family_name": "Example", "email": "alice@example.com"
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&header), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(hmac(SECRET, message.as_bytes()));
    format!("{message}.{signature}")
}
