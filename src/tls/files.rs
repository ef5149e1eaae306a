//! From PEM files to a configuration.

use mizuchi_actors::secret::Secret;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Certificates in a file: a chain has three or four, a set of authorities a few hundred.
const MAX_CERTIFICATES: usize = 1000;

/// `server.tls.client_auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nobody is asked.
    Off,
    /// A client without a certificate goes on without.
    Optional,
    /// There is no session without one.
    Required,
}

/// What a listener's TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the listener's own certificate first.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// The authorities of client certificates; at least one unless `client_auth` is off.
    pub client_ca_files: Vec<PathBuf>,
    /// Whether clients are asked for a certificate.
    pub client_auth: ClientAuth,
    /// TLS 1.2 is refused.
    pub only_tls13: bool,
    /// HTTP/2 is offered (ALPN).
    pub http2: bool,
}

/// What is wrong with which file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} ({}): {problem}", .file.display())]
pub struct TlsError {
    /// `cert_file`, `key_file` or `client_ca_file`.
    pub key: &'static str,
    /// Which.
    pub file: PathBuf,
    /// What is wrong, and what would be right. Never a part of a key.
    pub problem: String,
}

/// The files' contents.
pub(super) struct Material {
    chain: String,
    key: Secret,
    authorities: Vec<String>,
}

impl Material {
    /// From the contents of [`TlsFiles::paths`]; None: there are too few.
    pub(super) fn of(contents: &[Vec<u8>]) -> Option<Material> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let [chain, key, authorities @ ..] = contents else { return None };
        Some(Material {
            chain: text(chain),
            key: Secret::new(text(key)),
            authorities: authorities.iter().map(text).collect(),
        })
    }

    /// The contents of [`TlsFiles::paths`].
    pub(super) fn contents(&self) -> Vec<Vec<u8>> {
        let texts = [self.chain.as_str(), self.key.expose()].into_iter();
        texts.chain(self.authorities.iter().map(String::as_str)).map(Vec::from).collect()
    }
}

impl TlsFiles {
    /// All files: the chain's, the key's, the authorities'.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let own = [&self.cert_file, &self.key_file].into_iter();
        own.chain(&self.client_ca_files).cloned().collect()
    }

    /// Whether the files can be used. Blocks; `read` reads a file.
    pub fn check(&self, read: &dyn Fn(&Path) -> io::Result<String>) -> Result<(), TlsError> {
        self.build(&self.read(read)?).map(|_| ())
    }

    /// Reads the files. Blocks.
    pub(super) fn read(
        &self,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Material, TlsError> {
        let one = |key, file: &PathBuf| {
            read(file).map_err(|error| {
                let problem = format!("cannot be read: {error}; it must be a PEM file");
                TlsError { key, file: file.clone(), problem }
            })
        };
        Ok(Material {
            chain: one("cert_file", &self.cert_file)?,
            key: Secret::new(one("key_file", &self.key_file)?),
            authorities: self
                .client_ca_files
                .iter()
                .map(|file| one("client_ca_file", file))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The configuration that they make.
    pub(super) fn build(&self, material: &Material) -> Result<ServerConfig, TlsError> {
        let wrong = |key, file: &PathBuf| {
            let file = file.clone();
            move |problem: String| TlsError { key, file, problem }
        };
        let of_cert = || wrong("cert_file", &self.cert_file);
        let of_key = || wrong("key_file", &self.key_file);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = if self.only_tls13 { &[&TLS13][..] } else { &[&TLS13, &TLS12][..] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| of_cert()(error.to_string()))?;
        let builder = if self.client_auth == ClientAuth::Off {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for (file, text) in self.client_ca_files.iter().zip(&material.authorities) {
                let wrong = || wrong("client_ca_file", file);
                for certificate in certificates(text).map_err(wrong())? {
                    roots.add(certificate).map_err(|error| {
                        wrong()(format!("holds a certificate that cannot be used: {error}"))
                    })?;
                }
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match self.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Off | ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            let file = self.client_ca_files.first().cloned().unwrap_or_default();
            let verifier = verifier
                .build()
                .map_err(|error| wrong("client_ca_file", &file)(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        };
        let chain = certificates(&material.chain).map_err(of_cert())?;
        let key =
            PrivateKeyDer::from_pem_slice(material.key.expose().as_bytes()).map_err(|_| {
                of_key()(
                    "holds no private key: a PEM file has a line -----BEGIN PRIVATE KEY-----, \
                      and one with a passphrase cannot be used"
                        .into(),
                )
            })?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            of_key()(match error {
                rustls::Error::InconsistentKeys(_) => {
                    "is not the key of the certificate in cert_file".into()
                }
                other => format!("does not go with the certificate in cert_file: {other}"),
            })
        })?;
        config.alpn_protocols = match self.http2 {
            true => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        };
        if self.client_auth != ClientAuth::Off {
            // A session that is resumed is not verified again: each connection shows a certificate
            // that is valid now, by the authorities of now.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()).take(MAX_CERTIFICATES) {
        let number = found.len() + 1;
        found.push(
            certificate
                .map_err(|error| format!("certificate number {number} is damaged: {error}"))?,
        );
    }
    match found.is_empty() {
        true => {
            Err("holds no certificate: a PEM file has lines -----BEGIN CERTIFICATE-----".into())
        }
        false => Ok(found),
    }
}
