//! How often a failed attempt is made again, and after what pause: exponential backoff with full
//! jitter, and an intensity that is never exceeded (the restart intensity of an OTP supervisor).

use std::collections::VecDeque;
use std::time::Duration;

/// `upload.restart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Most restarts of one upload within `window`.
    pub max: u32,
    /// See `max`.
    pub window: Duration,
    /// The first pause is anything up to this; each further one up to twice the one before.
    pub backoff_base: Duration,
    /// No pause is longer.
    pub backoff_cap: Duration,
}

/// When one upload was restarted.
#[derive(Debug, Default, Clone)]
pub struct RestartLog {
    /// At most `RestartPolicy::max` times, ascending.
    recent: VecDeque<Duration>,
    total: u32,
}

impl RestartLog {
    /// The pause before one more restart at `now` (time since any fixed moment); None when the
    /// intensity is used up. `roll` in 0.0..=1.0 is the jitter.
    pub fn next(&mut self, policy: &RestartPolicy, now: Duration, roll: f64) -> Option<Duration> {
        while self.recent.front().is_some_and(|&past| now.saturating_sub(past) > policy.window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= policy.max as usize {
            return None;
        }
        let doublings = u32::try_from(self.recent.len()).unwrap_or(u32::MAX).min(20);
        let longest = policy.backoff_base.saturating_mul(1 << doublings).min(policy.backoff_cap);
        self.recent.push_back(now);
        self.total += 1;
        Some(longest.mul_f64(roll.clamp(0.0, 1.0)))
    }

    /// Restarts so far.
    pub fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        max: 3,
        window: Duration::from_secs(60),
        backoff_base: Duration::from_millis(50),
        backoff_cap: Duration::from_millis(150),
    };

    #[test]
    fn pauses_double_up_to_the_cap_and_then_end() {
        let mut log = RestartLog::default();
        let pause = |log: &mut RestartLog, at| log.next(&POLICY, Duration::from_secs(at), 1.0);
        assert_eq!(pause(&mut log, 1), Some(Duration::from_millis(50)));
        assert_eq!(pause(&mut log, 2), Some(Duration::from_millis(100)));
        assert_eq!(pause(&mut log, 3), Some(Duration::from_millis(150)));
        assert_eq!(pause(&mut log, 4), None);
        assert_eq!(log.total(), 3);
    }

    #[test]
    fn restarts_outside_the_window_are_forgotten() {
        let mut log = RestartLog::default();
        for at in 1..=3 {
            log.next(&POLICY, Duration::from_secs(at), 0.0).unwrap();
        }
        assert!(log.next(&POLICY, Duration::from_secs(61), 0.0).is_none());
        assert!(log.next(&POLICY, Duration::from_secs(62), 0.0).is_some());
    }
}
