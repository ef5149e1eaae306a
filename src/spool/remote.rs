//! The spool of a gateway that runs, by its admin listener.

mod pinned;

use super::shown::{Page, Record, RetriedAll, Retry, Row, Summary, UploadPage, UploadRow, Verdict};
use super::side::Problem;
use crate::settings::AdminSettings;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mizuchi_actors::secret::Secret;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// The longest time until there is a connection, its handshake done.
const CONNECT: Duration = Duration::from_secs(10);

/// The longest time for an answer; reading back a body, or all that is set aside, takes longer.
const ANSWER: Duration = Duration::from_secs(20);
const LONG_ANSWER: Duration = Duration::from_secs(3600);

/// The longest time that a body stands still.
const STALL: Duration = Duration::from_secs(60);

/// Bytes of an answer but a body.
const MAX_ANSWER: usize = 64 << 20;

/// Bytes of an error's text that are shown.
const MAX_PROBLEM: usize = 1000;

/// A client certificate, for a listener that wants one.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    /// PEM: the certificate and its key.
    pub(super) pair: Option<(PathBuf, PathBuf)>,
}

/// See the module.
pub(super) struct Remote {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    token: Option<Secret>,
}

/// An entry's bytes, as they come.
pub(super) struct RemoteBody {
    body: Incoming,
    at: SocketAddr,
}

fn forced(force: bool) -> &'static str {
    if force { "?force=true" } else { "" }
}

impl Remote {
    /// As the settings say. A listener with TLS must show the certificate that they name.
    pub(super) fn new(settings: &AdminSettings, own: Credentials) -> Result<Remote, Problem> {
        let mut address = settings.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            });
        }
        let tls = match &settings.tls {
            Some(files) => Some(pinned::connector(&files.cert_file, &own).map_err(Problem::Usage)?),
            None => None,
        };
        Ok(Remote { address, tls, token: settings.token.clone() })
    }

    pub(super) async fn summary(&self) -> Result<Summary, Problem> {
        let found = self.json(Method::GET, "/spool", ANSWER).await?;
        found.ok_or_else(|| self.unreachable("the gateway there has no spool"))
    }

    pub(super) async fn page(&self, after: u64, most: usize) -> Result<Vec<Row>, Problem> {
        let path = format!("/spool/entries?after={after}&most={most}");
        let page: Option<Page> = self.json(Method::GET, &path, ANSWER).await?;
        let page = page.ok_or_else(|| self.unreachable("the gateway there has no spool"))?;
        if page.entries.first().is_some_and(|row| row.number <= after) {
            return Err(self.unreachable("its list does not go on"));
        }
        Ok(page.entries)
    }

    pub(super) async fn uploads(&self, after: u64, most: usize) -> Result<Vec<UploadRow>, Problem> {
        let path = format!("/spool/uploads?after={after}&most={most}");
        let page: Option<UploadPage> = self.json(Method::GET, &path, ANSWER).await?;
        let page = page.ok_or_else(|| self.unreachable("the gateway there lists no uploads"))?;
        if page.uploads.first().is_some_and(|row| row.number <= after) {
            return Err(self.unreachable("its list does not go on"));
        }
        Ok(page.uploads)
    }

    pub(super) async fn verify_upload(&self, number: u64) -> Result<Option<Verdict>, Problem> {
        self.json(Method::GET, &format!("/spool/uploads/{number}/verify"), LONG_ANSWER).await
    }

    pub(super) async fn record(&self, number: u64) -> Result<Option<Record>, Problem> {
        self.json(Method::GET, &format!("/spool/entries/{number}"), ANSWER).await
    }

    pub(super) async fn retry(&self, number: u64, force: bool) -> Result<Option<Retry>, Problem> {
        let path = format!("/spool/entries/{number}/retry{}", forced(force));
        self.json(Method::POST, &path, ANSWER).await
    }

    pub(super) async fn retry_all(&self, force: bool) -> Result<RetriedAll, Problem> {
        let path = format!("/spool/retry{}", forced(force));
        let retried = self.json(Method::POST, &path, LONG_ANSWER).await?;
        retried.ok_or_else(|| self.unreachable("the gateway there has no spool"))
    }

    pub(super) async fn verify(&self, number: u64) -> Result<Option<Verdict>, Problem> {
        self.json(Method::GET, &format!("/spool/entries/{number}/verify"), LONG_ANSWER).await
    }

    pub(super) async fn body(&self, number: u64) -> Result<Option<RemoteBody>, Problem> {
        let path = format!("/spool/entries/{number}/body");
        let answer = self.ask(Method::GET, &path, ANSWER).await?;
        Ok(answer.map(|answer| RemoteBody { body: answer.into_body(), at: self.address }))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        patience: Duration,
    ) -> Result<Option<T>, Problem> {
        let Some(answer) = self.ask(method, path, patience).await? else { return Ok(None) };
        let body = self.whole(answer, MAX_ANSWER).await?;
        let read = serde_json::from_slice(&body);
        read.map(Some).map_err(|error| self.unreachable(format!("its answer is none: {error}")))
    }

    async fn whole(&self, answer: Response<Incoming>, most: usize) -> Result<Bytes, Problem> {
        let collected = timeout(ANSWER, Limited::new(answer.into_body(), most).collect()).await;
        match collected {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(self.unreachable(error)),
            Err(_) => Err(self.unreachable("its answer does not end")),
        }
    }

    /// None: 404.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        patience: Duration,
    ) -> Result<Option<Response<Incoming>>, Problem> {
        let socket = timeout(CONNECT, TcpStream::connect(self.address)).await;
        let socket = socket
            .map_err(|_| self.unreachable("it does not answer"))?
            .map_err(|error| self.unreachable(error))?;
        let answer = match &self.tls {
            None => self.exchange(socket, method, path, patience).await?,
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                let stream = timeout(CONNECT, tls.connect(name, socket)).await;
                let stream = stream
                    .map_err(|_| self.unreachable("its TLS handshake does not end"))?
                    .map_err(|error| self.unreachable(error))?;
                self.exchange(stream, method, path, patience).await?
            }
        };
        match answer.status() {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED if self.token.is_some() => Err(self.unreachable(
                "it refuses admin.token of these settings; the gateway may run with others",
            )),
            status => {
                let said = self.whole(answer, MAX_PROBLEM).await.unwrap_or_default();
                let said = String::from_utf8_lossy(&said).trim().escape_debug().to_string();
                let hint = match status {
                    StatusCode::UNAUTHORIZED => " (--cert and --key)",
                    _ => "",
                };
                Err(self.unreachable(format!("it answers {status}: {said}{hint}")))
            }
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
        patience: Duration,
    ) -> Result<Response<Incoming>, Problem> {
        let begun = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = begun.map_err(|error| self.unreachable(error))?;
        // It ends with the answer's body.
        tokio::spawn(connection);
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        *request.uri_mut() =
            path.parse().map_err(|_| Problem::Usage("no path can be made of that".to_owned()))?;
        let host = HeaderValue::try_from(self.address.to_string());
        request.headers_mut().extend(host.ok().map(|host| (HOST, host)));
        if let Some(token) = &self.token {
            let value = HeaderValue::try_from(format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| self.unreachable("admin.token cannot be sent"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        match timeout(patience, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|error| self.unreachable(error)),
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    fn unreachable(&self, problem: impl Display) -> Problem {
        unreachable(self.address, problem)
    }
}

fn unreachable(address: SocketAddr, problem: impl Display) -> Problem {
    Problem::Unreachable(format!(
        "a gateway runs on this spool, and its admin listener at {address} was asked: {problem}. \
         Give the settings that it runs with, or stop it first"
    ))
}

impl RemoteBody {
    /// The next bytes; None: that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let frame = timeout(STALL, self.body.frame()).await;
            let frame = frame.map_err(|_| unreachable(self.at, "the body does not go on"))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| unreachable(self.at, error))?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}
