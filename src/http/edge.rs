//! From an accepted socket to a request handler: TLS where there is any, then the tap, actix-http,
//! actix-web and one route for HTTP/1.1; hyper for HTTP/2 (`h2`).

use super::h2;
use super::http_actor::{HttpActor, Serve};
use super::later::LaterBody;
use super::reply::Reply;
use super::route::Route;
use crate::tls::{LiveTls, names};
use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_server::GracefulShutdownSignal;
use actix_service::{Service, ServiceFactory, fn_factory, map_config};
use actix_web::dev::AppConfig;
use actix_web::http::{KeepAlive, StatusCode, header};
use actix_web::{App, HttpRequest, HttpResponse, web};
use mizuchi_actors::guardian::{ActorRef, Guardian};
use mizuchi_actors::metrics::{Counted, Metrics};
use mizuchi_actors::tap::{Busy, ClientSocket, TAP_HEADER, TapConfig, TapHandle, TapStream};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// How long actix-http lets a connection flush its last answer: its default of zero would drop the
/// socket at once. The tap's own caps end a drain earlier.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What every worker's edge is built from.
#[derive(Clone)]
pub struct Edge {
    /// The bounds of each connection.
    pub tap: Arc<TapConfig>,
    /// None: clients speak plain HTTP.
    pub tls: Option<EdgeTls>,
    /// Builds the route of this thread's tree.
    pub route: Arc<dyn Fn(&mut Guardian) -> Route + Send + Sync>,
    /// The process's metrics.
    pub metrics: Metrics,
}

/// How TLS is spoken with clients.
#[derive(Clone)]
pub struct EdgeTls {
    /// The certificates, as they are now.
    pub live: Arc<LiveTls>,
    /// The longest handshake.
    pub handshake_timeout: Duration,
}

/// The service factory that actix-server runs on each worker thread: it plants the thread's tree
/// and serves the connections that the thread is given.
pub fn service(
    edge: Edge,
    draining: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
{
    let mut guardian = Guardian::new(edge.metrics.actor_restarts.clone());
    let route = (edge.route)(&mut guardian);
    let http = ActorRef::new("http actor");
    let built = route.clone();
    guardian.child(http.clone(), move || HttpActor::new(built.clone()));
    let guardian = actix::Actor::start(guardian);

    let app = App::new().app_data(http.clone()).default_service(web::route().to(handle));
    let of_http_1 = draining.clone();
    let http_1 = HttpService::build()
        // The tap times heads, idleness and bodies itself.
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .graceful_shutdown_signal(move || {
            let draining = of_http_1.clone();
            async move { draining.notified().await }
        })
        .on_connect_ext(|stream: &TapStream, data| {
            data.insert(stream.handle());
        })
        .h1(map_config(app, |()| AppConfig::default()));
    fn_factory(move || {
        let http_1 = http_1.new_service(());
        // The factory owns the guardian for as long as it serves.
        let alive = guardian.clone();
        let (edge, http, draining) = (edge.clone(), http.clone(), draining.clone());
        async move {
            let http_1 = Rc::new(http_1.await?);
            Ok(Entrance { http_1, edge, http, draining, _alive: alive })
        }
    })
}

/// Takes each connection to the protocol that it speaks.
struct Entrance<S> {
    http_1: Rc<S>,
    edge: Edge,
    http: ActorRef<HttpActor>,
    draining: GracefulShutdownSignal,
    _alive: actix::Addr<Guardian>,
}

impl<S> Service<TcpStream> for Entrance<S>
where
    S: Service<(TapStream, Option<SocketAddr>), Response = (), Error = DispatchError> + 'static,
{
    type Response = ();
    type Error = DispatchError;
    type Future = Pin<Box<dyn Future<Output = Result<(), DispatchError>>>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        self.http_1.poll_ready(cx)
    }

    fn call(&self, socket: TcpStream) -> Self::Future {
        let http_1 = Rc::clone(&self.http_1);
        let (edge, http, draining) = (self.edge.clone(), self.http.clone(), self.draining.clone());
        let open = Counted::new(&edge.metrics.connections);
        Box::pin(async move {
            let peer = socket.peer_addr().ok();
            // Answers are one small write each: nothing to gather.
            let _ = socket.set_nodelay(true);
            let socket = match &edge.tls {
                None => ClientSocket::from(socket),
                Some(tls) => {
                    // Boxed, as HTTP/2 below: a connection's future has room for the largest of what it
                    // may ever be, for as long as it lives.
                    let shaken = tokio::select! {
                        shaken = Box::pin(handshake(tls, socket, &edge.metrics)) => shaken,
                        // Nothing was asked as yet.
                        () = draining.notified() => None,
                    };
                    let Some(stream) = shaken else { return Ok(()) };
                    let session = stream.get_ref().1;
                    let leaf = session.peer_certificates().and_then(|chain| chain.first());
                    let certificate = leaf.map(|leaf| Arc::new(names(leaf)));
                    if session.alpn_protocol() == Some(b"h2") {
                        let peer = peer.map(|address| address.ip());
                        let client = h2::Client { http, tap: edge.tap, peer, certificate };
                        Box::pin(h2::serve(stream, client, draining)).await;
                        drop(open);
                        return Ok(());
                    }
                    let (socket, session) = stream.into_inner();
                    ClientSocket::tls(socket, session, certificate)
                }
            };
            http_1.call((TapStream::new(socket, edge.tap, rand::random(), open), peer)).await
        })
    }
}

/// None: it came to nothing, which is the client's doing.
async fn handshake(
    tls: &EdgeTls,
    socket: TcpStream,
    metrics: &Metrics,
) -> Option<TlsStream<TcpStream>> {
    let shaken = tokio::time::timeout(tls.handshake_timeout, tls.live.acceptor().accept(socket));
    let reason = match shaken.await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => {
            log::debug!("a TLS handshake failed: {error}");
            "refused"
        }
        Err(_) => "timeout",
    };
    metrics.tls_handshakes_failed.with_label_values(&[reason]).inc();
    None
}

/// The one handler: takes the request that the tap announced and lets the HttpActor serve it.
async fn handle(request: HttpRequest) -> HttpResponse {
    let received = Instant::now();
    let (Some(http), Some(tap)) =
        (request.app_data::<ActorRef<HttpActor>>(), request.conn_data::<TapHandle>())
    else {
        return HttpResponse::InternalServerError().finish();
    };
    let busy = tap.busy();
    let token = request.headers().get(TAP_HEADER).and_then(|value| value.to_str().ok());
    let arrival = tap.take(token.unwrap_or_default());
    let peer = request.peer_addr().map(|address| address.ip());
    let certificate = tap.certificate();
    match http.ask(Serve { arrival, peer, certificate, received }).await {
        Ok(reply) => respond(reply, busy),
        Err(error) => respond(Reply::unserved(&error), busy),
    }
}

/// `busy` is dropped with the answer's last byte.
fn respond(reply: Reply, busy: Busy) -> HttpResponse {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for (name, value) in &reply.headers {
        response.append_header((name.as_str(), value.as_slice()));
    }
    if reply.close {
        response.force_close();
    }
    if let Some(seconds) = reply.retry_after {
        response.append_header((header::RETRY_AFTER, seconds));
    }
    match reply.later {
        None => response.body(reply.body),
        Some(later) => response.body(LaterBody::new(reply.body, later, busy)),
    }
}
