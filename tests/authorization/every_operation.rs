//! "Check at create AND every part AND complete/abort": an upload during which the policy changes
//! its mind, once for each engine.

use super::{assert_denied, create, put, send, setup};
use crate::support::backend::Backend;
use crate::support::client::{Answer, Request};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::opa::Opa;
use crate::support::openfga::{MODEL, OpenFga, STORE};

async fn part(gateway: &Gateway, id: &str) -> Answer {
    let request = Request::put("mp", 3).query("partNumber", "1").query("uploadId", id);
    send(gateway, request, b"abc").await
}

async fn complete(gateway: &Gateway, id: &str, etag: &str) -> Answer {
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>\
         </CompleteMultipartUpload>"
    );
    let mut request = Request::method("POST", "mp").query("uploadId", id);
    request.length = Some(document.len() as u64);
    request.payload = mizuchi_actors::sigv4::PayloadHash::Unsigned;
    send(gateway, request, document.as_bytes()).await
}

async fn on_upload(gateway: &Gateway, method: &'static str, id: &str) -> Answer {
    send(gateway, Request::method(method, "mp").query("uploadId", id), b"").await
}

/// `allow` makes the policy allow everything, or nothing.
async fn changes_its_mind(gateway: &Gateway, backend: &Backend, allow: impl AsyncFn(bool)) {
    allow(false).await;
    assert_denied(&put(gateway, "k").await);
    assert_denied(&create(gateway, "mp").await);
    let bucket = Request { path: "/uploads".into(), ..Request::method("HEAD", "") };
    assert_eq!(send(gateway, bucket, b"").await.status, 403);
    assert_eq!((backend.objects(), backend.open_uploads()), (Vec::new(), 0));

    allow(true).await;
    assert_eq!(put(gateway, "k").await.status, 200);
    let id = create(gateway, "mp").await.element("UploadId").unwrap();
    let etag = part(gateway, &id).await.header("etag").unwrap();

    allow(false).await;
    assert_denied(&part(gateway, &id).await);
    assert_denied(&complete(gateway, &id, &etag).await);
    assert_denied(&on_upload(gateway, "DELETE", &id).await);
    assert_denied(&on_upload(gateway, "GET", &id).await);
    assert_eq!((backend.object("mp"), backend.open_uploads()), (None, 1));

    allow(true).await;
    let listed = on_upload(gateway, "GET", &id).await;
    assert_eq!(listed.text().matches("<PartNumber>").count(), 1, "{}", listed.text());
    let completed = complete(gateway, &id, &etag).await;
    assert_eq!(completed.status, 200, "{}", completed.text());
    assert_eq!(backend.object("mp").unwrap(), b"abc");
    let id = create(gateway, "mp").await.element("UploadId").unwrap();
    assert_eq!(on_upload(gateway, "DELETE", &id).await.status, 204);
    assert_eq!(backend.open_uploads(), 0);
}

fn rego(allow: bool) -> String {
    format!(
        "package mizuchi\ndecision := {{\"allow\": {allow}, \"reason\": \"{}\"}}\n",
        super::REASON
    )
}

#[tokio::test]
async fn opa_is_asked_for_each() {
    let (backend, opa) = (Backend::start().await, Opa::start(&rego(true), Some("t0ken")).await);
    let yaml = format!(
        "      engine: opa\n      timeout: 5s\n      cache_ttl: 0s\n      opa:\n        url: {}\n        \
         path: mizuchi/decision\n        token: t0ken\n",
        opa.service.url()
    );
    let gateway = setup(&backend, &yaml).start().await;
    changes_its_mind(&gateway, &backend, async |allow| opa.replace(&rego(allow))).await;
    let asked: Vec<_> = opa.inputs().iter().map(|input| input["operation"].to_string()).collect();
    for operation in [
        "PutObject",
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "AbortMultipartUpload",
        "ListParts",
        "HeadBucket",
    ] {
        assert!(asked.contains(&format!("\"{operation}\"")), "{operation}: {asked:?}");
    }
    assert!(!gateway.log().contains("t0ken"));
}

#[tokio::test]
async fn rego_is_asked_for_each() {
    let backend = Backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.rego");
    std::fs::write(&file, rego(true)).unwrap();
    let yaml = format!(
        "      engine: rego\n      timeout: 5s\n      rego:\n        files: {}\n        \
         query: data.mizuchi.decision\n        reload_interval: 100ms\n",
        folder.path().display()
    );
    let gateway = setup(&backend, &yaml).start().await;
    // The cache is on: a new version is in force at once.
    changes_its_mind(&gateway, &backend, async |allow| {
        let loaded = "mizuchi_reloads_total{result=\"loaded\",what=\"policy\"}";
        let before = gateway.metric(loaded).await;
        if std::fs::read_to_string(&file).unwrap() != rego(allow) {
            std::fs::write(&file, rego(allow)).unwrap();
            eventually("it is loaded", async || gateway.metric(loaded).await > before).await;
        }
    })
    .await;
}

#[tokio::test]
async fn openfga_is_asked_for_each() {
    let (backend, openfga) = (Backend::start().await, OpenFga::start(Some("t0ken")).await);
    let yaml = format!(
        "      engine: openfga\n      timeout: 5s\n      cache_ttl: 0s\n      openfga:\n        url: {}\n        \
         store_id: {STORE}\n        model_id: {MODEL}\n        token: t0ken\n        contextual_tuples:\n          \
         - user: 'bucket:{{bucket}}'\n            relation: parent\n            \
         object: 'object:{{bucket}}/{{key}}'\n",
        openfga.service.url()
    );
    let gateway = setup(&backend, &yaml).start().await;
    let owner = ("user:tester", "owner", "bucket:uploads");
    changes_its_mind(&gateway, &backend, async |allow| match allow {
        true => openfga.write(owner),
        false => openfga.delete(owner),
    })
    .await;
}
