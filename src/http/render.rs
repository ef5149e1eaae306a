//! The client's view of the backend's answers: its own bucket and key, its sealed uploadId.

use super::reply::Reply;
use super::route::Route;
use mizuchi_actors::config::{Bucket, Engine};
use mizuchi_actors::orphans::{Record, wall_clock};
use mizuchi_actors::s3::error::{ErrorCode, S3Error};
use mizuchi_actors::s3::list_uploads::{ListQuery, ListedUpload, page};
use mizuchi_actors::s3::names::BackendUploadId;
use mizuchi_actors::s3::operation::Operation;
use mizuchi_actors::s3::{headers, xml};
use mizuchi_actors::spool::UploadId;
use mizuchi_actors::upload::job::BackendAnswer;

/// HeadBucket's answer: the bucket exists, in the region that clients sign for.
pub(super) fn head_bucket(bucket: &Bucket) -> Reply {
    let region = bucket.region.clone().into_bytes();
    Reply::empty(200, vec![("x-amz-bucket-region".into(), region)])
}

/// ListMultipartUploads: the caller's own, as far as this gateway has them on record.
pub(super) fn list_uploads(
    engine: &Engine,
    bucket: &Bucket,
    query: &ListQuery,
    owner: &str,
) -> Result<Reply, S3Error> {
    let name = bucket.name.as_str();
    let mut of_client = engine.ledger.of_client(name, owner);
    of_client.retain(|record| is_there(engine, record));
    let uploads = of_client.into_iter().filter_map(|record| {
        let key = record.key.strip_prefix(&bucket.backend.key_prefix)?.to_owned();
        Some(ListedUpload { key, upload_id: record.upload_id?, initiated: record.begun.from })
    });
    let marker = match query.upload_id_marker.as_str() {
        "" => None,
        // One that is none of the caller's marks nothing.
        sealed => engine.sealer.open(sealed, name, &query.key_marker, owner).ok(),
    };
    let page = page(uploads.collect(), query, marker.as_ref().map(BackendUploadId::as_str));
    let seal = |key: &str, id: &str| {
        let id = BackendUploadId::new(id.to_owned());
        engine.sealer.seal(&id, name, key, owner, rand::random())
    };
    let document = xml::list_uploads_document(name, query, &page, seal)?;
    Ok(Reply::xml(200, Vec::new(), document.into_bytes()))
}

/// Whether an upload of the spool's is still there: after a crash the ledger may not have heard that it
/// was ended. Of the backend's only the backend knows.
fn is_there(engine: &Engine, record: &Record) -> bool {
    let Some(named) = &record.upload_id else { return true };
    let Some(id) = UploadId::parse(named) else { return true };
    let there = engine.spool.as_ref().is_some_and(|spool| spool.has_upload(id));
    if !there {
        engine.ledger.client_ended(&record.bucket, named);
    }
    there
}

/// The client's view of the backend's answer.
pub(super) async fn render(
    route: &Route,
    bucket: &Bucket,
    operation: &Operation,
    owner: &str,
    answer: BackendAnswer,
) -> Result<Reply, S3Error> {
    let headers = headers::response_headers(&answer.headers);
    let name = bucket.name.as_str();
    let key = operation.key().map_or("", |key| key.as_str());
    let rewrite = |root: &str, replace: &[(&str, &str)]| {
        xml::rewrite(&answer.body, root, replace).map_err(|error| {
            log::error!("bucket {name}: {} answered garbage: {error}", operation.name());
            S3Error::new(ErrorCode::InternalError, "The backend's answer could not be understood.")
        })
    };
    match operation {
        Operation::CreateMultipartUpload { .. } => {
            let id = xml::parse_initiate(&answer.body).map_err(|error| {
                log::error!("bucket {name}: CreateMultipartUpload answered garbage: {error}");
                S3Error::new(
                    ErrorCode::InternalError,
                    "The backend's answer could not be understood.",
                )
            })?;
            if bucket.upload.records_clients() {
                let full = format!("{}{key}", bucket.backend.key_prefix);
                let ledger = &route.engine.ledger;
                let noted = ledger.client_began(name, &full, &id, owner, wall_clock()).await;
                if let Err(error) = noted {
                    log::error!("bucket {name}: an upload will not be listed nor aborted: {error}");
                }
            }
            let id = BackendUploadId::new(id);
            let sealed = route.engine.sealer.seal(&id, name, key, owner, rand::random())?;
            route.engine.metrics.multipart_uploads.with_label_values(&["created"]).inc();
            let replace = [("Bucket", name), ("Key", key), ("UploadId", sealed.as_str())];
            Ok(Reply::xml(200, headers, rewrite("InitiateMultipartUploadResult", &replace)?))
        }
        Operation::CompleteMultipartUpload { .. } => {
            route.engine.metrics.multipart_uploads.with_label_values(&["completed"]).inc();
            let location = format!("/{name}/{key}");
            let replace = [("Bucket", name), ("Key", key), ("Location", location.as_str())];
            Ok(Reply::xml(200, headers, rewrite("CompleteMultipartUploadResult", &replace)?))
        }
        Operation::ListParts { upload_id, .. } => {
            let replace = [("Bucket", name), ("Key", key), ("UploadId", upload_id.as_str())];
            Ok(Reply::xml(200, headers, rewrite("ListPartsResult", &replace)?))
        }
        Operation::AbortMultipartUpload { .. } => {
            route.engine.metrics.multipart_uploads.with_label_values(&["aborted"]).inc();
            Ok(Reply::empty(204, headers))
        }
        _ => Ok(Reply::empty(200, headers)),
    }
}
