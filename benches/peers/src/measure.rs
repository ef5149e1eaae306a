//! Rounds: the subjects of a cell in turn, one after the other, again and again.

use crate::load::{Job, Outcome, Pace, Plan};
use crate::process::Process;
use crate::results::{Cell, Metric, Round, Row};
use crate::subjects::{Bench, Spec, Subject};
use crate::{Result, machine};
use nix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Share of stolen time above which a round is made again.
const MAX_STEAL: f64 = 0.08;
/// How often one round is made again for it.
const MAX_REPEATS: usize = 3;
/// How often a gateway's kept pages are looked at where they are asked for.
const SAMPLE: Duration = Duration::from_millis(200);
/// The longest that a load says nothing.
const PATIENCE: Duration = Duration::from_secs(120);
/// What SHA-256 alone is fed at a time: the gateway's own reads are of this order.
const HASHED: usize = 256 << 10;
/// Bytes of one write of what only appends.
const APPENDED: u64 = 1 << 20;

/// One work: what the load does.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) connections: usize,
    /// Payload bytes of a request.
    pub(crate) size: u64,
    pub(crate) plan: Plan,
    pub(crate) pace: Pace,
    /// Before the window, milliseconds.
    pub(crate) warm: u64,
    /// What is measured, milliseconds.
    pub(crate) window: u64,
    /// Kept pages are looked at all the time. It costs the gateway something.
    pub(crate) sampled: bool,
    /// 503 is an answer that is counted, not an error.
    pub(crate) may_refuse: bool,
    /// Other work at the same time; this one's answers are not counted, its bytes are.
    pub(crate) beside: Option<Box<Shape>>,
}

impl Shape {
    /// Closed loop, plain bodies, a window of so many milliseconds.
    pub(crate) fn new(size: u64, connections: usize, window: u64) -> Shape {
        let (plan, pace) = (Plan::Plain, Pace::Closed);
        let (sampled, may_refuse) = (false, false);
        Shape {
            connections,
            size,
            plan,
            pace,
            warm: 300,
            window,
            sampled,
            may_refuse,
            beside: None,
        }
    }
}

/// A cell that is to be measured.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) specs: Vec<Spec>,
    pub(crate) columns: Vec<Metric>,
    pub(crate) rounds: usize,
}

/// The subjects that run, and what is known of those that do not.
pub(crate) struct Runner {
    pub(crate) bench: Bench,
    started: Vec<(Spec, Option<Subject>)>,
    /// Rounds of every cell, whatever it says itself.
    pub(crate) rounds: Option<usize>,
    /// Windows are cut to this, milliseconds.
    pub(crate) most: Option<u64>,
    /// Peers that are absent, and errors: what must be said.
    pub(crate) notes: Vec<String>,
    /// What a cell's name must have in it.
    cell: Option<String>,
    /// The only subjects, if any are named.
    subjects: Vec<String>,
}

impl Runner {
    pub(crate) fn new(bench: Bench, rounds: Option<usize>, most: Option<u64>) -> Runner {
        let (started, notes, subjects) = (Vec::new(), Vec::new(), Vec::new());
        Runner { bench, started, rounds, most, notes, cell: None, subjects }
    }

    /// Measures no other cells and subjects than these.
    pub(crate) fn only(&mut self, cell: Option<String>, subjects: Vec<String>) {
        (self.cell, self.subjects) = (cell, subjects);
    }

    fn is_wanted(&self, spec: &Spec) -> bool {
        self.subjects.is_empty() || self.subjects.contains(&spec.key())
    }

    /// Ends all subjects.
    pub(crate) fn clear(&mut self) {
        self.started.clear();
    }

    /// Something that a reader must know, once.
    pub(crate) fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            eprintln!("  !! {text}");
            self.notes.push(text);
        }
    }

    /// Starts a subject unless it runs. False: it is not installed.
    pub(crate) fn start(&mut self, spec: &Spec) -> Result<bool> {
        if let Some((_, subject)) = self.started.iter().find(|(one, _)| one == spec) {
            return Ok(subject.is_some());
        }
        let subject = self.bench.start(spec)?;
        let is_there = subject.is_some();
        self.started.push((spec.clone(), subject));
        if !is_there {
            let label = spec.label();
            self.note(format!(
                "{label} is NOT INSTALLED and not measured: make bench-peers-install"
            ));
        }
        Ok(is_there)
    }

    /// One that was started.
    pub(crate) fn subject(&self, spec: &Spec) -> Result<&Subject> {
        let found = self.started.iter().find(|(one, _)| one == spec);
        Ok(found.and_then(|(_, subject)| subject.as_ref()).ok_or("a subject was not started")?)
    }

    /// Measures a cell: a warm-up of each subject, then the rounds, alternating.
    pub(crate) fn cell(&mut self, work: Work) -> Result<Cell> {
        let rounds = self.rounds.unwrap_or(work.rounds);
        let mut shape = work.shape;
        shape.window = shape.window.min(self.most.unwrap_or(u64::MAX));
        let mut rows = Vec::new();
        let is_wanted = self.cell.as_ref().is_none_or(|text| work.name.contains(text));
        let specs = if is_wanted { &work.specs[..] } else { &[] };
        for spec in specs {
            if self.is_wanted(spec) && self.start(spec)? {
                let warm = Shape { window: shape.window.min(200), ..shape.clone() };
                self.round(spec, &warm)?;
                let (subject, label) = (spec.key(), spec.label());
                rows.push((spec, Row { subject, label, rounds: Vec::new() }));
            }
        }
        let rounds = if rows.is_empty() { 0 } else { rounds };
        for number in 1..=rounds {
            eprintln!("  {}: round {number} of {rounds}", work.name);
            for (spec, row) in &mut rows {
                row.rounds.push(self.calm_round(spec, &shape)?);
            }
        }
        let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
        for row in &rows {
            if let Some((count, first)) = row.errors() {
                let (name, label) = (&work.name, &row.label);
                self.note(format!("ERRORS: {name}, {label}: {count}, the first: {first}"));
            }
        }
        Ok(Cell { name: work.name, columns: work.columns, rows })
    }

    /// A round that the host did not disturb, or the last try.
    pub(crate) fn calm_round(&mut self, spec: &Spec, shape: &Shape) -> Result<Round> {
        for _ in 0..MAX_REPEATS {
            let round = self.round(spec, shape)?;
            if round.steal <= MAX_STEAL {
                return Ok(round);
            }
            eprintln!("  {:.0} % of the time was stolen: again", round.steal * 100.0);
        }
        let round = self.round(spec, shape)?;
        if round.steal > MAX_STEAL {
            let (percent, label) = (round.steal * 100.0, spec.label());
            self.note(format!("{percent:.0} % of the time was stolen in a round of {label}"));
        }
        Ok(round)
    }

    fn job(&self, subject: &Subject, shape: &Shape) -> Job {
        Job {
            target: subject.address,
            tls: subject.tls.then(|| self.bench.certificates().to_owned()),
            connections: shape.connections,
            size: shape.size,
            plan: subject.plan(shape.plan),
            pace: shape.pace,
            warm: shape.warm,
            window: shape.window,
            may_refuse: shape.may_refuse,
        }
    }

    fn round(&self, spec: &Spec, shape: &Shape) -> Result<Round> {
        if *spec == Spec::Sha256 {
            return hash(Duration::from_millis(shape.window));
        }
        if let Spec::Append { writes, size } = *spec {
            return append(Duration::from_millis(shape.window), writes, size);
        }
        let subject = self.subject(spec)?;
        let mut beside = None;
        if let Some(other) = &shape.beside {
            let mut load = Load::start(&self.job(subject, other))?;
            load.expect("begin", || Ok(()))?;
            beside = Some(load);
        }
        let mut load = Load::start(&self.job(subject, shape))?;
        load.expect("begin", || Ok(()))?;
        let before = self.snapshot(subject)?;
        if let Some(process) = &subject.process {
            process.forget_peak()?;
        }
        let mut round = Round::default();
        load.expect("end", || {
            if shape.sampled {
                sample(subject, &mut round)?;
            }
            Ok(())
        })?;
        let after = self.snapshot(subject)?;
        if let Some(process) = &subject.process {
            let memory = process.memory()?;
            (round.peak, round.pipes) = (memory.peak, memory.pipes);
        }
        sample(subject, &mut round)?;
        // The sink answered for the answer's sake: what is still under way is no error.
        drop(beside);
        let outcome = load.outcome()?;
        round.cpu = after.cpu - before.cpu;
        round.seconds = after.at.duration_since(before.at).as_secs_f64();
        round.bytes = after.sink.bytes - before.sink.bytes;
        round.at_sink = after.sink.requests - before.sink.requests;
        round.load_seconds = outcome.seconds;
        round.resets = after.sink.resets - before.sink.resets;
        round.steal =
            (after.stolen.0 - before.stolen.0) / (after.stolen.1 - before.stolen.1).max(1.0);
        (round.requests, round.refused) = (outcome.requests, outcome.refused);
        (round.errors, round.first_error) = (outcome.errors, outcome.first_error);
        (round.p50, round.p99, round.p999) = (outcome.p50, outcome.p99, outcome.p999);
        Ok(round)
    }

    fn snapshot(&self, subject: &Subject) -> Result<Snapshot> {
        // The counters and the CPU time next to each other: they are divided by each other.
        let sink = self.bench.counted(subject)?;
        let cpu = subject.process.as_ref().map_or(Ok(0.0), Process::cpu_seconds)?;
        Ok(Snapshot { at: Instant::now(), cpu, sink, stolen: machine::stolen()? })
    }

    /// Opens idle connections, each after one request, and says what they add to its resident memory.
    pub(crate) fn idle(&self, spec: &Spec, shape: &Shape) -> Result<Round> {
        let subject = self.subject(spec)?;
        let process = subject.process.as_ref().ok_or("nothing to look at")?;
        let before = process.memory()?;
        let mut load = Load::start(&self.job(subject, shape))?;
        load.expect("begin", || Ok(()))?;
        let after = process.memory()?;
        load.process.end_input();
        load.expect("end", || Ok(()))?;
        let outcome = load.outcome()?;
        let added = after.rss.saturating_sub(before.rss) as f64 * 1024.0;
        Ok(Round {
            peak: after.peak,
            pipes: after.pipes,
            per_connection: added / shape.connections as f64,
            errors: outcome.errors,
            first_error: outcome.first_error,
            ..Round::default()
        })
    }
}

struct Snapshot {
    at: Instant,
    cpu: f64,
    sink: crate::sink::Statistics,
    stolen: (f64, f64),
}

/// A load that runs.
struct Load {
    process: Process,
    lines: Receiver<String>,
}

impl Load {
    fn start(job: &Job) -> Result<Load> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load").arg(serde_json::to_string(job)?).stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let (sender, lines) = channel();
        let output = process.lines()?;
        std::thread::spawn(move || {
            for line in output.map_while(std::io::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Load { process, lines })
    }

    /// Waits for the line, and does something now and then.
    fn expect(&mut self, line: &str, mut meanwhile: impl FnMut() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            match self.lines.recv_timeout(SAMPLE) {
                Ok(said) if said == line => return Ok(()),
                Ok(said) => return Err(format!("the load said {said}, not {line}").into()),
                Err(RecvTimeoutError::Timeout) => meanwhile()?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err("the load ended: see above".into());
                }
            }
        }
        Err(format!("the load did not say {line}").into())
    }

    fn outcome(mut self) -> Result<Outcome> {
        let line = self.lines.recv_timeout(PATIENCE)?;
        self.process.wait()?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// CPU time of hashing for so long, in rounds of the same form as a subject's.
fn hash(window: Duration) -> Result<Round> {
    let data = vec![7; HASHED];
    let clock = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let (started, before, mut bytes) = (Instant::now(), clock()?, 0);
    let mut hasher = Sha256::new();
    while started.elapsed() < window {
        hasher.update(std::hint::black_box(&data));
        bytes += HASHED as u64;
    }
    std::hint::black_box(hasher.finalize());
    let cpu = clock()?.saturating_sub(before).as_secs_f64();
    let seconds = started.elapsed().as_secs_f64();
    Ok(Round { cpu, seconds, bytes, ..Round::default() })
}

/// Appending for so long, in rounds of the same form as a subject's.
fn append(window: Duration, writes: u32, size: u64) -> Result<Round> {
    let folder = tempfile::tempdir()?;
    let mut file = std::fs::File::create(folder.path().join("appended"))?;
    let data = vec![7; size.min(APPENDED) as usize];
    let (started, mut requests) = (Instant::now(), 0);
    while started.elapsed() < window {
        for _ in 0..writes {
            let mut left = size;
            while left > 0 {
                let piece = data.get(..left.min(APPENDED) as usize).unwrap_or(&data);
                file.write_all(piece)?;
                left -= piece.len() as u64;
            }
        }
        file.sync_data()?;
        requests += u64::from(writes);
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Round { seconds, load_seconds: seconds, requests, ..Round::default() })
}

/// Looks at what a gateway keeps for replay, and remembers the most.
fn sample(subject: &Subject, round: &mut Round) -> Result<()> {
    let Some(admin) = subject.admin else { return Ok(()) };
    let text = metrics(admin)?;
    let pages = metric(&text, "mizuchi_replay_pages").unwrap_or(0.0) as u64;
    let overflow = metric(&text, "mizuchi_replay_file_bytes").unwrap_or(0.0) as u64;
    round.pages = round.pages.max(pages);
    round.overflow = round.overflow.max(overflow);
    Ok(())
}

fn metrics(admin: SocketAddr) -> Result<String> {
    let mut socket = TcpStream::connect(admin)?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name))?;
    line.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# TYPE a gauge\nmizuchi_replay_pages_most 9\nmizuchi_replay_pages 12\n";
        assert_eq!(metric(text, "mizuchi_replay_pages"), Some(12.0));
        assert_eq!(metric(text, "mizuchi_replay"), None);
    }

    #[test]
    fn hashing_alone_costs_time() -> Result<()> {
        let round = hash(Duration::from_millis(20))?;
        assert!(round.cpu > 0.001 && round.bytes > 0, "{round:?}");
        Ok(())
    }
}
