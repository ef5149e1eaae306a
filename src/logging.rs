//! Log lines through `log` and env_logger: text for people, JSON lines for machines.
//!
//! A thread of its own writes them: whoever reads standard error may be slow, or stop, and then lines
//! are lost (`mizuchi_log_lines_lost`) and no upload waits.

use crate::http::AccessLogFormat;
use log::{Log, Metadata, Record};
use std::io::{BufWriter, IsTerminal as _, Write as _, stderr};
use std::sync::OnceLock;
use std::time::SystemTime;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

/// Lines that wait to be written at most: seconds of a loaded gateway's, and a few MiB.
const WAITING: usize = 16_384;

static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that were not written because too many waited, since the start.
pub(crate) fn lost() -> u64 {
    LOST.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// Starts logging to standard error. `filter` is env_logger's syntax (`info,mizuchi=debug`);
/// RUST_LOG overrides it. A second call changes nothing. What waits is written when the guard is dropped.
#[must_use = "its drop writes the last lines"]
pub(crate) fn start(filter: &str, format: AccessLogFormat) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING)
        .thread_name("log")
        .finish(BufWriter::new(stderr()));
    let _ = LOST.set(writer.error_counter());
    let environment = env_logger::Env::default().default_filter_or(filter.to_owned());
    let mut builder = env_logger::Builder::from_env(environment);
    builder.target(env_logger::Target::Pipe(Box::new(writer)));
    // env_logger sees no terminal behind the thread.
    let unsaid = ["RUST_LOG_STYLE", "NO_COLOR"].iter().all(|name| std::env::var_os(name).is_none());
    if unsaid && stderr().is_terminal() {
        builder.write_style(env_logger::WriteStyle::Always);
    }
    if format == AccessLogFormat::Json {
        builder.format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let message = record.args().to_string();
            let mut line = serde_json::json!({
                "time": time,
                "level": record.level().as_str(),
                "target": record.target(),
            });
            // An access line is an object already: its fields stand beside the time.
            let fields = (record.target() == "access")
                .then(|| serde_json::from_str::<serde_json::Map<_, _>>(&message).ok())
                .flatten();
            if let Some(object) = line.as_object_mut() {
                match fields {
                    Some(fields) => object.extend(fields),
                    None => drop(object.insert("message".into(), message.into())),
                }
            }
            writeln!(out, "{line}")
        });
    }
    let logger = Discreet(builder.build());
    let most = logger.0.filter();
    // Only a second logger in one process (tests) makes this fail: the first one stays.
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(most);
    }
    guard
}

/// What the targets of AWS's own crates begin with.
const AWS: &str = "aws_";

/// A logger that leaves out what AWS's own crates log: whole requests and answers, with the session
/// tokens in them. `crate::credentials` says what came of each.
struct Discreet(env_logger::Logger);

impl Log for Discreet {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        !metadata.target().starts_with(AWS) && self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// How lines look, by the settings.
pub(crate) fn format(settings: &crate::settings::Settings) -> AccessLogFormat {
    match settings.logging.format {
        crate::settings::LogFormat::Text => AccessLogFormat::Text,
        crate::settings::LogFormat::Json => AccessLogFormat::Json,
    }
}
