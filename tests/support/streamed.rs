//! Bodies in aws-chunked, made as a client makes them.

use super::client::{Answer, Client, signer, write_head};
use super::gateway::Gateway;
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher};
use mizuchi_actors::sigv4::{PayloadHash, UpstreamRequest};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

/// An aws-chunked upload, with everything that a test may want to spoil.
#[derive(Clone)]
pub struct Streamed {
    pub mode: PayloadHash,
    pub key: String,
    /// `partNumber` and `uploadId`: an UploadPart.
    pub query: Vec<(String, String)>,
    pub chunks: Vec<Vec<u8>>,
    pub decoded: Option<String>,
    pub trailer: Option<(ChecksumAlgorithm, String)>,
    pub declared: Option<String>,
    pub last_chunk: bool,
    pub headers: Vec<(&'static str, &'static str)>,
}

impl Streamed {
    pub fn new(key: &str, mode: PayloadHash, body: &[u8]) -> Streamed {
        let chunks: Vec<Vec<u8>> = body.chunks(65536).map(<[u8]>::to_vec).collect();
        Streamed {
            mode,
            key: key.to_owned(),
            query: Vec::new(),
            chunks,
            decoded: Some(body.len().to_string()),
            trailer: None,
            declared: None,
            last_chunk: true,
            headers: Vec::new(),
        }
    }

    pub fn with_trailer(mut self, algorithm: ChecksumAlgorithm) -> Streamed {
        let mut hasher = Hasher::new(algorithm);
        self.chunks.iter().for_each(|chunk| hasher.update(chunk));
        self.trailer = Some((algorithm, hasher.finish_value()));
        self.declared = Some(algorithm.header().to_owned());
        self
    }

    /// The head and the body.
    pub fn wire(&self, host: &str) -> (Vec<u8>, Vec<u8>) {
        let mut headers = vec![("content-encoding".to_owned(), b"aws-chunked".to_vec())];
        if let Some(decoded) = &self.decoded {
            headers.push(("x-amz-decoded-content-length".to_owned(), decoded.clone().into()));
        }
        if let Some(declared) = &self.declared {
            headers.push(("x-amz-trailer".to_owned(), declared.clone().into()));
        }
        for (name, value) in &self.headers {
            headers.retain(|(have, _)| have != name);
            headers.push(((*name).to_owned(), value.as_bytes().to_vec()));
        }
        let mut request = UpstreamRequest {
            method: "PUT",
            host: host.to_owned(),
            path: format!("/uploads/{}", self.key),
            query: self.query.clone(),
            headers,
        };
        let mut chain = signer().sign(&mut request, self.mode, OffsetDateTime::now_utc());
        let signed = self.mode != PayloadHash::UnsignedTrailer;
        let hex = |bytes: [u8; 32]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut body = Vec::new();
        let last = if self.last_chunk { vec![Vec::new()] } else { Vec::new() };
        for chunk in self.chunks.iter().chain(&last) {
            let size = format!("{:x}", chunk.len());
            body.extend(size.as_bytes());
            if signed {
                let signature = chain.chunk(&Sha256::digest(chunk).into());
                body.extend(format!(";chunk-signature={}", hex(signature)).as_bytes());
            }
            body.extend(b"\r\n");
            if !chunk.is_empty() {
                body.extend(chunk);
                body.extend(b"\r\n");
            }
        }
        if let Some((algorithm, value)) = &self.trailer {
            let name = algorithm.header();
            body.extend(format!("{name}:{value}\r\n").as_bytes());
            if signed {
                let canonical = Sha256::digest(format!("{name}:{value}\n"));
                let signature = hex(chain.trailer(&canonical.into()));
                body.extend(format!("x-amz-trailer-signature:{signature}\r\n").as_bytes());
            }
        }
        if self.last_chunk {
            body.extend(b"\r\n");
        }
        (write_head(&request, Some(body.len() as u64)), body)
    }

    pub async fn send(&self, gateway: &Gateway) -> Answer {
        let mut client = Client::connect(gateway).await;
        let (head, body) = self.wire(&gateway.address.to_string());
        client.raw(&head, &body).await
    }
}
