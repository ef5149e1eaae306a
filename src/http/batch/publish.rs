//! Publishes what an index holds: a bounded number of entries on their way at a time, each an upload of
//! the UploadSupervisor's, or an entry of the spool.

use super::super::route::Route;
use super::super::write_back::{can_wait, wait_for_older, went_through};
use super::witness::Witness;
use super::{Wanted, internal, unavailable};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mizuchi_actors::batch::{Archive, EntryBody, Index, Produced, produce};
use mizuchi_actors::config::Bucket;
use mizuchi_actors::orphans::wall_clock;
use mizuchi_actors::s3::error::S3Error;
use mizuchi_actors::s3::names::ObjectKey;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::sigv4::PayloadHash;
use mizuchi_actors::spool::request::recorded_headers;
use mizuchi_actors::spool::{self, EntryContent, Spool};
use mizuchi_actors::transfer::PartSource;
use mizuchi_actors::upload::job::{Before, Content, UploadJob};
use mizuchi_actors::upload::machine::Kind;
use mizuchi_actors::upload::prepare;
use mizuchi_actors::upload_supervisor::BeginUpload;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{Id, JoinSet};

/// Bodies that are unpacked ahead of the uploads: one of each is being read while others wait for their
/// turn. Each is at most [`mizuchi_actors::batch::MEMORY`] bytes of memory.
const AHEAD: usize = 16;

/// How entries are published.
pub(super) struct Publication {
    pub(super) route: Route,
    pub(super) bucket_index: usize,
    pub(super) bucket: Arc<Bucket>,
    pub(super) spool: Arc<Spool>,
    /// What each object is sent with.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// The condition among them is the gateway's own.
    pub(super) guarded: bool,
    pub(super) write_back: bool,
    pub(super) witness: Witness,
}

/// An entry that is an object now.
#[derive(Debug)]
pub(super) struct Stored {
    /// With its quotes.
    pub(super) etag: String,
}

/// What became of an entry.
#[derive(Debug)]
pub(super) struct EntryEnd {
    pub(super) number: usize,
    pub(super) size: u64,
    pub(super) restarts: u32,
    pub(super) result: Result<Stored, S3Error>,
}

/// What became of all that were tried.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) stored: u64,
    pub(super) failed: u64,
    /// The first that failed.
    pub(super) first: Option<(usize, S3Error)>,
}

impl Publication {
    /// Publishes all entries that are not refused. `strict`: after the first that fails none is begun.
    /// `on_end` is told of each end; after it says false none is begun either. When this returns none is on
    /// its way.
    pub(super) async fn run(
        self,
        archive: &Archive,
        index: Arc<Index>,
        strict: bool,
        on_end: impl AsyncFn(&EntryEnd) -> bool,
    ) -> Totals {
        let (to, mut produced) = mpsc::channel(AHEAD);
        let wanted = Wanted::new();
        self.start_reading(archive, &index, &wanted, to);
        let this = Arc::new(self);
        let mut totals = Totals::default();
        // Dropped in the middle, what is on its way ends by itself, and nothing else is begun.
        let mut under_way: JoinSet<EntryEnd> = JoinSet::new();
        let mut numbers: HashMap<Id, usize> = HashMap::new();
        let mut reading = true;
        // The reader has not come to the entries from `next` on.
        let (mut next, mut gone) = (0, false);
        while reading || !under_way.is_empty() {
            let has_place = under_way.len() < this.bucket.upload.batch.concurrency;
            let ended = tokio::select! {
                biased;
                Some(ended) = under_way.join_next_with_id() => match ended {
                    Ok((id, ended)) => {
                        numbers.remove(&id);
                        ended
                    }
                    Err(error) => {
                        log::error!("an entry of a batch died: {error}");
                        // Each was noted when it was begun.
                        let number = numbers.remove(&error.id()).unwrap_or(index.len());
                        this.without(&index, number, internal()).await
                    }
                },
                read = produced.recv(), if reading && has_place => {
                    let Some((number, body)) = read else {
                        reading = false;
                        continue;
                    };
                    next = number + 1;
                    match body {
                        Ok(body) => {
                            let (this, index) = (Arc::clone(&this), Arc::clone(&index));
                            let task = under_way.spawn_local(this.entry(index, number, body));
                            numbers.insert(task.id(), number);
                            continue;
                        }
                        Err(error) => this.without(&index, number, error).await,
                    }
                }
            };
            gone |= !on_end(&ended).await;
            this.count(&mut totals, ended);
            if gone || strict && totals.first.is_some() {
                reading = false;
                produced.close();
            }
        }
        // Where nobody has ended it, its reader came to the last entry, or died.
        for number in next..index.len() {
            if gone || strict && totals.first.is_some() {
                break;
            }
            if index.get(number).is_some_and(|entry| entry.refused.is_none()) {
                let ended = this.without(&index, number, unavailable()).await;
                gone |= !on_end(&ended).await;
                this.count(&mut totals, ended);
            }
        }
        totals
    }

    fn start_reading(
        &self,
        archive: &Archive,
        index: &Arc<Index>,
        wanted: &Wanted,
        to: mpsc::Sender<Produced>,
    ) {
        let (archive, index, spool) = (archive.clone(), Arc::clone(index), Arc::clone(&self.spool));
        let (limits, own) = (self.bucket.upload.batch.limits, self.write_back);
        let wanted = Arc::clone(&wanted.0);
        // Not of the blocking pool: it waits for uploads, which need that. It ends when nobody takes what it
        // reads; there are `max_batches` of them.
        let thread = std::thread::Builder::new().name("batch-read".to_owned());
        let started = thread.spawn(move || {
            produce(&archive, limits, &index, &spool, (own, wanted), &to);
        });
        if let Err(error) = started {
            log::error!("an archive cannot be read: {error}");
        }
    }

    /// The end of an entry that there are no bytes of, or no task.
    async fn without(&self, index: &Index, number: usize, error: S3Error) -> EntryEnd {
        let (key, size) = index.get(number).map_or(("", 0), |entry| (entry.key, entry.size));
        let end = EntryEnd { number, size, restarts: 0, result: Err(error) };
        self.witness.end(&self.route, key, &end, Duration::ZERO).await;
        end
    }

    fn count(&self, totals: &mut Totals, ended: EntryEnd) {
        let entries = &self.route.engine.metrics.batch_entries;
        match ended.result {
            Ok(_) => {
                totals.stored += 1;
                entries.with_label_values(&["stored"]).inc();
            }
            Err(error) => {
                totals.failed += 1;
                entries.with_label_values(&["failed"]).inc();
                totals.first.get_or_insert((ended.number, error));
            }
        }
    }

    async fn entry(self: Arc<Self>, index: Arc<Index>, number: usize, body: EntryBody) -> EntryEnd {
        fail::fail_point!("batch::entry");
        let started = Instant::now();
        let permit = Arc::clone(&self.bucket.upload.batch.uploads).acquire_owned().await;
        // Never closed; without a permit nothing is sent.
        let (Some(entry), Ok(permit)) = (index.get(number), permit) else {
            return EntryEnd { number, size: 0, restarts: 0, result: Err(internal()) };
        };
        let payload = entry.sha256.map_or(PayloadHash::Unsigned, PayloadHash::Hash);
        let mut headers = self.headers.clone();
        if let Some(value) = entry.content_type {
            headers.push(("content-type".to_owned(), value.as_bytes().to_vec()));
        }
        let request = UpstreamTemplate {
            method: "PUT",
            key: format!("{}{}", self.bucket.backend.key_prefix, entry.key),
            query: Vec::new(),
            headers,
            payload,
            length: Some(entry.size),
        };
        let mut restarts = 0;
        let Ok(key) = ObjectKey::new(entry.key.to_owned()) else {
            return EntryEnd { number, size: entry.size, restarts, result: Err(internal()) };
        };
        let operation = Operation::PutObject { key };
        let waits = self.write_back
            && can_wait(&self.bucket, &operation, &request.key, &request.headers, request.length);
        let result = if waits {
            self.acknowledge(request, body, entry.size, entry.md5).await
        } else {
            self.send(request, body, entry.size, entry.md5, permit, &mut restarts).await
        };
        let end = EntryEnd { number, size: entry.size, restarts, result };
        self.witness.end(&self.route, entry.key, &end, started.elapsed()).await;
        end
    }

    /// Write-back: it is stored when its record is.
    async fn acknowledge(
        &self,
        request: UpstreamTemplate,
        body: EntryBody,
        size: u64,
        md5: [u8; 16],
    ) -> Result<Stored, S3Error> {
        let recorded = body.recorded(size, md5);
        let etag = format!("\"{}\"", recorded.md5_hex());
        let (inline, reservation) = match body {
            EntryBody::Bytes(bytes) => (Some(bytes), self.spool.reserve(size)?),
            EntryBody::Draft(draft, reservation, _) => {
                draft.keep();
                (None, reservation)
            }
            // In write-back mode the larger ones have files of their own.
            EntryBody::Range(..) => return Err(internal()),
        };
        let entry = spool::Entry {
            bucket: self.bucket.name.clone(),
            key: request.key,
            accepted: wall_clock(),
            principal: self.witness.principal().to_owned(),
            headers: recorded_headers(request.headers, Vec::new(), request.payload),
            content: EntryContent::Whole(recorded),
            quarantined: None,
            upload_id: None,
            superseded: None,
        };
        let metrics = &self.route.engine.metrics;
        let timer = metrics.spool_commit.start_timer();
        let committed = self.spool.commit(entry, inline, reservation).await;
        timer.observe_duration();
        match committed {
            Ok(_) => {
                let bytes = metrics.transfer_bytes.with_label_values(&["spool", "write_back"]);
                bytes.inc_by(size);
                Ok(Stored { etag })
            }
            Err(error) => {
                let bucket = &self.bucket.name;
                log::error!("bucket {bucket}: an entry could not be recorded: {error}");
                Err(unavailable())
            }
        }
    }

    /// Write-through: it is stored when the backend has it.
    async fn send(
        &self,
        mut request: UpstreamTemplate,
        body: EntryBody,
        size: u64,
        md5: [u8; 16],
        permit: OwnedSemaphorePermit,
        restarts: &mut u32,
    ) -> Result<Stored, S3Error> {
        let (bucket, engine) = (&self.bucket, &self.route.engine);
        wait_for_older(&self.spool, &bucket.name, &request.key, engine.spool_wait)
            .await
            .map_err(|failed| failed.error)?;
        request.headers.push(("content-md5".to_owned(), STANDARD.encode(md5).into_bytes()));
        let replay = self.route.replay.clone();
        // Removed when the upload has ended.
        let mut own = None;
        let (source, before) = match body {
            EntryBody::Bytes(bytes) => (PartSource::stored_bytes(bytes, replay), Before::All),
            EntryBody::Range(file, offset) => {
                (PartSource::stored(file, offset, size, replay), Before::First)
            }
            EntryBody::Draft(draft, reservation, leaves) => {
                let opened = spool::check::open(self.spool.disk(), draft.id()).await;
                let file = opened.map_err(|error| {
                    log::error!("an entry's file in the spool cannot be opened: {error}");
                    unavailable()
                })?;
                own = Some((draft, reservation, leaves));
                (PartSource::stored(file, 0, size, replay), Before::First)
            }
        };
        let key = request.key.clone();
        let conditional = request.headers.iter().any(|(name, _)| name == "if-none-match");
        let job = Box::new(UploadJob {
            bucket_index: self.bucket_index,
            bucket: Arc::clone(bucket),
            kind: if self.guarded { Kind::GuardedPut } else { Kind::PutObject { conditional } },
            proof: prepare::proof(&request.headers),
            request,
            content: Content::Body { source: Box::new(source), before },
            plan: None,
            permit: permit.into(),
        });
        let ended = self.route.uploads.begin(|end| BeginUpload(job, end)).await;
        drop(own);
        let end = ended.map_err(|error| {
            log::error!("{error}");
            internal()
        })?;
        *restarts = end.restarts;
        let answer = end.result?;
        went_through(&self.spool, &bucket.name, &key).await;
        let etag = answer.headers.iter().find(|(name, _)| name == "etag");
        let etag = etag.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        Ok(Stored { etag: etag.unwrap_or_default() })
    }
}
