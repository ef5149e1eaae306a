//! A CompleteMultipartUpload that takes long. S3 answers 200 before it knows how the upload ends,
//! sends white space while it works, and then the document, which may be an error. So does this: a
//! client, or a proxy on its way, would otherwise give up on a connection that is silent for minutes.

use super::http_actor::{Account, conclude};
use super::later::Later;
use super::reply::Reply;
use super::request::Upload;
use super::route::Route;
use mizuchi_actors::s3::xml::DECLARATION;
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest time between two spaces: well under the idle timeouts of proxies, the shortest of
/// which are 30 s.
const SPACE_EVERY: Duration = Duration::from_secs(5);

/// The status that goes out before the outcome is known.
const EARLY_STATUS: u16 = 200;

/// Completes the upload. The answer is the outcome if it is there `after` this time, else a 200 whose
/// body is still to come. `close`: whether the connection ends with the answer.
pub(super) async fn answer(
    route: Route,
    upload: Box<Upload>,
    mut account: Account,
    after: Duration,
    close: bool,
) -> Reply {
    let early = account.dress(Reply::xml(EARLY_STATUS, Vec::new(), DECLARATION.into()));
    let mut ending = Box::pin(async move {
        let result = upload.end(&route, &mut account).await;
        (route, account, result)
    });
    if let Ok((route, account, result)) = tokio::time::timeout(after, &mut ending).await {
        return conclude(&route, &account, result, close, None).await;
    }
    let (send, end) = oneshot::channel();
    actix_web::rt::spawn(async move {
        let (route, account, result) = ending.await;
        let reply = conclude(&route, &account, result, close, Some(EARLY_STATUS)).await;
        let declared = DECLARATION.as_bytes();
        let root = reply.body.strip_prefix(declared).unwrap_or(&reply.body).to_vec();
        // The client may be gone: the upload has ended all the same.
        let _ = send.send(root);
    });
    Reply { later: Some(Later::End { end, every: after.min(SPACE_EVERY) }), close, ..early }
}
