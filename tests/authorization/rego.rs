//! Rego in the gateway's process: real files, changed while it runs.

use super::{assert_denied, assert_undecided, put, send_as_other, setup};
use crate::support::backend::Backend;
use crate::support::client::Request;
use crate::support::eventually;
use crate::support::gateway::Gateway;

const POLICY: &str = "package mizuchi
default allow := false
allow if {
	some team in data.teams
	input.principal in team.members
	startswith(input.key, team.prefix)
}
";

fn data(prefix: &str) -> String {
    format!("{{\"teams\": [{{\"members\": [\"tester\"], \"prefix\": \"{prefix}\"}}]}}")
}

async fn reloads(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric(&format!("mizuchi_reloads_total{{result=\"{result}\",what=\"policy\"}}")).await
}

/// "A broken new version keeps the old one, logs an error and counts in a metric."
#[tokio::test]
async fn a_new_version_is_loaded_and_a_broken_one_changes_nothing() {
    let backend = Backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (policy, teams) = (folder.path().join("p.rego"), folder.path().join("teams.json"));
    std::fs::write(&policy, POLICY).unwrap();
    std::fs::write(&teams, data("blue/")).unwrap();
    let yaml = format!(
        "      engine: rego\n      timeout: 5s\n      rego:\n        files: {}\n        data: {}\n        \
         reload_interval: 100ms\n",
        policy.display(),
        teams.display()
    );
    let gateway = setup(&backend, &yaml).start().await;
    assert_eq!(put(&gateway, "blue/k").await.status, 200);
    assert_denied(&put(&gateway, "red/k").await);
    assert_denied(&send_as_other(&gateway, Request::put("blue/k", 3), b"abc").await);

    std::fs::write(&teams, data("red/")).unwrap();
    eventually("the new data count", async || put(&gateway, "red/k").await.status == 200).await;
    assert_denied(&put(&gateway, "blue/k").await);
    assert_eq!(reloads(&gateway, "loaded").await, 1.0);

    for (number, broken) in ["package mizuchi\nallow if {", "package mizuchi\nalow := true\n", ""]
        .into_iter()
        .enumerate()
    {
        std::fs::write(&policy, broken).unwrap();
        let counted = (number + 1) as f64;
        eventually("it is counted", async || reloads(&gateway, "refused").await == counted).await;
        assert_eq!(put(&gateway, "red/k2").await.status, 200);
        assert_denied(&put(&gateway, "blue/k").await);
    }
    std::fs::remove_file(&policy).unwrap();
    eventually("it is counted", async || reloads(&gateway, "refused").await == 4.0).await;
    assert_eq!(put(&gateway, "red/k3").await.status, 200);
    assert!(gateway.log().contains("the old one stays in force"), "{}", gateway.log());

    std::fs::write(&policy, "package mizuchi\nallow := input.principal == \"mallory\"\n").unwrap();
    eventually("the mended one counts", async || put(&gateway, "red/k").await.status == 403).await;
    let answer = send_as_other(&gateway, Request::put("k", 3), b"abc").await;
    assert_eq!(answer.status, 200);
}

/// What the policy does not define, or cannot evaluate, or not in time, is no decision. It is the
/// fault of one question: the next one is answered.
#[tokio::test]
async fn what_is_undefined_fails_or_does_not_end_is_not_allowed() {
    let backend = Backend::start().await;
    let folder = tempfile::tempdir().unwrap();
    let text = "package mizuchi
allow if input.key == \"ok\"
allow if {
	input.key == \"endless\"
	some a in numbers.range(1, 2000)
	some b in numbers.range(1, 2000)
	some c in numbers.range(1, 2000)
	a + b + c == 0
}
allow if {
	input.key == \"fails\"
	to_number(input.key) == 1
}
allow := 1 if input.key == \"number\"
allow := {\"allow\": \"yes\"} if input.key == \"text\"
";
    std::fs::write(folder.path().join("p.rego"), text).unwrap();
    let yaml = format!(
        "      engine: rego\n      timeout: 1s\n      rego:\n        files: {}\n",
        folder.path().display()
    );
    let gateway = setup(&backend, &yaml).start().await;
    for _ in 0..3 {
        for key in ["undefined", "endless", "fails", "number", "text"] {
            assert_undecided(&put(&gateway, key).await);
        }
    }
    assert_eq!(put(&gateway, "ok").await.status, 200);
    assert_eq!(backend.objects(), ["ok"]);
}

/// The policy of `embedded: true`: "everyone has a folder, and nobody writes anywhere else".
#[tokio::test]
async fn the_embedded_policy_is_there_when_it_is_chosen() {
    let backend = Backend::start().await;
    let yaml = "      engine: rego\n      timeout: 5s\n      rego:\n        embedded: true\n";
    let gateway = setup(&backend, yaml).start().await;
    assert_eq!(put(&gateway, "tester/k").await.status, 200);
    assert_denied(&put(&gateway, "mallory/k").await);
    let answer = send_as_other(&gateway, Request::put("mallory/k", 3), b"abc").await;
    assert_eq!(answer.status, 200);
    assert_denied(&send_as_other(&gateway, Request::put("tester/k", 3), b"abc").await);
}
