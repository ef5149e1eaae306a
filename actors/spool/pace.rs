//! How deliveries are paced: pauses after failures, and how much of the whole one place may have. Pure.

use std::time::Duration;

/// The longest pause of a place that does not answer: what waits for it is late by no more than that when
/// it is back, and one probe a minute costs nothing.
pub(super) const PLACE_CAP: Duration = Duration::from_secs(60);

/// How deliveries are paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The pause after the first failure.
    pub base: Duration,
    /// The longest pause of one entry.
    pub cap: Duration,
    /// Deliveries, and parts beside each other, that go to one place at a time.
    pub share: usize,
}

impl Default for Pacing {
    fn default() -> Self {
        let (base, cap) = (Duration::from_secs(1), Duration::from_secs(3600));
        Pacing { base, cap, share: usize::MAX }
    }
}

impl Pacing {
    /// The share of one of so many `places` in `permits`: half, so that one that swallows everything
    /// leaves as much to the others.
    pub fn share_of(permits: usize, places: usize) -> usize {
        if places > 1 { (permits / 2).max(1) } else { permits }
    }

    /// The pause after `failures` (1 and more): doubled each time, between half and all of it, so that
    /// what failed together does not come back together. `random`: any number.
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        let doubled = self.base.saturating_mul(1 << failures.saturating_sub(1).min(30));
        let pause = doubled.min(self.cap);
        let part = 500 + u32::try_from(random % 501).unwrap_or(0);
        pause.saturating_mul(part) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_with_jitter() {
        let pacing = Pacing { cap: Duration::from_secs(60), ..Pacing::default() };
        let span = |failures| (pacing.pause(failures, 0), pacing.pause(failures, 500));
        let seconds = Duration::from_secs_f64;
        assert_eq!(span(1), (seconds(0.5), seconds(1.0)));
        assert_eq!(span(3), (seconds(2.0), seconds(4.0)));
        assert_eq!(span(7), (seconds(30.0), seconds(60.0)));
        assert_eq!(span(u32::MAX), (seconds(30.0), seconds(60.0)));
    }

    #[test]
    fn one_place_has_all_and_one_of_many_has_half() {
        assert_eq!(Pacing::share_of(16, 1), 16);
        assert_eq!(Pacing::share_of(16, 2), 8);
        assert_eq!(Pacing::share_of(1, 9), 1);
    }
}
