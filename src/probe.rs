//! `mizuchi check --probe`: asks each backend what it verifies, by uploads that it should refuse.
//!
//! `s3.verifies` says what the gateway need not verify itself; a backend that is trusted wrongly
//! stores damaged bytes. Each probe is a PutObject of a few bytes with one wrong statement about
//! them; what is stored all the same is deleted again.

use crate::engine::{Shared, engine_bucket};
use crate::settings::{BackendEndpoints, Settings};
use crate::spool::shown;
use mizuchi_actors::backend::{Connection, Resolver};
use mizuchi_actors::config::{Bucket, Mode};
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher, Md5};
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::s3::xml;
use mizuchi_actors::sigv4::PayloadHash;
use std::io;
use time::OffsetDateTime;

const BODY: &[u8] = b"probe";

/// What a backend answered.
struct Said {
    status: u16,
    /// S3's; empty where there is none.
    code: String,
    etag: Option<String>,
}

/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Probes every bucket's first endpoint and prints what it found. Ok(false): a backend does not
/// verify what `s3.verifies` says, or does not take what the gateway sends.
pub(crate) async fn run(settings: &Settings) -> io::Result<bool> {
    let mut all_well = true;
    let mut shared = Shared::new(None);
    for bucket in &settings.buckets {
        if bucket.s3.endpoint == BackendEndpoints::Embedded {
            println!(
                "{}: the embedded backend runs only with the gateway, not probed",
                bucket.name
            );
            continue;
        }
        let bucket = engine_bucket(bucket, None, &mut shared)?;
        shared.backend_keys.first().await;
        match probe(&bucket).await {
            Ok(well) => all_well &= well,
            Err(problem) => {
                println!("{}: {problem}", bucket.name);
                all_well = false;
            }
        }
    }
    Ok(all_well)
}

async fn probe(bucket: &Bucket) -> Result<bool, String> {
    let trusted = bucket.backend.verifies;
    let right = PayloadHash::of(BODY);
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.as_bytes().to_vec())];
    let Said { status, code, etag } = put(bucket, right, Vec::new(), BODY).await?;
    if status != 200 {
        return Err(format!(
            "a right upload is refused: {status} {code}; check bucket, region and keys"
        ));
    }
    println!("{}: takes uploads", bucket.name);
    if bucket.upload.mode == Mode::WriteBack || bucket.upload.mode_header {
        println!("{}: {}", bucket.name, of_etag(etag.as_deref()));
    }
    let Said { status, code, .. } = put(bucket, PayloadHash::Unsigned, Vec::new(), BODY).await?;
    let mut well = true;
    if status == 200 {
        println!("{}: takes UNSIGNED-PAYLOAD", bucket.name);
    } else {
        println!(
            "{}: refuses UNSIGNED-PAYLOAD ({status} {code}): set s3.allow_unsigned: false",
            bucket.name
        );
        well = !bucket.backend.allow_unsigned;
    }
    for (name, trusted, payload, headers) in [
        ("sha256", trusted.sha256, PayloadHash::of(b"other"), Vec::new()),
        ("md5", trusted.md5, right, header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")),
        ("checksum", trusted.checksum, right, header("x-amz-checksum-crc32", "AAAAAA==")),
    ] {
        let Said { status, code, .. } = put(bucket, payload, headers, BODY).await?;
        well &= verdict(bucket, name, status >= 400, trusted, status, &code);
    }
    let mut crc = Hasher::new(ChecksumAlgorithm::Crc32);
    crc.update(BODY);
    let Said { status, code, .. } = put_with_trailer(bucket, &crc.finish_value()).await?;
    if status == 200 {
        let Said { status, code, .. } = put_with_trailer(bucket, "AAAAAA==").await?;
        well &= verdict(bucket, "trailer", status >= 400, trusted.trailer, status, &code);
    } else {
        // Not taken at all.
        well &= verdict(bucket, "trailer", false, trusted.trailer, status, &code);
    }
    Ok(well)
}

/// What clients of write-back should know: they are told an ETag before the backend has given one.
fn of_etag(etag: Option<&str>) -> String {
    let mut md5 = Md5::new();
    md5.update(BODY);
    let md5 = shown::hex(md5.finish());
    match etag.map(|etag| etag.trim_matches('"')) {
        Some(etag) if etag == md5 => {
            "the ETag is the body's MD5, as write-back answers it".to_owned()
        }
        Some(etag) => format!(
            "warning: the ETag is {}, not the body's MD5 ({md5}) that clients are told by write-back",
            etag.escape_debug()
        ),
        None => "warning: the answer has no ETag: nothing would ever count as delivered".to_owned(),
    }
}

/// Prints what was found of one word of `s3.verifies`. Whether it may stay as it is.
fn verdict(
    bucket: &Bucket,
    word: &str,
    verifies: bool,
    trusted: bool,
    status: u16,
    code: &str,
) -> bool {
    let verdict = match (verifies, trusted) {
        (true, true) => "verified, as s3.verifies says",
        (true, false) => "verified; it could be named in s3.verifies",
        (false, false) => "not verified there; the gateway does",
        (false, true) => "NOT VERIFIED, though s3.verifies names it: take it out",
    };
    println!("{}: {word}: {verdict} ({status} {code})", bucket.name);
    verifies || !trusted
}

/// Puts the probe's bytes in aws-chunked framing, with this checksum in the trailer.
async fn put_with_trailer(bucket: &Bucket, crc32: &str) -> Result<Said, String> {
    let length = BODY.len();
    let mut framed = format!("{length:x}\r\n").into_bytes();
    framed.extend_from_slice(BODY);
    let end = format!("\r\n0\r\nx-amz-checksum-crc32:{crc32}\r\n\r\n");
    framed.extend_from_slice(end.as_bytes());
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let headers = vec![
        header("content-encoding", "aws-chunked"),
        header("x-amz-decoded-content-length", &length.to_string()),
        header("x-amz-trailer", "x-amz-checksum-crc32"),
    ];
    put(bucket, PayloadHash::UnsignedTrailer, headers, &framed).await
}

/// Puts a body; status and S3 code. The object is deleted again.
async fn put(
    bucket: &Bucket,
    payload: PayloadHash,
    headers: Vec<(String, Vec<u8>)>,
    body: &[u8],
) -> Result<Said, String> {
    let key = format!("{}.mizuchi-probe-{:016x}", bucket.backend.key_prefix, rand::random::<u64>());
    let length = Some(body.len() as u64);
    let request =
        UpstreamTemplate { method: "PUT", key, query: Vec::new(), headers, payload, length };
    let answer = exchange(bucket, &request, body).await?;
    // Also what was refused: a backend may have stored it before it looked.
    let delete = UpstreamTemplate {
        method: "DELETE",
        headers: Vec::new(),
        payload: PayloadHash::Empty,
        length: None,
        ..request
    };
    let Said { status, code, .. } = exchange(bucket, &delete, b"").await?;
    if status >= 300 && (answer.status == 200 || status != 404) {
        println!("{}: the probe {} stays: {status} {code}", bucket.name, delete.key);
    }
    Ok(answer)
}

async fn exchange(
    bucket: &Bucket,
    request: &UpstreamTemplate,
    body: &[u8],
) -> Result<Said, String> {
    let backend = &bucket.backend;
    let endpoint = &backend.endpoints.first().ok_or("no endpoint")?.endpoint;
    let limits = &backend.timeouts;
    let words = |error: mizuchi_actors::backend::BackendError| error.to_string();
    let (resolver, tls) = (Resolver::new(), backend.tls.as_ref());
    let connected = Connection::connect(&resolver, endpoint, tls, limits.connect).await;
    let mut connection = connected.map_err(words)?;
    let now = OffsetDateTime::now_utc();
    let head = request.head(backend, endpoint.authority(), &[], None, now);
    let head = head.map_err(|error| error.to_string())?;
    connection.send_head_and_body(&head, body, limits.progress).await.map_err(words)?;
    let answer =
        connection.read_response(false, limits.first_byte, MAX_ANSWER).await.map_err(words)?;
    let code = xml::parse_error(&answer.body).map(|error| error.code).unwrap_or_default();
    let etag = answer.head.header("etag").map(|etag| String::from_utf8_lossy(etag).into_owned());
    Ok(Said { status: answer.head.status, code, etag })
}
