//! `${VAR}` and `${VAR:-default}` in the text values of the settings file.
//!
//! As in a shell, the default counts when the variable is unset or empty, and what was put in is
//! not read again. `$${` is a literal `${`. A variable that is neither set nor has a default is an
//! error: an empty secret or endpoint would be noticed much later. The environment comes as an
//! argument, so that the same file and the same map always give the same settings.

use super::findings::Findings;
use super::section::{index, join};
use config::{Value, ValueKind};
use std::collections::BTreeMap;

/// Replaces the variables in every text under `value`; `path` is the key of `value`. What cannot
/// be replaced is noted under its key and left empty.
pub(super) fn interpolate_tree(
    value: &mut Value,
    path: &str,
    environment: &BTreeMap<String, String>,
    findings: &Findings,
) {
    match &mut value.kind {
        ValueKind::String(text) => match interpolate(text, environment) {
            Ok(replaced) => *text = replaced,
            Err(problem) => {
                findings.error(path, problem);
                value.kind = ValueKind::Nil;
            }
        },
        ValueKind::Table(table) => {
            for (key, value) in table {
                interpolate_tree(value, &join(path, key), environment, findings);
            }
        }
        ValueKind::Array(list) => {
            for (position, value) in list.iter_mut().enumerate() {
                interpolate_tree(value, &index(path, position), environment, findings);
            }
        }
        _ => {}
    }
}

/// Replaces the variables in one text. The error never quotes the text: it may be a secret.
fn interpolate(text: &str, environment: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let (expression, after) = after
            .split_once('}')
            .ok_or("`${` without `}`: write `${VAR}`, or `$${` for a literal `${`")?;
        rest = after;
        let (name, default) = match expression.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (expression, None),
        };
        if !is_name(name) {
            return Err("`${` must be followed by the name of an environment variable: write \
                        `${VAR}` or `${VAR:-default}`, or `$${` for a literal `${`"
                .into());
        }
        match (environment.get(name), default) {
            (Some(value), None) => out.push_str(value),
            (Some(value), Some(_)) if !value.is_empty() => out.push_str(value),
            (_, Some(default)) => out.push_str(default),
            (None, None) => {
                return Err(format!(
                    "the environment variable {name} is not set: set it, or give a default as \
                     `${{{name}:-default}}`"
                ));
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// POSIX: letters, digits and underscores, not beginning with a digit.
fn is_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn environment() -> BTreeMap<String, String> {
        [("A", "one"), ("B_2", "${A}"), ("EMPTY", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn variables_are_replaced_once() {
        for (text, expected) in [
            ("", ""),
            ("plain $ } {", "plain $ } {"),
            ("${A}", "one"),
            ("<${A}${A}>", "<oneone>"),
            ("${B_2}", "${A}"),
            ("${EMPTY}", ""),
            ("${EMPTY:-two}", "two"),
            ("${NONE:-two}", "two"),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("${A:-two}", "one"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("$${ ${A}", "${ one"),
            ("$A", "$A"),
        ] {
            assert_eq!(interpolate(text, &environment()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_unset_variable_is_named() {
        let error = interpolate("x${NONE}", &environment()).unwrap_err();
        assert!(error.contains("NONE is not set"), "{error}");
    }

    #[test]
    fn a_malformed_expression_is_an_error_that_does_not_quote_the_text() {
        for text in ["canary${A", "${canary!}", "${}", "${1A}", "${:-canary}", "${canary b}"] {
            let error = interpolate(text, &environment()).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "[$}{A:b \\-]{0,24}|\\PC*") {
            let _ = interpolate(&text, &environment());
        }

        #[test]
        fn text_without_an_expression_is_unchanged(text in "[^$]*") {
            prop_assert_eq!(interpolate(&text, &environment()).unwrap(), text);
        }
    }
}
