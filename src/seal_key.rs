//! The key that seals uploadIds: from settings, or made once and kept (mode 0600), so that an
//! uploadId stays valid across restarts.

use rand::TryRngCore as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file's name in the state directory.
const FILE: &str = "seal.key";

/// Reads the key, or makes it. Errors when the file has another length, or cannot be had.
pub(crate) fn load_or_make(state: &Path) -> io::Result<[u8; 32]> {
    let path = state.join(FILE);
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            let message =
                format!("{}: not a key of 32 bytes; remove it to make a new one", path.display());
            io::Error::new(io::ErrorKind::InvalidData, message)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(state, &path),
        Err(error) => Err(error),
    }
}

fn make(state: &Path, path: &Path) -> io::Result<[u8; 32]> {
    DirBuilder::new().recursive(true).mode(0o700).create(state)?;
    let mut key = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut key).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let state = tempfile::tempdir().unwrap();
        let first = load_or_make(state.path()).unwrap();
        assert_eq!(load_or_make(state.path()).unwrap(), first);
        let mode = std::fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(state.path().join(FILE), b"short").unwrap();
        assert!(load_or_make(state.path()).is_err());
    }
}
