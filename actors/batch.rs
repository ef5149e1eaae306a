//! Many objects in one body: a tar, plain or compressed, whose files become objects (docs/batch.md).
//!
//! The body stands in the spool, whole and verified, before anything comes of it. It is read twice,
//! each time from its beginning and on the blocking pool:
//!
//! ```text
//!  scan     ─▶ Index: of each entry its key, its place, its length, its digests; or why it is refused
//!  (each final key is authorized, by the AuthActor)
//!  publish  ─▶ Bodies: one entry's bytes after the other, through a bounded channel
//! ```
//!
//! So nothing is published of an archive that is damaged, too large or a bomb, and what is held in
//! memory is the index (bounded by `max_entries` and [`MAX_NAMES`]) and the few bodies that are on
//! their way.

mod archive;
mod bodies;
mod done;
mod form;
mod index;
mod input;
mod names;
mod tar;

pub use archive::{Archive, BatchLimits, scan};
pub use bodies::{EntryBody, MEMORY, Produced, produce};
pub use done::{BatchId, DoneBatches, FLUSH_EVERY, OtherContent, RunningBatch};
pub use index::{Entry, Index, MAX_NAMES, Refusal};
pub use names::Prefix;
