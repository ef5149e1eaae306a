//! Reads what the host allows (Linux: proc(5), cgroups(7)). What cannot be read is not known, and
//! nothing is concluded from it.

use super::PAGE;
use std::fs;
use std::path::Path;

/// capabilities(7): past these the limits of pipes do not count (pipe(7)).
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// What the host allows this process. None: not known, or no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether the limits of pages in pipes do not count.
    pub(super) any_pipe_pages: bool,
    /// Whether the largest pipe does not count.
    pub(super) any_pipe_size: bool,
    /// fs.pipe-user-pages-soft and -hard: pages of all pipes of one user.
    pub(super) pipe_pages_soft: Option<u64>,
    /// See `pipe_pages_soft`.
    pub(super) pipe_pages_hard: Option<u64>,
    /// fs.pipe-max-size, bytes.
    pub(super) pipe_size: Option<u64>,
    /// Descriptors that the process may have, its hard limit.
    pub(super) descriptors: Option<u64>,
    /// net.core.somaxconn.
    pub(super) backlog: Option<u64>,
    /// Local ports for connections to one address.
    pub(super) ports: Option<u64>,
    /// Whether a port may be used again whose connection has ended (net.ipv4.tcp_tw_reuse is 1).
    pub(super) ports_at_once: bool,
    /// Bytes: the machine's memory.
    pub(super) memory: Option<u64>,
    /// Bytes: the limit of the process's control group.
    pub(super) memory_limit: Option<u64>,
}

impl Facts {
    /// Reads them below `root`, the root of the file system.
    pub(crate) fn read(root: &Path) -> Facts {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse::<u64>().ok();
        let status = text("proc/self/status");
        let capabilities =
            field(&status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        // Those of another user namespace are none here.
        let initial = is_whole(&text("proc/self/uid_map"));
        let has = |bit: u32| initial && capabilities.is_some_and(|bits| bits >> bit & 1 == 1);
        let limits = text("proc/self/limits");
        let descriptors =
            field(&limits, "Max open files").and_then(|line| line.split_whitespace().nth(1));
        let ports = text("proc/sys/net/ipv4/ip_local_port_range");
        let mut ports = ports.split_whitespace().map_while(|end| end.parse::<u64>().ok());
        let kib =
            |line: &str| line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024);
        Facts {
            any_pipe_pages: has(CAP_SYS_RESOURCE) || has(CAP_SYS_ADMIN),
            any_pipe_size: has(CAP_SYS_RESOURCE),
            pipe_pages_soft: number("proc/sys/fs/pipe-user-pages-soft").filter(|&pages| pages > 0),
            pipe_pages_hard: number("proc/sys/fs/pipe-user-pages-hard").filter(|&pages| pages > 0),
            pipe_size: number("proc/sys/fs/pipe-max-size"),
            descriptors: descriptors.and_then(|count| count.parse().ok()),
            backlog: number("proc/sys/net/core/somaxconn"),
            ports: ports.next().zip(ports.next()).map(|(low, high)| (high + 1).saturating_sub(low)),
            ports_at_once: number("proc/sys/net/ipv4/tcp_tw_reuse") == Some(1),
            memory: field(&text("proc/meminfo"), "MemTotal:").and_then(kib),
            memory_limit: memory_limit(&text("proc/self/cgroup"), number),
        }
    }

    /// Slots (pages) of all pipes together; None: no limit.
    pub(crate) fn pipe_slots(&self) -> Option<usize> {
        if self.any_pipe_pages {
            return None;
        }
        let pages = self.pipe_pages_soft.into_iter().chain(self.pipe_pages_hard).min()?;
        Some(usize::try_from(pages).unwrap_or(usize::MAX))
    }

    /// Bytes of the largest pipe of those that are asked to have `size`.
    pub(super) fn largest_pipe(&self, size: u64) -> u64 {
        let most = if self.any_pipe_size { None } else { self.pipe_size };
        let size = size.checked_next_power_of_two().unwrap_or(size).max(PAGE);
        most.map_or(size, |most| most.min(size))
    }

    /// Bytes of memory that the process may use.
    pub(super) fn usable_memory(&self) -> Option<u64> {
        self.memory.into_iter().chain(self.memory_limit).min()
    }
}

/// The rest of the line that begins with `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether user ids mean the same here as on the host (user_namespaces(7)).
fn is_whole(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The lowest limit on the way from the process's control group to the root, of version 2 or 1. A
/// container sees its own as the root.
fn memory_limit(groups: &str, number: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            limits.extend(number(&format!("{base}{path}/{file}")));
            let Some((parent, _)) = path.rsplit_once('/') else { break };
            path = parent;
        }
    }
    // Version 1 says "no limit" with a number that no machine has.
    limits.into_iter().filter(|&limit| limit < 1 << 60).min()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> Facts {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Facts::read(root.path())
    }

    #[test]
    fn a_debian_host() {
        let facts = host(&[
            ("proc/self/status", "Name:\tmizuchi\nCapEff:\t0000000000000000\n"),
            ("proc/self/uid_map", "         0          0 4294967295\n"),
            (
                "proc/self/limits",
                "Limit Soft Hard\nMax open files            1024                 524288               files \n",
            ),
            ("proc/self/cgroup", "0::/system.slice/mizuchi.service\n"),
            ("proc/sys/fs/pipe-user-pages-soft", "16384\n"),
            ("proc/sys/fs/pipe-user-pages-hard", "0\n"),
            ("proc/sys/fs/pipe-max-size", "1048576\n"),
            ("proc/sys/net/core/somaxconn", "4096\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("proc/sys/net/ipv4/tcp_tw_reuse", "2\n"),
            ("proc/meminfo", "MemTotal:        8000000 kB\nMemFree: 1 kB\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/mizuchi.service/memory.max", "536870912\n"),
        ]);
        let expected = Facts {
            any_pipe_pages: false,
            any_pipe_size: false,
            pipe_pages_soft: Some(16384),
            pipe_pages_hard: None,
            pipe_size: Some(1 << 20),
            descriptors: Some(524_288),
            backlog: Some(4096),
            ports: Some(28_232),
            ports_at_once: false,
            memory: Some(8_000_000 * 1024),
            memory_limit: Some(512 << 20),
        };
        assert_eq!(facts, expected);
        assert_eq!(facts.pipe_slots(), Some(16384));
        assert_eq!((facts.largest_pipe(16 << 20), facts.largest_pipe(65_537)), (1 << 20, 1 << 17));
        assert_eq!(facts.usable_memory(), Some(512 << 20));
    }

    /// pipe(7): the limits are for those without CAP_SYS_RESOURCE and CAP_SYS_ADMIN, in the user
    /// namespace of the host.
    #[test]
    fn capabilities_count_only_on_the_host_itself() {
        let slots = |capabilities: &str, map: &str| {
            host(&[
                ("proc/self/status", &format!("CapEff:\t{capabilities}\n")),
                ("proc/self/uid_map", map),
                ("proc/sys/fs/pipe-user-pages-soft", "16384\n"),
                ("proc/sys/fs/pipe-user-pages-hard", "4096\n"),
            ])
            .pipe_slots()
        };
        assert_eq!(slots("0000000001000000", "0 0 4294967295"), None);
        assert_eq!(slots("0000000000200000", "0 0 4294967295"), None);
        assert_eq!(slots("00000000a80425fb", "0 0 4294967295"), Some(4096));
        assert_eq!(slots("000001ffffffffff", "0 100000 65536"), Some(4096));
    }

    #[test]
    fn a_container_and_a_host_of_version_1() {
        let limits = |files: &[(&str, &str)]| host(files).memory_limit;
        let inside = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "1048576\n")];
        assert_eq!(limits(&inside), Some(1 << 20));
        let old = [
            ("proc/self/cgroup", "3:cpu,cpuacct:/a\n4:memory:/a/b\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "2097152\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limits(&old), Some(2 << 20));
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let nonsense = [("proc/self/limits", "Max open files unlimited unlimited files\n")];
        assert_eq!(host(&nonsense), Facts::default());
    }
}
