//! HTTP/1.1 as it stands on the wire: the raw request head that every decision reads.

mod framing;
pub mod head;

pub use framing::{Framing, FramingError, expects_continue, framing, wants_close};
pub use head::{HeadError, RequestHead};
