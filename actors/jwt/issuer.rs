//! One issuer: which algorithms and keys its tokens are verified with, and what they must say.

use super::claims::ClaimRules;
use super::jwks::JwksCache;
use super::key::{Algorithm, Key};
use super::refused::Refused;
use super::token::Token;
use crate::claims::Claims;
use crate::grants::Grants;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use time::OffsetDateTime;

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
pub enum Keys {
    /// In the settings.
    Fixed(Box<Key>),
    /// Published by the issuer.
    Published(Arc<JwksCache>),
}

impl Keys {
    /// Tells these keys from others of an issuer that has the same name. For sealed sessions only:
    /// of a secret it is the digest.
    pub fn origin(&self) -> String {
        match self {
            Keys::Fixed(key) => URL_SAFE_NO_PAD.encode(key.digest()),
            Keys::Published(cache) => cache.url().to_string(),
        }
    }
}

/// An issuer whose tokens are taken.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// `iss` of its tokens, exactly.
    pub name: Arc<str>,
    /// What it signs with.
    pub algorithms: Vec<Algorithm>,
    /// What its signatures are verified with.
    pub keys: Keys,
    /// What its tokens must say.
    pub rules: ClaimRules,
    /// What its tokens are good for.
    pub grants: Arc<Grants>,
}

/// A token whose signature and claims hold.
#[derive(Debug, Clone)]
pub struct VerifiedToken {
    /// Whose word it is.
    pub issuer: Arc<str>,
    /// Who bears it: exactly the claim's value.
    pub principal: Arc<str>,
    /// All that it says.
    pub claims: Arc<Claims>,
    /// `exp`, without any leeway.
    pub expires: OffsetDateTime,
    /// What it is good for.
    pub grants: Arc<Grants>,
}

impl Issuer {
    /// Verifies a token that says it is this issuer's.
    pub(super) async fn verify(
        &self,
        token: Token<'_, '_>,
        now: OffsetDateTime,
    ) -> Result<VerifiedToken, Refused> {
        let Token { message, signature, algorithm, kid, claims, text } = token;
        if !self.algorithms.contains(&algorithm) {
            return Err(Refused::denied("the token's alg is not one of its issuer's"));
        }
        let verified = match &self.keys {
            Keys::Fixed(key) => key.verifies(message, signature, algorithm),
            Keys::Published(cache) => {
                let key = cache.key(kid.as_deref(), algorithm).await?;
                key.verifies(message, signature, algorithm)
            }
        };
        if !verified {
            return Err(Refused::denied("the token's signature is wrong"));
        }
        let (principal, expires) = self.rules.check(&claims, now)?;
        Ok(VerifiedToken {
            issuer: Arc::clone(&self.name),
            principal,
            claims: Arc::new(Claims::from_text(text)),
            expires,
            grants: Arc::clone(&self.grants),
        })
    }
}
