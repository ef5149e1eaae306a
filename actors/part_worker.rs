//! The PartWorker: makes one attempt to bring one part to the backend, and ends.
//!
//! It is spawned by the UploadSupervisor for each attempt, and watched by its join handle: it ends
//! with an [`AttemptEnd`], or it dies (a panic included) and has given none. What must outlive it,
//! the client's body and the replay buffer, it only borrows.

use crate::backend::BackendError;
use crate::config::Bucket;
use crate::guardian::ActorRef;
use crate::metrics::{Counted, Metrics};
use crate::s3::error::{Cause, ErrorCode, Fault, S3Error};
use crate::s3::upstream::UpstreamTemplate;
use crate::s3::xml;
use crate::s3_client_actor::{Lease, LeaseConnection, Release, S3ClientActor};
use crate::transfer::{PartSource, SendError};
use crate::upload::job::{AttemptEnd, BackendAnswer, Before, Content, ContentSlot};
use crate::upload::machine::{Failure, FailureClass, Kind, Sent};
use actix::prelude::*;
use base64::Engine as _;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

/// Most bytes of a backend's answer: ListParts with 1,000 parts is under 400 KiB.
const MAX_ANSWER: usize = 2 * 1024 * 1024;

/// How long the answer that a refusing backend queued before it closed is waited for.
const REFUSAL_WAIT: Duration = Duration::from_secs(2);

/// One attempt's worker.
pub struct PartWorker {
    attempt: Option<(Attempt, oneshot::Sender<AttemptEnd>)>,
    _counted: Counted,
}

/// What one attempt needs.
pub struct Attempt {
    /// Its number, from 0.
    pub number: u32,
    /// What kind of request it is.
    pub kind: Kind,
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// What is sent.
    pub request: Arc<UpstreamTemplate>,
    /// The body's place.
    pub content: ContentSlot,
    /// Where connections come from.
    pub client: ActorRef<S3ClientActor>,
}

/// A spawned worker, as the supervisor holds it. Dropped, it stops the worker.
pub struct WorkerHandle {
    /// Which attempt it makes.
    pub attempt: u32,
    /// What it ended with; nothing when it died.
    pub end: oneshot::Receiver<AttemptEnd>,
    task: AbortHandle,
}

impl WorkerHandle {
    /// Whether this is the worker's task.
    pub fn is(&self, task: tokio::task::Id) -> bool {
        self.task.id() == task
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PartWorker {
    /// Spawns a worker on this thread, whose task is one of `tasks` and ends with `label`.
    pub fn spawn<L: 'static>(
        attempt: Attempt,
        metrics: &Metrics,
        tasks: &mut JoinSet<L>,
        label: L,
    ) -> WorkerHandle {
        let (send_end, end) = oneshot::channel();
        let number = attempt.number;
        let worker = PartWorker {
            attempt: Some((attempt, send_end)),
            _counted: Counted::new(&metrics.parts_in_flight),
        };
        let life = Context::new().into_future(worker);
        let task = tasks.spawn_local(async move {
            life.await;
            label
        });
        WorkerHandle { attempt: number, end, task }
    }
}

impl Actor for PartWorker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let Some((attempt, end)) = self.attempt.take() else { return context.stop() };
        let work = async move { drop(end.send(attempt.run().await)) };
        context.spawn(work.into_actor(self).map(|(), _, context| context.stop()));
    }
}

impl Attempt {
    async fn run(self) -> AttemptEnd {
        let Some(mut borrowed) = self.content.borrow() else {
            return gateway_fault("the part's content is gone", None);
        };
        self.content.offered().store(false, Ordering::Release);
        fail::fail_point!("part_worker::start");
        match self.make(borrowed.get()).await {
            Ok(end) => end,
            Err(error) => self.not_leased(error, borrowed.get()),
        }
    }

    /// Waits for the client, leases a connection and makes the attempt. Err: no connection.
    async fn make(&self, content: &mut Content) -> Result<AttemptEnd, BackendError> {
        let (mut more, mut length) = (Vec::new(), None);
        if let Content::Body { source, before } = content {
            let first = match before {
                Before::First => source.ready().await,
                Before::All | Before::Measured => source.take_all().await,
            };
            if let Err(error) = first {
                return Ok(body_failed(error, Sent::Nothing, source, None));
            }
            match before {
                // A body that is framed again has them as trailers.
                Before::First => {}
                // In the head, which is not sent yet.
                Before::All => more = source.trailers().to_vec(),
                Before::Measured => {
                    if !source.can_replay() {
                        let lost = SendError::ReplayLost;
                        return Ok(body_failed(lost, Sent::Nothing, source, None));
                    }
                    more.extend(source.md5().map(content_md5));
                    length = Some(source.taken_bytes());
                }
            }
        }
        if self.kind == Kind::Take {
            return Ok(AttemptEnd::Done(BackendAnswer::default()));
        }
        let lease = LeaseConnection {
            request: Some(Arc::clone(&self.request)),
            more,
            length,
            attempt: self.number,
        };
        let lease = match self.client.ask(lease).await {
            Ok(lease) => lease?,
            Err(error) => return Ok(gateway_fault(&error.to_string(), None)),
        };
        Ok(self.send(content, lease).await)
    }

    async fn send(&self, content: &mut Content, mut lease: Lease) -> AttemptEnd {
        let stall = self.bucket.backend.timeouts.progress;
        let endpoint = Some(lease.endpoint);
        let whole = match &*content {
            Content::None => Some(Bytes::new()),
            Content::Document(bytes) => Some(bytes.clone()),
            Content::Body { source, .. } => source.as_bytes(),
        };
        let head = std::mem::take(&mut lease.head);
        let sent = match (whole, &mut *content) {
            (Some(body), _) => {
                self.content.offered().store(true, Ordering::Release);
                let sent = lease.connection.send_head_and_body(&head, &body, stall).await;
                sent.map_err(SendError::Backend)
            }
            (None, Content::Body { source, .. }) => {
                match lease.connection.send_head(&head, stall).await {
                    Ok(()) => {
                        source.send(&mut lease.connection, stall, self.content.offered()).await
                    }
                    Err(error) => Err(SendError::Backend(error)),
                }
            }
            (None, _) => Ok(()),
        };
        fail::fail_point!("part_worker::sent");
        match sent {
            Ok(()) => self.answer(content, lease).await,
            Err(SendError::Answered) => {
                let answer = lease.connection.answer_after_refusal(MAX_ANSWER, REFUSAL_WAIT).await;
                self.refused(content, lease, answer, None)
            }
            Err(SendError::Backend(error)) => {
                // The reason may have been queued before the connection broke.
                let answer = lease.connection.answer_after_refusal(MAX_ANSWER, REFUSAL_WAIT).await;
                self.refused(content, lease, answer, Some(error))
            }
            Err(error) => {
                // A half-sent body must not be taken for anything.
                lease.connection.reset();
                let Content::Body { source, .. } = content else {
                    return gateway_fault("a body failed that is none", endpoint);
                };
                body_failed(error, Sent::Partly, source, endpoint)
            }
        }
    }

    /// Reads the answer to a request that was sent whole.
    async fn answer(&self, content: &Content, mut lease: Lease) -> AttemptEnd {
        let endpoint = lease.endpoint;
        let timeouts = &self.bucket.backend.timeouts;
        let first_byte =
            if self.kind.completes() { timeouts.complete } else { timeouts.first_byte };
        match lease.connection.read_response(false, first_byte, MAX_ANSWER).await {
            Ok(response) => {
                let end = self.classify(
                    response.head.status,
                    response.head.headers,
                    response.body,
                    content,
                );
                if lease.connection.is_reusable() {
                    self.client.hint(Release(lease));
                }
                self.with_health(end, endpoint)
            }
            Err(error) => {
                let everything = lease.connection.may_have_everything(&error);
                let sent = if everything { Sent::Wholly } else { Sent::Partly };
                lease.connection.reset();
                self.lost(&error, sent, content, endpoint)
            }
        }
    }

    /// The backend answered, or closed, before it had the whole body.
    fn refused(
        &self,
        content: &Content,
        lease: Lease,
        answer: Option<crate::backend::Response>,
        error: Option<BackendError>,
    ) -> AttemptEnd {
        let endpoint = lease.endpoint;
        lease.connection.reset();
        match answer {
            // A success for half a body is no success.
            Some(answer) if answer.head.status >= 300 => {
                let mut end =
                    self.classify(answer.head.status, answer.head.headers, answer.body, content);
                if let AttemptEnd::Failed(failure, _) = &mut end {
                    failure.sent = Sent::Partly;
                }
                self.with_health(end, endpoint)
            }
            _ => {
                let error = error.unwrap_or_else(BackendError::closed_early);
                self.lost(&error, Sent::Partly, content, endpoint)
            }
        }
    }

    fn lost(
        &self,
        error: &BackendError,
        sent: Sent,
        content: &Content,
        endpoint: usize,
    ) -> AttemptEnd {
        log::warn!("bucket {}: attempt {}: {error}", self.bucket.name, self.number);
        if let Some(entry) = self.bucket.backend.endpoints.get(endpoint) {
            entry.health.failed(std::time::Instant::now(), rand::random());
        }
        let failure = Failure {
            class: FailureClass::BackendLost,
            sent,
            answered: None,
            replayable: can_replay(content),
            cause: Some(error.cause()),
        };
        AttemptEnd::Failed(failure, Some(endpoint))
    }

    fn not_leased(&self, error: BackendError, content: &Content) -> AttemptEnd {
        log::warn!("bucket {}: attempt {}: {error}", self.bucket.name, self.number);
        let failure = Failure {
            class: FailureClass::BackendLost,
            sent: Sent::Nothing,
            answered: None,
            replayable: can_replay(content),
            cause: Some(error.cause()),
        };
        AttemptEnd::Failed(failure, None)
    }

    /// Notes what the answer says of the endpoint.
    fn with_health(&self, end: AttemptEnd, endpoint: usize) -> AttemptEnd {
        let Some(entry) = self.bucket.backend.endpoints.get(endpoint) else { return end };
        match end {
            AttemptEnd::Failed(failure, _) => {
                if failure.answered.as_ref().is_some_and(|error| error.status >= 500) {
                    entry.health.failed(std::time::Instant::now(), rand::random());
                } else {
                    entry.health.succeeded();
                }
                AttemptEnd::Failed(failure, Some(endpoint))
            }
            done => {
                entry.health.succeeded();
                entry.retries.succeeded();
                done
            }
        }
    }

    /// Whether a success says what it must. One that does not is as good as no answer: nobody knows
    /// what the backend has done.
    fn understood(&self, body: &[u8]) -> bool {
        match self.kind {
            Kind::Create => xml::parse_initiate(body).is_ok(),
            kind if kind.completes() => xml::parse_completed(body).is_ok(),
            _ => true,
        }
    }

    /// What a complete answer means.
    fn classify(
        &self,
        status: u16,
        headers: Vec<(String, Bytes)>,
        body: Bytes,
        content: &Content,
    ) -> AttemptEnd {
        let error = if (200..300).contains(&status) {
            // S3: a Complete may answer 200 and carry an <Error> (R10).
            let inside = if self.kind.completes() { xml::parse_error(&body) } else { None };
            match inside {
                None if !self.understood(&body) => {
                    log::warn!("bucket {}: {:?} answered garbage", self.bucket.name, self.kind);
                    let failure = Failure {
                        class: FailureClass::BackendLost,
                        sent: Sent::Wholly,
                        answered: None,
                        replayable: can_replay(content),
                        cause: Some(Cause::passing("the answer is not one of S3's")),
                    };
                    return AttemptEnd::Failed(failure, None);
                }
                None => return AttemptEnd::Done(BackendAnswer { status, headers, body }),
                Some(error) => {
                    let code_status = if error.code == "InternalError" { 500 } else { 400 };
                    S3Error::from_backend(code_status, error.code, error.message)
                }
            }
        } else {
            match xml::parse_error(&body) {
                // The attempt before has aborted it.
                Some(error)
                    if error.code == "NoSuchUpload"
                        && self.kind == Kind::Abort
                        && self.number > 0 =>
                {
                    return AttemptEnd::Done(BackendAnswer {
                        status: 204,
                        headers: Vec::new(),
                        body: Bytes::new(),
                    });
                }
                Some(error) => {
                    if self.bucket.backend.keys.refused_by(&error.code) {
                        let (name, code) = (&self.bucket.name, &error.code);
                        log::warn!("bucket {name}: the backend refuses the gateway's keys: {code}");
                    }
                    S3Error::from_backend(status, error.code, error.message)
                }
                None => not_s3(status),
            }
        };
        let failure = Failure {
            class: FailureClass::BackendAnswer,
            sent: Sent::Wholly,
            answered: Some(error),
            replayable: can_replay(content),
            cause: None,
        };
        AttemptEnd::Failed(failure, None)
    }
}

/// An answer that is no S3 error (a proxy's page): its body is not passed on.
fn not_s3(status: u16) -> S3Error {
    let code = match status {
        403 => "AccessDenied",
        404 => "NoSuchKey",
        409 => "OperationAborted",
        412 => "PreconditionFailed",
        429 | 503 => "SlowDown",
        400..=499 => "InvalidRequest",
        _ => "InternalError",
    };
    let status = if (400..600).contains(&status) { status } else { 502 };
    let message = format!("The backend answered {status} without an S3 error document.");
    S3Error::from_backend(status, code.to_owned(), message).blamed_on(Fault::Backend)
}

fn content_md5(md5: [u8; 16]) -> (String, String) {
    ("content-md5".to_owned(), base64::engine::general_purpose::STANDARD.encode(md5))
}

fn can_replay(content: &Content) -> bool {
    match content {
        Content::None | Content::Document(_) => true,
        Content::Body { source, .. } => source.can_replay(),
    }
}

fn body_failed(
    error: SendError,
    sent: Sent,
    source: &PartSource,
    endpoint: Option<usize>,
) -> AttemptEnd {
    let (class, answered, cause) = match error {
        SendError::Client(error) => (FailureClass::Client, Some(error), None),
        SendError::ReplayLost => (FailureClass::ReplayLost, None, None),
        SendError::Internal(error) => {
            log::error!("a part's transfer failed in the gateway: {error}");
            (FailureClass::GatewayInternal, None, Some(Cause::passing(&error.to_string())))
        }
        SendError::Answered => (FailureClass::BackendLost, None, None),
        SendError::Backend(error) => (FailureClass::BackendLost, None, Some(error.cause())),
    };
    let replayable = source.can_replay();
    AttemptEnd::Failed(Failure { class, sent, answered, replayable, cause }, endpoint)
}

fn gateway_fault(message: &str, endpoint: Option<usize>) -> AttemptEnd {
    log::error!("{message}");
    let failure = Failure {
        class: FailureClass::GatewayInternal,
        sent: Sent::Nothing,
        answered: Some(S3Error::new(
            ErrorCode::InternalError,
            "We encountered an internal error. Please try again.",
        )),
        replayable: true,
        cause: None,
    };
    AttemptEnd::Failed(failure, endpoint)
}
