//! What the host lets this user hold in pipes, and how that is shared out.
//!
//! The kernel counts the slots of all pipes of a user (pipe(7), `pipe-user-pages-soft`): without
//! CAP_SYS_RESOURCE the default is 64 pipes of 1 MiB, and whoever comes later gets two pages, which
//! is slower than a copy. So pipes that keep pages for replay may take the first half only, those
//! that move bytes become smaller as less is left, and where there is no useful one a body is copied.

use prometheus::IntCounterVec;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Slots below which a pipe is not worth its calls: 64 KiB, the kernel's own default.
pub(super) const LEAST: usize = 16;

/// The part of what is left that one moving pipe may take: 64 uploads more find some, each time
/// that half of it has gone.
const SHARES: usize = 32;

/// How often the log says that pipes are short.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What was refused, a label of `mizuchi_pipes_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// A pipe was smaller than asked for.
    Smaller,
    /// There was no pipe: bytes were copied.
    Copied,
    /// There was no pipe to keep pages in: they were copied to memory.
    Kept,
}

impl Refused {
    fn as_str(self) -> &'static str {
        match self {
            Refused::Smaller => "smaller",
            Refused::Copied => "copied",
            Refused::Kept => "kept",
        }
    }
}

/// See the module. Process-wide.
#[derive(Debug)]
pub struct PipeAllowance {
    /// Slots of all pipes; None: the host sets no limit.
    total: Option<usize>,
    used: AtomicUsize,
    refused: IntCounterVec,
    said: Mutex<Option<Instant>>,
}

impl PipeAllowance {
    /// `slots` of all pipes together, None: as many as there are descriptors. `refused` counts what
    /// the host did not give, by kind.
    pub fn new(slots: Option<usize>, refused: IntCounterVec) -> Arc<Self> {
        Arc::new(PipeAllowance {
            total: slots,
            used: AtomicUsize::new(0),
            refused,
            said: Mutex::new(None),
        })
    }

    /// Room for a pipe that moves bytes: up to `slots`, fewer as less is left. None: too few.
    pub(super) fn moving(self: &Arc<Self>, slots: usize) -> Option<Held> {
        self.take(|total, used| {
            let left = total.saturating_sub(used);
            let mut slots = slots;
            while slots > LEAST && slots > left / SHARES {
                slots /= 2;
            }
            (slots <= left).then_some(slots)
        })
        .unwrap_or_else(|| Some(self.hold(slots)))
    }

    /// Room for a pipe of `slots` that keeps pages. None: half of everything is taken.
    pub(super) fn keeping(self: &Arc<Self>, slots: usize) -> Option<Held> {
        self.take(|total, used| (used + slots <= total / 2).then_some(slots))
            .unwrap_or_else(|| Some(self.hold(slots)))
    }

    /// Whether idle pipes may be kept open: not where the other workers, to whom they are of no use,
    /// would find none to keep pages in.
    pub(super) fn is_roomy(&self) -> bool {
        self.total.is_none_or(|total| self.used.load(Ordering::Acquire) <= total / 4)
    }

    /// Counts what was refused, and says so, not too often.
    pub(super) fn note(&self, refused: Refused) {
        self.refused.with_label_values(&[refused.as_str()]).inc();
        let Ok(mut said) = self.said.try_lock() else { return };
        let now = Instant::now();
        if said.is_none_or(|then| now.saturating_duration_since(then) >= SAY_EVERY) {
            *said = Some(now);
            log::warn!(
                "the host gives this process no more pipes of full size: bodies go through smaller \
                 ones, or are copied (`mizuchi check` says what helps)"
            );
        }
    }

    /// None: there is no limit. Some(None): no room.
    fn take(
        self: &Arc<Self>,
        share: impl Fn(usize, usize) -> Option<usize>,
    ) -> Option<Option<Held>> {
        let total = self.total?;
        let mut taken = 0;
        let result = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            taken = share(total, used)?;
            used.checked_add(taken)
        });
        Some(result.ok().map(|_| self.hold(taken)))
    }

    fn hold(self: &Arc<Self>, slots: usize) -> Held {
        Held { of: Arc::clone(self), slots }
    }
}

/// Slots of one pipe, given back on drop.
#[must_use]
#[derive(Debug)]
pub(super) struct Held {
    of: Arc<PipeAllowance>,
    slots: usize,
}

impl Held {
    pub(super) fn slots(&self) -> usize {
        self.slots
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.of.total.is_some() {
            self.of.used.fetch_sub(self.slots, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use prometheus::Opts;

    fn allowance(slots: Option<usize>) -> Arc<PipeAllowance> {
        PipeAllowance::new(slots, IntCounterVec::new(Opts::new("n", "h"), &["what"]).unwrap())
    }

    /// The kernel's default limit, 16,384 pages, and pipes of 1 MiB.
    #[test]
    fn those_that_keep_leave_half_and_those_that_move_become_smaller() {
        let all = allowance(Some(16_384));
        let kept: Vec<_> = std::iter::from_fn(|| all.keeping(256)).collect();
        assert_eq!(kept.len(), 32);
        let moving: Vec<_> = std::iter::from_fn(|| all.moving(256)).collect();
        let sizes: Vec<_> = moving.iter().map(Held::slots).collect();
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert_eq!((sizes[0], *sizes.last().unwrap()), (256, LEAST));
        assert!(sizes.len() >= 128, "two each for 64 uploads: {}", sizes.len());
        assert!(sizes.iter().sum::<usize>() <= 8192);
        assert!(!all.is_roomy());
        drop((kept, moving));
        assert!(all.is_roomy());
        assert_eq!(all.moving(256).unwrap().slots(), 256);
    }

    #[test]
    fn without_a_limit_all_are_of_full_size() {
        let all = allowance(None);
        let held: Vec<_> = (0..1000).map(|_| all.moving(256).unwrap()).collect();
        assert!(held.iter().all(|held| held.slots() == 256) && all.is_roomy());
        assert!(all.keeping(256).is_some());
    }

    #[test]
    fn too_little_is_nothing() {
        assert!(allowance(Some(LEAST - 1)).moving(256).is_none());
        assert_eq!(allowance(Some(LEAST)).moving(256).unwrap().slots(), LEAST);
    }
}
