//! What the claims of a verified token must say (RFC 7519, 4.1).

use super::reading::Lookup;
use super::refused::Refused;
use serde_json::{Number, Value};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Bytes of the longest principal: as that of any other credential.
const MAX_PRINCIPAL: usize = 256;

/// The last second that a time can be: the end of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// A value that a claim may have. Types are not converted: the text "1" is not the number 1.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// A text, in the same case.
    Text(String),
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(Number),
}

impl Expected {
    fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Expected::Text(text), Value::String(have)) => text == have,
            (Expected::Bool(truth), Value::Bool(have)) => truth == have,
            (Expected::Number(number), Value::Number(have)) => {
                match (number.as_i128(), have.as_i128()) {
                    (Some(number), Some(have)) => number == have,
                    _ => number.as_f64() == have.as_f64(),
                }
            }
            _ => false,
        }
    }
}

/// What an issuer's tokens must say.
#[derive(Debug, Clone)]
pub struct ClaimRules {
    /// `aud` must name one of them; None: any audience, or none, will do.
    pub audiences: Option<Vec<String>>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// The claim that says who the bearer is.
    pub principal: String,
    /// Claims that must have one of the values; where a claim is a list, one of its entries must.
    pub required: Vec<(String, Vec<Expected>)>,
}

impl ClaimRules {
    /// The names of the claims that [`Self::check`] looks at.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let required = self.required.iter().map(|(name, _)| name.as_str());
        ["exp", "nbf", "aud", self.principal.as_str()].into_iter().chain(required)
    }

    /// Checks the claims of a token whose signature was verified. Who it is, and until when.
    ///
    /// Errors: 400 InvalidToken (a time that is none), ExpiredToken; 403 AccessDenied.
    pub(super) fn check(
        &self,
        claims: &impl Lookup,
        now: OffsetDateTime,
    ) -> Result<(Arc<str>, OffsetDateTime), Refused> {
        let now = now.unix_timestamp_nanos() as f64 / 1e9;
        let leeway = self.leeway.as_secs_f64();
        let Some(exp) = claims.claim("exp").and_then(Value::as_f64) else {
            return Err(Refused::invalid("exp is missing, or no number"));
        };
        let nbf = match claims.claim("nbf") {
            None => None,
            Some(nbf) => Some(nbf.as_f64().ok_or_else(|| Refused::invalid("nbf is no number"))?),
        };
        // RFC 7519, 4.1.4: "on or after which the JWT MUST NOT be accepted".
        if now >= exp + leeway {
            return Err(Refused::expired());
        }
        if nbf.is_some_and(|nbf| now + leeway < nbf) {
            return Err(Refused::denied("the token is not valid yet (nbf)"));
        }
        if let Some(audiences) = &self.audiences
            && !is_for(claims.claim("aud"), audiences)
        {
            return Err(Refused::denied("the token is for another audience"));
        }
        for (name, allowed) in &self.required {
            let is_allowed = |value: &Value| allowed.iter().any(|expected| expected.is(value));
            let holds = match claims.claim(name) {
                None => false,
                Some(Value::Array(entries)) => entries.iter().any(is_allowed),
                Some(value) => is_allowed(value),
            };
            if !holds {
                return Err(Refused::denied(format!("the claim {name} is not as required")));
            }
        }
        let principal = match claims.claim(&self.principal) {
            Some(Value::String(principal)) if is_principal(principal) => principal.as_str(),
            _ => {
                let name = &self.principal;
                return Err(Refused::denied(format!("the claim {name} names no principal")));
            }
        };
        // A float to integer cast saturates, and `exp` is after `now - leeway`.
        let seconds = exp.min(LAST_SECOND) as i64;
        let expires = OffsetDateTime::from_unix_timestamp(seconds)
            .map_err(|_| Refused::invalid("exp is no time"))?;
        Ok((Arc::from(principal), expires))
    }
}

fn is_for(aud: Option<&Value>, audiences: &[String]) -> bool {
    let named = |value: &Value| {
        value.as_str().is_some_and(|name| audiences.iter().any(|audience| audience == name))
    };
    match aud {
        Some(Value::Array(names)) => names.iter().any(named),
        Some(name) => named(name),
        None => false,
    }
}

fn is_principal(text: &str) -> bool {
    (1..=MAX_PRINCIPAL).contains(&text.len()) && !text.chars().any(char::is_control)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-01-01 00:00:00 UTC);

    fn rules() -> ClaimRules {
        ClaimRules {
            audiences: Some(vec!["mizuchi".into(), "other".into()]),
            leeway: Duration::from_secs(30),
            principal: "sub".into(),
            required: Vec::new(),
        }
    }

    /// The code that answers these claims, laid over good ones (null: without that claim).
    fn code(rules: &ClaimRules, changes: Value) -> String {
        let now = NOW.unix_timestamp();
        let mut claims = json!({"sub": "ann", "aud": "mizuchi", "exp": now + 60, "nbf": now - 60});
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        match rules.check(claims.as_object().unwrap(), NOW) {
            Ok((principal, _)) => principal.to_string(),
            Err(refused) => refused.error.code.into_owned(),
        }
    }

    /// security.md, "JWT": "`exp` / `nbf` as a string; no `exp`: 400 InvalidToken"; "expired: 400
    /// ExpiredToken".
    #[test]
    fn times_are_numbers_and_have_a_leeway() {
        let now = NOW.unix_timestamp();
        for (changes, expected) in [
            (json!({}), "ann"),
            (json!({"exp": null}), "InvalidToken"),
            (json!({"exp": (now + 60).to_string()}), "InvalidToken"),
            (json!({"exp": [now + 60]}), "InvalidToken"),
            (json!({"exp": true}), "InvalidToken"),
            (json!({"nbf": "0"}), "InvalidToken"),
            (json!({"nbf": {}}), "InvalidToken"),
            (json!({"nbf": null}), "ann"),
            (json!({"exp": now - 29}), "ann"),
            (json!({"exp": now - 30}), "ExpiredToken"),
            (json!({"exp": now as f64 - 29.5}), "ann"),
            (json!({"exp": -1}), "ExpiredToken"),
            (json!({"exp": -1e300}), "ExpiredToken"),
            (json!({"exp": 1e300}), "ann"),
            (json!({"exp": u64::MAX}), "ann"),
            (json!({"nbf": now + 30}), "ann"),
            (json!({"nbf": now + 31}), "AccessDenied"),
            (json!({"nbf": 1e300}), "AccessDenied"),
        ] {
            assert_eq!(code(&rules(), changes.clone()), expected, "{changes}");
        }
        let claims = json!({"sub": "a", "aud": "other", "exp": 1e300});
        let (_, expires) = rules().check(claims.as_object().unwrap(), NOW).unwrap();
        assert_eq!(expires.year(), 9999);
        let claims = json!({"sub": "a", "aud": "other", "exp": now + 7});
        let (_, expires) = rules().check(claims.as_object().unwrap(), NOW).unwrap();
        assert_eq!(expires, NOW + Duration::from_secs(7), "without the leeway");
    }

    /// RFC 7519, 4.1.3: "If the principal processing the claim does not identify itself with a value
    /// in the "aud" claim when this claim is present, then the JWT MUST be rejected."
    #[test]
    fn the_audience_is_one_or_a_list() {
        for (aud, expected) in [
            (json!("other"), "ann"),
            (json!(["x", "mizuchi"]), "ann"),
            (json!("Mizuchi"), "AccessDenied"),
            (json!(["x"]), "AccessDenied"),
            (json!([]), "AccessDenied"),
            (json!(7), "AccessDenied"),
            (json!({"mizuchi": "mizuchi"}), "AccessDenied"),
            (json!([["mizuchi"]]), "AccessDenied"),
            (Value::Null, "AccessDenied"),
        ] {
            assert_eq!(code(&rules(), json!({"aud": aud})), expected, "{aud}");
            let any = ClaimRules { audiences: None, ..rules() };
            assert_eq!(code(&any, json!({"aud": aud})), "ann", "{aud}");
        }
    }

    #[test]
    fn a_principal_is_a_short_plain_text() {
        for (sub, expected) in [
            (json!("x".repeat(256)), "x".repeat(256).as_str()),
            (json!("a b/ü"), "a b/ü"),
            (json!(""), "AccessDenied"),
            (json!("x".repeat(257)), "AccessDenied"),
            (json!("a\nb"), "AccessDenied"),
            (json!("a\u{85}"), "AccessDenied"),
            (json!(7), "AccessDenied"),
            (json!(["ann"]), "AccessDenied"),
            (Value::Null, "AccessDenied"),
        ] {
            assert_eq!(code(&rules(), json!({"sub": sub})), expected, "{sub}");
        }
        let by_mail = ClaimRules { principal: "email".into(), ..rules() };
        assert_eq!(code(&by_mail, json!({"email": "a@b"})), "a@b");
        assert_eq!(code(&by_mail, json!({})), "AccessDenied");
    }

    #[test]
    fn required_claims_have_one_of_their_values() {
        let text = |text: &str| Expected::Text(text.into());
        let rules = ClaimRules {
            required: vec![
                ("role".into(), vec![text("writer"), text("admin")]),
                ("level".into(), vec![Expected::Number(7.into())]),
                ("staff".into(), vec![Expected::Bool(true)]),
            ],
            ..rules()
        };
        let good = json!({"role": "admin", "level": 7, "staff": true});
        assert_eq!(code(&rules, good.clone()), "ann");
        for (name, value, allowed) in [
            ("role", json!(["reader", "writer"]), true),
            ("role", json!("reader"), false),
            ("role", json!("Writer"), false),
            ("role", json!([]), false),
            ("role", json!([["writer"]]), false),
            ("role", json!({"writer": true}), false),
            ("role", Value::Null, false),
            ("level", json!(7.0), true),
            ("level", json!([1, 7]), true),
            ("level", json!("7"), false),
            ("level", json!(7.5), false),
            ("staff", json!("true"), false),
            ("staff", json!(1), false),
            ("staff", json!(false), false),
        ] {
            let mut changed = good.clone();
            changed[name] = value.clone();
            let expected = if allowed { "ann" } else { "AccessDenied" };
            assert_eq!(code(&rules, changed), expected, "{name}: {value}");
        }
    }
}
