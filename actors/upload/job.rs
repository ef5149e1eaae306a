//! One request to the backend as the supervisor holds it: what to send, and what an end is.

use super::machine::{Failure, Kind};
use super::split::Shape;
use crate::config::Bucket;
use crate::payload::ChecksumAlgorithm;
use crate::s3::error::S3Error;
use crate::s3::split_headers::SplitHeaders;
use crate::s3::upstream::UpstreamTemplate;
use crate::transfer::{Intake, PartSource, Plan, Reason, ReplayResources, Volume};
use bytes::Bytes;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedSemaphorePermit;

/// An upload for the supervisor.
#[derive(Debug)]
pub struct UploadJob {
    /// Which bucket, by its place in `Engine::buckets`.
    pub bucket_index: usize,
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// What it is, for the state machine.
    pub kind: Kind,
    /// What is sent.
    pub request: UpstreamTemplate,
    /// Its body.
    pub content: Content,
    /// Which way the body goes, and why.
    pub plan: Option<(Plan, Reason)>,
    /// What would prove that the backend has the object, should its answer be lost.
    pub proof: Proof,
    /// Admission: held until the upload has ended.
    pub permit: Permit,
}

/// What an upload holds until it has ended: its place among those that may run.
#[derive(Debug)]
pub enum Permit {
    /// Its own.
    Own(OwnedSemaphorePermit),
    /// A delivery's, whose requests follow one another.
    Shared(Arc<OwnedSemaphorePermit>),
    /// None while something else is waited for.
    Left,
}

impl From<OwnedSemaphorePermit> for Permit {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Permit::Own(permit)
    }
}

/// What goes to the backend after the head.
#[derive(Debug)]
pub enum Content {
    /// Nothing.
    None,
    /// A small document (CompleteMultipartUpload's list of parts).
    Document(Bytes),
    /// A client's body, or a part of it.
    Body {
        /// The body and its replay buffer.
        source: Box<PartSource>,
        /// How it meets its head.
        before: Before,
    },
}

/// What is read of a body before its head is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Its first byte.
    First,
    /// All of it: it is small, and then goes out in one write with its head, where a checksum that
    /// came as a trailer still finds its place.
    All,
    /// All of it: the head says how long it is, and may carry a Content-MD5 computed here.
    Measured,
}

/// What a HEAD must show for an object to be the one that was sent (R11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Nothing would prove it.
    None,
    /// An ETag, without quotes: the MD5 that the client announced, or that of a multipart upload.
    ETag(String),
    /// A checksum header and its value.
    Checksum(String, String),
}

/// A PutObject that goes in parts.
#[derive(Debug)]
pub struct SplitJob {
    /// Which bucket, by its place in `Engine::buckets`.
    pub bucket_index: usize,
    /// The bucket.
    pub bucket: Arc<Bucket>,
    /// How the parts' lengths are known.
    pub shape: Shape,
    /// Bytes of every part but the last.
    pub part_size: u64,
    /// Bytes of the whole, when that is known.
    pub length: Option<u64>,
    /// The PutObject as it came: it is sent so when its body turns out to fit in one part.
    pub put: UpstreamTemplate,
    /// The headers, dealt out.
    pub headers: SplitHeaders,
    /// A checksum over the whole that Complete shall carry: its value, or None: it comes as trailer.
    pub whole: Option<(ChecksumAlgorithm, Option<String>)>,
    /// Each part is taken whole and carries a Content-MD5 (`s3.require_checksum`).
    pub part_md5: bool,
    /// The client's body.
    pub intake: Intake,
    /// What the parts' replay buffers draw on.
    pub resources: ReplayResources,
    /// Which way the body goes, and why.
    pub plan: (Plan, Reason),
    /// The condition on it is the gateway's own.
    pub guarded: bool,
    /// Admission: held until the upload has ended, its abort included.
    pub permit: Permit,
}

/// The backend's successful answer.
#[derive(Debug, Clone, Default)]
pub struct BackendAnswer {
    /// HTTP status, 2xx.
    pub status: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, Bytes)>,
    /// Body, bounded.
    pub body: Bytes,
}

/// How an upload ended, with what the log and the metrics want to know.
#[derive(Debug)]
pub struct UploadEnd {
    /// The answer for the client.
    pub result: Result<BackendAnswer, S3Error>,
    /// What went over.
    pub volume: Volume,
    /// Attempts made again.
    pub restarts: u32,
    /// Whether the client's body was taken to its end: if not, its connection ends.
    pub body_taken: bool,
}

/// How one attempt ended.
#[derive(Debug)]
pub enum AttemptEnd {
    /// The backend answered 2xx.
    Done(BackendAnswer),
    /// It did not; which endpoint was tried, when one was.
    Failed(Failure, Option<usize>),
}

/// Where an upload's content stays between attempts. A worker borrows it; however the worker ends,
/// a panic included, the borrow's drop puts it back.
#[derive(Debug, Clone)]
pub struct ContentSlot {
    content: Arc<Mutex<Option<Content>>>,
    offered: Arc<AtomicBool>,
}

/// A borrowed content.
#[derive(Debug)]
pub struct BorrowedContent {
    slot: ContentSlot,
    /// Some until the drop.
    content: Option<Content>,
}

impl ContentSlot {
    /// A slot that holds the content.
    pub fn new(content: Content) -> Self {
        let content = Arc::new(Mutex::new(Some(content)));
        ContentSlot { content, offered: Arc::default() }
    }

    /// Set by an attempt before it writes the request's last byte: from then on the backend may
    /// have everything, whatever becomes of the worker.
    pub fn offered(&self) -> &AtomicBool {
        &self.offered
    }

    /// Borrows the content; None while another worker has it, or after [`ContentSlot::take`].
    pub fn borrow(&self) -> Option<BorrowedContent> {
        let content = self.lock().take()?;
        Some(BorrowedContent { slot: self.clone(), content: Some(content) })
    }

    /// Looks at the content where it stands.
    pub fn inspect<T>(&self, look: impl FnOnce(&Content) -> T) -> Option<T> {
        self.lock().as_ref().map(look)
    }

    /// Takes the content out for good; None while a worker has it.
    pub fn take(&self) -> Option<Content> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Content>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BorrowedContent {
    /// The content.
    pub fn get(&mut self) -> &mut Content {
        // `content` is None only in drop; a fresh None here would only send an empty body.
        self.content.get_or_insert(Content::None)
    }
}

impl Drop for BorrowedContent {
    fn drop(&mut self) {
        *self.slot.lock() = self.content.take();
    }
}
