//! The entrance: from a request's head to a verified token.

use super::issuer::{Issuer, VerifiedToken};
use super::reading::{Lookup as _, Names};
use super::refused::Refused;
use super::sources::TokenSources;
use super::token::Token;
use crate::claims::Claims;
use crate::grants::Grants;
use crate::http::RequestHead;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// What a bucket knows of tokens: where they may stand, and whose it takes.
#[derive(Debug)]
pub struct Authenticator {
    sources: TokenSources,
    issuers: HashMap<String, Issuer>,
    /// What of a token is read: whatever any of them has a rule about, since the token itself says
    /// whose it is.
    names: Names,
}

impl Authenticator {
    /// The issuers' names differ (of two with one name the last counts).
    pub fn new(sources: TokenSources, issuers: impl IntoIterator<Item = Issuer>) -> Self {
        let issuers = issuers.into_iter().map(|issuer| (issuer.name.to_string(), issuer));
        let issuers: HashMap<_, _> = issuers.collect();
        let of_rules = issuers.values().flat_map(|issuer| issuer.rules.names());
        let names = Names::new(std::iter::once("iss").chain(of_rules));
        Authenticator { sources, issuers, names }
    }

    /// The issuer of this name.
    pub fn issuer(&self, name: &str) -> Option<&Issuer> {
        self.issuers.get(name)
    }

    /// All issuers, in no order.
    pub fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.values()
    }

    /// The names of the query parameters that a token may stand in.
    pub fn query_parameters(&self) -> Vec<&str> {
        self.sources.query_parameters()
    }

    /// The token that a request carries; None: it carries none.
    ///
    /// Errors: 400 InvalidArgument (two, or one and a signature), 400 InvalidToken (not text), 403
    /// AccessDenied (a cookie from another site).
    pub fn find_token(&self, head: &RequestHead) -> Result<Option<String>, Refused> {
        self.sources.find(head)
    }

    /// What a session may do that was given for a token of `issuer`, whose keys were `origin`; None: it is
    /// not honoured. The claims are held against the rules here, since the token may have been
    /// verified for another bucket, whose rules for the same issuer are others.
    pub fn honours(
        &self,
        issuer: &str,
        origin: &str,
        claims: &Claims,
        principal: &str,
        now: OffsetDateTime,
    ) -> Option<Arc<Grants>> {
        let issuer = self.issuers.get(issuer).filter(|issuer| issuer.keys.origin() == origin)?;
        let (named, _) = issuer.rules.check(claims.map()?, now).ok()?;
        (*named == *principal).then(|| Arc::clone(&issuer.grants))
    }

    /// Verifies a token at `now`. Waits, at most two seconds, only where a key has to be fetched.
    ///
    /// Errors: 400 InvalidToken, ExpiredToken; 403 AccessDenied; 503 ServiceUnavailable (the
    /// issuer's keys are not known).
    pub async fn verify_token(
        &self,
        text: &str,
        now: OffsetDateTime,
    ) -> Result<VerifiedToken, Refused> {
        let token = Token::parse(text, &self.names)?;
        let issuer = token.claims.claim("iss").and_then(Value::as_str);
        let Some(issuer) = issuer.and_then(|name| self.issuers.get(name)) else {
            return Err(Refused::denied("the token's issuer is not one that is trusted here"));
        };
        issuer.verify(token, now).await
    }
}
