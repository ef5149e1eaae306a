//! What is to be sent where: the sources, and by which rule a file's key is made.

use super::arguments::UploadArgs;
use super::filter::Filters;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of the longest key (Amazon S3 User Guide, "Naming Amazon S3 objects").
pub(super) const MAX_KEY: usize = 1024;

/// How standard input is named.
pub(super) const STREAM: &str = "-";

/// Headers of an object, names in lower case.
pub(super) type Headers = Vec<(String, Vec<u8>)>;

/// One file to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// As it is shown and opened.
    pub(super) path: PathBuf,
    /// Where it goes, prefix included.
    pub(super) key: String,
    /// What the manifest says of it; a content type is added where it says none.
    pub(super) headers: Arc<Headers>,
    /// A link in its place is not followed: the walk has seen a file.
    pub(super) no_link: bool,
}

/// What the walk, or the manifest, has come upon.
#[derive(Debug)]
pub(super) enum Found {
    /// A file.
    File(Item, Stamp),
    /// Something that is no file, and why it is left out.
    Skipped(PathBuf, String),
    /// Something that should have been sent and cannot be.
    Failed(PathBuf, String),
}

/// What tells a file from what it was before, and from another that has taken its place. Whoever writes to a
/// file can set `modified` back, and nobody `changed`; one that was moved here keeps both of another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Its bytes.
    pub(super) length: u64,
    /// Nanoseconds since 1970 of the last change of its content (stat(2), st_mtim); negative before.
    pub(super) modified: i128,
    /// Of the last change of anything of it (st_ctim).
    pub(super) changed: i128,
    /// Its inode's number.
    pub(super) inode: u64,
}

impl Stamp {
    /// Of what is no file.
    pub(super) const NONE: Stamp = Stamp { length: 0, modified: 0, changed: 0, inode: 0 };

    pub(super) fn of(metadata: &std::fs::Metadata) -> Stamp {
        let nanoseconds = |seconds: i64, rest: i64| {
            i128::from(seconds).saturating_mul(1_000_000_000).saturating_add(i128::from(rest))
        };
        Stamp {
            length: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

/// A bucket, and what every key in it begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) bucket: String,
    pub(super) key: String,
}

impl Place {
    /// Parses `s3://bucket/key`. The key is taken as it stands.
    fn parse(text: &str) -> Result<Place, String> {
        let rest = text.strip_prefix("s3://").ok_or_else(|| {
            format!("{text:?}: the last argument is where it goes, s3://bucket/prefix")
        })?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let letter = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if bucket.len() < 3 || bucket.len() > 255 || !bucket.chars().all(letter) {
            return Err(format!(
                "{text:?}: {bucket:?} is no bucket's name: those have 3 to 255 letters, digits, dots and hyphens"
            ));
        }
        Ok(Place { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// The key as something to put names behind.
    fn prefix(&self) -> String {
        let needs_slash = !self.key.is_empty() && !self.key.ends_with('/');
        format!("{}{}", self.key, if needs_slash { "/" } else { "" })
    }
}

/// A file or folder that was named on the command line.
#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    /// Of a folder, what goes before the names in it; of a file, its key.
    pub(super) key: String,
    pub(super) folder: bool,
}

/// Where the files come from.
#[derive(Debug, Clone)]
pub(super) enum Sources {
    /// From the command line.
    Roots(Vec<Root>),
    /// From a list; its keys go under the prefix.
    Manifest(PathBuf, String),
    /// Standard input, to this key.
    Stream(String),
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) sources: Sources,
    pub(super) to: Place,
    pub(super) filters: Filters,
    pub(super) follow_links: bool,
}

impl Plan {
    /// What the arguments ask for. The error is for whoever typed them.
    pub(super) fn new(args: &UploadArgs) -> Result<Plan, String> {
        let (to, paths) = args.places.split_last().ok_or("nothing to upload")?;
        let to = to.to_str().ok_or("where it goes must be UTF-8")?;
        let to = Place::parse(to)?;
        let sources = match &args.manifest {
            Some(_) if !paths.is_empty() => {
                return Err("either --manifest or paths, not both".to_owned());
            }
            Some(manifest) => Sources::Manifest(manifest.clone(), to.prefix()),
            None if paths.is_empty() => {
                return Err("name a file or a folder, then s3://bucket/prefix".to_owned());
            }
            None if paths.iter().any(|path| path.as_os_str() == STREAM) => {
                if paths.len() > 1 || to.key.is_empty() || to.key.ends_with('/') {
                    return Err(format!("{STREAM:?} goes alone, and to a key: s3://bucket/key"));
                }
                if args.follow_links || !args.filters.is_empty() {
                    return Err("--include, --exclude and --follow-links are for files".to_owned());
                }
                check_key(&to.key)?;
                Sources::Stream(to.key.clone())
            }
            None => Sources::Roots(roots(paths, &to)?),
        };
        let (filters, follow_links) = (args.filters.clone(), args.follow_links);
        Ok(Plan { sources, to, filters, follow_links })
    }

    /// What makes this upload another than others: by it the state file is named. What goes where, however it
    /// was spelt.
    pub(super) fn identity(&self, endpoint: &str) -> String {
        let text = |path: &Path| absolute(path).to_string_lossy().into_owned();
        let mut parts = vec![endpoint.to_owned(), self.to.bucket.clone()];
        match &self.sources {
            Sources::Roots(roots) => {
                parts.extend(roots.iter().flat_map(|root| [root.key.clone(), text(&root.path)]));
            }
            Sources::Manifest(path, prefix) => {
                parts.extend(["manifest".to_owned(), prefix.clone(), text(path)]);
            }
            Sources::Stream(key) => parts.extend([STREAM.to_owned(), key.clone()]),
        }
        parts.join("\0")
    }
}

/// The path from the root on, without a slash at its end.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.components().collect()
}

fn roots(paths: &[PathBuf], to: &Place) -> Result<Vec<Root>, String> {
    let alone = paths.len() == 1;
    let mut roots: Vec<Root> = Vec::new();
    for path in paths {
        let metadata = std::fs::metadata(path).map_err(|error| format!("{path:?}: {error}"))?;
        let folder = metadata.is_dir();
        if !folder && !metadata.is_file() {
            return Err(format!("{path:?} is neither a file nor a folder"));
        }
        let name = || {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let name = absolute.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            name.ok_or_else(|| format!("{path:?} has no name to make a key of, in UTF-8"))
        };
        let key = match (alone, folder) {
            (true, true) => to.prefix(),
            (true, false) if !to.key.is_empty() && !to.key.ends_with('/') => to.key.clone(),
            (_, false) => format!("{}{}", to.prefix(), name()?),
            (false, true) => format!("{}{}/", to.prefix(), name()?),
        };
        let taken = |other: &&Root| other.key.trim_end_matches('/') == key.trim_end_matches('/');
        if let Some(other) = roots.iter().find(taken) {
            let (one, other) = (&other.path, path);
            return Err(format!("{one:?} and {other:?} would both go to {key:?}"));
        }
        roots.push(Root { path: path.clone(), key, folder });
    }
    Ok(roots)
}

/// Whether a key can be one. The error says why not.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    match key.len() {
        0 => Err("its key would be empty".to_owned()),
        1..=MAX_KEY => Ok(()),
        length => Err(format!("its key would have {length} bytes, S3 takes {MAX_KEY}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn keys(paths: &[PathBuf], to: &str) -> Result<Vec<String>, String> {
        let roots = roots(paths, &Place::parse(to)?)?;
        Ok(roots.into_iter().map(|root| root.key).collect())
    }

    /// "A folder's contents go under the prefix; of several folders each goes under its own name there. One
    /// file goes to s3://bucket/key, or with its own name under s3://bucket/prefix/"
    #[test]
    fn keys_of_what_was_named() {
        let directory = tempfile::tempdir().unwrap();
        let (folder, file) = (directory.path().join("d"), directory.path().join("f.txt"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, b"x").unwrap();
        for (paths, to, expected) in [
            (vec![&folder], "s3://bucket", vec![""]),
            (vec![&folder], "s3://bucket/p", vec!["p/"]),
            (vec![&folder], "s3://bucket/p/", vec!["p/"]),
            (vec![&file], "s3://bucket/p", vec!["p"]),
            (vec![&file], "s3://bucket/p/", vec!["p/f.txt"]),
            (vec![&file], "s3://bucket", vec!["f.txt"]),
            (vec![&folder, &file], "s3://bucket/p", vec!["p/d/", "p/f.txt"]),
        ] {
            let paths: Vec<PathBuf> = paths.into_iter().cloned().collect();
            assert_eq!(keys(&paths, to).unwrap(), expected, "{to}");
        }
        let twice = [folder.clone(), folder.join(".")];
        assert!(keys(&twice, "s3://bucket").unwrap_err().contains("both"));
        assert!(keys(&[directory.path().join("none")], "s3://bucket").is_err());
    }

    /// "one for the same paths and destination"
    #[test]
    fn a_place_is_the_same_however_it_is_spelt() {
        let directory = tempfile::tempdir().unwrap();
        let identity = |path: PathBuf, to: &str| {
            let to = Place::parse(to).unwrap();
            let sources = Sources::Roots(roots(&[path], &to).unwrap());
            let (filters, follow_links) = (Filters::default(), false);
            Plan { sources, to, filters, follow_links }.identity("http://e")
        };
        let folder = directory.path().to_owned();
        let one = identity(folder.clone(), "s3://bucket/p");
        for same in [folder.join(""), folder.join("."), folder.join("./")] {
            assert_eq!(identity(same, "s3://bucket/p/"), one);
        }
        assert_ne!(identity(folder.clone(), "s3://bucket/q"), one);
        let file = folder.join("f");
        std::fs::write(&file, b"x").unwrap();
        assert_ne!(identity(file.clone(), "s3://bucket/p"), identity(file, "s3://bucket/p/"));
    }

    #[test]
    fn where_it_goes_is_read_strictly() {
        for bad in ["bucket/p", "http://bucket/p", "s3:///p", "s3://a b/p", "s3://b\u{e9}c/p"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
        let place = Place::parse("s3://my.bucket//odd//key").unwrap();
        assert_eq!((place.bucket.as_str(), place.key.as_str()), ("my.bucket", "/odd//key"));
    }
}
