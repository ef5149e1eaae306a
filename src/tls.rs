//! TLS on the gateway's own listeners: the certificates, read again when they change, and the names
//! in those of clients.
//!
//! A listener's whole configuration is made anew when one of its files has changed, and swapped: a
//! connection keeps the one that it began with. What cannot be used is logged and counted, and
//! changes nothing, since a gateway with a good certificate for one more hour is better than none.

mod files;
mod names;
mod reload;

pub use files::{ClientAuth, TlsError, TlsFiles};
pub use names::names;
pub use reload::LiveTls;
