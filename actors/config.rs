//! What the engine is told once, at start: parsed, checked values, shared by all worker threads.

use crate::backend::{Endpoint, EndpointHealth, RetryBudget, TlsClient};
use crate::batch::{BatchLimits, DoneBatches};
use crate::certificate::CertificateRules;
use crate::jwt::Authenticator;
use crate::metrics::Metrics;
use crate::orphans::Ledger;
use crate::policy::Authorizer;
use crate::s3::cors::CorsRule;
use crate::s3::headers::Permissions;
use crate::s3::upload_id::UploadIdSealer;
use crate::sigv4::{BackendKeys, Verifier};
use crate::spool::Spool;
use crate::sts::Sts;
use crate::transfer::{PipeAllowance, ReplayBudget};
use crate::upload::RestartPolicy;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The state that the trees of all worker threads share.
#[derive(Debug)]
pub struct Engine {
    /// Every configured bucket; a request names one by its index.
    pub buckets: Vec<Arc<Bucket>>,
    /// Seals and opens the uploadIds that clients hold.
    pub sealer: UploadIdSealer,
    /// The process's replay budget.
    pub replay: Arc<ReplayBudget>,
    /// What the host lets the process hold in pipes.
    pub pipes: Arc<PipeAllowance>,
    /// Where replay overflow files go; None: they are not allowed.
    pub overflow: Option<PathBuf>,
    /// `server.zero_copy`.
    pub zero_copy: ZeroCopy,
    /// Exchanges tokens for sessions; None: `sts.enabled` is false.
    pub sts: Option<Sts>,
    /// Multipart uploads that somebody must end.
    pub ledger: Arc<Ledger>,
    /// What was acknowledged and is not at its backend yet; None: no bucket ever writes back.
    pub spool: Option<Arc<Spool>>,
    /// `spool.wait`: how long a write that goes through waits for those of its key.
    pub spool_wait: Duration,
    /// `spool.multipart_ttl`: how long a multipart upload that stands here may give no sign of life.
    pub spool_multipart_ttl: Duration,
    /// What of the batches with a key is stored; None: no bucket takes batches.
    pub batches: Option<Arc<DoneBatches>>,
    /// The process's metrics.
    pub metrics: Metrics,
}

/// `server.zero_copy`.
#[derive(Debug, Clone, Copy)]
pub struct ZeroCopy {
    /// Whether bodies may be spliced at all.
    pub enabled: bool,
    /// Bytes of each pipe that is asked for.
    pub pipe_buffer_size: usize,
    /// Bytes from which a body is spliced.
    pub min_body: u64,
}

/// One bucket as clients see it, and where its objects go.
#[derive(Debug)]
pub struct Bucket {
    /// The client's name for it.
    pub name: String,
    /// The region that clients sign for.
    pub region: String,
    /// Where its objects go.
    pub backend: Backend,
    /// What may be uploaded.
    pub upload: UploadRules,
    /// Which web pages may; empty: CORS is not enabled.
    pub cors: Vec<CorsRule>,
    /// How clients are known; None: `auth.enabled: false`, everyone is `anonymous`.
    pub authentication: Option<Authentication>,
    /// Who decides what they may, besides the built-in rules; None: `authorization.engine: none`.
    pub authorizer: Option<Arc<Authorizer>>,
}

impl Bucket {
    /// The names of the query parameters that are the gateway's own: a token may stand in them.
    pub fn own_parameters(&self) -> Vec<&str> {
        let jwt = self.authentication.as_ref().and_then(|ways| ways.jwt.as_ref());
        jwt.map(|jwt| jwt.query_parameters()).unwrap_or_default()
    }
}

/// `buckets[].auth`: the ways in which a client may say who it is.
#[derive(Debug)]
pub struct Authentication {
    /// AWS Signature Version 4.
    pub sigv4: Verifier,
    /// JSON Web Tokens; None: there is no issuer.
    pub jwt: Option<Arc<Authenticator>>,
    /// Client certificates; None: they are nobody's.
    pub certificates: Option<CertificateRules>,
}

/// `buckets[].upload.mode`: when an upload is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When the backend has it.
    WriteThrough,
    /// When it is on stable storage here.
    WriteBack,
}

/// `buckets[].upload`.
#[derive(Debug)]
pub struct UploadRules {
    /// When a PutObject is acknowledged.
    pub mode: Mode,
    /// Whether a request may say so itself (`x-mizuchi-mode`).
    pub mode_header: bool,
    /// Bytes of the largest PutObject.
    pub max_object_size: u64,
    /// False: `overwrite: deny`, every PutObject and Complete carries `If-None-Match: *`.
    pub overwrite: bool,
    /// A Complete that takes longer is answered 200, its outcome to follow.
    pub complete_keepalive: Duration,
    /// Which headers with power over others' data pass.
    pub permissions: Permissions,
    /// How failed attempts are made again.
    pub restart: RestartPolicy,
    /// How a PutObject goes in parts.
    pub split: SplitRules,
    /// `list_multipart_uploads`: whether a caller may list its own multipart uploads.
    pub list_multipart_uploads: bool,
    /// `client_uploads_ttl`: how old a client's own multipart upload may become before it is
    /// aborted; None: they are never touched.
    pub client_uploads_ttl: Option<Duration>,
    /// Many objects in one body.
    pub batch: BatchRules,
}

/// `upload.batch`.
#[derive(Debug)]
pub struct BatchRules {
    /// A PUT may be an archive whose files become objects.
    pub snowball: bool,
    /// `POST /{bucket}?batch` is served.
    pub post: bool,
    /// How long it is known what of a batch with an Idempotency-Key is stored.
    pub remembered: Duration,
    /// Bounds of each batch.
    pub limits: BatchLimits,
    /// Batches of this bucket that are looked through and published at a time; a further one waits.
    pub places: Arc<Semaphore>,
    /// How long it waits.
    pub queue_wait: Duration,
    /// Entries of one batch that are on their way at a time.
    pub concurrency: usize,
    /// As many, of all batches of this bucket together.
    pub uploads: Arc<Semaphore>,
}

impl BatchRules {
    /// No batches.
    pub fn none() -> Self {
        BatchRules {
            snowball: false,
            post: false,
            remembered: Duration::ZERO,
            limits: BatchLimits { entries: 0, entry_size: 0, total_size: 0, ratio: 0 },
            places: Arc::new(Semaphore::new(0)),
            queue_wait: Duration::ZERO,
            concurrency: 0,
            uploads: Arc::new(Semaphore::new(0)),
        }
    }
}

impl UploadRules {
    /// Whether clients' own multipart uploads are put on record.
    pub fn records_clients(&self) -> bool {
        self.list_multipart_uploads || self.client_uploads_ttl.is_some()
    }
}

/// `upload.split` and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitRules {
    /// False: `split: never`.
    pub auto: bool,
    /// A PutObject of more bytes is split.
    pub threshold: u64,
    /// Bytes of a part; more where 10,000 would not suffice.
    pub part_size: u64,
    /// Parts of one upload in flight.
    pub concurrent_parts: usize,
    /// Whether a PutObject may come without a length.
    pub unknown_length: bool,
    /// How long an upload may take whose parts the gateway makes.
    pub ttl: Duration,
}

/// `buckets[].s3`: the S3 service behind a bucket.
#[derive(Debug)]
pub struct Backend {
    /// The backend's name for the bucket.
    pub bucket: String,
    /// Signs what goes there.
    pub keys: Arc<BackendKeys>,
    /// Equivalent entrances; at least one.
    pub endpoints: Vec<BackendEndpoint>,
    /// How its `https://` endpoints are spoken to; None: it has none.
    pub tls: Option<TlsClient>,
    /// `/bucket/key` rather than `bucket.host/key`.
    pub path_style: bool,
    /// Put before every key.
    pub key_prefix: String,
    /// What the backend is trusted to verify itself.
    pub verifies: Verifies,
    /// Whether UNSIGNED-PAYLOAD may be sent.
    pub allow_unsigned: bool,
    /// Every PutObject and UploadPart carries a checksum: one is added where none came along.
    pub require_checksum: bool,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// How many idle connections a worker keeps, per endpoint.
    pub idle_per_worker: usize,
    /// How long they are kept.
    pub idle_timeout: Duration,
}

/// One entrance, with what all threads know of it.
#[derive(Debug)]
pub struct BackendEndpoint {
    /// Its address.
    pub endpoint: Endpoint,
    /// Whether it answers.
    pub health: EndpointHealth,
    /// How many retries it may still be asked for.
    pub retries: RetryBudget,
}

/// `s3.verifies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verifies {
    /// x-amz-content-sha256.
    pub sha256: bool,
    /// Content-MD5.
    pub md5: bool,
    /// x-amz-checksum-*.
    pub checksum: bool,
    /// Trailers of STREAMING-UNSIGNED-PAYLOAD-TRAILER: bodies that came with one are sent so.
    pub trailer: bool,
    /// CRCs over the whole object of a multipart upload (`x-amz-checksum-type: FULL_OBJECT`), and
    /// `x-amz-mp-object-size`.
    pub full_object: bool,
}

/// `s3.timeouts`.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// DNS, TCP and TLS.
    pub connect: Duration,
    /// From the last byte of a request to the first of its answer.
    pub first_byte: Duration,
    /// The same for a Complete.
    pub complete: Duration,
    /// The longest time in which the backend takes no byte.
    pub progress: Duration,
}
