//! Cross-origin requests: which web pages may upload, by rules as S3's CORSConfiguration has them
//! (Amazon S3 User Guide, "Elements of a CORS configuration").
//!
//! A browser asks before most cross-origin requests (the preflight, an unsigned OPTIONS), and then
//! shows a page the answer of the request itself only if its headers say so, errors included. The
//! rules permit nothing to anyone but the browser: who may upload is decided by the signature.

use super::error::{ErrorCode, S3Error};
use crate::http::RequestHead;

/// Characters of a requested method that an error quotes.
const MAX_QUOTED: usize = 32;

/// A text with at most one `*`, which stands for any characters, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    /// What follows the `*`; None: there is no `*`.
    after: Option<String>,
}

impl Pattern {
    /// Parses a pattern; None when it has more than one `*`.
    pub fn parse(text: &str) -> Option<Pattern> {
        match text.split_once('*') {
            None => Some(Pattern { before: text.to_owned(), after: None }),
            Some((_, after)) if after.contains('*') => None,
            Some((before, after)) => {
                Some(Pattern { before: before.to_owned(), after: Some(after.to_owned()) })
            }
        }
    }

    /// Whether `text` is what the pattern stands for, in the same case.
    pub fn matches(&self, text: &str) -> bool {
        match &self.after {
            None => text == self.before,
            Some(after) => text
                .strip_prefix(self.before.as_str())
                .is_some_and(|rest| rest.ends_with(after.as_str())),
        }
    }

    /// Whether it is `*` alone.
    pub fn is_any(&self) -> bool {
        self.before.is_empty() && self.after.as_deref() == Some("")
    }
}

/// The methods that rules are about.
pub const METHODS: [&str; 5] = ["PUT", "POST", "DELETE", "GET", "HEAD"];

/// One rule.
#[derive(Debug, Clone)]
pub struct CorsRule {
    /// Whose pages it is for: `https://app.example.com`, `https://*.example.com` or `*`.
    pub origins: Vec<Pattern>,
    /// What they may do; of [`METHODS`].
    pub methods: Vec<&'static str>,
    /// Which headers they may send, in lower case.
    pub headers: Vec<Pattern>,
    /// Which headers of the answer they may read.
    pub expose: Vec<String>,
    /// How long a browser may remember the answer to its preflight, seconds.
    pub max_age: Option<u64>,
}

/// Headers of an answer.
type Headers = Vec<(String, Vec<u8>)>;

/// The headers of the answer to a preflight request.
///
/// Errors: 400 BadRequest without an Origin or a method of [`METHODS`], 403 AccessForbidden when no
/// rule allows what is asked, or there is none.
pub fn preflight(rules: &[CorsRule], head: &RequestHead) -> Result<Headers, S3Error> {
    let Some(origin) = head.header("origin") else {
        let message = "Insufficient information. Origin request header needed.";
        return Err(S3Error::new(ErrorCode::BadRequest, message));
    };
    let method = head.header("access-control-request-method").unwrap_or("null");
    if !METHODS.contains(&method) {
        let method: String = method.chars().take(MAX_QUOTED).collect();
        let message = format!("Invalid Access-Control-Request-Method: {method}");
        return Err(S3Error::new(ErrorCode::BadRequest, message));
    }
    if rules.is_empty() {
        let message = "CORSResponse: CORS is not enabled for this bucket.";
        return Err(S3Error::new(ErrorCode::AccessForbidden, message));
    }
    let asked = asked_headers(head);
    let allowed = rules.iter().find_map(|rule| {
        let all = asked.iter().all(|name| rule.headers.iter().any(|header| header.matches(name)));
        rule.headers_for(origin, method).filter(|_| all)
    });
    let Some(mut headers) = allowed else {
        // S3's own words, with its spelling: clients compare them.
        let message = "CORSResponse: This CORS request is not allowed. This is usually because the \
                       evalution of Origin, request method / Access-Control-Request-Method or \
                       Access-Control-Request-Headers are not whitelisted by the resource's CORS \
                       spec.";
        return Err(S3Error::new(ErrorCode::AccessForbidden, message));
    };
    if !asked.is_empty() {
        let asked = asked.join(", ").into_bytes();
        headers.push(("access-control-allow-headers".to_owned(), asked));
    }
    Ok(headers)
}

/// The headers that let a page read the answer to its request, whatever it is; none when the request
/// is not a page's, or no rule is for it.
pub fn of_answer(rules: &[CorsRule], head: &RequestHead) -> Headers {
    let Some(origin) = head.header("origin") else { return Headers::new() };
    rules.iter().find_map(|rule| rule.headers_for(origin, head.method())).unwrap_or_default()
}

impl CorsRule {
    /// The headers for a request of this origin and method; None when the rule is not for it.
    fn headers_for(&self, origin: &str, method: &str) -> Option<Headers> {
        let pattern = self.origins.iter().find(|pattern| pattern.matches(origin))?;
        if !self.methods.contains(&method) {
            return None;
        }
        let mut headers = Headers::new();
        let mut add = |name: &str, value: &str| {
            headers.push((name.to_owned(), value.as_bytes().to_vec()));
        };
        if pattern.is_any() {
            add("access-control-allow-origin", "*");
        } else {
            add("access-control-allow-origin", origin);
            add("access-control-allow-credentials", "true");
        }
        add("access-control-allow-methods", &self.methods.join(", "));
        if !self.expose.is_empty() {
            add("access-control-expose-headers", &self.expose.join(", "));
        }
        if let Some(seconds) = self.max_age {
            add("access-control-max-age", &seconds.to_string());
        }
        add("vary", "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
        Some(headers)
    }
}

/// The names in Access-Control-Request-Headers, in lower case.
fn asked_headers(head: &RequestHead) -> Vec<String> {
    head.values("access-control-request-headers")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn head(method: &str, lines: &str) -> RequestHead {
        let text = format!("{method} /b/k HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        RequestHead::parse(Bytes::from(text)).unwrap()
    }

    fn rule(origins: &[&str], methods: &[&'static str], headers: &[&str]) -> CorsRule {
        let patterns =
            |texts: &[&str]| texts.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        CorsRule {
            origins: patterns(origins),
            methods: methods.to_vec(),
            headers: patterns(headers),
            expose: vec!["ETag".into(), "x-amz-request-id".into()],
            max_age: Some(600),
        }
    }

    fn value(headers: &Headers, name: &str) -> Option<String> {
        let (_, value) = headers.iter().find(|(have, _)| have == name)?;
        Some(String::from_utf8(value.clone()).unwrap())
    }

    const ASK: &str = "Origin: https://a.example.com\r\nAccess-Control-Request-Method: PUT\r\n";

    /// API Reference, "CORSRule": "In response to any preflight OPTIONS request, Amazon S3 returns any
    /// requested headers that are allowed."
    #[test]
    fn a_preflight_is_answered_by_the_first_rule_that_allows_all_of_it() {
        let rules = [
            rule(&["https://a.example.com"], &["POST"], &["*"]),
            rule(&["https://*.example.com"], &["PUT"], &["content-type"]),
            rule(&["https://b.org", "*"], &["PUT", "POST"], &["x-amz-*", "content-type"]),
        ];
        let headers = preflight(&rules, &head("OPTIONS", ASK)).unwrap();
        let get = |name: &str| value(&headers, name);
        assert_eq!(get("access-control-allow-origin").unwrap(), "https://a.example.com");
        assert_eq!(get("access-control-allow-credentials").unwrap(), "true");
        assert_eq!(get("access-control-allow-methods").unwrap(), "PUT");
        assert_eq!(get("access-control-allow-headers"), None);
        assert_eq!(get("access-control-expose-headers").unwrap(), "ETag, x-amz-request-id");
        assert_eq!(get("access-control-max-age").unwrap(), "600");
        let vary = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method";
        assert_eq!(get("vary").unwrap(), vary);

        let more = format!("{ASK}Access-Control-Request-Headers: Content-Type,X-Amz-Date\r\n");
        let headers = preflight(&rules, &head("OPTIONS", &more)).unwrap();
        let get = |name: &str| value(&headers, name);
        assert_eq!(get("access-control-allow-origin").unwrap(), "*");
        assert_eq!(get("access-control-allow-credentials"), None);
        assert_eq!(get("access-control-allow-methods").unwrap(), "PUT, POST");
        assert_eq!(get("access-control-allow-headers").unwrap(), "content-type, x-amz-date");
    }

    #[test]
    fn a_preflight_that_no_rule_allows_is_refused() {
        let rules = [rule(&["https://a.example.com"], &["PUT"], &["x-amz-*"])];
        let refused = |rules: &[CorsRule], lines: &str| {
            let error = preflight(rules, &head("OPTIONS", lines)).unwrap_err();
            format!("{} {}", error.code, error.message)
        };
        let more = |line: &str| format!("{ASK}{line}\r\n");
        for lines in [
            "Origin: https://b.org\r\nAccess-Control-Request-Method: PUT\r\n".to_owned(),
            "Origin: https://A.example.com\r\nAccess-Control-Request-Method: PUT\r\n".to_owned(),
            "Origin: https://a.example.com\r\nAccess-Control-Request-Method: POST\r\n".to_owned(),
            more("Access-Control-Request-Headers: x-amz-date, content-type"),
        ] {
            let error = refused(&rules, &lines);
            assert!(
                error.starts_with("AccessForbidden CORSResponse: This CORS request"),
                "{error}"
            );
        }
        let error = refused(&[], ASK);
        assert_eq!(error, "AccessForbidden CORSResponse: CORS is not enabled for this bucket.");
        let error = refused(&rules, "Access-Control-Request-Method: PUT\r\n");
        assert!(error.starts_with("BadRequest Insufficient information. Origin"), "{error}");
        let error = refused(&rules, "Origin: https://a.example.com\r\n");
        assert_eq!(error, "BadRequest Invalid Access-Control-Request-Method: null");
    }

    #[test]
    fn an_answer_has_headers_for_a_page_that_a_rule_is_for() {
        let rules = [rule(&["https://a.example.com"], &["PUT"], &[])];
        let headers = of_answer(&rules, &head("PUT", "Origin: https://a.example.com\r\n"));
        assert_eq!(
            value(&headers, "access-control-expose-headers").unwrap(),
            "ETag, x-amz-request-id"
        );
        assert_eq!(of_answer(&rules, &head("PUT", "")), []);
        assert_eq!(of_answer(&rules, &head("PUT", "Origin: https://b.org\r\n")), []);
        assert_eq!(of_answer(&rules, &head("POST", "Origin: https://a.example.com\r\n")), []);
    }

    proptest! {
        /// "The origin string can contain only one * wildcard character."
        #[test]
        fn a_star_stands_for_anything_and_only_it_does(
            before in "[a-c.:/]{0,6}", inside in "[a-c.:/]{0,6}", after in "[a-c.:/]{0,6}",
            other in "[a-c.:/]{0,12}",
        ) {
            let pattern = Pattern::parse(&format!("{before}*{after}")).unwrap();
            let whole = format!("{before}{inside}{after}");
            prop_assert!(pattern.matches(&whole));
            // What matches has both ends, and they do not overlap.
            let expected = other.len() >= before.len() + after.len()
                && other.starts_with(&before) && other.ends_with(&after);
            prop_assert_eq!(pattern.matches(&other), expected);
            let exact = Pattern::parse(&before).unwrap();
            prop_assert_eq!(exact.matches(&other), before == other);
            prop_assert_eq!(pattern.is_any(), before.is_empty() && after.is_empty());
            let two_stars = format!("*{}*", before);
            prop_assert!(Pattern::parse(&two_stars).is_none());
        }

        #[test]
        fn any_preflight_gets_an_answer(lines in "(Origin: [!-~]{1,9}\r\n)?(Access-Control-Request-Headers: [!-~]{1,20}\r\n)?") {
            let rules = [rule(&["*"], &["PUT"], &["*"])];
            let _ = preflight(&rules, &head("OPTIONS", &lines));
            let _ = of_answer(&rules, &head("PUT", &lines));
        }
    }
}
