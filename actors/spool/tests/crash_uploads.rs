//! Crashes while clients' multipart uploads are begun, sent, completed, aborted and delivered: as in
//! `crash`, at any point, with any part of what was not synced on the disk.

use super::uploads::{asked, md5, upload};
use super::*;
use crate::spool::simulated::{Crash, Event, Synced};
use crate::spool::uploads::{Counts, Idle};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// What there is of an upload. Parts are named by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum There {
    #[default]
    Nothing,
    Open(BTreeMap<u16, Vec<u8>>),
    /// An entry of one part.
    Entry(Vec<u8>),
}

/// What must be there: the one, or, while something is under way, the other.
#[derive(Debug, Clone, Default)]
struct Known {
    sure: There,
    or: Option<There>,
}

/// What a test's task says it does with which upload. The log of the disk holds the place of each.
#[derive(Debug, Clone)]
enum Note {
    Doing(u64, There),
    Done(u64),
}

#[derive(Clone)]
struct Teller {
    disk: Simulated,
    notes: Arc<Mutex<Vec<Note>>>,
}

impl Teller {
    fn note(&self, note: Note) {
        let mut notes = self.notes.lock().unwrap();
        notes.push(note);
        // Under the lock: marks have the order of notes.
        self.disk.mark(notes.len() - 1);
    }
}

/// What is in a spool, by the uploads' tags.
fn look(disk: &Simulated, spool: &Spool) -> Result<BTreeMap<u64, There>, String> {
    let bytes = |body: &Body| {
        let Place::File(id) = body.place else { return Err("a part is in no file".to_owned()) };
        let bytes = disk.body(id).ok_or_else(|| format!("file {id} is gone"))?;
        if bytes.len() as u64 != body.length || md5(&bytes) != body.md5 {
            return Err(format!("file {id} has other bytes"));
        }
        Ok(bytes)
    };
    let mut found = BTreeMap::new();
    let mut named = Vec::new();
    let uploads = spool.state.uploads();
    for Idle { id, upload, .. } in uploads.idle(u64::MAX, Instant::now(), usize::MAX) {
        found.insert(upload.token, There::Open(BTreeMap::new()));
        assert_eq!(id.token, upload.token);
    }
    for (id, part) in uploads.all_parts() {
        named.extend(part.file());
        let Some(There::Open(parts)) = found.get_mut(&id.token) else {
            return Err("a part".into());
        };
        parts.insert(part.part.number, bytes(part.body())?);
    }
    for (_, entry) in spool.list(0, usize::MAX) {
        named.extend(entry.files());
        let tag: u64 = entry.principal.parse().unwrap();
        let EntryContent::Parts(parts) = &entry.content else { return Err("no parts".into()) };
        let expected = upload(tag);
        if (&entry.key, &entry.headers) != (&expected.key, &expected.headers)
            || entry.quarantined.is_some()
        {
            return Err(format!("another entry: {entry:?}"));
        }
        let there = There::Entry(bytes(&parts.parts[0].body)?);
        if found.insert(tag, there).is_some() {
            return Err(format!("upload {tag} is an entry and open still"));
        }
    }
    named.sort();
    if named != disk.bodies().unwrap() {
        return Err(format!("files are {:?} instead of {named:?}", disk.bodies()));
    }
    Ok(found)
}

/// Whether the account holds what is there, and nothing else.
fn is_accounted_for(spool: &Spool) -> Result<(), String> {
    let Counts { uploads, parts, bytes } = spool.state.uploads().counts();
    let mut expected = Amount::of(uploads + parts, bytes);
    spool.list(0, usize::MAX).iter().for_each(|(_, entry)| expected.add(weight(entry)));
    let stored = limits::lock(&spool.state.account).stored();
    if stored == expected { Ok(()) } else { Err(format!("{stored:?} instead of {expected:?}")) }
}

/// Opens a disk after a crash, and compares. Gives what is there.
fn check(image: Image, known: &BTreeMap<u64, Known>) -> Result<BTreeMap<u64, Known>, String> {
    let disk = Simulated::new(image);
    let opened = Spool::open(Arc::new(disk.clone()), LIMITS);
    let spool = opened.map_err(|error| format!("it cannot be opened: {error}"))?;
    let mut found = look(&disk, &spool)?;
    let mut now = BTreeMap::new();
    for (tag, known) in known {
        let there = found.remove(tag).unwrap_or_default();
        if there != known.sure && Some(&there) != known.or.as_ref() {
            return Err(format!("upload {tag}: {known:?}, and there is {there:?}"));
        }
        now.insert(*tag, Known { sure: there, or: None });
    }
    is_accounted_for(&spool)?;
    let totals = spool.totals();
    let amount = (totals.uploads, totals.parts, totals.entries);
    let sum = now.values().fold((0, 0, 0), |sum, one| match &one.sure {
        There::Nothing => sum,
        There::Open(parts) => (sum.0 + 1, sum.1 + parts.len() as u64, sum.2),
        There::Entry(_) => (sum.0, sum.1, sum.2 + 1),
    });
    match (found.is_empty(), amount == sum) {
        (true, true) => Ok(now),
        _ => Err(format!("nobody began {found:?}, or counted wrong: {amount:?}, {sum:?}")),
    }
}

fn learn(known: &mut BTreeMap<u64, Known>, note: &Note) {
    match note {
        Note::Doing(tag, next) => known.entry(*tag).or_default().or = Some(next.clone()),
        Note::Done(tag) => {
            let known = known.get_mut(tag).unwrap();
            known.sure = known.or.take().unwrap();
        }
    }
}

/// One thing with one upload, that it may be done with.
async fn act(teller: Teller, spool: Arc<Spool>, tag: u64, now: There, what: (u32, Vec<u8>)) {
    let (what, bytes) = what;
    let id = {
        let uploads = spool.state.uploads().idle(u64::MAX, Instant::now(), usize::MAX);
        uploads.iter().map(|idle| idle.id).find(|id| id.token == tag)
    };
    let doing = |next| teller.note(Note::Doing(tag, next));
    match (now, id) {
        (There::Nothing, _) => {
            let reservation = spool.reserve(0).unwrap();
            doing(There::Open(BTreeMap::new()));
            spool.begin_upload(upload(tag), reservation).await.unwrap();
        }
        (There::Open(mut parts), Some(id)) if what < 5 || parts.is_empty() => {
            let reservation = spool.reserve(bytes.len() as u64).unwrap();
            let place = Place::File(body_file(&spool, &bytes).unwrap());
            let number = u16::try_from(what % 3 + 1).unwrap();
            let body = Body { length: bytes.len() as u64, md5: md5(&bytes), place };
            let part = PartBody { number, body, checksum: None };
            parts.insert(number, bytes);
            doing(There::Open(parts));
            let kept = spool.put_part(id, StoredPart { stored: 2, part }, reservation).await;
            assert!(kept.unwrap());
        }
        (There::Open(parts), Some(id)) if what < 8 => {
            let (number, bytes) = parts.into_iter().next_back().unwrap();
            let asked = asked(number, &bytes);
            doing(There::Entry(bytes));
            let completed = spool.complete_upload(id, &asked, Vec::new(), 3).await.unwrap();
            let again = spool.complete_upload(id, &asked, Vec::new(), 4).await.unwrap();
            assert_eq!(completed, again);
        }
        (There::Open(_), Some(id)) => {
            doing(There::Nothing);
            assert!(spool.abort_upload(id).await.unwrap());
        }
        (now, id) => panic!("{tag}: {now:?} {id:?}"),
    }
    teller.note(Note::Done(tag));
}

async fn deliver(teller: Teller, claim: Claim) {
    let tag = claim.entry().principal.parse().unwrap();
    teller.note(Note::Doing(tag, There::Nothing));
    claim.delivered().await.unwrap();
    teller.note(Note::Done(tag));
}

/// A while of all of it, several uploads at a time. `next`: the tag of the next upload.
async fn live(teller: &Teller, spool: &Arc<Spool>, next: &mut u64, random: &mut StdRng) {
    for _ in 0..15 {
        let mut tasks = JoinSet::new();
        let there = look(&teller.disk, spool);
        // The janitor is a thread: what it has still to remove is nobody's mistake here.
        let mut there = match there {
            Ok(there) => there,
            Err(problem) if problem.starts_with("files are") => continue,
            Err(problem) => panic!("{problem}"),
        };
        if there.len() < 6 {
            there.insert(*next, There::Nothing);
            *next += 1;
        }
        for (tag, now) in there {
            if matches!(now, There::Entry(_)) || random.random_range(0..3) == 0 {
                continue;
            }
            let length = [0, 1, 700][random.random_range(0..3)];
            let bytes = (0..length).map(|_| random.random()).collect();
            let what = (random.random_range(0..9), bytes);
            tasks.spawn(act(teller.clone(), Arc::clone(spool), tag, now, what));
        }
        if let Some(claim) = spool.claim(Instant::now()).filter(|_| random.random()) {
            tasks.spawn(deliver(teller.clone(), claim));
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        // What was done in this process, and not only what a start makes of it.
        is_accounted_for(spool).unwrap();
    }
}

/// "Acknowledged parts are there, acknowledged Completes are entries, no file of a live record is
/// unlinked", and nothing is left of what was ended.
#[tokio::test]
async fn whatever_a_crash_leaves_of_uploads_what_was_acknowledged_is_there() {
    let long = std::env::var_os("MIZUCHI_LONG").is_some();
    let images = if long { 50_000 } else { 1_500 };
    let mut random = StdRng::seed_from_u64(8);
    let (mut before, mut known, mut next) = (Image::default(), BTreeMap::new(), 0);
    let (mut checked, mut round) = (0, 0);
    let mut seen = [0; 3];
    while checked < images {
        if round % 5 == 0 {
            (before, known) = Default::default();
        }
        round += 1;
        let disk = Simulated::new(before.clone());
        let teller = Teller { disk: disk.clone(), notes: Arc::default() };
        let spool = open(&disk);
        live(&teller, &spool, &mut next, &mut random).await;
        drop(spool);
        let notes = std::mem::take(&mut *teller.notes.lock().unwrap());
        let log = disk.log();
        let mut crash = Crash::new(before);
        let last = random.random_range(0..log.len());
        let mut survived = None;
        for (at, event) in log.iter().enumerate() {
            crash.step(event);
            if let Event::Mark(mark) = event {
                learn(&mut known, &notes[*mark]);
            }
            let image = crash.image(&mut random);
            let found = check(image.clone(), &known)
                .unwrap_or_else(|error| panic!("round {round}, event {at} ({event:?}): {error}"));
            checked += 1;
            for one in found.values() {
                seen[match one.sure {
                    There::Nothing => 0,
                    There::Open(_) => 1,
                    There::Entry(_) => 2,
                }] += 1;
            }
            if at == last {
                survived = Some((image, found));
            }
        }
        (before, known) = survived.unwrap();
    }
    println!("{checked} images in {round} rounds: {seen:?}");
    assert!(round > 2 && seen.iter().all(|count| *count > 500), "too little happened: {seen:?}");
}

/// The images are what they are said to be: without the syncs in the log, something is lost.
#[tokio::test]
async fn a_disk_that_does_not_sync_loses_parts() {
    for forgotten in 0..3 {
        let mut random = StdRng::seed_from_u64(9);
        let disk = Simulated::new(Image::default());
        let teller = Teller { disk: disk.clone(), notes: Arc::default() };
        let spool = open(&disk);
        live(&teller, &spool, &mut 0, &mut random).await;
        drop(spool);
        let notes = std::mem::take(&mut *teller.notes.lock().unwrap());
        let (mut crash, mut known) = (Crash::new(Image::default()), BTreeMap::new());
        let mut wrong = 0;
        for event in disk.log() {
            let is_forgotten = match event {
                Event::Sync(Synced::Journal) => forgotten == 0,
                Event::Sync(Synced::Folder) => forgotten == 1,
                Event::Sync(Synced::Body(_)) => forgotten == 2,
                _ => false,
            };
            if !is_forgotten {
                crash.step(&event);
            }
            if let Event::Mark(mark) = event {
                learn(&mut known, &notes[mark]);
                wrong += usize::from(check(crash.image(&mut random), &known).is_err());
            }
        }
        assert!(wrong > 0, "{forgotten}");
    }
}
