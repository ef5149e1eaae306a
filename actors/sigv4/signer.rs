//! Signs what goes to the backend, and presigns URLs.

use super::canonical::{self, Canonical, hex, uri_encode};
use super::key::SigningKey;
use super::presigned::MAX_EXPIRES;
use super::verifier::sign;
use super::{ALGORITHM, SERVICE, TERMINATOR, date};
use crate::secret::Secret;
use sha2::{Digest, Sha256};
use std::time::Duration;
use time::OffsetDateTime;

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

    fn value(self) -> String {
        match self {
            PayloadHash::Hash(hash) => hex(&hash),
            PayloadHash::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
            PayloadHash::Empty => hex(&Sha256::digest(b"").into()),
            PayloadHash::SignedChunks => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned(),
            PayloadHash::SignedChunksTrailer => {
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER".to_owned()
            }
            PayloadHash::UnsignedTrailer => "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned(),
        }
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
        let timestamp = date::format(now);
        let payload = payload.value();
        let headers = &mut request.headers;
        headers.push(("x-amz-content-sha256".to_owned(), payload.clone().into_bytes()));
        headers.push(("x-amz-date".to_owned(), timestamp.clone().into_bytes()));
        if let Some(token) = &self.session_token {
            headers.push(("x-amz-security-token".to_owned(), token.expose().as_bytes().to_vec()));
        }
        let query = canonical::query_of(&request.query);
        let (signed_headers, hash) = hash(request, &query, &payload);
        let scope = self.scope(&timestamp);
        let key = self.key.of(timestamp.get(..8).unwrap_or_default());
        let signature = sign(&key, &timestamp, &scope, &hash);
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed_headers}, Signature={}",
            self.access_key,
            hex(&signature)
        );
        request.headers.push(("authorization".to_owned(), authorization.into_bytes()));
        super::ChunkSigner::new(key, timestamp, scope, signature)
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
        let (_, hash) = hash(&request, &query, "UNSIGNED-PAYLOAD");
        let key = self.key.of(timestamp.get(..8).unwrap_or_default());
        let signature = sign(&key, &timestamp, &scope, &hash);
        format!("{query}&X-Amz-Signature={}", hex(&signature))
    }

    fn scope(&self, timestamp: &str) -> String {
        let day = timestamp.get(..8).unwrap_or_default();
        format!("{day}/{}/{SERVICE}/{TERMINATOR}", self.key.region())
    }
}

/// SignedHeaders and the hash of the canonical request.
fn hash(request: &UpstreamRequest, query: &str, payload: &str) -> (String, [u8; 32]) {
    let mut headers: Vec<(&str, &[u8])> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    headers.push(("host", request.host.as_bytes()));
    // Stable: values of one name stay in their order.
    headers.sort_by_key(|(name, _)| *name);
    let mut canonical = Canonical::new(request.method, &request.path, query);
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
