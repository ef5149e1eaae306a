//! `buckets[]`: a bucket as clients see it, and what they may put there.

use super::auth::{self, AuthSettings};
use super::authorization::{self, AuthorizationSettings};
use super::backend::{self, BackendSettings, Surroundings};
use super::batch::{self, BatchSettings};
use super::cors;
use super::section::{Layer, Section};
use super::values::{
    GIB, MIB, TIB, boolean, choice, count, duration, integer, quote, size, text, text_where,
};
use config::Value;
use mizuchi_actors::config::Mode;
use mizuchi_actors::s3::cors::CorsRule;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The longest object that S3 has (Amazon S3 User Guide, "Multipart upload limits").
const MAX_OBJECT: u64 = 5 * TIB;

/// Bytes of a path prefix: it is matched on every request.
const MAX_PATH_PREFIX: usize = 255;

/// `buckets[]`.
#[derive(Debug, Clone)]
pub struct BucketSettings {
    /// The client's name for it: a valid S3 bucket name, unique.
    pub name: String,
    /// Where it is for path-style requests: begins with `/`, ends without one unless it is `/`
    /// alone, unique. It matches whole path segments only; of several, the longest wins.
    pub path_prefix: String,
    /// Where its objects go.
    pub s3: BackendSettings,
    /// What may be uploaded.
    pub upload: UploadSettings,
    /// Which web pages may upload; empty: CORS is not enabled.
    pub cors: Vec<CorsRule>,
    /// Who may upload.
    pub auth: AuthSettings,
    /// What they may; None: nobody is asked.
    pub authorization: Option<AuthorizationSettings>,
}

/// `buckets[].upload`.
#[derive(Debug, Clone)]
pub struct UploadSettings {
    /// When a PutObject is acknowledged.
    pub mode: Mode,
    /// Whether a request may say so itself.
    pub mode_header: bool,
    /// Bytes of the largest PutObject, at most 5 TiB.
    pub max_object_size: u64,
    /// False (`overwrite: deny`): an existing object stays.
    pub overwrite: bool,
    /// How long a CompleteMultipartUpload may take before it is answered 200, its outcome to follow.
    pub complete_keepalive: Duration,
    /// `upload.allow`.
    pub allow: UploadPermissions,
    /// How failed attempts are made again.
    pub restart: RestartSettings,
    /// `split` and what belongs to it.
    pub split: SplitSettings,
    /// Whether clients may list their own multipart uploads.
    pub list_multipart_uploads: bool,
    /// How old they may become; None: as old as they like.
    pub client_uploads_ttl: Option<Duration>,
    /// `upload.batch`.
    pub batch: BatchSettings,
}

/// `upload.split` and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SplitSettings {
    /// `split: auto`.
    pub auto: bool,
    /// A PutObject of more bytes is split.
    pub multipart_threshold: u64,
    /// Bytes of a part.
    pub part_size: u64,
    /// Parts of one upload in flight.
    pub concurrent_parts: usize,
    /// `unknown_length: multipart`.
    pub unknown_length: bool,
    /// How long a split upload may take.
    pub ttl: Duration,
}

/// `upload.allow`: headers with which a client uses the gateway's own power over the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploadPermissions {
    /// x-amz-acl and x-amz-grant-*.
    pub acl: bool,
    /// x-amz-tagging.
    pub tagging: bool,
    /// x-amz-object-lock-*.
    pub lock: bool,
    /// x-amz-website-redirect-location.
    pub redirect: bool,
}

/// `upload.restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartSettings {
    /// Restarts of one part within `window`, at most 100.
    pub max: u32,
    /// The time in which they are counted.
    pub window: Duration,
    /// The longest wait before the first restart; doubles from one to the next.
    pub backoff_base: Duration,
    /// The longest wait of all; at least `backoff_base`.
    pub backoff_cap: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Permission {
    Acl,
    Tagging,
    Lock,
    Redirect,
}

const PERMISSIONS: &[(&str, Permission)] = &[
    ("acl", Permission::Acl),
    ("tagging", Permission::Tagging),
    ("lock", Permission::Lock),
    ("redirect", Permission::Redirect),
];

const MODES: &[(&str, Mode)] =
    &[("write_through", Mode::WriteThrough), ("write_back", Mode::WriteBack)];

/// Reads `buckets`; `auth` and `authorization` are the top-level ones, every bucket's default.
pub(super) fn read_all<'t>(
    root: &mut Section<'t>,
    auth: &[Layer<'t>],
    authorization: &[Layer<'t>],
    surroundings: &Surroundings<'_>,
) -> Option<Vec<BucketSettings>> {
    let (mut names, mut prefixes) = (BTreeMap::new(), BTreeMap::new());
    let buckets = root.entries("buckets", |s| {
        let name = s.required("name", bucket_name);
        let prefix = s.required("path_prefix", |value| {
            path_prefix(&text(value)?.replace("{name}", name.as_deref().unwrap_or("name")))
        });
        let place = s.path().to_owned();
        unique(s, "name", name.as_ref(), &mut names, &place);
        if name.is_some() {
            unique(s, "path_prefix", prefix.as_ref(), &mut prefixes, &place);
        }
        let s3 = s.within("s3", |s| backend::read(s, name.as_deref(), surroundings));
        let upload = s.within("upload", read_upload);
        let cors = cors::read_all(s);
        let region = s3.as_ref().map(|s3| s3.region.as_str());
        let auth = s.within_inheriting("auth", auth, |s| auth::read(s, region, surroundings));
        let tokens = auth.as_ref().map(|auth| auth.jwt.token_headers()).unwrap_or_default();
        let authorization = s.within_inheriting("authorization", authorization, |s| {
            authorization::read(s, surroundings, &tokens)
        });
        Some(BucketSettings {
            name: name?,
            path_prefix: prefix?,
            s3: s3?,
            upload: upload?,
            cors: cors?,
            auth: auth?,
            authorization: authorization?,
        })
    });
    if buckets.is_empty() {
        root.fail("buckets", "must have at least one bucket, with its name and its s3.endpoint");
    }
    warn_of_shadows(root, &prefixes);
    buckets.into_iter().collect()
}

/// Notes an error if `value` was seen before, in another bucket.
fn unique(
    s: &Section<'_>,
    key: &str,
    value: Option<&String>,
    seen: &mut BTreeMap<String, String>,
    place: &str,
) {
    let Some(value) = value else { return };
    match seen.get(value) {
        Some(first) => s.fail(key, format!("{} is that of {first} too", quote(value))),
        None => drop(seen.insert(value.clone(), place.to_owned())),
    }
}

/// The longest prefix wins, so a bucket within another one's path hides keys of the outer one.
fn warn_of_shadows(root: &Section<'_>, prefixes: &BTreeMap<String, String>) {
    for (inner, inner_place) in prefixes {
        for (outer, outer_place) in prefixes {
            let rest = inner.strip_prefix(outer.trim_end_matches('/'));
            if inner != outer && rest.is_some_and(|rest| rest.starts_with('/')) {
                root.findings().warn(
                    &format!("{inner_place}.path_prefix"),
                    &format!(
                        "keys of {outer_place} under {inner} cannot be reached: they are here"
                    ),
                );
            }
        }
    }
}

fn read_upload(s: &mut Section<'_>) -> Option<UploadSettings> {
    let mode = s.required("mode", choice(MODES));
    let mode_header = s.required("mode_header", choice(&[("allow", true), ("deny", false)]));
    let max_object_size = s.required("max_object_size", size(1..=MAX_OBJECT));
    let overwrite = s.required("overwrite", choice(&[("allow", true), ("deny", false)]));
    let complete_keepalive = s.required("complete_keepalive", duration(SECOND..=HOUR));
    let allow = s.list("allow", choice(PERMISSIONS)).map(|allow| {
        let allow: BTreeSet<_> = allow.into_iter().collect();
        UploadPermissions {
            acl: allow.contains(&Permission::Acl),
            tagging: allow.contains(&Permission::Tagging),
            lock: allow.contains(&Permission::Lock),
            redirect: allow.contains(&Permission::Redirect),
        }
    });
    let restart = s.within("restart", |s| {
        let max = s.required("max", integer(0..=100));
        let window = s.required("window", duration(MILLISECOND..=24 * HOUR));
        let base = s.required("backoff_base", duration(MILLISECOND..=HOUR));
        let cap = s.required("backoff_cap", duration(MILLISECOND..=HOUR));
        if let (Some(base), Some(cap)) = (base, cap)
            && base > cap
        {
            s.fail("backoff_base", "must not be longer than backoff_cap");
        }
        Some(RestartSettings {
            max: u32::try_from(max?).ok()?,
            window: window?,
            backoff_base: base?,
            backoff_cap: cap?,
        })
    });
    let split = read_split(s);
    let list_multipart_uploads = s.required("list_multipart_uploads", boolean);
    let client_uploads_ttl = s.optional("client_uploads_ttl", duration(MINUTE..=365 * DAY));
    let batch = s.within("batch", batch::read);
    Some(UploadSettings {
        mode: mode?,
        mode_header: mode_header?,
        max_object_size: max_object_size?,
        overwrite: overwrite?,
        complete_keepalive: complete_keepalive?,
        allow: allow?,
        restart: restart?,
        split: split?,
        list_multipart_uploads: list_multipart_uploads?,
        client_uploads_ttl: client_uploads_ttl?,
        batch: batch?,
    })
}

fn read_split(s: &mut Section<'_>) -> Option<SplitSettings> {
    let auto = s.required("split", choice(&[("auto", true), ("never", false)]));
    let multipart_threshold = s.required("multipart_threshold", size(5 * MIB..=5 * GIB));
    let part_size = s.required("part_size", size(5 * MIB..=5 * GIB));
    let concurrent_parts = s.required("concurrent_parts", count(1..=64));
    let unknown_length =
        s.required("unknown_length", choice(&[("multipart", true), ("deny", false)]));
    let ttl = s.required("split_ttl", duration(MINUTE..=30 * DAY));
    Some(SplitSettings {
        auto: auto?,
        multipart_threshold: multipart_threshold?,
        part_size: part_size?,
        concurrent_parts: concurrent_parts?,
        unknown_length: unknown_length?,
        ttl: ttl?,
    })
}

/// A bucket name, by the rules that all S3 servers share (Amazon S3 User Guide, "General purpose
/// bucket naming rules"; AWS's reserved prefixes and suffixes are left to AWS).
pub(super) fn bucket_name(value: &Value) -> Result<String, String> {
    let rule = "a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens, beginning \
                and ending with a letter or digit, no two dots in a row, and not an IP address";
    text_where(rule, |name| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (3..=63).contains(&name.len())
            && name.bytes().all(|b| inner(b) || b == b'.' || b == b'-')
            && name.bytes().next().is_some_and(inner)
            && name.bytes().next_back().is_some_and(inner)
            && !name.contains("..")
            && name.parse::<Ipv4Addr>().is_err()
    })(value)
}

/// A path prefix in its one normal form. Only characters that stand for themselves in a request
/// target are let in, so that matching raw bytes is enough.
fn path_prefix(text: &str) -> Result<String, String> {
    let path = match text.strip_suffix('/') {
        Some("" | "/") | None => text,
        Some(path) => path,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    let valid =
        path == "/" || path.strip_prefix('/').is_some_and(|path| path.split('/').all(segment));
    if valid && path.len() <= MAX_PATH_PREFIX {
        Ok(path.to_owned())
    } else {
        Err(format!(
            "must begin with / and hold only letters, digits, -._~ and single slashes, such as \
             /uploads, not {}",
            quote(text)
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_are_those_of_s3() {
        let valid = |name: &str| bucket_name(&Value::new(None, name)).is_ok();
        let long = "a".repeat(63);
        for name in ["abc", "my-bucket.v2", "0ab", "1.2.3", &long] {
            assert!(valid(name), "{name}");
        }
        let long = "a".repeat(64);
        for name in ["", "ab", "Abc", "a_b", "-abc", "abc.", "a..b", "192.168.5.4", "a/b", &long] {
            assert!(!valid(name), "{name}");
        }
    }

    #[test]
    fn a_path_prefix_has_one_form() {
        for (text, path) in [("/", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a/b.c~", "/a/b.c~")] {
            assert_eq!(path_prefix(text).unwrap(), path);
        }
        for text in ["", "a", "//", "/a//", "//a", "/a//b", "/../a", "/a/.", "/a b", "/%41", "/a?"]
        {
            assert!(path_prefix(text).is_err(), "{text}");
        }
    }
}
