//! What the audit log is told of a batch: each entry's decision, and the end of each that was published.

use super::super::http_actor::Account;
use super::super::route::Route;
use super::publish::EntryEnd;
use crate::audit::{DecisionLine, UploadLine};
use mizuchi_actors::auth_actor::EntryDenied;
use mizuchi_actors::identity::Identity;
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What entries are, to policies and in the audit log.
const OPERATION: &str = "PutObject";

/// The request that a batch came with.
pub(super) struct Witness {
    request_id: String,
    pub(super) client: Option<IpAddr>,
    principal: Arc<str>,
    bucket: String,
}

impl Witness {
    pub(super) fn new(account: &Account) -> Witness {
        Witness {
            request_id: account.ids.request.clone(),
            client: account.client,
            principal: Arc::clone(&account.principal),
            bucket: account.bucket.clone(),
        }
    }

    pub(super) fn principal(&self) -> &str {
        &self.principal
    }

    /// Errors: 503 where it must be recorded and cannot be.
    pub(super) async fn decision(
        &self,
        route: &Route,
        identity: &Identity,
        key: &str,
        decision: Result<&&'static str, &EntryDenied>,
    ) -> Result<(), S3Error> {
        if !route.audit.is_on() {
            return Ok(());
        }
        let denied = decision.err();
        let line = DecisionLine {
            request_id: &self.request_id,
            client_ip: self.client,
            principal: Some(&identity.principal),
            means: Some(identity.means.as_str()),
            operation: OPERATION,
            bucket: &self.bucket,
            key: Some(key),
            allowed: denied.is_none(),
            by: decision.map_or_else(|denied| denied.by, |by| *by),
            reason: denied.map(|denied| denied.reason.as_str()).unwrap_or_default(),
            status: denied.map(|denied| denied.error.status),
            code: denied.map(|denied| &*denied.error.code),
        };
        route.audit.decision(&line).await.map_err(|_| {
            let message = "The request could not be recorded. Please try again.";
            S3Error::new(ErrorCode::ServiceUnavailable, message)
        })
    }

    pub(super) async fn end(&self, route: &Route, key: &str, end: &EntryEnd, took: Duration) {
        if !route.audit.is_on() {
            return;
        }
        let (status, code, etag) = match &end.result {
            Ok(stored) => (200, "", Some(stored.etag.clone())),
            Err(error) => (error.status, &*error.code, None),
        };
        let line = UploadLine {
            request_id: &self.request_id,
            client_ip: self.client,
            principal: &self.principal,
            operation: OPERATION,
            bucket: &self.bucket,
            key,
            bytes: end.size,
            status,
            code,
            etag,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            plan: "batch",
            restarts: end.restarts,
        };
        route.audit.upload(&line).await;
    }
}
