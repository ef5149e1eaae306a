//! What all replay buffers of the process may hold together.
//!
//! Pages kept in pipes show neither in the process's RSS nor in its cgroup, so they are counted
//! here, as pages: a slot that references one byte holds its whole page.

use super::pipe::PAGE;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The process-wide budget (`replay.memory`, `replay.pipes`, `replay.overflow_limit`).
#[derive(Debug)]
pub struct ReplayBudget {
    pages: Gauge,
    pipes: Gauge,
    file_pages: Gauge,
}

#[derive(Debug)]
struct Gauge {
    used: AtomicUsize,
    limit: usize,
}

impl Gauge {
    fn new(limit: usize) -> Self {
        Gauge { used: AtomicUsize::new(0), limit }
    }

    fn take(&self, count: usize) -> bool {
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(count).filter(|&sum| sum <= self.limit)
            })
            .is_ok()
    }

    fn give(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::AcqRel);
    }
}

/// What a permit was taken from.
#[derive(Debug, Clone, Copy)]
enum Of {
    Pages,
    Pipes,
    FilePages,
}

/// Part of the budget, given back on drop.
#[must_use]
#[derive(Debug)]
pub struct Permit {
    budget: Arc<ReplayBudget>,
    of: Of,
    count: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.gauge(self.of).give(self.count);
    }
}

impl ReplayBudget {
    /// A budget of `memory` bytes in whole pages, of `pipes` pipes, and of `file` bytes in
    /// overflow files.
    pub fn new(memory: u64, pipes: usize, file: u64) -> Arc<Self> {
        let pages = |bytes: u64| usize::try_from(bytes / PAGE as u64).unwrap_or(usize::MAX);
        Arc::new(ReplayBudget {
            pages: Gauge::new(pages(memory)),
            pipes: Gauge::new(pipes),
            file_pages: Gauge::new(pages(file)),
        })
    }

    fn gauge(&self, of: Of) -> &Gauge {
        match of {
            Of::Pages => &self.pages,
            Of::Pipes => &self.pipes,
            Of::FilePages => &self.file_pages,
        }
    }

    fn take(self: &Arc<Self>, of: Of, count: usize) -> Option<Permit> {
        self.gauge(of).take(count).then(|| Permit { budget: Arc::clone(self), of, count })
    }

    /// Room for `count` pages in memory.
    pub fn pages(self: &Arc<Self>, count: usize) -> Option<Permit> {
        self.take(Of::Pages, count)
    }

    /// Room for `bytes` bytes in memory, counted as pages.
    pub fn bytes(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take(Of::Pages, bytes.div_ceil(PAGE))
    }

    /// Room for one more pipe.
    pub fn pipe(self: &Arc<Self>) -> Option<Permit> {
        self.take(Of::Pipes, 1)
    }

    /// Room for `bytes` bytes in overflow files, counted as pages.
    pub fn file(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        self.take(Of::FilePages, bytes.div_ceil(PAGE))
    }

    /// Pages held now.
    pub fn pages_in_use(&self) -> usize {
        self.pages.used.load(Ordering::Acquire)
    }

    /// Pipes held now.
    pub fn pipes_in_use(&self) -> usize {
        self.pipes.used.load(Ordering::Acquire)
    }

    /// Bytes held in overflow files now, in whole pages.
    pub fn file_bytes_in_use(&self) -> usize {
        self.file_pages.used.load(Ordering::Acquire) * PAGE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_counted_until_it_is_dropped() {
        let budget = ReplayBudget::new(3 * PAGE as u64, 1, 0);
        let two = budget.bytes(PAGE + 1);
        assert_eq!(budget.pages_in_use(), 2);
        assert!(budget.pages(2).is_none());
        drop(two);
        assert_eq!(budget.pages_in_use(), 0);
        assert!(budget.pages(3).is_some());
        assert!(budget.file(1).is_none());
    }
}
