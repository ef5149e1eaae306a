//! How much a part moves before others of its worker run.
//!
//! Pages that have just come in are in the processor's cache, and so is what describes them: 32 uploads
//! of 1 GiB cost 1.8 times as much per byte when they take turns every 512 KiB as when they take turns
//! every 16 MiB. But what is small waits for the turns of all that are large, several times over. So turns
//! are long until a small body comes along, and short while such bodies keep coming.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a turn while small bodies are about. tokio's own budget counts operations, and one splice
/// moves up to a megabyte.
const SHORT: usize = 512 * 1024;

/// Bytes of a turn while all are large: 5 ms at 3 GB/s, the most that one large upload adds to what
/// a small one waits that comes first after a pause.
const LONG: usize = 16 * 1024 * 1024;

/// A body of so many bytes at most is small: its latency is its cost, not its transfer.
pub(crate) const SMALL: u64 = 256 * 1024;

/// Turns stay short for so long after the last small body.
const WHILE: Duration = Duration::from_millis(100);

/// What the parts of one worker know of each other.
#[derive(Debug)]
pub struct Turns {
    start: Instant,
    /// When the last small body was through: ms since `start`, plus one; 0: there was none.
    small: AtomicU64,
}

impl Turns {
    /// Of a worker that begins at `now`.
    pub fn new(now: Instant) -> Self {
        Turns { start: now, small: AtomicU64::new(0) }
    }

    /// A small body was through at `now`.
    pub(crate) fn note_small(&self, now: Instant) {
        self.small.store(self.since_start(now) + 1, Ordering::Relaxed);
    }

    /// Whether a part that has moved `bytes` since its turn began is to let others run.
    pub(crate) fn is_over(&self, bytes: usize, now: Instant) -> bool {
        bytes >= LONG || bytes >= SHORT && self.is_shared(now)
    }

    fn is_shared(&self, now: Instant) -> bool {
        let small = self.small.load(Ordering::Relaxed);
        let ago = Duration::from_millis((self.since_start(now) + 1).saturating_sub(small));
        small > 0 && ago < WHILE
    }

    fn since_start(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_short_while_small_bodies_come() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let turns = Turns::new(start);
        assert!(!turns.is_over(SHORT, at(1)));
        assert!(turns.is_over(LONG, at(1)));
        turns.note_small(at(2));
        assert!(turns.is_over(SHORT, at(2)));
        assert!(!turns.is_over(SHORT - 1, at(2)));
        assert!(turns.is_over(SHORT, at(101)));
        assert!(!turns.is_over(SHORT, at(102)));
        // A clock that another core reads a little earlier.
        turns.note_small(at(200));
        assert!(turns.is_over(SHORT, at(199)));
    }
}
