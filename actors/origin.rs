//! The S3 calls that the gateway itself originates, through rusoto_s3: the HEAD that proves whether
//! an object whose answer was lost has arrived (R11), and what the sweep of orphaned multipart uploads
//! needs (ListMultipartUploads, ListParts, AbortMultipartUpload).
//!
//! rusoto is no longer maintained (RUSTSEC-2022-0071), so it stays behind this one module, and none
//! of its own HTTP or TLS runs: its dispatcher signs with rusoto_signature, once, and sends every
//! byte through the gateway's own pooled connections.

mod described;

use crate::config::Bucket;
use crate::guardian::ActorRef;
use crate::orphans::Listed;
use crate::s3::etag::is_digest;
use crate::s3::upstream::UpstreamTemplate;
use crate::s3::xml;
use crate::s3_client_actor::{LeaseConnection, Release, S3ClientActor};
use crate::sigv4::BackendKeys;
use crate::upload::job::Proof;
use crate::upload::machine::Proven;
use rusoto_core::request::{
    DispatchSignedRequest, DispatchSignedRequestFuture, HttpDispatchError, HttpResponse,
};
use rusoto_core::signature::SignedRequest;
use rusoto_core::{ByteStream, Client, Region, RusotoError};
use rusoto_credential::{AwsCredentials, CredentialsError, ProvideAwsCredentials};
use rusoto_s3::{
    AbortMultipartUploadError, AbortMultipartUploadRequest, HeadObjectOutput, HeadObjectRequest,
    ListMultipartUploadsRequest, ListPartsRequest, S3, S3Client,
};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

const META: &str = "x-amz-meta-";
const CHECKSUM: &str = "x-amz-checksum-";

/// How many fields of metadata are not shown.
const MISSING_META: &str = "x-amz-missing-meta";

/// Most bytes of an answer's body: a page of ListMultipartUploads with [`PAGE`] keys of 1 KiB.
const MAX_ANSWER: usize = 1024 * 1024;

/// Uploads of one page of ListMultipartUploads.
const PAGE: i64 = 500;

/// Pages that are read of one key's uploads.
const MAX_PAGES: usize = 20;

/// Parts of one page of ListParts: the most that S3 gives.
const PAGE_OF_PARTS: i64 = 1000;

/// Pages that are read of one upload: its 10,000 parts, and as many again for a backend that gives
/// smaller ones. What is not seen is sent again.
const MAX_PAGES_OF_PARTS: usize = 20;

/// Asks the backend whether the object under `key` (the prefix included) is the one that `proof`
/// describes.
pub async fn prove(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    proof: &Proof,
) -> Proven {
    if *proof == Proof::None {
        return Proven::Unknown;
    }
    head(bucket, client, key, |found| proves(found, proof)).await
}

/// Asks the backend whether the object that is there is the one that `request`, a PutObject, makes: one
/// of the digests says so, and so does all that HEAD shows beside.
pub async fn recognize(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    request: &UpstreamTemplate,
    digests: &[Proof],
) -> Proven {
    if digests.is_empty() {
        return Proven::Unknown;
    }
    let is_it = |found: &HeadObjectOutput| {
        digests.iter().any(|digest| proves(found, digest))
            && described::is_described(&request.headers, &shown(found))
    };
    head(bucket, client, &request.key, is_it).await
}

async fn head(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    is_it: impl FnOnce(&HeadObjectOutput) -> bool,
) -> Proven {
    let (s3, _) = s3(bucket, client);
    let request = HeadObjectRequest {
        bucket: bucket.backend.bucket.clone(),
        key: key.to_owned(),
        ..HeadObjectRequest::default()
    };
    match s3.head_object(request).await {
        Ok(found) if is_it(&found) => {
            Proven::Yes { etag: found.e_tag, version_id: found.version_id }
        }
        Ok(_) => Proven::No,
        Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => Proven::No,
        Err(error) => {
            log::warn!("bucket {}: what is there could not be looked at: {error}", bucket.name);
            Proven::Unknown
        }
    }
}

/// What HEAD shows of an object beside its bytes, as headers.
fn shown(found: &HeadObjectOutput) -> Vec<(String, String)> {
    let named = [
        ("cache-control", &found.cache_control),
        ("content-disposition", &found.content_disposition),
        ("content-encoding", &found.content_encoding),
        ("content-language", &found.content_language),
        ("content-type", &found.content_type),
        ("expires", &found.expires),
        ("x-amz-server-side-encryption", &found.server_side_encryption),
        ("x-amz-storage-class", &found.storage_class),
        ("x-amz-website-redirect-location", &found.website_redirect_location),
    ];
    let named = named
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?.clone())));
    let metadata = found.metadata.iter().flatten();
    let metadata = metadata.filter(|(name, _)| !name.starts_with(CHECKSUM));
    let metadata = metadata.map(|(name, value)| (format!("{META}{name}"), value.clone()));
    let missing = found.missing_meta.map(|count| (MISSING_META.to_owned(), count.to_string()));
    named.chain(metadata).chain(missing).collect()
}

fn proves(found: &HeadObjectOutput, proof: &Proof) -> bool {
    match proof {
        Proof::None => false,
        Proof::ETag(expected) => {
            found.e_tag.as_deref().is_some_and(|etag| is_digest(etag, expected))
        }
        // rusoto_s3 knows no checksum fields: the dispatcher leaves them in the metadata.
        Proof::Checksum(name, value) => found
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.get(name))
            .is_some_and(|found| found == value),
    }
}

/// Why a sweep came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The backend does not know the operation, or does not allow it: asking again is of no use.
    #[error("the backend refuses {0}")]
    Refused(String),
    /// It may work later.
    #[error("{0}")]
    Failed(String),
}

/// A key's multipart uploads, and how far the backend's clock is ahead of this machine's,
/// milliseconds.
pub async fn list_uploads(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
) -> Result<(Vec<Listed>, i64), SweepError> {
    let (s3, clock) = s3(bucket, client);
    let mut found = Vec::new();
    let mut request = ListMultipartUploadsRequest {
        bucket: bucket.backend.bucket.clone(),
        prefix: Some(key.to_owned()),
        max_uploads: Some(PAGE),
        ..ListMultipartUploadsRequest::default()
    };
    for _ in 0..MAX_PAGES {
        let page = s3.list_multipart_uploads(request.clone()).await.map_err(sweep_error)?;
        found.extend(page.uploads.unwrap_or_default().into_iter().filter_map(|one| {
            let initiated = one.initiated.and_then(|text| milliseconds(&text));
            Some(Listed { key: one.key?, upload_id: one.upload_id?, initiated })
        }));
        if !page.is_truncated.unwrap_or(false) {
            break;
        }
        request.key_marker = page.next_key_marker;
        request.upload_id_marker = page.next_upload_id_marker;
    }
    let ahead = clock.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(0);
    Ok((found, ahead))
}

/// Asks for so many parts of an upload at most.
fn parts_of(bucket: &Bucket, key: &str, upload_id: &str, most: i64) -> ListPartsRequest {
    ListPartsRequest {
        bucket: bucket.backend.bucket.clone(),
        key: key.to_owned(),
        upload_id: upload_id.to_owned(),
        max_parts: Some(most),
        ..ListPartsRequest::default()
    }
}

/// Whether an upload has parts.
pub async fn has_parts(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    upload_id: &str,
) -> Result<bool, SweepError> {
    let (s3, _) = s3(bucket, client);
    let request = parts_of(bucket, key, upload_id, 1);
    let parts = s3.list_parts(request).await.map_err(sweep_error)?.parts;
    Ok(parts.is_some_and(|parts| !parts.is_empty()))
}

/// Whether there is such an upload, parts or none.
pub async fn has_upload(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    upload_id: &str,
) -> Result<bool, SweepError> {
    let (s3, _) = s3(bucket, client);
    let request = parts_of(bucket, key, upload_id, 1);
    match s3.list_parts(request).await {
        Ok(_) => Ok(true),
        Err(RusotoError::Unknown(answer)) if is_no_such_upload(&answer.body) => Ok(false),
        Err(error) => Err(sweep_error(error)),
    }
}

/// What a backend has of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartThere {
    /// Its bytes.
    pub length: u64,
    /// Its ETag, without quotes; s3s over a folder tells none.
    pub etag: Option<String>,
}

/// The parts that an upload has, by their numbers; None: there is no such upload.
pub async fn list_parts(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    upload_id: &str,
) -> Result<Option<HashMap<u16, PartThere>>, SweepError> {
    let (s3, _) = s3(bucket, client);
    let mut found = HashMap::new();
    let mut request = parts_of(bucket, key, upload_id, PAGE_OF_PARTS);
    for _ in 0..MAX_PAGES_OF_PARTS {
        let page = match s3.list_parts(request.clone()).await {
            Ok(page) => page,
            Err(RusotoError::Unknown(answer)) if is_no_such_upload(&answer.body) => {
                return Ok(None);
            }
            // Also of a bucket that is gone, and of backends that have no such operation.
            Err(RusotoError::Unknown(answer)) if is_refusal(answer.status.as_u16()) => {
                return Err(SweepError::Refused(answer.body_as_str().to_owned()));
            }
            Err(error) => return Err(sweep_error(error)),
        };
        found.extend(page.parts.unwrap_or_default().into_iter().filter_map(|part| {
            let there = PartThere {
                length: u64::try_from(part.size?).ok()?,
                etag: part.e_tag.map(|etag| etag.trim_matches('"').to_owned()),
            };
            Some((u16::try_from(part.part_number?).ok()?, there))
        }));
        if !page.is_truncated.unwrap_or(false) {
            break;
        }
        request.part_number_marker = page.next_part_number_marker;
    }
    Ok(Some(found))
}

/// Whether asking again is answered the same: not what is about time (408) and load (429).
fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && status != 408 && status != 429
}

fn is_no_such_upload(body: &[u8]) -> bool {
    xml::parse_error(body).is_some_and(|error| error.code == "NoSuchUpload")
}

/// Aborts an upload; one that is not there any more counts as aborted.
pub async fn abort(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    upload_id: &str,
) -> Result<(), SweepError> {
    let (s3, _) = s3(bucket, client);
    let request = AbortMultipartUploadRequest {
        bucket: bucket.backend.bucket.clone(),
        key: key.to_owned(),
        upload_id: upload_id.to_owned(),
        ..AbortMultipartUploadRequest::default()
    };
    match s3.abort_multipart_upload(request).await {
        Ok(_) | Err(RusotoError::Service(AbortMultipartUploadError::NoSuchUpload(_))) => Ok(()),
        Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => Ok(()),
        Err(error) => Err(sweep_error(error)),
    }
}

fn sweep_error<E: std::error::Error + 'static>(error: RusotoError<E>) -> SweepError {
    match &error {
        RusotoError::Unknown(answer) => {
            let text = format!("{} {}", answer.status.as_u16(), answer.body_as_str());
            match answer.status.as_u16() {
                403 | 405 | 501 => SweepError::Refused(text),
                _ => SweepError::Failed(text),
            }
        }
        error => SweepError::Failed(error.to_string()),
    }
}

/// Milliseconds since 1970 of S3's timestamps (`2026-01-02T03:04:05.000Z`).
fn milliseconds(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// How far the backend's clock is ahead, milliseconds, once an answer has told.
type Clock = Arc<Mutex<Option<i64>>>;

fn s3(bucket: &Arc<Bucket>, client: ActorRef<S3ClientActor>) -> (S3Client, Clock) {
    let clock = Clock::default();
    let dispatcher = Dispatcher { bucket: Arc::clone(bucket), client, clock: Arc::clone(&clock) };
    // The endpoint is the pool's choice: the name here only fills the field.
    let region = Region::Custom { name: bucket.region.clone(), endpoint: "http://backend".into() };
    (S3Client::new_with_client(Client::new_not_signing(dispatcher), region), clock)
}

/// rusoto's transport: the bucket's own pool.
struct Dispatcher {
    bucket: Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    clock: Clock,
}

impl DispatchSignedRequest for Dispatcher {
    fn dispatch(
        &self,
        request: SignedRequest,
        _timeout: Option<Duration>,
    ) -> DispatchSignedRequestFuture {
        let (bucket, client) = (Arc::clone(&self.bucket), self.client.clone());
        let clock = Arc::clone(&self.clock);
        Box::pin(async move {
            let answer = send(&bucket, &client, request).await.map_err(HttpDispatchError::new)?;
            let date = answer.headers.get("date");
            let theirs = date.and_then(|date| OffsetDateTime::parse(date, &Rfc2822).ok());
            if let Some(theirs) = theirs {
                let ahead = (theirs - OffsetDateTime::now_utc()).whole_milliseconds();
                *clock.lock().unwrap_or_else(PoisonError::into_inner) = i64::try_from(ahead).ok();
            }
            Ok(answer)
        })
    }
}

/// rusoto's view of the bucket's keys, as they are at each request.
struct SnapshotKeys(Arc<BackendKeys>);

impl SnapshotKeys {
    fn now(&self) -> Result<AwsCredentials, CredentialsError> {
        let signer = self.0.signer(OffsetDateTime::now_utc()).map_err(CredentialsError::new)?;
        let token = signer.session_token().map(|token| token.expose().to_owned());
        Ok(AwsCredentials::new(signer.access_key(), signer.secret_key().expose(), token, None))
    }
}

/// An async_trait, written out.
impl ProvideAwsCredentials for SnapshotKeys {
    fn credentials<'s, 'f>(
        &'s self,
    ) -> Pin<Box<dyn Future<Output = Result<AwsCredentials, CredentialsError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(std::future::ready(self.now()))
    }
}

async fn send(
    bucket: &Bucket,
    client: &ActorRef<S3ClientActor>,
    mut request: SignedRequest,
) -> Result<HttpResponse, String> {
    let lease = LeaseConnection { request: None, more: Vec::new(), length: None, attempt: 1 };
    let mut lease = client
        .ask(lease)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    if request.method == "HEAD" {
        request.add_header("x-amz-checksum-mode", "ENABLED");
    }
    request.set_hostname(Some(lease.authority.clone()));
    let keys = SnapshotKeys(Arc::clone(&bucket.backend.keys)).credentials().await;
    request.sign(&keys.map_err(|error| error.to_string())?);
    let head = serialize(&request);
    let timeouts = &bucket.backend.timeouts;
    let connection = &mut lease.connection;
    connection.send_head(&head, timeouts.progress).await.map_err(|error| error.to_string())?;
    let response = connection
        .read_response(request.method == "HEAD", timeouts.first_byte, MAX_ANSWER)
        .await
        .map_err(|error| error.to_string())?;
    if connection.is_reusable() {
        client.hint(Release(lease));
    }
    let mut headers = http02::HeaderMap::<String>::default();
    for (name, value) in response.head.headers {
        let Some(name) = for_rusoto(name, &value) else { continue };
        if let (Ok(name), Ok(value)) = (
            http02::header::HeaderName::from_bytes(name.as_bytes()),
            String::from_utf8(value.to_vec()),
        ) {
            headers.insert(name, value);
        }
    }
    Ok(HttpResponse {
        status: http02::StatusCode::from_u16(response.head.status)
            .map_err(|error| error.to_string())?,
        body: ByteStream::from(response.body.to_vec()),
        headers,
    })
}

/// Under which name rusoto_s3 is given a header: what it has no field for passes as user metadata (see
/// `proves`), so what comes as such must not bear the name. None: not at all: a number that is none
/// would be a panic.
fn for_rusoto(name: String, value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    match name.as_str() {
        "content-length" | "x-amz-mp-parts-count" | MISSING_META => {
            text.parse::<i64>().is_ok().then_some(name)
        }
        "x-amz-delete-marker" | "x-amz-server-side-encryption-bucket-key-enabled" => {
            text.parse::<bool>().is_ok().then_some(name)
        }
        _ if name.starts_with(CHECKSUM) => Some(format!("{META}{name}")),
        _ if name.strip_prefix(META).is_some_and(|meta| meta.starts_with(CHECKSUM)) => None,
        _ => Some(name),
    }
}

fn serialize(request: &SignedRequest) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let query = request.canonical_query_string();
    let mark = if query.is_empty() { "" } else { "?" };
    let line = format!("{} {}{mark}{query} HTTP/1.1\r\n", request.method, request.canonical_path());
    head.extend_from_slice(line.as_bytes());
    for (name, values) in request.headers() {
        for value in values {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever stores an object gives it whatever metadata he likes: none of it is taken for a checksum
    /// that the backend has computed.
    #[test]
    fn metadata_passes_for_no_checksum() {
        let name = |name: &str, value: &str| for_rusoto(name.to_owned(), value.as_bytes());
        let own = Some("x-amz-meta-x-amz-checksum-sha256".to_owned());
        assert_eq!(name("x-amz-checksum-sha256", "a"), own);
        assert_eq!(name("x-amz-meta-x-amz-checksum-sha256", "a"), None);
        assert_eq!(name("x-amz-meta-a", "a"), Some("x-amz-meta-a".to_owned()));
        assert_eq!(name("etag", "a"), Some("etag".to_owned()));
    }

    #[test]
    fn numbers_that_are_none_are_left_out() {
        for (name, good, bad) in [
            ("content-length", "18", "18446744073709551615"),
            ("x-amz-missing-meta", "1", "many"),
            ("x-amz-mp-parts-count", "2", ""),
            ("x-amz-delete-marker", "true", "1"),
            ("x-amz-server-side-encryption-bucket-key-enabled", "false", "no"),
        ] {
            assert!(for_rusoto(name.to_owned(), good.as_bytes()).is_some(), "{name}");
            assert!(for_rusoto(name.to_owned(), bad.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn an_etag_proves_in_capitals_too() {
        let found = |etag: &str| HeadObjectOutput {
            e_tag: Some(etag.to_owned()),
            ..HeadObjectOutput::default()
        };
        let proof = Proof::ETag("5b3c1a2e053d763e1b002cc607c5a0fe".to_owned());
        assert!(proves(&found("\"5B3C1A2E053D763E1B002CC607C5A0FE\""), &proof));
        assert!(!proves(&found("\"5B3C1A2E053D763E1B002CC607C5A0FF\""), &proof));
    }
}
