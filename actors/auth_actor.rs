//! The AuthActor: who is it, and may they? One per worker thread.
//!
//! Four questions, in this order, and the first no is the answer. Who: one of the ways in
//! [`Authentication`]. What the principal's own credential is good for ([`crate::grants`]). The
//! bucket's own rights: the headers with power over others' data that `upload.allow` names, and the
//! uploadId, which opens only for the bucket, key and owner that it was sealed for. And what the
//! bucket's policy engine says ([`crate::policy`]): of every operation, so of every part too, and
//! never of somebody who is not known.

use crate::answer::Answer;
use crate::certificate::{CertificateRules, PeerCertificate};
use crate::config::{Authentication, Bucket, Engine};
use crate::form::FormClaim;
use crate::http::RequestHead;
use crate::identity::{Identity, Means};
use crate::jwt::{Authenticator, Refused};
use crate::policy::{Question, Verdict};
use crate::s3::cors;
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::headers;
use crate::s3::names::{BackendUploadId, ObjectKey};
use crate::s3::operation::Operation;
use crate::sigv4::{
    ChunkVerifier, CredentialPlace, Hosts, PayloadMode, claims_credentials, payload_of_unsigned,
};
use crate::sts::{Assumed, StsError};
use actix::prelude::*;
use std::net::IpAddr;
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::task::JoinSet;

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
    /// Its credentials, where it is a form: `head` and `operation` are then those of the PUT that it
    /// stands for.
    pub form: Option<FormClaim>,
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
    /// Who decided: `authentication`, `rights`, `grants`, or the policy engine: `opa`, `rego`,
    /// `openfga`.
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
    type Result = Answer<Decided>;

    fn handle(&mut self, request: Authorize, _: &mut Self::Context) -> Self::Result {
        let engine = Arc::clone(&self.engine);
        Answer::of(async move { decide(&engine, request).await })
    }
}

/// Asks whether somebody who is known already may put these objects too: the entries of a batch, whose
/// own request was authorized. Who it is is not asked again, and neither are the headers' rights, which
/// are those of the request. The answer says who let each be put.
#[derive(Message)]
#[rtype(result = "Vec<Result<&'static str, EntryDenied>>")]
pub struct AuthorizeEntries {
    /// The bucket they are for.
    pub bucket: Arc<Bucket>,
    /// The head of the request that they came with.
    pub head: RequestHead,
    /// Who sent it.
    pub identity: Identity,
    /// Where it comes from.
    pub client_ip: Option<IpAddr>,
    /// Their keys, and how many bytes each has. At most [`ENTRIES_AT_ONCE`].
    pub entries: Vec<(ObjectKey, u64)>,
}

/// Entries that one [`AuthorizeEntries`] may ask about: about a millisecond of the actor's time where
/// nobody else is asked.
pub const ENTRIES_AT_ONCE: usize = 256;

/// Questions of one batch that a policy engine has at a time: enough to hide its distance, and few beside
/// those of all other requests.
const ENTRY_QUESTIONS: usize = 16;

/// Why an entry may not be put.
#[derive(Debug)]
pub struct EntryDenied {
    /// Who decided.
    pub by: &'static str,
    /// Why, for the audit log.
    pub reason: String,
    /// What the client is told.
    pub error: S3Error,
}

impl Handler<AuthorizeEntries> for AuthActor {
    type Result = Answer<Vec<Result<&'static str, EntryDenied>>>;

    fn handle(&mut self, asked: AuthorizeEntries, _: &mut Self::Context) -> Self::Result {
        Answer::of(decide_entries(asked))
    }
}

async fn decide_entries(asked: AuthorizeEntries) -> Vec<Result<&'static str, EntryDenied>> {
    let AuthorizeEntries { bucket, head, identity, client_ip, entries } = asked;
    let mut decisions = Vec::with_capacity(entries.len());
    let mut questions = Vec::new();
    for (key, size) in entries {
        let operation = Operation::PutObject { key };
        let granted = identity.grants.check(&identity.principal, &bucket.name, &operation);
        let granted = granted.map(|()| "grants");
        let granted = granted.map_err(|rule| Denied::untold("grants", rule).of_entry());
        if granted.is_ok() && bucket.authorizer.is_some() {
            questions.push((decisions.len(), operation, size));
        }
        decisions.push(granted);
    }
    // Dropped in the middle, the set ends what it still asks.
    let mut asking = JoinSet::new();
    let mut questions = questions.into_iter();
    loop {
        while asking.len() < ENTRY_QUESTIONS
            && let Some((at, operation, size)) = questions.next()
        {
            let (bucket, head, identity) = (Arc::clone(&bucket), head.clone(), identity.clone());
            asking.spawn_local(async move {
                let size = Some(size);
                let asked =
                    Asked { bucket: &bucket, head: &head, operation: &operation, size, client_ip };
                (at, ask_engine(&asked, &identity).await)
            });
        }
        match asking.join_next().await {
            None => break,
            Some(Ok((at, decided))) => {
                if let Some(decision) = decisions.get_mut(at) {
                    *decision = decided.map_err(Denied::of_entry);
                }
            }
            // Whose answer is missing is not known any more: nobody's is taken.
            Some(Err(error)) => {
                log::error!("a question about an entry died: {error}");
                let undecided =
                    || Denied::undecided("authorization", "the question died".to_owned());
                decisions.iter_mut().for_each(|one| *one = Err(undecided().of_entry()));
                break;
            }
        }
    }
    decisions
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

    /// The client is told what the token's refusal says, the audit log why.
    fn of_token(refused: Refused) -> Denied {
        let Refused { error, reason } = refused;
        Denied { by: "authentication", reason: reason.into_owned(), error }
    }

    /// The client is told that access is denied, and no more.
    fn untold(by: &'static str, reason: impl Into<String>) -> Denied {
        let error = S3Error::new(ErrorCode::AccessDenied, "Access Denied");
        Denied { by, reason: reason.into(), error }
    }
}

impl Denied {
    /// No decision is no leave, and worth a retry.
    fn undecided(by: &'static str, reason: String) -> Denied {
        let message = "Service is unable to handle request. Please try again.";
        let error = S3Error::new(ErrorCode::ServiceUnavailable, message);
        Denied { by, reason, error }
    }

    fn of_entry(self) -> EntryDenied {
        let Denied { by, reason, error } = self;
        EntryDenied { by, reason, error }
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
        Err((means, _)) => *means,
    };
    if means != Means::Anonymous {
        engine.metrics.auth_attempts.with_label_values(&[means.as_str(), result]).inc();
    }
    let (identity, result) = match authenticated {
        Err((_, denied)) => (None, Err(denied)),
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

/// Which signature a request that was not authenticated has tried, for the metrics.
fn claimed(head: &RequestHead) -> Means {
    if head.has("authorization") { Means::Header } else { Means::Presigned }
}

/// Who it is; or how that was tried, and why it failed.
async fn authenticate(request: &Authorize) -> Result<Authenticated, (Means, Denied)> {
    let head = &request.head;
    let told = |means| move |error| (means, Denied::told("authentication")(error));
    let Some(known) = &request.bucket.authentication else {
        let payload = payload_of_unsigned(head, CredentialPlace::Anonymous)
            .map_err(told(Means::Anonymous))?;
        // Nobody has signed a form's policy, but what it says holds.
        let allowed = request.form.as_ref().map_or(Ok(()), |form| form.check(request.now));
        allowed.map_err(told(Means::Anonymous))?;
        return Ok(Authenticated { identity: Identity::anonymous(), payload, chunks: None });
    };
    let Authentication { sigv4, jwt, certificates } = known;
    if let Some(form) = &request.form {
        let verified = sigv4.verify_policy(&form.signature, request.now);
        let verified = verified.map_err(told(Means::PostPolicy))?;
        form.check(request.now).map_err(told(Means::PostPolicy))?;
        let (payload, chunks) = (verified.payload, verified.chunks);
        return Ok(Authenticated { identity: verified.identity, payload, chunks });
    }
    if let Some(jwt) = jwt {
        let by_token = by_token(jwt, request).await;
        if let Some(known) = by_token.map_err(|denied| (Means::Jwt, denied))? {
            return Ok(known);
        }
    }
    // After every other credential: one that claims another is held to that.
    if let (Some(rules), Some(certificate)) = (certificates, &request.certificate)
        && !claims_credentials(head)
    {
        return by_certificate(rules, certificate, request).map_err(told(Means::Certificate));
    }
    let verified = sigv4.verify(head, &request.hosts, request.now).map_err(told(claimed(head)))?;
    let (payload, chunks) = (verified.payload, verified.chunks);
    Ok(Authenticated { identity: verified.identity, payload, chunks })
}

/// Who its certificate names.
fn by_certificate(
    rules: &CertificateRules,
    certificate: &PeerCertificate,
    request: &Authorize,
) -> Result<Authenticated, S3Error> {
    let (head, cors) = (&request.head, &request.bucket.cors);
    // A browser shows its certificate whichever page it is that asks: only those count whose origin a
    // rule names.
    let named = |(name, _): &(String, Vec<u8>)| name == "access-control-allow-credentials";
    if head.has("origin") && !cors::of_answer(cors, head).iter().any(named) {
        let message = "No CORS rule of the bucket names the origin of this request.";
        return Err(S3Error::new(ErrorCode::AccessDenied, message));
    }
    let identity = rules.identify(certificate)?;
    let payload = payload_of_unsigned(head, CredentialPlace::Bearer)?;
    Ok(Authenticated { identity, payload, chunks: None })
}

/// Who it is by its token; None: it has none.
async fn by_token(
    jwt: &Authenticator,
    request: &Authorize,
) -> Result<Option<Authenticated>, Denied> {
    let head = &request.head;
    let Some(token) = jwt.find_token(head).map_err(Denied::of_token)? else {
        return Ok(None);
    };
    let verified = jwt.verify_token(&token, request.now).await.map_err(Denied::of_token)?;
    let payload = payload_of_unsigned(head, CredentialPlace::Bearer)
        .map_err(Denied::told("authentication"))?;
    let identity = Identity {
        principal: verified.principal,
        issuer: Some(verified.issuer),
        means: Means::Jwt,
        claims: Some(verified.claims),
        grants: verified.grants,
    };
    Ok(Some(Authenticated { identity, payload, chunks: None }))
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
    let asked = Asked {
        bucket,
        head: &request.head,
        operation,
        size: request.size,
        client_ip: request.client_ip,
    };
    let by = ask_engine(&asked, &identity).await?;
    let principal = Arc::clone(principal);
    Ok((by, Authorized { principal, owner, payload, chunks, headers, upload_id }))
}

/// What a policy engine is asked about.
struct Asked<'a> {
    bucket: &'a Bucket,
    head: &'a RequestHead,
    operation: &'a Operation,
    size: Option<u64>,
    client_ip: Option<IpAddr>,
}

/// What the bucket's policy engine says, if it has one.
async fn ask_engine(asked: &Asked<'_>, identity: &Identity) -> Result<&'static str, Denied> {
    let Asked { bucket, head, operation, size, client_ip } = asked;
    let Some(authorizer) = &bucket.authorizer else { return Ok("grants") };
    let by = authorizer.by();
    let shown = authorizer.headers();
    let known = (*size, *client_ip);
    let question = Question::new(identity, head, operation, &bucket.name, known, shown)
        .map_err(|reason| Denied::untold(by, reason))?;
    match authorizer.decide(&question).await.verdict {
        Verdict::Allowed => Ok(by),
        Verdict::Denied { reason } => Err(Denied::untold(by, reason)),
        Verdict::Undecided { reason } => Err(Denied::undecided(by, reason)),
    }
}
