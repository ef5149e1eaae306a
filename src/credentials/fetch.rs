//! One source of credentials, asked once: `aws-config`'s providers, over an HTTPS client of rustls with
//! ring.
//!
//! Providers are built anew for each fetch. They keep what they have read (a profile, a token file's
//! place, an answer past its time); here the keeping is done by one who knows what is still valid.

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::{self, credentials::ImdsCredentialsProvider};
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::tls;
use aws_types::region::Region;
use mizuchi_actors::secret::Secret;
use std::error::Error;
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;

/// The longest time of one fetch, retries and all.
const LIMIT: Duration = Duration::from_secs(20);

/// Bytes of an error that are logged.
const MAX_PROBLEM: usize = 500;

/// Where STS is asked; set, it wins over the bucket's region.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

/// A source that has to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    kind: Kind,
    region: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Profile(String),
    WebIdentity,
    Container,
    InstanceMetadata,
    Chain,
}

/// What it gave.
pub(super) struct Fetched {
    pub(super) access_key: String,
    pub(super) secret_key: Secret,
    pub(super) session_token: Option<Secret>,
    /// None: they do not expire.
    pub(super) expires: Option<OffsetDateTime>,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Profile(name) => write!(f, "the profile {name}"),
            Kind::WebIdentity => f.write_str("the web identity"),
            Kind::Container => f.write_str("the container's endpoint"),
            Kind::InstanceMetadata => f.write_str("the instance metadata"),
            Kind::Chain => f.write_str(
                "the environment, the shared AWS files, a web identity, a container or an instance",
            ),
        }
    }
}

impl Source {
    /// A profile of the shared files.
    pub(super) fn profile(name: &str, region: &str) -> Self {
        Source { kind: Kind::Profile(name.to_owned()), region: region.to_owned() }
    }

    /// STS, with a token file.
    pub(super) fn web_identity(region: &str) -> Self {
        Source { kind: Kind::WebIdentity, region: region.to_owned() }
    }

    /// The endpoint of ECS, or of EKS pod identity.
    pub(super) fn container(region: &str) -> Self {
        Source { kind: Kind::Container, region: region.to_owned() }
    }

    /// IMDSv2.
    pub(super) fn instance_metadata(region: &str) -> Self {
        Source { kind: Kind::InstanceMetadata, region: region.to_owned() }
    }

    /// The first of all of them that has any, as for any AWS tool.
    pub(super) fn chain(region: &str) -> Self {
        Source { kind: Kind::Chain, region: region.to_owned() }
    }

    /// Asks it. The error is in words, without secrets.
    pub(super) async fn fetch(&self) -> Result<Fetched, String> {
        let asked = tokio::time::timeout(LIMIT, self.ask()).await;
        let found = asked.map_err(|_| format!("no answer within {} s", LIMIT.as_secs()))??;
        let expires = found.expiry().map(OffsetDateTime::from);
        Ok(Fetched {
            access_key: found.access_key_id().to_owned(),
            secret_key: Secret::new(found.secret_access_key().to_owned()),
            session_token: found.session_token().map(|token| Secret::new(token.to_owned())),
            expires,
        })
    }

    async fn ask(&self) -> Result<aws_credential_types::Credentials, String> {
        let ring = tls::rustls_provider::CryptoMode::Ring;
        let https = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(ring))
            .build_https();
        let set = REGION_VARIABLES.iter().find_map(|name| std::env::var(name).ok());
        let region = set.filter(|set| !set.is_empty()).unwrap_or_else(|| self.region.clone());
        let region = Region::new(region);
        let config = ProviderConfig::without_region()
            .with_region(Some(region.clone()))
            .with_http_client(https)
            // The schedule asks again, and says so.
            .with_retry_config(RetryConfig::disabled());
        let answer = match &self.kind {
            Kind::Profile(name) => {
                let builder = ProfileFileCredentialsProvider::builder().configure(&config);
                builder.profile_name(name).build().provide_credentials().await
            }
            Kind::WebIdentity => {
                let builder = WebIdentityTokenCredentialsProvider::builder().configure(&config);
                builder.build().provide_credentials().await
            }
            Kind::Container => {
                let builder = EcsCredentialsProvider::builder().configure(&config);
                builder.build().provide_credentials().await
            }
            Kind::InstanceMetadata => {
                let client = imds::Client::builder().configure(&config).max_attempts(1).build();
                let builder = ImdsCredentialsProvider::builder().configure(&config);
                builder.imds_client(client).build().provide_credentials().await
            }
            Kind::Chain => {
                let client = imds::Client::builder().configure(&config).max_attempts(1).build();
                let builder = DefaultCredentialsChain::builder().region(region);
                let builder = builder.imds_client(client).configure(config);
                builder.build().await.provide_credentials().await
            }
        };
        answer.map_err(|error| words(&error))
    }
}

/// What begins an answer that an error shows in its `Debug` form, body and all.
const WHOLE_ANSWER: &str = "Response {";

/// What `aws-config` says of each source, once for each way that an error has come by.
const SAYS_NOTHING: &str = "an error occurred while loading credentials";

/// An error and what it came of, on one line, without the answers that came.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    let (last, before) = texts.split_last().map_or(("", &[][..]), |(last, before)| (last, before));
    let telling = before.iter().map(String::as_str).filter(|text| *text != SAYS_NOTHING);
    let text = telling.chain([last]).collect::<Vec<_>>().join(": ");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = text.split(WHOLE_ANSWER).next().unwrap_or_default().trim_end();
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_PROBLEM);
    text.get(..end.unwrap_or(text.len())).unwrap_or_default().to_owned()
}
