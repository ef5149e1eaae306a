//! The DeliveryActor: one per worker thread, sharing the work. Takes what was acknowledged from the spool
//! to its backend, as an upload of the UploadSupervisor's like any other: the same restarts and
//! budgets. An upload that fails all the same is tried again later, for as long as it takes; one that the
//! backend will never take is set aside for the operator (docs/durability.md).
//!
//! Of one key one is on its way at a time, the oldest first; the next may go when the journal has it that
//! the one before was delivered. So whatever dies in between, the last acknowledged is the last written.

mod multipart;

use crate::config::{Bucket, Engine};
use crate::guardian::ActorRef;
use crate::s3::error::S3Error;
use crate::s3::upstream::UpstreamTemplate;
use crate::s3_client_actor::S3ClientActor;
use crate::spool::check::{Checked, Opened};
use crate::spool::request::put_object;
use crate::spool::verdict::{self, Verdict};
use crate::spool::{Body, Claim, Entry, EntryContent, Pacing, Share, Spool, Verified};
use crate::transfer::{PartSource, Rate, ReplayResources};
use crate::upload::job::{BackendAnswer, Before, Content, Permit, Proof, UploadJob};
use crate::upload::machine::Kind;
use crate::upload_supervisor::{BeginUpload, UploadSupervisor};
use actix::prelude::*;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// How many deliveries there are at a time, and how they are paced.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Deliveries at a time, in the whole process.
    pub permits: Arc<Semaphore>,
    /// Pauses and shares.
    pub pacing: Pacing,
    /// How much they send; None: as much as goes.
    pub rate: Option<Arc<Rate>>,
}

/// See the module.
pub struct DeliveryActor {
    courier: Option<Courier>,
}

/// Where a delivery goes.
#[derive(Clone)]
struct Target {
    index: usize,
    bucket: Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
}

/// A place among the deliveries that may be under way.
#[derive(Clone)]
struct Lane {
    permit: Arc<OwnedSemaphorePermit>,
    /// Beside the claim's own.
    share: Option<Arc<Share>>,
}

/// What a delivery needs.
#[derive(Clone)]
struct Courier {
    engine: Arc<Engine>,
    spool: Arc<Spool>,
    clients: Arc<[ActorRef<S3ClientActor>]>,
    uploads: ActorRef<UploadSupervisor>,
    replay: ReplayResources,
    pace: Pace,
}

impl DeliveryActor {
    /// One that delivers through `uploads`, and asks through `clients`, one for each of the engine's
    /// buckets; idle where the engine has no spool.
    pub fn new(
        engine: Arc<Engine>,
        uploads: ActorRef<UploadSupervisor>,
        clients: Arc<[ActorRef<S3ClientActor>]>,
        replay: ReplayResources,
        pace: Pace,
    ) -> Self {
        let spool = engine.spool.clone();
        let courier = spool.map(|spool| {
            spool.set_pacing(pace.pacing);
            Courier { engine, spool, clients, uploads, replay, pace }
        });
        DeliveryActor { courier }
    }
}

impl Actor for DeliveryActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        if let Some(courier) = self.courier.clone() {
            context.spawn(courier.run().into_actor(self));
        }
    }
}

impl Courier {
    /// Delivers for ever. What is under way ends with it; its claims are due again then.
    async fn run(self) {
        let mut under_way = JoinSet::new();
        loop {
            while let Some(ended) = under_way.try_join_next() {
                if let Err(error) = ended {
                    log::error!("a delivery died: {error}");
                }
            }
            // Before looking: what changes meanwhile is not missed.
            let changed = self.spool.changed();
            let now = Instant::now();
            match self.spool.next_due(now) {
                Some(due) if due <= now => {}
                Some(due) => {
                    drop(tokio::time::timeout_at(due.into(), changed).await);
                    continue;
                }
                None => {
                    changed.await;
                    continue;
                }
            }
            let permit = Arc::clone(&self.pace.permits).acquire_owned().await;
            let Ok(permit) = permit.map(Arc::new) else { return };
            // Another thread may have been faster.
            if let Some(claim) = self.spool.claim(Instant::now()) {
                under_way.spawn_local(self.clone().deliver(claim, Lane { permit, share: None }));
            }
        }
    }

    /// A lane beside the one that a delivery has; None: others need them.
    fn another_lane(&self, claim: &Claim) -> Option<Lane> {
        let permit = Arc::clone(&self.pace.permits).try_acquire_owned().ok()?;
        let share = claim.beside()?;
        Some(Lane { permit: Arc::new(permit), share: Some(Arc::new(share)) })
    }

    async fn deliver(self, mut claim: Claim, lane: Lane) {
        let entry = Arc::clone(claim.entry());
        let what = format!("bucket {}: {:?}, accepted as {}", entry.bucket, entry.key, claim.seq());
        let Some(to) = self.target(&entry.bucket) else {
            let reason = "its bucket is not configured any more".to_owned();
            if let Some(id) = &entry.upload_id {
                log::error!("{what}: abort the multipart upload {id} at its backend by hand");
            }
            self.engine.metrics.spool_deliveries.with_label_values(&["quarantined"]).inc();
            return set_aside(claim, &what, reason).await;
        };
        let verdict = match &entry.content {
            EntryContent::Whole(body) => self.send(&to, &claim, &entry, body, &lane).await,
            EntryContent::Parts(parts) => self.send_parts(&to, &mut claim, parts, &lane).await,
        };
        let verdict = match verdict {
            Verdict::LookAgain(why) => self.look_again(claim.seq(), why).await,
            verdict => verdict,
        };
        if let (Verdict::Never(_), Some(id)) = (&verdict, &claim.entry().upload_id) {
            self.give_up(&to, &entry, id, &lane).await;
        }
        drop(lane);
        let metrics = &self.engine.metrics;
        let outcome = match verdict {
            Verdict::Delivered | Verdict::DeliveredAs(_) => {
                if let Verdict::DeliveredAs(etag) = verdict {
                    metrics.spool_other_etags.inc();
                    log::warn!(
                        "{what}: the backend's ETag is {etag}, another than was acknowledged"
                    );
                }
                match claim.delivered().await {
                    Ok(()) => "delivered",
                    Err(error) => {
                        log::error!("{what}: delivered, but that could not be recorded: {error}");
                        "unrecorded"
                    }
                }
            }
            Verdict::Later(reason) => {
                let now = Instant::now();
                let due = claim.unanswered(now, rand::random());
                let pause = due.saturating_duration_since(now).as_secs();
                log::warn!("{what}: not delivered, again in {pause}s: {reason}");
                "retried"
            }
            Verdict::Local(reason) | Verdict::LookAgain(reason) => {
                let pause = self.pace.pacing.pause(claim.attempts() + 1, rand::random());
                log::warn!("{what}: not delivered, again in {}s: {reason}", pause.as_secs());
                claim.failed(Instant::now() + pause);
                "retried"
            }
            Verdict::Never(reason) => {
                set_aside(claim, &what, reason).await;
                "quarantined"
            }
        };
        metrics.spool_deliveries.with_label_values(&[outcome]).inc();
    }

    fn target(&self, bucket: &str) -> Option<Target> {
        let index = self.engine.buckets.iter().position(|one| one.name == bucket)?;
        let bucket = Arc::clone(self.engine.buckets.get(index)?);
        Some(Target { index, bucket, client: self.clients.get(index)?.clone() })
    }

    async fn send(
        &self,
        to: &Target,
        claim: &Claim,
        entry: &Entry,
        body: &Body,
        lane: &Lane,
    ) -> Verdict {
        let content = match self.open(&to.bucket, claim.seq(), body).await {
            Ok(opened) => self.content(opened, body).await,
            Err(verdict) => return verdict,
        };
        let kind = Kind::PutObject { conditional: false };
        match self.ask(to, kind, put_object(entry, body), content, lane).await {
            Ok(Ok(answer)) => verdict::of_answer(&answer, &body.md5_hex()),
            Ok(Err(error)) => verdict::of_error(&error),
            Err(verdict) => verdict,
        }
    }

    /// One request, through the supervisor. Err: there was no answer of any kind.
    async fn ask(
        &self,
        to: &Target,
        kind: Kind,
        request: UpstreamTemplate,
        content: Content,
        lane: &Lane,
    ) -> Result<Result<BackendAnswer, S3Error>, Verdict> {
        let job = Box::new(UploadJob {
            bucket_index: to.index,
            bucket: Arc::clone(&to.bucket),
            kind,
            request,
            content,
            plan: None,
            // What may have been carried out is asked for again, which harms nobody: an ETag would prove
            // the bytes, not the headers.
            proof: Proof::None,
            permit: Permit::Shared(Arc::clone(&lane.permit)),
        });
        let ended = self.uploads.begin(|end| BeginUpload(job, end)).await;
        ended.map(|end| end.result).map_err(|error| Verdict::Local(error.to_string()))
    }

    /// The body where it stands. One that its backend would not hold against its MD5 is read and held
    /// against it here.
    async fn open(&self, bucket: &Bucket, seq: u64, body: &Body) -> Result<Opened, Verdict> {
        let opened = self.spool.open_body(seq, body).await.map_err(unreadable)?;
        if !bucket.backend.verifies.md5 {
            match opened.check(body).await {
                Checked::Sound => {}
                Checked::Rotten(how) => return Err(Verdict::Never(how)),
                Checked::Io(error) => return Err(unreadable(error)),
            }
        }
        Ok(opened)
    }

    async fn content(&self, opened: Opened, body: &Body) -> Content {
        let replay = self.replay.clone();
        let (source, before) = match opened {
            Opened::Bytes(bytes) => {
                // It goes out in one write with its head.
                if let Some(rate) = &self.pace.rate {
                    rate.drawn(bytes.len()).await;
                }
                (PartSource::stored_bytes(bytes, replay), Before::All)
            }
            Opened::File(file) => {
                let source = PartSource::stored(file, 0, body.length, replay);
                (source.with_rate(self.pace.rate.clone()), Before::First)
            }
        };
        Content::Body { source: Box::new(source), before }
    }

    /// The bytes are not those of their MD5, or could not be read to their end: they rotted here, or on the
    /// way.
    async fn look_again(&self, seq: u64, why: String) -> Verdict {
        match self.spool.verify(seq, || {}).await {
            Verified::Rotten(how) => Verdict::Never(how),
            Verified::Io(error) => unreadable(error),
            Verified::Sound | Verified::Unknown => Verdict::Local(why),
        }
    }
}

fn unreadable(error: io::Error) -> Verdict {
    match error.kind() {
        io::ErrorKind::NotFound => Verdict::Never(format!("its body is gone: {error}")),
        io::ErrorKind::InvalidData => Verdict::Never(format!("its body is damaged: {error}")),
        _ => Verdict::Local(error.to_string()),
    }
}

async fn set_aside(claim: Claim, what: &str, reason: String) {
    log::error!("{what}: set aside, see mizuchi spool ls: {reason}");
    if let Err(error) = claim.quarantine(reason).await {
        log::error!("{what}: that could not be recorded: {error}");
    }
}
