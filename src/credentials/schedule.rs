//! When credentials are fetched again: pure, the time and the dice are arguments.

use std::time::Duration;
use time::OffsetDateTime;

/// How long before their end they are renewed: AWS's own sources have new ones at least five minutes
/// before (IMDS, ECS), and a source that is down has that long to come back.
const LEAD: Duration = Duration::from_secs(300);

/// The longest time between two looks: a profile may have been written anew, and a machine's clock set.
const AT_LEAST_EVERY: Duration = Duration::from_secs(15 * 60);

/// The shortest time between two looks.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// The longest wait after a failure; after the first one it is at most [`AT_MOST_EVERY`].
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// The wait after these credentials came: [`LEAD`] before they expire, or half of their time where
/// that is shorter, and up to a tenth sooner (`dice`), so that many gateways do not ask at once.
pub(super) fn after_success(
    expires: Option<OffsetDateTime>,
    now: OffsetDateTime,
    dice: u32,
) -> Duration {
    let wait = match expires {
        None => AT_LEAST_EVERY,
        Some(expires) => {
            let left = Duration::try_from(expires - now).unwrap_or_default();
            (left / 2).max(left.saturating_sub(LEAD)).min(AT_LEAST_EVERY)
        }
    };
    (wait - wait.mul_f64(share(dice) / 10.0)).max(AT_MOST_EVERY)
}

/// The wait after the nth failure in a row, from 1: doubles up to [`BACKOFF_CAP`], and is between half
/// and all of that (`dice`).
pub(super) fn after_failure(failures: u32, dice: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let most = AT_MOST_EVERY.saturating_mul(1 << doublings).min(BACKOFF_CAP);
    most.mul_f64(0.5 + share(dice) / 2.0)
}

/// 0 to 1.
fn share(dice: u32) -> f64 {
    f64::from(dice) / f64::from(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn seconds(left: i64, dice: u32) -> u64 {
        after_success(Some(NOW + time::Duration::seconds(left)), NOW, dice).as_secs()
    }

    #[test]
    fn they_are_renewed_five_minutes_before_their_end_or_at_half_of_a_short_life() {
        assert_eq!(seconds(900, 0), 600);
        assert_eq!(seconds(900, u32::MAX), 540, "a tenth sooner");
        assert_eq!(seconds(60, 0), 30);
        assert_eq!(seconds(6 * 3600, 0), 900, "at least every quarter of an hour");
        assert_eq!(seconds(0, 0), 1);
        assert_eq!(after_success(None, NOW, 0).as_secs(), 900);
    }

    #[test]
    fn after_failures_the_wait_doubles_up_to_its_cap() {
        let most: Vec<_> = [1, 2, 3, 6, 7, 1000]
            .map(|failures| after_failure(failures, u32::MAX).as_secs())
            .to_vec();
        assert_eq!(most, [1, 2, 4, 30, 30, 30]);
        assert_eq!(after_failure(1, 0).as_millis(), 500);
    }

    proptest! {
        /// "Never later than expiry", but for what expires within a second.
        #[test]
        fn never_later_than_the_end(left in 2i64..1_000_000, dice in any::<u32>()) {
            prop_assert!(seconds(left, dice) < u64::try_from(left).unwrap());
        }
    }
}
