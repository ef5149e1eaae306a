//! When an issuer's keys are fetched: a state machine without clock or I/O.
//!
//! A fetch is due before the keys grow old, again and again after a failure, and once when a token
//! names a key that is not known: the issuer may have made it since the last fetch, or somebody makes
//! names up. So the latter is answered by one fetch for all who ask, and not again for a while.

use std::time::Duration;
use tokio::time::Instant;

/// The least time between two fetches that unknown keys have caused: a flood of made-up names costs
/// an issuer six requests a minute.
const ASKING_PAUSE: Duration = Duration::from_secs(10);

/// The wait after the first failure; doubles with each one, up to the cap: an issuer that comes back
/// is noticed within a minute.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(60);

/// How long keys are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JwksPolicy {
    /// They are fetched again when four fifths of it are over.
    pub ttl: Duration,
    /// Where no fetch succeeds they are used this long, at least `ttl`.
    pub max_stale: Duration,
}

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing, until then.
    Idle(Instant),
    /// A fetch that has been asked for.
    Wanted,
    /// A fetch.
    Fetching,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The one who fetches looks what there is to do.
    Wake,
    /// A token names a key that is not known.
    UnknownKey,
    /// The fetch has brought keys.
    Fetched,
    /// It has not.
    Failed,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing, before [`Schedule::due`].
    Nothing,
    /// Fetch, and say how it ended.
    Fetch,
    /// Whoever asked waits for the end of the next fetch.
    Wait,
    /// Whoever asked is told no.
    Refuse,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    policy: JwksPolicy,
    phase: Phase,
    failures: u32,
    /// When an unknown key last caused a fetch.
    asked: Option<Instant>,
}

impl Schedule {
    /// The first fetch is due at once.
    pub(super) fn new(policy: JwksPolicy, now: Instant) -> Self {
        Schedule { policy, phase: Phase::Idle(now), failures: 0, asked: None }
    }

    /// When the next [`Event::Wake`] has something to do; None: when one is wanted, or a fetch ends.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle(due) => Some(due),
            Phase::Wanted | Phase::Fetching => None,
        }
    }

    pub(super) fn step(self, event: Event, now: Instant) -> (Schedule, Effect) {
        let fetch = (Schedule { phase: Phase::Fetching, ..self }, Effect::Fetch);
        match (event, self.phase) {
            (Event::Wake, Phase::Idle(due)) if now >= due => fetch,
            (Event::Wake, Phase::Wanted) => fetch,
            (Event::Wake, Phase::Idle(_) | Phase::Fetching) => (self, Effect::Nothing),
            (Event::UnknownKey, Phase::Wanted | Phase::Fetching) => (self, Effect::Wait),
            (Event::UnknownKey, Phase::Idle(_)) => {
                if self.asked.is_some_and(|asked| now < asked + ASKING_PAUSE) {
                    return (self, Effect::Refuse);
                }
                (Schedule { phase: Phase::Wanted, asked: Some(now), ..self }, Effect::Wait)
            }
            (Event::Fetched, _) => {
                let phase = Phase::Idle(now + self.policy.ttl * 4 / 5);
                (Schedule { phase, failures: 0, ..self }, Effect::Nothing)
            }
            (Event::Failed, _) => {
                let wait = BACKOFF.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_CAP);
                let failures = self.failures.saturating_add(1);
                (Schedule { phase: Phase::Idle(now + wait), failures, ..self }, Effect::Nothing)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: JwksPolicy =
        JwksPolicy { ttl: Duration::from_secs(100), max_stale: Duration::from_secs(1000) };

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn keys_are_fetched_before_they_are_old_and_again_after_a_failure() {
        let start = Instant::now();
        let mut schedule = Schedule::new(POLICY, start);
        let mut at = start;
        let mut step = |event, after| {
            at += after;
            let (next, effect) = schedule.step(event, at);
            schedule = next;
            (effect, schedule.due().map(|due| due.duration_since(at)))
        };
        assert_eq!(step(Event::Wake, seconds(0)), (Effect::Fetch, None));
        for wait in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            let failed = step(Event::Failed, seconds(5));
            assert_eq!(failed, (Effect::Nothing, Some(seconds(wait))));
            let early = step(Event::Wake, seconds(wait) - Duration::from_millis(1));
            assert_eq!(early.0, Effect::Nothing);
            assert_eq!(step(Event::Wake, Duration::from_millis(1)), (Effect::Fetch, None));
        }
        assert_eq!(step(Event::Fetched, seconds(1)), (Effect::Nothing, Some(seconds(80))));
        assert_eq!(step(Event::Wake, seconds(79)).0, Effect::Nothing);
        assert_eq!(step(Event::Wake, seconds(1)).0, Effect::Fetch);
        assert_eq!(step(Event::Failed, seconds(0)).1, Some(seconds(1)), "counted anew");
    }

    #[derive(Debug, Clone, Copy)]
    enum Move {
        Wake,
        Unknown,
        End { well: bool },
    }

    fn moves() -> impl Strategy<Value = Vec<(Move, u64)>> {
        let one = prop_oneof![
            3 => Just(Move::Wake),
            3 => Just(Move::Unknown),
            1 => Just(Move::End { well: true }),
            1 => Just(Move::End { well: false }),
        ];
        proptest::collection::vec((one, 0..15_000_u64), 1..200)
    }

    proptest! {
        /// Whatever happens in whatever order: one fetch at a time; those that unknown keys cause
        /// are ten seconds apart, and whoever is told to wait is waited for; no fetch comes of
        /// nothing; what is due is done.
        #[test]
        fn a_model_agrees(moves in moves()) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(POLICY, now);
            // The model: when the next fetch is due, whether one is asked for or under way.
            let (mut due, mut wanted, mut fetching, mut row) = (now, false, false, 0_u32);
            let mut asked: Option<Instant> = None;
            for (step, pause) in moves {
                now += Duration::from_millis(pause);
                let event = match step {
                    Move::Wake => Event::Wake,
                    Move::Unknown => Event::UnknownKey,
                    Move::End { .. } if !fetching => continue,
                    Move::End { well: true } => Event::Fetched,
                    Move::End { well: false } => Event::Failed,
                };
                let (next, effect) = schedule.step(event, now);
                schedule = next;
                match event {
                    Event::Wake => {
                        let expected = !fetching && (wanted || now >= due);
                        prop_assert_eq!(effect == Effect::Fetch, expected);
                        if expected {
                            (fetching, wanted) = (true, false);
                        }
                    }
                    Event::UnknownKey => {
                        let under_way = fetching || wanted;
                        let rested = asked.is_none_or(|at| now - at >= seconds(10));
                        let expected =
                            if under_way || rested { Effect::Wait } else { Effect::Refuse };
                        prop_assert_eq!(effect, expected);
                        if !under_way && rested {
                            (wanted, asked) = (true, Some(now));
                        }
                    }
                    Event::Fetched => {
                        (fetching, row, due) = (false, 0, now + seconds(80));
                    }
                    Event::Failed => {
                        let wait = seconds([1, 2, 4, 8, 16, 32, 60][row.min(6) as usize]);
                        (fetching, row, due) = (false, row + 1, now + wait);
                    }
                }
                prop_assert_eq!(schedule.due(), (!fetching && !wanted).then_some(due));
            }
        }
    }
}
