//! An entrance of the S3 backend, as the settings name it.
//!
//! Parsed by hand and strictly: a path, a query or credentials in an endpoint are mistakes that a
//! lenient parser would drop silently, or, a trailing `/`, turn into another bucket's name.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The scheme's default port, which the Host header leaves out.
const HTTP_PORT: u16 = 80;

/// Bytes of the longest host name (RFC 1035, 2.3.4).
const MAX_HOST: usize = 253;

/// Why a text is not an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither `http://` nor `https://`.
    #[error("an endpoint is a URL that begins with http://")]
    Scheme,
    /// `https://`.
    #[error("https:// endpoints are not supported: use http://")]
    Https,
    /// User name or password.
    #[error("an endpoint carries no credentials: set access_key and secret_key")]
    Credentials,
    /// A path, a query or a fragment.
    #[error("an endpoint has no path, query or fragment")]
    Path,
    /// No host, or no possible one.
    #[error("the endpoint's host is not a host name, an IPv4 address or an IPv6 address in []")]
    Host,
    /// A port outside 1..=65535.
    #[error("the endpoint's port is not a number from 1 to 65535")]
    Port,
}

/// A backend's address. Plain HTTP only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
    authority: String,
}

impl Endpoint {
    /// Parses `http://host[:port][/]`. The host comes out in lower case.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = url.split_once("://").ok_or(EndpointError::Scheme)?;
        if scheme.eq_ignore_ascii_case("https") {
            return Err(EndpointError::Https);
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(EndpointError::Scheme);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(EndpointError::Path);
        }
        if rest.contains('@') {
            return Err(EndpointError::Credentials);
        }
        let (shown, host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (literal, port) = rest.split_once(']').ok_or(EndpointError::Host)?;
                let address: Ipv6Addr = literal.parse().map_err(|_| EndpointError::Host)?;
                let port = match port.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if port.is_empty() => None,
                    None => return Err(EndpointError::Host),
                };
                (format!("[{address}]"), address.to_string(), port)
            }
            None => {
                let (host, port) = match rest.split_once(':') {
                    Some((host, port)) => (host, Some(port)),
                    None => (rest, None),
                };
                let host = host_name(host)?;
                (host.clone(), host, port)
            }
        };
        let port = port.map_or(Ok(HTTP_PORT), port_number)?;
        let authority = if port == HTTP_PORT { shown } else { format!("{shown}:{port}") };
        Ok(Endpoint { host, port, authority })
    }

    /// The host to resolve or connect to; an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Host header's value: `host`, or `host:port` for a port other than 80.
    pub fn authority(&self) -> &str {
        &self.authority
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
        write!(f, "http://{}", self.authority)
    }
}

fn host_name(host: &str) -> Result<String, EndpointError> {
    // The underscore is no letter of a host name, but Docker's service names have it.
    let possible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(possible) {
        return Err(EndpointError::Host);
    }
    Ok(host.to_ascii_lowercase())
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
        ] {
            let endpoint: Endpoint = url.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{url}");
            assert_eq!(endpoint.authority(), authority, "{url}");
        }
    }

    /// What an endpoint may not carry is refused, never dropped.
    #[test]
    fn mistakes_are_named() {
        use EndpointError::{Credentials, Host, Https, Path, Port, Scheme};
        for (url, error) in [
            ("minio:9000", Scheme),
            ("ftp://minio", Scheme),
            ("", Scheme),
            ("https://minio", Https),
            ("http://user:pass@minio", Credentials),
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
        ] {
            assert_eq!(Endpoint::parse(url), Err(error), "{url}");
        }
    }

    proptest! {
        /// Arbitrary text never panics, and what parses is stable.
        #[test]
        fn parsing_is_stable(url in "(http://)?\\PC{0,40}") {
            if let Ok(endpoint) = Endpoint::parse(&url) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
    }
}
