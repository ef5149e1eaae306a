//! Temporary credentials without a table: an access key, a secret key, and a session token that is
//! the whole session, sealed. Whoever holds the key (every worker, every gateway with the same
//! `server.seal_key`, also after a restart) can verify what is signed with them.
//!
//! The token is XChaCha20-Poly1305 over JSON, under a key that is derived from the one that seals
//! uploadIds, so that neither can ever be taken for the other.

use super::key::hmac;
use crate::claims::Claims;
use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Bytes of the longest session token that is made, or looked at: half of the default
/// `server.max_head`, so that the rest of a request has room.
pub const MAX_SESSION_TOKEN: usize = 8 * 1024;

/// The form of the token, and its domain: no other sealed thing opens as a session.
const DOMAIN: &[u8] = b"mizuchi session 1";

const NONCE: usize = 24;

/// Twenty characters like AWS's own: ASIA begins the access keys of temporary credentials.
const ACCESS_KEY_PREFIX: &str = "ASIA";

/// A session: what a token of an issuer was exchanged for.
#[derive(Debug, Clone)]
pub struct Session {
    /// Names the session in signatures.
    pub access_key: String,
    /// Signs.
    pub secret_key: Secret,
    /// Who it was given to.
    pub principal: Arc<str>,
    /// The issuer of the token that it was given for.
    pub issuer: String,
    /// Which keys of the issuer's that token was verified with.
    pub origin: String,
    /// That token's claims.
    pub claims: Arc<Claims>,
    /// When it ends.
    pub expires: OffsetDateTime,
}

/// What stands in the token, sealed.
#[derive(Serialize, Deserialize)]
struct Sealed {
    access_key: String,
    secret_key: String,
    principal: String,
    issuer: String,
    origin: String,
    claims: Map<String, Value>,
    expires: i64,
}

/// Why a session cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It would be over [`MAX_SESSION_TOKEN`].
    #[error("the claims are too large for a session token")]
    TooLarge,
    /// It was not sealed here, or was changed.
    #[error("the session token is not valid")]
    Invalid,
    /// It has ended.
    #[error("the session has expired")]
    Expired,
}

/// Seals and opens sessions.
pub struct SessionSealer {
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for SessionSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSealer(…)")
    }
}

impl SessionSealer {
    /// A sealer under a key of its own, derived from `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        let key = Zeroizing::new(hmac(key, &[DOMAIN]));
        SessionSealer { cipher: XChaCha20Poly1305::new((&*key).into()) }
    }

    /// A session's new keys. `random` must be random, and of this session alone.
    pub fn new_keys(random: &[u8; 46]) -> (String, Secret) {
        const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let (name, secret) = random.split_at(16);
        let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
        let access_key = ACCESS_KEY_PREFIX.chars().chain(name.iter().map(letter)).collect();
        (access_key, Secret::new(URL_SAFE_NO_PAD.encode(secret)))
    }

    /// The session token. `nonce` must be random: it is never used twice.
    pub fn seal(&self, session: &Session, nonce: [u8; NONCE]) -> Result<Secret, SessionError> {
        let sealed = Sealed {
            access_key: session.access_key.clone(),
            secret_key: session.secret_key.expose().to_owned(),
            principal: session.principal.to_string(),
            issuer: session.issuer.clone(),
            origin: session.origin.clone(),
            claims: session.claims.map().ok_or(SessionError::Invalid)?.clone(),
            expires: session.expires.unix_timestamp(),
        };
        let json = serde_json::to_vec(&sealed).map(Zeroizing::new);
        let json = json.map_err(|_| SessionError::Invalid)?;
        drop(Secret::new(sealed.secret_key));
        let payload = Payload { msg: &json, aad: DOMAIN };
        let sealed =
            self.cipher.encrypt(&nonce.into(), payload).map_err(|_| SessionError::Invalid)?;
        let token = URL_SAFE_NO_PAD.encode([&nonce[..], &sealed].concat());
        if token.len() > MAX_SESSION_TOKEN {
            return Err(SessionError::TooLarge);
        }
        Ok(Secret::new(token))
    }

    /// Opens a token, if its session has not ended at `now`.
    pub fn open(&self, token: &str, now: OffsetDateTime) -> Result<Session, SessionError> {
        let opened = self.try_open(token).ok_or(SessionError::Invalid)?;
        let expires = OffsetDateTime::from_unix_timestamp(opened.expires)
            .map_err(|_| SessionError::Invalid)?;
        if now >= expires {
            return Err(SessionError::Expired);
        }
        Ok(Session {
            access_key: opened.access_key,
            secret_key: Secret::new(opened.secret_key),
            principal: Arc::from(opened.principal),
            issuer: opened.issuer,
            origin: opened.origin,
            claims: Arc::new(Claims::from(opened.claims)),
            expires,
        })
    }

    fn try_open(&self, token: &str) -> Option<Sealed> {
        if token.len() > MAX_SESSION_TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
        let payload = Payload { msg: sealed, aad: DOMAIN };
        let json = Zeroizing::new(self.cipher.decrypt(&(*nonce).into(), payload).ok()?);
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::Duration;

    fn session(claim: &str) -> Session {
        let (access_key, secret_key) = SessionSealer::new_keys(&[7; 46]);
        let claims = Map::from_iter([("team".to_owned(), Value::from(claim))]);
        Session {
            access_key,
            secret_key,
            principal: Arc::from("alice"),
            issuer: "https://id.example".into(),
            origin: "https://id.example/keys".into(),
            claims: Arc::new(Claims::from(claims)),
            expires: OffsetDateTime::UNIX_EPOCH + Duration::seconds(100),
        }
    }

    #[test]
    fn a_session_opens_until_it_ends() {
        let sealer = SessionSealer::new(&[1; 32]);
        let token = sealer.seal(&session("blue"), [2; 24]).unwrap();
        let at = |second| OffsetDateTime::UNIX_EPOCH + Duration::seconds(second);
        let opened = sealer.open(token.expose(), at(99)).unwrap();
        assert_eq!(opened.access_key.len(), 20);
        assert_eq!(opened.secret_key.expose().len(), 40);
        assert_eq!(opened.secret_key.expose(), session("").secret_key.expose());
        assert_eq!(
            (&*opened.principal, &opened.claims.map().unwrap()["team"]),
            ("alice", &Value::from("blue"))
        );
        assert_eq!(sealer.open(token.expose(), at(100)).unwrap_err(), SessionError::Expired);
        let other = SessionSealer::new(&[3; 32]);
        assert_eq!(other.open(token.expose(), at(0)).unwrap_err(), SessionError::Invalid);
    }

    /// What is handed out must open again: a token that would not is an error at once.
    #[test]
    fn a_token_too_long_to_open_is_never_handed_out() {
        let sealer = SessionSealer::new(&[1; 32]);
        let large = session(&"x".repeat(MAX_SESSION_TOKEN));
        assert_eq!(sealer.seal(&large, [2; 24]).unwrap_err(), SessionError::TooLarge);
    }

    proptest! {
        #[test]
        fn no_changed_token_opens(at in 0usize..400, byte in "[A-Za-z0-9_-]") {
            let sealer = SessionSealer::new(&[1; 32]);
            let token = sealer.seal(&session("blue"), [2; 24]).unwrap().expose().to_owned();
            let at = at % (token.len() - 1);
            let changed = format!("{}{byte}{}", &token[..at], &token[at + 1..]);
            let opened = sealer.open(&changed, OffsetDateTime::UNIX_EPOCH);
            prop_assert_eq!(opened.is_ok(), changed == token);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            let sealer = SessionSealer::new(&[1; 32]);
            prop_assert!(sealer.open(&text, OffsetDateTime::UNIX_EPOCH).is_err());
        }
    }
}
