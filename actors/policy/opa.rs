//! Open Policy Agent over its REST API.
//!
//! <https://www.openpolicyagent.org/docs/latest/rest-api/#get-a-document-with-input>: `POST
//! /v1/data/{path}` with `{"input": …}` answers 200 with `{"result": …}`. An undefined document is
//! a 200 too, without a `result`: that is no decision, and never an allow.

use super::answer::{Answer, Verdict, read};
use super::question::Question;
use crate::outbound::{Limits, Outbound, OutboundError, ServiceUrl};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Bytes of an answer: a decision and a reason, and what of provenance and metrics OPA may add.
pub(super) const MAX_ANSWER: usize = 64 << 10;

/// One OPA, and the document that decides.
#[derive(Debug)]
pub struct Opa {
    outbound: Outbound,
    url: ServiceUrl,
    headers: Vec<(String, Secret)>,
}

#[derive(Serialize)]
struct Asked<'q> {
    input: &'q Question<'q>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default, deserialize_with = "present")]
    result: Option<Value>,
}

/// A field that is there, `null` included.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

impl Opa {
    /// `url`: with the whole path of the document, `/v1/data/…`.
    pub fn new(outbound: Outbound, url: ServiceUrl, token: Option<&Secret>) -> Self {
        Opa { outbound, url, headers: bearer(token) }
    }

    /// The body of the request.
    pub(super) fn body(question: &Question<'_>) -> serde_json::Result<String> {
        serde_json::to_string(&Asked { input: question })
    }

    /// Asks.
    pub(super) async fn ask(&self, body: String, time: Duration) -> Answer {
        let limits = Limits { time, bytes: MAX_ANSWER };
        let answer = match self.outbound.post_json(&self.url, &self.headers, body, limits).await {
            Ok(answer) => answer,
            Err(error) => return failed(&error),
        };
        match read::<Said>(&answer) {
            Ok(Said { result: Some(result) }) => Answer::well(Verdict::of_result(&result)),
            Ok(Said { result: None }) => {
                Answer::well(Verdict::undecided("the document is undefined for this request"))
            }
            Err(error) => Answer::unwell(&format!("the answer cannot be read: {error}")),
        }
    }
}

/// `Authorization: Bearer …`, if there is a token.
pub(super) fn bearer(token: Option<&Secret>) -> Vec<(String, Secret)> {
    let header = |token: &Secret| Secret::new(format!("Bearer {}", token.expose()));
    token.map(|token| ("authorization".to_owned(), header(token))).into_iter().collect()
}

/// No answer. A 4xx is about this one question, unless it is about who asks or how often: the
/// requests of one client must not open the breaker for the others.
pub(super) fn failed(error: &OutboundError) -> Answer {
    let of_the_question = |status: &u16| {
        (400..500).contains(status) && !matches!(status, 401 | 403 | 404 | 407 | 408 | 429)
    };
    match error {
        OutboundError::Status(status) if of_the_question(status) => {
            Answer::well(Verdict::undecided(&error.to_string()))
        }
        error => Answer::unwell(&error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::question::tests::put;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_body_is_the_input_document() {
        let body = Opa::body(&put("anne", "a/b")).unwrap();
        let sent: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(sent["input"]["principal"], json!("anne"));
        assert_eq!(sent.as_object().unwrap().len(), 1);
    }

    /// "The server returns 200 if the path refers to an undefined document. In this case, the
    /// response will not contain a result property."
    #[test]
    fn undefined_and_null_are_told_apart() {
        let said = |text: &str| read::<Said>(text.as_bytes()).map(|said| said.result);
        assert_eq!(said("{}").unwrap(), None);
        assert_eq!(said(r#"{"result": null}"#).unwrap(), Some(json!(null)));
        assert_eq!(said(r#"{"result": true, "decision_id": "x"}"#).unwrap(), Some(json!(true)));
        for text in
            ["", "[]", "[true]", "true", "{} {}", "{", r#"{"result": true, "result": false}"#]
        {
            assert!(said(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whose_fault_a_status_is() {
        for (status, well) in [(400, true), (422, true), (401, false), (404, false), (500, false)] {
            assert_eq!(failed(&OutboundError::Status(status)).well, well, "{status}");
        }
    }
}
