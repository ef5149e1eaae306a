//! Idle connections to one bucket's endpoints, for one worker thread.
//!
//! The last one put in comes out first: under light load the others then grow old and close,
//! rather than all being kept just alive. A backend closes idle connections when it likes, and a
//! request sent into such a one is lost, so each is looked at ([`Connection::is_stale`]) before it is
//! given out.

use super::connection::Connection;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Idle connections, by endpoint.
#[derive(Debug)]
pub struct IdlePool {
    /// One queue for each endpoint, the longest idle in front.
    idle: Vec<VecDeque<Idle>>,
    cap: usize,
    idle_timeout: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl IdlePool {
    /// A pool for this many endpoints, with at most `cap` connections idle for each of them, and
    /// each for less than `idle_timeout`, which should lie below the backend's own.
    pub fn new(endpoints: usize, cap: usize, idle_timeout: Duration) -> Self {
        let idle = (0..endpoints).map(|_| VecDeque::new()).collect();
        IdlePool { idle, cap, idle_timeout }
    }

    /// The endpoint's connection that was used last. Those that are stale or too old are closed on
    /// the way; None: none is left, or the endpoint does not exist.
    pub fn checkout(&mut self, endpoint: usize, now: Instant) -> Option<Connection> {
        let timeout = self.idle_timeout;
        let queue = self.idle.get_mut(endpoint)?;
        while let Some(idle) = queue.pop_back() {
            if idle.is_usable(now, timeout) {
                return Some(idle.connection);
            }
        }
        None
    }

    /// Keeps a connection, if it can serve another request; closes it otherwise. When the endpoint
    /// has its fill, the longest idle makes room.
    pub fn checkin(&mut self, endpoint: usize, connection: Connection, now: Instant) {
        let Some(queue) = self.idle.get_mut(endpoint) else {
            return;
        };
        if self.cap == 0 || !connection.is_reusable() {
            return;
        }
        while queue.len() >= self.cap {
            queue.pop_front();
        }
        queue.push_back(Idle { connection, since: now });
    }

    /// Closes what is stale or has been idle for too long; returns how many.
    pub fn expire(&mut self, now: Instant) -> usize {
        let before = self.idle_count();
        for queue in &mut self.idle {
            queue.retain(|idle| idle.is_usable(now, self.idle_timeout));
        }
        before - self.idle_count()
    }

    /// Connections that are idle now.
    pub fn idle_count(&self) -> usize {
        self.idle.iter().map(VecDeque::len).sum()
    }
}

impl Idle {
    fn is_usable(&self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) < timeout && !self.connection.is_stale()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::connection::tests::{pair, until};
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// LIFO, per endpoint.
    #[tokio::test]
    async fn the_last_one_in_comes_out_first() {
        let (mut pool, now) = (IdlePool::new(2, 4, TIMEOUT), Instant::now());
        let mut servers = Vec::new();
        let mut ports = Vec::new();
        for _ in 0..2 {
            let (connection, server) = pair().await;
            ports.push(connection.descriptor().unwrap().local_addr().unwrap());
            servers.push(server);
            pool.checkin(1, connection, now);
        }
        assert_eq!(pool.idle_count(), 2);
        assert!(pool.checkout(0, now).is_none());
        assert!(pool.checkout(7, now).is_none());
        for port in ports.iter().rev() {
            let connection = pool.checkout(1, now).unwrap();
            assert_eq!(connection.descriptor().unwrap().local_addr().unwrap(), *port);
        }
        assert!(pool.checkout(1, now).is_none());
    }

    /// The cap holds, and the freshest stay.
    #[tokio::test]
    async fn the_longest_idle_makes_room() {
        let (mut pool, now) = (IdlePool::new(1, 2, TIMEOUT), Instant::now());
        let mut kept = Vec::new();
        for _ in 0..3 {
            let (connection, server) = pair().await;
            kept.push((connection.descriptor().unwrap().local_addr().unwrap(), server));
            pool.checkin(0, connection, now);
        }
        assert_eq!(pool.idle_count(), 2);
        let last = pool.checkout(0, now).unwrap();
        assert_eq!(last.descriptor().unwrap().local_addr().unwrap(), kept[2].0);

        let (connection, _server) = pair().await;
        let mut none = IdlePool::new(1, 0, TIMEOUT);
        none.checkin(0, connection, now);
        assert_eq!(none.idle_count(), 0);
    }

    /// An idle connection that the backend has closed is never given out.
    #[tokio::test]
    async fn stale_connections_are_skipped() {
        let (mut pool, now) = (IdlePool::new(1, 4, TIMEOUT), Instant::now());
        let (good, _good_server) = pair().await;
        let (bad, bad_server) = pair().await;
        drop(bad_server);
        until(|| bad.is_stale()).await;
        let expected = good.descriptor().unwrap().local_addr().unwrap();
        pool.checkin(0, good, now);
        pool.checkin(0, bad, now);
        assert_eq!(
            pool.checkout(0, now).unwrap().descriptor().unwrap().local_addr().unwrap(),
            expected
        );
        assert_eq!(pool.idle_count(), 0);

        let (bad, bad_server) = pair().await;
        pool.checkin(0, bad, now);
        drop(bad_server);
        until(|| pool.expire(now) == 1).await;
        assert!(pool.checkout(0, now).is_none());
    }

    /// Bytes that nobody asked for make a connection unusable: they would answer the next request.
    #[tokio::test]
    async fn unasked_bytes_make_a_connection_stale() {
        let (mut pool, now) = (IdlePool::new(1, 4, TIMEOUT), Instant::now());
        let (connection, mut server) = pair().await;
        pool.checkin(0, connection, now);
        server.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        until(|| {
            let found = pool.checkout(0, now);
            let gone = found.is_none();
            found.into_iter().for_each(|connection| pool.checkin(0, connection, now));
            gone
        })
        .await;
    }

    /// A connection that was idle for too long is closed.
    #[tokio::test]
    async fn old_connections_expire() {
        let (mut pool, now) = (IdlePool::new(1, 4, TIMEOUT), Instant::now());
        let mut servers = Vec::new();
        for age in [0, 5] {
            let (connection, server) = pair().await;
            servers.push(server);
            pool.checkin(0, connection, now + Duration::from_secs(age));
        }
        assert_eq!(pool.expire(now + Duration::from_secs(9)), 0);
        assert_eq!(pool.expire(now + TIMEOUT), 1);
        assert!(pool.checkout(0, now + TIMEOUT + Duration::from_secs(5)).is_none());
        assert_eq!(pool.idle_count(), 0);
    }

    /// A connection with a request under way never comes into the pool.
    #[tokio::test]
    async fn a_busy_connection_is_not_kept() {
        let (mut pool, now) = (IdlePool::new(1, 4, TIMEOUT), Instant::now());
        let (mut connection, _server) = pair().await;
        connection.send_head(b"PUT / HTTP/1.1\r\n\r\n", TIMEOUT).await.unwrap();
        pool.checkin(0, connection, now);
        assert_eq!(pool.idle_count(), 0);
    }
}
