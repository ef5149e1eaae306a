//! A thread for what nobody waits for: it unlinks the files of what was delivered (the blocks of a
//! large one take a while to be freed), and asks the disk what is left.

use super::disk::Disk;
use super::entry::BodyId;
use super::limits::{self, Free};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the disk is asked: space that came back is used within a second.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// The running thread. Dropping it waits until it has removed what it was told to.
#[derive(Debug)]
pub(super) struct Janitor {
    /// None: it is to end. Bounded by the files there are.
    queue: Mutex<Option<mpsc::Sender<Vec<BodyId>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Janitor {
    /// Asks the disk for the first time, and starts.
    pub(super) fn start(disk: Arc<dyn Disk>, account: limits::Shared) -> std::io::Result<Janitor> {
        measure(&*disk, &account);
        let (queue, incoming) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("spool-janitor".to_owned())
            .spawn(move || run(&*disk, &account, &incoming))?;
        Ok(Janitor { queue: Mutex::new(Some(queue)), thread: Some(thread) })
    }

    /// Has these files removed. One that cannot be is removed at the next start.
    pub(super) fn remove(&self, files: Vec<BodyId>) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref().filter(|_| !files.is_empty()) {
            // A thread that is gone leaves them to the next start.
            let _ = queue.send(files);
        }
    }

    /// Ends the thread, after what it was told.
    fn end(&mut self) {
        *self.queue.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(disk: &dyn Disk, account: &limits::Shared, incoming: &mpsc::Receiver<Vec<BodyId>>) {
    let mut due = Instant::now() + MEASURE_EVERY;
    loop {
        match incoming.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(files) => files.into_iter().for_each(|id| remove(disk, id)),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if Instant::now() >= due {
            measure(disk, account);
            due = Instant::now() + MEASURE_EVERY;
        }
    }
}

/// Removes a body's file.
pub(super) fn remove(disk: &dyn Disk, id: BodyId) {
    if let Err(error) = disk.remove(id) {
        log::warn!("spool: body {id} could not be removed, the next start tries again: {error}");
    }
}

fn measure(disk: &dyn Disk, account: &limits::Shared) {
    let shown = limits::lock(account).measuring();
    let free = disk.free().unwrap_or_else(|error| {
        log::error!("spool: the disk does not say what is free, so that nothing is taken: {error}");
        Free::default()
    });
    limits::lock(account).measured(free, shown);
}
