//! Algorithms and keys, and which goes with which (RFC 7518, RFC 8037).
//!
//! Every confusion of algorithms (HS256 "signed" with an RSA public key is the classic) comes of a
//! key without a kind of its own. Here a key is of one kind, an algorithm needs one kind, and
//! nothing is verified where they differ.
//!
//! jsonwebtoken makes a verifier anew for each signature: it has no way to keep one. Beside an RSA
//! signature that is nothing; beside an HMAC it counts, which is one line with the crates that SigV4
//! uses. So a secret is a keyed HMAC of each length, made once, and compared in constant time; public
//! keys are jsonwebtoken's.

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac};
use jsonwebtoken::DecodingKey;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Rsa;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// Bits of an RSA modulus. RFC 7518, 3.3: "A key of size 2048 bits or larger MUST be used"; what is
/// longer than the library's bound would only fail later.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Bytes of the longest HMAC: that of HS512.
const LONGEST_HMAC: usize = 64;

/// A signature's algorithm (RFC 7518, 3.1; RFC 8037, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    /// All of them, by their names.
    pub const ALL: [(&str, Algorithm); 12] = [
        ("HS256", Algorithm::HS256),
        ("HS384", Algorithm::HS384),
        ("HS512", Algorithm::HS512),
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
        ("ES256", Algorithm::ES256),
        ("ES384", Algorithm::ES384),
        ("EdDSA", Algorithm::EdDSA),
    ];

    /// The algorithm of this name, in exactly this case; `none` is not one.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Self::ALL.iter().find(|(have, _)| *have == name).map(|(_, algorithm)| *algorithm)
    }

    /// The kind of key that it needs.
    pub fn kind(self) -> KeyKind {
        match self {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => KeyKind::Secret,
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => KeyKind::Rsa,
            Algorithm::ES256 => KeyKind::P256,
            Algorithm::ES384 => KeyKind::P384,
            Algorithm::EdDSA => KeyKind::Ed25519,
        }
    }

    /// The least bytes of a secret. RFC 7518, 3.2: "A key of the same size as the hash output or
    /// larger MUST be used with this algorithm."
    pub fn least_secret(self) -> usize {
        match self {
            Algorithm::HS384 => 48,
            Algorithm::HS512 => 64,
            _ => 32,
        }
    }

    fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::HS256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::HS384 => jsonwebtoken::Algorithm::HS384,
            Algorithm::HS512 => jsonwebtoken::Algorithm::HS512,
            Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
            Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
            Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
            Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
            Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
            Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
            Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Shared with the issuer: HS256, HS384, HS512.
    Secret,
    /// RS256 to PS512.
    Rsa,
    /// ES256.
    P256,
    /// ES384.
    P384,
    /// EdDSA.
    Ed25519,
}

/// Why something is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or not of a public key.
    #[error("is not a public key in PEM: it has lines -----BEGIN PUBLIC KEY-----")]
    NotPem,
    /// A kind or a curve that no algorithm here uses.
    #[error("is neither an RSA, P-256, P-384 nor Ed25519 key")]
    Kind,
    /// Too short to be safe, or too long.
    #[error("is an RSA key of {0} bits: 2048 to 8192 are needed")]
    RsaBits(usize),
    /// A part of a JSON Web Key is missing or does not decode.
    #[error("its {0} is missing or malformed")]
    Part(&'static str),
    /// A JSON Web Key that is for something else.
    #[error("it is not for verifying signatures")]
    Use,
}

/// A key to verify with, parsed once.
#[derive(Clone)]
pub struct Key {
    kind: KeyKind,
    /// `kid` of a JSON Web Key.
    id: Option<String>,
    /// `alg` of a JSON Web Key: it is for nothing else.
    only: Option<Algorithm>,
    key: Material,
    /// SHA-256 of what it was made of.
    digest: [u8; 32],
}

/// What signatures are verified with.
#[derive(Clone)]
enum Material {
    Secret(Box<Hmacs>),
    Public(DecodingKey),
}

/// One secret, for each hash. HMAC takes a key of any length: none is ever None.
#[derive(Clone)]
struct Hmacs {
    hs256: Option<Hmac<Sha256>>,
    hs384: Option<Hmac<Sha384>>,
    hs512: Option<Hmac<Sha512>>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?}, {:?})", self.kind, self.id)
    }
}

impl Key {
    /// A secret's bytes as they stand.
    pub fn from_secret(secret: &Secret) -> Key {
        let bytes = secret.expose().as_bytes();
        let key = Material::Secret(Box::new(Hmacs {
            hs256: Hmac::new_from_slice(bytes).ok(),
            hs384: Hmac::new_from_slice(bytes).ok(),
            hs512: Hmac::new_from_slice(bytes).ok(),
        }));
        let digest = Sha256::digest(bytes).into();
        Key { kind: KeyKind::Secret, id: None, only: None, key, digest }
    }

    /// A public key in PEM: `PUBLIC KEY` (RFC 7468, 13) or `RSA PUBLIC KEY`.
    pub fn from_pem(text: &str) -> Result<Key, KeyError> {
        let pem = text.as_bytes();
        let public: PKey<Public> = match PKey::public_key_from_pem(pem) {
            Ok(key) => key,
            Err(_) => Rsa::public_key_from_pem_pkcs1(pem)
                .and_then(PKey::from_rsa)
                .map_err(|_| KeyError::NotPem)?,
        };
        let (kind, key) = match public.id() {
            Id::RSA => {
                let rsa = public.rsa().map_err(|_| KeyError::NotPem)?;
                rsa_key(&rsa.n().to_vec(), &rsa.e().to_vec())?
            }
            Id::EC => {
                let ec = public.ec_key().map_err(|_| KeyError::NotPem)?;
                let kind = match ec.group().curve_name() {
                    Some(Nid::X9_62_PRIME256V1) => KeyKind::P256,
                    Some(Nid::SECP384R1) => KeyKind::P384,
                    _ => return Err(KeyError::Kind),
                };
                let mut context =
                    openssl::bn::BigNumContext::new().map_err(|_| KeyError::NotPem)?;
                let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
                let point = ec.public_key().to_bytes(ec.group(), form, &mut context);
                (kind, DecodingKey::from_ec_der(&point.map_err(|_| KeyError::NotPem)?))
            }
            Id::ED25519 => {
                let raw = public.raw_public_key().map_err(|_| KeyError::NotPem)?;
                (KeyKind::Ed25519, DecodingKey::from_ed_der(&raw))
            }
            _ => return Err(KeyError::Kind),
        };
        let (key, digest) = (Material::Public(key), Sha256::digest(pem).into());
        Ok(Key { kind, id: None, only: None, key, digest })
    }

    /// A public JSON Web Key for signatures (RFC 7517, 4). A symmetric one is never taken: what is
    /// published is no secret.
    pub(super) fn from_jwk(jwk: &Map<String, Value>) -> Result<Key, KeyError> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        match jwk.get("use") {
            None => {}
            Some(Value::String(purpose)) if purpose == "sig" => {}
            Some(_) => return Err(KeyError::Use),
        }
        match jwk.get("key_ops") {
            None => {}
            Some(Value::Array(operations)) if operations.iter().any(|op| op == "verify") => {}
            Some(_) => return Err(KeyError::Use),
        }
        let only = match jwk.get("alg") {
            None => None,
            Some(Value::String(name)) => Some(Algorithm::from_name(name).ok_or(KeyError::Use)?),
            Some(_) => return Err(KeyError::Part("alg")),
        };
        let id = match jwk.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(KeyError::Part("kid")),
        };
        let part = |name: &'static str, length: Option<usize>| {
            let bytes = text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
            bytes
                .filter(|bytes| length.is_none_or(|length| bytes.len() == length))
                .ok_or(KeyError::Part(name))
        };
        let (kind, key) = match (text("kty"), text("crv")) {
            (Some("RSA"), _) => rsa_key(&part("n", None)?, &part("e", None)?)?,
            (Some("EC"), Some("P-256")) => {
                (KeyKind::P256, point(&part("x", Some(32))?, &part("y", Some(32))?))
            }
            (Some("EC"), Some("P-384")) => {
                (KeyKind::P384, point(&part("x", Some(48))?, &part("y", Some(48))?))
            }
            (Some("OKP"), Some("Ed25519")) => {
                (KeyKind::Ed25519, DecodingKey::from_ed_der(&part("x", Some(32))?))
            }
            _ => return Err(KeyError::Kind),
        };
        if only.is_some_and(|only| only.kind() != kind) {
            return Err(KeyError::Part("alg"));
        }
        let key = Material::Public(key);
        let digest = Sha256::digest(Value::Object(jwk.clone()).to_string()).into();
        Ok(Key { kind, id, only, key, digest })
    }

    /// What it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Tells it from other keys; never shown.
    pub(super) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether a signature of this algorithm can be by this key.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        algorithm.kind() == self.kind && self.only.is_none_or(|only| only == algorithm)
    }

    /// Whether `signature` (base64url) is this key's over `message`.
    pub(super) fn verifies(&self, message: &str, signature: &str, algorithm: Algorithm) -> bool {
        if !self.fits(algorithm) {
            return false;
        }
        let text = message.as_bytes();
        match (&self.key, algorithm) {
            (Material::Secret(hmacs), Algorithm::HS256) => is_by(&hmacs.hs256, text, signature),
            (Material::Secret(hmacs), Algorithm::HS384) => is_by(&hmacs.hs384, text, signature),
            (Material::Secret(hmacs), Algorithm::HS512) => is_by(&hmacs.hs512, text, signature),
            (Material::Secret(_), _) => false,
            (Material::Public(key), _) => {
                jsonwebtoken::crypto::verify(signature, text, key, algorithm.library())
                    .unwrap_or(false)
            }
        }
    }
}

/// Whether a signature is that of this keyed HMAC; in a time that depends on lengths alone.
fn is_by<M: Mac + Clone>(keyed: &Option<M>, text: &[u8], signature: &str) -> bool {
    let mut decoded = [0; LONGEST_HMAC];
    let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut decoded).ok();
    let signature = length.and_then(|length| decoded.get(..length));
    let (Some(keyed), Some(signature)) = (keyed, signature) else { return false };
    let mut mac = keyed.clone();
    mac.update(text);
    mac.verify_slice(signature).is_ok()
}

fn rsa_key(modulus: &[u8], exponent: &[u8]) -> Result<(KeyKind, DecodingKey), KeyError> {
    // Zeros before it would make a short one look long.
    let zeros = modulus.iter().take_while(|&&byte| byte == 0).count();
    let modulus = modulus.get(zeros..).unwrap_or_default();
    let first = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let bits = modulus.len() * 8 - first;
    if !RSA_BITS.contains(&bits) {
        return Err(KeyError::RsaBits(bits));
    }
    Ok((KeyKind::Rsa, DecodingKey::from_rsa_raw_components(modulus, exponent)))
}

/// A point in the uncompressed form (SEC 1, 2.3.3).
fn point(x: &[u8], y: &[u8]) -> DecodingKey {
    DecodingKey::from_ec_der(&[&[4], x, y].concat())
}
