//! The bucket as the engine sees it, from the command line and the surroundings.

use super::arguments::UploadArgs;
use super::failure::own_words;
use super::plan::Place;
use super::surroundings::Surroundings;
use crate::host::Facts;
use mizuchi_actors::backend::{Authorities, Endpoint, EndpointHealth, RetryBudget, TlsClient};
use mizuchi_actors::config::{
    Backend, BackendEndpoint, BatchRules, Bucket, Engine, Mode, SplitRules, Timeouts, UploadRules,
    Verifies, ZeroCopy,
};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::orphans::Ledger;
use mizuchi_actors::s3::headers::Permissions;
use mizuchi_actors::s3::upload_id::UploadIdSealer;
use mizuchi_actors::sigv4::BackendKeys;
use mizuchi_actors::transfer::{PipeAllowance, ReplayBudget};
use mizuchi_actors::upload::RestartPolicy;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Restarts of one request that the engine makes by itself, at once; behind them come the pauses of
/// `--retries`.
const RESTART: RestartPolicy = RestartPolicy {
    max: 3,
    window: Duration::from_secs(60),
    backoff_base: Duration::from_millis(100),
    backoff_cap: Duration::from_secs(2),
};

/// How long each step may take. What is large is a part, and moves; a Complete may take minutes.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    first_byte: Duration::from_secs(60),
    complete: Duration::from_secs(600),
    progress: Duration::from_secs(30),
};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(20);

/// Bytes of each pipe, as `server.zero_copy.pipe_buffer_size`.
const PIPE: usize = 1 << 20;

/// Where everything goes.
pub(super) struct Destination {
    pub(super) endpoint: Endpoint,
    pub(super) region: String,
    bucket: String,
    path_style: bool,
    tls: Option<TlsClient>,
}

impl Destination {
    /// What the arguments and the surroundings say. The error is for whoever typed the command.
    pub(super) async fn find(args: &UploadArgs, to: &Place) -> Result<Destination, String> {
        let (region, endpoint) = (args.region.as_deref(), args.endpoint.as_deref());
        let Surroundings { region, endpoint } =
            Surroundings::read(region, endpoint, args.profile.as_deref()).await;
        // What can stand in a signature's scope.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if region.is_empty() || !region.chars().all(plain) {
            return Err(format!("{region:?} is no region"));
        }
        let of_aws = endpoint.is_none();
        let url = endpoint.unwrap_or_else(|| aws_endpoint(&region));
        let endpoint = Endpoint::parse(&url).map_err(|error| format!("the endpoint {error}"))?;
        let address = endpoint.host().parse::<IpAddr>().is_ok();
        if args.virtual_host && address {
            return Err(
                "--virtual-host: the endpoint is an address, and has no sub-domains".to_owned()
            );
        }
        // A certificate for *.host does not cover a bucket's name with dots.
        let dots = endpoint.is_tls() && to.bucket.contains('.');
        let virtual_host = args.virtual_host || of_aws && !args.path_style && !dots;
        let ca_file = args.ca_file.clone().or_else(|| {
            let set = std::env::var_os("AWS_CA_BUNDLE").filter(|set| !set.is_empty());
            set.map(PathBuf::from)
        });
        let authorities = match ca_file {
            _ if !endpoint.is_tls() => None,
            None => Some(Authorities::of_system()),
            Some(path) => {
                let text = std::fs::read_to_string(&path);
                let text = text.map_err(|error| format!("--ca-file {path:?}: {error}"))?;
                let mut authorities = Authorities::none();
                Some(authorities.add_pem(&text).map(|()| authorities))
            }
        };
        let tls = authorities
            .map(|authorities| TlsClient::new(authorities?, None))
            .transpose()
            .map_err(|error| own_words(&error.to_string()))?;
        let bucket = to.bucket.clone();
        Ok(Destination { endpoint, region, bucket, path_style: !virtual_host, tls })
    }

    /// An engine with this one bucket. `lanes`: requests at a time.
    pub(super) fn engine(self, keys: Arc<BackendKeys>, metrics: Metrics, lanes: usize) -> Engine {
        let tls = self.tls.is_some();
        let bucket = Bucket {
            name: self.bucket.clone(),
            region: self.region,
            backend: Backend {
                bucket: self.bucket,
                keys,
                endpoints: vec![BackendEndpoint {
                    endpoint: self.endpoint,
                    health: EndpointHealth::new(),
                    retries: RetryBudget::new(),
                }],
                tls: self.tls,
                path_style: self.path_style,
                key_prefix: String::new(),
                // What is computed here goes along, and the answer is held against it.
                verifies: Verifies {
                    sha256: true,
                    md5: true,
                    checksum: true,
                    trailer: false,
                    full_object: true,
                },
                allow_unsigned: true,
                require_checksum: false,
                timeouts: TIMEOUTS,
                idle_per_worker: lanes,
                idle_timeout: IDLE,
            },
            upload: rules(),
            cors: Vec::new(),
            authentication: None,
            authorizer: None,
        };
        Engine {
            buckets: vec![Arc::new(bucket)],
            // Nobody else's uploadIds come by.
            sealer: UploadIdSealer::new([0; 32]),
            // Files are their own replay buffers.
            replay: ReplayBudget::new(0, 0, 0),
            pipes: PipeAllowance::new(
                Facts::read(Path::new("/")).pipe_slots(),
                metrics.pipes_refused.clone(),
            ),
            overflow: None,
            zero_copy: ZeroCopy { enabled: !tls, pipe_buffer_size: PIPE, min_body: 0 },
            sts: None,
            // The state file knows what was begun.
            ledger: Ledger::in_memory(),
            spool: None,
            spool_wait: Duration::ZERO,
            spool_multipart_ttl: Duration::MAX,
            batches: None,
            metrics,
        }
    }
}

/// Rules of a gateway for its clients: only those on restarts concern anybody here.
fn rules() -> UploadRules {
    let permissions = Permissions { acl: true, tagging: true, lock: true, redirect: true };
    UploadRules {
        mode: Mode::WriteThrough,
        mode_header: false,
        max_object_size: u64::MAX,
        overwrite: true,
        complete_keepalive: TIMEOUTS.complete,
        permissions,
        restart: RESTART,
        split: SplitRules {
            auto: false,
            threshold: u64::MAX,
            part_size: 0,
            concurrent_parts: 1,
            unknown_length: false,
            ttl: Duration::ZERO,
        },
        list_multipart_uploads: false,
        client_uploads_ttl: None,
        batch: BatchRules::none(),
    }
}

/// Amazon's own (AWS General Reference, "Amazon S3 endpoints and quotas").
fn aws_endpoint(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://s3.{region}.{domain}")
}
