//! `mizuchi upload`: files and folders to any S3, by the gateway's own engine.
//!
//! A walk finds the files ([`walk`], [`manifest`]) and puts them into a bounded queue; worker threads, each
//! with a tree of actors like the gateway's, take them out and send them ([`courier`], [`multipart`]). What is
//! there is written to a state file ([`state`]) before a file counts as sent, so that the same command goes on
//! where it was interrupted, whatever ended it. docs/batch.md is the user's side of it.

mod arguments;
mod courier;
mod destination;
mod digest;
mod failure;
mod filter;
mod local;
mod manifest;
mod multipart;
mod plan;
mod progress;
mod run;
mod state;
mod stream;
mod summary;
mod surroundings;
mod walk;
mod worker;

pub(crate) use arguments::UploadArgs;
pub(crate) use run::run;
