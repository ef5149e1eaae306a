//! The S3 calls that the gateway itself originates, through rusoto_s3: today the HEAD that proves
//! whether an object whose answer was lost has arrived (R11).
//!
//! rusoto is no longer maintained (RUSTSEC-2022-0071), so it stays behind this one module, and none
//! of its own HTTP or TLS runs: its dispatcher signs with rusoto_signature, once, and sends every
//! byte through the gateway's own pooled connections.

use crate::config::Bucket;
use crate::guardian::ActorRef;
use crate::s3_client_actor::{LeaseConnection, Release, S3ClientActor};
use crate::upload::job::Proof;
use crate::upload::machine::Proven;
use rusoto_core::request::{
    DispatchSignedRequest, DispatchSignedRequestFuture, HttpDispatchError, HttpResponse,
};
use rusoto_core::signature::SignedRequest;
use rusoto_core::{ByteStream, Client, Region, RusotoError};
use rusoto_credential::AwsCredentials;
use rusoto_s3::{HeadObjectOutput, HeadObjectRequest, S3, S3Client};
use std::sync::Arc;
use std::time::Duration;

/// Most bytes of an answer's body: a HEAD has none.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks the backend whether the object under `key` (the prefix included) is the one that `proof`
/// describes.
pub async fn prove(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    key: &str,
    proof: &Proof,
) -> Proven {
    if *proof == Proof::None {
        return Proven::Unknown;
    }
    let dispatcher = Dispatcher { bucket: Arc::clone(bucket), client };
    // The endpoint is the pool's choice: the name here only fills the field.
    let region = Region::Custom { name: bucket.region.clone(), endpoint: "http://backend".into() };
    let s3 = S3Client::new_with_client(Client::new_not_signing(dispatcher), region);
    let request = HeadObjectRequest {
        bucket: bucket.backend.bucket.clone(),
        key: key.to_owned(),
        ..HeadObjectRequest::default()
    };
    match s3.head_object(request).await {
        Ok(found) if proves(&found, proof) => {
            Proven::Yes { etag: found.e_tag, version_id: found.version_id }
        }
        Ok(_) => Proven::No,
        Err(RusotoError::Unknown(answer)) if answer.status.as_u16() == 404 => Proven::No,
        Err(error) => {
            log::warn!("bucket {}: a lost answer could not be reconciled: {error}", bucket.name);
            Proven::Unknown
        }
    }
}

fn proves(found: &HeadObjectOutput, proof: &Proof) -> bool {
    match proof {
        Proof::None => false,
        Proof::ETag(expected) => {
            found.e_tag.as_deref().is_some_and(|etag| etag.trim_matches('"') == expected)
        }
        // rusoto_s3 knows no checksum fields: the dispatcher leaves them in the metadata.
        Proof::Checksum(name, value) => found
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.get(name))
            .is_some_and(|found| found == value),
    }
}

/// rusoto's transport: the bucket's own pool.
struct Dispatcher {
    bucket: Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
}

impl DispatchSignedRequest for Dispatcher {
    fn dispatch(
        &self,
        request: SignedRequest,
        _timeout: Option<Duration>,
    ) -> DispatchSignedRequestFuture {
        let (bucket, client) = (Arc::clone(&self.bucket), self.client.clone());
        Box::pin(
            async move { send(&bucket, &client, request).await.map_err(HttpDispatchError::new) },
        )
    }
}

async fn send(
    bucket: &Bucket,
    client: &ActorRef<S3ClientActor>,
    mut request: SignedRequest,
) -> Result<HttpResponse, String> {
    let lease = LeaseConnection { request: None, more: Vec::new(), attempt: 1 };
    let mut lease = client
        .ask(lease)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    request.add_header("x-amz-checksum-mode", "ENABLED");
    request.set_hostname(Some(lease.authority.clone()));
    let signer = &bucket.backend.signer;
    let token = signer.session_token().map(|token| token.expose().to_owned());
    let secret = signer.secret_key().expose();
    request.sign(&AwsCredentials::new(signer.access_key(), secret, token, None));
    let head = serialize(&request);
    let timeouts = &bucket.backend.timeouts;
    let connection = &mut lease.connection;
    connection.send_head(&head, timeouts.progress).await.map_err(|error| error.to_string())?;
    let response = connection
        .read_response(request.method == "HEAD", timeouts.first_byte, MAX_ANSWER)
        .await
        .map_err(|error| error.to_string())?;
    if connection.is_reusable() {
        client.hint(Release(lease));
    }
    let mut headers = http02::HeaderMap::<String>::default();
    for (name, value) in response.head.headers {
        // See `proves`: what rusoto_s3 has no field for passes as user metadata.
        let name =
            if name.starts_with("x-amz-checksum-") { format!("x-amz-meta-{name}") } else { name };
        if let (Ok(name), Ok(value)) = (
            http02::header::HeaderName::from_bytes(name.as_bytes()),
            String::from_utf8(value.to_vec()),
        ) {
            headers.insert(name, value);
        }
    }
    Ok(HttpResponse {
        status: http02::StatusCode::from_u16(response.head.status)
            .map_err(|error| error.to_string())?,
        body: ByteStream::from(response.body.to_vec()),
        headers,
    })
}

fn serialize(request: &SignedRequest) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let query = request.canonical_query_string();
    let mark = if query.is_empty() { "" } else { "?" };
    let line = format!("{} {}{mark}{query} HTTP/1.1\r\n", request.method, request.canonical_path());
    head.extend_from_slice(line.as_bytes());
    for (name, values) in request.headers() {
        for value in values {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}
