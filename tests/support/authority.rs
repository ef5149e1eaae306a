//! A certificate authority, what it signs, and clients that trust it.

use super::client::Client;
use super::gateway::{Gateway, Setup};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, date_time_ymd,
};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

pub const CERT_FILE: &str = "MIZUCHI__SERVER__TLS__CERT_FILE";
pub const KEY_FILE: &str = "MIZUCHI__SERVER__TLS__KEY_FILE";
pub const CLIENT_AUTH: &str = "MIZUCHI__SERVER__TLS__CLIENT_AUTH";
pub const CLIENT_CA: &str = "MIZUCHI__SERVER__TLS__CLIENT_CA_FILE";

/// An authority, and a directory with its certificate and what it has signed.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

/// PEM: a certificate and its key.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of the tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn sign(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { cert, key: key.serialize_pem() }
    }

    /// For a server at 127.0.0.1.
    pub fn server(&self) -> Pair {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.sign(CertificateParams::new(names).unwrap())
    }

    /// For clients of these names.
    pub fn client(&self, common_name: &str, alternative: Vec<SanType>, expired: bool) -> Pair {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = alternative;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        self.sign(params)
    }

    /// Writes the pair to the files that the gateway reads: the key first, as a renewal does.
    pub fn install(&self, pair: &Pair) {
        for (name, text) in [("server.key", &pair.key), ("server.pem", &pair.cert)] {
            std::fs::write(self.path("new"), text).unwrap();
            std::fs::rename(self.path("new"), self.path(name)).unwrap();
        }
    }

    /// Makes the gateway speak TLS.
    pub fn serve(&self, setup: Setup) -> Setup {
        self.install(&self.server());
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        setup
            .env(CERT_FILE, &text(self.path("server.pem")))
            .env(KEY_FILE, &text(self.path("server.key")))
    }

    /// Makes the gateway ask for client certificates of this authority.
    pub fn ask(&self, setup: Setup, how: &str) -> Setup {
        setup.env(CLIENT_AUTH, how).env(CLIENT_CA, self.path("ca.pem").to_str().unwrap())
    }

    pub fn trust(&self) -> Trust {
        Trust { ca: self.path("ca.pem"), pair: None, only: None, protocols: Vec::new() }
    }
}

/// How a client speaks TLS.
pub struct Trust {
    ca: PathBuf,
    pair: Option<Pair>,
    only: Option<u8>,
    protocols: Vec<Vec<u8>>,
}

impl Trust {
    pub fn with(mut self, pair: Pair) -> Trust {
        self.pair = Some(pair);
        self
    }

    /// TLS 1.2 or 1.3 alone.
    pub fn only(mut self, minor: u8) -> Trust {
        self.only = Some(minor);
        self
    }

    pub fn protocol(mut self, name: &str) -> Trust {
        self.protocols.push(name.as_bytes().to_vec());
        self
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.ca)).unwrap();
        let versions = match self.only {
            Some(2) => &[&TLS12][..],
            Some(3) => &[&TLS13],
            _ => &[&TLS13, &TLS12],
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config
    }

    pub async fn open(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(self.config()));
        connector.connect(ServerName::try_from("127.0.0.1").unwrap(), socket).await
    }

    pub async fn connect(&self, gateway: &Gateway) -> Client<TlsStream<TcpStream>> {
        let stream = self.open(gateway.address).await.unwrap();
        Client::over(stream, gateway.address.to_string())
    }
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}
