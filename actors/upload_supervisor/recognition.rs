//! Whether the object that is in the way of a request is the one that the request would have put there.
//!
//! Where the gateway makes writes conditional (`overwrite: deny`), a PutObject whose answer was lost runs
//! into its own object when it is sent again, by its client or from here. Its client has set no condition,
//! so to it the second is the same as the first: 200. Anybody may have put an object there, in the hope that
//! it is taken for another's, so only digests count that nobody finds other bytes for, a CRC does not; and
//! what HEAD shows beside the bytes must be what the request says, or the same bytes could be given another
//! content type, say. Nothing of the object is told but its ETag.

use crate::config::Bucket;
use crate::guardian::ActorRef;
use crate::origin;
use crate::payload::ChecksumAlgorithm;
use crate::s3::upstream::UpstreamTemplate;
use crate::s3_client_actor::S3ClientActor;
use crate::upload::job::{BorrowedContent, Content, Proof};
use crate::upload::machine::{Kind, Proven};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;

/// What is known of the object that a request makes, beside its headers.
pub(super) struct Known {
    /// Its body.
    pub(super) content: Option<BorrowedContent>,
    /// What would prove that it arrived.
    pub(super) announced: Proof,
}

/// Looks at what is there.
pub(super) async fn recognize(
    kind: Kind,
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    request: &UpstreamTemplate,
    known: Known,
) -> Proven {
    let found = if kind.completes() {
        completed(bucket, client, request, &known.announced).await
    } else {
        put(bucket, client, request, known.content).await
    };
    match found {
        // Whose version it is is not known.
        Proven::Yes { etag, .. } => Proven::Yes { etag, version_id: None },
        other => other,
    }
}

async fn put(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    request: &UpstreamTemplate,
    mut content: Option<BorrowedContent>,
) -> Proven {
    let Some(Content::Body { source, .. }) = content.as_mut().map(BorrowedContent::get) else {
        return Proven::Unknown;
    };
    let mut digests = digests(&request.headers, source.trailers());
    // Before anything is known of what is there: how long this takes must not tell of it.
    if !digests.iter().any(|digest| matches!(digest, Proof::ETag(_))) {
        match source.md5_of_kept().await {
            Ok(md5) => digests.extend(md5.map(|md5| Proof::ETag(hex(md5)))),
            Err(error) => {
                log::warn!("bucket {}: a kept body could not be read: {error}", bucket.name);
            }
        }
    }
    origin::recognize(bucket, client, request, &digests).await
}

/// An upload that is still there has become nothing, so what is there is another's. One that is gone was
/// completed if the ETag of its parts is there; so it is answered where a backend asks for the upload
/// first, too.
async fn completed(
    bucket: &Arc<Bucket>,
    client: ActorRef<S3ClientActor>,
    request: &UpstreamTemplate,
    etag: &Proof,
) -> Proven {
    let id = request.query.iter().find(|(name, _)| name == "uploadId").map(|(_, id)| id);
    let Some(id) = id.filter(|_| *etag != Proof::None) else { return Proven::Unknown };
    match origin::has_upload(bucket, client.clone(), &request.key, id).await {
        Ok(true) => Proven::No,
        Ok(false) => origin::prove(bucket, client, &request.key, etag).await,
        Err(error) => {
            log::warn!("bucket {}: an upload could not be looked for: {error}", bucket.name);
            Proven::Unknown
        }
    }
}

/// The digests among the headers and the verified trailers for which nobody finds other bytes.
fn digests(headers: &[(String, Vec<u8>)], trailers: &[(String, String)]) -> Vec<Proof> {
    let checksum = |name: &str, value: &str| {
        ChecksumAlgorithm::from_header(name)
            .filter(|algorithm| !algorithm.is_crc())
            .map(|_| Proof::Checksum(name.to_owned(), value.to_owned()))
    };
    let of_headers = headers.iter().filter_map(|(name, value)| {
        if name == "content-md5" {
            let md5: [u8; 16] = STANDARD.decode(value).ok()?.try_into().ok()?;
            return Some(Proof::ETag(hex(md5)));
        }
        checksum(name, std::str::from_utf8(value).ok()?)
    });
    of_headers.chain(trailers.iter().filter_map(|(name, value)| checksum(name, value))).collect()
}

fn hex(md5: [u8; 16]) -> String {
    md5.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_that_nobody_forges_count() {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let trailer = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = [
            header("content-type", "text/plain"),
            header("x-amz-checksum-crc32", "y/Q5Jg=="),
            header("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            header("content-md5", "JfnnlDI7RTiF9RgfG2JNCw=="),
            header("x-amz-checksum-sha1", "98O8HYCOBHMqSpALn9Y7t6+rCXE="),
        ];
        let trailers =
            [trailer("x-amz-checksum-crc32c", "4waSgw=="), trailer("x-amz-checksum-sha256", "s")];
        let checksum = |name: &str, value: &str| Proof::Checksum(name.to_owned(), value.to_owned());
        assert_eq!(
            digests(&headers, &trailers),
            [
                Proof::ETag("25f9e794323b453885f5181f1b624d0b".to_owned()),
                checksum("x-amz-checksum-sha1", "98O8HYCOBHMqSpALn9Y7t6+rCXE="),
                checksum("x-amz-checksum-sha256", "s"),
            ]
        );
    }
}
