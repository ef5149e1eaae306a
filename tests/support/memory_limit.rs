//! A limit of memory that the kernel holds a gateway to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A control group with a limit, of version 2 or 1, removed on drop; where none may be made, a limit of
/// the data that the process may map (RLIMIT_DATA).
pub struct MemoryLimit {
    group: Option<PathBuf>,
    bytes: u64,
}

impl MemoryLimit {
    pub fn new(bytes: u64) -> MemoryLimit {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (base, file) = match fields.next()? {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let own = Path::new(base).join(fields.next()?.trim_start_matches('/'));
            // Beside the tests' own group: one with processes has no limited children (version 2).
            let parent = if file == "memory.max" { own.parent()?.to_owned() } else { own };
            let group = parent.join(format!("mizuchi-test-{}", rand::random::<u64>()));
            fs::create_dir(&group).ok()?;
            let limited = fs::write(group.join(file), bytes.to_string()).is_ok();
            if !limited {
                let _ = fs::remove_dir(&group);
            }
            limited.then_some(group)
        });
        MemoryLimit { group, bytes }
    }

    /// What holds the limit.
    pub fn kind(&self) -> &'static str {
        match &self.group {
            Some(group) if group.join("memory.max").exists() => "control group, version 2",
            Some(_) => "control group, version 1",
            None => "RLIMIT_DATA",
        }
    }

    /// Runs `binary` within the limit.
    pub fn command(&self, binary: &str) -> Command {
        let mut shell = Command::new("sh");
        let script = match &self.group {
            Some(group) => {
                format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.display())
            }
            None => format!("ulimit -d {} && exec \"$0\" \"$@\"", self.bytes / 1024),
        };
        shell.arg("-c").arg(script).arg(binary);
        shell
    }

    /// The most memory that was charged, bytes, files' pages included (and with version 2 the buffers of
    /// sockets); None where only the process's own is known.
    pub fn peak(&self) -> Option<u64> {
        let group = self.group.as_ref()?;
        let files = ["memory.peak", "memory.max_usage_in_bytes"];
        let text = files.iter().find_map(|file| fs::read_to_string(group.join(file)).ok())?;
        text.trim().parse().ok()
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            let _ = fs::remove_dir(group);
        }
    }
}
