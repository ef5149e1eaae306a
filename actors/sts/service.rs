//! From a verified token to a session.

use super::query::{AssumeRole, StsError};
use crate::jwt::Authenticator;
use crate::sigv4::session::{Session, SessionSealer};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Exchanges tokens for sessions.
#[derive(Debug)]
pub struct Sts {
    /// Every issuer whose tokens some bucket takes.
    pub tokens: Authenticator,
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
        let token =
            self.tokens.verify_token(asked.token.expose(), now).await.map_err(|refused| {
                log::debug!("no session: {}", refused.reason);
                StsError::of_token(&refused.error)
            })?;
        let (access_key, secret_key) = SessionSealer::new_keys(&random());
        let session = Session {
            access_key,
            secret_key,
            principal: Arc::clone(&token.principal),
            issuer: token.issuer.to_string(),
            claims: token.claims,
            expires: asked.expires(now, self.longest, token.expires),
        };
        let sealed = self.sealer.seal(&session, rand::random())?;
        let audience = match session.claims.get("aud") {
            Some(Value::Array(list)) => list.first().and_then(Value::as_str),
            other => other.and_then(Value::as_str),
        };
        let document = asked.document(&session, &sealed, audience.unwrap_or_default(), request_id);
        Ok(Assumed { principal: token.principal, document })
    }
}

fn random() -> [u8; 46] {
    let mut bytes = [0; 46];
    rand::Rng::fill(&mut rand::rng(), &mut bytes[..]);
    bytes
}
