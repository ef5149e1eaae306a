//! R27: the machine against a reference model of a backend, 10,000 random runs with faults.
//!
//! The model knows what the machine cannot: whether an attempt was carried out. Each run is checked
//! for what must hold whatever happens, in the comments of [`run`].

use super::machine::*;
use super::restart::RestartPolicy;
use crate::s3::error::{Cause, S3Error};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

const RUNS: u64 = 10_000;
/// More steps than any run can have: each restart is Start, an end, at most a HEAD, a pause.
const MAX_STEPS: usize = 200;

/// The backend, as it really is.
#[derive(Default)]
struct Model {
    /// How often the write was carried out.
    applied: u32,
    /// An attempt was wholly sent, never answered.
    ambiguous: bool,
    /// Another's object is there from the beginning.
    foreign: bool,
    /// And is what this request would have put there.
    twin: bool,
    /// The last HEAD has told nothing.
    blind: bool,
}

fn backend_error(status: u16, code: &str) -> S3Error {
    S3Error::from_backend(status, code.to_owned(), String::new())
}

fn failed(class: FailureClass, sent: Sent, answered: Option<S3Error>, replayable: bool) -> Failure {
    Failure { class, sent, answered, replayable, cause: None }
}

/// What becomes of attempt `n`.
fn attempt(model: &mut Model, guarded: bool, n: u32, random: &mut StdRng) -> Event<()> {
    let budget = if random.random_bool(0.95) { Budget::Granted } else { Budget::Refused };
    let lost = |sent, replayable| {
        Event::Failed(n, failed(FailureClass::BackendLost, sent, None, replayable), budget)
    };
    let answered = |error, replayable| {
        let class = FailureClass::BackendAnswer;
        Event::Failed(n, failed(class, Sent::Wholly, Some(error), replayable), budget)
    };
    match random.random_range(0..12) {
        0..=7 if guarded && (model.foreign || model.applied > 0) => {
            answered(backend_error(412, "PreconditionFailed"), random.random_bool(0.9))
        }
        0 | 1 => {
            model.applied += 1;
            Event::Moved(n, ())
        }
        2 => {
            model.applied += 1;
            model.ambiguous = true;
            lost(Sent::Wholly, true)
        }
        3 => {
            model.ambiguous = true;
            lost(Sent::Wholly, true)
        }
        4 => lost(Sent::Partly, true),
        5 => lost(Sent::Nothing, true),
        6 => answered(backend_error(503, "SlowDown"), true),
        7 => {
            // 500 does not say whether it was written.
            model.applied += u32::from(random.random_bool(0.3));
            answered(backend_error(500, "InternalError"), true)
        }
        8 => answered(backend_error(403, "AccessDenied"), true),
        9 => {
            model.ambiguous = true;
            model.applied += u32::from(!model.foreign && random.random_bool(0.5));
            Event::Died(n, Sent::Wholly, budget)
        }
        10 => Event::Died(n, Sent::Partly, budget),
        _ => lost(Sent::Partly, false),
    }
}

fn run(kind: Kind, random: &mut StdRng) {
    let policy = RestartPolicy {
        max: random.random_range(0..6),
        window: Duration::from_secs(60),
        backoff_base: Duration::from_millis(50),
        backoff_cap: Duration::from_secs(5),
    };
    let (mut machine, first) = Upload::begin(kind, policy);
    let guarded = matches!(kind, Kind::GuardedPut | Kind::GuardedComplete);
    let foreign = guarded && random.random_bool(0.3);
    let twin = foreign && random.random_bool(0.3);
    let mut model = Model { foreign, twin, ..Model::default() };
    let mut now = Duration::ZERO;
    let mut starts = 0;
    let mut next = Some(first);
    for _ in 0..MAX_STEPS {
        let event = match next.take().expect("every event of a run is answered") {
            Effect::Start(n) => {
                // Attempts are numbered, none is left out, and they are bounded.
                assert_eq!(n, starts);
                assert!(starts <= policy.max);
                starts += 1;
                // A conditional write never runs into its own first attempt.
                if matches!(kind, Kind::PutObject { conditional: true } | Kind::GuardedPut) {
                    assert!(!model.ambiguous, "replayed after an ambiguous attempt");
                }
                // An unconditional one neither: it might undo a newer write.
                if kind == (Kind::PutObject { conditional: false }) {
                    assert!(!model.ambiguous, "replayed after an ambiguous attempt");
                }
                attempt(&mut model, guarded, n, random)
            }
            Effect::Pause(pause) => {
                assert!(pause <= policy.backoff_cap);
                now += pause;
                // A word of an attempt that is over changes nothing.
                let before = machine.state();
                assert_eq!(machine.step(Event::Moved(starts - 1, ()), now, 0.5), None);
                assert_eq!(machine.state(), before);
                Event::PauseOver
            }
            looking @ (Effect::Reconcile | Effect::Recognize) => {
                // Only the gateway's own condition asks whose object it is.
                assert!(looking == Effect::Reconcile || guarded);
                let is_its = model.applied > 0 || model.twin;
                let found = match (is_its, random.random_range(0..3)) {
                    (_, 0) => Reconciled::Unknown,
                    (true, _) => Reconciled::Proven(()),
                    (false, _) => Reconciled::Disproven,
                };
                model.blind = found == Reconciled::Unknown;
                Event::Reconciled(found, Budget::Granted)
            }
            Effect::Reply(result) => {
                // Never success without proof.
                if result.is_ok() {
                    let is_there = model.applied > 0 || model.twin;
                    assert!(is_there, "success, and nothing was written");
                }
                // Never refused for its own object, unless nothing could be told of it.
                if guarded && result.is_err_and(|error| error.status == 412) {
                    assert!(!model.ambiguous, "412 through its own attempt");
                    assert!(model.blind || model.applied == 0 && !model.twin);
                }
                // The reply is the end.
                assert_eq!(machine.state(), State::Finished);
                for late in [Event::PauseOver, Event::Moved(starts, ()), Event::Stop] {
                    assert_eq!(machine.step(late, now, 0.5), None);
                }
                return;
            }
        };
        next = machine.step(event, now, random.random());
    }
    panic!("{kind:?}: the run did not end");
}

#[test]
fn ten_thousand_runs_agree_with_the_model() {
    let kinds = [
        Kind::PutObject { conditional: false },
        Kind::PutObject { conditional: true },
        Kind::GuardedPut,
        Kind::UploadPart,
        Kind::Create,
        Kind::Complete,
        Kind::GuardedComplete,
        Kind::Abort,
        Kind::List,
    ];
    for seed in 0..RUNS {
        let mut random = StdRng::seed_from_u64(seed);
        let kind = kinds[random.random_range(0..kinds.len())];
        run(kind, &mut random);
    }
}

/// R10: "Complete answers 200 with `<Error>` inside: reported as an error", R11: NoSuchUpload on a
/// Complete is a question, not an answer.
#[test]
fn a_complete_whose_upload_is_gone_is_reconciled() {
    let policy = RestartPolicy {
        max: 4,
        window: Duration::from_secs(60),
        backoff_base: Duration::ZERO,
        backoff_cap: Duration::ZERO,
    };
    let gone = || {
        let error = backend_error(404, "NoSuchUpload");
        failed(FailureClass::BackendAnswer, Sent::Wholly, Some(error), true)
    };
    for (found, expected) in [
        (Reconciled::Proven(()), Ok(())),
        (Reconciled::Disproven, Err("NoSuchUpload")),
        (Reconciled::Unknown, Err("NoSuchUpload")),
    ] {
        let (mut machine, _) = Upload::begin(Kind::Complete, policy);
        let failed = Event::Failed(0, gone(), Budget::Granted);
        assert_eq!(machine.step(failed, Duration::ZERO, 0.0), Some(Effect::Reconcile));
        let effect = machine.step(Event::Reconciled(found, Budget::Granted), Duration::ZERO, 0.0);
        let Some(Effect::Reply(result)) = effect else { panic!("{effect:?}") };
        assert_eq!(
            result.as_ref().map_err(|error| error.code.as_ref()),
            expected.as_ref().map_err(|code| *code)
        );
    }
}

/// A 412 says that something is there. Where the gateway itself has asked for nothing to be there, and
/// only there, it is looked whether that is what the request makes.
#[test]
fn a_412_is_a_question_only_where_the_condition_is_the_gateway_s() {
    let policy = RestartPolicy {
        max: 4,
        window: Duration::from_secs(60),
        backoff_base: Duration::ZERO,
        backoff_cap: Duration::ZERO,
    };
    let step = |kind, error: S3Error| {
        let (mut machine, _) = Upload::begin(kind, policy);
        let failure = failed(FailureClass::BackendAnswer, Sent::Partly, Some(error), false);
        let effect = machine.step(Event::Failed(0, failure, Budget::Granted), Duration::ZERO, 0.0);
        (machine, effect)
    };
    // 400: inside a 200.
    for (status, code) in [(412, "PreconditionFailed"), (412, "X"), (400, "PreconditionFailed")] {
        let error = || backend_error(status, code);
        for kind in [
            Kind::PutObject { conditional: true },
            Kind::PutObject { conditional: false },
            Kind::Complete,
            Kind::UploadPart,
        ] {
            assert_eq!(step(kind, error()).1, Some(Effect::Reply(Err(error()))), "{kind:?}");
        }
        for kind in [Kind::GuardedPut, Kind::GuardedComplete] {
            for (found, expected) in [
                (Reconciled::Proven(()), Ok(())),
                (Reconciled::Disproven, Err(error())),
                (Reconciled::Unknown, Err(error())),
            ] {
                let (mut machine, effect) = step(kind, error());
                assert_eq!(effect, Some(Effect::Recognize), "{kind:?}");
                let event = Event::Reconciled(found, Budget::Granted);
                let effect = machine.step(event, Duration::ZERO, 0.0);
                assert_eq!(effect, Some(Effect::Reply(expected)), "{kind:?}");
            }
        }
    }
}

/// What is behind the last failure comes with the error; a backend that answers speaks for itself.
#[test]
fn the_last_cause_comes_with_the_error() {
    let policy = RestartPolicy {
        max: 2,
        window: Duration::from_secs(60),
        backoff_base: Duration::ZERO,
        backoff_cap: Duration::ZERO,
    };
    let lost = |sent, why: Option<&str>| Failure {
        cause: why.map(Cause::lasting),
        ..failed(FailureClass::BackendLost, sent, None, true)
    };
    let answered =
        failed(FailureClass::BackendAnswer, Sent::Wholly, Some(backend_error(503, "X")), true);
    let given_up = failed(FailureClass::ReplayLost, Sent::Nothing, None, false);
    let (nothing, wholly) = (Sent::Nothing, Sent::Wholly);
    for (failures, cause) in [
        ([lost(nothing, Some("a")), lost(nothing, Some("b")), lost(nothing, Some("c"))], Some("c")),
        ([lost(nothing, Some("a")), lost(nothing, Some("b")), lost(nothing, None)], Some("b")),
        ([lost(nothing, Some("a")), lost(nothing, Some("b")), given_up], Some("b")),
        ([lost(nothing, Some("a")), answered.clone(), lost(wholly, Some("c"))], Some("c")),
        ([lost(nothing, Some("a")), lost(nothing, Some("b")), answered], None),
    ] {
        let (mut machine, _) = Upload::<()>::begin(Kind::PutObject { conditional: false }, policy);
        let mut effect = None;
        for (attempt, failure) in (0..).zip(failures) {
            let event = Event::Failed(attempt, failure, Budget::Granted);
            effect = machine.step(event, Duration::ZERO, 0.0);
            if let Some(Effect::Pause(_)) = effect {
                machine.step(Event::PauseOver, Duration::ZERO, 0.0);
            }
            if effect == Some(Effect::Reconcile) {
                let unknown = Event::Reconciled(Reconciled::Unknown, Budget::Granted);
                effect = machine.step(unknown, Duration::ZERO, 0.0);
            }
        }
        let Some(Effect::Reply(Err(error))) = effect else { panic!("{effect:?}") };
        assert_eq!(error.cause.as_deref().map(Cause::text), cause);
        assert!(error.cause.is_none_or(|cause| cause.is_lasting()));
    }
}
