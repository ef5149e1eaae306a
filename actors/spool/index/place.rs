//! One place that entries go to: what of it may be claimed, and when.
//!
//! A place that fails for want of its backend gets one probe at a time, at growing pauses, whichever
//! entry it is; the first that arrives makes all that failed meanwhile due. One failure alone says
//! nothing: it may be that entry's own.

use super::{PLACE_CAP, Pacing};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;
use tokio::sync::watch;

/// Failures in a row that are the backend's.
const SIGN: u32 = 2;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// By key: the pending ones.
    pub(super) keys: HashMap<String, Queue>,
    /// By key: the numbers in quarantine.
    pub(super) aside: HashMap<String, BTreeSet<u64>>,
    /// Those that may be claimed.
    pub(super) ready: BTreeSet<u64>,
    /// Those that may be claimed later, for reasons of their own.
    pub(super) waiting: BTreeSet<(Instant, u64)>,
    /// As `waiting`, for want of the backend.
    pub(super) stalled: BTreeSet<(Instant, u64)>,
    /// Claims and parts beside each other that go there.
    pub(super) held: usize,
    /// Failures since the backend answered last.
    failures: u32,
    /// Pauses in a row; 0: it answers.
    level: u32,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In the order of their numbers; never empty.
    pub(super) numbers: VecDeque<u64>,
    /// Somebody has this one: the head, or what was the head before an older one came.
    pub(super) claimed: Option<u64>,
    /// Told whenever one leaves, closed when the queue ends.
    pub(super) left: Option<watch::Sender<()>>,
}

impl Place {
    pub(super) fn is_idle(&self) -> bool {
        self.keys.is_empty() && self.aside.is_empty() && self.held == 0
    }

    /// What is due becomes ready; their numbers. While the place does not answer, what failed already is
    /// no probe where another could be: one that always fails must not be the only one.
    pub(super) fn promote(&mut self, now: Instant) -> Vec<u64> {
        let mut due = Vec::new();
        let mut take = |later: &mut BTreeSet<(Instant, u64)>| {
            while let Some((at, seq)) = later.first().copied().filter(|(at, _)| *at <= now) {
                later.remove(&(at, seq));
                due.push(seq);
            }
        };
        take(&mut self.waiting);
        if self.level == 0 || self.ready.is_empty() {
            take(&mut self.stalled);
        }
        self.ready.extend(&due);
        due
    }

    /// Whether a part may go there beside another.
    pub(super) fn admits_beside(&self, share: usize) -> bool {
        self.level == 0 && self.held < share
    }

    /// When one may be claimed if nothing else happens: `now` if one may; None: something else must
    /// happen first.
    pub(super) fn next_due(&self, now: Instant, share: usize) -> Option<Instant> {
        let bound = if self.level > 0 { 1 } else { share };
        if self.held >= bound {
            return None;
        }
        let later = [&self.waiting, &self.stalled].into_iter().filter_map(|later| later.first());
        let entry = match self.ready.is_empty() {
            false => now,
            true => later.map(|(at, _)| *at).min()?,
        };
        let until = self.until.filter(|_| self.level > 0);
        Some(until.map_or(entry, |until| until.max(entry)))
    }

    /// A delivery failed for want of the backend. `probe`: it was begun at this level.
    pub(super) fn failed(&mut self, level: u32, now: Instant, pacing: &Pacing, random: u64) {
        self.failures = self.failures.saturating_add(1);
        // What was under way beside another says no more than that other.
        if self.level != level || self.failures < SIGN {
            return;
        }
        self.level = self.level.saturating_add(1);
        self.until = Some(now + pacing.pause(self.level, random).min(PLACE_CAP));
    }

    /// The backend answered: what was stalled is due, their numbers.
    pub(super) fn answered(&mut self) -> Vec<u64> {
        self.failures = 0;
        if self.level == 0 {
            return Vec::new();
        }
        (self.level, self.until) = (0, None);
        let due = std::mem::take(&mut self.stalled).into_iter().map(|(_, seq)| seq);
        let due: Vec<u64> = due.collect();
        self.ready.extend(&due);
        due
    }

    /// Pauses in a row; 0: it answers.
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// Until when it is left alone.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}
