//! `audit`: who was let do what, and what came of it.

use super::section::Section;
use super::values::{KIB, TIB, boolean, choice, count, path, size};
use std::path::{Path, PathBuf};

/// The file in the state directory, unless another one is set.
const DEFAULT_FILE: &str = "audit.jsonl";

/// `audit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// Where the lines go.
    pub target: AuditTarget,
    /// Whether a request whose decision cannot be recorded is refused.
    pub required: bool,
}

/// `audit.target`, with what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Nowhere.
    None,
    /// Standard output.
    Stdout,
    /// A file that rotates.
    File {
        /// The file that is written; older ones have `.1`, `.2` … behind their name.
        path: PathBuf,
        /// Bytes of one file, at least 64 KiB.
        max_size: u64,
        /// Older files that are kept.
        max_files: usize,
        /// Whether a new one begins with time, too.
        every: RotateEvery,
    },
}

/// `audit.rotate_every`, by UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotateEvery {
    /// By size alone.
    None,
    /// With each hour.
    Hour,
    /// With each day.
    Day,
}

#[derive(Clone, Copy)]
enum Target {
    None,
    Stdout,
    File,
}

/// Reads `audit`; `state_directory` holds the file unless it is set.
pub(super) fn read(s: &mut Section<'_>, state_directory: Option<&Path>) -> Option<AuditSettings> {
    let target = s.required(
        "target",
        choice(&[("none", Target::None), ("stdout", Target::Stdout), ("file", Target::File)]),
    );
    let file = s.optional("file", path);
    let max_size = s.required("max_size", size(64 * KIB..=TIB));
    let max_files = s.required("max_files", count(0..=1000));
    let every = s.required(
        "rotate_every",
        choice(&[
            ("none", RotateEvery::None),
            ("hour", RotateEvery::Hour),
            ("day", RotateEvery::Day),
        ]),
    );
    let required = s.required("required", boolean);
    let (target, required) = (target?, required?);
    let (max_size, max_files, every) = (max_size?, max_files?, every?);
    let path = match file? {
        Some(file) if file.file_name().is_none() => {
            s.fail("file", "must be the path of a file, not of a directory");
            return None;
        }
        Some(file) => file,
        None => state_directory?.join(DEFAULT_FILE),
    };
    let target = match target {
        Target::None => AuditTarget::None,
        Target::Stdout => AuditTarget::Stdout,
        Target::File => AuditTarget::File { path, max_size, max_files, every },
    };
    if required && target == AuditTarget::None {
        s.fail("required", "needs a target: with none, nothing can be recorded");
        return None;
    }
    Some(AuditSettings { target, required })
}
