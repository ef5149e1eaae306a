//! The built-in rules: the buckets, key prefixes and operations that one credential is good for
//! (`allow` of a SigV4 credential, of a token's issuer, of client certificates).
//!
//! What is not limited is allowed; what is limited is allowed only where it is named.

use crate::s3::operation::Operation;

/// Stands for the principal in a key prefix.
pub const PRINCIPAL: &str = "{principal}";

/// What a credential is good for. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// Names of buckets, as clients see them; None: all.
    pub buckets: Option<Vec<String>>,
    /// A key must begin with one of them; None: any key. `{principal}` stands for the principal: with
    /// `home/{principal}/` everyone has a folder. A principal that is no plain name (with a `/` in it, or
    /// `.` or `..`) has none, since it could name another's.
    pub key_prefixes: Option<Vec<String>>,
    /// S3's names of operations ([`Operation::NAMES`]); None: all.
    pub operations: Option<Vec<String>>,
}

impl Grants {
    /// Whether `principal` may do `operation` in `bucket`.
    ///
    /// Errors: which rule says no, in words for the audit log.
    pub fn check(
        &self,
        principal: &str,
        bucket: &str,
        operation: &Operation,
    ) -> Result<(), &'static str> {
        let names = |list: &Option<Vec<String>>, name: &str| {
            list.as_ref().is_none_or(|list| list.iter().any(|have| have == name))
        };
        if !names(&self.buckets, bucket) {
            return Err("allow.buckets does not name the bucket");
        }
        if !names(&self.operations, operation.name()) {
            return Err("allow.operations does not name the operation");
        }
        let (Some(prefixes), Some(key)) = (&self.key_prefixes, operation.key()) else {
            return Ok(());
        };
        let begins = |prefix: &String| match prefix.contains(PRINCIPAL) {
            false => key.as_str().starts_with(prefix.as_str()),
            true => {
                is_a_name(principal)
                    && key.as_str().starts_with(&prefix.replace(PRINCIPAL, principal))
            }
        };
        match prefixes.iter().any(begins) {
            true => Ok(()),
            false => Err("the key begins with none of allow.key_prefixes"),
        }
    }
}

/// Whether a principal names one folder, and its own: also where a backend takes keys for paths.
fn is_a_name(principal: &str) -> bool {
    !matches!(principal, "" | "." | "..") && !principal.contains('/')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::s3::names::ObjectKey;

    fn put(key: &str) -> Operation {
        Operation::PutObject { key: ObjectKey::decode(key).unwrap() }
    }

    fn list(entries: &[&str]) -> Option<Vec<String>> {
        Some(entries.iter().map(|entry| (*entry).to_owned()).collect())
    }

    #[test]
    fn what_is_not_limited_is_allowed_and_what_is_must_be_named() {
        let all = Grants::default();
        assert!(all.check("p", "b", &put("k")).is_ok());
        let some = Grants {
            buckets: list(&["b"]),
            key_prefixes: list(&["in/", "home/{principal}/"]),
            operations: list(&["PutObject", "HeadBucket"]),
        };
        for (principal, bucket, operation, allowed) in [
            ("p", "b", put("in/k"), true),
            ("p", "b", put("home/p/k"), true),
            ("p", "b", Operation::HeadBucket, true),
            ("p", "c", put("in/k"), false),
            ("p", "b", put("home/q/k"), false),
            ("p", "b", put("home/pq/k"), false),
            ("p", "b", put("out/in/k"), false),
            ("p", "b", Operation::GetBucketLocation, false),
            ("q/p", "b", put("home/q/p/k"), false),
            ("..", "b", put("home/../k"), false),
        ] {
            let checked = some.check(principal, bucket, &operation);
            assert_eq!(checked.is_ok(), allowed, "{principal} {bucket} {operation:?}: {checked:?}");
        }
        let none = Grants { buckets: list(&[]), ..Grants::default() };
        assert!(none.check("p", "b", &put("k")).is_err());
    }
}
