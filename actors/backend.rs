//! The gateway's own HTTP/1.1 client towards the S3 backend, free of actix.
//!
//! Ready-made clients hide the socket, own the body and decide about retries themselves. Here the
//! part worker splices bodies straight into the [`Connection`]'s socket, must notice a refusal in
//! the middle of a body, and must know for every failure how far the request had come: whether it
//! may be sent again hangs on that. So a connection is a plain socket (or a TLS session over one)
//! with a strict, bounded reader of answers, and pooling ([`IdlePool`]), names ([`Resolver`]) and health
//! ([`EndpointHealth`], [`RetryBudget`]) are separate policies that take the time as an argument.

mod body;
mod connection;
mod delivery;
mod endpoint;
mod error;
mod health;
mod pieces;
mod pool;
mod resolve;
mod response;
mod tls;
mod transport;
mod trust;

pub use body::BodyReader;
pub use connection::{Connection, Response};
pub use endpoint::{Endpoint, EndpointError, is_host, split_authority};
pub use error::{BackendError, Stage};
pub use health::{EndpointHealth, RetryBudget, pick_endpoint};
pub use pool::IdlePool;
pub use resolve::Resolver;
pub use response::{BodyFraming, MAX_RESPONSE_HEAD, MAX_RESPONSE_HEADERS};
pub use response::{ResponseError, ResponseHead};
pub use trust::{Authorities, TlsClient, TrustError};
