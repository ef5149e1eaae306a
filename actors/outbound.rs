//! Small requests to services that the gateway asks on its own behalf: a token issuer's keys, a
//! policy engine. Uploads never go this way (that is [`crate::backend`]).
//!
//! Whatever such a service answers is somebody else's word: it has a time and a size for all of it,
//! only a plain 200 counts, no redirect is followed (it could lead into a private network) and no
//! proxy of the environment is asked (HTTP_PROXY of an operator's shell would be given the requests,
//! and with them the decisions). Certificates are always verified, by the same rules as a backend's.
//!
//! A client's connections are driven by tasks of the runtime on which they were opened, and each
//! worker thread has a runtime of its own. So each thread gets a client of its own: a request never
//! hangs on another thread that is busy or has ended, and costs no wake-up across threads. Names are
//! looked up by getaddrinfo(3) on the runtime's blocking pool.

use crate::backend::{Authorities, TrustError};
use crate::secret::Secret;
use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

/// Threads whose clients are kept. Workers are fewer; one that is replaced leaves its entry behind,
/// so past this all are dropped and made again.
const MAX_THREADS: usize = 2048;

/// Idle connections of one thread to one host, and how long they are kept: shorter than what
/// services commonly use.
const IDLE: usize = 32;
const IDLE_TIME: Duration = Duration::from_secs(20);

/// Characters of another's error text that are passed on.
const MAX_DETAIL: usize = 200;

/// What one answer may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the name's look-up to the last byte of the answer.
    pub time: Duration,
    /// Bytes of the answer's body.
    pub bytes: usize,
}

/// Where a service is: `https://`, or `http://` where that was asked for; without a user or password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ServiceUrl(reqwest::Url);

/// Why a text is not a [`ServiceUrl`]. Never quotes the text: a password may stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServiceUrlError {
    /// Not a URL, or one without a host.
    #[error("must be a URL such as https://host[:port]/path")]
    Malformed,
    /// `http://` where it is not allowed, or a scheme that is not spoken.
    #[error("must begin with https://")]
    Scheme,
    /// A user or a password.
    #[error("must not hold a user or a password")]
    Credentials,
}

impl ServiceUrl {
    /// Parses an address. `allow_insecure`: whether `http://` will do.
    pub fn parse(text: &str, allow_insecure: bool) -> Result<Self, ServiceUrlError> {
        let mut url = reqwest::Url::parse(text).map_err(|_| ServiceUrlError::Malformed)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ServiceUrlError::Credentials);
        }
        match url.scheme() {
            "https" => {}
            "http" if allow_insecure => {}
            _ => return Err(ServiceUrlError::Scheme),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(ServiceUrlError::Malformed);
        }
        url.set_fragment(None);
        Ok(ServiceUrl(url))
    }

    /// Whether it is `https://`.
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl fmt::Display for ServiceUrl {
    /// Without its query, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = &self.0;
        write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(url.path())
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceUrl({self})")
    }
}

/// Why there is no answer. The texts hold no URL and no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// [`Limits::time`] is over.
    #[error("no answer in time")]
    Timeout,
    /// The name, TCP or TLS.
    #[error("no connection: {0}")]
    Connect(String),
    /// Any other status than 200, redirects included.
    #[error("answered with status {0}")]
    Status(u16),
    /// More than [`Limits::bytes`].
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection failed, or what came is not HTTP/1.1.
    #[error("the exchange failed: {0}")]
    Broken(String),
    /// A header that was to be sent is none.
    #[error("the header {0} cannot be sent")]
    BadHeader(String),
}

/// A client of services. Cheap to make; connections are kept per thread.
pub struct Outbound {
    tls: rustls::ClientConfig,
    clients: Mutex<HashMap<ThreadId, reqwest::Client>>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outbound")
    }
}

impl Outbound {
    /// A client that trusts these authorities.
    ///
    /// Errors: the TLS library refuses its own defaults.
    pub fn new(authorities: Authorities) -> Result<Self, TrustError> {
        let tls = authorities.client_config()?;
        make_client(&tls).map_err(|error| TrustError::Setup(detail(&error)))?;
        Ok(Outbound { tls, clients: Mutex::default() })
    }

    /// GETs a document. Its Content-Type is not looked at.
    pub async fn get(&self, url: &ServiceUrl, limits: Limits) -> Result<Bytes, OutboundError> {
        let request = self.client()?.get(url.0.clone());
        exchange(request, limits).await
    }

    /// POSTs a JSON document, with these headers besides (names and values, the latter never shown).
    pub async fn post_json(
        &self,
        url: &ServiceUrl,
        headers: &[(String, Secret)],
        body: impl Into<Bytes>,
        limits: Limits,
    ) -> Result<Bytes, OutboundError> {
        let mut request = self
            .client()?
            .post(url.0.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let bad = || OutboundError::BadHeader(name.clone());
            let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| bad())?;
            value.set_sensitive(true);
            request = request.header(parsed, value);
        }
        exchange(request.body(body.into()), limits).await
    }

    fn client(&self) -> Result<reqwest::Client, OutboundError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        if let Some(client) = clients.get(&thread) {
            return Ok(client.clone());
        }
        let client =
            make_client(&self.tls).map_err(|error| OutboundError::Broken(detail(&error)))?;
        if clients.len() >= MAX_THREADS {
            clients.clear();
        }
        clients.insert(thread, client.clone());
        Ok(client)
    }
}

fn make_client(tls: &rustls::ClientConfig) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .pool_max_idle_per_host(IDLE)
        .pool_idle_timeout(IDLE_TIME)
        .build()
}

async fn exchange(
    request: reqwest::RequestBuilder,
    limits: Limits,
) -> Result<Bytes, OutboundError> {
    let answer = async {
        let mut response = request.send().await.map_err(told)?;
        match response.status().as_u16() {
            200 => {}
            status => return Err(OutboundError::Status(status)),
        }
        let mut body = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(told)? {
            if body.len() + piece.len() > limits.bytes {
                return Err(OutboundError::TooLarge(limits.bytes));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(limits.time, answer).await.unwrap_or(Err(OutboundError::Timeout))
}

fn told(error: reqwest::Error) -> OutboundError {
    match () {
        () if error.is_timeout() => OutboundError::Timeout,
        () if error.is_connect() => OutboundError::Connect(detail(&error)),
        () => OutboundError::Broken(detail(&error)),
    }
}

/// The innermost cause: the ones around it name the URL, or only say that a request failed.
fn detail(error: &reqwest::Error) -> String {
    let mut innermost = error.source();
    while let Some(deeper) = innermost.and_then(|error| error.source()) {
        innermost = Some(deeper);
    }
    let text = innermost.map_or_else(|| "the request could not be made".into(), |e| e.to_string());
    text.chars().filter(|c| !c.is_control()).take(MAX_DETAIL).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const LIMITS: Limits = Limits { time: Duration::from_secs(5), bytes: 1000 };

    /// Serves this text to each request, on connections that stay open. The URL, the connections so
    /// far, and the last request.
    async fn serve(answer: String) -> (ServiceUrl, Arc<AtomicUsize>, Arc<Mutex<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/path?key=canary", listener.local_addr().unwrap());
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::<Mutex<String>>::default());
        let (counted, saw) = (Arc::clone(&connections), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let (answer, saw) = (answer.clone(), Arc::clone(&saw));
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                        *saw.lock().unwrap() =
                            String::from_utf8_lossy(&buffer[..count]).into_owned();
                        let _ = socket.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        (ServiceUrl::parse(&url, true).unwrap(), connections, seen)
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    fn outbound() -> Outbound {
        Outbound::new(Authorities::none()).unwrap()
    }

    #[tokio::test]
    async fn documents_come_and_connections_are_kept() {
        let (url, connections, seen) = serve(answer("200 OK", "", "{}")).await;
        let outbound = outbound();
        for _ in 0..3 {
            assert_eq!(&outbound.get(&url, LIMITS).await.unwrap()[..], b"{}");
        }
        let secret = Secret::new("Bearer canary".into());
        let headers = [("Authorization".to_owned(), secret)];
        let posted = outbound.post_json(&url, &headers, "[1]".to_owned(), LIMITS).await;
        assert_eq!(&posted.unwrap()[..], b"{}");
        let request = seen.lock().unwrap().to_ascii_lowercase();
        assert!(request.starts_with("post /path?key=canary http/1.1\r\n"), "{request}");
        for line in ["authorization: bearer canary\r\n", "content-type: application/json\r\n"] {
            assert!(request.contains(line), "{request}");
        }
        assert!(request.ends_with("\r\n\r\n[1]"), "{request}");
        assert_eq!(connections.load(Ordering::Relaxed), 1);
        let bad = [("a b".to_owned(), Secret::new("x".into()))];
        let error = outbound.post_json(&url, &bad, "", LIMITS).await.unwrap_err();
        assert_eq!(error, OutboundError::BadHeader("a b".into()));
    }

    /// Only a plain 200 within its limits is an answer; no error names the URL's query.
    #[tokio::test]
    async fn anything_but_a_plain_answer_is_an_error() {
        let (elsewhere, reached, _) = serve(answer("200 OK", "", "elsewhere")).await;
        let location = format!("Location: {}\r\n", elsewhere.0);
        let chunk = format!("3E9\r\n{}\r\n", "x".repeat(1001));
        for (text, expected) in [
            (answer("302 Found", &location, ""), OutboundError::Status(302)),
            (answer("307 Temporary Redirect", &location, ""), OutboundError::Status(307)),
            (answer("204 No Content", "", ""), OutboundError::Status(204)),
            (answer("500 Oh", "", "x"), OutboundError::Status(500)),
            (answer("200 OK", "", &"x".repeat(1001)), OutboundError::TooLarge(1000)),
            (
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"),
                OutboundError::TooLarge(1000),
            ),
        ] {
            let (url, _, _) = serve(text).await;
            assert_eq!(outbound().get(&url, LIMITS).await.unwrap_err(), expected);
        }
        assert_eq!(reached.load(Ordering::Relaxed), 0, "no redirect is followed");
        let (url, _, _) = serve("SSH-2.0-garbage\r\n\r\n".into()).await;
        let error = outbound().get(&url, LIMITS).await.unwrap_err();
        assert!(matches!(error, OutboundError::Broken(_)), "{error}");
        let slow = Limits { time: Duration::from_millis(50), ..LIMITS };
        for text in ["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx"] {
            let (url, _, _) = serve(text.into()).await;
            assert_eq!(outbound().get(&url, slow).await.unwrap_err(), OutboundError::Timeout);
        }
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let url = ServiceUrl::parse(&format!("http://{gone}/?canary"), true).unwrap();
        let error = outbound().get(&url, LIMITS).await.unwrap_err();
        assert!(matches!(error, OutboundError::Connect(_)), "{error}");
        assert!(!format!("{error} {error:?} {url} {url:?}").contains("canary"), "{error}");
    }

    /// A certificate counts only where its authority is trusted, and for its own name.
    #[tokio::test]
    async fn certificates_are_verified() {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut socket) = acceptor.accept(socket).await else { return };
                    let mut buffer = [0; 4096];
                    let _ = socket.read(&mut buffer).await;
                    let _ = socket.write_all(answer("200 OK", "", "{}").as_bytes()).await;
                    let _ = socket.flush().await;
                });
            }
        });
        let url =
            |host: &str| ServiceUrl::parse(&format!("https://{host}:{port}/"), false).unwrap();
        let mut trusted = Authorities::none();
        trusted.add_pem(&own.cert.pem()).unwrap();
        let trusting = Outbound::new(trusted).unwrap();
        assert_eq!(&trusting.get(&url("localhost"), LIMITS).await.unwrap()[..], b"{}");
        for error in [
            trusting.get(&url("127.0.0.1"), LIMITS).await.unwrap_err(),
            outbound().get(&url("localhost"), LIMITS).await.unwrap_err(),
        ] {
            assert!(matches!(&error, OutboundError::Connect(_)), "{error}");
        }
    }

    #[test]
    fn addresses_are_https_unless_it_is_said_otherwise() {
        for (text, insecure, expected) in [
            ("https://h/p?q=1#f", false, Ok("https://h/p")),
            ("https://H:8443", false, Ok("https://h:8443/")),
            ("http://[::1]:80/x", true, Ok("http://[::1]/x")),
            ("http://h/", false, Err(ServiceUrlError::Scheme)),
            ("ftp://h/", true, Err(ServiceUrlError::Scheme)),
            ("file:///etc/passwd", true, Err(ServiceUrlError::Scheme)),
            ("https://me@h/", false, Err(ServiceUrlError::Credentials)),
            ("https://:pw@h/", false, Err(ServiceUrlError::Credentials)),
            ("h/p", true, Err(ServiceUrlError::Malformed)),
            ("", true, Err(ServiceUrlError::Malformed)),
        ] {
            let parsed = ServiceUrl::parse(text, insecure).map(|url| url.to_string());
            assert_eq!(parsed.as_deref(), expected.as_ref().map(|text| *text), "{text}");
        }
    }
}
