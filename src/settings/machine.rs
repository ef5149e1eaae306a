//! What the machine has: the defaults that depend on it are resolved once, at start.

use super::values::{GIB, KIB, MIB};
use std::num::NonZero;
use std::path::Path;

/// The memory limit of the process's own control group, as a container sees it (Linux,
/// Documentation/admin-guide/cgroup-v2.rst, "memory.max").
const CGROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";

/// Cores and memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// Cores that the process may run on; at least 1.
    pub(super) cores: usize,
    /// Bytes of memory that it may use; `None` if neither the system nor a limit says.
    pub(super) memory: Option<u64>,
}

impl Machine {
    /// Asks the system. A container's memory limit counts where it is lower than the RAM: an
    /// eighth of a large host's RAM may be more than all that the container has.
    pub(super) fn detect(read: impl Fn(&Path) -> std::io::Result<String>) -> Machine {
        let ram = mizuchi_actors::platform::total_memory();
        let limit = read(Path::new(CGROUP_LIMIT)).ok().and_then(|text| text.trim().parse().ok());
        Machine {
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
            memory: ram.into_iter().chain(limit).min(),
        }
    }

    /// `replay.memory: auto`, bytes: an eighth of the memory, 1 GiB at most. The lower bound is
    /// that of the key.
    pub(super) fn replay_memory(&self) -> u64 {
        const UNKNOWN: u64 = 512 * MIB;
        (self.memory.unwrap_or(UNKNOWN) / 8).clamp(64 * KIB, GIB)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn replay_memory(memory: Option<u64>) -> u64 {
        Machine { cores: 1, memory }.replay_memory()
    }

    #[test]
    fn replay_memory_is_an_eighth_of_the_memory_and_1_gib_at_most() {
        assert_eq!(replay_memory(Some(4 * GIB)), GIB / 2);
        assert_eq!(replay_memory(Some(64 * GIB)), GIB);
        assert_eq!(replay_memory(None), 64 * MIB);
        assert_eq!(replay_memory(Some(0)), 64 * KIB);
    }

    #[test]
    fn the_lower_of_ram_and_limit_counts() {
        let limited = Machine::detect(|_| Ok("1048576\n".into()));
        assert_eq!(limited.memory, Some(MIB));
        let free = Machine::detect(|_| Ok("max\n".into()));
        assert_eq!(free.memory.is_some(), mizuchi_actors::platform::ZERO_COPY);
        assert!(free.memory.is_none_or(|memory| memory > MIB));
        assert!(free.cores >= 1);
    }
}
