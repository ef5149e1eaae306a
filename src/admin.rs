//! The admin listener: metrics, health and the gateway's state, never on the port that clients reach.
//!
//! It stands on hyper alone, HTTP/1.1 and one request a connection: nobody who reads here is in a
//! hurry, and everything that a connection may hold or take has its bound. What reads a body of the
//! spool may take longer, as long as it goes on.

mod access;
mod spool;
mod status;

pub use access::Access;

use self::spool::SpoolPage;
use crate::http::Admission;
use crate::tls::LiveTls;
use access::Page;
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mizuchi_actors::config::Engine;
use mizuchi_actors::orphans::wall_clock;
use serde::Serialize;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{timeout, timeout_at};

/// Connections at a time: a few scrapers and probes. More wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// The longest time from accept to the end of the answer, the handshake aside.
const MAX_TIME: Duration = Duration::from_secs(15);

/// The longest time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a request's head: the least that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

/// Header lines of a request.
const MAX_HEADERS: usize = 64;

/// How long accepting pauses when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    /// Able to accept: false before the listener is bound and from the first moment of a drain.
    /// Independent of the backends: a load balancer that took every gateway out when the backend
    /// hiccups would turn a delay into an outage.
    ready: Arc<AtomicBool>,
    engine: Arc<Engine>,
    admission: Arc<Admission>,
    started: Instant,
}

impl Admin {
    /// What these tell, from now on.
    pub fn new(ready: Arc<AtomicBool>, engine: Arc<Engine>, admission: Arc<Admission>) -> Self {
        Admin { ready, engine, admission, started: Instant::now() }
    }
}

/// Where the listener is to be.
pub struct Listening {
    /// IP and port.
    pub address: SocketAddr,
    /// None: plain HTTP.
    pub tls: Option<Arc<LiveTls>>,
    /// The longest TLS handshake.
    pub handshake_timeout: Duration,
}

/// The listener, until it is stopped.
pub struct AdminServer {
    address: SocketAddr,
    tls: bool,
    task: JoinHandle<()>,
}

impl AdminServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    /// Ends the listener and its connections.
    pub fn stop(self) {
        self.task.abort();
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Binds the listener and serves it. Must run inside an actix system.
pub fn serve(admin: Admin, access: Access, listening: Listening) -> io::Result<AdminServer> {
    let listener = std::net::TcpListener::bind(listening.address)?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let address = listener.local_addr()?;
    let tls = listening.tls.is_some();
    let shared = Arc::new((admin, access, listening));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let task = actix_web::rt::spawn(async move {
        // Dropped with this task, and with it every connection.
        let mut connections = JoinSet::new();
        loop {
            // Nobody closes it.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((socket, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        let (admin, access, listening) = &*shared;
                        connection(admin, access, listening, socket).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    log::warn!("admin: accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(AdminServer { address, tls, task })
}

async fn connection(admin: &Admin, access: &Access, listening: &Listening, socket: TcpStream) {
    let Some(tls) = &listening.tls else {
        return exchange(admin, access, socket, false).await;
    };
    match timeout(listening.handshake_timeout, tls.acceptor().accept(socket)).await {
        Ok(Ok(stream)) => {
            // Verified by the handshake, else there were no session.
            let certified = stream.get_ref().1.peer_certificates().is_some();
            exchange(admin, access, stream, certified).await;
        }
        Ok(Err(error)) => log::debug!("admin: a TLS handshake failed: {error}"),
        Err(_) => log::debug!("admin: a TLS handshake took too long"),
    }
}

async fn exchange(
    admin: &Admin,
    access: &Access,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    certified: bool,
) {
    let deadline = Deadline::new(MAX_TIME);
    let shared = &deadline;
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(admin, access, &request, certified, shared).await)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    loop {
        let until = deadline.get();
        match timeout_at(until, served.as_mut()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => return log::debug!("admin: a connection failed: {error}"),
            Err(_) if deadline.get() > until => {}
            Err(_) => return log::debug!("admin: a connection took too long"),
        }
    }
}

/// When a connection ends at the latest.
#[derive(Debug, Clone)]
struct Deadline(Arc<Mutex<tokio::time::Instant>>);

impl Deadline {
    fn new(after: Duration) -> Deadline {
        Deadline(Arc::new(Mutex::new(tokio::time::Instant::now() + after)))
    }

    fn get(&self) -> tokio::time::Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not before `after` from now.
    fn extend(&self, after: Duration) {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(tokio::time::Instant::now() + after);
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// What an answer's body is: bytes, or a body of the spool as it is read.
type Sent = UnsyncBoxBody<Bytes, io::Error>;

async fn answer<B>(
    admin: &Admin,
    access: &Access,
    request: &Request<B>,
    certified: bool,
    deadline: &Deadline,
) -> Response<Sent> {
    let Some(page) = Page::at(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    };
    if let Some(refusal) = wrong_method(page, request.method()) {
        return refusal;
    }
    if !access.allows(page, request.headers(), certified) {
        let mut response = plain(StatusCode::UNAUTHORIZED, access.missing());
        let realm = HeaderValue::from_static("Bearer realm=\"mizuchi admin\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, realm);
        return response;
    }
    // Browsers say where they come from whenever they POST: another site's page must not act here.
    if page.is_action() && request.headers().contains_key(ORIGIN) {
        return plain(StatusCode::FORBIDDEN, "not from a browser\n");
    }
    let is_body = matches!(page, Page::Spool(SpoolPage::Body(_)));
    if (is_body || page.is_action()) && !access.is_protected() {
        return plain(StatusCode::FORBIDDEN, UNPROTECTED);
    }
    match page {
        Page::Alive => plain(StatusCode::OK, "ok\n"),
        Page::Ready => ready(admin),
        Page::Metrics => of_type("text/plain; version=0.0.4; charset=utf-8", metrics(admin)),
        Page::Status => of_type("text/html; charset=utf-8", status::of(admin).html()),
        Page::StatusJson => json(&status::of(admin)),
        Page::Spool(page) => match &admin.engine.spool {
            Some(spool) => {
                spool::answer(spool, page, request.uri().query().unwrap_or_default(), deadline)
                    .await
            }
            None => plain(StatusCode::NOT_FOUND, "this gateway has no spool\n"),
        },
    }
}

/// Whoever reaches this machine's loopback may not read what clients have uploaded, nor have it written over
/// what came after it.
const UNPROTECTED: &str = "bodies and retries need admin.token or admin.tls.client_ca_file; or stop the \
    gateway, and export or retry then\n";

fn wrong_method(page: Page, method: &Method) -> Option<Response<Sent>> {
    let (fits, allowed, text) = match page.is_action() {
        true => (*method == Method::POST, "POST", "only POST\n"),
        false => {
            (matches!(*method, Method::GET | Method::HEAD), "GET, HEAD", "only GET and HEAD\n")
        }
    };
    if fits {
        return None;
    }
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    Some(response)
}

fn ready(admin: &Admin) -> Response<Sent> {
    let health = spool::health(&admin.engine);
    let (status, text) = match (admin.ready.load(Ordering::Acquire), health.degraded) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
        (true, None) => (StatusCode::OK, "ready\n".to_owned()),
        (true, Some(how)) if health.is_down => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {how}\n"))
        }
        (true, Some(how)) => (StatusCode::OK, format!("ready, degraded: {how}\n")),
    };
    answered(status, TEXT, text)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Sent> {
    answered(status, TEXT, text)
}

fn json(value: &impl Serialize) -> Response<Sent> {
    match serde_json::to_vec_pretty(value) {
        Ok(json) => of_type("application/json", json),
        Err(error) => {
            log::error!("admin: an answer could not be encoded: {error}");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be encoded\n")
        }
    }
}

fn of_type(kind: &'static str, body: impl Into<Bytes>) -> Response<Sent> {
    answered(StatusCode::OK, kind, body)
}

fn answered(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Sent> {
    let whole = Full::new(body.into()).map_err(|never| match never {});
    let mut response = of_body(kind, Sent::new(whole));
    *response.status_mut() = status;
    response
}

fn of_body(kind: &'static str, body: Sent) -> Response<Sent> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    headers.insert("content-security-policy", HeaderValue::from_static(policy));
    response
}

/// The metrics, with the gauges that are read rather than kept.
fn metrics(admin: &Admin) -> Vec<u8> {
    let engine = &admin.engine;
    let shown = &engine.metrics;
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    shown.log_lines_lost.set(i64::try_from(crate::logging::lost()).unwrap_or(i64::MAX));
    shown.permits.set(gauge(admin.admission.usage().0));
    shown.replay_pages.set(gauge(engine.replay.pages_in_use()));
    shown.replay_pipes.set(gauge(engine.replay.pipes_in_use()));
    shown.replay_file_bytes.set(gauge(engine.replay.file_bytes_in_use()));
    if let Some(spool) = &engine.spool {
        let totals = spool.totals();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        shown.spool_entries.set(gauge(totals.entries));
        shown.spool_bytes.set(gauge(totals.bytes));
        shown.spool_multipart_uploads.set(gauge(totals.uploads));
        shown.spool_waiting.set(gauge(totals.entries.saturating_sub(totals.quarantined)));
        shown.spool_quarantined.set(gauge(totals.quarantined));
        shown.spool_unreadable.set(gauge(totals.unreadable));
        shown.spool_latched.set(i64::from(totals.latched));
        let age = totals.oldest.map_or(0, |oldest| wall_clock().saturating_sub(oldest) / 1000);
        shown.spool_oldest.set(gauge(age));
    }
    let now = OffsetDateTime::now_utc();
    for bucket in &engine.buckets {
        if let Some(left) = bucket.backend.keys.seconds_left(now) {
            shown.credential_left.with_label_values(&[&bucket.name]).set(left);
        }
    }
    shown.render()
}
