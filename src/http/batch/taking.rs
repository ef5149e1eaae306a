//! A batch's body before it is taken: who sent it, what it is held to, and what each object is sent with.

use super::super::request::{Failed, has_keys, too_large};
use super::super::route::Route;
use super::super::write_back;
use super::publish::Publication;
use super::witness::Witness;
use super::{Sender, Spooled, unavailable};
use mizuchi_actors::auth_actor::Authorized;
use mizuchi_actors::config::{Bucket, Mode};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::identity::Identity;
use mizuchi_actors::payload::{ChecksumAlgorithm, PayloadLength};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::names::ObjectKey;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::sigv4::PayloadHash;
use mizuchi_actors::spool::{Spool, ingest};
use mizuchi_actors::tap::RequestBody;
use mizuchi_actors::transfer::Intake;
use mizuchi_actors::upload::{parts, prepare};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What a batch is made of, as the request brought it.
pub(in crate::http) struct Incoming<'t> {
    pub(in crate::http) route: &'t Route,
    pub(in crate::http) bucket_index: usize,
    pub(in crate::http) bucket: &'t Arc<Bucket>,
    pub(in crate::http) head: &'t RequestHead,
    pub(in crate::http) operation: &'t Operation,
    pub(in crate::http) identity: Identity,
    pub(in crate::http) authorized: Authorized,
    pub(in crate::http) body: RequestBody,
    pub(in crate::http) permit: OwnedSemaphorePermit,
}

/// See the module.
pub(super) struct Taking {
    pub(super) bucket: Arc<Bucket>,
    pub(super) head: RequestHead,
    pub(super) mode: Mode,
    /// Whose it is.
    pub(super) owner: Arc<str>,
    bucket_index: usize,
    spool: Arc<Spool>,
    identity: Identity,
    headers: Vec<(String, Vec<u8>)>,
    guarded: bool,
    intake: Intake,
    length: Option<u64>,
    most: u64,
    permit: OwnedSemaphorePermit,
}

/// A batch whose body was taken.
pub(super) struct Taken {
    pub(super) spooled: Spooled,
    /// Of the body, in hexadecimal digits.
    pub(super) md5: String,
    /// Who is asked about.
    pub(super) sender: Sender,
    pub(super) mode: Mode,
    /// What the entries' publication needs.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    guarded: bool,
    bucket_index: usize,
    spool: Arc<Spool>,
    _permit: OwnedSemaphorePermit,
}

impl Taking {
    /// Plans it.
    ///
    /// Errors: 400 EntityTooLarge, InvalidRequest (a condition), 411 MissingContentLength, and those of the
    /// headers that the body is held to.
    pub(super) fn plan(incoming: Incoming<'_>) -> Result<Taking, S3Error> {
        let Incoming { route, bucket, head, operation, mut authorized, body, .. } = incoming;
        // Opened at the start, since the bucket takes batches.
        let spool = route.engine.spool.as_ref().ok_or_else(unavailable)?;
        let length = prepare::payload_length(head, body.framing(), &authorized.payload)?;
        let most = bucket.upload.max_object_size.min(parts::MAX_SINGLE);
        if length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        if length.is_none() && !bucket.upload.split.unknown_length {
            return Err(parts::missing_length());
        }
        let hash = PayloadHash::Unsigned;
        let owner = Arc::clone(&authorized.owner);
        let guarded = prepare::is_guarded(bucket, operation, &authorized.headers);
        let request = prepare::upstream(bucket, operation, &mut authorized, hash, length);
        authorized.headers.clone_from(&request.headers);
        let headers = of_each(&request.headers)?;
        let mut mode = write_back::mode(bucket, head)?;
        // What goes through for the headers of all does so from the beginning.
        let any = Operation::PutObject { key: ObjectKey::new("any".to_owned())? };
        if !write_back::can_wait(bucket, &any, "", &headers, Some(0)) {
            mode = Mode::WriteThrough;
        }
        if mode == Mode::WriteThrough {
            has_keys(bucket)?;
        }
        let payload = length.map_or(PayloadLength::AtMost(most), PayloadLength::Exactly);
        let (intake, _) =
            prepare::plan_stored(&route.engine, bucket, head, authorized, body, payload)?;
        Ok(Taking {
            bucket: Arc::clone(bucket),
            head: head.clone(),
            mode,
            owner,
            bucket_index: incoming.bucket_index,
            spool: Arc::clone(spool),
            identity: incoming.identity,
            headers,
            guarded,
            intake,
            length,
            most,
            permit: incoming.permit,
        })
    }

    /// Takes the body into the spool. `bytes` is told how many came.
    pub(super) async fn take(self, route: &Route, bytes: &mut u64) -> Result<Taken, Failed> {
        let ingested =
            ingest(&self.spool, self.intake, self.length, self.most, &route.replay.turns).await;
        let ingested = ingested.map_err(|error| {
            *bytes = error.volume.copied + error.volume.spliced;
            Failed { error: error.error, close: !error.body_taken }
        })?;
        *bytes = ingested.volume.copied + ingested.volume.spliced;
        let md5 = ingested.body.md5_hex();
        let spooled = Spooled::open(&self.spool, ingested).await?;
        let (bucket, head, identity) = (self.bucket, self.head, self.identity);
        Ok(Taken {
            spooled,
            md5,
            sender: Sender { bucket, head, identity },
            mode: self.mode,
            headers: self.headers,
            guarded: self.guarded,
            bucket_index: self.bucket_index,
            spool: self.spool,
            _permit: self.permit,
        })
    }
}

impl Taken {
    /// How its entries are published.
    pub(super) fn publication(&self, route: &Route, witness: Witness) -> Publication {
        Publication {
            route: route.clone(),
            bucket_index: self.bucket_index,
            bucket: Arc::clone(&self.sender.bucket),
            spool: Arc::clone(&self.spool),
            headers: self.headers.clone(),
            guarded: self.guarded,
            write_back: self.mode == Mode::WriteBack,
            witness,
        }
    }
}

/// What each object is sent with, of what a PUT of the whole would have been: its metadata, storage class
/// and the like. What describes the body's own bytes stays behind.
///
/// Errors: 400 InvalidRequest: a condition that no object could be held to.
fn of_each(headers: &[(String, Vec<u8>)]) -> Result<Vec<(String, Vec<u8>)>, S3Error> {
    let mut kept = Vec::new();
    for (name, value) in headers {
        let of_body = matches!(
            name.as_str(),
            "content-type"
                | "content-encoding"
                | "content-disposition"
                | "content-md5"
                | "x-amz-sdk-checksum-algorithm"
        ) || ChecksumAlgorithm::from_header(name).is_some();
        if name == "if-match" || name == "if-none-match" && value != b"*" {
            let message = "The objects of a batch have no ETag in common: of conditions only \
                           If-None-Match: * can be asked.";
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
        if !of_body {
            kept.push((name.clone(), value.clone()));
        }
    }
    Ok(kept)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> (String, Vec<u8>) {
        (name.to_owned(), value.as_bytes().to_vec())
    }

    #[test]
    fn what_is_the_archive_s_own_stays_behind() {
        let all = [
            header("content-type", "application/x-tar"),
            header("content-encoding", "gzip"),
            header("content-md5", "x"),
            header("x-amz-checksum-crc32", "x"),
            header("x-amz-meta-owner", "me"),
            header("cache-control", "no-store"),
            header("if-none-match", "*"),
        ];
        let kept = of_each(&all).unwrap();
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-amz-meta-owner", "cache-control", "if-none-match"]);
        assert!(of_each(&[header("if-match", "\"e\"")]).is_err());
        assert!(of_each(&[header("if-none-match", "\"e\"")]).is_err());
    }
}
