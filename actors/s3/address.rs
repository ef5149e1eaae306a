//! Which bucket and key a request is for: by its Host (virtual-host style) or by its path.

use super::error::{ErrorCode, S3Error};
use super::names;
use crate::http::RequestHead;

/// A configured bucket's place in the name space.
#[derive(Debug, Clone)]
pub struct BucketAddress {
    /// Its name.
    pub name: String,
    /// Its path prefix, decoded, with a leading and without a trailing slash ("/" alone: all).
    pub path_prefix: String,
}

/// What a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The bucket's place among the configured ones.
    pub bucket: usize,
    /// The rest of the path, raw; empty: the bucket itself.
    pub key: String,
}

/// Resolves requests.
#[derive(Debug)]
pub struct Router {
    /// Longest prefix first.
    by_prefix: Vec<(usize, BucketAddress)>,
    /// Longest first: "b.s3.example.com" is under "s3.example.com" before "example.com".
    domains: Vec<String>,
}

impl Router {
    /// A router over the buckets. `domains`: those whose sub-domains are bucket names.
    pub fn new(buckets: Vec<BucketAddress>, domains: Vec<String>) -> Self {
        let mut by_prefix: Vec<_> = buckets.into_iter().enumerate().collect();
        by_prefix.sort_by_key(|(_, bucket)| std::cmp::Reverse(bucket.path_prefix.len()));
        let mut domains: Vec<String> =
            domains.into_iter().map(|domain| domain.to_ascii_lowercase()).collect();
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.len()));
        Router { by_prefix, domains }
    }

    /// Finds the bucket and the raw key.
    ///
    /// Errors: 404 NoSuchBucket, 405 MethodNotAllowed (the list of buckets), 400 InvalidURI.
    pub fn resolve(&self, head: &RequestHead) -> Result<Address, S3Error> {
        let path = head.path();
        if !path.starts_with('/') {
            return Err(S3Error::new(ErrorCode::InvalidURI, "Couldn't parse the specified URI."));
        }
        if let Some(name) = self.virtual_host(head.header("host").unwrap_or_default()) {
            let found = self.by_prefix.iter().find(|(_, bucket)| bucket.name == name);
            let (bucket, _) = found.ok_or_else(no_such_bucket)?;
            return Ok(Address { bucket: *bucket, key: path[1..].to_owned() });
        }
        for (bucket, address) in &self.by_prefix {
            if let Some(key) = strip(path, &address.path_prefix)? {
                return Ok(Address { bucket: *bucket, key });
            }
        }
        if path == "/" {
            let message = "The list of buckets is not served here: this is an upload gateway.";
            return Err(S3Error::new(ErrorCode::MethodNotAllowed, message));
        }
        Err(no_such_bucket())
    }

    /// The bucket that the Host names, if it is under one of the domains.
    fn virtual_host(&self, host: &str) -> Option<String> {
        if self.domains.is_empty() {
            return None;
        }
        let name = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        });
        let name = name.to_ascii_lowercase();
        self.domains
            .iter()
            .filter_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'))
            .map(str::to_owned)
            .next()
    }
}

/// Takes a decoded prefix off a raw path, at a boundary only. The rest stays raw: it is decoded
/// once, as the key.
fn strip(path: &str, prefix: &str) -> Result<Option<String>, S3Error> {
    if prefix == "/" {
        return Ok(Some(path[1..].to_owned()));
    }
    // The prefix has as many segments as it has slashes; an encoded slash is none.
    let segments = prefix.matches('/').count();
    let mut end = path.len();
    let boundary = path.match_indices('/').nth(segments);
    if let Some((at, _)) = boundary {
        end = at;
    }
    let (front, rest) = path.split_at(end);
    // With fewer slashes of its own, `front` could equal the prefix only by an encoded one.
    if front.matches('/').count() != segments || names::decode(front)? != prefix {
        return Ok(None);
    }
    Ok(Some(rest.strip_prefix('/').unwrap_or_default().to_owned()))
}

fn no_such_bucket() -> S3Error {
    S3Error::new(ErrorCode::NoSuchBucket, "The specified bucket does not exist")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn router() -> Router {
        let bucket = |name: &str, prefix: &str| BucketAddress {
            name: name.into(),
            path_prefix: prefix.into(),
        };
        let buckets = vec![bucket("a", "/a"), bucket("deep", "/a/b"), bucket("ab", "/ab")];
        Router::new(buckets, vec!["s3.example.com".into()])
    }

    fn resolve(host: &str, target: &str) -> Result<(usize, String), S3Error> {
        let text = format!("PUT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let head = RequestHead::parse(Bytes::from(text)).unwrap();
        router().resolve(&head).map(|address| (address.bucket, address.key))
    }

    #[test]
    fn the_longest_prefix_wins_at_a_boundary() {
        assert_eq!(resolve("h", "/a/k").unwrap(), (0, "k".into()));
        assert_eq!(resolve("h", "/a/b/k").unwrap(), (1, "k".into()));
        assert_eq!(resolve("h", "/ab/k?x=y").unwrap(), (2, "k".into()));
        assert_eq!(resolve("h", "/a").unwrap(), (0, String::new()));
        assert_eq!(resolve("h", "/a//k").unwrap(), (0, "/k".into()));
        assert_eq!(resolve("h", "/a%2Fb/k").unwrap_err().code, "NoSuchBucket");
        assert_eq!(resolve("h", "/a%2Fb").unwrap_err().code, "NoSuchBucket");
        assert_eq!(resolve("h", "/%61/k%20").unwrap(), (0, "k%20".into()));
        assert_eq!(resolve("h", "/abc/k").unwrap_err().code, "NoSuchBucket");
        assert_eq!(resolve("h", "/").unwrap_err().code, "MethodNotAllowed");
        assert_eq!(resolve("h", "http://h/a/k").unwrap_err().code, "InvalidURI");
    }

    #[test]
    fn a_sub_domain_names_the_bucket() {
        assert_eq!(resolve("deep.S3.example.com:8080", "/a/b").unwrap(), (1, "a/b".into()));
        assert_eq!(resolve("deep.s3.example.com", "/").unwrap(), (1, String::new()));
        assert_eq!(resolve("nobody.s3.example.com", "/k").unwrap_err().code, "NoSuchBucket");
        assert_eq!(resolve("s3.example.com", "/a/k").unwrap(), (0, "k".into()));
    }

    #[test]
    fn the_longest_domain_wins_whatever_the_order() {
        let bucket = BucketAddress { name: "a".into(), path_prefix: "/a".into() };
        let domains = vec!["example.com".into(), "s3.example.com".into()];
        let router = Router::new(vec![bucket], domains);
        for host in ["a.s3.example.com", "a.example.com"] {
            let text = format!("PUT /k HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let head = RequestHead::parse(Bytes::from(text)).unwrap();
            assert_eq!(router.resolve(&head).unwrap().key, "k", "{host}");
        }
    }
}
