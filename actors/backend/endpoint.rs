//! An entrance of the S3 backend, as the settings name it.
//!
//! Parsed by hand and strictly: a path, a query or credentials in an endpoint are mistakes that a
//! lenient parser would drop silently, or, a trailing `/`, turn into another bucket's name.

use rustls::pki_types::ServerName;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Bytes of the longest host name (RFC 1035, 2.3.4).
const MAX_HOST: usize = 253;

/// Bytes of the longest label of one (RFC 1035, 2.3.4).
const MAX_LABEL: usize = 63;

/// Why a text is not an endpoint. No error quotes the text: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `http://` nor `https://`.
    #[error("must be http://host[:port] or https://host[:port]")]
    Scheme,
    /// User name or password.
    #[error("must not hold a user or a password: set access_key and secret_key")]
    Credentials,
    /// A path, a query or a fragment.
    #[error(
        "must have no path: put the bucket under s3.bucket and what every key begins with under \
         s3.key_prefix"
    )]
    Path,
    /// No host, or no possible one.
    #[error("must have a host name, an IPv4 address or an IPv6 address in []")]
    Host,
    /// A port outside 1..=65535.
    #[error("must have a port from 1 to 65535, or none")]
    Port,
}

/// A backend's address: `http://host[:port]` or `https://host[:port]`, nothing else. Displays as
/// that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
}

impl Endpoint {
    /// Parses `http[s]://host[:port][/]`. The host comes out in lower case.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(EndpointError::Scheme),
        };
        if rest.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(EndpointError::Path);
        }
        let (host, port) = split_authority(rest)?;
        // What TLS cannot name it cannot verify: a last label of digits alone, for one.
        if tls && ServerName::try_from(host.as_str()).is_err() {
            return Err(EndpointError::Host);
        }
        let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let default = default_port(tls);
        let port = port.unwrap_or(default);
        let authority = if port == default { shown } else { format!("{shown}:{port}") };
        Ok(Endpoint { tls, host, port, authority })
    }

    /// Whether it is spoken to through TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The host to resolve or connect to; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Host header's value: `host`, or `host:port` for a port that is not the scheme's own.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

#[cfg(test)]
impl Endpoint {
    /// `http://host` without the checks: for hosts that cannot be.
    pub(super) fn unchecked(host: &str) -> Self {
        Endpoint { tls: false, host: host.into(), port: 80, authority: host.into() }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        Endpoint::parse(url)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// The port of the scheme, which the Host header leaves out.
fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// Host (lower case, no brackets) and port of `host[:port]`.
pub fn split_authority(text: &str) -> Result<(String, Option<u16>), EndpointError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (literal, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
            let address: Ipv6Addr = literal.parse().map_err(|_| EndpointError::Host)?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return Err(EndpointError::Host),
            };
            (address.to_string(), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (is_host(host).then(|| host.to_ascii_lowercase()).ok_or(EndpointError::Host)?, port)
        }
    };
    Ok((host, port.map(port_number).transpose()?))
}

/// A host name or an IPv4 address. The underscore is no letter of a host name, but the service
/// names of container networks have it.
pub fn is_host(text: &str) -> bool {
    let possible = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    text.len() <= MAX_HOST
        && text.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(possible)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

fn port_number(digits: &str) -> Result<u16, EndpointError> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EndpointError::Port);
    }
    digits.parse().ok().filter(|&port| port != 0).ok_or(EndpointError::Port)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// "If the port is the default port for the scheme, it is omitted" from Host (RFC 9110, 4.2.3).
    #[test]
    fn hosts_and_ports() {
        for (url, host, port, authority) in [
            ("http://minio", "minio", 80, "minio"),
            ("http://MinIO:9000/", "minio", 9000, "minio:9000"),
            (
                "HTTP://s3.eu-west-1.amazonaws.com:80",
                "s3.eu-west-1.amazonaws.com",
                80,
                "s3.eu-west-1.amazonaws.com",
            ),
            ("http://127.0.0.1:9000", "127.0.0.1", 9000, "127.0.0.1:9000"),
            ("http://[::1]:9000", "::1", 9000, "[::1]:9000"),
            ("http://[2001:DB8:0::1]/", "2001:db8::1", 80, "[2001:db8::1]"),
            ("http://object_store:1", "object_store", 1, "object_store:1"),
            ("http://minio:443", "minio", 443, "minio:443"),
            ("HTTPS://S3.Example.COM/", "s3.example.com", 443, "s3.example.com"),
            ("https://minio:443", "minio", 443, "minio"),
            ("https://minio:80", "minio", 80, "minio:80"),
            ("https://my_minio_1:9000", "my_minio_1", 9000, "my_minio_1:9000"),
            ("https://127.0.0.1", "127.0.0.1", 443, "127.0.0.1"),
            ("https://[0:0::1]", "::1", 443, "[::1]"),
            ("https://[::1]:9000", "::1", 9000, "[::1]:9000"),
        ] {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{url}");
            assert_eq!(endpoint.authority(), authority, "{url}");
            let scheme = url.split(':').next().unwrap().to_lowercase();
            assert_eq!(endpoint.is_tls(), scheme == "https");
            assert_eq!(endpoint.to_string(), format!("{scheme}://{authority}"));
        }
    }

    /// What an endpoint may not carry is refused, never dropped.
    #[test]
    fn mistakes_are_named() {
        use EndpointError::{Credentials, Host, Path, Port, Scheme};
        for (url, error) in [
            ("minio:9000", Scheme),
            ("ftp://minio", Scheme),
            ("", Scheme),
            ("https:/minio", Scheme),
            ("http://user:pass@minio", Credentials),
            ("https://user:pa/ss@minio", Credentials),
            ("http://minio/bucket", Path),
            ("http://minio//", Path),
            ("http://minio?x", Path),
            ("http://minio#x", Path),
            ("http://", Host),
            ("http:///", Host),
            ("http://:9000", Host),
            ("http://a b", Host),
            ("http://a\r\nx: y", Host),
            ("http://[::1", Host),
            ("http://[::1]9000", Host),
            ("http://[fe80::1%eth0]", Host),
            ("http://[127.0.0.1]", Host),
            ("http://minio:", Port),
            ("http://minio:0", Port),
            ("http://minio:65536", Port),
            ("http://minio:+80", Port),
            ("http://::1", Host),
            ("http://a..b", Host),
            ("http://-a", Host),
            ("https://a-", Host),
            ("https://minio.1", Host),
            ("https://", Host),
        ] {
            assert_eq!(Endpoint::parse(url), Err(error), "{url}");
        }
    }

    proptest! {
        /// Arbitrary text never panics, and what parses is stable.
        #[test]
        fn parsing_is_stable(
            url in "(https?://)?(\\PC{0,40}|[\\[\\]:/a-f0-9.]{0,20})",
        ) {
            if let Ok(endpoint) = Endpoint::parse(&url) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }
}
