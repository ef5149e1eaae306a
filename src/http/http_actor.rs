//! The HttpActor: one per worker thread, the entrance of the pipeline. It takes each request from
//! its head to its answer: route, admit, authorize (AuthActor), upload (UploadSupervisor).
//!
//! A request's future belongs to the actor, not to the client's connection: a client that goes away
//! ends its body, and with it a PutObject; it does not end a Complete or an Abort. A Complete that
//! takes long is answered before its end (`long_complete`).

use super::access_log::Line;
use super::audit_lines;
use super::long_complete;
use super::reply::{Reply, RequestIds};
use super::request::{Begun, Failed, begin};
use super::route::Route;
use actix::prelude::*;
use mizuchi_actors::certificate::PeerCertificate;
use mizuchi_actors::http::FramingError;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::tap::{Arrival, HeadProblem, TakeError};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// A request for the pipeline.
#[derive(Message)]
#[rtype(result = "Reply")]
pub struct Serve {
    /// What the tap has of it.
    pub arrival: Result<Arrival, TakeError>,
    /// The client's address.
    pub peer: Option<IpAddr>,
    /// The client's certificate, verified in the handshake.
    pub certificate: Option<Arc<PeerCertificate>>,
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

/// What the answer, the access line and the metrics say of a request, filled in as it becomes known.
pub(super) struct Account {
    pub(super) ids: RequestIds,
    /// The client's address, as far as it is known.
    pub(super) client: Option<IpAddr>,
    pub(super) certificate: Option<Arc<PeerCertificate>>,
    pub(super) received: Instant,
    pub(super) path: String,
    /// The method is HEAD: its answer has no body.
    pub(super) head_request: bool,
    pub(super) bucket: String,
    pub(super) operation: &'static str,
    pub(super) principal: Arc<str>,
    pub(super) bytes: u64,
    pub(super) plan: &'static str,
    pub(super) restarts: u32,
    /// The code of a refusal that is not S3's, answered by a document of its own; else empty.
    pub(super) refused: &'static str,
    /// Parts that a CompleteMultipartUpload names.
    pub(super) parts: Option<usize>,
    /// The key of an upload whose end the audit log is told.
    pub(super) audited: Option<String>,
    /// The headers that let a web page read the answer.
    pub(super) cors: Vec<(String, Vec<u8>)>,
}

impl Account {
    /// Adds what every answer to this request carries.
    pub(super) fn dress(&self, mut reply: Reply) -> Reply {
        reply.headers.extend_from_slice(&self.cors);
        reply.with_ids(&self.ids)
    }
}

async fn serve(route: Route, message: Serve) -> Reply {
    let Serve { arrival, peer, certificate, received } = message;
    let ids = RequestIds {
        request: format!("{:016X}", rand::random::<u64>()),
        host: Arc::clone(&route.host_id),
    };
    let mut account = Account {
        ids,
        client: peer,
        certificate,
        received,
        path: String::from("-"),
        head_request: false,
        bucket: String::from("-"),
        operation: "-",
        principal: Arc::from("-"),
        bytes: 0,
        plan: "-",
        restarts: 0,
        refused: "",
        parts: None,
        audited: None,
        cors: Vec::new(),
    };
    let (begun, close) = match arrival {
        Err(error) => (Err(refusal(&error)), true),
        Ok(Arrival { head, body }) => {
            account.path = head.path().to_owned();
            account.head_request = head.method() == "HEAD";
            let mut body = Some(body);
            account.client = route.proxies.client(&head, peer);
            let begun = begin(&route, &head, &mut body, peer, &mut account).await;
            // What is still here was not read: its connection ends with the answer.
            let close = body.is_some_and(|body| !body.is_done());
            (begun, close)
        }
    };
    let result = match begun {
        Ok(Begun::Answered(reply)) => Ok(reply),
        Ok(Begun::Upload(upload)) => match upload.keepalive {
            Some(after) => {
                return long_complete::answer(route, upload, account, after, close).await;
            }
            None => upload.end(&route, &mut account).await,
        },
        Ok(Begun::Batch(job)) => return job.answer(route, account, close).await,
        Err(failed) => Err(failed),
    };
    conclude(&route, &account, result, close, None).await
}

/// Ends a request: makes its answer, and records it. `sent`: the status that has gone out already.
pub(super) async fn conclude(
    route: &Route,
    account: &Account,
    result: Result<Reply, Failed>,
    close: bool,
    sent: Option<u16>,
) -> Reply {
    let (mut reply, code) = match result {
        Ok(reply) => (reply, account.refused.to_owned()),
        Err(Failed { error, close }) => {
            let labels = [error.metric_label(), error.fault.as_str()];
            route.engine.metrics.errors.with_label_values(&labels).inc();
            let mut reply = Reply::error(&error, &account.path, &account.ids, account.head_request);
            reply.close = close;
            (reply, error.code.into_owned())
        }
    };
    reply.close |= close;
    reply.status = sent.unwrap_or(reply.status);
    record(route, account, reply.status, &code);
    audit_lines::end(route, account, &reply, &code).await;
    account.dress(reply)
}

fn record(route: &Route, account: &Account, status: u16, code: &str) {
    let metrics = &route.engine.metrics;
    let elapsed = account.received.elapsed().as_secs_f64();
    let labels = [account.bucket.as_str(), account.operation, &status.to_string()];
    metrics.uploads.with_label_values(&labels).inc();
    metrics.upload_duration.with_label_values(&[account.operation]).observe(elapsed);
    if code.is_empty() && account.bytes > 0 {
        metrics.upload_bytes.with_label_values(&[&account.bucket]).inc_by(account.bytes);
    }
    if !Line::is_wanted() {
        return;
    }
    Line {
        request_id: &account.ids.request,
        client: &account.client.map(|peer| peer.to_string()).unwrap_or_default(),
        principal: &account.principal,
        operation: account.operation,
        path: &account.path,
        status,
        code,
        bytes: account.bytes,
        plan: account.plan,
        restarts: account.restarts,
        duration_ms: elapsed * 1000.0,
    }
    .log(route.access_log);
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
