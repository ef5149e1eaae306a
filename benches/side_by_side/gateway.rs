//! A gateway process with one worker, and what the kernel says of it.

use super::{PATIENCE, Result};
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

pub(crate) const ACCESS_KEY: &str = "BENCHBENCHBENCHBENCH";
pub(crate) const SECRET_KEY: &str = "a secret of the bench, long enough to be one";

/// Ticks of /proc in a second: USER_HZ, 100 on every Linux that Rust's std runs on.
const TICKS: f64 = 100.0;

/// How a round wants its gateway.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// `server.zero_copy.enabled`.
    pub(crate) splice: bool,
    /// `auth.enabled`.
    pub(crate) auth: bool,
}

pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    directory: PathBuf,
}

impl Gateway {
    /// Starts one in front of the sink.
    pub(crate) fn start(sink: SocketAddr, options: Options) -> Result<Gateway> {
        let Options { splice, auth } = options;
        let name = format!("mizuchi-bench-{}-{splice}-{auth}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        let settings = directory.join("settings.yaml");
        let text = format!(
            "server:\n  address: 127.0.0.1:0\n  workers: 1\n  state_directory: {}\n  zero_copy:\n    \
             enabled: {splice}\nadmin:\n  address: 127.0.0.1:0\nbuckets:\n  - name: uploads\n    s3:\n      \
             region: us-east-1\n      endpoint: http://{sink}\n      access_key: sink\n      secret_key: sink\n    \
             auth:\n      enabled: {auth}\n      sigv4:\n        credentials:\n          - access_key: {ACCESS_KEY}\n            \
             secret_key: {SECRET_KEY}\n",
            directory.display()
        );
        std::fs::write(&settings, text)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_mizuchi"))
            .args(["serve", "--settings"])
            .arg(&settings)
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let started = Instant::now();
        let mark = "uploads on http://";
        let address = loop {
            let line = lines.next().ok_or("the gateway ended")??;
            if let Some((_, address)) = line.split_once(mark) {
                break address.trim().parse()?;
            }
            if started.elapsed() > PATIENCE {
                return Err("the gateway did not start".into());
            }
        };
        // Its log must go somewhere, or it would stop at a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Gateway { child, address, directory })
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))?)
    }

    /// User and system time so far (proc(5), fields 14 and 15 of stat).
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        let (_, fields) = stat.rsplit_once(") ").ok_or("an odd /proc/PID/stat")?;
        let ticks = fields.split(' ').skip(11).take(2).filter_map(|text| text.parse::<f64>().ok());
        Ok(ticks.sum::<f64>() / TICKS)
    }

    /// VmHWM, MiB.
    pub(crate) fn peak_rss_mib(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find(|line| line.starts_with("VmHWM")).ok_or("no VmHWM")?;
        let kib: u64 = line.split_whitespace().nth(1).ok_or("an odd VmHWM")?.parse()?;
        Ok(kib / 1024)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
