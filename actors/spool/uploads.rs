//! Multipart uploads of clients whose parts stand here until they are completed, and are an entry then.
//!
//! What is decided of an upload is decided under the lock of its table, and queued for the journal under
//! it: the journal's order is that of the decisions. What follows from it, for the table, the account and
//! the files, follows when it is durable, whether or not anybody still waits.

mod check;
mod record;
mod table;

pub use check::part_checksum;
pub use record::{ChecksumRule, ClientUpload, Completed, StoredPart, UploadId};
pub use table::OpenUpload;

pub(super) use record::decode;
pub(super) use table::{COMPLETED, Counts, Idle, Uploads};

use super::journal::{Change, Done, wait};
use super::limits::{self, Amount};
use super::{Doubt, Entry, EntryContent, Reservation, Spool, State, weight};
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::xml::{CompleteRequest, ListedPart, PartsPage};
use record::encode;
use std::collections::HashSet;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use table::{Look, Placed, Snapshot};
use tokio::sync::watch;

/// Parts of the largest page, and of one that says nothing (S3's own).
const MAX_LISTED: usize = 1000;

/// How often a Complete or an Abort is decided anew because others were first: who sends parts beside it
/// cannot keep it here for ever.
const TRIES: usize = 16;

/// Uploads that are ended for their age at a time: they are queued together, and share commits.
const MOST_EXPIRED: usize = 64;

/// How long the process that ends an upload for its age must have heard nothing of it itself, where the
/// age is not shorter. A wall clock that is set forward, and a gateway that was stopped, make all uploads
/// old at once: their clients, if they are there, go on within this time.
const QUIET: Duration = Duration::from_secs(3600);

/// Why an upload was not completed.
#[derive(Debug)]
pub enum CompleteError {
    /// What the client is told.
    Refused(S3Error),
    /// The journal has failed: nobody knows what it says of the upload.
    Failed(io::Error),
}

impl Spool {
    /// Whether there may be one more multipart upload, or one more part of one: before a place for it is
    /// taken, or its body read. What comes at the same moment is not counted: it is no more than was
    /// admitted.
    ///
    /// Errors: 503 SlowDown: half of the places are taken by those that are open.
    pub fn may_open(&self) -> Result<(), S3Error> {
        let Counts { uploads, parts, .. } = self.state.uploads().counts();
        let account = limits::lock(&self.state.account);
        account.may_open(uploads.saturating_add(parts)).map_err(S3Error::from)
    }

    /// Puts a new multipart upload on record; it is durable when this returns. The reservation is for its
    /// record.
    ///
    /// Errors: the journal has failed.
    pub async fn begin_upload(
        &self,
        upload: ClientUpload,
        reservation: Reservation,
    ) -> io::Result<UploadId> {
        let change = Change::Begin { record: encode(&upload)? };
        let (state, token) = (Arc::clone(&self.state), upload.token);
        let applied = move |number| {
            reservation.store(Amount::one(0));
            state.uploads().insert(number, Arc::new(upload), Instant::now());
        };
        let (number, done) = self.journal.submit(None, change, applied)?;
        wait(done).await?;
        Ok(UploadId { number, token })
    }

    /// What an upload was begun with; None: there is none that takes parts.
    pub fn upload(&self, id: UploadId) -> Option<Arc<ClientUpload>> {
        self.state.uploads().upload(id)
    }

    /// Whether an upload was begun and not ended, also if that is under way.
    pub fn has_upload(&self, id: UploadId) -> bool {
        self.state.uploads().has(id)
    }

    /// Whether nobody knows what becomes of this upload: its end was queued, and the journal has failed.
    /// The next start may find it.
    pub fn upload_in_doubt(&self, id: UploadId) -> bool {
        self.state.latch.reason().is_some() && self.state.uploads().is_closing(id)
    }

    /// Puts a part on record, instead of what had its number; it is durable when this returns. Its file
    /// must have been synced before, and is the spool's from here on. False: the upload was ended
    /// meanwhile, and the part goes.
    ///
    /// Errors: the journal has failed, and the part may be on record or not.
    pub async fn put_part(
        &self,
        id: UploadId,
        part: StoredPart,
        reservation: Reservation,
    ) -> io::Result<bool> {
        let change = Change::Part { number: part.part.number, record: encode(&part)? };
        let kept = Arc::new(AtomicBool::new(false));
        let done = {
            let uploads = self.state.uploads();
            if !uploads.is_open(id) {
                self.discard(part.file().into_iter().collect());
                return Ok(false);
            }
            let (state, kept) = (Arc::clone(&self.state), Arc::clone(&kept));
            let applied = move |number| {
                kept.store(state.part_stored(number, part, reservation), Ordering::Release);
            };
            self.journal.submit(Some(id.number), change, applied)?.1
        };
        wait(done).await?;
        Ok(kept.load(Ordering::Acquire))
    }

    /// The parts of an upload behind `marker`, at most `most` of them; None: there is none that takes
    /// parts.
    pub fn list_parts(&self, id: UploadId, marker: u32, most: Option<u32>) -> Option<PartsPage> {
        let Look::Open(Snapshot { upload, parts, .. }) = self.state.uploads().look(id) else {
            return None;
        };
        let most = most.map_or(MAX_LISTED, |most| most as usize).min(MAX_LISTED);
        // Behind a greater one there is none either.
        let marker_number = u16::try_from(marker).unwrap_or(u16::MAX);
        let range = (Bound::Excluded(marker_number), Bound::Unbounded);
        let mut behind = parts.range(range).map(|(_, part)| part);
        let mut listed: Vec<ListedPart> = behind.by_ref().take(most).map(listed).collect();
        if upload.checksum.is_none() {
            listed.iter_mut().for_each(|part| part.checksum = None);
        }
        let class = upload.headers.iter().find(|(name, _)| name == "x-amz-storage-class");
        let class = class.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        Some(PartsPage {
            principal: upload.principal.clone(),
            storage_class: class.unwrap_or_default(),
            checksum: upload.checksum.map(|rule| (rule.algorithm, rule.kind)),
            marker,
            most,
            parts: listed,
            truncated: behind.next().is_some(),
        })
    }

    /// Makes an entry of an upload; it is durable and due when this returns. `headers`: those of the
    /// request that pass on. `now`: milliseconds since 1970.
    ///
    /// One that asks again, with the same parts, is told the same again, as long as it is among the last
    /// 4,096.
    ///
    /// Errors: what S3 would refuse, 404 NoSuchUpload, 409 OperationAborted; the journal has
    /// failed.
    pub async fn complete_upload(
        self: &Arc<Self>,
        id: UploadId,
        asked: &CompleteRequest,
        headers: Vec<(String, Vec<u8>)>,
        now: u64,
    ) -> Result<Completed, CompleteError> {
        let mut waited = false;
        for _ in 0..TRIES {
            let looked = self.state.uploads().look(id);
            let found = match looked {
                Look::Open(found) => found,
                Look::Closing(mut ended) => {
                    if std::mem::replace(&mut waited, true) {
                        return Err(CompleteError::Failed(io::Error::other("it cannot be ended")));
                    }
                    // Nothing is ever sent: it is closed.
                    let _ = ended.changed().await;
                    continue;
                }
                Look::Completed(completed)
                    if check::etag_of(asked).as_ref() == Some(&completed.etag) =>
                {
                    return Ok(completed);
                }
                Look::Completed(_) | Look::Unknown => {
                    return Err(CompleteError::Refused(no_such_upload()));
                }
            };
            if let Some(reason) = self.state.latch.reason() {
                // Before there is a doubt: nothing would be queued.
                return Err(CompleteError::Failed(io::Error::other(reason.to_owned())));
            }
            let made = check::complete((id, &found.upload), &found.parts, asked, headers.clone());
            let (parts, completed) = made.map_err(CompleteError::Refused)?;
            let upload = &found.upload;
            let entry = Entry {
                bucket: upload.bucket.clone(),
                key: upload.key.clone(),
                accepted: now,
                principal: upload.principal.clone(),
                headers: upload.headers.clone(),
                content: EntryContent::Parts(parts),
                quarantined: None,
                upload_id: None,
                superseded: None,
            };
            // Before the lock: ten thousand parts are a large record.
            let record = entry.encode().map_err(CompleteError::Failed)?;
            let told = encode(&completed).map_err(CompleteError::Failed)?;
            let ended = self.end_by(id, Some(found.version), |ended| {
                let change = Change::Complete { upload: id.number, record, completed: told };
                let (state, completed) = (Arc::clone(&self.state), completed.clone());
                let entry = Arc::new(entry);
                let doubt = Doubt::of(&state, &entry);
                let applied = move |seq| {
                    doubt.dispel();
                    state.completed(seq, entry, completed);
                    drop(ended);
                };
                Ok(self.journal.submit(None, change, applied)?.1)
            });
            if let Some(done) = ended.map_err(CompleteError::Failed)? {
                wait(done).await.map_err(CompleteError::Failed)?;
                return Ok(completed);
            }
        }
        let message = "Parts of this upload are being sent at the same time. Please try again.";
        Err(CompleteError::Refused(S3Error::new(ErrorCode::OperationAborted, message)))
    }

    /// Ends an upload and removes its parts; that is durable when it returns. False: there is none, or
    /// not any more.
    ///
    /// Errors: the journal has failed.
    pub async fn abort_upload(&self, id: UploadId) -> io::Result<bool> {
        let mut waited = false;
        for _ in 0..TRIES {
            let looked = match self.state.uploads().look(id) {
                Look::Open(_) => None,
                Look::Closing(ended) => Some(ended),
                Look::Completed(_) | Look::Unknown => return Ok(false),
            };
            match looked {
                Some(mut ended) => {
                    if std::mem::replace(&mut waited, true) {
                        break;
                    }
                    let _ = ended.changed().await;
                }
                // Else somebody was first since the look: the next one shows what they do.
                None => {
                    if self.end_upload(id).await? {
                        return Ok(true);
                    }
                }
            }
        }
        Err(io::Error::other("it cannot be ended"))
    }

    /// Ends uploads that gave no sign of life for `ttl`: neither begun nor sent a part since; nor that, for
    /// an hour of the monotonic clock at the most, since the spool was opened. `wall`: milliseconds since
    /// 1970. Gives those that were ended, at most 64 of them.
    ///
    /// Errors: the journal has failed.
    pub async fn expire_uploads(
        &self,
        wall: u64,
        now: Instant,
        ttl: Duration,
    ) -> io::Result<Vec<(UploadId, Arc<ClientUpload>)>> {
        if self.state.latch.reason().is_some() {
            return Ok(Vec::new());
        }
        // Nothing was heard before the clock began.
        let Some(heard) = now.checked_sub(ttl.min(QUIET)) else { return Ok(Vec::new()) };
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let idle = self.state.uploads().idle(wall.saturating_sub(ttl), heard, MOST_EXPIRED);
        self.end_idle(idle).await
    }

    /// Ends those of them that nobody ends and that got no part since they were found idle: whoever was
    /// told that a part is there would be told at the Complete that it is not.
    pub(super) async fn end_idle(
        &self,
        idle: Vec<Idle>,
    ) -> io::Result<Vec<(UploadId, Arc<ClientUpload>)>> {
        let mut queued = Vec::with_capacity(idle.len());
        for Idle { id, upload, version } in idle {
            if let Some(done) = self.queue_end(id, Some(version))? {
                queued.push((id, upload, done));
            }
        }
        let mut ended = Vec::with_capacity(queued.len());
        for (id, upload, done) in queued {
            wait(done).await?;
            ended.push((id, upload));
        }
        Ok(ended)
    }

    /// Ends an upload unless somebody else does.
    async fn end_upload(&self, id: UploadId) -> io::Result<bool> {
        let Some(done) = self.queue_end(id, None)? else { return Ok(false) };
        wait(done).await?;
        Ok(true)
    }

    /// Queues the end of an upload without an entry: as [`Spool::end_by`].
    fn queue_end(&self, id: UploadId, version: Option<u64>) -> io::Result<Option<Done>> {
        self.end_by(id, version, |ended| {
            let state = Arc::clone(&self.state);
            let applied = move |number| {
                state.ended(number);
                drop(ended);
            };
            Ok(self.journal.submit(Some(id.number), Change::End, applied)?.1)
        })
    }

    /// Queues the end of an upload, unless somebody else ends it or it has other parts than at this
    /// version.
    fn end_by<T>(
        &self,
        id: UploadId,
        version: Option<u64>,
        queue: impl FnOnce(watch::Sender<()>) -> io::Result<T>,
    ) -> io::Result<Option<T>> {
        let (ended, receiver) = watch::channel(());
        let mut uploads = self.state.uploads();
        if !uploads.close(id, version, receiver) {
            return Ok(None);
        }
        let queued = queue(ended);
        if queued.is_err() {
            uploads.reopen(id);
        }
        queued.map(Some)
    }
}

impl State {
    /// A part is on record. Whether it is its upload's.
    fn part_stored(&self, number: u64, part: StoredPart, reservation: Reservation) -> bool {
        reservation.store(Amount::one(part.body().length));
        let orphan = part.file();
        let placed = self.uploads().place(number, part.clone(), Instant::now());
        match placed {
            Some(Placed::Kept(before)) => {
                self.give_back(before.into_iter().collect(), &HashSet::new());
                true
            }
            // They go when the upload does.
            Some(Placed::Late) => false,
            // The queue has no part behind its upload's end.
            None => {
                log::error!("spool: part {orphan:?} came behind the end of upload {number}");
                self.give_back(vec![part], &HashSet::new());
                false
            }
        }
    }

    /// An upload is an entry now.
    fn completed(&self, seq: u64, entry: Arc<Entry>, completed: Completed) {
        let number = completed.upload;
        let named: HashSet<_> = entry.files().collect();
        let mut uploads = self.uploads();
        let parts = uploads.end(number).unwrap_or_default();
        uploads.remember(seq, completed);
        drop(uploads);
        {
            let mut account = limits::lock(&self.account);
            account.unstore(Amount::one(0));
            account.store(weight(&entry));
            let kept =
                parts.iter().filter(|part| part.file().is_some_and(|id| named.contains(&id)));
            kept.for_each(|part| account.unstore(Amount::one(part.body().length)));
        }
        self.index().insert(seq, entry);
        self.give_back(parts, &named);
        self.notify();
    }

    /// An upload is gone.
    fn ended(&self, number: u64) {
        let parts = self.uploads().end(number).unwrap_or_default();
        limits::lock(&self.account).unstore(Amount::one(0));
        self.give_back(parts, &HashSet::new());
    }

    /// Parts that nothing stands for any more: their room and their files, but for those that are named.
    fn give_back(&self, parts: Vec<StoredPart>, named: &HashSet<super::BodyId>) {
        let mut files = Vec::new();
        let mut account = limits::lock(&self.account);
        for part in parts {
            let Some(file) = part.file().filter(|file| !named.contains(file)) else { continue };
            account.unstore(Amount::one(part.body().length));
            files.push(file);
        }
        drop(account);
        self.janitor.remove(files);
    }
}

fn listed(stored: &StoredPart) -> ListedPart {
    use crate::payload::ChecksumAlgorithm;
    let part = &stored.part;
    let checksum = part.checksum.as_ref();
    let checksum = checksum
        .and_then(|(header, value)| Some((ChecksumAlgorithm::from_header(header)?, value.clone())));
    ListedPart {
        number: part.number,
        stored: stored.stored,
        etag: part.body.md5_hex(),
        size: part.body.length,
        checksum,
    }
}

/// What is said of an upload that is none, or none any more.
pub fn no_such_upload() -> S3Error {
    let message = "The specified upload does not exist. The upload ID may be invalid, or the upload may \
                   have been aborted or completed.";
    S3Error::new(ErrorCode::NoSuchUpload, message)
}
