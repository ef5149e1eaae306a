//! A listener's configuration as it is now, and the task that keeps it so.

use super::files::{Material, TlsFiles};
use arc_swap::ArcSwap;
use mizuchi_actors::metrics::Metrics;
use rustls::ServerConfig;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;

/// Bytes of a file that is read: hundreds of certificates.
const MAX_FILE: u64 = 4 << 20;

/// A listener's TLS, as its files were when they could last be used.
pub struct LiveTls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    read: Mutex<LastRead>,
}

/// What the task remembers from one look to the next.
struct LastRead {
    material: Material,
    /// Why the files cannot be used since then: said once.
    problem: Option<String>,
}

impl LiveTls {
    /// Reads the files. Blocks.
    ///
    /// Errors: what is wrong with them.
    pub fn load(files: TlsFiles) -> io::Result<LiveTls> {
        let material = files.read(&read_file).map_err(io::Error::other)?;
        let config = files.build(&material).map_err(io::Error::other)?;
        let read = Mutex::new(LastRead { material, problem: None });
        Ok(LiveTls { files, config: ArcSwap::from_pointee(config), read })
    }

    /// What a connection that begins now is accepted with.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Looks at the files again. Blocks.
    fn refresh(&self, metrics: &Metrics) {
        let mut last = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.files.read(&read_file);
        let made = match read {
            Ok(material) if material == last.material => {
                last.problem = None;
                return;
            }
            Ok(material) => self.files.build(&material).map(|config| (config, material)),
            Err(error) => Err(error),
        };
        match made {
            Ok((config, material)) => {
                self.config.store(Arc::new(config));
                *last = LastRead { material, problem: None };
                metrics.tls_reloads.with_label_values(&["loaded"]).inc();
                log::info!("TLS: the files of {} were read again", self.files.cert_file.display());
            }
            Err(error) => {
                let problem = error.to_string();
                if last.problem.as_ref() != Some(&problem) {
                    metrics.tls_reloads.with_label_values(&["failed"]).inc();
                    log::error!("TLS: what was there stays in use: {problem}");
                    last.problem = Some(problem);
                }
            }
        }
    }
}

/// Looks at the files of all listeners `every` so often, and on SIGHUP, until it is aborted.
pub fn watch(
    listeners: Vec<Arc<LiveTls>>,
    every: Duration,
    metrics: Metrics,
) -> io::Result<JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(actix_web::rt::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hangup.recv() => log::info!("SIGHUP: the certificates are looked at"),
            }
            let (listeners, metrics) = (listeners.clone(), metrics.clone());
            let looked = tokio::task::spawn_blocking(move || {
                listeners.iter().for_each(|listener| listener.refresh(&metrics));
            });
            if let Err(error) = looked.await {
                log::error!("TLS: the files could not be looked at: {error}");
            }
        }
    }))
}

/// Reads a text file of at most [`MAX_FILE`] bytes.
fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    Ok(text)
}
