//! OpenFGA over its HTTP API.
//!
//! <https://openfga.dev/api/service#/Relationship%20Queries/Check>: `POST /stores/{store_id}/check`
//! with a tuple key (user, relation, object) answers `{"allowed": true or false}`. The bounds of a
//! tuple key are those of its published schema (openfga/api, openfga/v1/openfga.proto). What does
//! not fit is denied here, and always: it cannot be the name of anything that a tuple was written
//! for.

use super::answer::{Answer, Verdict, read};
use super::opa::{MAX_ANSWER, bearer, failed};
use super::question::Question;
use super::template::Template;
use crate::outbound::{Limits, Outbound, ServiceUrl};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bytes of a tuple's user.
const MAX_USER: usize = 512;
/// Characters of a tuple's object; ours are all ASCII.
const MAX_OBJECT: usize = 256;

/// How a request becomes a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuples {
    /// Who.
    pub user: Template,
    /// The object of an operation on a key.
    pub object: Template,
    /// The object of an operation on a bucket.
    pub bucket: Template,
    /// The relation that an operation needs, by S3's name of the operation.
    pub relations: BTreeMap<&'static str, String>,
    /// What OpenFGA is to take for granted besides what it knows.
    pub contextual: Vec<ContextualTuple>,
    /// Of the authorization model; None: the store's latest.
    pub model_id: Option<String>,
}

/// A tuple of the request's own. One that has a `{key}` is left out of operations on a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextualTuple {
    /// Who.
    pub user: Template,
    /// Is what.
    pub relation: String,
    /// To what.
    pub object: Template,
}

/// One store of an OpenFGA.
#[derive(Debug)]
pub struct OpenFga {
    outbound: Outbound,
    url: ServiceUrl,
    headers: Vec<(String, Secret)>,
    tuples: Tuples,
}

#[derive(Serialize)]
struct TupleKey {
    user: String,
    relation: String,
    object: String,
}

#[derive(Serialize)]
struct TupleKeys {
    tuple_keys: Vec<TupleKey>,
}

#[derive(Serialize)]
struct Check<'c> {
    tuple_key: TupleKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    contextual_tuples: Option<TupleKeys>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_model_id: Option<&'c str>,
}

#[derive(Deserialize)]
struct Said {
    allowed: Option<bool>,
}

impl OpenFga {
    /// `url`: with the whole path, `/stores/{store_id}/check`.
    pub fn new(
        outbound: Outbound,
        url: ServiceUrl,
        token: Option<&Secret>,
        tuples: Tuples,
    ) -> Self {
        OpenFga { outbound, url, headers: bearer(token), tuples }
    }

    /// The body of the request; or the verdict, where OpenFGA cannot be asked.
    pub(super) fn body(&self, question: &Question<'_>) -> Result<String, Verdict> {
        self.tuples.body(question)
    }

    /// Asks.
    pub(super) async fn ask(&self, body: String, time: Duration) -> Answer {
        let limits = Limits { time, bytes: MAX_ANSWER };
        let answer = match self.outbound.post_json(&self.url, &self.headers, body, limits).await {
            Ok(answer) => answer,
            Err(error) => return failed(&error),
        };
        match read::<Said>(&answer) {
            Ok(Said { allowed: Some(true) }) => Answer::well(Verdict::Allowed),
            Ok(Said { allowed: Some(false) }) => {
                Answer::well(Verdict::denied("the user has not the relation to the object"))
            }
            Ok(Said { allowed: None }) => Answer::unwell("the answer has no `allowed`"),
            Err(error) => Answer::unwell(&format!("the answer cannot be read: {error}")),
        }
    }
}

impl Tuples {
    fn body(&self, question: &Question<'_>) -> Result<String, Verdict> {
        let Some(relation) = self.relations.get(question.operation) else {
            return Err(Verdict::denied("the operation has no relation"));
        };
        let object = if question.key.is_some() { &self.object } else { &self.bucket };
        let tuple_key = tuple(&self.user, relation, object, question)?;
        let mut tuple_keys = Vec::new();
        for one in &self.contextual {
            let needs_key = one.user.has_key() || one.object.has_key();
            if question.key.is_some() || !needs_key {
                tuple_keys.push(tuple(&one.user, &one.relation, &one.object, question)?);
            }
        }
        let check = Check {
            tuple_key,
            contextual_tuples: (!tuple_keys.is_empty()).then_some(TupleKeys { tuple_keys }),
            authorization_model_id: self.model_id.as_deref(),
        };
        serde_json::to_string(&check).map_err(|error| Verdict::undecided(&error.to_string()))
    }
}

fn tuple(
    user: &Template,
    relation: &str,
    object: &Template,
    question: &Question<'_>,
) -> Result<TupleKey, Verdict> {
    let (user, object) = (user.render(question), object.render(question));
    if user.len() > MAX_USER {
        return Err(Verdict::denied("the user is longer than OpenFGA's 512 bytes"));
    }
    if object.len() > MAX_OBJECT {
        return Err(Verdict::denied("the object is longer than OpenFGA's 256 characters"));
    }
    Ok(TupleKey { user, relation: relation.to_owned(), object })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::question::tests::put;
    use super::super::template::Role;
    use super::*;
    use crate::s3::operation::Operation;
    use serde_json::{Value, json};

    fn tuples() -> Tuples {
        let template = |text: &str, role| Template::parse(text, role).unwrap();
        Tuples {
            user: template("user:{principal}", Role::User),
            object: template("object:{bucket}/{key}", Role::Object),
            bucket: template("bucket:{bucket}", Role::BucketObject),
            relations: Operation::NAMES.map(|name| (name, "can_upload".to_owned())).into(),
            contextual: vec![ContextualTuple {
                user: template("bucket:{bucket}", Role::User),
                relation: "parent".to_owned(),
                object: template("object:{bucket}/{key}", Role::Object),
            }],
            model_id: Some("01HVMMBCMGZNT3SED4Z17ECXCA".to_owned()),
        }
    }

    #[test]
    fn a_check_as_it_is_published() {
        let body = tuples().body(&put("anne", "a b")).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap(),
            json!({
                "tuple_key": {
                    "user": "user:anne", "relation": "can_upload", "object": "object:uploads/a%20b"
                },
                "contextual_tuples": {"tuple_keys": [{
                    "user": "bucket:uploads", "relation": "parent", "object": "object:uploads/a%20b"
                }]},
                "authorization_model_id": "01HVMMBCMGZNT3SED4Z17ECXCA",
            })
        );
        let bucket = Question { key: None, operation: "HeadBucket", ..put("anne", "") };
        let check: Value = serde_json::from_str(&tuples().body(&bucket).unwrap()).unwrap();
        assert_eq!(check["tuple_key"]["object"], json!("bucket:uploads"));
        assert_eq!(check.get("contextual_tuples"), None);
    }

    #[test]
    fn only_an_object_with_allowed_is_an_answer() {
        let said = |text: &str| read::<Said>(text.as_bytes()).map(|said| said.allowed);
        assert_eq!(said(r#"{"allowed": true, "resolution": ""}"#), Ok(Some(true)));
        assert_eq!(said(r#" {"resolution": ""}"#), Ok(None));
        for text in ["", "[true]", "true", r#"{"allowed": 1}"#, r#"{"allowed": "true"}"#] {
            assert!(said(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_denied() {
        // "object:uploads/" is 15 characters.
        assert!(tuples().body(&put("anne", &"k".repeat(241))).is_ok());
        for question in [
            put("anne", &"k".repeat(242)),
            put("anne", &"ü".repeat(41)),
            put(&" ".repeat(170), "k"),
            Question { operation: "DeleteObject", ..put("anne", "k") },
        ] {
            assert_eq!(tuples().body(&question).unwrap_err().as_str(), "denied", "{question:?}");
        }
    }
}
