//! Processes of a run, and what the kernel says of them.

use crate::Result;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends this process when its standard input does: with who started it.
pub(crate) fn end_with_standard_input() {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// A process that ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    /// Kept open: its end is the end of the harness's own parts.
    _stdin: Option<ChildStdin>,
}

/// What a process and its children hold at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    /// VmRSS, KiB.
    pub(crate) rss: u64,
    /// VmHWM since [`Process::forget_peak`], KiB.
    pub(crate) peak: u64,
    /// Descriptors that are ends of pipes, divided by two.
    pub(crate) pipes: u64,
}

impl Process {
    /// Starts the command.
    pub(crate) fn start(command: &mut Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{program} does not start: {error}"))?;
        let _stdin = child.stdin.take();
        Ok(Process { child, _stdin })
    }

    /// Starts a part of the harness: this program with other arguments, which says where it is.
    pub(crate) fn own<I: IntoIterator<Item = String>>(
        arguments: I,
    ) -> Result<(Process, Vec<SocketAddr>)> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Process::start(command.args(arguments).stdout(Stdio::piped()))?;
        let line = process.lines()?.next().ok_or("a part of the harness ended at its start")??;
        let addresses: std::result::Result<_, _> =
            line.split_whitespace().map(str::parse).collect();
        Ok((process, addresses?))
    }

    /// The lines of its standard output, if that was piped; once.
    pub(crate) fn lines(&mut self) -> Result<Lines<BufReader<ChildStdout>>> {
        let stdout = self.child.stdout.take().ok_or("no standard output")?;
        Ok(BufReader::new(stdout).lines())
    }

    /// Ends its standard input.
    pub(crate) fn end_input(&mut self) {
        self._stdin = None;
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("it ended with {status}").into()) }
    }

    /// Waits until somebody listens at the address.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("it ended with {status} at its start").into());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("nobody listens at {address}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Takes its standard error, line by line, until `pick` finds something.
    pub(crate) fn find_in_log<T>(&mut self, mut pick: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let stderr = self.child.stderr.take().ok_or("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut seen = String::new();
        while let Some(line) = lines.next() {
            let line = line?;
            if let Some(found) = pick(&line) {
                // Its log must go somewhere, or it would stop at a full pipe.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(found);
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        Err(format!("it ended at its start:\n{seen}").into())
    }

    /// The process and those below it.
    fn all(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            next += 1;
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
            for task in tasks.flatten() {
                let text =
                    std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                all.extend(text.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
            }
        }
        all
    }

    /// User and system time of all its threads so far, and of its children, in seconds: the CPU clock
    /// of the process, which counts nanoseconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.all() {
            let time = clock_getcpuclockid(Pid::from_raw(pid as i32))?.now()?;
            sum += time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9;
        }
        Ok(sum)
    }

    /// Begins a new peak of its resident memory.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        for pid in self.all() {
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        Ok(())
    }

    /// What it holds now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for pid in self.all() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            memory.rss += field(&status, "VmRSS:").unwrap_or(0);
            memory.peak += field(&status, "VmHWM:").unwrap_or(0);
            let mut ends = 0;
            for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
                let target = std::fs::read_link(entry.path()).unwrap_or_default();
                ends += u64::from(target.to_string_lossy().starts_with("pipe:"));
            }
            memory.pipes += ends / 2;
        }
        Ok(memory)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A port that nobody has now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_measured_finer_than_a_tick() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo; read line"]).stdout(Stdio::piped());
        let mut process = Process::start(&mut command).unwrap();
        // It runs when it has said so.
        process.lines().unwrap().next().unwrap().unwrap();
        let (once, twice) = (process.cpu_seconds().unwrap(), process.cpu_seconds().unwrap());
        assert!(once > 0.0 && once.fract() * 100.0 % 1.0 > 0.0, "{once}");
        assert!(twice >= once, "{once} {twice}");
        process.forget_peak().unwrap();
        let memory = process.memory().unwrap();
        assert!(memory.rss > 100 && memory.peak >= memory.rss, "{memory:?}");
        process.end_input();
        assert!(process.wait().is_err(), "read(1) has found the end");
    }

    #[test]
    fn fields_of_proc_status_are_found() {
        assert_eq!(field("Name:\tx\nVmHWM:\t    1234 kB\n", "VmHWM:"), Some(1234));
        assert_eq!(field("Name:\tx\n", "VmHWM:"), None);
    }
}
