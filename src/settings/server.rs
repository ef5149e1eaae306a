//! `server`: the client side of the gateway.

use super::backend::Surroundings;
use super::machine::Machine;
use super::network::{self, Cidr};
use super::section::Section;
use super::tls;
use super::values::{GIB, KIB, MIB, address, boolean, count, duration, path, size, text};
use crate::tls::TlsFiles;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config::Value;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// `server`.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Worker threads, at least 1; `0` in the file is the number of cores.
    pub workers: usize,
    /// How long what is in flight may take after SIGTERM.
    pub shutdown_grace: Duration,
    /// Bytes of a request's head, 4 KiB to 64 KiB.
    pub max_head: usize,
    /// `host[:port]`, in lower case, that clients may have signed for, besides the `Host` received.
    pub public_hosts: Vec<String>,
    /// Whose X-Forwarded-* headers count.
    pub trusted_proxies: Vec<Cidr>,
    /// Domains, in lower case, whose first label is a bucket.
    pub virtual_host_domains: Vec<String>,
    /// What must survive a restart.
    pub state_directory: PathBuf,
    /// Seals uploadIds; `None`: the one in `state_directory`, made there once.
    pub seal_key: Option<SealKey>,
    /// How often files that may change are looked at.
    pub reload_interval: Duration,
    /// The longest time for a request's head.
    pub head_timeout: Duration,
    /// The longest idle time of a client's connection.
    pub keep_alive: Duration,
    /// How slow a body may be.
    pub body_progress: BodyProgress,
    /// How much is read of a refused body.
    pub drain: Drain,
    /// None: clients speak plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The longest TLS handshake, also with the admin listener.
    pub handshake_timeout: Duration,
    /// Clients' connections in the whole process.
    pub max_connections: usize,
    /// When a body is spliced.
    pub zero_copy: ZeroCopySettings,
}

/// `server.body_progress`: a body of which fewer than `bytes` come in an `interval` times out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyProgress {
    /// Bytes, at least 1.
    pub bytes: u64,
    /// How long they may take.
    pub interval: Duration,
}

/// `server.drain`: how much of a refused body is read, so that the client reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Bytes.
    pub bytes: u64,
    /// How long.
    pub time: Duration,
}

/// `server.zero_copy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroCopySettings {
    /// Whether any body is spliced.
    pub enabled: bool,
    /// Bytes asked for per pipe, 64 KiB to 16 MiB; the kernel rounds up to a power of two.
    pub pipe_buffer_size: usize,
    /// Bytes of the smallest body that is spliced, at least 1.
    pub min_body: u64,
}

/// The key that uploadIds are sealed with. Zeroized, redacted in `Debug`.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// The key itself.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses base64 of 32 bytes. The error never quotes it.
    fn parse(value: &Value) -> Result<SealKey, String> {
        let wrong = "must be 32 bytes in base64, as `openssl rand -base64 32` makes them";
        let bytes = Zeroizing::new(STANDARD.decode(text(value)?.trim()).map_err(|_| wrong)?);
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(wrong.into());
        }
        key.copy_from_slice(&bytes);
        Ok(SealKey(key))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(redacted)")
    }
}

/// Reads `server`.
pub(super) fn read(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
    machine: &Machine,
) -> Option<ServerSettings> {
    let address = s.required("address", address);
    let workers = s.required("workers", count(0..=1024));
    let shutdown_grace = s.required("shutdown_grace", duration(Duration::ZERO..=HOUR));
    let max_head = s.required("max_head", size(4 * KIB..=64 * KIB));
    let public_hosts = s.list("public_hosts", network::public_host);
    let trusted_proxies = s.list("trusted_proxies", Cidr::parse);
    let virtual_host_domains = s.list("virtual_host_domains", network::domain);
    let state_directory = s.required("state_directory", path);
    let seal_key = s.optional("seal_key", SealKey::parse);
    let reload_interval = s.required("reload_interval", duration(100 * MILLISECOND..=HOUR));
    let head_timeout = s.required("head_timeout", duration(SECOND..=HOUR));
    let keep_alive = s.required("keep_alive", duration(SECOND..=HOUR));
    let max_connections = s.required("max_connections", count(1..=1_000_000));
    let tls = s.within("tls", |s| tls::read(s, surroundings));
    let body_progress = s.within("body_progress", |s| {
        let bytes = s.required("bytes", size(1..=16 * MIB));
        let interval = s.required("interval", duration(SECOND..=HOUR));
        Some(BodyProgress { bytes: bytes?, interval: interval? })
    });
    let drain = s.within("drain", |s| {
        let bytes = s.required("bytes", size(0..=16 * GIB));
        let time = s.required("time", duration(MILLISECOND..=HOUR));
        Some(Drain { bytes: bytes?, time: time? })
    });
    let zero_copy = s.within("zero_copy", |s| {
        let enabled = s.required("enabled", boolean);
        let pipe_buffer_size = s.required("pipe_buffer_size", size(64 * KIB..=16 * MIB));
        let min_body = s.required("min_body", size(1..=5 * GIB));
        Some(ZeroCopySettings {
            enabled: enabled?,
            pipe_buffer_size: usize::try_from(pipe_buffer_size?).ok()?,
            min_body: min_body?,
        })
    });
    let tls = tls?;
    Some(ServerSettings {
        address: address?,
        workers: if workers? == 0 { machine.cores } else { workers? },
        shutdown_grace: shutdown_grace?,
        max_head: usize::try_from(max_head?).ok()?,
        public_hosts: public_hosts?,
        trusted_proxies: trusted_proxies?,
        virtual_host_domains: virtual_host_domains?,
        state_directory: state_directory?,
        seal_key: seal_key?,
        reload_interval: reload_interval?,
        head_timeout: head_timeout?,
        keep_alive: keep_alive?,
        body_progress: body_progress?,
        tls: tls.tls,
        handshake_timeout: tls.handshake_timeout,
        drain: drain?,
        max_connections: max_connections?,
        zero_copy: zero_copy?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_key_is_32_bytes_in_base64_and_never_shown() {
        let parse = |text: String| SealKey::parse(&Value::new(None, text));
        let key = parse(STANDARD.encode([7; 32])).unwrap();
        assert_eq!(key.expose(), &[7; 32]);
        assert_eq!(format!("{key:?}"), "SealKey(redacted)");
        for text in [STANDARD.encode([7; 31]), STANDARD.encode([7; 33]), "canary".into()] {
            let error = parse(text.clone()).unwrap_err();
            assert!(!error.contains(&text), "{error}");
        }
    }
}
