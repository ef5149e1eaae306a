//! The gateway as a whole: from settings to listeners, and from a signal to the last answer.

use crate::admin::{self, Access, Admin, AdminServer};
use crate::audit::AuditLog;
use crate::authentication::credential_files;
use crate::credentials::BackendCredentials;
use crate::engine::{Shared, engine};
use crate::host::BACKLOG;
use crate::http::{self, Admission, Edge, EdgeTls, Proxies, Route};
use crate::reload;
use crate::settings::Settings;
use crate::tls::{LiveTls, TlsFiles};
use actix_server::{Server, ServerHandle};
use mizuchi_actors::auth_actor::AuthActor;
use mizuchi_actors::config::Engine;
use mizuchi_actors::delivery_actor::{DeliveryActor, Pace};
use mizuchi_actors::guardian::{ActorRef, Guardian};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::orphan_sweeper::OrphanSweeper;
use mizuchi_actors::orphans::Ledger;
use mizuchi_actors::s3::address::{BucketAddress, Router};
use mizuchi_actors::s3_client_actor::S3ClientActor;
use mizuchi_actors::spool::{Pacing, Places, Spool};
use mizuchi_actors::tap::TapConfig;
use mizuchi_actors::transfer::{PipeCache, Rate, ReplayResources, Turns};
use mizuchi_actors::upload_supervisor::UploadSupervisor;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A running gateway.
pub struct Gateway {
    address: SocketAddr,
    server: Server,
    handle: ServerHandle,
    admin: AdminServer,
    admission: Arc<Admission>,
    ready: Arc<AtomicBool>,
    ledger: Arc<Ledger>,
    spool: Option<Arc<Spool>>,
    /// Keep the keys of tokens' issuers fresh.
    key_sets: JoinSet<()>,
    /// Reads files again that change; ended with the gateway.
    reload: actix_web::rt::task::JoinHandle<io::Result<()>>,
    backend_keys: BackendCredentials,
    audit: AuditLog,
}

impl Gateway {
    /// Starts everything that the settings name. Must run inside an actix system.
    ///
    /// Errors when a listener, the state directory or the embedded backend cannot be had.
    pub async fn start(settings: Settings) -> io::Result<Gateway> {
        let metrics = Metrics::new().map_err(io::Error::other)?;
        let mut shared = Shared::new(Some(metrics.clone()));
        let engine = Arc::new(engine(&settings, metrics.clone(), &mut shared).await?);
        let audit = AuditLog::open(&settings.audit, metrics.clone()).await?;
        let Shared { mut backend_keys, key_sets, mut watched, .. } = shared;
        backend_keys.first().await;
        let key_sets = key_sets.keep(&metrics);
        let ready = Arc::new(AtomicBool::new(false));
        let ledger = Arc::clone(&engine.ledger);
        let spool = engine.spool.clone();
        let admission =
            Arc::new(Admission::new(settings.admission.uploads, settings.admission.queue_wait));
        let admin_tls = match &settings.admin.tls {
            None => None,
            Some(files) => Some(load_tls(files).await?),
        };
        let shown = Admin::new(Arc::clone(&ready), Arc::clone(&engine), Arc::clone(&admission));
        let access = Access::new(&settings.admin);
        let handshake_timeout = settings.server.handshake_timeout;
        let listening = admin::Listening {
            address: settings.admin.address,
            tls: admin_tls.clone(),
            handshake_timeout,
        };
        let admin = admin::serve(shown, access, listening)?;
        let (shared, admitted) = (Arc::clone(&engine), Arc::clone(&admission));
        let route = route_builder(&settings, shared, admitted, audit.clone());
        let tls = match &settings.server.tls {
            None => None,
            Some(files) => Some(load_tls(files).await?),
        };
        watched.extend(credential_files(&settings, &engine));
        watched.extend(tls.as_ref().map(|tls| tls.watched("server.tls")));
        watched.extend(admin_tls.as_ref().map(|tls| tls.watched("admin.tls")));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(|live| EdgeTls { live, handshake_timeout });
        let edge = Edge { tap: Arc::new(tap(&settings)), tls, route, metrics };
        let listener = listen(settings.server.address)?;
        let address = listener.local_addr()?;
        let builder = Server::build()
            .workers(settings.server.workers)
            .max_concurrent_connections(
                settings.server.max_connections.div_ceil(settings.server.workers),
            )
            .shutdown_timeout(settings.server.shutdown_grace.as_secs().max(1))
            .disable_signals();
        let draining = builder.graceful_shutdown_signal();
        let server = builder
            .listen("uploads", listener, move || http::service(edge.clone(), draining.clone()))?
            .run();
        let handle = server.handle();
        let every = settings.server.reload_interval;
        let reload = reload::run(watched, every, engine.metrics.clone());
        let reload = actix_web::rt::spawn(reload);
        ready.store(true, Ordering::Release);
        log::info!("uploads on {scheme}://{address}");
        log::info!("admin on {}://{}", admin.scheme(), admin.address());
        Ok(Gateway {
            address,
            server,
            handle,
            admin,
            admission,
            ready,
            ledger,
            spool,
            reload,
            backend_keys,
            key_sets,
            audit,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until SIGTERM or SIGINT, then: not ready, accept no more, finish what is in flight
    /// within the grace, end.
    pub async fn until_signal(self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let Gateway {
            server,
            handle,
            admin,
            admission,
            ready,
            ledger,
            spool,
            reload,
            backend_keys,
            mut key_sets,
            audit,
            ..
        } = self;
        let mut running = actix_web::rt::spawn(server);
        tokio::select! {
            ended = &mut running => {
                audit.close().await;
                return ended.map_err(io::Error::other)?;
            }
            _ = terminate.recv() => log::info!("SIGTERM: draining"),
            _ = interrupt.recv() => log::info!("SIGINT: draining"),
        }
        ready.store(false, Ordering::Release);
        admission.drain();
        reload.abort();
        handle.stop(true).await;
        let ended = running.await.map_err(io::Error::other)?;
        audit.close().await;
        if let Err(error) = ledger.flush().await {
            log::error!("the upload journal could not be written at the end: {error}");
        }
        if let Some(spool) = spool {
            spool.close().await;
        }
        drop(backend_keys);
        key_sets.shutdown().await;
        admin.stop();
        log::info!("stopped");
        ended
    }
}

async fn load_tls(files: &TlsFiles) -> io::Result<Arc<LiveTls>> {
    let files = files.clone();
    let loaded = tokio::task::spawn_blocking(move || LiveTls::load(files).map(Arc::new));
    loaded.await.map_err(io::Error::other)?
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn tap(settings: &Settings) -> TapConfig {
    let server = &settings.server;
    TapConfig {
        max_head: server.max_head,
        head_timeout: server.head_timeout,
        keep_alive: server.keep_alive,
        progress_interval: server.body_progress.interval,
        progress_bytes: server.body_progress.bytes,
        drain_bytes: server.drain.bytes,
        drain_time: server.drain.time,
    }
}

/// What builds each worker thread's tree.
fn route_builder(
    settings: &Settings,
    engine: Arc<Engine>,
    admission: Arc<Admission>,
    audit: AuditLog,
) -> Arc<dyn Fn(&mut Guardian) -> Route + Send + Sync> {
    let addresses = settings
        .buckets
        .iter()
        .map(|bucket| BucketAddress {
            name: bucket.name.clone(),
            path_prefix: bucket.path_prefix.clone(),
        })
        .collect();
    let router = Arc::new(Router::new(addresses, settings.server.virtual_host_domains.clone()));
    let proxies = Arc::new(Proxies {
        public: settings.server.public_hosts.clone(),
        trusted: settings.server.trusted_proxies.clone(),
    });
    let overflow = engine.overflow.clone();
    let memory_per_part = usize::try_from(settings.replay.memory_per_part).unwrap_or(usize::MAX);
    let pipe_size = engine.zero_copy.pipe_buffer_size;
    let access_log = crate::logging::format(settings);
    let tap = Arc::new(tap(settings));
    let (places, deliveries) = (Places::of(&engine.buckets), settings.spool.deliveries);
    let pace = Pace {
        permits: Arc::new(Semaphore::new(deliveries)),
        pacing: Pacing {
            base: settings.spool.backoff_base,
            cap: settings.spool.backoff_cap,
            share: Pacing::share_of(deliveries, places.written_back),
        },
        rate: settings.spool.max_rate.map(|rate| Arc::new(Rate::new(rate, Instant::now()))),
    };
    if let Some(spool) = &engine.spool {
        spool.set_places(places);
    }
    let host_id: Arc<str> = Arc::from(format!("{:032x}", rand::random::<u128>()));
    Arc::new(move |guardian| {
        let auth = ActorRef::new("auth actor");
        let uploads = ActorRef::new("upload supervisor");
        let mut clients = Vec::new();
        for bucket in &engine.buckets {
            let client = ActorRef::new("s3 client actor");
            let (engine, bucket) = (Arc::clone(&engine), Arc::clone(bucket));
            guardian
                .child(client.clone(), move || S3ClientActor::new(&engine, Arc::clone(&bucket)));
            clients.push(client);
        }
        let of_auth = Arc::clone(&engine);
        guardian.child(auth.clone(), move || AuthActor::new(Arc::clone(&of_auth)));
        let (of_uploads, of_sweeper) = (Arc::clone(&engine), Arc::clone(&engine));
        let clients_of_sweeper = clients.clone();
        let clients_of_delivery: Arc<[_]> = clients.clone().into();
        guardian.child(uploads.clone(), move || {
            UploadSupervisor::new(Arc::clone(&of_uploads), clients.clone())
        });
        let replay = ReplayResources {
            budget: Arc::clone(&engine.replay),
            pipes: Arc::new(PipeCache::new(pipe_size, Arc::clone(&engine.pipes))),
            overflow: overflow.clone(),
            memory_per_part,
            turns: Arc::new(Turns::new(Instant::now())),
        };
        let (of_delivery, uploads_of_delivery) = (Arc::clone(&engine), uploads.clone());
        let (replay_of_delivery, pace) = (replay.clone(), pace.clone());
        guardian.child(ActorRef::new("delivery actor"), move || {
            let (engine, uploads) = (Arc::clone(&of_delivery), uploads_of_delivery.clone());
            let (clients, replay) = (Arc::clone(&clients_of_delivery), replay_of_delivery.clone());
            DeliveryActor::new(engine, uploads, clients, replay, pace.clone())
        });
        guardian.child(ActorRef::new("orphan sweeper"), move || {
            OrphanSweeper::new(Arc::clone(&of_sweeper), clients_of_sweeper.clone())
        });
        Route {
            engine: Arc::clone(&engine),
            router: Arc::clone(&router),
            proxies: Arc::clone(&proxies),
            admission: Arc::clone(&admission),
            auth,
            uploads,
            replay,
            tap: Arc::clone(&tap),
            access_log,
            audit: audit.clone(),
            host_id: Arc::clone(&host_id),
        }
    })
}
