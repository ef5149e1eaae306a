//! `server.tls`, `admin` and client certificates.

use super::*;
use crate::settings::Open;

/// A certificate and its key.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// [`load_with`], with files: `a.pem` and `a.key`, `b.key`, `none.pem`.
fn load(file: &str) -> Result<Loaded, SettingsErrors> {
    let ((cert, key), (_, other)) = (pair(), pair());
    let environment = BTreeMap::new();
    let read = |path: &Path| match path.to_str() {
        Some("settings.yaml") => Ok(file.to_owned()),
        Some("a.pem") => Ok(cert.clone()),
        Some("a.key") => Ok(key.clone()),
        Some("b.key") => Ok(other.clone()),
        Some("none.pem") => Ok("no PEM".to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let surroundings = Surroundings { environment: &environment, read: &read, list: &|_| Ok(None) };
    load_within(Some(Path::new("settings.yaml")), &surroundings, &MACHINE)
}

fn with(lines: &str) -> Result<Loaded, SettingsErrors> {
    load(&format!("{lines}\n{MINIMAL}"))
}

#[test]
fn a_certificate_turns_tls_on() {
    let loaded = with("server: {tls: {cert_file: a.pem, key_file: a.key, min_version: 1.3}}");
    let tls = loaded.unwrap().settings.server.tls.unwrap();
    assert!(tls.only_tls13 && tls.http2 && tls.client_ca_files.is_empty());
    let mutual = "server: {tls: {cert_file: a.pem, key_file: a.key, client_auth: optional, \
                  client_ca_file: [a.pem, a.pem]}}";
    assert_eq!(with(mutual).unwrap().settings.server.tls.unwrap().client_ca_files.len(), 2);
    let auth = "auth: {client_certificates: {enabled: true}}";
    let only = format!("{mutual}\n{MINIMAL}").replacen(
        "auth: {sigv4: {credentials: [{access_key: AK, secret_key: a-long-enough-secret}]}}",
        auth,
        1,
    );
    let settings = load(&only).unwrap().settings;
    assert!(settings.buckets[0].auth.client_certificates.is_some());
    assert!(settings.buckets[0].auth.sigv4.credentials.is_empty());
}

#[test]
fn what_cannot_be_used_is_an_error_of_its_key() {
    for (lines, begin) in [
        ("server: {tls: {cert_file: a.pem}}", "server.tls.key_file: must be set too"),
        ("server: {tls: {key_file: a.key}}", "server.tls.cert_file: must be set too"),
        (
            "server: {tls: {cert_file: no.pem, key_file: a.key}}",
            "server.tls.cert_file: `no.pem` cannot be read",
        ),
        (
            "server: {tls: {cert_file: none.pem, key_file: a.key}}",
            "server.tls.cert_file: `none.pem` holds no certificate",
        ),
        (
            "server: {tls: {cert_file: a.pem, key_file: a.pem}}",
            "server.tls.key_file: `a.pem` holds no private key",
        ),
        (
            "server: {tls: {cert_file: a.pem, key_file: b.key}}",
            "server.tls.key_file: `b.key` is not the key of the certificate",
        ),
        (
            "server: {tls: {cert_file: a.pem, key_file: a.key, client_auth: required}}",
            "server.tls.client_ca_file: must be set",
        ),
        (
            "server: {tls: {cert_file: a.pem, key_file: a.key, client_auth: required, \
             client_ca_file: none.pem}}",
            "server.tls.client_ca_file: `none.pem` holds no certificate",
        ),
        (
            "server: {tls: {client_auth: optional, client_ca_file: a.pem}}",
            "server.tls.cert_file: must be set",
        ),
        ("server: {tls: {min_version: 1.1}}", "server.tls.min_version: must be"),
        ("admin: {address: '0.0.0.0:9090'}", "admin.address: other machines may reach it"),
        (
            "admin: {address: '[::]:9090', open: [health, metrics]}",
            "admin.address: other machines may reach it",
        ),
        ("admin: {token: short}", "admin.token: must be 16 to 256"),
        ("admin: {open: [status]}", "admin.open[0]: must be one of health, metrics"),
        ("admin: {tls: {client_ca_file: a.pem}}", "admin.tls.cert_file: must be set"),
    ] {
        let errors = with(lines).unwrap_err().to_string();
        assert!(errors.starts_with(begin), "{lines}: {errors}");
        assert!(!errors.contains("short"), "{errors}");
    }
    let bucket = bucket_with("auth: {client_certificates: {enabled: true}}");
    let errors = load(&bucket).unwrap_err().to_string();
    let begin = "buckets[0].auth.client_certificates.enabled: needs server.tls.client_auth";
    assert!(errors.starts_with(begin), "{errors}");
}

#[test]
fn an_admin_listener_beyond_loopback_is_protected() {
    let tls = "cert_file: a.pem, key_file: a.key";
    for (lines, warnings) in [
        (format!("token: 0123456789abcdef, tls: {{{tls}}}"), 0),
        (format!("tls: {{{tls}, client_ca_file: a.pem}}, open: health"), 0),
        ("token: 0123456789abcdef".to_owned(), 1),
    ] {
        let loaded = with(&format!("admin: {{address: '0.0.0.0:9090', {lines}}}")).unwrap();
        assert!(loaded.settings.admin.is_protected());
        assert_eq!(loaded.warnings.len(), warnings, "{:?}", loaded.warnings);
        assert!(!format!("{:?}", loaded.settings).contains("0123456789abcdef"));
    }
    let open = with("admin: {token: 0123456789abcdef, open: [health, metrics]}").unwrap();
    assert_eq!(open.settings.admin.open, [Open::Health, Open::Metrics]);
}
