//! The UploadSupervisor: one table of uploads, a pure state machine for each, and the part workers
//! that it spawns, watches and restarts.
//!
//! It decides nothing itself: every end of a worker is an event for the request's machine
//! (`upload::machine`), and what the machine asks for is carried out here. A PutObject that goes in
//! parts has a machine of its own above them (`upload::split`), in `splits`. It moves no bytes.

mod recognition;
mod splits;

use crate::config::{Bucket, Engine};
use crate::guardian::ActorRef;
use crate::metrics::Counted;
use crate::origin;
use crate::orphans::{CreateInFlight, Window, wall_clock};
use crate::part_worker::{Attempt, PartWorker, WorkerHandle};
use crate::s3::error::S3Error;
use crate::s3::upstream::UpstreamTemplate;
use crate::s3::xml;
use crate::s3_client_actor::S3ClientActor;
use crate::transfer::{Plan, Reason, Volume};
use crate::upload::job::{
    AttemptEnd, BackendAnswer, Content, ContentSlot, Permit, Proof, UploadEnd, UploadJob,
};
use crate::upload::machine::{
    Budget, Effect, Event, FailureClass, Kind, Proven, Reconciled, Sent, Upload,
};
use actix::prelude::*;
use bytes::Bytes;
use foldhash::fast::RandomState;
use recognition::Known;
pub use splits::BeginSplit;
use splits::{Split, Step, StepEnd};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, Waker};
use std::time::Instant;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};

/// Hands an upload over. The other end is told when the upload has ended; one that goes away changes
/// nothing.
#[derive(Message)]
#[rtype(result = "()")]
pub struct BeginUpload(pub Box<UploadJob>, pub oneshot::Sender<UploadEnd>);

/// See the module.
pub struct UploadSupervisor {
    engine: Arc<Engine>,
    clients: Vec<ActorRef<S3ClientActor>>,
    /// Requests to backends.
    requests: HashMap<u64, Entry, RandomState>,
    /// PutObjects that go in parts; each has some of the requests.
    splits: HashMap<u64, Split>,
    next: u64,
    epoch: Instant,
    /// The part workers' tasks; each ends with its request's number and its attempt's.
    tasks: JoinSet<(u64, u32)>,
    /// Wakes this actor: [`Watch`] is not woken by the first of `tasks`.
    waker: Option<Waker>,
}

/// One request to a backend, through all its attempts.
struct Entry {
    machine: Upload<BackendAnswer>,
    bucket_index: usize,
    bucket: Arc<Bucket>,
    kind: Kind,
    request: Arc<UpstreamTemplate>,
    content: ContentSlot,
    plan: Option<(Plan, Reason)>,
    proof: Proof,
    owner: Owner,
    /// The worker that is under way.
    worker: Option<WorkerHandle>,
    attempt_started: Instant,
    /// Of a Create: when one of its attempts may have been carried out without an answer.
    lost: Option<Window>,
    volume: Volume,
    body_taken: bool,
    _creating: Option<CreateInFlight>,
}

/// Whom a request's end is for.
enum Owner {
    /// A client's upload that is this one request.
    Client { reply: oneshot::Sender<UploadEnd>, _held: Held },
    /// A step of a split.
    Split(u64, Step),
}

/// What a client's upload holds until it has ended.
struct Held {
    _permit: Permit,
    _counted: Counted,
}

impl Held {
    fn new(permit: impl Into<Permit>, engine: &Engine) -> Self {
        Held { _permit: permit.into(), _counted: Counted::new(&engine.metrics.uploads_in_flight) }
    }
}

/// A request on its way into the table.
struct NewRequest {
    bucket_index: usize,
    bucket: Arc<Bucket>,
    kind: Kind,
    request: UpstreamTemplate,
    content: Content,
    plan: Option<(Plan, Reason)>,
    proof: Proof,
    owner: Owner,
}

impl UploadSupervisor {
    /// A supervisor whose uploads use these clients, one for each of the engine's buckets.
    pub fn new(engine: Arc<Engine>, clients: Vec<ActorRef<S3ClientActor>>) -> Self {
        UploadSupervisor {
            engine,
            clients,
            requests: HashMap::default(),
            splits: HashMap::new(),
            next: 0,
            epoch: Instant::now(),
            tasks: JoinSet::new(),
            waker: None,
        }
    }

    /// Puts a request into the table and makes its first attempt. Returns its number.
    fn begin(&mut self, new: NewRequest) -> u64 {
        let id = self.number();
        let (machine, effect) = Upload::begin(new.kind, new.bucket.upload.restart);
        let ledger = &self.engine.ledger;
        let creating =
            (new.kind == Kind::Create).then(|| ledger.creating(&new.bucket.name, &new.request.key));
        let entry = Entry {
            machine,
            bucket_index: new.bucket_index,
            bucket: new.bucket,
            kind: new.kind,
            request: Arc::new(new.request),
            content: ContentSlot::new(new.content),
            plan: new.plan,
            proof: new.proof,
            owner: new.owner,
            worker: None,
            attempt_started: Instant::now(),
            lost: None,
            volume: Volume::default(),
            body_taken: false,
            _creating: creating,
        };
        self.requests.insert(id, entry);
        if let Effect::Start(attempt) = effect {
            self.start(id, attempt);
        }
        id
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Feeds an event to a request's machine and carries out what it asks for.
    fn event(&mut self, id: u64, event: Event<BackendAnswer>, context: &mut Context<Self>) {
        let now = self.epoch.elapsed();
        let Some(entry) = self.requests.get_mut(&id) else { return };
        match entry.machine.step(event, now, rand::random()) {
            None => {}
            Some(Effect::Start(attempt)) => self.start(id, attempt),
            Some(Effect::Pause(pause)) => {
                context.run_later(pause, move |supervisor, context| {
                    supervisor.event(id, Event::PauseOver, context);
                });
            }
            Some(Effect::Reconcile) => self.reconcile(id, context),
            Some(Effect::Recognize) => self.recognize(id, context),
            Some(Effect::Reply(result)) => self.finish(id, result, context),
        }
    }

    fn start(&mut self, id: u64, attempt: u32) {
        let Some(entry) = self.requests.get_mut(&id) else { return };
        let Some(client) = self.clients.get(entry.bucket_index) else { return };
        let attempt = Attempt {
            number: attempt,
            kind: entry.kind,
            bucket: Arc::clone(&entry.bucket),
            request: Arc::clone(&entry.request),
            content: entry.content.clone(),
            client: client.clone(),
        };
        let (tasks, label) = (&mut self.tasks, (id, attempt.number));
        entry.worker = Some(PartWorker::spawn(attempt, &self.engine.metrics, tasks, label));
        entry.attempt_started = Instant::now();
        if let (1, Some(waker)) = (self.tasks.len(), &self.waker) {
            waker.wake_by_ref();
        }
    }

    /// A worker's task has ended: by itself, by a panic, or because its entry is gone.
    fn task_ended(&mut self, ended: Result<(u64, u32), JoinError>, context: &mut Context<Self>) {
        let (id, attempt, died) = match ended {
            Ok((id, attempt)) => (id, attempt, false),
            Err(error) => {
                let task = error.id();
                let mut all = self.requests.iter();
                let of = all.find_map(|(id, entry)| {
                    let worker = entry.worker.as_ref().filter(|worker| worker.is(task))?;
                    Some((*id, worker.attempt))
                });
                let Some((id, attempt)) = of else { return };
                (id, attempt, true)
            }
        };
        let Some(entry) = self.requests.get_mut(&id) else { return };
        let worker = entry.worker.take_if(|worker| worker.attempt == attempt);
        let end = worker.and_then(|mut worker| worker.end.try_recv().ok());
        self.ended(id, attempt, end, died, context);
    }

    /// A worker has ended, or died.
    fn ended(
        &mut self,
        id: u64,
        attempt: u32,
        end: Option<AttemptEnd>,
        died: bool,
        context: &mut Context<Self>,
    ) {
        let Some(entry) = self.requests.get_mut(&id) else { return };
        entry.note_transfer(&self.engine);
        let restarts = entry.machine.restarts();
        let (event, cause) = match end {
            Some(AttemptEnd::Done(answer)) => (Event::Moved(attempt, answer), ""),
            Some(AttemptEnd::Failed(failure, endpoint)) => {
                let cause = failure.class.as_str();
                if failure.class == FailureClass::BackendLost && failure.sent == Sent::Wholly {
                    entry.note_lost();
                }
                let budget = match failure.class {
                    FailureClass::BackendAnswer | FailureClass::BackendLost => {
                        entry.budget(endpoint)
                    }
                    _ => Budget::Refused,
                };
                (Event::Failed(attempt, failure, budget), cause)
            }
            None => {
                if died {
                    log::error!("a part worker panicked: attempt {attempt} of request {id}");
                }
                let offered = entry.content.offered().load(Ordering::Acquire);
                let sent = if offered { Sent::Wholly } else { Sent::Partly };
                if offered {
                    entry.note_lost();
                }
                (Event::Died(attempt, sent, entry.budget(None)), "died")
            }
        };
        self.event(id, event, context);
        if self.requests.get(&id).is_some_and(|entry| entry.machine.restarts() > restarts) {
            self.engine.metrics.part_restarts.with_label_values(&[cause]).inc();
        }
    }

    fn reconcile(&mut self, id: u64, context: &mut Context<Self>) {
        let Some(entry) = self.requests.get(&id) else { return };
        let Some(client) = self.clients.get(entry.bucket_index).cloned() else { return };
        let (bucket, request) = (Arc::clone(&entry.bucket), Arc::clone(&entry.request));
        let (kind, proof) = (entry.kind, entry.proof());
        let look = async move {
            let found = origin::prove(&bucket, client, &request.key, &proof).await;
            reconciled(kind, &bucket, &request, found)
        };
        self.await_look(id, look, context);
    }

    /// Looks whether what is in the way of a request is what it would have put there.
    fn recognize(&mut self, id: u64, context: &mut Context<Self>) {
        let Some(entry) = self.requests.get(&id) else { return };
        let Some(client) = self.clients.get(entry.bucket_index).cloned() else { return };
        let (bucket, request, kind) =
            (Arc::clone(&entry.bucket), Arc::clone(&entry.request), entry.kind);
        let known = entry.known();
        let look = async move {
            let found = recognition::recognize(kind, &bucket, client, &request, known).await;
            reconciled(kind, &bucket, &request, found)
        };
        self.await_look(id, look, context);
    }

    fn await_look(
        &mut self,
        id: u64,
        look: impl Future<Output = Reconciled<BackendAnswer>> + 'static,
        context: &mut Context<Self>,
    ) {
        context.spawn(look.into_actor(self).map(move |found, supervisor, context| {
            let Some(entry) = supervisor.requests.get(&id) else { return };
            let budget = entry.budget(None);
            supervisor.event(id, Event::Reconciled(found, budget), context);
        }));
    }

    fn finish(
        &mut self,
        id: u64,
        result: Result<BackendAnswer, S3Error>,
        context: &mut Context<Self>,
    ) {
        let Some(entry) = self.requests.remove(&id) else { return };
        if let (Some((plan, reason)), true) = (entry.plan, result.is_ok()) {
            let bytes = entry.volume.spliced + entry.volume.copied;
            let labels = [plan.as_str(), reason.as_str()];
            self.engine.metrics.transfer_bytes.with_label_values(&labels).inc_by(bytes);
        }
        if entry.kind == Kind::Create {
            self.note_created(&entry, &result);
        }
        match entry.owner {
            Owner::Client { reply, .. } => {
                let end = UploadEnd {
                    result,
                    volume: entry.volume,
                    restarts: entry.machine.restarts(),
                    body_taken: entry.body_taken,
                };
                // The client may be gone: nobody is left to tell.
                let _ = reply.send(end);
            }
            Owner::Split(split, step) => {
                let restarts = entry.machine.restarts();
                let volume = entry.volume;
                let taken = StepEnd {
                    id,
                    step,
                    result,
                    volume,
                    restarts,
                    body_taken: entry.body_taken,
                    content: entry.content,
                };
                self.step_ended(split, taken, context);
            }
        }
    }

    /// A Create has ended: its id is somebody's, and an attempt without an answer is looked after.
    fn note_created(&self, entry: &Entry, result: &Result<BackendAnswer, S3Error>) {
        let (ledger, bucket) = (&self.engine.ledger, &entry.bucket.name);
        let id = result.as_ref().ok().and_then(|answer| xml::parse_initiate(&answer.body).ok());
        if let Some(id) = &id {
            ledger.created(id);
        }
        if let Some(window) = entry.lost {
            ledger.lost_create(bucket, &entry.request.key, window, Instant::now());
        }
    }
}

impl Entry {
    /// What would prove that the backend has the object: what the client announced, or the trailers
    /// that were verified meanwhile.
    fn proof(&self) -> Proof {
        let trailer = || {
            self.content.inspect(|content| match content {
                Content::Body { source, .. } => source.trailers().first().cloned(),
                Content::None | Content::Document(_) => None,
            })
        };
        match &self.proof {
            Proof::None => match trailer().flatten() {
                Some((name, value)) => Proof::Checksum(name, value),
                None => Proof::None,
            },
            proof => proof.clone(),
        }
    }

    /// What is known of the object that the request makes.
    fn known(&self) -> Known {
        Known { content: self.content.borrow(), announced: self.proof.clone() }
    }

    /// The time of the attempt under way.
    fn window(&self) -> Window {
        let now = wall_clock();
        let span = self.attempt_started.elapsed().as_millis();
        Window { from: now.saturating_sub(u64::try_from(span).unwrap_or(u64::MAX)), to: now }
    }

    /// The attempt may have been carried out, and nobody knows.
    fn note_lost(&mut self) {
        let Window { from, to } = self.window();
        self.lost = Some(Window { from: self.lost.map_or(from, |first| first.from), to });
    }

    /// Whether the endpoint grants a retry. Only asked when an attempt has failed.
    fn budget(&self, endpoint: Option<usize>) -> Budget {
        let endpoints = &self.bucket.backend.endpoints;
        match endpoints.get(endpoint.unwrap_or(0)) {
            Some(endpoint) if endpoint.retries.try_take(Instant::now()) => Budget::Granted,
            _ => Budget::Refused,
        }
    }

    /// Counts what the attempt has moved.
    fn note_transfer(&mut self, engine: &Engine) {
        let Some((volume, taken)) = self.content.inspect(|content| match content {
            Content::Body { source, .. } => (source.volume(), source.is_taken()),
            Content::None | Content::Document(_) => (Volume::default(), true),
        }) else {
            return;
        };
        let metrics = &engine.metrics;
        metrics.zero_copy_bytes.inc_by(volume.spliced - self.volume.spliced);
        metrics.zero_copy_transfers.inc_by(volume.splices - self.volume.splices);
        if matches!(self.plan, Some((Plan::Splice, _))) {
            metrics.zero_copy_duration.observe(self.attempt_started.elapsed().as_secs_f64());
        }
        self.volume = volume;
        self.body_taken = taken;
    }
}

/// What a HEAD means for the machine: a proven object's answer is what the backend would have said.
fn reconciled(
    kind: Kind,
    bucket: &Bucket,
    request: &UpstreamTemplate,
    found: Proven,
) -> Reconciled<BackendAnswer> {
    let (etag, version_id) = match found {
        Proven::Yes { etag, version_id } => (etag, version_id),
        Proven::No => return Reconciled::Disproven,
        Proven::Unknown => return Reconciled::Unknown,
    };
    let etag = etag.unwrap_or_default();
    let body = if kind.completes() {
        xml::complete_document(&bucket.name, &request.key, &etag)
    } else {
        String::new()
    };
    let mut headers = vec![("etag".to_owned(), Bytes::from(etag))];
    headers.extend(version_id.map(|id| ("x-amz-version-id".to_owned(), Bytes::from(id))));
    Reconciled::Proven(BackendAnswer { status: 200, headers, body: body.into() })
}

impl Actor for UploadSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.spawn(Watch);
    }
}

/// Awaits the part workers, only those that have ended. (A future in the context for each of them
/// would be polled whenever any of them ends.)
struct Watch;

impl ActorFuture<UploadSupervisor> for Watch {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        supervisor: &mut UploadSupervisor,
        context: &mut Context<UploadSupervisor>,
        task: &mut task::Context<'_>,
    ) -> Poll<()> {
        if !supervisor.waker.as_ref().is_some_and(|waker| waker.will_wake(task.waker())) {
            supervisor.waker = Some(task.waker().clone());
        }
        while let Poll::Ready(Some(ended)) = supervisor.tasks.poll_join_next(task) {
            supervisor.task_ended(ended, context);
        }
        Poll::Pending
    }
}

impl Handler<BeginUpload> for UploadSupervisor {
    type Result = ();

    fn handle(&mut self, BeginUpload(job, reply): BeginUpload, _: &mut Self::Context) {
        fail::fail_point!("upload_supervisor::begin");
        let job = *job;
        let held = Held::new(job.permit, &self.engine);
        let new = NewRequest {
            bucket_index: job.bucket_index,
            bucket: job.bucket,
            kind: job.kind,
            request: job.request,
            content: job.content,
            plan: job.plan,
            proof: job.proof,
            owner: Owner::Client { reply, _held: held },
        };
        self.begin(new);
    }
}
