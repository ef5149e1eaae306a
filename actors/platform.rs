//! What one kernel has and another has not: the one place that asks which it is.
//!
//! Elsewhere than on Linux, and in a build with the feature `portable`, bodies are copied, overflow
//! files are unlinked after they were made, and every broken connection counts as one on which all
//! that was written may have arrived.

#[cfg(all(target_os = "linux", not(feature = "portable")))]
mod linux;
#[cfg(all(target_os = "linux", not(feature = "portable")))]
pub use linux::{
    ZERO_COPY, begin_writing, grow_pipe, holds_unsent, new_pipe, splice, splice_file, tee,
    total_memory, unnamed_file, will_need,
};

#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
mod portable;
#[cfg(not(all(target_os = "linux", not(feature = "portable"))))]
pub use portable::{
    ZERO_COPY, begin_writing, grow_pipe, holds_unsent, new_pipe, splice, splice_file, tee,
    total_memory, unnamed_file, will_need,
};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::unix::fs::MetadataExt as _;

    /// "Unlinked from the start": nothing is left behind however the process ends.
    #[test]
    fn an_unnamed_file_has_no_name_and_keeps_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = unnamed_file(directory.path()).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        file.write_all(b"kept").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kept");
    }

    #[test]
    fn pipes_are_what_zero_copy_says() {
        assert_eq!(new_pipe().is_ok(), ZERO_COPY);
    }
}
