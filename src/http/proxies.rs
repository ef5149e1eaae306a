//! What proxies before the gateway say of a request: only those that the settings trust are believed.

use crate::settings::Cidr;
use mizuchi_actors::http::RequestHead;
use std::net::{IpAddr, SocketAddr};

/// Entries of X-Forwarded-For that are looked at: more hops than any real way has.
const MAX_HOPS: usize = 32;

/// The proxies that are trusted, and the names that the gateway has behind them.
#[derive(Debug, Default)]
pub struct Proxies {
    /// `server.public_hosts`.
    pub public: Vec<String>,
    /// `server.trusted_proxies`: only what they forward is believed.
    pub trusted: Vec<Cidr>,
}

impl Proxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// The Host values that a client may have signed, behind a load balancer or not: what came in Host,
    /// what a trusted proxy says it was, and the public names.
    pub fn hosts(&self, head: &RequestHead, peer: Option<IpAddr>) -> Vec<String> {
        let mut found: Vec<String> = head.header("host").map(str::to_owned).into_iter().collect();
        if peer.is_some_and(|peer| self.trusts(peer))
            && let Some(forwarded) = head.header("x-forwarded-host")
            && let Some(first) = forwarded.split(',').next()
        {
            found.push(first.trim().to_owned());
        }
        found.extend(self.public.iter().cloned());
        found
    }

    /// The client's address: the connection's, or, as far as trusted proxies have forwarded it, the
    /// nearest one in X-Forwarded-For that is not a trusted proxy. What stands before that one was
    /// written by somebody who is not trusted. Where an entry is no address, the proxy that wrote it is
    /// the nearest that is known.
    pub fn client(&self, head: &RequestHead, peer: Option<IpAddr>) -> Option<IpAddr> {
        let mut known = peer?;
        let lines: Vec<&[u8]> = head.values("x-forwarded-for").collect();
        let entries = lines.iter().rev().flat_map(|line| line.rsplit(|&byte| byte == b','));
        for entry in entries.take(MAX_HOPS) {
            if !self.trusts(known) {
                break;
            }
            match std::str::from_utf8(entry).ok().and_then(|text| address(text.trim())) {
                Some(address) => known = address,
                None => break,
            }
        }
        Some(known)
    }
}

/// `192.0.2.1`, `2001:db8::1`, `[2001:db8::1]`, and each with a port, as some proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok();
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// "X-Forwarded-For counts only from configured proxies."
    #[test]
    fn the_client_is_the_nearest_that_no_trusted_proxy_is() {
        let trusted = ["10.0.0.0/8", "fd00::/8"];
        let trusted = trusted.map(|text| text.parse().unwrap()).to_vec();
        let proxies = Proxies { public: Vec::new(), trusted };
        for (peer, lines, client) in [
            ("192.0.2.9", "X-Forwarded-For: 10.0.0.1\r\n", "192.0.2.9"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
            // What the client itself has written there is not believed.
            ("10.0.0.1", "X-Forwarded-For: 10.9.9.9, 192.0.2.1\r\n", "192.0.2.1"),
            ("10.0.0.1", "X-Forwarded-For: 192.0.2.1 ,10.0.0.2\r\n", "192.0.2.1"),
            ("10.0.0.1", "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 192.0.2.1\r\n", "192.0.2.1"),
            ("fd00::1", "X-Forwarded-For: [2001:db8::1]:4711, 10.0.0.2:80\r\n", "2001:db8::1"),
            ("::ffff:10.0.0.1", "X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"),
            ("10.0.0.1", "X-Forwarded-For: 192.0.2.1, unknown\r\n", "10.0.0.1"),
            ("10.0.0.1", "X-Forwarded-For: 192.0.2.1,\r\n", "10.0.0.1"),
            ("10.0.0.1", "X-Forwarded-For: 10.0.0.3\r\n", "10.0.0.3"),
        ] {
            let text = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            let head = RequestHead::parse(Bytes::from(text)).unwrap();
            let found = proxies.client(&head, Some(peer.parse().unwrap()));
            assert_eq!(found, Some(client.parse().unwrap()), "{peer} {lines}");
        }
    }
}
