//! What a token says of its bearer, as it came; taken apart where somebody wants to look at it.
//!
//! Most requests never need more of a token than the few claims that its issuer's rules are about,
//! which are read while it is verified. The whole of it is wanted by a policy that has not yet
//! decided, and by the token service: only there the tree of values is built, once.

use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// The claims of a token that was verified. One of the two forms is always there.
#[derive(Debug)]
pub struct Claims {
    text: OnceLock<String>,
    map: OnceLock<Option<Map<String, Value>>>,
}

impl Claims {
    /// A token's own text. Whoever makes it has read it as a JSON object by the rules of [`Value`].
    pub(crate) fn from_text(text: String) -> Self {
        Claims { text: OnceLock::from(text), map: OnceLock::new() }
    }

    /// Its text: of two that are equal the claims are equal.
    pub fn text(&self) -> &str {
        self.text.get_or_init(|| {
            // A map of values has no key that is not text, so this cannot fail.
            self.map.get().and_then(|map| serde_json::to_string(map).ok()).unwrap_or_default()
        })
    }

    /// The claims by their names; of one that is there twice the last. None, which whoever asks takes
    /// for a refusal: the text is no object after all.
    pub fn map(&self) -> Option<&Map<String, Value>> {
        let parse = || self.text.get().and_then(|text| serde_json::from_str(text).ok());
        self.map.get_or_init(parse).as_ref()
    }
}

impl From<Map<String, Value>> for Claims {
    fn from(map: Map<String, Value>) -> Self {
        Claims { text: OnceLock::new(), map: OnceLock::from(Some(map)) }
    }
}

/// As an object without a name that is there twice: not every reader takes the last.
impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let map = self.map().ok_or_else(|| S::Error::custom("the claims are no object"))?;
        map.serialize(to)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_say_the_same() {
        let read = Claims::from_text(r#"{"b": 1, "a": [2], "b": 3}"#.to_owned());
        let expected = json!({"a": [2], "b": 3});
        assert_eq!(read.map(), expected.as_object());
        assert_eq!(serde_json::to_string(&read).unwrap(), r#"{"a":[2],"b":3}"#);
        let made = Claims::from(expected.as_object().unwrap().clone());
        assert_eq!(made.text(), r#"{"a":[2],"b":3}"#);
        assert_eq!(made.map(), expected.as_object());
    }

    #[test]
    fn what_is_no_object_is_nothing() {
        for text in ["", "[]", "null", "{", r#"{"a": 1e999}"#, r#"{"a": "\ud800"}"#] {
            let claims = Claims::from_text(text.to_owned());
            assert!(claims.map().is_none() && serde_json::to_string(&claims).is_err(), "{text}");
        }
    }
}
