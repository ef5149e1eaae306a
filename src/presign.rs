//! `mizuchi presign`: a URL with which anybody may PUT one object, for a while.

use crate::settings::Settings;
use mizuchi_actors::sigv4::{Signer, UpstreamRequest, uri_encode};
use std::net::IpAddr;
use std::time::Duration;
use time::OffsetDateTime;

/// The URL. `endpoint`: where clients reach the gateway, `http(s)://host[:port]`; `access_key`:
/// whose; the bucket's first when None.
///
/// Errors in words: an unknown bucket or key, authentication disabled, an unusable endpoint.
pub(crate) fn url(
    settings: &Settings,
    bucket: &str,
    key: &str,
    expires: Duration,
    endpoint: Option<&str>,
    access_key: Option<&str>,
) -> Result<String, String> {
    let found = settings.buckets.iter().find(|known| known.name == bucket).ok_or_else(|| {
        let names: Vec<&str> = settings.buckets.iter().map(|known| known.name.as_str()).collect();
        format!("there is no bucket {bucket}; there are: {}", names.join(", "))
    })?;
    let sigv4 = &found.auth.sigv4;
    let credential = sigv4
        .credentials
        .iter()
        .find(|known| access_key.is_none_or(|wanted| known.access_key == wanted))
        .filter(|_| found.auth.enabled)
        .ok_or("the bucket has no such credential to sign with")?;
    let endpoint = match endpoint {
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None => {
            let mut address = settings.server.address;
            if address.ip().is_unspecified() {
                address.set_ip(IpAddr::from([127, 0, 0, 1]));
            }
            let scheme = if settings.server.tls.is_some() { "https" } else { "http" };
            format!("{scheme}://{address}")
        }
    };
    let host = endpoint
        .split_once("://")
        .map(|(_, host)| host)
        .filter(|host| !host.is_empty() && !host.contains('/'))
        .ok_or("--endpoint must be http://host[:port] or https://host[:port]")?;
    let prefix = uri_encode(found.path_prefix.trim_end_matches('/').as_bytes(), true);
    let request = UpstreamRequest {
        method: "PUT",
        host: host.to_owned(),
        path: format!("{prefix}/{}", uri_encode(key.as_bytes(), true)),
        query: Vec::new(),
        headers: Vec::new(),
    };
    let signer = Signer::new(
        credential.access_key.clone(),
        credential.secret_key.clone(),
        None,
        sigv4.region.clone(),
    );
    let query = signer.presign(&request, expires, OffsetDateTime::now_utc());
    Ok(format!("{endpoint}{}?{query}", request.path))
}
