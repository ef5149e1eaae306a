//! An archive as it stands in the spool, and the first look at it.

use super::form;
use super::index::{Index, Refusal, TooManyNames, TooManyTypes};
use super::input::{Input, Place, Stopped};
use super::names::{Prefix, key_of};
use super::tar::{self, Kind, Member};
use crate::payload::{ChecksumAlgorithm, Hasher, Md5};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::names::MAX_KEY;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Bytes that are hashed at a time.
const READ: usize = 64 * 1024;

/// What one archive may hold: `buckets[].upload.batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Entries, folders and refused ones included.
    pub entries: u64,
    /// Bytes of one entry.
    pub entry_size: u64,
    /// Bytes of the whole, unpacked, with all that is not an entry's.
    pub total_size: u64,
    /// Unpacked bytes for each stored one.
    pub ratio: u64,
}

/// How an archive is packed, by its first bytes as MinIO has it: clients do not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// A tar, plain or compressed. Cheap to clone; it is removed with whoever owns its file.
#[derive(Debug, Clone)]
pub struct Archive {
    pub(super) place: Place,
    pub(super) length: u64,
    pub(super) format: Format,
    /// It is no archive but a form with this boundary.
    form: Option<Arc<str>>,
}

impl Archive {
    /// The archive in a file. Blocks.
    pub fn of_file(file: Arc<File>, length: u64) -> io::Result<Archive> {
        let mut first = [0; 4];
        let most = usize::try_from(length).unwrap_or(first.len()).min(first.len());
        let begin = first.get_mut(..most).unwrap_or_default();
        file.read_exact_at(begin, 0)?;
        let format = format_of(begin);
        Ok(Archive { place: Place::File(file), length, format, form: None })
    }

    /// The archive in memory.
    pub fn of_bytes(bytes: Bytes) -> Archive {
        let format = format_of(&bytes);
        Archive { length: bytes.len() as u64, place: Place::Bytes(bytes), format, form: None }
    }

    /// The same bytes as a form with many files (multipart/form-data) of this boundary.
    #[must_use]
    pub fn as_form(self, boundary: &str) -> Archive {
        Archive { format: Format::Plain, form: Some(Arc::from(boundary)), ..self }
    }

    /// Fills `space` with what stands here, if that is what an entry holds: the archive is not packed.
    pub(super) fn read_plain(&self, space: &mut [u8], offset: u64) -> Option<io::Result<()>> {
        match (&self.place, self.format) {
            (_, Format::Gzip | Format::Zstd) => None,
            (Place::File(file), Format::Plain) => Some(file.read_exact_at(space, offset)),
            (Place::Bytes(bytes), Format::Plain) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                Some(bytes.get(from..).unwrap_or_default().read_exact(space))
            }
        }
    }

    /// Its file, if its entries can be sent from there as they are.
    pub(super) fn plain_file(&self) -> Option<&Arc<File>> {
        match (&self.place, self.format) {
            (Place::File(file), Format::Plain) => Some(file),
            _ => None,
        }
    }
}

fn format_of(begin: &[u8]) -> Format {
    match begin {
        [0x1f, 0x8b, ..] => Format::Gzip,
        // A frame, and a skippable frame (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        _ => Format::Plain,
    }
}

/// Looks the whole archive through: what it holds, and whether it may. Blocks; stops soon after
/// `wanted` is false.
///
/// `folders`: they become empty objects whose keys end in `/`, else they are nothing. `sha256`: of each
/// entry too.
///
/// Errors: 400 InvalidRequest: it is damaged, cut off or ambiguous, or has too many entries; 400
/// EntityTooLarge: it is too large, or a bomb; 503 ServiceUnavailable: it could not be read.
pub fn scan(
    archive: &Archive,
    limits: BatchLimits,
    prefix: &Prefix,
    (folders, sha256): (bool, bool),
    wanted: Arc<AtomicBool>,
) -> Result<Index, S3Error> {
    let mut input = Input::open(archive, limits, wanted).map_err(|error| unreadable(&error))?;
    let mut scan = Scan { limits, prefix, folders, sha256, index: Index::default(), seen: 0 };
    let mut visit = |member: Member<'_>, body: &mut dyn Read| scan.member(&member, body);
    let walked = match &archive.form {
        None => tar::walk(&mut input, &mut visit),
        Some(boundary) => form::walk(&mut input, boundary, &mut visit),
    };
    if let Err(error) = walked {
        return Err(match (input.stopped(), error) {
            (Some(Stopped::TooLarge), _) => S3Error::new(
                ErrorCode::EntityTooLarge,
                format!(
                    "The archive is larger, unpacked, than the {} bytes that one may have here.",
                    limits.total_size
                ),
            ),
            (Some(Stopped::Bomb), _) => S3Error::new(
                ErrorCode::EntityTooLarge,
                format!(
                    "The archive unpacks to more than {} times its size, the most that one may here.",
                    limits.ratio
                ),
            ),
            (Some(Stopped::Disk | Stopped::Unwanted), _) => unreadable(&"stopped"),
            (None, tar::WalkError::Damaged(how)) => damaged(how),
            (None, tar::WalkError::Visitor(error)) => error,
            // The file was read; what fails is to unpack it.
            (None, tar::WalkError::Io(error)) => {
                log::debug!("an archive does not unpack: {error}");
                damaged("it does not unpack")
            }
        });
    }
    let mut index = scan.index;
    index.settle_names();
    Ok(index)
}

fn damaged(how: &str) -> S3Error {
    let message = format!("The archive cannot be taken, and nothing of it was stored: {how}.");
    S3Error::new(ErrorCode::InvalidRequest, message)
}

fn unreadable(error: &dyn std::fmt::Display) -> S3Error {
    log::warn!("an archive could not be read: {error}");
    let message = "The gateway could not read the archive that it has stored. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message)
}

struct Scan<'s> {
    limits: BatchLimits,
    prefix: &'s Prefix,
    folders: bool,
    sha256: bool,
    index: Index,
    /// Entries, those that are nothing included.
    seen: u64,
}

impl Scan<'_> {
    fn member(&mut self, member: &Member<'_>, body: &mut dyn Read) -> Result<(), tar::WalkError> {
        self.seen += 1;
        if self.seen > self.limits.entries {
            let most = self.limits.entries;
            let message =
                format!("The archive has more entries than the {most} that one may have.");
            return Err(S3Error::new(ErrorCode::InvalidRequest, message).into());
        }
        let folder = member.kind == Kind::Folder;
        if folder && !self.folders {
            return Ok(());
        }
        let key = match self.key(member, folder) {
            Ok(None) => return Ok(()),
            Ok(Some(key)) => key,
            Err(why) => return self.index.push_refused(member.name, why).map_err(names),
        };
        let slash = if folder { "/" } else { "" };
        self.index.push(&[self.prefix.as_str(), key, slash], member.offset).map_err(names)?;
        if let Some(why) = self.refusal(member) {
            self.index.refuse_last(why);
            return Ok(());
        }
        if let Some(content_type) = member.content_type {
            self.index.typed(content_type).map_err(types)?;
        }
        self.digest(body)
    }

    fn key<'n>(&self, member: &Member<'n>, folder: bool) -> Result<Option<&'n str>, Refusal> {
        let key = key_of(member.name, folder)?;
        let length = key.map_or(0, str::len) + self.prefix.as_str().len() + usize::from(folder);
        if length > MAX_KEY {
            return Err(Refusal::KeyTooLong);
        }
        Ok(key)
    }

    fn refusal(&self, member: &Member<'_>) -> Option<Refusal> {
        match member.kind {
            Kind::Link => Some(Refusal::Link),
            Kind::Device => Some(Refusal::Device),
            Kind::Special => Some(Refusal::Special),
            Kind::File | Kind::Folder => {
                (member.size > self.limits.entry_size).then_some(Refusal::TooLarge)
            }
        }
    }

    fn digest(&mut self, body: &mut dyn Read) -> Result<(), tar::WalkError> {
        let mut md5 = Md5::new();
        let mut sha256 = self.sha256.then(|| Hasher::new(ChecksumAlgorithm::Sha256));
        let mut space = [0; READ];
        let mut size = 0u64;
        loop {
            let read = match body.read(&mut space) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = space.get(..read).unwrap_or_default();
            size += read as u64;
            md5.update(bytes);
            if let Some(sha256) = &mut sha256 {
                sha256.update(bytes);
            }
        }
        let sha256 = sha256.map(|sha256| {
            let mut hash = [0; 32];
            for (to, from) in hash.iter_mut().zip(sha256.finish()) {
                *to = from;
            }
            hash
        });
        self.index.digested(size, md5.finish(), sha256);
        if size > self.limits.entry_size {
            self.index.refuse_last(Refusal::TooLarge);
        }
        Ok(())
    }
}

fn names(_: TooManyNames) -> tar::WalkError {
    let message = "The names in the archive are longer than they may be together.";
    S3Error::new(ErrorCode::InvalidRequest, message).into()
}

fn types(_: TooManyTypes) -> tar::WalkError {
    let message = "The batch has more different Content-Types than one may have.";
    S3Error::new(ErrorCode::InvalidRequest, message).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
