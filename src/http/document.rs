//! Reads the one document that clients send: CompleteMultipartUpload's list of parts.

use super::request::{Failed, no_body};
use bytes::Bytes;
use mizuchi_actors::auth_actor::Authorized;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::payload::PayloadLength;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::tap::{BodyError, RequestBody};
use mizuchi_actors::upload::prepare::{self, Checks};

/// Most bytes of a CompleteMultipartUpload's document (S3's own bound).
const MAX_DOCUMENT: u64 = 1024 * 1024;

/// Reads a small document whole, through the same verifier as any body.
pub(super) async fn read_document(
    body: &mut RequestBody,
    head: &RequestHead,
    authorized: &mut Authorized,
) -> Result<Bytes, Failed> {
    let too_long = || {
        let message = "Your request was too big.";
        Failed { error: S3Error::new(ErrorCode::MaxMessageLengthExceeded, message), close: true }
    };
    let length = prepare::payload_length(head, body.framing(), &authorized.payload)?;
    if length == Some(0) {
        return Err(no_body().into());
    }
    if length.is_some_and(|length| length > MAX_DOCUMENT) {
        return Err(too_long());
    }
    let length = length.map_or(PayloadLength::AtMost(MAX_DOCUMENT), PayloadLength::Exactly);
    let chunks = authorized.chunks.take();
    let mut verifier =
        prepare::verifier(head, authorized.payload, chunks, length, Checks::default())?;
    let broken = |error: BodyError| Failed { error: error.into(), close: true };
    while let Some(bytes) = body.read(MAX_DOCUMENT as usize).await.map_err(broken)? {
        verifier.push(bytes).map_err(|error| match error.code.as_ref() {
            "EntityTooLarge" => too_long(),
            _ => error.into(),
        })?;
    }
    verifier.finish()?;
    let mut document = Vec::new();
    while let Some(bytes) = verifier.pop() {
        document.extend_from_slice(&bytes);
    }
    Ok(document.into())
}
