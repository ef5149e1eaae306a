//! Keys and principals as OpenFGA's ids.

use super::{assert_denied, put, send_as_other, setup};
use crate::support::backend::Backend;
use crate::support::client::Request;
use crate::support::openfga::{MODEL, OpenFga, STORE};
use serde_json::json;

/// Ids have no white space, no colon, no # and at most 256 characters (openfga/api): keys are
/// encoded so that no two are one object, and those that do not fit are denied without a question.
#[tokio::test]
async fn any_key_is_one_object_or_denied() {
    let (backend, openfga) = (Backend::start().await, OpenFga::start(None).await);
    let yaml = format!(
        "      engine: openfga\n      timeout: 5s\n      openfga:\n        url: {}\n        store_id: {STORE}\n        \
         model_id: {MODEL}\n",
        openfga.service.url()
    );
    let gateway = setup(&backend, &yaml).start().await;
    for object in ["a%20b", "x%3Ay%23z", "%C3%BC/%2A", "100%25"] {
        openfga.write(("user:tester", "writer", &format!("object:uploads/{object}")));
    }
    for (key, status) in [
        ("a b", 200),
        ("a%20b", 403),
        ("a+b", 403),
        ("x:y#z", 200),
        ("ü/*", 200),
        ("ü/%2A", 403),
        ("100%", 200),
        ("100%25", 403),
    ] {
        assert_eq!(put(&gateway, key).await.status, status, "{key}");
    }
    // "object:uploads/" and 241 characters are 256.
    let longest = format!("{}k", "ü".repeat(40));
    let object = format!("object:uploads/{}k", "%C3%BC".repeat(40));
    openfga.write(("user:tester", "writer", &object));
    assert_eq!(put(&gateway, &longest).await.status, 200);
    let before = openfga.service.count();
    assert_denied(&put(&gateway, &format!("{longest}k")).await);
    assert_eq!(openfga.service.count(), before);
    assert_denied(&send_as_other(&gateway, Request::put("a b", 3), b"abc").await);
    let asked = openfga.service.asked();
    let last = asked.last().unwrap();
    assert_eq!(
        (last.method.as_str(), last.path.as_str()),
        ("POST", &*format!("/stores/{STORE}/check"))
    );
    assert_eq!(
        last.json(),
        json!({
            "tuple_key": {
                "user": "user:mallory", "relation": "can_upload", "object": "object:uploads/a%20b"
            },
            "authorization_model_id": MODEL,
        })
    );
}
