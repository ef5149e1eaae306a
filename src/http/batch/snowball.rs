//! A PUT whose body is an archive, as AWS Snow devices and MinIO take it
//! (`x-amz-meta-snowball-auto-extract: true`): its files become objects, and it becomes none itself.
//!
//! Once the archive is verified, what it asks for is carried out to its end, whether or not its client
//! still waits, as a Complete is.

use super::super::http_actor::Account;
use super::super::reply::Reply;
use super::super::request::{Failed, too_large};
use super::super::route::Route;
use super::super::write_back;
use super::publish::{Publication, Totals};
use super::witness::Witness;
use super::{Sender, Spooled, unavailable};
use mizuchi_actors::auth_actor::Authorized;
use mizuchi_actors::batch::{Index, Prefix, Refusal};
use mizuchi_actors::config::{Bucket, Mode};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::identity::Identity;
use mizuchi_actors::payload::{ChecksumAlgorithm, PayloadLength};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::headers::MODE;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::spool::{Spool, ingest};
use mizuchi_actors::tap::RequestBody;
use mizuchi_actors::transfer::Intake;
use mizuchi_actors::upload::{parts, prepare};
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// The header that makes an archive of a PUT (AWS Snowball Edge Developer Guide, "Batching small files").
const EXTRACT: &str = "x-amz-meta-snowball-auto-extract";

/// MinIO's: a folder for all objects.
const PREFIX: &str = "x-amz-meta-minio-snowball-prefix";

/// MinIO's: folders do not become empty objects.
const IGNORE_DIRS: &str = "x-amz-meta-minio-snowball-ignore-dirs";

/// MinIO's: entries that cannot be stored are passed over.
const IGNORE_ERRORS: &str = "x-amz-meta-minio-snowball-ignore-errors";

/// How many entries have become objects, and how many have not: the gateway's own.
const STORED: &str = "x-mizuchi-batch-stored";
const FAILED: &str = "x-mizuchi-batch-failed";

/// The name of such requests in the access log and in metrics: MinIO's.
pub(in crate::http) const NAME: &str = "PutObjectExtract";

/// Bytes of an entry's name in an error.
const SHOWN: usize = 200;

/// Whether a request asks for it: MinIO looks for `true`.
pub(in crate::http) fn is_asked(head: &RequestHead) -> bool {
    head.header(EXTRACT).is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
}

/// Errors: 403 AccessDenied: the bucket takes no archives; 501 NotImplemented: a form, or a multipart
/// upload.
pub(in crate::http) fn check(
    bucket: &Bucket,
    operation: &Operation,
    form: bool,
) -> Result<(), S3Error> {
    if !bucket.upload.batch.snowball {
        let message = "Access Denied: archives are not unpacked in this bucket \
                       (upload.batch.snowball).";
        return Err(S3Error::new(ErrorCode::AccessDenied, message));
    }
    if form || !matches!(operation, Operation::PutObject { .. }) {
        let message = "Only the archive of a PutObject is unpacked.";
        return Err(S3Error::new(ErrorCode::NotImplemented, message));
    }
    Ok(())
}

#[derive(Debug)]
struct Options {
    prefix: Prefix,
    folders: bool,
    strict: bool,
}

impl Options {
    fn of(head: &RequestHead) -> Result<Options, S3Error> {
        let says = |name| head.header(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let prefix = head.values(PREFIX).next().unwrap_or_default();
        Ok(Options {
            prefix: Prefix::parse(prefix)?,
            folders: !says(IGNORE_DIRS),
            strict: !says(IGNORE_ERRORS),
        })
    }
}

/// What each object is sent with, of what the archive's PUT would have been: its metadata, storage class
/// and the like. What describes the archive's own bytes stays behind.
///
/// Errors: 400 InvalidRequest: a condition that no object could be held to.
fn of_each(headers: &[(String, Vec<u8>)]) -> Result<Vec<(String, Vec<u8>)>, S3Error> {
    let mut kept = Vec::new();
    for (name, value) in headers {
        let of_archive = matches!(
            name.as_str(),
            "content-type"
                | "content-encoding"
                | "content-disposition"
                | "content-md5"
                | "x-amz-sdk-checksum-algorithm"
                | EXTRACT
        ) || name.starts_with("x-amz-meta-minio-snowball-")
            || ChecksumAlgorithm::from_header(name).is_some();
        if name == "if-match" || name == "if-none-match" && value != b"*" {
            let message = "An archive's objects have no ETag in common: of conditions only \
                           If-None-Match: * can be asked.";
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
        if !of_archive {
            kept.push((name.clone(), value.clone()));
        }
    }
    Ok(kept)
}

/// An archive on its way.
pub(in crate::http) struct SnowballJob {
    bucket_index: usize,
    bucket: Arc<Bucket>,
    spool: Arc<Spool>,
    head: RequestHead,
    identity: Identity,
    operation: Operation,
    options: Options,
    headers: Vec<(String, Vec<u8>)>,
    mode: Mode,
    intake: Intake,
    length: Option<u64>,
    most: u64,
    _permit: OwnedSemaphorePermit,
}

/// What a [`SnowballJob`] is made of, as the request brought it.
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

impl SnowballJob {
    /// Plans it.
    ///
    /// Errors: 400 EntityTooLarge, InvalidArgument (its prefix), InvalidRequest, and those of the headers
    /// that the body is held to.
    pub(in crate::http) fn new(incoming: Incoming<'_>) -> Result<SnowballJob, Failed> {
        let unread = !incoming.body.is_done();
        SnowballJob::plan(incoming).map_err(|error| Failed { error, close: unread })
    }

    fn plan(incoming: Incoming<'_>) -> Result<SnowballJob, S3Error> {
        let Incoming { route, bucket, head, operation, mut authorized, body, .. } = incoming;
        let options = Options::of(head)?;
        // Opened at the start, since the bucket takes archives.
        let spool = route.engine.spool.as_ref().ok_or_else(unavailable)?;
        let length = prepare::payload_length(head, body.framing(), &authorized.payload)?;
        let most = bucket.upload.max_object_size.min(parts::MAX_SINGLE);
        if length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        if length.is_none() && !bucket.upload.split.unknown_length {
            return Err(parts::missing_length());
        }
        let hash = mizuchi_actors::sigv4::PayloadHash::Unsigned;
        let request = prepare::upstream(bucket, operation, &mut authorized, hash, length);
        authorized.headers.clone_from(&request.headers);
        let headers = of_each(&request.headers)?;
        let mode = write_back::mode(bucket, head)?;
        let payload = length.map_or(PayloadLength::AtMost(most), PayloadLength::Exactly);
        let (intake, _) =
            prepare::plan_stored(&route.engine, bucket, head, authorized, body, payload)?;
        Ok(SnowballJob {
            bucket_index: incoming.bucket_index,
            bucket: Arc::clone(bucket),
            spool: Arc::clone(spool),
            head: head.clone(),
            identity: incoming.identity,
            operation: operation.clone(),
            options,
            headers,
            mode,
            intake,
            length,
            most,
            _permit: incoming.permit,
        })
    }

    /// Takes the archive, looks it through, and publishes its entries. The answer is an S3 server's to a
    /// PutObject: the ETag is the archive's MD5.
    pub(in crate::http) async fn run(
        self,
        route: &Route,
        account: &mut Account,
    ) -> Result<Reply, Failed> {
        let SnowballJob { bucket, spool, options, intake, length, most, .. } = self;
        // Its own key is none that is written.
        account.audited = None;
        let witness = Witness::new(account);
        let ingested = ingest(&spool, intake, length, most, &route.replay.turns).await;
        let ingested = ingested.map_err(|error| {
            account.bytes = error.volume.copied + error.volume.spliced;
            Failed { error: error.error, close: !error.body_taken }
        })?;
        account.bytes = ingested.volume.copied + ingested.volume.spliced;
        let etag = format!("\"{}\"", ingested.body.md5_hex());
        let spooled = Spooled::open(&spool, ingested).await?;
        let place = Arc::clone(&bucket.upload.batch.places).acquire_owned().await;
        let _place = place.map_err(|_| unavailable())?;
        let mut index = spooled.scan(&bucket, options.prefix, options.folders).await?;
        if options.strict
            && let Some(error) = first_refused(&index)
        {
            return Err(error.into());
        }
        let sender =
            Sender { bucket: Arc::clone(&bucket), head: self.head, identity: self.identity };
        let denied = sender.authorize(route, &witness, &mut index, options.strict).await?;
        if let Some((number, error)) = denied {
            let entries = &route.engine.metrics.batch_entries;
            entries.with_label_values(&["denied"]).inc();
            return Err(about(&index, number, error, 0).into());
        }
        let passed_over = count_refused(route, &index);
        let publication = Publication {
            route: route.clone(),
            bucket_index: self.bucket_index,
            bucket: Arc::clone(&bucket),
            spool,
            operation: self.operation,
            headers: self.headers,
            write_back: self.mode == Mode::WriteBack,
            witness,
        };
        let index = Arc::new(index);
        let totals = publication.run(&spooled.archive, Arc::clone(&index), options.strict).await;
        let Totals { stored, failed, first } = totals;
        if options.strict
            && let Some((number, error)) = first
        {
            return Err(about(&index, number, error, stored).into());
        }
        let mut headers = vec![
            ("etag".to_owned(), etag.into_bytes()),
            (STORED.to_owned(), stored.to_string().into_bytes()),
            (FAILED.to_owned(), (failed + passed_over).to_string().into_bytes()),
        ];
        if self.mode == Mode::WriteBack {
            headers.push((MODE.to_owned(), b"write_back".to_vec()));
        }
        Ok(Reply::empty(200, headers))
    }
}

/// The first entry that cannot become an object, as an error over the whole.
fn first_refused(index: &Index) -> Option<S3Error> {
    let refused = |entry: mizuchi_actors::batch::Entry<'_>| {
        entry.refused.filter(|why| *why != Refusal::Replaced)
    };
    let (number, why) =
        index.iter().enumerate().find_map(|(number, entry)| Some((number, refused(entry)?)))?;
    Some(about(index, number, why.error(), 0))
}

/// Counts those that are passed over; entries whose name comes again are none.
fn count_refused(route: &Route, index: &Index) -> u64 {
    let entries = &route.engine.metrics.batch_entries;
    let mut refused = 0;
    for why in index.iter().filter_map(|entry| entry.refused) {
        let label = match why {
            Refusal::Replaced => continue,
            Refusal::Denied | Refusal::Undecided => "denied",
            _ => "refused",
        };
        entries.with_label_values(&[label]).inc();
        refused += 1;
    }
    refused
}

/// An entry's error as that of the whole: which one it was, and what is stored all the same.
fn about(index: &Index, number: usize, error: S3Error, stored: u64) -> S3Error {
    let name = index.get(number).map_or("", |entry| entry.key);
    let name = name.get(..name.floor_char_boundary(SHOWN)).unwrap_or_default();
    let what = match stored {
        0 => "Nothing of the archive was stored".to_owned(),
        stored => format!("{stored} of the archive's {} entries were stored", index.len()),
    };
    let message = format!("{what}; the entry {name:?} was not: {}", error.message);
    S3Error { message: message.into(), ..error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

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
            header(EXTRACT, "true"),
            header(PREFIX, "p"),
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

    #[test]
    fn options_are_minio_s() {
        let head = |lines: &str| {
            let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            RequestHead::parse(Bytes::from(text)).unwrap()
        };
        assert!(is_asked(&head("X-Amz-Meta-Snowball-Auto-Extract: TRUE\r\n")));
        assert!(!is_asked(&head("X-Amz-Meta-Snowball-Auto-Extract: false\r\n")));
        let plain = Options::of(&head("")).unwrap();
        assert!(plain.folders && plain.strict && plain.prefix == Prefix::default());
        let lines = "X-Amz-Meta-Minio-Snowball-Prefix: /a/b\r\n\
                     X-Amz-Meta-Minio-Snowball-Ignore-Dirs: true\r\n\
                     X-Amz-Meta-Minio-Snowball-Ignore-Errors: true\r\n";
        let all = Options::of(&head(lines)).unwrap();
        assert!(!all.folders && !all.strict);
        assert_eq!(all.prefix.as_str(), "a/b/");
        assert!(Options::of(&head("X-Amz-Meta-Minio-Snowball-Prefix: ../b\r\n")).is_err());
    }
}
