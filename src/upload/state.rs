//! The state file: what an upload has done so far, so that the same command goes on after any end.
//!
//! A line of JSON each, appended ([`record`]). A file's line is written before the file counts as sent; a
//! multipart upload's id is on stable storage before its first part goes. All else is synced once a second: a
//! power loss may cost that much, and costs a second upload of the same bytes. The last line may be torn, and
//! is cut off. What is not true any more is left out when the file is opened and has twice the lines that it
//! needs: another file takes its place whole.
//!
//! The file is locked: two runs of one command do not know of each other's parts. Whoever has the lock and
//! finds another file in the file's place, or none, begins anew.

mod record;

pub(super) use record::{Begun, Creating, Fingerprint, Known, Line, PartDone, There};

use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
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

/// How often a file is opened that others put others in the place of.
const OPENINGS: u32 = 10;

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
    /// Has the lock, until the file is removed.
    file: File,
    lines: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<io::Result<()>>>,
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
        let words = |error| in_words(path, error);
        let folder = folder_of(path);
        make_folders(folder).map_err(words)?;
        let mut file = locked(path)?;
        let (mut known, read) = read(&mut file, path, identity)?;
        if fresh {
            known.done.clear();
            for begun in known.begun.values_mut().flatten() {
                begun.parts.clear();
            }
        }
        let needed = 1 + known.done.len() + known.unfinished().count();
        if fresh || read.lines == 0 || read.lines > 2 * needed {
            file = write_anew(path, identity, &known, &mut file).map_err(words)?;
        } else {
            file.set_len(read.whole).map_err(words)?;
        }
        let synced = file.sync_all().and_then(|()| File::open(folder)?.sync_all());
        synced.map_err(words)?;
        let (lines, requests) = mpsc::channel();
        let name = "upload state".to_owned();
        let of_thread = file.try_clone().map_err(words)?;
        let thread =
            std::thread::Builder::new().name(name).spawn(move || write(of_thread, &requests));
        let thread = Some(thread.map_err(words)?);
        Ok((State { path: path.to_owned(), file, lines: Some(lines), thread }, known))
    }

    /// What earlier runs have done, without having the file: for a look. Blocks.
    pub(super) fn look(path: &Path, identity: &str) -> Result<Known, String> {
        match File::open(path) {
            Ok(mut file) => Ok(read(&mut file, path, identity)?.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Known::default()),
            Err(error) => Err(in_words(path, error)),
        }
    }

    /// Whoever writes to it. At most one line a request under way waits to be written.
    pub(super) fn writer(&self) -> Option<StateWriter> {
        self.lines.clone().map(StateWriter)
    }

    /// Closes it; `done`: everything is there, and it is not needed any more. Every writer must be gone.
    /// Errors: what is in it may be lost with the power.
    pub(super) fn close(mut self, done: bool) -> io::Result<()> {
        let written = self.end();
        if done {
            std::fs::remove_file(&self.path)
        } else {
            written.and_then(|()| self.file.sync_data())
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn end(&mut self) -> io::Result<()> {
        self.lines = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("its writer has died")))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // Whoever cares has closed it.
        let _ = self.end();
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
        let request = Request { line: line.to_bytes(), sync, written };
        self.0.send(request).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn in_words(path: &Path, error: io::Error) -> String {
    format!("the state file {path:?}: {error} (--resume=FILE names another)")
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a folder and those above it, so that a power loss does not take them.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folders(above)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(above)?.sync_all(),
    }
}

/// The file at this path, made where there is none, with its lock.
fn locked(path: &Path) -> Result<File, String> {
    let words = |error| in_words(path, error);
    let theirs = || format!("the state file {path:?} is another run's, which is not over");
    for _ in 0..OPENINGS {
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(words)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(theirs()),
            Err(TryLockError::Error(error)) => return Err(words(error)),
        }
        let ours = file.metadata().map_err(words)?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            // Its last owner has removed or replaced it between the opening and the lock.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(words(error)),
        }
    }
    Err(theirs())
}

/// Puts a file in the place of `old` that has what is known and no more, locked as well.
fn write_anew(path: &Path, identity: &str, known: &Known, old: &mut File) -> io::Result<File> {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".new");
    let beside = path.with_file_name(name);
    // Whoever has the lock of `path` is alone with it.
    let file = OpenOptions::new().read(true).append(true).create(true).open(&beside)?;
    file.try_lock()?;
    file.set_len(0)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let first = Line::MizuchiUpload { version: VERSION, identity: short(identity) };
    writer.write_all(&first.to_bytes())?;
    old.seek(SeekFrom::Start(0))?;
    let (mut reader, mut bytes) = (BufReader::with_capacity(1 << 20, old), Vec::new());
    let mut left = known.done.clone();
    while !left.is_empty() {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        if let Ok(Line::Done { file, .. }) = serde_json::from_slice(&bytes)
            && left.take(&file)
        {
            writer.write_all(&bytes)?;
        }
    }
    for line in known.unfinished() {
        writer.write_all(&line.to_bytes())?;
    }
    let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    Ok(file)
}

/// How much of a file was read.
struct Read {
    /// Whole lines.
    lines: usize,
    /// Their bytes: without a torn end.
    whole: u64,
}

/// What is in the file.
fn read(file: &mut File, path: &Path, identity: &str) -> Result<(Known, Read), String> {
    let foreign = |what: &str| format!("{path:?} is {what}: name another with --resume=FILE");
    file.seek(SeekFrom::Start(0)).map_err(|error| in_words(path, error))?;
    let (mut known, mut read) = (Known::default(), Read { lines: 0, whole: 0 });
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(|error| in_words(path, error))?;
        if length == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let parsed = serde_json::from_slice::<Line>(&line);
        match (read.lines, parsed) {
            (0, Ok(Line::MizuchiUpload { version: VERSION, identity: whose })) => {
                if whose != short(identity) {
                    return Err(foreign("the state of another upload"));
                }
            }
            (0, _) => return Err(foreign("no state file of this version")),
            (_, Ok(line)) => known.take(line),
            // What a line that cannot be read was about is sent again.
            (_, Err(_)) => {}
        }
        read.lines += 1;
        read.whole += length as u64;
    }
    let begins = line.starts_with(BEGINNING) || BEGINNING.starts_with(&line);
    if read.lines == 0 && !begins {
        return Err(foreign("no state file"));
    }
    Ok((known, read))
}

/// Writes what comes until nobody is left. After an error nothing is written any more, and whoever asks is
/// told: what the kernel could not store once it forgets. Blocks.
fn write(mut file: File, requests: &mpsc::Receiver<Request>) -> io::Result<()> {
    let mut unsynced: Option<Instant> = None;
    let mut batch = Vec::new();
    let mut result = Ok(());
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
        if result.is_ok() {
            let bytes: Vec<u8> = batch.iter().flat_map(|request| &request.line).copied().collect();
            result = file.write_all(&bytes);
            if !bytes.is_empty() && unsynced.is_none() {
                unsynced = Some(Instant::now());
            }
            let due = unsynced.is_some_and(|since| since.elapsed() >= SYNC);
            if result.is_ok() && (due || batch.iter().any(|request| request.sync)) {
                result = file.sync_data();
                unsynced = None;
            }
        }
        for request in batch.drain(..) {
            let told = result.as_ref().map_err(|error| format!("the state file: {error}"));
            // Whoever asked may be gone.
            let _ = request.written.send(told.copied());
        }
    }
    result
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::plan::{Item, Stamp};
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn print(key: &str) -> Fingerprint {
        version(key, 1)
    }

    /// A file under this key, of so many bytes.
    fn version(key: &str, length: u64) -> Fingerprint {
        let (path, key, headers) = (PathBuf::from("/f"), key.to_owned(), Arc::default());
        let stamp = Stamp { length, modified: -5, changed: 7, inode: 9 };
        Fingerprint::of(&Item { path, key, headers, no_link: false }, stamp)
    }

    fn done(file: Fingerprint) -> Line {
        Line::Done { file, key: "k".to_owned(), etag: String::new(), upload_id: None }
    }

    async fn filled(path: &Path) {
        let (state, known) = State::open(path, "me", false).unwrap();
        assert!(known.done.is_empty());
        let writer = state.writer().unwrap();
        let key = "a".to_owned();
        let lines = [
            done(print("a")),
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
            Line::Gone { file: print("c"), upload_id: "x".to_owned() },
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
            writer.write(&done(file), true).await.unwrap();
            drop(writer);
            state.close(false).unwrap();
            let (_state, known) = State::open(&path, "me", false).unwrap();
            assert!(known.done.has(&file), "{length}");
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
        let begun = &known.begun[&print("b")][0];
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

    /// A file that is opened once a day does not grow for ever; what it says stays the same.
    #[tokio::test]
    async fn what_is_not_true_any_more_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        filled(&path).await;
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        let mut most = 0;
        for day in 0..100 {
            let (state, known) = State::open(&path, "me", false).unwrap();
            most = most.max(lines());
            assert_eq!(known.done.len(), 1);
            let begun = &known.begun[&print("b")];
            assert_eq!((begun.len(), &*begun[0].parts[&2].etag), (1, "e"), "{day}");
            let (file, before) = (version("a", day % 2), version("a", 1 - day % 2));
            assert!(known.done.has(&before) && !known.done.has(&file), "{day}");
            let writer = state.writer().unwrap();
            writer.write(&Line::Replacing { file }, true).await.unwrap();
            writer.write(&done(file), false).await.unwrap();
            drop(writer);
            state.close(false).unwrap();
        }
        assert!(most <= 8, "{most}");
        let names = std::fs::read_dir(directory.path()).unwrap();
        assert_eq!(names.count(), 1, "nothing is left beside it");
    }

    /// "fresh: but for the multipart uploads that they have left it is forgotten"
    #[tokio::test]
    async fn fresh_forgets_all_but_what_must_be_aborted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        filled(&path).await;
        drop(State::open(&path, "me", true).unwrap());
        let known = State::look(&path, "me").unwrap();
        assert!(known.done.is_empty());
        let begun = &known.begun[&print("b")][0];
        assert_eq!((&*begun.upload_id, begun.parts.len()), ("id", 0));
    }

    /// Whoever opened the file before it was removed, and gets its lock after, is not alone with it.
    #[tokio::test]
    async fn a_file_that_was_removed_is_nobody_s() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        filled(&path).await;
        let (state, _) = State::open(&path, "me", false).unwrap();
        state.close(true).unwrap();
        assert!(!path.exists());
        let running = AtomicBool::new(true);
        std::thread::scope(|threads| {
            let removing = threads.spawn(|| {
                while running.load(Ordering::Relaxed) {
                    if let Ok((state, _)) = State::open(&path, "me", false) {
                        state.close(true).unwrap();
                    }
                }
            });
            let mut opened = 0;
            while opened < 50 {
                let Ok((state, _)) = State::open(&path, "me", false) else { continue };
                assert!(path.exists() && State::open(&path, "me", false).is_err());
                state.close(true).unwrap();
                opened += 1;
            }
            running.store(false, Ordering::Relaxed);
            removing.join().unwrap();
        });
    }
}
