//! Archives: what holds of whatever is not refused.

use bytes::Bytes;
use mizuchi_actors::batch::{Archive, BatchLimits, Prefix, scan};
use mizuchi_actors::s3::names::{MAX_KEY, ObjectKey};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const LIMITS: BatchLimits =
    BatchLimits { entries: 20, entry_size: 4096, total_size: 1 << 20, ratio: 100 };

/// Where a header has its checksum, and where its magic.
const CHECKSUM: std::ops::Range<usize> = 148..156;
const MAGIC: usize = 257;

/// Gives every header the checksum that it should have: nothing else would be reached.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for block in data.chunks_exact_mut(512).filter(|block| block[MAGIC..].starts_with(b"ustar")) {
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    data
}

/// Looked through: keys are keys, below the prefix, and lead nowhere else; none comes twice; of a plain
/// archive each entry's bytes are where the index says.
pub(super) fn looked_through(data: &[u8]) {
    let data = Bytes::from(mended(data));
    let is_form = data.starts_with(b"--X");
    let prefix = Prefix::parse(b"in/here").expect("a good prefix");
    let look = |folders| {
        let wanted = Arc::new(AtomicBool::new(true));
        let archive = Archive::of_bytes(data.clone());
        let archive = if is_form { archive.as_form("X") } else { archive };
        scan(&archive, LIMITS, &prefix, (folders, true), wanted)
    };
    let (with, without) = (look(true), look(false));
    assert_eq!(with.is_ok(), without.is_ok(), "folders decide over nothing else");
    let Ok(index) = with else { return };
    assert!(index.len() <= LIMITS.entries as usize);
    assert!(without.is_ok_and(|less| less.len() <= index.len()));
    let mut keys = HashSet::new();
    let packed = data.starts_with(&[0x1f, 0x8b]) || data.get(1..4) == Some(&[0xb5, 0x2f, 0xfd]);
    for entry in index.iter().filter(|entry| entry.refused.is_none()) {
        assert!(entry.key.len() <= MAX_KEY && ObjectKey::new(entry.key.to_owned()).is_ok());
        let name = entry.key.strip_prefix("in/here/").expect("below the prefix");
        assert!(!name.is_empty() && !name.starts_with('/'), "{name:?}");
        assert!(name.split('/').all(|segment| segment != ".." && segment != "."), "{name:?}");
        assert!(keys.insert(entry.key), "{name:?} twice");
        assert!(entry.size <= LIMITS.entry_size && entry.sha256.is_some());
        if !packed && entry.size > 0 {
            let (from, to) = (entry.offset as usize, (entry.offset + entry.size) as usize);
            use sha2::Digest as _;
            let hash: [u8; 32] = sha2::Sha256::digest(&data[from..to]).into();
            assert_eq!(entry.sha256, Some(hash), "{name:?} is not where it should be");
        }
    }
}
