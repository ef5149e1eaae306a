//! `make bench`: the gateway's CPU seconds per GB with splice and with copy, in one run, alternating;
//! then the latency of 1, 10 and 50 MB PUTs on both paths and straight to the sink.
//!
//! Absolute figures drift with the machine; the ratio between two paths measured in turn does not.
//! Then what authentication costs a 4 KiB PUT, beside a gateway that asks nobody.
//!
//! A round in which the host took more than 8 % of the time away (steal) is made again.
//!
//! MIZUCHI_BENCH_ROUNDS (5) and MIZUCHI_BENCH_SIZE (bytes, 1 GiB) make it shorter.

mod gateway;
mod load;
mod sink;

use gateway::{Gateway, Options};
use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Share of stolen time above which a round does not count.
const MAX_STEAL: f64 = 0.08;
/// How often one round is made again for it.
const MAX_REPEATS: usize = 3;
/// Clients that never finish, beside a bystander.
const SLOW_CLIENTS: usize = 5000;
/// The bystander's requests.
const BYSTANDER_REQUESTS: usize = 1000;
/// 4 KiB requests of one round.
const SMALL_REQUESTS: usize = 5000;
/// Requests of one latency cell.
const LATENCY_REQUESTS: usize = 40;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One measured round.
struct Round {
    cpu_per_gb: f64,
    gb_per_second: f64,
}

fn round(gateway: &Gateway, size: u64) -> Result<Round> {
    for repeat in 0.. {
        let (steal, total) = stolen()?;
        let cpu = gateway.cpu_seconds()?;
        let started = Instant::now();
        load::put(gateway.address, size, 1)?;
        let wall = started.elapsed().as_secs_f64();
        let cpu = gateway.cpu_seconds()? - cpu;
        let (steal_after, total_after) = stolen()?;
        let share = (steal_after - steal) / (total_after - total).max(1.0);
        if share <= MAX_STEAL || repeat == MAX_REPEATS {
            let gb = size as f64 / 1e9;
            return Ok(Round { cpu_per_gb: cpu / gb, gb_per_second: gb / wall });
        }
        eprintln!("  {:.0} % of the time was stolen: again", share * 100.0);
    }
    Err("no round".into())
}

/// Stolen and all time of the machine so far, in ticks (proc(5), /proc/stat).
fn stolen() -> Result<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().ok_or("/proc/stat is empty")?;
    let ticks: Vec<f64> =
        line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    Ok((ticks.last().copied().unwrap_or(0.0), ticks.iter().sum()))
}

/// Minimum, median, maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

fn latencies(address: SocketAddr, size: u64) -> Result<(f64, f64)> {
    let mut times = Vec::new();
    for _ in 0..LATENCY_REQUESTS {
        times.push(load::put(address, size, 1)?.as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied();
    Ok((at(0.5).unwrap_or(f64::NAN), at(0.99).unwrap_or(f64::NAN)))
}

fn main() -> Result<()> {
    let rounds = setting("MIZUCHI_BENCH_ROUNDS", 5) as usize;
    let size = setting("MIZUCHI_BENCH_SIZE", 1 << 30);
    let sink = sink::start()?;
    let splice = Gateway::start(sink, Options { splice: true, auth: true })?;
    let copy = Gateway::start(sink, Options { splice: false, auth: true })?;
    load::put(splice.address, size, 1)?;
    load::put(copy.address, size, 1)?;
    let (mut spliced, mut copied) = (Vec::new(), Vec::new());
    for number in 1..=rounds {
        eprintln!("round {number} of {rounds}: {size} bytes by splice, then by copy");
        spliced.push(round(&splice, size)?);
        copied.push(round(&copy, size)?);
    }
    println!("\n## CPU per GB, PUT of {size} bytes, one connection, {rounds} alternating rounds\n");
    println!("{}", machine()?);
    println!("| path | CPU s/GB: median (min–max) | GB/s: median (min–max) | peak RSS MiB |");
    println!("|---|---|---|---|");
    for (name, cells, gateway) in [("splice + replay", &spliced, &splice), ("copy", &copied, &copy)]
    {
        let cpu = spread(cells.iter().map(|round| round.cpu_per_gb).collect());
        let speed = spread(cells.iter().map(|round| round.gb_per_second).collect());
        println!(
            "| {name} | {:.3} ({:.3}–{:.3}) | {:.2} ({:.2}–{:.2}) | {} |",
            cpu.1,
            cpu.0,
            cpu.2,
            speed.1,
            speed.0,
            speed.2,
            gateway.peak_rss_mib()?
        );
    }
    let ratios = spliced.iter().zip(&copied).map(|(one, other)| one.cpu_per_gb / other.cpu_per_gb);
    let ratio = spread(ratios.collect());
    println!("\nsplice / copy, pair by pair: {:.2} ({:.2}–{:.2})", ratio.1, ratio.0, ratio.2);

    println!("\n## Latency, {LATENCY_REQUESTS} PUTs each, milliseconds p50 / p99\n");
    println!("| size | direct | splice | copy |\n|---|---|---|---|");
    for megabytes in [1, 10, 50] {
        let size = megabytes * 1_000_000;
        let cell =
            |address| latencies(address, size).map(|(p50, p99)| format!("{p50:.2} / {p99:.2}"));
        println!(
            "| {megabytes} MB | {} | {} | {} |",
            cell(sink)?,
            cell(splice.address)?,
            cell(copy.address)?
        );
    }
    bystander(splice.address)?;
    drop(copy);
    let open = Gateway::start(sink, Options { splice: true, auth: false })?;
    authentication(&splice, &open, rounds)
}

/// The CPU time of a 4 KiB PUT, verified and re-signed, beside one that is only signed again.
fn authentication(verifying: &Gateway, open: &Gateway, rounds: usize) -> Result<()> {
    println!("\n## CPU per 4 KiB PUT, {SMALL_REQUESTS} on one connection, {rounds} rounds\n");
    println!("| auth | µs: median (min–max) |\n|---|---|");
    let measure = |gateway: &Gateway| -> Result<f64> {
        let cpu = gateway.cpu_seconds()?;
        load::put(gateway.address, 4096, SMALL_REQUESTS)?;
        Ok((gateway.cpu_seconds()? - cpu) * 1e6 / SMALL_REQUESTS as f64)
    };
    measure(verifying)?;
    measure(open)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        with.push(measure(verifying)?);
        without.push(measure(open)?);
    }
    let ratio = spread(with.iter().zip(&without).map(|(one, other)| one / other).collect());
    for (name, cells) in [("SigV4", with), ("enabled: false", without)] {
        let (least, median, most) = spread(cells);
        println!("| {name} | {median:.0} ({least:.0}–{most:.0}) |");
    }
    println!("\nSigV4 / none, pair by pair: {:.2} ({:.2}–{:.2})", ratio.1, ratio.0, ratio.2);
    Ok(())
}

/// R17: what 5,000 slow clients cost a bystander.
fn bystander(address: SocketAddr) -> Result<()> {
    println!("\n## A bystander's 4 KiB PUTs, {BYSTANDER_REQUESTS} each, milliseconds p50 / p99\n");
    println!("| alone | beside {SLOW_CLIENTS} slow clients | p99, ratio |\n|---|---|---|");
    let measure = || -> Result<(f64, f64)> {
        let mut times = Vec::new();
        for _ in 0..BYSTANDER_REQUESTS {
            times.push(load::put(address, 4096, 1)?.as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(f64::NAN);
        Ok((at(50), at(99)))
    };
    measure()?;
    let alone = measure()?;
    let slow = load::slow_clients(address, SLOW_CLIENTS)?;
    let beside = measure()?;
    drop(slow);
    println!(
        "| {:.2} / {:.2} | {:.2} / {:.2} | {:.2} |",
        alone.0,
        alone.1,
        beside.0,
        beside.1,
        beside.1 / alone.1
    );
    Ok(())
}

fn machine() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name))
        .unwrap_or("unknown");
    let cores = std::thread::available_parallelism()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{model}, {cores} cores, Linux {}; `make bench`\n", kernel.trim()))
}

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
