//! Log lines through `log` and env_logger: text for people, JSON lines for machines.

use crate::http::AccessLogFormat;
use std::io::Write as _;
use std::time::SystemTime;

/// Starts logging to standard error. `filter` is env_logger's syntax (`info,mizuchi=debug`);
/// RUST_LOG overrides it. A second call changes nothing.
pub(crate) fn start(filter: &str, format: AccessLogFormat) {
    let environment = env_logger::Env::default().default_filter_or(filter.to_owned());
    let mut builder = env_logger::Builder::from_env(environment);
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
    // Only a second logger in one process (tests) makes this fail: the first one stays.
    let _ = builder.try_init();
}

/// How lines look, by the settings.
pub(crate) fn format(settings: &crate::settings::Settings) -> AccessLogFormat {
    match settings.logging.format {
        crate::settings::LogFormat::Text => AccessLogFormat::Text,
        crate::settings::LogFormat::Json => AccessLogFormat::Json,
    }
}
