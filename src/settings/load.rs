//! From a file, an environment and the built-in defaults to [`Settings`].

use super::admin;
use super::audit;
use super::auth;
use super::authorization;
use super::backend::Surroundings;
use super::bucket;
use super::findings::{Findings, SettingsErrors};
use super::interpolate::interpolate_tree;
use super::machine::Machine;
use super::section::{ENVIRONMENT, PREFIX, Section, Table};
use super::{BucketSettings, Settings, process, server};
use crate::tls::ClientAuth;
use config::{Config, File, FileFormat, Source, Value, ValueKind};
use mizuchi_actors::policy::list_folder;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// The built-in defaults, and their documentation.
pub(super) const DEFAULTS: &str = include_str!("../../settings/default.yaml");

/// Bytes of a file that is read: far beyond any settings, far below what would hurt.
const MAX_FILE: u64 = 1 << 20;

/// Entries of a list that variables may set by their position: the list grows up to it.
const MAX_POSITION: usize = 99;

/// What [`load`] found.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Complete and checked.
    pub settings: Settings,
    /// What works, but is probably not meant; each with its key.
    pub warnings: Vec<String>,
}

/// Reads the settings: `environment` over the YAML file at `path`, if there is one, over the
/// built-in defaults. The process's own environment is not looked at: it comes as `environment`.
///
/// # Errors
/// Everything that is wrong, with its key; or that the file could not be read or is not YAML.
pub fn load(
    path: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Loaded, SettingsErrors> {
    let surroundings = Surroundings { environment, read: &read_file, list: &list_folder };
    load_within(path, &surroundings, &Machine::detect(read_file))
}

/// [`load`], of a text that was read already, and of no other file.
///
/// # Errors
/// As [`load`].
pub fn load_text(
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Loaded, SettingsErrors> {
    let name = Path::new("settings");
    let read = |path: &Path| match path == name {
        true => Ok(text.to_owned()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    let surroundings = Surroundings { environment, read: &read, list: &|_| Ok(None) };
    load_within(Some(name), &surroundings, &Machine::detect(read_file))
}

/// [`load`], with the files and the machine as arguments.
pub(super) fn load_within(
    path: Option<&Path>,
    surroundings: &Surroundings<'_>,
    machine: &Machine,
) -> Result<Loaded, SettingsErrors> {
    let findings = Findings::default();
    let layers = read_layers(path, surroundings, &findings);
    let settings = layers.and_then(|(chosen, defaults)| {
        Section::read_root(&chosen, &defaults, &findings, |root| {
            read_settings(root, surroundings, machine)
        })
    });
    findings.into_result(settings).map(|(settings, warnings)| Loaded { settings, warnings })
}

/// The environment over the file, and the defaults. `None`: a layer is unreadable, which is noted.
fn read_layers(
    path: Option<&Path>,
    surroundings: &Surroundings<'_>,
    findings: &Findings,
) -> Option<(Table, Table)> {
    let defaults = parse("settings/default.yaml", DEFAULTS, findings)?;
    let mut file = match path {
        None => Table::new(),
        Some(path) => {
            let name = path.display().to_string();
            let text = (surroundings.read)(path).map_err(|error| {
                findings.error(name.as_str(), format!("the settings cannot be read: {error}"));
            });
            parse(&name, &text.ok()?, findings)?
        }
    };
    // The crate reads the keys of a source as paths, `a[4294967295]` included: only plain ones of
    // ours may get there.
    file.retain(|key, _| {
        let known = defaults.contains_key(key);
        if !known {
            // An empty key is shown as one, or its error would stand under no key.
            findings.error(if key.is_empty() { "\"\"" } else { key }, unknown(&defaults));
        }
        known
    });
    for (key, value) in &mut file {
        interpolate_tree(value, key, surroundings.environment, findings);
    }
    let mut layers = Config::builder().add_source(Keys(file));
    // Backwards, so that of `A` and `A__B` the shorter comes last and its error shows, whatever
    // else is set.
    let variables = surroundings.environment.iter().rev();
    for (name, value) in variables.filter(|(name, _)| name.starts_with(PREFIX)) {
        match key_of(name, &defaults) {
            Ok(key) => {
                let value = Value::new(Some(&ENVIRONMENT.to_owned()), value.as_str());
                layers = layers.add_source(Keys(Table::from_iter([(key, value)])));
            }
            Err(problem) => findings.error(name, problem),
        }
    }
    match layers.build() {
        Ok(Config { cache: Value { kind: ValueKind::Table(chosen), .. }, .. }) => {
            Some((chosen, defaults))
        }
        Ok(_) => None,
        Err(error) => {
            findings.error("settings", error.to_string());
            None
        }
    }
}

/// A file that holds `keys` of one section of the settings, and that section's defaults of them.
/// `None`: unreadable, which is noted.
pub(super) fn read_part(
    path: &Path,
    text: &str,
    section: &[&str],
    keys: &[&str],
    environment: &BTreeMap<String, String>,
    findings: &Findings,
) -> Option<(Table, Table)> {
    let mut file = parse(&path.display().to_string(), text, findings)?;
    let mut defaults = parse("settings/default.yaml", DEFAULTS, findings)?;
    for key in section {
        defaults = match defaults.remove(*key)?.kind {
            ValueKind::Table(table) => table,
            _ => return None,
        };
    }
    defaults.retain(|key, _| keys.contains(&key.as_str()));
    for (key, value) in &mut file {
        interpolate_tree(value, key, environment, findings);
    }
    Some((file, defaults))
}

/// The key that the variable `name` sets: `MIZUCHI__BUCKETS__0__NAME` is `buckets[0].name`.
fn key_of(name: &str, defaults: &Table) -> Result<String, String> {
    let segments = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let mut key = String::new();
    for (position, segment) in segments.split("__").enumerate() {
        if segment.is_empty() || !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err("is not the name of a setting: write MIZUCHI__SECTION__KEY".into());
        }
        if position == 0 {
            if !defaults.contains_key(segment) {
                return Err(unknown(defaults));
            }
            key.push_str(segment);
        } else if segment.bytes().all(|b| b.is_ascii_digit()) {
            match segment.parse::<usize>() {
                Ok(entry) if entry <= MAX_POSITION => key.push_str(&format!("[{entry}]")),
                _ => return Err(format!("positions in a list go from 0 to {MAX_POSITION}")),
            }
        } else {
            key.push('.');
            key.push_str(segment);
        }
    }
    Ok(key)
}

fn unknown(defaults: &Table) -> String {
    let mut known: Vec<_> = defaults.keys().map(String::as_str).collect();
    known.sort_unstable();
    format!("is not a setting; known here: {}", known.join(", "))
}

fn parse(name: &str, text: &str, findings: &Findings) -> Option<Table> {
    match File::from_str(text, FileFormat::Yaml).collect() {
        Ok(table) => Some(table),
        Err(error) => {
            findings.error(
                name,
                format!("is not a YAML file of settings: {}", told(&error.to_string())),
            );
            None
        }
    }
}

/// What may be told of a text that is no YAML of settings: what the scanner says, with its place. Other
/// errors quote the text, and that may be a secret: a file that is nothing but a token, `{{secret}}`
/// that no template has filled in.
fn told(error: &str) -> &str {
    let place = error.rsplit_once(" at byte ").map(|(_, place)| place);
    match place {
        Some(place) if place.split(' ').all(is_place) => error,
        _ => "must be one document, of keys with texts, numbers, lists or keys of their own",
    }
}

fn is_place(word: &str) -> bool {
    ["line", "column"].contains(&word) || word.bytes().all(|b| b.is_ascii_digit())
}

fn read_settings(
    root: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
    machine: &Machine,
) -> Option<Settings> {
    let server = root.within("server", |s| server::read(s, surroundings, machine));
    let admission = root.within("admission", process::read_admission);
    let state_directory = server.as_ref().map(|server| server.state_directory.as_path());
    let replay = root.within("replay", |s| process::read_replay(s, machine, state_directory));
    let spool = root.within("spool", |s| process::read_spool(s, state_directory));
    let admin = root.within("admin", |s| admin::read(s, surroundings));
    let logging = root.within("logging", process::read_logging);
    let sts = root.within("sts", process::read_sts);
    let audit = root.within("audit", |s| audit::read(s, state_directory));
    let embedded = root.within("embedded", process::read_embedded);
    root.within("auth", |s| auth::check(s, surroundings));
    let auth = root.layers_of("auth");
    // Checked for itself: an error in it shows even if no bucket uses it.
    root.within("authorization", |s| authorization::read(s, surroundings, &[]));
    let authorization = root.layers_of("authorization");
    let buckets = bucket::read_all(root, &auth, &authorization, surroundings);
    if let (Some(server), Some(buckets)) = (&server, &buckets) {
        let asked = server.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::Off);
        for (position, bucket) in buckets.iter().enumerate() {
            if bucket.auth.enabled && bucket.auth.client_certificates.is_some() && !asked {
                let problem = "needs server.tls.client_auth: optional or required";
                let key = format!("buckets[{position}].auth.client_certificates.enabled");
                root.findings().error(key, problem);
            }
        }
    }
    let tokens =
        |bucket: &BucketSettings| bucket.auth.enabled && !bucket.auth.jwt.issuers.is_empty();
    if sts.is_some_and(|sts| sts.enabled)
        && buckets.as_ref().is_some_and(|buckets| !buckets.iter().any(tokens))
    {
        root.fail("sts.enabled", "needs a bucket with an issuer of tokens (auth.jwt.issuers)");
    }
    Some(Settings {
        server: server?,
        admission: admission?,
        replay: replay?,
        spool: spool?,
        admin: admin?,
        logging: logging?,
        audit: audit?,
        sts: sts?,
        embedded: embedded?,
        buckets: buckets?,
    })
}

/// Reads a text file of at most [`MAX_FILE`] bytes.
fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

/// A layer of `config`: values that were read already.
#[derive(Debug, Clone)]
struct Keys(Table);

impl Source for Keys {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Table, config::ConfigError> {
        Ok(self.0.clone())
    }
}
