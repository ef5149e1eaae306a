//! Signs what goes to the backend, and presigns URLs.

use super::canonical::{self, Canonical, hex, hex_digits, unhex, uri_encode};
use super::key::SigningKey;
use super::presigned::MAX_EXPIRES;
use super::verifier::sign;
use super::{ALGORITHM, SERVICE, TERMINATOR, date};
use crate::secret::Secret;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::time::Duration;
use time::OffsetDateTime;
use zeroize::Zeroizing;

const CONTENT_SHA256: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// The SHA-256 of nothing.
const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Headers that most requests have fewer of.
const USUAL_HEADERS: usize = 16;

/// What x-amz-content-sha256 is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadHash {
    /// The payload's SHA-256.
    Hash([u8; 32]),
    /// UNSIGNED-PAYLOAD.
    Unsigned,
    /// The hash of no payload.
    Empty,
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD.
    SignedChunks,
    /// STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER.
    SignedChunksTrailer,
    /// STREAMING-UNSIGNED-PAYLOAD-TRAILER.
    UnsignedTrailer,
}

impl PayloadHash {
    /// The hash of a payload that is at hand.
    pub fn of(payload: &[u8]) -> Self {
        PayloadHash::Hash(Sha256::digest(payload).into())
    }

    /// The hash that these 64 hex digits are; None: they are not.
    pub fn from_hex(digits: &[u8]) -> Option<Self> {
        unhex(std::str::from_utf8(digits).ok()?).map(PayloadHash::Hash)
    }

    /// As it stands in x-amz-content-sha256.
    pub(crate) fn value(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            PayloadHash::Hash(hash) => return Cow::Owned(hex(&hash)),
            PayloadHash::Unsigned => "UNSIGNED-PAYLOAD",
            PayloadHash::Empty => EMPTY_HASH,
            PayloadHash::SignedChunks => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            PayloadHash::SignedChunksTrailer => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            PayloadHash::UnsignedTrailer => "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        })
    }
}

/// A request to be signed.
#[derive(Debug, Clone)]
pub struct UpstreamRequest {
    /// HTTP method.
    pub method: &'static str,
    /// The Host header.
    pub host: String,
    /// Encoded once ([`uri_encode`]).
    pub path: String,
    /// Decoded.
    pub query: Vec<(String, String)>,
    /// Names in lower case. All of them are signed.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Signs with one credential in one region.
#[derive(Debug)]
pub struct Signer {
    access_key: String,
    session_token: Option<Secret>,
    key: SigningKey,
}

impl Signer {
    /// A signer; `session_token` for temporary credentials.
    pub fn new(
        access_key: String,
        secret_key: Secret,
        session_token: Option<Secret>,
        region: String,
    ) -> Self {
        Signer { access_key, session_token, key: SigningKey::new(secret_key, region) }
    }

    /// The access key.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The secret key.
    pub fn secret_key(&self) -> &Secret {
        self.key.secret()
    }

    /// The session token of temporary credentials.
    pub fn session_token(&self) -> Option<&Secret> {
        self.session_token.as_ref()
    }

    /// The region.
    pub fn region(&self) -> &str {
        self.key.region()
    }

    /// Adds x-amz-date, x-amz-content-sha256, x-amz-security-token and Authorization. Returns the
    /// chain for the payload's chunks, should it be sent in signed chunks.
    pub fn sign(
        &self,
        request: &mut UpstreamRequest,
        payload: PayloadHash,
        now: OffsetDateTime,
    ) -> super::ChunkSigner {
        let UpstreamRequest { method, host, path, query, headers } = request;
        let have = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let signed = self.authorize((method, host, path), query, have, payload, now);
        for (name, value) in signed.headers() {
            headers.push((name.to_owned(), value.as_bytes().to_vec()));
        }
        super::ChunkSigner::new(signed.key, signed.timestamp, signed.scope, signed.signature)
    }

    /// What [`Signer::sign`] adds, for a request that is borrowed: `line` is its method, host and
    /// path. Every backend request comes by here: nothing is formatted, and little allocated.
    pub(crate) fn authorize<'r>(
        &self,
        (method, host, path): (&str, &str, &str),
        query: &[(String, String)],
        headers: impl Iterator<Item = (&'r str, &'r [u8])>,
        payload: PayloadHash,
        now: OffsetDateTime,
    ) -> Signed<'_> {
        let timestamp = date::format(now);
        let payload = payload.value();
        let token = self.session_token.as_ref().map(Secret::expose);
        let mut all: Vec<(&str, &[u8])> = Vec::with_capacity(USUAL_HEADERS);
        for header in headers {
            all.push(header);
        }
        all.push(("host", host.as_bytes()));
        all.push((CONTENT_SHA256, payload.as_bytes()));
        all.push((DATE, timestamp.as_bytes()));
        all.extend(token.map(|token| (SECURITY_TOKEN, token.as_bytes())));
        let (signed_headers, hash) = hash(method, path, &canonical::query_of(query), all, &payload);
        let scope = self.scope(&timestamp);
        let key = self.key.of(timestamp.get(..8).unwrap_or_default());
        let signature = sign(&key, &timestamp, &scope, &hash);
        let mut authorization = String::with_capacity(256 + signed_headers.len());
        for part in [
            ALGORITHM,
            " Credential=",
            &self.access_key,
            "/",
            &scope,
            ", SignedHeaders=",
            &signed_headers,
            ", Signature=",
            // Digits are ASCII.
            std::str::from_utf8(&hex_digits(&signature)).unwrap_or_default(),
        ] {
            authorization.push_str(part);
        }
        Signed { payload, timestamp, token, authorization, key, scope, signature }
    }

    /// The query of a presigned URL for the request, whose headers the user must then send as they
    /// are. `expires` is cut to seven days.
    pub fn presign(
        &self,
        request: &UpstreamRequest,
        expires: Duration,
        now: OffsetDateTime,
    ) -> String {
        let timestamp = date::format(now);
        let scope = self.scope(&timestamp);
        let seconds = expires.as_secs().clamp(1, MAX_EXPIRES);
        let mut request = request.clone();
        let mut names: Vec<&str> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.push("host");
        names.sort_unstable();
        names.dedup();
        let mut more = vec![
            ("X-Amz-Algorithm", ALGORITHM.to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", self.access_key)),
            ("X-Amz-Date", timestamp.clone()),
            ("X-Amz-Expires", seconds.to_string()),
            ("X-Amz-SignedHeaders", names.join(";")),
        ];
        if let Some(token) = &self.session_token {
            more.push(("X-Amz-Security-Token", token.expose().to_owned()));
        }
        request.query.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let query = canonical::query_of(&request.query);
        let UpstreamRequest { method, host, path, headers, .. } = &request;
        let mut all: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        all.push(("host", host.as_bytes()));
        let (_, hash) = hash(method, path, &query, all, "UNSIGNED-PAYLOAD");
        let key = self.key.of(timestamp.get(..8).unwrap_or_default());
        let signature = sign(&key, &timestamp, &scope, &hash);
        format!("{query}&X-Amz-Signature={}", hex(&signature))
    }

    fn scope(&self, timestamp: &str) -> String {
        let day = timestamp.get(..8).unwrap_or_default();
        [day, "/", self.key.region(), "/", SERVICE, "/", TERMINATOR].concat()
    }
}

/// What signing adds to a request.
pub(crate) struct Signed<'s> {
    payload: Cow<'static, str>,
    timestamp: String,
    token: Option<&'s str>,
    authorization: String,
    key: Zeroizing<[u8; 32]>,
    scope: String,
    signature: [u8; 32],
}

impl Signed<'_> {
    /// The headers, names in lower case.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let token = self.token.map(|token| (SECURITY_TOKEN, token));
        [(CONTENT_SHA256, &*self.payload), (DATE, &self.timestamp)]
            .into_iter()
            .chain(token)
            .chain([("authorization", self.authorization.as_str())])
    }
}

/// SignedHeaders and the hash of the canonical request.
fn hash(
    method: &str,
    path: &str,
    query: &str,
    mut headers: Vec<(&str, &[u8])>,
    payload: &str,
) -> (String, [u8; 32]) {
    // Stable: values of one name stay in their order.
    headers.sort_by_key(|(name, _)| *name);
    let mut canonical = Canonical::new(method, path, query);
    let mut signed_headers = String::with_capacity(128);
    for same_name in headers.chunk_by(|(one, _), (other, _)| one == other) {
        let Some((name, _)) = same_name.first() else { continue };
        if !signed_headers.is_empty() {
            signed_headers.push(';');
        }
        signed_headers.push_str(name);
        canonical.header(name, same_name.iter().map(|(_, value)| *value));
    }
    let hash = canonical.finish(&signed_headers, payload);
    (signed_headers, hash)
}

/// The path of an object for [`UpstreamRequest::path`].
pub fn object_path(bucket: &str, key: &str) -> String {
    format!("/{}/{}", uri_encode(bucket.as_bytes(), false), uri_encode(key.as_bytes(), true))
}
