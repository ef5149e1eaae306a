//! What an operator does with a spool: looks, checks, reads a body, and has what was set aside tried
//! again.

use super::check::{self, Checked, Opened};
use super::index::Return;
use super::journal::{Change, wait};
use super::{Body, Entry, Newer, OpenUpload, Place, Spool, missing};
use crate::blocks::BLOCK;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use tokio::task::{JoinSet, spawn_blocking};

/// Entries whose quarantine is taken off at a time: they share commits.
const RETRIES: usize = 256;

/// What [`Spool::retry`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// It waits for its delivery again.
    Waits,
    /// There is no such entry.
    Unknown,
    /// It is not in quarantine, or somebody takes it off already.
    NotSetAside,
    /// It cannot be delivered: what is wrong with its files.
    Lame(String),
    /// Its key was written anew at the backend: that would be written over.
    Superseded(Newer),
    /// A newer one of its key is on its way now.
    Overtaken,
}

/// What [`Spool::retry_all`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetriedAll {
    /// These wait for their delivery again.
    pub waiting: u64,
    /// These stay: their files are damaged.
    pub damaged: u64,
    /// These stay: newer ones of their keys were delivered, or are on their way.
    pub superseded: u64,
}

/// What a look at an entry's bodies shows.
#[derive(Debug)]
pub enum Verified {
    /// All are what was acknowledged.
    Sound,
    /// One is not: how it differs.
    Rotten(String),
    /// Nobody knows: the disk did not answer.
    Io(io::Error),
    /// There is no such entry, or not any more.
    Unknown,
}

impl Spool {
    /// The entry of this number.
    pub fn entry(&self, seq: u64) -> Option<Arc<Entry>> {
        let (found, entry) = self.list(seq.checked_sub(1)?, 1).pop()?;
        (found == seq).then_some(entry)
    }

    /// Why nothing more is acknowledged.
    pub fn latched(&self) -> Option<String> {
        self.state.latch.reason().map(str::to_owned)
    }

    /// Takes an entry out of the quarantine; that is durable when it returns. It has its old place in the
    /// order of its key. Where a newer one of the key was delivered, or is on its way, it stays where it
    /// is, unless `force` says that what is there is to be written over.
    ///
    /// Errors: the journal has failed.
    pub async fn retry(self: &Arc<Self>, seq: u64, force: bool) -> io::Result<Retried> {
        let Some(entry) = self.entry(seq) else { return Ok(Retried::Unknown) };
        if entry.quarantined.is_none() {
            return Ok(Retried::NotSetAside);
        }
        let (disk, looked_at) = (Arc::clone(&self.disk), Arc::clone(&entry));
        let lame = spawn_blocking(move || missing(&*disk, &looked_at));
        if let Some(problem) = lame.await.map_err(io::Error::other)? {
            return Ok(Retried::Lame(problem));
        }
        let mut anew = Entry::clone(&entry);
        anew.quarantined = None;
        let record = anew.encode()?;
        // One at a time: a second one could put the record of a delivered entry back.
        let begun = self.state.index().begin_return(seq, force);
        match begun {
            Return::Begun => {}
            Return::NotSetAside => return Ok(Retried::NotSetAside),
            Return::Superseded(newer) => return Ok(Retried::Superseded(newer)),
            Return::Overtaken => return Ok(Retried::Overtaken),
        }
        let (state, anew) = (Arc::clone(&self.state), Arc::new(anew));
        let applied = move || {
            state.index().end_return(seq, anew);
            state.notify();
        };
        wait(self.journal.change(seq, Change::Replace { record }, applied)?).await?;
        log::info!("spool: {}: entry {seq} is to be delivered again", entry.bucket);
        Ok(Retried::Waits)
    }

    /// [`Spool::retry`] of all that are in quarantine, in their order. `on_step` is called now and then.
    ///
    /// Errors: the journal has failed; some may wait again.
    pub async fn retry_all(
        self: &Arc<Self>,
        force: bool,
        mut on_step: impl FnMut(),
    ) -> io::Result<RetriedAll> {
        let (mut after, mut all) = (0, RetriedAll::default());
        loop {
            let page = self.list(after, RETRIES);
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = *last;
            on_step();
            let mut retries = JoinSet::new();
            for (seq, _) in page.iter().filter(|(_, entry)| entry.quarantined.is_some()) {
                let (spool, seq) = (Arc::clone(self), *seq);
                retries.spawn(async move { spool.retry(seq, force).await });
            }
            while let Some(retried) = retries.join_next().await {
                match retried.map_err(io::Error::other)?? {
                    Retried::Waits => all.waiting += 1,
                    Retried::Lame(_) => all.damaged += 1,
                    Retried::Superseded(_) | Retried::Overtaken => all.superseded += 1,
                    Retried::Unknown | Retried::NotSetAside => {}
                }
            }
        }
    }

    /// Reads all bodies of an entry and holds them against their MD5. `on_body` is called before each.
    pub async fn verify(&self, seq: u64, mut on_body: impl FnMut()) -> Verified {
        let Some(entry) = self.entry(seq) else { return Verified::Unknown };
        for body in entry.bodies() {
            on_body();
            let checked = match self.open_body(seq, body).await {
                Ok(opened) => opened.check(body).await,
                // It was delivered while it was looked for.
                Err(_) if self.entry(seq).is_none() => return Verified::Unknown,
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound => Checked::Rotten("its body is missing".to_owned()),
                    io::ErrorKind::InvalidData => Checked::Rotten(error.to_string()),
                    _ => Checked::Io(error),
                },
            };
            match checked {
                Checked::Sound => {}
                Checked::Rotten(how) => return Verified::Rotten(how),
                Checked::Io(error) => return Verified::Io(error),
            }
        }
        Verified::Sound
    }

    /// At most `most` open multipart uploads whose numbers are greater than `after`, in their order.
    pub fn list_uploads(&self, after: u64, most: usize) -> Vec<OpenUpload> {
        self.state.uploads().list(after, most)
    }

    /// Reads all parts of an open multipart upload and holds them against their MD5. `on_body` is called
    /// before each.
    pub async fn verify_upload(&self, number: u64, mut on_body: impl FnMut()) -> Verified {
        let parts = self.state.uploads().parts(number);
        let Some(parts) = parts else { return Verified::Unknown };
        for part in parts {
            on_body();
            let checked = match self.open_body(number, &part.body).await {
                Ok(opened) => opened.check(&part.body).await,
                // Its client has sent it again meanwhile, or ended the upload.
                Err(_) if !self.state.uploads().has_part(number, &part) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Checked::Rotten("its body is missing".to_owned())
                }
                Err(error) => Checked::Io(error),
            };
            match checked {
                Checked::Sound => {}
                Checked::Rotten(how) => {
                    return Verified::Rotten(format!("part {}: {how}", part.number));
                }
                Checked::Io(error) => return Verified::Io(error),
            }
        }
        Verified::Sound
    }

    /// The bytes of an entry, its bodies one after the other; None: there is no such entry.
    ///
    /// Errors: a body cannot be opened.
    pub async fn bytes_of(&self, seq: u64) -> io::Result<Option<Blocks>> {
        let Some(entry) = self.entry(seq) else { return Ok(None) };
        let mut bodies = VecDeque::new();
        for body in entry.bodies() {
            bodies.push_back(match self.open_body(seq, body).await? {
                Opened::Bytes(bytes) => Stored::Bytes(bytes),
                Opened::File(file) => Stored::File { file, at: 0, length: body.length },
            });
        }
        Ok(Some(Blocks { bodies, left: entry.length() }))
    }

    /// A body of an entry, to be read.
    ///
    /// Errors: `NotFound`: it is gone; the disk.
    pub async fn open_body(&self, seq: u64, body: &Body) -> io::Result<Opened> {
        match body.place {
            Place::Inline => self.inline(seq).await.map(Opened::Bytes),
            Place::File(id) => check::open(&self.disk, id).await.map(Opened::File),
        }
    }
}

#[derive(Debug)]
enum Stored {
    Bytes(Bytes),
    File { file: Arc<File>, at: u64, length: u64 },
}

/// An entry's bytes, a block at a time. It goes on being readable when the entry is delivered.
#[derive(Debug)]
pub struct Blocks {
    bodies: VecDeque<Stored>,
    left: u64,
}

impl Blocks {
    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next ones; None: that was all.
    ///
    /// Errors: the disk; `UnexpectedEof`: a body is shorter than its record says.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(body) = self.bodies.front_mut() else {
                return if self.left == 0 { Ok(None) } else { Err(short()) };
            };
            let bytes = match body {
                Stored::Bytes(bytes) => std::mem::take(bytes),
                Stored::File { file, at, length } => {
                    let (file, from) = (Arc::clone(file), *at);
                    let left = length.saturating_sub(from);
                    let most = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
                    let read = spawn_blocking(move || read(&file, from, most));
                    let bytes = read.await.map_err(io::Error::other)??;
                    *at += bytes.len() as u64;
                    bytes
                }
            };
            if bytes.is_empty() {
                self.bodies.pop_front();
                continue;
            }
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(short)?;
            return Ok(Some(bytes));
        }
    }
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a body has not the length of its record")
}

fn read(file: &File, at: u64, most: usize) -> io::Result<Bytes> {
    if most == 0 {
        return Ok(Bytes::new());
    }
    let mut block = vec![0; most];
    loop {
        match file.read_at(&mut block, at) {
            Ok(0) => return Err(short()),
            Ok(count) => {
                block.truncate(count);
                return Ok(block.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
