//! A browser's upload: `POST /bucket` with a form whose last field is the file.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html>. The fields are read, and
//! become what a PUT of the same object would have been: the key, headers, an
//! [`Operation::PutObject`](crate::s3::operation::Operation). From there on it is one: the same table
//! of headers, the same grants and permissions, the same pipeline. What is a form's own is the place
//! of its credentials (`sigv4::PolicySignature`), its [`Policy`], and that its file's length is known
//! only at its end: the end is not fed before the closing boundary was seen and the policy's
//! `content-length-range` holds, so that a form that is cut short or too long leaves nothing.

mod fields;
mod parser;
mod policy;
mod put;
mod upload;

pub use fields::{Fields, MAX_FIELD_BYTES, MAX_FIELDS};
pub use parser::{MAX_AROUND, Parser, Step, boundary};
pub use policy::{Policy, SizeRange};
pub use put::{PutForm, Success};
pub use upload::{FormClaim, PostForm, is_form};
