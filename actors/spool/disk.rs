//! Where the spool stands: the seam behind which a test's disk tears, fails and loses what a real one
//! may, and the real one.

use super::entry::BodyId;
use super::limits::Free;
use crate::platform;
use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use redb::StorageBackend;
use redb::backends::FileBackend;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The journal's name in the spool's folder.
const JOURNAL: &str = "journal.redb";

/// The name of the folder with the bodies' files.
const BODIES: &str = "bodies";

/// What an operator makes to say that the bodies' files are lost for good.
const LOST: &str = "bodies-are-lost";

/// Bytes that a journal begins with and that are not zero.
const JOURNAL_MAGIC: u64 = 9;

/// Bytes of a body after which the kernel is told to write them: a disk that is at work all the while
/// leaves little to the sync at the end, and no more of it stands dirty in memory.
const WRITE_EVERY: u64 = 8 * 1024 * 1024;

/// A place for the journal and the bodies. Every method may block.
pub trait Disk: Debug + Send + Sync {
    /// Where it is, for people.
    fn path(&self) -> &Path;

    /// Whether there is no journal, or one that holds nothing yet.
    fn is_new(&self) -> io::Result<bool>;

    /// Whether somebody has said that the bodies' files are lost for good.
    fn is_loss_accepted(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// That was heeded, and does not hold for the next time.
    fn forget_acceptance(&self) -> io::Result<()> {
        Ok(())
    }

    /// Opens the journal's file, makes it if there is none, and keeps everybody else out of it.
    ///
    /// Errors: `ResourceBusy`: somebody has it open.
    fn journal(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Makes the file of a new body, with room for `length` bytes if that is known: a full disk says
    /// so now. The name is durable after [`Disk::sync_folder`].
    ///
    /// Errors: `AlreadyExists`; `StorageFull` and `QuotaExceeded`.
    fn create(&self, id: BodyId, length: Option<u64>) -> io::Result<Box<dyn BodyFile>>;

    /// Opens a body to send from.
    fn open(&self, id: BodyId) -> io::Result<File>;

    /// Bytes of a body's file. Errors: `NotFound`.
    fn length(&self, id: BodyId) -> io::Result<u64>;

    /// Removes a body's file.
    fn remove(&self, id: BodyId) -> io::Result<()>;

    /// All bodies that are there.
    fn bodies(&self) -> io::Result<Vec<BodyId>>;

    /// Makes durable which bodies are there.
    fn sync_folder(&self) -> io::Result<()>;

    /// What is left.
    fn free(&self) -> io::Result<Free>;
}

/// The file of a body that is being taken. Every method may block.
pub trait BodyFile: Debug + Send {
    /// Bytes that the disk has given it before any was appended: 0 where the file system cannot.
    fn allocated(&self) -> u64 {
        0
    }

    /// Appends all of these.
    fn append(&mut self, pieces: &[Bytes]) -> io::Result<()>;

    /// Makes durable what was appended. After an error it must not be tried again: the kernel may have
    /// dropped the pages and then says that all is well.
    fn sync(&mut self) -> io::Result<()>;
}

/// A folder of a file system.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    bodies: PathBuf,
    /// To sync which names are in it.
    opened: File,
}

impl Folder {
    /// Opens the spool's folder, makes it (0700) if there is none. Its name is durable then.
    ///
    /// Blocks. Errors say which path.
    pub fn open(path: &Path) -> io::Result<Folder> {
        let bodies = path.join(BODIES);
        let above = || path.ancestors().skip(1).map(named);
        let made = above().take_while(|folder| !folder.is_dir()).count();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&bodies)
            .map_err(|error| about(&bodies, error))?;
        // All names that are new, and its own: what a power cut could take away.
        for folder in std::iter::once(path).chain(above().take(made + 1)) {
            sync(folder).map_err(|error| about(folder, error))?;
        }
        let opened = File::open(&bodies).map_err(|error| about(&bodies, error))?;
        Ok(Folder { path: path.to_owned(), bodies, opened })
    }

    /// Whether a spool stands in this folder, or half of one: whoever only looks must not make one.
    /// Blocks.
    pub fn holds_spool(path: &Path) -> io::Result<bool> {
        let journal = path.join(JOURNAL).try_exists().map_err(|error| about(path, error))?;
        Ok(journal || path.join(BODIES).read_dir().is_ok_and(|mut bodies| bodies.next().is_some()))
    }

    fn file(&self, id: BodyId) -> PathBuf {
        self.bodies.join(id.to_string())
    }
}

fn about(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The last one of a relative path's ancestors has no name.
fn named(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Gives a file its blocks without making it longer, so that a body that was not written whole is seen
/// to be too short: how many bytes. On a file system that cannot, none, and a full disk shows when it is
/// written.
#[cfg(target_os = "linux")]
fn allocate(file: &File, bytes: u64) -> io::Result<u64> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let Ok(length) = i64::try_from(bytes) else {
        return Err(Errno::EFBIG.into());
    };
    if length == 0 {
        return Ok(0);
    }
    loop {
        return match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, length) {
            Ok(()) => Ok(bytes),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(0),
            Err(Errno::EINTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(_: &File, _: u64) -> io::Result<u64> {
    Ok(0)
}

impl Disk for Folder {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_new(&self) -> io::Result<bool> {
        let path = self.path.join(JOURNAL);
        let mut begin = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                // redb writes them last: before that there is nothing.
                file.take(JOURNAL_MAGIC)
                    .read_to_end(&mut begin)
                    .map_err(|error| about(&path, error))?;
                Ok(begin.iter().all(|byte| *byte == 0))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(about(&path, error)),
        }
    }

    fn is_loss_accepted(&self) -> io::Result<bool> {
        self.path.join(LOST).try_exists()
    }

    fn forget_acceptance(&self) -> io::Result<()> {
        std::fs::remove_file(self.path.join(LOST))
    }

    fn journal(&self) -> io::Result<Box<dyn StorageBackend>> {
        let path = self.path.join(JOURNAL);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| about(&path, error))?;
        // redb locks too, but goes on where the file system has no locks.
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let error = io::Error::from(io::ErrorKind::ResourceBusy);
                return Err(about(&path, error));
            }
            Err(TryLockError::Error(error)) => return Err(about(&path, error)),
        }
        sync(&self.path).map_err(|error| about(&self.path, error))?;
        // Not allocated ahead, as bodies are: redb doubles it, and what it never writes costs nothing.
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn create(&self, id: BodyId, length: Option<u64>) -> io::Result<Box<dyn BodyFile>> {
        let path = self.file(id);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let allocated = allocate(&file, length.unwrap_or(0)).inspect_err(|_| {
            // Whoever is told of an error knows of no file.
            let _ = std::fs::remove_file(&path);
        })?;
        Ok(Box::new(Writing { file, allocated, length: 0, begun: 0 }))
    }

    fn open(&self, id: BodyId) -> io::Result<File> {
        File::open(self.file(id))
    }

    fn length(&self, id: BodyId) -> io::Result<u64> {
        Ok(std::fs::symlink_metadata(self.file(id))?.len())
    }

    fn remove(&self, id: BodyId) -> io::Result<()> {
        std::fs::remove_file(self.file(id))
    }

    fn bodies(&self) -> io::Result<Vec<BodyId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.bodies)? {
            // What has no body's name is somebody else's.
            ids.extend(entry?.file_name().to_str().and_then(BodyId::parse));
        }
        Ok(ids)
    }

    fn sync_folder(&self) -> io::Result<()> {
        fail::fail_point!("spool::sync_folder", |_| Err(Errno::EIO.into()));
        self.opened.sync_all()
    }

    fn free(&self) -> io::Result<Free> {
        let stat = statvfs(&self.bodies)?;
        // The types' widths are the platform's.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let (blocks, size, all, files) = (
            stat.blocks_available() as u64,
            stat.fragment_size() as u64,
            stat.files() as u64,
            stat.files_available() as u64,
        );
        // File systems without a table of inodes say that they have none at all.
        let files = if all == 0 { u64::MAX } else { files };
        Ok(Free { bytes: blocks.saturating_mul(size), files })
    }
}

#[derive(Debug)]
struct Writing {
    file: File,
    allocated: u64,
    /// Bytes that were appended.
    length: u64,
    /// Of them, those that the kernel was told to write.
    begun: u64,
}

impl BodyFile for Writing {
    fn allocated(&self) -> u64 {
        self.allocated
    }

    fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        // Empty ones in front would make a write of nothing.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match self.file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    self.length += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.length - self.begun >= WRITE_EVERY {
            platform::begin_writing(&self.file, self.begun, self.length - self.begun);
            self.begun = self.length;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        fail::fail_point!("spool::sync_body", |_| Err(Errno::EIO.into()));
        self.file.sync_data()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn folder() -> (tempfile::TempDir, Folder) {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::open(&directory.path().join("spool")).unwrap();
        (directory, folder)
    }

    #[test]
    fn a_body_is_what_was_appended_and_nobody_else_s_to_read() {
        let (directory, folder) = folder();
        let id = BodyId(0x2a);
        let mut file = folder.create(id, Some(1 << 20)).unwrap();
        let pieces = ["", "ab", "", "cd", ""].map(Bytes::from);
        file.append(&pieces).unwrap();
        file.append(&[]).unwrap();
        // More slices than one writev(2) takes.
        file.append(&vec![Bytes::from_static(b"x"); 5000]).unwrap();
        file.sync().unwrap();
        folder.sync_folder().unwrap();
        let mut text = String::new();
        folder.open(id).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("abcd{}", "x".repeat(5000)));
        // The room that was asked for is not its length.
        assert_eq!(folder.length(id).unwrap(), 5004);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let spool = directory.path().join("spool");
        assert_eq!(mode(&spool.join("bodies/000000000000002a")), 0o600);
        assert_eq!(mode(&spool), 0o700);
        assert_eq!(folder.bodies().unwrap(), [id]);
        let taken = folder.create(id, None).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        folder.remove(id).unwrap();
        assert_eq!(folder.bodies().unwrap(), []);
        assert_eq!(folder.length(id).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// "fallocate(length) so that ENOSPC comes now", and no file stays behind.
    #[test]
    fn a_body_that_finds_no_room_leaves_no_file() {
        let (_directory, folder) = folder();
        let error = folder.create(BodyId(1), Some(u64::MAX >> 1)).unwrap_err();
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::FileTooLarge];
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert_eq!(folder.bodies().unwrap(), []);
    }

    #[test]
    fn the_journal_has_one_owner() {
        let (directory, folder) = folder();
        let first = folder.journal().unwrap();
        let other = Folder::open(&directory.path().join("spool")).unwrap();
        assert_eq!(other.journal().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(first);
        assert!(other.journal().is_ok());
    }

    #[test]
    fn files_of_others_are_no_bodies() {
        let (directory, folder) = folder();
        std::fs::write(directory.path().join("spool/bodies/lost+found"), "").unwrap();
        assert_eq!(folder.bodies().unwrap(), []);
    }

    #[test]
    fn the_disk_says_what_is_free() {
        let (_directory, folder) = folder();
        let free = folder.free().unwrap();
        assert!(free.bytes > 0 && free.files > 0, "{free:?}");
    }
}
