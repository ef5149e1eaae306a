//! A browser's form before a policy engine, and where tokens are taken.

use super::{assert_denied, assert_undecided, setup};
use crate::support::backend::Backend;
use crate::support::client::{Answer, Client};
use crate::support::form::Form;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{claims, settings, token};
use crate::support::opa::Opa;
use crate::support::service::Fault;
use jsonwebtoken::EncodingKey;
use serde_json::json;

const POLICY: &str = "package mizuchi
default decision := {\"allow\": false, \"reason\": \"canary-reason\"}
decision := true if {
	input.operation == \"PutObject\"
	startswith(input.key, \"mine/\")
}
";

async fn send(gateway: &Gateway, form: &Form) -> Answer {
    form.send(&mut Client::connect(gateway).await, b"file").await
}

/// security.md, "POST form upload": "Same authorization as PUT": the engine is asked about a PutObject of
/// the form's key, and its no, or none, leaves no object.
#[tokio::test]
async fn a_form_is_asked_about_as_a_put() {
    let (backend, opa) = (Backend::start().await, Opa::start(POLICY, None).await);
    let yaml = format!(
        "      engine: opa\n      timeout: 5s\n      opa:\n        url: {}\n        \
         path: mizuchi/decision\n",
        opa.service.url()
    );
    let gateway = setup(&backend, &yaml).start().await;
    assert_denied(&send(&gateway, &Form::new("other")).await);
    let input = opa.inputs().remove(0);
    let seen = ["principal", "authentication", "method", "operation", "bucket", "key", "size"]
        .map(|name| input[name].clone());
    let expected = json!(["tester", "post-policy", "PUT", "PutObject", "uploads", "other", null]);
    assert_eq!(json!(seen), expected);
    // The key is the one that the file's name has become part of.
    let named = Form::new("").without("key").extra("key", "${filename}").with(|form| {
        form.conditions.retain(|one| !one.contains("$key"));
        form.conditions.push(r#"["starts-with", "$key", ""]"#.to_owned());
        form.filename = "mine.txt".to_owned();
    });
    assert_denied(&send(&gateway, &named).await);
    opa.service.fail(Fault::Status(500));
    assert_undecided(&send(&gateway, &Form::new("mine/undecided")).await);
    opa.service.fail(Fault::None);
    gateway.settled().await;
    assert_eq!((backend.objects(), backend.open_uploads()), (Vec::new(), 0));

    let answer = send(&gateway, &Form::new("mine/k")).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(backend.object("mine/k").unwrap(), b"file");
}

/// "Credentials of two kinds in one request are 400 InvalidArgument": a token signs no form, and where
/// tokens are taken a form is still who signed its policy.
#[tokio::test]
async fn a_form_is_who_signed_it_where_tokens_are_taken_too() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const ISSUER: &str = "https://id.example.com";
    let backend = Backend::start().await;
    let jwt = json!({"issuers": [{"issuer": ISSUER, "algorithms": ["HS256"], "audience": "mizuchi",
                                  "secret": SECRET}]});
    let gateway = Setup::new(&backend, backend.s3.address).bucket(&settings(&jwt)).start().await;
    let token = token(
        &json!({"alg": "HS256"}),
        &claims(ISSUER),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    let bearer =
        |form: Form| form.with(|form| form.headers = format!("Authorization: Bearer {token}\r\n"));
    for (what, form) in [
        ("a token and a signature", bearer(Form::new("k"))),
        ("a token alone", bearer(Form::new("k").with(|form| form.signed = false))),
    ] {
        let answer = send(&gateway, &form).await;
        let text = answer.text();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "InvalidArgument"),
            "{what}: {text}"
        );
    }
    let unsigned = send(&gateway, &Form::new("k").with(|form| form.signed = false)).await;
    assert_eq!((unsigned.status, unsigned.code().as_str()), (403, "AccessDenied"));
    gateway.settled().await;
    assert_eq!(backend.objects(), Vec::<String>::new());

    let answer = send(&gateway, &Form::new("k")).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(backend.object("k").unwrap(), b"file");
    gateway.log_with("principal=\"tester\" operation=PostObject").await;
}
