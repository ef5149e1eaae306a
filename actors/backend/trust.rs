//! Whom the gateway trusts to be a TLS backend, and the configuration that follows from it.
//!
//! A certificate is always verified: no setting turns that off. One [`TlsClient`] serves all
//! threads and endpoints of a bucket, so that a session begun on one thread is resumed on another.

use super::endpoint::Endpoint;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;

/// HTTP/1.1, the only protocol that is spoken in a session (RFC 7301, 6).
const ALPN: &[u8] = b"http/1.1";

/// Why there is nobody to trust, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// A file without certificates.
    #[error("holds no certificate: a PEM file has lines -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    /// A certificate that is damaged, or none.
    #[error("its certificate number {0} cannot be used: {1}")]
    BadCertificate(usize, String),
    /// The system has none.
    #[error(
        "this system has no certificates of authorities to trust{0}: install its package \
         ca-certificates, or name the backend's own authority in s3.tls.ca_file"
    )]
    NoSystemStore(String),
    /// Not a host name or an address.
    #[error("must be a host name or an IP address")]
    ServerName,
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The authorities whose certificates count.
#[derive(Debug, Clone)]
pub struct Authorities(RootCertStore);

impl Authorities {
    /// None yet.
    pub fn none() -> Self {
        Authorities(RootCertStore::empty())
    }

    /// Adds the certificates of a PEM file.
    pub fn add_pem(&mut self, text: &str) -> Result<(), TrustError> {
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            count += 1;
            let bad = |error: String| TrustError::BadCertificate(count, error);
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            self.0.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if count == 0 { Err(TrustError::NoCertificate) } else { Ok(()) }
    }

    /// These and those.
    pub fn and(mut self, others: Self) -> Self {
        self.0.roots.extend(others.0.roots);
        self
    }

    /// How a TLS client that trusts them is set up. HTTP/1.1 only.
    pub(crate) fn client_config(self) -> Result<ClientConfig, TrustError> {
        // The provider is named here and not installed for the process: no other library of it is
        // to be surprised.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TrustError::Setup(error.to_string()))?
            .with_root_certificates(self.0)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// Those that the system trusts: SSL_CERT_FILE, SSL_CERT_DIR, else the distribution's own.
    pub fn of_system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (usable, refused) = store.add_parsable_certificates(found.certs);
        if refused > 0 {
            log::debug!("{refused} of the system's certificates are not usable");
        }
        match (usable, found.errors.first()) {
            (0, None) => Err(TrustError::NoSystemStore(String::new())),
            (0, Some(error)) => Err(TrustError::NoSystemStore(format!(" ({error})"))),
            _ => Ok(Authorities(store)),
        }
    }
}

/// How one bucket's backend is spoken to through TLS. Clones share the configuration, and with it
/// the sessions that can be resumed.
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// `server_name`: what the certificate is to be valid for, and what the backend is told (SNI);
    /// None: the endpoint's host.
    pub fn new(authorities: Authorities, server_name: Option<&str>) -> Result<Self, TrustError> {
        let server_name = server_name
            .map(|name| ServerName::try_from(name.to_owned()).map_err(|_| TrustError::ServerName))
            .transpose()?;
        Ok(TlsClient { config: Arc::new(authorities.client_config()?), server_name })
    }

    /// What a session with this endpoint starts from.
    pub(super) fn session(&self, endpoint: &Endpoint) -> io::Result<rustls::ClientConnection> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(endpoint.host().to_owned()).map_err(io::Error::other)?,
        };
        rustls::ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// What is no certificate is told apart from a damaged one; both say which file to mend.
    #[test]
    fn files_without_usable_certificates_are_refused() {
        let mut authorities = Authorities::none();
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for text in ["", "no PEM", &key] {
            assert_eq!(authorities.add_pem(text), Err(TrustError::NoCertificate));
        }
        let own = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap().cert.pem();
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = authorities.add_pem(&format!("{own}{damaged}")).unwrap_err();
        assert!(matches!(error, TrustError::BadCertificate(2, _)), "{error}");
        let error = authorities.add_pem(&own.replace("-----END", "")).unwrap_err();
        assert!(matches!(error, TrustError::BadCertificate(1, _)), "{error}");
        authorities.add_pem(&format!("{own}{key}")).unwrap();
    }

    /// A name for SNI is a host name or an address.
    #[test]
    fn server_names_are_checked() {
        for (name, good) in
            [("s3.example.com", true), ("::1", true), ("10.0.0.1", true), ("a b", false)]
        {
            let client = TlsClient::new(Authorities::none(), Some(name));
            assert_eq!(client.is_ok(), good, "{name}");
        }
    }
}
