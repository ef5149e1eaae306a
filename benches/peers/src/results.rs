//! What a run found, and what is computed from it.

use serde::{Deserialize, Serialize};

/// One measured round of one subject.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Round {
    /// CPU seconds of the subject in the window.
    pub(crate) cpu: f64,
    /// The window, seconds.
    pub(crate) seconds: f64,
    /// Bytes of bodies that the sink got in the window.
    pub(crate) bytes: u64,
    /// Requests that the sink answered in the window.
    pub(crate) at_sink: u64,
    /// The load's window, seconds: nearly the same, but for the time it takes to say so.
    pub(crate) load_seconds: f64,
    /// Requests answered 2xx in the load's window.
    pub(crate) requests: u64,
    /// Requests answered 503 in the window.
    pub(crate) refused: u64,
    /// Any other answer, connections that ended.
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Latencies, milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// The most resident memory in the round, KiB.
    pub(crate) peak: u64,
    /// Resident memory that each idle connection added, bytes.
    pub(crate) per_connection: f64,
    /// Pipes open at the window's end.
    pub(crate) pipes: u64,
    /// The most pages (4 KiB) that the gateway kept for replay.
    pub(crate) pages: u64,
    /// The most bytes that it kept in overflow files.
    pub(crate) overflow: u64,
    /// Parts that the sink reset.
    pub(crate) resets: u64,
    /// Share of the machine's time that its host took.
    pub(crate) steal: f64,
}

/// A figure of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Metric {
    CpuPerGb,
    CpuPerRequest,
    GbPerSecond,
    PerSecond,
    P50,
    P99,
    P999,
    PeakMib,
    Pipes,
    PagesMib,
    OverflowMib,
    KibPerConnection,
    Refused,
    Resets,
}

impl Metric {
    /// The head of its column.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Metric::CpuPerGb => "CPU s/GB",
            Metric::CpuPerRequest => "CPU µs/request",
            Metric::GbPerSecond => "GB/s",
            Metric::PerSecond => "requests/s",
            Metric::P50 => "p50 ms",
            Metric::P99 => "p99 ms",
            Metric::P999 => "p99.9 ms",
            Metric::PeakMib => "peak RSS MiB",
            Metric::Pipes => "pipes",
            Metric::PagesMib => "kept pages MiB",
            Metric::OverflowMib => "overflow MiB",
            Metric::KibPerConnection => "KiB per idle connection",
            Metric::Refused => "503s",
            Metric::Resets => "resets",
        }
    }

    /// Its value in a round; None where it means nothing.
    pub(crate) fn of(self, round: &Round) -> Option<f64> {
        let share = |one: f64, other: f64| (other > 0.0).then(|| one / other);
        let answered = |value: f64| (round.requests > 0).then_some(value);
        match self {
            Metric::CpuPerGb => share(round.cpu, round.bytes as f64 / 1e9),
            Metric::CpuPerRequest => share(round.cpu * 1e6, round.at_sink as f64),
            Metric::GbPerSecond => share(round.bytes as f64 / 1e9, round.seconds),
            Metric::PerSecond => share(round.requests as f64, round.load_seconds),
            Metric::P50 => answered(round.p50),
            Metric::P99 => answered(round.p99),
            Metric::P999 => answered(round.p999),
            Metric::PeakMib => Some(round.peak as f64 / 1024.0),
            Metric::Pipes => Some(round.pipes as f64),
            Metric::PagesMib => Some(round.pages as f64 / 256.0),
            Metric::OverflowMib => Some(round.overflow as f64 / f64::from(1 << 20)),
            Metric::KibPerConnection => Some(round.per_connection / 1024.0),
            Metric::Refused => Some(round.refused as f64),
            Metric::Resets => Some(round.resets as f64),
        }
    }

    /// Writes a value of it, with as many digits as mean something.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Metric::CpuPerGb => format!("{value:.3}"),
            Metric::P50 | Metric::P99 | Metric::P999 | Metric::GbPerSecond => format!("{value:.2}"),
            Metric::CpuPerRequest | Metric::KibPerConnection => format!("{value:.1}"),
            _ => format!("{value:.0}"),
        }
    }
}

/// Least, median and most of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// None of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(Spread { least, median: f64::midpoint(*low, *high), most })
    }
}

/// One subject in one cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What goals and plots call it.
    pub(crate) subject: String,
    /// What the table calls it.
    pub(crate) label: String,
    pub(crate) rounds: Vec<Round>,
}

impl Row {
    /// The spread of a figure.
    pub(crate) fn spread(&self, metric: Metric) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| metric.of(round)).collect())
    }

    /// Errors of all rounds, and the first.
    pub(crate) fn errors(&self) -> Option<(u64, &str)> {
        let count: u64 = self.rounds.iter().map(|round| round.errors).sum();
        let first = self.rounds.iter().find_map(|round| round.first_error.as_deref());
        (count > 0).then(|| (count, first.unwrap_or("unknown")))
    }
}

/// One work, done by several subjects in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) columns: Vec<Metric>,
    pub(crate) rows: Vec<Row>,
}

impl Cell {
    /// A subject's row.
    pub(crate) fn row(&self, subject: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == subject)
    }

    /// One subject's figure as a ratio to another's, round by round: what the machine's drift does to
    /// both is not in it.
    pub(crate) fn ratio(&self, metric: Metric, one: &str, other: &str) -> Option<Spread> {
        let pairs = self.row(one)?.rounds.iter().zip(&self.row(other)?.rounds);
        let ratios = pairs.filter_map(|(one, other)| {
            let other = metric.of(other).filter(|value| *value > 0.0)?;
            Some(metric.of(one)? / other)
        });
        Spread::of(ratios.collect())
    }
}

/// Where and when.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Context {
    /// The processor, its cores, the memory, the kernel.
    pub(crate) machine: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) command: String,
}

/// A group of cells.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) cells: Vec<Cell>,
    /// What must be known to read it: settings, peers that are absent.
    pub(crate) notes: Vec<String>,
    pub(crate) context: Context,
    /// How long it took.
    pub(crate) seconds: f64,
}

impl Group {
    /// The cell of this name.
    pub(crate) fn cell(&self, name: &str) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.name == name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A row of rounds with these CPU seconds, a GB each.
    pub(crate) fn row(subject: &str, cpu: &[f64]) -> Row {
        let round = |cpu: &f64| Round { cpu: *cpu, bytes: 1_000_000_000, ..Round::default() };
        let rounds = cpu.iter().map(round).collect();
        Row { subject: subject.to_owned(), label: subject.to_owned(), rounds }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of(vec![5.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 5.0));
        assert_eq!(Spread::of(vec![4.0, 1.0, 2.0, 9.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let rows = vec![row("one", &[1.0, 2.0, 3.0]), row("other", &[1.0, 4.0, 1.0])];
        let cell = Cell { name: "c".to_owned(), columns: Vec::new(), rows };
        let ratio = cell.ratio(Metric::CpuPerGb, "one", "other").unwrap();
        assert_eq!((ratio.least, ratio.median, ratio.most), (0.5, 1.0, 3.0));
        assert_eq!(cell.ratio(Metric::CpuPerGb, "one", "nobody"), None);
        assert_eq!(cell.ratio(Metric::P99, "one", "other"), None);
    }
}
