//! A form's policy: which forms its signer lets be sent, and until when.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html>. The names of
//! fields and of operators are compared without case, values exactly. Every field must be named, and
//! everything that is named must be there and hold: what is not known is a refusal.

use super::fields::{Fields, shown};
use crate::s3::error::{ErrorCode, S3Error};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Fields that a policy need not name; of those with `x-ignore-` none has come this far.
const UNNAMED: [&str; 3] = ["x-amz-signature", "file", "policy"];

/// How long the file may be, bytes, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    /// Fewer: 400 EntityTooSmall.
    pub least: u64,
    /// More: 400 EntityTooLarge.
    pub most: u64,
}

impl Default for SizeRange {
    /// Any length.
    fn default() -> Self {
        SizeRange { least: 0, most: u64::MAX }
    }
}

/// A policy, parsed.
#[derive(Debug, Clone)]
pub struct Policy {
    expiration: OffsetDateTime,
    conditions: Vec<Condition>,
    range: SizeRange,
}

#[derive(Clone, PartialEq, Eq)]
struct Condition {
    /// Only the beginning of the value is given.
    prefix: bool,
    /// In lower case.
    field: String,
    value: String,
}

impl Policy {
    /// Parses the field's value. It is bounded with all fields, and so is its depth (serde_json's).
    ///
    /// Errors: 400 InvalidPolicyDocument.
    pub fn parse(base64: &str) -> Result<Policy, S3Error> {
        let text = STANDARD.decode(base64).map_err(|_| invalid("the policy is not base64"))?;
        let document: Value =
            serde_json::from_slice(&text).map_err(|_| invalid("the policy is not JSON"))?;
        let Value::Object(document) = document else {
            return Err(invalid("the policy is not an object"));
        };
        let known = |name: &String| matches!(name.as_str(), "expiration" | "conditions");
        if let Some(name) = document.keys().find(|name| !known(name)) {
            return Err(invalid(&format!("unexpected '{}'", shown(name))));
        }
        let expiration = match document.get("expiration") {
            None => return Err(invalid("expiration is missing")),
            Some(value) => {
                value.as_str().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
            }
        };
        let expiration =
            expiration.ok_or_else(|| invalid("expiration is not an ISO 8601 date and time"))?;
        let Some(Value::Array(list)) = document.get("conditions") else {
            return Err(invalid("conditions are missing, or not a list"));
        };
        let mut policy = Policy { expiration, conditions: Vec::new(), range: SizeRange::default() };
        for condition in list {
            match condition {
                Value::Object(exact) => {
                    let mut entries = exact.iter();
                    let (Some((field, Value::String(value))), None) =
                        (entries.next(), entries.next())
                    else {
                        return Err(invalid("a simple condition must be one field and its value"));
                    };
                    policy.require(false, field, value);
                }
                Value::Array(words) => policy.condition(words)?,
                _ => return Err(invalid("a condition is neither an object nor a list")),
            }
        }
        Ok(policy)
    }

    fn require(&mut self, prefix: bool, field: &str, value: &str) {
        let (field, value) = (field.to_ascii_lowercase(), value.to_owned());
        self.conditions.push(Condition { prefix, field, value });
    }

    fn condition(&mut self, words: &[Value]) -> Result<(), S3Error> {
        let [Value::String(operator), first, second] = words else {
            return Err(invalid("a condition has not three elements"));
        };
        let operator = operator.to_ascii_lowercase();
        if operator == "content-length-range" {
            let (Some(least), Some(most)) = (first.as_u64(), second.as_u64()) else {
                return Err(invalid("content-length-range needs two whole numbers"));
            };
            if least > most {
                return Err(invalid("content-length-range ends before it begins"));
            }
            // Every condition must hold: of two ranges what both allow.
            let have = self.range;
            self.range = SizeRange { least: have.least.max(least), most: have.most.min(most) };
            return Ok(());
        }
        let prefix = match operator.as_str() {
            "eq" => false,
            "starts-with" => true,
            _ => return Err(invalid(&format!("unknown operator '{}'", shown(&operator)))),
        };
        let (Value::String(field), Value::String(value)) = (first, second) else {
            return Err(invalid("a condition's field and value must be texts"));
        };
        let Some(field) = field.strip_prefix('$') else {
            return Err(invalid("a condition's field must begin with '$'"));
        };
        self.require(prefix, field, value);
        Ok(())
    }

    /// How long the file may be.
    pub fn range(&self) -> SizeRange {
        self.range
    }

    /// Whether a form for `bucket`, with the file's name in its fields already, may be sent at `now`.
    /// The bucket is that of the URL, and a policy must name it: else it would be one for all.
    ///
    /// Errors: 403 AccessDenied.
    pub fn check(&self, fields: &Fields, bucket: &str, now: OffsetDateTime) -> Result<(), S3Error> {
        if now >= self.expiration {
            return Err(denied("Policy expired."));
        }
        for condition in &self.conditions {
            let holds = match condition.field.as_str() {
                // A field of that name must not say otherwise.
                "bucket" => {
                    condition.holds(bucket)
                        && fields.get("bucket").is_none_or(|said| said == bucket)
                }
                name => fields.get(name).is_some_and(|value| condition.holds(value)),
            };
            if !holds {
                return Err(denied(&format!("Policy Condition failed: {condition}")));
            }
        }
        let named = |name: &str| self.conditions.iter().any(|have| have.field == name);
        if !named("bucket") {
            return Err(denied("Policy does not name the bucket."));
        }
        match fields.iter().find(|(name, _)| !UNNAMED.contains(name) && !named(name)) {
            None => Ok(()),
            Some((name, _)) => Err(denied(&format!("Extra input fields: {}", shown(name)))),
        }
    }
}

impl Condition {
    fn holds(&self, value: &str) -> bool {
        match (self.prefix, self.field.as_str()) {
            (false, _) => value == self.value,
            // "Content-Type values for a starts-with condition that include commas are interpreted as
            // lists. Each value in the list must meet the condition."
            (true, "content-type") => {
                value.split(',').all(|one| one.trim_ascii_start().starts_with(self.value.as_str()))
            }
            (true, _) => value.starts_with(self.value.as_str()),
        }
    }
}

impl std::fmt::Display for Condition {
    /// A session token is a credential: messages and logs are without it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operator = if self.prefix { "starts-with" } else { "eq" };
        let value = match self.field.as_str() {
            "x-amz-security-token" => "…".to_owned(),
            _ => shown(&self.value),
        };
        write!(f, "[\"{operator}\", \"${}\", \"{value}\"]", shown(&self.field))
    }
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

fn invalid(what: &str) -> S3Error {
    S3Error::new(ErrorCode::InvalidPolicyDocument, format!("Invalid Policy: {what}."))
}

fn denied(what: &str) -> S3Error {
    S3Error::new(ErrorCode::AccessDenied, format!("Invalid according to Policy: {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    fn policy(json: &str) -> Result<Policy, S3Error> {
        Policy::parse(&STANDARD.encode(json))
    }

    fn with(conditions: &str) -> Result<Policy, S3Error> {
        let bucket = r#"{"bucket": "b"}"#;
        policy(&format!(
            r#"{{"expiration": "2026-01-01T00:00:01.000Z", "conditions": [{bucket}, {conditions}]}}"#
        ))
    }

    /// The outcome of a form; empty: it may be sent.
    fn check(conditions: &str, form: &[(&str, &str)]) -> String {
        let mut fields = Fields::default();
        for (name, value) in form {
            fields.add(name, (*value).to_owned()).unwrap();
        }
        let policy = with(conditions).unwrap();
        policy
            .check(&fields, "b", NOW)
            .map_or_else(|error| error.message.into_owned(), |()| "".into())
    }

    #[test]
    fn conditions_hold_or_the_form_is_denied() {
        let extra = "Invalid according to Policy: Extra input fields: ";
        let failed = "Invalid according to Policy: Policy Condition failed: ";
        for (conditions, form, expected) in [
            (r#"{"key": "k"}"#, &[("key", "k")][..], ""),
            (r#"["eq", "$key", "k"]"#, &[("KEY", "k")], ""),
            (r#"["StArTs-WiTh", "$KeY", "user/"]"#, &[("key", "user/x")], ""),
            (r#"["starts-with", "$key", ""]"#, &[("key", "")], ""),
            (r#"["eq", "$key", "k"]"#, &[("key", "K")], "!"),
            (r#"["eq", "$key", "k"]"#, &[("key", "kk")], "!"),
            (r#"["starts-with", "$key", "user/"]"#, &[("key", "users/x")], "!"),
            (r#"{"key": "k"}, {"acl": "private"}"#, &[("key", "k")], "!"),
            // AWS, too, denies a form without a field that may have any value.
            (r#"["starts-with", "$tag", ""]"#, &[], "!"),
            (
                r#"["starts-with", "$key", "a"], ["starts-with", "$key", "ab"]"#,
                &[("key", "ac")],
                "!",
            ),
            (r#"{"key": "k"}"#, &[("key", "k"), ("acl", "private")], "+acl"),
            (r#"{"key": "k"}"#, &[("key", "k"), ("x-amz-date", "d")], "+x-amz-date"),
            (
                r#"{"key": "k"}"#,
                &[("key", "k"), ("x-amz-signature", "s"), ("policy", "p"), ("x-ignore-me", "1")],
                "",
            ),
            (r#"{"key": "k"}"#, &[("key", "k"), ("bucket", "b")], ""),
            (r#"{"key": "k"}"#, &[("key", "k"), ("bucket", "other")], "!"),
            (
                r#"["starts-with", "$Content-Type", "image/"]"#,
                &[("content-type", "image/a, image/b")],
                "",
            ),
            (
                r#"["starts-with", "$Content-Type", "image/"]"#,
                &[("content-type", "image/a,text/b")],
                "!",
            ),
            (r#"["starts-with", "$Content-Type", "image/"]"#, &[("content-type", "image/a,")], "!"),
            (
                r#"["eq", "$Content-Type", "image/a,image/b"]"#,
                &[("content-type", "image/a,image/b")],
                "",
            ),
            (r#"{"bucket": "other"}"#, &[], "!"),
        ] {
            let said = check(conditions, form);
            match expected.strip_prefix('+') {
                Some(name) => assert_eq!(said, format!("{extra}{name}"), "{conditions}"),
                None if expected == "!" => {
                    assert!(said.starts_with(failed), "{conditions}: {said}")
                }
                None => assert_eq!(said, "", "{conditions}"),
            }
        }
    }

    #[test]
    fn a_session_token_is_in_no_message() {
        let condition = r#"["eq", "$X-Amz-Security-Token", "t0ken"]"#;
        let said = check(condition, &[("x-amz-security-token", "other")]);
        assert!(said.contains("x-amz-security-token") && !said.contains("t0ken"), "{said}");
        assert!(!format!("{:?}", with(condition).unwrap()).contains("t0ken"));
    }

    #[test]
    fn a_policy_expires_and_names_its_bucket() {
        let fields = Fields::default();
        let one = with(r#"["content-length-range", 0, 9]"#).unwrap();
        assert!(one.check(&fields, "b", NOW).is_ok());
        let late = one.check(&fields, "b", datetime!(2026-01-01 00:00:01 UTC)).unwrap_err();
        assert_eq!(
            (late.status, late.message.as_ref()),
            (403, "Invalid according to Policy: Policy expired.")
        );
        assert_eq!(one.check(&fields, "c", NOW).unwrap_err().code, "AccessDenied");
        let any = policy(r#"{"expiration": "2027-01-01T00:00:00Z", "conditions": []}"#).unwrap();
        assert_eq!(any.check(&fields, "b", NOW).unwrap_err().code, "AccessDenied");
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let range = |text: &str| with(&format!(r#"["content-length-range", {text}]"#));
        assert_eq!(range("1, 5").unwrap().range(), SizeRange { least: 1, most: 5 });
        let two = r#"["content-length-range", 1, 5], ["Content-Length-Range", 3, 9]"#;
        assert_eq!(with(two).unwrap().range(), SizeRange { least: 3, most: 5 });
        for bad in ["0", "-1, 0", "2, 1", "\"0\", \"1\"", "0, 1.5", "0, 1e3", "0, 1, 2"] {
            assert_eq!(range(bad).unwrap_err().code, "InvalidPolicyDocument", "{bad}");
        }
        for bad in [
            "{}",
            r#"{"a": 1}"#,
            r#"{"a": "b", "c": "d"}"#,
            r#"["eq", "key", "k"]"#,
            r#"["eq", "$key"]"#,
            r#"["eq", "$key", 1]"#,
            r#"["matches", "$key", "k"]"#,
            "1",
            "[]",
            "null",
        ] {
            assert_eq!(with(bad).unwrap_err().code, "InvalidPolicyDocument", "{bad}");
        }
        let expiration = r#""expiration": "2026-01-01T00:00:00Z""#;
        for bad in [
            "".to_owned(),
            "[]".to_owned(),
            format!("{{{expiration}}}"),
            r#"{"conditions": []}"#.to_owned(),
            r#"{"expiration": "tomorrow", "conditions": []}"#.to_owned(),
            r#"{"expiration": 1, "conditions": []}"#.to_owned(),
            format!(r#"{{{expiration}, "CONDITIONS": []}}"#),
            format!(r#"{{{expiration}, "conditions": {{}}}}"#),
            format!(r#"{{{expiration}, "conditions": [], "more": 1}}"#),
            format!("{}{}", "[".repeat(5000), "]".repeat(5000)),
        ] {
            assert_eq!(policy(&bad).unwrap_err().code, "InvalidPolicyDocument", "{bad}");
        }
        assert_eq!(Policy::parse("%%%").unwrap_err().code, "InvalidPolicyDocument");
    }

    proptest! {
        /// A prefix is a prefix of the value itself, whatever stands in either.
        #[test]
        fn starts_with_is_what_it_says(prefix in "[a-c/,]{0,3}", value in "[a-c/,]{0,5}") {
            let condition = format!(r#"["starts-with", "$key", "{prefix}"]"#);
            let allowed = check(&condition, &[("key", &value)]).is_empty();
            prop_assert_eq!(allowed, value.starts_with(&prefix));
        }
    }
}
