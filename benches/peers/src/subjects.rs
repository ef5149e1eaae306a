//! What is measured: whatever stands between the load and the sink.

mod gateway;
mod peers;

use crate::load::Plan;
use crate::process::Process;
use crate::relay::Mode;
use crate::{Result, sink, tls};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) use gateway::{Settings, limits};
pub(crate) use peers::haproxy_connections;

/// Which sink is behind a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Behind {
    Plain,
    Tls,
    /// Resets every hundredth part.
    Faulty,
}

/// What may be measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Spec {
    /// Nothing: the load's connections go to the sink.
    Direct(Behind),
    /// A bare loop.
    Bare(Mode),
    /// SHA-256 over the payload in memory, and nothing else.
    Sha256,
    /// Appends to a file, with one fdatasync(2) for so many writes, and nothing else.
    Append {
        writes: u32,
        /// Bytes of each.
        size: u64,
    },
    /// This gateway.
    Gateway(Settings),
    /// HAProxy.
    Haproxy {
        /// Bytes of its pipes; None: as the system has them.
        pipes: Option<u32>,
        threads: u32,
        tls: bool,
    },
    /// nginx, one worker.
    Nginx { tls: bool },
    /// s3s-proxy, one worker thread.
    S3s,
    /// The proxy of benches/pingora, one thread.
    Pingora,
}

impl Spec {
    /// What goals and plots call it.
    pub(crate) fn key(&self) -> String {
        match self {
            Spec::Direct(Behind::Tls) => "direct-tls".to_owned(),
            Spec::Direct(_) => "direct".to_owned(),
            Spec::Bare(Mode::Splice) => "bare-splice".to_owned(),
            Spec::Bare(Mode::Copy) => "bare-copy".to_owned(),
            Spec::Sha256 => "sha256".to_owned(),
            Spec::Append { .. } => "append".to_owned(),
            Spec::Gateway(settings) => settings.key.to_owned(),
            Spec::Haproxy { pipes, threads, tls } => {
                let pipes = if pipes.is_some() { "-1m" } else { "" };
                let threads = if *threads == 1 { String::new() } else { format!("-{threads}") };
                format!("haproxy{pipes}{threads}{}", if *tls { "-tls" } else { "" })
            }
            Spec::Nginx { tls } => if *tls { "nginx-tls" } else { "nginx" }.to_owned(),
            Spec::S3s => "s3s".to_owned(),
            Spec::Pingora => "pingora".to_owned(),
        }
    }

    /// What tables call it.
    pub(crate) fn label(&self) -> String {
        match self {
            Spec::Direct(_) => "direct (the ceiling)".to_owned(),
            Spec::Bare(Mode::Splice) => "bare splice loop".to_owned(),
            Spec::Bare(Mode::Copy) => "bare copy loop".to_owned(),
            Spec::Sha256 => "SHA-256 alone".to_owned(),
            Spec::Append { writes: 1, .. } => "append + fdatasync".to_owned(),
            Spec::Append { writes, .. } => format!("append + fdatasync, {writes} at a time"),
            Spec::Gateway(settings) => format!("**Mizuchi**, {}", settings.label),
            Spec::Haproxy { pipes, threads, tls } => {
                let mut label = "HAProxy".to_owned();
                label += if *tls { ", TLS both sides" } else { ", splice" };
                label += if pipes.is_some() { ", 1 MiB pipes" } else { "" };
                if *threads > 1 {
                    label += &format!(", {threads} threads");
                }
                label
            }
            Spec::Nginx { tls } => if *tls { "nginx, TLS both sides" } else { "nginx" }.to_owned(),
            Spec::S3s => "s3s-proxy".to_owned(),
            Spec::Pingora => "Pingora, minimal".to_owned(),
        }
    }

    fn behind(&self) -> Behind {
        match self {
            Spec::Direct(behind) => *behind,
            Spec::Gateway(settings) => settings.behind,
            Spec::Haproxy { tls: true, .. } | Spec::Nginx { tls: true } => Behind::Tls,
            _ => Behind::Plain,
        }
    }
}

/// One that runs.
pub(crate) struct Subject {
    pub(crate) address: SocketAddr,
    /// None: there is none (direct).
    pub(crate) process: Option<Process>,
    /// Of a gateway: where its metrics are.
    pub(crate) admin: Option<SocketAddr>,
    /// It verifies signatures: requests must have one.
    pub(crate) verifies: bool,
    /// Its listener speaks TLS.
    pub(crate) tls: bool,
    /// The sink behind it.
    pub(crate) sink: SocketAddr,
    pub(crate) behind: Behind,
    /// Its files live as long as it does.
    _folder: Option<tempfile::TempDir>,
}

impl Subject {
    /// What a subject makes of a plan: who verifies nothing gets a plain body.
    pub(crate) fn plan(&self, plan: Plan) -> Plan {
        if self.verifies { plan } else { Plan::Raw }
    }
}

/// A sink that runs.
struct Sink {
    _process: Process,
    address: SocketAddr,
    /// Where its counters are.
    counters: SocketAddr,
}

/// The folders of a run, and the sinks.
pub(crate) struct Bench {
    /// The gateway's production binary.
    binary: PathBuf,
    /// Where `make bench-peers-install` puts s3s-proxy and the Pingora proxy.
    installed: PathBuf,
    certificates: tempfile::TempDir,
    sinks: HashMap<Behind, Sink>,
}

impl Bench {
    /// Makes certificates; sinks are started when they are needed.
    pub(crate) fn new(binary: PathBuf, installed: PathBuf) -> Result<Bench> {
        if !binary.is_file() {
            let text = format!("{} is not there: run cargo build --release", binary.display());
            return Err(text.into());
        }
        let certificates = tempfile::tempdir()?;
        tls::make(certificates.path())?;
        Ok(Bench { binary, installed, certificates, sinks: HashMap::new() })
    }

    /// The folder with the certificates.
    pub(crate) fn certificates(&self) -> &Path {
        self.certificates.path()
    }

    fn sink(&mut self, behind: Behind) -> Result<SocketAddr> {
        if let Some(sink) = self.sinks.get(&behind) {
            return Ok(sink.address);
        }
        let mut arguments = vec!["sink".to_owned()];
        match behind {
            Behind::Plain => {}
            Behind::Tls => arguments
                .extend(["--tls".to_owned(), self.certificates().to_string_lossy().into_owned()]),
            Behind::Faulty => arguments.push("--faults".to_owned()),
        }
        let (_process, addresses) = Process::own(arguments)?;
        let [address, counters] = addresses[..] else {
            return Err("a sink has two addresses".into());
        };
        self.sinks.insert(behind, Sink { _process, address, counters });
        Ok(address)
    }

    /// What a sink counted so far.
    pub(crate) fn counted(&self, subject: &Subject) -> Result<sink::Statistics> {
        let sink = self.sinks.get(&subject.behind).ok_or("the sink is gone")?;
        sink::statistics(sink.counters)
    }

    /// Starts a subject; None if it is not installed.
    pub(crate) fn start(&mut self, spec: &Spec) -> Result<Option<Subject>> {
        let behind = spec.behind();
        let sink = self.sink(behind)?;
        let mut subject = Subject {
            address: sink,
            process: None,
            admin: None,
            verifies: false,
            tls: behind == Behind::Tls,
            sink,
            behind,
            _folder: None,
        };
        match spec {
            Spec::Direct(_) | Spec::Sha256 | Spec::Append { .. } => {}
            Spec::Bare(mode) => {
                let mode = if *mode == Mode::Splice { "splice" } else { "copy" };
                let arguments = ["relay", "--mode", mode, "--sink", &sink.to_string()];
                let (process, addresses) = Process::own(arguments.map(str::to_owned))?;
                subject.process = Some(process);
                subject.address = addresses.first().copied().ok_or("a loop has an address")?;
            }
            Spec::Gateway(settings) => self.gateway(settings, &mut subject)?,
            _ => {
                let folder = tempfile::tempdir()?;
                let Some((process, address)) = self.peer(spec, sink, folder.path())? else {
                    return Ok(None);
                };
                (subject.process, subject.address) = (Some(process), address);
                subject.verifies = *spec == Spec::S3s;
                subject._folder = Some(folder);
            }
        }
        Ok(Some(subject))
    }
}
