//! What the gateway signs its own requests with, where the settings have no keys: the environment,
//! then the shared profile, as the AWS tools do it.
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>: sections in brackets,
//! `name = value`, comments on lines of their own. The environment and the reading of files are
//! arguments.

use mizuchi_actors::secret::Secret;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// An access key of the backend.
#[derive(Debug, Clone)]
pub struct BackendCredentials {
    /// Names the key.
    pub access_key: String,
    /// Signs.
    pub secret_key: Secret,
    /// For temporary credentials; sent as x-amz-security-token.
    pub session_token: Option<Secret>,
}

/// The first credentials of the chain; `None` if there are none anywhere. The error says what is
/// half there.
pub(super) fn find(
    environment: &BTreeMap<String, String>,
    read: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Option<BackendCredentials>, String> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    let from_environment = pair(
        "in the environment",
        ("AWS_ACCESS_KEY_ID", variable("AWS_ACCESS_KEY_ID")),
        ("AWS_SECRET_ACCESS_KEY", variable("AWS_SECRET_ACCESS_KEY")),
        variable("AWS_SESSION_TOKEN"),
    )?;
    if from_environment.is_some() {
        return Ok(from_environment);
    }
    let chosen = variable("AWS_PROFILE");
    let profile = chosen.as_deref().unwrap_or("default");
    let named = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
    let in_home = || Some(PathBuf::from(variable("HOME")?).join(".aws/credentials"));
    let Some(file) = named.clone().or_else(in_home) else {
        return Ok(None);
    };
    let shown = file.display();
    let text = match read(&file) {
        Ok(text) => text,
        // Nobody asked for the file in the home folder: that it cannot be read is no error.
        Err(_) if named.is_none() && chosen.is_none() => return Ok(None),
        Err(error) => return Err(format!("{shown} cannot be read: {error}")),
    };
    match (read_profile(&text, profile), &chosen) {
        (Some(mut keys), _) => pair(
            &format!("in profile {profile} of {shown}"),
            ("aws_access_key_id", keys.remove("aws_access_key_id")),
            ("aws_secret_access_key", keys.remove("aws_secret_access_key")),
            keys.remove("aws_session_token"),
        ),
        (None, Some(_)) => Err(format!("{shown} has no profile {profile} (AWS_PROFILE)")),
        (None, None) => Ok(None),
    }
}

/// Both keys, or neither.
fn pair(
    place: &str,
    (id_name, id): (&str, Option<String>),
    (secret_name, secret): (&str, Option<String>),
    token: Option<String>,
) -> Result<Option<BackendCredentials>, String> {
    match (id, secret) {
        (Some(access_key), Some(secret)) => Ok(Some(BackendCredentials {
            access_key,
            secret_key: Secret::new(secret),
            session_token: token.map(Secret::new),
        })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(format!("{place}, {id_name} is set without {secret_name}")),
        (None, Some(_)) => Err(format!("{place}, {secret_name} is set without {id_name}")),
    }
}

/// The keys of one profile, without empty ones; `None` if the file does not have it.
fn read_profile(text: &str, profile: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            let name = header.split(']').next().unwrap_or_default().trim();
            inside = name == profile;
            if inside {
                found.get_or_insert_with(BTreeMap::new);
            }
        } else if let (true, Some(keys), Some((name, value))) =
            (inside, found.as_mut(), line.split_once('='))
            && !value.trim().is_empty()
        {
            keys.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILE: &str = "# mine\n[default]\naws_access_key_id = AKDEFAULT\n\
        aws_secret_access_key=default=secret\n\n[work]\n; token\nAWS_ACCESS_KEY_ID = AKWORK\n\
        aws_secret_access_key = work\naws_session_token = token\n[half]\naws_access_key_id = AK\n";

    fn chain(environment: &[(&str, &str)]) -> Result<Option<[String; 3]>, String> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let read = |path: &Path| match path.to_str() {
            Some("/home/me/.aws/credentials" | "/elsewhere") => Ok(FILE.to_owned()),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let found = find(&environment, &read)?;
        Ok(found.map(|found| {
            let token = found.session_token.map(|token| token.expose().to_owned());
            [found.access_key, found.secret_key.expose().to_owned(), token.unwrap_or_default()]
        }))
    }

    fn keys(access: &str, secret: &str, token: &str) -> Result<Option<[String; 3]>, String> {
        Ok(Some([access, secret, token].map(str::to_owned)))
    }

    #[test]
    fn the_environment_comes_first_then_the_profile() {
        let home = ("HOME", "/home/me");
        let (id, secret) = (("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "env"));
        assert_eq!(chain(&[home, id, secret]), keys("AKENV", "env", ""));
        let token = ("AWS_SESSION_TOKEN", "t");
        assert_eq!(chain(&[id, secret, token]), keys("AKENV", "env", "t"));
        assert_eq!(chain(&[home]), keys("AKDEFAULT", "default=secret", ""));
        assert_eq!(chain(&[home, ("AWS_PROFILE", "work")]), keys("AKWORK", "work", "token"));
        let elsewhere = ("AWS_SHARED_CREDENTIALS_FILE", "/elsewhere");
        assert_eq!(chain(&[elsewhere]), keys("AKDEFAULT", "default=secret", ""));
        assert_eq!(chain(&[]), Ok(None));
        assert_eq!(chain(&[("HOME", "/home/other")]), Ok(None));
        let empty = ("AWS_ACCESS_KEY_ID", "");
        assert_eq!(chain(&[home, empty]), keys("AKDEFAULT", "default=secret", ""));
    }

    #[test]
    fn what_is_half_there_or_asked_for_and_missing_is_an_error() {
        let home = ("HOME", "/home/me");
        for (environment, says) in [
            (vec![home, ("AWS_ACCESS_KEY_ID", "AK")], "without AWS_SECRET_ACCESS_KEY"),
            (vec![home, ("AWS_SECRET_ACCESS_KEY", "canary")], "without AWS_ACCESS_KEY_ID"),
            (vec![home, ("AWS_PROFILE", "half")], "without aws_secret_access_key"),
            (vec![home, ("AWS_PROFILE", "none")], "no profile none"),
            (vec![("AWS_SHARED_CREDENTIALS_FILE", "/none")], "cannot be read"),
        ] {
            let error = chain(&environment).unwrap_err();
            assert!(error.contains(says) && !error.contains("canary"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_file_gives_an_answer(text in "([\\[\\]=#; \na-c]|\\PC){0,60}", name in "[a-c]?") {
            let _ = read_profile(&text, &name);
        }
    }
}
