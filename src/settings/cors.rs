//! `buckets[].cors`: which web pages may upload.

use super::section::Section;
use super::values::{choice, integer, quote, text, text_where};
use config::Value;
use mizuchi_actors::s3::cors::{CorsRule, METHODS, Pattern};

/// Rules of a bucket, as S3 has it (Amazon S3 User Guide, "Elements of a CORS configuration").
const MAX_RULES: usize = 100;
/// Seconds, a day: the most that any browser honours.
const MAX_AGE: u64 = 86_400;

const ALLOWED: &[(&str, &str)] = &[
    (METHODS[0], METHODS[0]),
    (METHODS[1], METHODS[1]),
    (METHODS[2], METHODS[2]),
    (METHODS[3], METHODS[3]),
    (METHODS[4], METHODS[4]),
];

/// Reads `cors` of a bucket: no rule unless there are some.
pub(super) fn read_all(s: &mut Section<'_>) -> Option<Vec<CorsRule>> {
    let rules = s.entries("cors", read);
    if rules.len() > MAX_RULES {
        s.fail("cors", format!("must have at most {MAX_RULES} rules"));
    }
    rules.into_iter().collect()
}

fn read(s: &mut Section<'_>) -> Option<CorsRule> {
    let origins = some(s, "allowed_origins", origin);
    let methods = some(s, "allowed_methods", choice(ALLOWED));
    let headers = s.list("allowed_headers", header_pattern);
    let expose = s.list("expose_headers", |value| {
        text_where("the name of a header, without a *", is_header_name)(value)
    });
    let max_age = s.optional("max_age_seconds", integer(0..=MAX_AGE));
    Some(CorsRule {
        origins: origins?,
        methods: methods?,
        headers: headers?,
        expose: expose?,
        max_age: max_age?,
    })
}

/// A list with at least one entry.
fn some<T>(
    s: &mut Section<'_>,
    key: &'static str,
    parse: impl Fn(&Value) -> Result<T, String>,
) -> Option<Vec<T>> {
    let entries = s.list(key, parse)?;
    if entries.is_empty() {
        s.fail(key, "must have at least one entry");
        return None;
    }
    Some(entries)
}

/// An origin as browsers send it: scheme, host and port only, in lower case. Anything else would
/// never match.
fn origin(value: &Value) -> Result<Pattern, String> {
    let text = text(value)?;
    let wrong = || {
        format!(
            "must be an origin as browsers send it, such as https://app.example.com (lower case, \
             no path, no / at its end), with at most one *, or * alone, not {}",
            quote(text)
        )
    };
    let host = text.split_once("://").map(|(_, host)| host);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]*".contains(&b);
    let rest = host.unwrap_or(text);
    let has_place = !rest.is_empty() && (host.is_some() || rest.contains('*'));
    if !has_place || !rest.bytes().all(plain) {
        return Err(wrong());
    }
    Pattern::parse(text).ok_or_else(wrong)
}

fn header_pattern(value: &Value) -> Result<Pattern, String> {
    let text = text(value)?;
    let wrong = || {
        let found = quote(text);
        format!("must be the name of a header, such as content-type, x-amz-* or *, not {found}")
    };
    if !is_header_name(&text.replace('*', "x")) {
        return Err(wrong());
    }
    Pattern::parse(&text.to_ascii_lowercase()).ok_or_else(wrong)
}

/// A name in HTTP (RFC 9110, "token") but for `*`.
fn is_header_name(text: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::new(None, text)
    }

    #[test]
    fn an_origin_is_one_that_a_browser_can_send() {
        for text in [
            "*",
            "https://app.example.com",
            "https://*.example.com",
            "http://localhost:*",
            "http://[::1]:3000",
            "https://*",
            "*.example.com",
            "capacitor://localhost",
        ] {
            assert!(origin(&value(text)).is_ok(), "{text}");
        }
        for text in [
            "",
            "app.example.com",
            "https://",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://App.example.com",
            "https://*.*.com",
            "https://a, https://b",
            "**",
        ] {
            assert!(origin(&value(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_pattern_is_a_name_with_at_most_one_star() {
        for text in ["*", "x-amz-*", "Content-Type", "x-*-date"] {
            assert!(header_pattern(&value(text)).is_ok(), "{text}");
        }
        assert!(header_pattern(&value("Content-Type")).unwrap().matches("content-type"));
        for text in ["", "x-*-*", "a b", "a:", "a,b"] {
            assert!(header_pattern(&value(text)).is_err(), "{text}");
        }
    }
}
