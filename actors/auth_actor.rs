//! The AuthActor: who is it, and may they? One per worker thread.
//!
//! Authentication is the one SigV4 verifier over the raw head. Authorization is the bucket's own
//! rights: the headers with power over others' data that `upload.allow` names, and the uploadId,
//! which opens only for the bucket, key and principal that it was sealed for.

use crate::config::{Bucket, Engine};
use crate::http::RequestHead;
use crate::s3::error::S3Error;
use crate::s3::headers;
use crate::s3::names::BackendUploadId;
use crate::s3::operation::Operation;
use crate::sigv4::{ChunkVerifier, Hosts, PayloadMode, payload_of_anonymous};
use actix::prelude::*;
use std::sync::Arc;
use time::OffsetDateTime;

/// The principal of everyone where `auth.enabled` is false.
pub const ANONYMOUS: &str = "anonymous";

/// Asks whether a request may proceed.
#[derive(Message)]
#[rtype(result = "Result<Authorized, S3Error>")]
pub struct Authorize {
    /// The bucket it is for.
    pub bucket: Arc<Bucket>,
    /// Its head as it came from the wire.
    pub head: RequestHead,
    /// What it asks for.
    pub operation: Operation,
    /// The Host values that its signature may be over.
    pub hosts: Hosts,
    /// The time of the request's arrival.
    pub now: OffsetDateTime,
}

/// A request that may proceed.
#[derive(Debug)]
pub struct Authorized {
    /// Who it is.
    pub principal: Arc<str>,
    /// How its payload is authenticated.
    pub payload: PayloadMode,
    /// Verifies its signed chunks.
    pub chunks: Option<ChunkVerifier>,
    /// The headers that pass on to the backend, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The backend's uploadId, for the operations that name one.
    pub upload_id: Option<BackendUploadId>,
}

/// See the module.
pub struct AuthActor {
    engine: Arc<Engine>,
}

impl AuthActor {
    /// An AuthActor over the engine's buckets and keys.
    pub fn new(engine: Arc<Engine>) -> Self {
        AuthActor { engine }
    }

    fn decide(&self, request: &Authorize) -> Result<Authorized, S3Error> {
        let attempts = &self.engine.metrics.auth_attempts;
        let (principal, payload, chunks) = match &request.bucket.verifier {
            None => {
                let payload = payload_of_anonymous(&request.head)?;
                (Arc::from(ANONYMOUS), payload, None)
            }
            Some(verifier) => {
                let verified = verifier.verify(&request.head, &request.hosts, request.now);
                let method = if request.head.has("authorization") { "header" } else { "presigned" };
                let result = if verified.is_ok() { "allowed" } else { "denied" };
                attempts.with_label_values(&[method, result]).inc();
                let verified = verified?;
                (verified.principal, verified.payload, verified.chunks)
            }
        };
        let permissions = &request.bucket.upload.permissions;
        let headers = headers::plan(&request.head, &request.operation, permissions)?;
        let upload_id = match (request.operation.upload_id(), request.operation.key()) {
            (Some(sealed), Some(key)) => {
                let bucket = &request.bucket.name;
                Some(self.engine.sealer.open(sealed, bucket, key.as_str(), &principal)?)
            }
            _ => None,
        };
        Ok(Authorized { principal, payload, chunks, headers, upload_id })
    }
}

impl Actor for AuthActor {
    type Context = Context<Self>;
}

impl Handler<Authorize> for AuthActor {
    type Result = MessageResult<Authorize>;

    fn handle(&mut self, request: Authorize, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.decide(&request))
    }
}
