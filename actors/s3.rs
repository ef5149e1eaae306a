//! S3 as it is spoken on both sides: names, operations, headers, documents, errors. All pure.

pub mod address;
pub mod cors;
pub mod error;
pub mod etag;
pub mod headers;
pub mod list_uploads;
pub mod names;
pub mod operation;
pub mod split_headers;
pub mod upload_id;
pub mod upstream;
pub mod xml;
