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
        superseded: None,
    }
}

fn quarantined(entry: &Entry) -> Arc<Entry> {
    let mut entry = entry.clone();
    entry.quarantined = Some(Quarantine { reason: "rotten".to_owned(), at: 1 });
    Arc::new(entry)
}

/// What goes to one place at a time.
const SHARE: usize = 2;

fn pacing() -> Pacing {
    Pacing { base: Duration::from_secs(1), cap: Duration::from_secs(8), share: SHARE }
}

/// No jitter.
const RANDOM: u64 = 500;

/// One step of a run. Which of the entries is meant is chosen among those that are there.
#[derive(Debug, Clone)]
enum Step {
    /// A new one, of one of six keys; the second number: so much older than the newest.
    Insert(u8, u8),
    Claim,
    /// Seconds until it is due; None: at once.
    Release(u8, Option<u8>),
    Stall(u8),
    Deliver(u8),
    Answered(u8),
    Quarantine(u8),
    /// Of any, claimed or not.
    Remove(u8),
    Replace(u8),
    BeginReturn(u8, bool),
    EndReturn(u8),
    Beside(u8),
    GiveBack(u8),
    /// Seconds pass.
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (any::<u8>(), prop_oneof![4 => Just(0), 1 => 0..20_u8])
            .prop_map(|(key, age)| Step::Insert(key, age)),
        8 => Just(Step::Claim),
        2 => (any::<u8>(), prop::option::of(0..20_u8)).prop_map(|(n, due)| Step::Release(n, due)),
        4 => any::<u8>().prop_map(Step::Stall),
        2 => any::<u8>().prop_map(Step::Deliver),
        1 => any::<u8>().prop_map(Step::Answered),
        2 => any::<u8>().prop_map(Step::Quarantine),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => any::<u8>().prop_map(Step::Replace),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, force)| Step::BeginReturn(n, force)),
        2 => any::<u8>().prop_map(Step::EndReturn),
        1 => any::<u8>().prop_map(Step::Beside),
        1 => any::<u8>().prop_map(Step::GiveBack),
        3 => (0..20_u8).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..120)
}

/// Where a bucket's entries go: the third writes to the first one's place.
fn place_of(bucket: &str) -> &str {
    if bucket == "b2" { "b0" } else { bucket }
}

/// The same by looking at everything each time.
#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<u64, Modelled>,
    places: BTreeMap<String, Outage>,
    turn: String,
}

#[derive(Debug)]
struct Modelled {
    bucket: String,
    key: String,
    length: u64,
    state: Is,
    /// When it is due, and whether for want of the backend.
    due: Option<(Instant, bool)>,
    attempts: u32,
    /// Its place's, when it was claimed.
    level: u32,
    superseded: Option<Newer>,
}

impl Modelled {
    fn is_at(&self, place: &str) -> bool {
        place_of(&self.bucket) == place
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Is {
    Pending,
    Claimed,
    Quarantined,
    Returning,
}

#[derive(Debug, Default)]
struct Outage {
    held: usize,
    failures: u32,
    level: u32,
    until: Option<Instant>,
}

impl Model {
    fn queue<'a>(&'a self, place: &'a str, key: &'a str) -> impl Iterator<Item = u64> + 'a {
        let of_key = self.entries.iter().filter(move |(_, one)| one.is_at(place) && one.key == key);
        of_key.filter(|(_, one)| one.state != Is::Quarantined).map(|(seq, _)| *seq)
    }

    /// Those of a place that may be claimed, and from when on, if the place may have one at all.
    fn claimable(&self, place: &str) -> Vec<(u64, Option<Instant>)> {
        let mut found = Vec::new();
        let nothing = Outage::default();
        let outage = self.places.get(place).unwrap_or(&nothing);
        if outage.held >= if outage.level > 0 { 1 } else { SHARE } {
            return found;
        }
        for (seq, entry) in self.entries.iter().filter(|(_, one)| one.is_at(place)) {
            let is_head = self.queue(place, &entry.key).next() == Some(*seq);
            let mut queue = self.queue(place, &entry.key);
            let taken = queue.any(|other| self.entries[&other].state == Is::Claimed);
            if is_head && !taken && entry.state == Is::Pending {
                let until = outage.until.filter(|_| outage.level > 0);
                found.push((*seq, entry.due.map(|(due, _)| due).max(until)));
            }
        }
        found
    }

    /// What is to be claimed next, and where; what is due there forgets its time.
    fn next(&mut self, now: Instant) -> Option<(String, u64)> {
        let mut names = ["b0", "b1"];
        names.sort_by_key(|name| (*name <= self.turn.as_str(), *name));
        for name in names {
            let due = self.claimable(name).into_iter();
            let due = due.filter(|(_, due)| due.is_none_or(|due| due <= now)).map(|(seq, _)| seq);
            let due: Vec<u64> = due.collect();
            if due.is_empty() {
                continue;
            }
            let failing = self.places.get(name).is_some_and(|outage| outage.level > 0);
            let is_ready = |model: &Model, seq: &u64| model.entries[seq].due.is_none();
            let other = due.iter().any(|seq| is_ready(self, seq));
            for seq in &due {
                let entry = self.entries.get_mut(seq).unwrap();
                let stays = failing && other && entry.due.is_some_and(|(_, stalled)| stalled);
                entry.due = entry.due.filter(|(due, _)| stays || *due > now);
            }
            let first = due.into_iter().find(|seq| is_ready(self, seq));
            return Some((name.to_owned(), first.unwrap()));
        }
        None
    }

    fn place(&mut self, seq: u64) -> &mut Outage {
        let name = place_of(&self.entries[&seq].bucket).to_owned();
        self.places.entry(name).or_default()
    }

    fn with(&self, state: Is) -> Vec<u64> {
        self.entries.iter().filter(|(_, one)| one.state == state).map(|(seq, _)| *seq).collect()
    }

    fn nth(&self, n: u8) -> Option<u64> {
        self.entries.keys().nth(usize::from(n) % self.entries.len().max(1)).copied()
    }

    /// A head that is held back forgets its time.
    fn hold_back(&mut self, seq: u64) {
        let (place, key) = (place_of(&self.entries[&seq].bucket), &self.entries[&seq].key);
        let behind: Vec<u64> = self.queue(place, key).skip(1).collect();
        for other in behind {
            self.entries.get_mut(&other).unwrap().due = None;
        }
    }

    /// A claim ends; due then, and whether for want of the backend.
    fn end_claim(&mut self, seq: u64, due: Option<(Instant, bool)>) {
        let (place, key) = (place_of(&self.entries[&seq].bucket), &self.entries[&seq].key);
        let is_head = self.queue(place, key).next() == Some(seq);
        let entry = self.entries.get_mut(&seq).unwrap();
        entry.state = Is::Pending;
        entry.attempts += 1;
        entry.due = due.filter(|_| is_head);
        self.place(seq).held -= 1;
    }

    fn answered(&mut self, place: &str) {
        let Some(outage) = self.places.get_mut(place) else { return };
        outage.failures = 0;
        if outage.level > 0 {
            (outage.level, outage.until) = (0, None);
            let there = self.entries.values_mut().filter(|one| one.is_at(place));
            there.for_each(|one| one.due = one.due.filter(|(_, stalled)| !stalled));
        }
    }

    /// What nobody has entries in or a share of is forgotten.
    fn tidy(&mut self) {
        let entries = &self.entries;
        let is_used = |name: &str| entries.values().any(|one| one.is_at(name));
        self.places.retain(|name, outage| outage.held > 0 || is_used(name));
    }
}

fn nth(claimed: &[u64], n: u8) -> Option<u64> {
    claimed.get(usize::from(n) % claimed.len().max(1)).copied()
}

fn run(steps: Vec<Step>) {
    let (mut index, mut model) = (Index::default(), Model::default());
    index.set_pacing(pacing());
    index.set_names(HashMap::from([("b2".to_owned(), "b0".to_owned())]));
    let mut now = Instant::now();
    let mut next = 1000;
    let mut beside: Vec<String> = Vec::new();
    for step in steps {
        match step {
            Step::Insert(which, age) => {
                next += 1;
                let seq = next - 40 * u64::from(age);
                let (bucket, key) = (format!("b{}", which % 3), format!("k{}", which / 3 % 2));
                let length = u64::from(which);
                index.insert(seq, Arc::new(entry(&bucket, &key, length)));
                if let std::collections::btree_map::Entry::Vacant(vacant) = model.entries.entry(seq)
                {
                    vacant.insert(Modelled {
                        bucket,
                        key,
                        length,
                        state: Is::Pending,
                        due: None,
                        attempts: 0,
                        level: 0,
                        superseded: None,
                    });
                    model.hold_back(seq);
                }
            }
            Step::Claim => {
                let expected = model.next(now);
                let claimed = index.claim(now);
                let numbers = |claimed: &Claimed| claimed.seq;
                assert_eq!(claimed.as_ref().map(numbers), expected.as_ref().map(|(_, seq)| *seq));
                if let (Some(claimed), Some((place, seq))) = (claimed, expected) {
                    model.turn = place;
                    model.place(seq).held += 1;
                    let level = model.place(seq).level;
                    let modelled = model.entries.get_mut(&seq).unwrap();
                    assert_eq!(claimed.attempts, modelled.attempts);
                    (modelled.state, modelled.due, modelled.level) = (Is::Claimed, None, level);
                }
            }
            Step::Release(n, pause) => {
                let Some(seq) = nth(&model.with(Is::Claimed), n) else { continue };
                let due = pause.map(|pause| now + Duration::from_secs(pause.into()));
                index.release(seq, due);
                index.give_back(&model.entries[&seq].bucket);
                model.end_claim(seq, due.map(|due| (due, false)));
            }
            Step::Stall(n) => {
                let Some(seq) = nth(&model.with(Is::Claimed), n) else { continue };
                let again = index.stall(seq, now, RANDOM);
                index.give_back(&model.entries[&seq].bucket);
                let (level, attempts) = (model.entries[&seq].level, model.entries[&seq].attempts);
                let due = now + pacing().pause(attempts + 1, RANDOM);
                let outage = model.place(seq);
                outage.failures += 1;
                if outage.failures >= 2 && outage.level == level {
                    outage.level += 1;
                    outage.until = Some(now + pacing().pause(outage.level, RANDOM));
                }
                assert_eq!(Some(again), outage.until.max(Some(due)));
                model.end_claim(seq, Some((due, true)));
            }
            Step::Deliver(n) => {
                let Some(seq) = nth(&model.with(Is::Claimed), n) else { continue };
                let (bucket, key) =
                    (model.entries[&seq].bucket.clone(), model.entries[&seq].key.clone());
                index.answered(&bucket);
                for (older, marked) in index.superseded_by(seq) {
                    index.replace(older, marked);
                }
                assert!(index.remove(seq).is_some());
                index.give_back(&bucket);
                model.answered(place_of(&bucket));
                model.place(seq).held -= 1;
                model.entries.remove(&seq);
                for (_, older) in model.entries.range_mut(..seq) {
                    let same = older.is_at(place_of(&bucket)) && older.key == key;
                    if same && older.state == Is::Quarantined && older.superseded.is_none() {
                        older.superseded = Some(Newer::Entry(seq));
                    }
                }
            }
            Step::Answered(which) => {
                let bucket = format!("b{}", which % 3);
                index.answered(&bucket);
                model.answered(place_of(&bucket));
            }
            Step::Quarantine(n) => {
                let Some(seq) = nth(&model.with(Is::Claimed), n) else { continue };
                let (_, found) = index.list(seq - 1, 1).pop().unwrap();
                index.replace(seq, quarantined(&found));
                index.give_back(&found.bucket);
                model.place(seq).held -= 1;
                model.entries.get_mut(&seq).unwrap().state = Is::Quarantined;
            }
            Step::Remove(n) => {
                let Some(seq) = model.nth(n) else { continue };
                let bucket = model.entries[&seq].bucket.clone();
                assert!(index.remove(seq).is_some());
                if model.entries[&seq].state == Is::Claimed {
                    index.give_back(&bucket);
                    model.place(seq).held -= 1;
                }
                model.entries.remove(&seq);
            }
            Step::Replace(n) => {
                let Some(seq) = model.nth(n) else { continue };
                let (_, found) = index.list(seq - 1, 1).pop().unwrap();
                let mut changed = Entry::clone(&found);
                changed.upload_id = Some("id".to_owned());
                index.replace(seq, Arc::new(changed));
            }
            Step::BeginReturn(n, force) => {
                let Some(seq) = model.nth(n) else { continue };
                let modelled = &model.entries[&seq];
                let (place, key) = (place_of(&modelled.bucket), modelled.key.as_str());
                let overtaken = model
                    .queue(place, key)
                    .any(|other| other > seq && model.entries[&other].state == Is::Claimed);
                let expected = match modelled.superseded {
                    _ if modelled.state != Is::Quarantined => Return::NotSetAside,
                    Some(newer) if !force => Return::Superseded(newer),
                    _ if overtaken && !force => Return::Overtaken,
                    _ => Return::Begun,
                };
                assert_eq!(index.begin_return(seq, force), expected);
                if expected == Return::Begun {
                    model.entries.get_mut(&seq).unwrap().state = Is::Returning;
                    model.hold_back(seq);
                }
            }
            Step::EndReturn(n) => {
                let Some(seq) = nth(&model.with(Is::Returning), n) else { continue };
                let (_, found) = index.list(seq - 1, 1).pop().unwrap();
                let mut anew = Entry::clone(&found);
                anew.quarantined = None;
                index.end_return(seq, Arc::new(anew));
                let modelled = model.entries.get_mut(&seq).unwrap();
                modelled.state = Is::Pending;
                (modelled.due, modelled.attempts) = (None, 0);
            }
            Step::Beside(which) => {
                let bucket = format!("b{}", which % 3);
                let place = model.places.get_mut(place_of(&bucket));
                let is_there = model.entries.values().any(|one| one.is_at(place_of(&bucket)));
                let expected = match place {
                    Some(outage) => outage.level == 0 && outage.held < SHARE,
                    None => is_there,
                };
                assert_eq!(index.beside(&bucket), expected);
                if expected {
                    model.places.entry(place_of(&bucket).to_owned()).or_default().held += 1;
                    beside.push(bucket);
                }
            }
            Step::GiveBack(n) => {
                if beside.is_empty() {
                    continue;
                }
                let bucket = beside.remove(usize::from(n) % beside.len());
                index.give_back(&bucket);
                model.places.get_mut(place_of(&bucket)).unwrap().held -= 1;
            }
            Step::Wait(seconds) => now += Duration::from_secs(seconds.into()),
        }
        model.tidy();
        check(&mut index, &model, now);
    }
}

fn check(index: &mut Index, model: &Model, now: Instant) {
    let due = ["b0", "b1"].map(|place| model.claimable(place)).concat();
    let first = due.iter().map(|(_, due)| due.unwrap_or(now)).min();
    match (index.next_due(now), first) {
        (Some(found), Some(first)) => assert!(found == first || found.max(first) <= now),
        (found, first) => assert_eq!(found, first),
    }
    for bucket in ["b0", "b1", "b2"] {
        for key in ["k0", "k1"] {
            let newest = model.queue(place_of(bucket), key).last();
            assert_eq!(index.is_pending(bucket, key), newest.is_some());
            assert_eq!(index.newest(bucket, key), newest);
            let oldest = model.queue(place_of(bucket), key).next();
            let until = newest.unwrap_or(0) / 2 + oldest.unwrap_or(0) / 2;
            let waits = oldest.is_some_and(|oldest| oldest <= until);
            assert_eq!(index.leaving(bucket, key, until).is_some(), waits);
        }
    }
    let values = || model.entries.values();
    let is_set_aside = |entry: &&Modelled| entry.state == Is::Quarantined;
    assert_eq!(
        index.counts(),
        Counts {
            entries: model.entries.len() as u64,
            bytes: values().map(|entry| entry.length).sum(),
            files: values().filter(|entry| entry.length > 10).count() as u64,
            quarantined: values().filter(is_set_aside).count() as u64,
            oldest: values().find(|entry| !is_set_aside(entry)).map(|entry| entry.length),
        }
    );
    let listed = index.list(0, usize::MAX);
    assert!(listed.iter().map(|(seq, _)| seq).eq(model.entries.keys()));
    for ((_, entry), modelled) in listed.iter().zip(values()) {
        let found = entry.superseded;
        assert_eq!(found, modelled.superseded);
    }
    let held: Vec<usize> = index.places.values().map(|place| place.held).collect();
    let expected = ["b0", "b1"].into_iter().filter(|name| {
        let has_entries = values().any(|entry| entry.is_at(name));
        has_entries || model.places.contains_key(*name)
    });
    let expected: Vec<usize> =
        expected.map(|name| model.places.get(name).map_or(0, |outage| outage.held)).collect();
    assert_eq!(held, expected, "a place that nobody needs is kept, or another lost");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// "claim: the places take turns; of one the oldest due whose key has no older one pending and that
    /// nobody has; at most its share, and one at a time while it does not answer."
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
fn whoever_waits_for_a_key_is_told_of_each_that_leaves() {
    let (mut index, now) = (Index::default(), Instant::now());
    for seq in 1..=3 {
        index.insert(seq, Arc::new(entry("bucket", "a", 1)));
    }
    let left = index.leaving("bucket", "a", 2).unwrap();
    index.claim(now);
    index.remove(1);
    assert!(left.has_changed().unwrap());
    let left = index.leaving("bucket", "a", 2).unwrap();
    let (_, second) = index.list(1, 1).pop().unwrap();
    index.replace(2, quarantined(&second));
    assert!(left.has_changed().unwrap());
    assert!(index.leaving("bucket", "a", 2).is_none(), "the third came later");
    let left = index.leaving("bucket", "a", 3).unwrap();
    index.remove(3);
    assert!(left.has_changed().is_err(), "the channel is open still");
    assert!(index.leaving("bucket", "a", 3).is_none());
}

/// "A blackholed bucket never holds more than its share, and gets one probe at a time; a success makes all
/// its waiting entries due."
#[test]
fn a_place_that_fails_is_probed_by_one_and_the_others_go_on() {
    let (mut index, mut now) = (Index::default(), Instant::now());
    index.set_pacing(Pacing { share: 3, ..Pacing::default() });
    for seq in 0..20 {
        index.insert(seq, Arc::new(entry("away", &format!("key{seq}"), 1)));
    }
    let claim = |index: &mut Index, now| index.claim(now).map(|claimed| claimed.seq);
    let wave: Vec<u64> = std::iter::from_fn(|| claim(&mut index, now)).collect();
    assert_eq!(wave, [0, 1, 2], "it takes all");
    index.insert(100, Arc::new(entry("well", "key", 1)));
    assert_eq!(claim(&mut index, now), Some(100));
    let fail = |index: &mut Index, seq, now| {
        let again = index.stall(seq, now, RANDOM);
        index.give_back("away");
        again
    };
    let mut probe_at = now;
    for seq in wave {
        probe_at = fail(&mut index, seq, now);
    }
    // Pauses double, up to what leaves it worth a look a minute.
    let mut pauses = Vec::new();
    for probe in 3..12 {
        assert_eq!(claim(&mut index, now), None, "it is left alone");
        pauses.push((probe_at - now).as_secs());
        now = index.next_due(now).unwrap();
        assert_eq!(claim(&mut index, now), Some(probe), "each is another one");
        assert_eq!((claim(&mut index, now), index.next_due(now)), (None, None), "one at a time");
        probe_at = fail(&mut index, probe, now);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    now = index.next_due(now).unwrap();
    let probe = claim(&mut index, now).unwrap();
    assert!(index.answered("away"));
    index.remove(probe);
    index.give_back("away");
    let due: Vec<u64> = std::iter::from_fn(|| claim(&mut index, now)).collect();
    assert_eq!(due.len(), 3, "its share again");
}

/// An entry that alone fails, time and again, is nobody else's misfortune.
#[test]
fn one_that_always_fails_holds_nobody_up() {
    let (mut index, mut now) = (Index::default(), Instant::now());
    index.insert(1, Arc::new(entry("bucket", "poison", 1)));
    for seq in 2..50 {
        index.insert(seq, Arc::new(entry("bucket", &format!("key{seq}"), 1)));
        let mut delivered = 0;
        while let Some(claimed) = index.claim(now) {
            if claimed.seq == 1 {
                index.stall(1, now, RANDOM);
            } else {
                index.answered("bucket");
                index.remove(claimed.seq);
                delivered += 1;
            }
            index.give_back("bucket");
        }
        assert_eq!(delivered, 1, "{seq} waits");
        now += Duration::from_secs(1);
    }
}

/// Of an entry of which nobody knows whether it is on record.
#[test]
fn a_key_in_doubt_is_pending_for_good() {
    let mut index = Index::default();
    index.set_names(HashMap::from([("same".to_owned(), "bucket".to_owned())]));
    index.doubt("bucket", "key");
    assert!(index.is_pending("same", "key") && !index.is_pending("same", "other"));
    let newest = index.newest("same", "key").unwrap();
    let left = index.leaving("same", "key", newest).unwrap();
    assert!(left.has_changed().is_ok_and(|changed| !changed));
}
