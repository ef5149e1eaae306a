//! What the settings ask of the host beyond what it gives: a pure function.

use super::{BACKLOG, Facts, PAGE};
use crate::settings::{BackendEndpoints, BucketSettings, Settings};
use bytesize::ByteSize;
use mizuchi_actors::platform::ZERO_COPY;
use std::fmt;

/// Descriptors that are nobody's: listeners, files, the runtime's.
const OWN_DESCRIPTORS: u64 = 64;

/// Bytes of the process's own memory that an upload may hold besides what is kept for replay: one
/// read of the copy path, twice (on its way in, and out).
const UPLOAD_MEMORY: u64 = 512 * 1024;

/// Bytes of an idle connection of a client.
const CONNECTION_MEMORY: u64 = 25 * 1024;

/// What the settings ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Clients' connections.
    pub(super) connections: u64,
    /// Uploads in flight.
    pub(super) uploads: u64,
    /// Connections that one upload has to its backend, at the most.
    pub(super) parts: u64,
    /// Idle backend connections.
    pub(super) idle: u64,
    /// Of them, and of those in use, to one address at the most: how many of the idle ones.
    pub(super) idle_to_one: u64,
    /// Bytes of each pipe; None: nothing is spliced.
    pub(super) pipe: Option<u64>,
    /// `replay.pipes`.
    pub(super) kept_pipes: u64,
    /// `replay.memory`, bytes.
    pub(super) kept: u64,
}

impl Demand {
    /// Of these settings.
    pub(crate) fn of(settings: &Settings) -> Demand {
        let (server, replay) = (&settings.server, &settings.replay);
        let count = |count: usize| count as u64;
        let idle = |bucket: &BucketSettings| {
            count(bucket.s3.pool.idle_per_worker).saturating_mul(count(server.workers))
        };
        let endpoints = |bucket: &BucketSettings| match &bucket.s3.endpoint {
            BackendEndpoints::Embedded => 1,
            BackendEndpoints::Http(list) => count(list.len()),
        };
        let parts = settings.buckets.iter().map(|bucket| match bucket.upload.split.auto {
            true => count(bucket.upload.split.concurrent_parts),
            false => 1,
        });
        let buckets = settings.buckets.iter();
        Demand {
            connections: count(server.max_connections),
            uploads: count(settings.admission.uploads.min(server.max_connections)),
            parts: parts.max().unwrap_or(1),
            idle: buckets
                .clone()
                .map(|bucket| idle(bucket).saturating_mul(endpoints(bucket)))
                .sum(),
            idle_to_one: buckets.map(idle).max().unwrap_or(0),
            pipe: (ZERO_COPY && server.zero_copy.enabled)
                .then_some(count(server.zero_copy.pipe_buffer_size)),
            kept_pipes: count(replay.pipes),
            kept: replay.memory,
        }
    }

    /// Descriptors at the most, as far as uploads go that are not split: one that is has as many as
    /// its parts in flight.
    fn descriptors(&self) -> u64 {
        let pipes = if self.pipe.is_some() { 4 } else { 0 };
        let kept = if self.pipe.is_some() { 2 * self.kept_pipes } else { 0 };
        self.connections + self.uploads * (1 + pipes) + kept + self.idle + OWN_DESCRIPTORS
    }

    fn memory(&self) -> u64 {
        self.kept + self.uploads * UPLOAD_MEMORY + self.connections * CONNECTION_MEMORY
    }
}

/// One thing that the settings ask for and the host does not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Which limit it is, as the host names it.
    pub(crate) limit: &'static str,
    /// What is short, and what happens then.
    pub(crate) problem: String,
    /// What helps.
    pub(crate) help: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. What helps: {}", self.limit, self.problem, self.help)
    }
}

/// What the host gives, in a line.
pub(crate) fn summary(facts: &Facts, demand: &Demand) -> String {
    let known = |value: Option<u64>| value.map_or("?".to_owned(), |value| value.to_string());
    let pipes = match (demand.pipe, facts.pipe_slots()) {
        (None, _) => "no pipes".to_owned(),
        (Some(size), None) => format!("pipes of {}", bytes(facts.largest_pipe(size))),
        (Some(size), Some(slots)) => {
            let size = facts.largest_pipe(size);
            let count = slots as u64 * PAGE / size;
            format!("{count} pipes of {}, then smaller ones", bytes(size))
        }
    };
    let memory = facts.usable_memory().map_or("?".to_owned(), bytes);
    format!(
        "the host gives {} descriptors, {pipes}, {memory} of memory, a backlog of {}, {} local ports",
        known(facts.descriptors),
        known(facts.backlog),
        known(facts.ports),
    )
}

/// Everything that the settings ask for and the host does not give.
pub(crate) fn findings(facts: &Facts, demand: &Demand) -> Vec<Finding> {
    let found = [
        pipe_pages(facts, demand),
        pipe_size(facts, demand),
        descriptors(facts, demand),
        backlog(facts),
        memory(facts, demand),
        ports(facts, demand),
    ];
    found.into_iter().flatten().collect()
}

fn bytes(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

fn pipe_pages(facts: &Facts, demand: &Demand) -> Option<Finding> {
    let size = facts.largest_pipe(demand.pipe?);
    let slots = facts.pipe_slots()? as u64;
    let kept = demand.kept_pipes.min(demand.kept.div_ceil(size));
    let asked = kept.saturating_add(demand.uploads.saturating_mul(2)).saturating_mul(size / PAGE);
    let limit = match facts.pipe_pages_hard == Some(slots) {
        true => "fs.pipe-user-pages-hard",
        false => "fs.pipe-user-pages-soft",
    };
    (asked > slots).then(|| Finding {
        limit,
        problem: format!(
            "{slots} pages in pipes are enough for {} uploads of two pipes of {} each; further ones \
             get smaller pipes, then their bodies are copied, and of what is kept for replay \
             no more than {} stays in pipes",
            slots * PAGE / size / 2,
            bytes(size),
            bytes(slots * PAGE / 2),
        ),
        help: format!(
            "`sysctl -w {limit}=0` (no limit; replay.memory and admission.uploads remain), or the \
             capability CAP_SYS_RESOURCE, or a smaller server.zero_copy.pipe_buffer_size"
        ),
    })
}

fn pipe_size(facts: &Facts, demand: &Demand) -> Option<Finding> {
    let asked = demand.pipe?.checked_next_power_of_two()?;
    let given = facts.largest_pipe(asked);
    (given < asked).then(|| Finding {
        limit: "fs.pipe-max-size",
        problem: format!(
            "pipes have {} at the most, server.zero_copy.pipe_buffer_size is {}",
            bytes(given),
            bytes(asked)
        ),
        help: format!(
            "`sysctl -w fs.pipe-max-size={asked}`, or the capability CAP_SYS_RESOURCE, or a smaller \
             server.zero_copy.pipe_buffer_size"
        ),
    })
}

fn descriptors(facts: &Facts, demand: &Demand) -> Option<Finding> {
    let (given, asked) = (facts.descriptors?, demand.descriptors());
    (given < asked).then(|| Finding {
        limit: "RLIMIT_NOFILE",
        problem: format!(
            "the process may have {given} descriptors; {} connections, {} uploads and what is kept \
             of them may need {asked}; connections then wait to be accepted, and bodies are copied",
            demand.connections, demand.uploads
        ),
        help: format!(
            "`LimitNOFILE={asked}` (systemd), `--ulimit nofile={asked}` (containers), or lower \
             server.max_connections, admission.uploads or replay.pipes"
        ),
    })
}

fn backlog(facts: &Facts) -> Option<Finding> {
    let (given, asked) = (facts.backlog?, u64::from(BACKLOG));
    (given < asked).then(|| Finding {
        limit: "net.core.somaxconn",
        problem: format!(
            "{given} connections may wait to be accepted, {asked} are asked for; in a burst clients \
             lose a second each"
        ),
        help: format!("`sysctl -w net.core.somaxconn={asked}`"),
    })
}

fn memory(facts: &Facts, demand: &Demand) -> Option<Finding> {
    let (given, asked) = (facts.usable_memory()?, demand.memory());
    let limit = match facts.memory_limit == Some(given) {
        true => "memory.max",
        false => "memory",
    };
    (given < asked).then(|| Finding {
        limit,
        problem: format!(
            "{} are there; replay.memory ({}), {} uploads that are copied and {} connections may hold {}",
            bytes(given),
            bytes(demand.kept),
            demand.uploads,
            demand.connections,
            bytes(asked)
        ),
        help: "a higher limit, or lower replay.memory, admission.uploads or server.max_connections"
            .to_owned(),
    })
}

fn ports(facts: &Facts, demand: &Demand) -> Option<Finding> {
    let given = facts.ports?;
    let in_use = demand.uploads.saturating_mul(demand.parts).saturating_add(demand.idle_to_one);
    // A port whose connection ended waits for a minute (TIME_WAIT) unless it may be used again.
    let asked = if facts.ports_at_once { in_use } else { in_use.saturating_mul(2) };
    (given < asked).then(|| Finding {
        limit: "net.ipv4.ip_local_port_range",
        problem: format!(
            "there are {given} local ports for connections to one endpoint; {} uploads of up to {} \
             parts at a time may need {asked}",
            demand.uploads, demand.parts
        ),
        help:
            "`sysctl -w net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1`, more \
               endpoints, or lower admission.uploads"
                .to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Asks for what a large host gives.
    fn facts() -> Facts {
        Facts {
            any_pipe_pages: true,
            any_pipe_size: true,
            pipe_pages_soft: Some(16384),
            pipe_pages_hard: None,
            pipe_size: Some(1 << 20),
            descriptors: Some(524_288),
            backlog: Some(4096),
            ports: Some(60_000),
            ports_at_once: true,
            memory: Some(8 << 30),
            memory_limit: None,
        }
    }

    fn demand() -> Demand {
        Demand {
            connections: 25_000,
            uploads: 4096,
            parts: 4,
            idle: 256,
            idle_to_one: 128,
            pipe: Some(1 << 20),
            kept_pipes: 1024,
            kept: 1 << 30,
        }
    }

    #[test]
    fn each_limit_is_found_where_the_settings_ask_for_more() {
        type Change = fn(&mut Facts, &mut Demand);
        let table: [(&[&str], Change); 15] = [
            (&[], |_, _| {}),
            (&["fs.pipe-user-pages-soft"], |f, _| f.any_pipe_pages = false),
            (&["fs.pipe-user-pages-hard"], |f, _| {
                (f.any_pipe_pages, f.pipe_pages_hard) = (false, Some(1024));
            }),
            (&[], |f, d| (f.any_pipe_pages, d.pipe) = (false, None)),
            (&[], |f, d| (f.any_pipe_pages, d.uploads, d.kept) = (false, 16, 32 << 20)),
            (&["fs.pipe-user-pages-soft"], |f, d| {
                (f.any_pipe_pages, d.uploads, d.kept) = (false, 17, 32 << 20);
            }),
            (&["fs.pipe-max-size"], |f, d| (f.any_pipe_size, d.pipe) = (false, Some(2 << 20))),
            (&[], |_, d| d.pipe = Some(2 << 20)),
            (&["RLIMIT_NOFILE"], |f, _| f.descriptors = Some(20_000)),
            (&[], |f, d| {
                (f.descriptors, d.connections, d.uploads, d.kept_pipes) =
                    (Some(2400), 1000, 100, 256);
            }),
            (&["net.core.somaxconn"], |f, _| f.backlog = Some(128)),
            (&["memory.max"], |f, _| f.memory_limit = Some(512 << 20)),
            (&["memory"], |f, _| f.memory = Some(2 << 30)),
            (&["net.ipv4.ip_local_port_range"], |f, _| f.ports = Some(10_000)),
            (&["net.ipv4.ip_local_port_range"], |f, _| {
                (f.ports, f.ports_at_once) = (Some(20_000), false);
            }),
        ];
        for (index, (expected, change)) in table.iter().enumerate() {
            let (mut facts, mut demand) = (facts(), demand());
            change(&mut facts, &mut demand);
            let found: Vec<_> =
                findings(&facts, &demand).iter().map(|finding| finding.limit).collect();
            assert_eq!(&found, expected, "row {index}");
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is_known() {
        assert_eq!(findings(&Facts::default(), &demand()), []);
        assert!(summary(&Facts::default(), &demand()).contains("? descriptors"));
    }

    #[test]
    fn a_finding_says_how_much_and_what_helps() {
        let facts = Facts { any_pipe_pages: false, ..facts() };
        let text = findings(&facts, &demand()).first().unwrap().to_string();
        for part in ["16384 pages", "32 uploads", "1.0 MiB", "CAP_SYS_RESOURCE", "sysctl -w"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(summary(&facts, &demand()).contains("64 pipes of 1.0 MiB"));
    }
}
