//! The route of an AssumeRoleWithWebIdentity: `POST /` with a form, as SDKs send it to
//! `AWS_ENDPOINT_URL_STS`.

use super::audit_lines;
use super::http_actor::Account;
use super::reply::Reply;
use super::request::Failed;
use super::route::Route;
use mizuchi_actors::auth_actor::Exchange;
use mizuchi_actors::guardian::NoAnswer;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::sts::{MAX_REQUEST, StsError};
use mizuchi_actors::tap::RequestBody;
use time::OffsetDateTime;

/// Whether a request is for the token service. An upload never is a form of this type.
pub(super) fn is_for(route: &Route, head: &RequestHead) -> bool {
    let form = "application/x-www-form-urlencoded";
    route.engine.sts.is_some()
        && head.method() == "POST"
        && head.path() == "/"
        && head.header("content-type").is_some_and(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(form))
        })
}

/// How an exchange ends that gives no session.
enum Ended {
    Refused(StsError),
    Failed(Failed),
}

impl From<StsError> for Ended {
    fn from(error: StsError) -> Self {
        Ended::Refused(error)
    }
}

impl From<S3Error> for Ended {
    fn from(error: S3Error) -> Self {
        Ended::Refused(StsError::of_request(&error))
    }
}

impl From<NoAnswer> for Ended {
    fn from(error: NoAnswer) -> Self {
        Ended::Failed(error.into())
    }
}

/// Answers it.
pub(super) async fn serve(
    route: &Route,
    body: &mut Option<RequestBody>,
    account: &mut Account,
) -> Result<Reply, Failed> {
    account.operation = "AssumeRoleWithWebIdentity";
    match exchange(route, body, account).await {
        Ok(document) => {
            audit_lines::session(route, account, None).await?;
            let headers = vec![("cache-control".into(), b"no-store".to_vec())];
            Ok(Reply::xml(200, headers, document.into_bytes()))
        }
        Err(Ended::Refused(error)) => {
            audit_lines::session(route, account, Some(&error)).await?;
            account.refused = error.code;
            let document = error.document(&account.ids.request);
            Ok(Reply::xml(error.status, Vec::new(), document.into_bytes()))
        }
        Err(Ended::Failed(failed)) => Err(failed),
    }
}

async fn exchange(
    route: &Route,
    body: &mut Option<RequestBody>,
    account: &mut Account,
) -> Result<String, Ended> {
    let _permit = route.admission.enter().await?;
    let form = read(body).await?;
    let request_id = account.ids.request.clone();
    let asked = Exchange { form, now: OffsetDateTime::now_utc(), request_id };
    let assumed = route.auth.ask(asked).await??;
    account.principal = assumed.principal;
    Ok(assumed.document)
}

async fn read(body: &mut Option<RequestBody>) -> Result<Vec<u8>, S3Error> {
    let mut form = Vec::new();
    let Some(body) = body else { return Ok(form) };
    while let Some(bytes) = body.read(MAX_REQUEST).await? {
        if form.len() + bytes.len() > MAX_REQUEST {
            let message = "Your request was too big.";
            return Err(S3Error::new(ErrorCode::MaxMessageLengthExceeded, message));
        }
        form.extend_from_slice(&bytes);
    }
    Ok(form)
}
