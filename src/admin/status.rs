//! The gateway's state at a moment, for people and for programs.

use super::Admin;
use crate::spool::shown::{Summary, age_text, size_text};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// `/status.json`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    uptime_seconds: u64,
    /// `starting`, `ready` or `draining`.
    state: &'static str,
    client_connections: i64,
    uploads_in_flight: i64,
    permits_in_use: usize,
    permits: usize,
    replay: Replay,
    /// None: there is none.
    spool: Option<Summary>,
    buckets: Vec<BucketStatus>,
}

#[derive(Debug, Serialize)]
struct Replay {
    /// Of 4 KiB.
    pages: usize,
    pipes: usize,
    file_bytes: usize,
}

#[derive(Debug, Serialize)]
struct BucketStatus {
    name: String,
    endpoints: Vec<EndpointStatus>,
}

#[derive(Debug, Serialize)]
struct EndpointStatus {
    endpoint: String,
    /// Failures in a row.
    failures: u32,
    /// It is avoided for a moment.
    avoided: bool,
}

/// The state now.
pub(super) fn of(admin: &Admin) -> Status {
    let engine = &admin.engine;
    let now = Instant::now();
    let state = match (admin.ready.load(Ordering::Acquire), admin.admission.is_draining()) {
        (_, true) => "draining",
        (true, false) => "ready",
        (false, false) => "starting",
    };
    let buckets = engine.buckets.iter().map(|bucket| BucketStatus {
        name: bucket.name.clone(),
        endpoints: bucket
            .backend
            .endpoints
            .iter()
            .map(|known| EndpointStatus {
                endpoint: known.endpoint.to_string(),
                failures: known.health.failures(),
                avoided: known.health.avoided_until(now).is_some(),
            })
            .collect(),
    });
    let (permits_in_use, permits) = admin.admission.usage();
    Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: admin.started.elapsed().as_secs(),
        state,
        client_connections: engine.metrics.connections.get(),
        uploads_in_flight: engine.metrics.uploads_in_flight.get(),
        permits_in_use,
        permits,
        replay: Replay {
            pages: engine.replay.pages_in_use(),
            pipes: engine.replay.pipes_in_use(),
            file_bytes: engine.replay.file_bytes_in_use(),
        },
        spool: engine.spool.as_ref().map(|spool| Summary::of(spool)),
        buckets: buckets.collect(),
    }
}

impl Status {
    /// As a page, without a script.
    pub(super) fn html(&self) -> String {
        let mut page = String::from(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Mizuchi Uploadr\
             </title><style>body{font-family:sans-serif;margin:2em}td,th{text-align:left;padding:\
             .2em 1em .2em 0}</style></head><body>\n<h1>Mizuchi Uploadr</h1>\n<table>\n",
        );
        let up = humantime::format_duration(Duration::from_secs(self.uptime_seconds));
        let replay = &self.replay;
        for (name, value) in [
            ("Version", self.version.to_owned()),
            ("State", self.state.to_owned()),
            ("Up for", up.to_string()),
            ("Client connections", self.client_connections.to_string()),
            ("Uploads in flight", self.uploads_in_flight.to_string()),
            ("Permits in use", format!("{} of {}", self.permits_in_use, self.permits)),
            (
                "Kept for replay",
                format!(
                    "{} pages of 4 KiB in {} pipes, {} bytes in files",
                    replay.pages, replay.pipes, replay.file_bytes
                ),
            ),
        ] {
            row(&mut page, "th", &[name, &value]);
        }
        if let Some(spool) = &self.spool {
            row(&mut page, "th", &["Spool", &in_words(spool)]);
        }
        page.push_str("</table>\n<h2>Backends</h2>\n<table>\n");
        row(&mut page, "th", &["Bucket", "Endpoint", "Health"]);
        for bucket in &self.buckets {
            for known in &bucket.endpoints {
                let health = match (known.failures, known.avoided) {
                    (0, _) => "well".to_owned(),
                    (count, true) => format!("failing ({count} in a row), avoided for a moment"),
                    (count, false) => format!("failed ({count} in a row), to be tried again"),
                };
                row(&mut page, "td", &[&bucket.name, &known.endpoint, &health]);
            }
        }
        page.push_str("</table>\n</body></html>\n");
        page
    }
}

fn in_words(spool: &Summary) -> String {
    let mut words = format!("{} wait, {}", spool.waiting, size_text(spool.bytes));
    // Writing to a String cannot fail.
    if let Some(oldest) = spool.oldest_seconds {
        let _ = write!(words, ", the oldest for {}", age_text(oldest));
    }
    if spool.quarantined > 0 {
        let _ = write!(words, "; {} set aside", spool.quarantined);
    }
    if spool.unreadable > 0 {
        let _ = write!(words, "; {} unreadable", spool.unreadable);
    }
    if spool.latched {
        let reason = spool.latched_reason.as_deref().unwrap_or_default();
        let _ = write!(words, "; takes nothing until a restart: {reason}");
    }
    words
}

fn row(page: &mut String, first: &str, cells: &[&str]) {
    page.push_str("<tr>");
    for (position, cell) in cells.iter().enumerate() {
        let tag = if position == 0 { first } else { "td" };
        // Writing to a String cannot fail.
        let _ = write!(page, "<{tag}>{}</{tag}>", escape(cell));
    }
    page.push_str("</tr>\n");
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
