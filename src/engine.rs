//! From settings to the engine: its buckets, their backends, and what they share with each other.

use crate::authentication::{KeySets, authentication};
use crate::authorizers;
use crate::credentials::BackendCredentials;
use crate::host::Facts;
use crate::reload::Watched;
use crate::seal_key;
use crate::settings::{BackendEndpoints, BucketSettings, Settings};
use crate::spool::advice::may_write_back;
use crate::spool::local::limits;
use mizuchi_actors::backend::{
    Authorities, Endpoint, EndpointHealth, RetryBudget, TlsClient, TrustError,
};
use mizuchi_actors::batch::{BatchLimits, DoneBatches};
use mizuchi_actors::config::{
    Backend, BackendEndpoint, BatchRules, Bucket, Engine, SplitRules, Timeouts, UploadRules,
    Verifies, ZeroCopy,
};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::orphans::Ledger;
use mizuchi_actors::s3::headers::Permissions;
use mizuchi_actors::s3::upload_id::UploadIdSealer;
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::BackendKeys;
use mizuchi_actors::sigv4::session::SessionSealer;
use mizuchi_actors::spool::{Folder, Spool};
use mizuchi_actors::sts::Sts;
use mizuchi_actors::transfer::{PipeAllowance, ReplayBudget};
use mizuchi_actors::upload::RestartPolicy;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What buckets share with each other, while they are built.
pub(crate) struct Shared {
    /// Where their backends' keys come from.
    pub(crate) backend_keys: BackendCredentials,
    /// Where the keys of tokens' issuers come from.
    pub(crate) key_sets: KeySets,
    /// Makes and opens sessions, where there is a token service.
    pub(crate) sessions: Option<Arc<SessionSealer>>,
    /// The files of policies.
    pub(crate) watched: Vec<Watched>,
}

impl Shared {
    pub(crate) fn new(metrics: Option<Metrics>) -> Self {
        Shared {
            backend_keys: BackendCredentials::new(metrics),
            key_sets: KeySets::default(),
            sessions: None,
            watched: Vec::new(),
        }
    }
}

/// The file in the state directory that knows the multipart uploads which somebody must end.
const UPLOADS_ON_RECORD: &str = "uploads.redb";

/// The file in the state directory that knows what of a batch is stored.
const BATCHES_ON_RECORD: &str = "batches.redb";

/// Everything that the trees of all worker threads share.
///
/// Errors when the state directory or the embedded backend cannot be had.
pub(crate) async fn engine(
    settings: &Settings,
    metrics: Metrics,
    shared: &mut Shared,
) -> io::Result<Engine> {
    let embedded = start_embedded(settings).await?;
    let key = match &settings.server.seal_key {
        Some(key) => *key.expose(),
        None => seal_key::load_or_make(&settings.server.state_directory)?,
    };
    if settings.sts.enabled {
        shared.sessions = Some(Arc::new(SessionSealer::new(&key)));
    }
    let authorizers = authorizers::build(&settings.buckets, &metrics, &mut shared.watched)?;
    let mut buckets = Vec::new();
    for (bucket, authorizer) in settings.buckets.iter().zip(authorizers) {
        let bucket = engine_bucket(bucket, embedded.as_ref(), shared)?;
        buckets.push(Arc::new(Bucket { authorizer, ..bucket }));
    }
    let replay = &settings.replay;
    if let Some(directory) = &replay.overflow {
        std::fs::create_dir_all(directory)?;
    }
    let state = settings.server.state_directory.clone();
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&state)?;
        Ledger::open(&state.join(UPLOADS_ON_RECORD), std::time::Instant::now())
    });
    let ledger = opened.await.map_err(io::Error::other)??;
    let sts = shared.sessions.clone().map(|sealer| Sts {
        tokens: buckets
            .iter()
            .filter_map(|bucket: &Arc<Bucket>| bucket.authentication.as_ref()?.jwt.clone())
            .collect(),
        sealer,
        longest: settings.sts.max_duration,
    });
    let spool = open_spool(settings).await?;
    if let Some(spool) = &spool
        && let Err(error) = spool.hand_over_uploads(&ledger).await
    {
        log::error!("spool: multipart uploads of what is in quarantine are not aborted: {error}");
    }
    let batches = open_batches(settings).await?;
    Ok(Engine {
        buckets,
        ledger,
        spool,
        batches,
        spool_wait: settings.spool.wait,
        spool_multipart_ttl: settings.spool.multipart_ttl,
        sealer: UploadIdSealer::new(key),
        sts,
        replay: ReplayBudget::new(replay.memory, replay.pipes, replay.overflow_limit),
        pipes: PipeAllowance::new(
            Facts::read(Path::new("/")).pipe_slots(),
            metrics.pipes_refused.clone(),
        ),
        overflow: replay.overflow.clone(),
        zero_copy: ZeroCopy {
            enabled: settings.server.zero_copy.enabled,
            pipe_buffer_size: settings.server.zero_copy.pipe_buffer_size,
            min_body: settings.server.zero_copy.min_body,
        },
        metrics,
    })
}

/// The spool, where a bucket may write back or takes batches; also where none does any more, as long as it is there: what
/// was acknowledged is delivered.
async fn open_spool(settings: &Settings) -> io::Result<Option<Arc<Spool>>> {
    let rules = settings.spool.clone();
    let wanted =
        settings.buckets.iter().any(|bucket| may_write_back(bucket) || bucket.upload.batch.any());
    let opened = tokio::task::spawn_blocking(move || {
        if !wanted && !rules.directory.exists() {
            return Ok(None);
        }
        let disk = Arc::new(Folder::open(&rules.directory)?);
        Spool::open(disk, limits(&rules)).map(Some)
    });
    opened.await.map_err(io::Error::other)?
}

/// The memory of batches, where a bucket takes them.
async fn open_batches(settings: &Settings) -> io::Result<Option<Arc<DoneBatches>>> {
    if !settings.buckets.iter().any(|bucket| bucket.upload.batch.post) {
        return Ok(None);
    }
    let path = settings.server.state_directory.join(BATCHES_ON_RECORD);
    let opened = tokio::task::spawn_blocking(move || DoneBatches::open(&path)).await;
    opened.map_err(io::Error::other)?.map(Some)
}

/// Where the embedded backend listens, and its keys.
pub(crate) struct EmbeddedBackend {
    endpoint: Endpoint,
    access_key: String,
    secret_key: String,
}

#[cfg(feature = "embedded")]
async fn start_embedded(settings: &Settings) -> io::Result<Option<EmbeddedBackend>> {
    let names: Vec<String> = settings
        .buckets
        .iter()
        .filter(|bucket| bucket.s3.endpoint == BackendEndpoints::Embedded)
        .map(|bucket| bucket.s3.bucket.clone())
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let started = crate::embedded::start(&settings.embedded.directory, &names).await?;
    Ok(Some(EmbeddedBackend {
        endpoint: Endpoint::parse(&format!("http://{}", started.address))
            .map_err(io::Error::other)?,
        access_key: started.access_key,
        secret_key: started.secret_key,
    }))
}

#[cfg(not(feature = "embedded"))]
async fn start_embedded(settings: &Settings) -> io::Result<Option<EmbeddedBackend>> {
    if settings.buckets.iter().any(|bucket| bucket.s3.endpoint == BackendEndpoints::Embedded) {
        return Err(io::Error::other("`endpoint: embedded`: this build has no embedded backend"));
    }
    Ok(None)
}

fn tls_client(settings: &BucketSettings) -> Result<TlsClient, TrustError> {
    let tls = &settings.s3.tls;
    let authorities = match &tls.authorities {
        Some(authorities) => authorities.clone(),
        None => Authorities::of_system()?,
    };
    TlsClient::new(authorities, tls.server_name.as_deref())
}

/// A bucket as the engine sees it, but for its authorizer: that one is shared.
pub(crate) fn engine_bucket(
    settings: &BucketSettings,
    embedded: Option<&EmbeddedBackend>,
    shared: &mut Shared,
) -> io::Result<Bucket> {
    let s3 = &settings.s3;
    let (addresses, keys) = match (&s3.endpoint, embedded) {
        (BackendEndpoints::Embedded, Some(embedded)) => {
            let (id, secret) = (embedded.access_key.clone(), embedded.secret_key.clone());
            let keys = BackendKeys::fixed(id, Secret::new(secret), None, s3.region.clone());
            (vec![embedded.endpoint.clone()], Arc::new(keys))
        }
        (BackendEndpoints::Http(endpoints), _) => {
            (endpoints.clone(), shared.backend_keys.of(settings)?)
        }
        (BackendEndpoints::Embedded, None) => {
            let problem = format!("bucket {}: the embedded backend does not run", settings.name);
            return Err(io::Error::other(problem));
        }
    };
    let tls = addresses
        .iter()
        .any(Endpoint::is_tls)
        .then(|| tls_client(settings))
        .transpose()
        .map_err(|error| io::Error::other(format!("bucket {}: {error}", settings.name)))?;
    let endpoints = addresses
        .into_iter()
        .map(|endpoint| BackendEndpoint {
            endpoint,
            health: EndpointHealth::new(),
            retries: RetryBudget::new(),
        })
        .collect();
    let in_process = s3.endpoint == BackendEndpoints::Embedded;
    let upload = &settings.upload;
    Ok(Bucket {
        name: settings.name.clone(),
        region: settings.auth.sigv4.region.clone(),
        backend: Backend {
            bucket: s3.bucket.clone(),
            keys,
            endpoints,
            tls,
            path_style: s3.path_style || in_process,
            key_prefix: s3.key_prefix.clone(),
            // s3s-fs looks at a checksum when the object is stored already: nothing is left to it.
            verifies: Verifies {
                sha256: s3.verifies.sha256 && !in_process,
                md5: s3.verifies.md5 && !in_process,
                checksum: s3.verifies.checksum && !in_process,
                trailer: s3.verifies.trailer && !in_process,
                full_object: s3.verifies.full_object && !in_process,
            },
            allow_unsigned: s3.allow_unsigned,
            require_checksum: s3.require_checksum,
            timeouts: Timeouts {
                connect: s3.timeouts.connect,
                first_byte: s3.timeouts.first_byte,
                complete: s3.timeouts.complete,
                progress: s3.timeouts.progress,
            },
            idle_per_worker: s3.pool.idle_per_worker,
            idle_timeout: s3.pool.idle_timeout,
        },
        upload: UploadRules {
            mode: upload.mode,
            mode_header: upload.mode_header,
            max_object_size: upload.max_object_size,
            overwrite: upload.overwrite,
            complete_keepalive: upload.complete_keepalive,
            permissions: Permissions {
                acl: upload.allow.acl,
                tagging: upload.allow.tagging,
                lock: upload.allow.lock,
                redirect: upload.allow.redirect,
            },
            restart: RestartPolicy {
                max: upload.restart.max,
                window: upload.restart.window,
                backoff_base: upload.restart.backoff_base,
                backoff_cap: upload.restart.backoff_cap,
            },
            split: SplitRules {
                auto: upload.split.auto,
                threshold: upload.split.multipart_threshold,
                part_size: upload.split.part_size,
                concurrent_parts: upload.split.concurrent_parts,
                unknown_length: upload.split.unknown_length,
                ttl: upload.split.ttl,
            },
            list_multipart_uploads: upload.list_multipart_uploads,
            client_uploads_ttl: upload.client_uploads_ttl,
            batch: BatchRules {
                snowball: upload.batch.snowball,
                remembered: upload.batch.idempotency_ttl,
                post: upload.batch.post,
                limits: BatchLimits {
                    entries: upload.batch.max_entries,
                    entry_size: upload.batch.max_entry_size.min(upload.max_object_size),
                    total_size: upload.batch.max_total_size,
                    ratio: upload.batch.max_ratio,
                },
                places: Arc::new(Semaphore::new(upload.batch.max_batches)),
                queue_wait: upload.batch.queue_wait,
                concurrency: upload.batch.concurrency,
                uploads: Arc::new(Semaphore::new(upload.batch.concurrency)),
            },
        },
        cors: settings.cors.clone(),
        authentication: authentication(
            &settings.auth,
            &mut shared.key_sets,
            shared.sessions.as_ref(),
        )?,
        authorizer: None,
    })
}
