//! Open multipart uploads in memory. Pure: time comes in.
//!
//! An upload that somebody ends (a Complete, an Abort, its age) is *closing* from the moment at which
//! that is decided and queued for the journal: whoever comes then is late. So of several that would end
//! it one does, and no file goes before it is known which of them stay.

use super::super::entry::PartBody;
use super::record::{ClientUpload, Completed, StoredPart, UploadId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// Completed uploads that are remembered, for clients that did not hear their answer; the oldest go.
/// Each is under 512 bytes, in memory and in the journal.
pub(crate) const COMPLETED: usize = 4096;

/// Uploads that [`Uploads::idle`] looks at, at most: where the wall clock has leapt, all of them are old
/// by it, and none by the other.
const MOST_LOOKED_AT: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    open: BTreeMap<u64, Open>,
    /// By the time of the last sign of life.
    by_life: BTreeSet<(u64, u64)>,
    /// By the number of the entry that came of it: the greatest is the youngest.
    completed: BTreeMap<u64, Completed>,
    /// The key in `completed`, by the number of the upload.
    completed_of: HashMap<u64, u64>,
    counts: Counts,
}

#[derive(Debug)]
struct Open {
    upload: Arc<ClientUpload>,
    /// Shared with snapshots: copied when one is held while a part comes.
    parts: Arc<BTreeMap<u16, StoredPart>>,
    /// Changes with the parts.
    version: u64,
    /// The last sign of life, milliseconds since 1970.
    life: u64,
    /// When this process heard of it first, or of a part of it last.
    heard: Instant,
    /// Set: it is closing. Closed when it is ended, or when that has failed.
    closing: Option<watch::Receiver<()>>,
    /// Parts that are not it any more, or were never, and whose files wait for its end.
    late: Vec<StoredPart>,
}

/// What is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) uploads: u64,
    pub(crate) parts: u64,
    pub(crate) bytes: u64,
}

/// An upload, for the operator. Times are milliseconds since 1970.
#[derive(Debug, Clone)]
pub struct OpenUpload {
    /// Its number.
    pub number: u64,
    /// What it was begun with.
    pub upload: Arc<ClientUpload>,
    /// How many parts it has.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When it was begun or got a part last.
    pub life: u64,
}

/// What [`Uploads::look`] finds.
#[derive(Debug)]
pub(crate) enum Look {
    /// It takes parts.
    Open(Snapshot),
    /// Somebody ends it.
    Closing(watch::Receiver<()>),
    /// It was completed a while ago.
    Completed(Completed),
    /// It is none, or none any more.
    Unknown,
}

/// An open upload at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) upload: Arc<ClientUpload>,
    pub(crate) parts: Arc<BTreeMap<u16, StoredPart>>,
    /// See [`Uploads::close`].
    pub(crate) version: u64,
}

/// An upload without a sign of life.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) id: UploadId,
    pub(crate) upload: Arc<ClientUpload>,
    /// See [`Uploads::close`].
    pub(crate) version: u64,
}

/// What became of a part that is on record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is the upload's part of that number, instead of this one.
    Kept(Option<StoredPart>),
    /// The upload is being ended without it; what stands for it goes with the upload.
    Late,
}

impl Uploads {
    /// Adds an upload without parts.
    pub(crate) fn insert(&mut self, number: u64, upload: Arc<ClientUpload>, now: Instant) {
        let life = upload.initiated;
        let (parts, late) = (Arc::default(), Vec::new());
        let open = Open { upload, parts, version: 0, life, heard: now, closing: None, late };
        if self.open.insert(number, open).is_none() {
            self.counts.uploads += 1;
            self.by_life.insert((life, number));
        }
    }

    /// A part is on record. None: there is no such upload.
    pub(crate) fn place(&mut self, number: u64, part: StoredPart, now: Instant) -> Option<Placed> {
        let open = self.open.get_mut(&number)?;
        self.counts.parts += 1;
        self.counts.bytes = self.counts.bytes.saturating_add(part.body().length);
        if open.closing.is_some() {
            open.late.push(part);
            return Some(Placed::Late);
        }
        open.heard = now;
        if part.stored > open.life {
            self.by_life.remove(&(open.life, number));
            open.life = part.stored;
            self.by_life.insert((open.life, number));
        }
        open.version += 1;
        let before = Arc::make_mut(&mut open.parts).insert(part.part.number, part);
        if let Some(before) = &before {
            self.counts.take(before);
        }
        Some(Placed::Kept(before))
    }

    /// Whether it takes parts.
    pub(crate) fn is_open(&self, id: UploadId) -> bool {
        self.of(id).is_some_and(|open| open.closing.is_none())
    }

    /// Whether somebody ends it.
    pub(crate) fn is_closing(&self, id: UploadId) -> bool {
        self.of(id).is_some_and(|open| open.closing.is_some())
    }

    /// Whether there is such an upload, also if somebody ends it.
    pub(crate) fn has(&self, id: UploadId) -> bool {
        self.of(id).is_some()
    }

    /// An upload, as it is now.
    pub(crate) fn look(&self, id: UploadId) -> Look {
        if let Some(open) = self.of(id) {
            return match &open.closing {
                Some(ended) => Look::Closing(ended.clone()),
                None => Look::Open(Snapshot {
                    upload: Arc::clone(&open.upload),
                    parts: Arc::clone(&open.parts),
                    version: open.version,
                }),
            };
        }
        let completed = self.completed_of.get(&id.number).and_then(|at| self.completed.get(at));
        match completed.filter(|completed| completed.token == id.token) {
            Some(completed) => Look::Completed(completed.clone()),
            None => Look::Unknown,
        }
    }

    /// What it was begun with, if it takes parts.
    pub(crate) fn upload(&self, id: UploadId) -> Option<Arc<ClientUpload>> {
        let open = self.of(id).filter(|open| open.closing.is_none())?;
        Some(Arc::clone(&open.upload))
    }

    fn of(&self, id: UploadId) -> Option<&Open> {
        self.open.get(&id.number).filter(|open| open.upload.token == id.token)
    }

    /// Somebody is about to end it. False: it is not there, somebody else ends it, or it has other parts
    /// than at this version. `ended`: its sender goes when that has happened or failed.
    pub(crate) fn close(
        &mut self,
        id: UploadId,
        version: Option<u64>,
        ended: watch::Receiver<()>,
    ) -> bool {
        let open = self.open.get_mut(&id.number).filter(|open| open.upload.token == id.token);
        let Some(open) = open else { return false };
        if open.closing.is_some() || version.is_some_and(|version| version != open.version) {
            return false;
        }
        open.closing = Some(ended);
        true
    }

    /// Takes back [`Uploads::close`]: it was not even queued.
    pub(crate) fn reopen(&mut self, id: UploadId) {
        if let Some(open) = self.open.get_mut(&id.number) {
            open.closing = None;
        }
    }

    /// It is ended: what stood for it, those of its parts that an entry names now included.
    pub(crate) fn end(&mut self, number: u64) -> Option<Vec<StoredPart>> {
        let open = self.open.remove(&number)?;
        self.by_life.remove(&(open.life, number));
        let parts: Vec<StoredPart> =
            Arc::unwrap_or_clone(open.parts).into_values().chain(open.late).collect();
        parts.iter().for_each(|part| self.counts.take(part));
        self.counts.uploads = self.counts.uploads.saturating_sub(1);
        Some(parts)
    }

    /// Remembers a completed one, under the number of its entry.
    pub(crate) fn remember(&mut self, entry: u64, completed: Completed) {
        self.completed_of.insert(completed.upload, entry);
        self.completed.insert(entry, completed);
        while self.completed.len() > COMPLETED {
            if let Some((_, oldest)) = self.completed.pop_first() {
                self.completed_of.remove(&oldest.upload);
            }
        }
    }

    /// At most `most` uploads without a sign of life since `before`, the oldest first, that nobody ends
    /// and that this process has not heard of after `heard`: the wall clock may leap.
    pub(crate) fn idle(&self, before: u64, heard: Instant, most: usize) -> Vec<Idle> {
        let idle = self.by_life.iter().take_while(|(life, _)| *life < before);
        let idle = idle.take(MOST_LOOKED_AT);
        let open = idle.filter_map(|(_, number)| Some((number, self.open.get(number)?)));
        open.filter(|(_, open)| open.closing.is_none() && open.heard <= heard)
            .map(|(number, open)| Idle {
                id: UploadId { number: *number, token: open.upload.token },
                upload: Arc::clone(&open.upload),
                version: open.version,
            })
            .take(most)
            .collect()
    }

    /// At most `most` uploads with greater numbers than `after`, in their order.
    pub(crate) fn list(&self, after: u64, most: usize) -> Vec<OpenUpload> {
        let range = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        let open = self.open.range(range).take(most);
        open.map(|(number, open)| OpenUpload {
            number: *number,
            upload: Arc::clone(&open.upload),
            parts: open.parts.len() as u64,
            bytes: open.parts.values().map(|part| part.body().length).sum(),
            life: open.life,
        })
        .collect()
    }

    /// The parts of an upload; None: there is none of this number.
    pub(crate) fn parts(&self, number: u64) -> Option<Vec<PartBody>> {
        let open = self.open.get(&number)?;
        Some(open.parts.values().map(|stored| stored.part.clone()).collect())
    }

    /// Whether this is a part of an upload still.
    pub(crate) fn has_part(&self, number: u64, part: &PartBody) -> bool {
        let open = self.open.get(&number);
        open.and_then(|open| open.parts.get(&part.number)).is_some_and(|have| have.part == *part)
    }

    /// All parts that stand for open uploads.
    pub(crate) fn all_parts(&self) -> impl Iterator<Item = (UploadId, &StoredPart)> {
        self.open.iter().flat_map(|(number, open)| {
            let id = UploadId { number: *number, token: open.upload.token };
            open.parts.values().chain(&open.late).map(move |part| (id, part))
        })
    }

    /// What is open.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

impl Counts {
    fn take(&mut self, part: &StoredPart) {
        self.parts = self.parts.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(part.body().length);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
