//! A secret: zeroed when dropped, never shown, read in as few places as can be grepped for.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A secret text. `Debug` shows nothing of it; [`Secret::expose`] is the only way to read it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Secret(Zeroizing::new(text))
    }

    /// The secret itself: only for what signs or decrypts with it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is this, in a time that depends on the length alone.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("canary".into())), "Secret(…)");
    }

    #[test]
    fn it_matches_itself_alone() {
        let secret = Secret::new("canary".into());
        assert!(secret.matches(b"canary"));
        for other in [&b"canarx"[..], b"canar", b"canaryy", b""] {
            assert!(!secret.matches(other));
        }
    }
}
