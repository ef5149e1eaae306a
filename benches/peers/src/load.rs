//! The load: PUTs on keep-alive connections from one thread. A process of its own, so that its CPU time is
//! not the proxy's.
//!
//! What it says on standard output: `begin` when the warm-up is over, `end` when the window is, then
//! one line of JSON ([`Outcome`]).

mod connection;
mod template;

use crate::poll::Poll;
use crate::wire::Wire;
use crate::{Result, tls};
use connection::{Connection, Step};
use hdrhistogram::Histogram;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use template::Template;

pub(crate) use template::{ACCESS_KEY, BUCKET, Plan, SECRET_KEY};

const TIMER: u64 = u64::MAX;
/// The shortest time between two looks at an open loop's schedule.
const TICK: Duration = Duration::from_micros(100);
/// A refused client comes back after this: the `Retry-After: 1` of SlowDown.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long requests under way may take to end when the window is over.
const LINGER: Duration = Duration::from_secs(3);
/// Larger ones are given up.
const LINGERING: u64 = 8 << 20;
/// Requests are signed anew after this; servers allow 15 minutes.
const SIGNED_ANEW: Duration = Duration::from_secs(240);
/// With so many errors nothing is measured any more.
const TOO_MANY_ERRORS: u64 = 10_000;

/// When requests begin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Pace {
    /// Each connection sends its next as soon as it has its answer.
    Closed,
    /// So many in a second, whatever the answers; latencies count from when one was due.
    Open(f64),
    /// One on each connection; then the connections are kept open until standard input ends.
    Hold,
    /// None is ever whole: nine connections in ten begin a head, one in ten a body. They are kept until
    /// standard input ends.
    Slow,
}

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) target: SocketAddr,
    /// The folder with the certificates; None: no TLS.
    pub(crate) tls: Option<PathBuf>,
    pub(crate) connections: usize,
    /// Payload bytes of a request.
    pub(crate) size: u64,
    pub(crate) plan: Plan,
    pub(crate) pace: Pace,
    /// Before the window, milliseconds.
    pub(crate) warm: u64,
    /// What is measured, milliseconds.
    pub(crate) window: u64,
    /// 503 is an answer to come back after, not an error.
    pub(crate) may_refuse: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests answered 2xx in the window.
    pub(crate) requests: u64,
    /// Answers 503 in the window.
    pub(crate) refused: u64,
    /// Any other answer, and connections that ended, in the whole run.
    pub(crate) errors: u64,
    /// What the first of them was.
    pub(crate) first_error: Option<String>,
    /// Answers by status, in the whole run.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Payload bytes of `requests`.
    pub(crate) bytes: u64,
    /// The window, seconds.
    pub(crate) seconds: f64,
    /// Latencies of `requests`, milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Runs a job, given as JSON.
pub(crate) fn run(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    let mut load = Load::new(job)?;
    load.connect()?;
    match load.job.pace {
        Pace::Closed | Pace::Open(_) => load.measure(),
        Pace::Hold => load.hold(),
        Pace::Slow => load.dawdle(),
    }
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

struct Load {
    job: Job,
    tls: Option<Arc<ClientConfig>>,
    template: Template,
    poll: Poll,
    connections: Vec<Connection>,
    /// Connections without a request.
    idle: Vec<u64>,
    /// Connections that were refused, and when they may try again.
    sleeping: VecDeque<(Instant, u64)>,
    latencies: Histogram<u64>,
    outcome: Outcome,
    /// Answers count.
    counting: bool,
    /// No request begins any more.
    ending: bool,
}

impl Load {
    fn new(job: Job) -> Result<Load> {
        let tls = job.tls.as_deref().map(tls::client).transpose()?;
        let template = Template::new(job.plan, job.size, job.target, job.tls.is_some())?;
        Ok(Load {
            tls,
            template,
            poll: Poll::new()?,
            connections: Vec::new(),
            idle: Vec::new(),
            sleeping: VecDeque::new(),
            // Microseconds, up to an hour, three digits.
            latencies: Histogram::new_with_bounds(1, 3_600_000_000, 3)?,
            outcome: Outcome::default(),
            counting: false,
            ending: false,
            job,
        })
    }

    fn connect(&mut self) -> Result<()> {
        for index in 0..self.job.connections {
            let wire = Wire::connect(self.job.target, self.tls.as_ref())?;
            self.poll.watch(wire.as_fd(), index as u64)?;
            self.connections.push(Connection::new(wire));
            self.idle.push(index as u64);
        }
        Ok(())
    }

    /// Ends the connection's request, with an error or without; the connection is replaced.
    fn replace(&mut self, token: u64) -> Result<()> {
        let wire = Wire::connect(self.job.target, self.tls.as_ref())?;
        self.poll.watch(wire.as_fd(), token)?;
        if let Some(slot) = self.connections.get_mut(token as usize) {
            *slot = Connection::new(wire);
        }
        Ok(())
    }

    fn error(&mut self, text: String) -> Result<()> {
        self.outcome.errors += 1;
        if self.outcome.errors > TOO_MANY_ERRORS {
            return Err(format!("more than {TOO_MANY_ERRORS} errors, the last: {text}").into());
        }
        self.outcome.first_error.get_or_insert(text);
        Ok(())
    }

    /// Goes on with one connection; true when it is free for another request.
    fn go_on(&mut self, token: u64) -> Result<bool> {
        let Some(connection) = self.connections.get_mut(token as usize) else { return Ok(false) };
        match connection.go_on(&self.template) {
            Step::Waiting => Ok(false),
            Step::More => {
                self.poll.again(token);
                Ok(false)
            }
            Step::Failed(_) if self.ending => Ok(false),
            Step::Failed(why) => {
                self.error(why)?;
                self.replace(token)?;
                Ok(true)
            }
            Step::Answered { status, since, reusable } => {
                *self.outcome.statuses.entry(status).or_default() += 1;
                if self.counting && (200..300).contains(&status) {
                    self.outcome.requests += 1;
                    self.outcome.bytes += self.job.size;
                    let micros = since.elapsed().as_micros() as u64;
                    self.latencies.saturating_record(micros.max(1));
                }
                let is_refused = status == 503 && self.job.may_refuse;
                if is_refused {
                    self.outcome.refused += u64::from(self.counting);
                } else if !(200..300).contains(&status) {
                    self.error(format!("status {status}"))?;
                }
                if !reusable {
                    self.replace(token)?;
                }
                if is_refused {
                    self.sleeping.push_back((Instant::now() + RETRY_AFTER, token));
                    return Ok(false);
                }
                Ok(true)
            }
        }
    }

    /// Begins a request on an idle connection, and goes on until it waits.
    fn begin(&mut self, token: u64, since: Instant) -> Result<()> {
        if let Some(connection) = self.connections.get_mut(token as usize) {
            connection.begin(since);
        }
        if self.go_on(token)? {
            self.idle.push(token);
        }
        Ok(())
    }

    /// One wait and what came of it. Connections that became free are in `idle`.
    fn turn(&mut self, ready: &mut Vec<u64>, most: Duration) -> Result<()> {
        let woken =
            self.sleeping.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        self.poll.wait(ready, Some(woken.map_or(most, |woken| woken.min(most))))?;
        for token in ready.iter().copied().filter(|token| *token != TIMER) {
            let busy = self.connections.get(token as usize).is_some_and(Connection::is_busy);
            if busy && self.go_on(token)? {
                self.idle.push(token);
            }
        }
        while let Some((at, token)) = self.sleeping.front().copied()
            && at <= Instant::now()
        {
            self.sleeping.pop_front();
            self.idle.push(token);
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<()> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        let rate = match self.job.pace {
            Pace::Open(rate) => {
                let tick = Duration::from_secs_f64(1.0 / rate).max(TICK);
                let interval = Expiration::Interval(TimeSpec::from_duration(tick));
                timer.set(interval, TimerSetTimeFlags::empty())?;
                self.poll.watch_readable(timer.as_fd(), TIMER)?;
                Some(rate)
            }
            _ => None,
        };
        let start = Instant::now();
        let from = start + Duration::from_millis(self.job.warm);
        let to = from + Duration::from_millis(self.job.window);
        let (mut begun, mut ready) = (0u64, Vec::new());
        loop {
            let now = Instant::now();
            if !self.counting && now >= from {
                self.counting = true;
                say("begin")?;
            }
            if now >= to {
                break;
            }
            if self.template.age() > SIGNED_ANEW {
                self.template.sign()?;
            }
            match rate {
                None => {
                    for token in std::mem::take(&mut self.idle) {
                        self.begin(token, Instant::now())?;
                    }
                }
                Some(rate) => {
                    let due = |number: u64| start + Duration::from_secs_f64(number as f64 / rate);
                    while due(begun) <= Instant::now()
                        && let Some(token) = self.idle.pop()
                    {
                        self.begin(token, due(begun))?;
                        begun += 1;
                    }
                    // The timer is looked at by its readiness alone.
                    let _ = nix::unistd::read(timer.as_fd(), &mut [0; 8]);
                }
            }
            let next = if self.counting { to } else { from };
            self.turn(&mut ready, next.saturating_duration_since(Instant::now()))?;
        }
        self.outcome.seconds = from.elapsed().as_secs_f64();
        self.counting = false;
        self.ending = true;
        say("end")?;
        let linger = if self.job.size <= LINGERING { LINGER } else { Duration::ZERO };
        let patience = Instant::now() + linger;
        while self.connections.iter().any(Connection::is_busy) && Instant::now() < patience {
            self.turn(&mut ready, Duration::from_millis(100))?;
        }
        let millis = |share: f64| self.latencies.value_at_quantile(share) as f64 / 1000.0;
        self.outcome.p50 = millis(0.5);
        self.outcome.p99 = millis(0.99);
        self.outcome.p999 = millis(0.999);
        self.outcome.max = self.latencies.max() as f64 / 1000.0;
        say(&serde_json::to_string(&self.outcome)?)
    }

    fn hold(&mut self) -> Result<()> {
        let mut ready = Vec::new();
        for token in std::mem::take(&mut self.idle) {
            self.begin(token, Instant::now())?;
            // No more than a few at a time: this is about what stays, not about a burst.
            while self
                .connections
                .iter()
                .skip((token as usize).saturating_sub(64))
                .any(Connection::is_busy)
            {
                self.turn(&mut ready, Duration::from_millis(100))?;
            }
        }
        self.stay()
    }

    fn dawdle(&mut self) -> Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            connection.begin_slowly(&self.template, index % 10 == 0)?;
        }
        self.stay()
    }

    /// Keeps the connections until standard input ends.
    fn stay(&mut self) -> Result<()> {
        say("begin")?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        say("end")?;
        say(&serde_json::to_string(&self.outcome)?)
    }
}
