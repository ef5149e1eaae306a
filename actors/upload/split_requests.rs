//! The requests that a PutObject in parts is made of.

use super::job::SplitJob;
use crate::s3::split_headers::Headers;
use crate::s3::upstream::UpstreamTemplate;
use crate::s3::xml;
use crate::sigv4::PayloadHash;
use bytes::Bytes;

/// What of a split upload its requests are made from.
#[derive(Debug, Clone)]
pub struct SplitRequests {
    /// The object's key at the backend.
    key: String,
    headers: crate::s3::split_headers::SplitHeaders,
    whole: Option<(crate::payload::ChecksumAlgorithm, Option<String>)>,
    full_object: bool,
    part_size: u64,
    length: Option<u64>,
}

impl SplitRequests {
    /// The requests of this job.
    pub fn new(job: &SplitJob) -> Self {
        SplitRequests {
            key: job.put.key.clone(),
            headers: job.headers.clone(),
            whole: job.whole.clone(),
            full_object: job.bucket.backend.verifies.full_object,
            part_size: job.part_size,
            length: job.length,
        }
    }

    /// CreateMultipartUpload.
    pub fn create(&self) -> UpstreamTemplate {
        let mut headers = self.headers.create.clone();
        if let Some((algorithm, _)) = &self.whole {
            headers.push(header("x-amz-checksum-algorithm", algorithm.name()));
            headers.push(header("x-amz-checksum-type", "FULL_OBJECT"));
        }
        let query = vec![("uploads".to_owned(), String::new())];
        self.request("POST", query, headers, PayloadHash::Empty, Some(0))
    }

    /// UploadPart. Its length is left open where the body's is not known.
    pub fn part(&self, number: u32, upload_id: &str) -> UpstreamTemplate {
        let query = vec![
            ("partNumber".to_owned(), number.to_string()),
            ("uploadId".to_owned(), upload_id.to_owned()),
        ];
        let before = u64::from(number.saturating_sub(1)) * self.part_size;
        let length = self.length.map(|whole| whole.saturating_sub(before).min(self.part_size));
        self.request("PUT", query, self.headers.part.clone(), PayloadHash::Unsigned, length)
    }

    /// CompleteMultipartUpload, and its document. `trailers`: the verified ones; `length`: of the
    /// whole.
    pub fn complete(
        &self,
        parts: &[(u32, String)],
        upload_id: &str,
        trailers: &[(String, String)],
        length: u64,
    ) -> (UpstreamTemplate, Bytes) {
        let numbered = parts.iter().map(|(number, etag)| (*number, etag.as_str()));
        let document = Bytes::from(xml::complete_request(numbered));
        let mut headers = self.headers.complete.clone();
        if let Some((algorithm, value)) = &self.whole {
            let name = algorithm.header();
            let trailer = trailers.iter().find(|(have, _)| have == name);
            if let Some(value) = value.as_ref().or(trailer.map(|(_, value)| value)) {
                headers.push(header(name, value));
                headers.push(header("x-amz-checksum-type", "FULL_OBJECT"));
            }
        }
        if self.full_object {
            headers.push(header("x-amz-mp-object-size", &length.to_string()));
        }
        let size = Some(document.len() as u64);
        let query = vec![("uploadId".to_owned(), upload_id.to_owned())];
        let request = self.request("POST", query, headers, PayloadHash::of(&document), size);
        (request, document)
    }

    /// AbortMultipartUpload.
    pub fn abort(&self, upload_id: &str) -> UpstreamTemplate {
        let mut headers = self.headers.part.clone();
        headers.retain(|(name, _)| !name.starts_with("x-amz-server-side-encryption-"));
        let query = vec![("uploadId".to_owned(), upload_id.to_owned())];
        self.request("DELETE", query, headers, PayloadHash::Empty, None)
    }

    fn request(
        &self,
        method: &'static str,
        query: Vec<(String, String)>,
        headers: Headers,
        payload: PayloadHash,
        length: Option<u64>,
    ) -> UpstreamTemplate {
        UpstreamTemplate { method, key: self.key.clone(), query, headers, payload, length }
    }
}

fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}
