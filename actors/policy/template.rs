//! Texts with `{principal}`, `{bucket}` and `{key}` in them: how a request becomes the users and
//! objects of OpenFGA.
//!
//! OpenFGA's ids have no white space, no `:` and no `#`, and `*` alone means everybody; keys of
//! objects have all of that. So values are percent-encoded: everything that is not a visible ASCII
//! character, and `% : # *`; in a principal or bucket `/` too. Two different requests must never
//! become one object, or a right to one key were a right to another. The encoding is reversible, so
//! that holds for each value alone; for several in one text a template must keep them apart: after
//! `{principal}` and `{bucket}` comes a character that their encoding never has (`/`, `:` or `#`)
//! before the next value, and `{key}`, which may hold slashes, is the last.

use super::question::Question;
use std::fmt::Write as _;

/// What a template puts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Principal,
    Bucket,
    Key,
}

const VALUES: [(&str, Value); 3] =
    [("principal", Value::Principal), ("bucket", Value::Bucket), ("key", Value::Key)];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value(Value),
}

/// A template that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// What a template is for: it decides what it must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A user: `type:id`, or a userset `type:id#relation`.
    User,
    /// An object: `type:id`.
    Object,
    /// An object that stands for a bucket: there is no key.
    BucketObject,
}

impl Template {
    /// Parses and checks a template.
    ///
    /// Errors: what it must be, in words.
    pub fn parse(text: &str, role: Role) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("has a { without its }")?;
            let known = VALUES.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            let value =
                known.ok_or("may have {principal}, {bucket} and {key}, and no other values")?;
            if value == Value::Key && role == Role::BucketObject {
                return Err("is for operations on a bucket, which have no {key}".to_owned());
            }
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Value(value));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let template = Template(pieces);
        template.check(role)?;
        Ok(template)
    }

    fn check(&self, role: Role) -> Result<(), String> {
        let texts = || {
            self.0.iter().filter_map(|piece| match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Value(_) => None,
            })
        };
        if texts().any(|text| text.contains(|c: char| !c.is_ascii_graphic() || c == '}')) {
            return Err("must be visible ASCII characters without spaces".to_owned());
        }
        let count = |mark: char| texts().map(|text| text.matches(mark).count()).sum::<usize>();
        let first = texts().next().filter(|_| matches!(self.0.first(), Some(Piece::Text(_))));
        let kind = first.and_then(|text| text.split_once(':')).map(|(kind, _)| kind);
        if count(':') != 1 || kind.is_none_or(|kind| kind.is_empty() || kind.contains(['#', '@'])) {
            return Err("must be a type, a colon and an id, such as user:{principal}".to_owned());
        }
        if count('#') > usize::from(role == Role::User) {
            return Err("must not have a # in it".to_owned());
        }
        let last = self.0.last();
        if matches!(last, Some(Piece::Text(text)) if text.ends_with([':', '#'])) {
            return Err("must have an id after the colon".to_owned());
        }
        for (at, piece) in self.0.iter().enumerate() {
            let rest = self.0.get(at + 1..).unwrap_or_default();
            if !rest.iter().any(|piece| matches!(piece, Piece::Value(_))) {
                continue;
            }
            let apart = match (piece, rest.first()) {
                (Piece::Text(_), _) => true,
                (Piece::Value(Value::Key), _) => false,
                (Piece::Value(_), Some(Piece::Text(text))) => text.contains(['/', ':', '#']),
                (Piece::Value(_), _) => false,
            };
            if !apart {
                return Err("must have {key} last, and a / between two values: two requests must \
                            not become one object"
                    .to_owned());
            }
        }
        Ok(())
    }

    /// The text for a request. A key that is not there (an operation on a bucket) is an empty one.
    pub fn render(&self, question: &Question<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value(Value::Principal) => encode(question.principal, true, &mut out),
                Piece::Value(Value::Bucket) => encode(question.bucket, true, &mut out),
                Piece::Value(Value::Key) => {
                    encode(question.key.unwrap_or_default(), false, &mut out);
                }
            }
        }
        out
    }

    /// Whether it has a `{key}`.
    pub fn has_key(&self) -> bool {
        self.0.contains(&Piece::Value(Value::Key))
    }
}

fn encode(value: &str, slash: bool, out: &mut String) {
    for byte in value.bytes() {
        let special = matches!(byte, b'%' | b':' | b'#' | b'*') || (slash && byte == b'/');
        if byte.is_ascii_graphic() && !special {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::question::tests::put;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_put_in_as_ids() {
        let object = Template::parse("object:{bucket}/{key}", Role::Object).unwrap();
        for (key, expected) in [
            ("a/b.txt", "object:uploads/a/b.txt"),
            ("a b", "object:uploads/a%20b"),
            ("a%20b", "object:uploads/a%2520b"),
            ("x:y#z*", "object:uploads/x%3Ay%23z%2A"),
            ("ü\u{a0}", "object:uploads/%C3%BC%C2%A0"),
            ("{key}", "object:uploads/{key}"),
        ] {
            assert_eq!(object.render(&put("anne", key)), expected);
        }
        let user = Template::parse("user:{principal}", Role::User).unwrap();
        for (principal, expected) in [
            ("anne@example.com", "user:anne@example.com"),
            ("auth0|7", "user:auth0|7"),
            ("a/b", "user:a%2Fb"),
            // OpenFGA's name for everybody.
            ("*", "user:%2A"),
            ("group:x#member", "user:group%3Ax%23member"),
        ] {
            assert_eq!(user.render(&put(principal, "k")), expected);
        }
    }

    #[test]
    fn what_openfga_cannot_take_or_what_could_collide_is_refused() {
        for (text, role) in [
            ("", Role::User),
            ("{principal}", Role::User),
            ("user", Role::User),
            ("user:", Role::User),
            (":x", Role::User),
            ("user:a:b", Role::User),
            ("{key}:x", Role::Object),
            ("object:x#writer", Role::Object),
            ("object: {key}", Role::Object),
            ("object:{key", Role::Object),
            ("object:key}", Role::Object),
            ("object:{size}", Role::Object),
            ("object:{bucket}{key}", Role::Object),
            ("object:{bucket}-{key}", Role::Object),
            ("object:{key}/{bucket}", Role::Object),
            ("object:{key}{key}", Role::Object),
            ("bucket:{key}", Role::BucketObject),
            ("gruppe:ü", Role::User),
        ] {
            assert!(Template::parse(text, role).is_err(), "{text}");
        }
        for (text, role) in [
            ("user:{principal}", Role::User),
            ("group:{bucket}#member", Role::User),
            ("object:{bucket}/{principal}/{key}", Role::Object),
            ("object:{bucket}/x-{key}.bak", Role::Object),
            ("bucket:{bucket}", Role::BucketObject),
            ("gateway:all", Role::Object),
        ] {
            assert!(Template::parse(text, role).is_ok(), "{text}");
        }
    }

    proptest! {
        /// Whatever two requests name, one object means that it was one principal, bucket and key.
        #[test]
        fn two_requests_are_never_one_object(
            one in ("[ -~ü]{1,4}", "[a-z.-]{1,3}", "[ -~ü/]{0,5}"),
            two in ("[ -~ü]{1,4}", "[a-z.-]{1,3}", "[ -~ü/]{0,5}"),
        ) {
            let object = Template::parse("o:{bucket}/{principal}/{key}", Role::Object).unwrap();
            let render = |(principal, bucket, key): &(String, String, String)| {
                object.render(&Question { bucket, ..put(principal, key) })
            };
            prop_assert_eq!(render(&one) == render(&two), one == two);
            let id = render(&one);
            let (_, id) = id.split_once(':').unwrap();
            prop_assert!(!id.contains([':', '#', '*', ' ']), "{}", id);
        }
    }
}
