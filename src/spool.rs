//! The operator's side of the spool: `mizuchi spool`, and what the admin listener tells of it.
//!
//! A command is written once, over a [`side::Side`]: of a gateway that does not run the spool is opened
//! where it stands, one that runs is asked at its admin listener.

pub(crate) mod advice;
mod command;
pub(crate) mod local;
mod remote;
pub(crate) mod shown;
mod side;
mod verbs;

pub(crate) use command::{SpoolArgs, run};
