//! What happens next to an upload: `(State, Event) → (State, Effects)`, pure.
//!
//! The one question it must never get wrong is whether a request may be sent again. One of which
//! the backend cannot have everything may. One that was wholly sent and whose answer never came is
//! [`State::Ambiguous`] until a HEAD has told: UploadPart is simply sent again (same part, the last
//! one wins), PutObject and Complete are not, and a conditional write never runs into its own first
//! attempt.
//!
//! The other is whether an object that is there already is this request's own: where the gateway itself
//! has added the condition, a 412 is [`State::Ambiguous`] too.

use super::restart::{RestartLog, RestartPolicy};
use crate::s3::error::{Cause, ErrorCode, Fault, S3Error};
use std::time::Duration;

/// What the request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PutObject. `conditional`: with If-Match or If-None-Match.
    PutObject {
        /// See the variant.
        conditional: bool,
    },
    /// PutObject that no client made conditional: the gateway has added If-None-Match
    /// (`overwrite: deny`).
    GuardedPut,
    /// UploadPart.
    UploadPart,
    /// CreateMultipartUpload.
    Create,
    /// CompleteMultipartUpload: an intent, whoever waits for its answer.
    Complete,
    /// The same under a condition that the gateway has added.
    GuardedComplete,
    /// AbortMultipartUpload: an intent.
    Abort,
    /// ListParts.
    List,
    /// Nothing is sent: a part is taken from the client, to see how long it is.
    Take,
}

impl Kind {
    /// Whether it is a CompleteMultipartUpload.
    pub fn completes(self) -> bool {
        matches!(self, Kind::Complete | Kind::GuardedComplete)
    }

    /// Whether the condition on it is the gateway's own.
    fn is_guarded(self) -> bool {
        matches!(self, Kind::GuardedPut | Kind::GuardedComplete)
    }
}

/// How much of the request the backend can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Nothing.
    Nothing,
    /// Not everything.
    Partly,
    /// Everything.
    Wholly,
}

/// What kind of failure ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureClass {
    /// The client's: never retried.
    Client,
    /// The backend answered an error.
    BackendAnswer,
    /// The backend's connection failed without a usable answer.
    BackendLost,
    /// The replay buffer was given up: the part cannot be sent again.
    ReplayLost,
    /// The gateway's own.
    GatewayInternal,
}

impl FailureClass {
    /// The label of `mizuchi_part_restarts_total{cause}`.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureClass::Client => "client",
            FailureClass::BackendAnswer => "backend_answer",
            FailureClass::BackendLost => "backend_lost",
            FailureClass::ReplayLost => "replay_lost",
            FailureClass::GatewayInternal => "internal",
        }
    }
}

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub class: FailureClass,
    /// How much was sent.
    pub sent: Sent,
    /// The error to answer with, where there is one: the client's own fault, or the backend's word.
    pub answered: Option<S3Error>,
    /// Whether everything that was taken from the client is still kept.
    pub replayable: bool,
    /// What is behind it, where there is no answer that says so.
    pub cause: Option<Cause>,
}

/// What a HEAD has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven {
    /// The object there is the one that was sent.
    Yes {
        /// Its ETag, quoted as the backend has it.
        etag: Option<String>,
        /// Its version.
        version_id: Option<String>,
    },
    /// Another object is there, or none.
    No,
    /// Nothing could be shown.
    Unknown,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Attempt `n` is under way.
    Moving(u32),
    /// Attempt `n` waits for its turn.
    Waiting(u32),
    /// Wholly sent, no answer, or refused for what is there: a HEAD is under way. `n` is the attempt
    /// that would follow.
    Ambiguous(u32),
    /// Answered.
    Finished,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<A> {
    /// Attempt `n` succeeded.
    Moved(u32, A),
    /// Attempt `n` failed; `budget`: the endpoint's retry budget grants another.
    Failed(u32, Failure, Budget),
    /// The worker of attempt `n` died without a word (a panic), having sent this much at most.
    Died(u32, Sent, Budget),
    /// The pause is over.
    PauseOver,
    /// The HEAD has ended; the answer to give if it proved the object, and the budget.
    Reconciled(Reconciled<A>, Budget),
    /// The shutdown's grace is over.
    Stop,
}

/// See [`Event::Reconciled`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconciled<A> {
    /// The object is there; this is its answer.
    Proven(A),
    /// It is not the one there.
    Disproven,
    /// Nobody knows.
    Unknown,
}

/// Whether the retry budget that all uploads to an endpoint share has room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// It has.
    Granted,
    /// It has not.
    Refused,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<A> {
    /// Spawn a worker for attempt `n`, on another connection.
    Start(u32),
    /// Come back with [`Event::PauseOver`] after this.
    Pause(Duration),
    /// HEAD the key and come back with [`Event::Reconciled`].
    Reconcile,
    /// The same where nothing says that this request has put anything there: what is there must be
    /// what it would have put there, in its bytes and all that it said of them.
    Recognize,
    /// Answer the client. The last effect of an upload: its replay buffer is free.
    Reply(Result<A, S3Error>),
}

/// One upload's machine.
#[derive(Debug, Clone)]
pub struct Upload<A> {
    kind: Kind,
    policy: RestartPolicy,
    state: State,
    restarts: RestartLog,
    /// An attempt was wholly sent and never answered: it may have been carried out.
    unanswered: bool,
    /// What the last attempt ended with: answered when there is no further one.
    last_error: Option<S3Error>,
    /// What was behind the last failure that no answer explains.
    cause: Option<Cause>,
    answer: std::marker::PhantomData<fn() -> A>,
}

impl<A> Upload<A> {
    /// A new upload, and its first effect.
    pub fn begin(kind: Kind, policy: RestartPolicy) -> (Self, Effect<A>) {
        let upload = Upload {
            kind,
            policy,
            state: State::Moving(0),
            restarts: RestartLog::default(),
            unanswered: false,
            last_error: None,
            cause: None,
            answer: std::marker::PhantomData,
        };
        (upload, Effect::Start(0))
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Attempts made again so far.
    pub fn restarts(&self) -> u32 {
        self.restarts.total()
    }

    /// Takes an event. None: it does not fit the state (it comes from an attempt that is over), or
    /// asks for nothing. `now`: time since a fixed moment; `roll` in 0.0..=1.0: jitter.
    pub fn step(&mut self, event: Event<A>, now: Duration, roll: f64) -> Option<Effect<A>> {
        match (self.state, event) {
            (State::Finished, _) => None,
            (State::Moving(current), Event::Moved(attempt, answer)) if attempt == current => {
                Some(self.finish(Ok(answer)))
            }
            (State::Moving(current), Event::Failed(attempt, failure, budget))
                if attempt == current =>
            {
                Some(self.failed(current, failure, budget, now, roll))
            }
            (State::Moving(current), Event::Died(attempt, sent, budget)) if attempt == current => {
                let class = FailureClass::BackendLost;
                let failure =
                    Failure { class, sent, answered: None, replayable: true, cause: None };
                Some(self.failed(current, failure, budget, now, roll))
            }
            (State::Waiting(next), Event::PauseOver) => {
                self.state = State::Moving(next);
                Some(Effect::Start(next))
            }
            (State::Ambiguous(next), Event::Reconciled(found, budget)) => {
                Some(self.reconciled(next, found, budget, now, roll))
            }
            (_, Event::Stop) => {
                let message = "The gateway is shutting down. Send the request again.";
                Some(self.finish(Err(S3Error::new(ErrorCode::ServiceUnavailable, message))))
            }
            _ => None,
        }
    }

    fn failed(
        &mut self,
        attempt: u32,
        failure: Failure,
        budget: Budget,
        now: Duration,
        roll: f64,
    ) -> Effect<A> {
        let Failure { class, sent, answered, replayable, cause } = failure;
        self.cause = match class {
            FailureClass::BackendAnswer => None,
            // Of an attempt that could not even begin the one before says why.
            _ => cause.or(self.cause.take()),
        };
        let error = answered.clone().unwrap_or_else(|| of_class(class));
        match class {
            FailureClass::Client | FailureClass::GatewayInternal => self.finish(Err(error)),
            FailureClass::ReplayLost => self.finish(Err(error)),
            FailureClass::BackendAnswer => {
                if self.kind.completes() && error.code == "NoSuchUpload" {
                    // It may be gone because it is complete: ours, now or in an earlier attempt.
                    self.last_error = Some(error);
                    self.state = State::Ambiguous(attempt + 1);
                    return Effect::Reconcile;
                }
                if self.kind.is_guarded() && is_precondition(&error) {
                    // What is there may have come of it: of an attempt, or when it was sent before.
                    self.last_error = Some(error);
                    self.state = State::Ambiguous(attempt + 1);
                    return Effect::Recognize;
                }
                if !is_retryable(&error) || !replayable {
                    return self.finish(Err(error));
                }
                self.last_error = Some(error);
                let may_be_done = sent == Sent::Wholly
                    && self.last_error.as_ref().is_some_and(|error| error.status == 500);
                let conditional =
                    matches!(self.kind, Kind::PutObject { conditional: true } | Kind::GuardedPut);
                if may_be_done && conditional {
                    // 500 does not say that nothing was written.
                    return self.without_answer(attempt, budget, now, roll);
                }
                self.again(attempt, budget, now, roll)
            }
            FailureClass::BackendLost => {
                self.last_error = answered;
                if sent == Sent::Wholly {
                    return self.without_answer(attempt, budget, now, roll);
                }
                if !replayable {
                    return self.finish(Err(error));
                }
                self.again(attempt, budget, now, roll)
            }
        }
    }

    /// An attempt that may have been carried out, and of which nothing was heard.
    fn without_answer(
        &mut self,
        attempt: u32,
        budget: Budget,
        now: Duration,
        roll: f64,
    ) -> Effect<A> {
        self.unanswered = true;
        match self.kind {
            // Idempotent: the last one wins, or there is nothing to win.
            Kind::UploadPart | Kind::List | Kind::Abort | Kind::Take => {
                self.again(attempt, budget, now, roll)
            }
            // A second one makes a second upload; the first is an orphan whoever sends it again.
            Kind::Create => self.again(attempt, budget, now, roll),
            Kind::PutObject { .. } | Kind::GuardedPut | Kind::Complete | Kind::GuardedComplete => {
                self.state = State::Ambiguous(attempt + 1);
                Effect::Reconcile
            }
        }
    }

    fn reconciled(
        &mut self,
        next: u32,
        found: Reconciled<A>,
        budget: Budget,
        now: Duration,
        roll: f64,
    ) -> Effect<A> {
        let refused = self.last_error.as_ref().is_some_and(|error| {
            error.code == "NoSuchUpload" || self.kind.is_guarded() && is_precondition(error)
        });
        match found {
            Reconciled::Proven(answer) => self.finish(Ok(answer)),
            // The upload is still there, or was: completing it twice is the same as once.
            _ if self.kind.completes() && !refused => self.again(next - 1, budget, now, roll),
            _ => {
                let error = match self.last_error.take() {
                    Some(error) if refused && !self.unanswered => error,
                    _ => unprovable(),
                };
                self.finish(Err(error))
            }
        }
    }

    /// One more attempt, if the restart intensity and the endpoint's budget allow it.
    fn again(&mut self, attempt: u32, budget: Budget, now: Duration, roll: f64) -> Effect<A> {
        let pause = match budget {
            Budget::Granted => self.restarts.next(&self.policy, now, roll),
            Budget::Refused => None,
        };
        match pause {
            Some(pause) => {
                self.state = State::Waiting(attempt + 1);
                Effect::Pause(pause)
            }
            None => {
                let error = self.last_error.take().unwrap_or_else(unreachable_backend);
                self.finish(Err(error))
            }
        }
    }

    fn finish(&mut self, result: Result<A, S3Error>) -> Effect<A> {
        self.state = State::Finished;
        Effect::Reply(result.map_err(|error| error.because(self.cause.take())))
    }
}

/// Whether the backend's error may go away: S3's own list, and RequestTimeout, which behind a slow
/// client is the client's slowness seen twice.
fn is_retryable(error: &S3Error) -> bool {
    matches!(error.status, 500 | 502 | 503 | 504 | 429) || error.code == "RequestTimeout"
}

/// Whether something is there that the condition forbids. Inside a 200 the code alone says so.
fn is_precondition(error: &S3Error) -> bool {
    error.status == 412 || error.code == "PreconditionFailed"
}

fn of_class(class: FailureClass) -> S3Error {
    match class {
        FailureClass::ReplayLost => S3Error::new(
            ErrorCode::SlowDown,
            "The backend failed and the upload could not be sent again from here. Send it again.",
        ),
        FailureClass::GatewayInternal | FailureClass::Client => S3Error::new(
            ErrorCode::InternalError,
            "We encountered an internal error. Please try again.",
        ),
        FailureClass::BackendLost | FailureClass::BackendAnswer => unreachable_backend(),
    }
}

fn unreachable_backend() -> S3Error {
    let message = "The storage behind this bucket cannot be reached. Please try again.";
    S3Error::new(ErrorCode::SlowDown, message).blamed_on(Fault::Backend)
}

fn unprovable() -> S3Error {
    let message =
        "The backend's answer was lost and the object's state is unknown. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message).blamed_on(Fault::Backend)
}
