//! From an accepted socket to a request handler: the tap, actix-http, actix-web, one route.

use super::http_actor::{HttpActor, Serve};
use super::later::LaterBody;
use super::reply::Reply;
use super::route::Route;
use actix_http::HttpService;
use actix_http::error::DispatchError;
use actix_server::GracefulShutdownSignal;
use actix_service::{ServiceFactory, ServiceFactoryExt as _, fn_service, map_config};
use actix_web::dev::AppConfig;
use actix_web::http::{KeepAlive, StatusCode, header};
use actix_web::{App, HttpRequest, HttpResponse, web};
use mizuchi_actors::guardian::{ActorRef, Guardian};
use mizuchi_actors::metrics::{Counted, Metrics};
use mizuchi_actors::tap::{Busy, TAP_HEADER, TapConfig, TapHandle, TapStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long actix-http lets a connection flush its last answer: its default of zero would drop the
/// socket at once. The tap's own caps end a drain earlier.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What every worker's edge is built from.
#[derive(Clone)]
pub struct Edge {
    /// The bounds of each connection.
    pub tap: Arc<TapConfig>,
    /// Builds the route of this thread's tree.
    pub route: Arc<dyn Fn(&mut Guardian) -> Route + Send + Sync>,
    /// The process's metrics.
    pub metrics: Metrics,
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

    let app = App::new().app_data(http).default_service(web::route().to(handle));
    let http = HttpService::build()
        // The tap times heads, idleness and bodies itself.
        .keep_alive(KeepAlive::Os)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .graceful_shutdown_signal(move || {
            let draining = draining.clone();
            async move { draining.notified().await }
        })
        .on_connect_ext(|stream: &TapStream, data| {
            data.insert(stream.handle());
        })
        .h1(map_config(app, |()| AppConfig::default()));
    fn_service(move |socket: TcpStream| {
        // The factory owns the guardian for as long as it serves.
        let _alive = &guardian;
        let tap = Arc::clone(&edge.tap);
        let open = Counted::new(&edge.metrics.connections);
        async move {
            let peer = socket.peer_addr().ok();
            // Answers are one small write each: nothing to gather.
            let _ = socket.set_nodelay(true);
            Ok((TapStream::new(socket, tap, rand::random(), open), peer))
        }
    })
    .and_then(http)
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
    match http.ask(Serve { arrival, peer, received }).await {
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
