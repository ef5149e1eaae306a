//! An OpenFGA as far as Check goes: it refuses what the published schema refuses (openfga/api,
//! openfga/v1), and finds relations that are direct, computed from one other, or inherited from a
//! `parent`, in its own tuples and those of the request.
//!
//! The model:
//!
//! ```text
//! type user
//! type bucket
//!   relations
//!     define owner: [user]
//!     define can_access: [user] or owner
//! type object
//!   relations
//!     define parent: [bucket]
//!     define writer: [user]
//!     define can_upload: writer or owner from parent
//! ```

use super::service::{Asked, Service};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

pub const STORE: &str = "01HVMMBCMGZNT3SED4Z17ECXCA";
pub const MODEL: &str = "01HVMMBD123ABCSED4Z17ECXCA";

/// User, relation, object.
type Tuple = (String, String, String);

pub struct OpenFga {
    pub service: Service,
    tuples: Arc<Mutex<Vec<Tuple>>>,
}

fn owned((user, relation, object): (&str, &str, &str)) -> Tuple {
    (user.to_owned(), relation.to_owned(), object.to_owned())
}

impl OpenFga {
    pub async fn start(token: Option<&'static str>) -> OpenFga {
        let tuples = Arc::<Mutex<Vec<Tuple>>>::default();
        let known = Arc::clone(&tuples);
        let service = Service::start(move |asked| {
            let bearer = token.map(|token| format!("Bearer {token}"));
            if bearer.as_deref() != asked.header("authorization").filter(|_| bearer.is_some()) {
                return failed(401, "bearer_token_missing");
            }
            check(asked, &known.lock().unwrap())
        })
        .await;
        OpenFga { service, tuples }
    }

    pub fn write(&self, tuple: (&str, &str, &str)) {
        self.tuples.lock().unwrap().push(owned(tuple));
    }

    pub fn delete(&self, tuple: (&str, &str, &str)) {
        let tuple = owned(tuple);
        self.tuples.lock().unwrap().retain(|have| *have != tuple);
    }
}

fn failed(status: u16, code: &str) -> (u16, String) {
    (status, json!({"code": code, "message": "see the code"}).to_string())
}

fn check(asked: &Asked, known: &[Tuple]) -> (u16, String) {
    let path = asked.path.strip_prefix("/stores/").and_then(|path| path.strip_suffix("/check"));
    match path {
        None => return failed(404, "undefined_endpoint"),
        Some(STORE) => {}
        Some(_) => return failed(404, "store_id_not_found"),
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(&asked.body) else {
        return failed(400, "validation_error");
    };
    let fields =
        ["tuple_key", "contextual_tuples", "authorization_model_id", "context", "consistency"];
    if body.keys().any(|key| !fields.contains(&key.as_str())) {
        return failed(400, "validation_error");
    }
    match body.get("authorization_model_id").map(Value::as_str) {
        None | Some(Some(MODEL)) => {}
        Some(Some(id)) if id.len() == 26 => return failed(400, "authorization_model_not_found"),
        Some(_) => return failed(400, "validation_error"),
    }
    let Some((user, relation, object)) = body.get("tuple_key").and_then(tuple) else {
        return failed(400, "validation_error");
    };
    let mut tuples = known.to_vec();
    if let Some(contextual) = body.get("contextual_tuples") {
        let keys = contextual.get("tuple_keys").and_then(Value::as_array);
        let Some(more) = keys.and_then(|keys| keys.iter().map(tuple).collect::<Option<Vec<_>>>())
        else {
            return failed(400, "invalid_contextual_tuple");
        };
        tuples.extend(more);
    }
    let kind = object.split(':').next().unwrap_or_default();
    let has = |user: &str, relation: &str, object: &str| {
        tuples.contains(&owned((user, relation, object)))
    };
    let allowed = match (kind, relation.as_str()) {
        ("object", "writer") | ("bucket", "owner") => has(&user, &relation, &object),
        ("bucket", "can_access") => {
            has(&user, "can_access", &object) || has(&user, "owner", &object)
        }
        ("object", "can_upload") => {
            let mut parents = tuples.iter().filter(|(_, is, of)| is == "parent" && *of == object);
            has(&user, "writer", &object) || parents.any(|(parent, ..)| has(&user, "owner", parent))
        }
        ("object" | "bucket", _) => return failed(400, "relation_not_found"),
        _ => return failed(400, "type_not_found"),
    };
    (200, json!({"allowed": allowed, "resolution": ""}).to_string())
}

/// A tuple key within its published bounds: user of at most 512 bytes, relation `[^:#@\s]{1,50}`,
/// object `[^\s]{2,256}` with exactly one colon and no #.
fn tuple(key: &Value) -> Option<Tuple> {
    let text = |name: &str| key.get(name)?.as_str().map(str::to_owned);
    let (user, relation, object) = (text("user")?, text("relation")?, text("object")?);
    let id = |text: &str| {
        text.split_once(':').is_some_and(|(kind, id)| !kind.is_empty() && !id.is_empty())
            && text.matches(':').count() == 1
            && !text.contains('#')
            && !text.contains(char::is_whitespace)
    };
    let relation_fits = (1..=50).contains(&relation.len())
        && !relation.contains(|c: char| c.is_whitespace() || ":#@".contains(c));
    let object_fits = id(&object) && (2..=256).contains(&object.chars().count());
    let fits =
        user.len() <= 512 && id(&user) && !user.ends_with(":*") && relation_fits && object_fits;
    fits.then_some((user, relation, object))
}
