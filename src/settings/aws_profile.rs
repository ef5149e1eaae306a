//! What a profile of the shared AWS files has in it, as far as a start must know: whether there are
//! credentials, and what is half there. The grammar is `aws-config`'s own, which fetches from the same
//! profile later.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>. The environment and the reading
//! of files are arguments: what was read goes to the parser as a file system in memory.

use super::backend::Surroundings;
use aws_config::profile::{Profile, ProfileSet};
use aws_types::os_shim_internal::{Env, Fs};
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Ways to get credentials that a gateway does not go: what a profile says, and what it stands for. (`mizuchi
/// upload`, which somebody sits before, goes all but the last.)
const NOT_HERE: [(&str, &str); 5] = [
    ("credential_process", "runs another program"),
    ("sso_session", "signs in through a browser"),
    ("sso_start_url", "signs in through a browser"),
    ("sso_account_id", "signs in through a browser"),
    ("login_session", "signs in through a browser"),
];

/// The two files: the variable that names another one, and the one in the home folder.
const FILES: [(&str, &str); 2] =
    [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")];

/// Whether the profile `name` gives credentials; `None`: there is no such profile. The error says what
/// is wrong with it.
pub(super) fn look(name: &str, surroundings: &Surroundings<'_>) -> Result<Option<bool>, String> {
    let mut files = HashMap::new();
    let home = surroundings.variable("HOME").map(PathBuf::from);
    for (variable, default) in FILES {
        let named = surroundings.variable(variable).map(|text| match text.strip_prefix("~/") {
            Some(rest) => home.clone().unwrap_or_default().join(rest),
            None => PathBuf::from(text),
        });
        let asked_for = named.is_some();
        let Some(path) = named.or_else(|| Some(home.clone()?.join(default))) else { continue };
        match (surroundings.read)(&path) {
            Ok(text) => drop(files.insert(path.display().to_string(), text)),
            // Nobody asked for the file in the home folder: that it cannot be read is no error.
            Err(_) if !asked_for => {}
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        }
    }
    let variables: Vec<(&str, &str)> =
        surroundings.environment.iter().map(|(name, value)| (&**name, &**value)).collect();
    let (files, environment) = (Fs::from_map(files), Env::from_slice(&variables));
    let places = Default::default();
    let parsing = aws_config::profile::load(&files, &environment, &places, None);
    // Everything is in memory: it is ready at once.
    let Poll::Ready(parsed) = pin!(parsing).poll(&mut Context::from_waker(Waker::noop())) else {
        return Err("the profile files could not be parsed".to_owned());
    };
    let parsed = parsed.map_err(|error| format!("the profile files do not parse: {error}"))?;
    let Some(profile) = parsed.get_profile(name) else { return Ok(None) };
    let has = |key: &str| says(profile, key);
    let set = |keys: &[&'static str]| keys.iter().copied().find(|key| has(key));
    for (name, profile) in sources(&parsed, name) {
        if let Some((key, what)) = NOT_HERE.iter().find(|(key, _)| says(profile, key)) {
            return Err(format!("profile {name} has {key}, which {what}: a gateway does not"));
        }
    }
    match (set(&["aws_access_key_id"]), set(&["aws_secret_access_key"])) {
        (Some(one), None) => {
            return Err(format!("profile {name} has {one} without aws_secret_access_key"));
        }
        (None, Some(one)) => {
            return Err(format!("profile {name} has {one} without aws_access_key_id"));
        }
        _ => {}
    }
    let from = set(&["source_profile", "credential_source", "web_identity_token_file"]);
    match (set(&["role_arn"]), from) {
        (Some(_), None) => Err(format!(
            "profile {name} has role_arn without source_profile, credential_source or \
             web_identity_token_file"
        )),
        (None, Some(key)) => Err(format!("profile {name} has {key} without role_arn")),
        (Some(_), Some("source_profile"))
            if profile
                .get("source_profile")
                .is_none_or(|one| parsed.get_profile(one).is_none()) =>
        {
            Err(format!("profile {name} has a source_profile that is not there"))
        }
        (role, _) => Ok(Some(role.is_some() || has("aws_access_key_id"))),
    }
}

/// Whether the profile has this key, and something in it.
fn says(profile: &Profile, key: &str) -> bool {
    profile.get(key).is_some_and(|value| !value.is_empty())
}

/// The profile `name` and those that it takes its credentials from, each once.
fn sources<'p>(parsed: &'p ProfileSet, name: &'p str) -> Vec<(&'p str, &'p Profile)> {
    let mut found: Vec<(&str, &Profile)> = Vec::new();
    let mut next = Some(name);
    while let Some(name) = next
        && !found.iter().any(|(known, _)| *known == name)
        && let Some(profile) = parsed.get_profile(name)
    {
        found.push((name, profile));
        next = profile.get("source_profile");
    }
    found
}
