//! Archives as tests want them.

use std::io::Write as _;
use tar::{Builder, EntryType, Header};

/// A tar that is written block by block: also what no tool would write.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn file(self, name: &str, body: &[u8]) -> Tar {
        self.entry(EntryType::Regular, name, "", body)
    }

    pub fn folder(self, name: &str) -> Tar {
        self.entry(EntryType::Directory, name, "", b"")
    }

    /// `to`: where a link leads.
    pub fn entry(mut self, kind: EntryType, name: &str, to: &str, body: &[u8]) -> Tar {
        let mut header = Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + to.len()].copy_from_slice(to.as_bytes());
        header.set_entry_type(kind);
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// Without the blocks that end it.
    pub fn open_ended(self) -> Vec<u8> {
        self.0
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// As GNU tar writes it: long names too.
pub fn gnu(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, body) in entries {
        let mut header = Header::new_gnu();
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, name, body.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}
