//! The OrphanSweeper: one per worker thread, sharing the work. Aborts the multipart uploads that
//! nobody looks after any more: what a crash left behind, what could not be aborted when it failed,
//! and what a Create whose answer was lost may have begun. And it ends those that stand in the spool and
//! give no sign of life.

use crate::config::{Bucket, Engine};
use crate::guardian::ActorRef;
use crate::origin::{self, SweepError};
use crate::orphans::{Due, Ledger, lost_ones, wall_clock};
use crate::s3_client_actor::S3ClientActor;
use crate::spool::{ClientUpload, Spool, UploadId};
use actix::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the records are looked through. A sweep takes one at a time: what a crash leaves behind
/// is at most what was admitted.
const EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub struct OrphanSweeper {
    engine: Arc<Engine>,
    clients: Vec<ActorRef<S3ClientActor>>,
    busy: bool,
    /// It ends uploads of the spool's for their age.
    expiring: bool,
}

/// What came of a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swept {
    /// Nothing of it is left.
    Gone,
    /// A lost one was found and aborted; another may still turn up.
    Found,
    /// No lost one was found, this time.
    NotFound,
    /// It is tried again later.
    Failed,
}

impl Swept {
    fn as_str(self) -> &'static str {
        match self {
            Swept::Gone | Swept::Found => "aborted",
            Swept::NotFound => "not_found",
            Swept::Failed => "failed",
        }
    }
}

impl OrphanSweeper {
    /// A sweeper over the engine's records, with one client for each of its buckets.
    pub fn new(engine: Arc<Engine>, clients: Vec<ActorRef<S3ClientActor>>) -> Self {
        OrphanSweeper { engine, clients, busy: false, expiring: false }
    }

    /// Ends the multipart uploads in the spool that give no sign of life.
    fn expire(&mut self, context: &mut Context<Self>) {
        let Some(spool) = self.engine.spool.clone().filter(|_| !self.expiring) else { return };
        self.expiring = true;
        let engine = Arc::clone(&self.engine);
        let expire = async move {
            let ttl = engine.spool_multipart_ttl;
            let ended = spool.expire_uploads(wall_clock(), Instant::now(), ttl).await;
            let ended = ended.unwrap_or_else(|error| {
                log::warn!("spool: abandoned multipart uploads could not be ended: {error}");
                Vec::new()
            });
            for (id, upload) in ended {
                let ClientUpload { bucket, key, .. } = &*upload;
                log::warn!(
                    "bucket {bucket}: the multipart upload {id} of {key:?} was abandoned: removed"
                );
                engine.metrics.spool_multipart_expired.inc();
                engine.ledger.client_ended(bucket, &id.to_string());
            }
        };
        context.spawn(expire.into_actor(self).map(|(), sweeper, _| sweeper.expiring = false));
    }

    fn sweep(&mut self, context: &mut Context<Self>) {
        let ledger = &self.engine.ledger;
        self.engine.metrics.uploads_on_record.set(gauge(ledger.own_count()));
        if self.busy {
            return;
        }
        let buckets = &self.engine.buckets;
        let ttl = |name: &str| {
            let bucket = buckets.iter().find(|bucket| bucket.name == name)?;
            u64::try_from(bucket.upload.client_uploads_ttl?.as_millis()).ok()
        };
        let Some(due) = ledger.claim(Instant::now(), wall_clock(), ttl) else { return };
        let index = buckets.iter().position(|bucket| bucket.name == due.record.bucket);
        let found = index.and_then(|at| Some((buckets.get(at)?, self.clients.get(at)?)));
        let Some((bucket, client)) = found else {
            log::error!(
                "the multipart upload {:?} of {:?} was begun in bucket {:?}, which is not configured \
                 any more: abort it by hand",
                due.record.upload_id,
                due.record.key,
                due.record.bucket
            );
            return ledger.remove(due.id);
        };
        self.busy = true;
        let (ledger, bucket, client) = (Arc::clone(ledger), Arc::clone(bucket), client.clone());
        let spool = self.engine.spool.clone();
        let look = async move {
            let swept = match due.record.upload_id.as_deref().and_then(UploadId::parse) {
                Some(id) => end_spooled(spool, &bucket, id).await,
                None => look(&ledger, &bucket, client, &due).await,
            };
            match swept {
                Swept::Gone => ledger.remove(due.id),
                Swept::Found | Swept::NotFound => ledger.swept(due.id, false, Instant::now()),
                Swept::Failed => ledger.swept(due.id, true, Instant::now()),
            }
            swept
        };
        context.spawn(look.into_actor(self).map(|swept, sweeper, context| {
            sweeper.busy = false;
            sweeper.engine.metrics.sweeps.with_label_values(&[swept.as_str()]).inc();
            sweeper.sweep(context);
        }));
    }
}

/// Ends an upload that stands in the spool: its backend knows nothing of it.
async fn end_spooled(spool: Option<Arc<Spool>>, bucket: &Bucket, id: UploadId) -> Swept {
    let Some(spool) = spool else { return Swept::Gone };
    match spool.abort_upload(id).await {
        Ok(ended) => {
            if ended {
                log::info!("bucket {}: removed the multipart upload {id}", bucket.name);
            }
            Swept::Gone
        }
        Err(error) => {
            log::warn!("bucket {}: the multipart upload {id} was not ended: {error}", bucket.name);
            Swept::Failed
        }
    }
}

/// Looks for what the record is of, and aborts it.
async fn look(
    ledger: &Ledger,
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    due: &Due,
) -> Swept {
    let key = &due.record.key;
    let result = match &due.record.upload_id {
        Some(id) => abort(bucket, client, key, id).await.map(|()| Swept::Gone),
        None => abort_lost(ledger, bucket, client, due).await,
    };
    match result {
        Ok(swept) => swept,
        Err(SweepError::Refused(what)) if due.record.upload_id.is_none() => {
            log::error!(
                "bucket {}: a CreateMultipartUpload of {key:?} was not answered, and the backend \
                 refuses to list what it may have begun: {what}. Let the backend expire incomplete \
                 multipart uploads",
                bucket.name
            );
            Swept::Gone
        }
        Err(error) => {
            log::warn!("bucket {}: the sweep of {key:?} failed: {error}", bucket.name);
            Swept::Failed
        }
    }
}

async fn abort(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    upload_id: &str,
) -> Result<(), SweepError> {
    origin::abort(bucket, client, key, upload_id).await?;
    log::info!("bucket {}: aborted the multipart upload {upload_id} of {key:?}", bucket.name);
    Ok(())
}

/// Aborts what a lost Create has begun.
async fn abort_lost(
    ledger: &Ledger,
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    due: &Due,
) -> Result<Swept, SweepError> {
    let key = &due.record.key;
    let (listed, ahead) = origin::list_uploads(bucket, client.clone(), key).await?;
    let known = |id: &str| ledger.is_known(&due.record.bucket, id);
    let mut swept = Swept::NotFound;
    for id in lost_ones(&listed, key, due.record.begun, ahead, known) {
        // One that has parts is somebody's who knows its id.
        if origin::has_parts(bucket, client.clone(), key, &id).await? {
            continue;
        }
        abort(bucket, client.clone(), key, &id).await?;
        swept = Swept::Found;
    }
    Ok(swept)
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Actor for OrphanSweeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(EVERY, |sweeper, context| {
            sweeper.expire(context);
            sweeper.sweep(context);
        });
    }
}
