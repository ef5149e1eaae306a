//! Which buckets write to the same place behind them. What is acknowledged for one key there must arrive
//! in one order, whichever of them it came through.

use crate::config::{Bucket, Mode};
use std::collections::HashMap;
use std::sync::Arc;

/// The places of these buckets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Buckets that write to the place of an earlier one, by name, and that one's.
    pub shared: HashMap<String, String>,
    /// Places that uploads may be delivered to.
    pub written_back: usize,
}

impl Places {
    /// Two are one if the backend's buckets have the same name and an endpoint is the same. That two
    /// names of hosts are one service nobody can tell.
    pub fn of(buckets: &[Arc<Bucket>]) -> Places {
        let backends: Vec<Seen<'_>> = buckets.iter().map(|bucket| Seen::of(bucket)).collect();
        let first = first_of(&backends);
        let mut places = Places::default();
        let mut written_back = Vec::new();
        for ((bucket, first), at) in buckets.iter().zip(first).zip(0..) {
            if let Some(other) = buckets.get(first).filter(|_| first != at) {
                places.shared.insert(bucket.name.clone(), other.name.clone());
            }
            if bucket.upload.mode == Mode::WriteBack || bucket.upload.mode_header {
                written_back.push(first);
            }
        }
        written_back.sort_unstable();
        written_back.dedup();
        places.written_back = written_back.len();
        places
    }
}

/// What of a bucket says where it is.
#[derive(Debug)]
struct Seen<'b> {
    bucket: &'b str,
    entrances: Vec<&'b str>,
}

impl<'b> Seen<'b> {
    fn of(bucket: &'b Bucket) -> Seen<'b> {
        let endpoints = bucket.backend.endpoints.iter();
        let entrances = endpoints.map(|one| one.endpoint.authority()).collect();
        Seen { bucket: &bucket.backend.bucket, entrances }
    }

    fn is(&self, other: &Seen<'_>) -> bool {
        self.bucket == other.bucket
            && self.entrances.iter().any(|one| other.entrances.contains(one))
    }
}

/// For each the first that is the same place, directly or by way of others.
fn first_of(backends: &[Seen<'_>]) -> Vec<usize> {
    let mut first: Vec<usize> = (0..backends.len()).collect();
    for (at, one) in backends.iter().enumerate() {
        for (before, other) in backends.iter().enumerate().take(at) {
            if !one.is(other) {
                continue;
            }
            let both = [at, before].map(|of| first.get(of).copied().unwrap_or(of));
            let (keep, give) = (both[0].min(both[1]), both[0].max(both[1]));
            first.iter_mut().filter(|of| **of == give).for_each(|of| *of = keep);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<'b>(bucket: &'b str, entrances: &[&'b str]) -> Seen<'b> {
        Seen { bucket, entrances: entrances.to_vec() }
    }

    #[test]
    fn one_service_and_one_bucket_are_one_place_also_by_way_of_others() {
        let backends = [
            seen("store", &["a:9000"]),
            seen("other", &["a:9000"]),
            seen("store", &["b:9000"]),
            seen("store", &["c:9000", "a:9000", "b:9000"]),
            seen("other", &["d", "a:9000"]),
            seen("store", &["e"]),
        ];
        assert_eq!(first_of(&backends), [0, 1, 0, 0, 1, 5]);
    }
}
