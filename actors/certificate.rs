//! Client certificates (mutual TLS): the names that a verified one bears, and which of them is the
//! principal. The chain was verified in the handshake; nothing here trusts, it only reads.

use crate::grants::Grants;
use crate::identity::{Identity, Means};
use crate::s3::error::{ErrorCode, S3Error};
use std::sync::Arc;

/// Bytes of a principal: as of those in the settings.
const MAX_PRINCIPAL: usize = 256;

/// The names in the leaf certificate of a connection whose client was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The whole subject (RFC 4514, as it was issued); empty: none.
    pub subject_dn: String,
    /// The subject's common names.
    pub subject_cn: Vec<String>,
    /// subjectAltName (RFC 5280, 4.2.1.6): dNSName.
    pub san_dns: Vec<String>,
    /// subjectAltName: rfc822Name.
    pub san_email: Vec<String>,
    /// subjectAltName: uniformResourceIdentifier.
    pub san_uri: Vec<String>,
}

/// Whose word the names are: a name in a certificate is not the same principal as one in the settings.
const ISSUER: &str = "client certificate";

/// Which name is the principal (`auth.client_certificates.principal`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's common name.
    SubjectCn,
    /// The whole subject.
    SubjectDn,
    /// The dNSName.
    SanDns,
    /// The rfc822Name.
    SanEmail,
    /// The uniformResourceIdentifier.
    SanUri,
}

/// `auth.client_certificates` of a bucket that takes them.
#[derive(Debug, Clone)]
pub struct CertificateRules {
    /// Which name is the principal.
    pub principal: CertificateName,
    /// What a certificate is good for.
    pub grants: Arc<Grants>,
}

impl CertificateRules {
    /// Who the certificate's owner is. A certificate with two names of the kind has no principal: to
    /// take the first would leave it to its authority's habits who that is.
    ///
    /// Errors: 403 AccessDenied.
    pub fn identify(&self, certificate: &PeerCertificate) -> Result<Identity, S3Error> {
        let denied = |message| Err(S3Error::new(ErrorCode::AccessDenied, message));
        let names = match self.principal {
            CertificateName::SubjectDn => std::slice::from_ref(&certificate.subject_dn),
            CertificateName::SubjectCn => &certificate.subject_cn,
            CertificateName::SanDns => &certificate.san_dns,
            CertificateName::SanEmail => &certificate.san_email,
            CertificateName::SanUri => &certificate.san_uri,
        };
        let name = match names {
            [] => {
                return denied("The client certificate has no name of the kind that counts here.");
            }
            [name] => name.as_str(),
            _ => {
                return denied("The client certificate has several names of the kind that counts.");
            }
        };
        if name.is_empty() || name.len() > MAX_PRINCIPAL || name.chars().any(char::is_control) {
            return denied("The name in the client certificate cannot be a principal.");
        }
        Ok(Identity {
            principal: Arc::from(name),
            issuer: Some(Arc::from(ISSUER)),
            means: Means::Certificate,
            claims: None,
            grants: Arc::clone(&self.grants),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn principal(name: CertificateName, certificate: &PeerCertificate) -> Option<String> {
        let rules = CertificateRules { principal: name, grants: Arc::default() };
        match rules.identify(certificate) {
            Ok(identity) => Some(identity.principal.to_string()),
            Err(error) => {
                assert_eq!((error.status, error.code.as_ref()), (403, "AccessDenied"));
                None
            }
        }
    }

    #[test]
    fn one_name_of_the_kind_is_the_principal() {
        let certificate = PeerCertificate {
            subject_dn: "CN=backup, O=Example".into(),
            subject_cn: vec!["backup".into()],
            san_dns: vec!["a.example".into()],
            san_email: vec!["backup@example.com".into()],
            san_uri: vec!["spiffe://example/backup".into()],
        };
        for (name, expected) in [
            (CertificateName::SubjectCn, "backup"),
            (CertificateName::SubjectDn, "CN=backup, O=Example"),
            (CertificateName::SanDns, "a.example"),
            (CertificateName::SanEmail, "backup@example.com"),
            (CertificateName::SanUri, "spiffe://example/backup"),
        ] {
            assert_eq!(principal(name, &certificate).as_deref(), Some(expected));
            assert_eq!(principal(name, &PeerCertificate::default()), None, "{name:?}");
        }
    }

    #[test]
    fn several_names_and_odd_ones_are_nobody() {
        let long = "x".repeat(257);
        for names in
            [vec!["a", "b"], vec!["a", "a"], vec![""], vec!["a\nb"], vec!["a\0"], vec![&long]]
        {
            let subject_cn = names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = PeerCertificate { subject_cn, ..PeerCertificate::default() };
            assert_eq!(principal(CertificateName::SubjectCn, &certificate), None, "{names:?}");
        }
    }
}
