//! What the environment and the shared AWS files say of region and endpoint: read by `aws-config`, as for any
//! AWS tool. Instance metadata is asked for credentials only, never for a region: elsewhere it costs seconds.

use aws_config::BehaviorVersion;
use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::ProfileFileRegionProvider;
use aws_types::region::Region;
use aws_types::service_config::ServiceConfigKey;

/// What is signed for where nothing else is said: what most S3 services other than AWS expect.
const DEFAULT_REGION: &str = "us-east-1";

/// See the module.
pub(super) struct Surroundings {
    pub(super) region: String,
    /// A URL; None: AWS.
    pub(super) endpoint: Option<String>,
}

impl Surroundings {
    /// Reads them; what was said on the command line wins.
    pub(super) async fn read(
        region: Option<&str>,
        endpoint: Option<&str>,
        profile: Option<&str>,
    ) -> Surroundings {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut found = region.map(str::to_owned);
        found = found.or_else(|| variable("AWS_REGION")).or_else(|| variable("AWS_DEFAULT_REGION"));
        if found.is_none() {
            let mut of_profile = ProfileFileRegionProvider::builder();
            if let Some(profile) = profile {
                of_profile = of_profile.profile_name(profile);
            }
            found = of_profile.build().region().await.map(|region| region.to_string());
        }
        let region = found.unwrap_or_else(|| DEFAULT_REGION.to_owned());
        if let Some(endpoint) = endpoint {
            return Surroundings { region, endpoint: Some(endpoint.to_owned()) };
        }
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(region.clone()))
            .no_credentials();
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        let config = loader.load().await;
        let key = ServiceConfigKey::builder()
            .service_id("s3")
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build();
        let of_s3 = key.ok().and_then(|key| config.service_config()?.load_config(key));
        let endpoint = of_s3.or_else(|| config.endpoint_url().map(str::to_owned));
        Surroundings { region, endpoint }
    }
}
