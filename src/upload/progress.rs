//! What is shown while an upload runs: a bar on a terminal, else a line now and then, both on standard error;
//! with `--json` an object a line on standard output. One thread writes all of it, as whoever reads may be
//! slow; files wait for it then.

use super::summary::{Counts, Summary, files, size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Events that wait to be written.
const WAITING: usize = 1024;

/// How often the bar is drawn.
const DRAW: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// Something to say.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// A file is there.
    Uploaded {
        path: Shown,
        key: String,
        bytes: u64,
        etag: String,
        /// Bytes of it that an earlier run had sent.
        resumed_bytes: u64,
    },
    /// With `--dry-run`: a file would be sent; `bucket`: to this one.
    WouldUpload {
        path: Shown,
        key: String,
        bytes: u64,
        #[serde(skip)]
        bucket: String,
    },
    /// Something is no file.
    Skipped { path: Shown, why: String },
    /// Something could not be sent. `code`: S3's, where the backend has refused it.
    Failed {
        path: Shown,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        why: String,
    },
    /// For people.
    Note { text: String },
    /// The end.
    Summary(Summary),
}

/// A path in the form in which it can be shown: not every path is text.
#[derive(Debug, Serialize)]
pub(super) struct Shown(String);

impl From<&Path> for Shown {
    fn from(path: &Path) -> Shown {
        Shown(path.to_string_lossy().into_owned())
    }
}

/// How much is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub(super) json: bool,
    pub(super) quiet: bool,
    /// How far it is, now and then.
    pub(super) progress: bool,
}

/// The thread that writes; it ends when the last sender is gone.
pub(super) struct Reporter(Option<JoinHandle<()>>);

impl Reporter {
    /// Starts it. Errors: the host has no thread to give.
    pub(super) fn start(
        style: Style,
        counts: Arc<Counts>,
    ) -> io::Result<(Reporter, mpsc::Sender<Event>)> {
        let (events, waiting) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let name = "upload progress".to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || runtime.block_on(Writer::new(style, counts).run(waiting)))?;
        Ok((Reporter(Some(thread)), events))
    }

    /// Waits until everything is written. Blocks; every sender must be gone.
    pub(super) fn finish(mut self) {
        if let Some(thread) = self.0.take() {
            // It says itself that it has panicked.
            let _ = thread.join();
        }
    }
}

struct Writer {
    style: Style,
    counts: Arc<Counts>,
    bar: Option<ProgressBar>,
    /// Bytes at the last line, for the rate.
    before: u64,
}

impl Writer {
    fn new(style: Style, counts: Arc<Counts>) -> Writer {
        let wanted = style.progress && io::stderr().is_terminal();
        Writer { style, counts, bar: wanted.then(bar), before: 0 }
    }

    async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let every = if self.bar.is_some() { DRAW } else { LINE };
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.say(event),
                    None => break,
                },
                _ = tick.tick() => self.show(every),
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, event: Event) {
        if self.style.json && !matches!(event, Event::Note { .. }) {
            // No map with odd keys is in it: that cannot fail.
            let line = serde_json::to_string(&event).unwrap_or_default();
            print(&line);
            return;
        }
        match event {
            Event::Uploaded { .. } => {}
            Event::WouldUpload { path, key, bytes, bucket } => {
                let (path, key) = (plain(&path.0), plain(&key));
                print(&format!("{path} -> s3://{bucket}/{key} ({})", size(bytes)));
            }
            Event::Skipped { path, why } => {
                if !self.style.quiet {
                    self.line(&format!("skipped: {}: {}", plain(&path.0), plain(&why)));
                }
            }
            Event::Failed { path, why, .. } => {
                self.line(&format!("FAILED: {}: {}", plain(&path.0), plain(&why)));
            }
            Event::Note { text } => self.line(&plain(&text)),
            Event::Summary(summary) => {
                if let Some(bar) = self.bar.take() {
                    bar.finish_and_clear();
                }
                if !self.style.quiet {
                    self.line(&summary.text());
                }
                if let Some(why) = &summary.ended_by {
                    self.line(&format!("ended early: {}", plain(why)));
                }
            }
        }
    }

    /// A line for people, over the bar.
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => {
                // Nobody is left to tell that nobody reads.
                let _ = writeln!(io::stderr().lock(), "{text}");
            }
        }
    }

    /// How far it is.
    fn show(&mut self, every: Duration) {
        if !self.style.progress {
            return;
        }
        let counts = &self.counts;
        let done = counts.sent.load(Ordering::Relaxed) + counts.already.load(Ordering::Relaxed);
        let (sent, already) = (&counts.sent_bytes, &counts.already_bytes);
        let sent = sent.load(Ordering::Relaxed);
        let bytes = sent + already.load(Ordering::Relaxed);
        let (all, all_bytes) = (&counts.all, &counts.all_bytes);
        let (all, all_bytes) = (all.load(Ordering::Relaxed), all_bytes.load(Ordering::Relaxed));
        let more = if counts.counted.load(Ordering::Acquire) { "" } else { "+" };
        match &self.bar {
            Some(bar) => {
                bar.set_length(all_bytes.max(bytes));
                bar.set_position(bytes);
                bar.set_message(format!("{done}/{all}{more} files"));
            }
            None => {
                let rate = sent.saturating_sub(self.before) as f64 / every.as_secs_f64();
                self.before = sent;
                let left = all_bytes.saturating_sub(bytes) as f64;
                let eta = if rate > 0.0 && more.is_empty() {
                    let seconds = (left / rate).min(1e9);
                    let eta = Duration::from_secs(seconds as u64);
                    format!(", {} left", humantime::format_duration(eta))
                } else {
                    String::new()
                };
                self.line(&format!(
                    "{done} of {}{more}, {} of {}{more}, {}/s{eta}",
                    files(all),
                    size(bytes),
                    size(all_bytes),
                    size(rate as u64)
                ));
            }
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let form = "{bar:30} {bytes}/{total_bytes}  {msg}  {binary_bytes_per_sec}  {eta}";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar
}

fn print(line: &str) {
    // Whoever reads may have read enough.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Text from file names and backends, without what moves a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let itself = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(itself)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_moves_no_cursor() {
        assert_eq!(plain("a\u{1b}[2J\nb\u{9b}é"), "a\\u{1b}[2J\\nb\\u{9b}é");
    }
}
