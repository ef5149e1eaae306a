//! The AuthActor: who is it, and may they? One per worker thread.
//!
//! Three questions, in this order, and the first no is the answer. Who: one of the ways in
//! [`Authentication`]. The bucket's own rights: the headers with power over others' data that
//! `upload.allow` names, and the uploadId, which opens only for the bucket, key and owner that it
//! was sealed for. And what the principal's own credential is good for ([`crate::grants`]).

use crate::certificate::{CertificateRules, PeerCertificate};
use crate::config::{Authentication, Bucket, Engine};
use crate::http::RequestHead;
use crate::identity::{Identity, Means};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::headers;
use crate::s3::names::BackendUploadId;
use crate::s3::operation::Operation;
use crate::sigv4::{
    ChunkVerifier, CredentialPlace, Hosts, PayloadMode, claims_credentials, payload_of_unsigned,
};
use crate::sts::{Assumed, StsError};
use actix::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;
use time::OffsetDateTime;

/// Asks whether a request may proceed.
#[derive(Message)]
#[rtype(result = "Decided")]
pub struct Authorize {
    /// The bucket it is for.
    pub bucket: Arc<Bucket>,
    /// Its head as it came from the wire.
    pub head: RequestHead,
    /// What it asks for.
    pub operation: Operation,
    /// The Host values that its signature may be over.
    pub hosts: Hosts,
    /// Where it comes from.
    pub client_ip: Option<IpAddr>,
    /// The client's certificate, verified in the handshake.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Bytes of its payload, as announced; None: unknown.
    pub size: Option<u64>,
    /// The time of the request's arrival.
    pub now: OffsetDateTime,
}

/// The answer.
#[derive(Debug)]
pub struct Decided {
    /// How it came about.
    pub decision: Decision,
    /// What the request may do, or what its client is told.
    pub result: Result<Authorized, S3Error>,
}

/// How an answer came about: for the audit log, never for the client.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Who asked; None: nobody that is known.
    pub identity: Option<Identity>,
    /// Who decided: `authentication`, `rights`, `grants`.
    pub by: &'static str,
    /// Why it was denied; empty: it was allowed.
    pub reason: String,
}

/// A request that may proceed.
#[derive(Debug)]
pub struct Authorized {
    /// Who it is.
    pub principal: Arc<str>,
    /// What its multipart uploads belong to ([`Identity::owner`]).
    pub owner: Arc<str>,
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
}

impl Actor for AuthActor {
    type Context = Context<Self>;
}

impl Handler<Authorize> for AuthActor {
    type Result = ResponseFuture<Decided>;

    fn handle(&mut self, request: Authorize, _: &mut Self::Context) -> Self::Result {
        let engine = Arc::clone(&self.engine);
        Box::pin(async move { decide(&engine, request).await })
    }
}

/// Asks for a session in exchange for a token.
#[derive(Message)]
#[rtype(result = "Result<Assumed, StsError>")]
pub struct Exchange {
    /// The request's form: it holds the token.
    pub form: Vec<u8>,
    /// The time of the request's arrival.
    pub now: OffsetDateTime,
    /// The request's id.
    pub request_id: String,
}

impl Handler<Exchange> for AuthActor {
    type Result = ResponseFuture<Result<Assumed, StsError>>;

    fn handle(&mut self, asked: Exchange, _: &mut Self::Context) -> Self::Result {
        let engine = Arc::clone(&self.engine);
        Box::pin(async move {
            let sts = engine.sts.as_ref().ok_or_else(StsError::not_served)?;
            let result = sts.assume(&asked.form, asked.now, &asked.request_id).await;
            let label = if result.is_ok() { "allowed" } else { "denied" };
            engine.metrics.auth_attempts.with_label_values(&["web-identity", label]).inc();
            result
        })
    }
}

/// A denial: who decided, why (for the audit log), and what the client is told.
struct Denied {
    by: &'static str,
    reason: String,
    error: S3Error,
}

impl Denied {
    /// The client may know the reason.
    fn told(by: &'static str) -> impl Fn(S3Error) -> Denied {
        move |error| Denied { by, reason: error.message.to_string(), error }
    }

    /// The client is told that access is denied, and no more.
    fn untold(by: &'static str, reason: impl Into<String>) -> Denied {
        let error = S3Error::new(ErrorCode::AccessDenied, "Access Denied");
        Denied { by, reason: reason.into(), error }
    }
}

/// Who it is, and how the payload is authenticated.
struct Authenticated {
    identity: Identity,
    payload: PayloadMode,
    chunks: Option<ChunkVerifier>,
}

async fn decide(engine: &Engine, request: Authorize) -> Decided {
    let authenticated = authenticate(&request).await;
    let result = if authenticated.is_ok() { "allowed" } else { "denied" };
    let means = match &authenticated {
        Ok(known) => known.identity.means,
        Err(_) => claimed(&request),
    };
    if means != Means::Anonymous {
        engine.metrics.auth_attempts.with_label_values(&[means.as_str(), result]).inc();
    }
    let (identity, result) = match authenticated.map_err(Denied::told("authentication")) {
        Err(denied) => (None, Err(denied)),
        Ok(known) => {
            let identity = known.identity.clone();
            (Some(identity), authorize(engine, &request, known).await)
        }
    };
    match result {
        Ok((by, authorized)) => Decided {
            decision: Decision { identity, by, reason: String::new() },
            result: Ok(authorized),
        },
        Err(Denied { by, reason, error }) => {
            Decided { decision: Decision { identity, by, reason }, result: Err(error) }
        }
    }
}

/// What a request that was not authenticated tried, for the metrics.
fn claimed(request: &Authorize) -> Means {
    match &request.bucket.authentication {
        _ if request.head.has("authorization") => Means::Header,
        Some(known) if of_certificate(known, request).is_some() => Means::Certificate,
        _ => Means::Presigned,
    }
}

/// The rules and the certificate of a request that has no other credential: one that has is held to
/// it.
fn of_certificate<'a>(
    known: &'a Authentication,
    request: &'a Authorize,
) -> Option<(&'a CertificateRules, &'a PeerCertificate)> {
    let rules = known.certificates.as_ref()?;
    let certificate = request.certificate.as_deref()?;
    (!claims_credentials(&request.head)).then_some((rules, certificate))
}

async fn authenticate(request: &Authorize) -> Result<Authenticated, S3Error> {
    let head = &request.head;
    let Some(known) = &request.bucket.authentication else {
        let payload = payload_of_unsigned(head, CredentialPlace::Anonymous)?;
        return Ok(Authenticated { identity: Identity::anonymous(), payload, chunks: None });
    };
    if let Some((rules, certificate)) = of_certificate(known, request) {
        let identity = rules.identify(certificate)?;
        let payload = payload_of_unsigned(head, CredentialPlace::Bearer)?;
        return Ok(Authenticated { identity, payload, chunks: None });
    }
    let verified = known.sigv4.verify(head, &request.hosts, request.now)?;
    let (payload, chunks) = (verified.payload, verified.chunks);
    Ok(Authenticated { identity: verified.identity, payload, chunks })
}

/// What a principal that is known may do. Names who decided last.
async fn authorize(
    engine: &Engine,
    request: &Authorize,
    known: Authenticated,
) -> Result<(&'static str, Authorized), Denied> {
    let Authenticated { identity, payload, chunks } = known;
    let (bucket, operation, principal) = (&request.bucket, &request.operation, &identity.principal);
    identity
        .grants
        .check(principal, &bucket.name, operation)
        .map_err(|rule| Denied::untold("grants", rule))?;
    let permissions = &bucket.upload.permissions;
    let headers =
        headers::plan(&request.head, operation, permissions).map_err(Denied::told("rights"))?;
    let owner = identity.owner();
    let upload_id = match (operation.upload_id(), operation.key()) {
        (Some(sealed), Some(key)) => {
            let opened = engine.sealer.open(sealed, &bucket.name, key.as_str(), &owner);
            Some(opened.map_err(Denied::told("rights"))?)
        }
        _ => None,
    };
    let principal = Arc::clone(principal);
    Ok(("grants", Authorized { principal, owner, payload, chunks, headers, upload_id }))
}
