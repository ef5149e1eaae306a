//! The socket tap: the one framer of HTTP/1.
//!
//! actix-web never hands over a socket, and splice(2) needs one. So the HTTP edge puts
//! [`TapStream`] under actix-http: it reads every request's head from the socket itself, keeps the
//! raw bytes, holds the body back, and gives actix a fixed head of its own that names only the
//! request's number on this connection. The request handler takes the raw head and the body with
//! that number ([`TapHandle::take`]) and reads or splices the body straight from the socket.
//!
//! Because actix never sees a byte that a client wrote, there is nothing on which its parser and
//! this one could disagree (request smuggling), whatever the framing, and there is no mode in which
//! the tap stops looking: the next head is scanned when exactly the body's bytes are gone.

mod body;
pub mod chunked;
mod fed;
mod scan;
mod shared;
mod socket;
mod stream;
mod wire;

pub use body::{BodyError, RequestBody};
pub use fed::{Feeder, Unwanted, fed_body};
pub use scan::{HeadProblem, HeadScanner};
pub use shared::{Arrival, Busy, TakeError, TapConfig, TapHandle};
pub use socket::ClientSocket;
pub use stream::TapStream;

/// The header with which a request tells its handler its connection's secret and its number.
pub const TAP_HEADER: &str = "x-mizuchi-tap";
