//! The entrance: from a request's head to a verified token.

use super::issuer::{Issuer, VerifiedToken};
use super::refused::Refused;
use super::sources::TokenSources;
use super::token::Token;
use crate::http::RequestHead;
use serde_json::Value;
use std::collections::HashMap;
use time::OffsetDateTime;

/// What a bucket knows of tokens: where they may stand, and whose it takes.
#[derive(Debug)]
pub struct Authenticator {
    sources: TokenSources,
    issuers: HashMap<String, Issuer>,
}

impl Authenticator {
    /// The issuers' names differ (of two with one name the last counts).
    pub fn new(sources: TokenSources, issuers: impl IntoIterator<Item = Issuer>) -> Self {
        let issuers = issuers.into_iter().map(|issuer| (issuer.name.to_string(), issuer));
        Authenticator { sources, issuers: issuers.collect() }
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

    /// Verifies a token at `now`. Waits, at most two seconds, only where a key has to be fetched.
    ///
    /// Errors: 400 InvalidToken, ExpiredToken; 403 AccessDenied; 503 ServiceUnavailable (the
    /// issuer's keys are not known).
    pub async fn verify_token(
        &self,
        text: &str,
        now: OffsetDateTime,
    ) -> Result<VerifiedToken, Refused> {
        let token = Token::parse(text)?;
        let issuer = token.claims.get("iss").and_then(Value::as_str);
        let Some(issuer) = issuer.and_then(|name| self.issuers.get(name)) else {
            return Err(Refused::denied("the token's issuer is not one that is trusted here"));
        };
        issuer.verify(token, now).await
    }
}
