//! The HTTP edge: accepts connections, puts the tap under actix-http, and hands each request to
//! its worker's [`HttpActor`], which takes it through authentication to the upload's supervisor.

mod access_log;
mod audit_lines;
mod batch;
mod document;
mod edge;
mod h2;
mod http_actor;
mod later;
mod long_complete;
mod post_form;
mod proxies;
mod render;
mod reply;
mod request;
mod route;
mod sts;
mod write_back;

pub use access_log::Format as AccessLogFormat;
pub use edge::{Edge, EdgeTls, service};
pub use http_actor::HttpActor;
pub use proxies::Proxies;
pub use route::{Admission, Route};
