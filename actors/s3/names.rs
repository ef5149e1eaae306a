//! Names that are parsed once, at the edge, so that nothing deeper checks again.

use super::error::{ErrorCode, S3Error};
use std::fmt;

/// Bytes of the longest key (S3 User Guide, "Naming Amazon S3 objects").
pub const MAX_KEY: usize = 1024;

/// An object key: 1 to 1,024 bytes of UTF-8 without NUL. `..`, `//` and a leading `/` are legal and
/// mean themselves: a key never becomes a path of a file system here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Decodes the raw (percent-encoded) key once; `+` is a plus.
    ///
    /// Errors: 400 InvalidURI, KeyTooLongError.
    pub fn decode(raw: &str) -> Result<Self, S3Error> {
        ObjectKey::new(decode(raw)?)
    }

    /// The key that a client gave in plain.
    ///
    /// Errors: as [`ObjectKey::decode`].
    pub fn new(key: String) -> Result<Self, S3Error> {
        if key.is_empty() || key.contains('\0') {
            return Err(S3Error::new(ErrorCode::InvalidURI, "Couldn't parse the specified URI."));
        }
        if key.len() > MAX_KEY {
            return Err(S3Error::new(ErrorCode::KeyTooLongError, "Your key is too long"));
        }
        Ok(ObjectKey(key))
    }

    /// The decoded key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Decodes `%XX` once. Errors with 400 InvalidURI on a malformed escape or what is not UTF-8.
pub fn decode(raw: &str) -> Result<String, S3Error> {
    let invalid = || S3Error::new(ErrorCode::InvalidURI, "Couldn't parse the specified URI.");
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(invalid()) };
        out.push(high << 4 | low);
    }
    String::from_utf8(out).map_err(|_| invalid())
}

/// A part's number: 1 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(u16);

impl PartNumber {
    /// The highest (S3 User Guide, "Amazon S3 multipart upload limits").
    pub const MAX: u16 = 10_000;

    /// Parses plain digits. Errors with 400 InvalidArgument.
    pub fn parse(text: &str) -> Result<Self, S3Error> {
        text.parse()
            .ok()
            .filter(|number| {
                (1..=Self::MAX).contains(number) && text.bytes().all(|byte| byte.is_ascii_digit())
            })
            .map(PartNumber)
            .ok_or_else(|| {
                let message = "Part number must be an integer between 1 and 10000, inclusive";
                S3Error::new(ErrorCode::InvalidArgument, message)
            })
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The backend's own name for a multipart upload; clients only ever see it sealed.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUploadId(String);

impl BackendUploadId {
    /// As the backend answered it, or as it was unsealed.
    pub fn new(id: String) -> Self {
        BackendUploadId(id)
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BackendUploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackendUploadId(…)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However a key's bytes are escaped, it decodes to them: once.
        #[test]
        fn an_escaped_key_is_itself(key in "[^\0]{1,60}") {
            let raw: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let decoded = ObjectKey::decode(&raw).unwrap();
            prop_assert_eq!(decoded.as_str(), key);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[%0-9a-zé\0]{0,40}") {
            let _ = ObjectKey::decode(&text);
            let _ = PartNumber::parse(&text);
        }
    }

    #[test]
    fn keys_are_decoded_once_and_mean_themselves() {
        for (raw, key) in [
            ("a%20b+c", "a b+c"),
            ("../..//x", "../..//x"),
            ("%2e%2e%2Fa", "../a"),
            ("%2525", "%25"),
            ("%E3%81%BF", "み"),
        ] {
            assert_eq!(ObjectKey::decode(raw).unwrap().as_str(), key);
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for raw in ["%", "%4", "%zz", "%ff", "a%00b", ""] {
            assert_eq!(ObjectKey::decode(raw).unwrap_err().code, "InvalidURI", "{raw}");
        }
        assert!(ObjectKey::decode(&"k".repeat(1024)).is_ok());
        assert_eq!(ObjectKey::decode(&"k".repeat(1025)).unwrap_err().code, "KeyTooLongError");
    }

    /// S3: "part number: any number from 1 to 10,000, inclusive".
    #[test]
    fn part_numbers_have_bounds() {
        assert_eq!(PartNumber::parse("10000").unwrap().get(), 10_000);
        for text in ["0", "10001", "-1", "+1", "1.0", "", "x", "99999999999"] {
            assert_eq!(PartNumber::parse(text).unwrap_err().code, "InvalidArgument", "{text}");
        }
    }
}
