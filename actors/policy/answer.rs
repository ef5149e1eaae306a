//! What an engine answers, and the two shapes that a policy's result may have.

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Characters of a reason that are kept: for a line of the audit log, and so that a cache of ten
/// thousand decisions stays small.
const MAX_REASON: usize = 256;

/// A decision. Whoever is not [`Verdict::Allowed`] is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may proceed.
    Allowed,
    /// It may not.
    Denied {
        /// The policy's own words, for the audit log alone; empty: it gave none.
        reason: String,
    },
    /// There is no decision: 503, and the client may try again.
    Undecided {
        /// What went wrong.
        reason: String,
    },
}

impl Verdict {
    /// Denied, for this reason.
    pub fn denied(reason: &str) -> Self {
        Verdict::Denied { reason: shorten(reason) }
    }

    /// Undecided, for this reason.
    pub fn undecided(reason: &str) -> Self {
        Verdict::Undecided { reason: shorten(reason) }
    }

    /// Its name in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Allowed => "allowed",
            Verdict::Denied { .. } => "denied",
            Verdict::Undecided { .. } => "undecided",
        }
    }

    /// A policy's result: `true`, `false`, or an object with `allow` and maybe a `reason`. Whatever
    /// else it has is not looked at; any other shape, `allow: "true"` included, is undecided.
    pub fn of_result(result: &Value) -> Self {
        let (allow, reason) = match result {
            Value::Bool(allow) => (Some(*allow), ""),
            Value::Object(object) => {
                let reason = match object.get("reason") {
                    None | Some(Value::Null) => Some(""),
                    Some(reason) => reason.as_str(),
                };
                let allow = object.get("allow").and_then(Value::as_bool);
                (allow.filter(|_| reason.is_some()), reason.unwrap_or_default())
            }
            _ => (None, ""),
        };
        match allow {
            Some(true) => Verdict::Allowed,
            Some(false) => Verdict::denied(reason),
            None => Verdict::undecided(
                "the result is neither true, false nor {allow: true or false, reason: text}",
            ),
        }
    }
}

/// A reason as it is kept: of one line, and not long.
fn shorten(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect()
}

/// Reads an answer, which must be a JSON object without a key that is there twice. serde alone would
/// take an array for a struct: `[true]` is nobody's `{"allowed": true}`.
pub(super) fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    match answer.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => serde_json::from_slice(answer).map_err(|error| error.to_string()),
        _ => Err("it is not a JSON object".to_owned()),
    }
}

/// What an engine has said, and whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The decision.
    pub verdict: Verdict,
    /// False: no answer, or none that can be understood. The engine is down or not itself, whoever
    /// asks; an undecided verdict alone can be the fault of one question.
    pub well: bool,
}

impl Answer {
    /// The engine is well.
    pub fn well(verdict: Verdict) -> Self {
        Answer { verdict, well: true }
    }

    /// The engine is not.
    pub fn unwell(reason: &str) -> Self {
        Answer { verdict: Verdict::undecided(reason), well: false }
    }
}

/// A decision, and how it came about.
#[derive(Debug, Clone)]
pub struct Ruling {
    /// The decision.
    pub verdict: Verdict,
    /// Who made it: `opa`, `rego` or `openfga`.
    pub by: &'static str,
    /// Whether it was made earlier, or for somebody who asked the same at the same time.
    pub cached: bool,
    /// How long it took.
    pub elapsed: Duration,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_two_shapes_allow() {
        for result in [json!(true), json!({"allow": true}), json!({"allow": true, "x": [1]})] {
            assert_eq!(Verdict::of_result(&result), Verdict::Allowed, "{result}");
        }
        for (result, reason) in [
            (json!(false), ""),
            (json!({"allow": false, "reason": null}), ""),
            (json!({"allow": false, "reason": "no\nway"}), "no way"),
        ] {
            let denied = Verdict::Denied { reason: reason.to_owned() };
            assert_eq!(Verdict::of_result(&result), denied, "{result}");
        }
        for result in [
            json!(null),
            json!(1),
            json!("true"),
            json!([true]),
            json!({}),
            json!({"result": true}),
            json!({"allow": "true"}),
            json!({"allow": 1}),
            json!({"allow": null}),
            json!({"allow": true, "reason": 7}),
        ] {
            assert_eq!(Verdict::of_result(&result).as_str(), "undecided", "{result}");
        }
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let Verdict::Denied { reason } = Verdict::denied(&"ü\r\n".repeat(999)) else { panic!() };
        assert_eq!(reason.chars().count(), MAX_REASON);
        assert!(!reason.contains(char::is_control));
    }
}
