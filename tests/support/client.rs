//! A client that writes exactly what a test wants, and signs what it should.

use super::gateway::{ACCESS_KEY, Gateway, SECRET_KEY};
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::{PayloadHash, Signer, UpstreamRequest, uri_encode};
use std::net::SocketAddr;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer, parsed loosely.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The S3 error code; empty on success.
    pub fn code(&self) -> String {
        between(&self.text(), "<Code>", "</Code>").unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (have, value) = line.split_once(':')?;
            have.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    pub fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").as_deref() == Some("chunked")
    }

    pub fn element(&self, name: &str) -> Option<String> {
        between(&self.text(), &format!("<{name}>"), &format!("</{name}>"))
    }
}

fn between(text: &str, open: &str, close: &str) -> Option<String> {
    let start = text.find(open)? + open.len();
    let end = text[start..].find(close)? + start;
    Some(text[start..end].to_owned())
}

pub fn signer() -> Signer {
    signer_with(ACCESS_KEY, SECRET_KEY, "us-east-1")
}

pub fn signer_with(access_key: &str, secret_key: &str, region: &str) -> Signer {
    Signer::new(access_key.to_owned(), Secret::new(secret_key.to_owned()), None, region.to_owned())
}

/// A request to be signed and written.
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub payload: PayloadHash,
    pub length: Option<u64>,
}

impl Request {
    /// A PUT of `length` bytes to `/uploads/{key}`, UNSIGNED-PAYLOAD.
    pub fn put(key: &str, length: usize) -> Request {
        Request {
            method: "PUT",
            path: format!("/uploads/{}", uri_encode(key.as_bytes(), true)),
            query: Vec::new(),
            headers: Vec::new(),
            payload: PayloadHash::Unsigned,
            length: Some(length as u64),
        }
    }

    pub fn method(method: &'static str, key: &str) -> Request {
        Request { method, length: None, payload: PayloadHash::Empty, ..Request::put(key, 0) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub fn query(mut self, name: &str, value: &str) -> Request {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn payload(mut self, payload: PayloadHash) -> Request {
        self.payload = payload;
        self
    }

    /// The signed head, and the request as it was signed.
    pub fn sign(self, host: &str, signer: &Signer, now: OffsetDateTime) -> Vec<u8> {
        let mut request = UpstreamRequest {
            method: self.method,
            host: host.to_owned(),
            path: self.path,
            query: self.query,
            headers: self.headers,
        };
        signer.sign(&mut request, self.payload, now);
        write_head(&request, self.length)
    }
}

pub fn write_head(request: &UpstreamRequest, length: Option<u64>) -> Vec<u8> {
    let query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| {
            format!(
                "{}={}",
                uri_encode(name.as_bytes(), false),
                uri_encode(value.as_bytes(), false)
            )
        })
        .collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let mut head = format!(
        "{} {}{mark}{} HTTP/1.1\r\nHost: {}\r\n",
        request.method,
        request.path,
        query.join("&"),
        request.host
    )
    .into_bytes();
    if let Some(length) = length {
        head.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    for (name, value) in &request.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A connection to the gateway: plain, or over anything else.
pub struct Client<S = TcpStream> {
    pub socket: S,
    pub host: String,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn connect(gateway: &Gateway) -> Client {
        Client::to(gateway.address).await
    }

    pub async fn to(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Client::over(socket, address.to_string())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(socket: S, host: String) -> Client<S> {
        Client { socket, host, buffer: Vec::new() }
    }

    /// Signs, writes head and body, reads the answer.
    pub async fn send(&mut self, request: Request, body: &[u8]) -> Answer {
        let head = request.sign(&self.host, &signer(), OffsetDateTime::now_utc());
        self.raw(&head, body).await
    }

    /// Writes the bytes as they are and reads the answer. A gateway that refuses may stop reading:
    /// the answer counts.
    pub async fn raw(&mut self, head: &[u8], body: &[u8]) -> Answer {
        let written = async {
            self.socket.write_all(head).await?;
            self.socket.write_all(body).await?;
            // A TLS stream may keep the end of what it was given.
            self.socket.flush().await
        };
        let _ = written.await;
        self.answer(head.starts_with(b"HEAD ")).await
    }

    /// Reads one answer, interim ones skipped.
    pub async fn answer(&mut self, to_head: bool) -> Answer {
        loop {
            let answer = self.one(to_head).await;
            if answer.status >= 200 {
                return answer;
            }
        }
    }

    /// Reads one answer, interim ones too; status 0 when the connection ended first.
    pub async fn one(&mut self, to_head: bool) -> Answer {
        let mut answer = self.head().await;
        if to_head || answer.status < 200 || answer.head.is_empty() {
            return answer;
        }
        if answer.is_chunked() {
            while let Some(chunk) = self.chunk().await {
                answer.body.extend_from_slice(&chunk);
            }
        } else {
            let length = answer.header("content-length").and_then(|text| text.parse().ok());
            answer.body = self.take(length.unwrap_or(0)).await;
        }
        answer
    }

    /// Reads the head of an answer only; status 999 when the connection ended first.
    pub async fn head(&mut self) -> Answer {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return Answer { status: 999, head: String::new(), body: Vec::new() };
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let status = head[9..12].parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    /// Reads the next chunk of a chunked body (RFC 9112, 7.1); None after the last one.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let end = loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                break at;
            }
            assert!(self.fill().await, "the answer's chunked body is cut off");
        };
        let line = self.take(end + 2).await;
        let size = usize::from_str_radix(std::str::from_utf8(&line[..end]).unwrap(), 16).unwrap();
        let mut chunk = self.take(size + 2).await;
        assert!(chunk.ends_with(b"\r\n"));
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill().await, "the answer's body is short");
        }
        self.buffer.drain(..length).collect()
    }

    async fn fill(&mut self) -> bool {
        let mut chunk = [0; 4096];
        match self.socket.read(&mut chunk).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
        }
    }

    /// Whether the gateway closes the connection without another byte.
    pub async fn ends(&mut self) -> bool {
        self.buffer.is_empty() && !self.fill().await
    }
}
