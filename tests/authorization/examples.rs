//! The examples of docs/authorization.md do what it says.

use super::{assert_denied, create, put, send, send_as_other};
use crate::support::backend::Backend;
use crate::support::client::Request;
use crate::support::gateway::{Gateway, Setup};
use crate::support::opa::Opa;
use crate::support::openfga::OpenFga;

const TEXT: &str = include_str!("../../docs/authorization.md");

/// The code blocks of a language, in order.
fn blocks(language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    let ends = |rest: &str| rest.split("```").next().unwrap_or_default().to_owned();
    TEXT.split(&open).skip(1).map(ends).collect()
}

/// A gateway with one of the YAML examples; each `replaced` text must be in it.
async fn start(backend: &Backend, number: usize, replaced: &[(&str, &str)]) -> Gateway {
    let mut yaml = blocks("yaml")[number].clone();
    for (from, to) in replaced {
        assert!(yaml.contains(from), "{from} is not in {yaml}");
        yaml = yaml.replace(from, to);
    }
    let mut setup = super::second_client(Setup::new(backend, backend.s3.address));
    setup.extra = yaml.replace("authorization:\n", "authorization:\n  timeout: 5s\n");
    setup.start().await
}

async fn teams_own_their_prefixes(gateway: &Gateway) {
    assert_eq!(put(gateway, "blue/k").await.status, 200);
    assert_denied(&put(gateway, "red/k").await);
    assert_denied(&send_as_other(gateway, Request::put("blue/k", 3), b"abc").await);
    let id = create(gateway, "blue/mp").await.element("UploadId").unwrap();
    let abort = Request::method("DELETE", "blue/mp").query("uploadId", &id);
    assert_denied(&send(gateway, abort, b"").await);
}

#[tokio::test]
async fn the_policy_for_opa() {
    let data: serde_json::Value = serde_json::from_str(&blocks("json")[0]).unwrap();
    // Its data document, as a part of the policy.
    let rego = format!(
        "{}\nteams := {}\n",
        blocks("rego")[0].replace("data.teams", "teams"),
        data["teams"]
    );
    let (backend, opa) = (Backend::start().await, Opa::start(&rego, Some("sidecar")).await);
    let gateway = start(&backend, 0, &[("http://127.0.0.1:8181", &opa.service.url())]).await;
    teams_own_their_prefixes(&gateway).await;
}

#[tokio::test]
async fn the_policy_in_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let (policies, data) = (folder.path().join("policies"), folder.path().join("teams.json"));
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("mizuchi.rego"), &blocks("rego")[0]).unwrap();
    std::fs::write(policies.join("README"), "not a policy").unwrap();
    std::fs::write(&data, &blocks("json")[0]).unwrap();
    let backend = Backend::start().await;
    let paths = [
        ("/etc/mizuchi/policies", policies.to_str().unwrap()),
        ("/etc/mizuchi/teams.json", data.to_str().unwrap()),
    ];
    teams_own_their_prefixes(&start(&backend, 1, &paths).await).await;
}

#[tokio::test]
async fn the_owner_of_a_bucket_at_openfga() {
    let (backend, openfga) = (Backend::start().await, OpenFga::start(None).await);
    openfga.write(("user:tester", "owner", "bucket:uploads"));
    openfga.write(("user:mallory", "writer", "object:uploads/a%20b%3Ac"));
    let gateway = start(&backend, 2, &[("http://127.0.0.1:8080", &openfga.service.url())]).await;
    assert_eq!(put(&gateway, "any/key").await.status, 200);
    assert_denied(&send_as_other(&gateway, Request::put("any/key", 3), b"abc").await);
    assert_eq!(send_as_other(&gateway, Request::put("a b:c", 3), b"abc").await.status, 200);
}
