//! One issuer's published keys, for all threads: read from a snapshot, fetched by one task.

use super::super::key::{Algorithm, Key};
use super::super::refused::Refused;
use super::schedule::{Effect, Event, JwksPolicy, Schedule};
use super::{Found, KeySet};
use crate::outbound::{Limits, Outbound, ServiceUrl};
use arc_swap::ArcSwapOption;
use prometheus::IntCounterVec;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

/// One fetch. A key set has a few KiB, and comes from a service that is made for being asked.
const LIMITS: Limits = Limits { time: Duration::from_secs(5), bytes: 1 << 20 };

/// How long a request waits for a fetch: shorter than the fetch's own limit, since its client waits
/// too, and the next request finds what this one has begun.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests that wait for one issuer at a time. Each holds an admission permit, and none has shown
/// who it is: without a bound an issuer that hangs would let strangers take every permit.
const MAX_WAITING: usize = 256;

/// See the module. Buckets whose issuers publish in one place share it.
#[derive(Debug)]
pub struct JwksCache {
    url: ServiceUrl,
    outbound: Arc<Outbound>,
    policy: JwksPolicy,
    schedule: Mutex<Schedule>,
    snapshot: ArcSwapOption<Snapshot>,
    /// A fetch is asked for.
    wanted: Notify,
    /// Fetches that have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
}

#[derive(Debug)]
struct Snapshot {
    keys: KeySet,
    fetched: Instant,
}

impl JwksCache {
    /// Where the keys are published.
    pub fn url(&self) -> &ServiceUrl {
        &self.url
    }

    /// An empty one: nothing is fetched until [`JwksCache::keep`] runs.
    pub fn new(url: ServiceUrl, outbound: Arc<Outbound>, policy: JwksPolicy) -> Arc<Self> {
        Arc::new(JwksCache {
            url,
            outbound,
            policy,
            schedule: Mutex::new(Schedule::new(policy, Instant::now())),
            snapshot: ArcSwapOption::empty(),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// Fetches when it is due or asked for, for as long as it is polled: one task of the process
    /// does, and whoever spawned it ends it. `fetches` counts by result.
    pub async fn keep(self: Arc<Self>, fetches: IntCounterVec) {
        let mut well = false;
        loop {
            match self.step(Event::Wake) {
                (Effect::Fetch, _) => {
                    let ended = self.fetch().await;
                    if ended == Event::Fetched && !well {
                        log::info!("{}: the issuer's keys are here", self.url);
                    }
                    well = ended == Event::Fetched;
                    let result = if ended == Event::Fetched { "fetched" } else { "failed" };
                    fetches.with_label_values(&[result]).inc();
                    self.step(ended);
                    self.ended.send_modify(|count| *count += 1);
                }
                (_, Some(due)) => {
                    tokio::select! {
                        () = sleep_until(due) => {}
                        () = self.wanted.notified() => {}
                    }
                }
                (_, None) => self.wanted.notified().await,
            }
        }
    }

    /// The key that a token names.
    ///
    /// Errors: 403 AccessDenied; 503 ServiceUnavailable: no keys yet, only old ones, or too many wait
    /// for them.
    pub(in super::super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<Key>, Refused> {
        if let Some(key) = self.look(kid, algorithm)? {
            return Ok(key);
        }
        let unknown = || Refused::denied("the token's kid is not one of its issuer's");
        // Listening begins before the second look: what ends in between is in the one or the other.
        let mut ended = self.ended.subscribe();
        if let Some(key) = self.look(kid, algorithm)? {
            return Ok(key);
        }
        match self.step(Event::UnknownKey).0 {
            Effect::Wait => self.wanted.notify_one(),
            Effect::Refuse | Effect::Fetch | Effect::Nothing => return Err(unknown()),
        }
        let Ok(_turn) = self.waiting.try_acquire() else {
            return Err(Refused::undecided("too many requests wait for the issuer's keys"));
        };
        let _ = timeout(PATIENCE, ended.changed()).await;
        self.look(kid, algorithm)?.ok_or_else(unknown)
    }

    fn look(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Option<Arc<Key>>, Refused> {
        let snapshot = self.snapshot.load();
        let Some(snapshot) = snapshot.as_ref() else {
            return Err(Refused::undecided("the issuer's keys have not been fetched yet"));
        };
        if snapshot.fetched.elapsed() > self.policy.max_stale {
            return Err(Refused::undecided("the issuer's keys are older than max_stale_seconds"));
        }
        match snapshot.keys.find(kid, algorithm) {
            Found::Key(key) => Ok(Some(key)),
            Found::Unknown => Ok(None),
            Found::Unusable(reason) => Err(Refused::denied(reason)),
        }
    }

    fn step(&self, event: Event) -> (Effect, Option<Instant>) {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, effect) = schedule.step(event, Instant::now());
        *schedule = next;
        (effect, next.due())
    }

    /// Fetches once. In a task of its own: a panic over somebody's document is a fetch that failed,
    /// and not the end of all that would come after it.
    async fn fetch(&self) -> Event {
        let (outbound, url) = (Arc::clone(&self.outbound), self.url.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let document = outbound.get(&url, LIMITS).await.map_err(|error| error.to_string())?;
            KeySet::parse(&document).map_err(|error| error.to_string())
        });
        let fetched = match tasks.join_next().await {
            Some(Ok(fetched)) => fetched,
            Some(Err(_)) | None => Err("reading them failed; this is a bug".to_owned()),
        };
        let url = &self.url;
        match fetched {
            Ok(keys) => {
                if keys.is_empty() {
                    log::warn!("{url}: the issuer publishes no key that can be used");
                } else {
                    log::debug!("{url}: {} keys", keys.len());
                }
                let fetched = Instant::now();
                self.snapshot.store(Some(Arc::new(Snapshot { keys, fetched })));
                Event::Fetched
            }
            Err(error) => {
                log::warn!("{url}: the issuer's keys could not be fetched: {error}");
                Event::Failed
            }
        }
    }
}
