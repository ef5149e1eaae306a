//! Walks a tar, member by member (POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar's long names).
//!
//! The fields of a header are read by the crate `tar`; the walk is here, because its bounds are:
//! nothing that an archive says makes this hold more than [`MAX_EXTENSION`]. What two tools would read
//! differently (a link with a body, two lengths, two names, something behind the end) is refused: such
//! archives were used to smuggle files past whoever looks at them (CVE-2025-62518).

use crate::s3::error::S3Error;
use ::tar::Header;
use std::io::{self, Read};

/// Bytes of a header, and what bodies are padded to.
const BLOCK: usize = 512;

/// Bytes of one extended header (a long name, pax records): names have 1,024, the rest is attributes of
/// files, of which Linux has 64 KiB each.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// The largest length that a header's own field holds in octal digits.
const MAX_OCTAL: u64 = 0o77777777777;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// A hard or a symbolic one.
    Link,
    /// A device or a pipe.
    Device,
    /// Whatever else there is.
    Special,
}

/// A member of the archive.
#[derive(Debug)]
pub(super) struct Member<'n> {
    pub(super) name: &'n [u8],
    pub(super) kind: Kind,
    /// What it says it is: only a form's parts do.
    pub(super) content_type: Option<&'n str>,
    pub(super) size: u64,
    /// Where its body begins.
    pub(super) offset: u64,
}

/// Why a walk ended before its end.
#[derive(Debug)]
pub(super) enum WalkError {
    /// The archive is none, in words for its sender.
    Damaged(&'static str),
    /// It could not be read, or unpacked.
    Io(io::Error),
    /// Whoever was shown a member.
    Visitor(S3Error),
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => cut_off(),
            _ => WalkError::Io(error),
        }
    }
}

impl From<S3Error> for WalkError {
    fn from(error: S3Error) -> Self {
        WalkError::Visitor(error)
    }
}

/// What was read ahead of a member.
#[derive(Default)]
struct Ahead {
    name: Option<Vec<u8>>,
    pax_name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// A reader that knows where it is.
pub(super) trait Positioned: Read {
    /// Bytes that were read.
    fn position(&self) -> u64;
}

impl Positioned for super::input::Input {
    fn position(&self) -> u64 {
        super::input::Input::position(self)
    }
}

/// Shows every member with its body, which need not be read.
pub(super) fn walk(
    input: &mut dyn Positioned,
    visit: &mut dyn FnMut(Member<'_>, &mut dyn Read) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    let mut ahead = Ahead::default();
    let mut block = [0; BLOCK];
    loop {
        if !read_block(input, &mut block)? {
            return Err(WalkError::Damaged("it ends without an end-of-archive entry"));
        }
        if block.iter().all(|byte| *byte == 0) {
            return end(input, &ahead);
        }
        let header = Header::from_byte_slice(&block);
        check(header, &block)?;
        let size = header.entry_size().map_err(|_| WalkError::Damaged("a length is none"))?;
        match header.entry_type().as_byte() {
            kind @ (b'x' | b'g' | b'L' | b'K') => {
                let bytes = extension(input, size)?;
                read_ahead(&mut ahead, kind, bytes)?;
            }
            kind => {
                let ahead = std::mem::take(&mut ahead);
                member(input, header, kind, size, ahead, visit)?;
            }
        }
    }
}

fn member(
    input: &mut dyn Positioned,
    header: &Header,
    kind: u8,
    size: u64,
    ahead: Ahead,
    visit: &mut dyn FnMut(Member<'_>, &mut dyn Read) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    let own;
    let name = match (&ahead.pax_name, &ahead.name) {
        (Some(_), Some(_)) => return Err(WalkError::Damaged("an entry has two names")),
        (Some(name), None) | (None, Some(name)) => name.as_slice(),
        (None, None) => {
            own = header.path_bytes();
            &own
        }
    };
    let size = match ahead.size {
        // What no field of octal digits can hold stands in the record alone.
        Some(record) if size == 0 && record > MAX_OCTAL => record,
        Some(record) if record != size => {
            return Err(WalkError::Damaged("an entry has two lengths"));
        }
        _ => size,
    };
    let kind = match kind {
        // Before ustar a folder was a file whose name ends in a slash.
        b'0' | 0 | b'7' if name.ends_with(b"/") => Kind::Folder,
        b'0' | 0 | b'7' if ahead.sparse => Kind::Special,
        b'0' | 0 | b'7' => Kind::File,
        b'5' => Kind::Folder,
        b'1' | b'2' => Kind::Link,
        b'3' | b'4' | b'6' => Kind::Device,
        // Its header may go on in further blocks.
        b'S' => return Err(WalkError::Damaged("it has sparse files of GNU tar's old kind")),
        _ => Kind::Special,
    };
    if size > 0 && matches!(kind, Kind::Folder | Kind::Link | Kind::Device) {
        return Err(WalkError::Damaged("an entry that can have no body has one"));
    }
    let offset = input.position();
    let end = offset.checked_add(size).ok_or(WalkError::Damaged("a length is none"))?;
    let content_type = None;
    visit(Member { name, kind, content_type, size, offset }, &mut Body { input, left: size })?;
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    Ok(skip(input, end.saturating_add(padding))?)
}

/// The bytes of one member.
struct Body<'i> {
    input: &'i mut dyn Positioned,
    left: u64,
}

impl Read for Body<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(space.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.input.read(space.get_mut(..most).unwrap_or_default())?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Fills the block. False: nothing is left.
fn read_block(input: &mut dyn Positioned, block: &mut [u8; BLOCK]) -> Result<bool, WalkError> {
    let mut have = 0;
    while let Some(space) = block.get_mut(have..).filter(|space| !space.is_empty()) {
        match input.read(space) {
            Ok(0) if have == 0 => return Ok(false),
            Ok(0) => return Err(cut_off()),
            Ok(read) => have += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Reads on up to this place.
pub(super) fn skip(input: &mut dyn Positioned, to: u64) -> io::Result<()> {
    let mut space = [0; 16 * 1024];
    loop {
        let left = to.saturating_sub(input.position());
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(space.len());
        if most == 0 {
            return Ok(());
        }
        match input.read(space.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A block of zeros was read: nothing else may follow. POSIX has two; some writers leave one out.
fn end(input: &mut dyn Positioned, ahead: &Ahead) -> Result<(), WalkError> {
    if ahead.name.is_some() || ahead.pax_name.is_some() {
        return Err(WalkError::Damaged("a name at its end has no entry"));
    }
    let mut space = [0; 16 * 1024];
    loop {
        match input.read(&mut space) {
            Ok(0) => return Ok(()),
            Ok(read) if space.iter().take(read).all(|byte| *byte == 0) => {}
            Ok(_) => return Err(WalkError::Damaged("something stands behind its end")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// "The chksum field: the simple sum of all octets in the header, the field itself taken as spaces."
fn check(header: &Header, block: &[u8; BLOCK]) -> Result<(), WalkError> {
    const CHECKSUM: std::ops::Range<usize> = 148..156;
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *byte }))
        .sum();
    if !header.cksum().is_ok_and(|said| said == sum) {
        return Err(WalkError::Damaged("a header's checksum is wrong, or it is no tar"));
    }
    // "version: two octets containing the characters 00": where it is another, some read no prefix.
    if block.get(257..263) == Some(b"ustar\0") && block.get(263..265) != Some(b"00") {
        return Err(WalkError::Damaged("a header is of no known version"));
    }
    // GNU's binary lengths have twelve octets, of which some read the last eight.
    match block.get(124..128) {
        Some([first, rest @ ..]) if *first >= 0x80 && (*first != 0x80 || rest != [0; 3]) => {
            Err(WalkError::Damaged("a length is none"))
        }
        _ => Ok(()),
    }
}

fn cut_off() -> WalkError {
    WalkError::Damaged("it is cut off")
}

fn extension(input: &mut dyn Positioned, size: u64) -> Result<Vec<u8>, WalkError> {
    if size > MAX_EXTENSION {
        return Err(WalkError::Damaged("an extended header is too long"));
    }
    let end = input.position().saturating_add(size);
    let mut bytes = Vec::new();
    Body { input: &mut *input, left: size }.read_to_end(&mut bytes)?;
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    skip(input, end.saturating_add(padding))?;
    Ok(bytes)
}

fn read_ahead(ahead: &mut Ahead, kind: u8, mut bytes: Vec<u8>) -> Result<(), WalkError> {
    match kind {
        b'L' => {
            while bytes.last() == Some(&0) {
                bytes.pop();
            }
            set_once(&mut ahead.name, bytes, "an entry has two names")
        }
        // The long name of where a link leads to: links are refused by their kind.
        b'K' => Ok(()),
        kind => records(&bytes, |key, value| {
            match key {
                b"path" | b"size" if kind == b'g' => {
                    return Err(WalkError::Damaged("it has one name or length for all entries"));
                }
                b"path" => set_once(&mut ahead.pax_name, value.to_vec(), "an entry has two names")?,
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let size = size.ok_or(WalkError::Damaged("a length is none"))?;
                    set_once(&mut ahead.size, size, "an entry has two lengths")?;
                }
                key if key.starts_with(b"GNU.sparse.") => ahead.sparse = true,
                _ => {}
            }
            Ok(())
        }),
    }
}

fn set_once<T>(place: &mut Option<T>, value: T, twice: &'static str) -> Result<(), WalkError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(WalkError::Damaged(twice)),
    }
}

/// "Each record: length, a blank, keyword, =, value, a newline"; the length is that of the record.
fn records(
    mut bytes: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    const BAD: WalkError = WalkError::Damaged("a pax record does not parse");
    while !bytes.is_empty() {
        let blank = memchr::memchr(b' ', bytes.get(..20).unwrap_or(bytes)).ok_or(BAD)?;
        let digits = bytes.get(..blank).ok_or(BAD)?;
        let length: usize =
            std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(BAD)?;
        let record = bytes.get(blank + 1..length).ok_or(BAD)?;
        let record = record.strip_suffix(b"\n").ok_or(BAD)?;
        let equals = memchr::memchr(b'=', record).ok_or(BAD)?;
        let (key, value) = record.split_at_checked(equals).ok_or(BAD)?;
        each(key, value.get(1..).unwrap_or_default())?;
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
