//! The archive as it is unpacked: one reader over the stored body, with its bounds.

use super::archive::{Archive, BatchLimits, Format};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of one read of the stored body.
const READ: usize = 64 * 1024;

/// Two to the power of this are the bytes of the largest window that a zstd frame may ask for: RFC 8878,
/// 3.1.1.1.2 recommends that a decoder supports 8 MiB, and that is what one archive may take of memory.
const ZSTD_WINDOW: u32 = 23;

/// Bytes of the unpacked archive up to which its ratio does not count: small files in a tar are mostly
/// padding, and this much is no bomb.
const RATIO_FROM: u64 = 16 * 1024 * 1024;

/// Why the unpacked bytes end before their end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// There are more of them than there may be.
    TooLarge,
    /// They are more than so many times the stored ones.
    Bomb,
    /// The stored body could not be read.
    Disk,
    /// Nobody waits for them any more.
    Unwanted,
}

/// What the layers tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// Stored bytes that were read.
    stored: Cell<u64>,
    stopped: Cell<Option<Stopped>>,
}

/// See the module.
pub(super) struct Input {
    inner: Box<dyn Read>,
    shared: Rc<Shared>,
    limits: BatchLimits,
    compressed: bool,
    position: u64,
    wanted: Arc<AtomicBool>,
    broken: bool,
}

impl Input {
    /// From the beginning. It stops soon after `wanted` is false.
    pub(super) fn open(
        archive: &Archive,
        limits: BatchLimits,
        wanted: Arc<AtomicBool>,
    ) -> io::Result<Input> {
        let shared = Rc::new(Shared::default());
        let stored = Stored { archive: archive.clone(), at: 0, shared: Rc::clone(&shared) };
        let stored = BufReader::with_capacity(READ, stored);
        let inner: Box<dyn Read> = match archive.format {
            Format::Plain => Box::new(stored),
            Format::Gzip => Box::new(MultiGzDecoder::new(stored)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
        };
        let compressed = archive.format != Format::Plain;
        Ok(Input { inner, shared, limits, compressed, position: 0, wanted, broken: false })
    }

    /// Unpacked bytes that were read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Why a read failed, if the archive is not to blame.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.shared.stopped.get()
    }

    /// Whether a read has failed: where it would go on nobody knows.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    fn stop(&mut self, why: Stopped) -> io::Error {
        self.broken = true;
        self.shared.stopped.set(Some(why));
        io::Error::other("the archive is not read any further")
    }
}

impl Read for Input {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if !self.wanted.load(Ordering::Relaxed) {
            return Err(self.stop(Stopped::Unwanted));
        }
        let read = self.inner.read(space).inspect_err(|error| {
            self.broken |= error.kind() != io::ErrorKind::Interrupted;
        })?;
        self.position = self.position.saturating_add(read as u64);
        if self.position > self.limits.total_size {
            return Err(self.stop(Stopped::TooLarge));
        }
        let most = self.shared.stored.get().saturating_mul(self.limits.ratio);
        if self.compressed && self.position > most.max(RATIO_FROM) {
            return Err(self.stop(Stopped::Bomb));
        }
        Ok(read)
    }
}

/// The stored body.
struct Stored {
    archive: Archive,
    at: u64,
    shared: Rc<Shared>,
}

impl Read for Stored {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let left = self.archive.length.saturating_sub(self.at);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(space.len());
        let space = space.get_mut(..most).unwrap_or_default();
        let read = match &self.archive.place {
            Place::File(file) => file.read_at(space, self.at),
            Place::Bytes(bytes) => {
                let from = usize::try_from(self.at).unwrap_or(usize::MAX);
                bytes.get(from..).unwrap_or_default().read(space)
            }
        };
        let read = match read {
            // The file became shorter under us.
            Ok(0) if most > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        let read = read.inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                log::error!("an archive in the spool could not be read: {error}");
                self.shared.stopped.set(Some(Stopped::Disk));
            }
        })?;
        self.at += read as u64;
        self.shared.stored.set(self.at);
        Ok(read)
    }
}

/// Where a stored body is.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In a file that nobody writes to any more.
    File(Arc<File>),
    /// In memory.
    Bytes(Bytes),
}
