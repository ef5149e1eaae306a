//! `buckets[].upload.batch`: many objects in one body (docs/batch.md).

use super::section::Section;
use super::values::{GIB, KIB, TIB, choice, count, duration, integer, size};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The largest that S3 takes in one piece, as an entry is sent (Amazon S3 User Guide, "Uploading objects").
const MAX_ENTRY: u64 = 5 * GIB;

/// `upload.batch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// `snowball: allow`: a PUT may be an archive whose files become objects.
    pub snowball: bool,
    /// `post: allow`: `POST /{bucket}?batch` is served.
    pub post: bool,
    /// How long it is known what of a batch with an Idempotency-Key is stored.
    pub idempotency_ttl: Duration,
    /// Entries of one batch, at most 1,000,000.
    pub max_entries: u64,
    /// Bytes of one entry, at most 5 GiB.
    pub max_entry_size: u64,
    /// Bytes of one batch when it is unpacked.
    pub max_total_size: u64,
    /// Unpacked bytes for each stored one.
    pub max_ratio: u64,
    /// Entries on their way at a time.
    pub concurrency: usize,
    /// Batches at a time.
    pub max_batches: usize,
    /// How long a further one waits.
    pub queue_wait: Duration,
}

impl BatchSettings {
    /// Whether a bucket takes batches at all: they need the spool.
    pub fn any(&self) -> bool {
        self.snowball || self.post
    }
}

pub(super) fn read(s: &mut Section<'_>) -> Option<BatchSettings> {
    const ALLOW: &[(&str, bool)] = &[("allow", true), ("deny", false)];
    let snowball = s.required("snowball", choice(ALLOW));
    let post = s.required("post", choice(ALLOW));
    let idempotency_ttl = s.required("idempotency_ttl", duration(MINUTE..=30 * DAY));
    let max_entries = s.required("max_entries", integer(1..=1_000_000));
    let max_entry_size = s.required("max_entry_size", size(1..=MAX_ENTRY));
    let max_total_size = s.required("max_total_size", size(KIB..=TIB));
    let max_ratio = s.required("max_ratio", integer(1..=1_000_000));
    let concurrency = s.required("concurrency", count(1..=1024));
    let max_batches = s.required("max_batches", count(1..=256));
    let queue_wait = s.required("queue_wait", duration(Duration::ZERO..=10 * MINUTE));
    Some(BatchSettings {
        snowball: snowball?,
        post: post?,
        idempotency_ttl: idempotency_ttl?,
        max_entries: max_entries?,
        max_entry_size: max_entry_size?,
        max_total_size: max_total_size?,
        max_ratio: max_ratio?,
        concurrency: concurrency?,
        max_batches: max_batches?,
        queue_wait: queue_wait?,
    })
}
