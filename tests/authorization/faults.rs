//! "OPA, OpenFGA or JWKS down, slow, or talking garbage: 0 allows."

use super::{another_bucket, assert_undecided, create, put, send};
use crate::support::backend::Backend;
use crate::support::client::Request;
use crate::support::eventually;
use crate::support::gateway::{ACCESS_KEY, Gateway, SECRET_KEY, Setup};
use crate::support::opa::Opa;
use crate::support::openfga::{OpenFga, STORE};
use crate::support::service::{Fault, Service};
use std::time::Duration;

const OPEN: &str = "mizuchi_authorization_breakers_open";

fn allowed(engine: &str) -> String {
    format!("mizuchi_authorization_decisions_total{{engine=\"{engine}\",result=\"allowed\"}}")
}

fn elsewhere(bucket: &str, key: &str) -> Request {
    Request { path: format!("/{bucket}/{key}"), ..Request::put(key, 3) }
}

/// Three buckets: two that share the engine of the top-level section, one that asks nobody.
async fn start(backend: &Backend, engine: &str) -> Gateway {
    let auth = format!(
        "    auth:\n      sigv4:\n        credentials:\n          - access_key: {ACCESS_KEY}\n            \
         secret_key: {SECRET_KEY}\n"
    );
    let twin = another_bucket(backend, "twin", &auth);
    let free =
        another_bucket(backend, "free", &format!("{auth}    authorization:\n      engine: none\n"));
    let mut setup = Setup::new(backend, backend.s3.address).bucket(&twin).bucket(&free);
    setup.extra = format!("authorization:\n  timeout: 500ms\n  cache_ttl: 0s\n{engine}");
    setup.start().await
}

/// Nothing is allowed, nothing is stored, the breaker opens and the engine is left alone, the others
/// go on, and when the engine is well again so is the gateway.
async fn outage(
    gateway: &Gateway,
    backend: &Backend,
    service: &Service,
    engine: &str,
    (what, opens): (&str, bool),
) {
    let allowed_before = gateway.metric(&allowed(engine)).await;
    for number in 0..6 {
        let key = format!("{number}-{}", what.len());
        assert_undecided(&put(gateway, &key).await);
        assert_undecided(&create(gateway, &key).await);
        assert_undecided(&send(gateway, elsewhere("twin", &key), b"abc").await);
    }
    assert_eq!(gateway.metric(&allowed(engine)).await, allowed_before, "{what}");
    assert_eq!((backend.objects(), backend.open_uploads()), (Vec::new(), 0), "{what}");
    assert_eq!(gateway.metric(OPEN).await, f64::from(u8::from(opens)), "{what}: one, shared");
    // (An open breaker lets one probe a second through.)
    let before = service.count();
    for _ in 0..20 {
        assert_undecided(&put(gateway, "more").await);
    }
    let asked = service.count() - before;
    assert!(if opens { asked <= 5 } else { asked == 20 }, "{what}: asked {asked} times");
    let free = send(gateway, elsewhere("free", "free"), b"abc").await;
    assert_eq!(free.status, 200, "{what}: another bucket: {}", free.text());
    std::fs::remove_file(backend_path(backend, "free")).unwrap();
}

fn backend_path(backend: &Backend, key: &str) -> std::path::PathBuf {
    backend.path(key)
}

async fn recovery(gateway: &Gateway, backend: &Backend, what: &str) {
    eventually(&format!("it decides again after {what}"), async || {
        put(gateway, "again").await.status == 200
    })
    .await;
    assert_eq!(gateway.metric(OPEN).await, 0.0, "{what}");
    std::fs::remove_file(backend_path(backend, "again")).unwrap();
}

async fn every_fault(
    gateway: &Gateway,
    backend: &Backend,
    service: &Service,
    engine: &str,
    wrong: &str,
) {
    // It was not there when the gateway started.
    outage(gateway, backend, service, engine, ("down at the start", true)).await;
    service.resume().await;
    recovery(gateway, backend, "its first start").await;
    let garbage = |text: &str| Fault::Raw(text.to_owned());
    let chunk = "A".repeat(100_000);
    for (what, fault, opens) in [
        ("slow", Fault::Slow(Duration::from_secs(30)), true),
        ("status 500", Fault::Status(500), true),
        ("status 302", Fault::Status(302), true),
        ("status 204", Fault::Status(204), true),
        ("not HTTP", garbage("SSH-2.0-x\r\n\r\n"), true),
        (
            "cut off",
            garbage("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"result\": true"),
            true,
        ),
        ("no JSON", Fault::Body("<true/>".into()), true),
        ("a bare true", Fault::Body("true".into()), true),
        ("a list", Fault::Body("[true]".into()), true),
        ("empty", Fault::Body(String::new()), true),
        (
            "oversize",
            Fault::Body(format!("{{\"result\": true, \"allowed\": true, \"x\": \"{chunk}\"}}")),
            true,
        ),
        ("reset", Fault::Reset, true),
        // OPA's undefined: the answer to one question, not an outage.
        ("no decision", Fault::Body("{}".into()), engine != "opa"),
        ("another shape", Fault::Body(wrong.to_owned()), engine != "opa"),
    ] {
        service.fail(fault);
        outage(gateway, backend, service, engine, (what, opens)).await;
        service.fail(Fault::None);
        recovery(gateway, backend, what).await;
    }
    service.stop().await;
    outage(gateway, backend, service, engine, ("down", true)).await;
    service.resume().await;
    recovery(gateway, backend, "being down").await;
}

#[tokio::test]
async fn opa_that_fails_allows_nothing() {
    let opa = Opa::start("package mizuchi\nallow := true\n", None).await;
    opa.service.stop().await;
    let backend = Backend::start().await;
    let yaml = format!("  engine: opa\n  opa:\n    url: {}\n", opa.service.url());
    let gateway = start(&backend, &yaml).await;
    every_fault(&gateway, &backend, &opa.service, "opa", r#"{"result": {"allow": "true"}}"#).await;
}

#[tokio::test]
async fn openfga_that_fails_allows_nothing() {
    let openfga = OpenFga::start(None).await;
    for bucket in ["uploads", "twin"] {
        openfga.write(("user:tester", "owner", &format!("bucket:{bucket}")));
        openfga.write((&format!("user:{ACCESS_KEY}"), "owner", &format!("bucket:{bucket}")));
    }
    openfga.service.stop().await;
    let backend = Backend::start().await;
    let yaml = format!(
        "  engine: openfga\n  openfga:\n    url: {}\n    store_id: {STORE}\n    contextual_tuples:\n      \
         - {{user: 'bucket:{{bucket}}', relation: parent, object: 'object:{{bucket}}/{{key}}'}}\n",
        openfga.service.url()
    );
    let gateway = start(&backend, &yaml).await;
    let service = &openfga.service;
    every_fault(&gateway, &backend, service, "openfga", r#"{"allowed": "true"}"#).await;
}

/// "Wrong settings at the engine are not an allow": a token, a store or a model that it does not know.
#[tokio::test]
async fn an_engine_that_refuses_the_gateway_allows_nothing() {
    let (backend, opa) =
        (Backend::start().await, Opa::start("package mizuchi\nallow := true\n", Some("t")).await);
    let yaml = format!("  engine: opa\n  opa:\n    url: {}\n    token: other\n", opa.service.url());
    assert_undecided(&put(&start(&backend, &yaml).await, "k").await);
    let openfga = OpenFga::start(None).await;
    openfga.write(("user:tester", "writer", "object:uploads/k"));
    let unknown = "01HVMMBCMGZNT3SED4Z17ECXXX";
    for (ids, status) in [
        (format!("store_id: {STORE}"), 200),
        (format!("store_id: {unknown}"), 503),
        (format!("store_id: {STORE}\n    model_id: {unknown}"), 503),
        (format!("store_id: {STORE}\n    relations: {{put_object: editor}}"), 503),
    ] {
        let url = openfga.service.url();
        let yaml = format!("  engine: openfga\n  openfga:\n    url: {url}\n    {ids}\n");
        let answer = put(&start(&backend, &yaml).await, "k").await;
        assert_eq!(answer.status, status, "{ids}: {}", answer.text());
    }
}
