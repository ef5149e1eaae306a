//! What stands in a state file, and what it adds up to. Pure.

use crate::upload::plan::{Item, Stamp, absolute};
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;

/// Which file, as it is now, goes where: 64 bits of SHA-256 over the key, and as many over everything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(in crate::upload) struct Fingerprint {
    key: u64,
    /// Over key, path, stamp and headers.
    all: u64,
}

impl Fingerprint {
    pub(in crate::upload) fn of(item: &Item, stamp: Stamp) -> Fingerprint {
        let Stamp { length, modified, changed, inode } = stamp;
        let mut hasher = Hasher::new(ChecksumAlgorithm::Sha256);
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        put(item.key.as_bytes());
        put(absolute(&item.path).as_os_str().as_bytes());
        put(&length.to_le_bytes());
        put(&modified.to_le_bytes());
        put(&changed.to_le_bytes());
        put(&inode.to_le_bytes());
        for (name, value) in item.headers.iter() {
            put(name.as_bytes());
            put(value);
        }
        let mut of_key = Hasher::new(ChecksumAlgorithm::Sha256);
        of_key.update(item.key.as_bytes());
        Fingerprint { key: first_bits(of_key), all: first_bits(hasher) }
    }
}

fn first_bits(hasher: Hasher) -> u64 {
    u64::from_be_bytes(hasher.finish().first_chunk().copied().unwrap_or_default())
}

impl From<Fingerprint> for String {
    fn from(print: Fingerprint) -> String {
        format!("{:016x}{:016x}", print.key, print.all)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let both = u128::from_str_radix(&text, 16)?;
        Ok(Fingerprint { key: (both >> 64) as u64, all: both as u64 })
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from(*self))
    }
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::upload) enum Line {
    /// The first: whose file it is.
    MizuchiUpload { version: u32, identity: String },
    /// A file is there; `upload_id`: by this multipart upload, which is no more.
    Done {
        file: Fingerprint,
        key: String,
        etag: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upload_id: Option<String>,
    },
    /// A file is about to take the place of what was sent under its key: nobody knows any more what is there.
    Replacing { file: Fingerprint },
    /// A multipart upload is about to be begun, at this time (milliseconds since 1970): whoever ends before
    /// its id is on record leaves one that nobody knows.
    Creating { file: Fingerprint, key: String, at: u64 },
    /// A multipart upload was begun.
    Begun { file: Fingerprint, key: String, upload_id: String, part_size: u64, checksum: String },
    /// A part of the last one that was begun of the file is there.
    Part { file: Fingerprint, number: u16, etag: String, sum: Option<String> },
    /// A multipart upload is no more.
    Gone { file: Fingerprint, upload_id: String },
    /// Nothing came of a `Creating` that nobody knows.
    Searched { file: Fingerprint, at: u64 },
}

impl Line {
    /// Its bytes in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // No map with odd keys is in it: that cannot fail.
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

/// A part that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct PartDone {
    /// Its ETag, without quotes.
    pub(in crate::upload) etag: String,
    /// Its checksum as the list of parts has it.
    pub(in crate::upload) sum: Option<String>,
}

/// A multipart upload that an earlier run has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct Begun {
    pub(in crate::upload) key: String,
    pub(in crate::upload) upload_id: String,
    pub(in crate::upload) part_size: u64,
    /// Of its parts: S3 takes no other in one upload.
    pub(in crate::upload) checksum: String,
    pub(in crate::upload) parts: BTreeMap<u16, PartDone>,
}

/// A CreateMultipartUpload whose answer is not on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct Creating {
    pub(in crate::upload) file: Fingerprint,
    pub(in crate::upload) key: String,
    /// Milliseconds since 1970.
    pub(in crate::upload) at: u64,
}

/// The files that are there: of each key the one that was sent last. 17 bytes each in a table that is 7/16 to
/// 7/8 full.
#[derive(Debug, Clone, Default)]
pub(in crate::upload) struct There(HashMap<u64, u64>);

impl There {
    /// Whether this very file was the last under its key.
    pub(in crate::upload) fn has(&self, print: &Fingerprint) -> bool {
        self.0.get(&print.key) == Some(&print.all)
    }

    /// Whether any was.
    pub(in crate::upload) fn has_key_of(&self, print: &Fingerprint) -> bool {
        self.0.contains_key(&print.key)
    }

    pub(in crate::upload) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes this very file out; whether it was in.
    pub(super) fn take(&mut self, print: &Fingerprint) -> bool {
        let had = self.has(print);
        if had {
            self.0.remove(&print.key);
        }
        had
    }

    fn put(&mut self, print: Fingerprint) {
        self.0.insert(print.key, print.all);
    }

    fn forget_key_of(&mut self, print: &Fingerprint) {
        self.0.remove(&print.key);
    }
}

/// What earlier runs have done.
#[derive(Debug, Default)]
pub(in crate::upload) struct Known {
    pub(in crate::upload) done: There,
    /// Of a file, oldest first: those before the last could not be aborted, or were left by `--fresh`.
    pub(in crate::upload) begun: HashMap<Fingerprint, Vec<Begun>>,
    /// Those that may have been begun by a run that ended in that moment.
    pub(in crate::upload) creating: Vec<Creating>,
}

impl Known {
    pub(in crate::upload) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.begun.is_empty() && self.creating.is_empty()
    }

    pub(super) fn take(&mut self, line: Line) {
        match line {
            Line::MizuchiUpload { .. } => {}
            Line::Done { file, upload_id, .. } => {
                self.done.put(file);
                if let Some(id) = upload_id {
                    self.gone(file, &id);
                }
            }
            Line::Replacing { file } => self.done.forget_key_of(&file),
            Line::Creating { file, key, at } => self.creating.push(Creating { file, key, at }),
            Line::Searched { file, at } => {
                self.creating.retain(|one| (one.file, one.at) != (file, at));
            }
            Line::Begun { file, key, upload_id, part_size, checksum } => {
                // The last of that file's: any before it was left by another run.
                let mine = self.creating.iter().rposition(|one| one.file == file);
                mine.map(|at| self.creating.remove(at));
                let parts = BTreeMap::new();
                let begun = Begun { key, upload_id, part_size, checksum, parts };
                self.begun.entry(file).or_default().push(begun);
            }
            Line::Part { file, number, etag, sum } => {
                if let Some(begun) =
                    self.begun.get_mut(&file).and_then(|of_file| of_file.last_mut())
                {
                    begun.parts.insert(number, PartDone { etag, sum });
                }
            }
            Line::Gone { file, upload_id } => self.gone(file, &upload_id),
        }
    }

    fn gone(&mut self, file: Fingerprint, upload_id: &str) {
        if let Some(of_file) = self.begun.get_mut(&file) {
            of_file.retain(|begun| begun.upload_id != upload_id);
            if of_file.is_empty() {
                self.begun.remove(&file);
            }
        }
    }

    /// The lines of what was begun.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = Line> {
        let of_begun =
            self.begun.iter().flat_map(|(file, begun)| {
                begun.iter().flat_map(|begun| {
                    let Begun { key, upload_id, part_size, checksum, parts } = begun.clone();
                    let first = Line::Begun { file: *file, key, upload_id, part_size, checksum };
                    let parts = parts.into_iter().map(|(number, PartDone { etag, sum })| {
                        Line::Part { file: *file, number, etag, sum }
                    });
                    std::iter::once(first).chain(parts)
                })
            });
        let creating = self.creating.iter().cloned();
        let creating = creating.map(|Creating { file, key, at }| Line::Creating { file, key, at });
        of_begun.chain(creating)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::PathBuf;
    use std::sync::Arc;

    /// "A file counts as another when its path, its length, its times, its inode, its key or its headers are."
    #[test]
    fn a_fingerprint_tells_files_apart() {
        let stamp = Stamp { length: 1, modified: 2, changed: 3, inode: 4 };
        let of = |path: &str, key: &str, stamp, headers: &[(&str, &str)]| {
            let headers = headers.iter();
            let headers = headers.map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
            let (path, key, headers) = (PathBuf::from(path), key.to_owned(), Arc::new(headers));
            Fingerprint::of(&Item { path, key, headers, no_link: false }, stamp)
        };
        let all = [
            of("p", "k", stamp, &[]),
            of("p", "l", stamp, &[]),
            of("q", "k", stamp, &[]),
            of("p", "k", Stamp { length: 2, ..stamp }, &[]),
            of("p", "k", Stamp { modified: 3, ..stamp }, &[]),
            of("p", "k", Stamp { changed: 4, ..stamp }, &[]),
            of("p", "k", Stamp { inode: 5, ..stamp }, &[]),
            of("p", "k", stamp, &[("a", "bc")]),
            of("p", "k", stamp, &[("ab", "c")]),
        ];
        let different: HashSet<_> = all.iter().map(|print| print.all).collect();
        assert_eq!(different.len(), all.len());
        let keys: HashSet<_> = all.iter().map(|print| print.key).collect();
        assert_eq!(keys.len(), 2, "one half is the key's alone");
        assert_eq!(of("./p", "k", stamp, &[]), all[0]);
        let text = String::from(all[0]);
        assert_eq!(Fingerprint::try_from(text).unwrap(), all[0]);
    }

    fn done(file: Fingerprint) -> Line {
        Line::Done { file, key: String::new(), etag: String::new(), upload_id: None }
    }

    #[test]
    fn of_each_key_the_last_is_there() {
        let (a, b) = (Fingerprint { key: 1, all: 1 }, Fingerprint { key: 1, all: 2 });
        let mut known = Known::default();
        for (line, is_there) in [
            (done(a), (true, false)),
            (Line::Replacing { file: b }, (false, false)),
            (done(b), (false, true)),
            (done(a), (true, false)),
        ] {
            known.take(line);
            assert_eq!((known.done.has(&a), known.done.has(&b)), is_there);
        }
        assert_eq!(known.done.len(), 1);
    }

    #[test]
    fn an_upload_is_known_until_it_is_gone_itself() {
        let file = Fingerprint { key: 1, all: 1 };
        let begun = |id: &str| Line::Begun {
            file,
            key: "k".to_owned(),
            upload_id: id.to_owned(),
            part_size: 7,
            checksum: "md5".to_owned(),
        };
        let part = Line::Part { file, number: 1, etag: "e".to_owned(), sum: None };
        let mut known = Known::default();
        for line in [begun("old"), part.clone(), begun("new"), part] {
            known.take(line);
        }
        let of_file = known.begun[&file].iter();
        let of_file: Vec<_> = of_file.map(|one| (&*one.upload_id, one.parts.len())).collect();
        assert_eq!(of_file, [("old", 1), ("new", 1)]);
        let mut again = Known::default();
        known.unfinished().for_each(|line| again.take(line));
        assert_eq!(again.begun, known.begun);
        let upload_id = Some("new".to_owned());
        let (key, etag) = (String::new(), String::new());
        known.take(Line::Done { file, key, etag, upload_id });
        assert_eq!(known.begun[&file][0].upload_id, "old");
        known.take(Line::Gone { file, upload_id: "old".to_owned() });
        assert!(known.begun.is_empty() && known.done.has(&file));
    }
}
