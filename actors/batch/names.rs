//! From an entry's name to the key of its object.
//!
//! A key is no path, and `..` in one is legal S3; but an archive's names are paths, written by tools
//! and read by tools. So a name that would lead out of where it is unpacked, or that two tools would
//! take for different files, is refused rather than mended: what was authorized is then what its
//! sender meant.

use super::index::Refusal;
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::names::MAX_KEY;

/// What is put before every key: empty, or ending in `/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// As a header says it: slashes at either end do not count, and one is put at its end.
    ///
    /// Errors: 400 InvalidArgument: it is no path of plain segments.
    pub fn parse(text: &[u8]) -> Result<Prefix, S3Error> {
        let message = "The prefix of a batch must be UTF-8, without NUL and without the segments . and \
                       ..; with the slash behind it, at most 1023 bytes.";
        let invalid = || S3Error::new(ErrorCode::InvalidArgument, message);
        let text = std::str::from_utf8(text).map_err(|_| invalid())?.trim_matches('/');
        if text.is_empty() {
            return Ok(Prefix::default());
        }
        let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
        if dots || text.contains('\0') || text.len() + 1 >= MAX_KEY {
            return Err(invalid());
        }
        Ok(Prefix(format!("{text}/")))
    }

    /// The prefix, with its slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of an entry, without its prefix; None: it is the archive's own root (`./`). `folder`: its key
/// ends in a slash.
pub(super) fn key_of(name: &[u8], folder: bool) -> Result<Option<&str>, Refusal> {
    let name = std::str::from_utf8(name).map_err(|_| Refusal::NotUtf8)?;
    if name.contains('\0') {
        return Err(Refusal::Nul);
    }
    let mut name = name;
    while let Some(rest) = name.strip_prefix("./") {
        name = rest;
    }
    if name.starts_with('/') {
        return Err(Refusal::Absolute);
    }
    // A folder's name may end in one slash, and means the same without it.
    let bare = if folder { name.strip_suffix('/').unwrap_or(name) } else { name };
    if folder && matches!(bare, "" | ".") {
        return Ok(None);
    }
    if bare.is_empty() {
        return Err(Refusal::Empty);
    }
    if bare.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(Refusal::Dots);
    }
    Ok(Some(bare))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let file = |name: &str| key_of(name.as_bytes(), false).map(|key| key.map(str::to_owned));
        for (name, key) in [
            ("a", "a"),
            ("./a/b", "a/b"),
            ("././a", "a"),
            ("a//b", "a//b"),
            ("a\\..\\b", "a\\..\\b"),
            ("...", "..."),
            ("a..", "a.."),
            (" ", " "),
        ] {
            assert_eq!(file(name), Ok(Some(key.to_owned())), "{name:?}");
        }
        for (name, refusal) in [
            ("", Refusal::Empty),
            ("./", Refusal::Empty),
            ("/etc/passwd", Refusal::Absolute),
            (".//etc", Refusal::Absolute),
            ("..", Refusal::Dots),
            (".", Refusal::Dots),
            ("../a", Refusal::Dots),
            ("a/../b", Refusal::Dots),
            ("a/..", Refusal::Dots),
            ("a/./b", Refusal::Dots),
            ("a\0b", Refusal::Nul),
        ] {
            assert_eq!(file(name), Err(refusal), "{name:?}");
        }
        assert_eq!(key_of(b"\xff", false), Err(Refusal::NotUtf8));
        let folder = |name: &'static str| key_of(name.as_bytes(), true);
        assert_eq!(folder("./"), Ok(None));
        assert_eq!(folder("."), Ok(None));
        assert_eq!(folder("a/"), Ok(Some("a")));
        assert_eq!(folder("../"), Err(Refusal::Dots));
    }

    #[test]
    fn a_prefix_has_one_slash_behind_it() {
        let of = |text: &str| Prefix::parse(text.as_bytes()).map(|prefix| prefix.0);
        assert_eq!(of("").unwrap(), "");
        assert_eq!(of("/").unwrap(), "");
        assert_eq!(of("/a/b//").unwrap(), "a/b/");
        for text in ["..", "a/../b", "./a", "a\0", &"a".repeat(1023)] {
            assert_eq!(of(text).unwrap_err().code, "InvalidArgument", "{text:?}");
        }
        assert!(Prefix::parse(b"\xff").is_err());
    }
}
