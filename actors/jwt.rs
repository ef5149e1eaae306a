//! JSON Web Tokens as credentials (RFC 7519, RFC 7515, RFC 8725).
//!
//! A token is somebody else's word for who a client is, so all that decides is fixed beforehand: the
//! issuers, each with its algorithms and its keys. The token chooses among them (by `iss` and `kid`)
//! and brings nothing of its own: `jku`, `x5u`, `jwk` and `x5c` are not looked at, `crit` is refused,
//! and an algorithm counts only where the issuer has it and the key is of its kind. The signature is
//! verified before any claim is believed, and the claims are checked here, against a time that is an
//! argument: the library's own validation reads the system's clock.

mod authenticator;
mod claims;
mod issuer;
mod jwks;
mod key;
mod reading;
mod refused;
mod sources;
mod token;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use authenticator::Authenticator;
pub use claims::{ClaimRules, Expected};
pub use issuer::{Issuer, Keys, VerifiedToken};
pub use jwks::{JwksCache, JwksPolicy, KeySet};
pub use key::{Algorithm, Key, KeyError, KeyKind};
pub use refused::Refused;
pub use sources::{TokenSource, TokenSources};
pub use token::MAX_TOKEN;
