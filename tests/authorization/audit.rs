//! "Denied: the reason goes into the audit log, never to the client."

use super::{REASON, assert_denied, assert_undecided, put, setup};
use crate::support::backend::Backend;
use crate::support::opa::Opa;
use crate::support::service::Fault;
use serde_json::{Value, json};

#[tokio::test]
async fn the_reason_is_in_the_audit_log_and_nowhere_else() {
    let policy = format!(
        "package mizuchi\ndefault decision := {{\"allow\": false, \"reason\": \"{REASON}\"}}\n\
         decision := true if input.key == \"ok\"\n"
    );
    let (backend, opa) = (Backend::start().await, Opa::start(&policy, None).await);
    let yaml = format!(
        "      engine: opa\n      timeout: 5s\n      opa:\n        url: {}\n        \
         path: mizuchi/decision\n",
        opa.service.url()
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit");
    let mut gateway = setup(&backend, &yaml)
        .env("MIZUCHI__AUDIT__TARGET", "file")
        .env("MIZUCHI__AUDIT__FILE", file.to_str().unwrap())
        .start()
        .await;
    assert_eq!(put(&gateway, "ok").await.status, 200);
    assert_denied(&put(&gateway, "no").await);
    opa.service.fail(Fault::Status(500));
    assert_undecided(&put(&gateway, "unknown").await);
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    assert!(!gateway.log().contains(REASON), "{}", gateway.log());

    let text = std::fs::read_to_string(&file).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let decisions: Vec<Value> = lines
        .filter(|line| line["event"] == "decision")
        .map(|line| json!([line["principal"], line["by"], line["allowed"], line["reason"]]))
        .collect();
    let status = "answered with status 500";
    assert_eq!(decisions.len(), 3, "{text}");
    assert_eq!(decisions[0].as_array().unwrap()[..3], [json!("tester"), json!("opa"), json!(true)]);
    assert_eq!(decisions[1], json!(["tester", "opa", false, REASON]));
    assert_eq!(decisions[2], json!(["tester", "opa", false, status]));
}
