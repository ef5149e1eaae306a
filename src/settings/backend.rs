//! `buckets[].s3`: the S3 service that a bucket's objects go to.

use super::auth::{access_key, region};
use super::backend_credentials::{self, BackendCredentials, CredentialSource, InstanceMetadata};
use super::bucket::bucket_name;
use super::network;
use super::section::Section;
use super::values::{boolean, choice, count, duration, quote, secret, text, text_where};
use config::Value;
use mizuchi_actors::backend::{Authorities, Endpoint, TlsClient};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// The region of an embedded backend for which none is set: what SDKs assume as well.
const EMBEDDED_REGION: &str = "us-east-1";

/// Bytes of `key_prefix`: half of the longest key (1,024 bytes), so that clients keep the other.
const MAX_KEY_PREFIX: usize = 512;

/// Where credentials are looked for that the settings do not have.
pub(super) struct Surroundings<'a> {
    /// The process's environment.
    pub(super) environment: &'a BTreeMap<String, String>,
    /// Reads a file.
    pub(super) read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// The paths in a folder; None: it is not one.
    pub(super) list: &'a dyn Fn(&Path) -> io::Result<Option<Vec<PathBuf>>>,
}

impl Surroundings<'_> {
    /// A variable that is set, and not to nothing.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// `buckets[].s3`.
#[derive(Debug, Clone)]
pub struct BackendSettings {
    /// The backend's name for the bucket.
    pub bucket: String,
    /// The region that the gateway signs for.
    pub region: String,
    /// Its entrances.
    pub endpoint: BackendEndpoints,
    /// Of `https://` entrances.
    pub tls: TlsSettings,
    /// `/bucket/key` rather than `bucket.host/key`.
    pub path_style: bool,
    /// Put before every key; at most 512 bytes.
    pub key_prefix: String,
    /// Where the keys come from that the gateway signs with; `None` only for an embedded backend
    /// without keys.
    pub credentials: Option<CredentialSource>,
    /// What the backend is trusted to verify itself.
    pub verifies: Verifies,
    /// Whether the backend may be sent UNSIGNED-PAYLOAD.
    pub allow_unsigned: bool,
    /// Whether every body must carry a checksum.
    pub require_checksum: bool,
    /// How long each step may take.
    pub timeouts: TimeoutSettings,
    /// Kept connections.
    pub pool: PoolSettings,
}

/// `s3.endpoint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendEndpoints {
    /// The in-process backend.
    Embedded,
    /// Equivalent entrances of one service: at least one, no two the same.
    Http(Vec<Endpoint>),
}

/// `s3.tls`. The certificate is always verified.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// `ca_file`: the only authorities that count; None: those that the system trusts.
    pub authorities: Option<Authorities>,
    /// What the certificate must be valid for; None: the endpoint's host.
    pub server_name: Option<String>,
}

/// `s3.verifies`: what need not be verified here before the backend has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verifies {
    /// x-amz-content-sha256.
    pub sha256: bool,
    /// Content-MD5.
    pub md5: bool,
    /// x-amz-checksum-*.
    pub checksum: bool,
    /// Checksums in the trailer of an unsigned aws-chunked body.
    pub trailer: bool,
    /// CRCs over the whole of a multipart upload, and its size.
    pub full_object: bool,
}

/// `s3.timeouts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// Name resolution, TCP and TLS.
    pub connect: Duration,
    /// From the last byte of a request to the first of its answer.
    pub first_byte: Duration,
    /// The same for a CompleteMultipartUpload.
    pub complete: Duration,
    /// The longest time in which the backend takes no byte.
    pub progress: Duration,
}

/// `s3.pool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSettings {
    /// Idle connections that each worker keeps for each endpoint.
    pub idle_per_worker: usize,
    /// How long an idle one is kept.
    pub idle_timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Check {
    Sha256,
    Md5,
    Checksum,
    Trailer,
    FullObject,
}

const CHECKS: &[(&str, Check)] = &[
    ("sha256", Check::Sha256),
    ("md5", Check::Md5),
    ("checksum", Check::Checksum),
    ("trailer", Check::Trailer),
    ("full_object", Check::FullObject),
];

/// Reads `buckets[].s3`; `name` is the client's name of the bucket.
pub(super) fn read(
    s: &mut Section<'_>,
    name: Option<&str>,
    surroundings: &Surroundings<'_>,
) -> Option<BackendSettings> {
    let bucket = s.optional("bucket", bucket_name);
    let endpoint = read_endpoint(s);
    let embedded = endpoint == Some(BackendEndpoints::Embedded);
    let region = if embedded {
        s.optional("region", region).map(|set| set.unwrap_or_else(|| EMBEDDED_REGION.into()))
    } else {
        s.required("region", region)
    };
    let tls = read_tls(s, endpoint.as_ref(), surroundings);
    let path_style = s.required("path_style", boolean);
    let key_prefix = s.optional("key_prefix", |value| {
        let rule = "at most 512 bytes without control characters";
        let check =
            |text: &str| text.len() <= MAX_KEY_PREFIX && !text.chars().any(char::is_control);
        text_where(rule, check)(value)
    });
    let credentials = read_credentials(s, embedded, endpoint.is_some(), surroundings);
    let verifies = s.list("verifies", choice(CHECKS)).map(|checks| {
        let checks: BTreeSet<_> = checks.into_iter().collect();
        Verifies {
            sha256: checks.contains(&Check::Sha256),
            md5: checks.contains(&Check::Md5),
            checksum: checks.contains(&Check::Checksum),
            trailer: checks.contains(&Check::Trailer),
            full_object: checks.contains(&Check::FullObject),
        }
    });
    let allow_unsigned = s.required("allow_unsigned", boolean);
    let require_checksum = s.required("require_checksum", boolean);
    let timeouts = s.within("timeouts", |s| {
        let connect = s.required("connect", duration(MILLISECOND..=HOUR));
        let first_byte = s.required("first_byte", duration(MILLISECOND..=HOUR));
        let complete = s.required("complete", duration(MILLISECOND..=HOUR));
        let progress = s.required("progress", duration(MILLISECOND..=HOUR));
        Some(TimeoutSettings {
            connect: connect?,
            first_byte: first_byte?,
            complete: complete?,
            progress: progress?,
        })
    });
    let pool = s.within("pool", |s| {
        let idle_per_worker = s.required("idle_per_worker", count(0..=65_536));
        let idle_timeout = s.required("idle_timeout", duration(MILLISECOND..=HOUR));
        Some(PoolSettings { idle_per_worker: idle_per_worker?, idle_timeout: idle_timeout? })
    });
    Some(BackendSettings {
        bucket: match bucket? {
            Some(bucket) => bucket,
            None => name?.to_owned(),
        },
        region: region?,
        endpoint: endpoint?,
        tls: tls?,
        path_style: path_style?,
        key_prefix: key_prefix?.unwrap_or_default(),
        credentials: credentials?,
        verifies: verifies?,
        allow_unsigned: allow_unsigned?,
        require_checksum: require_checksum?,
        timeouts: timeouts?,
        pool: pool?,
    })
}

/// `embedded`, or one or more addresses.
fn read_endpoint(s: &mut Section<'_>) -> Option<BackendEndpoints> {
    let entries = s.list("endpoint", |value| match text(value)? {
        "embedded" => Ok(None),
        address => network::endpoint(address).map(Some),
    })?;
    if let [None] = entries.as_slice() {
        return Some(BackendEndpoints::Embedded);
    }
    let address = |endpoint: &Endpoint| (endpoint.host().to_owned(), endpoint.port());
    let wrong = if entries.is_empty() {
        "must be set: http[s]://host[:port], a list of such, or embedded"
    } else if entries.contains(&None) {
        "must be either embedded or addresses, not both"
    } else if entries.iter().flatten().map(address).collect::<BTreeSet<_>>().len() < entries.len() {
        "must not name the same address twice"
    } else {
        return Some(BackendEndpoints::Http(entries.into_iter().flatten().collect()));
    };
    s.fail("endpoint", wrong);
    None
}

/// `s3.tls`: the files are read here, so that `mizuchi check` finds what is wrong with them.
fn read_tls(
    s: &mut Section<'_>,
    endpoint: Option<&BackendEndpoints>,
    surroundings: &Surroundings<'_>,
) -> Option<TlsSettings> {
    let tls = s.within("tls", |s| {
        let files = s.list("ca_file", |value| ca_file(value, surroundings));
        let server_name = s.optional("server_name", |value| {
            let name = text(value)?;
            TlsClient::new(Authorities::none(), Some(name))
                .map_err(|error| format!("{error}, not {}", quote(name)))?;
            Ok(name.to_owned())
        });
        let authorities = files?.into_iter().reduce(Authorities::and);
        Some(TlsSettings { authorities, server_name: server_name? })
    })?;
    let unused = match endpoint {
        Some(BackendEndpoints::Http(endpoints)) => !endpoints.iter().any(Endpoint::is_tls),
        Some(BackendEndpoints::Embedded) => true,
        None => false,
    };
    if unused && (tls.authorities.is_some() || tls.server_name.is_some()) {
        s.findings().warn(&s.key("tls"), "has no effect: no endpoint is https://");
    }
    Some(tls)
}

/// An entry of a `ca_file`: the file is read here.
pub(super) fn ca_file(
    value: &Value,
    surroundings: &Surroundings<'_>,
) -> Result<Authorities, String> {
    let path = text(value)?;
    let read = (surroundings.read)(Path::new(path));
    let text = read.map_err(|error| {
        let path = quote(path);
        format!("cannot be read: {error}: {path} must be a PEM file that this user may read")
    })?;
    let mut one = Authorities::none();
    one.add_pem(&text).map_err(|error| format!("{}: {error}", quote(path)))?;
    Ok(one)
}

const METADATA: &[(&str, InstanceMetadata)] = &[
    ("auto", InstanceMetadata::Auto),
    ("always", InstanceMetadata::Always),
    ("never", InstanceMetadata::Never),
];

/// The keys that are set, or the first source of the chain. `known`: whether `endpoint` could be read, and so
/// whether keys are needed at all.
fn read_credentials(
    s: &mut Section<'_>,
    embedded: bool,
    known: bool,
    surroundings: &Surroundings<'_>,
) -> Option<Option<CredentialSource>> {
    let access_key = s.optional("access_key", access_key);
    let secret_key = s.optional("secret_key", secret);
    let session_token = s.optional("session_token", secret);
    let profile = s.optional("profile", |value| text(value).map(str::to_owned));
    let metadata = s.required("instance_metadata", choice(METADATA));
    let (session_token, profile, metadata) = (session_token?, profile?, metadata?);
    match (access_key?, secret_key?) {
        (Some(_), Some(_)) if profile.is_some() => {
            s.fail("profile", "must not be set along with access_key: which one is meant?");
            None
        }
        (Some(access_key), Some(secret_key)) => {
            let keys = BackendCredentials { access_key, secret_key, session_token };
            Some(Some(CredentialSource::Settings(keys)))
        }
        (Some(_), None) => {
            s.fail("secret_key", "must be set too, since access_key is set");
            None
        }
        (None, Some(_)) => {
            s.fail("access_key", "must be set too, since secret_key is set");
            None
        }
        (None, None) if session_token.is_some() => {
            s.fail("session_token", "needs the access_key and the secret_key that it belongs to");
            None
        }
        (None, None) if embedded => Some(None),
        (None, None) if !known => None,
        (None, None) => {
            let key = if profile.is_some() { "profile" } else { "access_key" };
            match backend_credentials::find(profile.as_deref(), metadata, surroundings) {
                Ok(Some(source)) => Some(Some(source)),
                Ok(None) => {
                    s.fail(
                        key,
                        "no credentials for the backend: set access_key and secret_key, or \
                         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a \
                         profile in ~/.aws/credentials; there is no web identity, container endpoint \
                         or EC2 instance either (instance_metadata: always asks it all the same)",
                    );
                    None
                }
                Err(problem) if profile.is_some() => {
                    s.fail(key, problem);
                    None
                }
                Err(problem) => {
                    s.fail(key, format!("is not set, and {problem}"));
                    None
                }
            }
        }
    }
}
