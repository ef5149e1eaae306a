//! The DeliveryActor: one per worker thread, sharing the work. Takes what was acknowledged from the spool
//! to its backend, as an upload of the UploadSupervisor's like any other: the same restarts, budgets and
//! proofs. An upload that fails all the same is tried again later, for as long as it takes; one that the
//! backend will never take is set aside for the operator (docs/durability.md).
//!
//! Of one key one is on its way at a time, the oldest first; the next may go when the journal has it that
//! the one before was delivered. So whatever dies in between, the last acknowledged is the last written.

use crate::config::{Bucket, Engine};
use crate::guardian::ActorRef;
use crate::spool::check::{Checked, Opened};
use crate::spool::request::put_object;
use crate::spool::verdict::{self, Verdict};
use crate::spool::{Body, Claim, Entry, EntryContent, Spool, Verified};
use crate::transfer::{PartSource, ReplayResources};
use crate::upload::job::{Before, Content, Proof, UploadEnd, UploadJob};
use crate::upload::machine::Kind;
use crate::upload_supervisor::{BeginUpload, UploadSupervisor};
use actix::prelude::*;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// How deliveries are paced.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Deliveries at a time, in the whole process.
    pub permits: Arc<Semaphore>,
    /// The pause after the first failure.
    pub backoff_base: Duration,
    /// The longest pause.
    pub backoff_cap: Duration,
}

impl Pace {
    /// The pause after `attempts` failures (1 and more): doubled each time, between half and all of it, so
    /// that what failed together does not come back together. `random`: any number.
    fn pause(&self, attempts: u32, random: u64) -> Duration {
        let doubled = self.backoff_base.saturating_mul(1 << attempts.saturating_sub(1).min(30));
        let pause = doubled.min(self.backoff_cap);
        let part = 500 + u32::try_from(random % 501).unwrap_or(0);
        pause.saturating_mul(part) / 1000
    }
}

/// See the module.
pub struct DeliveryActor {
    courier: Option<Courier>,
}

/// What a delivery needs.
#[derive(Clone)]
struct Courier {
    engine: Arc<Engine>,
    spool: Arc<Spool>,
    uploads: ActorRef<UploadSupervisor>,
    replay: ReplayResources,
    pace: Pace,
}

impl DeliveryActor {
    /// One that delivers through `uploads`; idle where the engine has no spool.
    pub fn new(
        engine: Arc<Engine>,
        uploads: ActorRef<UploadSupervisor>,
        replay: ReplayResources,
        pace: Pace,
    ) -> Self {
        let spool = engine.spool.clone();
        let courier = spool.map(|spool| Courier { engine, spool, uploads, replay, pace });
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
            let Ok(permit) = Arc::clone(&self.pace.permits).acquire_owned().await else { return };
            let claim = self.next(&mut under_way).await;
            under_way.spawn_local(self.clone().deliver(claim, permit));
        }
    }

    /// The next that is due.
    async fn next(&self, under_way: &mut JoinSet<()>) -> Claim {
        loop {
            while let Some(ended) = under_way.try_join_next() {
                if let Err(error) = ended {
                    log::error!("a delivery died: {error}");
                }
            }
            // Before looking: what changes meanwhile is not missed.
            let changed = self.spool.changed();
            let now = Instant::now();
            if let Some(claim) = self.spool.claim(now) {
                return claim;
            }
            match self.spool.next_due(now) {
                Some(due) => drop(tokio::time::timeout_at(due.into(), changed).await),
                None => changed.await,
            }
        }
    }

    async fn deliver(self, claim: Claim, permit: OwnedSemaphorePermit) {
        let entry = Arc::clone(claim.entry());
        let what = format!("bucket {}: {:?}, accepted as {}", entry.bucket, entry.key, claim.seq());
        let found = self.engine.buckets.iter().position(|bucket| bucket.name == entry.bucket);
        let bucket = found.and_then(|index| Some((index, self.engine.buckets.get(index)?)));
        let Some((index, bucket)) = bucket else {
            let reason = "its bucket is not configured any more".to_owned();
            self.engine.metrics.spool_deliveries.with_label_values(&["quarantined"]).inc();
            return set_aside(claim, &what, reason).await;
        };
        let verdict = match self.send(index, bucket, &claim, &entry, permit).await {
            Ok((end, md5)) => match &end.result {
                Ok(answer) => verdict::of_answer(answer, &md5),
                Err(error) => verdict::of_error(error),
            },
            Err(unsendable) => unsendable,
        };
        let verdict = match verdict {
            Verdict::LookAgain(why) => self.look_again(claim.seq(), why).await,
            verdict => verdict,
        };
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
            Verdict::Later(reason) | Verdict::LookAgain(reason) => {
                let pause = self.pace.pause(claim.attempts() + 1, rand::random());
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

    async fn send(
        &self,
        bucket_index: usize,
        bucket: &Arc<Bucket>,
        claim: &Claim,
        entry: &Entry,
        permit: OwnedSemaphorePermit,
    ) -> Result<(UploadEnd, String), Verdict> {
        let body = match &entry.content {
            EntryContent::Whole(body) => body,
            EntryContent::Parts(_) => {
                let reason = "multipart uploads cannot be delivered by this version";
                return Err(Verdict::Never(reason.to_owned()));
            }
        };
        let (source, before) = self.source(bucket, claim, body).await?;
        let md5 = body.md5_hex();
        let job = UploadJob {
            bucket_index,
            bucket: Arc::clone(bucket),
            kind: Kind::PutObject { conditional: false },
            request: put_object(entry, body),
            content: Content::Body { source: Box::new(source), before },
            plan: None,
            // An ETag would prove the bytes, not the headers; sending them once more harms nobody.
            proof: Proof::None,
            permit,
        };
        let job = Box::new(job);
        let ended = self.uploads.begin(|end| BeginUpload(job, end)).await;
        let end = ended.map_err(|error| Verdict::Later(error.to_string()))?;
        Ok((end, md5))
    }

    /// The body where it stands. One that its backend would not hold against its MD5 is read and held
    /// against it here.
    async fn source(
        &self,
        bucket: &Bucket,
        claim: &Claim,
        body: &Body,
    ) -> Result<(PartSource, Before), Verdict> {
        let replay = self.replay.clone();
        let verify = !bucket.backend.verifies.md5;
        let opened = self.spool.open_body(claim.seq(), body).await.map_err(unreadable)?;
        if verify {
            match opened.check(body).await {
                Checked::Sound => {}
                Checked::Rotten(how) => return Err(Verdict::Never(how)),
                Checked::Io(error) => return Err(unreadable(error)),
            }
        }
        Ok(match opened {
            Opened::Bytes(bytes) => (PartSource::stored_bytes(bytes, replay), Before::All),
            Opened::File(file) => (PartSource::stored(file, 0, body.length, replay), Before::First),
        })
    }

    /// The bytes are not those of their MD5, or could not be read to their end: they rotted here, or on the
    /// way.
    async fn look_again(&self, seq: u64, why: String) -> Verdict {
        match self.spool.verify(seq, || {}).await {
            Verified::Rotten(how) => Verdict::Never(how),
            Verified::Io(error) => unreadable(error),
            Verified::Sound | Verified::Unknown => Verdict::Later(why),
        }
    }
}

fn unreadable(error: io::Error) -> Verdict {
    match error.kind() {
        io::ErrorKind::NotFound => Verdict::Never(format!("its body is gone: {error}")),
        _ => Verdict::Later(error.to_string()),
    }
}

async fn set_aside(claim: Claim, what: &str, reason: String) {
    log::error!("{what}: set aside, see mizuchi spool ls: {reason}");
    if let Err(error) = claim.quarantine(reason).await {
        log::error!("{what}: that could not be recorded: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_with_jitter() {
        let pace = Pace {
            permits: Arc::new(Semaphore::new(1)),
            backoff_base: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(60),
        };
        let span = |attempts| (pace.pause(attempts, 0), pace.pause(attempts, 500));
        let seconds = Duration::from_secs_f64;
        assert_eq!(span(1), (seconds(0.5), seconds(1.0)));
        assert_eq!(span(3), (seconds(2.0), seconds(4.0)));
        assert_eq!(span(7), (seconds(30.0), seconds(60.0)));
        assert_eq!(span(u32::MAX), (seconds(30.0), seconds(60.0)));
    }
}
