//! Mizuchi Uploadr: an upload-only, S3-compatible gateway.
//!
//! This crate is the outside: command line, settings, the HTTP edge, the admin listener. The
//! pipeline's actors and the mechanisms they call are in `mizuchi_actors`.

pub mod admin;
mod audit;
mod authentication;
mod authorizers;
pub mod cli;
mod credentials;
mod development;
#[cfg(feature = "embedded")]
pub mod embedded;
mod engine;
pub mod gateway;
mod host;
pub mod http;
mod logging;
mod presign;
mod probe;
mod reload;
mod seal_key;
pub mod settings;
mod spool;
pub mod tls;
mod upload;
