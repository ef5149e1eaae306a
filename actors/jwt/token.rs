//! The compact form of a token (RFC 7515, 7.1), taken apart. Nothing of it is believed here.

use super::key::Algorithm;
use super::reading::{Header, Member, Names, Read};
use super::refused::Refused;
use base64_simd::URL_SAFE_NO_PAD;

/// Bytes of the longest token: longer than what issuers make (a few KiB with many groups), and no
/// longer than a head has room for.
pub const MAX_TOKEN: usize = 8 * 1024;

/// A token that parses.
#[derive(Debug)]
pub(super) struct Token<'t, 'n> {
    /// What is signed: the first two parts, with the dot between them.
    pub(super) message: &'t str,
    /// In base64url.
    pub(super) signature: &'t str,
    /// What it says that it is signed with.
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    /// Believed by nobody until the signature was verified.
    pub(super) claims: Read<'n>,
    /// All of them, in JSON.
    pub(super) text: String,
}

impl<'t, 'n> Token<'t, 'n> {
    /// Takes a token apart, for the claims of these names.
    ///
    /// Errors: InvalidToken; AccessDenied for an algorithm that is none, and for `crit`.
    pub(super) fn parse(text: &'t str, names: &'n Names) -> Result<Self, Refused> {
        if text.len() > MAX_TOKEN {
            return Err(Refused::invalid("the token is too long"));
        }
        let no_token = || Refused::invalid("there are not three parts with dots between them");
        let (message, signature) = text.rsplit_once('.').ok_or_else(no_token)?;
        let (header, claims) = message.split_once('.').ok_or_else(no_token)?;
        // A fourth part needs no look of its own: its dot would stand in the claims, and is no base64url.
        let header = decode(header).and_then(|text| Header::of(&text));
        let header = header.ok_or_else(|| Refused::invalid("its header is no JSON"))?;
        let no_json = || Refused::invalid("its claims are no JSON");
        let text = decode(claims).ok_or_else(no_json)?;
        let claims = Read::of(&text, names).ok_or_else(no_json)?;
        // RFC 7515, 4.1.11: "If any of the listed extension Header Parameters are not understood and
        // supported by the recipient, then the JWS is invalid." None is.
        if header.has_crit {
            return Err(Refused::denied("the token has a crit header"));
        }
        let algorithm = match header.alg {
            Some(Member::Text(name)) => Algorithm::from_name(&name)
                .ok_or_else(|| Refused::denied("the token's alg is not one that is used here"))?,
            _ => return Err(Refused::invalid("the token has no alg")),
        };
        let kid = match header.kid {
            None => None,
            Some(Member::Text(kid)) => Some(kid),
            Some(Member::Other) => return Err(Refused::invalid("the token's kid is no text")),
        };
        Ok(Token { message, signature, algorithm, kid, claims, text })
    }
}

/// Decodes a part (RFC 7515, 2: base64url without padding, line breaks or anything else).
fn decode(part: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode_to_vec(part).ok()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use proptest::prelude::*;

    proptest! {
        /// Two decoders of different makers take the same texts, and for the same bytes.
        #[test]
        fn base64url_is_read_strictly(
            text in "[A-Za-z0-9_-]{0,200}|[A-Za-z0-9_-]{0,70}[=+/. \n\u{e9}]{1,2}[A-Za-z0-9_-]{0,70}",
        ) {
            let plain = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&text).ok();
            prop_assert_eq!(URL_SAFE_NO_PAD.decode_to_vec(&text).ok(), plain);
        }
    }
}
