//! "The decision cache's key includes subject, action and resource", and everything else.

use super::{another_bucket, create, put, send, send_as_other, setup};
use crate::support::backend::Backend;
use crate::support::client::Request;
use crate::support::eventually;
use crate::support::gateway::{ACCESS_KEY, SECRET_KEY};
use crate::support::opa::Opa;

fn yaml(opa: &Opa, ttl: &str) -> String {
    format!(
        "      engine: opa\n      timeout: 5s\n      cache_ttl: {ttl}\n      headers: [x-team]\n      opa:\n        \
         url: {}\n",
        opa.service.url()
    )
}

const ALLOW: &str = "package mizuchi\nallow := true\n";

#[tokio::test]
async fn the_same_is_asked_once_and_anything_else_again() {
    let (backend, opa) = (Backend::start().await, Opa::start(ALLOW, None).await);
    // A bucket with the very same settings shares the cache; its name is in the question.
    let twin = another_bucket(
        &backend,
        "twin",
        &format!(
            "    auth:\n      sigv4:\n        credentials:\n          - access_key: {ACCESS_KEY}\n            \
             secret_key: {SECRET_KEY}\n            principal: tester\n    authorization:\n{}",
            yaml(&opa, "1h")
        ),
    );
    let gateway = setup(&backend, &yaml(&opa, "1h")).bucket(&twin).start().await;
    for _ in 0..5 {
        assert_eq!(put(&gateway, "k").await.status, 200);
    }
    assert_eq!(opa.service.count(), 1);
    assert_eq!(gateway.metric("mizuchi_authorization_cache_hits_total").await, 4.0);
    for again in [false, true] {
        let before = opa.service.count();
        assert_eq!(put(&gateway, "other-key").await.status, 200);
        assert_eq!(send(&gateway, Request::put("k", 4), b"abcd").await.status, 200);
        assert_eq!(create(&gateway, "k").await.status, 200);
        assert_eq!(send_as_other(&gateway, Request::put("k", 3), b"abc").await.status, 200);
        let request = Request::put("k", 3).header("x-team", "blue");
        assert_eq!(send(&gateway, request, b"abc").await.status, 200);
        let request = Request { path: "/twin/k".into(), ..Request::put("k", 3) };
        assert_eq!(send(&gateway, request, b"abc").await.status, 200);
        assert_eq!(opa.service.count() - before, if again { 0 } else { 6 });
    }
    // What nobody may decide by is not part of the question.
    let before = opa.service.count();
    let request = Request::put("k", 3).header("x-other", "blue");
    assert_eq!(send(&gateway, request, b"abc").await.status, 200);
    assert_eq!(opa.service.count(), before);
}

#[tokio::test]
async fn a_decision_is_forgotten_after_its_time() {
    let (backend, opa) = (Backend::start().await, Opa::start(ALLOW, None).await);
    let gateway = setup(&backend, &yaml(&opa, "1s")).start().await;
    assert_eq!(put(&gateway, "k").await.status, 200);
    opa.replace("package mizuchi\nallow := false\n");
    eventually("the engine's new mind", async || put(&gateway, "k").await.status == 403).await;
    opa.replace(ALLOW);
    // A denial is kept as long as an allow.
    eventually("and its old one", async || put(&gateway, "k").await.status == 200).await;
}
