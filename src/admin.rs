//! The admin listener: metrics, health and the gateway's state, never on the port that clients reach.
//!
//! It stands on hyper alone, HTTP/1.1 and one request a connection: nobody who reads here is in a
//! hurry, and everything that a connection may hold or take has its bound.

mod access;
mod status;

pub use access::Access;

use crate::http::Admission;
use crate::tls::LiveTls;
use access::Page;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mizuchi_actors::config::Engine;
use mizuchi_actors::orphans::wall_clock;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

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
    let service = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(admin, access, &request, certified))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = timeout(MAX_TIME, served).await {
        log::debug!("admin: a connection failed: {error}");
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

fn answer<B>(
    admin: &Admin,
    access: &Access,
    request: &Request<B>,
    certified: bool,
) -> Response<Full<Bytes>> {
    let Some(page) = Page::at(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND, "not found\n");
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if !access.allows(page, request.headers(), certified) {
        let mut response = plain(StatusCode::UNAUTHORIZED, access.missing());
        let realm = HeaderValue::from_static("Bearer realm=\"mizuchi admin\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, realm);
        return response;
    }
    match page {
        Page::Alive => plain(StatusCode::OK, "ok\n"),
        Page::Ready if admin.ready.load(Ordering::Acquire) => plain(StatusCode::OK, "ready\n"),
        Page::Ready => plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        Page::Metrics => of_type("text/plain; version=0.0.4; charset=utf-8", metrics(admin)),
        Page::Status => of_type("text/html; charset=utf-8", status::of(admin).html().into()),
        Page::StatusJson => match status::of(admin).json() {
            Ok(json) => of_type("application/json", json),
            Err(error) => {
                log::error!("the status could not be encoded: {error}");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the status could not be encoded\n")
            }
        },
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = of_type(TEXT, text.into());
    *response.status_mut() = status;
    response
}

fn of_type(kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
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
    shown.replay_pages.set(gauge(engine.replay.pages_in_use()));
    shown.replay_pipes.set(gauge(engine.replay.pipes_in_use()));
    shown.replay_file_bytes.set(gauge(engine.replay.file_bytes_in_use()));
    if let Some(spool) = &engine.spool {
        let totals = spool.totals();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        shown.spool_entries.set(gauge(totals.entries));
        shown.spool_bytes.set(gauge(totals.bytes));
        shown.spool_quarantined.set(gauge(totals.quarantined));
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
