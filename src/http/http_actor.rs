//! The HttpActor: one per worker thread, the entrance of the pipeline. It takes each request from
//! its head to its answer: route, admit, authorize (AuthActor), upload (UploadSupervisor).
//!
//! A request's future belongs to the actor, not to the client's connection: a client that goes away
//! ends its body, and with it a PutObject; it does not end a Complete or an Abort.

use super::access_log::Line;
use super::reply::{Reply, RequestIds};
use super::route::Route;
use actix::prelude::*;
use bytes::Bytes;
use mizuchi_actors::auth_actor::{Authorize, Authorized};
use mizuchi_actors::config::Bucket;
use mizuchi_actors::guardian::NoAnswer;
use mizuchi_actors::http::{Framing, FramingError, RequestHead};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::names::BackendUploadId;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::{headers, xml};
use mizuchi_actors::sigv4::{Hosts, PayloadHash, PayloadMode};
use mizuchi_actors::tap::{Arrival, BodyError, HeadProblem, RequestBody, TakeError};
use mizuchi_actors::upload::job::{BackendAnswer, Content, Proof, UploadEnd, UploadJob};
use mizuchi_actors::upload::prepare::{self, Checks};
use mizuchi_actors::upload_supervisor::BeginUpload;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use time::OffsetDateTime;

/// Most bytes of a CompleteMultipartUpload's document (S3's own bound).
const MAX_DOCUMENT: u64 = 1024 * 1024;

/// A request for the pipeline.
#[derive(Message)]
#[rtype(result = "Reply")]
pub struct Serve {
    /// What the tap has of it.
    pub arrival: Result<Arrival, TakeError>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// When its head was complete.
    pub received: Instant,
}

/// See the module.
pub struct HttpActor {
    route: Route,
}

impl HttpActor {
    /// The entrance of this thread's tree.
    pub fn new(route: Route) -> Self {
        HttpActor { route }
    }
}

impl Actor for HttpActor {
    type Context = Context<Self>;
}

impl Handler<Serve> for HttpActor {
    type Result = ResponseFuture<Reply>;

    fn handle(&mut self, message: Serve, _: &mut Self::Context) -> Self::Result {
        let route = self.route.clone();
        Box::pin(async move { serve(route, message).await })
    }
}

/// What the access line and the metrics say of a request, filled in as it becomes known.
struct Account {
    ids: RequestIds,
    bucket: String,
    operation: &'static str,
    principal: Arc<str>,
    bytes: u64,
    plan: &'static str,
    restarts: u32,
}

async fn serve(route: Route, message: Serve) -> Reply {
    let Serve { arrival, peer, received } = message;
    let ids = RequestIds {
        request: format!("{:016X}", rand::random::<u64>()),
        host: route.host_id.to_string(),
    };
    let mut account = Account {
        ids,
        bucket: String::from("-"),
        operation: "-",
        principal: Arc::from("-"),
        bytes: 0,
        plan: "-",
        restarts: 0,
    };
    let (path, head_request, result, close) = match arrival {
        Err(error) => (String::from("-"), false, Err(refusal(&error)), true),
        Ok(Arrival { head, body }) => {
            let mut body = Some(body);
            let result = answer(&route, &head, &mut body, peer, &mut account).await;
            // What is still here was not read: its connection ends with the answer.
            let close = body.is_some_and(|body| !body.is_done());
            (head.path().to_owned(), head.method() == "HEAD", result, close)
        }
    };
    let (mut reply, code) = match result {
        Ok(reply) => (reply, String::new()),
        Err(failed) => {
            let labels = [failed.error.code.as_ref(), failed.error.fault.as_str()];
            route.engine.metrics.errors.with_label_values(&labels).inc();
            let mut reply = Reply::error(&failed.error, &path, &account.ids, head_request);
            reply.close = failed.close;
            (reply, failed.error.code.into_owned())
        }
    };
    reply.close |= close;
    record(&route, &account, &reply, &code, &path, peer, received);
    reply.with_ids(&account.ids)
}

fn record(
    route: &Route,
    account: &Account,
    reply: &Reply,
    code: &str,
    path: &str,
    peer: Option<IpAddr>,
    received: Instant,
) {
    let metrics = &route.engine.metrics;
    let elapsed = received.elapsed().as_secs_f64();
    let status = reply.status.to_string();
    metrics.uploads.with_label_values(&[&account.bucket, account.operation, &status]).inc();
    metrics.upload_duration.with_label_values(&[account.operation]).observe(elapsed);
    if code.is_empty() && account.bytes > 0 {
        metrics.upload_bytes.with_label_values(&[&account.bucket]).inc_by(account.bytes);
    }
    Line {
        request_id: &account.ids.request,
        client: &peer.map(|peer| peer.to_string()).unwrap_or_default(),
        principal: &account.principal,
        operation: account.operation,
        path,
        status: reply.status,
        code,
        bytes: account.bytes,
        plan: account.plan,
        restarts: account.restarts,
        duration_ms: elapsed * 1000.0,
    }
    .log(route.access_log);
}

/// An error, and whether the connection can go on.
struct Failed {
    error: S3Error,
    close: bool,
}

impl From<S3Error> for Failed {
    fn from(error: S3Error) -> Self {
        Failed { error, close: false }
    }
}

impl From<NoAnswer> for Failed {
    fn from(error: NoAnswer) -> Self {
        log::error!("{error}");
        let message = "We encountered an internal error. Please try again.";
        Failed { error: S3Error::new(ErrorCode::InternalError, message), close: true }
    }
}

async fn answer(
    route: &Route,
    head: &RequestHead,
    body: &mut Option<RequestBody>,
    peer: Option<IpAddr>,
    account: &mut Account,
) -> Result<Reply, Failed> {
    let address = route.router.resolve(head)?;
    let Some(bucket) = route.engine.buckets.get(address.bucket).map(Arc::clone) else {
        return Err(
            S3Error::new(ErrorCode::NoSuchBucket, "The specified bucket does not exist").into()
        );
    };
    account.bucket.clone_from(&bucket.name);
    let operation = Operation::parse(head, &address.key)?;
    account.operation = operation.name();
    let permit = route.admission.enter().await?;
    let authorize = Authorize {
        bucket: Arc::clone(&bucket),
        head: head.clone(),
        operation: operation.clone(),
        hosts: Hosts::new(route.hosts.candidates(head, peer)),
        now: OffsetDateTime::now_utc(),
    };
    let mut authorized = route.auth.ask(authorize).await??;
    account.principal = Arc::clone(&authorized.principal);

    let job = match &operation {
        Operation::HeadBucket => return Ok(head_bucket(&bucket)),
        Operation::GetBucketLocation => {
            let document = xml::location_document(&bucket.region);
            return Ok(Reply::xml(200, Vec::new(), document.into_bytes()));
        }
        Operation::PutObject { .. } | Operation::UploadPart { .. } => {
            let Some(taken) = body.take() else { return Err(no_body().into()) };
            body_job(route, address.bucket, &bucket, head, &operation, authorized, taken, permit)?
        }
        Operation::CompleteMultipartUpload { .. } => {
            let Some(unread) = body.as_mut() else { return Err(no_body().into()) };
            let document = read_document(unread, head, &mut authorized).await?;
            let parts = xml::parse_complete(&document)?;
            route.engine.metrics.multipart_parts.observe(parts.parts.len() as f64);
            let proof = xml::expected_multipart_etag(&parts.parts).map_or(Proof::None, Proof::ETag);
            let length = Some(document.len() as u64);
            let payload = PayloadHash::of(&document);
            let request = prepare::upstream(&bucket, &operation, &mut authorized, payload, length);
            let kind = kind_of(&operation, &request.headers)?;
            let content = Content::Document(document);
            UploadJob {
                bucket_index: address.bucket,
                bucket: Arc::clone(&bucket),
                kind,
                request,
                content,
                plan: None,
                proof,
                permit,
            }
        }
        Operation::CreateMultipartUpload { .. }
        | Operation::AbortMultipartUpload { .. }
        | Operation::ListParts { .. } => {
            if body.as_ref().is_some_and(|body| !body.is_done()) {
                let message = "This request does not take a body.";
                return Err(S3Error::new(ErrorCode::UnexpectedContent, message).into());
            }
            let length = matches!(operation, Operation::CreateMultipartUpload { .. }).then_some(0);
            let request =
                prepare::upstream(&bucket, &operation, &mut authorized, PayloadHash::Empty, length);
            let kind = kind_of(&operation, &request.headers)?;
            UploadJob {
                bucket_index: address.bucket,
                bucket: Arc::clone(&bucket),
                kind,
                request,
                content: Content::None,
                plan: None,
                proof: Proof::None,
                permit,
            }
        }
    };
    account.plan = job.plan.map_or("-", |(plan, _)| plan.as_str());
    let principal = Arc::clone(&account.principal);
    let end: UploadEnd = route.uploads.ask(BeginUpload(job)).await?;
    account.bytes = end.volume.spliced + end.volume.copied;
    account.restarts = end.restarts;
    let close = !end.body_taken;
    let answer = end.result.map_err(|error| Failed { error, close })?;
    render(route, &bucket, &operation, &principal, answer).map_err(Failed::from)
}

fn no_body() -> S3Error {
    S3Error::new(ErrorCode::MissingRequestBodyError, "Request body is empty.")
}

fn kind_of(
    operation: &Operation,
    headers: &[(String, Vec<u8>)],
) -> Result<mizuchi_actors::upload::machine::Kind, S3Error> {
    prepare::kind(operation, headers)
        .ok_or_else(|| S3Error::new(ErrorCode::NotImplemented, "This operation is not uploaded."))
}

#[allow(clippy::too_many_arguments)]
fn body_job(
    route: &Route,
    bucket_index: usize,
    bucket: &Arc<Bucket>,
    head: &RequestHead,
    operation: &Operation,
    mut authorized: Authorized,
    body: RequestBody,
    permit: tokio::sync::OwnedSemaphorePermit,
) -> Result<UploadJob, Failed> {
    let unread = !body.is_done();
    let close = |error: S3Error| Failed { error, close: unread };
    let length =
        prepare::payload_length(head, body.framing(), &authorized.payload).map_err(close)?;
    let most = match operation {
        Operation::PutObject { .. } => bucket.upload.max_object_size.min(prepare::MAX_SINGLE),
        _ => prepare::MAX_SINGLE,
    };
    if length > most {
        let message = "Your proposed upload exceeds the maximum allowed size";
        return Err(close(S3Error::new(ErrorCode::EntityTooLarge, message)));
    }
    let proof = prepare::proof(&authorized.headers);
    let mut request =
        prepare::upstream(bucket, operation, &mut authorized, PayloadHash::Unsigned, Some(length));
    // The checks are read from the headers that pass on.
    authorized.headers.clone_from(&request.headers);
    let engine = &route.engine;
    let planned =
        prepare::plan_body(engine, bucket, head, authorized, body, length, route.replay.clone())
            .map_err(close)?;
    request.payload = planned.payload;
    let kind = kind_of(operation, &request.headers).map_err(close)?;
    Ok(UploadJob {
        bucket_index,
        bucket: Arc::clone(bucket),
        kind,
        request,
        content: planned.content,
        plan: Some(planned.plan),
        proof,
        permit,
    })
}

/// Reads a small document whole, through the same verifier as any body.
async fn read_document(
    body: &mut RequestBody,
    head: &RequestHead,
    authorized: &mut Authorized,
) -> Result<Bytes, Failed> {
    let too_long = || {
        let message = "Your request was too big.";
        Failed { error: S3Error::new(ErrorCode::MaxMessageLengthExceeded, message), close: true }
    };
    let length = match (authorized.payload.is_streaming(), body.framing()) {
        (false, Framing::Chunked) => None,
        _ => Some(prepare::payload_length(head, body.framing(), &authorized.payload)?),
    };
    if length == Some(0) {
        return Err(no_body().into());
    }
    if length.is_some_and(|length| length > MAX_DOCUMENT) {
        return Err(too_long());
    }
    let mut document = Vec::new();
    let mut raw = Vec::new();
    if let Some(length) = length {
        let chunks = authorized.chunks.take();
        let mut verifier =
            prepare::verifier(head, authorized.payload, chunks, length, Checks::default())?;
        while let Some(bytes) = body.read(MAX_DOCUMENT as usize).await.map_err(body_failed)? {
            verifier.push(bytes)?;
        }
        verifier.finish()?;
        while let Some(bytes) = verifier.pop() {
            document.extend_from_slice(&bytes);
        }
    } else {
        while let Some(bytes) = body.read(MAX_DOCUMENT as usize).await.map_err(body_failed)? {
            raw.extend_from_slice(&bytes);
            if raw.len() as u64 > MAX_DOCUMENT {
                return Err(too_long());
            }
        }
        if let PayloadMode::Hash(expected) = authorized.payload
            && PayloadHash::of(&raw) != PayloadHash::Hash(expected)
        {
            let message =
                "The provided 'x-amz-content-sha256' header does not match what was computed.";
            return Err(S3Error::new(ErrorCode::XAmzContentSHA256Mismatch, message).into());
        }
        document = raw;
    }
    Ok(document.into())
}

fn body_failed(error: BodyError) -> Failed {
    let code = match error {
        BodyError::Stalled => ErrorCode::RequestTimeout,
        _ => ErrorCode::IncompleteBody,
    };
    Failed { error: S3Error::new(code, error.to_string()), close: true }
}

fn head_bucket(bucket: &Bucket) -> Reply {
    let region = bucket.region.clone().into_bytes();
    Reply::empty(200, vec![("x-amz-bucket-region".into(), region)])
}

/// The client's view of the backend's answer.
fn render(
    route: &Route,
    bucket: &Bucket,
    operation: &Operation,
    principal: &str,
    answer: BackendAnswer,
) -> Result<Reply, S3Error> {
    let headers = headers::response_headers(&answer.headers);
    let name = bucket.name.as_str();
    let key = operation.key().map_or("", |key| key.as_str());
    let rewrite = |root: &str, replace: &[(&str, &str)]| {
        xml::rewrite(&answer.body, root, replace).map_err(|error| {
            log::error!("bucket {name}: {} answered garbage: {error}", operation.name());
            S3Error::new(ErrorCode::InternalError, "The backend's answer could not be understood.")
        })
    };
    match operation {
        Operation::CreateMultipartUpload { .. } => {
            let id = xml::parse_initiate(&answer.body).map_err(|error| {
                log::error!("bucket {name}: CreateMultipartUpload answered garbage: {error}");
                S3Error::new(
                    ErrorCode::InternalError,
                    "The backend's answer could not be understood.",
                )
            })?;
            let sealed = route.engine.sealer.seal(
                &BackendUploadId::new(id),
                name,
                key,
                principal,
                rand::random(),
            )?;
            route.engine.metrics.multipart_uploads.with_label_values(&["created"]).inc();
            let replace = [("Bucket", name), ("Key", key), ("UploadId", sealed.as_str())];
            Ok(Reply::xml(200, headers, rewrite("InitiateMultipartUploadResult", &replace)?))
        }
        Operation::CompleteMultipartUpload { .. } => {
            route.engine.metrics.multipart_uploads.with_label_values(&["completed"]).inc();
            let location = format!("/{name}/{key}");
            let replace = [("Bucket", name), ("Key", key), ("Location", location.as_str())];
            Ok(Reply::xml(200, headers, rewrite("CompleteMultipartUploadResult", &replace)?))
        }
        Operation::ListParts { upload_id, .. } => {
            let replace = [("Bucket", name), ("Key", key), ("UploadId", upload_id.as_str())];
            Ok(Reply::xml(200, headers, rewrite("ListPartsResult", &replace)?))
        }
        Operation::AbortMultipartUpload { .. } => {
            route.engine.metrics.multipart_uploads.with_label_values(&["aborted"]).inc();
            Ok(Reply::empty(204, headers))
        }
        _ => Ok(Reply::empty(200, headers)),
    }
}

/// The answer to a request that the tap refuses.
fn refusal(error: &TakeError) -> Failed {
    let (code, message) = match error {
        TakeError::Problem(HeadProblem::TooLarge) => (
            ErrorCode::RequestHeaderSectionTooLarge,
            "Your request header section exceeds the maximum allowed size.".to_owned(),
        ),
        TakeError::Problem(HeadProblem::Timeout) => (
            ErrorCode::RequestTimeout,
            "Your request head was not complete within the timeout period.".to_owned(),
        ),
        TakeError::Problem(HeadProblem::Framing(FramingError::Expectation)) => {
            (ErrorCode::ExpectationFailed, error.to_string())
        }
        _ => (ErrorCode::InvalidRequest, format!("The request is malformed: {error}.")),
    };
    Failed { error: S3Error::new(code, message), close: true }
}
