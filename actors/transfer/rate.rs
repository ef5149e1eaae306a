//! A bound on what all deliveries together send: each draws on it before it writes, and waits as it is
//! told. Time comes in.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What may go at once after a pause, and the most that one write draws, in time.
const BURST: Duration = Duration::from_millis(100);

/// The least that is drawn at a time, however low the rate: less is all overhead.
const LEAST: usize = 4096;

/// So many bytes per second, whoever draws on it.
#[derive(Debug)]
pub struct Rate {
    bytes_per_second: u64,
    start: Instant,
    /// When all that was drawn will have gone: since `start`.
    gone: Mutex<Duration>,
}

impl Rate {
    /// One that nothing was drawn on before `now`. `bytes_per_second`: 1 and more.
    pub fn new(bytes_per_second: u64, now: Instant) -> Self {
        Rate { bytes_per_second: bytes_per_second.max(1), start: now, gone: Mutex::default() }
    }

    /// The most that should be drawn at a time: the pause for more could be taken for a connection that is
    /// dead.
    pub fn most(&self) -> usize {
        let most = u128::from(self.bytes_per_second) * BURST.as_millis() / 1000;
        usize::try_from(most).unwrap_or(usize::MAX).max(LEAST)
    }

    /// Draws `bytes` at `now`; they may go after this pause.
    pub fn draw(&self, bytes: usize, now: Instant) -> Duration {
        let now = now.saturating_duration_since(self.start);
        let nanoseconds = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        // A number: no panic leaves it half changed.
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*gone).max(now.saturating_sub(BURST));
        *gone = begins.saturating_add(takes);
        begins.saturating_sub(now)
    }

    /// Draws `bytes`, and ends when they may go.
    pub async fn drawn(&self, bytes: usize) {
        let pause = self.draw(bytes, Instant::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whoever draws how much when: no more goes in any time than the rate and the burst allow, and
        /// nothing waits while less went.
        #[test]
        fn what_goes_is_bounded_and_nothing_waits_for_nothing(
            draws in prop::collection::vec((0..2000_u64, 0..100_000_usize), 1..60),
        ) {
            const PER_SECOND: u64 = 100_000;
            let start = Instant::now();
            let rate = Rate::new(PER_SECOND, start);
            let (mut now, mut sent) = (start, Vec::new());
            for (pause, bytes) in draws {
                now += Duration::from_millis(pause);
                let wait = rate.draw(bytes, now);
                sent.push((now + wait, bytes));
                // It goes at once, or when all before it has gone.
                let before: usize = sent.iter().rev().skip(1).map(|(_, bytes)| bytes).sum();
                let all_gone = Duration::from_secs_f64(before as f64 / PER_SECOND as f64);
                prop_assert!(wait <= all_gone);
            }
            for (at, first) in sent.iter().enumerate() {
                let mut bytes = 0;
                for last in sent.iter().skip(at) {
                    let time = last.0.saturating_duration_since(first.0) + BURST;
                    // The last one may go when what was drawn before it has gone.
                    prop_assert!(bytes as f64 <= time.as_secs_f64() * PER_SECOND as f64 + 1.0);
                    bytes += last.1;
                }
            }
        }
    }

    #[test]
    fn what_is_drawn_at_a_time_is_a_tenth_of_a_second() {
        let of = |bytes| Rate::new(bytes, Instant::now()).most();
        assert_eq!((of(64 << 10), of(1 << 10), of(1 << 40)), (6553, LEAST, (1_usize << 40) / 10));
    }
}
