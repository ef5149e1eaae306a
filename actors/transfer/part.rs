//! One part on its way: what is taken from the client, and each attempt to send it.

use super::intake::{COPY_READ, Intake};
use super::kept::{Kept, ReplayResources, Segment};
use super::outlet::Outlet;
use super::pipe::{PAGE, Pipe};
use super::rate::Rate;
use super::stored::Stored;
use super::turns;
use crate::backend::{BackendError, Connection};
use crate::blocks;
use crate::payload::Md5;
use crate::s3::error::S3Error;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Why an attempt did not bring the whole part to the backend.
#[derive(Debug)]
pub enum SendError {
    /// The client's body failed: short, slow, or not what was signed. Final.
    Client(S3Error),
    /// The backend has answered, or closed, before it had everything: read its answer.
    Answered,
    /// The backend's connection failed.
    Backend(BackendError),
    /// What an earlier attempt took from the client could not be kept: this part is lost.
    ReplayLost,
    /// The gateway's own resources failed (descriptors, the overflow file).
    Internal(io::Error),
}

/// What went over, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Payload bytes that never entered user space.
    pub spliced: u64,
    /// splice(2) calls that took them from the client.
    pub splices: u64,
    /// Payload bytes that did.
    pub copied: u64,
}

impl std::ops::AddAssign for Volume {
    fn add_assign(&mut self, more: Volume) {
        self.spliced += more.spliced;
        self.splices += more.splices;
        self.copied += more.copied;
    }
}

/// A part's share of the client's body.
#[derive(Debug)]
pub enum Share {
    /// All that is left of it.
    Rest,
    /// At most this many bytes; then the intake goes on through the channel, to the next part, or
    /// None: the body ended with this one. A channel that is dropped says nothing.
    Cut(u64, oneshot::Sender<Option<Intake>>),
}

/// A part's body and its replay buffer; outlives the attempts.
#[derive(Debug)]
pub struct PartSource {
    /// None: the part is taken, and the intake has gone on.
    intake: Option<Intake>,
    /// What is sent instead, of a part that has no client.
    stored: Option<Stored>,
    share: Share,
    /// What is on its way from the client into `kept`: `pending` bytes stand in the pipe.
    ingest: Option<Pipe>,
    pending: usize,
    kept: Kept,
    /// Bytes that were taken.
    taken: u64,
    /// The part's own MD5, computed while it is taken.
    md5: Option<Md5>,
    volume: Volume,
}

impl PartSource {
    /// A part that takes its share of what `intake` brings.
    pub fn new(intake: Intake, share: Share, resources: ReplayResources) -> Self {
        PartSource { intake: Some(intake), ..PartSource::empty(share, resources) }
    }

    /// A part of `length` bytes at `offset` of a file that nobody writes to any more. It has no client,
    /// can be sent as often as it takes, and uses no replay budget.
    pub fn stored(file: Arc<File>, offset: u64, length: u64, resources: ReplayResources) -> Self {
        PartSource::of_stored(Stored::file(file, offset, length), resources)
    }

    /// No faster than this, whatever else draws on it: of a stored part that stands in a file.
    #[must_use]
    pub fn with_rate(mut self, rate: Option<Arc<Rate>>) -> Self {
        if let Some(Stored::File(range)) = &mut self.stored {
            range.set_rate(rate);
        }
        self
    }

    /// As [`PartSource::stored`], of bytes in memory.
    pub fn stored_bytes(bytes: Bytes, resources: ReplayResources) -> Self {
        PartSource::of_stored(Stored::Bytes(bytes), resources)
    }

    fn of_stored(stored: Stored, resources: ReplayResources) -> Self {
        // What stands in memory has come through it; a file is counted as it goes.
        let copied = stored.as_bytes().map_or(0, |bytes| bytes.len() as u64);
        PartSource {
            taken: stored.len(),
            stored: Some(stored),
            volume: Volume { copied, ..Volume::default() },
            ..PartSource::empty(Share::Rest, resources)
        }
    }

    fn empty(share: Share, resources: ReplayResources) -> Self {
        PartSource {
            intake: None,
            stored: None,
            share,
            ingest: None,
            pending: 0,
            kept: Kept::new(resources),
            taken: 0,
            md5: None,
            volume: Volume::default(),
        }
    }

    /// Computes the MD5 of what is taken on the copy path.
    #[must_use]
    pub fn with_md5(mut self) -> Self {
        self.md5 = Some(Md5::new());
        self
    }

    /// What went over so far, all attempts together.
    pub fn volume(&self) -> Volume {
        self.volume
    }

    /// Verified trailer checksums; complete when the body was read to its end.
    pub fn trailers(&self) -> &[(String, String)] {
        self.intake.as_ref().map_or(&[], Intake::trailers)
    }

    /// The MD5 of what was taken so far, if it was asked for.
    pub fn md5(&self) -> Option<[u8; 16]> {
        self.md5.clone().map(Md5::finish)
    }

    /// Bytes that were taken so far; of a stored part, all.
    pub fn taken_bytes(&self) -> u64 {
        self.taken
    }

    /// Whether it has taken the body's end.
    pub fn is_end(&self) -> bool {
        self.intake.as_ref().is_some_and(Intake::is_done)
    }

    /// Whether the part's whole share has been taken and, at the body's end, verified.
    pub fn is_taken(&self) -> bool {
        let Some(intake) = &self.intake else { return true };
        self.pending == 0 && (intake.is_done() || matches!(self.share, Share::Cut(0, _)))
    }

    /// Whether the part can be sent once more from its beginning.
    pub fn can_replay(&self) -> bool {
        !self.kept.is_lost()
    }

    /// Waits for the first byte of the body, so that no backend connection is held for a client
    /// that sends nothing.
    pub async fn ready(&mut self) -> Result<(), SendError> {
        match &mut self.intake {
            Some(intake) if self.taken == 0 => intake.ready().await,
            _ => Ok(()),
        }
    }

    /// Reads the part's whole share into the replay buffer before any of it is sent: a small body
    /// then goes out in one write with its head, and the length of a part of an endless one is known.
    pub async fn take_all(&mut self) -> Result<(), SendError> {
        let mut batch = Vec::new();
        while self.next_copied(&mut batch).await? {
            self.kept.keep_bytes(&batch).await.map_err(SendError::Internal)?;
            batch.drain(..).for_each(blocks::give);
        }
        if let Some(intake) = &mut self.intake {
            // Whether the body ends here is known only when one more byte has come, or none.
            intake.look_ahead().await?;
        }
        self.hand_on();
        self.note_size();
        Ok(())
    }

    /// The part as one piece of memory, when it was taken whole and is small enough to be one.
    pub fn as_bytes(&self) -> Option<Bytes> {
        if let Some(stored) = &self.stored {
            return stored.as_bytes();
        }
        match (self.is_taken() && self.can_replay(), self.kept.segments()) {
            (true, []) => Some(Bytes::new()),
            (true, [Segment::Bytes { bytes, .. }]) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The part's MD5, if it was taken whole and all of it is kept. Afterwards it cannot be sent any
    /// more.
    pub async fn md5_of_kept(&mut self) -> io::Result<Option<[u8; 16]>> {
        if let Some(stored) = &self.stored {
            let md5 = stored.as_bytes().map(|bytes| {
                let mut md5 = Md5::new();
                md5.update(&bytes);
                md5.finish()
            });
            return Ok(md5);
        }
        match self.is_taken() && self.can_replay() {
            true => self.kept.digest().await.map(|md5| Some(md5.finish())),
            false => Ok(None),
        }
    }

    /// Sends the part: first what is kept, then what the client still sends. The head has been
    /// sent already.
    ///
    /// `stall`: the longest time in which the backend may take nothing. `offered` is set before the
    /// last byte is written: from then on the backend may have everything.
    pub async fn send(
        &mut self,
        connection: &mut Connection,
        stall: Duration,
        offered: &AtomicBool,
    ) -> Result<(), SendError> {
        if self.kept.is_lost() {
            return Err(SendError::ReplayLost);
        }
        // An attempt may have died between taking bytes, keeping them, and handing the rest on.
        self.keep_pending().await?;
        self.hand_on();
        let mut out = Outlet::new(connection, stall, offered, &self.kept);
        if let Some(stored) = &mut self.stored {
            stored.send(&mut out, &mut self.volume).await?;
            self.note_size();
            out.close();
            return Ok(());
        }
        if self.is_taken() {
            out.offer();
        }
        out.replay(&mut self.kept).await?;
        if self.intake.as_ref().is_some_and(Intake::is_spliced) {
            self.pump_spliced(&mut out).await?;
        } else {
            self.pump_copied(&mut out).await?;
        }
        self.note_size();
        out.close();
        Ok(())
    }

    async fn keep_pending(&mut self) -> Result<(), SendError> {
        if let Some(pipe) = &self.ingest {
            self.kept.keep_pipe(pipe, &mut self.pending).await.map_err(SendError::Internal)?;
        }
        Ok(())
    }

    /// Lets the next part have the intake, when this one's share is taken and kept.
    fn hand_on(&mut self) {
        if !self.is_taken() || !matches!(self.share, Share::Cut(..)) {
            return;
        }
        if let Share::Cut(_, next) = std::mem::replace(&mut self.share, Share::Rest) {
            // Nobody waits for it: the upload has failed meanwhile.
            let _ = next.send(self.intake.take_if(|intake| !intake.is_done()));
        }
    }

    /// Bytes that this part may still take.
    fn room(&self) -> u64 {
        match &self.share {
            Share::Rest => u64::MAX,
            Share::Cut(left, _) => *left,
        }
    }

    fn took(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        if let Share::Cut(left, _) = &mut self.share {
            *left = left.saturating_sub(bytes as u64);
        }
    }

    async fn pump_copied(&mut self, out: &mut Outlet<'_>) -> Result<(), SendError> {
        let mut moved_in_turn = 0;
        let mut batch = Vec::new();
        while out.unless_answered(self.next_copied(&mut batch)).await?? {
            self.kept.keep_bytes(&batch).await.map_err(SendError::Internal)?;
            fail::fail_point!("part::copied");
            moved_in_turn += batch.iter().map(Bytes::len).sum::<usize>();
            if self.is_taken() {
                out.offer();
            }
            self.hand_on();
            out.write(&batch).await?;
            batch.drain(..).for_each(blocks::give);
            self.take_turns(&mut moved_in_turn).await;
        }
        Ok(())
    }

    /// Puts the next verified bytes of the copy path into `batch`, which is empty. False: the part's
    /// share is taken, or the body is complete and verified. Dropped while it waits, it has lost
    /// nothing.
    async fn next_copied(&mut self, batch: &mut Vec<Bytes>) -> Result<bool, SendError> {
        let room = self.room();
        let Some(intake) = self.intake.as_mut().filter(|_| room > 0) else { return Ok(false) };
        let next = intake.next(room, batch).await;
        self.volume.copied += intake.newly_copied();
        next?;
        for bytes in &*batch {
            if let Some(md5) = &mut self.md5 {
                md5.update(bytes);
            }
        }
        self.took(batch.iter().map(Bytes::len).sum());
        Ok(!batch.is_empty())
    }

    async fn pump_spliced(&mut self, out: &mut Outlet<'_>) -> Result<(), SendError> {
        let mut moved_in_turn = 0;
        while !self.is_taken() {
            let room = self.room();
            let Some(intake) = &mut self.intake else { break };
            // What came along with the head stands in memory already.
            if let Some(bytes) = intake.take_buffered(room)? {
                self.volume.copied += bytes.len() as u64;
                self.took(bytes.len());
                self.keep_and_write(bytes, out).await?;
                continue;
            }
            if self.ingest.is_none() {
                self.ingest = self.kept.resources().pipes.moving();
            }
            let slots = self.ingest.as_ref().map_or(0, Pipe::slots);
            let slots = match self.kept.is_lost() {
                true => slots,
                false => slots.min(out.pipe().map_or(0, Pipe::slots)),
            };
            let Some(pipe) = self.ingest.as_ref().filter(|_| slots > 0) else {
                // The host has no pipes to give: this much goes through memory.
                let Some(bytes) = out.unless_answered(intake.read(room)).await?? else { continue };
                self.volume.copied += bytes.len() as u64;
                moved_in_turn += bytes.len();
                self.took(bytes.len());
                self.keep_and_write(bytes, out).await?;
                self.take_turns(&mut moved_in_turn).await;
                continue;
            };
            // What goes to the overflow file stands in memory on its way there.
            let piece = match self.kept.file() {
                Some(_) => COPY_READ,
                None => slots * PAGE,
            };
            let most = piece.min(usize::try_from(room).unwrap_or(usize::MAX));
            let moved = out.unless_answered(intake.splice_into(pipe.writer(), most)).await??;
            self.pending = moved;
            self.volume.spliced += moved as u64;
            self.volume.splices += 1;
            moved_in_turn += moved;
            let last = intake.is_done() || room == moved as u64;
            self.took(moved);
            fail::fail_point!("part::spliced");
            self.pass_pending(moved, last, out).await?;
            self.take_turns(&mut moved_in_turn).await;
        }
        if let Some(pipe) = self.ingest.take() {
            self.kept.resources().pipes.put(pipe);
        }
        Ok(())
    }

    /// Sends and keeps the `moved` bytes that stand in the ingest pipe. `last`: they end the part.
    async fn pass_pending(
        &mut self,
        moved: usize,
        last: bool,
        out: &mut Outlet<'_>,
    ) -> Result<(), SendError> {
        let Some(pipe) = &self.ingest else { return Ok(()) };
        if self.kept.is_lost() {
            if last {
                out.offer();
            }
            while self.pending > 0 {
                let sent = out.send_pipe(pipe, self.pending, !last).await?;
                self.pending -= sent;
            }
            self.hand_on();
            return Ok(());
        }
        let doubled = match out.pipe() {
            Some(to) => pipe.tee(to, moved).map_err(SendError::Internal)?,
            None => 0,
        };
        if doubled == moved {
            self.keep_pending().await?;
            fail::fail_point!("part::kept");
            if last {
                out.offer();
            }
            self.hand_on();
            return out.send_doubled(moved, !last).await;
        }
        // The kernel granted the second pipe fewer slots: these bytes go through memory.
        out.discard_doubled();
        let bytes = pipe.take(moved).map_err(SendError::Internal)?;
        self.pending = 0;
        self.keep_and_write(bytes, out).await
    }

    /// Lets others run when the turn is over.
    async fn take_turns(&self, moved: &mut usize) {
        if self.kept.resources().turns.is_over(*moved, Instant::now()) {
            *moved = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Others wait less while bodies like this one come.
    fn note_size(&self) {
        if self.taken <= turns::SMALL {
            self.kept.resources().turns.note_small(Instant::now());
        }
    }

    async fn keep_and_write(
        &mut self,
        bytes: Bytes,
        out: &mut Outlet<'_>,
    ) -> Result<(), SendError> {
        let bytes = [bytes];
        self.kept.keep_bytes(&bytes).await.map_err(SendError::Internal)?;
        if self.is_taken() {
            out.offer();
        }
        self.hand_on();
        out.write(&bytes).await
    }
}
