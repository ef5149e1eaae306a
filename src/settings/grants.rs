//! `allow` of a credential, of a token's issuer, of client certificates: what they are good for.

use super::section::Section;
use super::values::{text, text_where};
use config::Value;
use mizuchi_actors::grants::Grants;
use mizuchi_actors::s3::operation::Operation;

/// Bytes of a key prefix: S3's longest key.
const MAX_PREFIX: usize = 1024;

/// Reads `allow`: a list that is not set limits nothing.
pub(super) fn read(s: &mut Section<'_>) -> Option<Grants> {
    let buckets = s.optional_list("buckets", super::bucket::bucket_name);
    let key_prefixes = s.optional_list("key_prefixes", key_prefix);
    let operations = s.optional_list("operations", operation);
    Some(Grants { buckets: buckets?, key_prefixes: key_prefixes?, operations: operations? })
}

fn key_prefix(value: &Value) -> Result<String, String> {
    text_where("1 to 1024 bytes", |text| (1..=MAX_PREFIX).contains(&text.len()))(value)
}

fn operation(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    match Operation::NAMES.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("is not an operation; they are {}", Operation::NAMES.join(", "))),
    }
}
