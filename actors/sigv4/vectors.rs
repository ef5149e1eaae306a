//! AWS's published examples, each through the verifier over a raw head.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html> and the pages
//! beside it, with AKIAIOSFODNN7EXAMPLE on 24 May 2013.

use super::*;
use crate::http::RequestHead;
use crate::payload::ChunkVerify;
use crate::secret::Secret;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::time::Duration;
use time::OffsetDateTime;

const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";

fn that_day() -> OffsetDateTime {
    date::parse("20130524T000000Z").unwrap()
}

fn verify(head: &str, host: &str) -> Verified {
    let credential = Credential {
        access_key: ACCESS_KEY.to_owned(),
        secret_key: Secret::new(SECRET_KEY.to_owned()),
        principal: "example".to_owned(),
        session_token: None,
        grants: Default::default(),
    };
    let verifier = Verifier::new(
        "us-east-1".to_owned(),
        Duration::from_secs(900),
        Credentials::new([credential]),
    );
    let head = RequestHead::parse(Bytes::from(head.to_owned())).unwrap();
    verifier.verify(&head, &Hosts::new(vec![host.to_owned()]), that_day()).unwrap()
}

/// A head of the examples: the request line, its own headers, and the claim.
fn head(line: &str, headers: &str, sha256: &str, signed: &str, signature: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\n{headers}x-amz-date: 20130524T000000Z\r\n\
         x-amz-content-sha256: {sha256}\r\nAuthorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{SCOPE},\
         SignedHeaders={signed},Signature={signature}\r\n\r\n"
    )
}

/// "Example: GET Object", "PUT Object", "GET Bucket Lifecycle", "Get Bucket (List Objects)".
#[test]
fn a_single_chunk() {
    let plain = "host;x-amz-content-sha256;x-amz-date";
    for (line, headers, sha256, signed, signature) in [
        (
            "GET /test.txt",
            "Range: bytes=0-9\r\n",
            EMPTY,
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT /test$file.text",
            "Date: Fri, 24 May 2013 00:00:00 GMT\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n",
            "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET /?lifecycle",
            "",
            EMPTY,
            plain,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET /?max-keys=2&prefix=J",
            "",
            EMPTY,
            plain,
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ] {
        let head = head(line, headers, sha256, signed, signature);
        let verified = verify(&head, "examplebucket.s3.amazonaws.com");
        assert_eq!(&*verified.identity.principal, "example", "{line}");
    }
}

/// "Transferring Payload in Multiple Chunks": the seed and the chain.
#[test]
fn multiple_chunks() {
    let head = format!(
        "PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\nx-amz-date: 20130524T000000Z\r\n\
         x-amz-storage-class: REDUCED_REDUNDANCY\r\nAuthorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{SCOPE},\
         SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;\
         x-amz-decoded-content-length;x-amz-storage-class,\
         Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9\r\n\
         x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nContent-Encoding: aws-chunked\r\n\
         x-amz-decoded-content-length: 66560\r\nContent-Length: 66824\r\n\r\n"
    );
    let mut chunks = verify(&head, "s3.amazonaws.com").chunks.unwrap();
    for (length, signature) in [
        (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ] {
        let sha256 = Sha256::digest(vec![b'a'; length]).into();
        let signature = ChunkSigner::seed_from_hex(signature).unwrap();
        chunks.verify_chunk(&sha256, &signature).unwrap();
        assert!(chunks.clone().verify_chunk(&sha256, &signature).is_err(), "replayed");
    }
}

/// "Signature Calculations … Including Trailing Headers": the seed, the chain and the trailer.
#[test]
fn multiple_chunks_with_a_trailer() {
    let head = format!(
        "PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\nx-amz-date: 20130524T000000Z\r\n\
         x-amz-storage-class: REDUCED_REDUNDANCY\r\nAuthorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{SCOPE},\
         SignedHeaders=content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
         x-amz-storage-class;x-amz-trailer,\
         Signature=106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e\r\n\
         x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER\r\nContent-Encoding: aws-chunked\r\n\
         x-amz-decoded-content-length: 66560\r\nx-amz-trailer: x-amz-checksum-crc32c\r\n\
         Content-Length: 66946\r\n\r\n"
    );
    let mut chunks = verify(&head, "s3.amazonaws.com").chunks.unwrap();
    for (length, signature) in [
        (65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"),
        (1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"),
        (0, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"),
    ] {
        let sha256 = Sha256::digest(vec![b'a'; length]).into();
        let signature = ChunkSigner::seed_from_hex(signature).unwrap();
        chunks.verify_chunk(&sha256, &signature).unwrap();
    }
    let signature = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";
    let signature = ChunkSigner::seed_from_hex(signature).unwrap();
    let trailer = Sha256::digest("x-amz-checksum-crc32c:sOO8/Q==\n").into();
    let other = Sha256::digest("x-amz-checksum-crc32c:AAAAAA==\n").into();
    assert!(chunks.clone().verify_trailer(&other, &signature).is_err());
    assert!(chunks.clone().verify_chunk(&trailer, &signature).is_err(), "a trailer is no chunk");
    chunks.verify_trailer(&trailer, &signature).unwrap();
}

/// "Authenticating Requests: Using Query Parameters": the example.
#[test]
fn a_presigned_url() {
    let head = format!(
        "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={}&X-Amz-Date=20130524T000000Z\
         &X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=\
         aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\r\n\
         Host: examplebucket.s3.amazonaws.com\r\n\r\n",
        format_args!("{ACCESS_KEY}/{SCOPE}").to_string().replace('/', "%2F")
    );
    let verified = verify(&head, "examplebucket.s3.amazonaws.com");
    assert_eq!(verified.identity.means, crate::identity::Means::Presigned);
    assert_eq!(verified.payload, PayloadMode::Absent);
}
