//! ETags that are digests.

/// Whether an ETag, with its quotes or without, is this digest in hexadecimal digits (of a multipart
/// upload with the count of its parts). AWS answers them in lower case, Alibaba Cloud OSS in upper case.
pub fn is_digest(etag: &str, digest: &str) -> bool {
    etag.trim_matches('"').eq_ignore_ascii_case(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_compared_whatever_their_case() {
        let md5 = "5b3c1a2e053d763e1b002cc607c5a0fe";
        for etag in
            ["\"5B3C1A2E053D763E1B002CC607C5A0FE\"", "\"5b3c1a2e053d763e1b002cc607c5a0fe\"", md5]
        {
            assert!(is_digest(etag, md5), "{etag}");
        }
        assert!(is_digest("\"5B3C-2\"", "5b3c-2"));
        for other in ["\"5B3C1A2E053D763E1B002CC607C5A0FF\"", "", "\"\"", "\"5b3c-2\""] {
            assert!(!is_digest(other, md5), "{other}");
        }
    }
}
