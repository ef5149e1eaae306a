//! What a worker's HttpActor needs to take a request along its route.

use super::access_log::Format;
use super::proxies::Proxies;
use crate::audit::AuditLog;
use mizuchi_actors::auth_actor::AuthActor;
use mizuchi_actors::config::Engine;
use mizuchi_actors::guardian::ActorRef;
use mizuchi_actors::s3::address::Router;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::tap::TapConfig;
use mizuchi_actors::transfer::ReplayResources;
use mizuchi_actors::upload_supervisor::UploadSupervisor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The route of one worker's requests: the tree's actors, and what the process shares.
#[derive(Clone)]
pub struct Route {
    /// Shared by all threads.
    pub engine: Arc<Engine>,
    /// From Host and path to bucket and key.
    pub router: Arc<Router>,
    /// What proxies before the gateway may say.
    pub proxies: Arc<Proxies>,
    /// The process's admission.
    pub admission: Arc<Admission>,
    /// This tree's.
    pub auth: ActorRef<AuthActor>,
    /// This tree's.
    pub uploads: ActorRef<UploadSupervisor>,
    /// This worker's pipes and the process's replay budget.
    pub replay: ReplayResources,
    /// The bounds of a connection: a form's file is a body of its own.
    pub tap: Arc<TapConfig>,
    /// How access lines look.
    pub access_log: Format,
    /// Where decisions and ends are recorded.
    pub audit: AuditLog,
    /// Names this process in `x-amz-id-2`.
    pub host_id: Arc<str>,
}

/// Admission: a bounded number of requests in flight in the whole process.
#[derive(Debug)]
pub struct Admission {
    permits: Arc<Semaphore>,
    all: usize,
    queue_wait: Duration,
    draining: AtomicBool,
}

impl Admission {
    /// `uploads` requests at a time; a further one waits `queue_wait` for its turn.
    pub fn new(uploads: usize, queue_wait: Duration) -> Self {
        Admission {
            permits: Arc::new(Semaphore::new(uploads)),
            all: uploads,
            queue_wait,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on every request is refused with ServiceUnavailable.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether [`Admission::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Permits in use, and permits.
    pub fn usage(&self) -> (usize, usize) {
        (self.all.saturating_sub(self.permits.available_permits()), self.all)
    }

    /// A permit, taken before the first byte of a body is read.
    ///
    /// Errors: 503 SlowDown when none came free in time, 503 ServiceUnavailable while draining.
    pub async fn enter(&self) -> Result<OwnedSemaphorePermit, S3Error> {
        if self.draining.load(Ordering::Acquire) {
            return Err(S3Error::new(
                ErrorCode::ServiceUnavailable,
                "The gateway is shutting down. Send the request again, on a new connection.",
            ));
        }
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let turn = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(self.queue_wait, turn).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(S3Error::new(ErrorCode::SlowDown, "Please reduce your request rate.")),
        }
    }
}
