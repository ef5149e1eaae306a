//! The command line.

use crate::development::Credentials;
use crate::gateway::Gateway;
use crate::host::{self, Demand, Facts};
use crate::settings::{self, Loaded, Settings};
use crate::spool::advice;
use crate::{logging, probe, spool, upload};
use clap::{Args, Parser, Subcommand};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// sysexits(3), EX_USAGE: the settings are wrong, or the command is.
const EXIT_SETTINGS: u8 = 64;
/// sysexits(3), EX_SOFTWARE: the gateway could not start or ended with an error.
const EXIT_FAILED: u8 = 70;

#[derive(Parser)]
#[command(name = "mizuchi", version, about = "An upload-only, S3-compatible gateway")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT
    Serve(ServeArgs),
    /// Check the settings and show every error; exit status 64 when there is one. Then show where they
    /// ask for more than this host gives, and what helps
    Check(CheckArgs),
    /// Print a URL with which anybody may upload one object, for a while
    Presign(PresignArgs),
    /// Look after what was acknowledged and is not at its backend yet, of a gateway that runs or of one
    /// that is stopped
    Spool(SpoolCommand),
    /// Upload files and folders to any S3
    Upload(upload::UploadArgs),
}

#[derive(Args)]
struct SpoolCommand {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    spool: spool::SpoolArgs,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Ask each backend what it verifies, by uploads that it should refuse
    #[arg(long)]
    probe: bool,
}

#[derive(Args)]
struct PresignArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// The bucket, by its name in the settings
    #[arg(long)]
    bucket: String,
    /// The object's key
    #[arg(long)]
    key: String,
    /// How long the URL is valid, at most 7 days
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    expires: Duration,
    /// Where clients reach the gateway; by default http:// or https://, and server.address
    #[arg(long)]
    endpoint: Option<String>,
    /// Sign with this access key; by default the bucket's first
    #[arg(long)]
    access_key: Option<String>,
}

#[derive(Args)]
struct SettingsArgs {
    /// The settings file (YAML); settings/default.yaml documents every key
    #[arg(long, value_name = "FILE", env = "MIZUCHI_SETTINGS", global = true)]
    settings: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Make credentials on the first start, keep them in ./data, and print an upload to try
    #[arg(long)]
    development: bool,
}

/// Runs the command line; the exit status is the process's.
pub fn run() -> ExitCode {
    // Failpoints exist only where the tests build them in; elsewhere this is nothing.
    let _failpoints = fail::FailScenario::setup();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also what was asked for: the help, the version.
            let _ = error.print();
            return if error.use_stderr() { EXIT_SETTINGS.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(args) => serve(args),
        Command::Check(args) => check(&args),
        Command::Presign(args) => presign(&args),
        Command::Upload(args) => upload::run(&args),
        Command::Spool(args) => match load(&args.settings, &environment()) {
            Ok(loaded) => spool::run(&loaded.settings, args.spool),
            Err(code) => code,
        },
    }
}

pub(crate) fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn load(args: &SettingsArgs, environment: &BTreeMap<String, String>) -> Result<Loaded, ExitCode> {
    settings::load(args.settings.as_deref(), environment).map_err(|errors| {
        eprintln!("{errors}");
        ExitCode::from(EXIT_SETTINGS)
    })
}

fn check(args: &CheckArgs) -> ExitCode {
    let loaded = match load(&args.settings, &environment()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    for warning in loaded.warnings.iter().chain(&advice::warnings(&loaded.settings)) {
        eprintln!("warning: {warning}");
    }
    println!("The settings are valid.");
    for bucket in &loaded.settings.buckets {
        if let Some(source) = &bucket.s3.credentials {
            println!("{}: the backend's credentials come from {source}", bucket.name);
        }
    }
    for line in advice::given_up(&loaded.settings) {
        println!("{line}");
    }
    let (summary, found) = host_limits(&loaded.settings);
    println!("{summary}");
    for finding in found {
        println!("{finding}");
    }
    if !args.probe {
        return ExitCode::SUCCESS;
    }
    let probed = actix_web::rt::System::new().block_on(probe::run(&loaded.settings));
    match probed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => failed("the probe", &error),
    }
}

/// What the host gives, and where the settings ask for more.
fn host_limits(settings: &Settings) -> (String, Vec<host::Finding>) {
    let (facts, demand) = (Facts::read(Path::new("/")), Demand::of(settings));
    (host::summary(&facts, &demand), host::findings(&facts, &demand))
}

fn presign(args: &PresignArgs) -> ExitCode {
    let loaded = match load(&args.settings, &environment()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let url = crate::presign::url(
        &loaded.settings,
        &args.bucket,
        &args.key,
        args.expires,
        args.endpoint.as_deref(),
        args.access_key.as_deref(),
    );
    match url {
        Ok(url) => {
            println!("{url}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("presign: {problem}");
            ExitCode::from(EXIT_SETTINGS)
        }
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    let mut environment = environment();
    let credentials = match args.development.then(Credentials::load).transpose() {
        Ok(credentials) => credentials,
        Err(error) => return failed("the development credentials", &error),
    };
    if let Some(credentials) = &credentials {
        credentials.export(&mut environment);
    }
    let loaded = match load(&args.settings, &environment) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let _log = logging::start(&loaded.settings.logging.level, logging::format(&loaded.settings));
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    host::raise_descriptors();
    let (summary, found) = host_limits(&loaded.settings);
    log::info!("{summary}");
    for finding in found {
        log::warn!("{}: {} (`mizuchi check` says what helps)", finding.limit, finding.problem);
    }
    let bucket =
        loaded.settings.buckets.first().map(|bucket| bucket.name.clone()).unwrap_or_default();
    let ended = actix_web::rt::System::new().block_on(async move {
        let gateway = Gateway::start(loaded.settings).await?;
        if let Some(credentials) = &credentials {
            println!("{}", credentials.instructions(gateway.address(), &bucket));
        }
        gateway.until_signal().await
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed("the gateway", &error),
    }
}

fn failed(what: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("{what}: {error}");
    ExitCode::from(EXIT_FAILED)
}
