//! A spool in this process: that of a gateway that does not run, opened by `mizuchi spool`, or the one
//! whose admin listener is asked.

use super::shown::{MAX_PAGE, Record, RetriedAll, Retry, Row, Summary, UploadRow, Verdict};
use crate::settings::SpoolSettings;
use mizuchi_actors::spool::{Blocks, Folder, Limits, Spool};
use std::io;
use std::sync::Arc;

/// Files (inodes) that are left free on the spool's disk: others need some too.
const MIN_FREE_FILES: u64 = 1024;

/// What of the settings bounds the spool.
pub(crate) fn limits(settings: &SpoolSettings) -> Limits {
    Limits {
        entries: settings.max_entries,
        bytes: settings.max_bytes,
        free_bytes: settings.min_free,
        free_files: MIN_FREE_FILES,
    }
}

/// See the module.
pub(crate) struct Local(pub(crate) Arc<Spool>);

impl Local {
    /// Opens the spool of the settings; as a start of the gateway would, it puts in order what a crash
    /// has left. Blocks.
    ///
    /// Errors: `NotFound`: there is none; `ResourceBusy`: a gateway has it.
    pub(super) fn open(settings: &SpoolSettings) -> io::Result<Local> {
        if !Folder::holds_spool(&settings.directory)? {
            let problem = format!("there is no spool in {}", settings.directory.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, problem));
        }
        let disk = Arc::new(Folder::open(&settings.directory)?);
        Spool::open(disk, limits(settings)).map(Local)
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary::of(&self.0)
    }

    /// At most `most` entries with greater numbers than `after`.
    pub(crate) fn page(&self, after: u64, most: usize) -> Vec<Row> {
        let entries = self.0.list(after, most.min(MAX_PAGE));
        entries.iter().map(|(number, entry)| Row::of(*number, entry)).collect()
    }

    /// At most `most` open multipart uploads with greater numbers than `after`.
    pub(crate) fn uploads(&self, after: u64, most: usize) -> Vec<UploadRow> {
        let uploads = self.0.list_uploads(after, most.min(MAX_PAGE));
        uploads.iter().map(UploadRow::of).collect()
    }

    /// None: there is no such upload.
    pub(crate) async fn verify_upload(
        &self,
        number: u64,
        on_body: impl FnMut(),
    ) -> Option<Verdict> {
        Verdict::of(self.0.verify_upload(number, on_body).await)
    }

    /// None: there is no such entry, as below.
    pub(crate) fn record(&self, number: u64) -> Option<Record> {
        self.0.entry(number).map(|entry| Record::of(number, &entry))
    }

    pub(crate) async fn body(&self, number: u64) -> io::Result<Option<Blocks>> {
        self.0.bytes_of(number).await
    }

    pub(crate) async fn retry(&self, number: u64, force: bool) -> io::Result<Option<Retry>> {
        self.0.retry(number, force).await.map(Retry::of)
    }

    pub(crate) async fn retry_all(
        &self,
        force: bool,
        on_step: impl FnMut(),
    ) -> io::Result<RetriedAll> {
        let mizuchi_actors::spool::RetriedAll { waiting, damaged, superseded } =
            self.0.retry_all(force, on_step).await?;
        Ok(RetriedAll { waiting, damaged, superseded })
    }

    pub(crate) async fn verify(&self, number: u64, on_body: impl FnMut()) -> Option<Verdict> {
        Verdict::of(self.0.verify(number, on_body).await)
    }
}
