//! What is wrong with the settings: collected, never thrown at the first.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The full key, as in `buckets[1].s3.endpoint`; a file's or a variable's name where the error
    /// belongs to no key.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = format!("{}: {}", self.key, self.problem);
        // A key or a value may hold a line break: an error is one line whatever it quotes.
        for c in line.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// All that is wrong, sorted by key: at least one error. Displays one line per error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsErrors(Vec<SettingsError>);

impl SettingsErrors {
    /// The errors, sorted by key.
    pub fn errors(&self) -> &[SettingsError] {
        &self.0
    }
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsErrors {}

/// Collects errors and warnings while the layers are read.
///
/// The first error of a key stands: what follows from it (a variable that is not set leaves its
/// key empty) would only hide it.
#[derive(Default)]
pub(super) struct Findings {
    errors: RefCell<BTreeMap<String, String>>,
    warnings: RefCell<BTreeSet<String>>,
}

impl Findings {
    /// Notes what is wrong with `key`.
    pub(super) fn error(&self, key: impl Into<String>, problem: impl Into<String>) {
        self.errors.borrow_mut().entry(key.into()).or_insert_with(|| problem.into());
    }

    /// Notes what works, but is probably not meant.
    pub(super) fn warn(&self, key: &str, problem: &str) {
        self.warnings.borrow_mut().insert(format!("{key}: {problem}"));
    }

    /// `value` with the warnings, or the errors. A value that is not there is an error that was
    /// noted.
    pub(super) fn into_result<T>(
        self,
        value: Option<T>,
    ) -> Result<(T, Vec<String>), SettingsErrors> {
        let mut errors: Vec<_> = self
            .errors
            .into_inner()
            .into_iter()
            .map(|(key, problem)| SettingsError { key, problem })
            .collect();
        match value {
            Some(value) if errors.is_empty() => {
                Ok((value, self.warnings.into_inner().into_iter().collect()))
            }
            _ => {
                if errors.is_empty() {
                    errors.push(SettingsError {
                        key: "settings".into(),
                        problem: "could not be read; this is a bug, please report it".into(),
                    });
                }
                Err(SettingsErrors(errors))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_one_a_line_and_the_first_of_a_key_stands() {
        let findings = Findings::default();
        findings.error("b", "first");
        findings.error("b", "second");
        findings.error("a\nc", "line\nbreak");
        let errors = findings.into_result(Some(())).unwrap_err();
        assert_eq!(errors.to_string(), "a\\nc: line\\nbreak\nb: first");
    }

    #[test]
    fn a_missing_value_is_never_a_success() {
        assert!(Findings::default().into_result::<()>(None).is_err());
        assert!(Findings::default().into_result(Some(())).is_ok());
    }
}
