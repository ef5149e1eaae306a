//! From `authorization` to the engines that decide, and to the files that are looked at again.

use crate::reload::Watched;
use crate::settings::{AuthorizationSettings, BucketSettings, EngineSettings, ServiceSettings};
use mizuchi_actors::backend::Authorities;
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::outbound::Outbound;
use mizuchi_actors::policy::{Authorizer, Opa, OpenFga, Policy, PolicyEngine, Rego};
use std::io;
use std::sync::Arc;

/// The authorizer of each bucket, in their order. Buckets with the same settings share one: its
/// cache, and what is known of its engine's health.
///
/// Errors: no engine that is not reached is one; an unusable TLS library is.
pub(crate) fn build(
    buckets: &[BucketSettings],
    metrics: &Metrics,
    watches: &mut Vec<Watched>,
) -> io::Result<Vec<Option<Arc<Authorizer>>>> {
    let mut built: Vec<(&AuthorizationSettings, Arc<Authorizer>)> = Vec::new();
    let mut of_buckets = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let Some(settings) = &bucket.authorization else {
            of_buckets.push(None);
            continue;
        };
        let same = built.iter().find(|(known, _)| *known == settings);
        let authorizer = match same {
            Some((_, authorizer)) => Arc::clone(authorizer),
            None => {
                let authorizer = Arc::new(authorizer(settings, metrics, watches)?);
                built.push((settings, Arc::clone(&authorizer)));
                authorizer
            }
        };
        of_buckets.push(Some(authorizer));
    }
    Ok(of_buckets)
}

fn authorizer(
    settings: &AuthorizationSettings,
    metrics: &Metrics,
    watches: &mut Vec<Watched>,
) -> io::Result<Authorizer> {
    let engine = match &settings.engine {
        EngineSettings::Opa(service) => {
            let token = service.token.as_ref().map(|token| &token.0);
            PolicyEngine::Opa(Opa::new(outbound(service)?, service.url.clone(), token))
        }
        EngineSettings::OpenFga(service, tuples) => {
            let token = service.token.as_ref().map(|token| &token.0);
            let url = service.url.clone();
            PolicyEngine::OpenFga(OpenFga::new(outbound(service)?, url, token, tuples.clone()))
        }
        EngineSettings::Rego(rego) => {
            let limit = settings.bounds.timeout;
            let policy =
                Policy::compile(&rego.sources, &rego.query, limit).map_err(io::Error::other)?;
            let in_force = Arc::new(Rego::new(policy));
            if !rego.places.is_fixed() {
                let (places, query) = (rego.places.clone(), rego.query.clone());
                let watched = Arc::clone(&in_force);
                let look = move || {
                    let changed = watched.reread(&places, &query, limit);
                    changed.map_err(|broken| broken.to_string())
                };
                watches.push(Watched::by("policy", Box::new(look)));
            }
            PolicyEngine::Rego(in_force)
        }
    };
    Ok(Authorizer::new(engine, settings.headers.clone(), settings.bounds, metrics))
}

fn outbound(service: &ServiceSettings) -> io::Result<Outbound> {
    let authorities = match service.url.is_tls() && service.authorities.is_empty() {
        true => Authorities::of_system().map_err(io::Error::other)?,
        false => {
            let mut authorities = Authorities::none();
            for pem in &service.authorities {
                authorities.add_pem(pem).map_err(io::Error::other)?;
            }
            authorities
        }
    };
    Outbound::new(authorities).map_err(io::Error::other)
}
