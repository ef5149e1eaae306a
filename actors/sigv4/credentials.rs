//! The credentials that clients sign with.

use super::key::SigningKey;
use crate::grants::Grants;
use crate::secret::Secret;
use std::collections::HashMap;
use std::sync::Arc;

/// One client's credential.
#[derive(Debug, Clone)]
pub struct Credential {
    /// Public; case-sensitive.
    pub access_key: String,
    /// Its secret.
    pub secret_key: Secret,
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
        let key = |secret| SigningKey::new(secret, region.to_owned());
        let known = self.known.into_iter().map(|credential| {
            let known = KnownKey {
                access_key: Arc::from(credential.access_key.as_str()),
                principal: Arc::from(credential.principal),
                grants: credential.grants,
                key: key(credential.secret_key),
            };
            (credential.access_key, known)
        });
        KnownKeys {
            known: known.collect(),
            stranger: key(Secret::new("a secret that nobody has".to_owned())),
        }
    }
}

/// A credential, ready to verify with.
#[derive(Debug)]
pub(super) struct KnownKey {
    pub(super) access_key: Arc<str>,
    pub(super) principal: Arc<str>,
    pub(super) grants: Arc<Grants>,
    pub(super) key: SigningKey,
}

#[derive(Debug)]
pub(super) struct KnownKeys {
    known: HashMap<String, KnownKey>,
    stranger: SigningKey,
}

impl KnownKeys {
    pub(super) fn get(&self, access_key: &str) -> Option<&KnownKey> {
        self.known.get(access_key)
    }

    /// What a request with an unknown access key is verified with, in vain: the time that the
    /// answer takes then tells nothing.
    pub(super) fn stranger(&self) -> &SigningKey {
        &self.stranger
    }
}
