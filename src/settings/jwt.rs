//! `auth.jwt`: whose tokens are taken, and where they stand.

use super::backend::{Surroundings, ca_file};
use super::grants;
use super::section::{Section, index};
use super::values::{boolean, choice, integer, quote, secret, text, text_where};
use config::{Value, ValueKind};
use mizuchi_actors::backend::Authorities;
use mizuchi_actors::grants::Grants;
use mizuchi_actors::jwt::{Algorithm, ClaimRules, Expected, JwksPolicy, Key, KeyKind, TokenSource};
use mizuchi_actors::outbound::ServiceUrl;
use mizuchi_actors::s3::headers;
use mizuchi_actors::s3::operation::Operation;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Bytes of an issuer's name, a claim's name, a header's name and the like.
const MAX_NAME: usize = 256;
/// Longer keys are used for a day without asking the issuer only because it cannot be reached.
const MAX_TTL_SECONDS: u64 = 86_400;
/// A week: after it, keys say little about an issuer that has not answered since.
const MAX_STALE_SECONDS: u64 = 604_800;
/// Five minutes, as other services have it: past it, skew is a clock to be mended.
const MAX_LEEWAY_SECONDS: u64 = 300;

/// Headers that a token cannot stand in: they mean something to HTTP or to browsers.
const TAKEN_HEADERS: [&str; 17] = [
    "connection",
    "content-length",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

/// `auth.jwt`.
#[derive(Debug, Clone)]
pub struct JwtSettings {
    /// Where a token may stand; at least one place if there is an issuer.
    pub token_sources: Vec<TokenSource>,
    /// Origins of the pages whose cookies count; not empty if a token may stand in a cookie.
    pub cookie_origins: Vec<String>,
    /// Whose tokens are taken; names are unique. Empty: none.
    pub issuers: Vec<IssuerSettings>,
}

impl JwtSettings {
    /// The headers that a token may stand in, in lower case.
    pub(super) fn token_headers(&self) -> Vec<String> {
        let name = |source: &TokenSource| match source {
            TokenSource::Header { name, .. } => Some(name.clone()),
            TokenSource::Bearer | TokenSource::Query { .. } | TokenSource::Cookie { .. } => None,
        };
        self.token_sources.iter().filter_map(name).collect()
    }
}

/// `auth.jwt.issuers[]`.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// `iss` of its tokens.
    pub issuer: String,
    /// What it signs with; at least one, all of a kind that its keys have.
    pub algorithms: Vec<Algorithm>,
    /// What its signatures are verified with.
    pub keys: IssuerKeys,
    /// What its tokens must say.
    pub rules: ClaimRules,
    /// What they are good for.
    pub allow: Grants,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone)]
pub enum IssuerKeys {
    /// `secret`, `public_key` or `public_key_file`.
    Fixed(Box<Key>),
    /// `jwks_url`.
    Published(JwksSettings),
}

/// `jwks_url` and what belongs to it.
#[derive(Debug, Clone)]
pub struct JwksSettings {
    /// Where the keys are.
    pub url: ServiceUrl,
    /// Whom to trust there; None: whom the system trusts.
    pub authorities: Option<Authorities>,
    /// The files that these came from.
    pub ca_files: Vec<String>,
    /// How long the keys are good.
    pub policy: JwksPolicy,
}

/// Reads `auth.jwt`.
pub(super) fn read(s: &mut Section<'_>, surroundings: &Surroundings<'_>) -> Option<JwtSettings> {
    let sources = s.entries_or_default("token_sources", read_source);
    let cookie_origins = s.list("cookie_origins", origin);
    let issuers = s.entries("issuers", |s| read_issuer(s, surroundings));
    check_sources(s, &sources, cookie_origins.as_deref(), issuers.len());
    let mut seen = BTreeMap::new();
    for (issuer, path) in issuers.iter().flatten() {
        if let Some(first) = seen.insert(issuer.issuer.clone(), path.clone()) {
            s.findings().error(
                format!("{path}.issuer"),
                format!("is the issuer of {first} too: its keys and rules stand in one place"),
            );
        }
    }
    Some(JwtSettings {
        token_sources: sources.into_iter().collect::<Option<_>>()?,
        cookie_origins: cookie_origins?,
        issuers: issuers.into_iter().map(|entry| Some(entry?.0)).collect::<Option<_>>()?,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Bearer,
    Header,
    Query,
    Cookie,
}

fn read_source(s: &mut Section<'_>) -> Option<TokenSource> {
    let place = s.required(
        "type",
        choice(&[
            ("bearer", Place::Bearer),
            ("header", Place::Header),
            ("query", Place::Query),
            ("cookie", Place::Cookie),
        ]),
    );
    let name = s.optional("name", |value| match place {
        None | Some(Place::Bearer) => text(value).map(str::to_owned),
        Some(place) => source_name(place, value),
    });
    let prefix = s.optional("prefix", text_where("at most 64 bytes", |text| text.len() <= 64));
    let (place, name, prefix) = (place?, name?, prefix?);
    if place != Place::Header && prefix.is_some() {
        s.fail("prefix", "is of headers only");
    }
    let name = match (place, name) {
        (Place::Bearer, None) => return Some(TokenSource::Bearer),
        (Place::Bearer, Some(_)) => {
            s.fail("name", "has no meaning here: the header is Authorization");
            return None;
        }
        (_, None) => {
            s.fail("name", "must be set: the header, the query parameter or the cookie");
            return None;
        }
        (_, Some(name)) => name,
    };
    let prefix = prefix.unwrap_or_default();
    match place {
        Place::Bearer => None,
        Place::Query => Some(TokenSource::Query { name }),
        Place::Cookie => Some(TokenSource::Cookie { name }),
        Place::Header => {
            let scheme = prefix.to_ascii_lowercase();
            if name == "authorization" && (scheme.trim().is_empty() || scheme.starts_with("aws")) {
                s.fail("prefix", "must be set for Authorization, and be no signature's scheme");
                return None;
            }
            Some(TokenSource::Header { name, prefix })
        }
    }
}

fn source_name(place: Place, value: &Value) -> Result<String, String> {
    let plain = |text: &str| {
        (1..=MAX_NAME).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let name = text_where("1 to 256 letters, digits and -_.", plain)(value)?;
    let lower = name.to_ascii_lowercase();
    if lower.starts_with("x-amz-") {
        return Err("must not begin with x-amz-: that is S3's own".into());
    }
    match place {
        Place::Header if headers::passes_on(&lower) => {
            Err(format!("must not be {lower}: it describes the object, and goes to the backend"))
        }
        Place::Header if TAKEN_HEADERS.contains(&lower.as_str()) => {
            Err(format!("must not be {lower}: it has a meaning in HTTP"))
        }
        Place::Header => Ok(lower),
        Place::Query if !Operation::is_free_parameter(&name) => {
            Err(format!("must not be {name}: S3 has a parameter of that name"))
        }
        Place::Query | Place::Cookie | Place::Bearer => Ok(name),
    }
}

/// What no source shows by itself: that there is one, that no token is found twice, and that cookies
/// have their origins.
fn check_sources(
    s: &Section<'_>,
    sources: &[Option<TokenSource>],
    origins: Option<&[String]>,
    issuers: usize,
) {
    if issuers > 0 && sources.is_empty() {
        s.fail("token_sources", "must name at least one place: there are issuers");
    }
    for (position, source) in sources.iter().enumerate() {
        let Some(source) = source else { continue };
        let mut before = sources.iter().take(position).flatten();
        if before.any(|other| overlap(source, other)) {
            let path = index(&s.key("token_sources"), position);
            s.findings().error(path, "is a place that is named already: no token is read twice");
        }
    }
    let cookies = |source: &TokenSource| matches!(source, TokenSource::Cookie { .. });
    let any = sources.iter().flatten().any(cookies);
    match origins {
        Some([]) if any => s.fail(
            "cookie_origins",
            "must name the origins of your own pages, such as https://app.example.com: browsers \
             send cookies along with what any page asks",
        ),
        Some([_, ..]) if !any => {
            s.findings().warn(&s.key("cookie_origins"), "has no effect: no source is a cookie");
        }
        _ => {}
    }
}

/// Whether a token could be found in both.
fn overlap(one: &TokenSource, other: &TokenSource) -> bool {
    let header = |source: &TokenSource| match source {
        TokenSource::Bearer => Some(("authorization".to_owned(), "bearer ".to_owned())),
        TokenSource::Header { name, prefix } => Some((name.clone(), prefix.to_ascii_lowercase())),
        TokenSource::Query { .. } | TokenSource::Cookie { .. } => None,
    };
    match (header(one), header(other)) {
        (Some((name, prefix)), Some((other_name, other_prefix))) => {
            name == other_name
                && (prefix.starts_with(&other_prefix) || other_prefix.starts_with(&prefix))
        }
        _ => one == other,
    }
}

/// An entry of `cookie_origins`, as browsers send it (RFC 6454, 6.2).
fn origin(value: &Value) -> Result<String, String> {
    let rule = "an origin as browsers send it, such as https://app.example.com, in lower case";
    text_where(rule, |text| {
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        host.is_some_and(|host| {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b))
        })
    })(value)
}

fn read_issuer(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<(IssuerSettings, String)> {
    let issuer = s.required("issuer", name);
    let algorithms = s.optional_list("algorithms", choice(&Algorithm::ALL));
    let algorithms = match algorithms {
        Some(Some(algorithms)) if !algorithms.is_empty() => Some(algorithms),
        Some(_) => {
            let all: Vec<_> = Algorithm::ALL.iter().map(|(name, _)| *name).collect();
            s.fail("algorithms", format!("must be set: those of {} that it uses", all.join(", ")));
            None
        }
        None => None,
    };
    let keys = read_keys(s, algorithms.as_deref(), surroundings);
    let audiences = s.optional_list("audience", name);
    match &audiences {
        Some(None) => s.findings().warn(
            &s.key("audience"),
            "is not set: tokens that the issuer has made for other services are taken too",
        ),
        Some(Some(names)) if names.is_empty() => s.fail("audience", "must name an audience"),
        _ => {}
    }
    let leeway = s.required("leeway_seconds", integer(0..=MAX_LEEWAY_SECONDS));
    let principal = s.required("principal_claim", name);
    let required = s.optional("required_claims", required_claims);
    let allow = s.within("allow", grants::read);
    let rules = ClaimRules {
        audiences: audiences?,
        leeway: Duration::from_secs(leeway?),
        principal: principal?,
        required: required?.unwrap_or_default(),
    };
    let settings = IssuerSettings {
        issuer: issuer?,
        algorithms: algorithms?,
        keys: keys?,
        rules,
        allow: allow?,
    };
    Some((settings, s.path().to_owned()))
}

fn name(value: &Value) -> Result<String, String> {
    let rule = "1 to 256 bytes without control characters";
    text_where(rule, |text| {
        (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
    })(value)
}

/// The one of the four ways to name keys that is set, held against the algorithms.
fn read_keys(
    s: &mut Section<'_>,
    algorithms: Option<&[Algorithm]>,
    surroundings: &Surroundings<'_>,
) -> Option<IssuerKeys> {
    let secret = s.optional("secret", secret);
    let public_key = s.optional("public_key", |value| pem(text(value)?));
    let public_key_file = s.optional("public_key_file", |value| {
        let path = text(value)?;
        let read = (surroundings.read)(Path::new(path));
        let text = read.map_err(|error| format!("cannot be read: {error}: {}", quote(path)))?;
        pem(&text).map_err(|problem| format!("{}: {problem}", quote(path)))
    });
    let allow_insecure = s.required("allow_insecure", boolean);
    let url = s.optional("jwks_url", |value| {
        ServiceUrl::parse(text(value)?, allow_insecure == Some(true)).map_err(|error| match error {
            mizuchi_actors::outbound::ServiceUrlError::Scheme => {
                format!("{error} (http:// needs allow_insecure: true)")
            }
            error => error.to_string(),
        })
    });
    let ca_files =
        s.list("ca_file", |value| Ok((text(value)?.to_owned(), ca_file(value, surroundings)?)));
    let ttl = s.required("cache_ttl_seconds", integer(60..=MAX_TTL_SECONDS));
    let max_stale = s.required("max_stale_seconds", integer(60..=MAX_STALE_SECONDS));
    if let (Some(ttl), Some(max_stale)) = (ttl, max_stale)
        && max_stale < ttl
    {
        s.fail("max_stale_seconds", "must not be shorter than cache_ttl_seconds");
    }
    let is_set = |set: Option<bool>| set != Some(false);
    let set = [
        is_set(secret.as_ref().map(Option::is_some)),
        is_set(public_key.as_ref().map(Option::is_some)),
        is_set(public_key_file.as_ref().map(Option::is_some)),
        is_set(url.as_ref().map(Option::is_some)),
    ];
    match set.iter().filter(|set| **set).count() {
        0 => s.fail("jwks_url", "must be set, or one of secret, public_key, public_key_file"),
        1 => {}
        _ => s.fail(
            "jwks_url",
            "only one of secret, public_key, public_key_file and jwks_url can be set",
        ),
    }
    let algorithms = algorithms.unwrap_or_default();
    check_kinds(s, algorithms, set[0]);
    let (secret, url) = (secret?, url?);
    if let Some(key) = public_key?.or(public_key_file?) {
        if let Some(algorithm) = algorithms.iter().find(|algorithm| !key.fits(**algorithm)) {
            let kind = key.kind();
            s.fail("algorithms", format!("{algorithm:?} does not fit the key, which is {kind:?}"));
        }
        return Some(IssuerKeys::Fixed(Box::new(key)));
    }
    if let Some(secret) = secret {
        let least = algorithms.iter().map(|algorithm| algorithm.least_secret()).max();
        if let Some(least) = least.filter(|least| secret.expose().len() < *least) {
            s.fail("secret", format!("must have at least {least} bytes (RFC 7518, 3.2)"));
        }
        return Some(IssuerKeys::Fixed(Box::new(Key::from_secret(&secret))));
    }
    let url = url?;
    let ca_files = ca_files?;
    if !url.is_tls() {
        s.findings().warn(
            &s.key("jwks_url"),
            "is not https://: whoever stands between can make tokens of this issuer",
        );
    }
    let (ca_files, authorities): (Vec<_>, Vec<_>) = ca_files.into_iter().unzip();
    Some(IssuerKeys::Published(JwksSettings {
        url,
        authorities: authorities.into_iter().reduce(Authorities::and),
        ca_files,
        policy: JwksPolicy {
            ttl: Duration::from_secs(ttl?),
            max_stale: Duration::from_secs(max_stale?),
        },
    }))
}

/// Algorithms with a secret and those with a public key never go together.
fn check_kinds(s: &Section<'_>, algorithms: &[Algorithm], has_secret: bool) {
    let with_secret = |algorithm: &&Algorithm| algorithm.kind() == KeyKind::Secret;
    let shared = algorithms.iter().find(with_secret);
    let public = algorithms.iter().find(|algorithm| !with_secret(algorithm));
    match (shared, public) {
        (Some(shared), Some(public)) => s.fail(
            "algorithms",
            format!("{shared:?} needs a secret and {public:?} a public key: an issuer has one"),
        ),
        (Some(shared), None) if !has_secret => {
            s.fail("algorithms", format!("{shared:?} needs a secret, and what is set is none"));
        }
        (None, Some(public)) if has_secret => {
            s.fail("algorithms", format!("{public:?} needs a public key, and what is set is none"));
        }
        _ => {}
    }
}

fn pem(text: &str) -> Result<Key, String> {
    Key::from_pem(text).map_err(|error| error.to_string())
}

/// A section of claims, each with a value or a list of those that will do.
fn required_claims(value: &Value) -> Result<Vec<(String, Vec<Expected>)>, String> {
    let ValueKind::Table(claims) = &value.kind else {
        return Err("must be a section with the claims and their values".into());
    };
    let mut required: Vec<_> = claims
        .iter()
        .map(|(claim, value)| {
            let allowed = match &value.kind {
                ValueKind::Array(values) if values.is_empty() => None,
                ValueKind::Array(values) => values.iter().map(expected).collect(),
                _ => expected(value).map(|value| vec![value]),
            };
            let rule = "must be a text, a number, true or false, or a list of such";
            Ok((claim.clone(), allowed.ok_or_else(|| format!("{}: {rule}", quote(claim)))?))
        })
        .collect::<Result<_, String>>()?;
    required.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(required)
}

fn expected(value: &Value) -> Option<Expected> {
    match &value.kind {
        ValueKind::String(text) => Some(Expected::Text(text.clone())),
        ValueKind::Boolean(truth) => Some(Expected::Bool(*truth)),
        ValueKind::I64(number) => Some(Expected::Number((*number).into())),
        ValueKind::U64(number) => Some(Expected::Number((*number).into())),
        ValueKind::Float(number) => serde_json::Number::from_f64(*number).map(Expected::Number),
        _ => None,
    }
}
