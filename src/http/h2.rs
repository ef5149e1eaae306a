//! HTTP/2, for clients that negotiate it (ALPN). hyper frames it; each request becomes a head of
//! HTTP/1.1's shape (`head`) and a body that is fed, and goes the way of any other: one parser, one
//! verifier, one router.
//!
//! actix-http's own HTTP/2 is not used: it stands on a version of the `h2` crate that is not mended
//! any more.
//!
//! What a connection may hold is bounded: streams, header bytes, windows, and requests that the
//! engine has not ended, which a client that resets its streams at once would otherwise pile up
//! (CVE-2023-44487).

mod body;
mod head;

use super::http_actor::{HttpActor, Serve};
use super::later::LaterBody;
use super::reply::Reply;
use actix_server::GracefulShutdownSignal;
use body::{AnswerBody, pump};
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use mizuchi_actors::certificate::PeerCertificate;
use mizuchi_actors::guardian::{ActorRef, NoAnswer};
use mizuchi_actors::tap::{Arrival, TapConfig, fed_body};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant as Arrived};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;

/// Requests of one connection at a time: RFC 9113, 6.5.2, recommends no fewer than 100, and SDKs
/// open a second connection past it.
const MAX_STREAMS: u32 = 100;

/// Bytes of one body that a client may send ahead of its reader.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes of all bodies of a connection that nobody has read: two streams at full speed.
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// Bytes of one answer that wait for the client: documents are smaller.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that were reset before they were looked at (the default of `h2`, here so that it stays).
const MAX_RESET_STREAMS: usize = 20;

/// Streams that this side reset for what the client sent in them, before the connection ends.
const MAX_ERROR_STREAMS: usize = 100;

/// How long a connection that was told to go may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Whose connection it is.
pub(super) struct Client {
    pub(super) http: ActorRef<HttpActor>,
    pub(super) tap: Arc<TapConfig>,
    pub(super) peer: Option<IpAddr>,
    pub(super) certificate: Option<Arc<PeerCertificate>>,
}

/// Tasks stay on their worker's thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        actix_rt::spawn(async move {
            task.await;
        });
    }
}

/// Whether anything moves on a connection.
#[derive(Debug)]
struct Pulse {
    /// Requests that the engine has.
    served: Cell<usize>,
    /// When something last moved.
    moved: Cell<Instant>,
    /// There has been a request.
    begun: Cell<bool>,
}

impl Pulse {
    fn moved(&self) {
        self.moved.set(Instant::now());
    }

    /// When the connection is idle, if nothing moves.
    fn deadline(&self, config: &TapConfig) -> Instant {
        match (self.served.get(), self.begun.get()) {
            (0, false) => self.moved.get() + config.head_timeout,
            (0, true) => self.moved.get() + config.keep_alive,
            _ => Instant::now() + config.keep_alive,
        }
    }
}

/// One request that the engine has.
struct Served(Rc<Pulse>);

impl Served {
    fn new(pulse: &Rc<Pulse>) -> Served {
        pulse.served.set(pulse.served.get() + 1);
        pulse.begun.set(true);
        pulse.moved();
        Served(Rc::clone(pulse))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.served.set(self.0.served.get().saturating_sub(1));
        self.0.moved();
    }
}

/// A connection, to its requests.
struct Connection {
    client: Client,
    pulse: Rc<Pulse>,
    places: Arc<Semaphore>,
}

/// Serves a connection to its end: the client's, an idle time over `keep_alive` (the first request
/// within `head_timeout`; an answer that nobody takes is idleness too), or the drain's.
pub(super) async fn serve(
    stream: TlsStream<TcpStream>,
    client: Client,
    draining: GracefulShutdownSignal,
) {
    let config = Arc::clone(&client.tap);
    let pulse = Rc::new(Pulse {
        served: Cell::new(0),
        moved: Cell::new(Instant::now()),
        begun: Cell::new(false),
    });
    let places = Arc::new(Semaphore::new(MAX_STREAMS as usize));
    let shared = Rc::new(Connection { client, pulse: Rc::clone(&pulse), places });
    let service = service_fn(move |request| respond(Rc::clone(&shared), request));
    let max_head = u32::try_from(config.max_head).unwrap_or(u32::MAX);
    let mut connection = pin!(
        http2::Builder::new(OnThisThread)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
            .max_local_error_reset_streams(MAX_ERROR_STREAMS)
            .max_header_list_size(max_head)
            .serve_connection(TokioIo::new(stream), service)
    );
    let mut drained = pin!(draining.notified());
    let mut going = false;
    let mut told = false;
    let mut timer = pin!(sleep_until(pulse.deadline(&config)));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    log::debug!("an HTTP/2 connection failed: {error}");
                }
                return;
            }
            () = drained.as_mut(), if !going => {
                going = true;
                connection.as_mut().graceful_shutdown();
            }
            () = timer.as_mut() => {
                let now = Instant::now();
                let deadline = pulse.deadline(&config);
                if deadline > now {
                    timer.as_mut().reset(deadline);
                } else if told {
                    return;
                } else {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                    timer.as_mut().reset(now + FAREWELL);
                }
            }
        }
    }
}

async fn respond(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let received = Arrived::now();
    let Connection { client, pulse, places } = &*connection;
    let (parts, incoming) = request.into_parts();
    let arrival = head::arrive(&parts, incoming.is_end_stream(), client.tap.max_head);
    // A client that goes away leaves its request with the engine: the next one waits for that.
    // Nobody closes the semaphore.
    let place = Arc::clone(places).acquire_owned().await.ok();
    let served = Served::new(pulse);
    let arrival = arrival.map(|(head, framing)| {
        let (feeder, body) = fed_body(framing, &client.tap);
        let config = Arc::clone(&client.tap);
        actix_rt::spawn(pump(incoming, feeder, Rc::clone(pulse), config));
        Arrival { head, body }
    });
    let (peer, certificate) = (client.peer, client.certificate.clone());
    let serve = Serve { arrival, peer, certificate, received };
    let http = client.http.clone();
    let (answered, answer) = oneshot::channel();
    actix_rt::spawn(async move {
        let reply = http.ask(serve).await.unwrap_or_else(|error| Reply::unserved(&error));
        drop((place, served));
        // The client may be gone.
        let _ = answered.send(reply);
    });
    let reply = answer.await.unwrap_or_else(|_| Reply::unserved(&NoAnswer("request's task")));
    Ok(dress(reply, pulse))
}

/// RFC 9113, 8.2.2: "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific
/// header fields."
fn dress(reply: Reply, pulse: &Rc<Pulse>) -> Response<AnswerBody> {
    let body = match reply.later {
        None => AnswerBody::whole(reply.body, pulse),
        Some(later) => AnswerBody::later(LaterBody::new(reply.body, later, ()), pulse),
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value))
        else {
            continue;
        };
        if !head::is_of_connection(name.as_str()) {
            headers.append(name, value);
        }
    }
    if let Some(seconds) = reply.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response
}
