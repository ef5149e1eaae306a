//! One upload, from its job to its end: the pure state machine that decides, and the data that the
//! supervisor holds for it. `upload/LIFECYCLE.md` draws the states.

pub mod job;
pub mod machine;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod model;
pub mod parts;
pub mod prepare;
mod restart;
pub mod split;
pub mod split_requests;

pub use restart::{RestartLog, RestartPolicy};
