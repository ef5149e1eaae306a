//! `auth.jwt`: what fits together, and what is refused.

use super::*;
use mizuchi_actors::jwt::{Algorithm, Expected, TokenSource};
use openssl::pkey::PKey;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// [`MINIMAL`] whose `auth` has this `jwt` besides.
fn with_jwt(jwt: &str) -> String {
    MINIMAL.replace("auth: {", &format!("auth: {{jwt: {{{jwt}}}, "))
}

/// One issuer with these keys.
fn with_issuer(keys: &str) -> String {
    with_jwt(&format!("issuers: [{{issuer: i, audience: a, {keys}}}]"))
}

/// A public key in PEM, in YAML's quotes.
fn quoted_pem() -> String {
    let key = PKey::generate_ed25519().unwrap().public_key_to_pem().unwrap();
    format!("\"{}\"", String::from_utf8(key).unwrap().replace('\n', "\\n"))
}

#[test]
fn the_defaults_of_an_issuer() {
    let file = with_issuer("algorithms: [RS256, ES384], jwks_url: 'https://id/keys?x=1'");
    let loaded = load_with(&file, &[]).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let jwt = &loaded.settings.buckets[0].auth.jwt;
    assert_eq!(jwt.token_sources, [TokenSource::Bearer]);
    let [issuer] = jwt.issuers.as_slice() else { panic!("one issuer") };
    assert_eq!(issuer.algorithms, [Algorithm::RS256, Algorithm::ES384]);
    assert_eq!(issuer.rules.audiences.as_deref(), Some(["a".to_owned()].as_slice()));
    assert_eq!(issuer.rules.leeway, 30 * SECOND);
    assert_eq!((issuer.rules.principal.as_str(), issuer.rules.required.len()), ("sub", 0));
    assert_eq!(issuer.allow, Default::default());
    let IssuerKeys::Published(published) = &issuer.keys else { panic!("published") };
    assert_eq!(published.url.to_string(), "https://id/keys");
    assert_eq!(published.policy.ttl, 3600 * SECOND);
    assert_eq!(published.policy.max_stale, 86_400 * SECOND);
    assert!(published.authorities.is_none());
    assert!(settings(MINIMAL, &[]).buckets[0].auth.jwt.issuers.is_empty());
}

#[test]
fn everything_can_be_chosen() {
    let pem = quoted_pem();
    let file = with_jwt(&format!(
        "token_sources: [{{type: bearer}}, {{type: header, name: X-Token, prefix: 'JWT '}}, \
         {{type: query, name: access_token}}, {{type: cookie, name: session}}], \
         cookie_origins: ['https://app.example.com'], issuers: [\
         {{issuer: one, algorithms: EdDSA, public_key: {pem}, audience: [a, b], leeway_seconds: 0, \
         principal_claim: email, required_claims: {{'https://x/role': [w, 7], ok: true}}, \
         allow: {{buckets: [uploads], operations: [PutObject]}}}}, \
         {{issuer: two, algorithms: [HS256], secret: {SECRET}, audience: a}}]"
    ));
    let settings = settings(&file, &[]);
    let jwt = &settings.buckets[0].auth.jwt;
    assert_eq!(jwt.token_sources.len(), 4);
    let header = TokenSource::Header { name: "x-token".into(), prefix: "JWT ".into() };
    assert_eq!(jwt.token_sources[1], header);
    let rules = &jwt.issuers[0].rules;
    assert_eq!((rules.leeway, rules.principal.as_str()), (Duration::ZERO, "email"));
    assert_eq!(
        rules.required,
        [
            ("https://x/role".into(), vec![Expected::Text("w".into()), Expected::Number(7.into())]),
            ("ok".into(), vec![Expected::Bool(true)]),
        ]
    );
    assert_eq!(jwt.issuers[0].allow.buckets.as_deref(), Some(["uploads".to_owned()].as_slice()));
    let shown = format!("{settings:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("BEGIN"), "{shown}");
}

/// A bucket's own list replaces the top-level one; what it does not set it inherits.
#[test]
fn a_bucket_inherits_key_by_key() {
    let file = with_jwt(&format!(
        "issuers: [{{issuer: i, audience: a, algorithms: HS256, secret: {SECRET}}}]"
    ));
    let own = "    auth: {jwt: {token_sources: [{type: query, name: t}]}}\n";
    let jwt = settings(&format!("{file}{own}"), &[]).buckets[0].auth.jwt.clone();
    assert_eq!(jwt.token_sources, [TokenSource::Query { name: "t".into() }]);
    assert_eq!(jwt.issuers[0].issuer, "i");
    let none = format!("{file}    auth: {{jwt: {{issuers: []}}}}\n");
    assert!(settings(&none, &[]).buckets[0].auth.jwt.issuers.is_empty());
    let key = "MIZUCHI__AUTH__JWT__ISSUERS__0__ISSUER";
    assert_eq!(settings(&file, &[(key, "other")]).buckets[0].auth.jwt.issuers[0].issuer, "other");
}

/// "`auth.enabled: true` needs at least one SigV4 credential or one issuer".
#[test]
fn an_issuer_is_enough() {
    let credentials = "sigv4: {credentials: [{access_key: AK, secret_key: a-long-enough-secret}]}";
    let issuer = with_issuer(&format!("algorithms: HS256, secret: {SECRET}"));
    assert!(load_with(&issuer.replace(credentials, "enabled: true"), &[]).is_ok());
    let nobody = MINIMAL.replace(credentials, "enabled: true");
    assert_eq!(keys(&nobody, &[]), ["buckets[0].auth.sigv4.credentials"]);
}

#[test]
fn keys_and_algorithms_fit() {
    let pem = quoted_pem();
    for (issuer, key) in [
        (format!("algorithms: [HS256, RS256], secret: {SECRET}"), "algorithms"),
        (format!("algorithms: RS256, secret: {SECRET}"), "algorithms"),
        ("algorithms: [RS256, HS256], jwks_url: 'https://a'".into(), "algorithms"),
        ("algorithms: HS256, jwks_url: 'https://a'".into(), "algorithms"),
        (format!("algorithms: HS256, public_key: {pem}"), "algorithms"),
        (format!("algorithms: [EdDSA, ES256], public_key: {pem}"), "algorithms"),
        (format!("algorithms: RS256, public_key: {pem}"), "algorithms"),
        ("algorithms: none, jwks_url: 'https://a'".into(), "algorithms"),
        ("algorithms: [], jwks_url: 'https://a'".into(), "algorithms"),
        ("jwks_url: 'https://a'".into(), "algorithms"),
        (format!("algorithms: HS384, secret: {SECRET}"), "secret"),
        ("algorithms: HS256, secret: short".into(), "secret"),
        ("algorithms: EdDSA, public_key: x".into(), "public_key"),
        ("algorithms: EdDSA, public_key_file: /missing.pem".into(), "public_key_file"),
        ("algorithms: EdDSA".into(), "jwks_url"),
        (format!("algorithms: EdDSA, public_key: {pem}, jwks_url: 'https://a'"), "jwks_url"),
        ("algorithms: EdDSA, jwks_url: 'http://a'".into(), "jwks_url"),
        ("algorithms: EdDSA, jwks_url: 'ftp://a', allow_insecure: true".into(), "jwks_url"),
        ("algorithms: EdDSA, jwks_url: 'https://me:canary@a'".into(), "jwks_url"),
        ("algorithms: EdDSA, jwks_url: a".into(), "jwks_url"),
        ("algorithms: EdDSA, jwks_url: 'https://a', ca_file: none.pem".into(), "ca_file"),
        (
            "algorithms: EdDSA, jwks_url: 'https://a', cache_ttl_seconds: 59".into(),
            "cache_ttl_seconds",
        ),
        (
            "algorithms: EdDSA, jwks_url: 'https://a', max_stale_seconds: 3599".into(),
            "max_stale_seconds",
        ),
        ("algorithms: EdDSA, jwks_url: 'https://a', leeway_seconds: 301".into(), "leeway_seconds"),
        (
            "algorithms: EdDSA, jwks_url: 'https://a', required_claims: [a]".into(),
            "required_claims",
        ),
        (
            "algorithms: EdDSA, jwks_url: 'https://a', required_claims: {a: {b: c}}".into(),
            "required_claims",
        ),
        (
            "algorithms: EdDSA, jwks_url: 'https://a', required_claims: {a: []}".into(),
            "required_claims",
        ),
        ("algorithms: EdDSA, jwks_url: 'https://a', jku: x".into(), "jku"),
    ] {
        let file = with_issuer(&issuer);
        let found = keys(&file, &[]);
        assert!(
            found.iter().all(|found| found.contains(&format!("issuers[0].{key}"))),
            "{found:?}"
        );
        assert!(found.len() <= 2, "at the top level and in the bucket: {found:?}");
        let text = errors(&file, &[]);
        assert!(!text.contains("canary") && !text.contains(SECRET), "{text}");
    }
    let twice = with_jwt(&format!(
        "issuers: [{{issuer: i, audience: a, algorithms: HS256, secret: {SECRET}}}, \
         {{issuer: i, audience: a, algorithms: HS256, secret: {SECRET}}}]"
    ));
    assert_eq!(keys(&twice, &[]), ["auth.jwt.issuers[1].issuer"]);
}

#[test]
fn a_token_stands_where_nothing_else_does() {
    let issuer =
        format!("issuers: [{{issuer: i, audience: a, algorithms: HS256, secret: {SECRET}}}]");
    let origins = "cookie_origins: ['https://a']";
    for (sources, key) in [
        ("[]", "token_sources"),
        ("[{type: form}]", "token_sources[0].type"),
        ("[{type: bearer, name: x}]", "token_sources[0].name"),
        ("[{type: header}]", "token_sources[0].name"),
        ("[{type: header, name: x-amz-security-token}]", "token_sources[0].name"),
        ("[{type: header, name: X-Amz-Token}]", "token_sources[0].name"),
        ("[{type: header, name: Content-Type}]", "token_sources[0].name"),
        ("[{type: header, name: If-Match}]", "token_sources[0].name"),
        ("[{type: header, name: Host}]", "token_sources[0].name"),
        ("[{type: header, name: Cookie}]", "token_sources[0].name"),
        ("[{type: header, name: 'a b'}]", "token_sources[0].name"),
        ("[{type: header, name: Authorization}]", "token_sources[0].prefix"),
        ("[{type: header, name: Authorization, prefix: 'AWS4 '}]", "token_sources[0].prefix"),
        ("[{type: query, name: uploadId}]", "token_sources[0].name"),
        ("[{type: query, name: acl}]", "token_sources[0].name"),
        ("[{type: query, name: Tagging}]", "token_sources[0].name"),
        ("[{type: query, name: versionId}]", "token_sources[0].name"),
        ("[{type: query, name: X-Amz-Token}]", "token_sources[0].name"),
        ("[{type: query, name: prefix}]", "token_sources[0].name"),
        ("[{type: query, name: t, prefix: x}]", "token_sources[0].prefix"),
        ("[{type: bearer}, {type: bearer}]", "token_sources[1]"),
        (
            "[{type: bearer}, {type: header, name: authorization, prefix: 'bearer '}]",
            "token_sources[1]",
        ),
        ("[{type: header, name: x-t}, {type: header, name: X-T, prefix: J}]", "token_sources[1]"),
        ("[{type: query, name: t}, {type: query, name: t}]", "token_sources[1]"),
        ("[{type: cookie, name: t}]", "cookie_origins"),
    ] {
        let file = with_jwt(&format!("{issuer}, token_sources: {sources}"));
        let found = keys(&file, &[]);
        assert!(found.iter().all(|found| found.ends_with(key)), "{sources}: {found:?}");
        if sources != "[]" {
            assert!(load_with(&file.replace(sources, "[{type: bearer}]"), &[]).is_ok());
        }
    }
    for origin in ["'*'", "app.example.com", "'https://a/'", "'https://A'", "'null'", "'https://'"]
    {
        let cookie = "token_sources: [{type: cookie, name: t}]";
        let file = with_jwt(&format!("{issuer}, {cookie}, cookie_origins: [{origin}]"));
        let found = keys(&file, &[]);
        assert!(found.iter().any(|key| key.contains("cookie_origins")), "{origin}: {found:?}");
    }
    let warnings = load_with(&with_jwt(&format!("{issuer}, {origins}")), &[]).unwrap().warnings;
    assert!(warnings[0].ends_with("cookie_origins: has no effect: no source is a cookie"));
}

#[test]
fn what_is_open_to_others_is_a_warning() {
    let file = with_jwt(
        "issuers: [{issuer: i, algorithms: EdDSA, jwks_url: 'http://a', allow_insecure: true}]",
    );
    let warnings = load_with(&file, &[]).unwrap().warnings.join("\n");
    assert!(warnings.contains("issuers[0].audience: is not set"), "{warnings}");
    assert!(warnings.contains("issuers[0].jwks_url: is not https://"), "{warnings}");
}
