//! Many objects in one body (docs/batch.md): taken like a write-back body into the spool, looked through,
//! each final key authorized, and only then published, each entry as the PutObject that it stands for.

pub(super) mod post;
mod publish;
pub(super) mod snowball;
pub(super) mod taking;
mod witness;

use super::route::Route;
use mizuchi_actors::auth_actor::{AuthorizeEntries, ENTRIES_AT_ONCE, EntryDenied};
use mizuchi_actors::batch::{Archive, Index, Prefix, Refusal, scan};
use mizuchi_actors::config::Bucket;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::identity::Identity;
use mizuchi_actors::metrics::Counted;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::names::ObjectKey;
use mizuchi_actors::spool::{Draft, Ingested, Reservation, Spool};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use witness::Witness;

/// Told when nobody waits any more: what is read on the blocking pool ends then.
struct Wanted(Arc<AtomicBool>);

impl Wanted {
    fn new() -> Wanted {
        Wanted(Arc::new(AtomicBool::new(true)))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A place among the batches of its bucket that are looked through and published.
struct InPlace {
    _place: OwnedSemaphorePermit,
    _counted: Counted,
}

impl InPlace {
    /// Errors: 503 SlowDown: none came free in time.
    async fn take(route: &Route, bucket: &Bucket) -> Result<InPlace, S3Error> {
        let rules = &bucket.upload.batch;
        let place = timeout(rules.queue_wait, Arc::clone(&rules.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            let message = "Too many batches are under way here. Please reduce your request rate.";
            return Err(S3Error::new(ErrorCode::SlowDown, message));
        };
        let counted = Counted::new(&route.engine.metrics.batches_in_flight);
        Ok(InPlace { _place: place, _counted: counted })
    }
}

/// A batch's body as it stands in the spool. Dropped, it is removed.
struct Spooled {
    archive: Archive,
    _draft: Option<Draft>,
    _reservation: Reservation,
}

impl Spooled {
    /// Errors: 503 ServiceUnavailable: it cannot be opened.
    async fn open(spool: &Arc<Spool>, ingested: Ingested) -> Result<Spooled, S3Error> {
        let Ingested { body, inline, draft, reservation, .. } = ingested;
        let archive = match &draft {
            None => Archive::of_bytes(inline.unwrap_or_default()),
            Some(draft) => {
                let (disk, id, length) = (Arc::clone(spool.disk()), draft.id(), body.length);
                let opened =
                    spawn_blocking(move || Archive::of_file(Arc::new(disk.open(id)?), length));
                opened.await.map_err(io::Error::other).flatten().map_err(|error| {
                    log::error!("an archive in the spool cannot be opened: {error}");
                    unavailable()
                })?
            }
        };
        Ok(Spooled { archive, _draft: draft, _reservation: reservation })
    }

    /// Looks it through. Errors: those of [`scan`].
    async fn scan(&self, bucket: &Bucket, prefix: Prefix, folders: bool) -> Result<Index, S3Error> {
        let (archive, limits) = (self.archive.clone(), bucket.upload.batch.limits);
        // Where the backend takes no unsigned payload each entry needs its own hash.
        let sha256 = !bucket.backend.allow_unsigned;
        let wanted = Wanted::new();
        let is_wanted = Arc::clone(&wanted.0);
        let scanned =
            spawn_blocking(move || scan(&archive, limits, &prefix, (folders, sha256), is_wanted));
        scanned.await.unwrap_or_else(|error| {
            log::error!("a look through an archive died: {error}");
            Err(internal())
        })
    }
}

fn unavailable() -> S3Error {
    let message = "The gateway cannot store uploads at the moment. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message)
}

fn internal() -> S3Error {
    let message = "We encountered an internal error. Please try again.";
    S3Error::new(ErrorCode::InternalError, message)
}

/// Who sent a batch, as the AuthActor is asked about its entries.
struct Sender {
    bucket: Arc<Bucket>,
    head: RequestHead,
    identity: Identity,
}

impl Sender {
    /// Asks for each entry whether its key may be put, and notes in the index which may not. Returns the
    /// first that may not, if `strict`: nothing is asked after it.
    ///
    /// Errors: 503 ServiceUnavailable: a decision must be recorded and cannot be; 500: nobody answered.
    async fn authorize(
        &self,
        route: &Route,
        witness: &Witness,
        index: &mut Index,
        strict: bool,
    ) -> Result<Option<(usize, S3Error)>, S3Error> {
        let mut next = 0;
        while next < index.len() {
            let mut entries = Vec::new();
            let mut numbers = Vec::new();
            while entries.len() < ENTRIES_AT_ONCE
                && let Some(entry) = index.get(next)
            {
                if entry.refused.is_none() {
                    // Its form was looked at by the scan.
                    entries.push((ObjectKey::new(entry.key.to_owned())?, entry.size));
                    numbers.push(next);
                }
                next += 1;
            }
            let asked = AuthorizeEntries {
                bucket: Arc::clone(&self.bucket),
                head: self.head.clone(),
                identity: self.identity.clone(),
                client_ip: witness.client,
                entries,
            };
            let decisions = route.auth.ask(asked).await.map_err(|error| {
                log::error!("{error}");
                internal()
            })?;
            if decisions.len() != numbers.len() {
                return Err(internal());
            }
            for (number, decision) in numbers.into_iter().zip(decisions) {
                let key = index.get(number).map_or("", |entry| entry.key);
                witness.decision(route, &self.identity, key, decision.as_ref()).await?;
                if let Err(EntryDenied { error, .. }) = decision {
                    let undecided = error.status >= 500;
                    let why = if undecided { Refusal::Undecided } else { Refusal::Denied };
                    index.refuse(number, why);
                    if strict {
                        return Ok(Some((number, error)));
                    }
                }
            }
        }
        Ok(None)
    }
}
