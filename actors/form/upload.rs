//! Reads a form up to its file, and feeds the file into the pipeline.

use super::fields::Fields;
use super::parser::{MAX_AROUND, Parser, Step, boundary, malformed, not_one_file};
use super::policy::{Policy, SizeRange};
use super::put::PutForm;
use crate::http::{Framing, RequestHead};
use crate::s3::error::{ErrorCode, S3Error};
use crate::sigv4::{CredentialPlace, payload_of_unsigned};
use crate::tap::{BodyError, Feeder, RequestBody, TapConfig, fed_body};
use time::OffsetDateTime;

/// Bytes of one read before the file: a fourth of what may come there.
const SMALL_READ: usize = MAX_AROUND / 4;

/// Bytes of one read of the file: what the tap's own buffer holds.
const READ: usize = 64 * 1024;

/// Whether a request is a form: a POST of multipart/form-data to the bucket itself. `key`: the rest of
/// its path.
pub fn is_form(head: &RequestHead, key: &str) -> bool {
    let kind = head.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim_ascii();
    head.method() == "POST"
        && key.is_empty()
        && kind.eq_ignore_ascii_case("multipart/form-data")
        && head.query().split('&').all(|pair| pair.is_empty() || is_credential(pair))
}

/// Whether a parameter of the query is one of a presigned URL.
fn is_credential(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    name.to_ascii_lowercase().starts_with("x-amz-")
        || ["AWSAccessKeyId", "Expires", "Signature"].contains(&name)
}

/// A form that was read up to its file.
#[derive(Debug)]
pub struct PostForm {
    /// The PUT that it stands for.
    pub put: PutForm,
    bucket: String,
    fields: Fields,
    policy: Option<Policy>,
    parser: Parser,
}

impl PostForm {
    /// Reads a form up to its file. `body` stays where it is: what is not read then ends its
    /// connection, if the form is refused.
    ///
    /// Errors: 400 IncompleteBody, InvalidArgument, InvalidPolicyDocument, InvalidRequest,
    /// MalformedPOSTRequest, MaxPostPreDataLengthExceededError, RequestTimeout and those of
    /// [`PutForm::new`]; 403 AccessDenied.
    pub async fn read(
        head: &RequestHead,
        bucket: &str,
        body: &mut RequestBody,
        max_head: usize,
    ) -> Result<PostForm, S3Error> {
        check_head(head)?;
        let mut parser = Parser::new(boundary(head.header("content-type").unwrap_or_default())?);
        let mut fields = Fields::default();
        let filename = loop {
            match parser.step()? {
                Step::More => match body.read(SMALL_READ).await? {
                    Some(bytes) => parser.push(bytes),
                    None => parser.end(),
                },
                Step::Field { name, value } => fields.add(&name, value)?,
                Step::File { filename } => break filename,
                Step::Bytes(_) | Step::FileEnd | Step::End => return Err(not_one_file()),
            }
        };
        fields.put_filename(filename.as_deref())?;
        let put = PutForm::new(&fields, head, bucket, max_head)?;
        let policy = fields.get("policy").map(Policy::parse).transpose()?;
        Ok(PostForm { put, bucket: bucket.to_owned(), fields, policy, parser })
    }

    /// What authorization needs to know of it.
    pub fn claim(&self) -> FormClaim {
        FormClaim {
            signature: self.put.signature.clone(),
            bucket: self.bucket.clone(),
            fields: self.fields.clone(),
            policy: self.policy.clone(),
        }
    }

    /// The file as a body of unknown length. A task feeds it from `body`, at the pace at which it is
    /// read; the task ends with the file, with the client, or when the returned body is dropped.
    pub fn start(self, body: RequestBody, config: &TapConfig) -> RequestBody {
        let (feeder, fed) = fed_body(Framing::Chunked, config);
        let range = self.policy.as_ref().map(Policy::range).unwrap_or_default();
        tokio::spawn(feed(self.parser, body, feeder, range));
        fed
    }
}

/// A form's credentials and what they are over.
#[derive(Debug, Clone)]
pub struct FormClaim {
    /// The signature over the policy.
    pub signature: crate::sigv4::PolicySignature,
    bucket: String,
    fields: Fields,
    policy: Option<Policy>,
}

impl FormClaim {
    /// Whether the form is one that its policy allows; one without a policy is: it has no signature.
    ///
    /// Errors: 403 AccessDenied.
    pub fn check(&self, now: OffsetDateTime) -> Result<(), S3Error> {
        match &self.policy {
            Some(policy) => policy.check(&self.fields, &self.bucket, now),
            None => Ok(()),
        }
    }
}

/// The head of a form says nothing but that it is one: no other credentials, and no header that S3
/// acts on, which the policy would know nothing of.
fn check_head(head: &RequestHead) -> Result<(), S3Error> {
    payload_of_unsigned(head, CredentialPlace::PostPolicy)?;
    // A form that comes with a token is to be told from one that comes with a signature here.
    if head.has("authorization") || !head.query().is_empty() {
        let message = "Only one auth mechanism allowed; a form's credentials are among its fields.";
        return Err(S3Error::new(ErrorCode::InvalidArgument, message));
    }
    if head.values("content-type").nth(1).is_some() {
        let message = "The header content-type is given twice.";
        return Err(S3Error::new(ErrorCode::InvalidArgument, message));
    }
    if head.headers().any(|(name, _)| name.to_ascii_lowercase().starts_with("x-amz-")) {
        let message = "There were headers present in the request which were not signed";
        return Err(S3Error::new(ErrorCode::AccessDenied, message));
    }
    Ok(())
}

async fn feed(mut parser: Parser, mut body: RequestBody, feeder: Feeder, range: SizeRange) {
    let fed = tokio::select! {
        fed = pump(&mut parser, &mut body, &feeder, range) => fed,
        () = feeder.unwanted() => return,
    };
    match fed {
        Ok(()) => feeder.end().await,
        Err(error) => feeder.fail(error).await,
    }
}

/// Feeds the whole file. Ok only when the form was closed, nothing of the body is left, and the file
/// is as long as it may be.
async fn pump(
    parser: &mut Parser,
    body: &mut RequestBody,
    feeder: &Feeder,
    range: SizeRange,
) -> Result<(), BodyError> {
    let mut length = 0u64;
    loop {
        match parser.step().map_err(BodyError::Refused)? {
            Step::More => match body.read(READ).await? {
                Some(bytes) => parser.push(bytes),
                None => parser.end(),
            },
            Step::Bytes(bytes) => {
                length = length.saturating_add(bytes.len() as u64);
                if length > range.most {
                    let message = "Your proposed upload exceeds the maximum allowed size";
                    return Err(refused(ErrorCode::EntityTooLarge, message));
                }
                // Nobody reads: nobody is told either.
                feeder.feed(bytes).await.map_err(|_| BodyError::Incomplete)?;
            }
            Step::FileEnd if length < range.least => {
                let message = "Your proposed upload is smaller than the minimum allowed size";
                return Err(refused(ErrorCode::EntityTooSmall, message));
            }
            Step::FileEnd => {}
            Step::End => break,
            Step::Field { .. } | Step::File { .. } => {
                return Err(BodyError::Refused(not_one_file()));
            }
        }
    }
    // What follows the closing boundary means nothing (RFC 2046, 5.1.1), but the body must be whole.
    let mut left = MAX_AROUND;
    while let Some(bytes) = body.read(READ).await? {
        left = left.checked_sub(bytes.len()).ok_or_else(|| BodyError::Refused(malformed()))?;
    }
    Ok(())
}

fn refused(code: ErrorCode, message: &'static str) -> BodyError {
    BodyError::Refused(S3Error::new(code, message))
}
