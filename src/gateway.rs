//! The gateway as a whole: from settings to listeners, and from a signal to the last answer.

use crate::admin::{self, Access, Admin, AdminServer};
use crate::audit::AuditLog;
use crate::authentication::{KeySets, authentication, credentials};
use crate::authorizers;
use crate::credentials::BackendCredentials;
use crate::http::{self, Admission, Edge, EdgeTls, Hosts, Route};
use crate::reload::{self, Watched};
use crate::seal_key;
use crate::settings::{BackendEndpoints, BucketSettings, Settings, parse_credentials};
use crate::tls::{LiveTls, TlsFiles};
use actix_server::{Server, ServerHandle};
use mizuchi_actors::auth_actor::AuthActor;
use mizuchi_actors::backend::{
    Authorities, Endpoint, EndpointHealth, RetryBudget, TlsClient, TrustError,
};
use mizuchi_actors::config::{
    Backend, BackendEndpoint, Bucket, Engine, SplitRules, Timeouts, UploadRules, Verifies, ZeroCopy,
};
use mizuchi_actors::guardian::{ActorRef, Guardian};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::orphan_sweeper::OrphanSweeper;
use mizuchi_actors::orphans::Ledger;
use mizuchi_actors::s3::address::{BucketAddress, Router};
use mizuchi_actors::s3::headers::Permissions;
use mizuchi_actors::s3::upload_id::UploadIdSealer;
use mizuchi_actors::s3_client_actor::S3ClientActor;
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::BackendKeys;
use mizuchi_actors::sigv4::session::SessionSealer;
use mizuchi_actors::sts::Sts;
use mizuchi_actors::tap::TapConfig;
use mizuchi_actors::transfer::{PipeCache, ReplayBudget, ReplayResources};
use mizuchi_actors::upload::RestartPolicy;
use mizuchi_actors::upload_supervisor::UploadSupervisor;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
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

/// Connections that may wait for their accept: a burst past it costs each client a second, the
/// first retransmission of its SYN.
const BACKLOG: u32 = 2048;

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

/// The files of clients' credentials, each with the verifiers of the buckets that use it.
fn credential_files(settings: &Settings, engine: &Engine) -> Vec<Watched> {
    let mut watched = Vec::new();
    for (bucket, built) in settings.buckets.iter().zip(&engine.buckets) {
        let sigv4 = &bucket.auth.sigv4;
        let (Some(file), true) = (&sigv4.credentials_file, bucket.auth.enabled) else { continue };
        let (path, inline) = (file.path.clone(), sigv4.credentials.clone());
        let bucket = Arc::clone(built);
        let apply = move |contents: &[Vec<u8>]| {
            let text = contents.first().map(|text| String::from_utf8_lossy(text));
            let environment = crate::cli::environment();
            let read = parse_credentials(&path, &text.unwrap_or_default(), &environment, &inline);
            let read = read.map_err(|errors| errors.to_string())?;
            if let Some(authentication) = &bucket.authentication {
                authentication.sigv4.replace(credentials(inline.iter().chain(&read)));
            }
            Ok(())
        };
        let seen = file.text.expose().as_bytes().to_vec();
        let paths = vec![file.path.clone()];
        let name = "auth.sigv4.credentials_file";
        watched.push(Watched::new(name, paths, Some(vec![seen]), Box::new(apply)));
    }
    watched
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
    let hosts = Arc::new(Hosts {
        public: settings.server.public_hosts.clone(),
        trusted: settings.server.trusted_proxies.clone(),
    });
    let overflow = engine.overflow.clone();
    let memory_per_part = usize::try_from(settings.replay.memory_per_part).unwrap_or(usize::MAX);
    let pipe_size = engine.zero_copy.pipe_buffer_size;
    let access_log = crate::logging::format(settings);
    let tap = Arc::new(tap(settings));
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
        guardian.child(uploads.clone(), move || {
            UploadSupervisor::new(Arc::clone(&of_uploads), clients.clone())
        });
        guardian.child(ActorRef::new("orphan sweeper"), move || {
            OrphanSweeper::new(Arc::clone(&of_sweeper), clients_of_sweeper.clone())
        });
        Route {
            engine: Arc::clone(&engine),
            router: Arc::clone(&router),
            hosts: Arc::clone(&hosts),
            admission: Arc::clone(&admission),
            auth,
            uploads,
            replay: ReplayResources {
                budget: Arc::clone(&engine.replay),
                pipes: Arc::new(PipeCache::new(pipe_size)),
                overflow: overflow.clone(),
                memory_per_part,
            },
            tap: Arc::clone(&tap),
            access_log,
            audit: audit.clone(),
            host_id: Arc::clone(&host_id),
        }
    })
}

/// What buckets share with each other, while they are built.
pub(crate) struct Shared {
    /// Where their backends' keys come from.
    pub(crate) backend_keys: BackendCredentials,
    /// Where the keys of tokens' issuers come from.
    pub(crate) key_sets: KeySets,
    /// Makes and opens sessions, where there is a token service.
    pub(crate) sessions: Option<Arc<SessionSealer>>,
    /// The files of policies.
    pub(crate) watched: Vec<Watched>,
}

impl Shared {
    pub(crate) fn new(metrics: Option<Metrics>) -> Self {
        Shared {
            backend_keys: BackendCredentials::new(metrics),
            key_sets: KeySets::default(),
            sessions: None,
            watched: Vec::new(),
        }
    }
}

/// The file in the state directory that knows the multipart uploads which somebody must end.
const UPLOADS_ON_RECORD: &str = "uploads.redb";

async fn engine(settings: &Settings, metrics: Metrics, shared: &mut Shared) -> io::Result<Engine> {
    let embedded = start_embedded(settings).await?;
    let key = match &settings.server.seal_key {
        Some(key) => *key.expose(),
        None => seal_key::load_or_make(&settings.server.state_directory)?,
    };
    if settings.sts.enabled {
        shared.sessions = Some(Arc::new(SessionSealer::new(&key)));
    }
    let authorizers = authorizers::build(&settings.buckets, &metrics, &mut shared.watched)?;
    let mut buckets = Vec::new();
    for (bucket, authorizer) in settings.buckets.iter().zip(authorizers) {
        let bucket = engine_bucket(bucket, embedded.as_ref(), shared)?;
        buckets.push(Arc::new(Bucket { authorizer, ..bucket }));
    }
    let replay = &settings.replay;
    if let Some(directory) = &replay.overflow {
        std::fs::create_dir_all(directory)?;
    }
    let state = settings.server.state_directory.clone();
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&state)?;
        Ledger::open(&state.join(UPLOADS_ON_RECORD), std::time::Instant::now())
    });
    let ledger = opened.await.map_err(io::Error::other)??;
    let sts = shared.sessions.clone().map(|sealer| Sts {
        tokens: buckets
            .iter()
            .filter_map(|bucket: &Arc<Bucket>| bucket.authentication.as_ref()?.jwt.clone())
            .collect(),
        sealer,
        longest: settings.sts.max_duration,
    });
    Ok(Engine {
        buckets,
        ledger,
        sealer: UploadIdSealer::new(key),
        sts,
        replay: ReplayBudget::new(replay.memory, replay.pipes, replay.overflow_limit),
        overflow: replay.overflow.clone(),
        zero_copy: ZeroCopy {
            enabled: settings.server.zero_copy.enabled,
            pipe_buffer_size: settings.server.zero_copy.pipe_buffer_size,
            min_body: settings.server.zero_copy.min_body,
        },
        metrics,
    })
}

/// Where the embedded backend listens, and its keys.
pub(crate) struct EmbeddedBackend {
    endpoint: Endpoint,
    access_key: String,
    secret_key: String,
}

#[cfg(feature = "embedded")]
async fn start_embedded(settings: &Settings) -> io::Result<Option<EmbeddedBackend>> {
    let names: Vec<String> = settings
        .buckets
        .iter()
        .filter(|bucket| bucket.s3.endpoint == BackendEndpoints::Embedded)
        .map(|bucket| bucket.s3.bucket.clone())
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let started = crate::embedded::start(&settings.embedded.directory, &names).await?;
    Ok(Some(EmbeddedBackend {
        endpoint: Endpoint::parse(&format!("http://{}", started.address))
            .map_err(io::Error::other)?,
        access_key: started.access_key,
        secret_key: started.secret_key,
    }))
}

#[cfg(not(feature = "embedded"))]
async fn start_embedded(settings: &Settings) -> io::Result<Option<EmbeddedBackend>> {
    if settings.buckets.iter().any(|bucket| bucket.s3.endpoint == BackendEndpoints::Embedded) {
        return Err(io::Error::other("`endpoint: embedded`: this build has no embedded backend"));
    }
    Ok(None)
}

fn tls_client(settings: &BucketSettings) -> Result<TlsClient, TrustError> {
    let tls = &settings.s3.tls;
    let authorities = match &tls.authorities {
        Some(authorities) => authorities.clone(),
        None => Authorities::of_system()?,
    };
    TlsClient::new(authorities, tls.server_name.as_deref())
}

/// A bucket as the engine sees it, but for its authorizer: that one is shared.
pub(crate) fn engine_bucket(
    settings: &BucketSettings,
    embedded: Option<&EmbeddedBackend>,
    shared: &mut Shared,
) -> io::Result<Bucket> {
    let s3 = &settings.s3;
    let (addresses, keys) = match (&s3.endpoint, embedded) {
        (BackendEndpoints::Embedded, Some(embedded)) => {
            let (id, secret) = (embedded.access_key.clone(), embedded.secret_key.clone());
            let keys = BackendKeys::fixed(id, Secret::new(secret), None, s3.region.clone());
            (vec![embedded.endpoint.clone()], Arc::new(keys))
        }
        (BackendEndpoints::Http(endpoints), _) => {
            (endpoints.clone(), shared.backend_keys.of(settings)?)
        }
        (BackendEndpoints::Embedded, None) => {
            let problem = format!("bucket {}: the embedded backend does not run", settings.name);
            return Err(io::Error::other(problem));
        }
    };
    let tls = addresses
        .iter()
        .any(Endpoint::is_tls)
        .then(|| tls_client(settings))
        .transpose()
        .map_err(|error| io::Error::other(format!("bucket {}: {error}", settings.name)))?;
    let endpoints = addresses
        .into_iter()
        .map(|endpoint| BackendEndpoint {
            endpoint,
            health: EndpointHealth::new(),
            retries: RetryBudget::new(),
        })
        .collect();
    let in_process = s3.endpoint == BackendEndpoints::Embedded;
    let upload = &settings.upload;
    Ok(Bucket {
        name: settings.name.clone(),
        region: settings.auth.sigv4.region.clone(),
        backend: Backend {
            bucket: s3.bucket.clone(),
            keys,
            endpoints,
            tls,
            path_style: s3.path_style || in_process,
            key_prefix: s3.key_prefix.clone(),
            // s3s-fs looks at a checksum when the object is stored already: nothing is left to it.
            verifies: Verifies {
                sha256: s3.verifies.sha256 && !in_process,
                md5: s3.verifies.md5 && !in_process,
                checksum: s3.verifies.checksum && !in_process,
                trailer: s3.verifies.trailer && !in_process,
                full_object: s3.verifies.full_object && !in_process,
            },
            allow_unsigned: s3.allow_unsigned,
            require_checksum: s3.require_checksum,
            timeouts: Timeouts {
                connect: s3.timeouts.connect,
                first_byte: s3.timeouts.first_byte,
                complete: s3.timeouts.complete,
                progress: s3.timeouts.progress,
            },
            idle_per_worker: s3.pool.idle_per_worker,
            idle_timeout: s3.pool.idle_timeout,
        },
        upload: UploadRules {
            max_object_size: upload.max_object_size,
            overwrite: upload.overwrite,
            complete_keepalive: upload.complete_keepalive,
            permissions: Permissions {
                acl: upload.allow.acl,
                tagging: upload.allow.tagging,
                lock: upload.allow.lock,
                redirect: upload.allow.redirect,
            },
            restart: RestartPolicy {
                max: upload.restart.max,
                window: upload.restart.window,
                backoff_base: upload.restart.backoff_base,
                backoff_cap: upload.restart.backoff_cap,
            },
            split: SplitRules {
                auto: upload.split.auto,
                threshold: upload.split.multipart_threshold,
                part_size: upload.split.part_size,
                concurrent_parts: upload.split.concurrent_parts,
                unknown_length: upload.split.unknown_length,
                ttl: upload.split.ttl,
            },
            list_multipart_uploads: upload.list_multipart_uploads,
            client_uploads_ttl: upload.client_uploads_ttl,
        },
        cors: settings.cors.clone(),
        authentication: authentication(
            &settings.auth,
            &mut shared.key_sets,
            shared.sessions.as_ref(),
        )?,
        authorizer: None,
    })
}
