//! `--checksum`: what is computed of a body before it is sent, how the request says it, and how the answer is
//! held against it.

use super::plan::Headers;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use mizuchi_actors::payload::{ChecksumAlgorithm, Hasher, Md5};
use mizuchi_actors::s3::etag::is_digest;
use mizuchi_actors::s3::xml;
use mizuchi_actors::sigv4::PayloadHash;
use mizuchi_actors::upload::job::{BackendAnswer, Proof};

/// What the backend holds each body against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Checksum {
    /// Content-MD5, which every S3 knows; the answer's ETag is held against it
    Md5,
    /// x-amz-checksum-crc32
    Crc32,
    /// x-amz-checksum-crc32c
    Crc32c,
    /// x-amz-checksum-crc64nvme: the fastest; needs a backend of 2025
    Crc64nvme,
    /// x-amz-checksum-sha256, and the payload is signed: the slowest
    Sha256,
    /// Nothing: what TCP or TLS lets through is stored
    None,
}

impl Checksum {
    fn algorithm(self) -> Option<ChecksumAlgorithm> {
        match self {
            Checksum::Md5 | Checksum::None => None,
            Checksum::Crc32 => Some(ChecksumAlgorithm::Crc32),
            Checksum::Crc32c => Some(ChecksumAlgorithm::Crc32c),
            Checksum::Crc64nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            Checksum::Sha256 => Some(ChecksumAlgorithm::Sha256),
        }
    }

    /// What CreateMultipartUpload says of the parts' checksums to come.
    pub(super) fn create_headers(self) -> Headers {
        let Some(algorithm) = self.algorithm() else { return Headers::new() };
        let mut headers = vec![header("x-amz-checksum-algorithm", algorithm.name())];
        headers.extend(self.type_headers());
        headers
    }

    /// What CompleteMultipartUpload says of them.
    pub(super) fn type_headers(self) -> Headers {
        let whole = self.algorithm().is_some_and(ChecksumAlgorithm::is_crc);
        whole.then(|| header("x-amz-checksum-type", "FULL_OBJECT")).into_iter().collect()
    }

    /// S3's name of it in CompleteMultipartUpload's list of parts.
    pub(super) fn name(self) -> Option<&'static str> {
        self.algorithm().map(ChecksumAlgorithm::name)
    }

    /// As it is given on the command line.
    pub(super) fn word(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Begins to compute it.
    pub(super) fn begin(self) -> Computing {
        match self {
            Checksum::None => Computing::Nothing,
            Checksum::Md5 => Computing::Md5(Box::default()),
            other => match other.algorithm() {
                Some(algorithm) => Computing::Other(Box::new(Hasher::new(algorithm))),
                None => Computing::Nothing,
            },
        }
    }
}

/// A checksum over what has come so far.
pub(super) enum Computing {
    Nothing,
    Md5(Box<Md5>),
    Other(Box<Hasher>),
}

impl Computing {
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Computing::Nothing)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Computing::Nothing => {}
            Computing::Md5(md5) => md5.update(bytes),
            Computing::Other(hasher) => hasher.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Sum {
        match self {
            Computing::Nothing => Sum::Nothing,
            Computing::Md5(md5) => Sum::Md5(md5.finish()),
            Computing::Other(hasher) => {
                let algorithm = hasher.algorithm();
                Sum::Other(algorithm, hasher.finish())
            }
        }
    }
}

/// The checksum of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sum {
    Nothing,
    Md5([u8; 16]),
    Other(ChecksumAlgorithm, Vec<u8>),
}

impl Sum {
    /// The headers of the request with this body.
    pub(super) fn headers(&self) -> Headers {
        match self {
            Sum::Nothing => Headers::new(),
            Sum::Md5(md5) => vec![header("content-md5", &STANDARD.encode(md5))],
            Sum::Other(algorithm, digest) => {
                vec![header(algorithm.header(), &STANDARD.encode(digest))]
            }
        }
    }

    /// What the signature says of the body.
    pub(super) fn payload(&self) -> PayloadHash {
        match self {
            Sum::Other(ChecksumAlgorithm::Sha256, digest) => {
                let digest: Result<[u8; 32], _> = digest.as_slice().try_into();
                digest.map_or(PayloadHash::Unsigned, PayloadHash::Hash)
            }
            _ => PayloadHash::Unsigned,
        }
    }

    /// What a HEAD must show, should the answer be lost.
    pub(super) fn proof(&self) -> Proof {
        match self {
            Sum::Nothing => Proof::None,
            Sum::Md5(md5) => Proof::ETag(hex(md5)),
            Sum::Other(algorithm, digest) => {
                Proof::Checksum(algorithm.header().to_owned(), STANDARD.encode(digest))
            }
        }
    }

    /// The value that CompleteMultipartUpload's list gives of a part.
    pub(super) fn value(&self) -> Option<String> {
        match self {
            Sum::Nothing | Sum::Md5(_) => None,
            Sum::Other(_, digest) => Some(STANDARD.encode(digest)),
        }
    }

    /// The ETag of what was sent, by the answer to it. The error: the backend has something else.
    pub(super) fn check(&self, answer: &BackendAnswer) -> Result<String, String> {
        let of = |name: &str| header_of(answer, name);
        let etag = of("etag").ok_or("the answer has no ETag: it is no S3's")?;
        let etag = etag.trim_matches('"').to_owned();
        match self {
            Sum::Nothing => {}
            Sum::Md5(md5) => {
                let other = is_md5(&etag) && !is_digest(&etag, &hex(md5));
                if other && !is_encrypted(answer) {
                    return Err(format!("the backend's ETag is {etag}, the MD5 is {}", hex(md5)));
                }
            }
            Sum::Other(algorithm, digest) => {
                let expected = STANDARD.encode(digest);
                if let Some(theirs) = of(algorithm.header()).filter(|theirs| *theirs != expected) {
                    let name = algorithm.name();
                    return Err(format!("the backend's {name} is {theirs}, not {expected}"));
                }
            }
        }
        Ok(etag)
    }
}

/// The ETag that an object of these parts has: None: one of them is no MD5.
pub(super) fn of_parts<'e>(etags: impl Iterator<Item = &'e str> + Clone) -> Option<String> {
    if !etags.clone().all(is_md5) {
        return None;
    }
    xml::multipart_etag(etags)
}

/// The ETag of a completed upload by its answer. `expected`: what it should be, where that can be known.
pub(super) fn check_completed(
    answer: &BackendAnswer,
    expected: Option<&str>,
) -> Result<String, String> {
    let fields = xml::parse_completed(&answer.body).unwrap_or_default();
    let etag = fields.into_iter().find(|(name, _)| name == "etag").map(|(_, value)| value);
    let etag = etag.ok_or("the answer has no ETag: it is no S3's")?;
    let etag = etag.trim_matches('"').to_owned();
    let other = |expected: &&str| is_of_parts(&etag) && !is_digest(&etag, expected);
    match expected.filter(other) {
        Some(expected) if !is_encrypted(answer) => {
            Err(format!("the backend's ETag is {etag}, that of the parts is {expected}"))
        }
        _ => Ok(etag),
    }
}

/// Whether the object is encrypted with a key: its ETag looks like an MD5, and is none (Amazon S3 API
/// Reference, "Object").
fn is_encrypted(answer: &BackendAnswer) -> bool {
    header_of(answer, "x-amz-server-side-encryption").is_some_and(|how| how != "AES256")
        || header_of(answer, "x-amz-server-side-encryption-customer-algorithm").is_some()
}

fn header_of(answer: &BackendAnswer, name: &str) -> Option<String> {
    let found = answer.headers.iter().find(|(header, _)| header == name);
    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_of_parts(etag: &str) -> bool {
    etag.split_once('-').is_some_and(|(md5, count)| is_md5(md5) && count.parse::<u16>().is_ok())
}

fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn sum(checksum: Checksum) -> Sum {
        let mut computing = checksum.begin();
        computing.update(b"1234");
        computing.update(b"56789");
        computing.finish()
    }

    fn answer(headers: &[(&str, &'static str)]) -> BackendAnswer {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), Bytes::from(*value)));
        BackendAnswer { status: 200, headers: headers.collect(), body: Bytes::new() }
    }

    /// "computed while reading once before sending; the answer's ETag/checksum compared"
    #[test]
    fn the_answer_is_held_against_what_was_computed() {
        let md5 = sum(Checksum::Md5);
        let right = "\"25f9e794323b453885f5181f1b624d0b\"";
        assert_eq!(md5.check(&answer(&[("etag", right)])).unwrap(), right.trim_matches('"'));
        let other = ("etag", "\"00f9e794323b453885f5181f1b624d0b\"");
        assert!(md5.check(&answer(&[other])).is_err());
        assert!(md5.check(&answer(&[])).is_err());
        // What is encrypted with a key has another ETag; some backends have none that is an MD5.
        assert!(md5.check(&answer(&[other, ("x-amz-server-side-encryption", "aws:kms")])).is_ok());
        assert!(md5.check(&answer(&[other, ("x-amz-server-side-encryption", "AES256")])).is_err());
        assert!(md5.check(&answer(&[("etag", "\"opaque-7\"")])).is_ok());
        // Alibaba Cloud OSS writes its MD5s in capitals.
        let capitals = ("etag", "\"25F9E794323B453885F5181F1B624D0B\"");
        assert!(md5.check(&answer(&[capitals])).is_ok());
        let crc = sum(Checksum::Crc32);
        assert_eq!(crc.value().unwrap(), "y/Q5Jg==");
        assert!(crc.check(&answer(&[other])).is_ok());
        assert!(crc.check(&answer(&[other, ("x-amz-checksum-crc32", "AAAAAA==")])).is_err());
    }

    #[test]
    fn a_completed_upload_s_etag_is_that_of_its_parts() {
        let parts = ["25F9E794323B453885F5181F1B624D0B", "25f9e794323b453885f5181f1b624d0b"];
        let expected = of_parts(parts.into_iter()).unwrap();
        let other = format!("{}-2", parts[1]);
        let check = |etag: &str, headers: &[(&str, &'static str)]| {
            let body = format!(
                "<CompleteMultipartUploadResult><ETag>\"{etag}\"</ETag>\
                 </CompleteMultipartUploadResult>"
            );
            let answer = BackendAnswer { body: body.into(), ..answer(headers) };
            check_completed(&answer, Some(&expected))
        };
        assert!(check(&expected, &[]).is_ok() && check(&expected.to_uppercase(), &[]).is_ok());
        assert!(check(&other, &[]).is_err());
        assert!(check(&other, &[("x-amz-server-side-encryption", "aws:kms")]).is_ok());
        assert!(check(&other, &[("x-amz-server-side-encryption", "AES256")]).is_err());
    }

    #[test]
    fn the_request_says_it() {
        assert_eq!(sum(Checksum::Md5).headers()[0].1, b"JfnnlDI7RTiF9RgfG2JNCw==");
        assert!(sum(Checksum::None).headers().is_empty());
        assert!(matches!(sum(Checksum::Sha256).payload(), PayloadHash::Hash(_)));
        assert_eq!(sum(Checksum::Crc64nvme).payload(), PayloadHash::Unsigned);
        assert_eq!(Checksum::Sha256.create_headers().len(), 1);
        assert_eq!(Checksum::Crc64nvme.create_headers().len(), 2);
    }
}
