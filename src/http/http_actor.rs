//! The HttpActor: one per worker thread, the entrance of the pipeline. It takes each request from
//! its head to its answer: route, admit, authorize (AuthActor), upload (UploadSupervisor).
//!
//! A request's future belongs to the actor, not to the client's connection: a client that goes away
//! ends its body, and with it a PutObject; it does not end a Complete or an Abort.

use super::access_log::Line;
use super::reply::{Reply, RequestIds};
use super::request::{Failed, answer};
use super::route::Route;
use actix::prelude::*;
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
pub(super) struct Account {
    pub(super) ids: RequestIds,
    pub(super) bucket: String,
    pub(super) operation: &'static str,
    pub(super) principal: Arc<str>,
    pub(super) bytes: u64,
    pub(super) plan: &'static str,
    pub(super) restarts: u32,
    /// Parts that a CompleteMultipartUpload names.
    pub(super) parts: Option<usize>,
    /// The headers that let a web page read the answer.
    pub(super) cors: Vec<(String, Vec<u8>)>,
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
        parts: None,
        cors: Vec::new(),
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
            let labels = [failed.error.metric_label(), failed.error.fault.as_str()];
            route.engine.metrics.errors.with_label_values(&labels).inc();
            let mut reply = Reply::error(&failed.error, &path, &account.ids, head_request);
            reply.close = failed.close;
            (reply, failed.error.code.into_owned())
        }
    };
    reply.close |= close;
    reply.headers.append(&mut account.cors);
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
