//! Addresses of others: backend endpoints, trusted proxies, the names that clients call us by.

use super::values::{quote, text};
use config::Value;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The longest host name (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;
/// The longest label of one.
const MAX_LABEL: usize = 63;

/// An S3 backend's entrance: `http://host[:port]`, nothing else. Displays as that.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// The name or address to connect to, in lower case; an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; 80 where none was given.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `Host` header: brackets around IPv6, no port where it is 80.
    pub fn authority(&self) -> String {
        let Endpoint { host, port } = self;
        match (host.contains(':'), *port) {
            (true, 80) => format!("[{host}]"),
            (true, port) => format!("[{host}]:{port}"),
            (false, 80) => host.clone(),
            (false, port) => format!("{host}:{port}"),
        }
    }

    /// Parses `http://host[:port][/]`. The error never quotes what may hold a password.
    pub(super) fn parse(text: &str) -> Result<Endpoint, String> {
        let scheme = text.split_once("://").map(|(scheme, rest)| (scheme.to_lowercase(), rest));
        let rest = match &scheme {
            Some((scheme, rest)) if scheme == "http" => *rest,
            Some((scheme, _)) if scheme == "https" => {
                return Err("TLS to the backend is not supported yet: use http://host[:port], \
                            within a network that you trust"
                    .into());
            }
            _ => return Err("must be http://host[:port], or embedded".into()),
        };
        if rest.contains('@') {
            return Err("must not hold a user or a password: set access_key and secret_key".into());
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err("must have no path: put the bucket under s3.bucket and what every key \
                        begins with under s3.key_prefix"
                .into());
        }
        let (host, port) = split_authority(rest).ok_or_else(|| {
            format!("must be http://host[:port] with a valid host and port, not {}", quote(text))
        })?;
        Ok(Endpoint { host, port: port.unwrap_or(80) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

/// Host (lower case, no brackets) and port of `host[:port]`.
fn split_authority(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            let host = host.parse::<Ipv6Addr>().ok()?.to_string();
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            (is_host(host).then(|| host.to_ascii_lowercase())?, port)
        }
    };
    let port = match port {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    Some((host, port))
}

/// A host name or an IPv4 address. Underscores are let through: container networks use them.
fn is_host(text: &str) -> bool {
    text.len() <= MAX_HOST
        && text.split('.').all(|label| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// An entry of `server.public_hosts`: `host[:port]`, in lower case, as clients send it.
pub(super) fn public_host(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    match split_authority(text) {
        Some(_) => Ok(text.to_ascii_lowercase()),
        None => Err(format!(
            "must be the host that clients use, such as s3.example.com or s3.example.com:8080, \
             not {}",
            quote(text)
        )),
    }
}

/// An entry of `server.virtual_host_domains`: a domain in lower case, without a port.
pub(super) fn domain(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    if is_host(text) && text.parse::<IpAddr>().is_err() {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!(
            "must be a domain without scheme, port or `*.`, such as s3.example.com (its buckets \
             are then bucket.s3.example.com), not {}",
            quote(text)
        ))
    }
}

/// A network of addresses, as in `10.0.0.0/8`; one address is a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// Whether `address` is in this network. An IPv4 address that arrived on an IPv6 socket
    /// (`::ffff:10.0.0.1`) counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        mask(address.to_canonical(), self.length) == Some(self.network)
            && address.to_canonical().is_ipv4() == self.network.is_ipv4()
    }

    /// Parses an entry of `server.trusted_proxies`.
    pub(super) fn parse(value: &Value) -> Result<Cidr, String> {
        let text = text(value)?;
        let wrong = || {
            let found = quote(text);
            format!("must be an address or a network, such as 10.0.0.0/8 or fd00::/8, not {found}")
        };
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
            None => longest,
        };
        let network = mask(address, length).ok_or_else(wrong)?;
        if network != address {
            return Err(format!(
                "has address bits after the first {length}: write {network}/{length}, or \
                 {address} for the one address"
            ));
        }
        Ok(Cidr { network, length })
    }
}

/// The first `length` bits of `address`; None if it has fewer.
fn mask(address: IpAddr, length: u8) -> Option<IpAddr> {
    let length = u32::from(length);
    match address {
        IpAddr::V4(address) => {
            let rest = 32_u32.checked_sub(length)?;
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let rest = 128_u32.checked_sub(length)?;
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Value {
        Value::new(None, text)
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        for (text, shown, host, port) in [
            ("http://minio:9000", "http://minio:9000", "minio", 9000),
            ("http://minio:9000/", "http://minio:9000", "minio", 9000),
            ("HTTP://S3.Example.COM", "http://s3.example.com", "s3.example.com", 80),
            ("http://127.0.0.1:80", "http://127.0.0.1", "127.0.0.1", 80),
            ("http://[::1]:9000", "http://[::1]:9000", "::1", 9000),
            ("http://[0:0::1]", "http://[::1]", "::1", 80),
            ("http://my_minio_1:9000", "http://my_minio_1:9000", "my_minio_1", 9000),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
            assert_eq!(endpoint.to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_an_endpoint_is_refused() {
        for text in [
            "",
            "minio:9000",
            "ftp://minio",
            "http://",
            "http:///",
            "http://:9000",
            "http://minio:",
            "http://minio:0",
            "http://minio:65536",
            "http://minio:+1",
            "http://minio:9000/bucket",
            "http://minio?x",
            "http://a b",
            "http://[::1",
            "http://[::1]9000",
            "http://::1",
            "http://a..b",
            "http://-a",
            "http://minio//",
        ] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
        let tls = Endpoint::parse("https://s3.amazonaws.com").unwrap_err();
        assert!(tls.starts_with("TLS to the backend is not supported yet"), "{tls}");
        let user = Endpoint::parse("http://me:canary@minio").unwrap_err();
        assert!(!user.contains("canary"), "{user}");
    }

    #[test]
    fn a_network_contains_its_addresses() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("::1", "::1", "::2"),
        ] {
            let network = Cidr::parse(&value(network)).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "::/129", "10.0.0.0/", "10.0.0.0/+8", "x"] {
            assert!(Cidr::parse(&value(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_domains_are_lower_case() {
        assert_eq!(public_host(&value("S3.example.com:8080")).unwrap(), "s3.example.com:8080");
        assert_eq!(domain(&value("S3.Example.com")).unwrap(), "s3.example.com");
        for text in ["", "http://s3.example.com", "s3.example.com/", "a:b"] {
            assert!(public_host(&value(text)).is_err(), "{text}");
        }
        for text in ["", "*.s3.example.com", ".s3", "s3.example.com:80", "127.0.0.1"] {
            assert!(domain(&value(text)).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "(http://)?[\\[\\]:/a-f0-9.]{0,20}|\\PC*") {
            if let Ok(endpoint) = Endpoint::parse(&text) {
                prop_assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
            let _ = Cidr::parse(&value(&text));
            let _ = (public_host(&value(&text)), domain(&value(&text)));
        }
    }
}
