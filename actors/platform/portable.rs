//! Any Unix: what the copy path needs, and nothing more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use tokio::net::TcpStream;

/// Whether bodies can go from socket to socket without entering the process.
pub const ZERO_COPY: bool = false;

/// Names that are tried for an overflow file: each is random in 64 bits.
const MAX_TRIES: u32 = 8;

/// There are none here: Unsupported.
pub fn new_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There are none here: Unsupported.
pub fn grow_pipe(_pipe: &OwnedFd, _size: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// It is not here: Unsupported.
pub fn splice(_from: impl AsFd, _to: impl AsFd, _length: usize, _more: bool) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// It is not here: Unsupported.
pub fn tee(_from: impl AsFd, _to: impl AsFd, _length: usize) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// It is not here: Unsupported.
pub fn splice_file(
    _file: &File,
    _offset: u64,
    _pipe: impl AsFd,
    _length: usize,
) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nobody tells the kernel here.
pub fn will_need(_file: &File, _offset: u64, _length: usize) {}

/// Nobody tells the kernel here.
pub fn begin_writing(_file: &File, _offset: u64, _length: u64) {}

/// A file in `directory`, mode 0600, whose name is taken away at once. Blocks.
pub fn unnamed_file(directory: &Path) -> io::Result<File> {
    let mut tries = 0;
    loop {
        let path = directory.join(format!(".replay-{:016x}", rand::random::<u64>()));
        let made =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < MAX_TRIES => {
                tries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Nobody asks the kernel here: false.
pub fn holds_unsent(_stream: &TcpStream) -> bool {
    false
}

/// Nobody asks the kernel here: None.
pub fn total_memory() -> Option<u64> {
    None
}
