use super::*;
use ::tar::{Builder, EntryType};
use std::io::Cursor;

struct Bytes(Cursor<Vec<u8>>);

impl Read for Bytes {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        // Never more than a little at a time.
        let most = space.len().min(700);
        self.0.read(&mut space[..most])
    }
}

impl Positioned for Bytes {
    fn position(&self) -> u64 {
        self.0.position()
    }
}

fn members(archive: Vec<u8>) -> Result<Vec<(String, Kind, Vec<u8>)>, WalkError> {
    let mut found = Vec::new();
    walk(&mut Bytes(Cursor::new(archive)), &mut |member, body| {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)?;
        assert_eq!(bytes.len() as u64, member.size);
        let name = String::from_utf8_lossy(member.name).into_owned();
        found.push((name, member.kind, bytes));
        Ok(())
    })?;
    Ok(found)
}

fn damage(archive: Vec<u8>) -> &'static str {
    match members(archive) {
        Err(WalkError::Damaged(how)) => how,
        other => panic!("{other:?}"),
    }
}

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn raw(parts: &[(&Header, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (header, body) in parts {
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

#[test]
fn members_come_in_their_order_with_their_long_names() {
    let mut builder = Builder::new(Vec::new());
    let long = format!("{}/{}", "d".repeat(120), "n".repeat(300));
    for (name, body) in [("a", &b"one"[..]), (&long, b""), ("c", &[7; 1500])] {
        let mut header = Header::new_gnu();
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, name, body).unwrap();
    }
    let pax = record("path", "über/é") + &record("mtime", "1.5") + &record("comment", "a\nb=c");
    let pax = pax.as_bytes();
    let archive = builder.into_inner().unwrap();
    let found = members(archive).unwrap();
    let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["a", &long, "c"]);
    assert_eq!(found[2].2, [7; 1500]);
    let archive = raw(&[
        (
            &header(EntryType::XGlobalHeader, "g", record("comment", "x").len() as u64),
            record("comment", "x").as_bytes(),
        ),
        (&header(EntryType::XHeader, "x", pax.len() as u64), pax),
        (&header(EntryType::Regular, "u", 2), b"hi"),
        (&header(EntryType::Directory, "d/", 0), b""),
        (&header(EntryType::Regular, "old/", 0), b""),
        (&header(EntryType::Symlink, "s", 0), b""),
        (&header(EntryType::Link, "l", 0), b""),
        (&header(EntryType::Fifo, "f", 0), b""),
        (&header(EntryType::new(b'V'), "v", 0), b""),
    ]);
    let found = members(archive).unwrap();
    let found: Vec<_> = found.iter().map(|(name, kind, _)| (name.as_str(), *kind)).collect();
    assert_eq!(
        found,
        [
            ("über/é", Kind::File),
            ("d/", Kind::Folder),
            ("old/", Kind::Folder),
            ("s", Kind::Link),
            ("l", Kind::Link),
            ("f", Kind::Device),
            ("v", Kind::Special),
        ]
    );
}

#[test]
fn what_is_cut_off_or_changed_is_no_archive() {
    let whole = raw(&[
        (&header(EntryType::Regular, "a", 600), &[1; 600]),
        (&header(EntryType::Regular, "b", 3), b"abc"),
    ]);
    assert_eq!(members(whole.clone()).unwrap().len(), 2);
    let content = whole.len() - 2 * BLOCK;
    for length in [0, 1, 511, 512, 600, 1112, 1536, 1600, content] {
        damage(whole[..length].to_vec());
    }
    // One block of zeros is an end.
    assert_eq!(members(whole[..content + BLOCK].to_vec()).unwrap().len(), 2);
    let mut changed = whole.clone();
    changed[3] ^= 1;
    assert!(damage(changed).contains("checksum"));
    assert!(damage(b"hello".repeat(500)).contains("no tar"));
    let mut more = whole.clone();
    more.extend_from_slice(&[0; 4096]);
    assert_eq!(members(more.clone()).unwrap().len(), 2);
    more.extend_from_slice(b"x");
    assert!(damage(more).contains("behind its end"));
    let twice = [whole.clone(), whole].concat();
    assert!(damage(twice).contains("behind its end"));
}

/// pax: "size: The size of the file in octets ... shall override the size field": where that cannot hold it.
#[test]
fn a_record_says_what_no_header_can() {
    let of = |size: u64, in_header: u64| {
        let text = record("size", &size.to_string());
        let ahead = header(EntryType::XHeader, "x", text.len() as u64);
        raw(&[(&ahead, text.as_bytes()), (&header(EntryType::Regular, "a", in_header), b"")])
    };
    let mut seen = None;
    let archive = of(MAX_OCTAL + 1, 0);
    let walked = walk(&mut Bytes(Cursor::new(archive)), &mut |member, _| {
        seen = Some(member.size);
        Ok(())
    });
    assert!(matches!(walked, Err(WalkError::Damaged("it is cut off"))), "{walked:?}");
    assert_eq!(seen, Some(MAX_OCTAL + 1));
    assert!(damage(of(MAX_OCTAL, 0)).contains("two lengths"));
    assert!(damage(of(MAX_OCTAL + 1, 1)).contains("two lengths"));
}

#[test]
fn what_two_tools_would_read_differently_is_no_archive() {
    let size = |size: u64| record("size", &size.to_string());
    let pax = |text: &str| (header(EntryType::XHeader, "x", text.len() as u64), text.to_owned());
    let with = |texts: &[String]| {
        let ahead: Vec<_> = texts.iter().map(|text| pax(text)).collect();
        let file = header(EntryType::Regular, "a", 3);
        let mut parts: Vec<(&Header, &[u8])> =
            ahead.iter().map(|(header, text)| (header, text.as_bytes())).collect();
        parts.push((&file, b"abc"));
        raw(&parts)
    };
    assert_eq!(members(with(&[size(3)])).unwrap().len(), 1);
    assert!(damage(with(&[size(1024)])).contains("two lengths"));
    assert!(damage(with(&[size(3) + &size(4)])).contains("two lengths"));
    assert!(damage(with(&[record("path", "x"), record("path", "y")])).contains("two names"));
    assert!(damage(with(&["9 path=x".to_owned()])).contains("does not parse"));
    assert!(damage(with(&["99999999999999999999 path=x\n".to_owned()])).contains("not parse"));
    let sparse = members(with(&[record("GNU.sparse.major", "1")])).unwrap();
    assert_eq!(sparse[0].1, Kind::Special);
    let long = header(EntryType::GNULongName, "l", 1);
    let text = record("path", "x");
    let file = header(EntryType::Regular, "a", 0);
    let ahead = header(EntryType::XHeader, "x", text.len() as u64);
    let both = raw(&[(&long, b"n"), (&ahead, text.as_bytes()), (&file, b"")]);
    assert!(damage(both).contains("two names"));
    let global = header(EntryType::XGlobalHeader, "g", text.len() as u64);
    assert!(damage(raw(&[(&global, text.as_bytes()), (&file, b"")])).contains("for all entries"));
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Block] {
        let smuggler = raw(&[(&header(kind, "l", 512), &[1; 512])]);
        assert!(damage(smuggler).contains("can have no body"), "{kind:?}");
    }
    assert!(damage(raw(&[(&header(EntryType::GNUSparse, "s", 0), b"")])).contains("sparse"));
    assert!(damage(raw(&[(&long, b"n")])).contains("no entry"));
    let huge = header(EntryType::XHeader, "x", MAX_EXTENSION + 1);
    assert!(damage(raw(&[(&huge, b"")])).contains("too long"));
    let changed = |change: &dyn Fn(&mut [u8; BLOCK])| {
        let mut header = header(EntryType::Regular, "a", 3);
        change(header.as_mut_bytes());
        header.set_cksum();
        raw(&[(&header, b"abc")])
    };
    let binary = |upper: [u8; 4]| {
        changed(&|block| {
            block[124..136].copy_from_slice(&[&upper[..], &[0, 0, 0, 0, 0, 0, 0, 3]].concat());
        })
    };
    assert_eq!(members(binary([0x80, 0, 0, 0])).unwrap()[0].2, b"abc");
    for upper in [[0x80, 0, 0, 1], [0x80, 1, 0, 0], [0x81, 0, 0, 0], [0xff; 4]] {
        assert!(damage(binary(upper)).contains("length is none"), "{upper:?}");
    }
    for version in [b"\0\0", b" \0", b"01"] {
        let other = changed(&|block| block[263..265].copy_from_slice(version));
        assert!(damage(other).contains("version"), "{version:?}");
    }
    let endless = header(EntryType::Regular, "a", 0o77777777777);
    assert!(damage(raw(&[(&endless, b"")])).contains("cut off"));
}
