//! Who may read which page of the admin listener.

use super::spool::SpoolPage;
use crate::settings::{AdminSettings, Open};
use hyper::header::{AUTHORIZATION, HeaderMap};
use mizuchi_actors::secret::Secret;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// The process lives.
    Alive,
    /// It takes uploads.
    Ready,
    Metrics,
    /// For people.
    Status,
    StatusJson,
    /// What was acknowledged and is not delivered yet.
    Spool(SpoolPage),
}

impl Page {
    /// The page of this path; None: there is none.
    pub(super) fn at(path: &str) -> Option<Page> {
        Some(match path {
            "/healthz" => Page::Alive,
            "/readyz" => Page::Ready,
            "/metrics" => Page::Metrics,
            "/" => Page::Status,
            "/status.json" => Page::StatusJson,
            _ => Page::Spool(SpoolPage::at(path.strip_prefix("/spool")?)?),
        })
    }

    /// Whether it changes something.
    pub(super) fn is_action(self) -> bool {
        matches!(self, Page::Spool(page) if page.is_action())
    }
}

/// What readers have to show.
pub struct Access {
    token: Option<Secret>,
    protected: bool,
    open: Vec<Open>,
}

impl Access {
    /// As the settings say.
    pub fn new(settings: &AdminSettings) -> Access {
        Access {
            token: settings.token.clone(),
            protected: settings.is_protected(),
            open: settings.open.clone(),
        }
    }

    /// Whether the page may be read. `certified`: the client has a certificate that was verified.
    pub(super) fn allows(&self, page: Page, headers: &HeaderMap, certified: bool) -> bool {
        let open = match page {
            Page::Alive | Page::Ready => self.open.contains(&Open::Health),
            Page::Metrics => self.open.contains(&Open::Metrics),
            Page::Status | Page::StatusJson | Page::Spool(_) => false,
        };
        !self.protected || open || certified || self.shows_token(headers)
    }

    /// Whether readers need a token or a certificate at all.
    pub(super) fn is_protected(&self) -> bool {
        self.protected
    }

    /// RFC 6750, 2.1; the scheme's case does not matter (RFC 9110, 11.1).
    fn shows_token(&self, headers: &HeaderMap) -> bool {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let (Some(token), Some(value), None) = (&self.token, shown.next(), shown.next()) else {
            return false;
        };
        match value.as_bytes().split_at_checked(b"Bearer ".len()) {
            Some((scheme, given)) => {
                scheme.eq_ignore_ascii_case(b"Bearer ") && token.matches(given)
            }
            None => false,
        }
    }

    /// What a reader who may not is told.
    pub(super) fn missing(&self) -> &'static str {
        match self.token {
            Some(_) => "a token is needed (Authorization: Bearer), or a client certificate\n",
            None => "a client certificate is needed\n",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_the_token_opens_what_is_not_open() {
        let token = Some(Secret::new("0123456789abcdef".to_owned()));
        let access = Access { token, protected: true, open: vec![Open::Health] };
        let none = HeaderMap::new();
        for (page, open) in [
            (Page::Alive, true),
            (Page::Ready, true),
            (Page::Metrics, false),
            (Page::Status, false),
            (Page::StatusJson, false),
            (Page::Spool(SpoolPage::Summary), false),
            (Page::Spool(SpoolPage::Body(1)), false),
            (Page::Spool(SpoolPage::RetryAll), false),
        ] {
            assert_eq!(access.allows(page, &none, false), open, "{page:?}");
            assert!(access.allows(page, &none, true), "{page:?}");
            let right = headers(&["bearer 0123456789abcdef"]);
            assert!(access.allows(page, &right, false), "{page:?}");
        }
        for wrong in [
            &["Bearer 0123456789abcdeF"][..],
            &["Bearer 0123456789abcde"],
            &["Bearer 0123456789abcdef0"],
            &["Bearer  0123456789abcdef"],
            &["Basic 0123456789abcdef"],
            &["0123456789abcdef"],
            &["Bearer"],
            &[""],
            &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"],
        ] {
            assert!(!access.allows(Page::Metrics, &headers(wrong), false), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_credential_everything_is_open() {
        let access = Access { token: None, protected: false, open: Vec::new() };
        assert!(access.allows(Page::Status, &HeaderMap::new(), false));
        let certificates = Access { token: None, protected: true, open: Vec::new() };
        assert!(!certificates.allows(Page::Alive, &headers(&["Bearer "]), false));
        assert!(certificates.allows(Page::Alive, &HeaderMap::new(), true));
    }
}
