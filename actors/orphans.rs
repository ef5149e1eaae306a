//! Multipart uploads at the backend that somebody must end, and the durable record of them.
//!
//! An upload that the gateway itself began is on record before its Create is sent, and stays there
//! until it was completed or aborted: what a crash leaves behind is aborted after the restart. A
//! Create whose answer was lost may have begun an upload whose id nobody knows: it is found by
//! listing the key ([`lost_ones`]). A client's own uploads are on record only where the bucket asks
//! for it (`upload.list_multipart_uploads`, `upload.client_uploads_ttl`).
//!
//! The state directory belongs to one process (the journal is locked), so whatever stands in it at
//! the start is nobody's.

mod journal;
mod ledger;
mod lost;
mod record;

use std::time::SystemTime;

pub use ledger::{CreateInFlight, Due, Ledger, OwnUpload};
pub use lost::{Listed, lost_ones};
pub use record::{Owner, Record, Window};

/// Milliseconds since 1970, by this machine's clock.
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.ok().and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
