//! The walk over the value tree: one [`Section`] at a time, every error noted with its full key.
//!
//! A section is seen through layers, the nearest first, the built-in defaults last; each key is
//! looked up in each layer in turn. An empty value (`key:` or `null`) counts as absent, so a
//! section whose keys are all commented out keeps its defaults. A reader first reads every key and
//! only then puts its type together with `?`: that is what lets one run show all errors.

use super::findings::Findings;
use config::{Map, Value, ValueKind};
use std::collections::BTreeSet;

/// One level of the value tree.
pub(super) type Table = Map<String, Value>;

/// The origin of a value that came from an environment variable.
pub(super) const ENVIRONMENT: &str = "the environment";

/// What environment variables that are settings begin with.
pub(super) const PREFIX: &str = "MIZUCHI__";

/// The key of `key` in the section `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What is told of a key that is not known. `{secret_key:VALUE}`, without a space, is one key in YAML: the
/// value is left out.
fn named(key: &str) -> &str {
    key.split_inclusive(':').next().unwrap_or_default()
}

/// The key of an entry of the list `path`.
pub(super) fn index(path: &str, position: usize) -> String {
    format!("{path}[{position}]")
}

/// The environment variable that sets `path`.
fn variable(path: &str) -> String {
    let name = path.replace(['.', '['], "__").replace(']', "");
    format!("{PREFIX}{}", name.to_uppercase())
}

/// One layer's view of a section.
#[derive(Clone)]
pub(super) struct Layer<'t> {
    /// Where it stands: differs between layers where a section inherits from another one.
    path: String,
    table: &'t Table,
}

/// A section, seen through its layers.
pub(super) struct Section<'t> {
    path: String,
    layers: Vec<Layer<'t>>,
    asked: BTreeSet<&'static str>,
    findings: &'t Findings,
}

impl<'t> Section<'t> {
    /// Reads the whole tree: `chosen` over `defaults`.
    pub(super) fn read_root<T>(
        chosen: &'t Table,
        defaults: &'t Table,
        findings: &'t Findings,
        read: impl FnOnce(&mut Section<'t>) -> T,
    ) -> T {
        let layers = [chosen, defaults].map(|table| Layer { path: String::new(), table });
        Section::read(String::new(), layers.into(), findings, read)
    }

    /// Reads one section and then notes every key that was not asked for.
    fn read<T>(
        path: String,
        layers: Vec<Layer<'t>>,
        findings: &'t Findings,
        read: impl FnOnce(&mut Section<'t>) -> T,
    ) -> T {
        let mut section = Section { path, layers, asked: BTreeSet::new(), findings };
        let value = read(&mut section);
        let known: Vec<_> = section.asked.iter().copied().collect();
        for layer in &section.layers {
            for (key, value) in layer.table {
                if !section.asked.contains(key.as_str()) {
                    let known = known.join(", ");
                    let problem = format!("is not a setting; known here: {known}");
                    section.fail_value(join(&layer.path, named(key)), value, &problem);
                }
            }
        }
        value
    }

    /// Where errors and warnings go.
    pub(super) fn findings(&self) -> &'t Findings {
        self.findings
    }

    /// The full key of this section.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The full key of `key` in this section.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes that `key` of this section is wrong.
    pub(super) fn fail(&self, key: &str, problem: impl Into<String>) {
        self.findings.error(self.key(key), problem);
    }

    /// Notes what is wrong with a value, and the variable it came from.
    fn fail_value(&self, path: String, value: &Value, problem: &str) {
        let problem = match value.origin() {
            Some(ENVIRONMENT) => format!("{problem} (set by {})", variable(&path)),
            _ => problem.to_owned(),
        };
        self.findings.error(path, problem);
    }

    /// The nearest layer's value of `key`, with where it stands.
    fn find(&mut self, key: &'static str) -> Option<(String, &'t Value)> {
        self.asked.insert(key);
        if self.layers.last().is_some_and(|layer| !layer.table.contains_key(key)) {
            self.fail(key, "has no entry in settings/default.yaml; this is a bug");
        }
        self.layers.iter().find_map(|layer| match layer.table.get(key) {
            None | Some(Value { kind: ValueKind::Nil, .. }) => None,
            Some(value) => Some((join(&layer.path, key), value)),
        })
    }

    /// The value of `key`, which must be set. `None`: wrong, and noted.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        match self.optional(key, parse)? {
            Some(value) => Some(value),
            None => {
                let variable = variable(&self.key(key));
                self.fail(key, format!("must be set, in the file or as {variable}"));
                None
            }
        }
    }

    /// The value of `key`, if it is set: an empty text is not. `None`: wrong, and noted.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.find(key) {
            None => Some(None),
            Some((_, value)) if is_empty(value) => Some(None),
            Some((path, value)) => match parse(value) {
                Ok(parsed) => Some(Some(parsed)),
                Err(problem) => {
                    self.fail_value(path, value, &problem);
                    None
                }
            },
        }
    }

    /// The entries of the list `key`; one text is a list that commas separate (the only way to
    /// write a list in a variable). `None`: wrong, and noted.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let Some((path, value)) = self.find(key) else {
            return Some(Vec::new());
        };
        let split: Vec<Value>;
        let (entries, single) = match &value.kind {
            ValueKind::Array(entries) => (entries.as_slice(), false),
            ValueKind::String(text) => {
                let origin = value.origin().map(str::to_owned);
                split = text
                    .split(',')
                    .map(str::trim)
                    .filter(|entry| !entry.is_empty())
                    .map(|entry| Value::new(origin.as_ref(), entry))
                    .collect();
                (split.as_slice(), split.len() == 1)
            }
            _ => {
                self.fail_value(path, value, "must be a list");
                return None;
            }
        };
        let mut parsed = Vec::with_capacity(entries.len());
        for (position, entry) in entries.iter().enumerate() {
            match parse(entry) {
                Ok(entry) => parsed.push(entry),
                Err(problem) => {
                    let path = if single { path.clone() } else { index(&path, position) };
                    self.fail_value(path, entry, &problem);
                }
            }
        }
        (parsed.len() == entries.len()).then_some(parsed)
    }

    /// [`Section::list`], if it is set: an empty list is a list, `null` and an empty text are not.
    pub(super) fn optional_list<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<Option<Vec<T>>> {
        match self.find(key) {
            None => Some(None),
            Some((_, value)) if is_empty(value) => Some(None),
            Some(_) => self.list(key, parse).map(Some),
        }
    }

    /// Whether the section `key` is configured here: not by default, nor by inheritance.
    pub(super) fn chooses(&self, key: &str) -> bool {
        let Some((_defaults, chosen)) = self.layers.split_last() else { return false };
        let own = chosen.iter().filter(|layer| layer.path == self.path);
        own.filter_map(|layer| layer.table.get(key)).any(is_set)
    }

    /// The layers of the section `key` within this one.
    pub(super) fn layers_of(&mut self, key: &'static str) -> Vec<Layer<'t>> {
        self.asked.insert(key);
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let Some(value) = layer.table.get(key) else {
                continue;
            };
            let path = join(&layer.path, key);
            match &value.kind {
                ValueKind::Table(table) => layers.push(Layer { path, table }),
                ValueKind::Nil => {}
                _ => self.fail_value(path, value, "must be a section with keys of its own"),
            }
        }
        layers
    }

    /// Reads the section `key` within this one.
    pub(super) fn within<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'t>) -> T,
    ) -> T {
        self.within_inheriting(key, &[], read)
    }

    /// Like [`Section::within`]; what is not set there is looked up in `inherited`.
    pub(super) fn within_inheriting<T>(
        &mut self,
        key: &'static str,
        inherited: &[Layer<'t>],
        read: impl FnOnce(&mut Section<'t>) -> T,
    ) -> T {
        let mut layers = self.layers_of(key);
        layers.extend_from_slice(inherited);
        Section::read(self.key(key), layers, self.findings, read)
    }

    /// Reads each entry of the list of sections `key`. The list is empty by default: what
    /// `settings/default.yaml` has there is one entry that holds the defaults of every entry.
    pub(super) fn entries<T>(
        &mut self,
        key: &'static str,
        read: impl FnMut(&mut Section<'t>) -> T,
    ) -> Vec<T> {
        self.read_entries(key, false, read)
    }

    /// Like [`Section::entries`], but the entry in `settings/default.yaml` is the default.
    pub(super) fn entries_or_default<T>(
        &mut self,
        key: &'static str,
        read: impl FnMut(&mut Section<'t>) -> T,
    ) -> Vec<T> {
        self.read_entries(key, true, read)
    }

    fn read_entries<T>(
        &mut self,
        key: &'static str,
        or_default: bool,
        mut read: impl FnMut(&mut Section<'t>) -> T,
    ) -> Vec<T> {
        self.asked.insert(key);
        let Some((defaults, chosen)) = self.layers.split_last() else {
            return Vec::new();
        };
        let template = match defaults.table.get(key).map(|value| &value.kind) {
            Some(ValueKind::Array(entries)) => entries.first(),
            _ => None,
        };
        let Some(Value { kind: ValueKind::Table(template), .. }) = template else {
            self.fail(key, "has no entry in settings/default.yaml; this is a bug");
            return Vec::new();
        };
        let found = chosen.iter().find_map(|layer| match layer.table.get(key) {
            None | Some(Value { kind: ValueKind::Nil, .. }) => None,
            Some(value) => Some((join(&layer.path, key), value)),
        });
        let Some((path, value)) = found else {
            if !or_default {
                return Vec::new();
            }
            let path = index(&self.key(key), 0);
            let layers = vec![Layer { path: path.clone(), table: template }];
            return vec![Section::read(path, layers, self.findings, read)];
        };
        let ValueKind::Array(entries) = &value.kind else {
            if !is_empty(value) {
                self.fail_value(path, value, "must be a list of sections");
            }
            return Vec::new();
        };
        let mut parsed = Vec::with_capacity(entries.len());
        for (position, entry) in entries.iter().enumerate() {
            let path = index(&path, position);
            let ValueKind::Table(table) = &entry.kind else {
                self.fail_value(path, entry, "must be a section with keys of its own");
                continue;
            };
            let layers = [table, template].map(|table| Layer { path: path.clone(), table });
            parsed.push(Section::read(path, layers.into(), self.findings, &mut read));
        }
        parsed
    }
}

/// Whether anything within it has a value.
fn is_set(value: &Value) -> bool {
    match &value.kind {
        ValueKind::Nil => false,
        ValueKind::Table(table) => table.values().any(is_set),
        ValueKind::Array(entries) => !entries.is_empty(),
        _ => !is_empty(value),
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(&value.kind, ValueKind::String(text) if text.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::values::text;
    use super::*;
    use config::{File, FileFormat, Source};

    fn table(yaml: &str) -> Table {
        File::from_str(yaml, FileFormat::Yaml).collect().unwrap()
    }

    fn owned(value: &Value) -> Result<String, String> {
        text(value).map(str::to_owned)
    }

    #[test]
    fn the_nearest_layer_wins_and_an_empty_value_is_absent() {
        let (chosen, defaults) = (table("a: x\nb:\ns:"), table("a: y\nb: z\ns: {c: d}"));
        let findings = Findings::default();
        let read = Section::read_root(&chosen, &defaults, &findings, |root| {
            let a = root.required("a", owned);
            let b = root.required("b", owned);
            let c = root.within("s", |s| s.required("c", owned));
            (a.unwrap(), b.unwrap(), c.unwrap())
        });
        assert_eq!(read, ("x".into(), "z".into(), "d".into()));
        assert!(findings.into_result(Some(())).is_ok());
    }

    #[test]
    fn a_key_without_a_default_entry_and_a_key_never_asked_for_are_errors() {
        let (chosen, defaults) = (table("more: 1"), table("stale: 1"));
        let findings = Findings::default();
        Section::read_root(&chosen, &defaults, &findings, |root| root.optional("new", owned));
        let errors = findings.into_result(Some(())).unwrap_err();
        let keys: Vec<_> = errors.errors().iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, ["more", "new", "stale"]);
    }

    #[test]
    fn the_variable_of_a_key() {
        assert_eq!(variable("buckets[1].s3.endpoint"), "MIZUCHI__BUCKETS__1__S3__ENDPOINT");
    }
}
