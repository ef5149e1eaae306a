//! Which request of a multipart upload carries what a PutObject came with (S3 API Reference, the
//! "Request Syntax" of CreateMultipartUpload, UploadPart and CompleteMultipartUpload).

/// Names in lower case, and values.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A PutObject's headers, dealt out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitHeaders {
    /// What becomes part of the object.
    pub create: Headers,
    /// What every part needs.
    pub part: Headers,
    /// What decides whether the object is written.
    pub complete: Headers,
}

/// Deals a PutObject's headers out. What speaks of the body's bytes as a whole (Content-MD5,
/// checksums) goes nowhere: it is verified before Complete.
pub fn divide(headers: &[(String, Vec<u8>)]) -> SplitHeaders {
    let mut split = SplitHeaders::default();
    for header in headers {
        let name = header.0.as_str();
        let of_the_body = matches!(name, "content-md5" | "x-amz-sdk-checksum-algorithm")
            || name.starts_with("x-amz-checksum-");
        let everywhere = matches!(name, "x-amz-expected-bucket-owner" | "x-amz-request-payer")
            || name.starts_with("x-amz-server-side-encryption-customer-");
        let condition = matches!(name, "if-match" | "if-none-match");
        if of_the_body {
            continue;
        }
        if everywhere || !condition {
            split.create.push(header.clone());
        }
        if everywhere {
            split.part.push(header.clone());
        }
        if everywhere || condition {
            split.complete.push(header.clone());
        }
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "On Create metadata, Content-*, tags, ACL, class, SSE, lock; on parts SSE-C; on Complete the
    /// conditional headers, SSE-C; expected-bucket-owner and request-payer on all."
    #[test]
    fn every_header_goes_where_s3_reads_it() {
        let names = |headers: &Headers| -> Vec<String> {
            headers.iter().map(|(name, _)| name.clone()).collect()
        };
        let on = |name: &str| {
            let split = divide(&[(name.to_owned(), b"v".to_vec())]);
            [&split.create, &split.part, &split.complete].map(|headers| names(headers).len())
        };
        for name in [
            "content-type",
            "content-encoding",
            "cache-control",
            "expires",
            "x-amz-meta-a",
            "x-amz-tagging",
            "x-amz-acl",
            "x-amz-grant-read",
            "x-amz-storage-class",
            "x-amz-server-side-encryption",
            "x-amz-server-side-encryption-aws-kms-key-id",
            "x-amz-object-lock-mode",
            "x-amz-website-redirect-location",
        ] {
            assert_eq!(on(name), [1, 0, 0], "{name}");
        }
        for name in ["if-match", "if-none-match"] {
            assert_eq!(on(name), [0, 0, 1], "{name}");
        }
        for name in [
            "x-amz-expected-bucket-owner",
            "x-amz-request-payer",
            "x-amz-server-side-encryption-customer-key",
        ] {
            assert_eq!(on(name), [1, 1, 1], "{name}");
        }
        for name in ["content-md5", "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm"] {
            assert_eq!(on(name), [0, 0, 0], "{name}");
        }
    }
}
