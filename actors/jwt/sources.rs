//! Where a token may stand in a request.
//!
//! A request has one way of saying who it is from. Two tokens, or a token beside a signature, would
//! leave open which of them counts, here and at whatever stands before this gateway.

use super::refused::Refused;
use crate::http::RequestHead;
use crate::s3::names;

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer …` (RFC 6750, 2.1).
    Bearer,
    /// A header, with a text before the token; its name in lower case.
    Header {
        /// In lower case.
        name: String,
        /// Compared without case; may be empty.
        prefix: String,
    },
    /// A query parameter.
    Query {
        /// In the same case.
        name: String,
    },
    /// A cookie (RFC 6265, 4.2).
    Cookie {
        /// In the same case.
        name: String,
    },
}

impl TokenSource {
    fn query_parameter(&self) -> Option<&str> {
        match self {
            TokenSource::Query { name } => Some(name),
            TokenSource::Bearer | TokenSource::Header { .. } | TokenSource::Cookie { .. } => None,
        }
    }
}

/// All places of a bucket, and the pages whose requests may come with cookies.
#[derive(Debug, Clone, Default)]
pub struct TokenSources {
    places: Vec<TokenSource>,
    cookie_origins: Vec<String>,
}

/// Query parameters that are SigV4's or SigV2's credentials, in lower case.
const SIGNATURES: [&str; 5] =
    ["x-amz-algorithm", "x-amz-credential", "x-amz-signature", "awsaccesskeyid", "signature"];

/// The scheme of [`TokenSource::Bearer`].
const BEARER: &str = "Bearer ";

impl TokenSources {
    /// `cookie_origins`: values of Origin, `scheme://host[:port]`, from which a cookie counts.
    pub fn new(places: Vec<TokenSource>, cookie_origins: Vec<String>) -> Self {
        TokenSources { places, cookie_origins }
    }

    pub(super) fn query_parameters(&self) -> Vec<&str> {
        self.places.iter().filter_map(TokenSource::query_parameter).collect()
    }

    /// See [`super::Authenticator::find_token`].
    pub(super) fn find(&self, head: &RequestHead) -> Result<Option<String>, Refused> {
        let mut found: Vec<(&TokenSource, String)> = Vec::new();
        for place in &self.places {
            for token in tokens_at(place, head)? {
                found.push((place, token));
            }
        }
        let mut found = found.into_iter();
        let Some((place, token)) = found.next() else {
            return Ok(None);
        };
        if found.next().is_some() {
            return Err(Refused::twice("the request has more than one token"));
        }
        let in_authorization = match place {
            TokenSource::Bearer => true,
            TokenSource::Header { name, .. } => name == "authorization",
            TokenSource::Query { .. } | TokenSource::Cookie { .. } => false,
        };
        if head.values("authorization").count() > usize::from(in_authorization)
            || is_presigned(head)
        {
            return Err(Refused::twice("the request has a token and other credentials"));
        }
        if matches!(place, TokenSource::Cookie { .. }) {
            self.check_origin(head)?;
        }
        Ok(Some(token))
    }

    /// A browser sends cookies along with what any page asks of it; which page, only Origin says
    /// (Fetch, "`Origin` header": on every PUT, POST and DELETE).
    fn check_origin(&self, head: &RequestHead) -> Result<(), Refused> {
        let mut origins = head.values("origin");
        let allowed = |origin: &[u8]| self.cookie_origins.iter().any(|o| o.as_bytes() == origin);
        match (origins.next(), origins.next()) {
            (Some(origin), None) if allowed(origin) => Ok(()),
            (None, _) => Err(Refused::denied("a token in a cookie, and no Origin")),
            _ => Err(Refused::denied("a token in a cookie, and not of an allowed Origin")),
        }
    }
}

fn tokens_at(place: &TokenSource, head: &RequestHead) -> Result<Vec<String>, Refused> {
    let in_header = |name: &str, prefix: &str| {
        let values = head.values(name).filter_map(|value| {
            let (start, token) = value.split_at_checked(prefix.len())?;
            start.eq_ignore_ascii_case(prefix.as_bytes()).then_some(token.trim_ascii())
        });
        values.map(text).collect()
    };
    match place {
        TokenSource::Bearer => in_header("authorization", BEARER),
        TokenSource::Header { name, prefix } => in_header(name, prefix),
        TokenSource::Query { name } => pairs(head)
            .filter(|(have, _)| decoded(have).as_deref() == Some(name))
            .map(|(_, value)| {
                decoded(value).ok_or_else(|| Refused::invalid("the token does not decode"))
            })
            .collect(),
        TokenSource::Cookie { name } => head
            .values("cookie")
            .flat_map(|value| value.split(|&byte| byte == b';'))
            .filter_map(|pair| {
                let at = pair.iter().position(|&byte| byte == b'=')?;
                let (have, value) = (pair.get(..at)?, pair.get(at + 1..)?);
                (have.trim_ascii() == name.as_bytes()).then_some(value.trim_ascii())
            })
            .map(text)
            .collect(),
    }
}

fn text(token: &[u8]) -> Result<String, Refused> {
    let text = std::str::from_utf8(token).map_err(|_| Refused::invalid("the token is no text"))?;
    Ok(text.to_owned())
}

fn pairs(head: &RequestHead) -> impl Iterator<Item = (&str, &str)> {
    head.query().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn decoded(text: &str) -> Option<String> {
    names::decode(text).ok()
}

fn is_presigned(head: &RequestHead) -> bool {
    pairs(head)
        .filter_map(|(name, _)| decoded(name))
        .any(|name| SIGNATURES.contains(&name.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn sources(places: Vec<TokenSource>) -> TokenSources {
        TokenSources::new(places, vec!["https://app.example.com".into()])
    }

    fn all() -> TokenSources {
        sources(vec![
            TokenSource::Bearer,
            TokenSource::Header { name: "x-token".into(), prefix: "JWT ".into() },
            TokenSource::Query { name: "token".into() },
            TokenSource::Cookie { name: "session".into() },
        ])
    }

    /// What is found, or the code of the refusal.
    fn found(sources: &TokenSources, query: &str, lines: &str) -> Result<Option<String>, String> {
        let text = format!("PUT /b/k{query} HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        let head = RequestHead::parse(Bytes::from(text)).unwrap();
        sources.find(&head).map_err(|refused| refused.error.code.into_owned())
    }

    fn is(token: &str) -> Result<Option<String>, String> {
        Ok(Some(token.to_owned()))
    }

    #[test]
    fn a_token_is_found_in_each_place_that_is_named() {
        let origin = "Origin: https://app.example.com\r\n";
        for (query, lines, expected) in [
            ("", "Authorization: Bearer a.b.c\r\n", is("a.b.c")),
            ("", "authorization: bearer   a.b.c\r\n", is("a.b.c")),
            ("", "X-Token: jwt a\r\n", is("a")),
            ("?x-id=PutObject&token=a%2Eb", "", is("a.b")),
            ("?%74oken=a", "", is("a")),
            ("", "", Ok(None)),
            ("?Token=a", "X-Token: a\r\nCookie: Session=a\r\n", Ok(None)),
            ("", "Authorization: Bearer\r\n", Ok(None)),
            ("", "Authorization: Basic a\r\n", Ok(None)),
            ("?token=%ff", "", Err("InvalidToken".into())),
        ] {
            assert_eq!(found(&all(), query, lines), expected, "{query} {lines}");
        }
        let cookie = format!("Cookie: a=1; session=t=; b=2\r\n{origin}");
        assert_eq!(found(&all(), "", &cookie), is("t="));
        // What is not named is no place.
        let bearer = sources(vec![TokenSource::Bearer]);
        let lines = format!("X-Token: JWT a\r\nCookie: session=a\r\n{origin}");
        assert_eq!(found(&bearer, "?token=a", &lines), Ok(None));
        let plain = TokenSource::Header { name: "x-plain".into(), prefix: String::new() };
        assert_eq!(found(&sources(vec![plain]), "", "x-plain: a\r\n"), is("a"));
    }

    /// security.md, "SigV4": "header AND query credentials, or a duplicated `Authorization`: 400
    /// InvalidArgument"; a token is a credential like any other.
    #[test]
    fn only_one_way_in_at_a_time() {
        let bearer = "Authorization: Bearer a\r\n";
        for (query, lines) in [
            ("?token=a", bearer.to_owned()),
            ("?token=a&token=a", String::new()),
            ("", format!("{bearer}{bearer}")),
            ("", format!("{bearer}X-Token: JWT a\r\n")),
            ("", "X-Token: JWT a\r\nX-Token: JWT a\r\n".to_owned()),
            ("", "Cookie: session=a; session=a\r\n".to_owned()),
            ("", "Cookie: session=a\r\nCookie: session=a\r\n".to_owned()),
            ("", format!("{bearer}Authorization: AWS4-HMAC-SHA256 Credential=x\r\n")),
            ("?token=a", "Authorization: AWS4-HMAC-SHA256 Credential=x\r\n".to_owned()),
            ("?token=a", "Authorization: Basic x\r\n".to_owned()),
            ("", "Cookie: session=a\r\nAuthorization: AWS k:s\r\n".to_owned()),
            ("?X-Amz-Signature=s", bearer.to_owned()),
            ("?x-amz-%73ignature=s", bearer.to_owned()),
            ("?X-Amz-Algorithm=s", bearer.to_owned()),
            ("?X-Amz-Credential=s", bearer.to_owned()),
            ("?AWSAccessKeyId=s", bearer.to_owned()),
            ("?Signature=s", bearer.to_owned()),
        ] {
            let refused = found(&all(), query, &lines).unwrap_err();
            assert_eq!(refused, "InvalidArgument", "{query} {lines}");
        }
    }

    /// A page of another site can make a browser send its cookies, but not a chosen Origin.
    #[test]
    fn a_cookie_counts_only_from_an_allowed_origin() {
        for (lines, allowed) in [
            ("Origin: https://app.example.com\r\n", true),
            ("", false),
            ("Origin: null\r\n", false),
            ("Origin: https://app.example.com.evil.com\r\n", false),
            ("Origin: http://app.example.com\r\n", false),
            ("Origin: https://evil.com\r\n", false),
            ("Origin: https://app.example.com\r\nOrigin: https://app.example.com\r\n", false),
            ("Referer: https://app.example.com/\r\n", false),
        ] {
            let cookie = format!("Cookie: session=a\r\n{lines}");
            let expected = if allowed { is("a") } else { Err("AccessDenied".to_owned()) };
            assert_eq!(found(&all(), "", &cookie), expected, "{lines}");
        }
    }
}
