//! Every metric's name, unit and labels, in one file. Served on `/metrics` of the admin listener.
//!
//! Labels are bounded sets: configured bucket names, operations, statuses, error codes. Never a
//! key, a principal or an address.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// Seconds: from a 4 KiB PUT on a local network to a 5 GiB part over a slow uplink.
const DURATION_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Seconds: from a decision that is cached to the longest that one may take.
const DECISION_BUCKETS: [f64; 11] =
    [0.00001, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 1.0, 10.0];

/// Parts of a completed multipart upload: S3 allows 1 to 10,000.
const PART_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 10000.0];

macro_rules! metrics {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = $make:expr;)*) => {
        /// The process's metrics. Cloning shares them.
        #[derive(Clone, Debug)]
        pub struct Metrics {
            registry: Registry,
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl Metrics {
            /// A fresh set, registered. Errors only on a name given twice.
            pub fn new() -> prometheus::Result<Self> {
                let registry = Registry::new();
                $(let $field = register(&registry, $make?)?;)*
                Ok(Metrics { registry, $($field,)* })
            }
        }
    };
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn duration(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec())
}

metrics! {
    /// Requests answered.
    uploads: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_uploads_total", "Requests answered, by operation and HTTP status"),
        &["bucket", "operation", "status"]);
    /// Payload bytes of successful uploads.
    upload_bytes: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_upload_bytes_total", "Payload bytes of successful PutObject and UploadPart requests"),
        &["bucket"]);
    /// From a request's head to its answer.
    upload_duration: HistogramVec = HistogramVec::new(
        duration("mizuchi_upload_duration_seconds", "Time from a request's head to its answer"),
        &["operation"]);
    /// Payload bytes by the way they went.
    transfer_bytes: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_transfer_bytes_total", "Payload bytes of successful uploads taken from clients, by plan and its reason; plan spool: stored here first"),
        &["plan", "reason"]);
    /// Payload bytes that never entered user space.
    zero_copy_bytes: IntCounter = IntCounter::new(
        "mizuchi_zero_copy_bytes_total", "Payload bytes moved by splice(2)");
    /// splice(2) calls that took payload from clients.
    zero_copy_transfers: IntCounter = IntCounter::new(
        "mizuchi_zero_copy_transfers_total", "splice(2) calls that took payload from a client");
    /// Time of one spliced part.
    zero_copy_duration: Histogram = Histogram::with_opts(
        duration("mizuchi_zero_copy_duration_seconds", "Time of a part's attempt on the splice path"));
    /// Ends of deliveries from the spool.
    spool_deliveries: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_spool_deliveries_total", "Deliveries of acknowledged uploads, by outcome: delivered, retried, quarantined, unrecorded"),
        &["outcome"]);
    /// Log lines that nobody read.
    log_lines_lost: IntGauge = IntGauge::new(
        "mizuchi_log_lines_lost", "Log lines not written since the start: standard error was not read in time");
    /// Deliveries whose ETag is another.
    spool_other_etags: IntCounter = IntCounter::new(
        "mizuchi_spool_other_etags_total", "Deliveries to which the backend gave another ETag than was acknowledged");
    /// Uploads that were acknowledged and are not delivered.
    spool_entries: IntGauge = IntGauge::new(
        "mizuchi_spool_entries", "Acknowledged uploads that are not at their backend, those set aside included");
    /// Their bytes.
    spool_bytes: IntGauge = IntGauge::new(
        "mizuchi_spool_bytes", "Bytes of acknowledged uploads and of parts that are not at their backend, those set aside included");
    /// Multipart uploads that clients have begun here.
    spool_multipart_uploads: IntGauge = IntGauge::new(
        "mizuchi_spool_multipart_uploads", "Multipart uploads in write-back mode that clients have begun and neither completed nor aborted");
    /// Those that were ended for their age.
    spool_multipart_expired: IntCounter = IntCounter::new(
        "mizuchi_spool_multipart_expired_total", "Multipart uploads in write-back mode that were removed for want of a sign of life");
    /// Those that are to be delivered.
    spool_waiting: IntGauge = IntGauge::new(
        "mizuchi_spool_waiting", "Acknowledged uploads that wait for their delivery or are under way");
    /// Uploads set aside.
    spool_quarantined: IntGauge = IntGauge::new(
        "mizuchi_spool_quarantined", "Acknowledged uploads that are set aside: mizuchi spool ls");
    /// Records that cannot be read.
    spool_unreadable: IntGauge = IntGauge::new(
        "mizuchi_spool_unreadable", "Records of acknowledged uploads that this version cannot read: neither they nor any file are removed");
    /// Age of the oldest.
    spool_oldest: IntGauge = IntGauge::new(
        "mizuchi_spool_oldest_seconds", "Age of the oldest acknowledged upload that waits for its backend");
    /// 1 when the spool takes nothing until a restart.
    spool_latched: IntGauge = IntGauge::new(
        "mizuchi_spool_latched", "1: a write to the spool's disk failed, and nothing is acknowledged until a restart");
    /// Time of a commit.
    spool_commit: Histogram = Histogram::with_opts(
        duration("mizuchi_spool_commit_seconds", "Time from a stored body to its record on stable storage"));
    /// Entries of batches.
    batch_entries: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_batch_entries_total", "Entries of batches by what became of them: stored, failed, denied, refused"),
        &["outcome"]);
    /// Batches that are looked through or published.
    batches_in_flight: IntGauge = IntGauge::new(
        "mizuchi_batches_in_flight", "Batches that are looked through or published");
    /// Pipes that the host did not give.
    pipes_refused: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_pipes_refused_total", "Pipes that the host did not give, by what was done: a smaller one, bytes copied, or pages kept in memory"),
        &["what"]);
    /// Multipart uploads begun, completed and aborted by clients.
    multipart_uploads: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_multipart_uploads_total", "Multipart uploads by what became of them"),
        &["event"]);
    /// Parts of completed multipart uploads.
    multipart_parts: Histogram = Histogram::with_opts(
        HistogramOpts::new("mizuchi_multipart_parts", "Parts named by a successful CompleteMultipartUpload")
            .buckets(PART_BUCKETS.to_vec()));
    /// Attempts made again.
    part_restarts: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_part_restarts_total", "Attempts made again, by what ended the one before"),
        &["cause"]);
    /// Authentication results.
    auth_attempts: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_auth_attempts_total", "Authentications by method and result"),
        &["method", "result"]);
    /// Handshakes that came to nothing.
    tls_handshakes_failed: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_tls_handshakes_failed_total", "TLS handshakes that clients did not end well, by why"),
        &["reason"]);
    /// Fetches of token issuers' keys.
    jwks_fetches: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_jwks_fetches_total", "Fetches of the keys that issuers of tokens publish, by result"),
        &["result"]);
    /// Files read again.
    reloads: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_reloads_total", "Files that changed and were read again, by what became of it"),
        &["what", "result"]);
    /// Decisions of policy engines.
    authorization_decisions: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_authorization_decisions_total", "Decisions of policy engines, by engine and result (allowed, denied, undecided)"),
        &["engine", "result"]);
    /// How long they took.
    authorization_duration: HistogramVec = HistogramVec::new(
        HistogramOpts::new("mizuchi_authorization_duration_seconds", "Time of a decision, cached ones included")
            .buckets(DECISION_BUCKETS.to_vec()),
        &["engine"]);
    /// Decisions that were made before.
    authorization_cache_hits: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_authorization_cache_hits_total", "Decisions that were cached, or asked for by another at the same time"),
        &["engine"]);
    /// Engines that are not asked for a while.
    authorization_breakers_open: IntGaugeVec = IntGaugeVec::new(
        Opts::new("mizuchi_authorization_breakers_open", "Policy engines that failed and are only probed: their buckets answer 503"),
        &["engine"]);
    /// Errors answered.
    errors: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_errors_total", "Errors answered, by S3 code and whose fault"),
        &["code", "fault"]);
    /// Actors rebuilt by their guardian.
    actor_restarts: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_actor_restarts_total", "Actors that died and were rebuilt"),
        &["actor"]);
    /// Requests in flight.
    uploads_in_flight: IntGauge = IntGauge::new(
        "mizuchi_uploads_in_flight", "Uploads under way: clients' requests whose permit was taken and whose body is passed on or stored, and deliveries from the spool");
    /// PutObjects in flight that go in parts.
    splits_in_flight: IntGauge = IntGauge::new(
        "mizuchi_splits_in_flight", "PutObjects in flight that go to the backend in parts");
    /// Multipart uploads on record that somebody must end.
    uploads_on_record: IntGauge = IntGauge::new(
        "mizuchi_uploads_on_record", "Multipart uploads of the gateway's own on record, and Creates whose answers were lost");
    /// Sweeps of such uploads.
    sweeps: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_orphan_sweeps_total", "Looks at multipart uploads that nobody ended, by what came of them"),
        &["result"]);
    /// Lines of the audit log that are not in it.
    audit_lost: IntCounter = IntCounter::new(
        "mizuchi_audit_lost_total", "Lines of the audit log that could not be written");
    /// Looks for the backend's temporary credentials.
    credential_renewals: IntCounterVec = IntCounterVec::new(
        Opts::new("mizuchi_backend_credential_renewals_total", "Fetches of the backend's temporary credentials, by what came of them"),
        &["result"]);
    /// How long they are still valid.
    credential_left: IntGaugeVec = IntGaugeVec::new(
        Opts::new("mizuchi_backend_credentials_left_seconds", "Time until a bucket's backend credentials expire; 0: there are no valid ones"),
        &["bucket"]);
    /// Part workers alive.
    parts_in_flight: IntGauge = IntGauge::new(
        "mizuchi_parts_in_flight", "Part workers alive");
    /// Client connections open.
    connections: IntGauge = IntGauge::new(
        "mizuchi_client_connections", "Client connections open");
    /// Admission permits taken.
    permits: IntGauge = IntGauge::new(
        "mizuchi_permits_in_use", "Admission permits taken, each by a client's request; deliveries from the spool need none");
    /// Pipes that hold replay pages.
    replay_pipes: IntGauge = IntGauge::new(
        "mizuchi_replay_pipes", "Pipes that hold pages kept for replay");
    /// Pages kept for replay.
    replay_pages: IntGauge = IntGauge::new(
        "mizuchi_replay_pages", "Pages (4 KiB) kept for replay; they show in neither RSS nor cgroup");
    /// Bytes in overflow files.
    replay_file_bytes: IntGauge = IntGauge::new(
        "mizuchi_replay_file_bytes", "Bytes kept for replay in overflow files");
    /// Idle backend connections.
    pooled_connections: IntGauge = IntGauge::new(
        "mizuchi_backend_connections_idle", "Backend connections idle in the pools");
    /// Leased backend connections.
    leased_connections: IntGauge = IntGauge::new(
        "mizuchi_backend_connections_leased", "Backend connections leased to part workers");
}

impl Metrics {
    /// The text exposition format (version 0.0.4).
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            log::error!("the metrics could not be encoded: {error}");
        }
        out
    }
}

/// Counts one in a gauge for as long as it lives.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    /// Adds one.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
