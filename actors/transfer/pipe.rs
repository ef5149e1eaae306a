//! Pipes, and the four calls that move page references through them (splice(2), tee(2)).
//!
//! A pipe holds references to pages, not bytes: a ring of slots, each a piece of a page. Its size
//! is what the kernel granted, read back, never what was asked for: past `pipe-user-pages-soft` an
//! unprivileged user gets two pages (pipe(7)).

use crate::platform;
use bytes::Bytes;
use nix::errno::Errno;
use nix::unistd::read;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes of a page: what one slot may reference at the least.
pub(super) const PAGE: usize = 4096;

/// One pipe, non-blocking, both ends.
#[derive(Debug)]
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    slots: usize,
}

impl Pipe {
    /// Opens a pipe and asks for `size` bytes of slots. A refused size is not an error: see
    /// [`Pipe::slots`].
    pub fn open(size: usize) -> io::Result<Pipe> {
        let (reader, writer) = platform::new_pipe()?;
        let slots = (platform::grow_pipe(&writer, size)? / PAGE).max(1);
        Ok(Pipe { reader, writer, slots })
    }

    /// The slots that the kernel granted: each holds a reference to (a piece of) a page.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The end that is spliced into.
    pub fn writer(&self) -> BorrowedFd<'_> {
        self.writer.as_fd()
    }

    /// Duplicates up to `length` bytes from the front of this pipe to the back of `to`, consuming
    /// nothing. Fewer are duplicated when `to` runs out of slots.
    pub fn tee(&self, to: &Pipe, length: usize) -> io::Result<usize> {
        would_block_is_zero(platform::tee(&self.reader, &to.writer, length))
    }

    /// Moves up to `length` bytes from this pipe to `to`. 0: `to` is full, or this one is empty.
    pub fn shift(&self, to: &Pipe, length: usize) -> io::Result<usize> {
        would_block_is_zero(platform::splice(&self.reader, &to.writer, length, false))
    }

    /// Copies `length` bytes out into memory. Fewer only if the pipe held fewer.
    pub fn take(&self, length: usize) -> io::Result<Bytes> {
        let mut out = vec![0; length];
        let mut filled = 0;
        while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match read(&self.reader, rest) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(count) => filled += count,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        out.truncate(filled);
        Ok(out.into())
    }

    /// Splices up to `length` bytes to the socket, waiting until it takes some. Returns the bytes
    /// moved, > 0 unless the pipe was empty.
    ///
    /// `more`: further bytes follow at once; never on the last piece.
    pub async fn send(&self, to: &TcpStream, length: usize, more: bool) -> io::Result<usize> {
        to.async_io(Interest::WRITABLE, || platform::splice(&self.reader, to, length, more)).await
    }
}

fn would_block_is_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}

/// Empty pipes kept open for the next part: opening and sizing one costs more than a small body.
#[derive(Debug)]
pub struct PipeCache {
    size: usize,
    idle: Mutex<Vec<Pipe>>,
}

/// Idle pipes that one cache keeps: 16 parts of 1 MiB each in flight per worker at no cost.
const MAX_IDLE: usize = 32;

impl PipeCache {
    /// A cache of pipes of `size` bytes each (`server.zero_copy.pipe_buffer_size`).
    pub fn new(size: usize) -> Self {
        PipeCache { size, idle: Mutex::default() }
    }

    /// An empty pipe. Errors with EMFILE or ENFILE when descriptors run out.
    pub fn get(&self) -> io::Result<Pipe> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(pipe) => Ok(pipe),
            None => Pipe::open(self.size),
        }
    }

    /// Gives back a pipe that the caller knows to be empty.
    pub fn put(&self, pipe: Pipe) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // A pipe that got fewer slots than asked was opened past the limit of the hour: let it go.
        if idle.len() < MAX_IDLE && pipe.slots() * PAGE >= self.size {
            idle.push(pipe);
        }
    }
}

#[cfg(all(test, not(feature = "portable")))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn fill(pipe: &Pipe, bytes: &[u8]) {
        assert_eq!(nix::unistd::write(pipe.writer(), bytes).unwrap(), bytes.len());
    }

    /// tee(2): "does not consume the data that is duplicated".
    #[test]
    fn tee_keeps_and_shift_moves() {
        let (first, second) = (Pipe::open(65536).unwrap(), Pipe::open(65536).unwrap());
        fill(&first, b"hello");
        assert_eq!(first.tee(&second, 5).unwrap(), 5);
        assert_eq!(&second.take(5).unwrap()[..], b"hello");
        assert_eq!(first.shift(&second, 5).unwrap(), 5);
        assert_eq!(first.shift(&second, 5).unwrap(), 0);
        assert_eq!(&second.take(9).unwrap()[..], b"hello");
    }

    #[test]
    fn a_full_pipe_takes_nothing() {
        let (source, full) = (Pipe::open(4096).unwrap(), Pipe::open(4096).unwrap());
        for _ in 0..full.slots() {
            fill(&full, &[0; PAGE]);
        }
        fill(&source, b"x");
        assert_eq!(source.shift(&full, 1).unwrap(), 0);
    }
}
