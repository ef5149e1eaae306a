//! What all worker threads know of one endpoint: whether it answers, and how many retries it may
//! still be asked for.
//!
//! Health only orders the endpoints, it never refuses one: with every endpoint failing, an attempt
//! at the likeliest is worth more than an error. What keeps retries from burying a backend that is
//! down is the [`RetryBudget`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an endpoint is avoided after its first failure: about one round trip to a region far
/// away, so that the immediate retry goes elsewhere.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// The longest time for which it is avoided: one that has come back is used again within this.
const BACKOFF_CAP: Duration = Duration::from_secs(10);

/// Doublings of [`BACKOFF_BASE`] that reach [`BACKOFF_CAP`].
const BACKOFF_DOUBLINGS: u32 = 7;

/// Whether an endpoint answers.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    state: Mutex<Health>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Health {
    failures: u32,
    avoid_until: Option<Instant>,
}

impl EndpointHealth {
    /// One that has not failed yet.
    pub fn new() -> Self {
        EndpointHealth::default()
    }

    /// A connection or an exchange failed at `now`. The endpoint is avoided for a time that
    /// doubles with each failure in a row; `jitter`, uniform over all of u32, spreads it over
    /// the upper half.
    ///
    /// Failures while it is avoided already count as that one: the hundred parts that were under
    /// way when a backend died are one event.
    pub fn failed(&self, now: Instant, jitter: u32) {
        let mut health = lock(&self.state);
        if health.avoid_until.is_some_and(|until| now < until) {
            return;
        }
        let doublings = health.failures.min(BACKOFF_DOUBLINGS);
        let longest = BACKOFF_BASE.saturating_mul(1 << doublings).min(BACKOFF_CAP);
        let share = f64::from(jitter) / f64::from(u32::MAX);
        *health = Health {
            failures: health.failures.saturating_add(1),
            avoid_until: Some(now + longest / 2 + (longest / 2).mul_f64(share)),
        };
    }

    /// An exchange succeeded.
    pub fn succeeded(&self) {
        *lock(&self.state) = Health::default();
    }

    /// Failures in a row, a burst counted once.
    pub fn failures(&self) -> u32 {
        lock(&self.state).failures
    }

    /// Until when the endpoint should be avoided; None: it need not be.
    pub fn avoided_until(&self, now: Instant) -> Option<Instant> {
        lock(&self.state).avoid_until.filter(|&until| now < until)
    }
}

/// The index of the endpoint for the next attempt: any that need not be avoided, chosen by `seed`
/// (uniform over all of u64), else the one whose time comes soonest. 0 if there are none.
pub fn pick_endpoint<'a>(
    endpoints: impl IntoIterator<Item = &'a EndpointHealth>,
    now: Instant,
    seed: u64,
) -> usize {
    let mut open = Vec::new();
    let mut soonest: Option<(Instant, usize)> = None;
    for (index, health) in endpoints.into_iter().enumerate() {
        match health.avoided_until(now) {
            None => open.push(index),
            Some(until) if soonest.is_none_or(|(first, _)| until < first) => {
                soonest = Some((until, index));
            }
            Some(_) => {}
        }
    }
    let chosen = seed.checked_rem(open.len() as u64).unwrap_or(0);
    let chosen = usize::try_from(chosen).unwrap_or(0);
    open.get(chosen).copied().or(soonest.map(|(_, index)| index)).unwrap_or(0)
}

/// Retries that a full budget allows at once, in thousandths: a hundred parts that were under way
/// when a connection or a backend died.
const BUDGET_CAPACITY: u64 = 100 * RETRY_COST;

/// What a retry takes, in thousandths.
const RETRY_COST: u64 = 1_000;

/// What a success gives back, in thousandths: while half of all attempts succeed or more, the
/// budget does not limit; when most fail, it does.
const SUCCESS_RETURN: u64 = RETRY_COST / 2;

/// What each millisecond gives back, in thousandths: ten retries a second, enough to notice that a
/// backend is back, and no load for one that is not.
const REFILL_PER_MILLISECOND: u64 = 10;

/// How many retries an endpoint may still be asked for: a token bucket.
#[derive(Debug)]
pub struct RetryBudget {
    state: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u64,
    refilled: Option<Instant>,
}

impl RetryBudget {
    /// A full budget.
    pub fn new() -> Self {
        RetryBudget { state: Mutex::new(Bucket { tokens: BUDGET_CAPACITY, refilled: None }) }
    }

    /// Takes one retry. False: there is none left, and the failure is final.
    #[must_use]
    pub fn try_take(&self, now: Instant) -> bool {
        let mut bucket = lock(&self.state);
        let since = *bucket.refilled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // Whole milliseconds only: the rest stays on the clock, or frequent calls would lose it.
        bucket.refilled = since.checked_add(Duration::from_millis(elapsed)).or(Some(now));
        bucket.give(elapsed.saturating_mul(REFILL_PER_MILLISECOND));
        match bucket.tokens.checked_sub(RETRY_COST) {
            Some(left) => {
                bucket.tokens = left;
                true
            }
            None => false,
        }
    }

    /// An exchange succeeded: half a retry comes back.
    pub fn succeeded(&self) {
        lock(&self.state).give(SUCCESS_RETURN);
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget::new()
    }
}

impl Bucket {
    fn give(&mut self, tokens: u64) {
        self.tokens = self.tokens.saturating_add(tokens).min(BUDGET_CAPACITY);
    }
}

/// A thread that panicked has left the state usable: every value of every field is a valid one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn wait_after(failures: u32, jitter: u32) -> Duration {
        let health = EndpointHealth::new();
        let mut now = Instant::now();
        for _ in 0..failures {
            now = health.avoided_until(now).unwrap_or(now);
            health.failed(now, jitter);
        }
        health.avoided_until(now).map_or(Duration::ZERO, |until| until - now)
    }

    /// The backoff doubles from its base to its cap; jitter moves it within the upper half.
    #[test]
    fn backoff_doubles_up_to_its_cap() {
        assert_eq!(wait_after(0, 0), Duration::ZERO);
        assert_eq!(wait_after(1, 0), 50 * MS);
        assert_eq!(wait_after(1, u32::MAX), 100 * MS);
        assert_eq!(wait_after(3, u32::MAX), 400 * MS);
        assert_eq!(wait_after(8, u32::MAX), BACKOFF_CAP);
        assert_eq!(wait_after(100, u32::MAX), BACKOFF_CAP);
        assert_eq!(wait_after(100, 0), BACKOFF_CAP / 2);
    }

    /// All that was under way when a backend died is one failure; a success forgets everything.
    #[test]
    fn a_burst_counts_once() {
        let (health, now) = (EndpointHealth::new(), Instant::now());
        (0..100).for_each(|_| health.failed(now, u32::MAX));
        assert_eq!(health.failures(), 1);
        assert_eq!(health.avoided_until(now), Some(now + 100 * MS));
        assert_eq!(health.avoided_until(now + 100 * MS), None);
        health.succeeded();
        assert_eq!((health.failures(), health.avoided_until(now)), (0, None));
    }

    /// Avoided endpoints get nothing while another is open.
    #[test]
    fn open_endpoints_share_the_load() {
        let (all, now) = ([(); 3].map(|_| EndpointHealth::new()), Instant::now());
        all[1].failed(now, 0);
        let picked: Vec<usize> = (0..4).map(|seed| pick_endpoint(&all, now, seed)).collect();
        assert_eq!(picked, [0, 2, 0, 2]);
        assert_eq!(pick_endpoint(&all, now + BACKOFF_CAP, 1), 1);
        assert_eq!(pick_endpoint(&[], now, 7), 0);
    }

    /// With all of them failing, the one whose time comes soonest is tried.
    #[test]
    fn never_refused_outright() {
        let (all, now) = ([EndpointHealth::new(), EndpointHealth::new()], Instant::now());
        all[0].failed(now, u32::MAX);
        all[1].failed(now, 0);
        for seed in 0..4 {
            assert_eq!(pick_endpoint(&all, now, seed), 1);
        }
    }

    /// Capacity 100; a success returns half a retry; ten come back a second, no more than fit.
    #[test]
    fn the_budget_runs_dry_and_refills() {
        let (budget, now) = (RetryBudget::new(), Instant::now());
        let take = |now| (0..1_000).take_while(|_| budget.try_take(now)).count();
        assert_eq!(take(now), 100);
        budget.succeeded();
        assert_eq!(take(now), 0);
        budget.succeeded();
        assert_eq!(take(now), 1);
        assert_eq!(take(now + Duration::from_secs(1)), 10);
        assert_eq!(take(now + Duration::from_secs(3_600)), 100);
        // A thread that read the clock earlier, but came later.
        assert_eq!(take(now), 0);
    }

    proptest! {
        /// Whatever the rhythm, no more is given out than capacity, time and successes allow.
        #[test]
        fn the_budget_is_never_exceeded(
            steps in proptest::collection::vec((0u64..3_000, any::<bool>()), 0..2_000),
        ) {
            let (budget, start) = (RetryBudget::new(), Instant::now());
            let (mut micros, mut taken, mut returned) = (0, 0u64, 0u64);
            for (step, success) in steps {
                micros += step;
                if success {
                    budget.succeeded();
                    returned += SUCCESS_RETURN;
                }
                taken += u64::from(budget.try_take(start + Duration::from_micros(micros)));
                let refilled = micros / 1_000 * REFILL_PER_MILLISECOND;
                prop_assert!(taken * RETRY_COST <= BUDGET_CAPACITY + returned + refilled);
            }
        }
    }
}
