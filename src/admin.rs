//! The admin listener: `/metrics`, `/healthz`, `/readyz`. Loopback by default, never on the port
//! that clients reach.

use actix_web::{App, HttpResponse, HttpServer, dev::Server, web};
use mizuchi_actors::config::Engine;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use time::OffsetDateTime;

/// What the admin listener shows.
#[derive(Clone)]
pub struct Admin {
    /// Able to accept: false before the listener is bound and from the first moment of a drain.
    /// Independent of the backends: a load balancer that took every gateway out when the backend
    /// hiccups would turn a delay into an outage.
    pub ready: Arc<AtomicBool>,
    /// The engine, for the gauges that are read rather than kept.
    pub engine: Arc<Engine>,
}

/// Binds the admin listener and returns its address and server.
pub fn serve(admin: Admin, address: SocketAddr) -> io::Result<(SocketAddr, Server)> {
    let listener = TcpListener::bind(address)?;
    let bound = listener.local_addr()?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(admin.clone()))
            .route("/metrics", web::get().to(metrics))
            .route("/healthz", web::get().to(|| async { HttpResponse::Ok().body("ok\n") }))
            .route("/readyz", web::get().to(ready))
    })
    .workers(1)
    .disable_signals()
    .listen(listener)?
    .run();
    Ok((bound, server))
}

async fn metrics(admin: web::Data<Admin>) -> HttpResponse {
    let engine = &admin.engine;
    let shown = &engine.metrics;
    let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    shown.replay_pages.set(gauge(engine.replay.pages_in_use()));
    shown.replay_pipes.set(gauge(engine.replay.pipes_in_use()));
    shown.replay_file_bytes.set(gauge(engine.replay.file_bytes_in_use()));
    let now = OffsetDateTime::now_utc();
    for bucket in &engine.buckets {
        if let Some(left) = bucket.backend.keys.seconds_left(now) {
            shown.credential_left.with_label_values(&[&bucket.name]).set(left);
        }
    }
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(shown.render())
}

async fn ready(admin: web::Data<Admin>) -> HttpResponse {
    if admin.ready.load(Ordering::Acquire) {
        HttpResponse::Ok().body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable().body("not ready\n")
    }
}
