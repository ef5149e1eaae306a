//! One request from its head to the backend's answer: route, admit, authorize, upload.

mod job;

use super::audit_lines;
use super::batch::post::PostJob;
use super::batch::snowball::{self, SnowballJob};
use super::batch::taking::Incoming as BatchIncoming;
use super::document::read_document;
use super::http_actor::Account;
use super::post_form::{form_taken, length_rules, read_form};
use super::render::{head_bucket, list_uploads, render};
use super::reply::Reply;
use super::route::Route;
use super::sts;
use super::write_back;
use super::write_back::multipart;
use job::{Destination, Job, bodiless_job, body_job, complete_job};
pub(super) use job::{no_body, too_large};
use mizuchi_actors::auth_actor::Authorize;
use mizuchi_actors::config::Bucket;
use mizuchi_actors::form::{self, PostForm, Success};
use mizuchi_actors::guardian::NoAnswer;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::metrics::Counted;
use mizuchi_actors::s3::cors;
use mizuchi_actors::s3::error::{ErrorCode, Fault, S3Error};
use mizuchi_actors::s3::names::BackendUploadId;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::xml;
use mizuchi_actors::sigv4::Hosts;
use mizuchi_actors::tap::RequestBody;
use mizuchi_actors::upload::job::{Permit, UploadEnd};
use mizuchi_actors::upload::prepare;
use mizuchi_actors::upload_supervisor::{BeginSplit, BeginUpload};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// An error, and whether the connection can go on.
pub(super) struct Failed {
    pub(super) error: S3Error,
    pub(super) close: bool,
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

/// What becomes of a request that is not refused.
pub(super) enum Begun {
    /// The gateway itself has answered it.
    Answered(Reply),
    /// It is an upload now.
    Upload(Box<Upload>),
    /// It is many, whose ends are told one by one.
    Batch(Box<PostJob>),
}

/// A request that is accepted: its upload begins when it is asked for its end.
pub(super) struct Upload {
    job: Job,
    bucket: Arc<Bucket>,
    operation: Operation,
    /// What a multipart upload that it begins is sealed to.
    owner: Arc<str>,
    /// The backend's, of the operations that name one.
    upload_id: Option<BackendUploadId>,
    /// Of a form: what its client is told.
    success: Option<Success>,
    /// After this time the client is told to wait; None: it gets one answer, when it is there.
    pub(super) keepalive: Option<Duration>,
}

/// Takes the request along its route up to its upload. `body` is taken out when the upload owns it.
pub(super) async fn begin(
    route: &Route,
    head: &RequestHead,
    body: &mut Option<RequestBody>,
    peer: Option<IpAddr>,
    account: &mut Account,
) -> Result<Begun, Failed> {
    if sts::is_for(route, head) {
        return Ok(Begun::Answered(sts::serve(route, body, account).await?));
    }
    let address = route.router.resolve(head)?;
    let Some(bucket) = route.engine.buckets.get(address.bucket).map(Arc::clone) else {
        return Err(
            S3Error::new(ErrorCode::NoSuchBucket, "The specified bucket does not exist").into()
        );
    };
    account.bucket.clone_from(&bucket.name);
    if head.method() == "OPTIONS" {
        account.operation = "Preflight";
        account.cors = cors::preflight(&bucket.cors, head)?;
        return Ok(Begun::Answered(Reply::empty(200, Vec::new())));
    }
    account.cors = cors::of_answer(&bucket.cors, head);
    let form = match form::is_form(head, &address.key) {
        true => Some(read_form(route, head, &bucket, body, account).await?),
        false => None,
    };
    // From here on a form is the PUT that it stands for.
    let (form, permit) = form.map_or((None, None), |(form, permit)| (Some(form), Some(permit)));
    let put_head = form.as_ref().map(|form| form.put.head.clone());
    let head = put_head.as_ref().unwrap_or(head);
    let operation = match &form {
        Some(form) => form.put.operation.clone(),
        None => Operation::parse_besides(head, &address.key, &bucket.own_parameters())?,
    };
    if form.is_none() {
        account.operation = operation.name();
    }
    if matches!(operation, Operation::ListMultipartUploads(_))
        && !bucket.upload.list_multipart_uploads
    {
        let message = "Multipart uploads are not listed here (upload.list_multipart_uploads).";
        return Err(S3Error::new(ErrorCode::MethodNotAllowed, message).into());
    }
    if matches!(operation, Operation::Batch { .. }) && !bucket.upload.batch.post {
        let message = "Batches are not taken here (upload.batch.post).";
        return Err(S3Error::new(ErrorCode::MethodNotAllowed, message).into());
    }
    let permit = match permit {
        Some(permit) => permit,
        None => route.admission.enter().await?,
    };
    let authorize = Authorize {
        bucket: Arc::clone(&bucket),
        head: head.clone(),
        operation: operation.clone(),
        form: form.as_ref().map(PostForm::claim),
        hosts: Hosts::new(route.proxies.hosts(head, peer)),
        client_ip: account.client,
        certificate: account.certificate.clone(),
        size: prepare::announced_size(head),
        now: OffsetDateTime::now_utc(),
    };
    let decided = route.auth.ask(authorize).await?;
    audit_lines::decision(route, account, &operation, &decided).await?;
    let mut authorized = decided.result?;
    account.principal = Arc::clone(&authorized.principal);

    let extract = makes_object(&operation) && snowball::is_asked(head)?;
    if extract {
        snowball::check(&bucket, &operation, form.is_some())?;
        account.operation = snowball::NAME;
    }
    let upload_id = authorized.upload_id.clone();
    let owner = Arc::clone(&authorized.owner);
    let success = form.as_ref().map(|form| form.put.success.clone());
    let spooled = multipart::spooled(route, head, upload_id.as_ref(), &operation)?;
    let job = match &operation {
        Operation::HeadBucket => return Ok(Begun::Answered(head_bucket(&bucket))),
        Operation::GetBucketLocation => {
            let document = xml::location_document(&bucket.region);
            return Ok(Begun::Answered(Reply::xml(200, Vec::new(), document.into_bytes())));
        }
        Operation::ListMultipartUploads(query) => {
            let reply = list_uploads(&route.engine, &bucket, query, &authorized.owner)?;
            return Ok(Begun::Answered(reply));
        }
        Operation::PutObject { .. } | Operation::UploadPart { .. } => {
            let Some(taken) = body.take() else { return Err(no_body().into()) };
            if extract {
                let Some(identity) = decided.decision.identity else { return Err(denied().into()) };
                let incoming = BatchIncoming {
                    route,
                    bucket_index: address.bucket,
                    bucket: &bucket,
                    head,
                    operation: &operation,
                    identity,
                    authorized,
                    body: taken,
                    permit,
                };
                let job = Job::Batch(Box::new(SnowballJob::new(incoming)?));
                account.plan = job.plan();
                let upload =
                    Upload { job, bucket, operation, owner, upload_id, success, keepalive: None };
                return Ok(Begun::Upload(Box::new(upload)));
            }
            let of_form = form.is_some();
            let taken = match form {
                Some(form) => form.start(taken, &route.tap),
                None => taken,
            };
            let rules = length_rules(&bucket, of_form);
            let index = address.bucket;
            let to = Destination { index, bucket: &bucket, operation: &operation, spooled };
            body_job(route, to, head, authorized, taken, permit, rules)?
        }
        Operation::Batch { prefix } => {
            let Some(taken) = body.take() else { return Err(no_body().into()) };
            let Some(identity) = decided.decision.identity else { return Err(denied().into()) };
            let incoming = BatchIncoming {
                route,
                bucket_index: address.bucket,
                bucket: &bucket,
                head,
                operation: &operation,
                identity,
                authorized,
                body: taken,
                permit,
            };
            account.plan = "batch";
            return Ok(Begun::Batch(Box::new(PostJob::new(incoming, prefix)?)));
        }
        Operation::CompleteMultipartUpload { .. } => {
            let Some(unread) = body.as_mut() else { return Err(no_body().into()) };
            let document = read_document(unread, head, &mut authorized).await?;
            let index = address.bucket;
            let to = Destination { index, bucket: &bucket, operation: &operation, spooled };
            let (job, parts) = complete_job(to, authorized, document, permit)?;
            account.parts = Some(parts);
            job
        }
        Operation::CreateMultipartUpload { .. }
        | Operation::AbortMultipartUpload { .. }
        | Operation::ListParts { .. } => {
            if body.as_ref().is_some_and(|body| !body.is_done()) {
                let message = "This request does not take a body.";
                return Err(S3Error::new(ErrorCode::UnexpectedContent, message).into());
            }
            let index = address.bucket;
            let to = Destination { index, bucket: &bucket, operation: &operation, spooled };
            bodiless_job(route, to, head, authorized, permit)?
        }
    };
    if job.goes_through() {
        // A body that nobody has read ends its connection.
        let close = job.has_body();
        has_keys(&bucket).map_err(|error| Failed { error, close })?;
    }
    account.plan = job.plan();
    // HTTP/1.0 has no framing for a body whose length is not known (RFC 9112, 6.1).
    let long = head.is_http_11() && matches!(operation, Operation::CompleteMultipartUpload { .. });
    let keepalive = long.then_some(bucket.upload.complete_keepalive);
    let upload = Upload { job, bucket, operation, owner, upload_id, success, keepalive };
    Ok(Begun::Upload(Box::new(upload)))
}

impl Upload {
    /// Begins the upload and waits for its end.
    pub(super) async fn end(self, route: &Route, account: &mut Account) -> Result<Reply, Failed> {
        let Upload { mut job, bucket, operation, owner, upload_id, success, .. } = self;
        let through = route.engine.spool.as_ref().zip(job.writes_through(&operation));
        let through = through.map(|(spool, key)| (spool, key.to_owned()));
        if let Some((spool, key)) = &through
            && spool.is_pending(&bucket.name, key)
        {
            // Others may run meanwhile.
            job.set_permit(Permit::Left);
            write_back::wait_for_older(spool, &bucket.name, key, route.engine.spool_wait).await?;
            let permit = route.admission.enter().await;
            job.set_permit(permit.map_err(|error| Failed { error, close: true })?.into());
        }
        let end: UploadEnd = match job {
            Job::Whole(job) => route.uploads.begin(|end| BeginUpload(job, end)).await?,
            Job::Parts(job) => route.uploads.begin(|end| BeginSplit(*job, end)).await?,
            Job::Store(job) => stored(route, job.run(route)).await,
            Job::Multipart(job) => stored(route, job.run(route)).await,
            Job::Batch(job) => return job.run(route, account).await,
        };
        account.bytes = end.volume.spliced + end.volume.copied;
        account.restarts = end.restarts;
        let close = !end.body_taken;
        let answer = end.result.map_err(|error| Failed { error, close })?;
        if let Some((spool, key)) = through {
            write_back::went_through(spool, &bucket.name, &key).await;
        }
        if let Some(parts) = account.parts {
            route.engine.metrics.multipart_parts.observe(parts as f64);
        }
        if let (Some(id), true) = (&upload_id, ends_upload(&operation)) {
            route.engine.ledger.client_ended(&bucket.name, id.as_str());
        }
        let mut reply = render(route, &bucket, &operation, &owner, answer).await?;
        // What was there already needs no body.
        reply.close |= close;
        Ok(match success {
            Some(success) => form_taken(reply, &success, &bucket, &operation, &account.path),
            None => reply,
        })
    }
}

/// Runs it, counted as what the supervisors do is.
async fn stored(route: &Route, run: impl Future<Output = UploadEnd>) -> UploadEnd {
    let metrics = &route.engine.metrics;
    let _counted = Counted::new(&metrics.uploads_in_flight);
    let end = run.await;
    if end.result.is_ok() {
        let bytes = metrics.transfer_bytes.with_label_values(&["spool", "write_back"]);
        bytes.inc_by(end.volume.spliced + end.volume.copied);
    }
    end
}

/// Whether its headers are those of an object.
fn denied() -> S3Error {
    S3Error::new(ErrorCode::AccessDenied, "Access Denied")
}

fn makes_object(operation: &Operation) -> bool {
    matches!(operation, Operation::PutObject { .. } | Operation::CreateMultipartUpload { .. })
}

fn ends_upload(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::CompleteMultipartUpload { .. } | Operation::AbortMultipartUpload { .. }
    )
}

/// Whether something can be signed for the backend: asked before the body is read.
///
/// Errors: 503 ServiceUnavailable.
pub(super) fn has_keys(bucket: &Bucket) -> Result<(), S3Error> {
    let Err(why) = bucket.backend.keys.signer(OffsetDateTime::now_utc()) else { return Ok(()) };
    log::warn!("bucket {}: refused, for want of backend credentials: {why}", bucket.name);
    let message = "The storage behind this bucket cannot be reached. Please try again.";
    Err(S3Error::new(ErrorCode::ServiceUnavailable, message).blamed_on(Fault::Backend))
}
