//! `--include` and `--exclude`, by the rules of aws-cli: everything is in at first, and of the patterns that
//! match a file the last one decides. `*` matches `/` as well, so `*.tmp` is meant in every folder.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use globset::{Glob, GlobBuilder, GlobMatcher};

/// The patterns, in the order in which they were given.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    include: bool,
    pattern: GlobMatcher,
}

impl Filters {
    /// Whether the file is to be sent. `path`: relative to its source, with `/`.
    pub(super) fn allow(&self, path: &str) -> bool {
        let last = self.0.iter().rev().find(|rule| rule.pattern.is_match(path));
        last.is_none_or(|rule| rule.include)
    }
}

fn pattern(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build()
}

fn argument(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("GLOB")
        .action(ArgAction::Append)
        .value_parser(pattern)
        .help(help)
}

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        let exclude = "Leave out what matches, relative to its folder; of all --include and --exclude the \
                       last that matches decides, and * matches / as well";
        command
            .arg(argument("exclude", exclude))
            .arg(argument("include", "Send what matches after all: see --exclude"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Filters::augment_args(command)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut rules = Vec::new();
        for (name, include) in [("include", true), ("exclude", false)] {
            let places = matches.indices_of(name).into_iter().flatten();
            let globs = matches.get_many::<Glob>(name).into_iter().flatten();
            for (place, glob) in places.zip(globs) {
                rules.push((place, Rule { include, pattern: glob.compile_matcher() }));
            }
        }
        rules.sort_by_key(|(place, _)| *place);
        Ok(Filters(rules.into_iter().map(|(_, rule)| rule).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Filters::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn filters(arguments: &[&str]) -> Filters {
        let command = Filters::augment_args(Command::new("x"));
        let matches = command.try_get_matches_from([&["x"], arguments].concat()).unwrap();
        Filters::from_arg_matches(&matches).unwrap()
    }

    /// "When there are multiple filters, the rule is the filters that appear later in the command take
    /// precedence" (AWS CLI Command Reference, "Use of Exclude and Include Filters").
    #[test]
    fn the_last_that_matches_decides() {
        let only_text = filters(&["--exclude", "*", "--include", "*.txt"]);
        assert!(only_text.allow("a.txt") && only_text.allow("deep/down/b.txt"));
        assert!(!only_text.allow("a.png"));
        let nothing = filters(&["--include", "*.txt", "--exclude", "*"]);
        assert!(!nothing.allow("a.txt"));
        assert!(filters(&[]).allow("anything"));
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        let command = Filters::augment_args(Command::new("x"));
        assert!(command.try_get_matches_from(["x", "--exclude", "a[b"]).is_err());
    }
}
