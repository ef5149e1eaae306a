//! Whole files, whole environments: what a start sees.

mod authorization;
mod defaults;
mod findings;
mod jwt;
mod layers;
mod tls;

use super::backend::Surroundings;
use super::load::load_within;
use super::machine::Machine;
use super::values::GIB;
use super::*;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

/// The least that starts.
const MINIMAL: &str = "
auth: {sigv4: {credentials: [{access_key: AK, secret_key: a-long-enough-secret}]}}
buckets:
  - name: uploads
    s3: {region: us-east-1, endpoint: 'http://minio:9000', access_key: B, secret_key: backend}
";

const MACHINE: Machine = Machine { cores: 6, memory: Some(4 * GIB) };

fn load_with(file: &str, environment: &[(&str, &str)]) -> Result<Loaded, SettingsErrors> {
    let environment =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let read = |path: &Path| match path.to_str() {
        Some("settings.yaml") => Ok(file.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let surroundings = Surroundings { environment: &environment, read: &read, list: &|_| Ok(None) };
    load_within(Some(Path::new("settings.yaml")), &surroundings, &MACHINE)
}

fn settings(file: &str, environment: &[(&str, &str)]) -> Settings {
    match load_with(file, environment) {
        Ok(loaded) => loaded.settings,
        Err(errors) => panic!("{errors}"),
    }
}

/// Every error, one a line.
fn errors(file: &str, environment: &[(&str, &str)]) -> String {
    load_with(file, environment).unwrap_err().to_string()
}

fn keys(file: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let errors = load_with(file, environment).unwrap_err();
    errors.errors().iter().map(|error| error.key.clone()).collect()
}

/// [`MINIMAL`] with one line more in its bucket.
fn bucket_with(line: &str) -> String {
    format!("{MINIMAL}    {line}\n")
}

/// [`MINIMAL`] with another `s3`.
fn s3(keys: &str) -> String {
    let (head, _) = MINIMAL.split_once("    s3:").unwrap();
    format!("{head}    s3: {{{keys}}}\n")
}

const SECOND: Duration = Duration::from_secs(1);
