//! Keys made for one run, and tokens signed with them.

use super::key::Algorithm;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use serde_json::{Value, json};
use std::sync::OnceLock;
use time::OffsetDateTime;

pub(super) const ISSUER: &str = "https://id.example.com";
pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A private key, with its public half in both forms.
pub(super) struct Pair {
    pub(super) private: EncodingKey,
    pub(super) pem: String,
    pub(super) jwk: Value,
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pair(key: PKey<Private>, jwk: Value, private: fn(&[u8]) -> EncodingKey) -> Pair {
    let pem = String::from_utf8(key.public_key_to_pem().unwrap()).unwrap();
    let private = private(&key.private_key_to_pem_pkcs8().unwrap());
    Pair { private, pem, jwk }
}

pub(super) fn rsa(bits: u32) -> Pair {
    let key = Rsa::generate(bits).unwrap();
    let (n, e) = (base64url(&key.n().to_vec()), base64url(&key.e().to_vec()));
    let jwk = json!({"kty": "RSA", "n": n, "e": e});
    pair(PKey::from_rsa(key).unwrap(), jwk, |pem| EncodingKey::from_rsa_pem(pem).unwrap())
}

pub(super) fn ec(curve: Nid, crv: &str) -> Pair {
    let group = EcGroup::from_curve_name(curve).unwrap();
    let key = EcKey::generate(&group).unwrap();
    let mut context = BigNumContext::new().unwrap();
    let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
    let point = key.public_key().to_bytes(&group, form, &mut context).unwrap();
    let (x, y) = point[1..].split_at(point.len() / 2);
    let jwk = json!({"kty": "EC", "crv": crv, "x": base64url(x), "y": base64url(y)});
    pair(PKey::from_ec_key(key).unwrap(), jwk, |pem| EncodingKey::from_ec_pem(pem).unwrap())
}

pub(super) fn ed25519() -> Pair {
    let key = PKey::generate_ed25519().unwrap();
    let jwk =
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(&key.raw_public_key().unwrap())});
    pair(key, jwk, |pem| EncodingKey::from_ed_pem(pem).unwrap())
}

/// One pair for each kind that has pairs: RSA, P-256, P-384, Ed25519.
pub(super) struct Pairs {
    pub(super) rsa: Pair,
    pub(super) p256: Pair,
    pub(super) p384: Pair,
    pub(super) ed25519: Pair,
}

pub(super) fn pairs() -> &'static Pairs {
    static PAIRS: OnceLock<Pairs> = OnceLock::new();
    PAIRS.get_or_init(|| Pairs {
        rsa: rsa(2048),
        p256: ec(Nid::X9_62_PRIME256V1, "P-256"),
        p384: ec(Nid::SECP384R1, "P-384"),
        ed25519: ed25519(),
    })
}

impl Pairs {
    /// The pair that signs with this algorithm.
    pub(super) fn of(&self, algorithm: Algorithm) -> &Pair {
        match algorithm {
            Algorithm::ES256 => &self.p256,
            Algorithm::ES384 => &self.p384,
            Algorithm::EdDSA => &self.ed25519,
            _ => &self.rsa,
        }
    }
}

pub(super) fn name(algorithm: Algorithm) -> &'static str {
    Algorithm::ALL.iter().find(|(_, have)| *have == algorithm).unwrap().0
}

/// Header and claims as they stand, signed as that algorithm does.
pub(super) fn sign(
    header: &Value,
    claims: &Value,
    key: &EncodingKey,
    with: jsonwebtoken::Algorithm,
) -> String {
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, with).unwrap();
    format!("{message}.{signature}")
}

/// A token of [`ISSUER`] for `ann` that is good for a minute.
pub(super) fn token(algorithm: Algorithm, kid: Option<&str>, now: OffsetDateTime) -> String {
    let mut header = json!({"alg": name(algorithm), "typ": "JWT"});
    if let Some(kid) = kid {
        header["kid"] = json!(kid);
    }
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let key = match name(algorithm).starts_with("HS") {
        true => &secret,
        false => &pairs().of(algorithm).private,
    };
    let with = name(algorithm).parse().unwrap();
    sign(&header, &good_claims(now), key, with)
}

pub(super) fn good_claims(now: OffsetDateTime) -> Value {
    json!({"iss": ISSUER, "sub": "ann", "aud": "mizuchi", "exp": now.unix_timestamp() + 60})
}
