//! Presigned URLs: the same claim, in the query.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>

use super::canonical::{unhex, uri_decode};
use super::verifier::{Claim, invalid_argument, split_credential, wrong_scope};
use super::{ALGORITHM, date};
use crate::http::RequestHead;
use crate::s3::error::{ErrorCode, S3Error};
use std::borrow::Cow;
use std::time::Duration;
use time::OffsetDateTime;

/// Seconds of the longest validity: seven days.
pub(super) const MAX_EXPIRES: u64 = 604_800;

/// Whether the query holds credentials.
///
/// Errors: 400 InvalidRequest for those of SigV2.
pub(super) fn is_presigned(head: &RequestHead) -> Result<bool, S3Error> {
    if head.query().is_empty() {
        return Ok(false);
    }
    let has = |name: &str| pairs(head).any(|(have, _)| have == name);
    if has("AWSAccessKeyId") {
        return Err(unsupported());
    }
    Ok(["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"].into_iter().any(has))
}

/// Whether a request claims credentials of its own in any place or version of the signature, however
/// malformed: it is then held to them, whatever else is known of its client.
pub fn claims_credentials(head: &RequestHead) -> bool {
    const IN_QUERY: [&str; 4] =
        ["x-amz-algorithm", "x-amz-credential", "x-amz-signature", "awsaccesskeyid"];
    head.has("authorization")
        || head.has("x-amz-security-token")
        || pairs(head).any(|(have, _)| {
            // A name may be encoded, which the verifier takes for another one.
            let name = uri_decode(have).and_then(|bytes| String::from_utf8(bytes).ok());
            name.is_none_or(|name| IN_QUERY.iter().any(|known| name.eq_ignore_ascii_case(known)))
        })
}

fn pairs(head: &RequestHead) -> impl Iterator<Item = (&str, &str)> {
    head.query().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The parameters of a presigned URL, decoded.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    algorithm: Option<String>,
    credential: Option<String>,
    date: Option<String>,
    expires: Option<String>,
    signed_headers: Option<String>,
    signature: Option<String>,
    security_token: Option<String>,
    pub(super) content_sha256: Option<String>,
}

impl Parameters {
    /// Errors: 400 InvalidArgument (one twice), AuthorizationQueryParametersError (undecodable).
    pub(super) fn parse(head: &RequestHead) -> Result<Self, S3Error> {
        let mut found = Parameters::default();
        for (name, value) in pairs(head) {
            let slot = match name {
                "X-Amz-Algorithm" => &mut found.algorithm,
                "X-Amz-Credential" => &mut found.credential,
                "X-Amz-Date" => &mut found.date,
                "X-Amz-Expires" => &mut found.expires,
                "X-Amz-SignedHeaders" => &mut found.signed_headers,
                "X-Amz-Signature" => &mut found.signature,
                "X-Amz-Security-Token" => &mut found.security_token,
                "X-Amz-Content-Sha256" => &mut found.content_sha256,
                _ => continue,
            };
            let value = uri_decode(value)
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| wrong("A parameter of the query does not decode."))?;
            if slot.replace(value).is_some() {
                return Err(invalid_argument("A parameter of the authentication is given twice."));
            }
        }
        Ok(found)
    }

    /// What the parameters claim, if it holds at `now`.
    pub(super) fn claim(
        self,
        region: &str,
        max_skew: Duration,
        now: OffsetDateTime,
    ) -> Result<Claim<'static>, S3Error> {
        let missing = || {
            wrong(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, \
                 X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters.",
            )
        };
        if self.algorithm.as_deref().ok_or_else(missing)? != ALGORITHM {
            return Err(unsupported());
        }
        let credential = self.credential.ok_or_else(missing)?;
        let (access_key, scope) = split_credential(&credential)
            .ok_or_else(|| wrong("Error parsing the X-Amz-Credential parameter."))?;
        let signature = unhex(&self.signature.ok_or_else(missing)?)
            .ok_or_else(|| wrong("X-Amz-Signature must be 64 hexadecimal digits."))?;
        let timestamp = self.date.ok_or_else(missing)?;
        let signed_at = date::parse(&timestamp).ok_or_else(|| {
            wrong("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
        })?;
        let expires = self.expires.ok_or_else(missing)?;
        let expires: u64 = expires
            .parse()
            .ok()
            .filter(|_| expires.bytes().all(|byte| byte.is_ascii_digit()))
            .filter(|seconds| (1..=MAX_EXPIRES).contains(seconds))
            .ok_or_else(|| wrong("X-Amz-Expires must be between 1 and 604800 seconds"))?;
        let signed_headers = self.signed_headers.ok_or_else(missing)?;
        if let Some(problem) = wrong_scope(scope, &timestamp, region) {
            return Err(S3Error::new(ErrorCode::AuthorizationQueryParametersError, problem));
        }
        if signed_at > now + max_skew {
            return Err(S3Error::new(ErrorCode::AccessDenied, "Request is not valid yet"));
        }
        if now > signed_at + Duration::from_secs(expires) {
            return Err(S3Error::new(ErrorCode::AccessDenied, "Request has expired"));
        }
        Ok(Claim {
            access_key: Cow::Owned(access_key.to_owned()),
            scope: Cow::Owned(scope.to_owned()),
            signed_headers: Cow::Owned(signed_headers),
            signature,
            session_token: self.security_token.map(Cow::Owned),
            timestamp: Cow::Owned(timestamp),
        })
    }
}

fn wrong(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::AuthorizationQueryParametersError, message)
}

fn unsupported() -> S3Error {
    let message = "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.";
    S3Error::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn any_claim_is_a_claim() {
        let claims = |target: &str, line: &str| {
            let text = format!("PUT {target} HTTP/1.1\r\nhost: h\r\n{line}\r\n");
            claims_credentials(&RequestHead::parse(text.into()).unwrap())
        };
        assert!(!claims("/b/k", ""));
        assert!(!claims("/b/k?partNumber=1&uploadId=x&X-Amz-Date=1", "x-amz-date: 1\r\n"));
        assert!(claims("/b/k", "authorization: \r\n"));
        assert!(claims("/b/k", "x-amz-security-token: x\r\n"));
        for query in
            ["X-Amz-Signature", "x-amz-algorithm=", "X%2DAmz-Credential=a", "AWSAccessKeyId=a"]
        {
            assert!(claims(&format!("/b/k?a=b&{query}"), ""), "{query}");
        }
    }
}
