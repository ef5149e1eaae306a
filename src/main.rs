//! `mizuchi`: the command line of the gateway. Reads; the work is in the library.

use std::process::ExitCode;

// A request of 4 KiB allocates some hundred times: docs/performance.md has what this saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mizuchi::cli::run()
}
