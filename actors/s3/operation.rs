//! What a request asks for: one exhaustive parser, before anything else looks at it.
//!
//! Every S3 gateway that took "a PUT to a key" for a PutObject has written an ACL document, a tag
//! set or a copy's empty body over somebody's object. Here a request is a PutObject only when
//! nothing in it says otherwise: a query parameter that is not known, or that belongs to another
//! operation, is a refusal. So there is no list of S3's subresources to keep up with, only one of the
//! parameters that are known.

use super::error::{ErrorCode, S3Error};
use super::list_uploads::ListQuery;
use super::names::{self, ObjectKey, PartNumber};
use crate::http::RequestHead;

/// An operation that the gateway serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>
    PutObject {
        /// The object.
        key: ObjectKey,
    },
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html>
    CreateMultipartUpload {
        /// The object.
        key: ObjectKey,
    },
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_UploadPart.html>
    UploadPart {
        /// The object.
        key: ObjectKey,
        /// Which part.
        part_number: PartNumber,
        /// Sealed.
        upload_id: String,
    },
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
    CompleteMultipartUpload {
        /// The object.
        key: ObjectKey,
        /// Sealed.
        upload_id: String,
    },
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html>
    AbortMultipartUpload {
        /// The object.
        key: ObjectKey,
        /// Sealed.
        upload_id: String,
    },
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListParts.html>
    ListParts {
        /// The object.
        key: ObjectKey,
        /// Sealed.
        upload_id: String,
        /// Most parts of one answer.
        max_parts: Option<u32>,
        /// Parts after this one.
        part_number_marker: Option<u32>,
    },
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html>
    HeadBucket,
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetBucketLocation.html>
    GetBucketLocation,
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>
    ListMultipartUploads(ListQuery),
    /// The gateway's own: many objects in one body, `POST /{bucket}?batch` (docs/batch.md).
    Batch {
        /// `prefix` of the query, as it came.
        prefix: String,
    },
}

impl Operation {
    /// Every name that [`Operation::name`] gives.
    pub const NAMES: [&str; 10] = [
        "PutObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
        "ListParts",
        "HeadBucket",
        "GetBucketLocation",
        "ListMultipartUploads",
        "Batch",
    ];

    /// S3's name of the operation.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::PutObject { .. } => "PutObject",
            Operation::CreateMultipartUpload { .. } => "CreateMultipartUpload",
            Operation::UploadPart { .. } => "UploadPart",
            Operation::CompleteMultipartUpload { .. } => "CompleteMultipartUpload",
            Operation::AbortMultipartUpload { .. } => "AbortMultipartUpload",
            Operation::ListParts { .. } => "ListParts",
            Operation::HeadBucket => "HeadBucket",
            Operation::GetBucketLocation => "GetBucketLocation",
            Operation::ListMultipartUploads(_) => "ListMultipartUploads",
            Operation::Batch { .. } => "Batch",
        }
    }

    /// The object; None for an operation on the bucket.
    pub fn key(&self) -> Option<&ObjectKey> {
        match self {
            Operation::PutObject { key }
            | Operation::CreateMultipartUpload { key }
            | Operation::UploadPart { key, .. }
            | Operation::CompleteMultipartUpload { key, .. }
            | Operation::AbortMultipartUpload { key, .. }
            | Operation::ListParts { key, .. } => Some(key),
            Operation::HeadBucket
            | Operation::GetBucketLocation
            | Operation::ListMultipartUploads(_)
            | Operation::Batch { .. } => None,
        }
    }

    /// The sealed uploadId, where there is one.
    pub fn upload_id(&self) -> Option<&str> {
        match self {
            Operation::UploadPart { upload_id, .. }
            | Operation::CompleteMultipartUpload { upload_id, .. }
            | Operation::AbortMultipartUpload { upload_id, .. }
            | Operation::ListParts { upload_id, .. } => Some(upload_id),
            _ => None,
        }
    }

    /// Whether S3 has no query parameter of this name, so that the gateway can have one.
    pub fn is_free_parameter(name: &str) -> bool {
        let unknown = |name: &str| {
            let query = Query::parse(&format!("{name}=1"), &[]);
            query.is_ok_and(|query| query.unknown.is_some())
        };
        let lower = name.to_ascii_lowercase();
        !SUBRESOURCES.contains(&lower.as_str()) && unknown(name) && unknown(&lower)
    }

    /// Parses a request. `key`: the raw rest of its path, empty for the bucket itself.
    ///
    /// Errors: 405 MethodNotAllowed (reads, listings, deletions), 501 NotImplemented (copies and
    /// every other subresource), 400 InvalidArgument, InvalidURI, KeyTooLongError.
    pub fn parse(head: &RequestHead, key: &str) -> Result<Operation, S3Error> {
        Operation::parse_besides(head, key, &[])
    }

    /// [`Operation::parse`], where the query may have parameters of these names besides: they are the
    /// gateway's own ([`Operation::is_free_parameter`]).
    pub fn parse_besides(
        head: &RequestHead,
        key: &str,
        besides: &[&str],
    ) -> Result<Operation, S3Error> {
        if !matches!(head.method(), "GET" | "HEAD" | "PUT" | "POST" | "DELETE") {
            return Err(not_allowed());
        }
        let query = Query::parse(head.query(), besides)?;
        if head.has("x-amz-copy-source") {
            return Err(not_implemented("x-amz-copy-source"));
        }
        if key.is_empty() {
            return of_bucket(head.method(), &query);
        }
        let key = ObjectKey::decode(key)?;
        let upload_id = || query.upload_id.clone().ok_or_else(|| invalid("uploadId is missing"));
        match (head.method(), query.subresource(head.method())?) {
            // They shape the answer of ListParts: elsewhere the client means something else.
            ("PUT" | "POST" | "DELETE", _) if query.shapes_a_list() => {
                Err(not_implemented("max-parts or part-number-marker"))
            }
            ("PUT", Subresource::None) => Ok(Operation::PutObject { key }),
            ("PUT", Subresource::Part(part_number)) => {
                Ok(Operation::UploadPart { key, part_number, upload_id: upload_id()? })
            }
            ("PUT", Subresource::Upload) => {
                Err(invalid("This operation does not accept an uploadId without a partNumber."))
            }
            ("POST", Subresource::Uploads) => Ok(Operation::CreateMultipartUpload { key }),
            ("POST", Subresource::Upload) => {
                Ok(Operation::CompleteMultipartUpload { key, upload_id: upload_id()? })
            }
            ("DELETE", Subresource::Upload) => {
                Ok(Operation::AbortMultipartUpload { key, upload_id: upload_id()? })
            }
            ("GET", Subresource::Upload) => Ok(Operation::ListParts {
                key,
                upload_id: upload_id()?,
                max_parts: query.max_parts,
                part_number_marker: query.part_number_marker,
            }),
            _ => Err(not_allowed()),
        }
    }
}

/// Parameters by which a request to S3 means something else than the same without them
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html>).
/// The parser needs no such list: it refuses what it does not know.
const SUBRESOURCES: [&str; 42] = [
    "accelerate",
    "acl",
    "analytics",
    "annotation",
    "append",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "id",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "logging",
    "metadataconfiguration",
    "metadatatable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipcontrols",
    "policy",
    "policystatus",
    "publicaccessblock",
    "renameobject",
    "replication",
    "requestpayment",
    "restore",
    "retention",
    "select",
    "select-type",
    "session",
    "signature",
    "storagelens",
    "tagging",
    "torrent",
    "updateencryption",
    "versionid",
    "versioning",
    "versions",
    "website",
    "x-id",
];

fn of_bucket(method: &str, query: &Query) -> Result<Operation, S3Error> {
    if let Some(name) = &query.unknown {
        return Err(not_implemented(name));
    }
    if query.batch {
        let only = query.reading.is_none()
            && query.listing.as_deref().is_none_or(|name| name == "prefix")
            && query.list
                == ListQuery { prefix: query.list.prefix.clone(), ..ListQuery::default() }
            && !(query.uploads || query.location || query.shapes_a_list())
            && query.upload_id.is_none()
            && query.part_number.is_none();
        return match (method, only) {
            ("POST", true) => Ok(Operation::Batch { prefix: query.list.prefix.clone() }),
            ("POST", false) => Err(invalid("Of parameters only prefix goes with batch.")),
            _ => Err(not_allowed()),
        };
    }
    let lists = query.reading.is_some() || query.listing.is_some();
    if query.uploads && method == "GET" && query.reading.is_none() && !query.location {
        return Ok(Operation::ListMultipartUploads(query.list.clone()));
    }
    let plain = !lists
        && !query.uploads
        && query.upload_id.is_none()
        && query.part_number.is_none()
        && !query.shapes_a_list();
    match (method, query.location) {
        ("HEAD", false) if plain => Ok(Operation::HeadBucket),
        ("GET", true) if plain => Ok(Operation::GetBucketLocation),
        _ => Err(not_allowed()),
    }
}

/// Parameters that only qualify a read, a listing of objects or a deletion: refused like it, as a
/// method. On a write they are as unknown as any other.
const READING: [&str; 13] = [
    "continuation-token",
    "fetch-owner",
    "list-type",
    "marker",
    "max-keys",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "start-after",
    "versionId",
];

enum Subresource {
    None,
    Uploads,
    Upload,
    Part(PartNumber),
}

/// The query's parameters, each known or the first that is not.
#[derive(Default)]
struct Query {
    uploads: bool,
    batch: bool,
    location: bool,
    upload_id: Option<String>,
    part_number: Option<String>,
    max_parts: Option<u32>,
    part_number_marker: Option<u32>,
    /// What shapes ListMultipartUploads, and the name of the first such parameter.
    list: ListQuery,
    listing: Option<String>,
    /// The first of [`READING`].
    reading: Option<String>,
    unknown: Option<String>,
}

impl Query {
    fn parse(raw: &str, besides: &[&str]) -> Result<Query, S3Error> {
        let mut query = Query::default();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (names::decode(name)?, names::decode(value)?);
            let number = || {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let number = value.parse().ok().filter(|_| digits);
                number.ok_or_else(|| invalid("A number in the query does not parse."))
            };
            match name.as_str() {
                "uploads" => query.uploads = true,
                // S3 has no such parameter; on an object it is as unknown as any other.
                "batch" if value.is_empty() => query.batch = true,
                "location" => query.location = true,
                "uploadId" => once(&mut query.upload_id, value)?,
                "partNumber" => once(&mut query.part_number, value)?,
                "max-parts" => once(&mut query.max_parts, number()?)?,
                "part-number-marker" => once(&mut query.part_number_marker, number()?)?,
                "prefix" | "delimiter" | "key-marker" | "upload-id-marker" | "max-uploads"
                | "encoding-type" => {
                    query.list_parameter(&name, value)?;
                    query.listing = query.listing.or(Some(name));
                }
                // SDKs name the operation; it is decided by everything else.
                "x-id" => {}
                _ if is_presigning(&name) => {}
                _ if READING.contains(&name.as_str()) => {
                    query.reading = query.reading.or(Some(name));
                }
                _ if besides.contains(&name.as_str()) => {}
                _ => query.unknown = query.unknown.or(Some(name)),
            }
        }
        Ok(query)
    }

    fn list_parameter(&mut self, name: &str, value: String) -> Result<(), S3Error> {
        let list = &mut self.list;
        match name {
            "prefix" => list.prefix = value,
            "delimiter" => list.delimiter = value,
            "key-marker" => list.key_marker = value,
            "upload-id-marker" => list.upload_id_marker = value,
            "max-uploads" => {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let most = value.parse().ok().filter(|_| digits);
                let most = most.ok_or_else(|| invalid("max-uploads is not a number."))?;
                list.max_uploads = Some(most);
            }
            _ if value == "url" => list.encode = true,
            _ => return Err(invalid("encoding-type must be url.")),
        }
        Ok(())
    }

    fn shapes_a_list(&self) -> bool {
        self.max_parts.is_some() || self.part_number_marker.is_some()
    }

    fn subresource(&self, method: &str) -> Result<Subresource, S3Error> {
        if let Some(name) = &self.unknown {
            return Err(not_implemented(name));
        }
        if self.batch {
            return Err(not_implemented("batch"));
        }
        if self.location {
            return Err(not_implemented("location"));
        }
        let writes = matches!(method, "PUT" | "POST");
        if let Some(name) = self.reading.as_ref().or(self.listing.as_ref()) {
            return Err(if writes { not_implemented(name) } else { not_allowed() });
        }
        match (self.uploads, &self.upload_id, &self.part_number) {
            (false, None, None) => Ok(Subresource::None),
            (true, None, None) => Ok(Subresource::Uploads),
            (false, Some(_), None) => Ok(Subresource::Upload),
            (false, Some(_), Some(number)) => PartNumber::parse(number).map(Subresource::Part),
            // GetObject and HeadObject of one part.
            (false, None, Some(_)) if !writes => Err(not_allowed()),
            (false, None, Some(_)) => Err(invalid("partNumber needs an uploadId.")),
            (true, _, _) => Err(invalid("uploads does not go with uploadId or partNumber.")),
        }
    }
}

/// The parameters of a presigned URL, which the verifier reads, and the headers that presigners move
/// into the query. These `headers::plan` refuses or ignores, after the signature: a parameter that
/// stands in for a signed header is a wrong signature first. A copy is refused here, as its header is.
fn is_presigning(name: &str) -> bool {
    const OLD: [&str; 3] = ["AWSAccessKeyId", "Expires", "Signature"];
    let lower = name.to_ascii_lowercase();
    OLD.contains(&name) || (lower.starts_with("x-amz-") && !lower.starts_with("x-amz-copy-source"))
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), S3Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid("A query parameter is given twice.")),
    }
}

fn invalid(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::InvalidArgument, message)
}

fn not_allowed() -> S3Error {
    let message = "The specified method is not allowed against this resource: this gateway takes uploads only.";
    S3Error::new(ErrorCode::MethodNotAllowed, message)
}

fn not_implemented(what: &str) -> S3Error {
    let what: String = what.chars().take(64).collect();
    let message = format!("'{what}' is not implemented by this upload gateway.");
    S3Error::new(ErrorCode::NotImplemented, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn parse(method: &str, key: &str, query: &str) -> Result<Operation, S3Error> {
        let text = format!("{method} /b/{key}?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
        Operation::parse(&RequestHead::parse(Bytes::from(text)).unwrap(), key)
    }

    fn name(method: &str, key: &str, query: &str) -> String {
        parse(method, key, query)
            .map_or_else(|error| error.code.into_owned(), |op| op.name().into())
    }

    #[test]
    fn operations_are_told_apart() {
        for (method, key, query, expected) in [
            ("PUT", "k", "", "PutObject"),
            ("PUT", "k", "x-id=PutObject", "PutObject"),
            ("PUT", "k", "X-Amz-Algorithm=A&X-Amz-Signature=s", "PutObject"),
            ("POST", "k", "uploads", "CreateMultipartUpload"),
            ("POST", "k", "uploads=", "CreateMultipartUpload"),
            ("PUT", "k", "partNumber=1&uploadId=u", "UploadPart"),
            ("POST", "k", "uploadId=u", "CompleteMultipartUpload"),
            ("DELETE", "k", "uploadId=u", "AbortMultipartUpload"),
            ("GET", "k", "uploadId=u&max-parts=5", "ListParts"),
            ("HEAD", "", "", "HeadBucket"),
            ("GET", "", "location", "GetBucketLocation"),
            ("GET", "", "uploads", "ListMultipartUploads"),
            ("GET", "", "uploads&prefix=a&max-uploads=5&encoding-type=url", "ListMultipartUploads"),
            ("POST", "", "batch", "Batch"),
            ("POST", "", "batch=&prefix=a%2Fb&X-Amz-Signature=s", "Batch"),
        ] {
            assert_eq!(name(method, key, query), expected, "{method} {key}?{query}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        for (method, key, query, code) in [
            ("GET", "k", "", "MethodNotAllowed"),
            ("HEAD", "k", "", "MethodNotAllowed"),
            ("DELETE", "k", "", "MethodNotAllowed"),
            ("POST", "k", "", "MethodNotAllowed"),
            ("PATCH", "k", "", "MethodNotAllowed"),
            ("OPTIONS", "k", "", "MethodNotAllowed"),
            ("GET", "", "", "MethodNotAllowed"),
            ("GET", "", "batch", "MethodNotAllowed"),
            ("PUT", "", "batch", "MethodNotAllowed"),
            ("POST", "", "batch=1", "NotImplemented"),
            ("POST", "", "batch&uploads", "InvalidArgument"),
            ("POST", "", "batch&delimiter=a", "InvalidArgument"),
            ("POST", "", "batch&prefix=a&marker=b", "InvalidArgument"),
            ("POST", "", "batch&tagging", "NotImplemented"),
            ("POST", "k", "batch", "NotImplemented"),
            ("PUT", "k", "batch", "NotImplemented"),
            ("GET", "k", "batch", "NotImplemented"),
            ("GET", "", "list-type=2&prefix=a", "MethodNotAllowed"),
            ("PUT", "", "", "MethodNotAllowed"),
            ("DELETE", "", "", "MethodNotAllowed"),
            ("POST", "", "delete", "NotImplemented"),
            ("PUT", "k", "partNumber=1", "InvalidArgument"),
            ("PUT", "k", "uploadId=u", "InvalidArgument"),
            ("PUT", "k", "partNumber=0&uploadId=u", "InvalidArgument"),
            ("PUT", "k", "uploadId=u&uploadId=v&partNumber=1", "InvalidArgument"),
            ("PUT", "k", "versionId=1", "NotImplemented"),
            ("PUT", "k", "max-parts=1", "NotImplemented"),
            ("PUT", "k", "X-Amz-Copy-Source=a", "NotImplemented"),
            ("PUT", "k", "x-amz-copy-source-range=a", "NotImplemented"),
            ("PUT", "k", "prefix=a", "NotImplemented"),
            ("PUT", "k", "uploads", "MethodNotAllowed"),
            ("PUT", "k", "partNumber=1&uploadId=u&part-number-marker=1", "NotImplemented"),
            ("GET", "k", "versionId=1", "MethodNotAllowed"),
            ("HEAD", "k", "partNumber=1", "MethodNotAllowed"),
            ("GET", "k", "response-content-type=a", "MethodNotAllowed"),
            ("GET", "k", "uploadId=u&max-parts=+1", "InvalidArgument"),
            ("GET", "k", "uploadId=u&max-parts=1&max-parts=2", "InvalidArgument"),
            ("DELETE", "k", "versionId=1", "MethodNotAllowed"),
            ("HEAD", "k", "uploadId=u", "MethodNotAllowed"),
            ("TRACE", "k", "acl", "MethodNotAllowed"),
            ("HEAD", "", "uploads", "MethodNotAllowed"),
            ("HEAD", "", "uploadId=u", "MethodNotAllowed"),
            ("GET", "", "location&uploads", "MethodNotAllowed"),
            ("GET", "", "location&policy", "NotImplemented"),
            ("GET", "", "versions", "NotImplemented"),
        ] {
            assert_eq!(name(method, key, query), code, "{method} {key}?{query}");
        }
    }

    /// S3 API Reference, "Actions": each names its object by one of these parameters.
    #[test]
    fn no_subresource_of_s3_is_taken_for_an_upload() {
        for name in [
            "accelerate",
            "acl",
            "analytics",
            "attributes",
            "cors",
            "delete",
            "encryption",
            "intelligent-tiering",
            "inventory",
            "legal-hold",
            "lifecycle",
            "location",
            "logging",
            "metadataConfiguration",
            "metadataTable",
            "metrics",
            "notification",
            "object-lock",
            "ownershipControls",
            "policy",
            "policyStatus",
            "publicAccessBlock",
            "renameObject",
            "replication",
            "requestPayment",
            "restore",
            "retention",
            "select",
            "session",
            "tagging",
            "torrent",
            "versioning",
            "versions",
            "website",
        ] {
            for method in ["PUT", "POST", "GET", "HEAD", "DELETE"] {
                for query in [name.to_owned(), format!("{name}&uploadId=u&partNumber=1")] {
                    let code = parse(method, "k", &query).unwrap_err().code;
                    assert_eq!(code, "NotImplemented", "{method} {query}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(
            method in "GET|HEAD|PUT|POST|DELETE|PATCH|[A-Z]{1,8}",
            key in "[%a-f0-9/+.]{0,12}",
            query in "(uploads|uploadId|partNumber|max-parts|location|acl|[%=&+a-z0-9]){0,12}",
        ) {
            let _ = parse(&method, &key, &query);
        }

        /// A subresource is never taken for a PutObject, whatever its name.
        #[test]
        fn an_unknown_parameter_is_never_a_put(parameter in "[a-z][a-zA-Z-]{0,20}") {
            let known = ["uploads", "location", "uploadId", "partNumber", "max-parts",
                "part-number-marker", "x-id"];
            prop_assume!(!known.contains(&parameter.as_str()) && !is_presigning(&parameter));
            prop_assert_eq!(name("PUT", "k", &parameter), "NotImplemented");
        }
    }
}
