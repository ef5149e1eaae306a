//! An Open Policy Agent as far as its data API goes: real Rego, evaluated by regorus.
//!
//! <https://www.openpolicyagent.org/docs/latest/rest-api/#get-a-document-with-input>: 200 with
//! `result`, without one where the document is undefined; 400 with `code` and `message` where the
//! body is not JSON; 401 where a token is asked for; 500 where the evaluation fails.

use super::service::{Asked, Service};
use regorus::{Engine, Value};
use serde_json::json;
use std::sync::{Arc, Mutex};

pub struct Opa {
    pub service: Service,
    policy: Arc<Mutex<Engine>>,
}

fn engine(rego: &str) -> Engine {
    let mut engine = Engine::new();
    engine.add_policy("policy.rego".to_owned(), rego.to_owned()).unwrap();
    engine
}

impl Opa {
    /// With this policy, and this token if one is needed.
    pub async fn start(rego: &str, token: Option<&'static str>) -> Opa {
        let policy = Arc::new(Mutex::new(engine(rego)));
        let asked_of = Arc::clone(&policy);
        let service = Service::start(move |asked| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            if bearer.as_deref() != asked.header("authorization").filter(|_| bearer.is_some()) {
                return (401, json!({"code": "unauthorized", "message": "no"}).to_string());
            }
            evaluate(asked, &mut asked_of.lock().unwrap())
        })
        .await;
        Opa { service, policy }
    }

    /// Another policy, from now on.
    pub fn replace(&self, rego: &str) {
        *self.policy.lock().unwrap() = engine(rego);
    }

    /// The input documents that it was asked about.
    pub fn inputs(&self) -> Vec<serde_json::Value> {
        self.service.asked().iter().map(|asked| asked.json()["input"].clone()).collect()
    }
}

fn evaluate(asked: &Asked, engine: &mut Engine) -> (u16, String) {
    let invalid =
        |message: &str| (400, json!({"code": "invalid_parameter", "message": message}).to_string());
    let Some(path) = asked.path.strip_prefix("/v1/data/") else {
        return (404, json!({"code": "resource_not_found", "message": "no"}).to_string());
    };
    if asked.method != "POST" {
        return (405, String::new());
    }
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(&asked.body) else {
        return invalid("body is not JSON");
    };
    let Some(input) = body.get("input") else { return invalid("no input") };
    engine.set_input(Value::from_json_str(&input.to_string()).unwrap());
    let query = format!("data.{}", path.replace('/', "."));
    match engine.eval_query(query, false) {
        Ok(results) => match results.result.first().and_then(|row| row.expressions.first()) {
            Some(found) if found.value != Value::Undefined => {
                let result: serde_json::Value =
                    serde_json::from_str(&found.value.to_json_str().unwrap()).unwrap();
                (200, json!({"result": result}).to_string())
            }
            _ => (200, "{}".to_owned()),
        },
        Err(error) => {
            (500, json!({"code": "internal_error", "message": error.to_string()}).to_string())
        }
    }
}
