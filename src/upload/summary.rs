//! What is counted while an upload runs, and what is said of it at its end.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counters that every thread adds to.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Files sent in this run, and their bytes.
    pub(super) sent: AtomicU64,
    pub(super) sent_bytes: AtomicU64,
    /// Files that were there already, and bytes of files and parts.
    pub(super) already: AtomicU64,
    pub(super) already_bytes: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) skipped: AtomicU64,
    /// All that there is, as far as it was counted.
    pub(super) all: AtomicU64,
    pub(super) all_bytes: AtomicU64,
    pub(super) counted: AtomicBool,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// The end of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    /// Files sent in this run.
    pub(super) uploaded: u64,
    /// Bytes sent in this run.
    pub(super) bytes: u64,
    /// Files of which nothing had to be sent.
    pub(super) already: u64,
    /// Things that could not be sent.
    pub(super) failed: u64,
    /// Things that are no files.
    pub(super) skipped: u64,
    pub(super) seconds: f64,
    pub(super) interrupted: bool,
    /// With `--dry-run`: files that would be sent, and their bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) would_upload: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) would_upload_bytes: Option<u64>,
    /// Why the run ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ended_by: Option<String>,
}

impl Summary {
    pub(super) fn new(counts: &Counts, took: Duration) -> Summary {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Summary {
            uploaded: of(&counts.sent),
            bytes: of(&counts.sent_bytes),
            already: of(&counts.already),
            failed: of(&counts.failed),
            skipped: of(&counts.skipped),
            seconds: took.as_secs_f64(),
            interrupted: false,
            would_upload: None,
            would_upload_bytes: None,
            ended_by: None,
        }
    }

    /// Of a run that sends nothing: `counts.all` is what would be sent.
    pub(super) fn dry(counts: &Counts, took: Duration) -> Summary {
        let of = |counter: &AtomicU64| Some(counter.load(Ordering::Relaxed));
        Summary {
            would_upload: of(&counts.all),
            would_upload_bytes: of(&counts.all_bytes),
            ..Summary::new(counts, took)
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let rate = self.bytes as f64 / self.seconds.max(0.001);
        let mut text = match (self.would_upload, self.would_upload_bytes) {
            (Some(count), Some(bytes)) => {
                format!("{} would be uploaded, {}", files(count), size(bytes))
            }
            _ => format!(
                "{} uploaded, {} in {:.1} s ({}/s)",
                files(self.uploaded),
                size(self.bytes),
                self.seconds,
                size(rate as u64)
            ),
        };
        for (count, what) in
            [(self.already, "there already"), (self.skipped, "skipped"), (self.failed, "FAILED")]
        {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }
}

/// "1 file", "2 files".
pub(super) fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_not_there() {
        let counts = Counts::default();
        add(&counts.sent, 1);
        add(&counts.sent_bytes, 2048);
        add(&counts.failed, 3);
        let text = Summary::new(&counts, Duration::from_secs(2)).text();
        assert_eq!(text, "1 file uploaded, 2.0 KiB in 2.0 s (1.0 KiB/s), 3 FAILED");
    }
}
