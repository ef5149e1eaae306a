use super::*;
use ::tar::{Builder, Header};
use std::io::Write as _;

const LIMITS: BatchLimits =
    BatchLimits { entries: 10, entry_size: 1 << 30, total_size: 1 << 30, ratio: 100 };

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, body) in entries {
        let mut header = Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_entry_type(match name.ends_with('/') {
            true => ::tar::EntryType::Directory,
            false => ::tar::EntryType::Regular,
        });
        // Not through `append_data`: that refuses `..`.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn look(bytes: Vec<u8>, limits: BatchLimits) -> Result<Index, S3Error> {
    let prefix = Prefix::parse(b"in").unwrap();
    let wanted = Arc::new(AtomicBool::new(true));
    scan(&Archive::of_bytes(bytes.into()), limits, &prefix, (true, true), wanted)
}

fn code(bytes: Vec<u8>, limits: BatchLimits) -> String {
    look(bytes, limits).unwrap_err().code.into_owned()
}

#[test]
fn however_it_is_packed_the_index_is_the_same() {
    let plain = archive(&[("a", b"one"), ("d/", b""), ("d/b", &[9; 100_000]), ("../x", b"evil")]);
    let packed = [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap()];
    for bytes in packed {
        let index = look(bytes, LIMITS).unwrap();
        let found: Vec<_> =
            index.iter().map(|entry| (entry.key, entry.size, entry.refused)).collect();
        assert_eq!(
            found,
            [
                ("in/a", 3, None),
                ("in/d/", 0, None),
                ("in/d/b", 100_000, None),
                ("../x", 0, Some(Refusal::Dots)),
            ]
        );
        let one = index.get(0).unwrap();
        let mut md5 = Md5::new();
        md5.update(b"one");
        assert_eq!(one.md5, md5.finish());
        assert!(one.sha256.unwrap().starts_with(&[0x76, 0x92]));
    }
    // Two members of gzip are one stream (RFC 1952, 2.2).
    let (first, second) = plain.split_at(700);
    let members = [gzip(first), gzip(second)].concat();
    assert_eq!(look(members, LIMITS).unwrap().len(), 4);
}

#[test]
fn no_link_lets_an_earlier_file_of_its_name_pass() {
    let mut builder = Builder::new(Vec::new());
    for (name, kind) in [
        ("a", ::tar::EntryType::Regular),
        ("b", ::tar::EntryType::Regular),
        ("./a", ::tar::EntryType::Symlink),
    ] {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
    }
    let index = look(builder.into_inner().unwrap(), LIMITS).unwrap();
    let found: Vec<_> = index.iter().map(|entry| (entry.key, entry.refused)).collect();
    let (replaced, link) = (Some(Refusal::Replaced), Some(Refusal::Link));
    assert_eq!(found, [("in/a", replaced), ("in/b", None), ("in/a", link)]);
}

#[test]
fn what_is_too_much_is_refused_whole() {
    let plain = archive(&[("a", &[1; 5000]), ("b", b"")]);
    let few = BatchLimits { entries: 1, ..LIMITS };
    assert_eq!(code(plain.clone(), few), "InvalidRequest");
    let small = BatchLimits { total_size: 5000, ..LIMITS };
    assert_eq!(code(plain.clone(), small), "EntityTooLarge");
    assert_eq!(code(gzip(&plain), small), "EntityTooLarge");
    let entry = BatchLimits { entry_size: 4999, ..LIMITS };
    let index = look(plain.clone(), entry).unwrap();
    assert_eq!(index.get(0).unwrap().refused, Some(Refusal::TooLarge));
    assert_eq!(index.get(1).unwrap().refused, None);
    let packed = gzip(&plain);
    for cut in [10, packed.len() / 2, packed.len() - 1] {
        assert_eq!(code(packed[..cut].to_vec(), LIMITS), "InvalidRequest", "{cut}");
    }
}

/// Zeros become a thousandth by gzip, and less by zstd.
#[test]
fn a_bomb_is_left_before_it_is_unpacked() {
    let bomb = archive(&[("zeros", &vec![0; 32 << 20])]);
    for packed in [gzip(&bomb), zstd::encode_all(&bomb[..], 3).unwrap()] {
        assert_eq!(code(packed.clone(), LIMITS), "EntityTooLarge");
        let trusting = BatchLimits { ratio: 1_000_000, ..LIMITS };
        assert_eq!(look(packed, trusting).unwrap().len(), 1);
    }
    assert_eq!(look(bomb, LIMITS).unwrap().len(), 1, "what is not packed is no bomb");
}

/// "--long=27" asks for 128 MiB of memory.
#[test]
fn a_window_that_is_too_large_is_refused() {
    let plain = archive(&[("a", &[1; 100])]);
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&plain).unwrap();
    assert_eq!(code(encoder.finish().unwrap(), LIMITS), "InvalidRequest");
}
