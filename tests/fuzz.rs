//! The fuzz targets over their kept corpora, and over mutations of them: what `make fuzz` runs for
//! hours, for seconds.

#[path = "../fuzz/targets.rs"]
mod targets;

use crate::support::times;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

/// One mutation of a kind that libFuzzer makes: a byte changed, a piece dropped, doubled or moved.
fn mutate(data: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let at = random.random_range(0..=data.len());
    let length = random.random_range(0..=(data.len() - at).min(16));
    match random.random_range(0..6) {
        0 if at < data.len() => data[at] = random.random(),
        1 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
        2 => drop(data.drain(at..at + length)),
        3 => {
            let piece = data[at..at + length].to_vec();
            data.splice(at..at, piece);
        }
        4 => {
            let from = random.random_range(0..=other.len());
            let piece = other[from..].iter().take(16).copied().collect::<Vec<_>>();
            data.splice(at..at, piece);
        }
        _ => data.insert(at, *b"\r\n\0 :;&=<>%\xff".get(random.random_range(0..12)).unwrap()),
    }
}

/// R28: "fuzzed, 0 panics; corpus kept".
#[test]
fn the_kept_corpora_and_their_mutations_find_nothing() {
    let mut random = StdRng::seed_from_u64(28);
    for (name, target) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut corpus = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            corpus.push(std::fs::read(entry.path()).unwrap());
        }
        corpus.sort();
        assert!(corpus.len() >= 3, "{name}: the corpus is missing");
        for data in &corpus {
            target(data);
        }
        // Settings are slow to read: each is a whole configuration.
        let rounds = if name == "settings" { times(100, 3_000) } else { times(8_000, 1_000_000) };
        for _ in 0..rounds {
            let mut data = corpus[random.random_range(0..corpus.len())].clone();
            let other = &corpus[random.random_range(0..corpus.len())];
            for _ in 0..random.random_range(1..5) {
                mutate(&mut data, other, &mut random);
            }
            target(&data);
        }
    }
}
