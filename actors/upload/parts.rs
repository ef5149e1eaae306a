//! Whether a PutObject goes to the backend in parts, and how large they are: pure.

use super::split::Shape;
use crate::config::SplitRules;
use crate::s3::error::{ErrorCode, S3Error};

/// S3's largest part, and largest object in one PutObject: 5 GiB (S3 User Guide, "Amazon S3
/// multipart upload limits").
pub const MAX_SINGLE: u64 = 5 * 1024 * 1024 * 1024;

/// S3's largest number of parts (the same).
pub const MAX_PARTS: u64 = 10_000;

/// Part sizes are grown in steps of this: a size that an operator recognises.
const STEP: u64 = 1024 * 1024;

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct PartsInput {
    /// Payload bytes; None: not announced.
    pub length: Option<u64>,
    /// If-Match or If-None-Match came along.
    pub conditional: bool,
    /// The object is encrypted with the client's own key.
    pub customer_key: bool,
    /// The client signed the body's SHA-256: the backend checks it, if it gets the body whole.
    pub signed_hash: bool,
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One PutObject.
    Whole,
    /// A multipart upload.
    Parts {
        /// How the parts' lengths are known.
        shape: Shape,
        /// Bytes of every part but the last.
        size: u64,
    },
}

/// Decides.
///
/// Errors: 411 MissingContentLength, 400 EntityTooLarge: what may neither go whole nor in parts.
pub fn decide(rules: &SplitRules, input: PartsInput) -> Result<Way, S3Error> {
    let Some(length) = input.length else {
        if !rules.unknown_length {
            return Err(missing_length());
        }
        return Ok(Way::Parts { shape: Shape::Unknown, size: rules.part_size });
    };
    let whole_if_possible =
        !rules.auto || input.conditional || input.customer_key || input.signed_hash;
    if length <= rules.threshold || (whole_if_possible && length <= MAX_SINGLE) {
        return Ok(Way::Whole);
    }
    if !rules.auto {
        let message = "Your proposed upload exceeds the maximum allowed size";
        return Err(S3Error::new(ErrorCode::EntityTooLarge, message));
    }
    let size = rules.part_size.max(length.div_ceil(MAX_PARTS).next_multiple_of(STEP));
    let parts = u32::try_from(length.div_ceil(size)).unwrap_or(u32::MAX);
    Ok(Way::Parts { shape: Shape::Known(parts), size })
}

/// 411: this body must announce its length.
pub fn missing_length() -> S3Error {
    S3Error::new(
        ErrorCode::MissingContentLength,
        "You must provide the Content-Length HTTP header (for aws-chunked bodies: \
         x-amz-decoded-content-length).",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;
    const RULES: SplitRules = SplitRules {
        auto: true,
        threshold: 50 * MIB,
        part_size: 16 * MIB,
        concurrent_parts: 4,
        unknown_length: true,
        ttl: Duration::from_secs(1),
    };
    const PLAIN: PartsInput =
        PartsInput { length: None, conditional: false, customer_key: false, signed_hash: false };

    fn of(length: u64) -> PartsInput {
        PartsInput { length: Some(length), ..PLAIN }
    }

    fn parts(count: u32, size: u64) -> Result<Way, S3Error> {
        Ok(Way::Parts { shape: Shape::Known(count), size })
    }

    #[test]
    fn above_the_threshold_it_goes_in_parts() {
        assert_eq!(decide(&RULES, of(50 * MIB)), Ok(Way::Whole));
        assert_eq!(decide(&RULES, of(50 * MIB + 1)), parts(4, 16 * MIB));
        assert_eq!(decide(&RULES, of(64 * MIB)), parts(4, 16 * MIB));
        assert_eq!(decide(&RULES, of(64 * MIB + 1)), parts(5, 16 * MIB));
    }

    /// "Grown so that ≤ 10,000 suffice."
    #[test]
    fn parts_are_grown_where_ten_thousand_would_not_do() {
        let tib5 = 5 * 1024 * 1024 * MIB;
        assert_eq!(decide(&RULES, of(tib5)), parts(9987, 525 * MIB));
        assert_eq!(decide(&RULES, of(160_000 * MIB)), parts(10_000, 16 * MIB));
        assert_eq!(decide(&RULES, of(160_000 * MIB + 1)), parts(9412, 17 * MIB));
    }

    /// "Never split: conditional PUTs and SSE-C up to 5 GiB, bodies whose hash the client signed up
    /// to 5 GiB."
    #[test]
    fn what_must_stay_whole_does_while_it_can() {
        for input in [
            PartsInput { conditional: true, ..PLAIN },
            PartsInput { customer_key: true, ..PLAIN },
            PartsInput { signed_hash: true, ..PLAIN },
        ] {
            let with = |length| PartsInput { length: Some(length), ..input };
            assert_eq!(decide(&RULES, with(MAX_SINGLE)), Ok(Way::Whole));
            assert_eq!(decide(&RULES, with(MAX_SINGLE + 1)), parts(321, 16 * MIB));
        }
    }

    #[test]
    fn split_never_and_unknown_lengths_are_settings() {
        let never = SplitRules { auto: false, ..RULES };
        assert_eq!(decide(&never, of(MAX_SINGLE)), Ok(Way::Whole));
        assert_eq!(decide(&never, of(MAX_SINGLE + 1)).unwrap_err().code, "EntityTooLarge");
        let unknown = Way::Parts { shape: Shape::Unknown, size: 16 * MIB };
        assert_eq!(decide(&never, PLAIN), Ok(unknown));
        let denied = SplitRules { unknown_length: false, ..RULES };
        assert_eq!(decide(&denied, PLAIN).unwrap_err().code, "MissingContentLength");
    }

    proptest! {
        /// Whatever the length, the parts hold all of it, and none breaks a limit of S3.
        #[test]
        fn parts_hold_the_whole_within_the_limits(length in 0..=5 * 1024 * 1024 * MIB) {
            if let Way::Parts { shape: Shape::Known(count), size } = decide(&RULES, of(length)).unwrap() {
                let count = u64::from(count);
                prop_assert!((2..=MAX_PARTS).contains(&count));
                prop_assert!((5 * MIB..=MAX_SINGLE).contains(&size));
                prop_assert!(size * count >= length && size * (count - 1) < length);
            }
        }
    }
}
