//! `mizuchi upload`, the real command: against a gateway over the embedded backend, and against an S3 that
//! keeps the books.

mod credentials;
mod failures;
mod interrupted;
mod long;
mod sources;
mod stream;

use crate::support::backend::Backend;
use crate::support::gateway::{ACCESS_KEY, Gateway, SECRET_KEY, Setup};
use crate::support::{PATIENCE, payload};
use sha2::Digest as _;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A place for files, and for what the command keeps of them.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("files")).unwrap();
        Desk { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file under `files`.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path("files").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// `mizuchi upload`, in this place, with none of the surroundings' own credentials.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
        command.arg("upload").args(arguments).current_dir(self.directory.path()).env_clear();
        command.env("HOME", self.directory.path()).env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end, which is elsewhere awaited: the services stand on this runtime.
    async fn run(&self, arguments: &[&str]) -> Ran {
        ran(self.command(arguments)).await
    }

    /// The one state file; None: there is none.
    fn state(&self) -> Option<PathBuf> {
        let folder = self.path(".local/state/mizuchi");
        let mut files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        files.next()
    }

    /// The state file's lines with this word.
    fn state_lines(&self, word: &str) -> usize {
        let text = self.state().and_then(|path| std::fs::read_to_string(path).ok());
        let mark = format!("{{\"{word}\":");
        text.unwrap_or_default().lines().filter(|line| line.starts_with(&mark)).count()
    }
}

/// The end of a command.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn ran(mut command: Command) -> Ran {
    let output: Output =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

impl Ran {
    #[track_caller]
    fn assert(&self, code: i32) -> &Ran {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// Standard output, an object a line.
    fn events(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The SHA-256 of a file, which need not fit into memory.
fn sha256(path: &Path) -> Vec<u8> {
    let mut file = std::fs::File::open(path).unwrap();
    let (mut sha, mut block) = (sha2::Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block).unwrap() {
            0 => return sha.finalize().to_vec(),
            count => sha.update(&block[..count]),
        }
    }
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(format!("-{name}")).arg(pid).status().unwrap().success());
}

/// Reads a child's standard error until it says this.
async fn until_it_says(child: &mut Child, text: &'static str) {
    let mut error = child.stderr.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut said, mut block) = (String::new(), [0; 4096]);
        while !said.contains(text) {
            let count = error.read(&mut block).unwrap();
            assert!(count > 0, "it never said {text:?}:\n{said}");
            said.push_str(&String::from_utf8_lossy(&block[..count]));
        }
        error
    });
    child.stderr = Some(tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap());
}

/// Waits for a child's end without holding up the runtime.
async fn end(mut child: Child) -> std::process::ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the command did not end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A gateway over the embedded backend, and how many requests it has served.
struct Served {
    gateway: Gateway,
    backend: Backend,
}

impl Served {
    async fn start() -> Served {
        let backend = Backend::start().await;
        let gateway = Setup::new(&backend, backend.s3.address).start().await;
        Served { gateway, backend }
    }

    async fn requests(&self, operation: &str) -> usize {
        let series = format!("mizuchi_upload_duration_seconds_count{{operation=\"{operation}\"}}");
        self.gateway.metric(&series).await as usize
    }

    /// That every file under `folder` is an object under `prefix`, with the same SHA-256, and nothing else is
    /// there.
    fn assert_same(&self, folder: &Path, prefix: &str) {
        let of = |root: &Path| {
            let mut found = Vec::new();
            let mut open = vec![root.to_owned()];
            while let Some(folder) = open.pop() {
                for entry in std::fs::read_dir(folder).unwrap().flatten() {
                    let path = entry.path();
                    if path.is_dir() {
                        open.push(path);
                    } else if !path.to_string_lossy().contains(".internal.") {
                        let name = path.strip_prefix(root).unwrap().to_owned();
                        found.push((name, sha256(&path)));
                    }
                }
            }
            found.sort();
            found
        };
        let (files, objects) = (of(folder), of(&self.backend.path(prefix)));
        assert_eq!(files.len(), objects.len());
        for (file, object) in files.iter().zip(&objects) {
            assert_eq!(file, object);
        }
    }
}
