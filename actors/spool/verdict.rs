//! What becomes of a delivery, by what its backend answered. Pure.
//!
//! The spool has the only copy: it is given up only for an answer that only the backend itself gives, and
//! set aside only for a refusal that no time, no renewed key and no mended network takes back. All else is
//! tried again.

use crate::s3::error::{Fault, S3Error};
use crate::s3::etag::is_digest;
use crate::s3::xml;
use crate::upload::job::BackendAnswer;
use std::borrow::Cow;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The backend has it.
    Delivered,
    /// The backend has it, and calls it by another ETag than was acknowledged: it encrypts by default.
    DeliveredAs(String),
    /// The backend is not there, or not itself: trying again may help.
    Later(String),
    /// Something failed here: trying again may help.
    Local(String),
    /// The body may be damaged here: it must be looked at. If it is sound, trying again may help.
    LookAgain(String),
    /// Only a person can help.
    Never(String),
}

/// Codes of S3 that are about the request itself or about what its bucket allows (Amazon S3 API
/// Reference, "Error responses"). What is about keys is not among them: keys are renewed, and settings
/// mended.
const PERMANENT: [&str; 26] = [
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "EntityTooLarge",
    "EntityTooSmall",
    "InvalidArgument",
    "InvalidBucketName",
    "InvalidBucketState",
    "InvalidDigest",
    "InvalidEncryptionAlgorithmError",
    "InvalidLocationConstraint",
    "InvalidObjectState",
    "InvalidRequest",
    "InvalidStorageClass",
    "InvalidTag",
    "InvalidURI",
    "KeyTooLongError",
    "MalformedACLError",
    "MetadataTooLarge",
    "MethodNotAllowed",
    "MissingSecurityHeader",
    "NoSuchBucket",
    "NotImplemented",
    "ObjectLockConfigurationNotFoundError",
    "PreconditionFailed",
    "UnresolvableGrantByEmailAddress",
];

/// Codes that say that the bytes are not those of their digests.
const ABOUT_BYTES: [&str; 2] = ["BadDigest", "XAmzContentSHA256Mismatch"];

/// Of a PutObject or UploadPart that was answered 2xx. `acknowledged`: the ETag, without quotes.
pub fn of_answer(answer: &BackendAnswer, acknowledged: &str) -> Verdict {
    of_etag(etag_of(answer), acknowledged)
}

/// The ETag of what was sent, as the backend has it.
pub fn etag_of(answer: &BackendAnswer) -> Option<Cow<'_, str>> {
    let header = answer.headers.iter().find(|(name, _)| name == "etag");
    header.map(|(_, value)| String::from_utf8_lossy(value))
}

/// Of a CompleteMultipartUpload that was answered 2xx.
pub fn of_completed(answer: &BackendAnswer, acknowledged: &str) -> Verdict {
    let fields = xml::parse_completed(&answer.body).unwrap_or_default();
    let etag = fields.into_iter().find(|(name, _)| name == "etag").map(|(_, value)| value);
    of_etag(etag.map(Cow::Owned), acknowledged)
}

fn of_etag(etag: Option<Cow<'_, str>>, acknowledged: &str) -> Verdict {
    match etag {
        None => Verdict::Later("the answer has no ETag: it is no backend's".to_owned()),
        Some(etag) if is_digest(&etag, acknowledged) => Verdict::Delivered,
        Some(etag) => Verdict::DeliveredAs(etag.into_owned()),
    }
}

/// Whether an error says that a multipart upload, or a part of it, is not what its sender takes it for:
/// beginning anew may help where trying again does not.
pub fn lost_its_upload(error: &S3Error) -> bool {
    ["NoSuchUpload", "InvalidPart", "InvalidPartOrder"].contains(&&*error.code)
}

/// Of one that was not.
pub fn of_error(error: &S3Error) -> Verdict {
    let text = match &error.cause {
        Some(cause) => format!("{error} ({})", cause.text()),
        None => error.to_string(),
    };
    let code = &*error.code;
    if ABOUT_BYTES.contains(&code) || error.fault == Fault::Gateway {
        Verdict::LookAgain(text)
    } else if error.fault != Fault::Backend && PERMANENT.contains(&code) || error.status == 501 {
        Verdict::Never(format!("the backend refuses it: {text}"))
    } else {
        Verdict::Later(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::error::{Cause, ErrorCode};
    use bytes::Bytes;

    fn of(status: u16, code: &str) -> Verdict {
        of_error(&S3Error::from_backend(status, code.to_owned(), String::new()))
    }

    #[test]
    fn only_refusals_that_stay_are_set_aside() {
        for (status, code) in
            [(403, "AccessDenied"), (404, "NoSuchBucket"), (501, "NotImplemented")]
        {
            assert!(matches!(of(status, code), Verdict::Never(_)), "{code}");
        }
        for (status, code) in [
            (503, "SlowDown"),
            (500, "InternalError"),
            (429, "TooManyRequests"),
            (409, "OperationAborted"),
            (400, "RequestTimeout"),
            (400, "IncompleteBody"),
            (400, "ExpiredToken"),
            (403, "InvalidAccessKeyId"),
            (403, "SignatureDoesNotMatch"),
            (403, "RequestTimeTooSkewed"),
            (407, "ProxyAuthenticationRequired"),
        ] {
            assert!(matches!(of(status, code), Verdict::Later(_)), "{code}");
        }
        // The page of something that stands in between.
        let page = S3Error::from_backend(403, "AccessDenied".to_owned(), String::new());
        let page = page.blamed_on(Fault::Backend);
        assert!(matches!(of_error(&page), Verdict::Later(_)));
        let busy = S3Error::new(ErrorCode::SlowDown, "no endpoint").blamed_on(Fault::Backend);
        let unreached = busy.because(Some(Cause::passing("connection refused")));
        let Verdict::Later(told) = of_error(&unreached) else { panic!("{unreached:?}") };
        assert!(told.ends_with("(connection refused)"), "{told}");
    }

    #[test]
    fn what_may_be_damaged_here_is_looked_at() {
        assert!(matches!(of(400, "BadDigest"), Verdict::LookAgain(_)));
        let own = S3Error::new(ErrorCode::InternalError, "a stored body is too short");
        assert!(matches!(of_error(&own), Verdict::LookAgain(_)));
    }

    #[test]
    fn a_completed_upload_is_held_against_its_acknowledged_etag() {
        let answer = |fields: &str| BackendAnswer {
            body: format!(
                "<CompleteMultipartUploadResult>{fields}</CompleteMultipartUploadResult>"
            )
            .into(),
            ..BackendAnswer::default()
        };
        let of = |fields: &str| of_completed(&answer(fields), "abc-2");
        assert_eq!(of("<ETag>&quot;abc-2&quot;</ETag>"), Verdict::Delivered);
        assert_eq!(of("<ETag>\"ABC-2\"</ETag>"), Verdict::Delivered);
        assert_eq!(of("<ETag>\"x-2\"</ETag>"), Verdict::DeliveredAs("\"x-2\"".to_owned()));
        assert!(matches!(of("<Key>k</Key>"), Verdict::Later(_)));
    }

    #[test]
    fn an_answer_without_an_etag_is_nobody_s() {
        let answer = |headers: &[(&str, &'static str)]| BackendAnswer {
            status: 200,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Bytes::from_static(value.as_bytes())))
                .collect(),
            body: Bytes::new(),
        };
        let md5 = "9bb58f26192e4ba00f01e2e7b136bbd8";
        let page = answer(&[("content-type", "text/html")]);
        assert!(matches!(of_answer(&page, md5), Verdict::Later(_)));
        let own = answer(&[("etag", "\"9bb58f26192e4ba00f01e2e7b136bbd8\"")]);
        assert_eq!(of_answer(&own, md5), Verdict::Delivered);
        let upper = answer(&[("etag", "\"9BB58F26192E4BA00F01E2E7B136BBD8\"")]);
        assert_eq!(of_answer(&upper, md5), Verdict::Delivered, "as Alibaba Cloud OSS has it");
        let other = answer(&[("etag", "\"kms\"")]);
        assert_eq!(of_answer(&other, md5), Verdict::DeliveredAs("\"kms\"".to_owned()));
    }
}
