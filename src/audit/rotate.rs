//! A file of lines that makes room for itself: by size, and by the hour or the day.
//!
//! Ready-made rotating writers lose lines without a word when the next file cannot be opened, or panic
//! when somebody has moved one; both are what an audit log is not for. This one says so, tries again
//! with the next line, and never leaves half a line behind.

use crate::settings::RotateEvery;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// See the module.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    max_size: u64,
    max_files: usize,
    every: RotateEvery,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Bytes of whole lines.
    length: u64,
    /// The hour or day that the file is of.
    period: i64,
    /// Half a line may stand at the end.
    torn: bool,
}

impl RotatingFile {
    /// Opens the file, and goes on at its end if it is there. A new one has mode 0600.
    pub(super) fn open(
        path: PathBuf,
        max_size: u64,
        max_files: usize,
        every: RotateEvery,
    ) -> io::Result<Self> {
        let mut file = RotatingFile { path, max_size, max_files, every, open: None };
        let opened = file.open_now(OffsetDateTime::now_utc());
        let named =
            |error| io::Error::other(format!("audit.file {}: {error}", file.path.display()));
        file.open = Some(opened.map_err(named)?);
        Ok(file)
    }

    /// Writes whole lines, all or none of them. An error: none of them is there.
    pub(super) fn write(&mut self, lines: &[u8], now: OffsetDateTime) -> io::Result<()> {
        let (period, more) = (period(self.every, now), lines.len() as u64);
        let full = self.open.as_ref().is_some_and(|open| {
            open.length > 0
                && (open.length.saturating_add(more) > self.max_size || open.period != period)
        });
        if full {
            match self.rotate() {
                Ok(()) => self.open = None,
                // Too large a file is better than a line that is lost.
                Err(error) => log::error!("the audit log cannot be rotated: {error}"),
            }
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let opened = self.open_now(now)?;
                self.open.insert(opened)
            }
        };
        open.period = period;
        if open.torn {
            open.file.write_all(b"\n")?;
            open.length = open.length.saturating_add(1);
            open.torn = false;
        }
        let written = open.file.write_all(lines);
        match written {
            Ok(()) => open.length = open.length.saturating_add(more),
            // What did get there is taken back.
            Err(_) => open.torn = open.file.set_len(open.length).is_err(),
        }
        written
    }

    /// Has everything on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data())
    }

    fn open_now(&self, now: OffsetDateTime) -> io::Result<Open> {
        if let Some(parent) = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let found = file.metadata()?;
        let length = if found.is_file() { found.len() } else { 0 };
        let written = match found.modified() {
            Ok(time) if length > 0 => OffsetDateTime::from(time),
            _ => now,
        };
        let period = period(self.every, written);
        let torn = length > 0 && !ends_whole(&self.path, length)?;
        Ok(Open { file, length, period, torn })
    }

    /// Moves each file to its next number; the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: usize| match number {
            0 => self.path.clone(),
            number => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{number}"));
                PathBuf::from(name)
            }
        };
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(std::fs::remove_file(numbered(self.max_files)))?;
        for number in (0..self.max_files).rev() {
            gone(std::fs::rename(numbered(number), numbered(number + 1)))?;
        }
        Ok(())
    }
}

/// Whether the last line of the file is whole: a process that was killed may have left half of one.
fn ends_whole(path: &Path, length: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = [0];
    match File::open(path) {
        Ok(file) => {
            file.read_exact_at(&mut last, length.saturating_sub(1))?;
            Ok(last == *b"\n")
        }
        // It may be written and not read: an empty line is the worst that comes of it.
        Err(_) => Ok(false),
    }
}

fn period(every: RotateEvery, time: OffsetDateTime) -> i64 {
    let hours = time.unix_timestamp().div_euclid(3600);
    match every {
        RotateEvery::None => 0,
        RotateEvery::Hour => hours,
        RotateEvery::Day => hours.div_euclid(24),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_is_full_moves_on_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/audit");
        let mut file = RotatingFile::open(path.clone(), 10, 2, RotateEvery::None).unwrap();
        let now = OffsetDateTime::now_utc();
        for line in ["1234\n", "5678\n", "9\n", "too long for one file\n", "a\n"] {
            file.write(line.as_bytes(), now).unwrap();
        }
        let parent = path.parent().unwrap();
        assert_eq!(names(parent), ["audit", "audit.1", "audit.2"]);
        let read = |name: &str| std::fs::read_to_string(parent.join(name)).unwrap();
        assert_eq!(read("audit"), "a\n");
        assert_eq!(
            (read("audit.1").as_str(), read("audit.2").as_str()),
            ("too long for one file\n", "9\n")
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(parent)), (0o600, 0o700));
    }

    #[test]
    fn a_new_hour_or_day_begins_a_new_file_and_an_old_file_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let start = OffsetDateTime::now_utc();
        for (every, hours) in [(RotateEvery::Hour, 1), (RotateEvery::Day, 24)] {
            let mut file = RotatingFile::open(path.clone(), 1000, 9, every).unwrap();
            let before = names(directory.path()).len();
            file.write(b"now\n", start).unwrap();
            let mut again = RotatingFile::open(path.clone(), 1000, 9, every).unwrap();
            again.write(b"now\n", start).unwrap();
            assert!(names(directory.path()).len() <= before + 1);
            let now = names(directory.path()).len();
            again.write(b"later\n", start + time::Duration::hours(hours)).unwrap();
            assert_eq!(names(directory.path()).len(), now + 1);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "later\n");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn half_a_line_stays_alone_and_a_moved_file_is_no_panic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        std::fs::write(&path, "half").unwrap();
        let mut file = RotatingFile::open(path.clone(), 12, 1, RotateEvery::None).unwrap();
        let now = OffsetDateTime::now_utc();
        file.write(b"whole\n", now).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half\nwhole\n");
        std::fs::remove_file(&path).unwrap();
        file.write(b"more\n", now).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "more\n");
    }

    #[test]
    fn what_cannot_be_rotated_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        std::fs::create_dir_all(directory.path().join("audit.1/in the way")).unwrap();
        let mut file = RotatingFile::open(path.clone(), 4, 1, RotateEvery::None).unwrap();
        for line in ["123\n", "456\n", "789\n"] {
            file.write(line.as_bytes(), OffsetDateTime::now_utc()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "123\n456\n789\n");
    }

    #[test]
    fn a_full_disk_is_an_error_each_time() {
        let mut file = RotatingFile::open("/dev/full".into(), 1000, 1, RotateEvery::None).unwrap();
        for _ in 0..3 {
            assert!(file.write(b"line\n", OffsetDateTime::now_utc()).is_err());
        }
    }
}
