//! The compact form of a token (RFC 7515, 7.1), taken apart. Nothing of it is believed here.

use super::key::Algorithm;
use super::refused::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

/// Bytes of the longest token: longer than what issuers make (a few KiB with many groups), and no
/// longer than a head has room for.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A token that parses.
#[derive(Debug)]
pub(super) struct Token<'t> {
    /// What is signed: the first two parts, with the dot between them.
    pub(super) message: &'t str,
    /// In base64url.
    pub(super) signature: &'t str,
    /// What it says that it is signed with.
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// Believed by nobody until the signature was verified.
    pub(super) claims: Map<String, Value>,
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// Errors: InvalidToken; AccessDenied for an algorithm that is none, and for `crit`.
    pub(super) fn parse(text: &'t str) -> Result<Self, Refused> {
        if text.len() > MAX_TOKEN {
            return Err(Refused::invalid("the token is too long"));
        }
        let no_token = || Refused::invalid("there are not three parts with dots between them");
        let (message, signature) = text.rsplit_once('.').ok_or_else(no_token)?;
        let (header, claims) = message.split_once('.').ok_or_else(no_token)?;
        if claims.contains('.') {
            return Err(no_token());
        }
        let header = object(header).ok_or_else(|| Refused::invalid("its header is no JSON"))?;
        let claims = object(claims).ok_or_else(|| Refused::invalid("its claims are no JSON"))?;
        // RFC 7515, 4.1.11: "If any of the listed extension Header Parameters are not understood and
        // supported by the recipient, then the JWS is invalid." None is.
        if header.contains_key("crit") {
            return Err(Refused::denied("the token has a crit header"));
        }
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::from_name(name)
                .ok_or_else(|| Refused::denied("the token's alg is not one that is used here"))?,
            _ => return Err(Refused::invalid("the token has no alg")),
        };
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Refused::invalid("the token's kid is no text")),
        };
        Ok(Token { message, signature, algorithm, kid, claims })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
