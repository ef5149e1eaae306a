//! The signing key: four HMACs from the secret, the same for a whole day, so it is kept.

use super::{SERVICE, TERMINATOR};
use crate::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// HMAC-SHA-256.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// One secret's signing key in one region, kept for the day it was last asked for.
pub(super) struct SigningKey {
    secret: Secret,
    region: String,
    kept: Mutex<Option<(String, Zeroizing<[u8; 32]>)>>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl SigningKey {
    pub(super) fn new(secret: Secret, region: String) -> Self {
        SigningKey { secret, region, kept: Mutex::default() }
    }

    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// The key for `date` (YYYYMMDD).
    pub(super) fn of(&self, date: &str) -> Zeroizing<[u8; 32]> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, key)) = kept.as_ref().filter(|(day, _)| day == date) {
            return key.clone();
        }
        let first = Zeroizing::new(format!("AWS4{}", self.secret.expose()));
        let mut key = Zeroizing::new(hmac(first.as_bytes(), &[date.as_bytes()]));
        for step in [&self.region, SERVICE, TERMINATOR] {
            key = Zeroizing::new(hmac(&key[..], &[step.as_bytes()]));
        }
        *kept = Some((date.to_owned(), key.clone()));
        key
    }
}
