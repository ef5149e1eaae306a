//! The groups of a run: which work, done by whom.

mod bodies;
mod durable;
mod memory;
mod small;

use crate::Result;
use crate::measure::{Runner, Work};
use crate::relay::Mode;
use crate::results::{Cell, Metric};
use crate::subjects::{Behind, Settings, Spec};
use clap::ValueEnum;

pub(crate) use memory::EXPECTING;
pub(crate) use small::half_load;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// What may be asked for with `--only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// 64 MiB and 1 GiB.
    Large,
    /// 64 KiB and 1 MiB.
    Medium,
    /// 4 KiB, and at half of the peak's rate.
    Small,
    /// Signed chunks and trailers.
    Plans,
    /// TLS on both sides.
    Tls,
    /// 1, 10 and 50 MB on one connection.
    Latency,
    /// 4 KiB PUTs beside four of 1 GiB.
    Mix,
    /// 4 KiB PUTs beside 5,000 clients that never finish.
    Slow,
    /// 64 uploads at a time.
    Memory,
    /// The sink resets 1 % of the parts.
    Faults,
    /// Over connections, sizes and workers.
    Scale,
    /// 10,000 idle connections.
    Idle,
    /// Ten times as many clients as permits, in 512 MiB.
    Overload,
    /// Write-back beside what the disk itself can do.
    Durable,
}

impl Name {
    /// As on the command line, and in the document's marks.
    pub(crate) fn text(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Measures it.
    pub(crate) fn run(self, runner: &mut Runner) -> Result<Vec<Cell>> {
        match self {
            Name::Large => bodies::large(runner),
            Name::Medium => bodies::medium(runner),
            Name::Plans => bodies::plans(runner),
            Name::Tls => bodies::tls(runner),
            Name::Latency => bodies::latency(runner),
            Name::Faults => bodies::faults(runner),
            Name::Small => small::small(runner),
            Name::Mix => small::mix(runner),
            Name::Slow => small::slow(runner),
            Name::Scale => small::scale(runner),
            Name::Memory => memory::memory(runner),
            Name::Idle => memory::idle(runner),
            Name::Overload => memory::overload(runner),
            Name::Durable => durable::durable(runner),
        }
    }
}

/// What there is to keep for replay in the cells that are about speed: as much as they need.
const ROOMY: &str = "replay:\n  memory: 4GiB\n  pipes: 8192\n";

/// This gateway as it is configured by default: above 50 MiB in parts of 16 MiB.
fn ours() -> Spec {
    let label = "splice + replay";
    Spec::Gateway(Settings { split: true, more: ROOMY, ..Settings::new("gw", label) })
}

/// One PutObject stays one.
fn ours_whole() -> Spec {
    let more = "replay:\n  memory: 4GiB\n  pipes: 8192\n  overflow: none\n";
    Spec::Gateway(Settings { more, ..Settings::new("gw-put", "splice + replay, never in parts") })
}

/// Every body is copied.
fn ours_copying() -> Spec {
    let settings =
        Settings { split: true, splice: false, more: ROOMY, ..Settings::new("gw-copy", "copy") };
    Spec::Gateway(settings)
}

/// Every body is copied, and can only be sent once: what replay costs there is the difference.
fn ours_forgetting() -> Spec {
    let label = "copy, nothing kept (`replay.overflow: none`)";
    let more = "replay:\n  memory: 1MiB\n  overflow: none\n";
    let settings =
        Settings { split: true, splice: false, more, ..Settings::new("gw-forgets", label) };
    Spec::Gateway(settings)
}

/// Nobody is asked who they are.
fn ours_open() -> Spec {
    let label = "splice + replay, `auth.enabled: false`";
    Spec::Gateway(Settings {
        split: true,
        auth: false,
        more: ROOMY,
        ..Settings::new("gw-open", label)
    })
}

/// TLS for clients and to the sink.
fn ours_tls() -> Spec {
    let settings = Settings::new("gw-tls", "TLS both sides");
    Spec::Gateway(Settings { split: true, more: ROOMY, behind: Behind::Tls, ..settings })
}

fn direct() -> Spec {
    Spec::Direct(Behind::Plain)
}

fn bare_splice() -> Spec {
    Spec::Bare(Mode::Splice)
}

fn bare_copy() -> Spec {
    Spec::Bare(Mode::Copy)
}

fn haproxy() -> Spec {
    Spec::Haproxy { pipes: None, threads: 1, tls: false }
}

fn haproxy_1m() -> Spec {
    Spec::Haproxy { pipes: Some(1 << 20), threads: 1, tls: false }
}

fn nginx() -> Spec {
    Spec::Nginx { tls: false }
}

/// Figures of bodies that are large enough to be counted in GB.
const BODIES: [Metric; 7] = [
    Metric::CpuPerGb,
    Metric::GbPerSecond,
    Metric::P50,
    Metric::P99,
    Metric::P999,
    Metric::PeakMib,
    Metric::Pipes,
];

/// Figures of requests.
const REQUESTS: [Metric; 6] = [
    Metric::CpuPerRequest,
    Metric::PerSecond,
    Metric::P50,
    Metric::P99,
    Metric::P999,
    Metric::PeakMib,
];

/// `64 MiB`, as cells are named.
fn size_text(size: u64) -> String {
    match size {
        size if size >= GIB => format!("{} GiB", size / GIB),
        size if size >= MIB => format!("{} MiB", size / MIB),
        size if size >= KIB => format!("{} KiB", size / KIB),
        size => format!("{size} B"),
    }
}

/// The name of a cell.
pub(crate) fn cell_name(size: u64, connections: usize) -> String {
    format!("{} × {connections}", size_text(size))
}

/// A cell's place on an axis of sizes or of connections, from its name.
pub(crate) fn axis(name: &str, of_sizes: bool) -> Option<f64> {
    let (size, connections) = name.split_once(" × ")?;
    if !of_sizes {
        return connections.parse().ok();
    }
    let (number, unit) = size.split_once(' ')?;
    let unit = match unit {
        "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit as f64)
}

/// A tick of such an axis.
pub(crate) fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.0}G", value / 1e9),
        value if value >= 1e6 => format!("{:.0}M", value / 1e6),
        value if value >= 1e3 => format!("{:.0}k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

fn measure(runner: &mut Runner, works: Vec<Work>) -> Result<Vec<Cell>> {
    works.into_iter().map(|work| runner.cell(work)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_named_by_size_and_connections() {
        assert_eq!(cell_name(64 * MIB, 32), "64 MiB × 32");
        assert_eq!(cell_name(5 * GIB, 1), "5 GiB × 1");
        assert_eq!(cell_name(1, 1), "1 B × 1");
        assert_eq!(axis("4 KiB × 1000", false), Some(1000.0));
        assert_eq!(axis("64 MiB × 8", true), Some((64 * MIB) as f64));
        assert_eq!(axis("64 MiB × 32, 1 and 2 workers", false), None);
        assert_eq!(short(2e6), "2M");
    }
}
