//! The commands of `mizuchi spool`, each over either side.

use super::shown::{
    MAX_PAGE, Record, Retry, Row, SetAside, Summary, Verdict, age_text, hex, size_text,
};
use super::side::{Bodies, Problem, Side};
use bytes::Bytes;
use mizuchi_actors::payload::Md5;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// How often a command that takes long says how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

/// How often `drain` looks.
const LOOK: Duration = Duration::from_millis(500);

/// Writes to standard output.
fn say(text: &str) -> Result<(), Problem> {
    written(io::stdout().lock().write_all(text.as_bytes()))
}

fn say_json(value: &impl Serialize) -> Result<(), Problem> {
    let json = serde_json::to_string(value).map_err(|error| Problem::Spool(error.to_string()))?;
    say(&format!("{json}\n"))
}

fn written(result: io::Result<()>) -> Result<(), Problem> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Problem::Closed,
        _ => Problem::Usage(format!("standard output: {error}")),
    })
}

fn unknown(number: u64) -> Problem {
    Problem::Usage(format!("there is no upload {number}: it may have been delivered"))
}

/// Says now and then how far a command is.
struct Progress(Instant);

impl Progress {
    fn new() -> Progress {
        Progress(Instant::now() + PROGRESS)
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if Instant::now() >= self.0 {
            eprintln!("{}", what());
            *self = Progress::new();
        }
    }
}

pub(super) async fn status(side: &Side, json: bool) -> Result<(), Problem> {
    let summary = side.summary().await?;
    if json {
        return say_json(&summary);
    }
    let gateway = if side.delivers() { "runs" } else { "is stopped: nothing is delivered" };
    let mut text = String::new();
    for (name, value) in [("gateway", gateway.to_owned())].into_iter().chain(rows(&summary)) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    }
    say(&text)
}

/// What a person is told of it.
fn rows(summary: &Summary) -> Vec<(&'static str, String)> {
    let Summary { waiting, quarantined, bytes, files, unreadable, .. } = summary;
    let oldest = summary.oldest_seconds.map_or("-".to_owned(), age_text);
    let latched = match (&summary.latched_reason, summary.latched) {
        (Some(reason), _) => format!("yes, until a restart: {}", reason.escape_debug()),
        (None, true) => "yes, until a restart".to_owned(),
        (None, false) => "no".to_owned(),
    };
    vec![
        ("waiting", waiting.to_string()),
        ("oldest", oldest),
        ("set aside", quarantined.to_string()),
        ("bytes", format!("{bytes} ({})", size_text(*bytes))),
        ("files", files.to_string()),
        ("multipart", multipart(summary)),
        ("unreadable", unreadable.to_string()),
        ("latched", latched),
    ]
}

/// What of that belongs to multipart uploads which clients have not completed.
fn multipart(summary: &Summary) -> String {
    let Summary { multipart_uploads: uploads, multipart_parts: parts, .. } = summary;
    format!("{uploads} open, {parts} parts, {}", size_text(summary.multipart_bytes))
}

/// RFC 3339, to the second.
fn moment(milliseconds: u64) -> String {
    let seconds = i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX);
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok();
    let text = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{milliseconds} ms after 1970"))
}

fn state(row: &Row) -> String {
    match &row.quarantined {
        None => "waiting".to_owned(),
        // Partly in the backend's words.
        Some(SetAside { reason, superseded, .. }) => {
            let reason = reason.escape_debug();
            match superseded {
                None => format!("set aside: {reason}"),
                Some(newer) => format!("set aside, superseded by {newer}: {reason}"),
            }
        }
    }
}

pub(super) async fn ls(side: &Side, quarantined: bool, json: bool) -> Result<(), Problem> {
    if !json {
        say(&format!("{:<16} {:>9} {:>11}  OBJECT, STATE\n", "NUMBER", "AGE", "SIZE"))?;
    }
    let mut after = 0;
    loop {
        let page = side.page(after, MAX_PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.number;
        for row in page.iter().filter(|row| !quarantined || row.quarantined.is_some()) {
            if json {
                say_json(row)?;
                continue;
            }
            let Row { number, bucket, key, .. } = row;
            say(&format!(
                "{number:<16} {:>9} {:>11}  {bucket}/{}, {}\n",
                age_text(row.age_seconds),
                size_text(row.size),
                // It must not steer the terminal.
                key.escape_debug(),
                state(row)
            ))?;
        }
    }
}

pub(super) async fn show(side: &Side, number: u64, json: bool) -> Result<(), Problem> {
    let record = side.record(number).await?.ok_or_else(|| unknown(number))?;
    if json {
        return say_json(&record);
    }
    say(&of_record(&record))
}

fn of_record(record: &Record) -> String {
    let row = &record.row;
    let mut lines = vec![
        ("number".to_owned(), row.number.to_string()),
        ("bucket".to_owned(), row.bucket.clone()),
        ("key".to_owned(), row.key.clone()),
        ("state".to_owned(), state(row)),
        (
            "accepted".to_owned(),
            format!("{}, {} ago", moment(row.accepted), age_text(row.age_seconds)),
        ),
        ("principal".to_owned(), record.principal.clone()),
        ("size".to_owned(), format!("{} ({})", row.size, size_text(row.size))),
    ];
    if let Some(set_aside) = &row.quarantined {
        lines.insert(4, ("set aside at".to_owned(), moment(set_aside.at)));
    }
    for body in &record.bodies {
        let name = body.part.map_or("body".to_owned(), |part| format!("part {part}"));
        let place = match &body.file {
            Some(file) => format!("bodies/{file}"),
            None => "the journal".to_owned(),
        };
        lines.push((name, format!("{} bytes, MD5 {}, in {place}", body.length, body.md5)));
    }
    let upload = record.upload_id.iter().map(|id| ("upload id".to_owned(), id.clone()));
    lines.extend(upload);
    lines.extend(record.headers.iter().map(|(name, value)| (format!("{name}:"), value.clone())));
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {}", value.escape_debug());
    }
    text
}

pub(super) async fn retry(side: &Side, number: u64, force: bool) -> Result<(), Problem> {
    match side.retry(number, force).await?.ok_or_else(|| unknown(number))? {
        Retry::Waits => say(&format!("{number} waits for its delivery{}\n", when(side))),
        Retry::NotSetAside => {
            Err(Problem::Usage(format!("{number} is not set aside: it waits for its delivery")))
        }
        Retry::Damaged { reason } => {
            Err(Problem::Spool(format!("{number} stays set aside: {}", reason.escape_debug())))
        }
        Retry::Superseded { by: Some(by) } => Err(Problem::Spool(format!(
            "{number} stays set aside: its key was written anew by {by}, which would be written over \
             (--force)"
        ))),
        Retry::Superseded { by: None } => Err(Problem::Spool(format!(
            "{number} stays set aside: a newer upload of its key is on its way, and would be written over \
             (--force)"
        ))),
    }
}

fn when(side: &Side) -> &'static str {
    if side.delivers() { "" } else { "; the gateway is stopped: start it, it delivers" }
}

pub(super) async fn retry_all(side: &Side, force: bool) -> Result<(), Problem> {
    let retried = side.retry_all(force).await?;
    say(&format!("{} wait for their delivery{}\n", retried.waiting, when(side)))?;
    if retried.superseded > 0 {
        say(&format!(
            "{} stay set aside: newer writes of their keys are at the backend (--force)\n",
            retried.superseded
        ))?;
    }
    match retried.damaged {
        0 => Ok(()),
        damaged => Err(Problem::Spool(format!(
            "{damaged} stay set aside: their files are damaged (mizuchi spool verify)"
        ))),
    }
}

pub(super) async fn export(side: &Side, number: u64, file: &Path) -> Result<(), Problem> {
    let record = side.record(number).await?.ok_or_else(|| unknown(number))?;
    let mut bodies = side.bodies(number).await?.ok_or_else(|| unknown(number))?;
    if file == Path::new("-") {
        let mut out = io::stdout().lock();
        copy(&mut bodies, &record, |bytes| written(out.write_all(bytes))).await?;
        return written(out.flush());
    }
    let failed = |error: io::Error| Problem::Usage(format!("{}: {error}", file.display()));
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut out = made.map_err(failed)?;
    let copied = copy(&mut bodies, &record, |bytes| out.write_all(bytes).map_err(failed)).await;
    let length = match copied.and_then(|length| out.sync_all().map(|()| length).map_err(failed)) {
        Ok(length) => length,
        Err(problem) => {
            // It is not what its name promises; the body stands in the spool as before.
            let _ = std::fs::remove_file(file);
            return Err(problem);
        }
    };
    eprintln!("{}: {length} bytes, as acknowledged", file.display());
    Ok(())
}

/// Copies an entry's bodies, and holds each against its MD5.
async fn copy(
    bodies: &mut Bodies,
    record: &Record,
    mut write: impl FnMut(&[u8]) -> Result<(), Problem>,
) -> Result<u64, Problem> {
    let mut progress = Progress::new();
    let (mut rest, mut copied) = (Bytes::new(), 0);
    for body in &record.bodies {
        let (mut md5, mut left) = (Md5::new(), body.length);
        while left > 0 {
            if rest.is_empty() {
                let short =
                    || Problem::Spool("the body is shorter than its record says".to_owned());
                rest = bodies.next().await?.ok_or_else(short)?;
            }
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let piece = rest.split_to(most);
            md5.update(&piece);
            write(&piece)?;
            left -= piece.len() as u64;
            copied += piece.len() as u64;
            progress.say(|| format!("{} of {}", size_text(copied), size_text(record.row.size)));
        }
        let found = hex(md5.finish());
        if found != body.md5 {
            let recorded = &body.md5;
            let problem = format!("the body is rotten: its MD5 is {found}, recorded is {recorded}");
            return Err(Problem::Spool(problem));
        }
    }
    match rest.is_empty() && bodies.next().await?.is_none() {
        true => Ok(copied),
        false => Err(Problem::Spool("the body is longer than its record says".to_owned())),
    }
}

/// What cannot be read is neither verified nor delivered, and nothing else tells of it.
fn all_readable(summary: &Summary) -> Result<(), Problem> {
    match summary.unreadable {
        0 => Ok(()),
        unreadable => Err(Problem::Spool(format!(
            "{unreadable} records of uploads cannot be read, and are kept with all files: the log of the start \
             names them; they are damaged, or another version of the gateway has written them"
        ))),
    }
}

pub(super) async fn verify(side: &Side) -> Result<(), Problem> {
    let summary = side.summary().await?;
    let mut tally = Tally::new(summary.entries.saturating_add(summary.multipart_uploads));
    let mut after = 0;
    loop {
        let page = side.page(after, MAX_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for row in &page {
            // Delivered meanwhile: there is nothing to read.
            let Some(verdict) = side.verify(row.number).await? else { continue };
            tally.add(row.number, (&row.bucket, &row.key), verdict, row.size)?;
        }
    }
    after = 0;
    loop {
        let page = side.uploads(after, MAX_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for row in &page {
            // Completed or aborted meanwhile.
            let Some(verdict) = side.verify_upload(row.number).await? else { continue };
            tally.add(row.number, (&row.bucket, &row.key), verdict, row.size)?;
        }
    }
    tally.end(&summary)
}

/// What [`verify`] has read so far.
struct Tally {
    total: u64,
    sound: u64,
    rotten: u64,
    unknown: u64,
    bytes: u64,
    progress: Progress,
}

impl Tally {
    /// `total`: how many there are about.
    fn new(total: u64) -> Tally {
        let progress = Progress::new();
        Tally { total, sound: 0, rotten: 0, unknown: 0, bytes: 0, progress }
    }

    fn add(
        &mut self,
        number: u64,
        (bucket, key): (&str, &str),
        verdict: Verdict,
        size: u64,
    ) -> Result<(), Problem> {
        let object = || format!("{number} {bucket}/{}", key.escape_debug());
        match verdict {
            Verdict::Sound => self.sound += 1,
            Verdict::Rotten { reason } => {
                self.rotten += 1;
                say(&format!("{}: rotten: {}\n", object(), reason.escape_debug()))?;
            }
            Verdict::Io { reason } => {
                self.unknown += 1;
                say(&format!("{}: cannot be read: {}\n", object(), reason.escape_debug()))?;
            }
        }
        self.bytes += size;
        let (read, bytes) = (self.sound + self.rotten + self.unknown, self.bytes);
        let total = self.total;
        self.progress.say(|| format!("read {read} of about {total}, {}", size_text(bytes)));
        Ok(())
    }

    fn end(self, summary: &Summary) -> Result<(), Problem> {
        let Tally { sound, rotten, unknown, bytes, .. } = self;
        say(&format!(
            "{sound} sound, {rotten} rotten, {unknown} unknown; {} read\n",
            size_text(bytes)
        ))?;
        match rotten + unknown {
            0 => all_readable(summary),
            wrong => Err(Problem::Spool(format!("{wrong} of them are not what was acknowledged"))),
        }
    }
}

pub(super) async fn drain(side: &Side, patience: Option<Duration>) -> Result<(), Problem> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    let mut progress = Progress::new();
    loop {
        let summary = side.summary().await?;
        let waiting = summary.waiting;
        if waiting == 0 {
            let aside = match summary.quarantined {
                0 => String::new(),
                aside => format!("; {aside} are set aside (mizuchi spool ls --quarantined)"),
            };
            say(&format!("nothing waits{aside}\n"))?;
            return all_readable(&summary);
        }
        if !side.delivers() {
            let problem =
                format!("{waiting} wait, and the gateway is stopped: start it, it delivers");
            return Err(Problem::Unreachable(problem));
        }
        if summary.latched {
            let problem = "the spool's disk has failed: what is delivered cannot be recorded before \
                           the gateway is started again";
            return Err(Problem::Spool(problem.to_owned()));
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Problem::Spool(format!("{waiting} wait still")));
        }
        let oldest = summary.oldest_seconds.map_or("-".to_owned(), age_text);
        progress.say(|| format!("{waiting} wait, the oldest for {oldest}"));
        let next = Instant::now() + LOOK;
        tokio::time::sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
    }
}
