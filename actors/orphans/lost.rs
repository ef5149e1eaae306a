//! Which of a key's uploads are those of Creates whose answers were lost.

use super::record::Window;

/// How far the two clocks' readings of one moment may lie apart once the difference between the
/// clocks is known: S3 lists whole seconds, and the Date header has whole seconds.
const TOLERANCE: u64 = 2_000;

/// One entry of ListMultipartUploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// The backend's id.
    pub upload_id: String,
    /// When it was begun, by the backend's clock, milliseconds since 1970; None: not told.
    pub initiated: Option<u64>,
}

/// The uploads of `key` that nobody knows (`known` says which somebody does) and that were begun
/// within the window. `ahead`: how far the backend's clock is ahead of this machine's, milliseconds.
///
/// An upload that somebody else began at the same time, on the same key, and past this gateway,
/// cannot be told from a lost one by this: the caller must see that it has no parts yet.
pub fn lost_ones(
    listed: &[Listed],
    key: &str,
    window: Window,
    ahead: i64,
    known: impl Fn(&str) -> bool,
) -> Vec<String> {
    let from = window.from.saturating_add_signed(ahead).saturating_sub(TOLERANCE);
    let to = window.to.saturating_add_signed(ahead).saturating_add(TOLERANCE);
    listed
        .iter()
        .filter(|one| one.key == key && !known(&one.upload_id))
        .filter(|one| one.initiated.is_some_and(|at| (from..=to).contains(&at)))
        .map(|one| one.upload_id.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(key: &str, id: &str, initiated: u64) -> Listed {
        Listed { key: key.into(), upload_id: id.into(), initiated: Some(initiated) }
    }

    #[test]
    fn only_unknown_uploads_of_the_key_and_the_time_are_lost_ones() {
        let uploads = [
            listed("k", "lost", 100_500),
            listed("k", "known", 100_500),
            listed("k", "older", 90_000),
            listed("k", "newer", 120_000),
            listed("k2", "other key", 100_500),
            Listed { initiated: None, ..listed("k", "untold", 0) },
        ];
        let window = Window { from: 100_000, to: 101_000 };
        let known = |id: &str| id == "known";
        assert_eq!(lost_ones(&uploads, "k", window, 0, known), ["lost"]);
        assert_eq!(lost_ones(&uploads, "k", window, 60_000, known), Vec::<String>::new());
        let late = Window { from: 40_000, to: 41_000 };
        assert_eq!(lost_ones(&uploads, "k", late, 60_000, known), ["lost"]);
    }
}
