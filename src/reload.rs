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

/// Looks whether something has changed, and takes it over. Ok(false): it has not. Errors: what is there
/// cannot be used; then nothing has changed.
pub(crate) type Look = Box<dyn FnMut() -> Result<bool, String> + Send>;

/// Files that belong together.
pub(crate) struct Watched {
    what: &'static str,
    look: Look,
    /// Why what is there cannot be used, as it was told last.
    refused: Option<String>,
}

impl Watched {
    /// `files` as they were when the process read them last, `seen`. `what` names them in the log and
    /// in metrics.
    pub(crate) fn new(
        what: &'static str,
        files: Vec<PathBuf>,
        mut seen: Option<Vec<Vec<u8>>>,
        mut apply: Apply,
    ) -> Self {
        let look = move || {
            let contents = files
                .iter()
                .map(|path| read(path).map_err(|error| format!("{}: {error}", path.display())))
                .collect::<Result<Vec<_>, _>>()?;
            if seen.as_ref() == Some(&contents) {
                return Ok(false);
            }
            apply(&contents)?;
            seen = Some(contents);
            Ok(true)
        };
        Watched::by(what, Box::new(look))
    }

    /// What `look` looks at.
    pub(crate) fn by(what: &'static str, look: Look) -> Self {
        Watched { what, look, refused: None }
    }

    /// Looks. Blocks.
    fn look(&mut self, metrics: &Metrics) {
        let count = |result| metrics.reloads.with_label_values(&[self.what, result]).inc();
        match (self.look)() {
            Ok(true) => {
                count("loaded");
                log::info!("{}: read again", self.what);
                self.refused = None;
            }
            Ok(false) if self.refused.is_some() => {
                log::info!("{}: what is in force is there again", self.what);
                self.refused = None;
            }
            Ok(false) => {}
            // Told once, and again when it is another.
            Err(why) if self.refused.as_ref() == Some(&why) => {}
            Err(why) => {
                count("refused");
                log::error!("{}: what was there before goes on: {why}", self.what);
                self.refused = Some(why);
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
        let apply: Apply = Box::new(move |contents: &[Vec<u8>]| {
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
        for text in ["one", "two", "two", "bad", "bad", "", "two", "three"] {
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
