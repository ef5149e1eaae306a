//! Finds the files under what was named, one after another: nothing is collected, a folder of a million
//! files takes as much memory as one of ten.

use super::plan::{Found, Headers, Item, Plan, Root, Stamp, check_key};
use std::ops::ControlFlow;
use std::sync::Arc;
use walkdir::{DirEntry, WalkDir};

/// Folders that are held open at a time; deeper ones are read whole.
const OPEN_FOLDERS: usize = 16;

/// Shows `see` everything under the roots, until it has enough. Blocks.
pub(super) fn walk(
    plan: &Plan,
    roots: &[Root],
    mut see: impl FnMut(Found) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let no_headers = Arc::new(Headers::new());
    for root in roots {
        if !root.folder {
            if let Some(found) = named_file(plan, root, &no_headers) {
                see(found)?;
            }
            continue;
        }
        // What was named itself may be a link: walkdir follows that one always.
        let entries =
            WalkDir::new(&root.path).follow_links(plan.follow_links).max_open(OPEN_FOLDERS);
        // Not looked into at all: one that cannot be read is no failure then.
        let wanted = |entry: &DirEntry| {
            let below = entry.path().strip_prefix(&root.path).unwrap_or(entry.path());
            let folder = entry.depth() > 0 && entry.file_type().is_dir();
            !(folder && plan.filters.prunes(&below.to_string_lossy()))
        };
        for entry in entries.into_iter().filter_entry(wanted) {
            let found = match entry {
                Ok(entry) => in_folder(plan, root, &entry, &no_headers),
                Err(error) => {
                    let path = error.path().unwrap_or(&root.path).to_owned();
                    let why = match (error.io_error(), error.loop_ancestor()) {
                        (Some(error), _) => error.to_string(),
                        (None, Some(above)) => format!("a link that leads back to {above:?}"),
                        (None, None) => "cannot be read".to_owned(),
                    };
                    Some(Found::Failed(path, why))
                }
            };
            if let Some(found) = found {
                see(found)?;
            }
        }
    }
    ControlFlow::Continue(())
}

fn named_file(plan: &Plan, root: &Root, headers: &Arc<Headers>) -> Option<Found> {
    let path = root.path.clone();
    if !plan.filters.allow(&path.file_name()?.to_string_lossy()) {
        return None;
    }
    if let Err(why) = check_key(&root.key) {
        return Some(Found::Failed(path, why));
    }
    match std::fs::metadata(&path) {
        Ok(metadata) => {
            let headers = Arc::clone(headers);
            let item = Item { path, key: root.key.clone(), headers, no_link: false };
            Some(Found::File(item, Stamp::of(&metadata)))
        }
        Err(error) => Some(Found::Failed(path, error.to_string())),
    }
}

fn in_folder(plan: &Plan, root: &Root, entry: &DirEntry, headers: &Arc<Headers>) -> Option<Found> {
    let kind = entry.file_type();
    if kind.is_dir() {
        return None;
    }
    let path = entry.path().to_owned();
    let below = path.strip_prefix(&root.path).unwrap_or(&path);
    if !plan.filters.allow(&below.to_string_lossy()) {
        return None;
    }
    let Some(relative) = below.to_str().map(str::to_owned) else {
        return Some(Found::Failed(path, "its name is not UTF-8, and keys are".to_owned()));
    };
    if kind.is_symlink() {
        return Some(Found::Skipped(path, "a symbolic link (--follow-links)".to_owned()));
    }
    if !kind.is_file() {
        return Some(Found::Skipped(path, "neither a file nor a folder".to_owned()));
    }
    let key = format!("{}{relative}", root.key);
    if let Err(why) = check_key(&key) {
        return Some(Found::Failed(path, why));
    }
    match entry.metadata() {
        Ok(metadata) => {
            let (headers, no_link) = (Arc::clone(headers), !plan.follow_links);
            Some(Found::File(Item { path, key, headers, no_link }, Stamp::of(&metadata)))
        }
        Err(error) => Some(Found::Failed(path, error.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::filter::Filters;
    use super::super::plan::{Place, Sources};
    use super::*;
    use clap::{Args as _, FromArgMatches as _};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    fn found(root: &Path, follow_links: bool) -> Vec<String> {
        filtered(root, follow_links, Filters::default())
    }

    fn filtered(root: &Path, follow_links: bool, filters: Filters) -> Vec<String> {
        let root = Root { path: root.to_owned(), key: "p/".to_owned(), folder: true };
        let plan = Plan {
            sources: Sources::Roots(Vec::new()),
            to: Place { bucket: "b".to_owned(), key: String::new() },
            filters,
            follow_links,
        };
        let mut all = Vec::new();
        let _ = walk(&plan, &[root], |found| {
            all.push(match found {
                Found::File(item, stamp) => format!("{} {}", item.key, stamp.length),
                Found::Skipped(_, why) => format!("skipped: {why}"),
                Found::Failed(_, why) => format!("failed: {why}"),
            });
            ControlFlow::Continue(())
        });
        all.sort();
        all
    }

    /// "symlinks: not followed by default, special files skipped with a line, non-UTF-8 names an error per
    /// file, key > 1024 bytes error"
    #[test]
    fn odd_things_are_named_and_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("a/empty")).unwrap();
        std::fs::write(root.join("a/one"), b"12").unwrap();
        std::fs::write(root.join("spaced \u{e9}\n"), b"").unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"bad\xff")), b"").unwrap();
        let mut deep = root.join("deep");
        for _ in 0..5 {
            deep.push("d".repeat(250));
        }
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), b"").unwrap();
        let all = found(root, false);
        let expected_failures = all.iter().filter(|line| line.starts_with("failed")).count();
        assert_eq!(expected_failures, 2, "{all:?}");
        assert!(all.iter().any(|line| line.contains("not UTF-8")), "{all:?}");
        assert!(all.iter().any(|line| line.contains("1263 bytes")), "{all:?}");
        let skipped = all.iter().filter(|line| line.starts_with("skipped")).count();
        assert_eq!(skipped, 3, "{all:?}");
        assert!(
            all.contains(&"p/a/one 2".to_owned()) && all.contains(&"p/spaced é\n 0".to_owned())
        );
        std::os::unix::fs::symlink("..", root.join("a/up")).unwrap();
        let followed = found(root, true);
        assert!(followed.contains(&"p/link/one 2".to_owned()), "{followed:?}");
        assert!(followed.iter().any(|line| line.contains("leads back")), "{followed:?}");
    }

    /// "Leave out what matches": what is in a folder that is left out is not looked at, and no failure.
    #[test]
    fn what_is_left_out_is_not_looked_into() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir(root.join("lost+found")).unwrap();
        std::os::unix::fs::symlink(".", root.join("lost+found/loop")).unwrap();
        std::fs::write(root.join("one"), b"12").unwrap();
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"bad\xff.tmp")), b"").unwrap();
        assert_eq!(found(root, true).len(), 3, "a loop, a bad name and a file");
        let command = Filters::augment_args(clap::Command::new("x"));
        let arguments = ["x", "--exclude", "lost+found/*", "--exclude", "*.tmp"];
        let matches = command.try_get_matches_from(arguments).unwrap();
        let filters = Filters::from_arg_matches(&matches).unwrap();
        assert_eq!(filtered(root, true, filters), ["p/one 2"]);
    }
}
