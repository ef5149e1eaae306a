//! The entries in memory: what may be delivered now, and what must wait. Pure: time comes in.
//!
//! Entries of one key are a queue. Only its head may be claimed, by one at a time; the next follows
//! when it is gone. Different keys never wait for each other. Two buckets that write to the same place
//! behind them share their keys, and the places take turns.

mod place;

use super::entry::{Entry, Newer};
use super::pace::{PLACE_CAP, Pacing};
use place::{Place, Queue};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// All entries that are on record.
#[derive(Debug, Default)]
pub(super) struct Index {
    slots: BTreeMap<u64, Slot>,
    /// By the place's name: that of one of the buckets that write there.
    places: BTreeMap<String, Place>,
    /// The place of a bucket that does not give its place its name.
    names: HashMap<String, String>,
    /// Which place was served last.
    turn: String,
    pacing: Pacing,
    /// Those that are not in quarantine.
    pending: BTreeSet<u64>,
    /// Keys of entries of which nobody knows whether they are on record, by place.
    doubtful: HashMap<String, HashMap<String, watch::Sender<()>>>,
    bytes: u64,
    files: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Arc<Entry>,
    /// Claims that ended without a delivery.
    attempts: u32,
    /// The place's, when it was claimed.
    level: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// An older one of its key is pending.
    Behind,
    Ready,
    Waiting(Instant),
    Stalled(Instant),
    Claimed,
    Quarantined,
    /// It has its place in the queue again, and its record is being written without the quarantine.
    Returning,
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

/// Whether an entry may leave the quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    Begun,
    /// It is not in quarantine, or that has begun already.
    NotSetAside,
    /// Its key was written anew meanwhile.
    Superseded(Newer),
    /// A newer one of its key is on its way.
    Overtaken,
}

impl Index {
    /// How deliveries are paced from now on.
    pub(super) fn set_pacing(&mut self, pacing: Pacing) {
        self.pacing = pacing;
    }

    /// Buckets that write to the place of another, by their names: from now on they share its keys.
    /// Nothing must be claimed.
    pub(super) fn set_names(&mut self, names: HashMap<String, String>) {
        self.names = names;
        let slots = std::mem::take(&mut self.slots);
        self.places.clear();
        self.pending.clear();
        (self.bytes, self.files) = (0, 0);
        for (seq, slot) in slots {
            self.insert(seq, slot.entry);
        }
    }

    fn name<'t>(&'t self, bucket: &'t str) -> &'t str {
        self.names.get(bucket).map_or(bucket, String::as_str)
    }

    fn place(&self, bucket: &str) -> Option<&Place> {
        self.places.get(self.name(bucket))
    }

    fn place_mut(&mut self, bucket: &str) -> Option<&mut Place> {
        // Not by `name`: that would borrow all of it.
        let name = self.names.get(bucket).map_or(bucket, String::as_str);
        self.places.get_mut(name)
    }

    fn queue(&mut self, entry: &Entry) -> Option<&mut Queue> {
        self.place_mut(&entry.bucket)?.keys.get_mut(&entry.key)
    }

    /// Adds an entry. A number that is taken already changes nothing.
    pub(super) fn insert(&mut self, seq: u64, entry: Arc<Entry>) {
        if self.slots.contains_key(&seq) {
            return;
        }
        self.bytes = self.bytes.saturating_add(entry.length());
        self.files = self.files.saturating_add(entry.files().count() as u64);
        let quarantined = entry.quarantined.is_some();
        let state = if quarantined { State::Quarantined } else { State::Behind };
        let slot = Slot { entry: Arc::clone(&entry), attempts: 0, level: 0, state };
        self.slots.insert(seq, slot);
        if quarantined {
            self.set_aside(seq, &entry);
        } else {
            self.enqueue(seq, &entry);
            self.offer(&entry);
        }
    }

    fn set_aside(&mut self, seq: u64, entry: &Entry) {
        let name = self.name(&entry.bucket).to_owned();
        let place = self.places.entry(name).or_default();
        place.aside.entry(entry.key.clone()).or_default().insert(seq);
    }

    /// Puts it into its key's queue; whatever was the head behind it waits again.
    fn enqueue(&mut self, seq: u64, entry: &Entry) {
        self.pending.insert(seq);
        let name = self.name(&entry.bucket).to_owned();
        let place = self.places.entry(name).or_default();
        let queue = place.keys.entry(entry.key.clone()).or_default();
        let at = queue.numbers.partition_point(|other| *other < seq);
        let before = queue.numbers.front().copied();
        queue.numbers.insert(at, seq);
        if let Some(head) = before.filter(|head| seq < *head) {
            self.hold_back(head);
        }
    }

    /// One that was the head until an older one came: it waits again, unless somebody has it.
    fn hold_back(&mut self, seq: u64) {
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        let (entry, was) = (Arc::clone(&slot.entry), slot.state);
        if matches!(was, State::Ready | State::Waiting(_) | State::Stalled(_)) {
            slot.state = State::Behind;
            self.withdraw(seq, &entry, was);
        }
    }

    /// An entry in this state is not to be claimed any more.
    fn withdraw(&mut self, seq: u64, entry: &Entry, was: State) {
        let Some(place) = self.place_mut(&entry.bucket) else { return };
        match was {
            State::Ready => drop(place.ready.remove(&seq)),
            State::Waiting(due) => drop(place.waiting.remove(&(due, seq))),
            State::Stalled(due) => drop(place.stalled.remove(&(due, seq))),
            State::Behind | State::Claimed | State::Quarantined | State::Returning => {}
        }
    }

    /// Lets the head of an entry's queue be claimed if nobody has one of its key.
    fn offer(&mut self, entry: &Entry) {
        let name = self.names.get(&entry.bucket).unwrap_or(&entry.bucket);
        let Some(place) = self.places.get_mut(name) else { return };
        let Some(queue) = place.keys.get(&entry.key) else { return };
        let head = queue.numbers.front().copied().filter(|_| queue.claimed.is_none());
        let Some(head) = head else { return };
        if let Some(slot) = self.slots.get_mut(&head)
            && slot.state == State::Behind
        {
            slot.state = State::Ready;
            place.ready.insert(head);
        }
    }

    /// Takes an entry that may be delivered now: of the places that have one, those after the last one's
    /// come first, and of a place the oldest.
    pub(super) fn claim(&mut self, now: Instant) -> Option<Claimed> {
        let turn = self.turn.as_str();
        let after = self.places.range::<str, _>((Bound::Excluded(turn), Bound::Unbounded));
        let names =
            after.chain(self.places.range::<str, _>((Bound::Unbounded, Bound::Included(turn))));
        let mut names = names.map(|(name, _)| name);
        let due = |name: &&String| {
            let place = self.places.get(*name);
            let due = place.and_then(|place| place.next_due(now, self.pacing.share));
            due.is_some_and(|due| due <= now)
        };
        let name = names.find(due)?.clone();
        let place = self.places.get_mut(&name)?;
        for seq in place.promote(now) {
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.state = State::Ready;
            }
        }
        let seq = place.ready.pop_first()?;
        place.held += 1;
        let slot = self.slots.get_mut(&seq)?;
        (slot.state, slot.level) = (State::Claimed, place.level());
        let (entry, attempts) = (Arc::clone(&slot.entry), slot.attempts);
        if let Some(queue) = place.keys.get_mut(&entry.key) {
            queue.claimed = Some(seq);
        }
        self.turn = name;
        Some(Claimed { seq, entry, attempts })
    }

    /// When something may be claimed: not after `now` if something may be now; None: nothing waits, or
    /// only what is under way can change that.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        self.places.values().filter_map(|place| place.next_due(now, self.pacing.share)).min()
    }

    /// Takes a part of the place's share beside a claim; false: there is none, or it does not answer.
    pub(super) fn beside(&mut self, bucket: &str) -> bool {
        let share = self.pacing.share;
        let Some(place) = self.place_mut(bucket).filter(|place| place.admits_beside(share)) else {
            return false;
        };
        place.held += 1;
        true
    }

    /// Gives back what a claim, or [`Index::beside`], took.
    pub(super) fn give_back(&mut self, bucket: &str) {
        let Some(place) = self.place_mut(bucket) else { return };
        place.held = place.held.saturating_sub(1);
        self.tidy(bucket);
    }

    fn tidy(&mut self, bucket: &str) {
        let name = self.names.get(bucket).map_or(bucket, String::as_str);
        if self.places.get(name).is_some_and(Place::is_idle) {
            self.places.remove(name);
        }
    }

    /// The backend of this bucket answered as one does: what failed for want of it is due. Whether that
    /// changed anything.
    pub(super) fn answered(&mut self, bucket: &str) -> bool {
        let name = self.names.get(bucket).map_or(bucket, String::as_str);
        let Some(place) = self.places.get_mut(name) else { return false };
        let was_held_back = place.level() > 0;
        for seq in place.answered() {
            if let Some(slot) = self.slots.get_mut(&seq) {
                slot.state = State::Ready;
            }
        }
        was_held_back
    }

    /// A claim ends without a delivery; the entry may be claimed again, at `due` if that is given.
    pub(super) fn release(&mut self, seq: u64, due: Option<Instant>) {
        self.end_claim(seq, due.map(State::Waiting));
    }

    /// A claim ends without a delivery, for want of the backend. `random`: any number. When it is due
    /// again at the earliest.
    pub(super) fn stall(&mut self, seq: u64, now: Instant, random: u64) -> Instant {
        let Some(slot) = self.slots.get(&seq).filter(|slot| slot.state == State::Claimed) else {
            return now;
        };
        let (entry, level) = (Arc::clone(&slot.entry), slot.level);
        let pacing = self.pacing;
        let due = now + pacing.pause(slot.attempts.saturating_add(1), random);
        let until = self.place_mut(&entry.bucket).and_then(|place| {
            place.failed(level, now, &pacing, random);
            place.until()
        });
        self.end_claim(seq, Some(State::Stalled(due)));
        until.map_or(due, |until| until.max(due))
    }

    fn end_claim(&mut self, seq: u64, later: Option<State>) {
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        if slot.state != State::Claimed {
            return;
        }
        slot.attempts = slot.attempts.saturating_add(1);
        slot.state = State::Behind;
        let entry = Arc::clone(&slot.entry);
        let Some(queue) = self.queue(&entry) else { return };
        queue.claimed = None;
        let is_head = queue.numbers.front() == Some(&seq);
        let Some(later) = later.filter(|_| is_head) else { return self.offer(&entry) };
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.state = later;
        }
        let Some(place) = self.place_mut(&entry.bucket) else { return };
        match later {
            State::Waiting(due) => drop(place.waiting.insert((due, seq))),
            State::Stalled(due) => drop(place.stalled.insert((due, seq))),
            _ => {}
        }
    }

    /// An entry is gone.
    pub(super) fn remove(&mut self, seq: u64) -> Option<Arc<Entry>> {
        let entry = self.take(seq)?;
        self.tidy(&entry.bucket);
        Some(entry)
    }

    fn take(&mut self, seq: u64) -> Option<Arc<Entry>> {
        let slot = self.slots.remove(&seq)?;
        let entry = slot.entry;
        self.bytes = self.bytes.saturating_sub(entry.length());
        self.files = self.files.saturating_sub(entry.files().count() as u64);
        match slot.state {
            State::Quarantined => self.leave_aside(seq, &entry),
            state => self.leave_queue(seq, &entry, state),
        }
        Some(entry)
    }

    fn leave_aside(&mut self, seq: u64, entry: &Entry) {
        let Some(place) = self.place_mut(&entry.bucket) else { return };
        let Some(numbers) = place.aside.get_mut(&entry.key) else { return };
        numbers.remove(&seq);
        if numbers.is_empty() {
            place.aside.remove(&entry.key);
        }
    }

    /// An entry that was in this state is not pending any more.
    fn leave_queue(&mut self, seq: u64, entry: &Entry, was: State) {
        self.pending.remove(&seq);
        self.withdraw(seq, entry, was);
        let Some(place) = self.place_mut(&entry.bucket) else { return };
        let Some(queue) = place.keys.get_mut(&entry.key) else { return };
        queue.claimed = queue.claimed.filter(|claimed| *claimed != seq);
        if let Ok(at) = queue.numbers.binary_search(&seq) {
            queue.numbers.remove(at);
        }
        if queue.numbers.is_empty() {
            place.keys.remove(&entry.key);
            return;
        }
        if let Some(left) = &queue.left {
            left.send_replace(());
        }
        self.offer(entry);
    }

    /// What is on record of an entry is now this; its content stays. In quarantine: it has left its
    /// key's queue.
    pub(super) fn replace(&mut self, seq: u64, entry: Arc<Entry>) {
        let Some(slot) = self.slots.get_mut(&seq) else { return };
        let is_aside = matches!(slot.state, State::Quarantined | State::Returning);
        let leaves = entry.quarantined.is_some() && !is_aside;
        slot.entry = Arc::clone(&entry);
        if !leaves {
            return;
        }
        let was = std::mem::replace(&mut slot.state, State::Quarantined);
        self.leave_queue(seq, &entry, was);
        self.set_aside(seq, &entry);
    }

    /// An entry is about to leave the quarantine: it is pending, at its number's place in the queue,
    /// and may be claimed after [`Index::end_return`]. Unless `force`d it must not end as what its key
    /// holds last where a newer one was acknowledged.
    pub(super) fn begin_return(&mut self, seq: u64, force: bool) -> Return {
        let slot = self.slots.get(&seq).filter(|slot| slot.state == State::Quarantined);
        let Some(slot) = slot else { return Return::NotSetAside };
        let entry = Arc::clone(&slot.entry);
        if let Some(newer) = entry.superseded.filter(|_| !force) {
            return Return::Superseded(newer);
        }
        let claimed = self.queue(&entry).and_then(|queue| queue.claimed);
        if claimed.is_some_and(|claimed| claimed > seq) && !force {
            return Return::Overtaken;
        }
        if let Some(slot) = self.slots.get_mut(&seq) {
            slot.state = State::Returning;
        }
        self.leave_aside(seq, &entry);
        self.enqueue(seq, &entry);
        Return::Begun
    }

    /// An entry has left the quarantine.
    pub(super) fn end_return(&mut self, seq: u64, entry: Arc<Entry>) {
        // What is known of the place stays.
        if self.take(seq).is_some() {
            self.insert(seq, entry);
        }
    }

    /// The entries in quarantine over which this one was written, were it delivered now, with that on
    /// their records.
    pub(super) fn superseded_by(&self, seq: u64) -> Vec<(u64, Arc<Entry>)> {
        let Some(newer) = self.slots.get(&seq) else { return Vec::new() };
        self.superseded(&newer.entry.bucket, &newer.entry.key, seq, Newer::Entry(seq))
    }

    /// Those over which a write that went through has written.
    pub(super) fn superseded_by_write(&self, bucket: &str, key: &str) -> Vec<(u64, Arc<Entry>)> {
        self.superseded(bucket, key, u64::MAX, Newer::Through)
    }

    fn superseded(
        &self,
        bucket: &str,
        key: &str,
        before: u64,
        newer: Newer,
    ) -> Vec<(u64, Arc<Entry>)> {
        let aside = self.place(bucket).and_then(|place| place.aside.get(key));
        let older = aside.into_iter().flat_map(|numbers| numbers.range(..before));
        let marked = older.filter_map(|older| {
            let mut entry = Entry::clone(&self.slots.get(older)?.entry);
            if entry.superseded.is_some() {
                return None;
            }
            entry.superseded = Some(newer);
            Some((*older, Arc::new(entry)))
        });
        marked.collect()
    }

    /// Nobody knows whether an entry of this key is on record: something of it is pending until the next
    /// start tells.
    pub(super) fn doubt(&mut self, bucket: &str, key: &str) {
        let name = self.name(bucket).to_owned();
        let keys = self.doubtful.entry(name).or_default();
        keys.entry(key.to_owned()).or_insert_with(|| watch::Sender::new(()));
    }

    fn doubt_of(&self, bucket: &str, key: &str) -> Option<&watch::Sender<()>> {
        self.doubtful.get(self.name(bucket))?.get(key)
    }

    /// Whether something of this key is still to be delivered.
    pub(super) fn is_pending(&self, bucket: &str, key: &str) -> bool {
        self.doubt_of(bucket, key).is_some()
            || self.place(bucket).is_some_and(|place| place.keys.contains_key(key))
    }

    /// The newest of this key that is pending.
    pub(super) fn newest(&self, bucket: &str, key: &str) -> Option<u64> {
        if self.doubt_of(bucket, key).is_some() {
            return Some(u64::MAX);
        }
        self.place(bucket)?.keys.get(key)?.numbers.back().copied()
    }

    /// What tells of every one of this key that leaves, while one up to `newest` is pending; None: none
    /// is.
    pub(super) fn leaving(
        &mut self,
        bucket: &str,
        key: &str,
        newest: u64,
    ) -> Option<watch::Receiver<()>> {
        if let Some(never) = self.doubt_of(bucket, key) {
            return Some(never.subscribe());
        }
        let queue = self.place_mut(bucket)?.keys.get_mut(key)?;
        if queue.numbers.front().is_none_or(|head| *head > newest) {
            return None;
        }
        Some(queue.left.get_or_insert_with(|| watch::Sender::new(())).subscribe())
    }

    /// At most `most` entries with greater numbers than `after`, in their order.
    pub(super) fn list(&self, after: u64, most: usize) -> Vec<(u64, Arc<Entry>)> {
        let range = (Bound::Excluded(after), Bound::Unbounded);
        let slots = self.slots.range(range).take(most);
        slots.map(|(seq, slot)| (*seq, Arc::clone(&slot.entry))).collect()
    }

    /// What there is.
    pub(super) fn counts(&self) -> Counts {
        let oldest = self.pending.first().and_then(|seq| self.slots.get(seq));
        Counts {
            entries: self.slots.len() as u64,
            bytes: self.bytes,
            files: self.files,
            quarantined: (self.slots.len() - self.pending.len()) as u64,
            oldest: oldest.map(|slot| slot.entry.accepted),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
