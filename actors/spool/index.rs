//! The entries in memory: what may be delivered now, and what must wait. Pure: time comes in.
//!
//! Entries of one key are a queue. Only its head may be claimed, by one at a time; the next follows
//! when it is gone. Different keys never wait for each other.

use super::entry::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// All entries that are on record.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: BTreeMap<u64, Slot>,
    /// By bucket and by key: the pending ones.
    queues: HashMap<String, HashMap<String, Queue>>,
    /// Those that may be claimed.
    ready: BTreeSet<u64>,
    /// Those that may be claimed later.
    waiting: BTreeSet<(Instant, u64)>,
    /// Those in quarantine whose record is being written without it.
    returning: BTreeSet<u64>,
    quarantined: u64,
    bytes: u64,
    files: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    /// Claims that ended without a delivery.
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// An older one of its key is pending.
    Behind,
    Ready,
    Waiting(Instant),
    Claimed,
    Quarantined,
}

#[derive(Debug, Default)]
struct Queue {
    /// In the order of their numbers; never empty.
    numbers: VecDeque<u64>,
    /// Somebody has one of them: the head, or what was the head before an older one came.
    claimed: bool,
    /// Closed when the queue ends.
    ended: Option<watch::Sender<()>>,
}

/// What is in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) files: u64,
    pub(super) quarantined: u64,
    /// When the one was accepted that has waited longest for its delivery.
    pub(super) oldest: Option<u64>,
}

/// What a claim begins with.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) seq: u64,
    pub(super) entry: Arc<Entry>,
    pub(super) attempts: u32,
}

impl Index {
    /// Adds an entry. A number that is taken already changes nothing.
    pub(super) fn insert(&mut self, seq: u64, entry: Arc<Entry>) {
        if self.slots.contains_key(&seq) {
            return;
        }
        self.bytes = self.bytes.saturating_add(entry.length());
        self.files = self.files.saturating_add(entry.files().count() as u64);
        let quarantined = entry.quarantined.is_some();
        let state = if quarantined { State::Quarantined } else { State::Behind };
        let (bucket, key) = (entry.bucket.clone(), entry.key.clone());
        self.slots.insert(seq, Slot { entry, attempts: 0, state });
        if quarantined {
            self.quarantined += 1;
            return;
        }
        let queue = self.queues.entry(bucket.clone()).or_default().entry(key.clone()).or_default();
        let at = queue.numbers.partition_point(|other| *other < seq);
        let before = queue.numbers.front().copied();
        queue.numbers.insert(at, seq);
        if let Some(head) = before.filter(|head| seq < *head) {
            self.hold_back(head);
        }
        self.offer(&bucket, &key);
    }

    /// One that was the head until an older one came: it waits again, unless somebody has it.
    fn hold_back(&mut self, seq: u64) {
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        match slot.state {
            State::Ready => drop(self.ready.remove(&seq)),
            State::Waiting(due) => drop(self.waiting.remove(&(due, seq))),
            State::Behind | State::Claimed | State::Quarantined => return,
        }
        slot.state = State::Behind;
    }

    /// Lets the head of a queue be claimed if nobody has one of its key.
    fn offer(&mut self, bucket: &str, key: &str) {
        let Some(queue) = self.queues.get(bucket).and_then(|keys| keys.get(key)) else { return };
        let Some(head) = queue.numbers.front().copied().filter(|_| !queue.claimed) else { return };
        if let Some(slot) = self.slots.get_mut(&head)
            && slot.state == State::Behind
        {
            slot.state = State::Ready;
            self.ready.insert(head);
        }
    }

    /// Takes the oldest entry that may be delivered now.
    pub(super) fn claim(&mut self, now: Instant) -> Option<Claimed> {
        while let Some((due, seq)) = self.waiting.first().copied().filter(|(due, _)| *due <= now) {
            self.waiting.remove(&(due, seq));
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.state = State::Ready;
                self.ready.insert(seq);
            }
        }
        let seq = self.ready.pop_first()?;
        let slot = self.slots.get_mut(&seq)?;
        slot.state = State::Claimed;
        let (entry, attempts) = (Arc::clone(&slot.entry), slot.attempts);
        if let Some(queue) = self.queue(&entry) {
            queue.claimed = true;
        }
        Some(Claimed { seq, entry, attempts })
    }

    /// When something may be claimed: not after `now` if something is ready; None: nothing waits.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        if !self.ready.is_empty() {
            return Some(now);
        }
        self.waiting.first().map(|(due, _)| *due)
    }

    /// A claim ends without a delivery; the entry may be claimed again, at `due` if that is given.
    pub(super) fn release(&mut self, seq: u64, due: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        if slot.state != State::Claimed {
            return;
        }
        slot.attempts = slot.attempts.saturating_add(1);
        slot.state = State::Behind;
        let entry = Arc::clone(&slot.entry);
        let Some(queue) = self.queue(&entry) else { return };
        queue.claimed = false;
        let is_head = queue.numbers.front() == Some(&seq);
        match due.filter(|_| is_head) {
            Some(due) => {
                if let Some(slot) = self.slots.get_mut(&seq) {
                    slot.state = State::Waiting(due);
                }
                self.waiting.insert((due, seq));
            }
            None => self.offer(&entry.bucket, &entry.key),
        }
    }

    /// An entry is gone.
    pub(super) fn remove(&mut self, seq: u64) -> Option<Arc<Entry>> {
        let slot = self.slots.remove(&seq)?;
        let entry = slot.entry;
        self.bytes = self.bytes.saturating_sub(entry.length());
        self.files = self.files.saturating_sub(entry.files().count() as u64);
        match slot.state {
            State::Quarantined => self.quarantined = self.quarantined.saturating_sub(1),
            state => self.leave_queue(seq, &entry, state),
        }
        Some(entry)
    }

    /// An entry that was in this state is not pending any more.
    fn leave_queue(&mut self, seq: u64, entry: &Entry, was: State) {
        match was {
            State::Ready => drop(self.ready.remove(&seq)),
            State::Waiting(due) => drop(self.waiting.remove(&(due, seq))),
            State::Behind | State::Claimed | State::Quarantined => {}
        }
        let Some(keys) = self.queues.get_mut(&entry.bucket) else { return };
        let Some(queue) = keys.get_mut(&entry.key) else { return };
        queue.claimed &= was != State::Claimed;
        if let Ok(at) = queue.numbers.binary_search(&seq) {
            queue.numbers.remove(at);
        }
        if !queue.numbers.is_empty() {
            self.offer(&entry.bucket, &entry.key);
            return;
        }
        keys.remove(&entry.key);
        if keys.is_empty() {
            self.queues.remove(&entry.bucket);
        }
    }

    /// What is on record of an entry is now this; its content stays. In quarantine: it has left its
    /// key's queue.
    pub(super) fn replace(&mut self, seq: u64, entry: Arc<Entry>) {
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        let leaves = entry.quarantined.is_some() && slot.state != State::Quarantined;
        slot.entry = Arc::clone(&entry);
        if !leaves {
            return;
        }
        let was = std::mem::replace(&mut slot.state, State::Quarantined);
        self.quarantined += 1;
        self.leave_queue(seq, &entry, was);
    }

    /// An entry is about to leave the quarantine. False: it is not in it, or that has begun already.
    pub(super) fn begin_return(&mut self, seq: u64) -> bool {
        let slot = self.slots.get(&seq);
        slot.is_some_and(|slot| slot.state == State::Quarantined) && self.returning.insert(seq)
    }

    /// An entry has left the quarantine: it is pending, at its number's place in the queue.
    pub(super) fn end_return(&mut self, seq: u64, entry: Arc<Entry>) {
        if self.returning.remove(&seq) && self.remove(seq).is_some() {
            self.insert(seq, entry);
        }
    }

    fn queue(&mut self, entry: &Entry) -> Option<&mut Queue> {
        self.queues.get_mut(&entry.bucket).and_then(|keys| keys.get_mut(&entry.key))
    }

    /// Whether something of this key is still to be delivered.
    pub(super) fn is_pending(&self, bucket: &str, key: &str) -> bool {
        self.queues.get(bucket).is_some_and(|keys| keys.contains_key(key))
    }

    /// What is closed when nothing of this key is pending; None: nothing is.
    pub(super) fn ended(&mut self, bucket: &str, key: &str) -> Option<watch::Receiver<()>> {
        let queue = self.queues.get_mut(bucket)?.get_mut(key)?;
        Some(queue.ended.get_or_insert_with(|| watch::Sender::new(())).subscribe())
    }

    /// At most `most` entries with greater numbers than `after`, in their order.
    pub(super) fn list(&self, after: u64, most: usize) -> Vec<(u64, Arc<Entry>)> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let slots = self.slots.range(range).take(most);
        slots.map(|(seq, slot)| (*seq, Arc::clone(&slot.entry))).collect()
    }

    /// What there is.
    pub(super) fn counts(&self) -> Counts {
        let pending = self.slots.values().find(|slot| slot.state != State::Quarantined);
        Counts {
            entries: self.slots.len() as u64,
            bytes: self.bytes,
            files: self.files,
            quarantined: self.quarantined,
            oldest: pending.map(|slot| slot.entry.accepted),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
