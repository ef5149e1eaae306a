//! The audit log: one JSON line for each decision, and one for the end of each upload that was allowed
//! (docs/audit.md). Reasons of a denial stand here and are never told to the client; secrets, tokens,
//! signatures and queries stand nowhere.
//!
//! A thread of its own writes. The lines wait in a bounded channel; when it is full, requests wait
//! for room rather than that a line is lost, for a bounded time.

mod rotate;
mod writer;

use crate::settings::{AuditSettings, AuditTarget};
use mizuchi_actors::metrics::Metrics;
use rotate::RotatingFile;
use serde::Serialize;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot};
use writer::{Order, Sink};

/// Lines that may wait to be written: a second of many small uploads, some megabytes.
const QUEUE: usize = 4096;

/// How long a request waits for room, and for its line to be written where it must be: longer than a
/// disk hesitates, shorter than clients wait.
const RECORD_WAIT: Duration = Duration::from_secs(5);

/// How long the end waits for the last lines.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// A line could not be recorded, and must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unrecorded;

/// The requests' end of the audit log. Clones share it.
#[derive(Clone)]
pub struct AuditLog(Option<Arc<Shared>>);

struct Shared {
    orders: mpsc::Sender<Order>,
    required: bool,
    metrics: Metrics,
}

/// A decision.
#[derive(Debug, Serialize)]
pub(crate) struct DecisionLine<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) principal: Option<&'a str>,
    pub(crate) means: Option<&'static str>,
    pub(crate) operation: &'static str,
    pub(crate) bucket: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) allowed: bool,
    pub(crate) by: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) status: Option<u16>,
    pub(crate) code: Option<&'a str>,
}

/// The end of an upload that was allowed.
#[derive(Debug, Serialize)]
pub(crate) struct UploadLine<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) principal: &'a str,
    pub(crate) operation: &'static str,
    pub(crate) bucket: &'a str,
    pub(crate) key: &'a str,
    pub(crate) bytes: u64,
    pub(crate) status: u16,
    pub(crate) code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
    pub(crate) duration_ms: u64,
    pub(crate) plan: &'a str,
    pub(crate) restarts: u32,
}

#[derive(Serialize)]
struct Line<'a, T> {
    time: String,
    event: &'a str,
    #[serde(flatten)]
    fields: &'a T,
}

impl AuditLog {
    /// Opens the target and starts its thread.
    ///
    /// Errors: the file cannot be opened.
    pub(crate) async fn open(settings: &AuditSettings, metrics: Metrics) -> io::Result<Self> {
        let sink = match settings.target.clone() {
            AuditTarget::None => return Ok(AuditLog(None)),
            AuditTarget::Stdout => Sink::Stdout,
            AuditTarget::File { path, max_size, max_files, every } => {
                let opening = move || RotatingFile::open(path, max_size, max_files, every);
                let opened = tokio::task::spawn_blocking(opening).await;
                Sink::File(opened.map_err(io::Error::other)??)
            }
        };
        let (orders, taken) = mpsc::channel(QUEUE);
        let counted = metrics.clone();
        // It ends with `close`, or when the last clone of this is gone.
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer::run(taken, sink, &counted))?;
        Ok(AuditLog(Some(Arc::new(Shared { orders, required: settings.required, metrics }))))
    }

    /// Whether anything is recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records a decision, before anything comes of it.
    ///
    /// Errors: `audit.required`, and the line is not in the log.
    pub(crate) async fn decision(&self, line: &DecisionLine<'_>) -> Result<(), Unrecorded> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let (written, is_written) = oneshot::channel();
        let sent = shared.send("decision", line, shared.required.then_some(written));
        if !shared.required {
            sent.await;
            return Ok(());
        }
        let whole = async { sent.await && is_written.await.unwrap_or(false) };
        match tokio::time::timeout(RECORD_WAIT, whole).await {
            Ok(true) => Ok(()),
            _ => Err(Unrecorded),
        }
    }

    /// Records the end of an upload. What has happened has happened: a line that is lost is counted.
    pub(crate) async fn upload(&self, line: &UploadLine<'_>) {
        if let Some(shared) = &self.0 {
            shared.send("upload", line, None).await;
        }
    }

    /// Has every line on the disk that was recorded before, and ends the thread.
    pub(crate) async fn close(self) {
        let Some(shared) = &self.0 else { return };
        let (done, is_done) = oneshot::channel();
        let closing =
            async { shared.orders.send(Order::Close(done)).await.is_ok() && is_done.await.is_ok() };
        if tokio::time::timeout(CLOSE_WAIT, closing).await != Ok(true) {
            log::error!("the last lines of the audit log may not have been written");
        }
    }
}

impl Shared {
    /// Whether the line is on its way; one that is not is counted.
    async fn send<T: Serialize>(
        &self,
        event: &str,
        fields: &T,
        written: Option<oneshot::Sender<bool>>,
    ) -> bool {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let text = serde_json::to_vec(&Line { time, event, fields });
        let problem = match text {
            Ok(mut text) => {
                text.push(b'\n');
                let order = Order::Line { text, written };
                match self.orders.send_timeout(order, RECORD_WAIT).await {
                    Ok(()) => return true,
                    Err(error) => error.to_string(),
                }
            }
            Err(error) => error.to_string(),
        };
        log::error!("a line of the audit log is lost: {problem}");
        self.metrics.audit_lost.inc();
        false
    }
}
