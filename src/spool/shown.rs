//! What is told of a spool, as JSON: the admin listener writes it, `mizuchi spool` reads it.

use bytesize::ByteSize;
use mizuchi_actors::orphans::wall_clock;
use mizuchi_actors::spool::{
    Body, Entry, EntryContent, OpenUpload, Place, Retried, Spool, Verified,
};
use serde::{Deserialize, Serialize};

/// Entries of a page at the most: a key has 1024 bytes, so that a page stays within a few MiB.
pub(crate) const MAX_PAGE: usize = 500;

/// What there is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Uploads that wait for their delivery.
    pub(crate) waiting: u64,
    /// Those that are set aside.
    pub(crate) quarantined: u64,
    /// Both.
    pub(crate) entries: u64,
    /// Bytes of their bodies, and of the parts of open multipart uploads.
    pub(crate) bytes: u64,
    /// Files of both.
    pub(crate) files: u64,
    /// Open multipart uploads.
    #[serde(default)]
    pub(crate) multipart_uploads: u64,
    /// Their parts.
    #[serde(default)]
    pub(crate) multipart_parts: u64,
    /// Bytes of these.
    #[serde(default)]
    pub(crate) multipart_bytes: u64,
    /// How long the oldest has waited.
    pub(crate) oldest_seconds: Option<u64>,
    /// Records that this version cannot read.
    pub(crate) unreadable: u64,
    /// Nothing is acknowledged until a restart.
    pub(crate) latched: bool,
    /// Why.
    pub(crate) latched_reason: Option<String>,
}

/// An entry, in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) number: u64,
    /// Milliseconds since 1970.
    pub(crate) accepted: u64,
    pub(crate) age_seconds: u64,
    pub(crate) bucket: String,
    /// At the backend.
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) quarantined: Option<SetAside>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SetAside {
    pub(crate) reason: String,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// What was written to its key meanwhile: the number of an upload, or words.
    pub(crate) superseded: Option<String>,
}

/// Some of the entries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Row>,
}

/// An open multipart upload, in a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UploadRow {
    pub(crate) number: u64,
    /// Milliseconds since 1970.
    pub(crate) initiated: u64,
    /// Since it was begun or got a part.
    pub(crate) idle_seconds: u64,
    pub(crate) bucket: String,
    /// At the backend.
    pub(crate) key: String,
    pub(crate) parts: u64,
    pub(crate) size: u64,
}

/// Some of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UploadPage {
    pub(crate) uploads: Vec<UploadRow>,
}

/// An entry, whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) row: Row,
    pub(crate) principal: String,
    /// What passes on to the backend; bytes that are no text are replaced.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) bodies: Vec<ShownBody>,
    pub(crate) upload_id: Option<String>,
}

/// Bytes of an entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShownBody {
    /// The number of a client's part.
    pub(crate) part: Option<u16>,
    pub(crate) length: u64,
    /// 32 hexadecimal digits.
    pub(crate) md5: String,
    /// The name of its file; None: it stands in the journal.
    pub(crate) file: Option<String>,
}

/// What became of a retry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum Retry {
    /// It waits for its delivery.
    Waits,
    /// It is not set aside.
    NotSetAside,
    /// It stays set aside: it cannot be delivered.
    Damaged { reason: String },
    /// It stays set aside: a newer one of its key was delivered, or (no number) is on its way.
    Superseded { by: Option<String> },
}

/// What became of a retry of all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RetriedAll {
    /// These wait for their delivery.
    pub(crate) waiting: u64,
    /// These stay set aside: their files are damaged.
    pub(crate) damaged: u64,
    /// These stay set aside: they would be written over what is newer.
    pub(crate) superseded: u64,
}

/// Whether an entry is what was acknowledged.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub(crate) enum Verdict {
    Sound,
    Rotten {
        reason: String,
    },
    /// The disk did not say.
    Io {
        reason: String,
    },
}

impl Summary {
    /// Of this spool, now.
    pub(crate) fn of(spool: &Spool) -> Summary {
        let totals = spool.totals();
        Summary {
            waiting: totals.entries.saturating_sub(totals.quarantined),
            quarantined: totals.quarantined,
            entries: totals.entries,
            bytes: totals.bytes,
            files: totals.files,
            multipart_uploads: totals.uploads,
            multipart_parts: totals.parts,
            multipart_bytes: totals.part_bytes,
            oldest_seconds: totals.oldest.map(age),
            unreadable: totals.unreadable,
            latched: totals.latched,
            latched_reason: spool.latched(),
        }
    }
}

/// Seconds since then.
fn age(accepted: u64) -> u64 {
    wall_clock().saturating_sub(accepted) / 1000
}

impl Row {
    pub(crate) fn of(number: u64, entry: &Entry) -> Row {
        let set_aside = |set_aside: &mizuchi_actors::spool::Quarantine| SetAside {
            reason: set_aside.reason.clone(),
            at: set_aside.at,
            superseded: entry.superseded.map(|newer| newer.to_string()),
        };
        Row {
            number,
            accepted: entry.accepted,
            age_seconds: age(entry.accepted),
            bucket: entry.bucket.clone(),
            key: entry.key.clone(),
            size: entry.length(),
            quarantined: entry.quarantined.as_ref().map(set_aside),
        }
    }
}

impl UploadRow {
    pub(crate) fn of(open: &OpenUpload) -> UploadRow {
        UploadRow {
            number: open.number,
            initiated: open.upload.initiated,
            idle_seconds: age(open.life),
            bucket: open.upload.bucket.clone(),
            key: open.upload.key.clone(),
            parts: open.parts,
            size: open.bytes,
        }
    }
}

impl Record {
    pub(crate) fn of(number: u64, entry: &Entry) -> Record {
        let header = |(name, value): &(String, Vec<u8>)| {
            (name.clone(), String::from_utf8_lossy(value).into_owned())
        };
        let bodies = match &entry.content {
            EntryContent::Whole(body) => vec![ShownBody::of(None, body)],
            EntryContent::Parts(parts) => parts
                .parts
                .iter()
                .map(|part| ShownBody::of(Some(part.number), &part.body))
                .collect(),
        };
        Record {
            row: Row::of(number, entry),
            principal: entry.principal.clone(),
            headers: entry.headers.iter().map(header).collect(),
            bodies,
            upload_id: entry.upload_id.clone(),
        }
    }
}

impl ShownBody {
    fn of(part: Option<u16>, body: &Body) -> ShownBody {
        let file = match body.place {
            Place::Inline => None,
            Place::File(id) => Some(id.to_string()),
        };
        ShownBody { part, length: body.length, md5: body.md5_hex(), file }
    }
}

/// Bytes, for people.
pub(crate) fn size_text(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}

/// The two largest units of a time.
pub(crate) fn age_text(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// An MD5 as it is shown.
pub(crate) fn hex(md5: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(md5))
}

impl Retry {
    /// None: there is no such entry.
    pub(crate) fn of(retried: Retried) -> Option<Retry> {
        match retried {
            Retried::Waits => Some(Retry::Waits),
            Retried::NotSetAside => Some(Retry::NotSetAside),
            Retried::Lame(reason) => Some(Retry::Damaged { reason }),
            Retried::Superseded(by) => Some(Retry::Superseded { by: Some(by.to_string()) }),
            Retried::Overtaken => Some(Retry::Superseded { by: None }),
            Retried::Unknown => None,
        }
    }
}

impl Verdict {
    /// None: there is no such entry.
    pub(crate) fn of(verified: Verified) -> Option<Verdict> {
        match verified {
            Verified::Sound => Some(Verdict::Sound),
            Verified::Rotten(reason) => Some(Verdict::Rotten { reason }),
            Verified::Io(error) => Some(Verdict::Io { reason: error.to_string() }),
            Verified::Unknown => None,
        }
    }
}
