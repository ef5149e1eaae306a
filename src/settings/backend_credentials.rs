//! What the gateway signs its own requests with: where its keys come from. Decided here, once, from
//! what is set; nothing is asked over a network, and what comes from afar is fetched later
//! (`crate::credentials`).
//!
//! The order is that of the AWS tools: settings, environment, shared profile, web identity, container,
//! instance metadata. <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>

use super::aws_profile;
use super::backend::Surroundings;
use mizuchi_actors::secret::Secret;
use std::fmt;
use std::path::Path;

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

/// Where the keys of a backend come from.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// `s3.access_key` and its companions.
    Settings(BackendCredentials),
    /// `AWS_ACCESS_KEY_ID` and its companions.
    Environment(BackendCredentials),
    /// The profile of this name, in the shared files; they are read again from time to time.
    Profile(String),
    /// AssumeRoleWithWebIdentity with the token in `AWS_WEB_IDENTITY_TOKEN_FILE` (EKS: IRSA).
    WebIdentity,
    /// The endpoint in `AWS_CONTAINER_CREDENTIALS_*_URI` (ECS tasks, EKS pod identity).
    Container,
    /// The machine's role, by IMDSv2.
    InstanceMetadata,
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialSource::Settings(_) => f.write_str("the settings"),
            CredentialSource::Environment(_) => f.write_str("the environment (AWS_ACCESS_KEY_ID)"),
            CredentialSource::Profile(name) => write!(f, "the profile {name}"),
            CredentialSource::WebIdentity => {
                f.write_str("a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)")
            }
            CredentialSource::Container => {
                f.write_str("the container's endpoint (AWS_CONTAINER_CREDENTIALS_*_URI)")
            }
            CredentialSource::InstanceMetadata => f.write_str("the EC2 instance metadata (IMDSv2)"),
        }
    }
}

/// `s3.instance_metadata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstanceMetadata {
    /// If the machine says that it is one of EC2.
    Auto,
    /// Whatever it says.
    Always,
    /// Never.
    Never,
}

/// The first source that is there; `None` if there is none. `chosen`: `s3.profile`. The error says
/// what is half there.
pub(super) fn find(
    chosen: Option<&str>,
    metadata: InstanceMetadata,
    surroundings: &Surroundings<'_>,
) -> Result<Option<CredentialSource>, String> {
    let variable = |name: &str| surroundings.variable(name).map(str::to_owned);
    if let Some(name) = chosen {
        return match aws_profile::look(name, surroundings)? {
            Some(true) => Ok(Some(CredentialSource::Profile(name.to_owned()))),
            Some(false) => Err(format!("profile {name} has no credentials")),
            None => Err(format!("there is no profile {name}")),
        };
    }
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key), Some(secret)) => {
            return Ok(Some(CredentialSource::Environment(BackendCredentials {
                access_key,
                secret_key: Secret::new(secret),
                session_token: variable("AWS_SESSION_TOKEN").map(Secret::new),
            })));
        }
        (Some(_), None) => return Err(half("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")),
        (None, Some(_)) => return Err(half("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")),
        (None, None) => {}
    }
    let named = variable("AWS_PROFILE");
    let profile = named.clone().unwrap_or_else(|| "default".to_owned());
    match (aws_profile::look(&profile, surroundings)?, named) {
        (Some(true), _) => return Ok(Some(CredentialSource::Profile(profile))),
        (None, Some(name)) => return Err(format!("there is no profile {name} (AWS_PROFILE)")),
        _ => {}
    }
    match (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) {
        (Some(_), Some(_)) => return Ok(Some(CredentialSource::WebIdentity)),
        (Some(_), None) => return Err(half("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")),
        // A role alone is what some tools set for others.
        (None, _) => {}
    }
    let uris = ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
    if uris.into_iter().any(|name| variable(name).is_some()) {
        return Ok(Some(CredentialSource::Container));
    }
    let off =
        variable("AWS_EC2_METADATA_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let there = match metadata {
        InstanceMetadata::Never => false,
        InstanceMetadata::Always => !off,
        InstanceMetadata::Auto => !off && is_ec2(surroundings),
    };
    Ok(there.then_some(CredentialSource::InstanceMetadata))
}

fn half(there: &str, missing: &str) -> String {
    format!("in the environment, {there} is set without {missing}")
}

/// Whether the machine, or the environment, says that there is instance metadata: the vendor in the
/// firmware (Nitro), the hypervisor's UUID (Xen), or a metadata endpoint that somebody has set.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html>
fn is_ec2(surroundings: &Surroundings<'_>) -> bool {
    let begins = |file: &str, with: &str| {
        (surroundings.read)(Path::new(file)).is_ok_and(|text| text.starts_with(with))
    };
    surroundings.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_some()
        || begins("/sys/class/dmi/id/sys_vendor", "Amazon EC2")
        || begins("/sys/hypervisor/uuid", "ec2")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io;

    const FILE: &str = "# mine\n[default]\naws_access_key_id = AKDEFAULT\n\
        aws_secret_access_key=default=secret\n\n[work]\n; token\nAWS_ACCESS_KEY_ID = AKWORK\n\
        aws_secret_access_key = work\naws_session_token = token\n[half]\naws_access_key_id = AK\n";

    const CONFIG: &str = "[profile role]\nrole_arn = arn:aws:iam::1:role/r\n\
        source_profile = work\n[profile lost]\nrole_arn = arn:aws:iam::1:role/r\n\
        source_profile = nowhere\n[profile empty]\nregion = eu-west-1\n[profile run]\n\
        credential_process = /bin/canary\n[profile behind]\nrole_arn = arn:aws:iam::1:role/r\n\
        source_profile = run\n[profile sourceless]\nrole_arn = a\n";

    fn chain_of(
        chosen: Option<&str>,
        metadata: InstanceMetadata,
        environment: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Result<Option<String>, String> {
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Some(*name) == path.to_str());
            found.map(|(_, text)| (*text).to_owned()).ok_or(io::ErrorKind::NotFound.into())
        };
        let list = |_: &Path| Ok(None);
        let surroundings = Surroundings { environment: &environment, read: &read, list: &list };
        let found = find(chosen, metadata, &surroundings);
        Ok(found?.map(|found| match found {
            CredentialSource::Settings(keys) | CredentialSource::Environment(keys) => {
                let token = keys.session_token.map(|token| token.expose().to_owned());
                let token = token.unwrap_or_default();
                format!("{} {} {token}", keys.access_key, keys.secret_key.expose())
            }
            other => other.to_string(),
        }))
    }

    const AT_HOME: [(&str, &str); 2] =
        [("/home/me/.aws/credentials", FILE), ("/home/me/.aws/config", CONFIG)];

    fn chain(environment: &[(&str, &str)]) -> Result<Option<String>, String> {
        let files = [AT_HOME[0], AT_HOME[1], ("/elsewhere", FILE)];
        chain_of(None, InstanceMetadata::Auto, environment, &files)
    }

    #[test]
    fn the_environment_comes_first_then_the_profile_then_what_is_afar() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        let home = ("HOME", "/home/me");
        let (id, secret) = (("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "env"));
        let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), ("AWS_ROLE_ARN", "arn")];
        let container = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x");
        assert_eq!(chain(&[home, id, secret, web[0], web[1]]), some("AKENV env "));
        let token = ("AWS_SESSION_TOKEN", "t");
        assert_eq!(chain(&[id, secret, token]), some("AKENV env t"));
        assert_eq!(chain(&[home, web[0], web[1]]), some("the profile default"));
        assert_eq!(chain(&[home, ("AWS_PROFILE", "work")]), some("the profile work"));
        assert_eq!(chain(&[home, ("AWS_PROFILE", "role")]), some("the profile role"));
        let elsewhere = ("AWS_SHARED_CREDENTIALS_FILE", "/elsewhere");
        assert_eq!(chain(&[elsewhere]), some("the profile default"));
        let identity = some("a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)");
        assert_eq!(chain(&[web[0], web[1], container]), identity);
        let without = [home, ("AWS_PROFILE", "empty"), web[0], web[1]];
        assert_eq!(chain(&without), identity, "a profile without credentials is passed over");
        assert_eq!(chain(&[container]).unwrap().unwrap().find("the container"), Some(0));
        for nothing in [&[][..], &[("HOME", "/home/other")], &[("AWS_ACCESS_KEY_ID", "")]] {
            assert_eq!(chain(nothing), Ok(None));
        }
        let empty = ("AWS_ACCESS_KEY_ID", "");
        assert_eq!(chain(&[home, empty]), some("the profile default"));
    }

    #[test]
    fn instance_metadata_is_asked_where_the_machine_says_so_or_the_settings_do() {
        use InstanceMetadata::{Always, Auto, Never};
        let ec2 = [("/sys/class/dmi/id/sys_vendor", "Amazon EC2\n")];
        let xen = [("/sys/hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n")];
        let other = [("/sys/class/dmi/id/sys_vendor", "LENOVO\n")];
        let off = [("AWS_EC2_METADATA_DISABLED", "true")];
        let endpoint = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]")];
        for (metadata, environment, files, there) in [
            (Auto, &[][..], &ec2, true),
            (Auto, &[], &xen, true),
            (Auto, &[], &other, false),
            (Auto, &endpoint, &other, true),
            (Auto, &off, &ec2, false),
            (Always, &[], &other, true),
            (Always, &off, &ec2, false),
            (Never, &endpoint, &ec2, false),
        ] {
            let found = chain_of(None, metadata, environment, files).unwrap();
            assert_eq!(found.is_some(), there, "{metadata:?} {environment:?} {files:?}");
        }
    }

    #[test]
    fn what_is_half_there_or_asked_for_and_missing_is_an_error() {
        let home = ("HOME", "/home/me");
        let profile = |name| vec![home, ("AWS_PROFILE", name)];
        for (environment, says) in [
            (vec![home, ("AWS_ACCESS_KEY_ID", "AK")], "without AWS_SECRET_ACCESS_KEY"),
            (vec![home, ("AWS_SECRET_ACCESS_KEY", "canary")], "without AWS_ACCESS_KEY_ID"),
            (vec![("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")], "without AWS_ROLE_ARN"),
            (profile("half"), "without aws_secret_access_key"),
            (profile("none"), "no profile none"),
            (profile("lost"), "source_profile that is not there"),
            (profile("sourceless"), "without source_profile"),
            (profile("run"), "profile run has credential_process"),
            (profile("behind"), "profile run has credential_process"),
            (vec![("AWS_SHARED_CREDENTIALS_FILE", "/none")], "cannot be read"),
        ] {
            let error = chain(&environment).unwrap_err();
            assert!(error.contains(says) && !error.contains("canary"), "{error}");
        }
    }

    /// A profile that the settings name comes before the environment, and must have credentials.
    #[test]
    fn a_chosen_profile_is_the_only_source() {
        let environment =
            [("HOME", "/home/me"), ("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "B")];
        let chosen = |name| chain_of(Some(name), InstanceMetadata::Always, &environment, &AT_HOME);
        assert_eq!(chosen("role"), Ok(Some("the profile role".to_owned())));
        assert_eq!(chosen("empty"), Err("profile empty has no credentials".to_owned()));
        assert_eq!(chosen("none"), Err("there is no profile none".to_owned()));
    }

    proptest! {
        #[test]
        fn any_file_gives_an_answer(text in "([\\[\\]=#; \na-c]|\\PC){0,60}", name in "[a-c]") {
            let home = [("HOME", "/home/me")];
            for file in ["/home/me/.aws/credentials", "/home/me/.aws/config"] {
                let _ = chain_of(Some(&name), InstanceMetadata::Never, &home, &[(file, &text)]);
            }
        }
    }
}
