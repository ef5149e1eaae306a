//! What the audit log is told of a request: the decision when it is made, and the end of an upload that
//! was allowed.

use super::http_actor::Account;
use super::reply::Reply;
use super::request::Failed;
use super::route::Route;
use crate::audit::{DecisionLine, UploadLine};
use mizuchi_actors::auth_actor::Decided;
use mizuchi_actors::identity::Means;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::sts::StsError;

/// Bytes of a reason: it may quote what the client sent.
const MAX_REASON: usize = 1024;

/// Records a decision. From then on the account knows whether its end is to be recorded too.
///
/// Errors: 503 where it must be recorded and cannot be.
pub(super) async fn decision(
    route: &Route,
    account: &mut Account,
    operation: &Operation,
    decided: &Decided,
) -> Result<(), Failed> {
    if !route.audit.is_on() {
        return Ok(());
    }
    let key = operation.key().map(|key| key.as_str());
    let decision = &decided.decision;
    let identity = decision.identity.as_ref();
    let error = decided.result.as_ref().err();
    let reason = &decision.reason;
    let line = DecisionLine {
        request_id: &account.ids.request,
        client_ip: account.client,
        principal: identity.map(|identity| &*identity.principal),
        means: identity.map(|identity| identity.means.as_str()),
        operation: operation.name(),
        bucket: &account.bucket,
        key,
        allowed: error.is_none(),
        by: decision.by,
        reason: reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default(),
        status: error.map(|error| error.status),
        code: error.map(|error| &*error.code),
    };
    route.audit.decision(&line).await.map_err(|_| unrecorded())?;
    if error.is_none() && !matches!(operation, Operation::ListParts { .. }) {
        account.audited = key.map(str::to_owned);
    }
    Ok(())
}

/// Records whether a web identity was given a session; `refused`: what it was told instead.
///
/// Errors: as [`decision`].
pub(super) async fn session(
    route: &Route,
    account: &Account,
    refused: Option<&StsError>,
) -> Result<(), Failed> {
    let reason = refused.map(|error| error.message.as_str()).unwrap_or_default();
    let line = DecisionLine {
        request_id: &account.ids.request,
        client_ip: account.client,
        principal: refused.is_none().then_some(&*account.principal),
        means: refused.is_none().then_some(Means::Jwt.as_str()),
        operation: account.operation,
        bucket: &account.bucket,
        key: None,
        allowed: refused.is_none(),
        by: "token service",
        reason: reason.get(..reason.floor_char_boundary(MAX_REASON)).unwrap_or_default(),
        status: refused.map(|error| error.status),
        code: refused.map(|error| error.code),
    };
    route.audit.decision(&line).await.map_err(|_| unrecorded())
}

fn unrecorded() -> Failed {
    let message = "The request could not be recorded. Please try again.";
    S3Error::new(ErrorCode::ServiceUnavailable, message).into()
}

/// Records the end of an upload that was allowed; of another request nothing.
pub(super) async fn end(route: &Route, account: &Account, reply: &Reply, code: &str) {
    let Some(key) = &account.audited else { return };
    let etag = reply.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("etag"));
    let line = UploadLine {
        request_id: &account.ids.request,
        client_ip: account.client,
        principal: &account.principal,
        operation: account.operation,
        bucket: &account.bucket,
        key,
        bytes: account.bytes,
        status: reply.status,
        code,
        etag: etag.map(|(_, value)| String::from_utf8_lossy(value).into_owned()),
        duration_ms: u64::try_from(account.received.elapsed().as_millis()).unwrap_or(u64::MAX),
        plan: account.plan,
        restarts: account.restarts,
    };
    route.audit.upload(&line).await;
}
