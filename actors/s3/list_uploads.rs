//! ListMultipartUploads over a caller's own uploads: which of them are on one page.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>

use std::collections::BTreeSet;

/// Uploads of the largest page, and of one that says nothing (S3's own).
pub const MAX_UPLOADS: usize = 1000;

/// What the query asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Only keys that begin with it.
    pub prefix: String,
    /// Keys are rolled up behind it.
    pub delimiter: String,
    /// Only keys after this one; with `upload_id_marker`, that key's uploads after that one too.
    pub key_marker: String,
    /// Sealed. Ignored without `key_marker`.
    pub upload_id_marker: String,
    /// Entries of one page, at most [`MAX_UPLOADS`].
    pub max_uploads: Option<u32>,
    /// `encoding-type=url`: keys are percent-encoded in the answer.
    pub encode: bool,
}

/// One upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUpload {
    /// The client's key.
    pub key: String,
    /// The backend's id.
    pub upload_id: String,
    /// When it was begun, milliseconds since 1970.
    pub initiated: u64,
}

/// One page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// By key, then by age.
    pub uploads: Vec<ListedUpload>,
    /// Ascending.
    pub common_prefixes: Vec<String>,
    /// More follows the page's last entry.
    pub truncated: bool,
    /// The last key or common prefix of a truncated page.
    pub next_key: String,
    /// The backend's id of its last upload; None when it ends with a common prefix.
    pub next_upload: Option<String>,
}

/// The page that the query asks for. `marker`: the backend's id that `upload_id_marker` stands for.
pub fn page(mut uploads: Vec<ListedUpload>, query: &ListQuery, marker: Option<&str>) -> Page {
    // Stable: uploads of one key come in the order in which they were begun.
    uploads.sort_by(|one, other| one.key.cmp(&other.key));
    let passed = |upload: &ListedUpload| marker == Some(upload.upload_id.as_str());
    let at_marker =
        uploads.iter().position(|upload| upload.key == query.key_marker && passed(upload));
    let most = query.max_uploads.map_or(MAX_UPLOADS, |most| most as usize).min(MAX_UPLOADS);
    let mut page = Page::default();
    let mut prefixes = BTreeSet::new();
    for (index, upload) in uploads.into_iter().enumerate() {
        let Some(rest) = upload.key.strip_prefix(&query.prefix) else { continue };
        let after = match upload.key.as_str().cmp(&query.key_marker) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => at_marker.is_some_and(|at| index > at),
            std::cmp::Ordering::Less => false,
        };
        let rolled = (!query.delimiter.is_empty())
            .then(|| rest.find(&query.delimiter))
            .flatten()
            .and_then(|at| upload.key.get(..query.prefix.len() + at + query.delimiter.len()))
            .map(str::to_owned);
        let seen = rolled
            .as_ref()
            .is_some_and(|prefix| prefixes.contains(prefix) || *prefix <= query.key_marker);
        if !after || seen {
            continue;
        }
        if page.uploads.len() + prefixes.len() == most {
            page.truncated = true;
            break;
        }
        match rolled {
            Some(prefix) => {
                (page.next_key, page.next_upload) = (prefix.clone(), None);
                prefixes.insert(prefix);
            }
            None => {
                page.next_key.clone_from(&upload.key);
                page.next_upload = Some(upload.upload_id.clone());
                page.uploads.push(upload);
            }
        }
    }
    page.common_prefixes = prefixes.into_iter().collect();
    page
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn upload(key: &str, id: usize) -> ListedUpload {
        ListedUpload { key: key.into(), upload_id: format!("u{id}"), initiated: id as u64 }
    }

    fn ids(page: &Page) -> Vec<&str> {
        page.uploads.iter().map(|upload| upload.upload_id.as_str()).collect()
    }

    #[test]
    fn uploads_come_by_key_then_by_age_and_by_prefix() {
        let all = vec![upload("b", 1), upload("a/x", 2), upload("a/x", 3), upload("a/y/z", 4)];
        let list = |query: ListQuery| page(all.clone(), &query, None);
        assert_eq!(ids(&list(ListQuery::default())), ["u2", "u3", "u4", "u1"]);
        let in_a = ListQuery { prefix: "a/".into(), ..ListQuery::default() };
        assert_eq!(ids(&list(in_a.clone())), ["u2", "u3", "u4"]);
        let rolled = list(ListQuery { delimiter: "/".into(), ..in_a });
        assert_eq!(
            (ids(&rolled), &*rolled.common_prefixes),
            (vec!["u2", "u3"], &["a/y/".to_owned()][..])
        );
        let rolled = list(ListQuery { delimiter: "/".into(), ..ListQuery::default() });
        assert_eq!((ids(&rolled), &*rolled.common_prefixes), (vec!["u1"], &["a/".to_owned()][..]));
    }

    proptest! {
        /// Page after page gives everything once, whatever the page's size.
        #[test]
        fn pages_give_everything_once(
            keys in prop::collection::vec("[ab/]{1,4}", 0..12),
            most in 1u32..4,
            delimiter in prop::sample::select(vec!["", "/"]),
        ) {
            let all: Vec<_> = keys.iter().enumerate().map(|(at, key)| upload(key, at)).collect();
            let mut query = ListQuery {
                max_uploads: Some(most), delimiter: delimiter.into(), ..ListQuery::default()
            };
            let whole = page(all.clone(), &ListQuery { max_uploads: None, ..query.clone() }, None);
            let (mut found, mut prefixes, mut marker) = (Vec::new(), Vec::new(), None);
            for _ in 0..40 {
                let next = page(all.clone(), &query, marker.as_deref());
                found.extend(next.uploads);
                prefixes.extend(next.common_prefixes);
                query.key_marker = next.next_key;
                marker = next.next_upload;
                if !next.truncated {
                    break;
                }
            }
            prop_assert_eq!(found, whole.uploads);
            prop_assert_eq!(prefixes, whole.common_prefixes);
        }
    }
}
