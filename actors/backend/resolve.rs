//! The backend's addresses, looked up again every half minute.
//!
//! S3 services move behind their name, so an address must not outlive the name's answer for long;
//! but a look-up for each connection would put the DNS server into the way of every upload. When a
//! look-up fails, the addresses known before go on being used: a DNS outage is no backend outage.
//!
//! getaddrinfo(3) blocks; tokio runs it on its blocking pool.

use super::endpoint::Endpoint;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long addresses are used before the name is looked up again: S3's own names live 5 to 60 s.
const TTL: Duration = Duration::from_secs(30);

/// The least time between two look-ups of a name whose addresses fail.
const LOOKUP_PAUSE: Duration = Duration::from_secs(1);

/// Addresses that are kept of one name: trying more would use the connect timeout up.
const MAX_ADDRESSES: usize = 8;

/// A cache of the backend's addresses. Its size is the number of endpoints in the settings.
#[derive(Debug, Default)]
pub struct Resolver {
    cache: Mutex<HashMap<(String, u16), Entry>>,
    /// Held during the first look-up of a name: a thousand uploads that start at once look it up
    /// once, not with a thread each.
    first: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone)]
struct Entry {
    addresses: Vec<SocketAddr>,
    asked: Instant,
    due: Instant,
}

impl Resolver {
    /// An empty cache.
    pub fn new() -> Self {
        Resolver::default()
    }

    /// The endpoint's addresses in the system's order of preference, at least one.
    ///
    /// Errors: the name is not known, the DNS server fails, or `limit` is over, and no earlier
    /// answer is there to go on with.
    pub async fn resolve(
        &self,
        endpoint: &Endpoint,
        now: Instant,
        limit: Duration,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = endpoint.host().parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, endpoint.port())]);
        }
        match self.cached(endpoint, now) {
            Some((addresses, false)) => Ok(addresses),
            // Half of the limit: the rest must do for connecting to an old address.
            Some((old, true)) => match look_up(endpoint, limit / 2).await {
                Ok(addresses) => Ok(self.store(endpoint, addresses, now)),
                Err(error) => {
                    log::warn!("{endpoint}: {error}; the addresses known before are used");
                    Ok(old)
                }
            },
            None => timeout(limit, self.look_up_first(endpoint, now, limit))
                .await
                .unwrap_or_else(|_| Err(too_slow())),
        }
    }

    /// No address of the endpoint took a connection: it may have moved, so the next call looks its
    /// name up again, though not more often than once a second.
    pub fn suspect(&self, endpoint: &Endpoint) {
        if let Some(entry) = self.lock().get_mut(&key(endpoint)) {
            entry.due = entry.due.min(entry.asked + LOOKUP_PAUSE);
        }
    }

    /// This address took a connection: it is tried first until the name is looked up again, so
    /// that a silent one before it costs its share of the connect timeout only once.
    pub fn prefer(&self, endpoint: &Endpoint, address: SocketAddr) {
        if let Some(entry) = self.lock().get_mut(&key(endpoint))
            && let Some(at) = entry.addresses.iter().position(|&known| known == address)
            && let Some(upto) = entry.addresses.get_mut(..=at)
        {
            upto.rotate_right(1);
        }
    }

    async fn look_up_first(
        &self,
        endpoint: &Endpoint,
        now: Instant,
        limit: Duration,
    ) -> io::Result<Vec<SocketAddr>> {
        let _turn = self.first.lock().await;
        if let Some((addresses, _)) = self.cached(endpoint, now) {
            return Ok(addresses);
        }
        let addresses = look_up(endpoint, limit).await?;
        Ok(self.store(endpoint, addresses, now))
    }

    /// What is known, and whether the caller shall look the name up again. Only one caller is told
    /// so at a time; the others go on with what is known.
    fn cached(&self, endpoint: &Endpoint, now: Instant) -> Option<(Vec<SocketAddr>, bool)> {
        let mut cache = self.lock();
        let entry = cache.get_mut(&key(endpoint))?;
        let due = now >= entry.due;
        if due {
            entry.asked = now;
            entry.due = now + LOOKUP_PAUSE;
        }
        Some((entry.addresses.clone(), due))
    }

    fn store(
        &self,
        endpoint: &Endpoint,
        addresses: Vec<SocketAddr>,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let entry = Entry { addresses: addresses.clone(), asked: now, due: now + TTL };
        self.lock().insert(key(endpoint), entry);
        addresses
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, u16), Entry>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(endpoint: &Endpoint) -> (String, u16) {
    (endpoint.host().to_owned(), endpoint.port())
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the name's look-up took too long")
}

async fn look_up(endpoint: &Endpoint, limit: Duration) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(limit, tokio::net::lookup_host((endpoint.host(), endpoint.port())));
    let found = found.await.map_err(|_| too_slow())??;
    let addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn endpoint(url: &str) -> Endpoint {
        url.parse().unwrap()
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// An address is its own answer, with no look-up and no cache.
    #[tokio::test]
    async fn addresses_are_not_looked_up() {
        let resolver = Resolver::new();
        for (url, expected) in [
            ("http://192.0.2.1:9000", "192.0.2.1:9000"),
            ("http://[2001:db8::1]", "[2001:db8::1]:80"),
        ] {
            let found = resolver.resolve(&endpoint(url), Instant::now(), LIMIT).await.unwrap();
            assert_eq!(found, [expected.parse().unwrap()]);
        }
        assert!(resolver.lock().is_empty());
    }

    /// A name is looked up once, and then again when its time is over.
    #[tokio::test]
    async fn names_are_cached_for_a_while() {
        let (resolver, name, now) =
            (Resolver::new(), endpoint("http://localhost:1"), Instant::now());
        let found = resolver.resolve(&name, now, LIMIT).await.unwrap();
        assert!(found.iter().all(|found| found.ip().is_loopback()));
        resolver.store(&name, vec![address(1)], now);
        let just_before = now + TTL - Duration::from_millis(1);
        assert_eq!(resolver.resolve(&name, just_before, LIMIT).await.unwrap(), [address(1)]);
        assert_ne!(resolver.resolve(&name, now + TTL, LIMIT).await.unwrap(), [address(1)]);
    }

    /// A DNS outage is no backend outage: known addresses go on being used.
    #[tokio::test]
    async fn old_addresses_outlive_a_failing_look_up() {
        // RFC 1035, 2.3.4: a label has 63 bytes at most, so no server is asked for this one.
        let name = Endpoint::unchecked(&"a".repeat(64));
        let (resolver, now) = (Resolver::new(), Instant::now());
        assert!(resolver.resolve(&name, now, LIMIT).await.is_err());
        resolver.store(&name, vec![address(80)], now);
        assert_eq!(resolver.resolve(&name, now + TTL, LIMIT).await.unwrap(), [address(80)]);
    }

    /// One caller refreshes; meanwhile the others use what is known.
    #[test]
    fn only_one_caller_refreshes() {
        let (resolver, name, now) = (Resolver::new(), endpoint("http://backend"), Instant::now());
        resolver.store(&name, vec![address(80)], now);
        let due = |now| resolver.cached(&name, now).unwrap().1;
        assert!(!due(now));
        assert!(due(now + TTL));
        assert!(!due(now + TTL));
        assert!(due(now + TTL + LOOKUP_PAUSE));
    }

    /// The address that works comes first; the others keep their order.
    #[test]
    fn the_working_address_is_preferred() {
        let (resolver, name, now) = (Resolver::new(), endpoint("http://backend"), Instant::now());
        resolver.prefer(&name, address(1));
        resolver.store(&name, [1, 2, 3].map(address).to_vec(), now);
        resolver.prefer(&name, address(3));
        resolver.prefer(&name, address(9));
        assert_eq!(resolver.cached(&name, now).unwrap().0, [3, 1, 2].map(address));
    }

    /// Failing addresses are looked up again early, but not for every failed connection.
    #[test]
    fn suspicion_brings_the_next_look_up_forward() {
        let (resolver, name, now) = (Resolver::new(), endpoint("http://backend"), Instant::now());
        resolver.suspect(&name);
        resolver.store(&name, vec![address(80)], now);
        resolver.suspect(&name);
        assert!(!resolver.cached(&name, now).unwrap().1);
        assert!(resolver.cached(&name, now + LOOKUP_PAUSE).unwrap().1);
    }
}
