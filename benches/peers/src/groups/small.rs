//! Groups about the cost of a request, and about what grows.

use super::*;
use crate::load::Pace;
use crate::measure::Shape;

/// Connections of the small requests.
const CONNECTIONS: usize = 32;
/// Small requests a second beside the large uploads.
const BESIDE_RATE: f64 = 500.0;

/// Clients that never finish what they began.
const SLOW: usize = 5000;
/// The cell without them.
const ALONE: &str = "4 KiB × 1, alone";
/// The cell with them.
const BESIDE_SLOW: &str = "4 KiB × 1, beside 5,000 slow clients";

pub(super) fn small(runner: &mut Runner) -> Result<Vec<Cell>> {
    let specs = vec![
        direct(),
        bare_splice(),
        ours(),
        ours_open(),
        haproxy(),
        nginx(),
        Spec::Pingora,
        Spec::S3s,
    ];
    let peak = runner.cell(Work {
        name: cell_name(4 * KIB, CONNECTIONS),
        shape: Shape::new(4 * KIB, CONNECTIONS, 1500),
        specs,
        columns: REQUESTS.to_vec(),
        rounds: 5,
    })?;
    let mut cells = Vec::new();
    for spec in [ours(), haproxy(), nginx()] {
        let row = peak.row(&spec.key());
        let Some(rate) = row.and_then(|row| row.spread(Metric::PerSecond)) else { continue };
        let rate = (rate.median / 2.0).round();
        cells.push(runner.cell(Work {
            name: half_load(&spec.key()),
            shape: Shape { pace: Pace::Open(rate), ..Shape::new(4 * KIB, CONNECTIONS, 1500) },
            specs: vec![direct(), spec],
            columns: REQUESTS.to_vec(),
            rounds: 3,
        })?);
    }
    cells.insert(0, peak);
    Ok(cells)
}

/// The cell of a subject at half of its peak.
pub(crate) fn half_load(key: &str) -> String {
    format!("4 KiB × 32, open loop at half of the peak of {key}")
}

pub(super) fn mix(runner: &mut Runner) -> Result<Vec<Cell>> {
    runner.note(format!(
        "Four uploads of 1 GiB as fast as they go, and {BESIDE_RATE} PUTs of 4 KiB a second on 16 \
         connections, whose latencies count from when each was due; one worker, one thread"
    ));
    let small = Shape { pace: Pace::Open(BESIDE_RATE), ..Shape::new(4 * KIB, 16, 3000) };
    let endless = Shape { window: 600_000, ..Shape::new(GIB, 4, 0) };
    let columns =
        vec![Metric::P50, Metric::P99, Metric::P999, Metric::GbPerSecond, Metric::CpuPerGb];
    let work = |name: &str, beside: Option<Box<Shape>>| Work {
        name: name.to_owned(),
        shape: Shape { beside, ..small.clone() },
        specs: vec![direct(), ours(), ours_whole(), haproxy(), haproxy_1m(), nginx()],
        columns: columns.clone(),
        rounds: 3,
    };
    let alone = work("4 KiB PUTs alone", None);
    let beside = work("4 KiB PUTs beside four uploads of 1 GiB", Some(Box::new(endless)));
    measure(runner, vec![Work { rounds: 1, ..alone }, beside])
}

pub(super) fn slow(runner: &mut Runner) -> Result<Vec<Cell>> {
    let alone = Shape::new(4 * KIB, 1, 2000);
    let slow = Shape { pace: Pace::Slow, ..Shape::new(MIB, SLOW, 0) };
    let beside = Shape { beside: Some(Box::new(slow)), ..alone.clone() };
    let works = [(ALONE, alone), (BESIDE_SLOW, beside)].map(|(name, shape)| Work {
        name: name.to_owned(),
        shape,
        specs: vec![ours(), haproxy(), nginx()],
        columns: vec![Metric::P50, Metric::P99, Metric::P999, Metric::CpuPerRequest],
        rounds: 3,
    });
    measure(runner, works.into())
}

pub(super) fn scale(runner: &mut Runner) -> Result<Vec<Cell>> {
    let mut works = Vec::new();
    for connections in [1, 10, 100, 1000] {
        works.push(Work {
            name: cell_name(4 * KIB, connections),
            shape: Shape::new(4 * KIB, connections, 700),
            specs: vec![bare_splice(), ours(), haproxy()],
            columns: REQUESTS.to_vec(),
            rounds: 3,
        });
    }
    for size in [1, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 128 * MIB, 5 * GIB] {
        let mut columns = BODIES.to_vec();
        // What goes in parts makes more requests of one.
        if size <= 16 * MIB {
            columns.insert(0, Metric::CpuPerRequest);
        }
        works.push(Work {
            name: format!("{} × 8", size_text(size)),
            shape: Shape::new(size, 8, 700),
            specs: vec![bare_splice(), ours(), haproxy_1m()],
            columns,
            rounds: 3,
        });
    }
    let two = Settings::new("gw-2", "splice + replay, 2 workers");
    let two = Spec::Gateway(Settings { split: true, workers: 2, more: ROOMY, ..two });
    let haproxy_2 = Spec::Haproxy { pipes: None, threads: 2, tls: false };
    for (size, columns) in [(4 * KIB, REQUESTS.to_vec()), (64 * MIB, BODIES.to_vec())] {
        works.push(Work {
            name: format!("{}, 1 and 2 workers", cell_name(size, 32)),
            shape: Shape::new(size, 32, 700),
            specs: vec![ours(), two.clone(), haproxy(), haproxy_2.clone()],
            columns,
            rounds: 3,
        });
    }
    measure(runner, works)
}
