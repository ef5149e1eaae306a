//! The engine of Mizuchi Uploadr: its actors, one file each, and beside them the mechanisms that
//! they call. Actors decide, mechanisms do; no mechanism knows actix.
//!
//! An upload's route: the HttpActor (in the gateway crate) asks the [`auth_actor`], hands a job to
//! the [`upload_supervisor`], which spawns a [`part_worker`] for each attempt; that one borrows a
//! connection from an [`s3_client_actor`] and moves the bytes ([`transfer`]). A [`guardian`] at the
//! root of each worker thread's tree rebuilds an actor that died.

pub mod answer;
pub mod auth_actor;
pub mod backend;
pub mod batch;
pub mod blocks;
pub mod certificate;
pub mod claims;
pub mod config;
pub mod delivery_actor;
pub mod form;
pub mod grants;
pub mod guardian;
pub mod http;
pub mod identity;
pub mod jwt;
pub mod metrics;
pub mod origin;
pub mod orphan_sweeper;
pub mod orphans;
pub mod outbound;
pub mod part_worker;
pub mod payload;
pub mod platform;
pub mod policy;
pub mod s3;
pub mod s3_client_actor;
pub mod secret;
pub mod sigv4;
pub mod spool;
pub mod sts;
pub mod tap;
mod tls_io;
pub mod transfer;
pub mod upload;
pub mod upload_supervisor;
