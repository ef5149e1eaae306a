//! The kinds of value: each parser says what is wrong and what would be right.
//!
//! Nothing is converted silently: `access_key: 0123` is a number to YAML, and a secret that lost
//! its zero is worse than an error that asks for quotes. The other way round text is read as what
//! the key needs, since every value from a variable is text.

use bytesize::ByteSize;
use config::{Value, ValueKind};
use mizuchi_actors::secret::Secret;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes of a KiB.
pub(super) const KIB: u64 = 1 << 10;
/// Bytes of a MiB.
pub(super) const MIB: u64 = 1 << 20;
/// Bytes of a GiB.
pub(super) const GIB: u64 = 1 << 30;
/// Bytes of a TiB.
pub(super) const TIB: u64 = 1 << 40;

/// Characters of a duration. No sensible one is longer, and the sum of longer ones could overflow
/// inside humantime (`18446744073709551615s 1000ms` panics there).
const MAX_DURATION_TEXT: usize = 20;

/// Characters of a value that an error quotes.
const MAX_QUOTED: usize = 60;

/// A text, which may be empty.
pub(super) fn text(value: &Value) -> Result<&str, String> {
    match &value.kind {
        ValueKind::String(text) => Ok(text),
        ValueKind::Nil => Err("must be text, but is empty".into()),
        ValueKind::Table(_) => Err("must be text, not a section".into()),
        ValueKind::Array(_) => Err("must be text, not a list".into()),
        ValueKind::Boolean(_) => Err("must be text: put the value in quotes".into()),
        _ => Err("must be text, not a number: put the value in quotes".into()),
    }
}

/// A text that `check` accepts; `rule` completes "must be ..., not ...".
pub(super) fn text_where<'r>(
    rule: &'r str,
    check: impl Fn(&str) -> bool + 'r,
) -> impl Fn(&Value) -> Result<String, String> + 'r {
    move |value| match text(value)? {
        text if check(text) => Ok(text.to_owned()),
        text => Err(format!("must be {rule}, not {}", quote(text))),
    }
}

/// A secret: no error ever quotes it.
pub(super) fn secret(value: &Value) -> Result<Secret, String> {
    match text(value)? {
        "" => Err("must not be empty".into()),
        secret if secret.chars().any(char::is_control) => {
            Err("must not hold line breaks or other control characters".into())
        }
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Result<bool, String> {
    match &value.kind {
        ValueKind::Boolean(value) => Ok(*value),
        ValueKind::String(text) if text == "true" => Ok(true),
        ValueKind::String(text) if text == "false" => Ok(false),
        _ => Err(format!("must be true or false, not {}", show(value))),
    }
}

/// A whole number within bounds.
pub(super) fn integer(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        whole(value).filter(|number| bounds.contains(number)).ok_or_else(|| {
            let (least, most) = (bounds.start(), bounds.end());
            format!("must be a whole number of {least} to {most}, not {}", show(value))
        })
    }
}

/// Like [`integer`], for what is counted in memory.
pub(super) fn count(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<usize, String> {
    let parse = integer(bounds);
    move |value| usize::try_from(parse(value)?).map_err(|_| "is too large for this machine".into())
}

fn whole(value: &Value) -> Option<u64> {
    match &value.kind {
        ValueKind::I64(number) => u64::try_from(*number).ok(),
        ValueKind::I128(number) => u64::try_from(*number).ok(),
        ValueKind::U64(number) => Some(*number),
        ValueKind::U128(number) => u64::try_from(*number).ok(),
        ValueKind::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// Bytes within bounds: a plain number, or one with a decimal (`8MB`) or binary (`8MiB`) unit.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<u64, String> {
    move |value| {
        let bytes = match &value.kind {
            ValueKind::String(text) => text.trim().parse().ok().map(|ByteSize(bytes)| bytes),
            _ => whole(value),
        };
        bytes.filter(|bytes| bounds.contains(bytes)).ok_or_else(|| {
            let (least, most) = (show_size(*bounds.start()), show_size(*bounds.end()));
            format!("must be a size such as 8MiB, of {least} to {most}, not {}", show(value))
        })
    }
}

/// A time within bounds, always with its unit: `30s`, `1m 30s`, `50ms`.
pub(super) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl Fn(&Value) -> Result<Duration, String> {
    move |value| {
        let parsed = match &value.kind {
            ValueKind::String(text) if text.len() <= MAX_DURATION_TEXT => {
                humantime::parse_duration(text).ok()
            }
            _ => None,
        };
        parsed.filter(|time| bounds.contains(time)).ok_or_else(|| {
            let [least, most] = [bounds.start(), bounds.end()]
                .map(|time| humantime::format_duration(*time).to_string().replace(' ', ""));
            let found = show(value);
            format!("must be a time with its unit, such as 30s, of {least} to {most}, not {found}")
        })
    }
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    choices: &'static [(&'static str, T)],
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let found = match &value.kind {
            ValueKind::String(text) => choices.iter().find(|(word, _)| word == text),
            _ => None,
        };
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            format!("must be one of {}, not {}", words.join(", "), show(value))
        })
    }
}

/// A path; a relative one is relative to the working directory.
pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    text_where("a path", |text| !text.is_empty() && !text.contains('\0'))(value).map(PathBuf::from)
}

/// An address to listen on.
pub(super) fn address(value: &Value) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        let found = quote(text);
        format!("must be an IP address and a port, such as 0.0.0.0:8080 or [::]:8080, not {found}")
    })
}

/// A value as an error shows it: no more than is needed to find it.
fn show(value: &Value) -> String {
    match &value.kind {
        ValueKind::Nil => "an empty value".into(),
        ValueKind::Table(_) => "a section".into(),
        ValueKind::Array(_) => "a list".into(),
        ValueKind::String(text) => quote(text),
        number => number.to_string(),
    }
}

/// A text as an error quotes it.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("`{}…`", text.get(..end).unwrap_or_default()),
        None => format!("`{text}`"),
    }
}

/// Bytes in the largest binary unit that is exact.
fn show_size(bytes: u64) -> String {
    for (unit, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn value(kind: impl Into<ValueKind>) -> Value {
        Value::new(None, kind)
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_or_decimal_unit() {
        let size = size(1..=5 * TIB);
        for (text, bytes) in [
            ("8MiB", 8 * MIB),
            ("8 MiB", 8 * MIB),
            ("8mib", 8 * MIB),
            ("8MB", 8_000_000),
            ("1.5KiB", 1536),
            ("65536", 65536),
            ("5TiB", 5 * TIB),
        ] {
            assert_eq!(size(&value(text)), Ok(bytes), "{text}");
        }
        assert_eq!(size(&value(1048576_i64)), Ok(MIB));
        for text in ["", "8 bananas", "-1", "0", "6TiB", "99999999999999999999EiB", "KiB", "1e3"] {
            assert!(size(&value(text)).is_err(), "{text}");
        }
        for kind in [ValueKind::from(-1_i64), 1.5.into(), true.into(), ValueKind::Nil] {
            assert!(size(&value(kind)).is_err());
        }
        let error = size(&value("6TiB")).unwrap_err();
        assert_eq!(error, "must be a size such as 8MiB, of 1B to 5TiB, not `6TiB`");
    }

    #[test]
    fn a_duration_has_a_unit() {
        let duration = duration(Duration::from_millis(1)..=DAY);
        for (text, time) in [("30s", 30_000), ("50ms", 50), ("1m 30s", 90_000), ("1.5s", 1500)] {
            assert_eq!(duration(&value(text)), Ok(Duration::from_millis(time)), "{text}");
        }
        for text in ["", "30", "0s", "25h", "s", "-1s", "30 parsecs"] {
            assert!(duration(&value(text)).is_err(), "{text}");
        }
        assert!(duration(&value(30_i64)).is_err(), "a plain number has no unit");
        let error = duration(&value("30")).unwrap_err();
        assert_eq!(error, "must be a time with its unit, such as 30s, of 1ms to 1day, not `30`");
    }

    #[test]
    fn a_duration_that_overflows_is_an_error_and_no_panic() {
        let duration = duration(Duration::ZERO..=Duration::MAX);
        assert!(duration(&value("18446744073709551615s 1000ms")).is_err());
    }

    #[test]
    fn numbers_and_booleans_may_come_as_text_but_not_the_other_way_round() {
        assert_eq!(integer(0..=9)(&value("4")), Ok(4));
        assert_eq!(integer(0..=9)(&value(4_i64)), Ok(4));
        assert!(integer(0..=9)(&value("10")).is_err());
        assert!(integer(0..=9)(&value(4.0)).is_err());
        assert_eq!(boolean(&value("false")), Ok(false));
        assert_eq!(boolean(&value(true)), Ok(true));
        assert!(boolean(&value("yes")).is_err());
        assert!(text(&value(123_i64)).unwrap_err().contains("quotes"));
        assert!(text(&value(true)).unwrap_err().contains("quotes"));
    }

    #[test]
    fn a_long_value_is_quoted_in_part() {
        assert_eq!(quote(&"ü".repeat(61)), format!("`{}…`", "ü".repeat(60)));
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "[0-9]{1,20}(\\.[0-9]*)? ?[a-zA-Zµ]{0,4}|\\PC*") {
            let value = value(text);
            let _ = size(0..=u64::MAX)(&value);
            let _ = duration(Duration::ZERO..=Duration::MAX)(&value);
            let _ = address(&value);
            let _ = integer(0..=u64::MAX)(&value);
        }
    }
}
