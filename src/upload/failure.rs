//! What an error means for the file it befell, and for those to come. Pure.

use mizuchi_actors::s3::error::{Fault, S3Error};

/// Why something is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// This file cannot be sent.
    File(String),
    /// As the backend says.
    Refused(S3Error),
    /// No file can: the run ends.
    Run(String),
    /// It was interrupted.
    Stopped,
}

/// What to do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgment {
    /// Try again, after a pause.
    Again,
    /// Give the file up.
    File,
    /// Give everything up.
    Run,
}

/// Codes about whoever signs and where it goes: the next file fares no better (Amazon S3 API Reference,
/// "Error responses").
const ABOUT_ALL: [&str; 17] = [
    "AccountProblem",
    "AllAccessDisabled",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "IllegalLocationConstraintException",
    "InvalidAccessKeyId",
    "InvalidBucketName",
    "InvalidSecurity",
    "InvalidToken",
    "MethodNotAllowed",
    "NoSuchBucket",
    "NotSignedUp",
    "PermanentRedirect",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TemporaryRedirect",
    "TokenRefreshRequired",
];

/// Those of them that renewed keys mend.
const ABOUT_TOKENS: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];

/// Codes of 4xx that another try mends: what was damaged on its way among them.
const MENDED_BY_TIME: [&str; 8] = [
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
];

/// Judges an answer. `may_write`: the backend has taken something of this upload. `renewed`: the keys are ones
/// that expire, and are fetched anew.
pub(super) fn judge(error: &S3Error, may_write: bool, renewed: bool) -> Judgment {
    let code = &*error.code;
    if error.cause.as_ref().is_some_and(|cause| cause.is_lasting()) {
        return Judgment::Run;
    }
    if renewed && ABOUT_TOKENS.contains(&code) {
        return Judgment::Again;
    }
    if ABOUT_ALL.contains(&code) {
        return Judgment::Run;
    }
    // A policy may be about single keys.
    if error.status == 403 {
        return if may_write { Judgment::File } else { Judgment::Run };
    }
    // The backend has no such operation, or no such header.
    if error.status == 501 {
        return Judgment::File;
    }
    let of_time = MENDED_BY_TIME.contains(&code) || error.status == 429;
    if error.retryable || of_time || error.fault != Fault::Client {
        Judgment::Again
    } else {
        Judgment::File
    }
}

/// An error in words. Of one that no backend has answered the engine's status and code say nothing: what is
/// behind it does.
pub(super) fn in_words(error: &S3Error) -> String {
    match &error.cause {
        Some(cause) => {
            let what = error.message.split(". ").next().unwrap_or_default();
            format!("{}: {}", what.trim_end_matches('.'), own_words(cause.text()))
        }
        None => error.to_string(),
    }
}

/// What the engine says to whoever has a gateway's settings, for whoever has a command line.
pub(super) fn own_words(text: &str) -> String {
    text.replace(", or set s3.tls.server_name", "")
        .replace("s3.tls.ca_file", "--ca-file")
        .replace("s3.endpoint", "--endpoint")
}

/// The code that the backend has answered.
pub(super) fn code(error: &S3Error) -> Option<String> {
    error.cause.is_none().then(|| error.code.to_string())
}

/// What helps, for whoever reads of an error that ends the run.
pub(super) fn advice(error: &S3Error) -> &'static str {
    if error.cause.is_some() {
        return "check --endpoint, and --ca-file for a certificate of an authority of your own";
    }
    match &*error.code {
        "NoSuchBucket" => "check the bucket's name, --region and --endpoint",
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => "check --region and --endpoint",
        "RequestTimeTooSkewed" => "set this machine's clock",
        "ExpiredToken" | "TokenRefreshRequired" => "renew the credentials",
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" => {
            "check the credentials, and --endpoint"
        }
        "MethodNotAllowed" => "check --endpoint: it takes no uploads",
        "AccessDenied" => {
            "check that these credentials may write there, and leave out what they may not"
        }
        _ => "check that these credentials may write there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mizuchi_actors::s3::error::{Cause, ErrorCode};

    fn of(status: u16, code: &str, may_write: bool) -> Judgment {
        let error = S3Error::from_backend(status, code.to_owned(), String::new());
        judge(&error, may_write, false)
    }

    /// "permanent errors (403, 404 NoSuchBucket) on the first file end the run early with what to do"
    #[test]
    fn what_no_file_survives_ends_the_run() {
        assert_eq!(of(404, "NoSuchBucket", true), Judgment::Run);
        assert_eq!(of(403, "InvalidAccessKeyId", true), Judgment::Run);
        assert_eq!(of(403, "AccessDenied", false), Judgment::Run);
        assert_eq!(of(403, "AccessDenied", true), Judgment::File);
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        for (status, code) in [
            (400, "BadDigest"),
            (503, "SlowDown"),
            (500, "InternalError"),
            (400, "RequestTimeout"),
            (429, "X"),
        ] {
            assert_eq!(of(status, code, false), Judgment::Again, "{code}");
        }
        for (status, code) in [(400, "EntityTooLarge"), (501, "NotImplemented")] {
            assert_eq!(of(status, code, false), Judgment::File, "{code}");
        }
        let expired = S3Error::from_backend(400, "ExpiredToken".to_owned(), String::new());
        assert_eq!(judge(&expired, true, true), Judgment::Again);
        assert_eq!(judge(&expired, true, false), Judgment::Run);
        let unreached = S3Error::new(ErrorCode::SlowDown, "").blamed_on(Fault::Backend);
        assert_eq!(judge(&unreached, false, false), Judgment::Again);
        let refused = unreached.clone().because(Some(Cause::passing("connection refused")));
        assert_eq!(judge(&refused, false, false), Judgment::Again);
        assert!(in_words(&refused).contains("connection refused"));
        assert!(!in_words(&refused).contains("503") && code(&refused).is_none());
        let untrusted = unreached.because(Some(Cause::lasting("a certificate")));
        assert_eq!(judge(&untrusted, true, false), Judgment::Run);
        assert!(advice(&untrusted).contains("--ca-file"));
    }
}
