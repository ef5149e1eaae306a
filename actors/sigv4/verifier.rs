//! Verifies a client's request: the one entrance for both places of credentials in a head (and
//! `post_policy` for the one in a form).

use super::canonical::{self, SignedHeaders, unhex};
use super::chunks::{ChunkSigner, ChunkVerifier, mismatch, same};
use super::credentials::{Credentials, KnownKeys, Sessions, Signatory};
use super::date;
use super::key::{SigningKey, hmac};
use super::payload::{CredentialPlace, PayloadMode};
use super::presigned;
use super::{ALGORITHM, SERVICE, TERMINATOR};
use crate::http::RequestHead;
use crate::identity::Identity;
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::headers::MODE;
use crate::secret::Secret;
use arc_swap::ArcSwap;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Host values that are tried for one request: its own, a proxy's word and a few public names.
const MAX_HOSTS: usize = 8;

/// The values that the client may have signed as its Host: behind a load balancer it is not the
/// one that arrives.
#[derive(Debug, Clone)]
pub struct Hosts(Vec<String>);

impl Hosts {
    /// The candidates, best first; those past the eighth are not tried.
    pub fn new(mut candidates: Vec<String>) -> Self {
        candidates.dedup();
        candidates.truncate(MAX_HOSTS);
        Hosts(candidates)
    }
}

/// A request that is who it says.
#[derive(Debug)]
pub struct Verified {
    /// Who.
    pub identity: Identity,
    /// With which key.
    pub access_key: Arc<str>,
    /// How the payload is authenticated.
    pub payload: PayloadMode,
    /// Verifies the payload's chunks, where they are signed.
    pub chunks: Option<ChunkVerifier>,
}

/// Verifies the requests for one bucket.
#[derive(Debug)]
pub struct Verifier {
    pub(super) region: String,
    max_skew: Duration,
    keys: ArcSwap<KnownKeys>,
    sessions: Option<Sessions>,
    stranger: SigningKey,
}

/// What a request claims, wherever it stands.
#[derive(Debug)]
pub(super) struct Claim<'h> {
    pub(super) access_key: Cow<'h, str>,
    /// `date/region/s3/aws4_request`.
    pub(super) scope: Cow<'h, str>,
    pub(super) signed_headers: Cow<'h, str>,
    pub(super) signature: [u8; 32],
    pub(super) session_token: Option<Cow<'h, str>>,
    /// In the basic form, as it was signed.
    pub(super) timestamp: Cow<'h, str>,
}

impl Verifier {
    /// A verifier of signatures for `region`; clocks may differ by `max_skew`.
    pub fn new(region: String, max_skew: Duration, credentials: Credentials) -> Self {
        let keys = ArcSwap::from_pointee(credentials.in_region(&region));
        let nobodys = Secret::new("a secret that nobody has".to_owned());
        let stranger = SigningKey::new(nobodys, region.clone());
        Verifier { region, max_skew, keys, sessions: None, stranger }
    }

    /// Honours sessions too.
    pub fn with_sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// From now on these are the credentials; requests that are being verified end with the old.
    pub fn replace(&self, credentials: Credentials) {
        self.keys.store(Arc::new(credentials.in_region(&self.region)));
    }

    /// Verifies a request over its raw head.
    ///
    /// Errors, all the client's: 400 AuthorizationHeaderMalformed, AuthorizationQueryParametersError,
    /// ExpiredToken, InvalidArgument, InvalidRequest, InvalidToken, MissingSecurityHeader; 403 AccessDenied,
    /// InvalidAccessKeyId, RequestTimeTooSkewed, SignatureDoesNotMatch.
    pub fn verify(
        &self,
        head: &RequestHead,
        hosts: &Hosts,
        now: OffsetDateTime,
    ) -> Result<Verified, S3Error> {
        refuse_duplicates(head)?;
        let in_query = presigned::is_presigned(head)?;
        let in_header = head.has("authorization");
        match (in_header, in_query) {
            (true, true) => Err(invalid_argument(
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query \
                 string parameter or the Authorization header should be specified",
            )),
            (false, false) => Err(S3Error::new(ErrorCode::AccessDenied, "Access Denied")),
            (true, false) => {
                let mode = PayloadMode::parse(head.header("x-amz-content-sha256"))?;
                let claim = self.claim_in_header(head, now)?;
                let payload = head.header("x-amz-content-sha256").unwrap_or_default();
                self.check(head, hosts, claim, CredentialPlace::Header, mode, payload, now)
            }
            (false, true) => {
                let parameters = presigned::Parameters::parse(head)?;
                let value = head
                    .header("x-amz-content-sha256")
                    .or(parameters.content_sha256.as_deref())
                    .map(str::to_owned);
                let mode = PayloadMode::parse(value.as_deref())?;
                let claim = parameters.claim(&self.region, self.max_skew, now)?;
                let payload = value.as_deref().unwrap_or("UNSIGNED-PAYLOAD");
                self.check(head, hosts, claim, CredentialPlace::Presigned, mode, payload, now)
            }
        }
    }

    fn claim_in_header<'h>(
        &self,
        head: &'h RequestHead,
        now: OffsetDateTime,
    ) -> Result<Claim<'h>, S3Error> {
        let authorization = head.header("authorization").unwrap_or_default();
        let Some(rest) = authorization.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' '))
        else {
            return Err(S3Error::new(
                ErrorCode::InvalidRequest,
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
            ));
        };
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in canonical::split(rest, b',') {
            let (name, value) = canonical::split_once(field.trim(), b'=').ok_or_else(malformed)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(malformed()),
            };
            if slot.replace(value).is_some() {
                return Err(malformed());
            }
        }
        let (Some(credential), Some(signed_headers), Some(signature)) =
            (credential, signed_headers, signature)
        else {
            return Err(malformed());
        };
        let (access_key, scope) = split_credential(credential).ok_or_else(malformed)?;
        let signature = unhex(signature).ok_or_else(malformed)?;
        let (time, timestamp) = match (head.header("x-amz-date"), head.header("date")) {
            // What parses is in the basic form already.
            (Some(text), _) => (date::parse(text).ok_or_else(malformed)?, Cow::Borrowed(text)),
            (None, Some(text)) => {
                let time = date::parse_date_header(text).ok_or_else(malformed)?;
                (time, Cow::Owned(date::format(time)))
            }
            (None, None) => {
                let message = "AWS authentication requires a valid Date or x-amz-date header";
                return Err(S3Error::new(ErrorCode::AccessDenied, message));
            }
        };
        if let Some(problem) = wrong_scope(scope, &timestamp, &self.region) {
            return Err(S3Error::new(ErrorCode::AuthorizationHeaderMalformed, problem));
        }
        if (now - time).unsigned_abs() > self.max_skew {
            return Err(S3Error::new(
                ErrorCode::RequestTimeTooSkewed,
                "The difference between the request time and the current time is too large.",
            ));
        }
        Ok(Claim {
            access_key: Cow::Borrowed(access_key),
            scope: Cow::Borrowed(scope),
            signed_headers: Cow::Borrowed(signed_headers),
            signature,
            session_token: head.header("x-amz-security-token").map(Cow::Borrowed),
            timestamp,
        })
    }

    /// Whom an access key and a session token name.
    ///
    /// Errors: 400 InvalidToken, ExpiredToken.
    pub(super) fn signatory(
        &self,
        access_key: &str,
        token: Option<&str>,
        now: OffsetDateTime,
    ) -> Result<Signatory<'_>, S3Error> {
        let (known, sessions) = (self.keys.load(), self.sessions.as_ref());
        Signatory::find(&known, sessions, &self.stranger, access_key, token, now)
    }

    /// The part that both places share: what must be signed is, and the signature is right.
    #[allow(clippy::too_many_arguments)]
    fn check(
        &self,
        head: &RequestHead,
        hosts: &Hosts,
        claim: Claim<'_>,
        place: CredentialPlace,
        mode: PayloadMode,
        payload: &str,
        now: OffsetDateTime,
    ) -> Result<Verified, S3Error> {
        mode.allowed_with(place)?;
        let signed_headers = SignedHeaders::new(&claim.signed_headers);
        check_signed_headers(head, &signed_headers)?;
        let signatory = self.signatory(&claim.access_key, claim.session_token.as_deref(), now)?;
        let day = claim.timestamp.get(..8).unwrap_or_default();
        let key = signatory.key().of(day);
        let except = (place == CredentialPlace::Presigned).then_some("X-Amz-Signature");
        let mut result = Err(mismatch());
        for host in &hosts.0 {
            let hash = canonical::of_head(head, host, &signed_headers, payload, except)
                .ok_or_else(mismatch)?;
            let signature = sign(&key, &claim.timestamp, &claim.scope, &hash);
            result = same(&signature, &claim.signature);
            if result.is_ok() {
                break;
            }
        }
        if !signatory.is_stranger() {
            result?;
        }
        let (access_key, identity) = signatory.identity(place.means())?;
        let chunks = match mode {
            PayloadMode::SignedChunks | PayloadMode::SignedChunksTrailer => {
                Some(ChunkVerifier(ChunkSigner::new(
                    key,
                    claim.timestamp.into_owned(),
                    claim.scope.into_owned(),
                    claim.signature,
                )))
            }
            PayloadMode::Hash(_)
            | PayloadMode::Unsigned
            | PayloadMode::UnsignedTrailer
            | PayloadMode::Absent => None,
        };
        Ok(Verified { identity, access_key, payload: mode, chunks })
    }
}

/// The string to sign, signed.
pub(super) fn sign(key: &[u8; 32], timestamp: &str, scope: &str, canonical: &[u8; 32]) -> [u8; 32] {
    let mut text = Vec::with_capacity(256);
    for part in [ALGORITHM, "\n", timestamp, "\n", scope, "\n"] {
        text.extend_from_slice(part.as_bytes());
    }
    text.extend_from_slice(&canonical::hex_digits(canonical));
    hmac(key, &[&text])
}

/// `access_key/date/region/service/terminator`; an access key may hold slashes itself.
pub(super) fn split_credential(credential: &str) -> Option<(&str, &str)> {
    let mut slashes = credential.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'/');
    let (at, _) = slashes.nth(3)?;
    let (access_key, scope) = (credential.get(..at)?, credential.get(at + 1..)?);
    (!access_key.is_empty()).then_some((access_key, scope))
}

/// What is wrong with a scope, in words for the client.
pub(super) fn wrong_scope<'s>(scope: &'s str, timestamp: &str, region: &str) -> Option<String> {
    let after = |text: &'s str, part: &str| text.strip_prefix(part)?.strip_prefix('/');
    let ends =
        timestamp.get(..8).and_then(|day| after(after(after(scope, day)?, region)?, SERVICE));
    if ends == Some(TERMINATOR) {
        return None;
    }
    let mut parts = scope.split('/');
    let (Some(date), Some(of_region), Some(service), Some(terminator), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Some("The Credential is mal-formed.".to_owned());
    };
    if Some(date) != timestamp.get(..8) {
        return Some("Invalid credential date: it is not the date of the request.".to_owned());
    }
    if of_region != region {
        return Some(format!("the region is wrong; expecting '{region}'"));
    }
    if service != SERVICE {
        return Some("incorrect service: this endpoint belongs to \"s3\".".to_owned());
    }
    (terminator != TERMINATOR)
        .then(|| "incorrect terminator: expecting \"aws4_request\".".to_owned())
}

/// `host`, every `x-amz-*` header that is there, and the gateway's own `x-mizuchi-mode`, must be signed:
/// an unsigned one was added on the way, by whoever wanted it there.
fn check_signed_headers(head: &RequestHead, signed: &SignedHeaders<'_>) -> Result<(), S3Error> {
    let matters = |name: &[u8]| {
        name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"x-amz-"))
            || name.eq_ignore_ascii_case(MODE.as_bytes())
    };
    let all_signed =
        signed.holds(b"host") && head.names().all(|name| !matters(name) || signed.holds(name));
    if all_signed {
        return Ok(());
    }
    let message = "There were headers present in the request which were not signed";
    Err(S3Error::new(ErrorCode::AccessDenied, message))
}

/// A header that authentication reads must not be there twice: two readers would read two.
fn refuse_duplicates(head: &RequestHead) -> Result<(), S3Error> {
    for name in [
        "authorization",
        "x-amz-date",
        "x-amz-content-sha256",
        "x-amz-security-token",
        "x-amz-decoded-content-length",
    ] {
        if head.values(name).nth(1).is_some() {
            return Err(invalid_argument("A header of the authentication is given twice."));
        }
    }
    Ok(())
}

fn malformed() -> S3Error {
    S3Error::new(ErrorCode::AuthorizationHeaderMalformed, "The authorization header is malformed.")
}

pub(super) fn invalid_argument(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::InvalidArgument, message)
}
