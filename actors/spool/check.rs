//! Whether a body still is what was acknowledged: read again and held against its record, before it is
//! delivered. A disk forgets and flips bits; what it gives back then must not become an object.
//!
//! What is checked and what is sent afterwards come through the same open file, and mostly out of the
//! same pages of the kernel's cache.

use super::md5::LargeMd5;
use super::{Body, BodyId, Disk};
use crate::blocks::BLOCK;
use crate::payload::Md5;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::spawn_blocking;

/// What a look at a body shows.
#[derive(Debug)]
pub enum Checked {
    /// It is what was acknowledged.
    Sound,
    /// It is not, and never will be again: how it differs, for the quarantine.
    Rotten(String),
    /// Nobody knows: the disk did not answer. Worth another look.
    Io(io::Error),
}

/// Opens a body's file, to check it and to send it.
pub async fn open(disk: &Arc<dyn Disk>, id: BodyId) -> io::Result<Arc<File>> {
    let disk = Arc::clone(disk);
    spawn_blocking(move || disk.open(id)).await.map_err(io::Error::other)?.map(Arc::new)
}

/// A body where it can be read: what is checked and what is sent come from the same one.
#[derive(Debug)]
pub enum Opened {
    /// It stood in the journal.
    Bytes(Bytes),
    /// It stands in a file.
    File(Arc<File>),
}

impl Opened {
    /// Holds it against its record.
    pub async fn check(&self, body: &Body) -> Checked {
        match self {
            Opened::Bytes(bytes) => check_bytes(bytes, body),
            Opened::File(file) => check_file(file, body).await,
        }
    }
}

impl Opened {
    /// The SHA-256 of its first `length` bytes: for a backend that takes no unsigned payload.
    ///
    /// Errors: the disk; `UnexpectedEof`: it is shorter.
    pub async fn sha256(&self, length: u64) -> io::Result<[u8; 32]> {
        let file = match self {
            Opened::Bytes(bytes) => return Ok(Sha256::digest(bytes).into()),
            Opened::File(file) => Arc::clone(file),
        };
        spawn_blocking(move || sha256(&file, length)).await.map_err(io::Error::other)?
    }
}

fn sha256(file: &File, length: u64) -> io::Result<[u8; 32]> {
    let (mut computed, mut space, mut at) = (Sha256::new(), vec![0; BLOCK], 0);
    while at < length {
        let most = usize::try_from(length - at).unwrap_or(BLOCK).min(BLOCK);
        let part = space.get_mut(..most).unwrap_or_default();
        file.read_exact_at(part, at)?;
        computed.update(part);
        at += most as u64;
    }
    Ok(computed.finalize().into())
}

/// Reads a body's file, on the blocking pool. Dropped before the end, it reads no further.
pub async fn check_file(file: &Arc<File>, body: &Body) -> Checked {
    let (file, length, md5) = (Arc::clone(file), body.length, body.md5);
    let wanted = Wanted(Arc::new(AtomicBool::new(true)));
    let is_wanted = Arc::clone(&wanted.0);
    let checked =
        spawn_blocking(move || look(&file, length, md5, &is_wanted).unwrap_or_else(Checked::Io));
    checked.await.unwrap_or_else(|error| Checked::Io(io::Error::other(error)))
}

/// As [`check_file`], of a body that stands in the journal.
pub fn check_bytes(bytes: &Bytes, body: &Body) -> Checked {
    if bytes.len() as u64 != body.length {
        return wrong_length(bytes.len() as u64, body.length);
    }
    let mut computed = Md5::new();
    computed.update(bytes);
    compare(computed.finish(), body.md5)
}

/// Told when nobody waits for the check any more.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn look(file: &File, length: u64, md5: [u8; 16], wanted: &AtomicBool) -> io::Result<Checked> {
    let found = file.metadata()?.len();
    if found != length {
        return Ok(wrong_length(found, length));
    }
    let mut computed = LargeMd5::new()?;
    let mut space = vec![0; BLOCK];
    let mut at = 0;
    while at < length && wanted.load(Ordering::Relaxed) {
        let most = usize::try_from(length - at).unwrap_or(BLOCK).min(BLOCK);
        let part = space.get_mut(..most).unwrap_or_default();
        match file.read_at(part, at) {
            // It became shorter while it was read.
            Ok(0) => return Ok(wrong_length(at, length)),
            Ok(count) => {
                computed.update(part.get(..count).unwrap_or_default())?;
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if at < length {
        return Err(io::Error::other("the check was given up"));
    }
    Ok(compare(computed.finish()?, md5))
}

fn compare(found: [u8; 16], recorded: [u8; 16]) -> Checked {
    if found == recorded {
        return Checked::Sound;
    }
    let hex = |md5| format!("{:032x}", u128::from_be_bytes(md5));
    Checked::Rotten(format!("its MD5 is {}, recorded is {}", hex(found), hex(recorded)))
}

fn wrong_length(found: u64, recorded: u64) -> Checked {
    Checked::Rotten(format!("it has {found} bytes, recorded are {recorded}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::Place;
    use super::*;
    use std::io::Write as _;

    /// More than one read.
    const LENGTH: usize = 3 * BLOCK + 1;

    fn stored() -> (std::fs::File, Body) {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        let mut md5 = Md5::new();
        md5.update(&bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (file, Body { length: LENGTH as u64, md5: md5.finish(), place: Place::Inline })
    }

    /// "1,000 flips: 0 corrupt objects uploaded": any bit, wherever it is.
    #[tokio::test]
    async fn a_flipped_bit_is_found_wherever_it_is() {
        let (file, body) = stored();
        let file = Arc::new(file);
        assert!(matches!(check_file(&file, &body).await, Checked::Sound));
        for at in [0, BLOCK as u64 - 1, BLOCK as u64, LENGTH as u64 - 1] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            assert!(matches!(check_file(&file, &body).await, Checked::Rotten(_)), "{at}");
            file.write_all_at(&byte, at).unwrap();
            assert!(matches!(check_file(&file, &body).await, Checked::Sound), "{at}");
        }
    }

    #[tokio::test]
    async fn another_length_is_found_without_a_look_at_the_bytes() {
        for length in [0, LENGTH as u64 - 1, LENGTH as u64 + 1] {
            let (file, body) = stored();
            file.set_len(length).unwrap();
            let Checked::Rotten(reason) = check_file(&Arc::new(file), &body).await else {
                panic!("{length} bytes passed");
            };
            assert_eq!(reason, format!("it has {length} bytes, recorded are {LENGTH}"));
        }
    }

    /// A disk that does not answer says nothing of the body: it must not go to quarantine for that.
    #[tokio::test]
    async fn an_error_of_the_disk_is_no_rot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("body");
        let (mut file, body) = (std::fs::File::create(&path).unwrap(), stored().1);
        file.write_all(&vec![0; LENGTH]).unwrap();
        // Open for writing only: reading it is EBADF.
        assert!(matches!(check_file(&Arc::new(file), &body).await, Checked::Io(_)));
    }

    #[tokio::test]
    async fn the_sha256_of_a_file_is_that_of_its_bytes() {
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        let file = Opened::File(Arc::new(stored().0));
        assert_eq!(file.sha256(LENGTH as u64).await.unwrap(), expected);
        assert!(file.sha256(LENGTH as u64 + 1).await.is_err());
        assert_eq!(Opened::Bytes(bytes.into()).sha256(0).await.unwrap(), expected);
    }

    #[test]
    fn bytes_in_memory_are_checked_as_well() {
        let mut md5 = Md5::new();
        md5.update(b"hello");
        let body = Body { length: 5, md5: md5.finish(), place: Place::Inline };
        assert!(matches!(check_bytes(&Bytes::from("hello"), &body), Checked::Sound));
        assert!(matches!(check_bytes(&Bytes::from("hellp"), &body), Checked::Rotten(_)));
        assert!(matches!(check_bytes(&Bytes::from("hell"), &body), Checked::Rotten(_)));
    }

    /// A check that nobody waits for must not read gigabytes.
    #[test]
    fn an_unwanted_check_ends() {
        let (file, body) = stored();
        let unwanted = AtomicBool::new(false);
        assert!(look(&file, body.length, body.md5, &unwanted).is_err());
    }
}
