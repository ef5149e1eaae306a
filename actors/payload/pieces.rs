//! Payload in the order it came, as slices of what was read.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Pieces smaller than this are gathered: a client may cut its body into chunks of one byte, and
/// each would cost a write, or pin a whole read buffer where it is kept.
const SMALL_PIECE: usize = 4 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    /// The last of them, while it is gathered.
    small: BytesMut,
}

impl Pieces {
    /// Appends a piece.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < SMALL_PIECE {
            self.small.extend_from_slice(&bytes);
        } else {
            self.end_small();
            self.pieces.push_back(bytes);
        }
    }

    /// Moves all to the end of `to`.
    pub(super) fn move_to(&mut self, to: &mut VecDeque<Bytes>) {
        self.end_small();
        to.append(&mut self.pieces);
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }
}
