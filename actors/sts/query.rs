//! AssumeRoleWithWebIdentity in the AWS query protocol: a form as the request, XML as the answer
//! (<https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html>). There
//! are no roles here: the session is the token's principal, with the rights that the token has, for
//! no longer than the token lasts.

use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::xml::{DECLARATION, escaped};
use crate::secret::Secret;
use crate::sigv4::session::{Session, SessionError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Most bytes of a request: a token, and the names around it.
pub const MAX_REQUEST: usize = 16 * 1024;

/// A session's shortest duration, its default and its longest, by the API reference.
const DURATION: (u64, u64, u64) = (900, 3600, 43_200);

const VERSION: &str = "2011-06-15";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// A request for a session.
#[derive(Debug)]
pub struct AssumeRole {
    /// Proves who asks.
    pub token: Secret,
    /// How long the session may last.
    pub duration: Duration,
    /// An ARN, 20 to 2048 characters. It is only given back: there are no roles.
    role: String,
    /// 2 to 64 of `\w+=,.@-`. It is only given back.
    session_name: String,
}

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsError {
    /// HTTP status.
    pub status: u16,
    /// As the API reference has it: SDKs tell by it whether to retry.
    pub code: &'static str,
    /// Says what to do next; never holds a secret.
    pub message: String,
}

impl StsError {
    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        StsError { status, code, message: message.into() }
    }

    /// There is no token service here.
    pub fn not_served() -> Self {
        StsError::new(400, "InvalidAction", "There is no token service here (sts.enabled).")
    }

    /// What a token's refusal is in the words of STS.
    pub fn of_token(error: &S3Error) -> Self {
        let code = error.code.as_ref();
        let is = |one: ErrorCode| code == one.as_str();
        if is(ErrorCode::ExpiredToken) {
            StsError::new(400, "ExpiredTokenException", "The web identity token has expired.")
        } else if is(ErrorCode::ServiceUnavailable) {
            let message = "The identity provider's keys cannot be had at the moment. Try again.";
            StsError::new(400, "IDPCommunicationError", message)
        } else if is(ErrorCode::InvalidToken) {
            StsError::new(400, "InvalidIdentityToken", error.message.as_ref())
        } else {
            StsError::new(403, "AccessDenied", "The web identity token is not accepted.")
        }
    }

    /// What any other refusal is in the words of STS.
    pub fn of_request(error: &S3Error) -> Self {
        match error.status {
            503 => StsError::new(503, "ServiceUnavailable", error.message.as_ref()),
            500.. => StsError::new(500, "InternalFailure", error.message.as_ref()),
            status => StsError::new(status, "ValidationError", error.message.as_ref()),
        }
    }

    /// The error's document.
    pub fn document(&self, request_id: &str) -> String {
        let whose = if self.status < 500 { "Sender" } else { "Receiver" };
        format!(
            "{DECLARATION}<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{whose}</Type>\
             <Code>{}</Code><Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
            self.code,
            escaped(&self.message),
            escaped(request_id)
        )
    }
}

impl From<SessionError> for StsError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::TooLarge => {
                let message =
                    "The token's claims are too large for a session: use a smaller token.";
                StsError::new(400, "PackedPolicyTooLarge", message)
            }
            SessionError::Invalid | SessionError::Expired => {
                StsError::new(500, "InternalFailure", "The session could not be sealed.")
            }
        }
    }
}

impl AssumeRole {
    /// Parses a request's form.
    ///
    /// Errors: 400 InvalidAction, ValidationError. A session policy is refused, since ignoring it would
    /// give more than was asked for.
    pub fn parse(form: &[u8]) -> Result<Self, StsError> {
        let invalid = |message: &str| StsError::new(400, "ValidationError", message);
        let (mut action, mut version, mut role, mut name, mut token, mut duration) =
            (None, None, None, None, None, None);
        for (field, value) in form_urlencoded::parse(form) {
            let slot = match field.as_ref() {
                "Action" => &mut action,
                "Version" => &mut version,
                "RoleArn" => &mut role,
                "RoleSessionName" => &mut name,
                "WebIdentityToken" => &mut token,
                "DurationSeconds" => &mut duration,
                // Names a provider of OAuth 2.0 access tokens; those of OpenID Connect name theirs.
                "ProviderId" => {
                    return Err(invalid("ProviderId is not supported: send an OpenID token."));
                }
                _ if field.starts_with("Policy") => {
                    return Err(invalid("Session policies are not supported."));
                }
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(invalid("A field of the form is given twice."));
            }
        }
        if action.as_deref() != Some("AssumeRoleWithWebIdentity") {
            let message = "Only AssumeRoleWithWebIdentity is served here.";
            return Err(StsError::new(400, "InvalidAction", message));
        }
        if version.is_some_and(|version| version != VERSION) {
            return Err(invalid("Version must be 2011-06-15."));
        }
        let in_name = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        let session_name = name
            .filter(|name| (2..=64).contains(&name.len()) && name.chars().all(in_name))
            .ok_or_else(|| {
                invalid("RoleSessionName must be 2 to 64 letters, digits and _+=,.@-")
            })?;
        let role = role
            .filter(|role| (20..=2048).contains(&role.len()) && !role.chars().any(char::is_control))
            .ok_or_else(|| invalid("RoleArn must be 20 to 2048 characters"))?;
        let token = token.filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| invalid("WebIdentityToken is missing"))?;
        let (shortest, default, longest) = DURATION;
        let seconds = match duration {
            None => default,
            Some(text) => text
                .parse()
                .ok()
                .filter(|seconds| (shortest..=longest).contains(seconds))
                .ok_or_else(|| invalid("DurationSeconds must be 900 to 43200"))?,
        };
        let duration = Duration::from_secs(seconds);
        Ok(AssumeRole { token: Secret::new(token), duration, role, session_name })
    }

    /// When the session ends: after what was asked for, but not after `longest` nor after the token.
    pub fn expires(
        &self,
        now: OffsetDateTime,
        longest: Duration,
        token_expires: OffsetDateTime,
    ) -> OffsetDateTime {
        (now + self.duration.min(longest)).min(token_expires)
    }

    /// The answer's document. `audience`: the token's.
    pub fn document(
        &self,
        session: &Session,
        session_token: &Secret,
        audience: &str,
        request_id: &str,
    ) -> String {
        let expires = session.expires.replace_nanosecond(0).unwrap_or(session.expires);
        let role = self.role.rsplit('/').next().unwrap_or_default();
        format!(
            "{DECLARATION}<AssumeRoleWithWebIdentityResponse xmlns=\"{NAMESPACE}\">\
             <AssumeRoleWithWebIdentityResult>\
             <SubjectFromWebIdentityToken>{}</SubjectFromWebIdentityToken><Audience>{}</Audience>\
             <AssumedRoleUser><Arn>{}/{name}</Arn><AssumedRoleId>{}:{name}</AssumedRoleId>\
             </AssumedRoleUser><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}\
             </SecretAccessKey><SessionToken>{}</SessionToken><Expiration>{}</Expiration>\
             </Credentials><Provider>{}</Provider></AssumeRoleWithWebIdentityResult>\
             <ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata>\
             </AssumeRoleWithWebIdentityResponse>",
            escaped(&session.principal),
            escaped(audience),
            escaped(&self.role),
            escaped(role),
            escaped(&session.access_key),
            escaped(session.secret_key.expose()),
            escaped(session_token.expose()),
            expires.format(&Rfc3339).unwrap_or_default(),
            escaped(&session.issuer),
            escaped(request_id),
            name = escaped(&self.session_name),
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=app1&\
        RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2FUploads&WebIdentityToken=a.b.c";

    #[test]
    fn the_form_that_sdks_send() {
        let parsed = AssumeRole::parse(GOOD.as_bytes()).unwrap();
        assert_eq!((parsed.token.expose(), parsed.duration.as_secs()), ("a.b.c", 3600));
        let parsed = AssumeRole::parse(format!("{GOOD}&DurationSeconds=900").as_bytes()).unwrap();
        assert_eq!(parsed.duration.as_secs(), 900);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (form, code, says) in [
            (GOOD.replace("WithWebIdentity&", "&"), "InvalidAction", "Only"),
            (String::new(), "InvalidAction", "Only"),
            (GOOD.replace("06-15", "06-16"), "ValidationError", "Version"),
            (GOOD.replace("=app1", "=a"), "ValidationError", "RoleSessionName"),
            (GOOD.replace("=a.b.c", "="), "ValidationError", "WebIdentityToken"),
            (GOOD.replace("RoleArn=", "Role="), "ValidationError", "RoleArn"),
            (format!("{GOOD}&DurationSeconds=899"), "ValidationError", "DurationSeconds"),
            (format!("{GOOD}&DurationSeconds=43201"), "ValidationError", "DurationSeconds"),
            (format!("{GOOD}&Policy={{}}"), "ValidationError", "policies"),
            (format!("{GOOD}&PolicyArns.member.1=x"), "ValidationError", "policies"),
            (format!("{GOOD}&ProviderId=x"), "ValidationError", "ProviderId"),
            (format!("{GOOD}&WebIdentityToken=d"), "ValidationError", "twice"),
        ] {
            let error = AssumeRole::parse(form.as_bytes()).unwrap_err();
            assert_eq!(error.code, code, "{form}");
            assert!(error.message.contains(says), "{form}: {}", error.message);
        }
    }

    /// "expiry ≤ the token's".
    #[test]
    fn a_session_ends_with_its_token_at_the_latest() {
        let asked = AssumeRole::parse(format!("{GOOD}&DurationSeconds=1000").as_bytes()).unwrap();
        let now = OffsetDateTime::UNIX_EPOCH;
        let after = |seconds| now + Duration::from_secs(seconds);
        for (longest, token, ends) in [(5000, 5000, 1000), (950, 5000, 950), (5000, 7, 7)] {
            let longest = Duration::from_secs(longest);
            assert_eq!(asked.expires(now, longest, after(token)), after(ends));
        }
    }

    proptest! {
        #[test]
        fn no_form_makes_it_panic(text in "(Action=AssumeRoleWithWebIdentity)?[&=%A-Za-z0-9é+]{0,80}") {
            let _ = AssumeRole::parse(text.as_bytes());
        }
    }
}
