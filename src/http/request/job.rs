//! What is to be done for a request that is authorized: an upload of the supervisor's, or an entry of the spool's.

use super::super::batch::snowball::SnowballJob;
use super::super::post_form::LengthRules;
use super::super::route::Route;
use super::super::write_back::multipart::{MultipartJob, Spooled};
use super::super::write_back::{self, Incoming, StoreJob};
use super::Failed;
use bytes::Bytes;
use mizuchi_actors::auth_actor::Authorized;
use mizuchi_actors::config::{Bucket, Mode, SplitRules};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::payload::PayloadLength;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::s3::{split_headers, xml};
use mizuchi_actors::sigv4::{PayloadHash, PayloadMode};
use mizuchi_actors::tap::RequestBody;
use mizuchi_actors::upload::job::{Content, Permit, Proof, SplitJob, UploadJob};
use mizuchi_actors::upload::parts::{self, PartsInput, Way};
use mizuchi_actors::upload::prepare;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

pub(in crate::http) fn no_body() -> S3Error {
    S3Error::new(ErrorCode::MissingRequestBodyError, "Request body is empty.")
}

fn kind_of(
    operation: &Operation,
    headers: &[(String, Vec<u8>)],
    guarded: bool,
) -> Result<mizuchi_actors::upload::machine::Kind, S3Error> {
    prepare::kind(operation, headers, guarded)
        .ok_or_else(|| S3Error::new(ErrorCode::NotImplemented, "This operation is not uploaded."))
}

/// Work for the supervisor.
pub(super) enum Job {
    Whole(Box<UploadJob>),
    Parts(Box<SplitJob>),
    /// Acknowledged here.
    Store(Box<StoreJob>),
    /// The same, of a multipart upload.
    Multipart(Box<MultipartJob>),
    /// Many objects.
    Batch(Box<SnowballJob>),
}

/// Where a request goes.
pub(super) struct Destination<'a> {
    /// The bucket's place among the engine's.
    pub(super) index: usize,
    pub(super) bucket: &'a Arc<Bucket>,
    pub(super) operation: &'a Operation,
    /// It is for a multipart upload that stands here.
    pub(super) spooled: Option<Spooled>,
}

impl Job {
    /// Whether the backend is asked before the client is answered.
    pub(super) fn goes_through(&self) -> bool {
        match self {
            Job::Whole(_) | Job::Parts(_) => true,
            // A batch has looked itself.
            Job::Store(_) | Job::Multipart(_) | Job::Batch(_) => false,
        }
    }

    /// Whether it takes a client's body.
    pub(super) fn has_body(&self) -> bool {
        match self {
            Job::Whole(job) => matches!(job.content, Content::Body { .. }),
            Job::Parts(_) | Job::Store(_) | Job::Batch(_) => true,
            Job::Multipart(_) => false,
        }
    }

    pub(super) fn plan(&self) -> &'static str {
        match self {
            Job::Whole(job) => job.plan.map_or("-", |(plan, _)| plan.as_str()),
            Job::Parts(job) => job.plan.0.as_str(),
            Job::Store(_) | Job::Multipart(_) => "spool",
            Job::Batch(_) => "batch",
        }
    }

    /// Of one that writes through.
    pub(super) fn set_permit(&mut self, permit: Permit) {
        match self {
            Job::Whole(job) => job.permit = permit,
            Job::Parts(job) => job.permit = permit,
            Job::Store(_) | Job::Multipart(_) | Job::Batch(_) => {}
        }
    }

    /// The key at the backend at which it makes an object, if it does so before it is acknowledged.
    pub(super) fn writes_through(&self, operation: &Operation) -> Option<&str> {
        match (self, operation) {
            (Job::Parts(job), _) => Some(&job.put.key),
            (
                Job::Whole(job),
                Operation::PutObject { .. } | Operation::CompleteMultipartUpload { .. },
            ) => Some(&job.request.key),
            (Job::Whole(_) | Job::Store(_) | Job::Multipart(_) | Job::Batch(_), _) => None,
        }
    }
}

/// A CompleteMultipartUpload, and how many parts its document names.
pub(super) fn complete_job(
    to: Destination<'_>,
    mut authorized: Authorized,
    document: Bytes,
    permit: OwnedSemaphorePermit,
) -> Result<(Job, usize), S3Error> {
    let Destination { index: bucket_index, bucket, operation, spooled } = to;
    let asked = xml::parse_complete(&document)?;
    if let Some(spooled) = spooled {
        let empty = PayloadHash::Empty;
        let request = prepare::upstream(bucket, operation, &mut authorized, empty, None);
        let parts = asked.parts.len();
        let job = MultipartJob::complete(spooled, asked, request.headers, permit)?;
        return Ok((Job::Multipart(Box::new(job)), parts));
    }
    let parts = asked.parts;
    let proof = xml::multipart_etag(parts.iter().map(|part| part.etag.as_str()))
        .map_or(Proof::None, Proof::ETag);
    let (payload, length) = (PayloadHash::of(&document), Some(document.len() as u64));
    let guarded = prepare::is_guarded(bucket, operation, &authorized.headers);
    let request = prepare::upstream(bucket, operation, &mut authorized, payload, length);
    let job = UploadJob {
        bucket_index,
        bucket: Arc::clone(bucket),
        kind: kind_of(operation, &request.headers, guarded)?,
        request,
        content: Content::Document(document),
        plan: None,
        proof,
        permit: permit.into(),
    };
    Ok((Job::Whole(Box::new(job)), parts.len()))
}

/// A CreateMultipartUpload, AbortMultipartUpload or ListParts.
pub(super) fn bodiless_job(
    route: &Route,
    to: Destination<'_>,
    head: &RequestHead,
    mut authorized: Authorized,
    permit: OwnedSemaphorePermit,
) -> Result<Job, S3Error> {
    let Destination { index: bucket_index, bucket, operation, spooled } = to;
    if let Some(spooled) = spooled {
        let job = MultipartJob::bodiless(spooled, operation, permit);
        return Ok(Job::Multipart(Box::new(job)));
    }
    let begins = matches!(operation, Operation::CreateMultipartUpload { .. });
    let length = begins.then_some(0);
    let request = prepare::upstream(bucket, operation, &mut authorized, PayloadHash::Empty, length);
    if begins
        && let (Mode::WriteBack, Some(spool)) =
            (write_back::mode(bucket, head)?, &route.engine.spool)
        && write_back::can_wait(bucket, operation, &request.key, &request.headers, length)
    {
        let job = MultipartJob::begin(spool, bucket, request, &authorized, permit)?;
        return Ok(Job::Multipart(Box::new(job)));
    }
    Ok(Job::Whole(Box::new(UploadJob {
        bucket_index,
        bucket: Arc::clone(bucket),
        kind: kind_of(operation, &request.headers, false)?,
        request,
        content: Content::None,
        plan: None,
        proof: Proof::None,
        permit: permit.into(),
    })))
}

pub(super) fn body_job(
    route: &Route,
    to: Destination<'_>,
    head: &RequestHead,
    mut authorized: Authorized,
    body: RequestBody,
    permit: OwnedSemaphorePermit,
    rules: LengthRules,
) -> Result<Job, Failed> {
    let Destination { index: bucket_index, bucket, operation, spooled } = to;
    let unread = !body.is_done();
    let close = |error: S3Error| Failed { error, close: unread };
    let length =
        prepare::payload_length(head, body.framing(), &authorized.payload).map_err(close)?;
    let guarded = prepare::is_guarded(bucket, operation, &authorized.headers);
    let request =
        prepare::upstream(bucket, operation, &mut authorized, PayloadHash::Unsigned, length);
    // The checks are read from the headers that pass on.
    authorized.headers.clone_from(&request.headers);
    let here = match (&spooled, operation) {
        (Some(spooled), Operation::UploadPart { part_number, .. }) => {
            let part = (spooled.id(), part_number.get());
            Some((spooled.spool(), parts::MAX_SINGLE, Some(part)))
        }
        _ => {
            let mode = write_back::mode(bucket, head).map_err(close)?;
            let spool = route.engine.spool.as_ref().filter(|_| {
                let (key, headers) = (&request.key, &request.headers);
                mode == Mode::WriteBack
                    && write_back::can_wait(bucket, operation, key, headers, length)
            });
            spool.map(|spool| (spool, rules.most, None))
        }
    };
    if let Some((spool, most, part)) = here {
        let incoming = Incoming {
            route,
            spool,
            bucket,
            head,
            request,
            authorized,
            body,
            length,
            most,
            permit,
        };
        let job = match part {
            Some((id, number)) => {
                MultipartJob::part(id, number, incoming).map(|job| Job::Multipart(Box::new(job)))
            }
            None => StoreJob::new(incoming).map(|job| Job::Store(Box::new(job))),
        };
        return job.map_err(close);
    }
    let way = way(&rules.split, operation, &authorized, length).map_err(close)?;
    let most = match (operation, way) {
        (Operation::PutObject { .. }, _) => rules.most,
        _ => parts::MAX_SINGLE,
    };
    if length.is_some_and(|length| length > most) {
        return Err(close(too_large()));
    }
    match (way, length) {
        (Way::Parts { shape, size }, _) => {
            let most = most.min(size.saturating_mul(parts::MAX_PARTS));
            let payload = length.map_or(PayloadLength::AtMost(most), PayloadLength::Exactly);
            let planned =
                prepare::plan_parts(&route.engine, bucket, head, authorized, body, payload)
                    .map_err(close)?;
            Ok(Job::Parts(Box::new(SplitJob {
                bucket_index,
                bucket: Arc::clone(bucket),
                shape,
                part_size: size,
                length,
                headers: split_headers::divide(&request.headers),
                put: UpstreamTemplate { payload: planned.payload, ..request },
                whole: planned.whole,
                part_md5: bucket.backend.require_checksum,
                intake: planned.intake,
                resources: route.replay.clone(),
                plan: planned.plan,
                guarded,
                permit: permit.into(),
            })))
        }
        (Way::Whole, None) => Err(close(parts::missing_length())),
        (Way::Whole, Some(length)) => {
            let proof = prepare::proof(&request.headers);
            let engine = &route.engine;
            let replay = route.replay.clone();
            let planned =
                prepare::plan_body(engine, bucket, head, authorized, body, length, replay)
                    .map_err(close)?;
            let mut request = request;
            request.payload = planned.payload;
            request.length = Some(planned.length);
            if planned.trailers_end_here {
                request.headers.retain(|(name, _)| name != "x-amz-sdk-checksum-algorithm");
            }
            for (name, value) in planned.headers {
                request.headers.retain(|(have, _)| *have != name);
                request.headers.push((name, value));
            }
            let kind = kind_of(operation, &request.headers, guarded).map_err(close)?;
            Ok(Job::Whole(Box::new(UploadJob {
                bucket_index,
                bucket: Arc::clone(bucket),
                kind,
                request,
                content: planned.content,
                plan: Some(planned.plan),
                proof,
                permit: permit.into(),
            })))
        }
    }
}

/// Whether it goes in parts.
fn way(
    split: &SplitRules,
    operation: &Operation,
    authorized: &Authorized,
    length: Option<u64>,
) -> Result<Way, S3Error> {
    if !matches!(operation, Operation::PutObject { .. }) {
        return match length {
            Some(length) if length > parts::MAX_SINGLE => Err(too_large()),
            _ => Ok(Way::Whole),
        };
    }
    let has = |prefix: &str| authorized.headers.iter().any(|(name, _)| name.starts_with(prefix));
    let input = PartsInput {
        length,
        conditional: has("if-match") || has("if-none-match"),
        customer_key: has("x-amz-server-side-encryption-customer-"),
        signed_hash: matches!(authorized.payload, PayloadMode::Hash(_)),
    };
    parts::decide(split, input)
}

pub(in crate::http) fn too_large() -> S3Error {
    let message = "Your proposed upload exceeds the maximum allowed size";
    S3Error::new(ErrorCode::EntityTooLarge, message)
}
