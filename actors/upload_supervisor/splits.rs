//! PutObjects that go in parts: carries out what each one's machine (`upload::split`) asks for.

use super::{Entry, Held, NewRequest, Owner, UploadSupervisor};
use crate::config::Bucket;
use crate::metrics::Counted;
use crate::orphans::{OwnUpload, wall_clock};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::upstream::UpstreamTemplate;
use crate::s3::xml;
use crate::transfer::{Intake, PartSource, Plan, Reason, ReplayResources, Share, Volume};
use crate::upload::job::{BackendAnswer, Before, Content, ContentSlot, Proof, SplitJob, UploadEnd};
use crate::upload::machine::Kind;
use crate::upload::prepare;
use crate::upload::split::{Effect, Event, Shape, Split as Machine};
use crate::upload::split_requests::SplitRequests;
use actix::prelude::*;
use bytes::Bytes;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Hands a PutObject over that goes in parts. As [`super::BeginUpload`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct BeginSplit(pub SplitJob, pub oneshot::Sender<UploadEnd>);

/// Which request of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Probe,
    Put,
    Create,
    Part(u32),
    Complete,
    Abort,
}

/// How one ended.
pub(super) struct StepEnd {
    pub(super) id: u64,
    pub(super) step: Step,
    pub(super) result: Result<BackendAnswer, S3Error>,
    pub(super) volume: Volume,
    pub(super) restarts: u32,
    pub(super) body_taken: bool,
    pub(super) content: ContentSlot,
}

/// One upload in parts.
pub(super) struct Split {
    machine: Machine<String, BackendAnswer>,
    bucket_index: usize,
    bucket: Arc<Bucket>,
    shape: Shape,
    part_size: u64,
    part_md5: bool,
    guarded: bool,
    put: UpstreamTemplate,
    requests: SplitRequests,
    resources: ReplayResources,
    plan: (Plan, Reason),
    /// The client's body, between two parts.
    intake: Option<Intake>,
    /// Where the probe's intake arrives if more follows.
    after_probe: Option<oneshot::Receiver<Option<Intake>>>,
    /// What the probe has taken.
    probed: Option<Box<PartSource>>,
    own: Option<OwnUpload>,
    upload_id: String,
    trailers: Vec<(String, String)>,
    /// Payload bytes of the parts that were acknowledged.
    sent: u64,
    /// The requests under way.
    open: HashSet<u64>,
    volume: Volume,
    restarts: u32,
    /// The part that ends the body was taken whole.
    body_taken: bool,
    reply: Option<oneshot::Sender<UploadEnd>>,
    /// The timer that ends it.
    expiry: Option<SpawnHandle>,
    _held: Held,
    _splitting: Counted,
}

impl UploadSupervisor {
    /// Feeds an event to a split's machine and carries out what it asks for.
    fn split_event(
        &mut self,
        id: u64,
        event: Event<String, BackendAnswer>,
        context: &mut Context<Self>,
    ) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        let effects = split.machine.step(event);
        self.split_effects(id, effects, context);
    }

    fn split_effects(
        &mut self,
        id: u64,
        effects: Vec<Effect<String, BackendAnswer>>,
        context: &mut Context<Self>,
    ) {
        for effect in effects {
            match effect {
                Effect::Record => self.record(id, context),
                Effect::Probe => self.take_part(id, 1, Step::Probe, context),
                Effect::Take(number) => self.take_part(id, number, Step::Part(number), context),
                Effect::SendProbed => self.send_probed(id, Step::Part(1)),
                Effect::Put => self.send_probed(id, Step::Put),
                Effect::Create => {
                    self.request(id, Step::Create, |split| (split.requests.create(), None));
                }
                Effect::Complete(parts) => self.complete(id, &parts),
                Effect::Cancel => self.cancel(id),
                Effect::Abort => {
                    let abort = |split: &Split| (split.requests.abort(&split.upload_id), None);
                    self.request(id, Step::Abort, abort);
                }
                Effect::Reply(result) => self.reply(id, result),
                Effect::End { clean } => {
                    let Some(split) = self.splits.remove(&id) else { continue };
                    if let Some(timer) = split.expiry {
                        context.cancel_future(timer);
                    }
                    if let Some(own) = split.own.filter(|_| clean) {
                        own.end();
                    }
                }
            }
        }
    }

    fn record(&mut self, id: u64, context: &mut Context<Self>) {
        let Some(split) = self.splits.get(&id) else { return };
        let ledger = Arc::clone(&self.engine.ledger);
        let (bucket, key) = (split.bucket.name.clone(), split.put.key.clone());
        let record = async move { ledger.begin_own(&bucket, &key, wall_clock()).await };
        context.spawn(record.into_actor(self).map(move |recorded, supervisor, context| {
            let result = match recorded {
                Ok(own) => {
                    if let Some(split) = supervisor.splits.get_mut(&id) {
                        split.own = Some(own);
                    }
                    Ok(())
                }
                Err(error) => Err(not_recorded(&error)),
            };
            supervisor.split_event(id, Event::Recorded(result), context);
        }));
    }

    /// Spawns the request that takes part `number` from the client.
    fn take_part(&mut self, id: u64, number: u32, step: Step, context: &mut Context<Self>) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        let Some(intake) = split.intake.take() else { return };
        let last = matches!(split.shape, Shape::Known(parts) if number >= parts);
        let (share, handed) = if last {
            (Share::Rest, None)
        } else {
            let (hand_on, handed) = oneshot::channel();
            (Share::Cut(split.part_size, hand_on), Some(handed))
        };
        let source = PartSource::new(intake, share, split.resources.clone());
        let source = if split.part_md5 { source.with_md5() } else { source };
        let measured = split.part_md5 || split.shape == Shape::Unknown;
        let before = if measured { Before::Measured } else { Before::First };
        let content = Content::Body { source: Box::new(source), before };
        if step == Step::Probe {
            split.after_probe = handed;
        } else if let Some(handed) = handed {
            context.spawn(handed.into_actor(self).map(move |intake, supervisor, context| {
                // A channel that was dropped says nothing: the part has failed, and says so itself.
                let Ok(intake) = intake else { return };
                let last = intake.is_none();
                if let Some(split) = supervisor.splits.get_mut(&id) {
                    split.intake = intake;
                }
                supervisor.split_event(id, Event::Taken { last }, context);
            }));
        }
        self.send_body(id, step, content);
    }

    fn send_probed(&mut self, id: u64, step: Step) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        let Some(source) = split.probed.take() else { return };
        self.send_body(id, step, Content::Body { source, before: Before::Measured });
    }

    fn send_body(&mut self, id: u64, step: Step, content: Content) {
        let Some(split) = self.splits.get(&id) else { return };
        let conditional =
            split.put.headers.iter().any(|(name, _)| name == "if-none-match" || name == "if-match");
        let (kind, request, proof) = match step {
            Step::Part(number) => {
                (Kind::UploadPart, split.requests.part(number, &split.upload_id), Proof::None)
            }
            Step::Put => {
                let proof = prepare::proof(&split.put.headers);
                let kind = match split.guarded {
                    true => Kind::GuardedPut,
                    false => Kind::PutObject { conditional },
                };
                (kind, split.put.clone(), proof)
            }
            _ => (Kind::Take, split.put.clone(), Proof::None),
        };
        let new = split.new_request(id, step, kind, request, content, proof);
        self.begin_step(id, new);
    }

    fn complete(&mut self, id: u64, parts: &[(u32, String)]) {
        self.engine.metrics.multipart_parts.observe(parts.len() as f64);
        let complete = |split: &Split| {
            let (request, document) =
                split.requests.complete(parts, &split.upload_id, &split.trailers, split.sent);
            let etags = parts.iter().map(|(_, etag)| etag.as_str());
            let proof = xml::multipart_etag(etags).map_or(Proof::None, Proof::ETag);
            (request, Some((document, proof)))
        };
        self.request(id, Step::Complete, complete);
    }

    /// Spawns a request without a client's body.
    fn request(
        &mut self,
        id: u64,
        step: Step,
        make: impl FnOnce(&Split) -> (UpstreamTemplate, Option<(Bytes, Proof)>),
    ) {
        let Some(split) = self.splits.get(&id) else { return };
        let (request, document) = make(split);
        let kind = match step {
            Step::Create => Kind::Create,
            Step::Complete if split.guarded => Kind::GuardedComplete,
            Step::Complete => Kind::Complete,
            _ => Kind::Abort,
        };
        let (content, proof) = match document {
            Some((document, proof)) => (Content::Document(document), proof),
            None => (Content::None, Proof::None),
        };
        let new = split.new_request(id, step, kind, request, content, proof);
        self.begin_step(id, new);
    }

    fn begin_step(&mut self, id: u64, new: NewRequest) {
        let request = self.begin(new);
        if let Some(split) = self.splits.get_mut(&id) {
            split.open.insert(request);
        }
    }

    /// A request of a split has ended.
    pub(super) fn step_ended(&mut self, id: u64, end: StepEnd, context: &mut Context<Self>) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        split.open.remove(&end.id);
        split.restarts += end.restarts;
        if end.step != Step::Probe {
            split.volume += end.volume;
        }
        let event = match end.step {
            Step::Probe => split.probe_ended(end.result, &end.content),
            Step::Put => {
                split.body_taken = end.body_taken;
                Event::PutEnded(end.result)
            }
            Step::Create => match end.result.and_then(|answer| initiated(&answer)) {
                Ok(upload_id) => return self.named(id, upload_id, context),
                Err(error) => Event::Created(Err(error)),
            },
            Step::Part(number) => {
                split.note_part(&end.content);
                Event::PartEnded(number, end.result.and_then(|answer| etag(&answer)))
            }
            Step::Complete => Event::Completed(end.result.and_then(completed)),
            Step::Abort => Event::Aborted(end.result.map(|_| ())),
        };
        self.split_event(id, event, context);
    }

    /// Create has answered: the id goes on record before a part is sent.
    fn named(&mut self, id: u64, upload_id: String, context: &mut Context<Self>) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        split.upload_id.clone_from(&upload_id);
        let own = split.own.take();
        let name = async move {
            let named = match &own {
                Some(own) => own.named(&upload_id).await,
                None => Ok(()),
            };
            (own, named)
        };
        context.spawn(name.into_actor(self).map(move |(own, named), supervisor, context| {
            if let Err(error) = named {
                // It is in memory, and is aborted if anything fails: only a crash now would leave it.
                log::error!("a multipart upload's id could not be put on record: {error}");
            }
            if let Some(split) = supervisor.splits.get_mut(&id) {
                split.own = own;
            }
            supervisor.split_event(id, Event::Created(Ok(())), context);
        }));
    }

    /// Stops the requests that are under way, and gives the client's body up.
    fn cancel(&mut self, id: u64) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        split.intake = None;
        split.probed = None;
        for request in std::mem::take(&mut split.open) {
            let cancelled: Option<Entry> = self.requests.remove(&request);
            drop(cancelled);
        }
    }

    fn reply(&mut self, id: u64, result: Result<BackendAnswer, S3Error>) {
        let Some(split) = self.splits.get_mut(&id) else { return };
        // Whatever failed, nothing of the body is wanted any more.
        split.intake = None;
        let end = UploadEnd {
            result,
            volume: split.volume,
            restarts: split.restarts,
            body_taken: split.body_taken,
        };
        if let Some(reply) = split.reply.take() {
            // The client may be gone: nobody is left to tell.
            let _ = reply.send(end);
        }
    }
}

impl Split {
    fn new_request(
        &self,
        id: u64,
        step: Step,
        kind: Kind,
        request: UpstreamTemplate,
        content: Content,
        proof: Proof,
    ) -> NewRequest {
        // What a probe takes is counted when it is sent.
        let sends_body = matches!(step, Step::Put | Step::Part(_));
        NewRequest {
            bucket_index: self.bucket_index,
            bucket: Arc::clone(&self.bucket),
            kind,
            request,
            content,
            plan: sends_body.then_some(self.plan),
            proof,
            owner: Owner::Split(id, step),
        }
    }

    fn probe_ended(
        &mut self,
        result: Result<BackendAnswer, S3Error>,
        content: &ContentSlot,
    ) -> Event<String, BackendAnswer> {
        if let Err(error) = result {
            return Event::ProbeFailed(error);
        }
        let Some(Content::Body { source, .. }) = content.take() else {
            return Event::ProbeFailed(internal());
        };
        let Some(Ok(handed)) = self.after_probe.take().map(|mut handed| handed.try_recv()) else {
            return Event::ProbeFailed(internal());
        };
        self.intake = handed;
        self.probed = Some(source);
        Event::Taken { last: self.intake.is_none() }
    }

    /// Notes how long a part was and, of the one that took the body's end, its verified trailers.
    fn note_part(&mut self, content: &ContentSlot) {
        let noted = content.inspect(|content| match content {
            Content::Body { source, .. } => {
                let trailers = source.is_end().then(|| source.trailers().to_vec());
                Some((source.taken_bytes(), trailers))
            }
            Content::None | Content::Document(_) => None,
        });
        let Some((bytes, trailers)) = noted.flatten() else { return };
        self.sent += bytes;
        if let Some(trailers) = trailers {
            self.trailers = trailers;
            self.body_taken = true;
        }
    }
}

fn initiated(answer: &BackendAnswer) -> Result<String, S3Error> {
    xml::parse_initiate(&answer.body).map_err(|error| {
        log::error!("CreateMultipartUpload answered garbage: {error}");
        not_understood()
    })
}

fn etag(answer: &BackendAnswer) -> Result<String, S3Error> {
    let header = answer.headers.iter().find(|(name, _)| name == "etag");
    let etag = header.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
    etag.ok_or_else(|| {
        log::error!("UploadPart answered without an ETag");
        not_understood()
    })
}

/// Complete's answer as a PutObject's: what its document says goes into the headers.
fn completed(mut answer: BackendAnswer) -> Result<BackendAnswer, S3Error> {
    let said = xml::parse_completed(&answer.body).map_err(|error| {
        log::error!("CompleteMultipartUpload answered garbage: {error}");
        not_understood()
    })?;
    let said = said.into_iter().map(|(name, value)| (name, Bytes::from(value)));
    answer.headers.retain(|(name, _)| name != "etag");
    answer.headers.extend(said);
    answer.body = Bytes::new();
    Ok(answer)
}

fn not_understood() -> S3Error {
    S3Error::new(ErrorCode::InternalError, "The backend's answer could not be understood.")
}

fn internal() -> S3Error {
    S3Error::new(ErrorCode::InternalError, "We encountered an internal error. Please try again.")
}

fn not_recorded(error: &io::Error) -> S3Error {
    log::error!("an upload could not be put on record, and is refused: {error}");
    S3Error::new(
        ErrorCode::ServiceUnavailable,
        "The upload could not be put on record. Please try again.",
    )
}

impl Handler<BeginSplit> for UploadSupervisor {
    type Result = ();

    fn handle(&mut self, BeginSplit(job, reply): BeginSplit, context: &mut Self::Context) {
        let id = self.number();
        let rules = job.bucket.upload.split;
        let (machine, effects) = Machine::begin(job.shape, rules.concurrent_parts);
        let requests = SplitRequests::new(&job);
        let split = Split {
            machine,
            bucket_index: job.bucket_index,
            bucket: job.bucket,
            shape: job.shape,
            part_size: job.part_size,
            part_md5: job.part_md5,
            guarded: job.guarded,
            put: job.put,
            requests,
            resources: job.resources,
            plan: job.plan,
            intake: Some(job.intake),
            after_probe: None,
            probed: None,
            own: None,
            upload_id: String::new(),
            trailers: Vec::new(),
            sent: 0,
            open: HashSet::new(),
            volume: Volume::default(),
            restarts: 0,
            body_taken: false,
            reply: Some(reply),
            expiry: None,
            _held: Held::new(job.permit, &self.engine),
            _splitting: Counted::new(&self.engine.metrics.splits_in_flight),
        };
        self.splits.insert(id, split);
        let expire = move |supervisor: &mut Self, context: &mut _| supervisor.expire(id, context);
        let expiry = context.run_later(rules.ttl, expire);
        if let Some(split) = self.splits.get_mut(&id) {
            split.expiry = Some(expiry);
        }
        self.split_effects(id, effects, context);
    }
}

impl UploadSupervisor {
    /// A split has lasted for its `ttl`: nobody waits for it any longer.
    fn expire(&mut self, id: u64, context: &mut Context<Self>) {
        if self.splits.contains_key(&id) {
            let message = "The upload took longer than this gateway allows (upload.split_ttl).";
            let error = S3Error::new(ErrorCode::RequestTimeout, message);
            self.split_event(id, Event::Expired(error), context);
        }
    }
}
