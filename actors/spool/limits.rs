//! How much the spool may hold: what is stored, what is promised, and what the disk has left. Pure:
//! somebody else asks the disk.
//!
//! A place is taken before the first byte of a body is read, so that a full disk is a 503 and not a
//! body that is thrown away.

use crate::s3::error::{ErrorCode, S3Error};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the spool may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries at most, those in quarantine and those being taken included; each part of a multipart
    /// upload is one, and so is an open upload itself. It bounds the memory of the index too.
    pub entries: u64,
    /// Bytes of bodies at most.
    pub bytes: u64,
    /// Bytes that stay free on the disk: also what the journal can grow by when the spool is full.
    pub free_bytes: u64,
    /// Files (inodes) that stay free on the disk.
    pub free_files: u64,
}

/// Of the places, one in so many is for open multipart uploads and their parts at the most: no delivery
/// frees what they take, so that whoever may begin them could keep everybody else out.
const OPEN_SHARE: u64 = 2;

impl Limits {
    /// Open multipart uploads and their parts at most; one upload with one part always.
    pub(super) fn open(&self) -> u64 {
        (self.entries / OPEN_SHARE).max(2)
    }
}

/// What a disk has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Files; `u64::MAX` where the file system does not count them.
    pub files: u64,
}

/// The book of what is stored and promised.
#[derive(Debug)]
pub(super) struct Account {
    limits: Limits,
    /// What the disk said last.
    free: Free,
    /// Of entries that are on record.
    stored: Amount,
    /// Of reservations.
    promised: Amount,
    /// What of both `free` does not show.
    unseen: Amount,
    /// What of `unseen` the disk shows when it is asked again.
    settling: Amount,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    entries: u64,
    bytes: u64,
}

impl Amount {
    /// Of one body.
    pub(super) fn one(bytes: u64) -> Amount {
        Amount { entries: 1, bytes }
    }

    /// Of as many bodies.
    pub(super) fn of(bodies: u64, bytes: u64) -> Amount {
        Amount { entries: bodies, bytes }
    }

    pub(super) fn add(&mut self, more: Amount) {
        self.entries = self.entries.saturating_add(more.entries);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }

    fn take(&mut self, less: Amount) {
        self.entries = self.entries.saturating_sub(less.entries);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

/// Which of the bounds is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    Entries,
    Open,
    Bytes,
    FreeBytes,
    FreeFiles,
}

impl From<Full> for S3Error {
    fn from(full: Full) -> S3Error {
        S3Error::new(
            ErrorCode::SlowDown,
            match full {
                Full::Entries => {
                    "As many uploads as may be wait for their delivery; try again later."
                }
                Full::Open => {
                    "As many multipart uploads and parts as may be are open; complete or abort some, or \
                     try again later."
                }
                Full::Bytes => "As many bytes as may be wait for their delivery; try again later.",
                Full::FreeBytes => "The gateway's disk has no room for this now; try again later.",
                Full::FreeFiles => "The gateway's disk has no files left now; try again later.",
            },
        )
    }
}

impl Account {
    /// Nothing is stored, and nothing is free before the disk was asked.
    pub(super) fn new(limits: Limits) -> Self {
        Account {
            limits,
            free: Free::default(),
            stored: Amount::default(),
            promised: Amount::default(),
            unseen: Amount::default(),
            settling: Amount::default(),
        }
    }

    /// Whether one more open upload or part may be, where there are so many.
    pub(super) fn may_open(&self, open: u64) -> Result<(), Full> {
        if open < self.limits.open() { Ok(()) } else { Err(Full::Open) }
    }

    /// Whether one more entry and as many bytes find a place; takes it then.
    fn promise(&mut self, bytes: u64) -> Result<(), Full> {
        let entries = self.stored.entries.saturating_add(self.promised.entries);
        if entries >= self.limits.entries {
            return Err(Full::Entries);
        }
        let files = self.free.files.saturating_sub(self.unseen.entries);
        if files <= self.limits.free_files {
            return Err(Full::FreeFiles);
        }
        self.room_for(bytes)?;
        self.promised.add(Amount::one(bytes));
        self.unseen.add(Amount::one(bytes));
        Ok(())
    }

    fn room_for(&self, bytes: u64) -> Result<(), Full> {
        let held = self.stored.bytes.saturating_add(self.promised.bytes);
        if held.saturating_add(bytes) > self.limits.bytes {
            return Err(Full::Bytes);
        }
        let free = self.free.bytes.saturating_sub(self.unseen.bytes);
        if free < bytes.saturating_add(self.limits.free_bytes) {
            return Err(Full::FreeBytes);
        }
        Ok(())
    }

    /// This is on record: its place was promised before, or it was found at the start.
    pub(super) fn store(&mut self, amount: Amount) {
        self.stored.add(amount);
    }

    /// What is on record.
    #[cfg(test)]
    pub(super) fn stored(&self) -> Amount {
        self.stored
    }

    /// This is gone.
    pub(super) fn unstore(&mut self, amount: Amount) {
        self.stored.take(amount);
    }

    /// Before the disk is asked: what it certainly shows, for [`Account::measured`].
    pub(super) fn measuring(&self) -> Amount {
        self.settling
    }

    /// What the disk said.
    pub(super) fn measured(&mut self, free: Free, shown: Amount) {
        self.free = free;
        self.unseen.take(shown);
        self.settling.take(shown);
    }
}

/// The account, shared.
pub(super) type Shared = Arc<Mutex<Account>>;

pub(super) fn lock(account: &Shared) -> MutexGuard<'_, Account> {
    // Its fields are numbers: no panic leaves it half changed.
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A place in the spool for one entry; given back when dropped.
#[derive(Debug)]
#[must_use = "a place that is dropped is free again"]
pub struct Reservation {
    account: Shared,
    bytes: u64,
    /// Of them, those that the disk has given already.
    placed: u64,
    stored: bool,
}

impl Reservation {
    /// Takes a place.
    pub(super) fn take(account: &Shared, bytes: u64) -> Result<Reservation, Full> {
        lock(account).promise(bytes)?;
        Ok(Reservation { account: Arc::clone(account), bytes, placed: 0, stored: false })
    }

    /// Makes it a place for `more` bytes than before: a body whose length nobody announced.
    ///
    /// Errors: SlowDown; the place stays as large as it was.
    pub fn grow(&mut self, more: u64) -> Result<(), S3Error> {
        let mut account = lock(&self.account);
        account.room_for(more)?;
        account.promised.add(Amount { entries: 0, bytes: more });
        account.unseen.add(Amount { entries: 0, bytes: more });
        self.bytes = self.bytes.saturating_add(more);
        Ok(())
    }

    /// `bytes` of it are allocated on the disk: from its next measurement on they are not taken off
    /// what is free a second time. Optional; without it a body that is being taken counts twice.
    pub fn placed(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes - self.placed);
        self.placed += bytes;
        lock(&self.account).settling.add(Amount { entries: 0, bytes });
    }

    /// Bytes that it is for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Turns it into what is on record.
    pub(super) fn store(mut self, amount: Amount) {
        self.stored = true;
        lock(&self.account).store(amount);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut account = lock(&self.account);
        account.promised.take(Amount::one(self.bytes));
        let rest = Amount::one(self.bytes - self.placed);
        // What was stored stays out of sight until the disk is asked again.
        if self.stored { account.settling.add(rest) } else { account.unseen.take(rest) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { entries: 3, bytes: 1000, free_bytes: 100, free_files: 10 };

    fn account(free: Free) -> Shared {
        let mut account = Account::new(LIMITS);
        account.measured(free, Amount::default());
        Arc::new(Mutex::new(account))
    }

    fn roomy() -> Shared {
        account(Free { bytes: 1 << 40, files: u64::MAX })
    }

    /// Asks the disk, which says this.
    fn measure(account: &Shared, free: Free) {
        let shown = lock(account).measuring();
        lock(account).measured(free, shown);
    }

    fn refused(account: &Shared, bytes: u64) -> Option<Full> {
        Reservation::take(account, bytes).err()
    }

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let account = roomy();
        let places: Vec<_> = (0..3).map(|_| Reservation::take(&account, 10).unwrap()).collect();
        assert_eq!(refused(&account, 0), Some(Full::Entries));
        drop(places);
        assert_eq!(refused(&account, 1000), None);
        assert_eq!(lock(&account).promised, Amount::default());
        assert_eq!(lock(&account).unseen, Amount::default());
    }

    #[test]
    fn an_entry_keeps_its_place_until_it_is_gone() {
        let account = roomy();
        for _ in 0..3 {
            // Announced 100, were 90.
            Reservation::take(&account, 100).unwrap().store(Amount::one(90));
        }
        assert_eq!(lock(&account).stored, Amount { entries: 3, bytes: 270 });
        assert_eq!(lock(&account).promised, Amount::default());
        assert_eq!(refused(&account, 0), Some(Full::Entries));
        lock(&account).unstore(Amount::one(90));
        assert_eq!(refused(&account, 821), Some(Full::Bytes));
        assert_eq!(refused(&account, 820), None);
    }

    #[test]
    fn what_must_stay_free_stays_free() {
        let account = account(Free { bytes: 600, files: 12 });
        assert_eq!(refused(&account, 501), Some(Full::FreeBytes));
        let first = Reservation::take(&account, 500).unwrap();
        assert_eq!(refused(&account, 1), Some(Full::FreeBytes));
        let second = Reservation::take(&account, 0).unwrap();
        assert_eq!(refused(&account, 0), Some(Full::FreeFiles));
        drop((first, second));
        assert_eq!(refused(&account, 500), None);
    }

    /// "503 SlowDown before the body is read": also before the disk was ever asked.
    #[test]
    fn a_disk_that_was_not_asked_is_full() {
        let account = Arc::new(Mutex::new(Account::new(LIMITS)));
        let error = S3Error::from(refused(&account, 0).unwrap());
        assert_eq!((error.status, &*error.code, error.retryable), (503, "SlowDown", true));
    }

    /// Bytes are counted once: as promised until the disk shows them, and by the disk then.
    #[test]
    fn no_byte_is_counted_twice_and_none_is_missed() {
        let account = account(Free { bytes: 600, files: 100 });
        let mut place = Reservation::take(&account, 300).unwrap();
        // A measurement that began before the allocation shows nothing of it.
        let shown = lock(&account).measuring();
        place.placed(300);
        lock(&account).measured(Free { bytes: 600, files: 100 }, shown);
        assert_eq!(refused(&account, 201), Some(Full::FreeBytes));
        measure(&account, Free { bytes: 300, files: 99 });
        assert_eq!(refused(&account, 201), Some(Full::FreeBytes));
        assert_eq!(refused(&account, 200), None);
        place.store(Amount::one(300));
        measure(&account, Free { bytes: 300, files: 99 });
        assert_eq!(refused(&account, 200), None);
        assert_eq!(lock(&account).unseen, Amount::default());
        // One that was never said to be placed.
        Reservation::take(&account, 200).unwrap().store(Amount::one(200));
        assert_eq!(refused(&account, 1), Some(Full::FreeBytes));
        measure(&account, Free { bytes: 101, files: 98 });
        assert_eq!(refused(&account, 1), None);
        assert_eq!(lock(&account).settling, Amount::default());
    }

    #[test]
    fn a_body_of_unknown_length_grows_while_there_is_room() {
        let account = account(Free { bytes: 600, files: 100 });
        let mut place = Reservation::take(&account, 0).unwrap();
        place.grow(400).unwrap();
        assert_eq!(&*place.grow(101).unwrap_err().code, "SlowDown");
        assert_eq!(place.bytes(), 400);
        place.grow(100).unwrap();
        drop(place);
        assert_eq!(lock(&account).promised, Amount::default());
    }
}
