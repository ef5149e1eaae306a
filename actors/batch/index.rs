//! What an archive holds, by the first look at it.

use crate::s3::error::{ErrorCode, S3Error};

/// Bytes of all names of one archive: with a million entries 64 bytes for each, and no index is larger.
pub const MAX_NAMES: usize = 64 * 1024 * 1024;

/// Different Content-Types of one archive: as many as a byte tells apart. Each has at most 255 bytes.
const MAX_TYPES: usize = 256;

/// Bytes of a name that no key can be made of, as it is shown.
const SHOWN: usize = 256;

/// Why an entry does not become an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its name is not UTF-8.
    NotUtf8,
    /// Its name holds a NUL.
    Nul,
    /// Its name begins with a slash.
    Absolute,
    /// Its name has a segment `.` or `..`.
    Dots,
    /// It has no name.
    Empty,
    /// Its key would be longer than 1,024 bytes.
    KeyTooLong,
    /// It is a hard or symbolic link.
    Link,
    /// It is a device or a pipe.
    Device,
    /// It is a sparse file, or something else that is no plain file.
    Special,
    /// It is larger than one may be.
    TooLarge,
    /// A later entry has the same key.
    Replaced,
    /// It was stored before, by the same batch.
    Stored,
    /// Its key may not be written by whoever sent the archive.
    Denied,
    /// Whether it may could not be found out.
    Undecided,
}

impl Refusal {
    /// Whether it is its name that is refused: no other entry's key is the same then.
    fn is_of_name(self) -> bool {
        use Refusal::*;
        matches!(self, NotUtf8 | Nul | Absolute | Dots | Empty | KeyTooLong)
    }

    /// What its sender is told.
    pub fn error(self) -> S3Error {
        let invalid = |message| S3Error::new(ErrorCode::InvalidArgument, message);
        match self {
            Refusal::NotUtf8 => invalid("Its name is not UTF-8."),
            Refusal::Nul => invalid("Its name holds a NUL."),
            Refusal::Absolute => invalid("Its name is an absolute path."),
            Refusal::Dots => invalid("Its name has a segment . or .. in it."),
            Refusal::Empty => invalid("It has no name."),
            Refusal::Link => invalid("Links do not become objects."),
            Refusal::Device => invalid("Devices and pipes do not become objects."),
            Refusal::Special => invalid("It is no plain file."),
            Refusal::Replaced => invalid("A later entry has the same name."),
            Refusal::Stored => invalid("It was stored before."),
            Refusal::KeyTooLong => S3Error::new(ErrorCode::KeyTooLongError, "Your key is too long"),
            Refusal::TooLarge => S3Error::new(
                ErrorCode::EntityTooLarge,
                "It is larger than an entry of a batch may be here.",
            ),
            Refusal::Denied => S3Error::new(ErrorCode::AccessDenied, "Access Denied"),
            Refusal::Undecided => {
                let message = "Service is unable to handle request. Please try again.";
                S3Error::new(ErrorCode::ServiceUnavailable, message)
            }
        }
    }
}

/// Where an entry's bytes are, and what they are.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Where its name ends; it begins where the one before ends.
    name_end: u32,
    /// Its Content-Type's place among them.
    content_type: Option<u8>,
    /// Bytes of what was unpacked before it.
    offset: u64,
    size: u64,
    md5: [u8; 16],
    refused: Option<Refusal>,
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'i> {
    /// Its key, the batch's prefix included; of one that was refused for its name, what can be shown of
    /// that.
    pub key: &'i str,
    /// Where its bytes begin, in the archive when it is unpacked.
    pub offset: u64,
    /// How many.
    pub size: u64,
    /// Their MD5.
    pub md5: [u8; 16],
    /// Their SHA-256, where one was wanted.
    pub sha256: Option<[u8; 32]>,
    /// Why it does not become an object.
    pub refused: Option<Refusal>,
    /// Its Content-Type, where it has one of its own.
    pub content_type: Option<&'i str>,
}

/// All entries of an archive, in its order.
#[derive(Debug, Default)]
pub struct Index {
    names: String,
    /// All that are different.
    types: Vec<Box<str>>,
    slots: Vec<Slot>,
    /// One for each slot, or none.
    hashes: Vec<[u8; 32]>,
}

/// The archive's names take more than [`MAX_NAMES`].
#[derive(Debug)]
pub(super) struct TooManyNames;

/// The archive's entries have more than [`MAX_TYPES`] different Content-Types.
#[derive(Debug)]
pub(super) struct TooManyTypes;

impl Index {
    /// How many there are, those that were refused included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The entry with this number.
    pub fn get(&self, number: usize) -> Option<Entry<'_>> {
        let slot = self.slots.get(number)?;
        let begin = match number.checked_sub(1) {
            Some(before) => self.slots.get(before)?.name_end as usize,
            None => 0,
        };
        Some(Entry {
            key: self.names.get(begin..slot.name_end as usize)?,
            offset: slot.offset,
            size: slot.size,
            md5: slot.md5,
            sha256: self.hashes.get(number).copied(),
            refused: slot.refused,
            content_type: slot
                .content_type
                .and_then(|at| Some(&**self.types.get(usize::from(at))?)),
        })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.len()).filter_map(|number| self.get(number))
    }

    /// Notes why an entry does not become an object; the first reason stays.
    pub fn refuse(&mut self, number: usize, why: Refusal) {
        if let Some(slot) = self.slots.get_mut(number) {
            slot.refused.get_or_insert(why);
        }
    }

    /// Adds an entry whose bytes follow.
    pub(super) fn push(&mut self, key: &[&str], offset: u64) -> Result<(), TooManyNames> {
        let bytes: usize = key.iter().map(|part| part.len()).sum();
        if self.names.len().saturating_add(bytes) > MAX_NAMES {
            return Err(TooManyNames);
        }
        key.iter().for_each(|part| self.names.push_str(part));
        let name_end = u32::try_from(self.names.len()).map_err(|_| TooManyNames)?;
        let (content_type, refused) = (None, None);
        self.slots.push(Slot { name_end, content_type, offset, size: 0, md5: [0; 16], refused });
        Ok(())
    }

    /// Adds an entry that is refused, by a name that need not be one.
    pub(super) fn push_refused(&mut self, name: &[u8], why: Refusal) -> Result<(), TooManyNames> {
        let name = String::from_utf8_lossy(name.get(..SHOWN).unwrap_or(name));
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        self.push(&[&name], 0)?;
        self.refuse_last(why);
        Ok(())
    }

    /// [`Index::refuse`], of the entry that was added last.
    pub(super) fn refuse_last(&mut self, why: Refusal) {
        self.refuse(self.slots.len().saturating_sub(1), why);
    }

    /// Notes the Content-Type of the entry that was added last.
    pub(super) fn typed(&mut self, name: &str) -> Result<(), TooManyTypes> {
        let known = self.types.iter().position(|known| **known == *name);
        let at = known.unwrap_or(self.types.len());
        if at == MAX_TYPES {
            return Err(TooManyTypes);
        }
        if known.is_none() {
            self.types.push(name.into());
        }
        if let Some(slot) = self.slots.last_mut() {
            slot.content_type = u8::try_from(at).ok();
        }
        Ok(())
    }

    /// Notes the length and the digests of the entry that was added last.
    pub(super) fn digested(&mut self, size: u64, md5: [u8; 16], sha256: Option<[u8; 32]>) {
        if let Some(slot) = self.slots.last_mut() {
            slot.size = size;
            slot.md5 = md5;
        }
        if let Some(sha256) = sha256 {
            self.hashes.resize(self.slots.len().saturating_sub(1), [0; 32]);
            self.hashes.push(sha256);
        }
    }

    /// Of entries with one key the last counts: the others are refused, also if it is refused itself.
    pub(super) fn settle_names(&mut self) {
        let mut order: Vec<u32> = (0..u32::try_from(self.len()).unwrap_or(u32::MAX))
            .filter(|number| {
                let entry = self.get(*number as usize);
                entry.is_some_and(|one| !one.refused.is_some_and(Refusal::is_of_name))
            })
            .collect();
        let key = |number: &u32| self.get(*number as usize).map_or("", |entry| entry.key);
        order.sort_unstable_by(|one, other| (key(one), one).cmp(&(key(other), other)));
        let replaced: Vec<u32> = order
            .windows(2)
            .filter_map(|pair| match pair {
                [one, next] if key(one) == key(next) => Some(*one),
                _ => None,
            })
            .collect();
        for number in replaced {
            self.refuse(number as usize, Refusal::Replaced);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_a_name_counts() {
        let mut index = Index::default();
        for name in ["a", "b", "a", "c", "a", "b"] {
            index.push(&["p/", name], 0).unwrap();
            index.digested(1, [1; 16], None);
        }
        index.push_refused(b"x\n\xff", Refusal::Link).unwrap();
        index.settle_names();
        let kept: Vec<_> =
            (0..index.len()).filter(|n| index.get(*n).unwrap().refused.is_none()).collect();
        assert_eq!(kept, [3, 4, 5]);
        assert_eq!(index.get(6).unwrap().key, "x\u{fffd}");
        assert_eq!(index.get(6).unwrap().refused, Some(Refusal::Link));
        assert!(index.get(7).is_none());
    }

    /// What unpacks the archive would have the last one, whatever that is: no earlier one is stored for it.
    #[test]
    fn the_last_of_a_name_counts_though_it_is_refused() {
        let mut index = Index::default();
        for (name, why) in
            [("a", None), ("b", Some(Refusal::Link)), ("a", Some(Refusal::TooLarge)), ("b", None)]
        {
            index.push(&[name], 0).unwrap();
            why.into_iter().for_each(|why| index.refuse_last(why));
        }
        index.push(&["c"], 0).unwrap();
        index.push_refused(b"c", Refusal::Dots).unwrap();
        index.settle_names();
        let refused: Vec<_> = index.iter().map(|entry| entry.refused).collect();
        let (replaced, large) = (Some(Refusal::Replaced), Some(Refusal::TooLarge));
        let (link, dots) = (Some(Refusal::Link), Some(Refusal::Dots));
        assert_eq!(refused, [replaced, link, large, None, None, dots]);
    }

    #[test]
    fn hashes_stay_with_their_entries() {
        let mut index = Index::default();
        index.push_refused(b"l", Refusal::Link).unwrap();
        index.push(&["a"], 0).unwrap();
        index.digested(1, [1; 16], Some([1; 32]));
        index.push_refused(b"m", Refusal::Link).unwrap();
        index.push(&["b"], 0).unwrap();
        index.digested(1, [2; 16], Some([2; 32]));
        assert_eq!(index.get(1).unwrap().sha256, Some([1; 32]));
        assert_eq!(index.get(3).unwrap().sha256, Some([2; 32]));
    }

    #[test]
    fn content_types_are_shared_and_bounded() {
        let mut index = Index::default();
        for number in 0..2 * MAX_TYPES {
            index.push(&["a"], 0).unwrap();
            index.typed(&format!("a/{}", number % MAX_TYPES)).unwrap();
        }
        index.push(&["b"], 0).unwrap();
        assert_eq!(index.get(MAX_TYPES + 7).unwrap().content_type, Some("a/7"));
        assert_eq!(index.get(2 * MAX_TYPES - 1).unwrap().content_type, Some("a/255"));
        assert_eq!(index.get(2 * MAX_TYPES).unwrap().content_type, None);
        assert!(index.typed("a/more").is_err());
        assert!(size_of::<Slot>() <= 40, "what the settings promise");
    }

    #[test]
    fn names_are_bounded() {
        let mut index = Index::default();
        let name = "n".repeat(1 << 20);
        for _ in 0..64 {
            index.push(&[&name], 0).unwrap();
        }
        assert!(index.push(&["x"], 0).is_err());
    }
}
