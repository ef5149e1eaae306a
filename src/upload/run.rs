//! The whole of a run: what was asked for, the threads that do it, and what it ends with.

use super::arguments::UploadArgs;
use super::courier::{Stop, Upload};
use super::destination::Destination;
use super::manifest;
use super::plan::{Found, Item, Plan, STREAM, Sources};
use super::progress::{Event, Reporter, Shown, Style};
use super::state::{Fingerprint, Known, State, default_path};
use super::summary::{Counts, Summary, add};
use super::walk;
use super::worker::{self, Work};
use crate::credentials::BackendCredentials;
use crate::host;
use mizuchi_actors::metrics::Metrics;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, watch};

/// Something is not there.
const EXIT_FAILED: u8 = 1;
/// sysexits(3), EX_USAGE.
const EXIT_USAGE: u8 = 64;
/// As a shell has it of a program that SIGINT has ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Files that have been found and wait to be sent.
const QUEUE: usize = 4096;

/// Worker threads at the most: one fills a network of 10 Gbit/s.
const MAX_WORKERS: usize = 4;

/// Runs `mizuchi upload`; the exit status is the process's.
pub(crate) fn run(args: &UploadArgs) -> ExitCode {
    let _log = crate::logging::start(
        if args.verbose { "warn" } else { "error" },
        crate::http::AccessLogFormat::Text,
    );
    let ended = prepare(args)
        .and_then(|plan| if args.dry_run { dry_run(args, &plan) } else { upload(args, plan) });
    ended.unwrap_or_else(|problem| {
        eprintln!("upload: {problem}");
        EXIT_USAGE.into()
    })
}

/// What was asked for, as far as it can be known without the backend.
fn prepare(args: &UploadArgs) -> Result<Plan, String> {
    let plan = Plan::new(args)?;
    if let Sources::Manifest(list, prefix) = &plan.sources {
        manifest::validate(list, prefix)
            .map_err(|errors| format!("{} is not sent:\n{}", list.display(), errors.join("\n")))?;
    }
    Ok(plan)
}

fn style(args: &UploadArgs) -> Style {
    Style { json: args.json, quiet: args.quiet, progress: !args.quiet }
}

fn threads(error: io::Error) -> String {
    format!("a thread cannot be had: {error}")
}

fn state_path(args: &UploadArgs, identity: &str) -> Result<PathBuf, String> {
    match &args.resume {
        Some(Some(path)) => Ok(path.clone()),
        _ => default_path(identity),
    }
}

fn skipped(counts: &Counts, path: &Path, why: String) -> Event {
    add(&counts.skipped, 1);
    Event::Skipped { path: Shown::from(path), why }
}

fn failed(counts: &Counts, path: &Path, why: String) -> Event {
    add(&counts.failed, 1);
    Event::Failed { path: Shown::from(path), key: None, code: None, why }
}

/// Shows `see` all that is to be sent.
fn find(plan: &Plan, see: impl FnMut(Found) -> ControlFlow<()>) -> ControlFlow<()> {
    match &plan.sources {
        Sources::Roots(roots) => walk::walk(plan, roots, see),
        Sources::Manifest(list, prefix) => manifest::rows(list, prefix, see),
        Sources::Stream(_) => ControlFlow::Continue(()),
    }
}

fn dry_run(args: &UploadArgs, plan: &Plan) -> Result<ExitCode, String> {
    if matches!(plan.sources, Sources::Stream(_)) {
        return Err("--dry-run: nothing is known of standard input".to_owned());
    }
    let began = Instant::now();
    let destination = actix_web::rt::System::new().block_on(Destination::find(args, &plan.to))?;
    let identity = plan.identity(&destination.endpoint.to_string());
    let path = state_path(args, &identity)?;
    let known = if args.fresh { Known::default() } else { State::look(&path, &identity)? };
    let counts = Arc::new(Counts::default());
    let style = Style { progress: false, ..style(args) };
    let (reporter, events) = Reporter::start(style, Arc::clone(&counts)).map_err(threads)?;
    let _ = find(plan, |found| {
        let event = match found {
            Found::File(item, stamp) if known.done.has(&Fingerprint::of(&item, stamp)) => {
                add(&counts.already, 1);
                return ControlFlow::Continue(());
            }
            Found::File(Item { path, key, .. }, stamp) => {
                add(&counts.all, 1);
                add(&counts.all_bytes, stamp.length);
                let (path, bucket) = (Shown::from(&*path), plan.to.bucket.clone());
                Event::WouldUpload { path, key, bytes: stamp.length, bucket }
            }
            Found::Skipped(path, why) => skipped(&counts, &path, why),
            Found::Failed(path, why) => failed(&counts, &path, why),
        };
        match events.blocking_send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let summary = Summary::dry(&counts, began.elapsed());
    let code = if summary.failed == 0 { 0 } else { EXIT_FAILED };
    // Nobody is left to tell that nobody reads.
    let _ = events.blocking_send(Event::Summary(summary));
    drop(events);
    reporter.finish();
    Ok(code.into())
}

/// So aws-config says that nobody has signed in to IAM Identity Center: there is nothing in its cache, or it
/// has ended, or Identity Center has ended it.
const SIGNED_OUT: [&str; 3] = ["/sso/cache/", "SSO token", "UnauthorizedException"];

/// Why there are no credentials, and what helps where somebody has to sign in first, or a profile has some
/// that are not fetched here.
fn with_advice(why: &str, profile: Option<&str>) -> String {
    let why = why.trim_end_matches('.');
    let of_profile = profile.map(|name| format!(" --profile {name}")).unwrap_or_default();
    // So aws-config names what it was built without.
    if why.contains("cargo feature") {
        return format!(
            "{why}; try `eval \"$(aws configure export-credentials --format env{of_profile})\"`, then this \
             command without --profile"
        );
    }
    if SIGNED_OUT.iter().any(|words| why.contains(words)) {
        return format!("{why}; try `aws sso login{of_profile}`");
    }
    match profile {
        Some(_) => why.to_owned(),
        None => format!("{why}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or say --profile"),
    }
}

fn upload(args: &UploadArgs, plan: Plan) -> Result<ExitCode, String> {
    host::raise_descriptors();
    actix_web::rt::System::new().block_on(async move {
        let destination = Destination::find(args, &plan.to).await?;
        let identity = plan.identity(&destination.endpoint.to_string());
        let metrics = Metrics::new().map_err(|error| error.to_string())?;
        let mut credentials = BackendCredentials::new(None);
        let keys = credentials.of_chain(args.profile.as_deref(), &destination.region).await;
        let keys = keys.map_err(|why| with_advice(&why, args.profile.as_deref()))?;
        let path = state_path(args, &identity)?;
        let (state, known) = State::open(&path, &identity, args.fresh)?;
        let was_empty = known.is_empty();
        let taken_before = !known.done.is_empty()
            || known.begun.values().flatten().any(|begun| !begun.parts.is_empty());
        let counts = Arc::new(Counts::default());
        let (reporter, events) =
            Reporter::start(style(args), Arc::clone(&counts)).map_err(threads)?;
        let lanes = usize::from(args.concurrency);
        let engine = Arc::new(destination.engine(keys, metrics, lanes));
        let bucket = engine.buckets.first().cloned().ok_or("there is no bucket")?;
        let (items, queue) = mpsc::channel(QUEUE);
        let upload = Arc::new(Upload {
            engine,
            bucket,
            checksum: args.checksum,
            part_size: args.part_size,
            retries: args.retries,
            lanes: Arc::new(Semaphore::new(lanes)),
            queue: tokio::sync::Mutex::new(queue),
            state: state.writer().ok_or("the state file is closed")?,
            done: known.done,
            begun: Mutex::new(known.begun),
            creating: known.creating,
            events,
            counts,
            stop: watch::Sender::new(Stop::No),
            taken_before,
            any_success: AtomicBool::new(false),
            dry: AtomicU32::new(0),
            forbidden: AtomicU32::new(0),
            left_behind: AtomicU64::new(0),
        });
        let signals = heed(Arc::downgrade(&upload)).map_err(threads)?;
        let stream = matches!(plan.sources, Sources::Stream(_));
        let summary = run_threads(args, plan, Arc::clone(&upload), items).await;
        let summary = summary.map_err(threads)?;
        let code = match (&summary.ended_by, summary.failed, summary.interrupted) {
            (Some(_), ..) => EXIT_FAILED,
            (None, _, true) => EXIT_INTERRUPTED,
            (None, 0, false) => 0,
            (None, _, false) => EXIT_FAILED,
        };
        // Nothing that the next run could go on with.
        let nothing = was_empty && (stream || !upload.any_success.load(Ordering::Relaxed));
        let left_behind = upload.left_behind.load(Ordering::Relaxed) > 0;
        let remove = (code == 0 && !args.keep_state || nothing) && !left_behind;
        if (code != 0 || left_behind) && !args.quiet && !remove {
            let goes_on = if code == 0 { "aborts what is left" } else { "goes on" };
            let text = format!("the same command {goes_on}: {}", state.path().display());
            upload.say(Event::Note { text }).await;
        }
        upload.say(Event::Summary(summary)).await;
        drop(upload);
        let closed = tokio::task::spawn_blocking(move || {
            reporter.finish();
            state.close(remove)
        });
        if let Err(error) = closed.await.map_err(io::Error::other).flatten() {
            eprintln!("upload: the state file: {error}");
        }
        signals.abort();
        drop(credentials);
        Ok(code.into())
    })
}

/// Ends the run at the first SIGINT or SIGTERM, and the process at the second; also while the last words are
/// written, which may take as long as their reader.
fn heed(upload: Weak<Upload>) -> io::Result<tokio::task::JoinHandle<()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::spawn(async move {
        let mut asked = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let Some(upload) = upload.upgrade().filter(|_| !asked) else {
                // What is written stays written; what is under way is sent again.
                std::process::exit(EXIT_INTERRUPTED.into());
            };
            asked = true;
            upload.end(Stop::Interrupted);
            let text = "ending what is under way; once more ends at once".to_owned();
            // Never waits: whoever reads may be what was interrupted.
            let _ = upload.events.try_send(Event::Note { text });
        }
    }))
}

/// Starts the threads, and waits for them.
async fn run_threads(
    args: &UploadArgs,
    plan: Plan,
    upload: Arc<Upload>,
    items: mpsc::Sender<Item>,
) -> io::Result<Summary> {
    let began = Instant::now();
    let fresh =
        args.fresh.then(|| upload.begun.lock().map(|mut begun| std::mem::take(&mut *begun)));
    let threads = if let Sources::Stream(key) = &plan.sources {
        let (path, key) = (PathBuf::from(STREAM), key.clone());
        let item = Item { path, key, headers: Arc::default(), no_link: false };
        add(&upload.counts.all, 1);
        vec![worker::start(Arc::clone(&upload), Work::Stream(item))?]
    } else {
        threads_for_files(args, plan, &upload, items)?
    };
    if join(threads).await.is_err() {
        upload.end(Stop::Failed("a thread died".to_owned()));
    }
    if let Some(Ok(left)) = fresh
        && let Ok(mut begun) = upload.begun.lock()
    {
        begun.extend(left);
    }
    let left =
        upload.begun.lock().is_ok_and(|begun| !begun.is_empty()) || !upload.creating.is_empty();
    let whole = !upload.is_stopped() && upload.counts.failed.load(Ordering::Relaxed) == 0;
    if whole && left {
        let sweeping = join(vec![worker::start(Arc::clone(&upload), Work::Leftovers)?]);
        // Nothing of it is in the way of the files' being there.
        let _ = sweeping.await;
    }
    let mut summary = Summary::new(&upload.counts, began.elapsed());
    match &*upload.stop.borrow() {
        Stop::No => {}
        Stop::Interrupted => summary.interrupted = true,
        Stop::Failed(why) => summary.ended_by = Some(why.clone()),
    }
    Ok(summary)
}

/// Starts those that find the files, and those that send them.
fn threads_for_files(
    args: &UploadArgs,
    plan: Plan,
    upload: &Arc<Upload>,
    items: mpsc::Sender<Item>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let plan = Arc::new(plan);
    let mut threads = Vec::new();
    if !args.quiet {
        let (plan, upload) = (Arc::clone(&plan), Arc::clone(upload));
        threads.push(named("upload count", move || count(&plan, &upload))?);
    }
    let of_walk = Arc::clone(upload);
    threads.push(named("upload walk", move || feed(&plan, &of_walk, &items))?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..cores.min(MAX_WORKERS).min(usize::from(args.concurrency)) {
        threads.push(worker::start(Arc::clone(upload), Work::Files)?);
    }
    Ok(threads)
}

fn named(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Ends when all threads have. Err: one has panicked.
fn join(threads: Vec<JoinHandle<()>>) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        let died = threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        assert!(died == 0, "{died} threads died");
    })
}

/// Puts all files that are not there into the queue. Blocks.
fn feed(plan: &Plan, upload: &Upload, items: &mpsc::Sender<Item>) {
    let counts = &upload.counts;
    // Nobody takes any more out: the run ends.
    let _ = find(plan, |found| {
        let event = match found {
            Found::File(item, stamp) => {
                if upload.done.has(&Fingerprint::of(&item, stamp)) {
                    add(&counts.already, 1);
                    add(&counts.already_bytes, stamp.length);
                    return if upload.is_stopped() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    };
                }
                return match items.blocking_send(item) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                };
            }
            Found::Skipped(path, why) => skipped(counts, &path, why),
            Found::Failed(path, why) => failed(counts, &path, why),
        };
        match upload.events.blocking_send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
}

/// Counts all that there is, ahead of those who send it. Blocks.
fn count(plan: &Plan, upload: &Upload) {
    let counts = &upload.counts;
    let _ = find(plan, |found| {
        if let Found::File(_, stamp) = found {
            add(&counts.all, 1);
            add(&counts.all_bytes, stamp.length);
        }
        if upload.is_stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    counts.counted.store(true, Ordering::Release);
}
