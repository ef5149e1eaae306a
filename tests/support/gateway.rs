//! A `mizuchi serve` process.

use super::backend::Backend;
use super::memory_limit::MemoryLimit;
use super::{PATIENCE, eventually};
use mizuchi_actors::platform::ZERO_COPY;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

pub const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";
pub const SECRET_KEY: &str = "test/secret+key";

pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Ends when standard error does.
    reader: Option<JoinHandle<()>>,
    /// Removed after the process has ended.
    pub memory: Option<MemoryLimit>,
    _directory: tempfile::TempDir,
}

/// How a test wants its gateway.
pub struct Setup {
    pub endpoint: SocketAddr,
    pub access_key: String,
    pub secret_key: String,
    /// Extra environment, `MIZUCHI__…` or FAILPOINTS.
    pub environment: Vec<(&'static str, String)>,
    /// YAML lines at the top level.
    pub extra: String,
    /// YAML lines inside the bucket, indented by four.
    pub bucket_extra: String,
    /// `ulimit -n`; None: as it is.
    pub descriptors: Option<u32>,
    /// What the kernel lets it have; None: as much as it likes.
    pub memory: Option<MemoryLimit>,
    /// As a user without rights, one of its own.
    pub unprivileged: bool,
    /// Where standard output goes; None: nowhere.
    pub stdout: Option<std::path::PathBuf>,
    /// The whole settings file, instead of all of the above but environment and descriptors.
    pub settings: Option<String>,
}

impl Setup {
    /// A gateway in front of the backend, reached at `endpoint`.
    pub fn new(backend: &Backend, endpoint: SocketAddr) -> Setup {
        Setup {
            endpoint,
            access_key: backend.s3.access_key.clone(),
            secret_key: backend.s3.secret_key.clone(),
            environment: Vec::new(),
            extra: String::new(),
            bucket_extra: String::new(),
            descriptors: None,
            memory: None,
            unprivileged: false,
            stdout: None,
            settings: None,
        }
    }

    /// A gateway in front of an S3 that looks at no signatures.
    pub fn over(endpoint: SocketAddr) -> Setup {
        Setup {
            endpoint,
            access_key: "B".to_owned(),
            secret_key: "b".to_owned(),
            environment: Vec::new(),
            extra: String::new(),
            bucket_extra: String::new(),
            descriptors: None,
            memory: None,
            unprivileged: false,
            stdout: None,
            settings: None,
        }
    }

    pub fn env(mut self, name: &'static str, value: &str) -> Setup {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub fn bucket(mut self, yaml: &str) -> Setup {
        self.bucket_extra.push_str(yaml);
        self
    }

    pub fn descriptors(mut self, limit: u32) -> Setup {
        self.descriptors = Some(limit);
        self
    }

    /// Runs the gateway within `bytes` of memory.
    pub fn memory(mut self, bytes: u64) -> Setup {
        self.memory = Some(MemoryLimit::new(bytes));
        self
    }

    /// Runs the gateway as a user without rights, whom nobody shares.
    pub fn unprivileged(mut self) -> Setup {
        self.unprivileged = true;
        self
    }

    pub async fn start(self) -> Gateway {
        let directory = tempfile::tempdir().unwrap();
        let settings = directory.path().join("settings.yaml");
        let state = directory.path().join("state");
        let text = format!(
            "server:\n  address: 127.0.0.1:0\n  workers: 2\n  shutdown_grace: 10s\n  state_directory: {}\n\
             admin:\n  address: 127.0.0.1:0\n{}\nbuckets:\n  - name: uploads\n    s3:\n      bucket: store\n      \
             region: us-east-1\n      endpoint: http://{}\n      path_style: true\n      access_key: {}\n      \
             secret_key: {}\n    auth:\n      sigv4:\n        credentials:\n          - access_key: {ACCESS_KEY}\n            \
             secret_key: {SECRET_KEY}\n            principal: tester\n{}",
            state.display(),
            self.extra,
            self.endpoint,
            self.access_key,
            self.secret_key,
            self.bucket_extra,
        );
        std::fs::write(&settings, self.settings.unwrap_or(text)).unwrap();
        let binary = env!("CARGO_BIN_EXE_mizuchi");
        let mut command = match (self.descriptors, &self.memory) {
            (None, Some(limit)) => limit.command(binary),
            (None, None) if self.unprivileged && nix::unistd::geteuid().is_root() => {
                as_a_user(binary, directory.path(), &settings)
            }
            (None, None) => Command::new(binary),
            (Some(limit), _) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(binary);
                shell
            }
        };
        command.arg("serve").arg("--settings").arg(&settings);
        command.stderr(Stdio::piped()).stdout(match &self.stdout {
            None => Stdio::null(),
            Some(path) => std::fs::File::create(path).unwrap().into(),
        });
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("{:?}: {error} (setpriv: apt-get install util-linux)", command),
        };
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().unwrap();
        let sink = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let started = Instant::now();
        let (address, admin) = loop {
            let text = log.lock().unwrap().clone();
            if let (Some(address), Some(admin)) =
                (listener(&text, "uploads on"), listener(&text, "admin on"))
            {
                break (address, admin);
            }
            assert!(started.elapsed() < PATIENCE, "the gateway did not start:\n{text}");
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the gateway ended with {status}:\n{text}");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let reader = Some(reader);
        Gateway { child, address, admin, log, reader, memory: self.memory, _directory: directory }
    }
}

/// Runs the binary as a user of whom nobody else is, in a directory that is its own.
fn as_a_user(binary: &str, directory: &Path, settings: &Path) -> Command {
    let user = 100_000 + std::process::id() % 100_000;
    // It may not read where the tests were built.
    let copy = directory.join("mizuchi");
    std::fs::copy(binary, &copy).unwrap();
    for path in [directory, &copy, settings] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}"));
    command.args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--"]).arg(copy);
    command
}

/// Where a listener is, with TLS or without.
fn listener(text: &str, name: &str) -> Option<SocketAddr> {
    ["http", "https"].iter().find_map(|scheme| after(text, &format!("{name} {scheme}://")))
}

fn after(text: &str, mark: &str) -> Option<SocketAddr> {
    let rest = &text[text.find(mark)? + mark.len()..];
    // A JSON line ends the address with a quote.
    rest.split(|c: char| c.is_whitespace() || c == '"').next()?.parse().ok()
}

impl Gateway {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Until what this returns is dropped, nobody reads the gateway's standard error.
    pub fn leave_log_unread(&self) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel();
        let (held, is_held) = mpsc::channel();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            // The thread that reads waits for this lock with its next line.
            let _log = log.lock().unwrap();
            held.send(()).unwrap();
            let _ = released.recv();
        });
        is_held.recv().unwrap();
        release
    }

    /// The log, once it holds this: a line may come later than the answer that it is about.
    pub async fn log_with(&self, text: &str) -> String {
        eventually(&format!("the log says {text:?}"), async || self.log().contains(text)).await;
        self.log()
    }

    /// The whole of `/metrics`.
    pub async fn metrics(&self) -> String {
        get(self.admin, "/metrics").await
    }

    /// The sum of all series whose line begins with `prefix`.
    pub async fn metric(&self, prefix: &str) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// That `expected` bytes of payload were spliced, but for what came along with the heads; where
    /// there is no splice(2), that none were.
    pub async fn assert_spliced(&self, expected: usize) {
        let spliced = self.metric("mizuchi_zero_copy_bytes_total").await;
        let expected = if ZERO_COPY { expected as f64 } else { 0.0 };
        assert!((expected - 16384.0..=expected).contains(&spliced), "{spliced} of {expected}");
    }

    /// CPU time of the process so far, user and system, in clock ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// The highest RSS so far, bytes.
    pub fn peak_rss(&self) -> u64 {
        self.memory_in_use("VmHWM:")
    }

    /// The RSS now, bytes.
    pub fn rss(&self) -> u64 {
        self.memory_in_use("VmRSS:")
    }

    fn memory_in_use(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Waits until nothing is in flight: no upload, part, permit or replay page.
    pub async fn settled(&self) {
        eventually("all gauges back at zero", async || {
            let mut sum = 0.0;
            for name in [
                "mizuchi_uploads_in_flight",
                "mizuchi_parts_in_flight",
                "mizuchi_permits_in_use",
                "mizuchi_replay_pages",
                "mizuchi_replay_pipes",
                "mizuchi_backend_connections_leased",
            ] {
                sum += self.metric(name).await;
            }
            sum == 0.0
        })
        .await;
    }

    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the process to end, and for the last line of its log.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    reader.join().unwrap();
                }
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the gateway did not end:\n{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log());
        }
    }
}

/// A plain GET; the body.
pub async fn get(address: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}
