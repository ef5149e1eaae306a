//! The harness: a gateway process, a backend, a fault proxy between them, and a client that writes
//! exactly the bytes that a test wants.

pub mod authority;
pub mod backend;
pub mod client;
pub mod form;
pub mod gateway;
pub mod h2;
pub mod issuer;
pub mod key_issuer;
pub mod ledger_s3;
pub mod memory_limit;
pub mod opa;
pub mod openfga;
pub mod proxy;
pub mod service;
pub mod streamed;
pub mod tls;

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that any condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a fault is tried: `long` under `make faults-long`, which sets MIZUCHI_LONG.
pub fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("MIZUCHI_LONG").is_some() { long } else { short }
}

/// Polls until the condition holds; panics with `what` when it never does.
pub async fn eventually<F, Fut>(what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes that repeat nowhere in step with pages or chunks.
pub fn payload(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}
