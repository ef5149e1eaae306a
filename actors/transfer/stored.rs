//! What a part sends that has no client any more: bytes that stand in a file, or in memory.
//!
//! Each attempt sends them from the beginning; what is stored is the replay, and draws on no budget.
//! A file is read on the blocking pool, where the disk may be waited for: into a pipe, by splice(2), and
//! where the backend's connection takes no splice or the host has no pipe, into a block. While one
//! load goes out, the next one is read.

use super::intake::COPY_READ;
use super::outlet::Outlet;
use super::part::{SendError, Volume};
use super::pipe::{PAGE, Pipe};
use super::rate::Rate;
use crate::blocks;
use crate::platform;
use bytes::{Bytes, BytesMut};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

/// See the module.
#[derive(Debug)]
pub(super) enum Stored {
    /// In memory.
    Bytes(Bytes),
    /// In a file.
    File(FileRange),
}

/// A range of a file that nobody writes to any more.
#[derive(Debug)]
pub(super) struct FileRange {
    /// Some until the drop.
    file: Option<Arc<File>>,
    offset: u64,
    length: u64,
    /// The most of it that an attempt has sent: bytes are counted once.
    counted: u64,
    /// What it draws on as it goes.
    rate: Option<Arc<Rate>>,
}

/// What was read of a file, on its way to the backend.
#[derive(Debug)]
enum Load {
    /// So many bytes stand in the pipe.
    Pipe(Pipe, usize),
    Block(Bytes),
}

impl Stored {
    pub(super) fn file(file: Arc<File>, offset: u64, length: u64) -> Self {
        Stored::File(FileRange { file: Some(file), offset, length, counted: 0, rate: None })
    }

    /// Bytes of the whole.
    pub(super) fn len(&self) -> u64 {
        match self {
            Stored::Bytes(bytes) => bytes.len() as u64,
            Stored::File(range) => range.length,
        }
    }

    /// The whole as one piece of memory, if it is one.
    pub(super) fn as_bytes(&self) -> Option<Bytes> {
        match self {
            Stored::Bytes(bytes) => Some(bytes.clone()),
            Stored::File(range) => (range.length == 0).then(Bytes::new),
        }
    }

    /// Sends the whole, and counts in `volume` what no attempt has sent before.
    pub(super) async fn send(
        &mut self,
        out: &mut Outlet<'_>,
        volume: &mut Volume,
    ) -> Result<(), SendError> {
        match self {
            Stored::Bytes(bytes) => {
                out.offer();
                out.write(std::slice::from_ref(bytes)).await
            }
            Stored::File(range) => range.send(out, volume).await,
        }
    }
}

impl FileRange {
    pub(super) fn set_rate(&mut self, rate: Option<Arc<Rate>>) {
        self.rate = rate;
    }

    async fn send(&mut self, out: &mut Outlet<'_>, volume: &mut Volume) -> Result<(), SendError> {
        let mut sent = 0;
        let mut loading = self.load(out, sent);
        if loading.is_none() {
            out.offer();
        }
        while let Some(load) = loading.take() {
            // Dropped while it reads, a load gives its pipe or block back by being dropped.
            let load = out.unless_answered(load).await?;
            let load = load.map_err(io::Error::other).flatten().map_err(SendError::Internal)?;
            sent += load.len() as u64;
            loading = self.load(out, sent);
            let last = loading.is_none();
            if last {
                out.offer();
            }
            if let Some(rate) = &self.rate {
                out.unless_answered(rate.drawn(load.len())).await?;
            }
            self.count(&load, sent, volume);
            match load {
                Load::Pipe(pipe, bytes) => out.send_filled(pipe, bytes, !last).await?,
                Load::Block(bytes) => {
                    let bytes = [bytes];
                    out.write(&bytes).await?;
                    bytes.into_iter().for_each(blocks::give);
                }
            }
            fail::fail_point!("stored::sent");
        }
        Ok(())
    }

    /// Begins to read what comes after the first `sent` bytes. None: nothing does.
    fn load(&self, out: &mut Outlet<'_>, sent: u64) -> Option<JoinHandle<io::Result<Load>>> {
        let file = Arc::clone(self.file.as_ref()?);
        let (offset, left) = (self.offset + sent, self.length.saturating_sub(sent));
        if left == 0 {
            return None;
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let left = self.rate.as_ref().map_or(left, |rate| left.min(rate.most()));
        Some(match out.take_pipe() {
            Some(pipe) => {
                let most = (pipe.slots() * PAGE).min(left);
                spawn_blocking(move || splice(&file, offset, pipe, most))
            }
            None => {
                let (block, most) = (blocks::take(), COPY_READ.min(left));
                spawn_blocking(move || read(&file, offset, block, most))
            }
        })
    }

    /// Counts a load, after which `sent` bytes are on their way.
    fn count(&mut self, load: &Load, sent: u64, volume: &mut Volume) {
        let new = sent.saturating_sub(self.counted);
        self.counted += new;
        match load {
            Load::Pipe(..) => {
                volume.spliced += new;
                volume.splices += u64::from(new > 0);
            }
            Load::Block(_) => volume.copied += new,
        }
    }
}

impl Drop for FileRange {
    /// The last one to close a file that was removed frees its blocks: not on this thread.
    fn drop(&mut self) {
        let Some(file) = self.file.take().and_then(Arc::into_inner) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

impl Load {
    fn len(&self) -> usize {
        match self {
            Load::Pipe(_, bytes) => *bytes,
            Load::Block(bytes) => bytes.len(),
        }
    }
}

/// Blocks.
fn splice(file: &File, offset: u64, pipe: Pipe, most: usize) -> io::Result<Load> {
    platform::will_need(file, offset, 2 * most);
    loop {
        match platform::splice_file(file, offset, pipe.writer(), most) {
            Ok(0) => return Err(too_short()),
            Ok(moved) => return Ok(Load::Pipe(pipe, moved)),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                // Not every file system knows splice(2).
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => {
                    return read(file, offset, BytesMut::new(), most.min(COPY_READ));
                }
                _ => return Err(error),
            },
        }
    }
}

/// Reads exactly `most` bytes. Blocks.
fn read(file: &File, offset: u64, mut block: BytesMut, most: usize) -> io::Result<Load> {
    platform::will_need(file, offset, 2 * most);
    block.resize(most, 0);
    match file.read_exact_at(&mut block, offset) {
        Ok(()) => Ok(Load::Block(block.freeze())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(too_short()),
        Err(error) => Err(error),
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a stored body is shorter than it was recorded")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
