//! One engine, asked with a time limit, behind a cache and a breaker. Shared by all threads, and by
//! all buckets with the same settings.
//!
//! The cache's key is everything that the engine is asked, and the policy's version where it is known.
//! Nothing less would do: a decision is a function of its whole input, and each field that a key leaves
//! out (the size, the operation, a header) is a request that is let in because another one was. What
//! sees the whole question (OPA, Rego) has the question's fields for a key, and the JSON is written
//! only where the engine is asked; OpenFGA sees less of it, and has what it is asked.
//!
//! What is asked by many at the same time is asked once. An undecided answer is told to those who
//! waited for it, and kept for nobody. What the cache holds, a change of mind at the engine reaches
//! after `cache_ttl` at the latest; a new version of Rego files at once.

use super::answer::{Answer, Ruling, Verdict};
use super::breaker::{Breaker, Change, End, FAILURES};
use super::cache_key::CacheKey;
use super::opa::Opa;
use super::openfga::OpenFga;
use super::question::Question;
use super::rego::{Policy, Rego};
use crate::metrics::Metrics;
use foldhash::fast::RandomState;
use moka::future::Cache;
use prometheus::{Histogram, IntCounter, IntGauge};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How much longer than the timeout one waits for another's question: the one who asks it is bound by
/// the timeout, and this only bounds a thread that stands still.
const GRACE: Duration = Duration::from_millis(100);

/// Who is asked.
#[derive(Debug)]
pub enum PolicyEngine {
    /// Open Policy Agent.
    Opa(Opa),
    /// Rego in this process.
    Rego(Arc<Rego>),
    /// OpenFGA.
    OpenFga(OpenFga),
}

impl PolicyEngine {
    /// Its name in the audit log and in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            PolicyEngine::Opa(_) => "opa",
            PolicyEngine::Rego(_) => "rego",
            PolicyEngine::OpenFga(_) => "openfga",
        }
    }

    /// What it will be asked, as far as it must be known to look for a decision; or the verdict, where it
    /// cannot be asked.
    fn put(&self, question: &Question<'_>) -> Result<(CacheKey, Asked), Verdict> {
        Ok(match self {
            PolicyEngine::Opa(_) => (CacheKey::of_question(question, None), Asked::Opa),
            PolicyEngine::Rego(rego) => {
                let policy = rego.policy();
                let key = CacheKey::of_question(question, Some(policy.version()));
                (key, Asked::Rego(policy))
            }
            PolicyEngine::OpenFga(openfga) => {
                let body = openfga.body(question)?;
                (CacheKey::of_text(&body), Asked::OpenFga(body))
            }
        })
    }

    async fn ask(&self, question: &Question<'_>, asked: Asked, time: Duration) -> Answer {
        // The fault of one question, not of the engine.
        let unasked =
            |error: serde_json::Error| Answer::well(Verdict::undecided(&error.to_string()));
        match (self, asked) {
            (PolicyEngine::Opa(opa), Asked::Opa) => match Opa::body(question) {
                Ok(body) => opa.ask(body, time).await,
                Err(error) => unasked(error),
            },
            (PolicyEngine::Rego(rego), Asked::Rego(policy)) => {
                match serde_json::to_string(question) {
                    Ok(input) => rego.ask(policy, input).await,
                    Err(error) => unasked(error),
                }
            }
            (PolicyEngine::OpenFga(openfga), Asked::OpenFga(body)) => openfga.ask(body, time).await,
            _ => Answer::unwell("what was to be asked is another engine's"),
        }
    }
}

/// What the key was made of and the question does not have.
enum Asked {
    Opa,
    /// The version that answers.
    Rego(Arc<Policy>),
    /// The body.
    OpenFga(String),
}

/// The bounds of an [`Authorizer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// How long one decision may take.
    pub timeout: Duration,
    /// How long one is kept; zero: not at all.
    pub cache_ttl: Duration,
    /// How many are kept.
    pub cache_entries: u64,
}

/// See the module.
pub struct Authorizer {
    engine: PolicyEngine,
    headers: Vec<String>,
    bounds: Bounds,
    cache: Cache<Box<[u8]>, Verdict, RandomState>,
    /// Of an engine that is asked over the network: in this process there is nothing to spare.
    breaker: Option<Breaker>,
    meters: Meters,
}

/// This engine's metrics: found by their labels once, and shown from the start, so that a rule over
/// them has something to look at.
struct Meters {
    allowed: IntCounter,
    denied: IntCounter,
    undecided: IntCounter,
    duration: Histogram,
    cache_hits: IntCounter,
    breakers_open: IntGauge,
}

impl Meters {
    fn new(metrics: &Metrics, by: &str) -> Self {
        let decisions = |result| metrics.authorization_decisions.with_label_values(&[by, result]);
        Meters {
            allowed: decisions("allowed"),
            denied: decisions("denied"),
            undecided: decisions("undecided"),
            duration: metrics.authorization_duration.with_label_values(&[by]),
            cache_hits: metrics.authorization_cache_hits.with_label_values(&[by]),
            breakers_open: metrics.authorization_breakers_open.with_label_values(&[by]),
        }
    }

    fn count(&self, ruling: &Ruling) {
        match ruling.verdict {
            Verdict::Allowed => self.allowed.inc(),
            Verdict::Denied { .. } => self.denied.inc(),
            Verdict::Undecided { .. } => self.undecided.inc(),
        }
        self.duration.observe(ruling.elapsed.as_secs_f64());
        if ruling.cached {
            self.cache_hits.inc();
        }
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorizer").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Authorizer {
    /// An authorizer over an engine. `headers`: the names, in lower case, of those that it sees.
    pub fn new(
        engine: PolicyEngine,
        headers: Vec<String>,
        bounds: Bounds,
        metrics: &Metrics,
    ) -> Self {
        let breaker = (!matches!(engine, PolicyEngine::Rego(_))).then(Breaker::new);
        let meters = Meters::new(metrics, engine.as_str());
        let cache = Cache::builder()
            .max_capacity(bounds.cache_entries)
            .time_to_live(bounds.cache_ttl.max(Duration::from_nanos(1)))
            .build_with_hasher(RandomState::default());
        Authorizer { engine, headers, bounds, cache, breaker, meters }
    }

    /// The headers that the engine sees.
    pub fn headers(&self) -> &[String] {
        &self.headers
    }

    /// The engine's name.
    pub fn by(&self) -> &'static str {
        self.engine.as_str()
    }

    /// Whether it may proceed. Ends within the timeout, whatever the engine does.
    pub async fn decide(&self, question: &Question<'_>) -> Ruling {
        let started = Instant::now();
        let (verdict, cached) = self.verdict(question, started + self.bounds.timeout).await;
        let ruling = Ruling { verdict, by: self.by(), cached, elapsed: started.elapsed() };
        self.meters.count(&ruling);
        ruling
    }

    /// The verdict, and whether it is another question's.
    async fn verdict(&self, question: &Question<'_>, deadline: Instant) -> (Verdict, bool) {
        let (key, asked) = match self.engine.put(question) {
            Ok(put) => put,
            Err(verdict) => return (verdict, false),
        };
        if self.bounds.cache_ttl.is_zero() {
            return (self.ask(question, asked, deadline).await, false);
        }
        if let Some(verdict) = self.cache.get(key.as_bytes()).await {
            return (verdict, true);
        }
        let asked_here = AtomicBool::new(false);
        let found = self.cache.try_get_with(key.into_bytes(), async {
            asked_here.store(true, Ordering::Relaxed);
            match self.ask(question, asked, deadline).await {
                // An error of the cache's own kind: handed to those who wait, and not kept.
                Verdict::Undecided { reason } => Err(reason),
                decided => Ok(decided),
            }
        });
        let verdict = match tokio::time::timeout_at(deadline + GRACE, found).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(reason)) => Verdict::undecided(&reason),
            Err(_) => Verdict::undecided("no decision in time"),
        };
        (verdict, !asked_here.load(Ordering::Relaxed))
    }

    /// Asks the engine itself, if the breaker lets it.
    async fn ask(&self, question: &Question<'_>, asked: Asked, deadline: Instant) -> Verdict {
        let attempt = match &self.breaker {
            None => None,
            Some(breaker) => match breaker.attempt(|change| self.note(change)) {
                Some(attempt) => Some(attempt),
                None => return Verdict::undecided("it has failed, and is not asked for a while"),
            },
        };
        let time = deadline.saturating_duration_since(Instant::now());
        let asking = self.engine.ask(question, asked, time);
        let answer = tokio::time::timeout_at(deadline, asking).await;
        let answer = answer.unwrap_or_else(|_| Answer::unwell("no decision in time"));
        if let Verdict::Undecided { reason } = &answer.verdict {
            log::debug!("authorization by {}: undecided: {reason}", self.by());
        }
        if let Some(attempt) = attempt {
            attempt.end(if answer.well { End::Answered } else { End::Failed });
        }
        answer.verdict
    }

    fn note(&self, change: Change) {
        let by = self.by();
        let open = &self.meters.breakers_open;
        match change {
            Change::Opened => {
                open.inc();
                log::error!(
                    "authorization by {by}: {FAILURES} failures in a row: its buckets answer 503"
                );
            }
            Change::Reopened(pause) => {
                log::warn!("authorization by {by}: still failing: asked again in {pause:?}");
            }
            Change::Closed => {
                open.dec();
                log::info!("authorization by {by}: decides again");
            }
        }
    }
}

impl Drop for Authorizer {
    fn drop(&mut self) {
        if self.breaker.as_ref().is_some_and(|breaker| !breaker.is_closed()) {
            self.meters.breakers_open.dec();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::question::tests::put;
    use super::*;
    use crate::backend::Authorities;
    use crate::outbound::{Outbound, ServiceUrl};
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const BOUNDS: Bounds = Bounds {
        timeout: Duration::from_secs(5),
        cache_ttl: Duration::from_secs(60),
        cache_entries: 100,
    };

    /// An OPA that takes its time for one and the same answer; the times that it was asked.
    async fn opa(
        status: &str,
        result: &str,
        bounds: Bounds,
    ) -> (Arc<Authorizer>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/data/x", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{result}",
            result.len()
        );
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = answer.clone();
                tokio::spawn(async move {
                    let _ = socket.read(&mut [0; 4096]).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        let outbound = Outbound::new(Authorities::none()).unwrap();
        let engine =
            PolicyEngine::Opa(Opa::new(outbound, ServiceUrl::parse(&url, true).unwrap(), None));
        let metrics = Metrics::new().unwrap();
        (Arc::new(Authorizer::new(engine, Vec::new(), bounds, &metrics)), asked)
    }

    #[tokio::test]
    async fn what_many_ask_at_once_is_asked_once_and_anything_else_again() {
        let (authorizer, asked) = opa("200 OK", r#"{"result": true}"#, BOUNDS).await;
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let authorizer = Arc::clone(&authorizer);
            tasks.push(tokio::spawn(async move { authorizer.decide(&put("anne", "k")).await }));
        }
        let mut fresh = 0;
        for task in tasks {
            let ruling = task.await.unwrap();
            assert_eq!(ruling.verdict, Verdict::Allowed);
            fresh += usize::from(!ruling.cached);
        }
        assert_eq!((fresh, asked.load(Ordering::Relaxed)), (1, 1));
        let mut header = put("anne", "k");
        header.headers.insert("x-a", "1".to_owned());
        for (number, question) in [
            put("bob", "k"),
            put("anne", "l"),
            Question { size: Some(4), ..put("anne", "k") },
            Question { operation: "UploadPart", ..put("anne", "k") },
            Question { bucket: "other", ..put("anne", "k") },
            Question { client_ip: "192.0.2.1".parse().ok(), ..put("anne", "k") },
            Question { authentication: "jwt", ..put("anne", "k") },
            header,
        ]
        .into_iter()
        .enumerate()
        {
            assert!(!authorizer.decide(&question).await.cached, "{question:?}");
            assert_eq!(asked.load(Ordering::Relaxed), number + 2);
            assert!(authorizer.decide(&question).await.cached, "{question:?}");
        }
    }

    #[tokio::test]
    async fn what_is_undecided_is_kept_for_nobody_until_the_breaker_opens() {
        let (authorizer, asked) = opa("500 Oh", r#"{"result": true}"#, BOUNDS).await;
        for _ in 0..FAILURES + 3 {
            let ruling = authorizer.decide(&put("anne", "k")).await;
            assert_eq!(ruling.verdict.as_str(), "undecided");
        }
        assert_eq!(asked.load(Ordering::Relaxed), FAILURES as usize);
        let open = authorizer.meters.breakers_open.clone();
        assert_eq!(open.get(), 1);
        drop(authorizer);
        assert_eq!(open.get(), 0);
    }

    /// An undefined document is the fault of one question: it must not shut out the others.
    #[tokio::test]
    async fn a_question_without_an_answer_opens_nothing() {
        let bounds = Bounds { cache_ttl: Duration::ZERO, ..BOUNDS };
        let (authorizer, asked) = opa("200 OK", "{}", bounds).await;
        for _ in 0..2 * FAILURES {
            let ruling = authorizer.decide(&put("anne", "k")).await;
            assert_eq!(ruling.verdict.as_str(), "undecided");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2 * FAILURES as usize);
    }

    #[tokio::test]
    async fn a_decision_ends_with_its_time() {
        let bounds = Bounds { timeout: Duration::from_millis(10), ..BOUNDS };
        let (authorizer, _) = opa("200 OK", r#"{"result": true}"#, bounds).await;
        let ruling = authorizer.decide(&put("anne", "k")).await;
        assert_eq!(ruling.verdict.as_str(), "undecided");
    }
}
