//! What the host allows the gateway, held against what the settings ask of it.
//!
//! Limits that are met only under load are found too late: they are read once, at the start, and
//! by `mizuchi check`. Reading ([`Facts`]) and judging ([`findings`]) are separate.

mod facts;
mod findings;

pub(crate) use facts::Facts;
pub(crate) use findings::{Demand, Finding, findings, summary};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Bytes of a page, as the kernel counts pipes.
const PAGE: u64 = 4096;

/// Connections that may wait for their accept: a burst past it costs each client a second, the
/// first retransmission of its SYN.
pub(crate) const BACKLOG: u32 = 2048;

/// Raises the limit of descriptors to what the process may have without asking anybody: the soft one
/// is for programs that use select(2).
pub(crate) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        log::warn!("the limit of descriptors could not be raised: {error}");
    }
}
