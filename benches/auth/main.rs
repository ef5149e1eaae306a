//! `cargo bench --bench auth`: what each way to know and to judge a client costs, as a ratio to the
//! cryptography that it cannot do without, or to another way, in one run.

mod jwt;
mod policy;
mod sigv4;

use criterion::Criterion;
use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What is compared: one measurement, the one it is held against, and the ratio to stay under.
const RATIOS: [(&str, &str, f64); 3] = [
    ("sigv4/verify", "sigv4/bare", 3.0),
    ("jwt/verify_hs256", "jwt/bare", 3.0),
    ("policy/cached", "sigv4/verify", 0.2),
];

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    sigv4::measure(&mut criterion)?;
    jwt::measure(&mut criterion)?;
    policy::measure(&mut criterion)?;
    criterion.final_summary();
    println!("\n| what | beside | ratio | goal |\n|---|---|---|---|");
    for (one, other, goal) in RATIOS {
        let ratio = median(one)? / median(other)?;
        println!("| {one} | {other} | {ratio:.2} | ≤ {goal} |");
    }
    Ok(())
}

/// What a future gives that has nothing to wait for; None: it waits. A request's own task polls it so:
/// entering a runtime is no part of the cost.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// The median that criterion has just written down, nanoseconds.
fn median(name: &str) -> Result<f64> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("no target folder")?;
    let file = target.join("criterion").join(name).join("new/estimates.json");
    let text =
        std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text)?;
    Ok(estimates["median"]["point_estimate"].as_f64().ok_or("no median")?)
}
