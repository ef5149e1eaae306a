//! What a start makes of what it finds: brings records and files in line.

use super::disk::Disk;
use super::entry::{BodyId, Entry, Place, Quarantine};
use super::journal::{Change, Opened, UploadRecords, wait};
use super::uploads::{StoredPart, Uploads};
use super::{Body, Spool, janitor, sane};
use crate::orphans::{Ledger, wall_clock};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Entries that are looked at in one go.
const PAGE: usize = 256;

impl Spool {
    /// Has the multipart uploads ended that entries in quarantine have begun at their backend: at the
    /// start, before anything is delivered or tried again. Who sets an entry aside while it is delivered
    /// ends them itself; one that recovery has set aside names its still. First they stand in the
    /// ledger, whose sweeper aborts them, and only then the entries forget them: a crash in between has
    /// it done twice.
    ///
    /// Errors: the ledger's or the spool's journal has failed; what is left keeps its id until the next
    /// start.
    pub async fn hand_over_uploads(&self, ledger: &Arc<Ledger>) -> io::Result<()> {
        let mut after = 0;
        loop {
            let page = self.list(after, PAGE);
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (seq, entry) in page {
                let Some(id) = entry.upload_id.as_ref().filter(|_| entry.quarantined.is_some())
                else {
                    continue;
                };
                let own = ledger.begin_own(&entry.bucket, &entry.key, wall_clock()).await?;
                own.named(id).await?;
                log::warn!(
                    "bucket {}: the multipart upload {id} of entry {seq}, which is in quarantine, is \
                     to be aborted",
                    entry.bucket
                );
                // The sweeper's from here on.
                drop(own);
                let entry = Arc::new(Entry { upload_id: None, ..Entry::clone(&entry) });
                let (state, record) = (Arc::clone(&self.state), entry.encode()?);
                let applied = move || state.replace(seq, entry);
                wait(self.journal.change(seq, Change::Replace { record }, applied)?).await?;
            }
        }
    }
}

/// What [`recover`] finds.
pub(super) struct Found {
    pub(super) entries: Vec<(u64, Arc<Entry>)>,
    pub(super) uploads: Uploads,
    pub(super) unreadable: u64,
}

/// Reads the journal, and brings files and records in line.
pub(super) fn recover(disk: &dyn Disk, opened: &Opened) -> io::Result<Found> {
    let (records, of_uploads) = (opened.read()?, opened.read_uploads()?);
    let readable = records.iter().filter_map(|(_, record)| record.as_ref().ok());
    let waiting = readable.filter(|entry| entry.quarantined.is_none()).flat_map(Entry::files);
    let parts = of_uploads.parts.iter().filter_map(|(_, part)| part.as_ref().ok()?.file());
    let loss = sane::has_its_bodies(disk, waiting.chain(parts))?;
    let (mut entries, mut lame, mut unreadable) = (Vec::new(), Vec::new(), 0);
    for (seq, record) in records {
        let mut entry = match record {
            Ok(entry) => entry,
            Err(error) => {
                log::error!("spool: record {seq} cannot be read, and is kept: {error}");
                unreadable += 1;
                continue;
            }
        };
        let reason = if entry.quarantined.is_none() { missing(disk, &entry) } else { None };
        let is_lame = reason.is_some();
        if let Some(reason) = reason {
            log::error!("spool: {}: entry {seq} is in quarantine: {reason}", entry.bucket);
            entry.quarantined = Some(Quarantine { reason, at: wall_clock() });
        }
        let entry = Arc::new(entry);
        lame.extend(is_lame.then(|| (seq, Arc::clone(&entry))));
        entries.push((seq, entry));
    }
    opened.rewrite(&lame)?;
    let uploads = recover_uploads(disk, opened, of_uploads, &mut unreadable)?;
    loss.recorded(disk);
    let bodies = disk.bodies()?;
    if unreadable > 0 {
        log::error!("spool: no file is removed, {unreadable} records may name any of them");
        return Ok(Found { entries, uploads, unreadable });
    }
    let mut named: HashSet<BodyId> = entries.iter().flat_map(|(_, entry)| entry.files()).collect();
    named.extend(uploads.all_parts().filter_map(|(_, part)| part.file()));
    for id in bodies.into_iter().filter(|id| !named.contains(id)) {
        janitor::remove(disk, id);
    }
    Ok(Found { entries, uploads, unreadable })
}

/// The open multipart uploads. A part without its bytes is none: its client hears it at the Complete.
fn recover_uploads(
    disk: &dyn Disk,
    opened: &Opened,
    records: UploadRecords,
    unreadable: &mut u64,
) -> io::Result<Uploads> {
    let (mut uploads, now) = (Uploads::default(), Instant::now());
    let mut unknown = HashSet::new();
    for (number, record) in records.uploads {
        match record {
            Ok(upload) => uploads.insert(number, Arc::new(upload), now),
            Err(error) => {
                log::error!("spool: upload {number} cannot be read, and is kept: {error}");
                *unreadable += 1;
                unknown.insert(number);
            }
        }
    }
    let mut lost = Vec::new();
    for ((number, part), record) in records.parts {
        if unknown.contains(&number) {
            continue;
        }
        let is_its_own = |stored: &StoredPart| stored.part.number == part;
        let record = record.and_then(|stored| match is_its_own(&stored) {
            true => Ok(stored),
            false => Err(io::Error::other("it is another part's")),
        });
        let stored = match record {
            Ok(stored) => stored,
            Err(error) => {
                log::error!(
                    "spool: part {part} of upload {number} cannot be read, and is kept: {error}"
                );
                *unreadable += 1;
                continue;
            }
        };
        let problem = lacks(disk, stored.body());
        if let Some(problem) = &problem {
            log::error!("spool: part {part} of upload {number} is dropped: {problem}");
        }
        if problem.is_some() || uploads.place(number, stored, now).is_none() {
            lost.push((number, part));
        }
    }
    opened.drop_parts(&lost)?;
    for (entry, record) in records.completed {
        match record {
            Ok(completed) => uploads.remember(entry, completed),
            // It names no file, and is of use only to a client that asks twice.
            Err(error) => log::warn!("spool: a completed upload cannot be read: {error}"),
        }
    }
    Ok(uploads)
}

/// What is wrong with the files of an entry.
pub(super) fn missing(disk: &dyn Disk, entry: &Entry) -> Option<String> {
    entry.bodies().find_map(|body| lacks(disk, body))
}

/// What is wrong with a body's file.
fn lacks(disk: &dyn Disk, body: &Body) -> Option<String> {
    let Place::File(id) = body.place else { return None };
    match disk.length(id) {
        Ok(length) if length < body.length => {
            Some(format!("its file {id} has {length} bytes instead of {}", body.length))
        }
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("its file {id} is missing"))
        }
        // Nothing is proven: whoever reads it will see.
        Err(error) => {
            log::error!("spool: file {id} cannot be looked at: {error}");
            None
        }
    }
}
