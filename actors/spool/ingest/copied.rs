//! A body that comes from here: an entry of an archive, unpacked into a file of its own.

use super::draft::Draft;
use super::{BATCH, disk_failed, lane_failed, lanes::LaneError};
use crate::s3::error::S3Error;
use crate::spool::{Reservation, Spool};
use bytes::{Bytes, BytesMut};
use std::io::{self, Read};
use std::sync::Arc;

/// Makes a body of exactly `length` bytes of what is read. `durable`: it is on stable storage then, as the
/// body of an entry must be. Blocks.
///
/// Errors: 503 SlowDown and ServiceUnavailable, as [`super::ingest`].
pub fn stored_from(
    spool: &Arc<Spool>,
    from: &mut dyn Read,
    length: u64,
    durable: bool,
) -> Result<(Draft, Reservation), S3Error> {
    let mut reservation = spool.reserve(length)?;
    let failed = |error: io::Error| disk_failed(&error);
    let mut draft = Draft::create(Arc::clone(spool), Some(length)).map_err(failed)?;
    reservation.placed(length);
    let mut left = length;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
        let mut batch = BytesMut::zeroed(most);
        from.read_exact(&mut batch).map_err(failed)?;
        draft.append(&[Bytes::from(batch)]).map_err(failed)?;
        left -= most as u64;
    }
    if durable {
        draft.sync().map_err(|_| lane_failed(LaneError::Sync))?;
    }
    Ok((draft, reservation))
}
