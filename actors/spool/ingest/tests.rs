//! Bodies from real sockets and from feeders, into a real folder, and into one that fails.

use super::*;
use crate::http::Framing;
use crate::metrics::Counted;
use crate::payload::{BodyMode, BodySpec, BodyVerifier, ChecksumAlgorithm, Hasher, PayloadLength};
mod whole_way;

use crate::spool::{self, BodyFile, BodyId, Disk, Folder, Free, Limits};
use crate::tap::{ClientSocket, Feeder, RequestBody, TapConfig, TapStream, fed_body};
use redb::StorageBackend;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than any step takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// What the disk does.
#[derive(Debug, Default)]
struct Faults {
    create: Option<io::ErrorKind>,
    append: Option<io::ErrorKind>,
    sync: Option<io::ErrorKind>,
    syncs: usize,
    /// Appends wait.
    is_slow: bool,
    /// Syncs wait.
    holds_sync: bool,
    /// It sets nothing aside, and always has as much left.
    unallocated: Option<u64>,
    measured: usize,
}

#[derive(Debug, Default)]
struct Behaviour(Mutex<Faults>, Condvar);

/// A real folder that fails when it is told to.
#[derive(Debug)]
struct Faulty(Folder, Arc<Behaviour>);

#[derive(Debug)]
struct FaultyFile(Box<dyn BodyFile>, Arc<Behaviour>);

fn fault(kind: Option<io::ErrorKind>) -> io::Result<()> {
    kind.map_or(Ok(()), |kind| Err(kind.into()))
}

impl Disk for Faulty {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn is_new(&self) -> io::Result<bool> {
        self.0.is_new()
    }

    fn journal(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.0.journal()
    }

    fn create(&self, id: BodyId, length: Option<u64>) -> io::Result<Box<dyn BodyFile>> {
        fault(self.1.0.lock().unwrap().create)?;
        let file = self.0.create(id, length)?;
        Ok(Box::new(FaultyFile(file, Arc::clone(&self.1))))
    }

    fn open(&self, id: BodyId) -> io::Result<File> {
        self.0.open(id)
    }

    fn length(&self, id: BodyId) -> io::Result<u64> {
        self.0.length(id)
    }

    fn remove(&self, id: BodyId) -> io::Result<()> {
        self.0.remove(id)
    }

    fn bodies(&self) -> io::Result<Vec<BodyId>> {
        self.0.bodies()
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.0.sync_folder()
    }

    fn free(&self) -> io::Result<Free> {
        let mut faults = self.1.0.lock().unwrap();
        faults.measured += 1;
        match faults.unallocated {
            Some(bytes) => Ok(Free { bytes, files: u64::MAX }),
            None => self.0.free(),
        }
    }
}

impl BodyFile for FaultyFile {
    fn allocated(&self) -> u64 {
        match self.1.0.lock().unwrap().unallocated {
            Some(_) => 0,
            None => self.0.allocated(),
        }
    }

    fn append(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        let mut faults = self.1.0.lock().unwrap();
        while faults.is_slow {
            faults = self.1.1.wait(faults).unwrap();
        }
        fault(faults.append)?;
        drop(faults);
        self.0.append(pieces)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut faults = self.1.0.lock().unwrap();
        faults.syncs += 1;
        while faults.holds_sync {
            faults = self.1.1.wait(faults).unwrap();
        }
        fault(faults.sync)?;
        drop(faults);
        self.0.sync()
    }
}

/// A spool in a folder of its own.
struct Place {
    spool: Arc<Spool>,
    behaviour: Arc<Behaviour>,
    turns: Turns,
    directory: TempDir,
}

impl Place {
    async fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let behaviour = Arc::new(Behaviour::default());
        let folder = Folder::open(&directory.path().join("spool")).unwrap();
        let disk = Arc::new(Faulty(folder, Arc::clone(&behaviour)));
        let limits = Limits { entries: 100, bytes: 1 << 40, free_bytes: 0, free_files: 0 };
        let opened = spawn_blocking(move || Spool::open(disk, limits)).await;
        let (spool, turns) = (opened.unwrap().unwrap(), Turns::new(Instant::now()));
        Place { spool, behaviour, turns, directory }
    }

    fn behave(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.behaviour.0.lock().unwrap());
        self.behaviour.1.notify_all();
    }

    async fn ingest(
        &self,
        intake: Intake,
        length: Option<u64>,
        most: u64,
    ) -> Result<Ingested, IngestError> {
        timeout(LONG, ingest(&self.spool, intake, length, most, &self.turns)).await.unwrap()
    }

    fn files(&self) -> usize {
        self.spool.disk().bodies().unwrap().len()
    }

    /// Waits until so many bodies are in the folder.
    async fn until_files(&self, count: usize) {
        until(|| self.files() == count).await;
    }

    /// What was stored.
    async fn content(&self, ingested: &Ingested) -> Vec<u8> {
        match (ingested.body.place, &ingested.inline) {
            (spool::Place::Inline, Some(bytes)) => bytes.to_vec(),
            (spool::Place::File(id), None) => {
                let mut content = Vec::new();
                let mut file = self.spool.disk().open(id).unwrap();
                io::Read::read_to_end(&mut file, &mut content).unwrap();
                content
            }
            (place, inline) => panic!("{place:?} and {inline:?}"),
        }
    }
}

impl Drop for Place {
    /// A test that failed must not leave a thread behind that waits for ever.
    fn drop(&mut self) {
        self.behave(|faults| (faults.is_slow, faults.holds_sync) = (false, false));
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, poll).await.expect("the condition never held");
}

fn config() -> TapConfig {
    TapConfig {
        max_head: 8192,
        head_timeout: LONG,
        keep_alive: LONG,
        progress_interval: LONG,
        progress_bytes: 1,
        drain_bytes: 0,
        drain_time: Duration::ZERO,
    }
}

fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = (0..=250).collect::<Vec<u8>>().repeat(length.div_ceil(251));
    bytes.truncate(length);
    bytes
}

fn md5(bytes: &[u8]) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(bytes);
    md5.finish()
}

/// A body of `bytes` on an HTTP/1 connection, for the splice path. What is returned beside it keeps the
/// connection.
async fn wire(bytes: Vec<u8>) -> (Intake, (TapStream, tokio::task::JoinHandle<TcpStream>)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let open = Counted::new(&prometheus::IntGauge::new("open", "open").unwrap());
    let mut stream = TapStream::new(ClientSocket::from(socket), Arc::new(config()), 7, open);
    let sending = tokio::spawn(async move {
        let length = bytes.len();
        let head = format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&bytes).await.unwrap();
        client
    });
    let mut head = [0; 512];
    let count = stream.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..count]).into_owned();
    let token = head.lines().find_map(|line| line.strip_prefix("x-mizuchi-tap: ")).unwrap();
    let body = stream.handle().take(token).unwrap().body;
    (Intake::splice(body), (stream, sending))
}

fn spec(length: PayloadLength) -> BodySpec {
    BodySpec {
        mode: BodyMode::Plain { sha256: None },
        length,
        trailers: Vec::new(),
        checksums: Vec::new(),
        md5: None,
    }
}

fn copied(body: RequestBody, spec: BodySpec) -> Intake {
    Intake::copy(body, BodyVerifier::new(spec).unwrap(), None)
}

/// Feeds `bytes` in pieces, and ends the body.
fn feed(bytes: Vec<u8>, framing: Framing) -> RequestBody {
    let (feeder, body) = fed_body(framing, &config());
    tokio::spawn(async move {
        for piece in bytes.chunks(100_000) {
            if feeder.feed(Bytes::copy_from_slice(piece)).await.is_err() {
                return;
            }
        }
        feeder.end().await;
    });
    body
}

/// A feeder that has fed `bytes` of a larger body, and the intake.
async fn part_of(bytes: usize, length: u64) -> (Feeder, Intake) {
    let (feeder, body) = fed_body(Framing::Length(length), &config());
    let intake = copied(body, spec(PayloadLength::Exactly(length)));
    let _ = timeout(LONG, feeder.feed(Bytes::from(pattern(bytes)))).await.unwrap();
    (feeder, intake)
}

/// Both ways in, and of unknown length: "up to 64 KiB stays in memory, more goes to a body file".
#[tokio::test]
async fn the_border_between_the_journal_and_a_file() {
    let place = Place::new().await;
    for length in [0, 1, INLINE, INLINE + 1, 3 * BATCH + 12_345] {
        let bytes = pattern(length);
        let known = Some(length as u64);
        let exact = PayloadLength::Exactly(length as u64);
        let (spliced, _connection) = wire(bytes.clone()).await;
        let fed = copied(feed(bytes.clone(), Framing::Length(length as u64)), spec(exact));
        let most = PayloadLength::AtMost(1 << 30);
        let endless = copied(feed(bytes.clone(), Framing::Chunked), spec(most));
        for (intake, known) in [(spliced, known), (fed, known), (endless, None)] {
            let ingested = place.ingest(intake, known, 1 << 30).await.unwrap();
            assert_eq!(ingested.body.length, length as u64);
            assert_eq!(ingested.body.md5, md5(&bytes));
            assert_eq!(ingested.volume.copied, length as u64);
            assert!(ingested.reservation.bytes() >= length as u64);
            assert!(place.content(&ingested).await == bytes, "{length}");
            assert_eq!(ingested.draft.is_some(), length > INLINE, "{length}");
            assert_eq!(place.files(), usize::from(length > INLINE));
            drop(ingested);
            // Nobody recorded it.
            place.until_files(0).await;
        }
    }
    let large = pattern(INLINE + 1);
    let (intake, _connection) = wire(large.clone()).await;
    let ingested = place.ingest(intake, Some(large.len() as u64), 0).await.unwrap();
    let id = ingested.draft.as_ref().unwrap().id();
    ingested.draft.unwrap().keep();
    // Whatever removes drafts has run by the time that another one is gone.
    let (intake, _connection) = wire(large.clone()).await;
    drop(place.ingest(intake, Some(large.len() as u64), 0).await.unwrap());
    place.until_files(1).await;
    assert_eq!(place.spool.disk().bodies().unwrap(), [id]);
}

/// A file system that sets nothing aside (EOPNOTSUPP) shows a body only as it is written: until then it is
/// taken off what is free, however often the disk is asked.
#[tokio::test]
async fn what_the_disk_did_not_set_aside_is_not_promised_twice() {
    let place = Place::new().await;
    let measured_anew = async || {
        let before = place.behaviour.0.lock().unwrap().measured;
        // The first may have begun before.
        until(|| place.behaviour.0.lock().unwrap().measured >= before + 2).await;
    };
    place.behave(|faults| faults.unallocated = Some(500_000));
    measured_anew().await;
    let (_feeder, intake) = part_of(1, 400_000).await;
    let mut taking = Box::pin(ingest(&place.spool, intake, Some(400_000), 0, &place.turns));
    let watched = async {
        until(|| place.files() == 1).await;
        measured_anew().await;
        assert!(place.spool.reserve(100_001).is_err());
        drop(place.spool.reserve(100_000).unwrap());
    };
    tokio::select! {
        _ = &mut taking => panic!("the body is not whole"),
        () = watched => {}
    }
}

/// "Drop in the middle leaves no file": wherever the body stands then.
#[tokio::test]
async fn an_ingest_that_is_dropped_leaves_no_file() {
    let place = Place::new().await;
    let length = 8 * BATCH as u64;
    for (fed, is_slow) in [(1, false), (3 * BATCH, false), (3 * BATCH, true)] {
        place.behave(|faults| faults.is_slow = is_slow);
        let (_feeder, intake) = part_of(fed, length).await;
        let mut taking = Box::pin(ingest(&place.spool, intake, Some(length), 0, &place.turns));
        let has_file = until(|| place.files() == 1);
        tokio::select! {
            biased;
            _ = &mut taking => panic!("the body is not whole"),
            () = has_file => {}
        }
        // Some way further: a batch under way, or another gathered.
        assert!(timeout(Duration::from_millis(30), &mut taking).await.is_err());
        drop(taking);
        place.behave(|faults| faults.is_slow = false);
        place.until_files(0).await;
    }
    // Before the file is there.
    let (_feeder, intake) = part_of(1, length).await;
    let mut taking = Box::pin(ingest(&place.spool, intake, Some(length), 0, &place.turns));
    assert!(futures_poll(&mut taking).await.is_none());
    drop(taking);
    // Whatever was under way then has ended when a later one has.
    let (_feeder, intake) = part_of(1, length).await;
    let taking = ingest(&place.spool, intake, Some(length), 0, &place.turns);
    assert!(timeout(Duration::from_millis(100), taking).await.is_err());
    place.until_files(0).await;
    assert!(!place.spool.totals().latched);
}

/// Polls once.
async fn futures_poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    tokio::select! {
        biased;
        done = future => Some(done),
        () = std::future::ready(()) => None,
    }
}

fn code(result: Result<Ingested, IngestError>) -> (u16, String, bool) {
    let error = result.unwrap_err();
    (error.error.status, error.error.code.into_owned(), error.body_taken)
}

fn answer(status: u16, code: &str, body_taken: bool) -> (u16, String, bool) {
    (status, code.to_owned(), body_taken)
}

/// R6: "503 SlowDown before the body is read; recovers after space returns".
#[tokio::test]
async fn a_full_disk_is_slow_down_and_then_works_again() {
    let place = Place::new().await;
    let length = 2 * BATCH;
    let take = || async {
        let (intake, _connection) = wire(pattern(length)).await;
        place.ingest(intake, Some(length as u64), 0).await
    };
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    for full in [StorageFull, QuotaExceeded] {
        place.behave(|faults| faults.create = Some(full));
        let (feeder, intake) = part_of(0, length as u64).await;
        let result = place.ingest(intake, Some(length as u64), 0).await;
        assert_eq!(code(result), answer(503, "SlowDown", false));
        drop(feeder);
        place.behave(|faults| (faults.create, faults.append) = (None, Some(full)));
        let refused = take().await.unwrap_err().error;
        assert_eq!((refused.status, &*refused.code), (503, "SlowDown"));
        place.behave(|faults| faults.append = None);
        place.until_files(0).await;
        assert!(!place.spool.totals().latched);
        assert!(take().await.is_ok());
    }
    place.behave(|faults| faults.append = Some(io::ErrorKind::Other));
    assert_eq!(code(take().await).0, 503);
    place.until_files(0).await;
}

/// R5: "fsync returns EIO: no 200 for that data, no second fsync on it, acknowledgements stop (503)".
#[tokio::test]
async fn a_failed_sync_stops_acknowledgements() {
    let place = Place::new().await;
    place.behave(|faults| faults.sync = Some(io::ErrorKind::Other));
    let take = || async {
        let (intake, _connection) = wire(pattern(INLINE + 1)).await;
        place.ingest(intake, Some(INLINE as u64 + 1), 0).await
    };
    assert_eq!(code(take().await).0, 503);
    place.until_files(0).await;
    assert_eq!(place.behaviour.0.lock().unwrap().syncs, 1);
    assert!(place.spool.totals().latched);
    place.behave(|faults| faults.sync = None);
    assert_eq!(code(take().await).0, 503);
    assert_eq!(place.behaviour.0.lock().unwrap().syncs, 1, "the body was not even taken");
}

/// A disk that has failed has failed, also when the client is gone that would have been told.
#[tokio::test]
async fn a_sync_that_fails_behind_a_dropped_ingest_is_no_secret() {
    let place = Place::new().await;
    place.behave(|faults| faults.holds_sync = true);
    let (intake, _connection) = wire(pattern(INLINE + 1)).await;
    let mut taking = Box::pin(place.ingest(intake, Some(INLINE as u64 + 1), 0));
    let syncs = until(|| place.behaviour.0.lock().unwrap().syncs == 1);
    tokio::select! {
        biased;
        _ = &mut taking => panic!("the sync is held"),
        () = syncs => {}
    }
    drop(taking);
    place.behave(|faults| (faults.holds_sync, faults.sync) = (false, Some(io::ErrorKind::Other)));
    until(|| place.spool.totals().latched).await;
    place.until_files(0).await;
}

/// Of unknown length a body may have so many bytes and no more.
#[tokio::test]
async fn an_endless_body_ends_at_its_bound() {
    let place = Place::new().await;
    for most in [10, INLINE, 2 * BATCH] {
        for (length, fits) in [(most, true), (most + 1, false), (most + 3 * BATCH, false)] {
            let body = feed(pattern(length), Framing::Chunked);
            let intake = copied(body, spec(PayloadLength::AtMost(u64::MAX)));
            let result = place.ingest(intake, None, most as u64).await;
            match result {
                Ok(ingested) => assert!(fits && ingested.body.length == length as u64),
                Err(error) => {
                    assert_eq!(error.error.code, "EntityTooLarge");
                    assert!(!fits, "{length} of {most}");
                }
            }
            place.until_files(0).await;
        }
    }
}

/// aws-chunked with a CRC-32 as its trailer.
fn with_trailer(bytes: &[u8], crc_over: &[u8]) -> Vec<u8> {
    let mut crc = Hasher::new(ChecksumAlgorithm::Crc32);
    crc.update(crc_over);
    let mut coded = format!("{:x}\r\n", bytes.len()).into_bytes();
    coded.extend_from_slice(bytes);
    let trailer = format!("\r\n0\r\nx-amz-checksum-crc32:{}\r\n\r\n", crc.finish_value());
    coded.extend_from_slice(trailer.as_bytes());
    coded
}

/// What the client said of its bytes is proven before anything is acknowledged: trailers and headers.
#[tokio::test]
async fn what_the_client_said_of_its_bytes_is_verified() {
    let place = Place::new().await;
    for length in [1000, 2 * BATCH] {
        let bytes = pattern(length);
        let decoded = length as u64;
        let trailing = |coded: Vec<u8>| {
            let framing = Framing::Length(coded.len() as u64);
            let trailers = vec![ChecksumAlgorithm::Crc32];
            let spec = spec(PayloadLength::Exactly(decoded));
            copied(
                feed(coded, framing),
                BodySpec { mode: BodyMode::UnsignedTrailer, trailers, ..spec },
            )
        };
        let right = trailing(with_trailer(&bytes, &bytes));
        let ingested = place.ingest(right, Some(decoded), 0).await.unwrap();
        assert_eq!(ingested.trailers.len(), 1);
        assert_eq!(ingested.trailers[0].0, "x-amz-checksum-crc32");
        assert!(place.content(&ingested).await == bytes);
        assert_eq!((ingested.body.md5, ingested.body.length), (md5(&bytes), decoded));
        drop(ingested);
        let wrong = trailing(with_trailer(&bytes, b"others"));
        let result = place.ingest(wrong, Some(decoded), 0).await;
        assert_eq!(code(result).1, "BadDigest");
        let body = feed(bytes, Framing::Length(decoded));
        let others = BodySpec { md5: Some([7; 16]), ..spec(PayloadLength::Exactly(decoded)) };
        let result = place.ingest(copied(body, others), Some(decoded), 0).await;
        assert_eq!(code(result).1, "BadDigest");
        place.until_files(0).await;
    }
}

/// R15: "short body: 400 IncompleteBody".
#[tokio::test]
async fn a_body_that_ends_early_is_the_client_s_fault() {
    let place = Place::new().await;
    for length in [1000, 4 * BATCH as u64] {
        let (feeder, intake) = part_of(999, length).await;
        drop(feeder);
        let result = place.ingest(intake, Some(length), 0).await;
        assert_eq!(code(result), answer(400, "IncompleteBody", false));
        // A length that somebody got wrong on this side of the framing.
        let body = feed(pattern(999), Framing::Length(999));
        let intake = copied(body, spec(PayloadLength::Exactly(999)));
        let result = place.ingest(intake, Some(length), 0).await;
        assert_eq!(code(result), answer(400, "IncompleteBody", true));
        place.until_files(0).await;
    }
}

/// "4. Memory is bounded whatever the body's size": a disk that stands still stops the client, and the
/// thread that reads it goes on with others.
#[tokio::test]
async fn a_slow_disk_holds_three_batches_and_no_more() {
    const PIECE: usize = 64 * 1024;
    let place = Place::new().await;
    place.behave(|faults| faults.is_slow = true);
    let length = 16 * BATCH;
    let (feeder, body) = fed_body(Framing::Length(length as u64), &config());
    let fed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fed);
    tokio::spawn(async move {
        for _ in 0..length / PIECE {
            feeder.feed(Bytes::from(vec![3; PIECE])).await.unwrap();
            count.fetch_add(PIECE, Ordering::Relaxed);
        }
        feeder.end().await;
    });
    let intake = copied(body, spec(PayloadLength::Exactly(length as u64)));
    let mut taking = Box::pin(place.ingest(intake, Some(length as u64), 0));
    let both_are_full = until(|| fed.load(Ordering::Relaxed) >= 2 * BATCH + LEAST_BATCH);
    tokio::select! {
        biased;
        _ = &mut taking => panic!("the disk stands still"),
        () = both_are_full => {}
    }
    assert!(timeout(Duration::from_millis(100), &mut taking).await.is_err());
    // Three batches, one read, what waits in the feed, and what the verifier keeps back.
    let most = (lanes::UNDER_WAY + 1) * BATCH + blocks::BLOCK + 8 * PIECE;
    let held = fed.load(Ordering::Relaxed);
    assert!(held <= most, "{held} of {most} bytes are held");
    // Others are served meanwhile.
    let (intake, _connection) = wire(pattern(100)).await;
    assert!(place.ingest(intake, Some(100), 0).await.is_ok());
    place.behave(|faults| faults.is_slow = false);
    let ingested = taking.await.unwrap();
    assert!(place.content(&ingested).await == vec![3; length]);
}
