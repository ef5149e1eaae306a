use super::*;
use crate::spool::entry::{Body, BodyId, EntryContent, Place, Quarantine};
use proptest::prelude::*;
use std::time::Duration;

fn entry(bucket: &str, key: &str, length: u64) -> Entry {
    let place = if length > 10 { Place::File(BodyId(length)) } else { Place::Inline };
    Entry {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        accepted: length,
        principal: String::new(),
        headers: Vec::new(),
        content: EntryContent::Whole(Body { length, md5: [0; 16], place }),
        quarantined: None,
        upload_id: None,
    }
}

fn quarantined(entry: &Entry) -> Arc<Entry> {
    let mut entry = entry.clone();
    entry.quarantined = Some(Quarantine { reason: "rotten".to_owned(), at: 1 });
    Arc::new(entry)
}

/// One step of a run. Which of the entries is meant is chosen among those that are there.
#[derive(Debug, Clone)]
enum Step {
    /// A new one, of one of four keys; the second number: so much older than the newest.
    Insert(u8, u8),
    Claim,
    /// Seconds until it is due; None: at once.
    Release(u8, Option<u8>),
    Deliver(u8),
    Quarantine(u8),
    /// Of any, claimed or not.
    Remove(u8),
    Replace(u8),
    /// Seconds pass.
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<u8>(), prop_oneof![4 => Just(0), 1 => 0..20_u8])
            .prop_map(|(key, age)| Step::Insert(key, age)),
        6 => Just(Step::Claim),
        3 => (any::<u8>(), prop::option::of(0..20_u8)).prop_map(|(n, due)| Step::Release(n, due)),
        3 => any::<u8>().prop_map(Step::Deliver),
        1 => any::<u8>().prop_map(Step::Quarantine),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => any::<u8>().prop_map(Step::Replace),
        2 => (0..20_u8).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

/// The same by looking at everything each time.
#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<u64, Modelled>,
}

#[derive(Debug)]
struct Modelled {
    key: (String, String),
    length: u64,
    claimed: bool,
    quarantined: bool,
    due: Option<Instant>,
    attempts: u32,
}

impl Model {
    fn pending<'a>(&'a self, key: &'a (String, String)) -> impl Iterator<Item = u64> + 'a {
        let of_key = self.entries.iter().filter(move |(_, entry)| entry.key == *key);
        of_key.filter(|(_, entry)| !entry.quarantined).map(|(seq, _)| *seq)
    }

    /// Those that may be claimed, and from when on.
    fn claimable(&self) -> Vec<(u64, Option<Instant>)> {
        let mut found = Vec::new();
        for (seq, entry) in &self.entries {
            let mut others = self.pending(&entry.key);
            let is_head = others.next() == Some(*seq);
            let taken = self.pending(&entry.key).any(|other| self.entries[&other].claimed);
            if is_head && !taken {
                found.push((*seq, entry.due));
            }
        }
        found
    }

    fn claimed(&self) -> Vec<u64> {
        self.entries.iter().filter(|(_, entry)| entry.claimed).map(|(seq, _)| *seq).collect()
    }

    fn nth(&self, n: u8) -> Option<u64> {
        self.entries.keys().nth(usize::from(n) % self.entries.len().max(1)).copied()
    }
}

fn nth(claimed: &[u64], n: u8) -> Option<u64> {
    claimed.get(usize::from(n) % claimed.len().max(1)).copied()
}

fn run(steps: Vec<Step>) {
    let (mut index, mut model) = (Index::default(), Model::default());
    let mut now = Instant::now();
    let mut next = 1000;
    for step in steps {
        match step {
            Step::Insert(which, age) => {
                next += 1;
                let seq = next - 40 * u64::from(age);
                let key = (format!("b{}", which % 2), format!("k{}", which / 2 % 2));
                let length = u64::from(which);
                index.insert(seq, Arc::new(entry(&key.0, &key.1, length)));
                if let std::collections::btree_map::Entry::Vacant(vacant) = model.entries.entry(seq)
                {
                    vacant.insert(Modelled {
                        key: key.clone(),
                        length,
                        claimed: false,
                        quarantined: false,
                        due: None,
                        attempts: 0,
                    });
                    // A head that is held back forgets its time.
                    let behind: Vec<u64> = model.pending(&key).skip(1).collect();
                    for other in behind {
                        model.entries.get_mut(&other).unwrap().due = None;
                    }
                }
            }
            Step::Claim => {
                let due = model.claimable();
                let oldest = due.iter().find(|(_, due)| due.is_none_or(|due| due <= now));
                let claimed = index.claim(now);
                assert_eq!(
                    claimed.as_ref().map(|claimed| claimed.seq),
                    oldest.map(|(seq, _)| *seq)
                );
                if let Some(claimed) = claimed {
                    let modelled = model.entries.get_mut(&claimed.seq).unwrap();
                    assert_eq!(claimed.attempts, modelled.attempts);
                    modelled.claimed = true;
                }
            }
            Step::Release(n, pause) => {
                let Some(seq) = nth(&model.claimed(), n) else { continue };
                let due = pause.map(|pause| now + Duration::from_secs(pause.into()));
                index.release(seq, due);
                let key = model.entries[&seq].key.clone();
                let is_head = model.pending(&key).next() == Some(seq);
                let modelled = model.entries.get_mut(&seq).unwrap();
                modelled.claimed = false;
                modelled.attempts += 1;
                modelled.due = due.filter(|_| is_head);
            }
            Step::Deliver(n) => {
                let Some(seq) = nth(&model.claimed(), n) else { continue };
                assert!(index.remove(seq).is_some());
                model.entries.remove(&seq);
            }
            Step::Quarantine(n) => {
                let Some(seq) = nth(&model.claimed(), n) else { continue };
                let (_, found) = index.list(seq - 1, 1).pop().unwrap();
                index.replace(seq, quarantined(&found));
                let modelled = model.entries.get_mut(&seq).unwrap();
                (modelled.claimed, modelled.quarantined) = (false, true);
            }
            Step::Remove(n) => {
                let Some(seq) = model.nth(n) else { continue };
                assert!(index.remove(seq).is_some());
                model.entries.remove(&seq);
            }
            Step::Replace(n) => {
                let Some(seq) = model.nth(n) else { continue };
                let (_, found) = index.list(seq - 1, 1).pop().unwrap();
                let mut changed = Entry::clone(&found);
                changed.upload_id = Some("id".to_owned());
                index.replace(seq, Arc::new(changed));
            }
            Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
        }
        check(&mut index, &model, now);
    }
}

fn check(index: &mut Index, model: &Model, now: Instant) {
    let due = model.claimable();
    let first = due.iter().map(|(_, due)| due.unwrap_or(now)).min();
    match (index.next_due(now), first) {
        (Some(found), Some(first)) => assert!(found == first || found.max(first) <= now),
        (found, first) => assert_eq!(found, first),
    }
    for (bucket, key) in [("b0", "k0"), ("b0", "k1"), ("b1", "k0"), ("b1", "k1")] {
        let pending = model.pending(&(bucket.to_owned(), key.to_owned())).next().is_some();
        assert_eq!(index.is_pending(bucket, key), pending);
        assert_eq!(index.ended(bucket, key).is_some(), pending);
    }
    let values = || model.entries.values();
    assert_eq!(
        index.counts(),
        Counts {
            entries: model.entries.len() as u64,
            bytes: values().map(|entry| entry.length).sum(),
            files: values().filter(|entry| entry.length > 10).count() as u64,
            quarantined: values().filter(|entry| entry.quarantined).count() as u64,
            oldest: values().find(|entry| !entry.quarantined).map(|entry| entry.length),
        }
    );
    let listed: Vec<u64> = index.list(0, usize::MAX).into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(listed, model.entries.keys().copied().collect::<Vec<_>>());
    let queued: usize =
        index.queues.values().flat_map(HashMap::values).map(|q| q.numbers.len()).sum();
    assert_eq!(queued as u64, index.counts().entries - index.counts().quarantined);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// "claim: the oldest due one whose key has no older one pending and that nobody has."
    #[test]
    fn claims_are_those_of_the_model(steps in steps()) {
        run(steps);
    }
}

#[test]
fn a_key_s_second_entry_waits_for_the_first_and_other_keys_for_neither() {
    let (mut index, now) = (Index::default(), Instant::now());
    for (seq, key) in [(1, "a"), (2, "a"), (3, "b")] {
        index.insert(seq, Arc::new(entry("bucket", key, seq)));
    }
    assert_eq!(index.claim(now).unwrap().seq, 1);
    assert_eq!(index.claim(now).unwrap().seq, 3);
    assert!(index.claim(now).is_none());
    let later = now + Duration::from_secs(5);
    index.release(1, Some(later));
    assert!(index.claim(now).is_none(), "the newer one overtakes");
    assert_eq!(index.next_due(now), Some(later));
    assert_eq!(index.claim(later).unwrap().attempts, 1);
    index.remove(1);
    assert_eq!(index.claim(later).unwrap().seq, 2);
}

#[test]
fn whoever_waits_for_a_key_is_told_when_its_last_entry_is_gone() {
    let (mut index, now) = (Index::default(), Instant::now());
    index.insert(1, Arc::new(entry("bucket", "a", 1)));
    index.insert(2, Arc::new(entry("bucket", "a", 1)));
    let ended = index.ended("bucket", "a").unwrap();
    index.claim(now);
    index.remove(1);
    assert!(ended.has_changed().is_ok());
    let (_, second) = index.list(1, 1).pop().unwrap();
    index.replace(2, quarantined(&second));
    assert!(ended.has_changed().is_err(), "the channel is open still");
    assert!(index.ended("bucket", "a").is_none());
}
