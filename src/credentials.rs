//! The backend's temporary credentials: fetched from where `settings::CredentialSource` says, and
//! renewed before they expire, off the way of the requests.
//!
//! One task per distinct source and region serves all buckets that have them in common. It belongs to the
//! gateway, which ends it. A source that fails ends nothing: the keys at hand are used until they expire,
//! then the buckets answer 503, and the task goes on asking.

mod fetch;
mod schedule;

use crate::settings::{BucketSettings, CredentialSource};
use fetch::{Fetched, Source};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::sigv4::BackendKeys;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a start waits for the first answers of all sources together: longer than a healthy one
/// takes, shorter than orchestrators wait for a start.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// The least time between two looks where the backend refuses what was found: it may be its own error.
const REFUSAL_PAUSE: Duration = Duration::from_secs(5);

/// Failures in a row after which a start waits no longer for a source.
const FIRST_FAILURES: u32 = 3;

/// The keys of all buckets, and the tasks that renew them.
pub(crate) struct BackendCredentials {
    metrics: Option<Metrics>,
    renewed: Vec<Renewed>,
}

/// A source with its keys.
struct Renewed {
    source: Source,
    keys: Arc<BackendKeys>,
    settled: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for Renewed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BackendCredentials {
    /// None yet. `metrics`: where renewals are counted.
    pub(crate) fn new(metrics: Option<Metrics>) -> Self {
        BackendCredentials { metrics, renewed: Vec::new() }
    }

    /// The keys of a bucket: fixed ones, or those of a task that is begun now unless another bucket
    /// has begun it.
    ///
    /// Errors: the bucket has no credentials (settings do not let that happen).
    pub(crate) fn of(&mut self, bucket: &BucketSettings) -> io::Result<Arc<BackendKeys>> {
        let region = &bucket.s3.region;
        let source = match &bucket.s3.credentials {
            Some(CredentialSource::Settings(keys) | CredentialSource::Environment(keys)) => {
                return Ok(Arc::new(BackendKeys::fixed(
                    keys.access_key.clone(),
                    keys.secret_key.clone(),
                    keys.session_token.clone(),
                    region.clone(),
                )));
            }
            Some(CredentialSource::Profile(name)) => Source::profile(name, region),
            Some(CredentialSource::WebIdentity) => Source::web_identity(region),
            Some(CredentialSource::Container) => Source::container(region),
            Some(CredentialSource::InstanceMetadata) => Source::instance_metadata(region),
            None => {
                let problem = format!("bucket {}: no backend credentials", bucket.name);
                return Err(io::Error::other(problem));
            }
        };
        if let Some(known) = self.renewed.iter().find(|known| known.source == source) {
            return Ok(Arc::clone(&known.keys));
        }
        let keys = Arc::new(BackendKeys::awaited(region.clone()));
        let (first, settled) = watch::channel(false);
        let renewing = renew(source.clone(), Arc::clone(&keys), self.metrics.clone(), first);
        let task = tokio::spawn(renewing);
        self.renewed.push(Renewed { source, keys: Arc::clone(&keys), settled, task });
        Ok(keys)
    }

    /// The keys of the command line: those of the profile, else of the whole chain, asked once now; the task
    /// that renews them is begun if they expire.
    ///
    /// Errors, in words: there are none to be had.
    pub(crate) async fn of_chain(
        &mut self,
        profile: Option<&str>,
        region: &str,
    ) -> Result<Arc<BackendKeys>, String> {
        let source = match profile {
            Some(name) => Source::profile(name, region),
            None => Source::chain(region),
        };
        let no_keys = |why| format!("no credentials from {source}: {why}");
        let found = source.fetch().await.map_err(no_keys)?;
        let now = OffsetDateTime::now_utc();
        if found.expires.is_some_and(|expires| expires <= now) {
            return Err(format!("the credentials from {source} have expired"));
        }
        let keys = Arc::new(BackendKeys::awaited(region.to_owned()));
        let Fetched { access_key, secret_key, session_token, expires } = found;
        keys.replace(access_key, secret_key, session_token, expires);
        if expires.is_some() {
            let (first, settled) = watch::channel(false);
            let renewing = renew(source.clone(), Arc::clone(&keys), self.metrics.clone(), first);
            let task = tokio::spawn(renewing);
            self.renewed.push(Renewed { source, keys: Arc::clone(&keys), settled, task });
        }
        Ok(keys)
    }

    /// Waits until each source has given keys or failed [`FIRST_FAILURES`] times, or for [`FIRST_WAIT`].
    pub(crate) async fn first(&mut self) {
        let all = async {
            for one in &mut self.renewed {
                // An error is a task that has ended: nothing to wait for.
                let _ = one.settled.wait_for(|settled| *settled).await;
            }
        };
        if tokio::time::timeout(FIRST_WAIT, all).await.is_err() {
            log::warn!("some backend credentials have not come in {} s", FIRST_WAIT.as_secs());
        }
    }
}

/// Fetches and replaces, for ever.
async fn renew(
    source: Source,
    keys: Arc<BackendKeys>,
    metrics: Option<Metrics>,
    first: watch::Sender<bool>,
) {
    let mut failures = 0;
    loop {
        let fetched = source.fetch().await;
        let now = OffsetDateTime::now_utc();
        let count = |result| {
            if let Some(metrics) = &metrics {
                metrics.credential_renewals.with_label_values(&[result]).inc();
            }
        };
        let wait = match fetched {
            Ok(new) if new.expires.is_none_or(|expires| now < expires) => {
                failures = 0;
                count("renewed");
                let until = match new.expires {
                    Some(expires) => format!("valid for {} s", (expires - now).whole_seconds()),
                    None => "which do not expire".to_owned(),
                };
                log::info!("backend credentials from {source}: {}, {until}", new.access_key);
                let wait = schedule::after_success(new.expires, now, rand::random());
                keys.replace(new.access_key, new.secret_key, new.session_token, new.expires);
                wait
            }
            failed => {
                let problem =
                    failed.err().unwrap_or_else(|| "they have expired already".to_owned());
                let left = match keys.seconds_left(now) {
                    Some(0) => "there are no valid ones left".to_owned(),
                    Some(left) => format!("those at hand are valid for {left} s"),
                    None => "those at hand do not expire".to_owned(),
                };
                count("failed");
                log::warn!("no backend credentials from {source}: {problem}; {left}");
                keys.not_replaced(&format!("none from {source}: {problem}"));
                failures += 1;
                schedule::after_failure(failures, rand::random())
            }
        };
        if failures == 0 || failures >= FIRST_FAILURES {
            first.send_replace(true);
        }
        let refused = async {
            tokio::time::sleep(REFUSAL_PAUSE).await;
            keys.doubted().await;
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = refused => {}
        }
    }
}
