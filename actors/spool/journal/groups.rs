//! Inline bodies in their table. Those of one commit lie together in values of about [`GROUP`] bytes: in a
//! tree of small values each costs a search and pages of its own, when it comes and when it goes.
//!
//! ```text
//! number of the first entry -> count       u32
//!                              directory   count x (number of an entry u64, bytes of its body u32)
//!                              CRC-32C     of all before it
//!                              bodies      in the directory's order, which is that of the numbers
//! ```
//!
//! All numbers are big-endian. A value's numbers lie before those of the next value: the one that holds
//! an entry is the last that does not begin after it. It goes with the last of its bodies, and is written
//! anew when most of them have gone.

use super::super::framing::crc;
use bytes::Bytes;
use redb::{AccessGuard, ReadableTable, StorageError, Table};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Bytes of bodies that one value takes, if it takes more than one: who reads a body reads its value.
const GROUP: usize = 60 << 10;

/// What is left of a value's bodies when it is written anew, as a share of what was written: so that a
/// body that stays keeps no more than so many times its own length on the disk.
const SPARSE: usize = 4;

/// Bytes of a count, of a place in the directory, and of its CRC.
const COUNT: usize = 4;
const PLACE: usize = 12;
const CRC: usize = 4;

/// The table.
pub(super) type Bodies<'t> = Table<'t, u64, &'static [u8]>;

/// A value's directory: numbers and bytes, ascending.
type Directory = Vec<(u64, usize)>;

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what the journal holds of it is damaged")
}

/// Reads a value's directory; what follows are the bodies. Errors: `InvalidData`: it is damaged.
fn directory(value: &[u8]) -> io::Result<(Directory, &[u8])> {
    let count = value.first_chunk().map(|count| u32::from_be_bytes(*count));
    let count = count.ok_or_else(damaged)?;
    let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(PLACE));
    let length = length.and_then(|length| length.checked_add(COUNT)).ok_or_else(damaged)?;
    let (signed, rest) = value.split_at_checked(length).ok_or_else(damaged)?;
    let (found, bodies) = rest.split_first_chunk::<CRC>().ok_or_else(damaged)?;
    if *found != crc(signed) {
        return Err(damaged());
    }
    let places = signed.get(COUNT..).unwrap_or_default().chunks_exact(PLACE);
    let places = places.filter_map(|place| {
        let (number, bytes) = place.split_first_chunk()?;
        let bytes = u32::from_be_bytes(*bytes.first_chunk()?);
        Some((u64::from_be_bytes(*number), usize::try_from(bytes).ok()?))
    });
    Ok((places.collect(), bodies))
}

/// The body of an entry. Errors: `NotFound`; `InvalidData`: what holds it is damaged.
pub(super) fn read(
    table: &impl ReadableTable<u64, &'static [u8]>,
    number: u64,
) -> Result<io::Result<Bytes>, StorageError> {
    let Some(row) = table.range(..=number)?.next_back() else {
        return Ok(Err(io::ErrorKind::NotFound.into()));
    };
    let (_, value) = row?;
    Ok(body(value.value(), number))
}

fn body(value: &[u8], number: u64) -> io::Result<Bytes> {
    let (places, bodies) = directory(value)?;
    let mut from = 0_usize;
    for (found, bytes) in places {
        if found == number {
            let body = bodies.get(from..from.saturating_add(bytes));
            return body.map(Bytes::copy_from_slice).ok_or_else(damaged);
        }
        from = from.saturating_add(bytes);
    }
    Err(io::ErrorKind::NotFound.into())
}

/// What the values hold, and what of it is still wanted.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// By their keys.
    values: BTreeMap<u64, Group>,
}

#[derive(Debug)]
struct Group {
    /// What is wanted.
    left: Directory,
    /// Bytes of all that the value holds.
    written: usize,
}

impl Group {
    fn of(left: Directory) -> Group {
        let written = weight(&left);
        Group { left, written }
    }
}

impl Groups {
    /// Reads the table. `wanted` says whether there is such an entry still: of what has gone, values
    /// keep the bodies. What is damaged stays, and holds nothing that can be read.
    pub(super) fn load(
        table: &impl ReadableTable<u64, &'static [u8]>,
        wanted: impl Fn(u64) -> Result<bool, StorageError>,
    ) -> Result<Groups, StorageError> {
        let mut groups = Groups::default();
        for row in table.iter()? {
            let (first, value) = row?;
            let first = first.value();
            let mut group = match directory(value.value()) {
                Ok((all, _)) => Group::of(all),
                Err(error) => {
                    log::error!("spool: bodies from entry {first} on are lost: {error}");
                    continue;
                }
            };
            let mut left = Vec::with_capacity(group.left.len());
            for place in group.left {
                left.extend(wanted(place.0)?.then_some(place));
            }
            group.left = left;
            groups.values.insert(first, group);
        }
        Ok(groups)
    }

    /// Writes what has come and takes off what has gone. `come`: by ascending number, each higher than
    /// all there have been. `gone`: numbers of entries, of which some may have had no inline body.
    pub(super) fn write(
        &mut self,
        table: &mut Bodies<'_>,
        come: &[(u64, &Bytes)],
        gone: impl Iterator<Item = u64>,
    ) -> Result<(), StorageError> {
        let mut rest = come;
        while !rest.is_empty() {
            let (these, others) = rest.split_at(fitting(rest));
            rest = others;
            let Some((first, _)) = these.first() else { break };
            let places: Directory =
                these.iter().map(|(number, body)| (*number, body.len())).collect();
            put(table, *first, &places, these.iter().map(|(_, body)| body.as_ref()))?;
            self.values.insert(*first, Group::of(places));
        }
        let touched: BTreeSet<u64> = gone.filter_map(|number| self.strike(number)).collect();
        for first in touched {
            self.tidy(table, first)?;
        }
        Ok(())
    }

    /// An entry's body is wanted no more. Returns the key of what held it.
    fn strike(&mut self, number: u64) -> Option<u64> {
        let (first, group) = self.values.range_mut(..=number).next_back()?;
        let at = group.left.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        group.left.remove(at);
        Some(*first)
    }

    /// Takes a value off that nobody wants, or writes it anew.
    fn tidy(&mut self, table: &mut Bodies<'_>, first: u64) -> Result<(), StorageError> {
        let Some(group) = self.values.get_mut(&first) else { return Ok(()) };
        if group.left.is_empty() {
            self.values.remove(&first);
            return table.remove(first).map(drop);
        }
        let left = weight(&group.left);
        if left * SPARSE > group.written {
            return Ok(());
        }
        let held = table.get(first)?;
        let value = held.as_ref().map(AccessGuard::value).unwrap_or_default();
        let bodies: Vec<Bytes> =
            group.left.iter().filter_map(|(number, _)| body(value, *number).ok()).collect();
        drop(held);
        // Read back whole, or left as it is.
        if bodies.len() == group.left.len() {
            put(table, first, &group.left, bodies.iter().map(AsRef::as_ref))?;
            group.written = left;
        }
        Ok(())
    }
}

/// What bodies take of a value, with their places.
fn weight(places: &[(u64, usize)]) -> usize {
    places.iter().map(|(_, bytes)| PLACE + bytes).sum()
}

/// How many of these bodies one value takes: one, and those after it that fit.
fn fitting(bodies: &[(u64, &Bytes)]) -> usize {
    let mut sum = 0;
    let fit = bodies.iter().take_while(|(_, body)| {
        sum += PLACE + body.len();
        sum <= GROUP
    });
    fit.count().max(1).min(bodies.len())
}

/// Writes a value.
fn put<'b>(
    table: &mut Bodies<'_>,
    first: u64,
    places: &[(u64, usize)],
    bodies: impl Iterator<Item = &'b [u8]> + Clone,
) -> Result<(), StorageError> {
    // An inline body is short, and a commit takes few.
    let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(COUNT + places.len() * PLACE + CRC);
    head.extend_from_slice(&count.to_be_bytes());
    for (number, bytes) in places {
        head.extend_from_slice(&number.to_be_bytes());
        head.extend_from_slice(&u32::try_from(*bytes).unwrap_or(u32::MAX).to_be_bytes());
    }
    let sum = crc(&head);
    head.extend_from_slice(&sum);
    let mut held =
        table.insert_reserve(first, head.len() + bodies.clone().map(<[u8]>::len).sum::<usize>())?;
    let mut at = held.as_mut();
    let mut append = |piece: &[u8]| {
        let Some((here, rest)) = std::mem::take(&mut at).split_at_mut_checked(piece.len()) else {
            return;
        };
        here.copy_from_slice(piece);
        at = rest;
    };
    append(&head);
    bodies.for_each(append);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
