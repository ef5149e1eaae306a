//! One line per request, target `access`: as text, or as JSON for machines.
//!
//! The path is logged without its query: signatures and tokens live there.

use serde::Serialize;
use std::fmt;

/// How log lines look (`logging.format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `key=value` pairs.
    Text,
    /// One JSON object.
    Json,
}

/// What is known of a request when it has been answered.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    /// `x-amz-request-id`.
    pub request_id: &'a str,
    /// The client's address: the connection's, or what trusted proxies say.
    pub client: &'a str,
    /// Who it was; `-` before authentication.
    pub principal: &'a str,
    /// S3's name of the operation; `-` when it is none.
    pub operation: &'a str,
    /// Raw path, at most the head's bound.
    pub path: &'a str,
    /// HTTP status of the answer.
    pub status: u16,
    /// S3 error code; empty on success.
    pub code: &'a str,
    /// Payload bytes taken from the client.
    pub bytes: u64,
    /// `splice`, `copy` or `-`.
    pub plan: &'a str,
    /// Attempts made again.
    pub restarts: u32,
    /// From head to answer, milliseconds.
    pub duration_ms: f64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "request_id={} client={} principal={:?} operation={} path={:?} status={} code={} bytes={} plan={} \
             restarts={} duration_ms={:.3}",
            self.request_id,
            self.client,
            self.principal,
            self.operation,
            self.path,
            self.status,
            self.code,
            self.bytes,
            self.plan,
            self.restarts,
            self.duration_ms
        )
    }
}

impl Line<'_> {
    /// Whether lines are written at all: what nobody reads need not be put together.
    pub(super) fn is_wanted() -> bool {
        log::log_enabled!(target: "access", log::Level::Info)
    }

    /// Writes the line.
    pub(super) fn log(&self, format: Format) {
        match format {
            Format::Text => log::info!(target: "access", "{self}"),
            Format::Json => match serde_json::to_string(self) {
                Ok(json) => log::info!(target: "access", "{json}"),
                Err(error) => log::error!("an access log line could not be written: {error}"),
            },
        }
    }
}
