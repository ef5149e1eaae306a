//! Whether an engine that is asked over the network is asked at all.
//!
//! A pure machine, `(state, event, now)`: after [`FAILURES`] failures in a row it is open, and
//! nobody waits for an engine that does not answer; each time that it was open for its pause, one
//! request goes through as a probe. Its success closes the breaker, its failure doubles the pause.
//!
//! Open means undecided, so 503: a breaker never lets anybody in. Only the probe's end counts while
//! the breaker is not closed; what was asked earlier and ends later says nothing of now.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row that open it: one lost packet is not an outage.
pub const FAILURES: u32 = 5;
/// How long it is open the first time.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest that it is open between two probes: how late a recovery is seen.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everybody asks; so many failures in a row.
    Closed {
        /// Below [`FAILURES`].
        failures: u32,
    },
    /// Nobody asks until then.
    Open {
        /// When the next probe may go.
        until: Instant,
        /// How long it was to be open.
        pause: Duration,
    },
    /// One probe is on its way; nobody else asks.
    HalfOpen {
        /// How long it was open before.
        pause: Duration,
    },
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants to ask.
    Asked,
    /// An attempt has ended.
    Ended {
        /// Whether it was the probe.
        probe: bool,
        /// How.
        end: End,
    },
}

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The engine has answered, whatever it said.
    Answered,
    /// It did not, or not in a way that can be understood.
    Failed,
    /// Nobody waited for the end.
    Abandoned,
}

/// What somebody who wants to ask is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Go on.
    Go,
    /// Go on, as the probe.
    Probe,
    /// The engine is not asked.
    Refused,
}

/// One step. The leave matters to [`Event::Asked`] alone.
pub fn step(state: State, event: Event, now: Instant) -> (State, Leave) {
    match (state, event) {
        (State::Closed { .. }, Event::Asked) => (state, Leave::Go),
        (State::Open { until, pause }, Event::Asked) if now >= until => {
            (State::HalfOpen { pause }, Leave::Probe)
        }
        (State::Open { .. } | State::HalfOpen { .. }, Event::Asked) => (state, Leave::Refused),
        (State::Closed { failures }, Event::Ended { end, .. }) => {
            let next = match end {
                End::Answered => State::Closed { failures: 0 },
                End::Abandoned => state,
                End::Failed if failures + 1 < FAILURES => State::Closed { failures: failures + 1 },
                End::Failed => State::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE },
            };
            (next, Leave::Refused)
        }
        (State::HalfOpen { pause }, Event::Ended { probe: true, end }) => {
            let next = match end {
                End::Answered => State::Closed { failures: 0 },
                // It says nothing: another probe may go soon.
                End::Abandoned => State::Open { until: now + pause, pause },
                End::Failed => {
                    let pause = (pause * 2).min(LONGEST_PAUSE);
                    State::Open { until: now + pause, pause }
                }
            };
            (next, Leave::Refused)
        }
        (State::Open { .. } | State::HalfOpen { .. }, Event::Ended { .. }) => {
            (state, Leave::Refused)
        }
    }
}

/// The machine with its state, shared by all threads.
#[derive(Debug)]
pub struct Breaker(Mutex<State>);

impl Default for Breaker {
    fn default() -> Self {
        Breaker(Mutex::new(State::Closed { failures: 0 }))
    }
}

impl Breaker {
    /// A closed one.
    pub fn new() -> Self {
        Breaker::default()
    }

    fn apply(&self, event: Event) -> (State, State, Leave) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *state;
        let (after, leave) = step(before, event, Instant::now());
        *state = after;
        (before, after, leave)
    }

    /// Whether everybody asks.
    pub fn is_closed(&self) -> bool {
        matches!(*self.0.lock().unwrap_or_else(PoisonError::into_inner), State::Closed { .. })
    }

    /// Leave to ask; None while it is open. `changed` hears when it opens and closes.
    pub fn attempt<C: Fn(Change)>(&self, changed: C) -> Option<Attempt<'_, C>> {
        let probe = match self.apply(Event::Asked).2 {
            Leave::Go => false,
            Leave::Probe => true,
            Leave::Refused => return None,
        };
        Some(Attempt { breaker: self, probe, ended: false, changed })
    }
}

/// That it has opened, or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// From closed to open.
    Opened,
    /// It stays open for so long.
    Reopened(Duration),
    /// From half-open to closed.
    Closed,
}

/// One attempt: dropped without an end, it was abandoned.
#[must_use]
#[derive(Debug)]
pub struct Attempt<'b, C: Fn(Change)> {
    breaker: &'b Breaker,
    probe: bool,
    ended: bool,
    changed: C,
}

impl<C: Fn(Change)> Attempt<'_, C> {
    /// How it ended.
    pub fn end(mut self, end: End) {
        self.note(end);
    }

    fn note(&mut self, end: End) {
        self.ended = true;
        let (before, after, _) = self.breaker.apply(Event::Ended { probe: self.probe, end });
        match (before, after) {
            (State::Closed { .. }, State::Open { .. }) => (self.changed)(Change::Opened),
            (State::HalfOpen { .. }, State::Open { pause, .. }) => {
                (self.changed)(Change::Reopened(pause));
            }
            (State::HalfOpen { .. }, State::Closed { .. }) => (self.changed)(Change::Closed),
            _ => {}
        }
    }
}

impl<C: Fn(Change)> Drop for Attempt<'_, C> {
    fn drop(&mut self) {
        if !self.ended {
            self.note(End::Abandoned);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same rules, told by the whole history instead of a state: what the machine is held to.
    #[derive(Default)]
    struct Model {
        failures: u32,
        opened: Option<(Instant, Duration)>,
        probing: bool,
    }

    impl Model {
        fn asked(&mut self, now: Instant) -> Leave {
            match self.opened {
                None => Leave::Go,
                Some((at, pause)) if !self.probing && now.duration_since(at) >= pause => {
                    self.probing = true;
                    Leave::Probe
                }
                Some(_) => Leave::Refused,
            }
        }

        fn ended(&mut self, probe: bool, end: End, now: Instant) {
            match (self.opened, end) {
                (None, End::Answered) => self.failures = 0,
                (None, End::Failed) => {
                    self.failures += 1;
                    if self.failures == FAILURES {
                        self.opened = Some((now, FIRST_PAUSE));
                    }
                }
                (None, End::Abandoned) => {}
                (Some((_, pause)), _) if probe && self.probing => {
                    self.probing = false;
                    self.opened = match end {
                        End::Answered => None,
                        End::Abandoned => Some((now, pause)),
                        End::Failed => Some((now, LONGEST_PAUSE.min(pause * 2))),
                    };
                    if end == End::Answered {
                        self.failures = 0;
                    }
                }
                (Some(_), _) => {}
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Do {
        Ask,
        /// The attempt in flight with this index (modulo) ends so.
        End(usize, End),
        Wait(u64),
    }

    fn any_do() -> impl Strategy<Value = Do> {
        let end = prop_oneof![
            2 => Just(End::Answered),
            5 => Just(End::Failed),
            1 => Just(End::Abandoned)
        ];
        prop_oneof![
            4 => Just(Do::Ask),
            4 => (0..8usize, end).prop_map(|(which, end)| Do::End(which, end)),
            2 => (0..40_000u64).prop_map(Do::Wait),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Over any history: what is let through, and that there is never more than one probe, and
        /// never a pause beyond the longest.
        #[test]
        fn any_history_gives_what_the_model_gives(
            history in proptest::collection::vec(any_do(), 1..200)
        ) {
            let (mut state, mut model) = (State::Closed { failures: 0 }, Model::default());
            let mut now = Instant::now();
            let mut flying: Vec<bool> = Vec::new();
            for act in history {
                match act {
                    Do::Wait(time) => now += Duration::from_millis(time),
                    Do::Ask => {
                        let (next, leave) = step(state, Event::Asked, now);
                        state = next;
                        prop_assert_eq!(leave, model.asked(now));
                        match leave {
                            Leave::Go => flying.push(false),
                            Leave::Probe => flying.push(true),
                            Leave::Refused => {}
                        }
                    }
                    Do::End(which, end) if !flying.is_empty() => {
                        let probe = flying.remove(which % flying.len());
                        state = step(state, Event::Ended { probe, end }, now).0;
                        model.ended(probe, end, now);
                    }
                    Do::End(..) => {}
                }
                prop_assert!(flying.iter().filter(|probe| **probe).count() <= 1);
                if let State::Open { until, pause } = state {
                    prop_assert!(pause <= LONGEST_PAUSE && until <= now + pause);
                }
                if let State::Closed { failures } = state {
                    prop_assert!(failures < FAILURES);
                }
            }
        }
    }

    #[test]
    fn it_opens_probes_doubles_and_closes_again() {
        let failed = |probe| Event::Ended { probe, end: End::Failed };
        let (mut state, mut now) = (State::Closed { failures: 0 }, Instant::now());
        for _ in 0..FAILURES {
            assert_eq!(step(state, Event::Asked, now), (state, Leave::Go));
            state = step(state, failed(false), now).0;
        }
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            now += Duration::from_millis(pause * 1000 - 1);
            assert_eq!(step(state, Event::Asked, now), (state, Leave::Refused), "{pause} s");
            now += Duration::from_millis(1);
            let (probing, leave) = step(state, Event::Asked, now);
            assert_eq!(leave, Leave::Probe);
            assert_eq!(step(probing, Event::Asked, now), (probing, Leave::Refused), "one only");
            assert_eq!(step(probing, failed(false), now).0, probing, "asked before it opened");
            state = step(probing, failed(true), now).0;
        }
        now += LONGEST_PAUSE;
        let (probing, _) = step(state, Event::Asked, now);
        let (closed, _) = step(probing, Event::Ended { probe: true, end: End::Answered }, now);
        assert_eq!(closed, State::Closed { failures: 0 });
    }

    #[test]
    fn an_attempt_that_is_dropped_neither_opens_nor_closes() {
        let breaker = Breaker::new();
        for _ in 0..2 * FAILURES {
            drop(breaker.attempt(|_| ()).unwrap());
        }
        let changes = std::cell::RefCell::new(Vec::new());
        for _ in 0..FAILURES {
            breaker.attempt(|change| changes.borrow_mut().push(change)).unwrap().end(End::Failed);
        }
        assert!(breaker.attempt(|_| ()).is_none());
        assert_eq!(*changes.borrow(), [Change::Opened]);
        *breaker.0.lock().unwrap() =
            State::Open { until: Instant::now(), pause: Duration::from_secs(2) };
        drop(breaker.attempt(|_| ()).unwrap());
        assert!(breaker.attempt(|_| ()).is_none(), "an abandoned probe closes nothing");
    }
}
