//! One authority and one certificate for 127.0.0.1, for all that speak TLS in a run.

use crate::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The authority's certificate in the folder.
pub(crate) fn authority_file(folder: &Path) -> PathBuf {
    folder.join("authority.pem")
}

/// The certificate of 127.0.0.1 in the folder.
pub(crate) fn certificate_file(folder: &Path) -> PathBuf {
    folder.join("certificate.pem")
}

/// Its key in the folder.
pub(crate) fn key_file(folder: &Path) -> PathBuf {
    folder.join("key.pem")
}

/// Certificate and key in one file, as HAProxy wants them.
pub(crate) fn bundle_file(folder: &Path) -> PathBuf {
    folder.join("bundle.pem")
}

/// Makes the files.
pub(crate) fn make(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    // Names of their own: who is named like the issuer is taken for self-signed by OpenSSL.
    params.distinguished_name.push(DnType::CommonName, "mizuchi-bench authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    // nginx compares names alone.
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, "mizuchi-bench");
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &authority)?;
    std::fs::write(authority_file(folder), authority.pem())?;
    std::fs::write(certificate_file(folder), certificate.pem())?;
    std::fs::write(key_file(folder), key.serialize_pem())?;
    std::fs::write(bundle_file(folder), certificate.pem() + &key.serialize_pem())?;
    Ok(())
}

/// For who trusts the authority.
pub(crate) fn client(folder: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority_file(folder))?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// For who has the certificate.
pub(crate) fn server(folder: &Path) -> Result<Arc<ServerConfig>> {
    let certificate = CertificateDer::from_pem_file(certificate_file(folder))?;
    let key = PrivateKeyDer::from_pem_file(key_file(folder))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(Arc::new(config))
}
