//! The files of a Rego policy: read at the start, and read again while the gateway runs.

use sha2::{Digest, Sha256};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The policy of `rego.embedded: true`, documented in the file itself.
pub(super) const EMBEDDED: &str = include_str!("../../settings/policies/default.rego");

/// Bytes of one file: regorus's own limit for policies.
const MAX_FILE: u64 = 1 << 20;
/// Files of one policy, data included: they are all read again at each interval.
const MAX_FILES: usize = 256;
/// Entries of a folder that are looked at.
const MAX_ENTRIES: usize = 10_000;

/// Reads a file.
pub type Read<'d> = dyn Fn(&Path) -> io::Result<String> + 'd;
/// The paths in a folder; None: it is not one.
pub type List<'d> = dyn Fn(&Path) -> io::Result<Option<Vec<PathBuf>>> + 'd;

/// How files are read: the disk, or what a test has in its place.
pub struct Disk<'d> {
    /// Reads a file.
    pub read: &'d Read<'d>,
    /// Lists a folder.
    pub list: &'d List<'d>,
}

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Whether the policy is the embedded one.
    pub embedded: bool,
    /// Files, and folders whose `*.rego` count (not those in folders within).
    pub files: Vec<PathBuf>,
    /// JSON files whose objects, merged, are `data`.
    pub data: Vec<PathBuf>,
}

/// What is wrong with the files, and which setting names them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// `rego.files`.
    #[error("{0}")]
    Files(String),
    /// `rego.data`.
    #[error("{0}")]
    Data(String),
    /// `rego.query`.
    #[error("{0}")]
    Query(String),
}

/// The files' contents, with their names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Policies.
    pub policies: Vec<(String, String)>,
    /// Data documents.
    pub data: Vec<(String, String)>,
}

impl Places {
    /// Whether nothing of it can change: there are no files.
    pub fn is_fixed(&self) -> bool {
        self.files.is_empty() && self.data.is_empty()
    }

    /// Reads everything.
    pub fn read(&self, disk: &Disk<'_>) -> Result<Sources, Broken> {
        let mut sources = Sources::default();
        if self.embedded {
            sources.policies.push(("embedded".to_owned(), EMBEDDED.to_owned()));
        }
        for place in &self.files {
            for path in policies_of(place, disk)? {
                let text = read(&path, disk).map_err(Broken::Files)?;
                sources.policies.push((path.display().to_string(), text));
            }
        }
        for path in &self.data {
            let text = read(path, disk).map_err(Broken::Data)?;
            sources.data.push((path.display().to_string(), text));
        }
        if sources.policies.len() + sources.data.len() > MAX_FILES {
            return Err(Broken::Files(format!("must be at most {MAX_FILES} files, data included")));
        }
        Ok(sources)
    }
}

impl Sources {
    /// A digest of all names and contents: what changed is told by it, and decisions of one version
    /// are never taken for those of another.
    pub fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for (kind, files) in [(b"p", &self.policies), (b"d", &self.data)] {
            for (name, text) in files {
                digest.update(kind);
                for part in [name, text] {
                    digest.update((part.len() as u64).to_be_bytes());
                    digest.update(part.as_bytes());
                }
            }
        }
        digest.finalize().into()
    }
}

fn policies_of(place: &Path, disk: &Disk<'_>) -> Result<Vec<PathBuf>, Broken> {
    let shown = place.display();
    let listed = (disk.list)(place)
        .map_err(|error| Broken::Files(format!("{shown} cannot be read: {error}")))?;
    let Some(mut entries) = listed else { return Ok(vec![place.to_owned()]) };
    entries.retain(|path| path.extension().is_some_and(|ending| ending == "rego"));
    entries.sort();
    match entries.is_empty() {
        true => Err(Broken::Files(format!("{shown} is a folder without any *.rego"))),
        false => Ok(entries),
    }
}

fn read(path: &Path, disk: &Disk<'_>) -> Result<String, String> {
    (disk.read)(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// The real disk. It blocks: never on a thread that serves.
pub fn disk() -> Disk<'static> {
    Disk { read: &read_file, list: &list_folder }
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(io::Error::other("larger than 1 MiB")),
        false => Ok(text),
    }
}

/// Lists a folder of the real disk; None: it is not a folder.
///
/// Errors when it is not there or cannot be read.
pub fn list_folder(path: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(None);
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        if entries.len() == MAX_ENTRIES {
            return Err(io::Error::other("a folder of more than 10000 entries"));
        }
        entries.push(entry?.path());
    }
    Ok(Some(entries))
}
