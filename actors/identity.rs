//! Who a request comes from, how that is known, and what its own credential lets it do.

use crate::claims::Claims;
use crate::grants::Grants;
use std::sync::Arc;

/// The principal of everyone where `auth.enabled` is false.
pub const ANONYMOUS: &str = "anonymous";

/// A principal whose authentication succeeded.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Who: in logs, policies and sealed uploadIds. 1 to 256 bytes, no control characters.
    pub principal: Arc<str>,
    /// Whose word that is: the issuer of a token, or of the token that a session came of. None: the
    /// settings'.
    pub issuer: Option<Arc<str>>,
    /// How that is known.
    pub means: Means,
    /// The claims of the token that it is known by, or that its temporary credentials came of.
    pub claims: Option<Arc<Claims>>,
    /// What the credential is good for.
    pub grants: Arc<Grants>,
}

impl Identity {
    /// Everyone, where nobody is asked.
    pub fn anonymous() -> Self {
        Identity {
            principal: Arc::from(ANONYMOUS),
            issuer: None,
            means: Means::Anonymous,
            claims: None,
            grants: Arc::new(Grants::default()),
        }
    }

    /// What its multipart uploads are sealed to: the principal, and whose word that is, since two
    /// issuers may both have an `alice`.
    pub fn owner(&self) -> Arc<str> {
        match &self.issuer {
            None => Arc::clone(&self.principal),
            // No principal has a line end in it, so that no two owners have one name.
            Some(issuer) => Arc::from(format!("{issuer}\n{}", self.principal)),
        }
    }
}

/// How a principal is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Means {
    /// Not at all: `auth.enabled` is false.
    Anonymous,
    /// SigV4 in the Authorization header.
    Header,
    /// SigV4 in the query of a presigned URL.
    Presigned,
    /// SigV4 over the policy of a POST form.
    PostPolicy,
    /// A JSON Web Token.
    Jwt,
    /// The client's certificate (mutual TLS).
    Certificate,
}

impl Means {
    /// Its name in metrics and in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Means::Anonymous => "anonymous",
            Means::Header => "header",
            Means::Presigned => "presigned",
            Means::PostPolicy => "post-policy",
            Means::Jwt => "jwt",
            Means::Certificate => "certificate",
        }
    }
}
