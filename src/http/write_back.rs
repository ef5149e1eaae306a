//! What is acknowledged when it is on stable storage here (docs/durability.md): a PutObject, and in
//! [`multipart`] a multipart upload; and what a write that goes through owes to those of its key that
//! still wait.

pub(super) mod multipart;

use super::request::{Failed, too_large};
use super::route::Route;
use bytes::Bytes;
use mizuchi_actors::auth_actor::Authorized;
use mizuchi_actors::config::{Bucket, Mode};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::orphans::wall_clock;
use mizuchi_actors::payload::{ChecksumAlgorithm, PayloadLength};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::headers::MODE;
use mizuchi_actors::s3::names::MAX_KEY;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::spool::request::recorded_headers;
use mizuchi_actors::spool::{Body, Entry, EntryContent, IngestError, Ingested, Spool, ingest};
use mizuchi_actors::tap::RequestBody;
use mizuchi_actors::transfer::Intake;
use mizuchi_actors::upload::job::{BackendAnswer, UploadEnd};
use mizuchi_actors::upload::parts;
use mizuchi_actors::upload::prepare;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// When this request is to be acknowledged.
///
/// Errors: 403 AccessDenied (`upload.mode_header: deny`), 400 InvalidArgument.
pub(super) fn mode(bucket: &Bucket, head: &RequestHead) -> Result<Mode, S3Error> {
    let Some(asked) = head.header(MODE) else { return Ok(bucket.upload.mode) };
    if !bucket.upload.mode_header {
        let message = "Access Denied: x-mizuchi-mode is not permitted for this bucket.";
        return Err(S3Error::new(ErrorCode::AccessDenied, message));
    }
    match asked {
        "write_through" => Ok(Mode::WriteThrough),
        "write_back" => Ok(Mode::WriteBack),
        _ => {
            let message = "x-mizuchi-mode must be write_through or write_back.";
            Err(S3Error::new(ErrorCode::InvalidArgument, message))
        }
    }
}

/// Whether a PutObject or a CreateMultipartUpload can be acknowledged here at all. Through go: conditions, which only the backend
/// can judge, and locks, which only it can make; encryption whose ETag is no MD5, or whose keys must not
/// touch the disk; more than a single PutObject may have; what will be refused anyway. `key`: at the
/// backend.
pub(super) fn can_wait(
    bucket: &Bucket,
    operation: &Operation,
    key: &str,
    headers: &[(String, Vec<u8>)],
    length: Option<u64>,
) -> bool {
    let through = |(name, value): &(String, Vec<u8>)| match name.as_str() {
        "if-match" | "if-none-match" | "x-amz-expected-bucket-owner" => true,
        "x-amz-server-side-encryption" => value != b"AES256",
        name => {
            name.starts_with("x-amz-server-side-encryption-")
                || name.starts_with("x-amz-object-lock-")
        }
    };
    let unbounded = length.is_none() && !bucket.upload.split.unknown_length;
    let can_be = match operation {
        Operation::PutObject { .. } => !unbounded,
        Operation::CreateMultipartUpload { .. } => multipart::can_wait(bucket, headers),
        _ => false,
    };
    can_be
        && bucket.upload.overwrite
        && key.len() <= MAX_KEY
        && !headers.iter().any(through)
        && length.is_none_or(|length| length <= parts::MAX_SINGLE)
}

/// A PutObject on its way to stable storage.
pub(super) struct StoreJob {
    spool: Arc<Spool>,
    bucket: Arc<Bucket>,
    principal: Arc<str>,
    request: UpstreamTemplate,
    intake: Intake,
    length: Option<u64>,
    /// Bytes at the most, of a body without a length.
    most: u64,
    _permit: OwnedSemaphorePermit,
}

/// What a [`StoreJob`] is made of, as the request brought it.
pub(super) struct Incoming<'t> {
    pub(super) route: &'t Route,
    pub(super) spool: &'t Arc<Spool>,
    pub(super) bucket: &'t Arc<Bucket>,
    pub(super) head: &'t RequestHead,
    pub(super) request: UpstreamTemplate,
    pub(super) authorized: Authorized,
    pub(super) body: RequestBody,
    pub(super) length: Option<u64>,
    pub(super) most: u64,
    pub(super) permit: OwnedSemaphorePermit,
}

impl StoreJob {
    /// Plans it.
    ///
    /// Errors: 400 EntityTooLarge, and those of the headers that the body is held to.
    pub(super) fn new(incoming: Incoming<'_>) -> Result<StoreJob, S3Error> {
        let Incoming { route, spool, bucket, head, .. } = incoming;
        let most = incoming.most.min(parts::MAX_SINGLE);
        if incoming.length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let principal = Arc::clone(&incoming.authorized.principal);
        let length = incoming.length;
        let payload = length.map_or(PayloadLength::AtMost(most), PayloadLength::Exactly);
        let (authorized, body) = (incoming.authorized, incoming.body);
        let (intake, hash) =
            prepare::plan_stored(&route.engine, bucket, head, authorized, body, payload)?;
        Ok(StoreJob {
            spool: Arc::clone(spool),
            bucket: Arc::clone(bucket),
            principal,
            request: UpstreamTemplate { payload: hash, ..incoming.request },
            intake,
            length,
            most,
            _permit: incoming.permit,
        })
    }

    /// Takes the body, stores it, and ends when it is on stable storage.
    pub(super) async fn run(self, route: &Route) -> UploadEnd {
        let StoreJob { spool, bucket, principal, request, intake, length, most, .. } = self;
        let turns = &route.replay.turns;
        let ingested = match ingest(&spool, intake, length, most, turns).await {
            Ok(ingested) => ingested,
            Err(error) => {
                let IngestError { error, volume, body_taken } = error;
                return UploadEnd { result: Err(error), volume, restarts: 0, body_taken };
            }
        };
        let Ingested { body, inline, draft, trailers, volume, reservation, .. } = ingested;
        let headers = recorded_headers(request.headers, trailers, request.payload);
        let answer = answer_headers(&headers, &body);
        let entry = Entry {
            bucket: bucket.name.clone(),
            key: request.key,
            accepted: wall_clock(),
            principal: principal.to_string(),
            headers,
            content: EntryContent::Whole(body),
            quarantined: None,
            upload_id: None,
            superseded: None,
        };
        if let Some(draft) = draft {
            draft.keep();
        }
        let timer = route.engine.metrics.spool_commit.start_timer();
        let result = match spool.commit(entry, inline, reservation).await {
            Ok(_) => Ok(BackendAnswer { status: 200, headers: answer, body: Bytes::new() }),
            Err(error) => {
                log::error!("bucket {}: an upload could not be recorded: {error}", bucket.name);
                Err(unstored())
            }
        };
        timer.observe_duration();
        UploadEnd { result, volume, restarts: 0, body_taken: true }
    }
}

fn unstored() -> S3Error {
    let message = "The gateway cannot store uploads at the moment. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message)
}

/// What the backend would have said: the ETag of an object that was put in one piece is its MD5 (Amazon
/// S3 API Reference, "Object"), and checksums are said again.
fn answer_headers(sent: &[(String, Vec<u8>)], body: &Body) -> Vec<(String, Bytes)> {
    let mut headers = vec![
        ("etag".to_owned(), Bytes::from(format!("\"{}\"", body.md5_hex()))),
        (MODE.to_owned(), Bytes::from_static(b"write_back")),
    ];
    let checksums = sent.iter().filter(|(name, _)| ChecksumAlgorithm::from_header(name).is_some());
    headers.extend(checksums.map(|(name, value)| (name.clone(), Bytes::from(value.clone()))));
    headers
}

/// A write to this key has gone through: what is set aside of it is older, and says so from now on. The
/// client has its object whether or not that could be recorded.
pub(super) async fn went_through(spool: &Spool, bucket: &str, key: &str) {
    if let Err(error) = spool.written_through(bucket, key).await {
        log::error!("bucket {bucket}: what is set aside of {key:?} is older: {error}");
    }
}

/// Waits until what waits of this key now has been delivered: a write that goes through must not be
/// overtaken by one that was acknowledged before it.
///
/// Errors: 409 OperationAborted when that takes longer than `wait`.
pub(super) async fn wait_for_older(
    spool: &Arc<Spool>,
    bucket: &str,
    key: &str,
    wait: Duration,
) -> Result<(), Failed> {
    let delivered = spool.delivered_all(bucket, key);
    tokio::time::timeout(wait, delivered).await.map_err(|_| {
        let message = "An earlier upload of this key was acknowledged and is still on its way to the \
                       storage behind this bucket. Please try again.";
        Failed { error: S3Error::new(ErrorCode::OperationAborted, message), close: true }
    })
}
