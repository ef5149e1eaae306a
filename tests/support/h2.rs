//! HTTP/2: hyper's client, and frames (RFC 9113, 4.1) as a test wants them.

use super::authority::Trust;
use super::client::{Request, signer};
use super::gateway::Gateway;
use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub type Sender = http2::SendRequest<BoxBody<Bytes, Infallible>>;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// hyper's client on a connection of its own.
pub async fn connect(trust: &Trust, gateway: &Gateway) -> Sender {
    let stream = trust.open(gateway.address).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// The request, signed for the gateway.
pub fn signed(
    request: Request,
    gateway: &Gateway,
    body: BoxBody<Bytes, Infallible>,
) -> hyper::Request<BoxBody<Bytes, Infallible>> {
    let host = gateway.address.to_string();
    let head = request.sign(&host, &signer(), OffsetDateTime::now_utc());
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap(), first.next().unwrap());
    let mut made = hyper::Request::builder().method(method).uri(format!("https://{host}{target}"));
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        if name != "Host" {
            made = made.header(name, value);
        }
    }
    made.body(body).unwrap()
}

pub fn whole(body: &[u8]) -> BoxBody<Bytes, Infallible> {
    http_body_util::Full::new(Bytes::copy_from_slice(body)).boxed()
}

/// Sends and reads the whole answer.
pub async fn send(
    sender: &mut Sender,
    request: hyper::Request<BoxBody<Bytes, Infallible>>,
) -> hyper::Result<Answer> {
    sender.ready().await?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A connection on which a test writes frames.
pub struct Raw {
    pub stream: TlsStream<TcpStream>,
    host: String,
}

impl Raw {
    /// Connects, and sends the preface with these settings.
    pub async fn connect(trust: &Trust, gateway: &Gateway, settings: &[u8]) -> Raw {
        let stream = trust.open(gateway.address).await.unwrap();
        let mut raw = Raw { stream, host: gateway.address.to_string() };
        raw.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        assert!(raw.write(&frame(SETTINGS, 0, 0, settings)).await);
        raw
    }

    /// The header block of a PUT, unsigned.
    pub fn put(&self, key: &str) -> Vec<u8> {
        let path = format!("/uploads/{key}");
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "PUT"),
            (":scheme", "https"),
            (":authority", self.host.as_str()),
            (":path", path.as_str()),
        ] {
            literal(&mut block, name, value);
        }
        block
    }

    /// False: the gateway takes no more.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// The next frame: its kind, stream and payload; None: the connection has ended.
    pub async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], stream, payload))
    }
}

/// RFC 9113, 4.1.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 7541, 6.2.2: a literal header field without indexing, its name new.
pub fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    assert!(name.len() < 127 && value.len() < 127);
    block.extend([0, name.len() as u8]);
    block.extend(name.as_bytes());
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
}
