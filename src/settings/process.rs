//! What concerns the whole process: `admission`, `replay`, `spool`, `logging`, `embedded`.

use super::machine::Machine;
use super::section::Section;
use super::values::{
    KIB, MIB, TIB, boolean, choice, count, duration, path, size, text, text_where,
};
use config::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest `admission.queue_wait`: longer than clients wait themselves helps nobody.
const MAX_QUEUE_WAIT: Duration = Duration::from_secs(60);

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// STS's shortest session and its longest.
const MIN_SESSION: Duration = Duration::from_secs(900);
const MAX_SESSION: Duration = Duration::from_secs(43_200);

/// The levels of the `log` crate, and none.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// `admission`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// Uploads in flight in the whole process, at least 1.
    pub uploads: usize,
    /// How long one more waits for its turn before it is answered 503 SlowDown.
    pub queue_wait: Duration,
}

/// `replay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplaySettings {
    /// Bytes kept in pipes and in memory by all parts together, counted as pages.
    pub memory: u64,
    /// Bytes kept in the process's own memory of one part that is copied; past it `overflow`.
    pub memory_per_part: u64,
    /// Pipes kept by all parts together; each takes two descriptors.
    pub pipes: usize,
    /// Where a part's data goes past `memory`, which need not exist yet; `None`
    /// (`overflow: none`): it is given up.
    pub overflow: Option<PathBuf>,
    /// Bytes in overflow files of all parts together.
    pub overflow_limit: u64,
}

/// `spool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Where it stands; need not exist yet.
    pub directory: PathBuf,
    /// Bytes that wait for the backend.
    pub max_bytes: u64,
    /// Uploads that wait.
    pub max_entries: u64,
    /// Bytes that are left free on its disk.
    pub min_free: u64,
    /// Deliveries at a time, at least 1.
    pub deliveries: usize,
    /// Bytes per second of all of them; None: as many as go.
    pub max_rate: Option<u64>,
    /// The pause after the first failure of a delivery.
    pub backoff_base: Duration,
    /// The longest such pause; at least `backoff_base`.
    pub backoff_cap: Duration,
    /// How long a write that goes through waits for those of its key.
    pub wait: Duration,
    /// How long a multipart upload that stands here may give no sign of life.
    pub multipart_ttl: Duration,
}

/// `logging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggingSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// A filter as env_logger reads it: `info,mizuchi=debug`.
    pub level: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `sts`: the token service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StsSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// The longest session, 15 minutes to 12 hours.
    pub max_duration: Duration,
}

/// `embedded`: of the in-process backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedSettings {
    /// Where its objects lie.
    pub directory: PathBuf,
}

/// Reads `admission`.
pub(super) fn read_admission(s: &mut Section<'_>) -> Option<AdmissionSettings> {
    let uploads = s.required("uploads", count(1..=1_000_000));
    let queue_wait = s.required("queue_wait", duration(Duration::ZERO..=MAX_QUEUE_WAIT));
    Some(AdmissionSettings { uploads: uploads?, queue_wait: queue_wait? })
}

/// Reads `replay`; `state_directory` holds the overflow's directory unless it is set.
pub(super) fn read_replay(
    s: &mut Section<'_>,
    machine: &Machine,
    state_directory: Option<&Path>,
) -> Option<ReplaySettings> {
    let memory = s.required("memory", |value| match text(value) {
        Ok("auto") => Ok(machine.replay_memory()),
        _ => size(64 * KIB..=TIB)(value).map_err(|problem| format!("{problem}; or auto")),
    });
    let memory_per_part = s.required("memory_per_part", size(64 * KIB..=TIB));
    let pipes = s.required("pipes", count(0..=1_000_000));
    let file = s.required("overflow", choice(&[("file", true), ("none", false)]));
    let overflow_limit = s.required("overflow_limit", size(0..=1024 * TIB));
    let directory = s.optional("directory", path);
    let directory = match directory? {
        Some(directory) => directory,
        None => state_directory?.join("replay"),
    };
    Some(ReplaySettings {
        memory: memory?,
        memory_per_part: memory_per_part?,
        pipes: pipes?,
        overflow: file?.then_some(directory),
        overflow_limit: overflow_limit?,
    })
}

/// Reads `spool`; `state_directory` holds it unless its directory is set.
pub(super) fn read_spool(
    s: &mut Section<'_>,
    state_directory: Option<&Path>,
) -> Option<SpoolSettings> {
    let directory = s.optional("directory", path);
    let max_bytes = s.required("max_bytes", size(MIB..=1024 * TIB));
    let max_entries = s.required("max_entries", count(1..=100_000_000));
    let min_free = s.required("min_free", size(0..=1024 * TIB));
    let deliveries = s.required("deliveries", count(1..=1024));
    let max_rate = s.optional("max_rate", size(64 * KIB..=TIB));
    let base = s.required("backoff_base", duration(MILLISECOND..=HOUR));
    let cap = s.required("backoff_cap", duration(MILLISECOND..=24 * HOUR));
    if let (Some(base), Some(cap)) = (base, cap)
        && base > cap
    {
        s.fail("backoff_base", "must not be longer than backoff_cap");
    }
    let wait = s.required("wait", duration(MILLISECOND..=HOUR));
    let multipart_ttl = s.required("multipart_ttl", duration(SECOND..=365 * 24 * HOUR));
    let directory = match directory? {
        Some(directory) => directory,
        None => state_directory?.join("spool"),
    };
    Some(SpoolSettings {
        directory,
        max_bytes: max_bytes?,
        max_entries: max_entries? as u64,
        min_free: min_free?,
        deliveries: deliveries?,
        max_rate: max_rate?,
        backoff_base: base?,
        backoff_cap: cap?,
        wait: wait?,
        multipart_ttl: multipart_ttl?,
    })
}

/// Reads `sts`.
pub(super) fn read_sts(s: &mut Section<'_>) -> Option<StsSettings> {
    let enabled = s.required("enabled", boolean);
    let max_duration = s.required("max_duration", duration(MIN_SESSION..=MAX_SESSION));
    Some(StsSettings { enabled: enabled?, max_duration: max_duration? })
}

/// Reads `logging`.
pub(super) fn read_logging(s: &mut Section<'_>) -> Option<LoggingSettings> {
    let format =
        s.required("format", choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]));
    let level = s.required("level", filter);
    Some(LoggingSettings { format: format?, level: level? })
}

/// A list of `level` and `module=level`. env_logger also takes a bare module, which would make
/// every misspelt level one, and ignores the rest that it does not know.
fn filter(value: &Value) -> Result<String, String> {
    let rule = "a level (off, error, warn, info, debug, trace), or a list such as \
                info,mizuchi=debug";
    text_where(rule, |text| {
        text.split(',').all(|directive| {
            let (module, level) = directive.rsplit_once('=').unwrap_or(("mizuchi", directive));
            LEVELS.contains(&level.trim())
                && !module.trim().is_empty()
                && module.trim().bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
        })
    })(value)
}

/// Reads `embedded`.
pub(super) fn read_embedded(s: &mut Section<'_>) -> Option<EmbeddedSettings> {
    let directory = s.required("directory", path);
    Some(EmbeddedSettings { directory: directory? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_is_levels_and_modules_with_levels() {
        for text in ["info", "off", "info,mizuchi=debug", "warn, actix_web::x = trace"] {
            assert!(filter(&Value::new(None, text)).is_ok(), "{text}");
        }
        for text in ["", "inof", "INFO ", "mizuchi", "=debug", "info,", "a=b", "info/regex"] {
            assert!(filter(&Value::new(None, text)).is_err(), "{text}");
        }
    }
}
