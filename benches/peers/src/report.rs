//! The tables of docs/performance.md.

use crate::Result;
use crate::goals::Verdict;
use crate::results::{Cell, Group, Metric, Row};
use std::fmt::Write as _;

/// Replaces what stands between the marks of `name`; an error if they are not there.
pub(crate) fn replace(text: &str, name: &str, with: &str) -> Result<String> {
    let mark = format!("<!-- bench-peers:{name} -->");
    let missing = || format!("the document has no {mark} … <!-- end -->");
    let (before, rest) = text.split_once(&mark).ok_or_else(missing)?;
    let (_, after) = rest.split_once("<!-- end -->").ok_or_else(missing)?;
    Ok(format!("{before}{mark}\n{}\n<!-- end -->{after}", with.trim_end()))
}

fn value(row: &Row, metric: Metric) -> String {
    let Some(spread) = row.spread(metric) else { return "–".to_owned() };
    let median = metric.show(spread.median);
    let (least, most) = (metric.show(spread.least), metric.show(spread.most));
    if least == most { median } else { format!("{median} ({least}–{most})") }
}

fn table(cell: &Cell, text: &mut String) -> std::fmt::Result {
    writeln!(text, "\n**{}**\n", cell.name)?;
    // What no subject has a value of is no column.
    let has = |metric: &&Metric| cell.rows.iter().any(|row| row.spread(**metric).is_some());
    let columns: Vec<Metric> = cell.columns.iter().filter(has).copied().collect();
    let titles: Vec<&str> = columns.iter().map(|metric| metric.title()).collect();
    writeln!(text, "| | {} |", titles.join(" | "))?;
    writeln!(text, "|---{}|", "|---".repeat(columns.len()))?;
    for row in &cell.rows {
        let errors = match row.errors() {
            Some((count, first)) => format!(" ⚠ **{count} errors** ({first})"),
            None => String::new(),
        };
        let cells: Vec<String> = columns.iter().map(|metric| value(row, *metric)).collect();
        writeln!(text, "| {}{errors} | {} |", row.label, cells.join(" | "))?;
    }
    Ok(())
}

/// What a group's marks hold.
pub(crate) fn group(group: &Group) -> Result<String> {
    let context = &group.context;
    let mut text = String::new();
    writeln!(
        text,
        "{}; commit {}; {}; `{}`; {:.0} s.",
        context.machine, context.commit, context.date, context.command, group.seconds
    )?;
    for note in &group.notes {
        writeln!(text, "\n> {note}.")?;
    }
    for cell in &group.cells {
        table(cell, &mut text)?;
    }
    Ok(text)
}

/// What the marks of the goals hold.
pub(crate) fn goals(verdicts: &[Verdict], groups: &[Group]) -> Result<String> {
    let mut text = String::new();
    let mut contexts: Vec<String> = groups
        .iter()
        .map(|group| format!("{}, {}", group.context.commit, group.context.machine))
        .collect();
    contexts.dedup();
    writeln!(text, "From: {}.\n", contexts.join("; "))?;
    writeln!(text, "| goal | limit | figure: median (min–max) | |\n|---|---|---|---|")?;
    for Verdict { text: goal, limit, figure, verdict } in verdicts {
        writeln!(text, "| {goal} | {limit} | {figure} | {verdict} |")?;
    }
    Ok(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::results::tests::row;
    use crate::results::{Context, Round};

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = "a\n<!-- bench-peers:x -->\nold\n<!-- end -->\nb\n<!-- bench-peers:y -->\n<!-- end -->\n";
        let new = replace(text, "x", "new\n\n").unwrap();
        assert_eq!(
            new,
            "a\n<!-- bench-peers:x -->\nnew\n<!-- end -->\nb\n<!-- bench-peers:y -->\n<!-- end -->\n"
        );
        assert_eq!(replace(&new, "x", "new").unwrap(), new);
        assert!(replace(text, "z", "new").is_err());
    }

    #[test]
    fn errors_stand_in_the_table() {
        let mut bad = row("bad", &[0.5]);
        bad.rounds.push(Round {
            errors: 3,
            first_error: Some("status 500".to_owned()),
            ..Round::default()
        });
        let columns = vec![Metric::CpuPerGb, Metric::P50];
        let cells =
            vec![Cell { name: "c".to_owned(), columns, rows: vec![row("one", &[0.1, 0.3]), bad] }];
        let (notes, context) = (vec!["peer X is absent".to_owned()], Context::default());
        let text =
            group(&Group { name: "g".to_owned(), cells, notes, context, seconds: 1.0 }).unwrap();
        assert!(text.contains("| | CPU s/GB |\n|---|---|\n"), "{text}");
        assert!(text.contains("| one | 0.200 (0.100–0.300) |"), "{text}");
        assert!(
            text.contains("⚠ **3 errors** (status 500)") && text.contains("> peer X"),
            "{text}"
        );
    }
}
