//! The S3ClientActor: one per worker and bucket. Owns the pool of backend connections, chooses
//! among the bucket's endpoints, and signs each attempt's head.
//!
//! A lease is a whole connection: it travels to the part worker that moves bytes on it and comes
//! back with [`Release`] when it is clean. One that is dropped on the way is closed.

use crate::answer::Answer;
use crate::backend::{BackendError, Connection, IdlePool, Resolver, pick_endpoint};
use crate::blocks;
use crate::config::{Bucket, Engine};
use crate::metrics::{Counted, Metrics};
use crate::s3::upstream::UpstreamTemplate;
use actix::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// How often idle connections are looked through for stale ones.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// Asks for a connection and a signed head for one attempt.
#[derive(Message)]
#[rtype(result = "Result<Lease, BackendError>")]
pub struct LeaseConnection {
    /// The request; None: the caller signs and sends a head of its own.
    pub request: Option<Arc<UpstreamTemplate>>,
    /// Headers known only now.
    pub more: Vec<(String, String)>,
    /// The body's length, where it is known only now.
    pub length: Option<u64>,
    /// The attempt's number, from 0: a second attempt gets a fresh connection.
    pub attempt: u32,
}

/// A connection on loan, with the head to send first.
#[derive(Debug)]
pub struct Lease {
    /// The connection.
    pub connection: Connection,
    /// The signed head; empty when none was asked for.
    pub head: Vec<u8>,
    /// What the Host header says there.
    pub authority: String,
    /// Which of the bucket's endpoints it leads to.
    pub endpoint: usize,
    _counted: Counted,
}

/// Gives a connection back whose answer was read to its end.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Release(pub Lease);

/// See the module.
pub struct S3ClientActor {
    bucket: Arc<Bucket>,
    metrics: Metrics,
    pool: IdlePool,
    idle_shown: i64,
    resolver: Arc<Resolver>,
}

impl S3ClientActor {
    /// The client of one bucket.
    pub fn new(engine: &Engine, bucket: Arc<Bucket>) -> Self {
        S3ClientActor {
            pool: IdlePool::new(
                bucket.backend.endpoints.len(),
                bucket.backend.idle_per_worker,
                bucket.backend.idle_timeout,
            ),
            bucket,
            metrics: engine.metrics.clone(),
            idle_shown: 0,
            resolver: Arc::new(Resolver::new()),
        }
    }

    fn show_idle(&mut self) {
        let idle = i64::try_from(self.pool.idle_count()).unwrap_or(i64::MAX);
        self.metrics.pooled_connections.add(idle - self.idle_shown);
        self.idle_shown = idle;
    }
}

impl Actor for S3ClientActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(EXPIRE_EVERY, |client, _| {
            client.pool.expire(Instant::now());
            blocks::trim(Instant::now());
            client.show_idle();
        });
    }
}

impl Drop for S3ClientActor {
    fn drop(&mut self) {
        self.metrics.pooled_connections.sub(self.idle_shown);
    }
}

impl Handler<LeaseConnection> for S3ClientActor {
    type Result = Answer<Result<Lease, BackendError>>;

    fn handle(&mut self, message: LeaseConnection, _: &mut Self::Context) -> Self::Result {
        let now = Instant::now();
        let bucket = Arc::clone(&self.bucket);
        let index = pick_endpoint(
            bucket.backend.endpoints.iter().map(|endpoint| &endpoint.health),
            now,
            rand::random(),
        );
        let pooled = if message.attempt == 0 { self.pool.checkout(index, now) } else { None };
        self.show_idle();
        let counted = Counted::new(&self.metrics.leased_connections);
        let resolver = Arc::clone(&self.resolver);
        Answer::of(async move {
            let backend = &bucket.backend;
            let Some(entry) = backend.endpoints.get(index) else {
                return Err(BackendError::no_endpoint());
            };
            let now = OffsetDateTime::now_utc();
            backend.keys.signer(now)?;
            let connection = match pooled {
                Some(connection) => connection,
                None => {
                    let (tls, limit) = (backend.tls.as_ref(), backend.timeouts.connect);
                    match Connection::connect(&resolver, &entry.endpoint, tls, limit).await {
                        Ok(connection) => connection,
                        Err(error) => {
                            entry.health.failed(Instant::now(), rand::random());
                            return Err(error);
                        }
                    }
                }
            };
            let authority = entry.endpoint.authority().to_owned();
            let now = OffsetDateTime::now_utc();
            let head = message
                .request
                .map(|request| {
                    request.head(backend, &authority, &message.more, message.length, now)
                })
                .transpose()?
                .unwrap_or_default();
            Ok(Lease { connection, head, authority, endpoint: index, _counted: counted })
        })
    }
}

impl Handler<Release> for S3ClientActor {
    type Result = ();

    fn handle(&mut self, Release(lease): Release, _: &mut Self::Context) {
        self.pool.checkin(lease.endpoint, lease.connection, Instant::now());
        self.show_idle();
    }
}
