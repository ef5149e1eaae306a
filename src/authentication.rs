//! From `auth` in the settings to what the engine knows clients by.

use crate::reload::Watched;
use crate::settings::{
    AuthSettings, ClientCredential, IssuerKeys, IssuerSettings, JwksSettings, Settings,
    parse_credentials,
};
use mizuchi_actors::backend::{Authorities, TrustError};
use mizuchi_actors::certificate::CertificateRules;
use mizuchi_actors::config::{Authentication, Engine};
use mizuchi_actors::jwt::{Authenticator, Issuer, JwksCache, JwksPolicy, Keys, TokenSources};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::outbound::{Outbound, ServiceUrl};
use mizuchi_actors::sigv4::session::SessionSealer;
use mizuchi_actors::sigv4::{Credential, Credentials, Sessions, Verifier};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::task::JoinSet;

/// What makes two key sets the same: then they are fetched once for all buckets.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    url: ServiceUrl,
    ca_files: Vec<String>,
    policy: JwksPolicy,
}

/// The key sets of all buckets' issuers.
#[derive(Default)]
pub(crate) struct KeySets {
    caches: HashMap<Place, Arc<JwksCache>>,
}

impl KeySets {
    /// Keeps the keys of all issuers fresh until the tasks are dropped. One that cannot be reached
    /// stops nothing.
    pub(crate) fn keep(self, metrics: &Metrics) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for cache in self.caches.into_values() {
            tasks.spawn(cache.keep(metrics.jwks_fetches.clone()));
        }
        tasks
    }

    fn cache(&mut self, settings: &JwksSettings) -> Result<Arc<JwksCache>, TrustError> {
        let JwksSettings { url, authorities, ca_files, policy } = settings.clone();
        let place = Place { url: url.clone(), ca_files, policy };
        if let Some(cache) = self.caches.get(&place) {
            return Ok(Arc::clone(cache));
        }
        let authorities = match authorities {
            Some(authorities) => authorities,
            None if url.is_tls() => Authorities::of_system()?,
            None => Authorities::none(),
        };
        let cache = JwksCache::new(url, Arc::new(Outbound::new(authorities)?), policy);
        self.caches.insert(place, Arc::clone(&cache));
        Ok(cache)
    }
}

/// How the clients of a bucket are known; None: nobody is asked. `sessions`: makes and opens sessions,
/// where there is a token service.
///
/// Errors: there are no certificates of authorities to trust.
pub(crate) fn authentication(
    settings: &AuthSettings,
    key_sets: &mut KeySets,
    sessions: Option<&Arc<SessionSealer>>,
) -> io::Result<Option<Authentication>> {
    if !settings.enabled {
        return Ok(None);
    }
    let sigv4 = &settings.sigv4;
    let file = sigv4.credentials_file.iter().flat_map(|file| &file.credentials);
    let credentials = credentials(sigv4.credentials.iter().chain(file));
    let sigv4 = Verifier::new(sigv4.region.clone(), sigv4.max_clock_skew, credentials);
    let jwt = &settings.jwt;
    let mut issuers = Vec::new();
    for known in &jwt.issuers {
        issuers.push(issuer(known, key_sets).map_err(|error| {
            io::Error::other(format!("the issuer of tokens {}: {error}", known.issuer))
        })?);
    }
    let sources = TokenSources::new(jwt.token_sources.clone(), jwt.cookie_origins.clone());
    let jwt = (!issuers.is_empty()).then(|| Arc::new(Authenticator::new(sources, issuers)));
    let sigv4 = match (sessions, &jwt) {
        (Some(sealer), Some(issuers)) => {
            let (sealer, issuers) = (Arc::clone(sealer), Arc::clone(issuers));
            sigv4.with_sessions(Sessions { sealer, issuers })
        }
        _ => sigv4,
    };
    let certificates = settings.client_certificates.as_ref().map(|rules| CertificateRules {
        principal: rules.principal,
        grants: Arc::new(rules.allow.clone()),
    });
    Ok(Some(Authentication { sigv4, jwt, certificates }))
}

fn issuer(settings: &IssuerSettings, key_sets: &mut KeySets) -> Result<Issuer, TrustError> {
    let keys = match &settings.keys {
        IssuerKeys::Fixed(key) => Keys::Fixed(key.clone()),
        IssuerKeys::Published(published) => Keys::Published(key_sets.cache(published)?),
    };
    Ok(Issuer {
        name: Arc::from(settings.issuer.as_str()),
        algorithms: settings.algorithms.clone(),
        keys,
        rules: settings.rules.clone(),
        grants: Arc::new(settings.allow.clone()),
    })
}

/// What clients sign with.
pub(crate) fn credentials<'c>(known: impl Iterator<Item = &'c ClientCredential>) -> Credentials {
    Credentials::new(known.map(|known| Credential {
        access_key: known.access_key.clone(),
        secret_key: known.secret_key.clone(),
        session_token: known.session_token.clone(),
        principal: known.principal.clone(),
        grants: Arc::new(known.allow.clone()),
    }))
}

/// The files of clients' credentials, each with the verifiers of the buckets that use it.
pub(crate) fn credential_files(settings: &Settings, engine: &Engine) -> Vec<Watched> {
    let mut watched = Vec::new();
    for (bucket, built) in settings.buckets.iter().zip(&engine.buckets) {
        let sigv4 = &bucket.auth.sigv4;
        let (Some(file), true) = (&sigv4.credentials_file, bucket.auth.enabled) else { continue };
        let (path, inline) = (file.path.clone(), sigv4.credentials.clone());
        let bucket = Arc::clone(built);
        let apply = move |contents: &[Vec<u8>]| {
            let text = contents.first().map(|text| String::from_utf8_lossy(text));
            let environment = crate::cli::environment();
            let read = parse_credentials(&path, &text.unwrap_or_default(), &environment, &inline);
            let read = read.map_err(|errors| errors.to_string())?;
            if let Some(authentication) = &bucket.authentication {
                authentication.sigv4.replace(credentials(inline.iter().chain(&read)));
            }
            Ok(())
        };
        let seen = file.text.expose().as_bytes().to_vec();
        let paths = vec![file.path.clone()];
        let name = "auth.sigv4.credentials_file";
        watched.push(Watched::new(name, paths, Some(vec![seen]), Box::new(apply)));
    }
    watched
}
