//! A file on this machine: opened once, read as it was then, and looked at again when it was sent.

use super::digest::{Checksum, Sum};
use super::plan::{Item, Stamp};
use bytes::Bytes;
use nix::fcntl::OFlag;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;

/// Bytes of a file that is read into memory and goes out in one write with its head.
const SMALL: u64 = 256 << 10;

/// Bytes that are read at a time to compute a checksum.
const READ: usize = 256 << 10;

/// An open file.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) file: Arc<File>,
    /// As it was when it was opened.
    pub(super) stamp: Stamp,
    /// The whole of a small one, and its checksum.
    pub(super) small: Option<(Bytes, Sum)>,
}

impl Local {
    /// Opens the file, and reads a small one. Blocks, though for no reader or writer of a pipe.
    pub(super) fn open(item: &Item, checksum: Checksum) -> io::Result<Local> {
        let no_follow = if item.no_link { OFlag::O_NOFOLLOW } else { OFlag::empty() };
        let flags = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | no_follow).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&item.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file any more"));
        }
        let stamp = Stamp::of(&metadata);
        let file = Arc::new(file);
        let mut local = Local { file, stamp, small: None };
        if stamp.length <= SMALL {
            local.read_small(checksum)?;
        }
        Ok(local)
    }

    fn read_small(&mut self, checksum: Checksum) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(self.stamp.length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        if !self.is_as_it_was()? {
            return Err(changed());
        }
        let mut computing = checksum.begin();
        computing.update(&bytes);
        self.small = Some((bytes.into(), computing.finish()));
        Ok(())
    }

    /// The checksum of a range. Blocks.
    pub(super) fn sum(&self, checksum: Checksum, offset: u64, length: u64) -> io::Result<Sum> {
        let mut computing = checksum.begin();
        if computing.is_nothing() {
            return Ok(computing.finish());
        }
        let mut block = vec![0; READ];
        let mut done = 0;
        while done < length {
            let most = usize::try_from(length - done).unwrap_or(READ).min(READ);
            let Some(block) = block.get_mut(..most) else { break };
            match self.file.read_exact_at(block, offset + done) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(changed()),
                Err(error) => return Err(error),
            }
            computing.update(block);
            done += most as u64;
        }
        Ok(computing.finish())
    }

    /// Whether nobody has written to it since it was opened. Blocks.
    pub(super) fn is_as_it_was(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file.metadata()?) == self.stamp)
    }
}

/// What is said of a file that somebody writes to.
pub(super) fn changed() -> io::Error {
    io::Error::other("it changed while it was sent")
}
