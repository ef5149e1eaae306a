//! An issuer of tokens: it publishes its keys over HTTP as an OpenID provider does, signs with them,
//! and fails in every way that a test wants.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey, PointConversionForm};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// How requests for the keys are answered.
#[derive(Debug, Clone)]
pub enum Mode {
    /// With these keys.
    Keys(Vec<Value>),
    /// The connection ends.
    Down,
    /// Never.
    Hanging,
    /// With this status and text.
    Answer(u16, String),
    /// 302 to there.
    Redirect(String),
}

/// A running one.
pub struct Issuer {
    pub address: SocketAddr,
    mode: Arc<Mutex<Mode>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub async fn start(mode: Mode) -> Issuer {
        Issuer::at("127.0.0.1:0".parse().unwrap(), mode).await
    }

    pub async fn at(address: SocketAddr, mode: Mode) -> Issuer {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, asked) = (Arc::new(Mutex::new(mode)), Arc::new(AtomicUsize::new(0)));
        let issuer = Issuer { address, mode: Arc::clone(&mode), asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (mode, asked) = (Arc::clone(&mode), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    assert!(request.starts_with(b"GET /.well-known/jwks.json HTTP/1.1\r\n"));
                    let mode = mode.lock().unwrap().clone();
                    let (status, header, body) = match mode {
                        Mode::Down => return,
                        Mode::Hanging => return std::future::pending().await,
                        Mode::Keys(keys) => {
                            (200, String::new(), json!({ "keys": keys }).to_string())
                        }
                        Mode::Answer(status, body) => (status, String::new(), body),
                        Mode::Redirect(to) => (302, format!("Location: {to}\r\n"), String::new()),
                    };
                    let head = format!(
                        "HTTP/1.1 {status} X\r\nConnection: close\r\n{header}Content-Type: text/html\r\n\
                         Content-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
                });
            }
        });
        issuer
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub fn url(&self) -> String {
        url(self.address)
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Where an issuer at this address has its keys.
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}/.well-known/jwks.json")
}

/// What an issuer signs with, and its public half in both forms. The keys are made for one run.
#[derive(Clone)]
pub struct Signing {
    pub kid: String,
    pub private: EncodingKey,
    pub pem: String,
    pub jwk: Value,
}

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signing {
    fn new(
        kid: &str,
        key: PKey<Private>,
        mut jwk: Value,
        private: fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>,
    ) -> Signing {
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        Signing {
            kid: kid.to_owned(),
            private: private(&key.private_key_to_pem_pkcs8().unwrap()).unwrap(),
            pem: String::from_utf8(key.public_key_to_pem().unwrap()).unwrap(),
            jwk,
        }
    }

    pub fn rsa(kid: &str) -> Signing {
        let key = Rsa::generate(2048).unwrap();
        let (n, e) = (base64url(&key.n().to_vec()), base64url(&key.e().to_vec()));
        let jwk = json!({"kty": "RSA", "n": n, "e": e});
        Signing::new(kid, PKey::from_rsa(key).unwrap(), jwk, EncodingKey::from_rsa_pem)
    }

    fn ec(kid: &str, curve: Nid, crv: &str) -> Signing {
        let group = EcGroup::from_curve_name(curve).unwrap();
        let key = EcKey::generate(&group).unwrap();
        let mut context = BigNumContext::new().unwrap();
        let form = PointConversionForm::UNCOMPRESSED;
        let point = key.public_key().to_bytes(&group, form, &mut context).unwrap();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let jwk = json!({"kty": "EC", "crv": crv, "x": base64url(x), "y": base64url(y)});
        Signing::new(kid, PKey::from_ec_key(key).unwrap(), jwk, EncodingKey::from_ec_pem)
    }

    pub fn p256(kid: &str) -> Signing {
        Signing::ec(kid, Nid::X9_62_PRIME256V1, "P-256")
    }

    pub fn p384(kid: &str) -> Signing {
        Signing::ec(kid, Nid::SECP384R1, "P-384")
    }

    pub fn ed25519(kid: &str) -> Signing {
        let key = PKey::generate_ed25519().unwrap();
        let x = base64url(&key.raw_public_key().unwrap());
        Signing::new(
            kid,
            key,
            json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
            EncodingKey::from_ed_pem,
        )
    }

    pub fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
        token(&json!({"alg": algorithm, "typ": "JWT", "kid": self.kid}), claims, &self.private)
    }
}

/// Header and claims as they stand, signed as the header's `alg` says.
pub fn token(header: &Value, claims: &Value, key: &EncodingKey) -> String {
    let algorithm = serde_json::from_value(header["alg"].clone()).unwrap();
    signed_as(header, claims, key, algorithm)
}

/// Header and claims as they stand, signed by this algorithm, whatever the header says.
pub fn signed_as(header: &Value, claims: &Value, key: &EncodingKey, by: Algorithm) -> String {
    let part = |value: &Value| base64url(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, by).unwrap();
    format!("{message}.{signature}")
}

/// Claims of `iss` for `ann` that are good for five minutes.
pub fn claims(iss: &str) -> Value {
    let now = OffsetDateTime::now_utc().unix_timestamp();
    json!({"iss": iss, "sub": "ann", "aud": "mizuchi", "iat": now, "exp": now + 300})
}

/// A request to the bucket with these header lines (each with its CRLF), which nobody signs.
pub fn unsigned(method: &str, target: &str, lines: &str, length: usize) -> Vec<u8> {
    let head = format!("{method} /uploads/{target} HTTP/1.1\r\nHost: gateway\r\n{lines}");
    format!("{head}Content-Length: {length}\r\n\r\n").into_bytes()
}

/// The same, with a token in its Authorization header.
pub fn bearer(method: &str, target: &str, token: &str, length: usize) -> Vec<u8> {
    unsigned(method, target, &format!("Authorization: Bearer {token}\r\n"), length)
}

/// `auth.jwt` for [`super::gateway::Setup::bucket`]. JSON is YAML.
pub fn settings(jwt: &Value) -> String {
    format!("      jwt: {jwt}\n")
}

/// An issuer in the settings that publishes its keys there.
pub fn published(iss: &str, url: &str, algorithms: &[&str]) -> Value {
    json!({"issuer": iss, "algorithms": algorithms, "audience": "mizuchi", "jwks_url": url,
           "allow_insecure": true})
}
