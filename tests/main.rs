//! The integration tests: one binary, modules by subject, all through the real `mizuchi` binary
//! over real sockets. The backend is the embedded one, started here, behind a fault proxy.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod streaming;
mod support;
mod tidy;

mod admin;
mod audit;
mod authorization;
mod backend_credentials;
mod backend_faults;
mod backend_matrix;
mod backend_tls;
mod batch;
mod canary;
mod cli;
mod cors;
mod documents;
mod embedded;
mod endpoints;
mod faults;
mod fuzz;
mod host_limits;
mod http;
mod http2;
mod jwks;
mod jwt;
mod listing;
mod logging;
mod long_complete;
mod overload;
mod overwrite_deny;
mod pipeline;
mod post_form;
mod principals;
mod races;
mod replay;
mod scale;
mod secrets;
mod sigv4;
mod splits;
mod spool;
mod spool_faults;
mod tls;
mod upload_cli;
mod write_back;
mod write_back_delivery;
mod write_back_multipart;
