//! A PutObject that goes to the backend in parts, as a multipart upload of the gateway's own: what
//! happens next, pure.
//!
//! The client's body is one stream, so one part is taken from it at a time; the next one is begun
//! as soon as the last was taken, while up to `concurrent` await their answers. Each of Create,
//! the parts, Complete and Abort is a request with a machine of its own (`super::machine`), which
//! retries it; here they only succeed or fail.

use crate::s3::error::S3Error;

/// How the parts' lengths are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The body's length was announced: a part is sent while it is taken. How many there are.
    Known(u32),
    /// It was not: each part is taken whole before it is sent, and the first one, which is taken
    /// before anything is begun, decides whether there is to be more than one.
    Unknown,
}

/// What happened. Parts are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<P, A> {
    /// The upload is on record, so that it is aborted after a crash; or it could not be.
    Recorded(Result<(), S3Error>),
    /// Create has ended.
    Created(Result<(), S3Error>),
    /// The part that was being taken from the client has been, and the client's body is free.
    /// `last`: nothing follows it; of a body of known length only parts before the last are told of.
    Taken {
        /// See the variant.
        last: bool,
    },
    /// The client's body failed while the first part of an unknown length was taken.
    ProbeFailed(S3Error),
    /// A part has ended.
    PartEnded(u32, Result<P, S3Error>),
    /// The PutObject of a body that turned out to be small has ended.
    PutEnded(Result<A, S3Error>),
    /// Complete has ended.
    Completed(Result<A, S3Error>),
    /// Abort has ended.
    Aborted(Result<(), S3Error>),
    /// The upload has lasted too long.
    Expired(S3Error),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<P, A> {
    /// Put the upload on record, durably.
    Record,
    /// Send Create.
    Create,
    /// Take the first part of an unknown length from the client, and send nothing yet.
    Probe,
    /// Send what the probe has taken as one PutObject: it is the whole body.
    Put,
    /// Send what the probe has taken as part 1.
    SendProbed,
    /// Take this part from the client and send it.
    Take(u32),
    /// Send Complete with these parts, ascending.
    Complete(Vec<(u32, P)>),
    /// Stop what is under way: the workers, and the client's body.
    Cancel,
    /// Send Abort.
    Abort,
    /// Answer the client.
    Reply(Result<A, S3Error>),
    /// Over. `clean`: nothing is left at the backend, and the record can go; else whoever sweeps
    /// aborts what may be there.
    End {
        /// See the variant.
        clean: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first part of an unknown length is taken.
    Probing,
    /// The whole body goes as one PutObject.
    Putting,
    Recording,
    Creating,
    Moving,
    Completing,
    Aborting,
    Ended,
}

/// One split upload's machine. `P`: what Complete needs of a part. `A`: the answer.
#[derive(Debug, Clone)]
pub struct Split<P, A> {
    shape: Shape,
    concurrent: usize,
    phase: Phase,
    /// The next part to take.
    next: u32,
    /// A part is being taken from the client.
    taking: bool,
    /// The body's last part has been begun.
    all_begun: bool,
    /// Parts whose answer is awaited.
    open: usize,
    done: Vec<(u32, P)>,
    answer: std::marker::PhantomData<fn() -> A>,
}

impl<P, A> Split<P, A> {
    /// A new split with at most `concurrent` (> 0) parts in flight, and its first effects.
    pub fn begin(shape: Shape, concurrent: usize) -> (Self, Vec<Effect<P, A>>) {
        let mut split = Split {
            shape,
            concurrent: concurrent.max(1),
            phase: Phase::Recording,
            next: 1,
            taking: false,
            all_begun: false,
            open: 0,
            done: Vec::new(),
            answer: std::marker::PhantomData,
        };
        let first = match shape {
            Shape::Known(_) => Effect::Record,
            Shape::Unknown => {
                split.phase = Phase::Probing;
                Effect::Probe
            }
        };
        (split, vec![first])
    }

    /// Whether the machine has ended.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Takes an event. Events that do not fit the phase come from what was cancelled: they ask for
    /// nothing.
    pub fn step(&mut self, event: Event<P, A>) -> Vec<Effect<P, A>> {
        match (self.phase, event) {
            (Phase::Probing, Event::Taken { last: true }) => {
                self.phase = Phase::Putting;
                vec![Effect::Put]
            }
            (Phase::Probing, Event::Taken { last: false }) => {
                self.phase = Phase::Recording;
                vec![Effect::Record]
            }
            (Phase::Probing, Event::ProbeFailed(error)) => self.end_with(Err(error), true),
            (Phase::Putting, Event::PutEnded(result)) => self.end_with(result, true),
            (Phase::Recording, Event::Recorded(Ok(()))) => {
                self.phase = Phase::Creating;
                vec![Effect::Create]
            }
            (Phase::Recording, Event::Recorded(Err(error))) => self.end_with(Err(error), true),
            (Phase::Creating, Event::Created(Ok(()))) => {
                self.phase = Phase::Moving;
                let mut effects = Vec::new();
                if self.shape == Shape::Unknown {
                    self.next = 2;
                    self.open = 1;
                    effects.push(Effect::SendProbed);
                }
                effects.extend(self.go_on());
                effects
            }
            // What an attempt without an answer may have begun is on record by itself.
            (Phase::Creating, Event::Created(Err(error))) => self.end_with(Err(error), true),
            (Phase::Moving, Event::Taken { last }) => {
                self.taking = false;
                // Of a known length the count of the parts says so, and nothing else.
                self.all_begun |= last && self.shape == Shape::Unknown;
                self.go_on()
            }
            (Phase::Moving, Event::PartEnded(number, Ok(part))) => {
                self.open = self.open.saturating_sub(1);
                self.done.push((number, part));
                self.go_on()
            }
            (Phase::Moving, Event::PartEnded(_, Err(error)) | Event::Expired(error)) => {
                self.fail(error)
            }
            (Phase::Probing, Event::Expired(error)) => {
                let mut effects = vec![Effect::Cancel];
                effects.extend(self.end_with(Err(error), true));
                effects
            }
            (Phase::Completing, Event::Completed(Ok(answer))) => self.end_with(Ok(answer), true),
            (Phase::Completing, Event::Completed(Err(error))) => {
                self.phase = Phase::Aborting;
                vec![Effect::Reply(Err(error)), Effect::Abort]
            }
            (Phase::Aborting, Event::Aborted(result)) => {
                self.phase = Phase::Ended;
                vec![Effect::End { clean: result.is_ok() }]
            }
            _ => Vec::new(),
        }
    }

    /// Begins whatever may be begun: the next part, or Complete.
    fn go_on(&mut self) -> Vec<Effect<P, A>> {
        let mut effects = Vec::new();
        if !self.all_begun && !self.taking && self.open < self.concurrent {
            let number = self.next;
            self.next += 1;
            self.open += 1;
            // The last one of a known length takes what is left; nobody asks what comes after it.
            self.all_begun = matches!(self.shape, Shape::Known(parts) if number >= parts);
            self.taking = !self.all_begun;
            effects.push(Effect::Take(number));
        }
        if self.all_begun && !self.taking && self.open == 0 {
            self.phase = Phase::Completing;
            let mut parts = std::mem::take(&mut self.done);
            parts.sort_by_key(|(number, _)| *number);
            effects.push(Effect::Complete(parts));
        }
        effects
    }

    /// The upload has failed while parts were under way.
    fn fail(&mut self, error: S3Error) -> Vec<Effect<P, A>> {
        self.phase = Phase::Aborting;
        vec![Effect::Cancel, Effect::Reply(Err(error)), Effect::Abort]
    }

    fn end_with(&mut self, result: Result<A, S3Error>, clean: bool) -> Vec<Effect<P, A>> {
        self.phase = Phase::Ended;
        vec![Effect::Reply(result), Effect::End { clean }]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "split/tests.rs"]
mod tests;
