//! A listener's configuration as it is now.

use super::files::{Material, TlsFiles};
use crate::reload::Watched;
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A listener's TLS, as its files were when they could last be used.
pub struct LiveTls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    seen: Vec<Vec<u8>>,
}

impl LiveTls {
    /// Reads the files. Blocks.
    ///
    /// Errors: what is wrong with them.
    pub fn load(files: TlsFiles) -> io::Result<LiveTls> {
        let read = |path: &Path| std::fs::read_to_string(path);
        let material = files.read(&read).map_err(io::Error::other)?;
        let config = files.build(&material).map_err(io::Error::other)?;
        Ok(LiveTls { files, config: ArcSwap::from_pointee(config), seen: material.contents() })
    }

    /// What a connection that begins now is accepted with.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Its files, to be looked at again; `what` names them in the log.
    pub(crate) fn watched(self: &Arc<Self>, what: &'static str) -> Watched {
        let live = Arc::clone(self);
        let apply = move |contents: &[Vec<u8>]| {
            let material = Material::of(contents).ok_or("a file is missing")?;
            let config = live.files.build(&material).map_err(|error| error.to_string())?;
            live.config.store(Arc::new(config));
            Ok(())
        };
        Watched::new(what, self.files.paths(), Some(self.seen.clone()), Box::new(apply))
    }
}
