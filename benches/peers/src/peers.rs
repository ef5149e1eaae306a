//! A run: the groups one after the other, then the document.

use crate::groups::Name;
use crate::measure::Runner;
use crate::results::Group;
use crate::subjects::Bench;
use crate::{Result, goals, machine, plots, report};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Descriptors that the largest group needs in one process.
const DESCRIPTORS: u64 = 12_000;
/// Windows of a quick run, milliseconds.
const QUICK: u64 = 400;

/// What `make bench-peers` may be told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The gateway: the production binary.
    #[arg(long, default_value = "target/release/mizuchi")]
    binary: PathBuf,
    /// Where make bench-peers-install puts what it installs.
    #[arg(long, default_value = "target/peers")]
    installed: PathBuf,
    /// Only these groups.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Name>,
    /// Rounds of every cell. Default: as each needs.
    #[arg(long)]
    rounds: Option<usize>,
    /// One round of each cell, short: to see that it works. Nothing is kept or written.
    #[arg(long)]
    quick: bool,
    /// Only cells whose name has this in it, to look closer at them. Nothing is kept or written.
    #[arg(long)]
    cell: Option<String>,
    /// Only these subjects, by key (gw, bare-splice, haproxy-1m …). Nothing is kept or written.
    #[arg(long, value_delimiter = ',')]
    subject: Vec<String>,
    /// Measures nothing: writes the document from what the last runs found.
    #[arg(long)]
    write: bool,
    /// The document whose marked blocks are replaced. Default: none.
    #[arg(long)]
    document: Option<PathBuf>,
    /// What was found, as JSON, one file a group.
    #[arg(long, default_value = "target/bench-peers")]
    results: PathBuf,
}

impl Options {
    /// Whether what is measured may stand for the group.
    fn is_whole(&self) -> bool {
        !self.quick && self.cell.is_none() && self.subject.is_empty()
    }
}

fn file(options: &Options, name: Name) -> PathBuf {
    options.results.join(format!("{}.json", name.text()))
}

/// What earlier runs found of the groups, in their order.
fn found(options: &Options) -> Result<Vec<Group>> {
    let mut groups = Vec::new();
    for name in Name::value_variants() {
        if let Ok(text) = std::fs::read_to_string(file(options, *name)) {
            groups.push(serde_json::from_str(&text)?);
        }
    }
    Ok(groups)
}

fn measure(options: &Options, name: Name) -> Result<Group> {
    eprintln!("{}:", name.text());
    let started = Instant::now();
    let context = machine::context()?;
    let bench = Bench::new(options.binary.clone(), options.installed.clone())?;
    let rounds = options.rounds.or(options.quick.then_some(1));
    let mut runner = Runner::new(bench, rounds, options.quick.then_some(QUICK));
    runner.only(options.cell.clone(), options.subject.clone());
    let cells = name.run(&mut runner)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Group { name: name.text(), cells, notes: runner.notes, context, seconds })
}

fn write(document: &Path, groups: &[Group]) -> Result<()> {
    let mut text = std::fs::read_to_string(document)
        .map_err(|error| format!("{}: {error}", document.display()))?;
    text = report::replace(&text, "goals", &report::goals(&goals::verdicts(groups), groups)?)?;
    for group in groups {
        text = report::replace(&text, &group.name, &report::group(group)?)?;
        plots::draw(group, &document.with_extension(""))?;
    }
    std::fs::write(document, text)?;
    eprintln!("written: {}", document.display());
    Ok(())
}

/// Measures what was asked for, prints it, and writes the document if there is one.
pub(crate) fn run(options: &Options) -> Result<()> {
    if machine::raise_descriptors()? < DESCRIPTORS {
        eprintln!("!! ulimit -n is below {DESCRIPTORS}: the idle group will fail");
    }
    std::fs::create_dir_all(&options.results)?;
    let mut measured = Vec::new();
    if !options.write {
        let all = Name::value_variants().to_vec();
        let names = if options.only.is_empty() { all } else { options.only.clone() };
        for name in names {
            let group = measure(options, name)?;
            println!("\n## {}\n\n{}", group.name, report::group(&group)?);
            if options.is_whole() {
                std::fs::write(file(options, name), serde_json::to_string(&group)?)?;
            }
            measured.push(group);
        }
    }
    let groups = if options.is_whole() { found(options)? } else { measured };
    println!("\n## goals\n\n{}", report::goals(&goals::verdicts(&groups), &groups)?);
    // Figures of a quick run are none.
    let document = options.document.as_deref().filter(|_| options.is_whole());
    document.map_or(Ok(()), |document| write(document, &groups))
}
