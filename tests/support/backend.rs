//! The S3 server behind the gateway: s3s over a temporary folder.

use mizuchi::embedded::{self, Embedded};
use std::path::PathBuf;

/// A backend with one bucket, `store`.
pub struct Backend {
    pub s3: Embedded,
    directory: tempfile::TempDir,
}

impl Backend {
    pub async fn start() -> Backend {
        let directory = tempfile::tempdir().unwrap();
        let s3 = embedded::start(directory.path(), &["store".to_owned()]).await.unwrap();
        Backend { s3, directory }
    }

    /// Where the object lies.
    pub fn path(&self, key: &str) -> PathBuf {
        self.directory.path().join("store").join(key)
    }

    /// The object's bytes; None if it is not there.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.path(key)).ok()
    }

    /// Multipart uploads that are open: s3s-fs keeps a file for each.
    pub fn open_uploads(&self) -> usize {
        self.upload_files().len()
    }

    /// Ends them, and leaves their parts, as a Complete does before it writes the object; how many there were.
    pub fn end_uploads(&self) -> usize {
        let files = self.upload_files();
        files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        files.len()
    }

    fn upload_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap().flatten();
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload-"))
            .map(|entry| entry.path())
            .collect()
    }

    /// The names in the bucket's folder but for s3s-fs's own files.
    pub fn objects(&self) -> Vec<String> {
        std::fs::read_dir(self.directory.path().join("store"))
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.contains(".internal."))
            .collect()
    }
}
