//! Blocks of memory that bodies are read into, used again.
//!
//! What the copy path reads is kept until the backend has acknowledged it, so every byte of a body
//! needs a place of its own. Fresh memory for each of them costs as much as the copy itself: the
//! allocator maps it, the kernel clears it page by page, and both undo it later. So whoever is done
//! with bytes gives them here ([`give`]); the last of a block's owners to do so brings the block
//! back. Bytes that are dropped elsewhere are freed as usual: nothing depends on their return.
//!
//! A block is filled by as many reads as fit, not by one: a client that sends small segments would
//! otherwise pin a whole block with each. [`bytes::BytesMut`] does the counting of owners.
//!
//! Each thread has its own idle blocks (a connection lives on one thread), the last one given first:
//! it is the one that the processor's caches still hold. [`trim`] frees those that nobody wanted.

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a block, and so of the largest read: half of a small second-level cache, so that what
/// was read is hashed and written from there.
pub const BLOCK: usize = 256 * 1024;

/// Idle blocks of the whole process: 512 MiB, what 32 parts of 16 MiB give back when they are
/// acknowledged. Past it blocks are freed at once. No more are idle than were in use within the last
/// seconds ([`trim`]), out of `replay.memory`.
const MAX_IDLE: usize = 2048;

/// Idle blocks that were not wanted for so long are freed.
const KEEP: Duration = Duration::from_secs(1);

/// Idle blocks of all threads.
static IDLE_BLOCKS: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
struct Idle {
    /// Each empty, and the only owner of [`BLOCK`] bytes.
    blocks: Vec<BytesMut>,
    /// The fewest there were since the last trim: nobody has wanted these.
    least: usize,
    trimmed: Option<Instant>,
}

impl Drop for Idle {
    fn drop(&mut self) {
        IDLE_BLOCKS.fetch_sub(self.blocks.len(), Ordering::Relaxed);
    }
}

thread_local! {
    static IDLE: RefCell<Idle> = RefCell::default();
}

/// Runs `work` on the thread's idle blocks; None while the thread ends.
fn with_idle<T>(work: impl FnOnce(&mut Idle) -> T) -> Option<T> {
    IDLE.try_with(|idle| idle.try_borrow_mut().ok().map(|mut idle| work(&mut idle))).ok().flatten()
}

/// An empty buffer with room for [`BLOCK`] bytes.
pub fn take() -> BytesMut {
    let idle = with_idle(|idle| {
        let block = idle.blocks.pop();
        idle.least = idle.least.min(idle.blocks.len());
        block
    });
    match idle.flatten() {
        Some(block) => {
            IDLE_BLOCKS.fetch_sub(1, Ordering::Relaxed);
            block
        }
        None => BytesMut::with_capacity(BLOCK),
    }
}

/// Takes bytes that nobody needs any more. If they were the last of a block, it can be used again.
pub fn give(bytes: Bytes) {
    if let Ok(block) = bytes.try_into_mut() {
        give_rest(block);
    }
}

/// As [`give`], of a buffer: what stands in it is lost.
pub fn give_rest(mut block: BytesMut) {
    block.clear();
    // Reclaiming takes its only owner, and enough room before and behind what it held.
    if !block.try_reclaim(BLOCK) || block.capacity() != BLOCK {
        return;
    }
    if IDLE_BLOCKS.fetch_add(1, Ordering::Relaxed) >= MAX_IDLE
        || with_idle(|idle| idle.blocks.push(block)).is_none()
    {
        IDLE_BLOCKS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Frees the thread's blocks that were idle all the time since the last trim, if that is a second
/// ago. For a timer of each worker.
pub fn trim(now: Instant) {
    with_idle(|idle| {
        if idle.trimmed.is_some_and(|trimmed| now.saturating_duration_since(trimmed) < KEEP) {
            return;
        }
        let unwanted = idle.least.min(idle.blocks.len());
        idle.blocks.drain(..unwanted);
        IDLE_BLOCKS.fetch_sub(unwanted, Ordering::Relaxed);
        idle.least = idle.blocks.len();
        idle.trimmed = Some(now);
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// The idle blocks are counted together: one test at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    fn alone() -> MutexGuard<'static, ()> {
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle() -> usize {
        with_idle(|idle| idle.blocks.len()).unwrap()
    }

    /// Whichever of a block's bytes is given last brings it back, and it is the same memory.
    #[test]
    fn a_block_comes_back_with_the_last_of_its_bytes() {
        let _alone = alone();
        for last in 0..3 {
            let mut block = take();
            block.extend_from_slice(b"onetwo");
            let place = block.as_ptr();
            let mut pieces = vec![block.split_to(3).freeze(), block.split_to(3).freeze()];
            let kept = pieces.clone();
            pieces.push(Bytes::new());
            pieces.swap(last, 2);
            let before = idle();
            kept.into_iter().for_each(give);
            if last == 2 {
                give_rest(block);
                pieces.into_iter().for_each(give);
            } else {
                pieces.into_iter().for_each(give);
                assert_eq!(idle(), before);
                give_rest(block);
            }
            assert_eq!(idle(), before + 1);
            assert_eq!(take().as_ptr(), place);
        }
    }

    #[test]
    fn what_is_no_block_is_dropped() {
        let _alone = alone();
        let before = idle();
        give(Bytes::from_static(b"static"));
        give(Bytes::from(vec![1; 100]));
        give(Bytes::from(vec![1; 2 * BLOCK]));
        give(Bytes::new());
        give_rest(BytesMut::new());
        assert_eq!(idle(), before);
    }

    /// "Nothing grows without a bound", and what is idle is given back.
    #[test]
    fn idle_blocks_are_bounded_and_freed() {
        let _alone = alone();
        let now = Instant::now();
        let blocks: Vec<BytesMut> = (0..MAX_IDLE + 9).map(|_| take()).collect();
        blocks.into_iter().for_each(give_rest);
        let most = idle();
        assert!(most <= MAX_IDLE, "{most}");
        trim(now);
        assert_eq!(idle(), most);
        let wanted = take();
        give_rest(wanted);
        trim(now + KEEP / 2);
        assert_eq!(idle(), most, "not before its time");
        trim(now + KEEP);
        assert_eq!(idle(), 1, "one was wanted meanwhile");
        trim(now + 2 * KEEP);
        assert_eq!(idle(), 0);
    }
}
