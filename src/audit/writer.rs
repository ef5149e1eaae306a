//! The thread that writes the lines: whatever is waiting, up to [`BATCH`], with one write.

use super::rotate::RotatingFile;
use mizuchi_actors::metrics::Metrics;
use std::io::{self, Write as _};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

/// Most bytes of lines that are written at once: the least `audit.max_size`, so that no file is larger.
const BATCH: usize = 64 * 1024;

/// What the thread is asked for.
pub(super) enum Order {
    /// Write this line, its end included.
    Line {
        text: Vec<u8>,
        /// Told whether it is in the file.
        written: Option<oneshot::Sender<bool>>,
    },
    /// Everything before this is to be on the disk; then end.
    Close(oneshot::Sender<()>),
}

/// Where lines go.
#[derive(Debug)]
pub(super) enum Sink {
    Stdout,
    File(RotatingFile),
}

impl Sink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Sink::File(file) => file.write(lines, OffsetDateTime::now_utc()),
        }
    }
}

/// Writes until it is told to close, or until nobody is left who could send a line.
pub(super) fn run(mut orders: mpsc::Receiver<Order>, mut sink: Sink, metrics: &Metrics) {
    let (mut batch, mut waiting) = (Vec::new(), Vec::new());
    let mut next = orders.blocking_recv();
    while let Some(order) = next {
        let closing = match order {
            Order::Line { text, written } => {
                if !batch.is_empty() && batch.len() + text.len() > BATCH {
                    write(&mut sink, &mut batch, &mut waiting, metrics);
                }
                batch.extend_from_slice(&text);
                waiting.push(written);
                None
            }
            Order::Close(done) => Some(done),
        };
        let more = if closing.is_some() { None } else { orders.try_recv().ok() };
        if more.is_none() && !batch.is_empty() {
            write(&mut sink, &mut batch, &mut waiting, metrics);
        }
        if let Some(done) = closing {
            if let Sink::File(file) = &sink
                && let Err(error) = file.sync()
            {
                log::error!("the audit log could not be synced: {error}");
            }
            let _ = done.send(());
            return;
        }
        next = more.or_else(|| orders.blocking_recv());
    }
}

fn write(
    sink: &mut Sink,
    batch: &mut Vec<u8>,
    waiting: &mut Vec<Option<oneshot::Sender<bool>>>,
    metrics: &Metrics,
) {
    let result = sink.write(batch);
    if let Err(error) = &result {
        log::error!("{} lines of the audit log could not be written: {error}", waiting.len());
        metrics.audit_lost.inc_by(waiting.len() as u64);
    }
    for told in waiting.drain(..).flatten() {
        // Who waited for it may have given up.
        let _ = told.send(result.is_ok());
    }
    batch.clear();
}
