//! `mizuchi spool`: its arguments and its exit status.

use super::remote::Credentials;
use super::side::{Problem, Side};
use super::verbs;
use crate::settings::Settings;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Something is wrong with the spool, or did not end in time.
const EXIT_WRONG: u8 = 1;
/// sysexits(3), EX_USAGE.
const EXIT_USAGE: u8 = 64;
/// sysexits(3), EX_UNAVAILABLE: neither the spool nor its gateway can be had.
const EXIT_UNAVAILABLE: u8 = 69;

/// What follows `mizuchi spool`.
#[derive(Args)]
pub(crate) struct SpoolArgs {
    /// A client certificate (PEM) for the admin listener of a gateway that runs, where there is no
    /// admin.token
    #[arg(long, value_name = "FILE", global = true, requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", global = true, requires = "cert")]
    key: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// How much waits and for how long, what is set aside, and whether the disk has failed
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// List what waits and what is set aside, the oldest first
    Ls {
        /// Only what is set aside
        #[arg(long)]
        quarantined: bool,
        /// For programs: an object a line
        #[arg(long)]
        json: bool,
    },
    /// Show all that is on record of an upload
    Show {
        /// The upload, by its number in `mizuchi spool ls`
        number: u64,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Have what was set aside delivered again, unless something newer of its key was delivered
    Retry {
        /// The upload, by its number in `mizuchi spool ls`
        #[arg(required_unless_present = "all")]
        number: Option<u64>,
        /// All that is set aside
        #[arg(long, conflicts_with = "number")]
        all: bool,
        /// Also where it is written over something newer
        #[arg(long)]
        force: bool,
    },
    /// Copy an upload's body to a file, and hold it against its MD5 on the way
    Export {
        /// The upload, by its number in `mizuchi spool ls`
        number: u64,
        /// A new file; - is standard output
        file: PathBuf,
    },
    /// Read every body again and hold it against its MD5; exit status 1 when one is rotten
    Verify,
    /// Wait until nothing waits any more; what is set aside does not count
    Drain {
        /// Wait no longer; exit status 1 then
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
    },
}

/// Runs a command; the exit status is the process's.
pub(crate) fn run(settings: &Settings, args: SpoolArgs) -> ExitCode {
    let code = match actix_web::rt::System::new().block_on(execute(settings, args)) {
        Ok(()) | Err(Problem::Closed) => return ExitCode::SUCCESS,
        Err(problem) => {
            let (code, problem) = match problem {
                Problem::Usage(problem) => (EXIT_USAGE, problem),
                Problem::Unreachable(problem) => (EXIT_UNAVAILABLE, problem),
                Problem::Spool(problem) => (EXIT_WRONG, problem),
                Problem::Closed => return ExitCode::SUCCESS,
            };
            eprintln!("spool: {problem}");
            code
        }
    };
    ExitCode::from(code)
}

async fn execute(settings: &Settings, args: SpoolArgs) -> Result<(), Problem> {
    let side = Side::find(settings, Credentials { pair: args.cert.zip(args.key) })?;
    match args.verb {
        Verb::Status { json } => verbs::status(&side, json).await,
        Verb::Ls { quarantined, json } => verbs::ls(&side, quarantined, json).await,
        Verb::Show { number, json } => verbs::show(&side, number, json).await,
        Verb::Retry { number: Some(number), force, .. } => verbs::retry(&side, number, force).await,
        Verb::Retry { number: None, force, .. } => verbs::retry_all(&side, force).await,
        Verb::Export { number, file } => verbs::export(&side, number, &file).await,
        Verb::Verify => verbs::verify(&side).await,
        Verb::Drain { timeout } => verbs::drain(&side, timeout).await,
    }
}
