//! `server.tls` and `admin.tls`: the certificates of the gateway's own listeners.

use super::backend::Surroundings;
use super::section::Section;
use super::values::{boolean, choice, duration, path};
use crate::tls::{ClientAuth, TlsFiles};
use config::{Value, ValueKind};
use std::path::PathBuf;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

/// The longest handshake: each holds one of `server.max_connections`.
const MAX_HANDSHAKE: Duration = Duration::from_secs(300);

const CLIENT_AUTH: &[(&str, ClientAuth)] = &[
    ("off", ClientAuth::Off),
    ("optional", ClientAuth::Optional),
    ("required", ClientAuth::Required),
];

/// `server.tls`: the listener's, if there is a certificate.
#[derive(Debug, Clone)]
pub(super) struct ReadTls {
    pub(super) tls: Option<TlsFiles>,
    pub(super) handshake_timeout: Duration,
}

/// Reads `server.tls`. The files are read here, so that `mizuchi check` finds what is wrong with them.
pub(super) fn read(s: &mut Section<'_>, surroundings: &Surroundings<'_>) -> Option<ReadTls> {
    let only_tls13 = s.required("min_version", version);
    let http2 = s.required("http2", boolean);
    let client_auth = s.required("client_auth", choice(CLIENT_AUTH));
    let handshake_timeout = s.required("handshake_timeout", duration(SECOND..=MAX_HANDSHAKE));
    let files = read_files(s);
    let (client_auth, files) = (client_auth?, files?);
    let handshake_timeout = handshake_timeout?;
    match (client_auth, files.client_ca_files.is_empty()) {
        (ClientAuth::Off, false) => {
            s.findings().warn(&s.key("client_ca_file"), "has no effect: client_auth is off");
        }
        (ClientAuth::Optional | ClientAuth::Required, true) => {
            s.fail("client_ca_file", "must be set: client_auth asks for certificates of somebody");
            return None;
        }
        _ => {}
    }
    let Some((cert_file, key_file)) = files.pair else {
        if client_auth != ClientAuth::Off {
            s.fail("cert_file", "must be set: client_auth needs TLS");
            return None;
        }
        return Some(ReadTls { tls: None, handshake_timeout });
    };
    let client_ca_files = match client_auth {
        ClientAuth::Off => Vec::new(),
        ClientAuth::Optional | ClientAuth::Required => files.client_ca_files,
    };
    let (only_tls13, http2) = (only_tls13?, http2?);
    let files = TlsFiles { cert_file, key_file, client_ca_files, client_auth, only_tls13, http2 };
    let files = check(s, files, surroundings)?;
    Some(ReadTls { tls: Some(files), handshake_timeout })
}

/// Reads `admin.tls`: HTTP/1.1 alone, and who has a certificate shows it.
pub(super) fn read_admin(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<Option<TlsFiles>> {
    let files = read_files(s)?;
    let Some((cert_file, key_file)) = files.pair else {
        if !files.client_ca_files.is_empty() {
            s.fail("cert_file", "must be set: client certificates need TLS");
            return None;
        }
        return Some(None);
    };
    let client_auth = match files.client_ca_files.is_empty() {
        true => ClientAuth::Off,
        false => ClientAuth::Optional,
    };
    let files = TlsFiles {
        cert_file,
        key_file,
        client_ca_files: files.client_ca_files,
        client_auth,
        only_tls13: false,
        http2: false,
    };
    check(s, files, surroundings).map(Some)
}

struct Files {
    pair: Option<(PathBuf, PathBuf)>,
    client_ca_files: Vec<PathBuf>,
}

fn read_files(s: &mut Section<'_>) -> Option<Files> {
    let cert_file = s.optional("cert_file", path);
    let key_file = s.optional("key_file", path);
    let client_ca_files = s.list("client_ca_file", path);
    let pair = match (cert_file?, key_file?) {
        (Some(cert_file), Some(key_file)) => Some((cert_file, key_file)),
        (None, None) => None,
        (Some(_), None) => {
            s.fail("key_file", "must be set too, since cert_file is set");
            return None;
        }
        (None, Some(_)) => {
            s.fail("cert_file", "must be set too, since key_file is set");
            return None;
        }
    };
    Some(Files { pair, client_ca_files: client_ca_files? })
}

fn check(
    s: &mut Section<'_>,
    files: TlsFiles,
    surroundings: &Surroundings<'_>,
) -> Option<TlsFiles> {
    match files.check(surroundings.read) {
        Ok(()) => Some(files),
        Err(error) => {
            s.fail(error.key, format!("`{}` {}", error.file.display(), error.problem));
            None
        }
    }
}

/// Whether TLS 1.2 is refused. YAML reads 1.2 without quotes as a number.
fn version(value: &Value) -> Result<bool, String> {
    let text = match &value.kind {
        ValueKind::String(text) => text.clone(),
        ValueKind::Float(number) => number.to_string(),
        _ => String::new(),
    };
    match text.as_str() {
        "1.2" => Ok(false),
        "1.3" => Ok(true),
        _ => Err("must be \"1.2\" or \"1.3\"".into()),
    }
}
