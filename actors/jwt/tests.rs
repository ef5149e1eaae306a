//! security.md, "JWT": what is verified, and what every trick with a token's header comes to.

use super::testing::{
    ISSUER, Pair, SECRET, ec, ed25519, good_claims, name, pairs, rsa, sign, token,
};
use super::*;
use crate::grants::Grants;
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use openssl::nid::Nid;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-01-01 00:00:00 UTC);

fn fixed(issuer: &str, algorithms: &[Algorithm], key: Key) -> Issuer {
    Issuer {
        name: Arc::from(issuer),
        algorithms: algorithms.to_vec(),
        keys: Keys::Fixed(Box::new(key)),
        rules: ClaimRules {
            audiences: Some(vec!["mizuchi".into()]),
            leeway: Duration::from_secs(30),
            principal: "sub".into(),
            required: Vec::new(),
        },
        grants: Arc::new(Grants::default()),
    }
}

fn authenticator(issuers: impl IntoIterator<Item = Issuer>) -> Authenticator {
    Authenticator::new(TokenSources::default(), issuers)
}

fn of_pair(algorithms: &[Algorithm], pair: &Pair) -> Authenticator {
    authenticator([fixed(ISSUER, algorithms, Key::from_pem(&pair.pem).unwrap())])
}

fn of_secret(algorithms: &[Algorithm]) -> Authenticator {
    let key = Key::from_secret(&Secret::new(SECRET.into()));
    authenticator([fixed(ISSUER, algorithms, key)])
}

/// The principal, or the refusal's code.
async fn verdict(authenticator: &Authenticator, token: &str) -> String {
    match authenticator.verify_token(token, NOW).await {
        Ok(verified) => verified.principal.to_string(),
        Err(refused) => refused.error.code.into_owned(),
    }
}

#[tokio::test]
async fn all_algorithms_are_verified_each_with_its_kind_of_key_and_no_other() {
    for (_, algorithm) in Algorithm::ALL {
        let taken = match algorithm.kind() {
            KeyKind::Secret => of_secret(&[algorithm]),
            _ => of_pair(&[algorithm], pairs().of(algorithm)),
        };
        let good = token(algorithm, Some("ignored"), NOW);
        assert_eq!(verdict(&taken, &good).await, "ann", "{algorithm:?}");
        // One bit of each part.
        for part in 0..3 {
            let mut parts: Vec<Vec<u8>> =
                good.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
            let middle = parts[part].len() / 2;
            parts[part][middle] ^= 1;
            let parts: Vec<_> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
            let verdict = verdict(&taken, &parts.join(".")).await;
            assert!(["AccessDenied", "InvalidToken"].contains(&verdict.as_str()), "{verdict}");
        }
        // Every other algorithm's good token.
        for (_, other) in Algorithm::ALL.into_iter().filter(|(_, other)| *other != algorithm) {
            let verdict = verdict(&taken, &token(other, None, NOW)).await;
            assert_eq!(verdict, "AccessDenied", "{other:?} for {algorithm:?}");
        }
    }
}

/// "HS256 signed with the RSA public key": even where the settings would name both algorithms.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    let all: Vec<_> = Algorithm::ALL.into_iter().map(|(_, algorithm)| algorithm).collect();
    let pair = &pairs().rsa;
    let taken = of_pair(&all, pair);
    let components = pair.jwk["n"].as_str().unwrap();
    let header = json!({"alg": "HS256", "typ": "JWT"});
    for bytes in [
        pair.pem.as_bytes().to_vec(),
        pair.pem.trim_end().as_bytes().to_vec(),
        URL_SAFE_NO_PAD.decode(components).unwrap(),
        components.as_bytes().to_vec(),
        Vec::new(),
    ] {
        let key = EncodingKey::from_secret(&bytes);
        let forged = sign(&header, &good_claims(NOW), &key, jsonwebtoken::Algorithm::HS256);
        assert_eq!(verdict(&taken, &forged).await, "AccessDenied");
    }
    assert_eq!(verdict(&taken, &token(Algorithm::PS256, None, NOW)).await, "ann");
}

/// "`alg: none`"; "`jku`, `x5u`, embedded `jwk`: ignored"; RFC 7515, 4.1.11.
#[tokio::test]
async fn the_header_decides_nothing() {
    let own = pairs();
    let taken = of_pair(&[Algorithm::RS256], &own.rsa);
    let strangers = rsa(2048);
    let signed = |header: Value, pair: &Pair| {
        sign(&header, &good_claims(NOW), &pair.private, jsonwebtoken::Algorithm::RS256)
    };
    let good = signed(json!({"alg": "RS256"}), &own.rsa);
    let (message, _) = good.rsplit_once('.').unwrap();
    let claims = message.split_once('.').unwrap().1;
    let unsigned = |alg: Value| {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
        format!("{header}.{claims}.")
    };
    for (name, token, expected) in [
        ("as it should be", good.clone(), "ann"),
        ("none", unsigned(json!("none")), "AccessDenied"),
        ("None", unsigned(json!("None")), "AccessDenied"),
        ("empty alg", unsigned(json!("")), "AccessDenied"),
        ("alg in another case", unsigned(json!("rs256")), "AccessDenied"),
        ("alg that is no text", unsigned(json!(["RS256"])), "InvalidToken"),
        ("no signature", format!("{message}."), "AccessDenied"),
        ("not signed by the issuer", signed(json!({"alg": "RS256"}), &strangers), "AccessDenied"),
        (
            "a jwk of its own",
            signed(json!({"alg": "RS256", "jwk": strangers.jwk}), &strangers),
            "AccessDenied",
        ),
        (
            "places of its own",
            signed(
                json!({"alg": "RS256", "jku": "http://127.0.0.1:1/", "x5u": "http://127.0.0.1:1/",
                       "x5c": ["AAAA"]}),
                &strangers,
            ),
            "AccessDenied",
        ),
        (
            "the same, signed by the issuer",
            signed(json!({"alg": "RS256", "jku": 7, "jwk": 7, "x5c": 7, "x5u": {}}), &own.rsa),
            "ann",
        ),
        ("crit", signed(json!({"alg": "RS256", "crit": ["b64"]}), &own.rsa), "AccessDenied"),
        ("empty crit", signed(json!({"alg": "RS256", "crit": null}), &own.rsa), "AccessDenied"),
        (
            "kid that is no text",
            signed(json!({"alg": "RS256", "kid": 7}), &own.rsa),
            "InvalidToken",
        ),
        ("four parts", format!("{good}.x"), "InvalidToken"),
        ("two parts", message.to_owned(), "InvalidToken"),
        ("nothing", String::new(), "InvalidToken"),
        ("no JSON", "e30.e30.e30".replace("e30.", "AAAA."), "InvalidToken"),
        ("padding", good.replacen('.', "=.", 1), "InvalidToken"),
        ("line break", good.replacen('.', "\n.", 1), "InvalidToken"),
        ("too long", format!("{good}{}", "A".repeat(MAX_TOKEN)), "InvalidToken"),
    ] {
        assert_eq!(verdict(&taken, &token).await, expected, "{name}");
    }
}

/// Each issuer has its own keys and rules; `iss` says which, and nothing is near enough.
#[tokio::test]
async fn issuers_do_not_speak_for_each_other() {
    let (one, two) = (pairs(), ed25519());
    let other = "https://other.example.com";
    let taken = authenticator([
        fixed(ISSUER, &[Algorithm::RS256], Key::from_pem(&one.rsa.pem).unwrap()),
        fixed(other, &[Algorithm::EdDSA], Key::from_pem(&two.pem).unwrap()),
    ]);
    let by_two = |iss: Value| {
        let mut claims = good_claims(NOW);
        claims["iss"] = iss;
        let header = json!({"alg": "EdDSA"});
        sign(&header, &claims, &two.private, jsonwebtoken::Algorithm::EdDSA)
    };
    for (token, expected) in [
        (token(Algorithm::RS256, None, NOW), "ann"),
        (by_two(json!(other)), "ann"),
        (by_two(json!(ISSUER)), "AccessDenied"),
        (by_two(json!(format!("{other}/"))), "AccessDenied"),
        (by_two(json!("HTTPS://other.example.com")), "AccessDenied"),
        (by_two(json!([other])), "AccessDenied"),
        (by_two(Value::Null), "AccessDenied"),
    ] {
        assert_eq!(verdict(&taken, &token).await, expected, "{token}");
    }
    let verified = taken.verify_token(&by_two(json!(other)), NOW).await.unwrap();
    assert_eq!((&*verified.issuer, verified.expires), (other, NOW + Duration::from_secs(60)));
    assert_eq!(verified.claims.map().unwrap()["aud"], "mizuchi");
    assert_eq!(taken.issuers().count(), 2);
    assert!(taken.issuer(other).is_some() && taken.issuer("x").is_none());
}

proptest! {
    /// Whatever stands there: an answer, and never "ann" for what nobody signed.
    #[test]
    fn any_text_gives_an_answer(
        text in "\\PC*|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}",
        header in "\\PC{0,60}|\\{\"alg\":\"(RS256|HS256|none)\"(,\"kid\":[\"0-9a-z]{1,9})?\\}",
        claims in "\\PC{0,60}|\\{\"iss\":\"https://id.example.com\"(,\"exp\":[\"0-9e.-]{1,30})?\\}",
    ) {
        let taken = of_pair(&[Algorithm::RS256], &pairs().rsa);
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let made = format!("{}.{}.{}", part(&header), part(&claims), part(&text));
        for token in [text, made] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let verdict = runtime.block_on(verdict(&taken, &token));
            prop_assert!(["AccessDenied", "InvalidToken"].contains(&verdict.as_str()));
        }
        let _ = KeySet::parse(header.as_bytes());
        let _ = Key::from_pem(&claims);
    }
}

/// A wrong signature is told before anything that the claims say.
#[tokio::test]
async fn nothing_is_told_of_claims_that_nobody_signed() {
    let taken = of_pair(&[Algorithm::RS256], &pairs().rsa);
    let strangers = rsa(2048);
    for claims in [
        json!({"iss": ISSUER}),
        json!({"iss": ISSUER, "exp": "1"}),
        json!({"iss": ISSUER, "exp": 1}),
    ] {
        let header = json!({"alg": "RS256"});
        let algorithm = jsonwebtoken::Algorithm::RS256;
        let forged = sign(&header, &claims, &strangers.private, algorithm);
        assert_eq!(verdict(&taken, &forged).await, "AccessDenied");
        let signed = sign(&header, &claims, &pairs().rsa.private, algorithm);
        assert_ne!(verdict(&taken, &signed).await, "AccessDenied");
    }
}

/// RFC 7518, 3.3: "A key of size 2048 bits or larger MUST be used".
#[test]
fn keys_in_pem_are_public_of_a_known_kind_and_long_enough() {
    let all = pairs();
    for (pair, kind) in [
        (&all.rsa, KeyKind::Rsa),
        (&all.p256, KeyKind::P256),
        (&all.p384, KeyKind::P384),
        (&all.ed25519, KeyKind::Ed25519),
    ] {
        let key = Key::from_pem(&pair.pem).unwrap();
        assert_eq!(key.kind(), kind);
        for (_, algorithm) in Algorithm::ALL {
            assert_eq!(key.fits(algorithm), algorithm.kind() == kind, "{algorithm:?}");
        }
    }
    let pkcs1 = openssl::rsa::Rsa::generate(2048).unwrap().public_key_to_pem_pkcs1().unwrap();
    let pkcs1 = String::from_utf8(pkcs1).unwrap();
    assert!(pkcs1.contains("BEGIN RSA PUBLIC KEY"));
    assert_eq!(Key::from_pem(&pkcs1).unwrap().kind(), KeyKind::Rsa);
    assert_eq!(Key::from_pem(&rsa(1024).pem).unwrap_err(), KeyError::RsaBits(1024));
    let curve = ec(Nid::SECP256K1, "secp256k1").pem;
    assert_eq!(Key::from_pem(&curve).unwrap_err(), KeyError::Kind);
    let private = openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap().cert.pem();
    for text in ["", "x", &String::from_utf8(private).unwrap(), &own, &all.rsa.pem[..200]] {
        assert_eq!(Key::from_pem(text).unwrap_err(), KeyError::NotPem, "{text}");
    }
    let secret = Key::from_secret(&Secret::new(SECRET.into()));
    assert!(!format!("{secret:?}").contains(&SECRET[..8]));
    assert_eq!(name(Algorithm::EdDSA), "EdDSA");
}
