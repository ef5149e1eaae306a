//! What is to be reached, and whether it was.

use crate::groups::{EXPECTING, GIB, KIB, MIB, Name, cell_name, half_load};
use crate::results::{Group, Metric, Spread};

/// How a goal's figure is computed from its cell.
#[derive(Debug, Clone)]
enum Figure {
    /// A subject's figure over the best of others', round by round.
    Ratio(&'static str, Vec<&'static str>),
    /// A subject's figure over the sum of others' medians.
    OverSum(&'static str, Vec<&'static str>),
    /// A subject's figure less another's.
    Added(&'static str, &'static str),
    /// A subject's figure.
    Value(&'static str),
    /// A subject's figure over its own in another cell.
    Across(&'static str, String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// One goal.
#[derive(Debug, Clone)]
struct Goal {
    text: String,
    group: Name,
    cell: String,
    metric: Metric,
    figure: Figure,
    limit: Limit,
}

/// What became of a goal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) text: String,
    pub(crate) limit: String,
    pub(crate) figure: String,
    pub(crate) verdict: &'static str,
}

fn goal(
    text: &str,
    (group, cell): (Name, String),
    metric: Metric,
    figure: Figure,
    limit: Limit,
) -> Goal {
    Goal { text: format!("{cell}: {text}"), group, cell, metric, figure, limit }
}

fn all() -> Vec<Goal> {
    use Figure::{Across, Added, OverSum, Ratio, Value};
    use Limit::{AtLeast, AtMost};
    let cpu = Metric::CpuPerGb;
    let haproxy = || vec!["haproxy", "haproxy-1m"];
    let mut goals = Vec::new();
    for (size, connections) in [(64 * MIB, 1), (64 * MIB, 32), (GIB, 1), (GIB, 32)] {
        for (key, how) in [("gw", "in parts"), ("gw-put", "one PUT")] {
            let at = || (Name::Large, cell_name(size, connections));
            let mut add = |text: &str, metric, others, limit| {
                let text = format!("{how}, {text}");
                goals.push(goal(&text, at(), metric, Ratio(key, others), limit));
            };
            add("CPU/GB over the bare splice loop", cpu, vec!["bare-splice"], AtMost(1.15));
            add("CPU/GB over HAProxy, the better setting", cpu, haproxy(), AtMost(1.15));
            add("CPU/GB over nginx", cpu, vec!["nginx"], AtMost(0.25));
            add(
                "GB/s over HAProxy, the better setting",
                Metric::GbPerSecond,
                haproxy(),
                AtLeast(0.95),
            );
        }
    }
    for connections in [1, 32] {
        let at = (Name::Medium, cell_name(MIB, connections));
        goals.push(goal("CPU/GB over HAProxy", at, cpu, Ratio("gw", haproxy()), AtMost(1.2)));
    }
    let at = || (Name::Small, cell_name(4 * KIB, 32));
    let per = Metric::CpuPerRequest;
    goals.push(goal(
        "CPU/request over HAProxy",
        at(),
        per,
        Ratio("gw", vec!["haproxy"]),
        AtMost(2.0),
    ));
    goals.push(goal(
        "CPU/request over s3s-proxy",
        at(),
        per,
        Ratio("gw", vec!["s3s"]),
        AtMost(0.1),
    ));
    let at = (Name::Small, half_load("gw"));
    goals.push(goal("p99 added, ms", at, Metric::P99, Added("gw", "direct"), AtMost(1.0)));
    let plan = |name: &str| (Name::Plans, format!("{}, {name}", cell_name(64 * MIB, 1)));
    for name in ["signed chunks of 64 KiB", "signed chunks of 1 MiB"] {
        let figure = OverSum("gw", vec!["bare-copy", "sha256"]);
        let text = "CPU/GB over SHA-256 alone and one copy";
        goals.push(goal(text, plan(name), cpu, figure, AtMost(1.15)));
    }
    for name in ["unsigned, trailer CRC-32", "unsigned, trailer CRC-64/NVME"] {
        let figure = Ratio("gw", vec!["bare-copy"]);
        goals.push(goal("CPU/GB over one copy", plan(name), cpu, figure, AtMost(1.1)));
    }
    let tls = |size, connections| (Name::Tls, cell_name(size, connections));
    for (size, connections) in [(64 * MIB, 1), (MIB, 32)] {
        let figure = Ratio("gw-tls", vec!["haproxy-tls"]);
        let text = "CPU/GB over HAProxy, TLS both sides";
        goals.push(goal(text, tls(size, connections), cpu, figure, AtMost(1.1)));
    }
    let name = "4 KiB PUTs beside four uploads of 1 GiB".to_owned();
    let figure = Ratio("gw", vec!["haproxy"]);
    goals.push(goal("p99 over HAProxy", (Name::Mix, name), Metric::P99, figure, AtMost(3.0)));
    let at = (Name::Slow, "4 KiB × 1, beside 5,000 slow clients".to_owned());
    let figure = Across("gw", "4 KiB × 1, alone".to_owned());
    goals.push(goal("p99 over that alone", at, Metric::P99, figure, AtMost(2.0)));
    let at = || (Name::Memory, cell_name(GIB, 64));
    for key in ["gw-inside", "gw-past"] {
        let text = format!("{key}, peak RSS, MiB");
        goals.push(goal(&text, at(), Metric::PeakMib, Value(key), AtMost(96.0)));
    }
    let text = "kept pages against replay.memory: 256 MiB, MiB";
    goals.push(goal(text, at(), Metric::PagesMib, Value("gw-past"), AtMost(256.0)));
    let figure = Across("gw-inside", cell_name(64 * MIB, 64));
    let text = "peak RSS over that at 64 MiB";
    goals.push(goal(text, at(), Metric::PeakMib, figure, AtMost(1.1)));
    let at = (Name::Faults, cell_name(256 * MIB, 8));
    let text = "CPU/GB with 1 % of the parts reset over without";
    goals.push(goal(text, at, cpu, Ratio("gw-faults", vec!["gw-sound"]), AtMost(1.15)));
    let at = (Name::Idle, "10000 idle connections, plain".to_owned());
    let kib = Metric::KibPerConnection;
    goals.push(goal("KiB each", at, kib, Value("gw"), AtMost(25.0)));
    for more in ["", EXPECTING] {
        let at = (Name::Overload, format!("{}{more}", cell_name(8 * MIB, 640)));
        let figure = Across("gw-limited", cell_name(8 * MIB, 64));
        goals.push(goal("goodput over the peak", at, Metric::PerSecond, figure, AtLeast(0.8)));
    }
    for (size, connections, least) in [(4 * KIB, 64, 0.5), (64 * MIB, 4, 0.8)] {
        let at = (Name::Durable, cell_name(size, connections));
        let figure = Ratio("gw-back", vec!["append"]);
        let text = "write-back, requests/s over append + fdatasync";
        goals.push(goal(text, at, Metric::PerSecond, figure, AtLeast(least)));
    }
    goals
}

impl Goal {
    /// Its figure; None if one of the subjects was not measured.
    fn compute(&self, groups: &[Group]) -> Option<Spread> {
        let name = self.group.text();
        let group = groups.iter().find(|group| group.name == name)?;
        let cell = group.cell(&self.cell)?;
        let spread = |key: &str| cell.row(key)?.spread(self.metric);
        let one = |value: f64| Spread { least: value, median: value, most: value };
        match &self.figure {
            Figure::Value(key) => spread(key),
            Figure::Added(key, other) => Some(one(spread(key)?.median - spread(other)?.median)),
            Figure::OverSum(key, others) => {
                let sum: Option<f64> = others.iter().map(|key| Some(spread(key)?.median)).sum();
                Some(one(spread(key)?.median / sum?))
            }
            Figure::Across(key, other) => {
                let other = group.cell(other)?.row(key)?.spread(self.metric)?.median;
                Some(one(spread(key)?.median / other))
            }
            Figure::Ratio(key, others) => {
                let ratios = others.iter().filter_map(|other| cell.ratio(self.metric, key, other));
                // The better peer is the harder one.
                match self.limit {
                    Limit::AtMost(_) => ratios.max_by(|a, b| a.median.total_cmp(&b.median)),
                    Limit::AtLeast(_) => ratios.min_by(|a, b| a.median.total_cmp(&b.median)),
                }
            }
        }
    }
}

/// Each goal, its figure, and whether it was met.
pub(crate) fn verdicts(groups: &[Group]) -> Vec<Verdict> {
    let show = |goal: Goal| {
        let (limit, is_met): (String, Box<dyn Fn(f64) -> bool>) = match goal.limit {
            Limit::AtMost(most) => (format!("≤ {most}"), Box::new(move |value| value <= most)),
            Limit::AtLeast(least) => (format!("≥ {least}"), Box::new(move |value| value >= least)),
        };
        let (figure, verdict) = match goal.compute(groups) {
            None => ("–".to_owned(), "not measured"),
            Some(spread) => {
                let verdict = if is_met(spread.median) { "met" } else { "**missed**" };
                let Spread { least, median, most } = spread;
                let digits = if median >= 20.0 { 0 } else { 2 };
                let figure = if least < most {
                    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
                } else {
                    format!("{median:.digits$}")
                };
                (figure, verdict)
            }
        };
        Verdict { text: goal.text, limit, figure, verdict }
    };
    all().into_iter().map(show).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::results::tests::row;
    use crate::results::{Cell, Context};

    fn group(rows: Vec<crate::results::Row>) -> Group {
        let name = cell_name(64 * MIB, 1);
        let cells = vec![Cell { name, columns: Vec::new(), rows }];
        let (notes, context) = (Vec::new(), Context::default());
        Group { name: Name::Large.text(), cells, notes, context, seconds: 0.0 }
    }

    #[test]
    fn a_goal_is_held_against_the_better_setting() {
        let rows = vec![row("gw", &[1.2]), row("haproxy", &[1.0]), row("haproxy-1m", &[2.0])];
        let verdicts = verdicts(&[group(rows)]);
        let text = "64 MiB × 1: in parts, CPU/GB over HAProxy, the better setting";
        let one = verdicts.iter().find(|verdict| verdict.text == text).unwrap();
        assert_eq!((one.figure.as_str(), one.verdict), ("1.20", "**missed**"));
        let other = verdicts.iter().find(|verdict| verdict.text.contains("over nginx")).unwrap();
        assert_eq!(other.verdict, "not measured");
    }

    #[test]
    fn limits_are_inclusive() {
        let rows = vec![row("gw", &[1.0]), row("bare-splice", &[1.0]), row("nginx", &[4.0])];
        let verdicts = verdicts(&[group(rows)]);
        for text in ["in parts, CPU/GB over the bare splice loop", "in parts, CPU/GB over nginx"] {
            let text = format!("64 MiB × 1: {text}");
            assert_eq!(verdicts.iter().find(|one| one.text == text).unwrap().verdict, "met");
        }
    }
}
