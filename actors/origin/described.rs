//! Whether an object is what a request says of it beside its bytes. Pure.

const ENCRYPTION: &str = "x-amz-server-side-encryption";

/// What HEAD shows, and a request says: both must agree.
const SHOWN: [&str; 9] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
    ENCRYPTION,
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

/// What a request says that is not of the object, or of its bytes. What is in neither list (ACLs, tags,
/// locks, keys) HEAD does not show, or not so that it could be compared.
const OF_THE_REQUEST: [&str; 7] = [
    "content-md5",
    "if-none-match",
    "x-amz-decoded-content-length",
    "x-amz-expected-bucket-owner",
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-trailer",
];

/// Whether an object that HEAD shows with the headers `found` is what a request with the headers `asked`
/// makes of its bytes. Names in lower case; False where it cannot be told.
pub(super) fn is_described(asked: &[(String, Vec<u8>)], found: &[(String, String)]) -> bool {
    let comparable = asked.iter().all(|(name, _)| {
        is_shown(name)
            || OF_THE_REQUEST.contains(&name.as_str())
            || name.starts_with("x-amz-checksum-")
    });
    let there = |name: &str| found.iter().find(|(have, _)| have == name);
    let is_there = asked.iter().filter(|(name, _)| is_shown(name)).all(|(name, value)| {
        let value = plain(name, &String::from_utf8_lossy(value));
        match there(name) {
            Some((_, found)) => plain(name, found) == value,
            None => name != ENCRYPTION && is_default(name, &value),
        }
    });
    let is_asked_for = found.iter().all(|(name, value)| {
        asked.iter().any(|(asked, _)| asked == name) || is_default(name, &plain(name, value))
    });
    comparable && is_there && is_asked_for
}

fn is_shown(name: &str) -> bool {
    SHOWN.contains(&name) || name.starts_with("x-amz-meta-")
}

/// A content encoding without the framing of the request's body.
fn plain(name: &str, value: &str) -> String {
    if name != "content-encoding" {
        return value.trim().to_owned();
    }
    let codings = value.split(',').map(str::trim);
    let codings = codings.filter(|coding| !coding.is_empty() && *coding != "aws-chunked");
    codings.collect::<Vec<_>>().join(",")
}

/// Whether an object has this where nobody has asked for anything.
fn is_default(name: &str, value: &str) -> bool {
    match name {
        "content-type" => ["binary/octet-stream", "application/octet-stream"].contains(&value),
        "content-encoding" => value.is_empty(),
        "x-amz-storage-class" => value == "STANDARD",
        // Its bucket's.
        ENCRYPTION => true,
        "x-amz-missing-meta" => value == "0",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(asked: &[(&str, &str)], found: &[(&str, &str)]) -> bool {
        let asked: Vec<_> = asked
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        let found: Vec<_> =
            found.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        is_described(&asked, &found)
    }

    #[test]
    fn what_is_said_is_there_and_nothing_else() {
        let asked = [
            ("content-type", "text/plain"),
            ("cache-control", "no-store"),
            ("x-amz-meta-owner", "a"),
            ("content-md5", "x"),
            ("x-amz-checksum-crc32", "x"),
            ("if-none-match", "*"),
        ];
        let there = [
            ("content-type", "text/plain"),
            ("cache-control", "no-store"),
            ("x-amz-meta-owner", "a"),
        ];
        assert!(holds(&asked, &there));
        assert!(!holds(&asked, &there[..2]), "metadata is missing");
        assert!(!holds(&asked[1..], &there), "a content type that nobody asked for");
        for other in [
            ("x-amz-meta-more", "b"),
            ("expires", "0"),
            ("x-amz-website-redirect-location", "/elsewhere"),
            ("x-amz-storage-class", "GLACIER"),
            ("x-amz-missing-meta", "1"),
        ] {
            let found = [&there[..], &[other]].concat();
            assert!(!holds(&asked, &found), "{other:?}");
        }
        for default in [
            ("x-amz-storage-class", "STANDARD"),
            ("x-amz-server-side-encryption", "AES256"),
            ("x-amz-missing-meta", "0"),
        ] {
            let found = [&there[..], &[default]].concat();
            assert!(holds(&asked, &found), "{default:?}");
        }
        let other = [("content-type", "text/html"), there[1], there[2]];
        assert!(!holds(&asked, &other));
    }

    #[test]
    fn defaults_are_the_backend_s() {
        assert!(holds(&[], &[("content-type", "binary/octet-stream")]));
        assert!(holds(&[], &[("content-type", "application/octet-stream")]));
        assert!(!holds(&[], &[("content-type", "text/html")]));
        assert!(holds(&[("x-amz-storage-class", "STANDARD")], &[]));
        assert!(!holds(&[("x-amz-storage-class", "STANDARD_IA")], &[]));
        assert!(!holds(&[(ENCRYPTION, "AES256")], &[]));
    }

    #[test]
    fn the_framing_is_no_encoding() {
        let gzip = [("content-encoding", "gzip")];
        assert!(holds(&[("content-encoding", "aws-chunked,gzip")], &gzip));
        assert!(holds(&[("content-encoding", "aws-chunked")], &[]));
        assert!(holds(&[], &[("content-encoding", "aws-chunked")]));
        assert!(!holds(&[], &gzip));
        assert!(!holds(&[("content-encoding", "aws-chunked,gzip")], &[]));
    }

    #[test]
    fn what_cannot_be_compared_is_not_the_same() {
        for name in [
            "x-amz-acl",
            "x-amz-grant-read",
            "x-amz-tagging",
            "x-amz-object-lock-mode",
            "x-amz-server-side-encryption-aws-kms-key-id",
            "if-match",
            "x-amz-new",
        ] {
            assert!(!holds(&[(name, "x")], &[(name, "x")]), "{name}");
        }
    }
}
