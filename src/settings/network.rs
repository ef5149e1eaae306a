//! Addresses of others: backend endpoints, trusted proxies, the names that clients call us by.

use super::values::{quote, text};
use config::Value;
use mizuchi_actors::backend::{Endpoint, EndpointError, is_host, split_authority};
use std::net::IpAddr;
use std::str::FromStr;

/// Parses an entry of `s3.endpoint`. The error never quotes what may hold a password.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    Endpoint::parse(text).map_err(|error| match error {
        EndpointError::Scheme => format!("{error}, or embedded"),
        EndpointError::Host | EndpointError::Port => {
            format!("{error}: http[s]://host[:port], not {}", quote(text))
        }
        EndpointError::Credentials | EndpointError::Path => error.to_string(),
    })
}

/// An entry of `server.public_hosts`: `host[:port]`, in lower case, as clients send it.
pub(super) fn public_host(value: &Value) -> Result<String, String> {
    let text = text(value)?;
    match split_authority(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err(format!(
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
        text(value)?.parse()
    }
}

impl FromStr for Cidr {
    type Err = String;

    /// An address, or a network: `10.0.0.0/8`.
    fn from_str(text: &str) -> Result<Cidr, String> {
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
    fn what_is_not_an_endpoint_is_told() {
        for (text, begin) in [
            ("minio:9000", "must be http://host[:port] or https://host[:port], or embedded"),
            ("", "must be http://"),
            ("http://minio/bucket", "must have no path: put the bucket under s3.bucket"),
            ("https://a b", "must have a host name, an IPv4 address or an IPv6 address in []: "),
            ("https://minio:0", "must have a port from 1 to 65535, or none: http[s]://host[:port]"),
            ("https://me:canary@minio", "must not hold a user or a password: set access_key"),
            ("http://me:can/ary@minio", "must not hold a user or a password: set access_key"),
        ] {
            let error = endpoint(text).unwrap_err();
            assert!(error.starts_with(begin), "{error}");
            assert!(!error.contains("can"), "{error}");
        }
        assert!(endpoint("http://a b").unwrap_err().ends_with("not `http://a b`"));
        assert_eq!(
            endpoint("https://S3.Example.com/").unwrap().to_string(),
            "https://s3.example.com"
        );
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
            let _ = endpoint(&text);
            let _ = Cidr::parse(&value(&text));
            let _ = (public_host(&value(&text)), domain(&value(&text)));
        }
    }
}
