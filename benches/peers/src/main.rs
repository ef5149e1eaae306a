//! `make bench-peers`: what the gateway costs, beside its peers, in one run.
//!
//! Every part is a process of its own: the load, the sink, and between them the subject whose CPU time is
//! read from the kernel. docs/performance.md says how it is measured and how to read it.

mod goals;
mod groups;
mod head;
mod load;
mod machine;
mod measure;
mod peers;
mod plots;
mod poll;
mod process;
mod relay;
mod report;
mod results;
mod sink;
mod subjects;
mod tls;
mod wire;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// What any step may come to.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Parser)]
#[command(about = "Measures Mizuchi Uploadr beside its peers: make bench-peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures, and writes tables and plots.
    Peers(peers::Options),
    /// A part of the run: sends requests.
    #[command(hide = true)]
    Load {
        /// A `Job` as JSON.
        job: String,
    },
    /// A part of the run: the backend.
    #[command(hide = true)]
    Sink {
        /// The folder with the certificates, for TLS.
        #[arg(long)]
        tls: Option<PathBuf>,
        /// Resets every hundredth part in its middle.
        #[arg(long)]
        faults: bool,
    },
    /// A part of the run: a bare loop.
    #[command(hide = true)]
    Relay {
        #[arg(long)]
        mode: relay::Mode,
        #[arg(long)]
        sink: SocketAddr,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Peers(options) => peers::run(&options),
        Command::Load { job } => load::run(&job),
        Command::Sink { tls, faults } => {
            process::end_with_standard_input();
            sink::run(sink::Options { faults }, tls.as_deref())
        }
        Command::Relay { mode, sink } => {
            process::end_with_standard_input();
            relay::run(mode, sink)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mizuchi-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
