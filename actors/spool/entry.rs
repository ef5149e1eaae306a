//! What is on record of one acknowledged upload, and how it is written.
//!
//! A record is framed (framing.rs), but for the CRC, which format 1 does not have. Bytes that need not be text
//! (the values of headers) are base64 in it, so that they come back as they were.

use super::framing;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::io;

/// The format that [`Entry::encode`] writes.
const FORMAT: u8 = 2;

/// The one without a checksum.
const UNCHECKED: u8 = 1;

/// An upload that a client was told is stored. Times are milliseconds since 1970, by this machine's
/// clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The gateway's name of the bucket.
    pub bucket: String,
    /// The key at the backend, prefix included.
    pub key: String,
    /// When it was taken.
    pub accepted: u64,
    /// Whose it is.
    pub principal: String,
    /// The headers that pass on to the backend.
    #[serde(with = "header_list")]
    pub headers: Vec<(String, Vec<u8>)>,
    /// Its bytes.
    pub content: EntryContent,
    /// Set: it is not delivered any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantine>,
    /// The backend's id of a multipart delivery that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_id: Option<String>,
    /// Its key was written anew at the backend while this one was in quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Newer>,
}

/// What was written to a key after an entry of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Newer {
    /// The entry of this number.
    Entry(u64),
    /// A write that went through.
    Through,
}

/// Why an entry is not delivered, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// For the operator.
    pub reason: String,
    /// When.
    pub at: u64,
}

/// What an entry's object consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryContent {
    /// One PutObject.
    Whole(Body),
    /// A client's completed multipart upload.
    Parts(Parts),
}

/// What a client's CompleteMultipartUpload has put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// The parts that it named, by ascending number; at least one.
    pub parts: Vec<PartBody>,
    /// Those of its headers that pass on.
    #[serde(with = "header_list")]
    pub headers: Vec<(String, Vec<u8>)>,
}

/// One part of a client's multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartBody {
    /// The client's number of it, 1 to 10,000.
    pub number: u16,
    /// Its bytes.
    pub body: Body,
    /// The checksum that came with it and was verified: header name and base64 value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<(String, String)>,
}

/// Bytes on stable storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// How many.
    pub length: u64,
    /// Their MD5: what a client was told is the ETag, and what they are checked against.
    #[serde(with = "digest")]
    pub md5: [u8; 16],
    /// Where they are.
    pub place: Place,
}

/// Where a body's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the journal, under the entry's number.
    Inline,
    /// A file of its own.
    File(BodyId),
}

/// A body's file. Its name is the number as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BodyId(pub(super) u64);

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Newer::Entry(number) => number.fmt(f),
            Newer::Through => f.write_str("a write that went through"),
        }
    }
}

impl BodyId {
    /// The id of the file with this name; None: no body has such a name.
    pub fn parse(name: &str) -> Option<BodyId> {
        let id = u64::from_str_radix(name, 16).ok().map(BodyId)?;
        // Only the one spelling: no sign, no capitals, no other length.
        (id.to_string() == name).then_some(id)
    }
}

impl fmt::Display for BodyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for BodyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyId({self})")
    }
}

impl Serialize for BodyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BodyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        BodyId::parse(&name).ok_or_else(|| D::Error::custom("not the name of a body"))
    }
}

impl Body {
    /// The MD5 as 32 lower-case hexadecimal digits: the ETag, without its quotes.
    pub fn md5_hex(&self) -> String {
        hex(&self.md5)
    }
}

fn hex(md5: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*md5))
}

impl Entry {
    /// Its bodies: one, or one for each part.
    pub fn bodies(&self) -> impl Iterator<Item = &Body> {
        let (whole, parts) = match &self.content {
            EntryContent::Whole(body) => (Some(body), &[][..]),
            EntryContent::Parts(parts) => (None, parts.parts.as_slice()),
        };
        whole.into_iter().chain(parts.iter().map(|part| &part.body))
    }

    /// The part at this place, of one that has parts.
    pub fn part(&self, at: usize) -> Option<&PartBody> {
        match &self.content {
            EntryContent::Parts(parts) => parts.parts.get(at),
            EntryContent::Whole(_) => None,
        }
    }

    /// The files of its bodies.
    pub fn files(&self) -> impl Iterator<Item = BodyId> {
        self.bodies().filter_map(|body| match body.place {
            Place::File(id) => Some(id),
            Place::Inline => None,
        })
    }

    /// Bytes of all its bodies.
    pub fn length(&self) -> u64 {
        self.bodies().fold(0, |sum, body| sum.saturating_add(body.length))
    }

    /// The record.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        framing::encode(FORMAT, self)
    }

    /// Reads a record. Errors: it is not one, or one of another format.
    pub(super) fn decode(record: &[u8]) -> io::Result<Entry> {
        match record.split_first() {
            Some((&UNCHECKED, json)) => serde_json::from_slice(json).map_err(io::Error::other),
            _ => framing::decode(FORMAT, record),
        }
    }
}

/// Headers as pairs of a name and base64.
pub(super) mod header_list {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    pub(in crate::spool) fn serialize<S: Serializer>(
        headers: &[(String, Vec<u8>)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(headers.iter().map(|(name, value)| (name, STANDARD.encode(value))))
    }

    pub(in crate::spool) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(String, Vec<u8>)>, D::Error> {
        let headers = Vec::<(String, String)>::deserialize(deserializer)?;
        let decode = |(name, value): (String, String)| {
            STANDARD.decode(value).map(|value| (name, value)).map_err(D::Error::custom)
        };
        headers.into_iter().map(decode).collect()
    }
}

/// An MD5 as 32 hexadecimal digits.
mod digest {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        md5: &[u8; 16],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(md5))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(D::Error::custom("not an MD5"));
        }
        u128::from_str_radix(&text, 16).map(u128::to_be_bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bodies() -> impl Strategy<Value = Body> {
        let place = prop_oneof![
            Just(Place::Inline),
            any::<u64>().prop_map(|number| Place::File(BodyId(number)))
        ];
        (any::<u64>(), any::<[u8; 16]>(), place).prop_map(|(length, md5, place)| Body {
            length,
            md5,
            place,
        })
    }

    fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
        prop::collection::vec((any::<String>(), any::<Vec<u8>>()), 0..4)
    }

    fn contents() -> impl Strategy<Value = EntryContent> {
        let checksum = prop::option::of((any::<String>(), any::<String>()));
        let part = (any::<u16>(), bodies(), checksum)
            .prop_map(|(number, body, checksum)| PartBody { number, body, checksum });
        let parts = (prop::collection::vec(part, 0..4), headers())
            .prop_map(|(parts, headers)| Parts { parts, headers });
        prop_oneof![bodies().prop_map(EntryContent::Whole), parts.prop_map(EntryContent::Parts)]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let quarantined = prop::option::of(
            (any::<String>(), any::<u64>()).prop_map(|(reason, at)| Quarantine { reason, at }),
        );
        let names = (any::<String>(), any::<String>(), any::<String>());
        let newer = prop_oneof![Just(Newer::Through), any::<u64>().prop_map(Newer::Entry)];
        let upload_id = (prop::option::of(any::<String>()), prop::option::of(newer));
        (names, any::<u64>(), headers(), contents(), quarantined, upload_id).prop_map(
            |((bucket, key, principal), accepted, headers, content, quarantined, sent)| {
                let (upload_id, superseded) = sent;
                Entry {
                    bucket,
                    key,
                    accepted,
                    principal,
                    headers,
                    content,
                    quarantined,
                    upload_id,
                    superseded,
                }
            },
        )
    }

    proptest! {
        /// "header values are bytes": whatever they are, they come back.
        #[test]
        fn what_is_written_is_read_back(entry in entries()) {
            prop_assert_eq!(Entry::decode(&entry.encode().unwrap()).unwrap(), entry);
        }

        /// A record that was damaged is an error, whatever stands in it.
        #[test]
        fn what_is_no_record_is_an_error_and_no_panic(bytes in any::<Vec<u8>>()) {
            prop_assert!(Entry::decode(&bytes).is_err());
        }
    }

    fn small() -> Entry {
        let body = Body { length: 3, md5: [0xa1; 16], place: Place::File(BodyId(0x1f)) };
        Entry {
            bucket: "photos".to_owned(),
            key: "a/b".to_owned(),
            accepted: 1,
            principal: "ann".to_owned(),
            headers: vec![("x-amz-meta-a".to_owned(), vec![0xff, 0])],
            content: EntryContent::Whole(body),
            quarantined: None,
            upload_id: None,
            superseded: None,
        }
    }

    /// The format of what is on disks already must not change unnoticed.
    #[test]
    fn the_first_format_stays_as_it_is() {
        let text = concat!(
            r#"{"bucket":"photos","key":"a/b","accepted":1,"principal":"ann","#,
            r#""headers":[["x-amz-meta-a","/wA="]],"content":{"whole":{"length":3,"#,
            r#""md5":"a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1","place":{"file":"000000000000001f"}}}}"#
        );
        let first = format!("\u{1}{text}");
        assert_eq!(Entry::decode(first.as_bytes()).unwrap(), small());
        let second = [&[2, 0x21, 0xe4, 0xda, 0x65], text.as_bytes()].concat();
        assert_eq!(small().encode().unwrap(), second);
        assert_eq!(Entry::decode(&second).unwrap(), small());
    }

    /// "0 corrupt objects": whichever bit flips, it is not another record.
    #[test]
    fn no_flipped_bit_makes_another_record() {
        let record = small().encode().unwrap();
        for bit in 0..record.len() * 8 {
            let mut flipped = record.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    /// What a newer version added must not be dropped by an older one that writes the record again.
    #[test]
    fn another_format_or_an_unknown_field_is_an_error() {
        let mut record = small().encode().unwrap();
        let json = std::str::from_utf8(&record[5..]).unwrap();
        let more = json.replace("{\"bucket", "{\"new\":1,\"bucket");
        let more = [&[2], &framing::crc(more.as_bytes())[..], more.as_bytes()].concat();
        assert!(Entry::decode(&more).unwrap_err().to_string().contains("new"));
        record[0] = 3;
        assert!(Entry::decode(&record).unwrap_err().to_string().contains("format 3"));
    }

    #[test]
    fn a_body_s_name_has_one_spelling() {
        assert_eq!(BodyId::parse("00000000000000ff"), Some(BodyId(255)));
        for name in ["ff", "00000000000000FF", "+0000000000000ff", "00000000000000ff.tmp", "", "x"]
        {
            assert_eq!(BodyId::parse(name), None, "{name}");
        }
    }
}
