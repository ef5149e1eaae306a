//! `POST /{bucket}?batch`: a tar, or a form with many files, answered with one line of JSON for each entry
//! as it ends (application/x-ndjson), and a summary.
//!
//! Until its entries are published it is a request like any other, whose errors are S3's documents. From
//! then on the status is 200, and what becomes of each entry is in its line. A client that goes away ends
//! the batch: what is on its way goes on to its end, nothing else is begun. With an `Idempotency-Key` the
//! same batch is sent again, and what of it is stored already is skipped.

use super::super::http_actor::{Account, conclude};
use super::super::later::Later;
use super::super::reply::Reply;
use super::super::request::Failed;
use super::super::route::Route;
use super::InPlace;
use super::publish::EntryEnd;
use super::snowball::count_refused;
use super::taking::{Incoming, Taken, Taking};
use super::unavailable;
use super::witness::Witness;
use mizuchi_actors::batch::{
    BatchId, Entry, FLUSH_EVERY, Index, OtherContent, Prefix, Refusal, RunningBatch,
};
use mizuchi_actors::form::boundary;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::orphans::wall_clock;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use serde::Serialize;
use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// Lines that wait for the client: it reads as fast as it likes, and then the batch waits.
const LINES: usize = 256;

/// How long a batch waits for a client that takes no line, before it is taken for gone: SDKs give a server
/// as long.
const LINE_WAIT: Duration = Duration::from_secs(60);

/// How long it does in all: a client that takes a line a minute would keep a batch's place for days.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Bytes of the longest Idempotency-Key.
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// The status that goes out before any entry has ended.
const EARLY_STATUS: u16 = 200;

/// A batch on its way.
pub(in crate::http) struct PostJob {
    taking: Taking,
    prefix: Prefix,
    /// It is a form.
    boundary: Option<String>,
    /// With an Idempotency-Key.
    running: Option<RunningBatch>,
}

/// One that was looked through, and whose entries are decided over.
struct Ready {
    taken: Taken,
    index: Index,
    witness: Witness,
    running: Option<Arc<RunningBatch>>,
    _place: InPlace,
}

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    status: u16,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    etag: Option<&'a str>,
    /// It was stored before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Told<'a>>,
}

#[derive(Serialize)]
struct Told<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Last {
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    entries: u64,
    stored: u64,
    skipped: u64,
    failed: u64,
}

impl PostJob {
    /// Plans it.
    ///
    /// Errors: 400 InvalidArgument (its prefix or Idempotency-Key), InvalidRequest (its Content-Type, HTTP/1.0),
    /// MalformedPOSTRequest, 409 OperationAborted (it is under way), and those of [`Taking::plan`].
    pub(in crate::http) fn new(incoming: Incoming<'_>, prefix: &str) -> Result<PostJob, Failed> {
        let unread = !incoming.body.is_done();
        PostJob::plan(incoming, prefix).map_err(|error| Failed { error, close: unread })
    }

    fn plan(incoming: Incoming<'_>, prefix: &str) -> Result<PostJob, S3Error> {
        let head = incoming.head;
        if !head.is_http_11() {
            let message = "A batch is answered line by line: send it by HTTP/1.1.";
            return Err(S3Error::new(ErrorCode::InvalidRequest, message));
        }
        let kind = head.header("content-type").unwrap_or_default();
        let name = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let boundary = match name.as_str() {
            "multipart/form-data" => Some(boundary(kind)?),
            "application/x-tar" | "application/gzip" | "application/x-gzip"
            | "application/zstd" => None,
            _ => {
                let message = "The Content-Type of a batch is multipart/form-data, application/x-tar, \
                               application/gzip or application/zstd.";
                return Err(S3Error::new(ErrorCode::InvalidRequest, message));
            }
        };
        let prefix = Prefix::parse(prefix.as_bytes())?;
        let (route, key) = (incoming.route, idempotency_key(head)?);
        let taking = Taking::plan(incoming)?;
        let running = match key {
            None => None,
            Some(key) => {
                let batches = route.engine.batches.as_ref().ok_or_else(unavailable)?;
                let id = BatchId::new(&taking.owner, &taking.bucket.name, &key);
                Some(batches.run(id).ok_or_else(under_way)?)
            }
        };
        Ok(PostJob { taking, prefix, boundary, running })
    }

    /// Takes the batch, and answers: an error, or 200 with a body that is still to come.
    pub(in crate::http) async fn answer(
        self,
        route: Route,
        mut account: Account,
        close: bool,
    ) -> Reply {
        let ready = match self.look(&route, &mut account).await {
            Ok(ready) => ready,
            Err(failed) => return conclude(&route, &account, Err(failed), close, None).await,
        };
        let (to, told) = mpsc::channel(LINES);
        let kind = ("content-type".to_owned(), b"application/x-ndjson".to_vec());
        let early = account.dress(Reply::empty(EARLY_STATUS, vec![kind]));
        let lines = Lines { to, patience: Cell::new(PATIENCE) };
        actix_web::rt::spawn(async move {
            ready.run(&route, &lines).await;
            let done = Ok(Reply::empty(EARLY_STATUS, Vec::new()));
            conclude(&route, &account, done, close, Some(EARLY_STATUS)).await;
        });
        Reply { later: Some(Later::Lines(told)), close, ..early }
    }

    async fn look(self, route: &Route, account: &mut Account) -> Result<Ready, Failed> {
        let PostJob { taking, prefix, boundary, running } = self;
        let running = running.map(Arc::new);
        let witness = Witness::new(account);
        let bucket = Arc::clone(&taking.bucket);
        let mut taken = taking.take(route, &mut account.bytes).await?;
        if let Some(boundary) = boundary {
            taken.spooled.archive = taken.spooled.archive.as_form(&boundary);
        }
        let place = InPlace::take(route, &bucket).await?;
        let mut index = taken.spooled.scan(&bucket, prefix, false).await?;
        if let Some(running) = &running {
            index = skip_stored(running, index, bucket.upload.batch.remembered).await?;
        }
        taken.sender.authorize(route, &witness, &mut index, false).await?;
        Ok(Ready { taken, index, witness, running, _place: place })
    }
}

/// Notes in the index what of it is stored already.
///
/// Errors: 422 IdempotencyKeyReused; 503 ServiceUnavailable: nobody knows.
async fn skip_stored(
    running: &Arc<RunningBatch>,
    mut index: Index,
    kept: Duration,
) -> Result<Index, S3Error> {
    let running = Arc::clone(running);
    let begun = spawn_blocking(move || {
        let stored = running.begin(&index, wall_clock(), kept)?;
        let stored = stored.map(|stored| {
            stored.into_iter().for_each(|number| index.refuse(number, Refusal::Stored));
            index
        });
        io::Result::Ok(stored)
    });
    let begun = begun.await.map_err(io::Error::other).flatten().map_err(|error| {
        log::error!("what is stored of a batch cannot be known: {error}");
        unavailable()
    })?;
    begun.map_err(|OtherContent| {
        let message = "This Idempotency-Key was used before, for another content.";
        S3Error::new(ErrorCode::IdempotencyKeyReused, message)
    })
}

/// "Idempotency-Key is an Item Structured Header; its value MUST be a String": in quotes. Many clients
/// leave them out.
///
/// Errors: 400 InvalidArgument.
fn idempotency_key(head: &RequestHead) -> Result<Option<String>, S3Error> {
    let mut values = head.values("idempotency-key");
    let Some(value) = values.next() else { return Ok(None) };
    let text = std::str::from_utf8(value).unwrap_or_default();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if values.next().is_some()
        || !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
        || !key.bytes().all(plain)
    {
        let message =
            "An Idempotency-Key has 1 to 255 visible ASCII characters, and is given once.";
        return Err(S3Error::new(ErrorCode::InvalidArgument, message));
    }
    Ok(Some(key.to_owned()))
}

fn under_way() -> S3Error {
    let message = "A batch with this Idempotency-Key is under way. Please try again.";
    S3Error::new(ErrorCode::OperationAborted, message)
}

impl Ready {
    async fn run(self, route: &Route, lines: &Lines) {
        let Ready { taken, index, witness, running, _place } = self;
        let entries = index.len() as u64;
        let mut summary = Summary { entries, stored: 0, skipped: 0, failed: 0 };
        count_refused(route, &index);
        for entry in index.iter() {
            let Some(why) = entry.refused else { continue };
            let gone = if why == Refusal::Stored {
                summary.skipped += 1;
                let etag = format!("\"{:032x}\"", u128::from_be_bytes(entry.md5));
                !lines.tell(&Line { skipped: true, ..line(entry, Ok(&etag)) }).await
            } else {
                summary.failed += 1;
                !lines.tell(&line(entry, Err(&why.error()))).await
            };
            if gone {
                return;
            }
        }
        let index = Arc::new(index);
        let publication = taken.publication(route, witness);
        let each = async |end: &EntryEnd| {
            if let (Some(running), Ok(_)) = (&running, &end.result) {
                running.note(end.number);
            }
            let Some(entry) = index.get(end.number) else { return true };
            let result = end.result.as_ref().map(|stored| stored.etag.as_str());
            lines.tell(&line(entry, result)).await
        };
        let archive = &taken.spooled.archive;
        let mut publishing = pin!(publication.run(archive, Arc::clone(&index), false, each));
        let mut ticks = interval_at(Instant::now() + FLUSH_EVERY, FLUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let totals = loop {
            tokio::select! {
                totals = &mut publishing => break totals,
                _ = ticks.tick() => flush(running.as_ref()).await,
            }
        };
        flush(running.as_ref()).await;
        summary.stored = totals.stored;
        summary.failed += totals.failed;
        lines.last(&Last { summary }).await;
    }
}

async fn flush(running: Option<&Arc<RunningBatch>>) {
    let Some(running) = running.map(Arc::clone) else { return };
    if let Err(error) = spawn_blocking(move || running.flush(wall_clock())).await {
        log::error!("what is stored of a batch could not be written down: {error}");
    }
}

fn line<'a>(entry: Entry<'a>, result: Result<&'a str, &'a S3Error>) -> Line<'a> {
    let error = result.err();
    Line {
        key: entry.key,
        status: error.map_or(200, |error| error.status),
        size: entry.size,
        etag: result.ok(),
        skipped: false,
        error: error.map(|error| Told { code: &error.code, message: &error.message }),
    }
}

/// The way of the lines to the client.
struct Lines {
    to: mpsc::Sender<(Vec<u8>, bool)>,
    /// What is left of [`PATIENCE`].
    patience: Cell<Duration>,
}

impl Lines {
    /// False: the client is gone.
    async fn tell(&self, line: &impl Serialize) -> bool {
        self.send(line, false).await
    }

    async fn last(&self, line: &impl Serialize) {
        self.send(line, true).await;
    }

    async fn send(&self, line: &impl Serialize, last: bool) -> bool {
        let Ok(mut line) = serde_json::to_vec(line) else { return true };
        line.push(b'\n');
        let (began, patience) = (Instant::now(), self.patience.get());
        let sent = self.to.send_timeout((line, last), LINE_WAIT.min(patience)).await;
        self.patience.set(patience.saturating_sub(began.elapsed()));
        sent.is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// A client that takes its lines, each in good time, and yet too slowly, is gone in the end.
    #[tokio::test]
    async fn a_batch_waits_for_its_client_so_long_in_all() {
        let (to, mut told) = mpsc::channel(1);
        let lines = Lines { to, patience: Cell::new(Duration::from_millis(50)) };
        let reading = async {
            while told.recv().await.is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let telling = async {
            let mut lines_told = 0;
            while lines.tell(&"line").await {
                lines_told += 1;
            }
            drop(lines);
            lines_told
        };
        let ((), lines_told) = tokio::join!(reading, telling);
        assert!((1..20).contains(&lines_told), "{lines_told}");
    }
}
