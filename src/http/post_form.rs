//! What a form has of its own on a request's way: it is read before it can be authorized, its file
//! has no length, and its answer is one for a browser.

use super::http_actor::Account;
use super::reply::Reply;
use super::request::{Failed, no_body};
use super::route::Route;
use mizuchi_actors::config::{Bucket, SplitRules};
use mizuchi_actors::form::{PostForm, Success};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::xml;
use mizuchi_actors::sigv4::uri_encode;
use mizuchi_actors::tap::RequestBody;
use tokio::sync::OwnedSemaphorePermit;

/// Its name in the access log and in metrics. To grants and policies it is a PutObject.
const OPERATION: &str = "PostObject";

/// Reads a form up to its file, under a permit as any body.
pub(super) async fn read_form(
    route: &Route,
    head: &RequestHead,
    bucket: &Bucket,
    body: &mut Option<RequestBody>,
    account: &mut Account,
) -> Result<(PostForm, OwnedSemaphorePermit), Failed> {
    account.operation = OPERATION;
    let permit = route.admission.enter().await?;
    let Some(unread) = body.as_mut() else { return Err(no_body().into()) };
    let form = PostForm::read(head, &bucket.name, unread, route.tap.max_head).await?;
    Ok((form, permit))
}

/// Which lengths a body may have, and whether it may go in parts.
pub(super) struct LengthRules {
    pub(super) split: SplitRules,
    /// Bytes of the largest PutObject.
    pub(super) most: u64,
}

/// Those of the bucket. A form never says how long its file is: where bodies without a length are
/// denied, it may have one that goes in one piece, which is held back until it is whole.
pub(super) fn length_rules(bucket: &Bucket, form: bool) -> LengthRules {
    let (split, most) = (bucket.upload.split, bucket.upload.max_object_size);
    match form && !split.unknown_length {
        false => LengthRules { split, most },
        true => {
            let most = most.min(split.part_size);
            LengthRules { split: SplitRules { unknown_length: true, ..split }, most }
        }
    }
}

/// The answer to a form whose file was taken. `path`: where it was sent to; the object is below.
pub(super) fn form_taken(
    reply: Reply,
    success: &Success,
    bucket: &Bucket,
    operation: &Operation,
    path: &str,
) -> Reply {
    let key = operation.key().map_or("", |key| key.as_str());
    let etag = reply.headers.iter().find(|(name, _)| name == "etag");
    let etag = etag.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
    let etag = etag.unwrap_or_default();
    let object = format!("{}/{}", path.trim_end_matches('/'), uri_encode(key.as_bytes(), true));
    let mut headers = reply.headers;
    match success {
        Success::Redirect(url) => {
            let to = Success::location(url, &bucket.name, key, &etag);
            headers.push(("location".into(), to.into_bytes()));
            Reply::empty(303, headers)
        }
        Success::Status(201) => {
            let document = xml::post_document(&object, &bucket.name, key, &etag);
            headers.push(("location".into(), object.into_bytes()));
            Reply::xml(201, headers, document.into_bytes())
        }
        Success::Status(status) => {
            headers.push(("location".into(), object.into_bytes()));
            Reply::empty(*status, headers)
        }
    }
}
