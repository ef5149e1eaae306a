//! What `mizuchi check` says of write-back: what it gives up, and where the spool stands badly.

use crate::settings::{BucketSettings, Settings};
use bytesize::ByteSize;
use mizuchi_actors::config::Mode;
use nix::sys::statvfs::statvfs;
use std::path::Path;

/// Whether uploads to this bucket may be acknowledged from the spool.
pub(crate) fn may_write_back(bucket: &BucketSettings) -> bool {
    bucket.upload.mode == Mode::WriteBack || bucket.upload.mode_header
}

/// What each bucket that writes back gives up: a line for each.
pub(crate) fn given_up(settings: &Settings) -> Vec<String> {
    let line = |bucket: &BucketSettings| {
        let who = match bucket.upload.mode {
            Mode::WriteBack => "uploads are",
            Mode::WriteThrough => "uploads with x-mizuchi-mode: write_back are",
        };
        format!(
            "{}: {who} acknowledged when they are on stable storage in {}. What that gives up: reading \
             them at the backend before they are delivered; their order against other gateways that \
             write the same keys; what was not delivered, with the disk (docs/durability.md)",
            bucket.name,
            settings.spool.directory.display()
        )
    };
    settings.buckets.iter().filter(|bucket| may_write_back(bucket)).map(line).collect()
}

/// Where the spool stands badly. Blocks.
pub(crate) fn warnings(settings: &Settings) -> Vec<String> {
    if !settings.buckets.iter().any(may_write_back) {
        return Vec::new();
    }
    let spool = &settings.spool;
    let shown = spool.directory.display();
    // What is not made yet will stand where its parent does.
    let folder = std::path::absolute(&spool.directory).unwrap_or_else(|_| spool.directory.clone());
    let Some(there) = folder.ancestors().find(|folder| folder.is_dir()) else { return Vec::new() };
    let mut found = Vec::new();
    if is_in_memory(there) {
        found.push(format!(
            "spool.directory: {shown} is in memory (tmpfs): what was acknowledged is lost with the \
             machine's power"
        ));
    }
    if let Ok(stat) = statvfs(there) {
        // The types' widths are the platform's.
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
        let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
        if free < spool.max_bytes.saturating_add(spool.min_free) {
            found.push(format!(
                "spool.max_bytes: {} and spool.min_free ({}) are more than the {} that {shown} has \
                 left: uploads are answered 503 SlowDown before the spool is full",
                size(spool.max_bytes),
                size(spool.min_free),
                size(free)
            ));
        }
    }
    found
}

#[cfg(target_os = "linux")]
fn is_in_memory(folder: &Path) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    statfs(folder).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &Path) -> bool {
    false
}
