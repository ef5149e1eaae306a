//! Reads the JSON of a token for the few members that decide, and builds nothing of the rest.
//!
//! The rest is read all the same, by the rules of [`Value`]: what would fail to parse as a whole
//! fails here, too (a number out of range, half a surrogate pair, a nesting too deep), which serde's
//! own way to ignore a value lets through. Of a name that is there twice the last counts, as in a
//! [`Map`]: whoever parses the whole later reads the same.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The claims that some rule is about: few, since they stand in the settings.
#[derive(Debug)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        Names(names)
    }

    fn find(&self, name: &str) -> Option<usize> {
        // Most names are none of these, and differ in length or in the first byte.
        let (length, first) = (name.len(), name.as_bytes().first());
        let is_alike = |have: &str| have.len() == length && have.as_bytes().first() == first;
        self.0.iter().position(|have| is_alike(have) && have == name)
    }
}

/// Claims, by their names.
pub(super) trait Lookup {
    /// The claim of this name. One that was not read is not there: see [`Names`].
    fn claim(&self, name: &str) -> Option<&Value>;
}

impl Lookup for Map<String, Value> {
    fn claim(&self, name: &str) -> Option<&Value> {
        self.get(name)
    }
}

/// The claims of these names.
#[derive(Debug)]
pub(super) struct Read<'n> {
    names: &'n Names,
    values: Vec<Option<Value>>,
}

impl<'n> Read<'n> {
    /// Reads an object; None: it is none.
    pub(super) fn of(text: &str, names: &'n Names) -> Option<Self> {
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize(names.0.len(), None);
        let read = whole(text, Object { names, values: &mut values });
        read.then_some(Read { names, values })
    }
}

impl Lookup for Read<'_> {
    fn claim(&self, name: &str) -> Option<&Value> {
        self.values.get(self.names.find(name)?)?.as_ref()
    }
}

/// What of a header is looked at.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Header {
    pub(super) has_crit: bool,
    pub(super) alg: Option<Member>,
    pub(super) kid: Option<Member>,
}

/// A member of a header.
#[derive(Debug, PartialEq)]
pub(super) enum Member {
    Text(String),
    Other,
}

impl Header {
    /// Reads an object; None: it is none.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut header = Header::default();
        whole(text, HeaderVisitor(&mut header)).then_some(header)
    }
}

/// Whether the whole text is one object.
fn whole<'t, V: Visitor<'t>>(text: &'t str, visitor: V) -> bool {
    let mut from = serde_json::Deserializer::from_str(text);
    from.deserialize_map(visitor).is_ok() && from.end().is_ok()
}

struct Object<'n, 'v> {
    names: &'n Names,
    values: &'v mut [Option<Value>],
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(at) = map.next_key_seed(NameOf(|name: &str| self.names.find(name)))? {
            match at.and_then(|at| self.values.get_mut(at)) {
                Some(value) => *value = Some(map.next_value()?),
                None => {
                    let Skipped = map.next_value()?;
                }
            }
        }
        Ok(())
    }
}

struct HeaderVisitor<'h>(&'h mut Header);

#[derive(Clone, Copy)]
enum Parameter {
    Alg,
    Crit,
    Kid,
    Other,
}

impl<'de> Visitor<'de> for HeaderVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let which = |name: &str| match name {
            "alg" => Parameter::Alg,
            "crit" => Parameter::Crit,
            "kid" => Parameter::Kid,
            _ => Parameter::Other,
        };
        while let Some(parameter) = map.next_key_seed(NameOf(which))? {
            match parameter {
                Parameter::Alg => self.0.alg = Some(map.next_value()?),
                Parameter::Kid => self.0.kid = Some(map.next_value()?),
                Parameter::Crit => {
                    self.0.has_crit = true;
                    let Skipped = map.next_value()?;
                }
                Parameter::Other => {
                    let Skipped = map.next_value()?;
                }
            }
        }
        Ok(())
    }
}

/// A member's name, for what it means.
struct NameOf<F>(F);

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for NameOf<F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        from.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for NameOf<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<T, E> {
        Ok((self.0)(name))
    }
}

/// A value that is read and not kept.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Skipped)
    }
}

impl<'de> Visitor<'de> for Skipped {
    type Value = Skipped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Skipped, E> {
        Ok(Skipped)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Skipped, A::Error> {
        while entries.next_element::<Skipped>()?.is_some() {}
        Ok(Skipped)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Skipped, A::Error> {
        while members.next_entry::<Skipped, Skipped>()?.is_some() {}
        Ok(Skipped)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(from)? {
            Value::String(text) => Member::Text(text),
            _ => Member::Other,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: [&str; 4] = ["aud", "exp", "iss", "a\"\u{e9}"];

    /// What parses as a whole is read, and nothing else is; and both say the same of each name.
    fn read_is_parsed(text: &str) -> bool {
        let names = Names::new(NAMES);
        let read = Read::of(text, &names);
        let parsed: Option<Map<String, Value>> = serde_json::from_str(text).ok();
        assert_eq!(read.is_some(), parsed.is_some(), "{text}");
        let header = Header::of(text);
        assert_eq!(header.is_some(), parsed.is_some(), "{text}");
        let (Some(read), Some(parsed), Some(header)) = (read, parsed, header) else {
            return false;
        };
        for name in NAMES {
            assert_eq!(read.claim(name), parsed.get(name), "{name} in {text}");
        }
        assert_eq!(read.claim("other"), None);
        let member = |name| match parsed.get(name) {
            None => None,
            Some(Value::String(text)) => Some(Member::Text(text.clone())),
            Some(_) => Some(Member::Other),
        };
        let has_crit = parsed.contains_key("crit");
        assert_eq!(header, Header { has_crit, alg: member("alg"), kid: member("kid") }, "{text}");
        true
    }

    #[test]
    fn what_is_skipped_is_read_by_the_same_rules() {
        for text in [
            "{}",
            r#" {"exp": 1, "x": {"exp": 2}, "exp": 3} "#,
            r#"{"\u0065xp": 1, "a\"é": 2, "x": "\ud83d\ude00"}"#,
            r#"{"alg": "a", "alg": "b", "kid": 7, "crit": null}"#,
            r#"{"x": [1, -2, 3.5, 1e9, true, null, {}]}"#,
            &format!(r#"{{"x": {}{}}}"#, "[".repeat(126), "]".repeat(126)),
        ] {
            assert!(read_is_parsed(text), "{text}");
        }
        for text in [
            "",
            "null",
            "[]",
            "[[\"exp\", 1]]",
            "{} x",
            "{}{}",
            r#"{"x": 1e999}"#,
            r#"{"x": "\ud800"}"#,
            r#"{"x": "\ud800\u0041"}"#,
            r#"{"x": {"\ud800": 1}}"#,
            "{\"x\": \"\n\"}",
            r#"{"x": 01}"#,
            r#"{"x": [1,]}"#,
            r#"{"x": 1,}"#,
            r#"{"x": nul}"#,
            r#"{x: 1}"#,
            r#"{1: 1}"#,
            &format!(r#"{{"x": {}{}}}"#, "[".repeat(127), "]".repeat(127)),
            &"{\"x\":".repeat(4000),
        ] {
            assert!(!read_is_parsed(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_as_it_is_parsed(
            text in "\\PC{0,60}",
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"exp\"", "\"iss\"", "\"x\"", "\"kid\"", "\"alg\"",
                "\"crit\"", "\"\\u0065xp\"", "1", "-0", "1.5", "1e308", "1e309", "-1e400", "true",
                "null", " ", "\"\\ud800\"", "\"\\ud83d\\ude00\"", "\"\\n\"", "\"", "\\",
            ]), 0..12),
        ) {
            read_is_parsed(&text);
            read_is_parsed(&pieces.concat());
            read_is_parsed(&format!("{{\"x\": {}}}", pieces.concat()));
        }

        /// Objects, with names that are there twice among them.
        #[test]
        fn of_a_name_that_is_there_twice_the_last_counts(
            members in prop::collection::vec((
                prop::sample::select(vec!["exp", "iss", "aud", "x", "alg", "kid", "crit", "\\u0065xp"]),
                prop::sample::select(vec!["1", "2", "\"a\"", "[\"b\", 3]", "{\"exp\": 4}", "null", "1.5"]),
            ), 0..9),
        ) {
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let text = ["{", &members.join(","), "}"].concat();
            prop_assert!(read_is_parsed(&text), "{}", text);
        }
    }
}
