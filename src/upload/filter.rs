//! `--include` and `--exclude`, by the rules of aws-cli: everything is in at first, and of the patterns that
//! match a file the last one decides. `*` matches `/` as well, so `*.tmp` is meant in every folder. A pattern has
//! `*`, `?` and `[…]`, and nothing else in it means anything but itself.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use globset::{Glob, GlobBuilder, GlobMatcher};

/// The patterns, in the order in which they were given.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    include: bool,
    pattern: GlobMatcher,
    /// It ends in `*`: what matches goes on matching, whatever comes behind it.
    open: bool,
}

impl Filters {
    /// Whether the file is to be sent. `path`: relative to its source, with `/`.
    pub(super) fn allow(&self, path: &str) -> bool {
        let last = self.0.iter().rev().find(|rule| rule.pattern.is_match(path));
        last.is_none_or(|rule| rule.include)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing in this folder is to be sent, however deep.
    pub(super) fn prunes(&self, folder: &str) -> bool {
        let inside = format!("{folder}/");
        let mut last = self.0.iter().rev().take_while(|rule| !rule.include);
        last.any(|rule| rule.open && rule.pattern.is_match(&inside))
    }
}

/// A pattern of Python's fnmatch. What only globset knows is written so that it means itself: braces,
/// backslashes, `**`. Its `[^…]` is `[!…]`, as for a shell.
fn pattern(text: &str) -> Result<Glob, globset::Error> {
    let mut glob = String::with_capacity(text.len());
    // Characters since the class began.
    let mut class: Option<usize> = None;
    for c in text.chars() {
        match (c, class) {
            ('[', None) => class = Some(0),
            ('*', None) if glob.ends_with('*') => continue,
            ('{' | '}', None) => {
                glob.extend(['[', c, ']']);
                continue;
            }
            // The first is one of the class.
            ('!' | '^', Some(0)) => {}
            (']', Some(1..)) => class = None,
            (_, inside) => class = inside.map(|count| count + 1),
        }
        glob.push(c);
    }
    GlobBuilder::new(&glob).literal_separator(false).backslash_escape(false).build()
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
                let open = glob.glob().ends_with('*');
                rules.push((place, Rule { include, pattern: glob.compile_matcher(), open }));
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

    /// "*: Matches everything. ?: Matches any single character. [sequence]: Matches any character in sequence.
    /// [!sequence]: Matches any character not in sequence" (the same page).
    #[test]
    fn nothing_else_in_a_pattern_is_special() {
        for (pattern, matches, other) in [
            ("a?c", "a/c", "ac"),
            ("a[bc]d", "abd", "aed"),
            ("a[!bc]d", "aed", "abd"),
            ("[]x]", "]", "y"),
            ("{a,b}", "{a,b}", "a"),
            ("a[{}]b", "a{b", "ab"),
            ("a\\*", "a\\b", "a*"),
            ("**/f", "d/f", "f"),
            ("a**b", "a/x/b", "a"),
        ] {
            let only = filters(&["--exclude", "*", "--include", pattern]);
            assert!(only.allow(matches) && !only.allow(other), "{pattern}");
        }
    }

    #[test]
    fn a_folder_is_left_out_where_nothing_in_it_can_be_meant() {
        for (arguments, pruned) in [
            (&["--exclude", "lost+found/*"][..], true),
            (&["--exclude", "*"], true),
            (&["--exclude", "*", "--include", "*.txt"], false),
            (&["--include", "*.txt", "--exclude", "lost*", "--exclude", "*.tmp"], true),
            (&["--exclude", "lost+found"], false),
            (&["--exclude", "*/.git/*"], false),
            (&["--exclude", "lost+found/[*]"], false),
            (&[], false),
        ] {
            assert_eq!(filters(arguments).prunes("lost+found"), pruned, "{arguments:?}");
        }
        assert!(filters(&["--exclude", "*/.git/*"]).prunes("a/b/.git"));
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        let command = Filters::augment_args(Command::new("x"));
        assert!(command.try_get_matches_from(["x", "--exclude", "a[b"]).is_err());
    }
}
