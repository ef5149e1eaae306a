//! `authorization`, at the top level and in each bucket: what principals may, by the operator's own
//! policy.
//!
//! Only the section of the chosen engine may be there: a policy that is configured and, by a
//! forgotten or misspelt `engine`, not asked would let everybody in.

use super::backend::Surroundings;
use super::section::Section;
use super::values::{boolean, choice, duration, integer, path, quote, secret, text, text_where};
use config::Value;
use mizuchi_actors::backend::Authorities;
use mizuchi_actors::outbound::ServiceUrl;
use mizuchi_actors::policy::{
    Bounds, Broken, ContextualTuple, Disk, NEVER_SHOWN, Places, Policy, Role, Sources, Template,
    Tuples,
};
use mizuchi_actors::secret::Secret;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Headers that an engine may see.
const MAX_HEADERS: usize = 64;
/// Contextual tuples of one check: what every OpenFGA takes (openfga/api has had 20, then 100).
const MAX_TUPLES: usize = 20;

/// `authorization` of one bucket: its own keys, then those at the top level, then the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationSettings {
    /// Time limit and cache.
    pub bounds: Bounds,
    /// Headers that the engine sees, in lower case.
    pub headers: Vec<String>,
    /// Who decides.
    pub engine: EngineSettings,
}

/// `engine`, with its section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineSettings {
    /// `opa`.
    Opa(ServiceSettings),
    /// `rego`.
    Rego(RegoSettings),
    /// `openfga`.
    OpenFga(ServiceSettings, Tuples),
}

/// A service that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSettings {
    /// With its whole path.
    pub url: ServiceUrl,
    /// Sent as a bearer token.
    pub token: Option<Token>,
    /// PEM texts with the authorities to trust; none: those of the system.
    pub authorities: Vec<String>,
}

/// A secret that can be compared: two buckets with the same settings share one engine.
#[derive(Debug, Clone)]
pub struct Token(pub Secret);

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl Eq for Token {}

/// `authorization.rego`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegoSettings {
    /// Where the files are.
    pub places: Places,
    /// The rule whose value is the decision.
    pub query: String,
    /// What was in the files: it compiles.
    pub sources: Sources,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    None,
    Opa,
    Rego,
    OpenFga,
}

const ENGINES: &[(&str, Engine)] = &[
    ("none", Engine::None),
    ("opa", Engine::Opa),
    ("rego", Engine::Rego),
    ("openfga", Engine::OpenFga),
];

/// The key of each operation's relation.
const RELATIONS: [(&str, &str); 10] = [
    ("PutObject", "put_object"),
    ("CreateMultipartUpload", "create_multipart_upload"),
    ("UploadPart", "upload_part"),
    ("CompleteMultipartUpload", "complete_multipart_upload"),
    ("AbortMultipartUpload", "abort_multipart_upload"),
    ("ListParts", "list_parts"),
    ("HeadBucket", "head_bucket"),
    ("GetBucketLocation", "get_bucket_location"),
    ("ListMultipartUploads", "list_multipart_uploads"),
    ("Batch", "batch"),
];

/// Reads `authorization`; None within: nobody is asked. `secret_headers`: those that clients send
/// credentials in, in lower case.
pub(super) fn read(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
    secret_headers: &[String],
) -> Option<Option<AuthorizationSettings>> {
    let engine = s.required("engine", choice(ENGINES));
    let timeout = s.required("timeout", duration(MILLISECOND..=10 * SECOND));
    let cache_ttl = s.required("cache_ttl", duration(Duration::ZERO..=HOUR));
    let cache_entries = s.required("cache_entries", integer(1..=1_000_000));
    let headers = s.list("headers", |value| header(value, secret_headers));
    if headers.as_ref().is_some_and(|headers| headers.len() > MAX_HEADERS) {
        s.fail("headers", format!("must be at most {MAX_HEADERS}"));
    }
    for (name, section) in ENGINES {
        if *section == Engine::None {
            continue;
        }
        let chosen = engine == Some(*section);
        if engine.is_some() && !chosen && s.chooses(name) {
            let problem = format!(
                "is configured, and authorization.engine is not {name}: set it, or remove this"
            );
            s.fail(name, problem);
        }
        // Of another engine: its keys are not needed, and may be inherited.
        s.layers_of(name);
    }
    let engine = match engine? {
        Engine::None => return Some(None),
        Engine::Opa => s.within("opa", |s| read_opa(s, surroundings)).map(EngineSettings::Opa),
        Engine::Rego => s
            .within("rego", |s| read_rego(s, surroundings, timeout.unwrap_or(SECOND)))
            .map(EngineSettings::Rego),
        Engine::OpenFga => s
            .within("openfga", |s| read_openfga(s, surroundings))
            .map(|(service, tuples)| EngineSettings::OpenFga(service, tuples)),
    };
    let bounds = Bounds { timeout: timeout?, cache_ttl: cache_ttl?, cache_entries: cache_entries? };
    Some(Some(AuthorizationSettings { bounds, headers: headers?, engine: engine? }))
}

fn header(value: &Value, secret_headers: &[String]) -> Result<String, String> {
    let rule = "the name of a header";
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let name = text_where(rule, |text| !text.is_empty() && text.bytes().all(token))(value)?;
    let name = name.to_ascii_lowercase();
    if NEVER_SHOWN.contains(&name.as_str()) || secret_headers.contains(&name) {
        return Err(format!("{} may hold credentials: no engine sees it", quote(&name)));
    }
    Ok(name)
}

fn read_opa(s: &mut Section<'_>, surroundings: &Surroundings<'_>) -> Option<ServiceSettings> {
    let rule = "the path of a document, such as mizuchi/allow";
    let path = s.required("path", text_where(rule, |path| path.split('/').all(segment)));
    let path = path.unwrap_or_else(|| "x".to_owned());
    read_service(s, surroundings, &format!("/v1/data/{path}"))
}

/// A segment of a path that stands for itself.
fn segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    !matches!(text, "" | "." | "..") && text.bytes().all(plain)
}

/// `url`, `token` and `ca_file`; `path` is put behind the URL.
fn read_service(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
    path: &str,
) -> Option<ServiceSettings> {
    let url = s.required("url", |value| {
        let base = text(value)?;
        if base.contains(['?', '#']) {
            return Err("must be an address without a query".to_owned());
        }
        let whole = format!("{}{path}", base.trim_end_matches('/'));
        ServiceUrl::parse(&whole, true).map_err(|error| match error {
            mizuchi_actors::outbound::ServiceUrlError::Scheme => {
                "must begin with https:// or http://".to_owned()
            }
            error => error.to_string(),
        })
    });
    let token = s.optional("token", secret);
    let authorities = s.list("ca_file", |value| {
        let path = text(value)?;
        let pem = (surroundings.read)(Path::new(path))
            .map_err(|error| format!("{} cannot be read: {error}", quote(path)))?;
        let checked = Authorities::none().add_pem(&pem);
        checked.map_err(|error| format!("{}: {error}", quote(path)))?;
        Ok(pem)
    });
    let (url, authorities) = (url?, authorities?);
    if !url.is_tls() {
        if !authorities.is_empty() {
            s.findings().warn(&s.key("ca_file"), "has no effect: the url is not https://");
        }
        if !is_loopback(&url) {
            s.findings().warn(
                &s.key("url"),
                "is http:// to another machine: whoever is in between can read what is asked, and \
                 decide",
            );
        }
    }
    Some(ServiceSettings { url, token: token?.map(Token), authorities })
}

fn is_loopback(url: &ServiceUrl) -> bool {
    let text = url.to_string();
    let rest = text.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
    let host = match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => rest.split([':', '/']).next(),
    };
    let host = host.unwrap_or_default();
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn read_rego(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
    limit: Duration,
) -> Option<RegoSettings> {
    let embedded = s.required("embedded", boolean);
    let files = s.list("files", path);
    let data = s.list("data", path);
    let query = s.required(
        "query",
        text_where("a rule, such as data.mizuchi.allow", |text| {
            text.strip_prefix("data.").is_some_and(|rest| !rest.is_empty())
        }),
    );
    let (embedded, files, query) = (embedded?, files?, query?);
    if embedded && !files.is_empty() {
        s.fail("files", "must be empty where embedded is true: one policy decides");
        return None;
    }
    if !embedded && files.is_empty() {
        s.fail("files", "must name the policy's files or folders (or set embedded to true)");
        return None;
    }
    let places = Places { embedded, files, data: data? };
    let disk = Disk { read: surroundings.read, list: surroundings.list };
    let compiled = places
        .read(&disk)
        .and_then(|sources| Policy::compile(&sources, &query, limit).map(|_| sources));
    let sources = match compiled {
        Ok(sources) => sources,
        Err(broken) => {
            let key = match &broken {
                Broken::Files(_) => "files",
                Broken::Data(_) => "data",
                Broken::Query(_) => "query",
            };
            s.fail(key, broken.to_string());
            return None;
        }
    };
    Some(RegoSettings { places, query, sources })
}

fn read_openfga(
    s: &mut Section<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<(ServiceSettings, Tuples)> {
    let store_id = s.required("store_id", ulid);
    let model_id = s.optional("model_id", ulid);
    let path = format!("/stores/{}/check", store_id.as_deref().unwrap_or("x"));
    let service = read_service(s, surroundings, &path);
    let user = s.required("user", template(Role::User));
    let object = s.required("object", template(Role::Object));
    let bucket = s.required("bucket", template(Role::BucketObject));
    let relations = s.within("relations", |s| {
        let read = RELATIONS.map(|(name, key)| (name, s.required(key, relation)));
        read.into_iter().map(|(name, read)| Some((name, read?))).collect::<Option<BTreeMap<_, _>>>()
    });
    let contextual = s.entries("contextual_tuples", |s| {
        let user = s.required("user", template(Role::User));
        let relation = s.required("relation", relation);
        let object = s.required("object", template(Role::Object));
        Some(ContextualTuple { user: user?, relation: relation?, object: object? })
    });
    if contextual.len() > MAX_TUPLES {
        s.fail("contextual_tuples", format!("must be at most {MAX_TUPLES}"));
    }
    store_id?;
    let tuples = Tuples {
        user: user?,
        object: object?,
        bucket: bucket?,
        relations: relations?,
        contextual: contextual.into_iter().collect::<Option<_>>()?,
        model_id: model_id?,
    };
    Some((service?, tuples))
}

fn template(role: Role) -> impl Fn(&Value) -> Result<Template, String> {
    move |value| Template::parse(text(value)?, role)
}

/// The name of a relation (openfga/api, openfga/v1/openfga.proto).
fn relation(value: &Value) -> Result<String, String> {
    text_where("1 to 50 characters without spaces and :#@", |text| {
        (1..=50).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !b":#@".contains(&b))
    })(value)
}

/// The id of a store or a model.
fn ulid(value: &Value) -> Result<String, String> {
    text_where("an id of 26 capital letters and digits", |text| {
        text.len() == 26 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    })(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use mizuchi_actors::s3::operation::Operation;

    #[test]
    fn every_operation_has_its_relation() {
        assert_eq!(RELATIONS.map(|(name, _)| name), Operation::NAMES);
    }

    #[test]
    fn loopback_is_this_machine() {
        for (url, loopback) in [
            ("http://localhost:8181/x", true),
            ("http://127.1.2.3/", true),
            ("http://[::1]:80/", true),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
            ("http://opa:8181/127.0.0.1", false),
        ] {
            assert_eq!(is_loopback(&ServiceUrl::parse(url, true).unwrap()), loopback, "{url}");
        }
    }
}
