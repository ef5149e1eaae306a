//! `mizuchi`: the command line of the gateway. Reads; the work is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mizuchi::cli::run()
}
