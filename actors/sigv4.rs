//! AWS Signature Version 4, once: the code that verifies a client's request and the code that signs
//! the one to the backend build the same canonical request.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html>. Every S3
//! server has had the same bug: one way to carry the payload crossed with one place for the
//! credentials that nobody had checked. So there is one verifier, and [`PayloadMode`] crossed with
//! [`CredentialPlace`] is one exhaustive table.

mod backend_keys;
mod canonical;
mod chunks;
mod credentials;
mod date;
mod key;
mod payload;
mod post_policy;
mod presigned;
pub mod session;
mod signer;
mod verifier;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod rusoto_oracle;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tampering;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod vectors;

pub use backend_keys::{BackendKeys, NoKeys};
pub use canonical::uri_encode;
pub use chunks::{ChunkSigner, ChunkVerifier};
pub use credentials::{Credential, Credentials, Sessions};
pub use payload::{CredentialPlace, PayloadMode, payload_of_unsigned};
pub use post_policy::PolicySignature;
pub use presigned::claims_credentials;
pub use signer::{PayloadHash, Signer, UpstreamRequest, object_path};
pub use verifier::{Hosts, Verified, Verifier};

/// The only algorithm.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The only service.
const SERVICE: &str = "s3";
/// The end of every scope.
const TERMINATOR: &str = "aws4_request";
