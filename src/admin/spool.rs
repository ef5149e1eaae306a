//! The spool's pages: what `mizuchi spool` asks while the gateway runs.

use super::{Deadline, Sent, json, plain};
use crate::spool::local::Local;
use crate::spool::shown::{self, MAX_PAGE, Summary};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_DISPOSITION, HeaderValue};
use hyper::{Response, StatusCode};
use mizuchi_actors::config::{Engine, Mode};
use mizuchi_actors::spool::{Blocks, Spool};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Entries of a page where its reader does not say.
const PAGE: usize = 100;

/// The longest time to read one body back: 5 GiB, the largest, at 6 MB/s.
const CHECK: Duration = Duration::from_secs(900);

/// The longest time for some hundred entries to be taken out of the quarantine.
const STEP: Duration = Duration::from_secs(60);

/// The longest time until a reader takes the next block of a body.
const BLOCK: Duration = Duration::from_secs(60);

/// How long the oldest may wait before the gateway calls itself degraded.
const OLD: u64 = 3600;

/// A page under `/spool`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpoolPage {
    Summary,
    Entries,
    Entry(u64),
    Body(u64),
    Verify(u64),
    /// Open multipart uploads.
    Uploads,
    VerifyUpload(u64),
    /// POST, as the next.
    RetryAll,
    Retry(u64),
}

impl SpoolPage {
    /// The page of this path after `/spool`.
    pub(super) fn at(path: &str) -> Option<SpoolPage> {
        match path {
            "" => return Some(SpoolPage::Summary),
            "/entries" => return Some(SpoolPage::Entries),
            "/retry" => return Some(SpoolPage::RetryAll),
            "/uploads" => return Some(SpoolPage::Uploads),
            _ => {}
        }
        if let Some(rest) = path.strip_prefix("/uploads/") {
            return digits(rest.strip_suffix("/verify")?).map(SpoolPage::VerifyUpload);
        }
        let rest = path.strip_prefix("/entries/")?;
        let (number, what) = rest.split_once('/').unwrap_or((rest, ""));
        let number = digits(number)?;
        Some(match what {
            "" if !rest.ends_with('/') => SpoolPage::Entry(number),
            "body" => SpoolPage::Body(number),
            "verify" => SpoolPage::Verify(number),
            "retry" => SpoolPage::Retry(number),
            _ => return None,
        })
    }

    /// Whether it changes something: POST alone.
    pub(super) fn is_action(self) -> bool {
        matches!(self, SpoolPage::RetryAll | SpoolPage::Retry(_))
    }
}

/// No sign, no white space.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Answers; whoever asks may.
pub(super) async fn answer(
    spool: &Arc<Spool>,
    page: SpoolPage,
    query: &str,
    deadline: &Deadline,
) -> Response<Sent> {
    let local = Local(Arc::clone(spool));
    let no_entry = || plain(StatusCode::NOT_FOUND, "no such entry\n");
    let found = |found: Option<Response<Sent>>| found.unwrap_or_else(no_entry);
    match page {
        SpoolPage::Summary => json(&local.summary()),
        SpoolPage::Entries => match range(query) {
            Some((after, most)) => json(&shown::Page { entries: local.page(after, most) }),
            None => plain(StatusCode::BAD_REQUEST, "only after= and most=, each a number\n"),
        },
        SpoolPage::Uploads => match range(query) {
            Some((after, most)) => json(&shown::UploadPage { uploads: local.uploads(after, most) }),
            None => plain(StatusCode::BAD_REQUEST, "only after= and most=, each a number\n"),
        },
        SpoolPage::VerifyUpload(number) => {
            let verdict = local.verify_upload(number, || deadline.extend(CHECK)).await;
            found(verdict.map(|verdict| json(&verdict)))
        }
        SpoolPage::Entry(number) => found(local.record(number).map(|record| json(&record))),
        SpoolPage::Verify(number) => {
            let verdict = local.verify(number, || deadline.extend(CHECK)).await;
            found(verdict.map(|verdict| json(&verdict)))
        }
        SpoolPage::Body(number) => match local.body(number).await {
            Ok(blocks) => found(blocks.map(|blocks| body(blocks, deadline))),
            Err(error) => failed("a body cannot be read", &error),
        },
        SpoolPage::Retry(number) => {
            let Some(force) = forced(query) else { return not_forced() };
            deadline.extend(STEP);
            match local.retry(number, force).await {
                Ok(retried) => found(retried.map(|retried| json(&retried))),
                Err(error) => failed("nothing can be put on record", &error),
            }
        }
        SpoolPage::RetryAll => {
            let Some(force) = forced(query) else { return not_forced() };
            match local.retry_all(force, || deadline.extend(STEP)).await {
                Ok(retried) => json(&retried),
                Err(error) => failed("nothing can be put on record", &error),
            }
        }
    }
}

/// Whether newer objects may be written over; None: the query says something else.
fn forced(query: &str) -> Option<bool> {
    match query {
        "" | "force=false" => Some(false),
        "force=true" => Some(true),
        _ => None,
    }
}

fn not_forced() -> Response<Sent> {
    plain(StatusCode::BAD_REQUEST, "only force=true\n")
}

fn failed(what: &'static str, error: &io::Error) -> Response<Sent> {
    log::error!("admin: the spool: {what}: {error}");
    super::answered(StatusCode::INTERNAL_SERVER_ERROR, super::TEXT, format!("{what}: {error}\n"))
}

/// `after=` and `most=`; None: something else.
fn range(query: &str) -> Option<(u64, usize)> {
    let (mut after, mut most) = (0, PAGE);
    for field in query.split('&').filter(|field| !field.is_empty()) {
        match field.split_once('=')? {
            ("after", value) => after = digits(value)?,
            ("most", value) => most = usize::try_from(digits(value)?).ok()?.clamp(1, MAX_PAGE),
            _ => return None,
        }
    }
    Some((after, most))
}

fn body(blocks: Blocks, deadline: &Deadline) -> Response<Sent> {
    let sending = Sending { left: blocks.left(), next: step(blocks), deadline: deadline.clone() };
    let mut response = super::of_body("application/octet-stream", Sent::new(sending));
    // Whatever a client has uploaded: a browser must not take it for a page.
    let attachment = HeaderValue::from_static("attachment");
    response.headers_mut().insert(CONTENT_DISPOSITION, attachment);
    response
}

type Step = Pin<Box<dyn Future<Output = (io::Result<Option<Bytes>>, Blocks)> + Send>>;

fn step(mut blocks: Blocks) -> Step {
    Box::pin(async move { (blocks.next().await, blocks) })
}

/// A body on its way out. Each block that its reader takes gives it more time.
struct Sending {
    left: u64,
    next: Step,
    deadline: Deadline,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let (read, blocks) = ready!(self.next.as_mut().poll(context));
        self.left = blocks.left();
        self.next = step(blocks);
        self.deadline.extend(BLOCK);
        Poll::Ready(read.transpose().map(|read| read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What `/readyz` says of the spool.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// No upload is taken before a restart.
    pub(super) is_down: bool,
    /// What an operator should look at.
    pub(super) degraded: Option<String>,
}

/// How the spool is.
pub(super) fn health(engine: &Engine) -> Health {
    let Some(spool) = &engine.spool else { return Health { is_down: false, degraded: None } };
    let only_back = engine.buckets.iter().all(|bucket| bucket.upload.mode == Mode::WriteBack);
    judge(&Summary::of(spool), only_back)
}

/// Down: only where every bucket writes back, and the spool takes nothing.
fn judge(summary: &Summary, only_back: bool) -> Health {
    let mut found = Vec::new();
    if summary.latched {
        found.push("the spool's disk has failed".to_owned());
    }
    if summary.unreadable > 0 {
        found.push(format!("unreadable records of uploads: {}", summary.unreadable));
    }
    if summary.quarantined > 0 {
        found.push(format!("uploads set aside: {}", summary.quarantined));
    }
    if summary.oldest_seconds.is_some_and(|oldest| oldest > OLD) {
        found.push("uploads wait for more than an hour".to_owned());
    }
    let degraded = (!found.is_empty()).then(|| found.join(", "));
    Health { is_down: summary.latched && only_back, degraded }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for (path, page) in [
            ("", SpoolPage::Summary),
            ("/entries", SpoolPage::Entries),
            ("/entries/7", SpoolPage::Entry(7)),
            ("/entries/7/body", SpoolPage::Body(7)),
            ("/entries/7/verify", SpoolPage::Verify(7)),
            ("/entries/7/retry", SpoolPage::Retry(7)),
            ("/retry", SpoolPage::RetryAll),
            ("/uploads", SpoolPage::Uploads),
            ("/uploads/7/verify", SpoolPage::VerifyUpload(7)),
        ] {
            assert_eq!(SpoolPage::at(path), Some(page), "{path}");
        }
        for path in [
            "/",
            "s",
            "/entries/",
            "/entries/7/",
            "/entries/+7",
            "/entries/7 ",
            "/entries/x",
            "/entries//body",
            "/entries/7/body/",
            "/entries/7/delete",
            "/entries/99999999999999999999",
            "/retry/7",
            "/uploads/",
            "/uploads/7",
            "/uploads/7/verify/",
            "/uploads/+7/verify",
            "/uploads//verify",
        ] {
            assert_eq!(SpoolPage::at(path), None, "{path}");
        }
    }

    /// "latched -> 503 only if every bucket writes back": elsewhere uploads go through.
    #[test]
    fn only_a_spool_that_takes_nothing_makes_the_gateway_unready() {
        let well = Summary { waiting: 9, oldest_seconds: Some(OLD), ..Summary::default() };
        assert_eq!(judge(&well, true), Health { is_down: false, degraded: None });
        let late = Summary { oldest_seconds: Some(OLD + 1), quarantined: 2, ..well.clone() };
        let health = judge(&late, true);
        let text = "uploads set aside: 2, uploads wait for more than an hour";
        assert_eq!(health, Health { is_down: false, degraded: Some(text.to_owned()) });
        let latched = Summary { latched: true, ..well };
        assert!(judge(&latched, true).is_down);
        assert!(!judge(&latched, false).is_down);
        assert!(judge(&latched, false).degraded.is_some());
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(range(""), Some((0, PAGE)));
        assert_eq!(range("after=5&most=7"), Some((5, 7)));
        assert_eq!(range("most=0"), Some((0, 1)));
        assert_eq!(range("most=18446744073709551615"), Some((0, MAX_PAGE)));
        for wrong in ["most", "most=", "after=-1", "most=1&x=2", "most=99999999999999999999"] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
