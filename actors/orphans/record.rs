//! What is on record of one upload.

use serde::{Deserialize, Serialize};

/// An upload at the backend. Times are milliseconds since 1970, by this machine's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The client's name of the bucket.
    pub bucket: String,
    /// The key at the backend, prefix included.
    pub key: String,
    /// The backend's id; None while it is not known.
    pub upload_id: Option<String>,
    /// Whose it is.
    pub owner: Owner,
    /// When its Create was sent.
    pub begun: Window,
}

/// Whose an upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The gateway's: a PutObject that goes in parts.
    Gateway,
    /// Nobody's: a Create, whoever asked for it, whose answer was lost.
    Lost,
    /// This principal's.
    Client(String),
}

/// The time in which a Create may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it was sent.
    pub from: u64,
    /// When it was given up.
    pub to: u64,
}
