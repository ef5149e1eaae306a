//! A client's multipart upload that is acknowledged here: begun, sent part by part, and completed without
//! the backend, which gets it afterwards.
//!
//! The mode is chosen when the upload is begun, and stands in its id.

use super::{Incoming, answer_headers, unstored};
use crate::http::request::too_large;
use crate::http::route::Route;
use bytes::Bytes;
use mizuchi_actors::auth_actor::Authorized;
use mizuchi_actors::config::Bucket;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::orphans::wall_clock;
use mizuchi_actors::payload::{ChecksumAlgorithm, PayloadLength};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::headers::MODE;
use mizuchi_actors::s3::names::BackendUploadId;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::s3::xml::{
    CompleteRequest, completed_document, initiate_document, list_parts_document,
};
use mizuchi_actors::spool::{
    ChecksumRule, ClientUpload, CompleteError, IngestError, Ingested, PartBody, Spool, StoredPart,
    UploadId, ingest_part, no_such_upload, part_checksum,
};
use mizuchi_actors::transfer::{Intake, Volume};
use mizuchi_actors::upload::job::{BackendAnswer, UploadEnd};
use mizuchi_actors::upload::{parts, prepare};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The account that the bucket must belong to: only the backend knows.
const BUCKET_OWNER: &str = "x-amz-expected-bucket-owner";

/// Which upload of the spool's a request is for.
#[derive(Debug, Clone)]
pub(in crate::http) struct Spooled {
    spool: Arc<Spool>,
    id: UploadId,
}

/// Whether a multipart upload with these headers can be acknowledged here. Through go, besides what a
/// PutObject has: checksums that are not known here, and buckets whose backend wants each part's SHA-256.
pub(super) fn can_wait(bucket: &Bucket, headers: &[(String, Vec<u8>)]) -> bool {
    bucket.backend.allow_unsigned && ChecksumRule::of(headers).is_ok()
}

/// The upload of the spool's that a request names; None: it names none, or the backend's.
///
/// Errors: 404 NoSuchUpload: there is no spool any more; 400 InvalidRequest: it asks for the other mode;
/// 501 NotImplemented: it has a condition, which only the backend could judge.
pub(in crate::http) fn spooled(
    route: &Route,
    head: &RequestHead,
    id: Option<&BackendUploadId>,
    operation: &Operation,
) -> Result<Option<Spooled>, S3Error> {
    let Some(id) = id.and_then(|id| UploadId::parse(id.as_str())) else { return Ok(None) };
    let spool = route.engine.spool.as_ref().ok_or_else(no_such_upload)?;
    if head.header(MODE).is_some_and(|mode| mode != "write_back") {
        let message = "This multipart upload was begun in write_back mode: x-mizuchi-mode cannot be \
                       another.";
        return Err(S3Error::new(ErrorCode::InvalidRequest, message));
    }
    let conditions: &[&str] = match operation {
        Operation::CompleteMultipartUpload { .. } => &["if-match", "if-none-match", BUCKET_OWNER],
        _ => &[BUCKET_OWNER],
    };
    if let Some(name) = conditions.iter().find(|name| head.has(name)) {
        return Err(conditional(name));
    }
    Ok(Some(Spooled { spool: Arc::clone(spool), id }))
}

fn conditional(name: &str) -> S3Error {
    let message = format!(
        "'{name}' is not implemented for a multipart upload in write_back mode: begin it with \
         x-mizuchi-mode: write_through."
    );
    S3Error::new(ErrorCode::NotImplemented, message)
}

/// A request of such an upload.
pub(in crate::http) struct MultipartJob {
    spool: Arc<Spool>,
    work: Work,
    /// Admission: held until it has ended.
    _permit: OwnedSemaphorePermit,
}

enum Work {
    Begin(Box<ClientUpload>),
    Part(Box<Part>),
    Complete { id: UploadId, asked: CompleteRequest, headers: Vec<(String, Vec<u8>)> },
    Abort(UploadId),
    List { id: UploadId, marker: u32, most: Option<u32> },
}

/// A part on its way to stable storage.
struct Part {
    id: UploadId,
    number: u16,
    intake: Intake,
    length: u64,
    headers: Vec<(String, Vec<u8>)>,
    /// Computed here, as the client gives none.
    measure: Option<ChecksumAlgorithm>,
}

impl MultipartJob {
    /// A CreateMultipartUpload that [`super::can_wait`].
    ///
    /// Errors: 400 InvalidRequest: checksums that are not known here.
    pub(in crate::http) fn begin(
        spool: &Arc<Spool>,
        bucket: &Bucket,
        request: UpstreamTemplate,
        authorized: &Authorized,
        permit: OwnedSemaphorePermit,
    ) -> Result<MultipartJob, S3Error> {
        let checksum = ChecksumRule::of(&request.headers)?;
        let upload = ClientUpload {
            bucket: bucket.name.clone(),
            key: request.key,
            principal: authorized.principal.to_string(),
            initiated: wall_clock(),
            token: rand::random(),
            headers: request.headers,
            checksum,
        };
        Ok(MultipartJob::of(spool, Work::Begin(Box::new(upload)), permit))
    }

    /// An UploadPart.
    ///
    /// Errors: 404 NoSuchUpload, 503 SlowDown, 503 ServiceUnavailable where nobody knows whether there is one, 411 MissingContentLength, 400 EntityTooLarge, and those of the headers
    /// that the body is held to.
    pub(in crate::http) fn part(
        id: UploadId,
        number: u16,
        incoming: Incoming<'_>,
    ) -> Result<MultipartJob, S3Error> {
        let Incoming { route, spool, bucket, head, request, authorized, body, .. } = incoming;
        let upload = spool.upload(id).ok_or_else(|| absent(spool, id))?;
        let length = incoming.length.ok_or_else(parts::missing_length)?;
        if length > parts::MAX_SINGLE {
            return Err(too_large());
        }
        let given = prepare::announced_checksum(head, &request.headers)?;
        part_checksum(upload.checksum, given)?;
        spool.may_open()?;
        let measure = upload.checksum.map(|rule| rule.algorithm).filter(|_| given.is_none());
        let exactly = PayloadLength::Exactly(length);
        let (intake, _) =
            prepare::plan_stored(&route.engine, bucket, head, authorized, body, exactly)?;
        let part = Part { id, number, intake, length, headers: request.headers, measure };
        Ok(MultipartJob::of(spool, Work::Part(Box::new(part)), incoming.permit))
    }

    /// A CompleteMultipartUpload with this document.
    ///
    /// Errors: 501 NotImplemented: it became conditional (`overwrite: deny`).
    pub(in crate::http) fn complete(
        spooled: Spooled,
        asked: CompleteRequest,
        headers: Vec<(String, Vec<u8>)>,
        permit: OwnedSemaphorePermit,
    ) -> Result<MultipartJob, S3Error> {
        if headers.iter().any(|(name, _)| name == "if-none-match") {
            return Err(conditional("overwrite: deny"));
        }
        let work = Work::Complete { id: spooled.id, asked, headers };
        Ok(MultipartJob::of(&spooled.spool, work, permit))
    }

    /// An AbortMultipartUpload or ListParts.
    pub(in crate::http) fn bodiless(
        spooled: Spooled,
        operation: &Operation,
        permit: OwnedSemaphorePermit,
    ) -> MultipartJob {
        let id = spooled.id;
        let work = match operation {
            Operation::ListParts { max_parts, part_number_marker, .. } => {
                Work::List { id, marker: part_number_marker.unwrap_or(0), most: *max_parts }
            }
            _ => Work::Abort(id),
        };
        MultipartJob::of(&spooled.spool, work, permit)
    }

    fn of(spool: &Arc<Spool>, work: Work, permit: OwnedSemaphorePermit) -> MultipartJob {
        MultipartJob { spool: Arc::clone(spool), work, _permit: permit }
    }

    /// Does it, and ends when what it is acknowledged for is on stable storage.
    pub(in crate::http) async fn run(self, route: &Route) -> UploadEnd {
        let spool = self.spool;
        let result = match self.work {
            Work::Part(part) => return part.store(&spool, route).await,
            Work::Begin(upload) => begin(&spool, route, *upload).await,
            Work::Complete { id, asked, headers } => {
                complete(&spool, route, id, &asked, headers).await
            }
            Work::Abort(id) => match spool.abort_upload(id).await {
                Ok(true) => Ok(BackendAnswer { status: 204, ..BackendAnswer::default() }),
                Ok(false) => Err(no_such_upload()),
                Err(error) => Err(failed("ended", &error)),
            },
            Work::List { id, marker, most } => match spool.list_parts(id, marker, most) {
                Some(page) => Ok(answer(Vec::new(), list_parts_document(&page))),
                None => Err(absent(&spool, id)),
            },
        };
        UploadEnd { result, volume: Volume::default(), restarts: 0, body_taken: true }
    }
}

impl Spooled {
    /// The upload.
    pub(in crate::http) fn id(&self) -> UploadId {
        self.id
    }

    /// Where it stands.
    pub(in crate::http) fn spool(&self) -> &Arc<Spool> {
        &self.spool
    }
}

async fn begin(
    spool: &Arc<Spool>,
    route: &Route,
    upload: ClientUpload,
) -> Result<BackendAnswer, S3Error> {
    spool.may_open()?;
    let reservation = spool.reserve(0)?;
    let mut headers = vec![mode()];
    if let Some(rule) = upload.checksum {
        let own = |name: &str, value: &'static str| (name.to_owned(), Bytes::from(value));
        headers.push(own("x-amz-checksum-algorithm", rule.algorithm.name()));
        headers.push(own("x-amz-checksum-type", rule.kind.name()));
    }
    let timer = route.engine.metrics.spool_commit.start_timer();
    let begun = spool.begin_upload(upload, reservation).await;
    timer.observe_duration();
    let id = begun.map_err(|error| failed("begun", &error))?;
    Ok(answer(headers, initiate_document(&id.to_string())))
}

impl Part {
    async fn store(self, spool: &Arc<Spool>, route: &Route) -> UploadEnd {
        let Part { id, number, intake, length, headers, measure } = self;
        let turns = &route.replay.turns;
        let ingested = match ingest_part(spool, intake, length, measure, turns).await {
            Ok(ingested) => ingested,
            Err(IngestError { error, volume, body_taken }) => {
                return UploadEnd { result: Err(error), volume, restarts: 0, body_taken };
            }
        };
        let Ingested { body, draft, trailers, measured, volume, reservation, .. } = ingested;
        let measured = measure.map(|one| one.header().to_owned()).zip(measured);
        let checksum = trailers.into_iter().next().or(measured).or_else(|| of_headers(&headers));
        let sent: Vec<(String, Vec<u8>)> = checksum
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
            .collect();
        let headers = answer_headers(&sent, &body);
        let part = StoredPart { stored: wall_clock(), part: PartBody { number, body, checksum } };
        if let Some(draft) = draft {
            draft.keep();
        }
        let timer = route.engine.metrics.spool_commit.start_timer();
        let result = match spool.put_part(id, part, reservation).await {
            Ok(true) => Ok(BackendAnswer { status: 200, headers, body: Bytes::new() }),
            Ok(false) => Err(absent(spool, id)),
            Err(error) => Err(failed("recorded", &error)),
        };
        timer.observe_duration();
        UploadEnd { result, volume, restarts: 0, body_taken: true }
    }
}

/// The checksum among the headers; it was verified.
fn of_headers(headers: &[(String, Vec<u8>)]) -> Option<(String, String)> {
    let found = headers.iter().find(|(name, _)| ChecksumAlgorithm::from_header(name).is_some())?;
    Some((found.0.clone(), String::from_utf8_lossy(&found.1).into_owned()))
}

async fn complete(
    spool: &Arc<Spool>,
    route: &Route,
    id: UploadId,
    asked: &CompleteRequest,
    headers: Vec<(String, Vec<u8>)>,
) -> Result<BackendAnswer, S3Error> {
    let timer = route.engine.metrics.spool_commit.start_timer();
    let completed = spool.complete_upload(id, asked, headers, wall_clock()).await;
    timer.observe_duration();
    match completed {
        Ok(completed) => {
            let etag = format!("\"{}\"", completed.etag);
            let document = completed_document(&etag, completed.checksum.as_ref());
            Ok(answer(vec![mode()], document))
        }
        Err(CompleteError::Refused(error)) => Err(error),
        Err(CompleteError::Failed(error)) => Err(failed("completed", &error)),
    }
}

fn mode() -> (String, Bytes) {
    (MODE.to_owned(), Bytes::from_static(b"write_back"))
}

fn answer(headers: Vec<(String, Bytes)>, document: String) -> BackendAnswer {
    BackendAnswer { status: 200, headers, body: document.into() }
}

/// What is said of an upload that takes no parts. SDKs take a 404 for the end of it: one that may be there
/// after the next start is a 503.
fn absent(spool: &Spool, id: UploadId) -> S3Error {
    if spool.upload_in_doubt(id) { unstored() } else { no_such_upload() }
}

fn failed(what: &str, error: &std::io::Error) -> S3Error {
    log::error!("a multipart upload could not be {what}: {error}");
    unstored()
}
