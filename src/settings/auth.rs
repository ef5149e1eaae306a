//! `auth`, at the top level and in each bucket: who may upload.

use super::backend::Surroundings;
use super::findings::{Findings, SettingsErrors};
use super::jwt::{self, JwtSettings};
use super::section::Section;
use super::values::{boolean, choice, integer, path, secret, text, text_where};
use super::{grants, load};
use config::Value;
use mizuchi_actors::certificate::CertificateName;
use mizuchi_actors::grants::Grants;
use mizuchi_actors::secret::Secret;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest access key.
const MAX_ACCESS_KEY: usize = 128;
/// Shorter secrets than AWS's own (40 characters) can be guessed offline from one signature.
const WEAK_SECRET: usize = 16;
/// A day: past it, skew would no longer be skew.
const MAX_CLOCK_SKEW_SECONDS: u64 = 86_400;

/// `auth` of one bucket: its own keys, then those at the top level, then the defaults.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// False: everyone may upload, unsigned. True: there is at least one credential, or one issuer of
    /// tokens, or client certificates are.
    pub enabled: bool,
    /// AWS Signature Version 4.
    pub sigv4: SigV4Settings,
    /// JSON Web Tokens.
    pub jwt: JwtSettings,
    /// None: client certificates are nobody's.
    pub client_certificates: Option<ClientCertificateSettings>,
}

/// `auth.client_certificates`, enabled.
#[derive(Debug, Clone)]
pub struct ClientCertificateSettings {
    /// Which name is the principal.
    pub principal: CertificateName,
    /// What a certificate is good for.
    pub allow: Grants,
}

/// `auth.sigv4`.
#[derive(Debug, Clone)]
pub struct SigV4Settings {
    /// Access keys are unique, those of `credentials_file` included.
    pub credentials: Vec<ClientCredential>,
    /// More of them, read again when it changes.
    pub credentials_file: Option<CredentialsFile>,
    /// The region that clients sign for.
    pub region: String,
    /// How far a client's clock may be off, either way.
    pub max_clock_skew: Duration,
}

/// `auth.sigv4.credentials_file`.
#[derive(Debug, Clone)]
pub struct CredentialsFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it was when the settings were read.
    pub text: Secret,
    /// What it held.
    pub credentials: Vec<ClientCredential>,
}

/// A client's credential.
#[derive(Debug, Clone)]
pub struct ClientCredential {
    /// What the client names itself by.
    pub access_key: String,
    /// What it signs with.
    pub secret_key: Secret,
    /// Of temporary credentials: what must come along with every request.
    pub session_token: Option<Secret>,
    /// Who it is: in logs, policies and sealed uploadIds. The access key unless set.
    pub principal: String,
    /// What it is good for.
    pub allow: Grants,
}

/// Reads `auth` of a bucket; `default_region` is `s3.region`.
pub(super) fn read(
    s: &mut Section<'_>,
    default_region: Option<&str>,
    surroundings: &Surroundings<'_>,
) -> Option<AuthSettings> {
    let auth = read_unchecked(s, surroundings);
    let file = auth.credentials_file.as_ref().is_none_or(Option::is_some);
    let issuers = auth.jwt.as_ref().map(|jwt| jwt.issuers.len());
    let certificates = auth.client_certificates.as_ref().is_none_or(Option::is_some);
    let known = auth.entries > 0 || file || issuers != Some(0) || certificates;
    if auth.enabled == Some(true) && !known {
        s.fail(
            "sigv4.credentials",
            "auth is enabled, and there is no credential here or in the top-level auth, and no \
             issuer of tokens in jwt.issuers: add one, or set auth.enabled to false to let \
             everyone upload",
        );
    }
    if auth.enabled == Some(false) {
        s.findings().warn(s.path(), "is disabled: everyone who reaches the gateway may upload");
    }
    let region = match auth.region? {
        Some(region) => region,
        None => default_region?.to_owned(),
    };
    let sigv4 = SigV4Settings {
        credentials: auth.credentials?,
        credentials_file: auth.credentials_file?,
        region,
        max_clock_skew: Duration::from_secs(auth.skew?),
    };
    let (jwt, client_certificates) = (auth.jwt?, auth.client_certificates?);
    Some(AuthSettings { enabled: auth.enabled?, sigv4, jwt, client_certificates })
}

/// Checks the top-level `auth` for itself: an error in it shows even if no bucket uses it.
pub(super) fn check(s: &mut Section<'_>, surroundings: &Surroundings<'_>) {
    read_unchecked(s, surroundings);
}

struct Unchecked {
    enabled: Option<bool>,
    entries: usize,
    credentials: Option<Vec<ClientCredential>>,
    credentials_file: Option<Option<CredentialsFile>>,
    region: Option<Option<String>>,
    skew: Option<u64>,
    jwt: Option<JwtSettings>,
    client_certificates: Option<Option<ClientCertificateSettings>>,
}

fn read_unchecked(s: &mut Section<'_>, surroundings: &Surroundings<'_>) -> Unchecked {
    let enabled = s.required("enabled", boolean);
    let jwt = s.within("jwt", |s| jwt::read(s, surroundings));
    let client_certificates = s.within("client_certificates", read_certificates);
    s.within("sigv4", |s| {
        let entries = s.entries("credentials", read_credential);
        let file = s.optional("credentials_file", path);
        let region = s.optional("region", region);
        let skew = s.required("max_clock_skew_seconds", integer(1..=MAX_CLOCK_SKEW_SECONDS));
        let mut seen = BTreeMap::new();
        unique(entries.iter().flatten(), &mut seen, s.findings());
        let credentials_file = file.and_then(|file| {
            let Some(path) = file else { return Some(None) };
            let key = s.key("credentials_file");
            let read = (surroundings.read)(&path).map_err(|error| error.to_string());
            let parsed = read.and_then(|text| {
                parse_file(&path, &text, surroundings.environment, &mut seen)
                    .map(|credentials| (Secret::new(text), credentials))
                    .map_err(|errors| format!("has errors:\n{errors}"))
            });
            match parsed {
                Ok((text, credentials)) => Some(Some(CredentialsFile { path, text, credentials })),
                Err(problem) => {
                    s.findings().error(key, format!("{}: {problem}", path.display()));
                    None
                }
            }
        });
        Unchecked {
            enabled,
            entries: entries.len(),
            credentials: entries.into_iter().map(|entry| Some(entry?.0)).collect(),
            credentials_file,
            region,
            skew,
            jwt,
            client_certificates,
        }
    })
}

fn read_certificates(s: &mut Section<'_>) -> Option<Option<ClientCertificateSettings>> {
    let enabled = s.required("enabled", boolean);
    let principal = s.required(
        "principal",
        choice(&[
            ("subject_cn", CertificateName::SubjectCn),
            ("subject_dn", CertificateName::SubjectDn),
            ("san_dns", CertificateName::SanDns),
            ("san_email", CertificateName::SanEmail),
            ("san_uri", CertificateName::SanUri),
        ]),
    );
    let allow = s.within("allow", grants::read);
    let settings = ClientCertificateSettings { principal: principal?, allow: allow? };
    Some(enabled?.then_some(settings))
}

/// Access keys that were met, and where.
type Seen = BTreeMap<String, String>;

/// Notes every access key that was met before.
fn unique<'c>(
    entries: impl Iterator<Item = &'c (ClientCredential, String)>,
    seen: &mut Seen,
    findings: &Findings,
) {
    for (credential, path) in entries {
        if let Some(first) = seen.insert(credential.access_key.clone(), path.clone()) {
            findings.error(
                format!("{path}.access_key"),
                format!("is the access key of {first} too: each belongs to one credential"),
            );
        }
    }
}

/// Reads a file of credentials again; `inline` are those of the settings themselves.
///
/// # Errors
/// Everything that is wrong in it.
pub fn parse_credentials(
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
    inline: &[ClientCredential],
) -> Result<Vec<ClientCredential>, SettingsErrors> {
    let known = |one: &ClientCredential| (one.access_key.clone(), "the settings".to_owned());
    parse_file(path, text, environment, &mut inline.iter().map(known).collect())
}

fn parse_file(
    path: &Path,
    text: &str,
    environment: &BTreeMap<String, String>,
    seen: &mut Seen,
) -> Result<Vec<ClientCredential>, SettingsErrors> {
    let findings = Findings::default();
    let (section, keys) = (["auth", "sigv4"], ["credentials"]);
    let tables = load::read_part(path, text, &section, &keys, environment, &findings);
    let credentials = tables.and_then(|(chosen, defaults)| {
        Section::read_root(&chosen, &defaults, &findings, |root| {
            let entries = root.entries("credentials", read_credential);
            unique(entries.iter().flatten(), seen, &findings);
            entries.into_iter().map(|entry| Some(entry?.0)).collect::<Option<Vec<_>>>()
        })
    });
    findings.into_result(credentials).map(|(credentials, _)| credentials)
}

fn read_credential(s: &mut Section<'_>) -> Option<(ClientCredential, String)> {
    let access_key = s.required("access_key", access_key);
    let secret_key = s.required("secret_key", secret);
    let session_token = s.optional("session_token", secret);
    let principal = s.optional("principal", principal);
    let allow = s.within("allow", grants::read);
    let (access_key, secret_key) = (access_key?, secret_key?);
    if secret_key.expose().len() < WEAK_SECRET {
        s.findings().warn(
            &s.key("secret_key"),
            "is short: it can be guessed from one request; use 40 random characters",
        );
    }
    let principal = principal?.unwrap_or_else(|| access_key.clone());
    let (session_token, allow) = (session_token?, allow?);
    let credential = ClientCredential { access_key, secret_key, session_token, principal, allow };
    Some((credential, s.path().to_owned()))
}

/// An access key. It stands between slashes in the credential scope, and in query strings; the
/// error never quotes it, since it may be a secret in the wrong place.
pub(super) fn access_key(value: &Value) -> Result<String, String> {
    let key = text(value)?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~@+:".contains(&b);
    if (1..=MAX_ACCESS_KEY).contains(&key.len()) && key.bytes().all(allowed) {
        Ok(key.to_owned())
    } else {
        Err("must be 1 to 128 letters, digits and -._~@+:".into())
    }
}

fn principal(value: &Value) -> Result<String, String> {
    let rule = "1 to 256 bytes without control characters";
    text_where(rule, |text| text.len() <= 256 && !text.chars().any(char::is_control))(value)
}

/// A region, as it stands in the credential scope.
pub(super) fn region(value: &Value) -> Result<String, String> {
    text_where("1 to 64 letters, digits, - and _, such as us-east-1", |text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    })(value)
}
