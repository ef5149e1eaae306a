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
use super::turns::Turns;
use crate::blocks;
use crate::payload::Md5;
use bytes::Bytes;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Fewer bytes than this a slot, in a pipe whose slots are all taken, and its content is read into
/// memory: a client that sends tiny segments would otherwise hold a pipe for next to nothing.
const MIN_BYTES_PER_SLOT: usize = 1024;

/// Bytes past `memory_per_part` that go to the file together: each append is a trip to another
/// thread and back, for which the part waits.
const SPILL_BATCH: usize = 1024 * 1024;

/// Bytes that are hashed before others run.
const HASHED_AT_ONCE: usize = 256 * 1024;

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
    /// Of this worker.
    pub turns: Arc<Turns>,
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
    /// The last segments that are to go to the file together, and their bytes.
    over: (usize, usize),
    lost: bool,
}

impl Kept {
    /// An empty buffer.
    pub fn new(resources: ReplayResources) -> Self {
        Kept {
            resources,
            segments: Vec::new(),
            file: None,
            in_memory: 0,
            over: (0, 0),
            lost: false,
        }
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

    /// The MD5 of all that is kept, which is given up with it: pipes are read empty.
    pub(super) async fn digest(&mut self) -> io::Result<Md5> {
        self.lost = true;
        let mut md5 = Md5::new();
        for segment in std::mem::take(&mut self.segments) {
            let bytes = match segment {
                Segment::Bytes { bytes, .. } => bytes,
                Segment::Pipe { pipe, bytes, .. } => {
                    let content = pipe.take(bytes)?;
                    self.resources.pipes.put(pipe);
                    content
                }
                Segment::File { offset, length, .. } => match &self.file {
                    Some(file) => file.read(offset, length).await?,
                    None => return Err(io::ErrorKind::NotFound.into()),
                },
            };
            for piece in bytes.chunks(HASHED_AT_ONCE) {
                md5.update(piece);
                tokio::task::yield_now().await;
            }
            blocks::give(bytes);
        }
        Ok(md5)
    }

    /// Gives everything back: the part is acknowledged, or will not be sent again.
    pub fn give_up(&mut self) {
        self.give_back();
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
            // What is to go to the file together must not have a pipe between.
            self.spill_over().await?;
            if !self.add_pipe() {
                let bytes = from.take(*pending)?;
                *pending = 0;
                self.keep_bytes(&[bytes]).await?;
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
    pub async fn keep_bytes(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        if self.lost || length == 0 {
            return Ok(());
        }
        if self.hold(pieces, length) {
            if self.in_memory > self.resources.memory_per_part && self.resources.overflow.is_some()
            {
                self.over = (self.over.0 + pieces.len(), self.over.1 + length);
                if self.over.1 >= SPILL_BATCH {
                    self.spill_over().await?;
                }
            }
            return Ok(());
        }
        self.over = (0, 0);
        match self.spill(pieces.to_vec(), length).await? {
            Some(segment) => self.segments.push(segment),
            None => self.give_up(),
        }
        Ok(())
    }

    /// Moves the last segments to the file. They stay where they are until it has them, and if it
    /// has no room for them.
    async fn spill_over(&mut self) -> io::Result<()> {
        let (count, length) = std::mem::take(&mut self.over);
        if length == 0 {
            return Ok(());
        }
        let first = self.segments.len().saturating_sub(count);
        let pieces = self.segments.iter().skip(first).filter_map(|segment| match segment {
            Segment::Bytes { bytes, .. } => Some(bytes.clone()),
            Segment::Pipe { .. } | Segment::File { .. } => None,
        });
        if let Some(segment) = self.spill(pieces.collect(), length).await? {
            for segment in self.segments.drain(first..) {
                if let Segment::Bytes { bytes, .. } = segment {
                    blocks::give(bytes);
                }
            }
            self.in_memory = self.in_memory.saturating_sub(length);
            self.segments.push(segment);
        }
        Ok(())
    }

    /// Keeps the bytes in memory, if the budget has room for all of them.
    fn hold(&mut self, pieces: &[Bytes], length: usize) -> bool {
        let first = self.segments.len();
        for bytes in pieces {
            let Some(permit) = self.resources.budget.bytes(bytes.len()) else {
                self.segments.truncate(first);
                return false;
            };
            self.segments.push(Segment::Bytes { bytes: bytes.clone(), permit });
        }
        self.in_memory += length;
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
            self.keep_bytes(&[content]).await?;
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
        let length = content.len();
        let mut has_it = self.hold(std::slice::from_ref(&content), length);
        if !has_it && let Some(segment) = self.spill(vec![content], length).await? {
            self.segments.push(segment);
            has_it = true;
        }
        self.segments.extend(rest);
        if has_it {
            self.lost = false;
        } else {
            self.give_up();
        }
        Ok(())
    }

    /// Appends the bytes to the overflow file. None: there is none, or no room in it.
    async fn spill(&mut self, pieces: Vec<Bytes>, length: usize) -> io::Result<Option<Segment>> {
        let Some(directory) = &self.resources.overflow else { return Ok(None) };
        let Some(permit) = self.resources.budget.file(length) else { return Ok(None) };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(ReplayFile::create(directory.clone()).await?),
        };
        match file.append(pieces).await {
            Ok(offset) => Ok(Some(Segment::File { offset, length, permit })),
            Err(error) => {
                log::warn!("the replay overflow file failed: {error}");
                Ok(None)
            }
        }
    }
}

impl Kept {
    /// Drops the segments; what can be used again goes back to where it came from.
    fn give_back(&mut self) {
        for segment in self.segments.drain(..) {
            match segment {
                Segment::Pipe { pipe, bytes: 0, .. } => self.resources.pipes.put(pipe),
                Segment::Pipe { pipe, bytes, .. } => self.resources.pipes.recycle(pipe, bytes),
                Segment::Bytes { bytes, .. } => blocks::give(bytes),
                Segment::File { .. } => {}
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::allowance::PipeAllowance;
    use super::*;
    use crate::metrics::Metrics;

    fn kept(memory: u64, file: u64, overflow: bool) -> Kept {
        Kept::new(ReplayResources {
            budget: ReplayBudget::new(memory, 8, file),
            pipes: Arc::new(PipeCache::new(
                64 * 1024,
                PipeAllowance::new(None, Metrics::new().unwrap().pipes_refused),
            )),
            overflow: overflow.then(std::env::temp_dir),
            memory_per_part: LIMIT,
            turns: Arc::new(Turns::new(std::time::Instant::now())),
        })
    }

    const LIMIT: usize = 300_000;
    const PIECE: usize = 100_000;

    /// Keeps `count` batches of two pieces each; what was kept, and the most that stood in memory.
    async fn keep(kept: &mut Kept, count: usize) -> (Vec<u8>, usize) {
        let (mut all, mut most) = (Vec::new(), 0);
        for at in 0..count {
            let batch = [2 * at, 2 * at + 1].map(|number| Bytes::from(vec![number as u8; PIECE]));
            kept.keep_bytes(&batch).await.unwrap();
            all.extend(batch.concat());
            most = most.max(kept.in_memory);
        }
        (all, most)
    }

    async fn read_back(kept: &Kept) -> Vec<u8> {
        let mut all = Vec::new();
        for segment in kept.segments() {
            match segment {
                Segment::Bytes { bytes, .. } => all.extend_from_slice(bytes),
                Segment::File { offset, length, .. } => {
                    all.extend(kept.file().unwrap().read(*offset, *length).await.unwrap());
                }
                Segment::Pipe { .. } => panic!("nothing was spliced"),
            }
        }
        all
    }

    /// Past `memory_per_part` the bytes go to the file, some at a time, in their order.
    #[tokio::test]
    async fn what_is_over_goes_to_the_file() {
        let mut kept = kept(1 << 30, 1 << 30, true);
        let (all, most) = keep(&mut kept, 20).await;
        assert!(most < LIMIT + SPILL_BATCH + 2 * PIECE, "{most}");
        assert!(kept.resources.budget.file_bytes_in_use() > all.len() / 2);
        assert!(read_back(&kept).await == all);
        assert!(!kept.is_lost());
        // All of it has one digest, and is given back with it.
        let mut md5 = Md5::new();
        md5.update(&all);
        assert_eq!(kept.digest().await.unwrap().finish(), md5.finish());
        assert!(kept.is_lost() && kept.segments().is_empty());
    }

    /// A full file leaves them in memory; without one `memory_per_part` is no limit.
    #[tokio::test]
    async fn without_room_in_the_file_they_stay_in_memory() {
        for (file, overflow) in [(2 << 20, true), (0, true), (1 << 30, false)] {
            let mut kept = kept(1 << 30, file, overflow);
            let (all, _) = keep(&mut kept, 20).await;
            assert!(read_back(&kept).await == all);
            assert!(!kept.is_lost());
        }
    }

    /// Past `replay.memory` they go to the file at once; without one the buffer is given up, and
    /// gives all back.
    #[tokio::test]
    async fn without_room_in_memory_it_is_the_file_or_nothing() {
        let mut spilled = kept(2 * PIECE as u64, 1 << 30, true);
        let (all, _) = keep(&mut spilled, 20).await;
        assert!(read_back(&spilled).await == all);
        let mut lost = kept(3 * PIECE as u64, 0, false);
        keep(&mut lost, 20).await;
        assert!(lost.is_lost() && lost.segments().is_empty());
        assert_eq!(lost.resources.budget.pages_in_use(), 0);
    }
}
