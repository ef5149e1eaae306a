//! The state file: what an upload has done so far, so that the same command goes on after any end.
//!
//! A line of JSON each, appended. A file's line is written before the file counts as sent; a multipart
//! upload's id is on stable storage before its first part goes. All else is synced once a second: a power
//! loss may cost that much, and costs a second upload of the same bytes. The last line may be torn, and is
//! cut off. The file is locked: two runs of one command do not know of each other's parts.

use super::plan::{Headers, Stamp};
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a line may stand in memory of the kernel only.
const SYNC: Duration = Duration::from_secs(1);

/// Lines that are written together.
const BATCH: usize = 1024;

/// The first line's word.
const VERSION: u32 = 1;

/// How every state file begins.
const BEGINNING: &[u8] = b"{\"mizuchi_upload\"";

/// Which file, as it is now, goes where: 128 bits of SHA-256 over key, length, time of change and headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(super) struct Fingerprint(u128);

impl Fingerprint {
    pub(super) fn of(key: &str, stamp: Stamp, headers: &Headers) -> Fingerprint {
        let mut hasher = Hasher::new(ChecksumAlgorithm::Sha256);
        let mut put = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        put(key.as_bytes());
        put(&stamp.length.to_le_bytes());
        put(&stamp.modified.to_le_bytes());
        for (name, value) in headers {
            put(name.as_bytes());
            put(value);
        }
        let digest = hasher.finish();
        let half = digest.first_chunk::<16>().copied().unwrap_or_default();
        Fingerprint(u128::from_be_bytes(half))
    }
}

impl From<Fingerprint> for String {
    fn from(print: Fingerprint) -> String {
        format!("{:032x}", print.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Fingerprint)
    }
}

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// The first: whose file it is.
    MizuchiUpload { version: u32, identity: String },
    /// A file is there.
    Done { file: Fingerprint, key: String, etag: String },
    /// A multipart upload is about to be begun, at this time (milliseconds since 1970): whoever ends before
    /// its id is on record leaves one that nobody knows.
    Creating { file: Fingerprint, key: String, at: u64 },
    /// A multipart upload was begun.
    Begun { file: Fingerprint, key: String, upload_id: String, part_size: u64, checksum: String },
    /// One of its parts is there.
    Part { file: Fingerprint, number: u16, etag: String, sum: Option<String> },
    /// It is no more.
    Gone { file: Fingerprint },
    /// There is none of it any more that nobody knows.
    Searched { file: Fingerprint },
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A part that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartDone {
    /// Its ETag, without quotes.
    pub(super) etag: String,
    /// Its checksum as the list of parts has it.
    pub(super) sum: Option<String>,
}

/// A multipart upload that an earlier run has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) key: String,
    pub(super) upload_id: String,
    pub(super) part_size: u64,
    /// Of its parts: S3 takes no other in one upload.
    pub(super) checksum: String,
    pub(super) parts: BTreeMap<u16, PartDone>,
}

/// What earlier runs have done. Of a file that is there only its fingerprint is kept: 16 MB of a million.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) done: HashSet<Fingerprint>,
    pub(super) begun: HashMap<Fingerprint, Begun>,
    /// Those that may have been begun by a run that ended in that moment.
    pub(super) creating: Vec<Creating>,
}

/// A CreateMultipartUpload whose answer is not on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Creating {
    pub(super) file: Fingerprint,
    pub(super) key: String,
    /// Milliseconds since 1970.
    pub(super) at: u64,
}

impl Known {
    fn take(&mut self, line: Line) {
        match line {
            Line::MizuchiUpload { .. } => {}
            Line::Done { file, .. } => {
                self.begun.remove(&file);
                self.done.insert(file);
            }
            Line::Creating { file, key, at } => self.creating.push(Creating { file, key, at }),
            Line::Searched { file } => self.creating.retain(|one| one.file != file),
            Line::Begun { file, key, upload_id, part_size, checksum } => {
                // The last of that file's: any before it was left by another run.
                let mine = self.creating.iter().rposition(|one| one.file == file);
                mine.map(|at| self.creating.remove(at));
                let parts = BTreeMap::new();
                let begun = Begun { key, upload_id, part_size, checksum, parts };
                self.begun.insert(file, begun);
            }
            Line::Part { file, number, etag, sum } => {
                if let Some(begun) = self.begun.get_mut(&file) {
                    begun.parts.insert(number, PartDone { etag, sum });
                }
            }
            Line::Gone { file } => drop(self.begun.remove(&file)),
        }
    }
}

/// The file of an upload in the place for such files.
pub(super) fn default_path(identity: &str) -> Result<PathBuf, String> {
    let set =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .ok_or("neither XDG_STATE_HOME nor HOME is set: say --resume=FILE")?;
    Ok(state.join("mizuchi").join(format!("upload-{}.jsonl", short(identity))))
}

fn short(identity: &str) -> String {
    let mut hasher = Hasher::new(ChecksumAlgorithm::Sha256);
    hasher.update(identity.as_bytes());
    hasher.finish().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// An open state file. Dropped, it is closed; what was acknowledged is in it.
pub(super) struct State {
    path: PathBuf,
    lines: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

struct Request {
    line: Vec<u8>,
    sync: bool,
    written: oneshot::Sender<Result<(), String>>,
}

impl State {
    /// Opens the file, or makes it, and reads what earlier runs have done. `fresh`: but for the multipart
    /// uploads that they have left it is forgotten. Blocks. The error is for whoever typed the command.
    pub(super) fn open(path: &Path, identity: &str, fresh: bool) -> Result<(State, Known), String> {
        let words = |error: io::Error| format!("the state file {path:?}: {error}");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(words)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = file.map_err(words)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!("the state file {path:?} is another run's, which is not over"));
            }
            Err(TryLockError::Error(error)) => return Err(words(error)),
        }
        let (mut known, mut whole) = read(&mut file, path, identity)?;
        if fresh {
            known.done.clear();
            whole = 0;
        }
        file.set_len(whole).map_err(words)?;
        if whole == 0 {
            let mut lines =
                to_bytes(&Line::MizuchiUpload { version: VERSION, identity: short(identity) });
            for (file, begun) in &known.begun {
                let Begun { key, upload_id, part_size, checksum, .. } = begun.clone();
                let line = Line::Begun { file: *file, key, upload_id, part_size, checksum };
                lines.extend(to_bytes(&line));
            }
            for Creating { file, key, at } in known.creating.iter().cloned() {
                lines.extend(to_bytes(&Line::Creating { file, key, at }));
            }
            file.write_all(&lines).map_err(words)?;
        }
        let synced = file.sync_all().and_then(|()| match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        });
        synced.map_err(words)?;
        let (lines, requests) = mpsc::channel();
        let name = "upload state".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || write(file, &requests));
        let state = State {
            path: path.to_owned(),
            lines: Some(lines),
            thread: Some(thread.map_err(words)?),
        };
        Ok((state, known))
    }

    /// Whoever writes to it. At most one line a request under way waits to be written.
    pub(super) fn writer(&self) -> Option<StateWriter> {
        self.lines.clone().map(StateWriter)
    }

    /// Closes it; `done`: everything is there, and it is not needed any more. Every writer must be gone.
    pub(super) fn close(mut self, done: bool) -> io::Result<()> {
        self.end();
        if done { std::fs::remove_file(&self.path) } else { Ok(()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn end(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has shown itself to every writer.
            let _ = thread.join();
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.end();
    }
}

/// Writes lines to the state file.
#[derive(Clone)]
pub(super) struct StateWriter(mpsc::Sender<Request>);

impl StateWriter {
    /// Ends when the line is written; with `sync`, when it is on stable storage.
    pub(super) async fn write(&self, line: &Line, sync: bool) -> Result<(), String> {
        let gone = || "the state file's writer has died".to_owned();
        let (written, answer) = oneshot::channel();
        let request = Request { line: to_bytes(line), sync, written };
        self.0.send(request).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn to_bytes(line: &Line) -> Vec<u8> {
    // No map with odd keys is in it: that cannot fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What is in the file, and its length without a torn end.
fn read(file: &mut File, path: &Path, identity: &str) -> Result<(Known, u64), String> {
    let words = |error: io::Error| format!("the state file {path:?}: {error}");
    let foreign = |what: &str| format!("{path:?} is {what}: name another with --resume=FILE");
    file.seek(SeekFrom::Start(0)).map_err(words)?;
    let (mut known, mut whole, mut first) = (Known::default(), 0, true);
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(words)?;
        if length == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let parsed = serde_json::from_slice::<Line>(&line);
        match (first, parsed) {
            (true, Ok(Line::MizuchiUpload { version: VERSION, identity: whose })) => {
                if whose != short(identity) {
                    return Err(foreign("the state of another upload"));
                }
            }
            (true, _) => return Err(foreign("no state file of this version")),
            (false, Ok(line)) => known.take(line),
            // What a line that cannot be read was about is sent again.
            (false, Err(_)) => {}
        }
        first = false;
        whole += length as u64;
    }
    let begins = line.starts_with(BEGINNING) || BEGINNING.starts_with(&line);
    if first && !begins {
        return Err(foreign("no state file"));
    }
    Ok((known, whole))
}

/// Writes what comes until nobody is left. Blocks.
fn write(mut file: File, requests: &mpsc::Receiver<Request>) {
    let mut unsynced: Option<Instant> = None;
    let mut batch = Vec::new();
    loop {
        let wait = unsynced.map_or(SYNC, |since| SYNC.saturating_sub(since.elapsed()));
        match requests.recv_timeout(wait) {
            Ok(first) => {
                batch.push(first);
                while batch.len() < BATCH
                    && let Ok(next) = requests.try_recv()
                {
                    batch.push(next);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let bytes: Vec<u8> = batch.iter().flat_map(|request| &request.line).copied().collect();
        let mut result = file.write_all(&bytes);
        if !bytes.is_empty() && unsynced.is_none() {
            unsynced = Some(Instant::now());
        }
        let due = unsynced.is_some_and(|since| since.elapsed() >= SYNC);
        if result.is_ok() && (due || batch.iter().any(|request| request.sync)) {
            result = file.sync_data();
            unsynced = None;
        }
        let result = result.map_err(|error| format!("the state file: {error}"));
        for request in batch.drain(..) {
            // Whoever asked may be gone.
            let _ = request.written.send(result.clone());
        }
    }
    let _ = file.sync_data();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn print(key: &str) -> Fingerprint {
        Fingerprint::of(key, Stamp { length: 1, modified: -5 }, &Headers::new())
    }

    async fn filled(path: &Path) {
        let (state, known) = State::open(path, "me", false).unwrap();
        assert!(known.done.is_empty());
        let writer = state.writer().unwrap();
        let key = "a".to_owned();
        let lines = [
            Line::Done { file: print("a"), key: key.clone(), etag: String::new() },
            Line::Begun {
                file: print("b"),
                key: "b".to_owned(),
                upload_id: "id".to_owned(),
                part_size: 7,
                checksum: "md5".to_owned(),
            },
            Line::Part { file: print("b"), number: 2, etag: "e".to_owned(), sum: None },
            Line::Begun {
                file: print("c"),
                key: key.clone(),
                upload_id: "x".to_owned(),
                part_size: 7,
                checksum: key,
            },
            Line::Gone { file: print("c") },
        ];
        for line in &lines {
            writer.write(line, false).await.unwrap();
        }
        drop(writer);
        state.close(false).unwrap();
    }

    /// "torn last line is ignored"
    #[tokio::test]
    async fn a_file_cut_off_anywhere_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        filled(&path).await;
        let whole = std::fs::read(&path).unwrap();
        let (mut most_done, mut begun) = (0, 0);
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (state, known) = State::open(&path, "me", false).unwrap();
            assert!(known.done.len() >= most_done, "{length}");
            most_done = known.done.len();
            begun += known.begun.len();
            let writer = state.writer().unwrap();
            let file = print("z");
            let line = Line::Done { file, key: "z".to_owned(), etag: String::new() };
            writer.write(&line, true).await.unwrap();
            drop(writer);
            state.close(false).unwrap();
            let (_state, known) = State::open(&path, "me", false).unwrap();
            assert!(known.done.contains(&file), "{length}");
        }
        assert!(most_done == 1 && begun > 0);
    }

    #[tokio::test]
    async fn what_was_done_is_known_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/down/state");
        filled(&path).await;
        let (_open, known) = State::open(&path, "me", false).unwrap();
        assert_eq!(known.done.len(), 1);
        assert_eq!(known.begun.keys().copied().collect::<Vec<_>>(), [print("b")]);
        let begun = &known.begun[&print("b")];
        assert_eq!((begun.upload_id.as_str(), begun.part_size), ("id", 7));
        assert_eq!(begun.parts[&2].etag, "e");
        assert!(State::open(&path, "me", false).err().unwrap().contains("not over"));
    }

    #[tokio::test]
    async fn another_s_file_is_not_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        filled(&path).await;
        assert!(State::open(&path, "you", false).err().unwrap().contains("another upload"));
        for text in ["precious\n", "precious"] {
            std::fs::write(&path, text).unwrap();
            assert!(State::open(&path, "me", false).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn a_fingerprint_tells_files_apart() {
        let stamp = Stamp { length: 1, modified: 2 };
        let of = |key: &str, stamp, headers: &[(&str, &str)]| {
            let headers = headers.iter();
            let headers = headers.map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
            Fingerprint::of(key, stamp, &headers)
        };
        let all = [
            of("k", stamp, &[]),
            of("l", stamp, &[]),
            of("k", Stamp { length: 2, ..stamp }, &[]),
            of("k", Stamp { modified: 3, ..stamp }, &[]),
            of("k", stamp, &[("a", "bc")]),
            of("k", stamp, &[("ab", "c")]),
        ];
        let different: HashSet<_> = all.iter().copied().collect();
        assert_eq!(different.len(), all.len());
        let text = String::from(all[0]);
        assert_eq!(Fingerprint::try_from(text).unwrap(), all[0]);
    }
}
