//! Groups about memory, and about too much of everything.

use super::*;
use crate::load::{Pace, Plan};
use crate::machine;
use crate::measure::Shape;
use crate::results::Row;
use crate::subjects::{haproxy_connections, limits};

/// Idle connections.
const IDLE: usize = 10_000;
/// Connections of HAProxy that the harness itself may need.
const SPARE: usize = 100;
/// Permits of the gateway that is overloaded.
const PERMITS: usize = 64;
/// What a cell is called whose clients ask before they send.
pub(crate) const EXPECTING: &str = ", Expect: 100-continue";
/// The memory that it has, MiB.
const LIMIT: u64 = 512;

pub(super) fn memory(runner: &mut Runner) -> Result<Vec<Cell>> {
    let columns = vec![
        Metric::PeakMib,
        Metric::PagesMib,
        Metric::OverflowMib,
        Metric::Pipes,
        Metric::CpuPerGb,
        Metric::GbPerSecond,
    ];
    let new = |key, label, more| {
        Spec::Gateway(Settings { split: true, more, ..Settings::new(key, label) })
    };
    let inside =
        new("gw-inside", "inside the budget (8 GiB)", "replay:\n  memory: 8GiB\n  pipes: 65536\n");
    let past =
        new("gw-past", "past it (256 MiB), the rest in files", "replay:\n  memory: 256MiB\n");
    let none = new(
        "gw-none",
        "past it (256 MiB), the rest given up",
        "replay:\n  memory: 256MiB\n  overflow: none\n",
    );
    let works = [64 * MIB, GIB].map(|size| Work {
        name: cell_name(size, 64),
        shape: Shape { sampled: true, ..Shape::new(size, 64, 4000) },
        specs: vec![inside.clone(), past.clone(), none.clone(), haproxy_1m()],
        columns: columns.clone(),
        rounds: 2,
    });
    measure(runner, works.into())
}

pub(super) fn idle(runner: &mut Runner) -> Result<Vec<Cell>> {
    let shape = Shape { pace: Pace::Hold, ..Shape::new(4 * KIB, IDLE, 0) };
    let mut cells = Vec::new();
    let with_tls = [ours_tls(), Spec::Haproxy { pipes: None, threads: 1, tls: true }];
    for (name, specs) in [("plain", vec![ours(), haproxy(), nginx()]), ("TLS", with_tls.to_vec())] {
        let mut rows = Vec::new();
        for spec in specs {
            // A process that had no connections before: what it has grown once, it keeps.
            runner.clear();
            if runner.start(&spec)? {
                eprintln!("  {IDLE} idle connections, {name}: {}", spec.label());
                let (subject, mut label) = (spec.key(), spec.label());
                let mut shape = shape.clone();
                if matches!(spec, Spec::Haproxy { .. }) {
                    let most = haproxy_connections(machine::descriptors()?) as usize;
                    shape.connections = IDLE.min(most.saturating_sub(SPARE));
                    label += &format!(", {} connections", shape.connections);
                }
                let rounds = vec![runner.idle(&spec, &shape)?];
                rows.push(Row { subject, label, rounds });
            }
        }
        let columns = vec![Metric::KibPerConnection, Metric::PeakMib];
        let name = format!("{IDLE} idle connections, {name}");
        cells.push(Cell { name, columns, rows });
    }
    runner.clear();
    Ok(cells)
}

pub(super) fn overload(runner: &mut Runner) -> Result<Vec<Cell>> {
    let (_, how) = limits(LIMIT);
    runner.note(format!(
        "admission.uploads: {PERMITS}; PUTs of 8 MiB; {LIMIT} MiB by {how}. A client that is refused waits a \
         second, as Retry-After says"
    ));
    let settings = Settings::new("gw-limited", "64 permits, 512 MiB");
    let more = "replay:\n  memory: 256MiB\nadmission:\n  uploads: 64\n";
    let limited = Spec::Gateway(Settings { limit: Some(LIMIT), split: true, more, ..settings });
    let columns = vec![
        Metric::PerSecond,
        Metric::Refused,
        Metric::PeakMib,
        Metric::PagesMib,
        Metric::P50,
        Metric::P99,
        Metric::CpuPerGb,
    ];
    let many = 10 * PERMITS;
    let at_once = cell_name(8 * MIB, many);
    let asking = format!("{at_once}{EXPECTING}");
    let works = [
        (cell_name(8 * MIB, PERMITS), PERMITS, Plan::Plain),
        (at_once, many, Plan::Plain),
        (asking, many, Plan::Expecting),
    ]
    .map(|(name, connections, plan)| Work {
        name,
        // The first second is that in which nobody has waited long enough to be refused.
        shape: Shape {
            warm: 1500,
            may_refuse: true,
            plan,
            ..Shape::new(8 * MIB, connections, 8000)
        },
        specs: vec![limited.clone()],
        columns: columns.clone(),
        rounds: 1,
    });
    measure(runner, works.into())
}
