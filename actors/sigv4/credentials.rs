//! The credentials that clients sign with: those of the settings, which may be replaced while
//! requests are verified, and those of sessions.

use super::key::SigningKey;
use super::session::{Session, SessionError, SessionSealer};
use crate::grants::Grants;
use crate::identity::Identity;
use crate::jwt::Authenticator;
use crate::s3::error::{ErrorCode, S3Error};
use crate::secret::Secret;
use std::collections::HashMap;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

/// One client's credential.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Public; case-sensitive.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Secret,
    /// Of temporary credentials: what a request must bring along with its signature.
    pub session_token: Option<Secret>,
    /// Who signs with it.
    pub principal: String,
    /// What it is good for.
    pub grants: Arc<Grants>,
}

/// Every credential of a bucket, by access key.
#[derive(Debug)]
pub struct Credentials {
    known: Vec<Credential>,
}

impl Credentials {
    /// The given credentials; of two with one access key the last counts.
    pub fn new(known: impl IntoIterator<Item = Credential>) -> Self {
        Credentials { known: known.into_iter().collect() }
    }

    /// With their signing keys, for one region.
    pub(super) fn in_region(self, region: &str) -> KnownKeys {
        let known = self.known.into_iter().map(|credential| {
            let known = KnownKey {
                access_key: Arc::from(credential.access_key.as_str()),
                session_token: credential.session_token,
                principal: Arc::from(credential.principal),
                grants: credential.grants,
                key: SigningKey::new(credential.secret_key, region.to_owned()),
            };
            (credential.access_key, Arc::new(known))
        });
        KnownKeys { known: known.collect() }
    }
}

/// The sessions that a bucket honours.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Opens their tokens.
    pub sealer: Arc<SessionSealer>,
    /// The issuers whose tokens the bucket takes. A session of another issuer is none here.
    pub issuers: Arc<Authenticator>,
}

/// A credential, ready to verify with.
#[derive(Debug)]
pub(super) struct KnownKey {
    access_key: Arc<str>,
    session_token: Option<Secret>,
    principal: Arc<str>,
    grants: Arc<Grants>,
    key: SigningKey,
}

#[derive(Debug)]
pub(super) struct KnownKeys {
    known: HashMap<String, Arc<KnownKey>>,
}

/// Whose signature a request bears, if it is right.
pub(super) enum Signatory<'k> {
    Known(Arc<KnownKey>),
    Session(Box<(Session, SigningKey, Arc<Grants>)>),
    /// Nobody: what the request is verified with in vain, so that the time that the answer takes
    /// tells nothing.
    Stranger(&'k SigningKey),
}

impl Signatory<'_> {
    /// Finds whom an access key and a session token name.
    ///
    /// Errors: 400 InvalidToken, ExpiredToken.
    pub(super) fn find<'k>(
        known: &KnownKeys,
        sessions: Option<&Sessions>,
        stranger: &'k SigningKey,
        access_key: &str,
        token: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Signatory<'k>, S3Error> {
        match (known.known.get(access_key), token) {
            (Some(known), None) if known.session_token.is_none() => {
                Ok(Signatory::Known(Arc::clone(known)))
            }
            (Some(known), Some(token)) => match &known.session_token {
                Some(expected) if same_text(expected.expose(), token) => {
                    Ok(Signatory::Known(Arc::clone(known)))
                }
                _ => Err(invalid_token()),
            },
            // A temporary access key means nothing without its token.
            (_, None) => Ok(Signatory::Stranger(stranger)),
            (None, Some(token)) => {
                let sessions = sessions.ok_or_else(invalid_token)?;
                let session = sessions.sealer.open(token, now).map_err(|error| match error {
                    SessionError::Expired => {
                        let message = "The provided token has expired.";
                        S3Error::new(ErrorCode::ExpiredToken, message)
                    }
                    SessionError::Invalid | SessionError::TooLarge => invalid_token(),
                })?;
                let Session { issuer, origin, claims, principal, .. } = &session;
                let grants = sessions.issuers.honours(issuer, origin, claims, principal, now);
                let grants = grants.ok_or_else(invalid_token)?;
                if session.access_key != access_key {
                    return Err(invalid_token());
                }
                let region = stranger.region().to_owned();
                let key = SigningKey::new(session.secret_key.clone(), region);
                Ok(Signatory::Session(Box::new((session, key, grants))))
            }
        }
    }

    /// What the signature is verified with.
    pub(super) fn key(&self) -> &SigningKey {
        match self {
            Signatory::Known(known) => &known.key,
            Signatory::Session(session) => &session.1,
            Signatory::Stranger(key) => key,
        }
    }

    /// The access key and who it is, after the signature was found right.
    ///
    /// Errors: 403 InvalidAccessKeyId for a stranger.
    pub(super) fn identity(
        self,
        means: crate::identity::Means,
    ) -> Result<(Arc<str>, Identity), S3Error> {
        match self {
            Signatory::Known(known) => {
                let identity = Identity {
                    principal: Arc::clone(&known.principal),
                    issuer: None,
                    means,
                    claims: None,
                    grants: Arc::clone(&known.grants),
                };
                Ok((Arc::clone(&known.access_key), identity))
            }
            Signatory::Session(session) => {
                let (session, _, grants) = *session;
                let identity = Identity {
                    principal: session.principal,
                    issuer: Some(Arc::from(session.issuer)),
                    means,
                    claims: Some(session.claims),
                    grants,
                };
                Ok((Arc::from(session.access_key), identity))
            }
            Signatory::Stranger(_) => Err(S3Error::new(
                ErrorCode::InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records.",
            )),
        }
    }

    /// Whether nobody is named.
    pub(super) fn is_stranger(&self) -> bool {
        matches!(self, Signatory::Stranger(_))
    }
}

/// Compares in a time that tells the length alone.
fn same_text(expected: &str, given: &str) -> bool {
    expected.as_bytes().ct_eq(given.as_bytes()).into()
}

fn invalid_token() -> S3Error {
    let message = "The provided token is malformed or otherwise not valid.";
    S3Error::new(ErrorCode::InvalidToken, message)
}
