//! The keys that an issuer publishes: a JSON Web Key Set (RFC 7517, 5).

mod cache;
mod schedule;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;

pub use cache::JwksCache;
pub use schedule::JwksPolicy;

use super::key::{Algorithm, Key, KeyError};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Keys of one set: issuers publish two to five. More would make every look-up long.
const MAX_KEYS: usize = 64;

/// Why a document is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or without a list of keys.
    #[error("it is not a JSON Web Key Set")]
    Malformed,
    /// More keys than are read.
    #[error("it holds more than {MAX_KEYS} keys")]
    TooMany,
}

/// The keys of a set that signatures can be verified with.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Arc<Key>>,
}

/// What a set says of a key.
#[derive(Debug)]
pub(super) enum Found {
    /// This one.
    Key(Arc<Key>),
    /// It has none of that name: a newer set may.
    Unknown,
    /// It cannot be told which, or the one of that name is for another algorithm.
    Unusable(&'static str),
}

impl KeySet {
    /// Reads a set. RFC 7517, 5: "Implementations SHOULD ignore JWKs within a JWK Set that use "kty"
    /// values that are not understood by them, that are missing required members, or for which values
    /// are out of the supported ranges."
    pub fn parse(document: &[u8]) -> Result<KeySet, KeySetError> {
        let document: Map<String, Value> =
            serde_json::from_slice(document).map_err(|_| KeySetError::Malformed)?;
        let Some(Value::Array(entries)) = document.get("keys") else {
            return Err(KeySetError::Malformed);
        };
        if entries.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut keys = Vec::new();
        for entry in entries {
            let key = entry.as_object().ok_or(KeyError::Kind).and_then(Key::from_jwk);
            match key {
                Ok(key) => keys.push(Arc::new(key)),
                Err(error) => log::debug!("a key of a key set is passed over: {error}"),
            }
        }
        Ok(KeySet { keys })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key of a token's header. One without a name is taken only if it is the only one that
    /// could be meant.
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Found {
        let mut fitting = self.keys.iter().filter(|key| key.fits(algorithm));
        let Some(kid) = kid else {
            return match (fitting.next(), fitting.next()) {
                (Some(key), None) => Found::Key(Arc::clone(key)),
                (Some(_), Some(_)) => {
                    Found::Unusable("the token has no kid, and its issuer several keys")
                }
                (None, _) => Found::Unknown,
            };
        };
        let fitting: Vec<_> = fitting.collect();
        let named: Vec<_> = fitting.iter().filter(|key| key.id() == Some(kid)).collect();
        match (named.as_slice(), fitting.as_slice()) {
            ([key], _) => Found::Key(Arc::clone(key)),
            ([_, _, ..], _) => Found::Unusable("its issuer has several keys of the token's kid"),
            ([], _) if self.keys.iter().any(|key| key.id() == Some(kid)) => {
                Found::Unusable("the key of the token's kid is not for its alg")
            }
            ([], [key]) if key.id().is_none() => Found::Key(Arc::clone(key)),
            ([], _) => Found::Unknown,
        }
    }
}
