//! From a verified token to a session.

use super::query::{AssumeRole, StsError};
use crate::jwt::{Authenticator, VerifiedToken};
use crate::s3::error::S3Error;
use crate::sigv4::session::{Session, SessionSealer};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Exchanges tokens for sessions.
#[derive(Debug)]
pub struct Sts {
    /// What the buckets know of tokens, each in its own way: a bucket that does not take a token itself
    /// does not honour its session either.
    pub tokens: Vec<Arc<Authenticator>>,
    /// Makes the sessions' tokens.
    pub sealer: Arc<SessionSealer>,
    /// The longest session.
    pub longest: Duration,
}

/// A session that was given out.
#[derive(Debug)]
pub struct Assumed {
    /// To whom.
    pub principal: Arc<str>,
    /// The answer's document: it holds the keys.
    pub document: String,
}

impl Sts {
    /// Answers a request, a form, at `now`.
    ///
    /// Errors: those of [`AssumeRole::parse`], of the token, and of a session that would be too large.
    pub async fn assume(
        &self,
        form: &[u8],
        now: OffsetDateTime,
        request_id: &str,
    ) -> Result<Assumed, StsError> {
        let asked = AssumeRole::parse(form)?;
        let (token, origin) = self.verify(asked.token.expose(), now).await?;
        let (access_key, secret_key) = SessionSealer::new_keys(&random());
        let session = Session {
            access_key,
            secret_key,
            principal: Arc::clone(&token.principal),
            issuer: token.issuer.to_string(),
            origin,
            claims: token.claims,
            expires: asked.expires(now, self.longest, token.expires),
        };
        let sealed = self.sealer.seal(&session, rand::random())?;
        let audience = match session.claims.map().and_then(|claims| claims.get("aud")) {
            Some(Value::Array(list)) => list.first().and_then(Value::as_str),
            other => other.and_then(Value::as_str),
        };
        let document = asked.document(&session, &sealed, audience.unwrap_or_default(), request_id);
        Ok(Assumed { principal: token.principal, document })
    }

    /// The token, and which keys it was verified with, as the first bucket knows it that takes it.
    async fn verify(
        &self,
        token: &str,
        now: OffsetDateTime,
    ) -> Result<(VerifiedToken, String), StsError> {
        let mut told: Option<S3Error> = None;
        for tokens in &self.tokens {
            match tokens.verify_token(token, now).await {
                Ok(verified) => {
                    let issuer = tokens.issuer(&verified.issuer);
                    let origin = issuer.map(|issuer| issuer.keys.origin());
                    return Ok((verified, origin.unwrap_or_default()));
                }
                Err(refused) => {
                    log::debug!("no session: {}", refused.reason);
                    // What may be tried again is worth more than what one bucket refuses.
                    let told = told.get_or_insert_with(|| refused.error.clone());
                    if refused.error.retryable {
                        *told = refused.error;
                    }
                }
            }
        }
        Err(told.map_or_else(StsError::not_served, |error| StsError::of_token(&error)))
    }
}

fn random() -> [u8; 46] {
    let mut bytes = [0; 46];
    rand::Rng::fill(&mut rand::rng(), &mut bytes[..]);
    bytes
}
