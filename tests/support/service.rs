//! A small HTTP service of the kind that policy engines are, with faults on demand.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What it was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// How it fails.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    None,
    /// Takes so long.
    Slow(Duration),
    /// Answers with this status, and the right body.
    Status(u16),
    /// Answers 200 with this body.
    Body(String),
    /// Answers with these bytes, head and all, and closes.
    Raw(String),
    /// Resets the connection when it has read the request.
    Reset,
}

type Answer = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

struct State {
    answer: Box<Answer>,
    fault: Mutex<Fault>,
    asked: Mutex<VecDeque<Asked>>,
}

pub struct Service {
    pub address: SocketAddr,
    state: Arc<State>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Service {
    /// Answers with what `answer` says: a status and a body.
    pub async fn start(
        answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
    ) -> Service {
        let state = Arc::new(State {
            answer: Box::new(answer),
            fault: Mutex::new(Fault::None),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Service { address, state, task: Mutex::new(Some(task)) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn fail(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = fault;
    }

    /// Nobody listens any more, and no connection is left.
    pub async fn stop(&self) {
        let task = self.task.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }

    /// Listens again, where it did.
    pub async fn resume(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        *self.task.lock().unwrap() = Some(tokio::spawn(serve(listener, Arc::clone(&self.state))));
    }

    /// Everything that it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().iter().cloned().collect()
    }

    pub fn count(&self) -> usize {
        self.state.asked.lock().unwrap().len()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task: a service that is stopped keeps no connection.
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let _ = connection(socket, &state).await;
        });
    }
}

async fn connection(mut socket: TcpStream, state: &State) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(asked) = request(&mut socket, &mut buffer).await? {
        state.asked.lock().unwrap().push_back(asked.clone());
        let (status, body) = (state.answer)(&asked);
        let fault = state.fault.lock().unwrap().clone();
        let (status, body) = match fault {
            Fault::None => (status, body),
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                (status, body)
            }
            Fault::Status(status) => (status, body),
            Fault::Body(body) => (200, body),
            Fault::Raw(text) => return socket.write_all(text.as_bytes()).await,
            Fault::Reset => return socket.set_zero_linger(),
        };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

async fn request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Asked>> {
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match socket.read(&mut chunk).await? {
            0 => return Ok(None),
            count => buffer.extend_from_slice(&chunk[..count]),
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    while buffer.len() < length {
        match socket.read(&mut chunk).await? {
            0 => return Ok(None),
            count => buffer.extend_from_slice(&chunk[..count]),
        }
    }
    let body = buffer.drain(..length).collect();
    Ok(Some(Asked { method: method.to_owned(), path: path.to_owned(), headers, body }))
}
