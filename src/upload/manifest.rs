//! `--manifest`: a CSV file (RFC 4180) whose header row names the columns: `path`, `key`, and headers of the
//! objects. It is read twice: validated whole, then sent row by row; a row is never kept.

use super::plan::{Found, Headers, Item, Stamp, check_key};
use csv::StringRecord;
use nix::fcntl::OFlag;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Errors that are shown: who has more has made the same one in each row.
const MAX_SHOWN: usize = 100;

/// Bytes of all user metadata of an object (Amazon S3 User Guide, "Working with object metadata").
const MAX_METADATA: usize = 2048;

/// What begins the name of a column of user metadata.
const METADATA: &str = "x-amz-meta-";

/// The columns beside `path`, `key` and metadata: headers of PutObject.
const HEADERS: [&str; 10] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    "x-amz-acl",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
];

/// What a column is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Path,
    Key,
    Header(String),
}

type Reader = csv::Reader<std::fs::File>;

/// Validates the whole list. The errors: all of them, each with its line.
pub(super) fn validate(manifest: &Path, prefix: &str) -> Result<(), Vec<String>> {
    let (mut reader, columns) = open(manifest).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    let mut more = 0_usize;
    let mut say = |line: u64, why: String| {
        if errors.len() < MAX_SHOWN {
            errors.push(format!("line {line}: {why}"));
        } else {
            more += 1;
        }
    };
    // Which line has the key of this hash: keys themselves would take a hundred bytes each.
    let hashers = [RandomState::new(), RandomState::new()];
    let mut keys: HashMap<[u64; 2], u64> = HashMap::new();
    let mut record = StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                say(error.position().map_or(line, csv::Position::line), in_words(&error));
                // What is no CSV any more has no rows.
                if matches!(error.kind(), csv::ErrorKind::Io(_)) {
                    break;
                }
                continue;
            }
        }
        let line = record.position().map_or(line, csv::Position::line);
        match row(&columns, &record, prefix) {
            Ok(item) => {
                if let Err(error) = readable(&item.path) {
                    say(line, format!("{:?}: {error}", item.path));
                }
                let hash = [0, 1].map(|at: usize| {
                    hashers.get(at).map_or(0, |hasher| hasher.hash_one(item.key.as_bytes()))
                });
                if let Some(before) = keys.insert(hash, line) {
                    say(line, format!("the key {:?} is that of line {before} as well", item.key));
                }
            }
            Err(found) => found.into_iter().for_each(|why| say(line, why)),
        }
    }
    if more > 0 {
        errors.push(format!("and {more} more"));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Shows `see` every row, until it has enough. Blocks.
pub(super) fn rows(
    manifest: &Path,
    prefix: &str,
    mut see: impl FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let failed = |why: String| Found::Failed(manifest.to_owned(), why);
    let (mut reader, columns) = match open(manifest) {
        Ok(opened) => opened,
        Err(error) => return see(failed(error)),
    };
    let mut record = StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return ControlFlow::Continue(()),
            // It was another file when it was validated.
            Err(error) => return see(failed(in_words(&error))),
        }
        let found = match row(&columns, &record, prefix) {
            Ok(item) => match std::fs::metadata(&item.path) {
                Ok(metadata) => Found::File(item, Stamp::of(&metadata)),
                Err(error) => Found::Failed(item.path, error.to_string()),
            },
            Err(why) => failed(why.join("; ")),
        };
        see(found)?;
    }
}

fn open(manifest: &Path) -> Result<(Reader, Vec<Column>), String> {
    let words = |error: csv::Error| format!("{manifest:?}: {}", in_words(&error));
    let mut reader = csv::ReaderBuilder::new().from_path(manifest).map_err(words)?;
    let names = reader.headers().map_err(words)?.clone();
    let mut columns = Vec::new();
    for name in &names {
        let name = name.trim_start_matches('\u{feff}').trim().to_ascii_lowercase();
        let column = match name.as_str() {
            "path" => Column::Path,
            "key" => Column::Key,
            header if HEADERS.contains(&header) || is_metadata(header) => {
                Column::Header(name.clone())
            }
            _ => {
                return Err(format!(
                    "line 1: {name:?} is no column: path, key, {METADATA}NAME, {}",
                    HEADERS.join(", ")
                ));
            }
        };
        if columns.contains(&column) {
            return Err(format!("line 1: the column {name:?} is there twice"));
        }
        columns.push(column);
    }
    for (column, name) in [(Column::Path, "path"), (Column::Key, "key")] {
        if !columns.contains(&column) {
            return Err(format!("line 1: the column {name:?} is missing"));
        }
    }
    Ok((reader, columns))
}

fn is_metadata(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.strip_prefix(METADATA).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(token))
}

/// A row as a file to send; or all that is wrong with it.
fn row(columns: &[Column], record: &StringRecord, prefix: &str) -> Result<Item, Vec<String>> {
    let (mut path, mut key, mut headers) = (PathBuf::new(), String::new(), Headers::new());
    let (mut errors, mut metadata) = (Vec::new(), 0);
    for (column, value) in columns.iter().zip(record) {
        match column {
            Column::Path => path = PathBuf::from(value),
            Column::Key => key = value.to_owned(),
            Column::Header(_) if value.is_empty() => {}
            Column::Header(name) => {
                let plain = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
                if !plain || value.trim() != value {
                    errors.push(format!(
                        "{name}: {value:?} cannot stand in a header: ASCII without control \
                         characters, and no space around it"
                    ));
                }
                if let Some(own) = name.strip_prefix(METADATA) {
                    metadata += own.len() + value.len();
                }
                headers.push((name.clone(), value.as_bytes().to_vec()));
            }
        }
    }
    if metadata > MAX_METADATA {
        errors.push(format!("its metadata has {metadata} bytes, S3 takes {MAX_METADATA}"));
    }
    if path.as_os_str().is_empty() {
        errors.push("it has no path".to_owned());
    }
    if key.is_empty() {
        errors.push("it has no key".to_owned());
    }
    let key = format!("{prefix}{key}");
    errors.extend(check_key(&key).err());
    if errors.is_empty() {
        Ok(Item { path, key, headers: Arc::new(headers), no_link: false })
    } else {
        Err(errors)
    }
}

/// Whether it is a file that can be opened.
fn readable(path: &Path) -> io::Result<()> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(()) } else { Err(io::Error::other("it is no file")) }
}

fn in_words(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Io(error) => error.to_string(),
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            let s = if *len == 1 { "" } else { "s" };
            format!("it has {len} field{s}, the first line {expected_len}")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn write(directory: &Path, text: &[u8]) -> PathBuf {
        let path = directory.join("list.csv");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// "validated whole (files exist, readable, keys valid and unique, headers valid) before the first byte,
    /// all errors with their line numbers at once"
    #[test]
    fn all_errors_come_at_once_with_their_lines() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, b"x").unwrap();
        let (file, folder) = (file.display(), directory.path().display());
        let long = "k".repeat(1024);
        let heavy = "v".repeat(2049);
        let text = format!(
            "path,key,Content-Type,x-amz-meta-a\n{file},a,text/plain,1\n{file},a,,\n/none,b,,\n\
             {file},{long},,\n{folder},c,,\n{file},d,caf\u{e9},\n{file},e\n,f,,\n{file},,,\n\
             {file},g,,{heavy}\n\"{file}\",\"h,\"\"\ni\",\"\",\n{file},a,,\n"
        );
        let list = write(directory.path(), text.as_bytes());
        let errors = validate(&list, "p/").unwrap_err();
        let expected = [
            "line 3: the key \"p/a\" is that of line 2",
            "line 4: \"/none\": No such file",
            "line 5: its key would have 1026 bytes",
            "line 6: ",
            "line 7: content-type: ",
            "line 8: it has 2 fields, the first line 4",
            "line 9: it has no path",
            "line 10: it has no key",
            "line 11: its metadata has 2050 bytes",
            "line 14: the key \"p/a\"",
        ];
        assert_eq!(errors.len(), expected.len(), "{errors:#?}");
        for (error, begins) in errors.iter().zip(expected) {
            assert!(error.starts_with(begins), "{error}, not {begins}");
        }
    }

    #[test]
    fn a_list_whose_columns_are_wrong_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for (text, problem) in [
            (&b""[..], "missing"),
            (b"key\n", "\"path\" is missing"),
            (b"path,key,KEY\n", "twice"),
            (b"path,key,authorization\n", "no column"),
            (b"path,key,x-amz-meta-\n", "no column"),
            (b"path,key,x-amz-meta-a b\n", "no column"),
            (b"path,\xff\n", "UTF-8"),
        ] {
            let list = write(directory.path(), text);
            let errors = validate(&list, "").unwrap_err();
            assert!(errors[0].contains(problem), "{errors:?}");
        }
        assert!(validate(&directory.path().join("none"), "").is_err());
    }

    #[test]
    fn rows_are_files_with_their_headers() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f");
        std::fs::write(&file, b"xyz").unwrap();
        let text = format!("\u{feff}key,path,x-amz-meta-Who\na/b,{},me\n", file.display());
        let list = write(directory.path(), text.as_bytes());
        validate(&list, "p/").unwrap();
        let mut seen = Vec::new();
        let _ = rows(&list, "p/", |found| {
            seen.push(found);
            ControlFlow::Continue(())
        });
        let [Found::File(item, stamp)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((item.key.as_str(), stamp.length), ("p/a/b", 3));
        assert_eq!(*item.headers, [("x-amz-meta-who".to_owned(), b"me".to_vec())]);
    }
}
