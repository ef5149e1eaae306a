//! The overflow file of a replay buffer: unlinked from the start, so that nothing is left behind
//! however the process ends. All of its I/O runs on the blocking pool.

use crate::platform;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// An append-only file that no directory names.
#[derive(Debug)]
pub struct ReplayFile {
    file: Arc<File>,
    length: u64,
}

impl ReplayFile {
    /// Creates the file in `directory`, which must exist.
    pub async fn create(directory: PathBuf) -> io::Result<ReplayFile> {
        let file = blocking(move || platform::unnamed_file(&directory)).await?;
        Ok(ReplayFile { file: Arc::new(file), length: 0 })
    }

    /// Appends and returns the offset at which the bytes begin.
    pub async fn append(&mut self, pieces: Vec<Bytes>) -> io::Result<u64> {
        let (file, offset) = (Arc::clone(&self.file), self.length);
        let length = pieces.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        blocking(move || {
            let mut at = offset;
            for bytes in &pieces {
                file.write_all_at(bytes, at)?;
                at += bytes.len() as u64;
            }
            Ok(())
        })
        .await?;
        self.length += length;
        Ok(offset)
    }

    /// Reads `length` bytes at `offset`.
    pub async fn read(&self, offset: u64, length: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        blocking(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(bytes.into())
        })
        .await
    }
}

impl Drop for ReplayFile {
    /// Closing frees the file's blocks, gigabytes of them: not on this thread.
    fn drop(&mut self) {
        let file = Arc::clone(&self.file);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_appended_is_read_back_and_no_name_is_left() {
        let directory = std::env::temp_dir();
        let mut file = ReplayFile::create(directory).await.unwrap();
        assert_eq!(file.append(vec![Bytes::from_static(b"abc")]).await.unwrap(), 0);
        assert_eq!(file.append(["de", "fg"].map(Bytes::from).to_vec()).await.unwrap(), 3);
        assert_eq!(&file.read(2, 4).await.unwrap()[..], b"cdef");
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&file.file.metadata().unwrap()), 0);
    }
}
