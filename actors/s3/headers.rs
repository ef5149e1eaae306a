//! Which headers pass: the client's on to the backend, and the backend's back to the client.
//!
//! The backend trusts the gateway more than any client, so a header passes only because it is named
//! here, and an `x-amz-*` header that is not is refused: never dropped, never guessed at.

use super::error::{ErrorCode, S3Error};
use super::names::{self, PartNumber};
use super::operation::Operation;
use crate::http::RequestHead;
use crate::payload::{ChecksumAlgorithm, parse_content_md5};
use bytes::Bytes;

/// Bytes of user metadata, names and values (S3 User Guide, "User-defined object metadata").
pub const MAX_METADATA: usize = 2 * 1024;

/// The header in which a request says when it wants to be acknowledged (`buckets[].upload.mode`).
pub const MODE: &str = "x-mizuchi-mode";

/// The header that makes an archive of a PUT (AWS Snowball Edge Developer Guide, "Batching small files"),
/// whose entries MinIO would store by no decision but its own.
pub const EXTRACT: &str = "x-amz-meta-snowball-auto-extract";

/// Its options are MinIO's, and begin so.
pub const EXTRACT_OPTIONS: &str = "x-amz-meta-minio-snowball-";

/// `upload.allow`: the headers with power over others' data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Permissions {
    /// x-amz-acl, x-amz-grant-*.
    pub acl: bool,
    /// x-amz-tagging.
    pub tagging: bool,
    /// x-amz-object-lock-*.
    pub lock: bool,
    /// x-amz-website-redirect-location.
    pub redirect: bool,
}

/// What becomes of a header.
#[derive(Clone, Copy)]
enum Fate {
    /// Passes, where the operation defines it.
    Pass(Scope),
    /// Passes with a permission.
    With(fn(&Permissions) -> bool),
    /// The gateway's own business.
    Consume,
    /// The gateway's own, and signed like what passes: it says what becomes of the object.
    Own,
    /// 400: key material over a plaintext connection.
    Plaintext,
    /// 501.
    Refuse,
}

/// The operations that define a header (S3 API Reference, each operation's "Request Syntax").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// PutObject, CreateMultipartUpload: what becomes part of the object.
    Object,
    /// PutObject, UploadPart: what describes the body.
    Body,
    /// PutObject, UploadPart, CompleteMultipartUpload: a checksum's value.
    Checksum,
    /// CreateMultipartUpload, CompleteMultipartUpload.
    Multipart,
    /// CreateMultipartUpload.
    Create,
    /// CompleteMultipartUpload.
    Complete,
    /// PutObject, CompleteMultipartUpload: what makes a write conditional.
    Write,
    /// Every operation on an object.
    Any,
}

impl Scope {
    fn holds(self, operation: &Operation) -> bool {
        use Operation::*;
        match self {
            Scope::Object => {
                matches!(operation, PutObject { .. } | CreateMultipartUpload { .. } | Batch { .. })
            }
            Scope::Body => {
                matches!(operation, PutObject { .. } | UploadPart { .. } | Batch { .. })
            }
            Scope::Checksum => matches!(
                operation,
                PutObject { .. }
                    | UploadPart { .. }
                    | CompleteMultipartUpload { .. }
                    | Batch { .. }
            ),
            Scope::Multipart => {
                matches!(operation, CreateMultipartUpload { .. } | CompleteMultipartUpload { .. })
            }
            Scope::Create => matches!(operation, CreateMultipartUpload { .. }),
            Scope::Complete => matches!(operation, CompleteMultipartUpload { .. }),
            Scope::Write => {
                matches!(
                    operation,
                    PutObject { .. } | CompleteMultipartUpload { .. } | Batch { .. }
                )
            }
            Scope::Any => true,
        }
    }
}

/// The table. `name` is in lower case.
fn fate(name: &str) -> Fate {
    match name {
        "cache-control"
        | "content-disposition"
        | "content-encoding"
        | "content-language"
        | "content-type"
        | "expires" => Fate::Pass(Scope::Object),
        "content-md5" => Fate::Pass(Scope::Body),
        "if-match" | "if-none-match" => Fate::Pass(Scope::Write),
        "x-amz-acl" => Fate::With(|allow| allow.acl),
        "x-amz-tagging" => Fate::With(|allow| allow.tagging),
        "x-amz-website-redirect-location" => Fate::With(|allow| allow.redirect),
        "x-amz-checksum-algorithm" => Fate::Pass(Scope::Create),
        "x-amz-checksum-type" => Fate::Pass(Scope::Multipart),
        "x-amz-sdk-checksum-algorithm" => Fate::Pass(Scope::Body),
        "x-amz-mp-object-size" => Fate::Pass(Scope::Complete),
        "x-amz-storage-class"
        | "x-amz-server-side-encryption"
        | "x-amz-server-side-encryption-aws-kms-key-id"
        | "x-amz-server-side-encryption-context"
        | "x-amz-server-side-encryption-bucket-key-enabled" => Fate::Pass(Scope::Object),
        "x-amz-expected-bucket-owner" | "x-amz-request-payer" => Fate::Pass(Scope::Any),
        "x-amz-date"
        | "x-amz-content-sha256"
        | "x-amz-decoded-content-length"
        | "x-amz-security-token"
        | "x-amz-trailer"
        | "x-amz-user-agent"
        | "x-amz-te" => Fate::Consume,
        MODE | EXTRACT => Fate::Own,
        _ if name.starts_with(EXTRACT_OPTIONS) => Fate::Own,
        _ if ChecksumAlgorithm::from_header(name).is_some() => Fate::Pass(Scope::Checksum),
        _ if name.starts_with("x-amz-meta-") => Fate::Pass(Scope::Object),
        _ if name.starts_with("x-amz-grant-") => Fate::With(|allow| allow.acl),
        _ if name.starts_with("x-amz-object-lock-") => Fate::With(|allow| allow.lock),
        _ if name.starts_with("x-amz-server-side-encryption-customer-") => Fate::Plaintext,
        _ if name.starts_with("x-amz-") => Fate::Refuse,
        _ => Fate::Consume,
    }
}

/// Whether a client's header of this name (in lower case) means something for the object: it must be
/// signed, and no token can stand in it.
pub fn passes_on(name: &str) -> bool {
    !matches!(fate(name), Fate::Consume)
}

/// The headers that go on to the backend, names in lower case.
///
/// Errors: 403 AccessDenied (a permission is missing), 501 NotImplemented (unknown `x-amz-*`, or one
/// in the query), 400
/// InvalidRequest, InvalidArgument, InvalidDigest, MetadataTooLarge.
pub fn plan(
    head: &RequestHead,
    operation: &Operation,
    allowed: &Permissions,
) -> Result<Vec<(String, Vec<u8>)>, S3Error> {
    check_query(head)?;
    let mut passed: Vec<(String, Vec<u8>)> = Vec::new();
    let mut metadata = 0;
    for (name, value) in head.headers() {
        let name = name.to_ascii_lowercase();
        let scope = match fate(&name) {
            Fate::Consume | Fate::Own => continue,
            Fate::Pass(scope) => scope,
            Fate::With(permission) if permission(allowed) => Scope::Object,
            Fate::With(_) => {
                let message =
                    format!("Access Denied: the header {name} is not permitted for this bucket.");
                return Err(S3Error::new(ErrorCode::AccessDenied, message));
            }
            Fate::Plaintext => {
                let message = "Requests specifying Server Side Encryption with Customer provided keys \
                               must be made over a secure connection.";
                return Err(S3Error::new(ErrorCode::InvalidRequest, message));
            }
            Fate::Refuse => {
                let message =
                    format!("The header {name} is not implemented by this upload gateway.");
                return Err(S3Error::new(ErrorCode::NotImplemented, message));
            }
        };
        if !scope.holds(operation) {
            // S3 ignores what an operation does not define.
            continue;
        }
        // The parser of heads lets none through; that it is so is not left to another file.
        if value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            let message = format!("The header {name} holds a control character.");
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
        if let Some(meta) = name.strip_prefix("x-amz-meta-") {
            metadata += meta.len() + value.len();
        } else if passed.iter().any(|(have, _)| *have == name) {
            let message = format!("The header {name} is given twice.");
            return Err(S3Error::new(ErrorCode::InvalidArgument, message));
        }
        let value = match name.as_str() {
            "content-encoding" => match without_aws_chunked(value) {
                Some(rest) => rest,
                None => continue,
            },
            _ => value.to_vec(),
        };
        passed.push((name, value));
    }
    if metadata > MAX_METADATA {
        let message = "Your metadata headers exceed the maximum allowed metadata size";
        return Err(S3Error::new(ErrorCode::MetadataTooLarge, message));
    }
    check_digests(&passed, matches!(operation, Operation::CompleteMultipartUpload { .. }))?;
    Ok(passed)
}

/// Presigners move headers into the query, where S3 acts on them (an ACL, metadata, encryption).
/// None is acted on here, so a URL that promises one is refused: dropped in silence, the object would
/// be without it.
fn check_query(head: &RequestHead) -> Result<(), S3Error> {
    for pair in head.query().split('&') {
        let name = names::decode(pair.split_once('=').map_or(pair, |(name, _)| name))?;
        let lower = name.to_ascii_lowercase();
        if lower.starts_with("x-amz-")
            && !SIGNING.contains(&name.as_str())
            && !has_no_effect(&lower)
        {
            let name: String = name.chars().take(64).collect();
            let message = format!(
                "'{name}' in the query is not implemented by this upload gateway: send it as a \
                 signed header."
            );
            return Err(S3Error::new(ErrorCode::NotImplemented, message));
        }
    }
    Ok(())
}

/// What the verifier reads of a query, in its own spelling: one that it does not see is no part of
/// a signature.
const SIGNING: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Content-Sha256",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];

/// Checksums in a query: the JavaScript SDK signs that of an empty body into every presigned PUT
/// (3.729 and later, by default), so holding a body to it would refuse them all.
fn has_no_effect(lower: &str) -> bool {
    matches!(lower, "x-amz-sdk-checksum-algorithm" | "x-amz-user-agent")
        || ChecksumAlgorithm::from_header(lower).is_some()
}

/// `aws-chunked` names the framing, which is undone here; the other encodings are the object's.
fn without_aws_chunked(value: &[u8]) -> Option<Vec<u8>> {
    let kept: Vec<&[u8]> = value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(&b","[..]))
}

/// What says something of the bytes must at least be able to be true. `composite`: a checksum may be
/// one of parts' checksums, with their count after it ("-3"): a Complete's. On a body it would be a
/// value that nobody can verify.
fn check_digests(headers: &[(String, Vec<u8>)], composite: bool) -> Result<(), S3Error> {
    let mut checksums = 0;
    for (name, value) in headers {
        let text = std::str::from_utf8(value).unwrap_or_default();
        if name == "content-md5" && parse_content_md5(text).is_none() {
            let message = "The Content-MD5 you specified was invalid.";
            return Err(S3Error::new(ErrorCode::InvalidDigest, message));
        }
        if let Some(algorithm) = ChecksumAlgorithm::from_header(name) {
            checksums += 1;
            let value = match text.split_once('-') {
                Some((value, count)) if composite && PartNumber::parse(count).is_ok() => value,
                _ => text,
            };
            if algorithm.parse_value(value).is_none() {
                let message = format!("Value for {name} header is invalid.");
                return Err(S3Error::new(ErrorCode::InvalidRequest, message));
            }
        }
    }
    if checksums > 1 {
        let message =
            "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.";
        return Err(S3Error::new(ErrorCode::InvalidRequest, message));
    }
    Ok(())
}

/// The backend's headers that the client sees, names in lower case.
pub fn response_headers(headers: &[(String, Bytes)]) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .filter(|(name, _)| {
            matches!(
                name.as_str(),
                "etag"
                    | MODE
                    | "x-amz-version-id"
                    | "x-amz-expiration"
                    | "x-amz-request-charged"
                    | "x-amz-abort-date"
                    | "x-amz-abort-rule-id"
                    | "x-amz-object-size"
            ) || name.starts_with("x-amz-checksum-")
                || (name.starts_with("x-amz-server-side-encryption"))
        })
        .map(|(name, value)| (name.clone(), value.to_vec()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn planned(
        operation: &str,
        lines: &str,
        allowed: Permissions,
    ) -> Result<Vec<(String, String)>, S3Error> {
        let (method, query) = match operation {
            "put" => ("PUT", ""),
            "part" => ("PUT", "?partNumber=1&uploadId=u"),
            "create" => ("POST", "?uploads"),
            _ => ("POST", "?uploadId=u"),
        };
        let text = format!("{method} /b/k{query} HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let head = RequestHead::parse(Bytes::from(text)).unwrap();
        let operation = Operation::parse(&head, "k").unwrap();
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        plan(&head, &operation, &allowed)
            .map(|headers| headers.into_iter().map(|(name, value)| (name, text(value))).collect())
    }

    fn code(lines: &str) -> String {
        planned("put", lines, Permissions::default()).unwrap_err().code.into_owned()
    }

    #[test]
    fn what_describes_the_object_passes() {
        let lines = "Content-Type: a/b\r\nX-Amz-Meta-A: 1\r\nx-amz-storage-class: GLACIER\r\n\
                     If-None-Match: *\r\nUser-Agent: x\r\nx-amz-date: d\r\nConnection: close\r\n";
        let names: Vec<String> = planned("put", lines, Permissions::default())
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["content-type", "x-amz-meta-a", "x-amz-storage-class", "if-none-match"]);
        assert!(planned("part", lines, Permissions::default()).unwrap().is_empty());
    }

    /// "aws-chunked stored as Content-Encoding: never: strip the token, keep the other encodings".
    #[test]
    fn the_framing_is_no_encoding() {
        let of = |value: &str| {
            planned("put", &format!("Content-Encoding: {value}\r\n"), Permissions::default())
                .unwrap()
        };
        assert!(of("aws-chunked").is_empty());
        assert_eq!(of("gzip, AWS-chunked")[0].1, "gzip");
        assert_eq!(of("aws-chunked,gzip, br")[0].1, "gzip,br");
    }

    /// security.md, "The gateway's own power": 403 by default, never dropped silently.
    #[test]
    fn powerful_headers_need_their_permission() {
        let all = Permissions { acl: true, tagging: true, lock: true, redirect: true };
        for line in [
            "x-amz-acl: private\r\n",
            "x-amz-grant-read: id=1\r\n",
            "x-amz-tagging: a=b\r\n",
            "x-amz-object-lock-mode: GOVERNANCE\r\n",
            "x-amz-website-redirect-location: /x\r\n",
        ] {
            assert_eq!(code(line), "AccessDenied", "{line}");
            assert_eq!(planned("put", line, all).unwrap().len(), 1, "{line}");
        }
    }

    /// MinIO unpacks a PUT if any value of the header has "true" somewhere in it: none goes on.
    #[test]
    fn no_backend_is_asked_to_unpack() {
        for operation in ["put", "create", "part", "complete"] {
            for value in ["true", "untrue", "false", "TRUE ", ""] {
                let lines = format!(
                    "x-amz-meta-SNOWBALL-auto-extract: {value}\r\n{EXTRACT}: true\r\n\
                     {EXTRACT_OPTIONS}prefix: p\r\n"
                );
                let planned = planned(operation, &lines, Permissions::default()).unwrap();
                assert_eq!(planned, [], "{operation} {value}");
            }
        }
        assert!(passes_on(EXTRACT) && passes_on("x-amz-meta-minio-snowball-prefix"));
    }

    /// An `x-amz-*` that S3 would act on, moved into the query by a presigner, is never dropped.
    #[test]
    fn a_header_in_the_query_is_refused_by_name() {
        let of = |query: &str| {
            let text = format!("PUT /b/k?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
            let head = RequestHead::parse(Bytes::from(text)).unwrap();
            plan(&head, &Operation::parse(&head, "k").unwrap(), &Permissions::default())
        };
        for name in [
            "x-amz-acl",
            "X-Amz-Acl",
            "x-amz-meta-a",
            "x-amz-tagging",
            "x-amz-storage-class",
            "x-amz-server-side-encryption",
            "x-amz-signature",
        ] {
            for query in [format!("{name}=v"), format!("x-id=PutObject&{name}")] {
                let error = of(&query).unwrap_err();
                assert_eq!(error.code, "NotImplemented", "{query}");
                assert!(error.message.contains(name), "{}", error.message);
            }
        }
        let javascript = "X-Amz-Algorithm=A&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Signature=s\
                          &x-amz-checksum-crc32=AAAAAA%3D%3D&x-amz-sdk-checksum-algorithm=CRC32";
        assert!(of(javascript).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_true_or_is_not_known_is_refused() {
        for (lines, expected) in [
            ("x-amz-copy-source-range: bytes=0-1\r\n", "NotImplemented"),
            ("x-amz-write-offset-bytes: 1\r\n", "NotImplemented"),
            ("x-amz-new-thing: 1\r\n", "NotImplemented"),
            ("x-amz-server-side-encryption-customer-key: k\r\n", "InvalidRequest"),
            ("Content-MD5: nope\r\n", "InvalidDigest"),
            ("x-amz-checksum-crc32: AAAA\r\n", "InvalidRequest"),
            (
                "x-amz-checksum-crc32: AAAAAA==\r\nx-amz-checksum-crc32c: AAAAAA==\r\n",
                "InvalidRequest",
            ),
            ("Content-Type: a\r\nContent-Type: b\r\n", "InvalidArgument"),
        ] {
            assert_eq!(code(lines), expected, "{lines}");
        }
        // A count of parts on a body's checksum would keep it from being verified.
        assert_eq!(code("x-amz-checksum-crc32: AAAAAA==-3\r\n"), "InvalidRequest");
        let complete = |lines| planned("complete", lines, Permissions::default());
        assert!(complete("x-amz-checksum-crc32: AAAAAA==-3\r\n").is_ok());
        assert!(complete("x-amz-checksum-crc32: AAAAAA==-x\r\n").is_err());
        let long = format!("x-amz-meta-a: {}\r\n", "v".repeat(MAX_METADATA));
        assert_eq!(code(&long), "MetadataTooLarge");
    }
}
