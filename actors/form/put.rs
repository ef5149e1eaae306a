//! From a form's fields to the PUT that it stands for.

use super::fields::{Fields, shown};
use crate::http::RequestHead;
use crate::s3::error::{ErrorCode, S3Error};
use crate::s3::headers;
use crate::s3::names::ObjectKey;
use crate::s3::operation::Operation;
use crate::sigv4::{PolicySignature, uri_encode};

/// Headers of the POST itself that a policy may ask for; all others stay behind.
const CARRIED: [&str; 4] = ["host", "user-agent", "referer", "origin"];

/// The fields that are credentials, whether or not the table of headers knows their names.
const CREDENTIALS: [&str; 5] = [
    "x-amz-algorithm",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-signature",
    "x-amz-security-token",
];

/// What becomes of the client when its form was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Success {
    /// 303 See Other: the browser goes there, with what it needs to know in the query.
    Redirect(String),
    /// This status: 200, 201 or 204.
    Status(u16),
}

/// The PUT that a form stands for.
#[derive(Debug, Clone)]
pub struct PutForm {
    /// Its head: the one that headers are planned from, permissions and policies decide over.
    pub head: RequestHead,
    /// A PutObject of the form's key.
    pub operation: Operation,
    /// What its client is told.
    pub success: Success,
    /// Who sent it, as far as it says.
    pub signature: PolicySignature,
}

impl PutForm {
    /// Makes it of the fields, in which the file's name stands already. `post`: the form's own head;
    /// `max_head`: most bytes of a head.
    ///
    /// Errors: 400 InvalidArgument, InvalidRequest (SigV2), InvalidURI, KeyTooLongError,
    /// RequestHeaderSectionTooLarge; 501 NotImplemented.
    pub fn new(
        fields: &Fields,
        post: &RequestHead,
        bucket: &str,
        max_head: usize,
    ) -> Result<PutForm, S3Error> {
        let key = fields.get("key").filter(|key| !key.is_empty()).ok_or_else(|| {
            invalid(
                "Bucket POST must contain a field named 'key'. If it is specified, please check the \
                 order of the fields.",
            )
        })?;
        let target = uri_encode(key.as_bytes(), true);
        let key = ObjectKey::decode(&target)?;
        let mut head = format!("PUT /{bucket}/{target} HTTP/1.1\r\n").into_bytes();
        for name in CARRIED {
            for value in post.values(name) {
                write(&mut head, name, value);
            }
        }
        for (name, value) in fields.iter() {
            if let Some((name, value)) = header(name, value)? {
                write(&mut head, name, value.as_bytes());
            }
        }
        head.extend_from_slice(b"\r\n");
        if head.len() > max_head {
            let message =
                "Your form's fields exceed the maximum allowed size of a request's headers.";
            return Err(S3Error::new(ErrorCode::RequestHeaderSectionTooLarge, message));
        }
        let head = RequestHead::parse(head.into())
            .map_err(|_| invalid("The form's fields do not make the headers of a request."))?;
        let operation = Operation::PutObject { key };
        let success = success(fields);
        Ok(PutForm { head, operation, success, signature: signature(fields)? })
    }
}

fn write(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// The header that a field is; None: it is none.
fn header<'a>(name: &'a str, value: &'a str) -> Result<Option<(&'a str, &'a str)>, S3Error> {
    let name = match name {
        "acl" => "x-amz-acl",
        // A document where a PUT has a header: x-amz-tagging may be sent, as a field, instead.
        "tagging" => return Err(not_implemented(name)),
        _ if CREDENTIALS.contains(&name) => return Ok(None),
        _ if headers::passes_on(name) => name,
        // Those of the gateway's own business: framing and payload have no other form here.
        _ if name.starts_with("x-amz-") => return Err(not_implemented(name)),
        _ => return Ok(None),
    };
    // A form has all its fields, also those that nobody has filled in.
    if value.is_empty() && !name.starts_with("x-amz-meta-") {
        return Ok(None);
    }
    // RFC 9110, 5.6.2: a token.
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.bytes().all(token) {
        return Err(invalid("The name of a form field is not that of a header."));
    }
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        let message = format!("The form field '{}' holds what no header can hold.", shown(name));
        return Err(S3Error::new(ErrorCode::InvalidArgument, message));
    }
    Ok(Some((name, value)))
}

/// "If success_action_redirect is not specified, or its value is not a valid URL, Amazon S3 returns
/// the status that success_action_status specifies; if that is not 200, 201 or 204: 204."
fn success(fields: &Fields) -> Success {
    let redirect = fields.get("success_action_redirect").or_else(|| fields.get("redirect"));
    if let Some(url) = redirect.filter(|url| is_url(url)) {
        return Success::Redirect(url.to_owned());
    }
    match fields.get("success_action_status") {
        Some("200") => Success::Status(200),
        Some("201") => Success::Status(201),
        _ => Success::Status(204),
    }
}

/// An absolute http or https URL, as far as it matters in a Location header.
fn is_url(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let rest = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', '?', '#', '\\']))
        && text.bytes().all(|byte| matches!(byte, b'!'..=b'~'))
        && !text.contains(['"', '<', '>', '\\'])
}

impl Success {
    /// Where the browser goes: the query says what came of its upload; a fragment stays the last.
    pub fn location(url: &str, bucket: &str, key: &str, etag: &str) -> String {
        let (url, fragment) = match url.split_once('#') {
            Some((url, fragment)) => (url, format!("#{fragment}")),
            None => (url, String::new()),
        };
        let mark = if url.contains('?') { '&' } else { '?' };
        let encode = |text: &str| uri_encode(text.as_bytes(), false);
        let (bucket, key, etag) = (encode(bucket), encode(key), encode(etag));
        format!("{url}{mark}bucket={bucket}&key={key}&etag={etag}{fragment}")
    }
}

fn signature(fields: &Fields) -> Result<PolicySignature, S3Error> {
    if fields.get("awsaccesskeyid").is_some() || fields.get("signature").is_some() {
        let message = "The authorization mechanism you have provided is not supported. Please use \
                       AWS4-HMAC-SHA256.";
        return Err(S3Error::new(ErrorCode::InvalidRequest, message));
    }
    let of = |name: &str| fields.get(name).map(str::to_owned);
    Ok(PolicySignature {
        policy: of("policy"),
        algorithm: of("x-amz-algorithm"),
        credential: of("x-amz-credential"),
        date: of("x-amz-date"),
        signature: of("x-amz-signature"),
        security_token: of("x-amz-security-token"),
    })
}

fn invalid(message: &'static str) -> S3Error {
    S3Error::new(ErrorCode::InvalidArgument, message)
}

fn not_implemented(name: &str) -> S3Error {
    let message =
        format!("The form field '{}' is not implemented by this upload gateway.", shown(name));
    S3Error::new(ErrorCode::NotImplemented, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::s3::headers::{Permissions, plan};
    use bytes::Bytes;

    fn of(list: &[(&str, &str)]) -> Result<PutForm, S3Error> {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.add(name, (*value).to_owned()).unwrap();
        }
        let post = "POST /b HTTP/1.1\r\nHost: h\r\nx-amz-acl: private\r\nCookie: c\r\n\r\n";
        let post = RequestHead::parse(Bytes::from(post)).unwrap();
        PutForm::new(&fields, &post, "b", 4096)
    }

    fn code(list: &[(&str, &str)]) -> String {
        of(list).unwrap_err().code.into_owned()
    }

    #[test]
    fn fields_become_the_headers_of_a_put() {
        let form = of(&[
            ("key", "a b/é?"),
            ("Content-Type", "text/plain"),
            ("X-Amz-Meta-Empty", ""),
            ("x-amz-storage-class", ""),
            ("submit", "Upload"),
            ("host", "evil"),
            ("transfer-encoding", "chunked"),
            ("x-amz-credential", "c"),
        ])
        .unwrap();
        assert_eq!(form.operation.key().unwrap().as_str(), "a b/é?");
        assert_eq!((form.head.method(), form.head.query()), ("PUT", ""));
        let have: Vec<_> = form.head.headers().map(|(name, _)| name).collect();
        assert_eq!(have, ["host", "content-type", "x-amz-meta-empty"]);
        assert_eq!(form.head.header("host"), Some("h"));
        // The permissions are those of the header.
        let acl = of(&[("key", "k"), ("acl", "public-read")]).unwrap();
        let denied = plan(&acl.head, &acl.operation, &Permissions::default()).unwrap_err();
        assert_eq!(denied.code, "AccessDenied");
        let both = of(&[("key", "k"), ("acl", "private"), ("x-amz-acl", "private")]).unwrap();
        let all = Permissions { acl: true, ..Permissions::default() };
        assert_eq!(plan(&both.head, &both.operation, &all).unwrap_err().code, "InvalidArgument");
    }

    #[test]
    fn what_makes_no_put_is_refused() {
        let long = "k".repeat(1025);
        for (list, expected) in [
            (&[("acl", "private")][..], "InvalidArgument"),
            (&[("key", "")], "InvalidArgument"),
            (&[("key", "a\0b")], "InvalidURI"),
            (&[("key", &long)], "KeyTooLongError"),
            (&[("key", "k"), ("x-amz-meta-a", "b\r\nx-amz-acl: public-read")], "InvalidArgument"),
            (&[("key", "k"), ("x-amz-meta-a", "é")], "InvalidArgument"),
            (&[("key", "k"), ("x-amz-meta-a: b\r\nx", "v")], "InvalidArgument"),
            (&[("key", "k"), ("tagging", "<Tagging/>")], "NotImplemented"),
            (&[("key", "k"), ("x-amz-trailer", "x-amz-checksum-crc32")], "NotImplemented"),
            (&[("key", "k"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")], "NotImplemented"),
            (&[("key", "k"), ("AWSAccessKeyId", "a")], "InvalidRequest"),
            (&[("key", "k"), ("x-amz-meta-a", &"v".repeat(5000))], "RequestHeaderSectionTooLarge"),
        ] {
            assert_eq!(code(list), expected, "{list:?}");
        }
        let copy = of(&[("key", "k"), ("x-amz-copy-source", "/b/o")]).unwrap();
        let refused = plan(&copy.head, &copy.operation, &Permissions::default()).unwrap_err();
        assert_eq!(refused.code, "NotImplemented");
    }

    #[test]
    fn success_is_told_as_the_form_asks() {
        let told = |list: &[(&str, &str)]| {
            let mut all = vec![("key", "k")];
            all.extend_from_slice(list);
            of(&all).unwrap().success
        };
        let to = |url: &str| Success::Redirect(url.to_owned());
        assert_eq!(told(&[]), Success::Status(204));
        assert_eq!(told(&[("success_action_status", "404")]), Success::Status(204));
        assert_eq!(told(&[("success_action_status", "201")]), Success::Status(201));
        assert_eq!(told(&[("redirect", "HTTPS://h/x")]), to("HTTPS://h/x"));
        let both = [("redirect", "http://a/"), ("success_action_redirect", "http://b/")];
        assert_eq!(told(&both), to("http://b/"));
        for bad in [
            "javascript:alert(1)",
            "//h/",
            "/x",
            "http://",
            "http:///x",
            "http://h/\r\nA: b",
            "ftp://h/",
        ] {
            let asked = [("success_action_redirect", bad), ("success_action_status", "200")];
            assert_eq!(told(&asked), Success::Status(200), "{bad:?}");
        }
        assert_eq!(
            Success::location("http://h/p#f", "b", "a b&/c", "\"e\""),
            "http://h/p?bucket=b&key=a%20b%26%2Fc&etag=%22e%22#f"
        );
        assert_eq!(
            Success::location("http://h/?a=1", "b", "k", "e"),
            "http://h/?a=1&bucket=b&key=k&etag=e"
        );
    }
}
