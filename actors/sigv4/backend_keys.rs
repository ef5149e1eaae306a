//! The keys that requests to a backend are signed with: fixed, or temporary ones that somebody
//! replaces before they expire.
//!
//! A reader takes a snapshot, a whole [`Signer`] with its signing key kept, and never waits for the
//! one who replaces it: a request is signed with one set of keys, whatever comes meanwhile.

use super::Signer;
use crate::secret::Secret;
use arc_swap::ArcSwapOption;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::sync::Notify;

/// What a backend answers to keys that it does not take, or not any more: the gateway's own, since the
/// client's end here.
const REFUSALS: [&str; 4] =
    ["ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"];

/// There are no keys, or they have expired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NoKeys {
    /// Why there are no newer ones, where that is known.
    why: Option<Arc<str>>,
}

impl fmt::Display for NoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there are no valid credentials for the backend")?;
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}

/// The keys of one source in one region.
#[derive(Debug)]
pub struct BackendKeys {
    region: String,
    current: ArcSwapOption<Snapshot>,
    /// Why the last try to replace them came to nothing.
    problem: Mutex<Option<Arc<str>>>,
    doubt: Notify,
}

#[derive(Debug)]
struct Snapshot {
    signer: Arc<Signer>,
    expires: Option<OffsetDateTime>,
}

impl BackendKeys {
    /// Keys for this region that are yet to come.
    pub fn awaited(region: String) -> Self {
        let (current, problem) = (ArcSwapOption::empty(), Mutex::new(None));
        BackendKeys { region, current, problem, doubt: Notify::new() }
    }

    /// Keys that stay as they are.
    pub fn fixed(
        access_key: String,
        secret_key: Secret,
        session_token: Option<Secret>,
        region: String,
    ) -> Self {
        let keys = BackendKeys::awaited(region);
        keys.replace(access_key, secret_key, session_token, None);
        keys
    }

    /// From now on these. `expires`: None: never.
    pub fn replace(
        &self,
        access_key: String,
        secret_key: Secret,
        session_token: Option<Secret>,
        expires: Option<OffsetDateTime>,
    ) {
        let signer = Signer::new(access_key, secret_key, session_token, self.region.clone());
        let signer = Arc::new(signer);
        self.current.store(Some(Arc::new(Snapshot { signer, expires })));
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Newer ones could not be had. `why`: in words, without secrets.
    pub fn not_replaced(&self, why: &str) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
    }

    /// What to sign with now.
    ///
    /// Errors: there are no keys, or they have expired.
    pub fn signer(&self, now: OffsetDateTime) -> Result<Arc<Signer>, NoKeys> {
        match &*self.current.load() {
            Some(now_used) if now_used.expires.is_none_or(|expires| now < expires) => {
                Ok(Arc::clone(&now_used.signer))
            }
            _ => {
                let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
                Err(NoKeys { why: problem.clone() })
            }
        }
    }

    /// Looks at the code of a backend's error. True: it does not take the keys, and whoever replaces
    /// them is told.
    pub fn refused_by(&self, code: &str) -> bool {
        let refused = REFUSALS.contains(&code);
        if refused {
            self.doubt.notify_one();
        }
        refused
    }

    /// Waits for [`BackendKeys::refused_by`]; one that came before counts.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Seconds until the keys expire, 0 when they have or when there are none; None: they never do.
    pub fn seconds_left(&self, now: OffsetDateTime) -> Option<i64> {
        match &*self.current.load() {
            None => Some(0),
            Some(now_used) => {
                now_used.expires.map(|expires| (expires - now).whole_seconds().max(0))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use time::Duration;

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn keys_hold_until_they_expire_or_are_replaced() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let keys = BackendKeys::awaited("r".to_owned());
        let none = "there are no valid credentials for the backend";
        assert_eq!(keys.signer(start).unwrap_err().to_string(), none);
        keys.not_replaced("the profile a: no such profile");
        let told = keys.signer(start).unwrap_err().to_string();
        assert_eq!(told, format!("{none}: the profile a: no such profile"));
        assert_eq!(keys.seconds_left(start), Some(0));
        let expires = start + Duration::seconds(10);
        keys.replace("ONE".to_owned(), secret("1"), Some(secret("t")), Some(expires));
        let held = keys.signer(start).unwrap();
        assert_eq!(keys.seconds_left(start), Some(10));
        let told = keys.signer(expires).unwrap_err().to_string();
        assert_eq!(told, none, "not at the very instant either, and nothing has failed since");
        keys.replace("TWO".to_owned(), secret("2"), None, None);
        assert_eq!(keys.signer(expires).unwrap().access_key(), "TWO");
        assert_eq!(keys.seconds_left(expires), None);
        assert_eq!(held.access_key(), "ONE", "a request goes on with what it began with");
    }
}
