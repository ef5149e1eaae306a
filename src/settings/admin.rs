//! `admin`: the listener for operators, and who may read there.

use super::backend::Surroundings;
use super::section::Section;
use super::tls;
use super::values::{address, choice, secret};
use crate::tls::TlsFiles;
use config::Value;
use mizuchi_actors::secret::Secret;
use std::net::SocketAddr;

/// Characters of the shortest token: 16 of base64 are 96 bits.
const MIN_TOKEN: usize = 16;
/// Characters of the longest.
const MAX_TOKEN: usize = 256;

/// `admin`.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Where metrics, health and status are served.
    pub address: SocketAddr,
    /// What readers show.
    pub token: Option<Secret>,
    /// Its certificate.
    pub tls: Option<TlsFiles>,
    /// What needs neither token nor certificate.
    pub open: Vec<Open>,
}

/// An entry of `admin.open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// `/healthz` and `/readyz`.
    Health,
    /// `/metrics`.
    Metrics,
}

impl AdminSettings {
    /// Whether readers need a token or a certificate.
    pub fn is_protected(&self) -> bool {
        self.token.is_some() || self.takes_certificates()
    }

    /// Whether a client certificate is a credential.
    pub fn takes_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.client_ca_files.is_empty())
    }
}

/// Reads `admin`.
pub(super) fn read(s: &mut Section<'_>, surroundings: &Surroundings<'_>) -> Option<AdminSettings> {
    let address = s.required("address", address);
    let token = s.optional("token", token);
    let open = s.list("open", choice(&[("health", Open::Health), ("metrics", Open::Metrics)]));
    let tls = s.within("tls", |s| tls::read_admin(s, surroundings));
    let settings = AdminSettings { address: address?, token: token?, tls: tls?, open: open? };
    let beyond_loopback = !settings.address.ip().to_canonical().is_loopback();
    if beyond_loopback && !settings.is_protected() {
        s.fail(
            "address",
            "other machines may reach it there: set admin.token or admin.tls.client_ca_file \
             (admin.open then names what may be read without), or use a loopback address",
        );
        return None;
    }
    if beyond_loopback && settings.token.is_some() && settings.tls.is_none() {
        s.findings().warn(
            &s.key("token"),
            "travels unencrypted, and other machines may reach it there: set admin.tls",
        );
    }
    if !settings.is_protected() && !settings.open.is_empty() {
        s.findings().warn(&s.key("open"), "has no effect: everything is open without a token");
    }
    Some(settings)
}

/// The error never quotes it.
fn token(value: &Value) -> Result<Secret, String> {
    let token = secret(value)?;
    let text = token.expose();
    let fits = (MIN_TOKEN..=MAX_TOKEN).contains(&text.len());
    match fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token),
        false => {
            Err("must be 16 to 256 visible ASCII characters, as `openssl rand -hex 32` makes \
                      them"
                .into())
        }
    }
}
