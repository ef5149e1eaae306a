//! A PUT whose body is an archive, as AWS Snow devices and MinIO take it
//! (`x-amz-meta-snowball-auto-extract: true`): its files become objects, and it becomes none itself.
//!
//! Once the archive is verified, what it asks for is carried out to its end, whether or not its client
//! still waits, as a Complete is.

use super::super::http_actor::Account;
use super::super::reply::Reply;
use super::super::request::Failed;
use super::super::route::Route;
use super::InPlace;
use super::publish::{EntryEnd, Totals};
use super::taking::{Incoming, Taking};
use super::witness::Witness;
use mizuchi_actors::batch::{Index, Prefix, Refusal};
use mizuchi_actors::config::{Bucket, Mode};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::headers::{EXTRACT, MODE};
use mizuchi_actors::s3::operation::Operation;
use std::sync::Arc;

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

/// Whether a request asks for it.
///
/// Errors: 400 InvalidArgument: it says neither `true` nor `false`, where another server might read one.
pub(in crate::http) fn is_asked(head: &RequestHead) -> Result<bool, S3Error> {
    let mut asked = false;
    for value in head.values(EXTRACT) {
        if value.eq_ignore_ascii_case(b"true") {
            asked = true;
        } else if !value.eq_ignore_ascii_case(b"false") {
            let message = "x-amz-meta-snowball-auto-extract must be true or false.";
            return Err(S3Error::new(ErrorCode::InvalidArgument, message));
        }
    }
    Ok(asked)
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

/// An archive on its way.
pub(in crate::http) struct SnowballJob {
    taking: Taking,
    options: Options,
}

impl SnowballJob {
    /// Plans it.
    ///
    /// Errors: 400 InvalidArgument (its prefix), and those of [`Taking::plan`].
    pub(in crate::http) fn new(incoming: Incoming<'_>) -> Result<SnowballJob, Failed> {
        let unread = !incoming.body.is_done();
        let options = Options::of(incoming.head);
        let job = options
            .and_then(|options| Ok(SnowballJob { taking: Taking::plan(incoming)?, options }));
        job.map_err(|error| Failed { error, close: unread })
    }

    /// Takes the archive, looks it through, and publishes its entries. The answer is an S3 server's to a
    /// PutObject: the ETag is the archive's MD5.
    pub(in crate::http) async fn run(
        self,
        route: &Route,
        account: &mut Account,
    ) -> Result<Reply, Failed> {
        let SnowballJob { taking, options } = self;
        // Its own key is none that is written.
        account.audited = None;
        let witness = Witness::new(account);
        let bucket = Arc::clone(&taking.bucket);
        let taken = taking.take(route, &mut account.bytes).await?;
        let _place = InPlace::take(route, &bucket).await?;
        let mut index = taken.spooled.scan(&bucket, options.prefix, options.folders).await?;
        if options.strict
            && let Some(error) = first_refused(&index)
        {
            count_refused(route, &index);
            return Err(error.into());
        }
        let denied = taken.sender.authorize(route, &witness, &mut index, options.strict).await?;
        let passed_over = count_refused(route, &index);
        if let Some((number, error)) = denied {
            return Err(about(&index, number, error, 0).into());
        }
        let publication = taken.publication(route, witness);
        let index = Arc::new(index);
        let archive = &taken.spooled.archive;
        let all = async |_: &EntryEnd| true;
        let totals = publication.run(archive, Arc::clone(&index), options.strict, all).await;
        let Totals { stored, failed, first } = totals;
        if options.strict
            && let Some((number, error)) = first
        {
            return Err(about(&index, number, error, stored).into());
        }
        let mut headers = vec![
            ("etag".to_owned(), format!("\"{}\"", taken.md5).into_bytes()),
            (STORED.to_owned(), stored.to_string().into_bytes()),
            (FAILED.to_owned(), (failed + passed_over).to_string().into_bytes()),
        ];
        if taken.mode == Mode::WriteBack {
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
pub(super) fn count_refused(route: &Route, index: &Index) -> u64 {
    let (mut denied, mut refused) = (0, 0);
    for why in index.iter().filter_map(|entry| entry.refused) {
        match why {
            Refusal::Replaced | Refusal::Stored => {}
            Refusal::Denied | Refusal::Undecided => denied += 1,
            _ => refused += 1,
        }
    }
    let entries = &route.engine.metrics.batch_entries;
    entries.with_label_values(&["denied"]).inc_by(denied);
    entries.with_label_values(&["refused"]).inc_by(refused);
    denied + refused
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

    #[test]
    fn options_are_minio_s() {
        let head = |lines: &str| {
            let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            RequestHead::parse(Bytes::from(text)).unwrap()
        };
        let asked = |values: &[&str]| {
            let line = |value: &&str| format!("X-Amz-Meta-Snowball-Auto-Extract: {value}\r\n");
            is_asked(&head(&values.iter().map(line).collect::<String>())).map_err(|e| e.code)
        };
        assert_eq!(asked(&[]), Ok(false));
        assert_eq!(asked(&["false"]), Ok(false));
        for values in [&["TRUE"][..], &[" true "], &["false", "true"], &["true", "false"]] {
            assert_eq!(asked(values), Ok(true), "{values:?}");
        }
        for values in [&["untrue"][..], &[""], &["true", "untrue"], &["true\u{e9}"], &["1"]] {
            assert_eq!(asked(values).unwrap_err(), "InvalidArgument", "{values:?}");
        }
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
