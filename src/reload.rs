//! Files that may change while the gateway runs: they are read again, and what they say is taken
//! over whole or not at all.
//!
//! They are polled, and their contents compared, rather than watched by inotify: a Kubernetes secret
//! changes by a symbolic link two folders up, an editor by a rename, and network file systems tell
//! nobody.

use mizuchi_actors::metrics::Metrics;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of the largest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// Takes the contents of the files over. Errors: why not; then nothing has changed.
pub(crate) type Apply = Box<dyn FnMut(&[Vec<u8>]) -> Result<(), String> + Send>;

/// Files that belong together.
pub(crate) struct Watched {
    what: &'static str,
    files: Vec<PathBuf>,
    apply: Apply,
    /// As last looked at; None: they could not be read.
    seen: Option<Vec<Vec<u8>>>,
}

impl Watched {
    /// `files` as they were when the process read them last, `seen`. `what` names them in the log and
    /// in metrics.
    pub(crate) fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        seen: Option<Vec<Vec<u8>>>,
        apply: Apply,
    ) -> Self {
        Watched { what, files, apply, seen }
    }

    /// Looks at the files, and takes them over if they have changed. Blocks.
    fn look(&mut self, metrics: &Metrics) {
        let read: Result<Vec<_>, String> = self
            .files
            .iter()
            .map(|path| read(path).map_err(|error| format!("{}: {error}", path.display())))
            .collect();
        let result = match read {
            Ok(contents) if self.seen.as_ref() == Some(&contents) => return,
            Ok(contents) => {
                let applied = (self.apply)(&contents);
                self.seen = Some(contents);
                applied
            }
            // Told once, until it can be read again.
            Err(_) if self.seen.is_none() => return,
            Err(error) => {
                self.seen = None;
                Err(error)
            }
        };
        let label = if result.is_ok() { "loaded" } else { "refused" };
        metrics.reloads.with_label_values(&[self.what, label]).inc();
        match result {
            Ok(()) => log::info!("{}: read again", self.what),
            Err(error) => {
                log::error!("{}: what was there before goes on: {error}", self.what);
            }
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    Ok(contents)
}

/// Looks at the files every `interval`, and at once on SIGHUP, for as long as it is polled.
///
/// Errors when SIGHUP cannot be listened for.
pub(crate) async fn run(
    mut watched: Vec<Watched>,
    interval: Duration,
    metrics: Metrics,
) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = hangup.recv() => {}
        }
        let metrics = metrics.clone();
        let looked = tokio::task::spawn_blocking(move || {
            for one in &mut watched {
                one.look(&metrics);
            }
            watched
        });
        watched = looked.await.map_err(io::Error::other)?;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn a_change_is_taken_over_once_and_an_error_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let metrics = Metrics::new().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&taken);
        let apply: Apply = Box::new(move |contents| {
            let text = String::from_utf8(contents[0].clone()).unwrap();
            if text == "bad" {
                return Err("it is bad".into());
            }
            sink.lock().unwrap().push(text);
            Ok(())
        });
        std::fs::write(&file, "one").unwrap();
        let seen = Some(vec![b"one".to_vec()]);
        let mut watched = Watched::new("file", vec![file.clone()], seen, apply);
        for text in ["one", "two", "two", "bad", "bad", "", "three"] {
            match text {
                "" => std::fs::remove_file(&file).unwrap(),
                text => std::fs::write(&file, text).unwrap(),
            }
            watched.look(&metrics);
            watched.look(&metrics);
        }
        assert_eq!(*taken.lock().unwrap(), ["two", "three"]);
        let count = |result| metrics.reloads.with_label_values(&["file", result]).get();
        assert_eq!((count("loaded"), count("refused")), (2, 2));
    }
}
