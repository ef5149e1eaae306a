//! A part's replay buffer: everything that was taken from the client, kept until the backend has
//! acknowledged the part, so that a failed attempt can be made again.
//!
//! On the splice path the pages stay in a chain of pipes and are sent again by tee(2), which does
//! not consume them; on the copy path the `Bytes` that were read are kept. What the budget has no
//! room for goes to an unlinked file, or, where none is allowed, the buffer is given up: the part
//! goes on, and only a failure shows it.

use super::budget::{Permit, ReplayBudget};
use super::file::ReplayFile;
use super::pipe::{PAGE, Pipe, PipeCache};
use bytes::Bytes;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Fewer bytes than this a slot, in a pipe whose slots are all taken, and its content is read into
/// memory: a client that sends tiny segments would otherwise hold a pipe for next to nothing.
const MIN_BYTES_PER_SLOT: usize = 1024;

/// What every replay buffer of one worker draws on.
#[derive(Debug, Clone)]
pub struct ReplayResources {
    /// Process-wide.
    pub budget: Arc<ReplayBudget>,
    /// Of this worker.
    pub pipes: Arc<PipeCache>,
    /// Where overflow files go; None: `replay.overflow: none`.
    pub overflow: Option<PathBuf>,
    /// Bytes of one part that the copy path keeps in the process's own memory before it turns to
    /// the overflow file (`replay.memory_per_part`): one body that may not be split would otherwise
    /// grow the process by all of `replay.memory`.
    pub memory_per_part: usize,
}

/// One piece of what is kept, in the order of the stream.
#[derive(Debug)]
pub enum Segment {
    /// Pages in a pipe.
    Pipe {
        /// The pipe; its bytes are duplicated to send them, never consumed.
        pipe: Pipe,
        /// Bytes in it.
        bytes: usize,
        /// For the pipe and for its slots' pages.
        permits: Vec<Permit>,
    },
    /// Bytes in memory.
    Bytes {
        /// The bytes.
        bytes: Bytes,
        /// For them.
        permit: Permit,
    },
    /// A range of the overflow file.
    File {
        /// Where it begins in the file.
        offset: u64,
        /// Its length.
        length: usize,
        /// For its place on the disk.
        permit: Permit,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Kept {
    resources: ReplayResources,
    segments: Vec<Segment>,
    file: Option<ReplayFile>,
    /// Bytes in memory, pipes not counted.
    in_memory: usize,
    lost: bool,
}

impl Kept {
    /// An empty buffer.
    pub fn new(resources: ReplayResources) -> Self {
        Kept { resources, segments: Vec::new(), file: None, in_memory: 0, lost: false }
    }

    /// True when part of the stream could not be kept: it can never be sent again.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// What is kept, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The overflow file, when there is one.
    pub fn file(&self) -> Option<&ReplayFile> {
        self.file.as_ref()
    }

    /// The resources that this buffer draws on.
    pub fn resources(&self) -> &ReplayResources {
        &self.resources
    }

    /// Gives everything back: the part is acknowledged, or will not be sent again.
    pub fn give_up(&mut self) {
        self.segments.clear();
        self.file = None;
        self.lost = true;
    }

    /// Moves the `pending` bytes of `from` into this buffer, counting `pending` down with every
    /// move, so that it is right at whatever point an attempt dies. Afterwards `from` is empty.
    pub async fn keep_pipe(&mut self, from: &Pipe, pending: &mut usize) -> io::Result<()> {
        while *pending > 0 && !self.lost {
            if let Some(Segment::Pipe { pipe, bytes, permits }) = self.segments.last_mut() {
                let moved = from.shift(pipe, *pending)?;
                if moved > 0 {
                    *pending -= moved;
                    *bytes += moved;
                    // A slot may reference more than a page (a fragment of a network buffer): the
                    // first two permits are the pipe's and its slots', each further one as many.
                    let counted = permits.len().saturating_sub(1) * pipe.slots();
                    if bytes.div_ceil(PAGE) > counted {
                        match self.resources.budget.pages(pipe.slots()) {
                            Some(permit) => permits.push(permit),
                            None => self.last_pipe_to_memory().await?,
                        }
                    }
                    continue;
                }
                if *bytes < MIN_BYTES_PER_SLOT * pipe.slots() {
                    self.last_pipe_to_memory().await?;
                }
            }
            if !self.add_pipe() {
                let bytes = from.take(*pending)?;
                *pending = 0;
                self.keep_bytes(bytes).await?;
            }
        }
        if *pending > 0 {
            // Given up: what is left is dropped.
            from.take(*pending)?;
            *pending = 0;
        }
        Ok(())
    }

    /// Appends bytes that were read. They are shared, not copied.
    pub async fn keep_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.lost || bytes.is_empty() {
            return Ok(());
        }
        let full = self.in_memory + bytes.len() > self.resources.memory_per_part;
        let spilled = full && self.spill(&bytes).await?;
        if spilled || self.hold(&bytes) || (!full && self.spill(&bytes).await?) {
            return Ok(());
        }
        self.give_up();
        Ok(())
    }

    /// Keeps the bytes in memory, if the budget has room.
    fn hold(&mut self, bytes: &Bytes) -> bool {
        let Some(permit) = self.resources.budget.bytes(bytes.len()) else { return false };
        self.in_memory += bytes.len();
        self.segments.push(Segment::Bytes { bytes: bytes.clone(), permit });
        true
    }

    fn add_pipe(&mut self) -> bool {
        let budget = &self.resources.budget;
        let Some(permit) = budget.pipe() else { return false };
        let Some(pipe) = self.resources.pipes.keeping() else { return false };
        let Some(pages) = budget.pages(pipe.slots()) else {
            self.resources.pipes.put(pipe);
            return false;
        };
        self.segments.push(Segment::Pipe { pipe, bytes: 0, permits: vec![permit, pages] });
        true
    }

    /// Reads the last pipe's content into memory (or the file) and gives the pipe back.
    async fn last_pipe_to_memory(&mut self) -> io::Result<()> {
        if let Some(Segment::Pipe { pipe, bytes, permits }) = self.segments.pop() {
            let content = pipe.take(bytes)?;
            drop(permits);
            self.resources.pipes.put(pipe);
            self.keep_bytes(content).await?;
        }
        Ok(())
    }

    /// Turns the segment at `index` from a pipe into bytes in memory, or in the file. Where there is
    /// no room for them the buffer is given up.
    pub(super) async fn unpipe(&mut self, index: usize) -> io::Result<()> {
        let Some(Segment::Pipe { pipe, bytes, .. }) = self.segments.get(index) else {
            return Ok(());
        };
        let content = pipe.take(*bytes)?;
        // Whoever dies from here on has lost it.
        self.lost = true;
        let rest = self.segments.split_off(index);
        let mut rest = rest.into_iter();
        drop(rest.next());
        let has_it = self.hold(&content) || self.spill(&content).await?;
        self.segments.extend(rest);
        if has_it {
            self.lost = false;
        } else {
            self.give_up();
        }
        Ok(())
    }

    /// Appends the bytes to the overflow file. False: there is none, or no room in it.
    async fn spill(&mut self, bytes: &Bytes) -> io::Result<bool> {
        let Some(directory) = &self.resources.overflow else { return Ok(false) };
        let Some(permit) = self.resources.budget.file(bytes.len()) else { return Ok(false) };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(ReplayFile::create(directory.clone()).await?),
        };
        match file.append(bytes.clone()).await {
            Ok(offset) => {
                self.segments.push(Segment::File { offset, length: bytes.len(), permit });
                Ok(true)
            }
            Err(error) => {
                log::warn!("the replay overflow file failed: {error}");
                Ok(false)
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // A pipe that still holds pages cannot be reused; one that was never filled can.
        for segment in self.segments.drain(..) {
            if let Segment::Pipe { pipe, bytes: 0, .. } = segment {
                self.resources.pipes.put(pipe);
            }
        }
    }
}
