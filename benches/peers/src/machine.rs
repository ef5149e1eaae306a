//! The machine that a run is made on.

use crate::Result;
use crate::results::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::process::Command;
use time::OffsetDateTime;

/// Stolen and all time of the machine so far, ticks (proc(5), /proc/stat).
pub(crate) fn stolen() -> Result<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().ok_or("/proc/stat is empty")?;
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    Ok((ticks.last().copied().unwrap_or(0.0), ticks.iter().sum()))
}

/// Descriptors that every part of a run may have, if the user may raise the limit.
const DESCRIPTORS: u64 = 65_536;

/// As many descriptors as this user may have, here and in what is started from here.
pub(crate) fn raise_descriptors() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(DESCRIPTORS);
    // Root may.
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return Ok(wanted);
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Descriptors that this process, and what it starts, may have.
pub(crate) fn descriptors() -> Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Where and when this is.
pub(crate) fn context() -> Result<Context> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let now = OffsetDateTime::now_utc();
    let commit = first_line("git", &["describe", "--always", "--dirty"]).unwrap_or_default();
    let machine = format!("{model}, {cores} cores, {} GiB, Linux {}", kib >> 20, kernel.trim());
    let date = format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute());
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    Ok(Context { machine, date, commit, command: format!("mizuchi-bench {command}") })
}
