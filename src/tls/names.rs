//! The names in a client's certificate.

use mizuchi_actors::certificate::PeerCertificate;
use std::fmt::Write as _;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Reads the names of a certificate that the handshake has verified. One that cannot be read here has
/// none, and is then nobody's.
pub fn names(der: &[u8]) -> PeerCertificate {
    let certificate = match X509Certificate::from_der(der) {
        Ok(([], certificate)) => certificate,
        _ => {
            log::warn!("a client's certificate was verified, but its names cannot be read");
            return PeerCertificate::default();
        }
    };
    let subject = certificate.subject();
    let mut found = PeerCertificate {
        subject_dn: distinguished_name(subject),
        // What is no text is a name all the same, but nobody's.
        subject_cn: subject
            .iter_common_name()
            .map(|name| name.as_str().unwrap_or_default().to_owned())
            .collect(),
        ..PeerCertificate::default()
    };
    if let Ok(Some(names)) = certificate.subject_alternative_name() {
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => found.san_dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => found.san_email.push((*name).to_owned()),
                GeneralName::URI(name) => found.san_uri.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    found
}

/// RFC 4514, 2: the last name first, and what would read as another name escaped.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter()
        .map(|relative| relative.iter().map(attribute).collect::<Vec<_>>().join("+"))
        .collect();
    parts.reverse();
    parts.join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let mut text = match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok(known) => known.to_owned(),
        Err(_) => attribute.attr_type().to_id_string(),
    };
    text.push('=');
    match attribute.as_str() {
        Ok(value) => escape(value, &mut text),
        Err(_) => {
            text.push('#');
            for byte in attribute.as_slice() {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
            }
        }
    }
    text
}

/// RFC 4514, 2.4.
fn escape(value: &str, text: &mut String) {
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let at_edge = (at == 0 && matches!(c, ' ' | '#')) || (at == last && c == ' ');
        if at_edge || matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=') {
            text.push('\\');
        }
        text.push(c);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn of(change: impl FnOnce(&mut CertificateParams)) -> PeerCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        names(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn names_are_read_as_they_are() {
        let found = of(|params| {
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, "backup");
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().unwrap()),
                SanType::DnsName("b.example".try_into().unwrap()),
                SanType::Rfc822Name("backup@example.com".try_into().unwrap()),
                SanType::URI("spiffe://example/backup".try_into().unwrap()),
                SanType::IpAddress([127, 0, 0, 1].into()),
            ];
        });
        let expected = PeerCertificate {
            subject_dn: "CN=backup,O=Example".into(),
            subject_cn: vec!["backup".into()],
            san_dns: vec!["a.example".into(), "b.example".into()],
            san_email: vec!["backup@example.com".into()],
            san_uri: vec!["spiffe://example/backup".into()],
        };
        assert_eq!(found, expected);
    }

    /// RFC 4514, 2.4: "a comma [...] can be escaped by prefixing it with a backslash": a common name
    /// cannot pose as an organization.
    #[test]
    fn a_name_cannot_pose_as_another() {
        let found = of(|params| params.distinguished_name.push(DnType::CommonName, "a,O=Example "));
        assert_eq!(found.subject_dn, "CN=a\\,O\\=Example\\ ");
        assert_eq!(found.subject_cn, ["a,O=Example "]);
        assert_eq!(of(|_| {}), PeerCertificate::default());
        assert_eq!(names(b"no certificate"), PeerCertificate::default());
    }
}
