//! A fault proxy: passes bytes between the gateway and the backend, until it is told not to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Reset after this many bytes of the request.
    ResetAfter(usize),
    /// Reset when this many bytes have come, before the answer is passed on.
    LoseAnswerAfter(usize),
    /// Answer with these bytes after this many bytes of the request, then close.
    AnswerAfter(usize, &'static str),
    /// Take this many bytes, then nothing, for ever.
    BlackholeAfter(usize),
    /// Pass the request on, cut the answer after this many bytes.
    CutAnswerAfter(usize),
    /// Hold the answer back for this long.
    DelayAnswer(Duration),
    /// Pass everything; close after the first answer, without saying so.
    CloseAfterAnswer,
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    plan: Arc<Mutex<Vec<Fault>>>,
    away: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Arc<Mutex<Vec<Fault>>> = Arc::default();
        let away = Arc::new(AtomicBool::new(false));
        let (faults, gone) = (Arc::clone(&plan), Arc::clone(&away));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (faults, gone) = (Arc::clone(&faults), Arc::clone(&gone));
                tokio::spawn(async move {
                    let _ = serve(client, target, faults, gone).await;
                });
            }
        });
        Proxy { address, plan, away }
    }

    /// While it is away, connections end when the first byte of a request comes.
    pub fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    /// The next requests that come meet these faults, in order; later ones none.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut plan = self.plan.lock().unwrap();
        *plan = faults.into_iter().collect();
        plan.reverse();
    }

    /// Scripted faults that no request has met yet.
    pub fn left(&self) -> usize {
        self.plan.lock().unwrap().len()
    }

    /// Whether every scripted fault has happened.
    pub fn script_done(&self) -> bool {
        self.plan.lock().unwrap().is_empty()
    }
}

/// One connection: a fault is drawn when the first byte of each request comes. Requests are told
/// apart by the answers between them.
async fn serve(
    mut client: TcpStream,
    target: SocketAddr,
    plan: Arc<Mutex<Vec<Fault>>>,
    away: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let mut backend = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    backend.set_nodelay(true)?;
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    let mut fault = None;
    let (mut sent, mut answered) = (0usize, 0usize);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let count = read?;
                if count == 0 || away.load(Ordering::SeqCst) {
                    return Ok(());
                }
                if fault.is_none() || answered > 0 {
                    if fault == Some(Fault::CloseAfterAnswer) && answered > 0 {
                        return Ok(());
                    }
                    fault = Some(plan.lock().unwrap().pop().unwrap_or(Fault::None));
                    (sent, answered) = (0, 0);
                }
                sent += count;
                match fault.as_ref().unwrap() {
                    Fault::ResetAfter(most) if sent >= *most => {
                        backend.set_zero_linger()?;
                        return client.set_zero_linger();
                    }
                    Fault::AnswerAfter(most, answer) if sent >= *most => {
                        client.write_all(answer.as_bytes()).await?;
                        backend.set_zero_linger()?;
                        client.shutdown().await?;
                        // Read on, so that closing resets nothing.
                        while client.read(&mut up).await? > 0 {}
                        return Ok(());
                    }
                    Fault::BlackholeAfter(most) if sent >= *most => {
                        std::future::pending::<()>().await;
                    }
                    _ => backend.write_all(&up[..count]).await?,
                }
            }
            read = backend.read(&mut down) => {
                let count = read?;
                if count == 0 {
                    return Ok(());
                }
                if let Some(Fault::DelayAnswer(time)) = fault
                    && answered == 0
                {
                    tokio::time::sleep(time).await;
                }
                match &fault {
                    Some(Fault::LoseAnswerAfter(least)) if sent >= *least => {
                        return client.set_zero_linger();
                    }
                    Some(Fault::CutAnswerAfter(most)) => {
                        client.write_all(&down[..count.min(*most)]).await?;
                        return Ok(());
                    }
                    _ => client.write_all(&down[..count]).await?,
                }
                answered += count;
                if fault == Some(Fault::CloseAfterAnswer) {
                    return Ok(());
                }
            }
        }
    }
}
