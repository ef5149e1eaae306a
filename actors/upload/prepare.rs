//! From an authorized request to a job for the supervisor: how long its body is, which way it
//! goes, what is sent upstream, and what would prove that it arrived. Pure but for the body's handle.

use super::job::{Content, Proof};
use super::machine::Kind;
use crate::auth_actor::Authorized;
use crate::config::{Bucket, Engine};
use crate::http::{Framing, RequestHead};
use crate::payload::{
    BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, UnsignedTrailerEncoder, parse_content_md5,
    parse_declared,
};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::operation::Operation;
use crate::s3::upstream::UpstreamTemplate;
use crate::sigv4::{ChunkVerifier, PayloadHash, PayloadMode};
use crate::tap::RequestBody;
use crate::transfer::{PartSource, Plan, PlanInput, Reason, ReplayResources, plan};
use std::num::NonZeroU64;

/// S3's largest part, and largest object in one PutObject: 5 GiB (S3 User Guide, "Amazon S3
/// multipart upload limits").
pub const MAX_SINGLE: u64 = 5 * 1024 * 1024 * 1024;

/// The header that carries the payload's length inside aws-chunked framing.
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

/// The payload's length, decoded: what the object or part will have.
///
/// Errors: 411 MissingContentLength, 400 InvalidArgument.
pub fn payload_length(
    head: &RequestHead,
    framing: Framing,
    payload: &PayloadMode,
) -> Result<u64, S3Error> {
    let missing = || {
        S3Error::new(
            ErrorCode::MissingContentLength,
            "You must provide the Content-Length HTTP header (for aws-chunked bodies: \
             x-amz-decoded-content-length).",
        )
    };
    if payload.is_streaming() {
        let text = head.header(DECODED_LENGTH).ok_or_else(missing)?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        return text.parse().ok().filter(|_| digits).ok_or_else(missing);
    }
    match framing {
        Framing::Length(length) => Ok(length),
        Framing::Absent | Framing::Chunked => Err(missing()),
    }
}

/// What came in headers of the payload and is to be verified here.
#[derive(Debug, Default)]
pub struct Checks {
    checksums: Vec<(ChecksumAlgorithm, Vec<u8>)>,
    md5: Option<[u8; 16]>,
}

impl Checks {
    /// Takes from the headers what the backend does not verify itself. Their form was checked when
    /// the headers were.
    fn from_headers(headers: &[(String, Vec<u8>)], md5: bool, checksum: bool) -> Self {
        let mut checks = Checks::default();
        for (name, value) in headers {
            let text = std::str::from_utf8(value).unwrap_or_default();
            if let Some(algorithm) = ChecksumAlgorithm::from_header(name).filter(|_| checksum) {
                checks
                    .checksums
                    .extend(algorithm.parse_value(text).map(|value| (algorithm, value)));
            } else if md5 && name == "content-md5" {
                checks.md5 = parse_content_md5(text);
            }
        }
        checks
    }

    fn is_empty(&self) -> bool {
        self.checksums.is_empty() && self.md5.is_none()
    }
}

/// The verifier of a body of `length` payload bytes.
///
/// Errors: 400 InvalidRequest for trailers that cannot be.
pub fn verifier(
    head: &RequestHead,
    payload: PayloadMode,
    chunks: Option<ChunkVerifier>,
    decoded_length: u64,
    checks: Checks,
) -> Result<BodyVerifier, S3Error> {
    let unsigned =
        || S3Error::new(ErrorCode::InvalidRequest, "Signed chunks need a signed request.");
    let mode = match payload {
        PayloadMode::Hash(hash) => BodyMode::Plain { sha256: Some(hash) },
        PayloadMode::Unsigned | PayloadMode::Absent => BodyMode::Plain { sha256: None },
        PayloadMode::SignedChunks => BodyMode::SignedChunks(Box::new(chunks.ok_or_else(unsigned)?)),
        PayloadMode::SignedChunksTrailer => {
            BodyMode::SignedChunksTrailer(Box::new(chunks.ok_or_else(unsigned)?))
        }
        PayloadMode::UnsignedTrailer => BodyMode::UnsignedTrailer,
    };
    let trailers = declared_trailers(head)?;
    let Checks { checksums, md5 } = checks;
    BodyVerifier::new(BodySpec { mode, decoded_length, trailers, checksums, md5 })
}

fn declared_trailers(head: &RequestHead) -> Result<Vec<ChecksumAlgorithm>, S3Error> {
    let mut trailers = Vec::new();
    for declared in head.values("x-amz-trailer") {
        trailers.extend(parse_declared(&String::from_utf8_lossy(declared))?);
    }
    Ok(trailers)
}

/// A PutObject's or UploadPart's body, planned.
pub struct PlannedBody {
    /// The body with its replay buffer.
    pub content: Content,
    /// Which way it goes, and why.
    pub plan: (Plan, Reason),
    /// What x-amz-content-sha256 says upstream.
    pub payload: PayloadHash,
    /// Content-Length upstream.
    pub length: u64,
    /// Headers that the framing upstream needs.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Plans a body of `length` payload bytes.
pub fn plan_body(
    engine: &Engine,
    bucket: &Bucket,
    head: &RequestHead,
    authorized: Authorized,
    body: RequestBody,
    length: u64,
    replay: ReplayResources,
) -> Result<PlannedBody, S3Error> {
    let verifies = bucket.backend.verifies;
    let wire_length = match body.framing() {
        Framing::Length(length) => Some(length),
        Framing::Absent => Some(0),
        Framing::Chunked => None,
    };
    let hash_here = matches!(authorized.payload, PayloadMode::Hash(_)) && !verifies.sha256;
    let checks = Checks::from_headers(&authorized.headers, !verifies.md5, !verifies.checksum);
    let chosen = plan(PlanInput {
        enabled: engine.zero_copy.enabled && body.can_splice(),
        min_body: engine.zero_copy.min_body,
        wire_length,
        payload: authorized.payload,
        verify: hash_here || !checks.is_empty(),
        tls: bucket.backend.tls.is_some(),
    });
    let payload = match authorized.payload {
        // The backend holds the body against the client's own hash.
        PayloadMode::Hash(hash) => PayloadHash::Hash(hash),
        PayloadMode::Unsigned
        | PayloadMode::Absent
        | PayloadMode::SignedChunks
        | PayloadMode::SignedChunksTrailer
        | PayloadMode::UnsignedTrailer => PayloadHash::Unsigned,
    };
    if payload == PayloadHash::Unsigned && !bucket.backend.allow_unsigned {
        return Err(S3Error::new(
            ErrorCode::InvalidRequest,
            "This bucket's backend takes no unsigned payload (s3.allow_unsigned: false): send \
             x-amz-content-sha256 with the body's SHA-256.",
        ));
    }
    let small = length < engine.zero_copy.min_body;
    let mut planned =
        PlannedBody { content: Content::None, plan: chosen, payload, length, headers: Vec::new() };
    let source = match chosen.0 {
        Plan::Splice => PartSource::splice(body, replay),
        Plan::Copy => {
            let framing = if small || !verifies.trailer {
                None
            } else {
                framing(head, &authorized, length, &mut planned)?
            };
            let verifier = verifier(head, authorized.payload, authorized.chunks, length, checks)?;
            PartSource::copy(body, replay, verifier, framing)
        }
    };
    planned.content = Content::Body { source: Box::new(source), small };
    Ok(planned)
}

/// Bytes of the chunks in which a body goes on to a backend that takes trailers.
const UPSTREAM_CHUNK: NonZeroU64 = NonZeroU64::MIN.saturating_add(256 * 1024 - 1);

/// The framing for a body whose trailer the backend is to store, with the headers it needs. A small
/// one needs none: its trailer is known before its head is sent.
fn framing(
    head: &RequestHead,
    authorized: &Authorized,
    length: u64,
    planned: &mut PlannedBody,
) -> Result<Option<UnsignedTrailerEncoder>, S3Error> {
    let trailers = declared_trailers(head)?;
    let names: Vec<&str> = trailers.iter().map(|trailer| trailer.header()).collect();
    let names = names.join(",");
    if names.is_empty() {
        return Ok(None);
    }
    let Some(framing) = UnsignedTrailerEncoder::new(length, UPSTREAM_CHUNK, trailers) else {
        return Ok(None);
    };
    let own = authorized.headers.iter().find(|(name, _)| name == "content-encoding");
    let encoding = match own {
        Some((_, value)) => [b"aws-chunked,", value.as_slice()].concat(),
        None => b"aws-chunked".to_vec(),
    };
    planned.payload = PayloadHash::UnsignedTrailer;
    planned.length = framing.encoded_length();
    planned.headers = vec![
        ("content-encoding".to_owned(), encoding),
        (DECODED_LENGTH.to_owned(), length.to_string().into_bytes()),
        ("x-amz-trailer".to_owned(), names.into_bytes()),
    ];
    Ok(Some(framing))
}

/// The upstream request of an operation. `length`: its body's, None for none.
pub fn upstream(
    bucket: &Bucket,
    operation: &Operation,
    authorized: &mut Authorized,
    payload: PayloadHash,
    length: Option<u64>,
) -> UpstreamTemplate {
    let upload_id = authorized.upload_id.as_ref().map(|id| id.as_str().to_owned());
    let id = |name: &str| (name.to_owned(), upload_id.clone().unwrap_or_default());
    let (method, query) = match operation {
        Operation::PutObject { .. } => ("PUT", Vec::new()),
        Operation::CreateMultipartUpload { .. } => {
            ("POST", vec![("uploads".to_owned(), String::new())])
        }
        Operation::UploadPart { part_number, .. } => {
            ("PUT", vec![("partNumber".to_owned(), part_number.to_string()), id("uploadId")])
        }
        Operation::CompleteMultipartUpload { .. } => ("POST", vec![id("uploadId")]),
        Operation::AbortMultipartUpload { .. } => ("DELETE", vec![id("uploadId")]),
        Operation::ListParts { max_parts, part_number_marker, .. } => {
            let mut query = vec![id("uploadId")];
            if let Some(most) = max_parts {
                query.push(("max-parts".to_owned(), most.to_string()));
            }
            if let Some(marker) = part_number_marker {
                query.push(("part-number-marker".to_owned(), marker.to_string()));
            }
            ("GET", query)
        }
        Operation::HeadBucket | Operation::GetBucketLocation => ("HEAD", Vec::new()),
    };
    let key = operation.key().map_or("", |key| key.as_str());
    let mut headers = std::mem::take(&mut authorized.headers);
    let writes = matches!(
        operation,
        Operation::PutObject { .. } | Operation::CompleteMultipartUpload { .. }
    );
    if writes
        && !bucket.upload.overwrite
        && !headers.iter().any(|(name, _)| name == "if-none-match")
    {
        headers.push(("if-none-match".to_owned(), b"*".to_vec()));
    }
    UpstreamTemplate {
        method,
        key: format!("{}{key}", bucket.backend.key_prefix),
        query,
        headers,
        payload,
        length,
    }
}

/// What the state machine takes the operation for; None for those the gateway answers itself.
pub fn kind(operation: &Operation, headers: &[(String, Vec<u8>)]) -> Option<Kind> {
    let conditional = headers.iter().any(|(name, _)| name == "if-none-match" || name == "if-match");
    match operation {
        Operation::PutObject { .. } => Some(Kind::PutObject { conditional }),
        Operation::UploadPart { .. } => Some(Kind::UploadPart),
        Operation::CreateMultipartUpload { .. } => Some(Kind::Create),
        Operation::CompleteMultipartUpload { .. } => Some(Kind::Complete),
        Operation::AbortMultipartUpload { .. } => Some(Kind::Abort),
        Operation::ListParts { .. } => Some(Kind::List),
        Operation::HeadBucket | Operation::GetBucketLocation => None,
    }
}

/// What would prove that a PutObject arrived: the checksum or the MD5 that the client announced.
pub fn proof(headers: &[(String, Vec<u8>)]) -> Proof {
    use base64::Engine as _;
    for (name, value) in headers {
        let text = String::from_utf8_lossy(value);
        if name.starts_with("x-amz-checksum-")
            && name != "x-amz-checksum-algorithm"
            && name != "x-amz-checksum-type"
        {
            return Proof::Checksum(name.clone(), text.into_owned());
        }
        if name == "content-md5"
            && let Ok(md5) = base64::engine::general_purpose::STANDARD.decode(value)
        {
            return Proof::ETag(md5.iter().map(|byte| format!("{byte:02x}")).collect());
        }
    }
    Proof::None
}
