//! A small security token service: a JSON Web Token in, temporary credentials out, so that an SDK
//! that knows nothing of tokens (`AWS_WEB_IDENTITY_TOKEN_FILE`) uploads with one.

mod query;
mod service;

pub use query::{AssumeRole, MAX_REQUEST, StsError};
pub use service::{Assumed, Sts};
