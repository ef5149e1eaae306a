//! From an authorized request to a job for the supervisor: how long its body is, which way it
//! goes, what is sent upstream, and what would prove that it arrived. Pure but for the body's handle.

use super::job::{Before, Content, Proof};
use super::machine::Kind;
use super::parts::missing_length;
use crate::auth_actor::Authorized;
use crate::config::{Backend, Bucket, Engine};
use crate::http::{Framing, RequestHead};
use crate::payload::{
    BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, PayloadLength, UnsignedTrailerEncoder,
    no_trailers, parse_content_md5, parse_declared,
};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::operation::Operation;
use crate::s3::upstream::UpstreamTemplate;
use crate::sigv4::{ChunkVerifier, PayloadHash, PayloadMode};
use crate::tap::RequestBody;
use crate::transfer::{Intake, PartSource, Plan, PlanInput, Reason, ReplayResources, Share, plan};
use std::num::NonZeroU64;

/// The header that carries the payload's length inside aws-chunked framing.
const DECODED_LENGTH: &str = "x-amz-decoded-content-length";

/// The payload's length, decoded: what the object or part will have; None: a chunked body does not
/// say.
///
/// Errors: 411 MissingContentLength, 400 InvalidArgument.
pub fn payload_length(
    head: &RequestHead,
    framing: Framing,
    payload: &PayloadMode,
) -> Result<Option<u64>, S3Error> {
    if payload.is_streaming() {
        let text = head.header(DECODED_LENGTH).ok_or_else(missing_length)?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        return text.parse().ok().filter(|_| digits).map(Some).ok_or_else(missing_length);
    }
    match framing {
        Framing::Length(length) => Ok(Some(length)),
        Framing::Chunked => Ok(None),
        Framing::Absent => Err(missing_length()),
    }
}

/// Bytes of the payload, as far as the head alone says: `x-amz-decoded-content-length` of an
/// aws-chunked body, else Content-Length. Decisions are made by it, so it is the length that the body
/// is held to later ([`payload_length`]), and no other header can say less.
pub fn announced_size(head: &RequestHead) -> Option<u64> {
    let streaming =
        head.header("x-amz-content-sha256").is_some_and(|mode| mode.starts_with("STREAMING-"));
    head.header(if streaming { DECODED_LENGTH } else { "content-length" })?.parse().ok()
}

/// What came in headers of the payload and is to be verified here.
#[derive(Debug, Default)]
pub struct Checks {
    checksums: Vec<(ChecksumAlgorithm, Vec<u8>)>,
    md5: Option<[u8; 16]>,
}

impl Checks {
    /// Takes from the headers what is asked for. Their form was checked when the headers were.
    fn from_headers(
        headers: &[(String, Vec<u8>)],
        md5: bool,
        checksum: impl Fn(ChecksumAlgorithm) -> bool,
    ) -> Self {
        let mut checks = Checks::default();
        for (name, value) in headers {
            let text = std::str::from_utf8(value).unwrap_or_default();
            if let Some(algorithm) =
                ChecksumAlgorithm::from_header(name).filter(|one| checksum(*one))
            {
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

/// The verifier of a body.
///
/// Errors: 400 InvalidRequest for trailers that cannot be.
pub fn verifier(
    head: &RequestHead,
    payload: PayloadMode,
    chunks: Option<ChunkVerifier>,
    length: PayloadLength,
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
    BodyVerifier::new(BodySpec { mode, length, trailers, checksums, md5 })
}

fn declared_trailers(head: &RequestHead) -> Result<Vec<ChecksumAlgorithm>, S3Error> {
    let mut trailers = Vec::new();
    for declared in head.values("x-amz-trailer") {
        trailers.extend(parse_declared(&String::from_utf8_lossy(declared))?);
    }
    Ok(trailers)
}

/// A body that goes in one request, planned.
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
    /// The trailers that came do not go on: nor may what announces them (S3 refuses
    /// x-amz-sdk-checksum-algorithm without its checksum).
    pub trailers_end_here: bool,
}

/// Plans the body of a PutObject that stays whole, or of an UploadPart: `length` payload bytes.
pub fn plan_body(
    engine: &Engine,
    bucket: &Bucket,
    head: &RequestHead,
    authorized: Authorized,
    body: RequestBody,
    length: u64,
    replay: ReplayResources,
) -> Result<PlannedBody, S3Error> {
    let backend = &bucket.backend;
    let verifies = backend.verifies;
    let hash_here = matches!(authorized.payload, PayloadMode::Hash(_)) && !verifies.sha256;
    let checks = Checks::from_headers(&authorized.headers, !verifies.md5, |_| !verifies.checksum);
    let trailers = trailers(head, &authorized.payload)?;
    // A body whose trailer the backend would not take is read whole, if that is not too much: then
    // its checksum finds a place in the head, and is stored.
    let held = !trailers.is_empty()
        && !verifies.trailer
        && usize::try_from(length).is_ok_and(|length| length <= replay.memory_per_part);
    let small = held || length < engine.zero_copy.min_body;
    let carries_checksum =
        has_checksum(&authorized.headers) || (!trailers.is_empty() && (small || verifies.trailer));
    let measured = backend.require_checksum && !carries_checksum;
    let verify = hash_here || !checks.is_empty() || measured;
    let chosen = plan(plan_input(engine, backend, &body, &authorized.payload, verify));
    let payload = upstream_payload(backend, &authorized.payload)?;
    let trailers_end_here = !trailers.is_empty() && !small && !verifies.trailer;
    let mut planned = PlannedBody {
        content: Content::None,
        plan: chosen,
        payload,
        length,
        headers: Vec::new(),
        trailers_end_here,
    };
    let intake = match chosen.0 {
        Plan::Splice => Intake::splice(body),
        Plan::Copy => {
            let framing = if verifies.trailer && !small {
                framing(trailers, &authorized, length, &mut planned)
            } else {
                None
            };
            let length = PayloadLength::Exactly(length);
            let verifier = verifier(head, authorized.payload, authorized.chunks, length, checks)?;
            Intake::copy(body, verifier, framing)
        }
    };
    let source = PartSource::new(intake, Share::Rest, replay);
    let (source, before) = match (measured, small) {
        (true, _) => (source.with_md5(), Before::Measured),
        (false, true) => (source, Before::All),
        (false, false) => (source, Before::First),
    };
    planned.content = Content::Body { source: Box::new(source), before };
    Ok(planned)
}

/// A body that goes in parts, planned.
pub struct PlannedParts {
    /// The body.
    pub intake: Intake,
    /// Which way it goes, and why.
    pub plan: (Plan, Reason),
    /// A checksum over the whole that Complete is to carry: see [`super::job::SplitJob::whole`].
    pub whole: Option<(ChecksumAlgorithm, Option<String>)>,
    /// What x-amz-content-sha256 says upstream, should it stay whole after all.
    pub payload: PayloadHash,
}

/// Plans the body of a PutObject that goes in parts, of `length` payload bytes.
///
/// What the client said of the whole is verified here, as no part shows it; but for a CRC that the
/// backend itself verifies when the parts are put together (`verifies: full_object`).
pub fn plan_parts(
    engine: &Engine,
    bucket: &Bucket,
    head: &RequestHead,
    authorized: Authorized,
    body: RequestBody,
    length: PayloadLength,
) -> Result<PlannedParts, S3Error> {
    let backend = &bucket.backend;
    let full_object = backend.verifies.full_object && matches!(length, PayloadLength::Exactly(_));
    let left_to_backend = |algorithm: ChecksumAlgorithm| full_object && algorithm.is_crc();
    let trailers = trailers(head, &authorized.payload)?;
    let whole = whole_checksum(trailers, &authorized.headers, left_to_backend);
    let checks = Checks::from_headers(&authorized.headers, true, |one| !left_to_backend(one));
    let hash_here = matches!(authorized.payload, PayloadMode::Hash(_));
    let verify = hash_here || !checks.is_empty() || backend.require_checksum;
    let chosen = plan(plan_input(engine, backend, &body, &authorized.payload, verify));
    let payload = upstream_payload(backend, &authorized.payload)?;
    // The parts have no hash of their own.
    upstream_payload(backend, &PayloadMode::Unsigned)?;
    let intake = intake(chosen.0, head, authorized, body, length, checks)?;
    Ok(PlannedParts { intake, plan: chosen, whole, payload })
}

/// The body of a PutObject that is stored here, verified in every way its client gave: whoever
/// acknowledges it answers for it. With it what x-amz-content-sha256 says upstream.
pub fn plan_stored(
    engine: &Engine,
    bucket: &Bucket,
    head: &RequestHead,
    authorized: Authorized,
    body: RequestBody,
    length: PayloadLength,
) -> Result<(Intake, PayloadHash), S3Error> {
    // Each finds its place among the headers of the delivery, where S3 takes one.
    let announced = trailers(head, &authorized.payload)?.len();
    let named = authorized.headers.iter();
    let named = named.filter(|(name, _)| ChecksumAlgorithm::from_header(name).is_some()).count();
    if announced + named > 1 {
        let message =
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
        return Err(S3Error::new(ErrorCode::InvalidRequest, message));
    }
    let checks = Checks::from_headers(&authorized.headers, true, |_| true);
    let verify = matches!(authorized.payload, PayloadMode::Hash(_)) || !checks.is_empty();
    let input = PlanInput {
        tls: false,
        ..plan_input(engine, &bucket.backend, &body, &authorized.payload, verify)
    };
    let payload = upstream_payload(&bucket.backend, &authorized.payload)?;
    let intake = intake(plan(input).0, head, authorized, body, length, checks)?;
    Ok((intake, payload))
}

/// The checksum that a body comes with, in a header or announced as a trailer; the first, if there are
/// several.
///
/// Errors: 400 InvalidRequest: a trailer that is none.
pub fn announced_checksum(
    head: &RequestHead,
    headers: &[(String, Vec<u8>)],
) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let named = headers.iter().find_map(|(name, _)| ChecksumAlgorithm::from_header(name));
    Ok(named.or(declared_trailers(head)?.first().copied()))
}

/// A body that is taken without its framing.
fn intake(
    plan: Plan,
    head: &RequestHead,
    authorized: Authorized,
    body: RequestBody,
    length: PayloadLength,
    checks: Checks,
) -> Result<Intake, S3Error> {
    Ok(match plan {
        Plan::Splice => Intake::splice(body),
        Plan::Copy => {
            let verifier = verifier(head, authorized.payload, authorized.chunks, length, checks)?;
            Intake::copy(body, verifier, None)
        }
    })
}

/// The first checksum over the whole, in a header or announced as a trailer, that `passes`.
fn whole_checksum(
    trailers: Vec<ChecksumAlgorithm>,
    headers: &[(String, Vec<u8>)],
    passes: impl Fn(ChecksumAlgorithm) -> bool,
) -> Option<(ChecksumAlgorithm, Option<String>)> {
    for (name, value) in headers {
        if let Some(algorithm) = ChecksumAlgorithm::from_header(name).filter(|one| passes(*one)) {
            return Some((algorithm, Some(String::from_utf8_lossy(value).into_owned())));
        }
    }
    trailers.into_iter().find(|one| passes(*one)).map(|one| (one, None))
}

/// The trailers that were announced. 400 InvalidRequest: ones that are not, or that this body cannot
/// have.
fn trailers(head: &RequestHead, payload: &PayloadMode) -> Result<Vec<ChecksumAlgorithm>, S3Error> {
    let trailers = declared_trailers(head)?;
    let can_have =
        matches!(payload, PayloadMode::SignedChunksTrailer | PayloadMode::UnsignedTrailer);
    if !trailers.is_empty() && !can_have {
        return Err(no_trailers());
    }
    Ok(trailers)
}

fn has_checksum(headers: &[(String, Vec<u8>)]) -> bool {
    headers
        .iter()
        .any(|(name, _)| name == "content-md5" || ChecksumAlgorithm::from_header(name).is_some())
}

fn plan_input(
    engine: &Engine,
    backend: &Backend,
    body: &RequestBody,
    payload: &PayloadMode,
    verify: bool,
) -> PlanInput {
    PlanInput {
        enabled: engine.zero_copy.enabled && body.can_splice(),
        min_body: engine.zero_copy.min_body,
        wire_length: match body.framing() {
            Framing::Length(length) => Some(length),
            Framing::Absent => Some(0),
            Framing::Chunked => None,
        },
        payload: *payload,
        verify,
        tls: backend.tls.is_some(),
    }
}

/// What x-amz-content-sha256 says upstream. 400 InvalidRequest: the backend takes none without a
/// hash, and there is none.
fn upstream_payload(backend: &Backend, payload: &PayloadMode) -> Result<PayloadHash, S3Error> {
    match payload {
        // The backend holds the body against the client's own hash.
        PayloadMode::Hash(hash) => Ok(PayloadHash::Hash(*hash)),
        _ if backend.allow_unsigned => Ok(PayloadHash::Unsigned),
        _ => Err(S3Error::new(
            ErrorCode::InvalidRequest,
            "This bucket's backend takes no unsigned payload (s3.allow_unsigned: false): send \
             x-amz-content-sha256 with the body's SHA-256, and at most 5 GiB.",
        )),
    }
}

/// Bytes of the chunks in which a body goes on to a backend that takes trailers.
const UPSTREAM_CHUNK: NonZeroU64 = NonZeroU64::MIN.saturating_add(256 * 1024 - 1);

/// The framing for a body whose trailer the backend is to store, with the headers it needs. A small
/// one needs none: its trailer is known before its head is sent.
fn framing(
    trailers: Vec<ChecksumAlgorithm>,
    authorized: &Authorized,
    length: u64,
    planned: &mut PlannedBody,
) -> Option<UnsignedTrailerEncoder> {
    if trailers.is_empty() {
        return None;
    }
    let names: Vec<&str> = trailers.iter().map(|trailer| trailer.header()).collect();
    let names = names.join(",");
    let framing = UnsignedTrailerEncoder::new(length, UPSTREAM_CHUNK, trailers)?;
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
    Some(framing)
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
        Operation::HeadBucket
        | Operation::GetBucketLocation
        | Operation::ListMultipartUploads(_)
        | Operation::Batch { .. } => ("HEAD", Vec::new()),
    };
    let key = operation.key().map_or("", |key| key.as_str());
    let mut headers = std::mem::take(&mut authorized.headers);
    if must_be_new(bucket, operation) && !has(&headers, "if-none-match") {
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

/// Whether nothing may be there where the operation makes an object (`overwrite: deny`).
fn must_be_new(bucket: &Bucket, operation: &Operation) -> bool {
    let writes = matches!(
        operation,
        Operation::PutObject { .. }
            | Operation::CompleteMultipartUpload { .. }
            | Operation::Batch { .. }
    );
    writes && !bucket.upload.overwrite
}

fn has(headers: &[(String, Vec<u8>)], name: &str) -> bool {
    headers.iter().any(|(have, _)| have == name)
}

/// Whether [`upstream`] makes the operation conditional, and its client, whose `headers` these are,
/// has not: then what its client sends twice is the same to it as what it sends once.
pub fn is_guarded(bucket: &Bucket, operation: &Operation, headers: &[(String, Vec<u8>)]) -> bool {
    must_be_new(bucket, operation) && !has(headers, "if-none-match") && !has(headers, "if-match")
}

/// What the state machine takes the operation for; None for those the gateway answers itself.
/// `guarded`: see [`is_guarded`].
pub fn kind(operation: &Operation, headers: &[(String, Vec<u8>)], guarded: bool) -> Option<Kind> {
    let conditional = has(headers, "if-none-match") || has(headers, "if-match");
    match operation {
        Operation::PutObject { .. } if guarded => Some(Kind::GuardedPut),
        Operation::CompleteMultipartUpload { .. } if guarded => Some(Kind::GuardedComplete),
        Operation::PutObject { .. } => Some(Kind::PutObject { conditional }),
        Operation::UploadPart { .. } => Some(Kind::UploadPart),
        Operation::CreateMultipartUpload { .. } => Some(Kind::Create),
        Operation::CompleteMultipartUpload { .. } => Some(Kind::Complete),
        Operation::AbortMultipartUpload { .. } => Some(Kind::Abort),
        Operation::ListParts { .. } => Some(Kind::List),
        Operation::HeadBucket
        | Operation::GetBucketLocation
        | Operation::ListMultipartUploads(_)
        | Operation::Batch { .. } => None,
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn no_header_says_less_than_the_body_is_held_to() {
        let size = |lines: &str| {
            let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            announced_size(&RequestHead::parse(Bytes::from(text)).unwrap())
        };
        let (length, decoded) = ("Content-Length: 11\r\n", "x-amz-decoded-content-length: 3\r\n");
        let mode = |mode: &str| format!("x-amz-content-sha256: {mode}\r\n{length}{decoded}");
        assert_eq!(size(length), Some(11));
        assert_eq!(size(&format!("{length}{decoded}")), Some(11));
        assert_eq!(size(&mode("UNSIGNED-PAYLOAD")), Some(11));
        assert_eq!(size(&mode("STREAMING-UNSIGNED-PAYLOAD-TRAILER")), Some(3));
        assert_eq!(size(decoded), None);
        assert_eq!(size("Transfer-Encoding: chunked\r\n"), None);
    }
}
