//! `authorization`: that no mistake in it leaves a bucket open.

use super::*;
use mizuchi_actors::policy::Bounds;

const FGA: &str = "url: 'http://localhost:8080', store_id: 01HVMMBCMGZNT3SED4Z17ECXCA";

fn top(yaml: &str) -> String {
    format!("{MINIMAL}authorization: {yaml}\n")
}

fn chosen(file: &str) -> AuthorizationSettings {
    let [bucket] = <[_; 1]>::try_from(settings(file, &[]).buckets).unwrap();
    bucket.authorization.unwrap()
}

#[test]
fn each_engine_has_its_defaults() {
    let opa = chosen(&top("{engine: opa, opa: {url: 'http://localhost:8181/'}, headers: [X-Tag]}"));
    let bounds = Bounds {
        timeout: Duration::from_millis(100),
        cache_ttl: 10 * SECOND,
        cache_entries: 10_000,
    };
    assert_eq!((opa.bounds, opa.headers), (bounds, vec!["x-tag".to_owned()]));
    let EngineSettings::Opa(service) = opa.engine else { panic!() };
    assert_eq!(service.url.to_string(), "http://localhost:8181/v1/data/mizuchi/allow");

    let rego = chosen(&bucket_with("authorization: {engine: rego, rego: {embedded: true}}"));
    let EngineSettings::Rego(rego) = rego.engine else { panic!() };
    assert_eq!((rego.query.as_str(), rego.reload_interval), ("data.mizuchi.allow", 5 * SECOND));
    assert_eq!(rego.sources.policies.len(), 1);

    let tuple = "{user: 'bucket:{bucket}', relation: parent, object: 'object:{bucket}/{key}'}";
    let openfga = chosen(&top(&format!(
        "{{engine: openfga, openfga: {{{FGA}, contextual_tuples: [{tuple}]}}}}"
    )));
    let EngineSettings::OpenFga(service, tuples) = openfga.engine else { panic!() };
    assert_eq!(
        service.url.to_string(),
        "http://localhost:8080/stores/01HVMMBCMGZNT3SED4Z17ECXCA/check"
    );
    assert_eq!(tuples.relations["UploadPart"], "can_upload");
    assert_eq!(tuples.relations["HeadBucket"], "can_access");
    assert_eq!(tuples.contextual.len(), 1);
}

/// "Configuring a section of an engine that is not the chosen one is an error": a misspelt or
/// forgotten `engine` must not fail open.
#[test]
fn a_policy_that_would_not_be_asked_is_an_error() {
    for (section, key) in [
        ("opa: {url: 'http://localhost'}", "authorization.opa"),
        ("rego: {embedded: true}", "authorization.rego"),
        ("rego: {files: [p.rego]}", "authorization.rego"),
        ("openfga: {contextual_tuples: [{user: u}]}", "authorization.openfga"),
        ("engine: none, opa: {token: t}", "authorization.opa"),
        ("engine: rego, rego: {embedded: true}, opa: {path: x}", "authorization.opa"),
    ] {
        assert_eq!(keys(&top(&format!("{{{section}}}")), &[]), [key], "{section}");
        let own = bucket_with(&format!("authorization: {{{section}}}"));
        assert_eq!(keys(&own, &[]), [format!("buckets[0].{key}")], "{section}");
    }
    let by_variable = [("MIZUCHI__AUTHORIZATION__OPA__URL", "http://localhost")];
    assert_eq!(keys(MINIMAL, &by_variable), ["authorization.opa"]);
    assert_eq!(keys(&top("{engine: opal}"), &[])[0], "authorization.engine");
    assert_eq!(keys(&top("{enigne: opa}"), &[])[0], "authorization.enigne");
    // Empty values are no configuration.
    assert!(settings(&top("{opa: {url: }, rego: }"), &[]).buckets[0].authorization.is_none());
}

/// "At the top level as default and in each bucket by key-by-key inheritance."
#[test]
fn a_bucket_inherits_and_may_choose_another() {
    let opa = "{engine: opa, timeout: 1s, opa: {url: 'http://localhost:8181', path: a/b}}";
    let with = |line: &str| format!("{}authorization: {opa}\n", bucket_with(line));
    let inherited = chosen(&with("authorization: {opa: {path: c}}"));
    assert_eq!(inherited.bounds.timeout, SECOND);
    let EngineSettings::Opa(service) = &inherited.engine else { panic!() };
    assert_eq!(service.url.to_string(), "http://localhost:8181/v1/data/c");
    let other = chosen(&with("authorization: {engine: rego, rego: {embedded: true}}"));
    assert!(matches!(other.engine, EngineSettings::Rego(_)));
    let none = settings(&with("authorization: {engine: none}"), &[]);
    assert!(none.buckets[0].authorization.is_none());
    let token = |token: &str| chosen(&with(&format!("authorization: {{opa: {{token: {token}}}}}")));
    assert_eq!(token("one"), token("one"));
    assert_ne!(token("one"), token("two"), "two tokens are two engines");
    assert!(!format!("{:?}", token("canary")).contains("canary"));
}

#[test]
fn what_is_wrong_has_its_key() {
    let fga = |more: &str| format!("{{engine: openfga, openfga: {{{FGA}, {more}}}}}");
    for (yaml, key) in [
        ("{engine: opa}".to_owned(), "opa.url"),
        ("{engine: opa, opa: {url: 'localhost:8181'}}".to_owned(), "opa.url"),
        ("{engine: opa, opa: {url: 'ftp://h'}}".to_owned(), "opa.url"),
        ("{engine: opa, opa: {url: 'http://h/?a=b'}}".to_owned(), "opa.url"),
        ("{engine: opa, opa: {url: 'http://me:pw@h'}}".to_owned(), "opa.url"),
        ("{engine: opa, opa: {url: 'http://h', path: ../x}}".to_owned(), "opa.path"),
        ("{engine: opa, opa: {url: 'https://h', ca_file: no.pem}}".to_owned(), "opa.ca_file"),
        ("{engine: opa, opa: {url: 'http://h'}, timeout: 11s}".to_owned(), "timeout"),
        ("{engine: opa, opa: {url: 'http://h'}, headers: [a b]}".to_owned(), "headers"),
        ("{engine: rego}".to_owned(), "rego.files"),
        ("{engine: rego, rego: {files: [missing.rego]}}".to_owned(), "rego.files"),
        ("{engine: rego, rego: {embedded: true, files: [x]}}".to_owned(), "rego.files"),
        ("{engine: rego, rego: {embedded: true, data: [no.json]}}".to_owned(), "rego.data"),
        ("{engine: rego, rego: {embedded: true, query: data.x.y}}".to_owned(), "rego.query"),
        ("{engine: openfga, openfga: {url: 'http://h'}}".to_owned(), "openfga.store_id"),
        (fga("model_id: x"), "openfga.model_id"),
        (fga("user: '{principal}'"), "openfga.user"),
        (fga("object: 'o:{bucket}{key}'"), "openfga.object"),
        (fga("bucket: 'b:{key}'"), "openfga.bucket"),
        (fga("relations: {upload_part: 'a b'}"), "openfga.relations.upload_part"),
        (fga("relations: {copy_object: x}"), "openfga.relations.copy_object"),
    ] {
        let found = keys(&top(&yaml), &[]);
        let key = format!("authorization.{key}");
        assert!(found.iter().any(|found| found.starts_with(&key)), "{yaml}: {found:?}");
    }
}

/// "Never authorization, cookie, x-amz-security-token": an engine may log what it is asked.
#[test]
fn no_credentials_are_shown() {
    for name in ["Authorization", "cookie", "X-Amz-Security-Token", "proxy-authorization"] {
        let yaml = format!("{{engine: rego, rego: {{embedded: true}}, headers: [{name}]}}");
        assert!(errors(&top(&yaml), &[]).contains("no engine sees it"), "{name}");
    }
}

#[test]
fn plain_http_to_another_machine_is_warned_of() {
    let warnings = |url: &str| {
        let file = top(&format!("{{engine: opa, opa: {{url: '{url}'}}}}"));
        load_with(&file, &[]).unwrap().warnings.join("\n")
    };
    assert!(warnings("http://opa:8181").contains("authorization.opa.url: is http://"));
    assert!(!warnings("http://127.0.0.1:8181").contains("http://"));
    assert!(!warnings("https://opa:8181").contains("http://"));
}

/// "Any token source": a header that this bucket's tokens stand in holds credentials, too.
#[test]
fn no_header_with_a_token_is_shown() {
    let issuer = "{issuer: 'https://id', algorithms: [HS256], audience: m, \
                  secret: 0123456789abcdef0123456789abcdef}";
    let file = |header: &str| {
        let auth = format!(
            "auth: {{jwt: {{token_sources: [{{type: header, name: X-Token}}], issuers: [{issuer}]}}}}"
        );
        format!(
            "{}    authorization: {{engine: rego, rego: {{embedded: true}}, headers: [{header}]}}\n",
            bucket_with(&auth)
        )
    };
    let errors = errors(&file("x-token"), &[]);
    assert!(errors.contains("no engine sees it"), "{errors}");
    assert_eq!(chosen(&file("x-tokens")).headers, ["x-tokens"]);
}
