//! The signature over a POST form's policy: the third place of SigV4 credentials.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-authentication-HTTPPOST.html>: the string
//! to sign is the policy's base64 text itself. Its age is bounded by the policy's own expiration,
//! not by the clock's skew.

use super::ALGORITHM;
use super::canonical::unhex;
use super::chunks::same;
use super::date;
use super::key::hmac;
use super::payload::{CredentialPlace, PayloadMode};
use super::verifier::{Verified, Verifier, invalid_argument, split_credential, wrong_scope};
use crate::s3::error::{ErrorCode, S3Error};
use time::OffsetDateTime;

/// What a form claims, in its fields. One that is None was not in the form.
#[derive(Clone, Default)]
pub struct PolicySignature {
    /// `policy`: base64, as it came.
    pub policy: Option<String>,
    /// `x-amz-algorithm`.
    pub algorithm: Option<String>,
    /// `x-amz-credential`: access key and scope.
    pub credential: Option<String>,
    /// `x-amz-date`, in the basic form.
    pub date: Option<String>,
    /// `x-amz-signature`: 64 hexadecimal digits.
    pub signature: Option<String>,
    /// `x-amz-security-token`.
    pub security_token: Option<String>,
}

impl std::fmt::Debug for PolicySignature {
    /// Signature and token are credentials, and so is the policy with them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PolicySignature(…)")
    }
}

impl PolicySignature {
    /// Whether nothing of a signature is there: the policy alone is none.
    fn is_absent(&self) -> bool {
        self.algorithm.is_none()
            && self.credential.is_none()
            && self.date.is_none()
            && self.signature.is_none()
            && self.security_token.is_none()
    }
}

impl Verifier {
    /// Verifies the signature over a form's policy. What the policy allows is not looked at here.
    ///
    /// Errors, all the client's: 403 AccessDenied (a form without a signature), InvalidAccessKeyId,
    /// SignatureDoesNotMatch; 400 ExpiredToken, InvalidArgument, InvalidRequest, InvalidToken.
    pub fn verify_policy(
        &self,
        signed: &PolicySignature,
        now: OffsetDateTime,
    ) -> Result<Verified, S3Error> {
        let place = CredentialPlace::PostPolicy;
        let payload = PayloadMode::Absent;
        payload.allowed_with(place)?;
        if signed.is_absent() {
            return Err(S3Error::new(ErrorCode::AccessDenied, "Access Denied"));
        }
        let policy = needed(&signed.policy, "policy")?;
        if needed(&signed.algorithm, "X-Amz-Algorithm")? != ALGORITHM {
            let message = "The authorization mechanism you have provided is not supported. Please \
                           use AWS4-HMAC-SHA256.";
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
        let (access_key, scope) = split_credential(needed(&signed.credential, "X-Amz-Credential")?)
            .ok_or_else(|| invalid_argument("Error parsing the X-Amz-Credential field."))?;
        let signature = unhex(needed(&signed.signature, "X-Amz-Signature")?)
            .ok_or_else(|| invalid_argument("X-Amz-Signature must be 64 hexadecimal digits."))?;
        let timestamp = needed(&signed.date, "X-Amz-Date")?;
        if date::parse(timestamp).is_none() {
            let message = "X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"";
            return Err(invalid_argument(message));
        }
        if let Some(problem) = wrong_scope(scope, timestamp, &self.region) {
            return Err(S3Error::new(ErrorCode::InvalidArgument, problem));
        }
        let signatory = self.signatory(access_key, signed.security_token.as_deref(), now)?;
        let key = signatory.key().of(timestamp.get(..8).unwrap_or_default());
        let result = same(&hmac(&key[..], &[policy.as_bytes()]), &signature);
        if !signatory.is_stranger() {
            result?;
        }
        let (access_key, identity) = signatory.identity(place.means())?;
        Ok(Verified { identity, access_key, payload, chunks: None })
    }
}

fn needed<'a>(field: &'a Option<String>, name: &str) -> Result<&'a str, S3Error> {
    field.as_deref().ok_or_else(|| {
        let message = format!(
            "Bucket POST must contain a field named '{name}'. If it is specified, please check the \
             order of the fields."
        );
        S3Error::new(ErrorCode::InvalidArgument, message)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::identity::Means;
    use crate::secret::Secret;
    use crate::sigv4::{Credential, Credentials};
    use std::sync::Arc;
    use std::time::Duration;

    const NOW: OffsetDateTime = time::macros::datetime!(2015-12-29 12:00 UTC);

    /// S3 API Reference, "Example: Browser-Based Upload using HTTP POST": the policy as it is there,
    /// line ends included, and the signature that it has to have.
    const POLICY: &str = "eyAiZXhwaXJhdGlvbiI6ICIyMDE1LTEyLTMwVDEyOjAwOjAwLjAwMFoiLA0KICAiY29uZGl0aW9ucyI6IFsNCiAgICB7ImJ1Y2tldCI6ICJzaWd2NGV4YW1wbGVidWNrZXQifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRrZXkiLCAidXNlci91c2VyMS8iXSwNCiAgICB7ImFjbCI6ICJwdWJsaWMtcmVhZCJ9LA0KICAgIHsic3VjY2Vzc19hY3Rpb25fcmVkaXJlY3QiOiAiaHR0cDovL3NpZ3Y0ZXhhbXBsZWJ1Y2tldC5zMy5hbWF6b25hd3MuY29tL3N1Y2Nlc3NmdWxfdXBsb2FkLmh0bWwifSwNCiAgICBbInN0YXJ0cy13aXRoIiwgIiRDb250ZW50LVR5cGUiLCAiaW1hZ2UvIl0sDQogICAgeyJ4LWFtei1tZXRhLXV1aWQiOiAiMTQzNjUxMjM2NTEyNzQifSwNCiAgICB7IngtYW16LXNlcnZlci1zaWRlLWVuY3J5cHRpb24iOiAiQUVTMjU2In0sDQogICAgWyJzdGFydHMtd2l0aCIsICIkeC1hbXotbWV0YS10YWciLCAiIl0sDQoNCiAgICB7IngtYW16LWNyZWRlbnRpYWwiOiAiQUtJQUlPU0ZPRE5ON0VYQU1QTEUvMjAxNTEyMjkvdXMtZWFzdC0xL3MzL2F3czRfcmVxdWVzdCJ9LA0KICAgIHsieC1hbXotYWxnb3JpdGhtIjogIkFXUzQtSE1BQy1TSEEyNTYifSwNCiAgICB7IngtYW16LWRhdGUiOiAiMjAxNTEyMjlUMDAwMDAwWiIgfQ0KICBdDQp9";
    const SIGNATURE: &str = "8afdbf4008c03f22c2cd3cdb72e4afbb1f6a588f3255ac628749a66d7f09699e";
    const CREDENTIAL: &str = "AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws4_request";

    fn verifier() -> Verifier {
        let known = Credential {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into()),
            session_token: None,
            principal: "someone".into(),
            grants: Arc::default(),
        };
        Verifier::new("us-east-1".into(), Duration::from_secs(900), Credentials::new([known]))
    }

    fn example() -> PolicySignature {
        PolicySignature {
            policy: Some(POLICY.into()),
            algorithm: Some(ALGORITHM.into()),
            credential: Some(CREDENTIAL.into()),
            date: Some("20151229T000000Z".into()),
            signature: Some(SIGNATURE.into()),
            security_token: None,
        }
    }

    /// "You can use this data as test suite to verify your signature calculation code."
    #[test]
    fn the_example_of_the_documentation_verifies() {
        let verified = verifier().verify_policy(&example(), NOW).unwrap();
        assert_eq!(verified.identity.principal.as_ref(), "someone");
        assert_eq!(verified.identity.means, Means::PostPolicy);
        assert_eq!(verified.payload, PayloadMode::Absent);
        assert!(!format!("{:?}", example()).contains(SIGNATURE));
    }

    #[test]
    fn everything_else_is_refused() {
        let change = |change: fn(&mut PolicySignature)| {
            let mut signed = example();
            change(&mut signed);
            verifier().verify_policy(&signed, NOW).unwrap_err().code.into_owned()
        };
        let text = |text: &str| Some(text.to_owned());
        let of = |name: fn(&mut PolicySignature) -> &mut Option<String>, value: &str| {
            let mut signed = example();
            *name(&mut signed) = text(value);
            verifier().verify_policy(&signed, NOW).unwrap_err().code.into_owned()
        };
        assert_eq!(change(|signed| *signed = PolicySignature::default()), "AccessDenied");
        let only = |signed: &mut PolicySignature| {
            *signed = PolicySignature { policy: Some(POLICY.into()), ..Default::default() };
        };
        assert_eq!(change(only), "AccessDenied");
        assert_eq!(change(|signed| signed.policy = None), "InvalidArgument");
        assert_eq!(change(|signed| signed.algorithm = None), "InvalidArgument");
        assert_eq!(change(|signed| signed.credential = None), "InvalidArgument");
        assert_eq!(change(|signed| signed.date = None), "InvalidArgument");
        assert_eq!(change(|signed| signed.signature = None), "InvalidArgument");
        let other = POLICY.replace("fQ0KICBdDQp9", "fQ0KICBdDQp8");
        assert_eq!(of(|signed| &mut signed.policy, &other), "SignatureDoesNotMatch");
        let wrong = SIGNATURE.replace('8', "9");
        assert_eq!(of(|signed| &mut signed.signature, &wrong), "SignatureDoesNotMatch");
        assert_eq!(of(|signed| &mut signed.signature, "8afd"), "InvalidArgument");
        assert_eq!(of(|signed| &mut signed.algorithm, "AWS4-ECDSA-P256-SHA256"), "InvalidRequest");
        assert_eq!(of(|signed| &mut signed.security_token, "t"), "InvalidToken");
        assert_eq!(of(|signed| &mut signed.date, "20151230T000000Z"), "InvalidArgument");
        assert_eq!(of(|signed| &mut signed.date, "2015-12-29"), "InvalidArgument");
        for (credential, code) in [
            ("AKIDSTRANGER/20151229/us-east-1/s3/aws4_request", "InvalidAccessKeyId"),
            ("AKIAIOSFODNN7EXAMPLE/20151228/us-east-1/s3/aws4_request", "InvalidArgument"),
            ("AKIAIOSFODNN7EXAMPLE/20151229/eu-west-1/s3/aws4_request", "InvalidArgument"),
            ("AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/iam/aws4_request", "InvalidArgument"),
            ("AKIAIOSFODNN7EXAMPLE/20151229/us-east-1/s3/aws3_request", "InvalidArgument"),
            ("/20151229/us-east-1/s3/aws4_request", "InvalidArgument"),
            ("AKIAIOSFODNN7EXAMPLE", "InvalidArgument"),
        ] {
            assert_eq!(of(|signed| &mut signed.credential, credential), code, "{credential}");
        }
    }
}
