//! Pipes, and the four calls that move page references through them (splice(2), tee(2)).
//!
//! A pipe holds references to pages, not bytes: a ring of slots, each a piece of a page. Its size
//! is what the kernel granted, read back, never what was asked for: past `pipe-user-pages-soft` an
//! unprivileged user gets two pages (pipe(7)). See [`super::PipeAllowance`].

use super::allowance::{Held, LEAST, PipeAllowance, Refused};
use crate::platform;
use bytes::Bytes;
use nix::errno::Errno;
use nix::unistd::read;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Of the host's allowance, where it is counted.
    _held: Option<Held>,
}

impl Pipe {
    /// Opens a pipe and asks for `size` bytes of slots, then for half, and so on. A refused size is
    /// not an error: see [`Pipe::slots`].
    pub fn open(size: usize) -> io::Result<Pipe> {
        let (reader, writer) = platform::new_pipe()?;
        let mut asked = size;
        let granted = loop {
            let granted = platform::grow_pipe(&writer, asked)?;
            if granted >= asked || asked / 2 < LEAST * PAGE {
                break granted;
            }
            asked /= 2;
        };
        Ok(Pipe { reader, writer, slots: (granted / PAGE).max(1), _held: None })
    }

    /// As [`Pipe::open`], within `held`; None: the host has no useful one.
    fn within(held: Held) -> Option<Pipe> {
        match Pipe::open(held.slots() * PAGE) {
            Ok(pipe) if pipe.slots >= LEAST => Some(Pipe { _held: Some(held), ..pipe }),
            Ok(_) => None,
            Err(error) => {
                log::debug!("no pipe: {error}");
                None
            }
        }
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
    allowance: Arc<PipeAllowance>,
    idle: Mutex<Vec<Pipe>>,
    /// /dev/null; None where it cannot be opened.
    null: Option<File>,
}

/// Idle pipes that one cache keeps, two descriptors each: what a part of 64 MiB held.
const MAX_IDLE: usize = 64;

impl PipeCache {
    /// A cache of pipes of `size` bytes each (`server.zero_copy.pipe_buffer_size`), out of the
    /// process's `allowance`.
    pub fn new(size: usize, allowance: Arc<PipeAllowance>) -> Self {
        let null = File::options().write(true).open("/dev/null").ok();
        PipeCache { size, allowance, idle: Mutex::default(), null }
    }

    /// An empty pipe to move bytes through, of 64 KiB at the least; smaller than the cache's where the
    /// host is short of them. None: there is none, and the bytes are to be copied.
    pub fn moving(&self) -> Option<Pipe> {
        let slots = self.slots();
        let pipe = self.idle().or_else(|| Pipe::within(self.allowance.moving(slots)?));
        match &pipe {
            None => self.allowance.note(Refused::Copied),
            Some(pipe) if pipe.slots < slots => self.allowance.note(Refused::Smaller),
            Some(_) => {}
        }
        pipe
    }

    /// An empty pipe to keep pages in. None: they are to be kept in memory.
    pub fn keeping(&self) -> Option<Pipe> {
        let slots = self.slots();
        let pipe = self.idle().or_else(|| Pipe::within(self.allowance.keeping(slots)?));
        if pipe.is_none() {
            self.allowance.note(Refused::Kept);
        }
        pipe
    }

    /// Gives back a pipe in which `bytes` still stand. They are spliced to /dev/null, which only lets
    /// their pages go, as closing the pipe would; opening and sizing another is saved.
    pub fn recycle(&self, pipe: Pipe, bytes: usize) {
        let room = self.lock().len() < MAX_IDLE && self.allowance.is_roomy();
        let Some(null) = self.null.as_ref().filter(|_| room) else { return };
        if platform::splice(&pipe.reader, null, bytes, false).is_ok_and(|gone| gone == bytes) {
            self.put(pipe);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pipe>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back a pipe that the caller knows to be empty.
    pub fn put(&self, pipe: Pipe) {
        let mut idle = self.lock();
        // A pipe that got fewer slots than asked was opened past the limit of the hour: let it go.
        if idle.len() < MAX_IDLE && pipe.slots >= self.slots() && self.allowance.is_roomy() {
            idle.push(pipe);
        }
    }

    fn slots(&self) -> usize {
        (self.size / PAGE).max(LEAST)
    }

    fn idle(&self) -> Option<Pipe> {
        self.lock().pop()
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
    fn a_recycled_pipe_is_empty_and_the_same() {
        let refused = crate::metrics::Metrics::new().unwrap().pipes_refused.clone();
        let cache = PipeCache::new(65536, PipeAllowance::new(None, refused));
        let pipe = cache.keeping().unwrap();
        fill(&pipe, b"hello");
        let before = std::os::fd::AsRawFd::as_raw_fd(&pipe.reader);
        cache.recycle(pipe, 5);
        let again = cache.keeping().unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&again.reader), before);
        assert_eq!(&again.take(9).unwrap()[..], b"");
        // One that holds something else than was said is not given out again.
        fill(&again, b"x");
        cache.recycle(again, 5);
        assert_eq!(&cache.keeping().unwrap().take(9).unwrap()[..], b"");
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
