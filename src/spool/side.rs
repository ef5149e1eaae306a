//! Where a command finds the spool.

use super::local::Local;
use super::remote::{Credentials, Remote, RemoteBody};
use super::shown::{Record, RetriedAll, Retry, Row, Summary, UploadRow, Verdict};
use crate::settings::Settings;
use bytes::Bytes;
use mizuchi_actors::spool::Blocks;
use std::io;

/// Why a command cannot do what it should.
#[derive(Debug)]
pub(super) enum Problem {
    /// The command itself is wrong.
    Usage(String),
    /// Neither the spool nor its gateway can be had.
    Unreachable(String),
    /// Something is wrong with the spool.
    Spool(String),
    /// Standard output is gone: nobody wants to know more.
    Closed,
}

/// The spool, from one side or the other.
pub(super) enum Side {
    /// The gateway does not run.
    Stopped(Local),
    /// It does.
    Running(Remote),
}

/// An entry's bytes, from one side or the other.
pub(super) enum Bodies {
    Stopped(Blocks),
    Running(RemoteBody),
}

impl Side {
    /// Finds the spool of these settings.
    pub(super) fn find(settings: &Settings, own: Credentials) -> Result<Side, Problem> {
        match Local::open(&settings.spool) {
            Ok(local) => Ok(Side::Stopped(local)),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                Remote::new(&settings.admin, own).map(Side::Running)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Problem::Spool(error.to_string()))
            }
            Err(error) => Err(Problem::Unreachable(error.to_string())),
        }
    }

    pub(super) async fn summary(&self) -> Result<Summary, Problem> {
        match self {
            Side::Stopped(local) => Ok(local.summary()),
            Side::Running(remote) => remote.summary().await,
        }
    }

    /// The next entries with greater numbers than `after`; empty: there are none.
    pub(super) async fn page(&self, after: u64, most: usize) -> Result<Vec<Row>, Problem> {
        match self {
            Side::Stopped(local) => Ok(local.page(after, most)),
            Side::Running(remote) => remote.page(after, most).await,
        }
    }

    /// The next open multipart uploads with greater numbers than `after`; empty: there are none.
    pub(super) async fn uploads(&self, after: u64, most: usize) -> Result<Vec<UploadRow>, Problem> {
        match self {
            Side::Stopped(local) => Ok(local.uploads(after, most)),
            Side::Running(remote) => remote.uploads(after, most).await,
        }
    }

    /// None: there is no such upload.
    pub(super) async fn verify_upload(&self, number: u64) -> Result<Option<Verdict>, Problem> {
        match self {
            Side::Stopped(local) => Ok(local.verify_upload(number, || {}).await),
            Side::Running(remote) => remote.verify_upload(number).await,
        }
    }

    /// None: there is no such entry, as below.
    pub(super) async fn record(&self, number: u64) -> Result<Option<Record>, Problem> {
        match self {
            Side::Stopped(local) => Ok(local.record(number)),
            Side::Running(remote) => remote.record(number).await,
        }
    }

    pub(super) async fn bodies(&self, number: u64) -> Result<Option<Bodies>, Problem> {
        match self {
            Side::Stopped(local) => {
                let blocks = local.body(number).await.map_err(failed)?;
                Ok(blocks.map(Bodies::Stopped))
            }
            Side::Running(remote) => Ok(remote.body(number).await?.map(Bodies::Running)),
        }
    }

    pub(super) async fn retry(&self, number: u64, force: bool) -> Result<Option<Retry>, Problem> {
        match self {
            Side::Stopped(local) => local.retry(number, force).await.map_err(failed),
            Side::Running(remote) => remote.retry(number, force).await,
        }
    }

    pub(super) async fn retry_all(&self, force: bool) -> Result<RetriedAll, Problem> {
        match self {
            Side::Stopped(local) => local.retry_all(force, || {}).await.map_err(failed),
            Side::Running(remote) => remote.retry_all(force).await,
        }
    }

    pub(super) async fn verify(&self, number: u64) -> Result<Option<Verdict>, Problem> {
        match self {
            Side::Stopped(local) => Ok(local.verify(number, || {}).await),
            Side::Running(remote) => remote.verify(number).await,
        }
    }

    /// Whether somebody delivers.
    pub(super) fn delivers(&self) -> bool {
        matches!(self, Side::Running(_))
    }
}

impl Bodies {
    /// The next bytes; None: that was all.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self {
            Bodies::Stopped(blocks) => blocks.next().await.map_err(failed),
            Bodies::Running(body) => body.next().await,
        }
    }
}

fn failed(error: io::Error) -> Problem {
    Problem::Spool(error.to_string())
}
