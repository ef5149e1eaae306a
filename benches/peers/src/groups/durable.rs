//! Groups about stable storage.

use super::*;
use crate::measure::Shape;

/// What the disk itself can do with as many 4 KiB PUTs, and with large bodies.
const GROUPED: Spec = Spec::Append { writes: 64, size: 4 * KIB };
const SEQUENTIAL: Spec = Spec::Append { writes: 1, size: 64 * MIB };

/// As `server.workers` has it by default on this machine's two cores.
const WORKERS: u32 = 2;

pub(super) fn durable(runner: &mut Runner) -> Result<Vec<Cell>> {
    runner.note(
        "upload.mode: write_back; what is acknowledged is delivered to the sink at the same time. Beside \
         it one thread that appends as many bodies to one file, with an fdatasync(2) after each group, on the \
         same disk"
            .to_owned(),
    );
    let with = |key, label, away| {
        Spec::Gateway(Settings {
            workers: WORKERS,
            away,
            upload: "      mode: write_back\n",
            more: "spool:\n  min_free: 0\n",
            ..Settings::new(key, label)
        })
    };
    let ours = with("gw-back", "write-back", false);
    let away = with("gw-away", "write-back, the backend is away", true);
    let columns = vec![Metric::PerSecond, Metric::P50, Metric::P99, Metric::P999, Metric::PeakMib];
    let works =
        [(4 * KIB, 64, GROUPED), (64 * MIB, 4, SEQUENTIAL)].map(|(size, connections, disk)| Work {
            name: cell_name(size, connections),
            shape: Shape::new(size, connections, 3000),
            specs: vec![ours.clone(), away.clone(), Spec::Direct(Behind::Plain), disk],
            columns: columns.clone(),
            rounds: 5,
        });
    measure(runner, works.into())
}
