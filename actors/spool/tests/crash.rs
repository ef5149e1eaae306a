//! Crashes at any point, with any part of what was not synced on the disk (reliability: R4).

use super::*;
use crate::spool::simulated::{Crash, Event};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// What a test's task says it does. The log of the disk holds the place of each.
#[derive(Debug, Clone)]
enum Note {
    Submitting(usize),
    Acknowledged(usize, u64),
    Delivering(usize),
    Delivered(usize),
    Quarantining(usize),
    Quarantined(usize),
    Noting(usize, Option<String>),
    Noted(usize, Option<String>),
}

/// What was uploaded.
#[derive(Debug)]
struct Upload {
    entry: Entry,
    bytes: Vec<u8>,
}

/// What must be true of an upload after a crash.
#[derive(Debug, Clone, Default)]
struct Known {
    seq: Option<u64>,
    must_be_there: bool,
    must_be_gone: bool,
    /// None: either.
    quarantined: Option<bool>,
    upload_ids: Vec<Option<String>>,
}

#[derive(Debug, Default)]
struct Story {
    uploads: Vec<Arc<Upload>>,
    notes: Vec<Note>,
}

#[derive(Clone)]
struct Teller {
    disk: Simulated,
    story: Arc<Mutex<Story>>,
}

impl Teller {
    fn note(&self, note: Note) {
        let mut story = self.story.lock().unwrap();
        story.notes.push(note);
        // Under the story's lock: marks have the order of notes.
        self.disk.mark(story.notes.len() - 1);
    }

    fn upload(&self, tag: usize) -> Arc<Upload> {
        Arc::clone(&self.story.lock().unwrap().uploads[tag])
    }
}

fn tag_of(entry: &Entry) -> usize {
    entry.principal.parse().unwrap()
}

/// Makes an upload; its file is written and synced already.
fn prepare(teller: &Teller, spool: &Spool, random: &mut StdRng) -> usize {
    let length = [0, 1, 511, 5000, 40_000][random.random_range(0..5)];
    let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
    let in_file = random.random_range(0..3) == 0;
    let place =
        if in_file { Place::File(body_file(spool, &bytes).unwrap()) } else { Place::Inline };
    let key = format!("key{}", random.random_range(0..6));
    let mut entry = entry(&key, bytes.len(), place);
    let mut story = teller.story.lock().unwrap();
    let tag = story.uploads.len();
    entry.principal = tag.to_string();
    story.uploads.push(Arc::new(Upload { entry, bytes }));
    tag
}

async fn commit(teller: Teller, spool: Arc<Spool>, tag: usize) {
    let upload = teller.upload(tag);
    let reservation = spool.reserve(upload.bytes.len() as u64).unwrap();
    let inline = upload.entry.files().next().is_none();
    let inline = inline.then(|| Bytes::copy_from_slice(&upload.bytes));
    teller.note(Note::Submitting(tag));
    let seq = spool.commit(upload.entry.clone(), inline, reservation).await.unwrap();
    teller.note(Note::Acknowledged(tag, seq));
}

async fn deliver(teller: Teller, mut claim: Claim, what: u32) {
    let tag = tag_of(claim.entry());
    match what {
        0 => claim.failed(Instant::now()),
        1 => {
            teller.note(Note::Quarantining(tag));
            claim.quarantine("rotten".to_owned()).await.unwrap();
            teller.note(Note::Quarantined(tag));
        }
        2 | 3 => {
            let id = (what == 2).then(|| "x".repeat(tag % 700));
            teller.note(Note::Noting(tag, id.clone()));
            claim.note_upload(id.clone()).await.unwrap();
            teller.note(Note::Noted(tag, id));
        }
        _ => {
            teller.note(Note::Delivering(tag));
            claim.delivered().await.unwrap();
            teller.note(Note::Delivered(tag));
        }
    }
}

/// A while of uploads and deliveries, several at a time.
async fn live(teller: &Teller, spool: &Arc<Spool>, steps: usize, random: &mut StdRng) {
    for _ in 0..steps {
        let mut tasks = JoinSet::new();
        for _ in 0..random.random_range(0..4) {
            let tag = prepare(teller, spool, random);
            tasks.spawn(commit(teller.clone(), Arc::clone(spool), tag));
        }
        for _ in 0..random.random_range(0..4) {
            if let Some(claim) = spool.claim(Instant::now()) {
                tasks.spawn(deliver(teller.clone(), claim, random.random_range(0..8)));
            }
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
    }
}

fn learn(known: &mut BTreeMap<usize, Known>, note: &Note) {
    if let Note::Submitting(tag) = note {
        let (quarantined, upload_ids) = (Some(false), vec![None]);
        known.insert(*tag, Known { quarantined, upload_ids, ..Known::default() });
    }
    let mut change = |tag: &usize, change: &dyn Fn(&mut Known)| change(known.get_mut(tag).unwrap());
    match note {
        Note::Submitting(_) => {}
        Note::Acknowledged(tag, seq) => change(tag, &|upload| {
            upload.seq = Some(*seq);
            upload.must_be_there = true;
        }),
        Note::Delivering(tag) => change(tag, &|upload| upload.must_be_there = false),
        Note::Delivered(tag) => change(tag, &|upload| upload.must_be_gone = true),
        Note::Quarantining(tag) => change(tag, &|upload| {
            upload.quarantined = None;
            upload.upload_ids.push(None);
        }),
        Note::Quarantined(tag) => change(tag, &|upload| {
            (upload.quarantined, upload.upload_ids) = (Some(true), vec![None]);
        }),
        Note::Noting(tag, id) => change(tag, &|upload| upload.upload_ids.push(id.clone())),
        Note::Noted(tag, id) => change(tag, &|upload| upload.upload_ids = vec![id.clone()]),
    }
}

/// Opens a disk after a crash, and compares. Gives what is there.
fn check(
    image: Image,
    uploads: &[Arc<Upload>],
    known: &BTreeMap<usize, Known>,
) -> Result<BTreeMap<usize, Known>, String> {
    let disk = Simulated::new(image);
    let opened = Spool::open(Arc::new(disk.clone()), LIMITS);
    let spool = opened.map_err(|error| format!("it cannot be opened: {error}"))?;
    let mut found = BTreeMap::new();
    for (seq, entry) in spool.list(0, usize::MAX) {
        let tag = tag_of(&entry);
        let wrong = |what: &str| Err(format!("upload {tag}: {what}: {entry:?}"));
        let Some(known) = known.get(&tag) else { return wrong("nobody submitted it") };
        if known.must_be_gone {
            return wrong("it was delivered");
        }
        if known.seq.is_some_and(|known| known != seq) {
            return wrong("another number");
        }
        if known.quarantined.is_some_and(|known| known != entry.quarantined.is_some())
            || entry.quarantined.as_ref().is_some_and(|quarantine| quarantine.reason != "rotten")
        {
            return wrong("quarantine");
        }
        if !known.upload_ids.contains(&entry.upload_id) {
            return wrong("the upload's id");
        }
        let mut same = Entry::clone(&entry);
        (same.quarantined, same.upload_id, same.superseded) = (None, None, None);
        if same != uploads[tag].entry {
            return wrong("it is another one");
        }
        match bytes_of(&disk, &spool, seq, &entry) {
            Ok(bytes) if bytes == uploads[tag].bytes => {}
            Ok(_) => return wrong("other bytes"),
            Err(error) => return wrong(&error.to_string()),
        }
        let now = Known {
            seq: Some(seq),
            must_be_there: true,
            must_be_gone: false,
            quarantined: Some(entry.quarantined.is_some()),
            upload_ids: vec![entry.upload_id.clone()],
        };
        if found.insert(tag, now).is_some() {
            return wrong("it is there twice");
        }
    }
    for (tag, known) in known {
        if known.must_be_there && !found.contains_key(tag) {
            return Err(format!("upload {tag} was acknowledged, and is lost"));
        }
    }
    let mut named: Vec<BodyId> =
        spool.list(0, usize::MAX).iter().flat_map(|(_, entry)| entry.files()).collect();
    named.sort();
    if named != disk.bodies().unwrap() {
        return Err(format!("files are {:?} instead of {named:?}", disk.bodies()));
    }
    Ok(found)
}

/// "Every acknowledged entry is there with its body, byte-equal; nothing unacknowledged is half there;
/// no panic": 100,000 images in a long run. A round begins with what the crash of the one before has
/// left, so that what a recovery writes is torn too; every fifth begins with an empty disk.
#[tokio::test]
async fn whatever_a_crash_leaves_what_was_acknowledged_is_there() {
    let long = std::env::var_os("MIZUCHI_LONG").is_some();
    let images = if long { 100_000 } else { 2_000 };
    let mut random = StdRng::seed_from_u64(6);
    let (mut before, mut known) = (Image::default(), BTreeMap::new());
    let mut story = Story::default();
    let (mut checked, mut round) = (0, 0);
    while checked < images {
        if round % 5 == 0 {
            (before, known, story) = Default::default();
        }
        round += 1;
        let disk = Simulated::new(before.clone());
        story.notes.clear();
        let teller = Teller { disk: disk.clone(), story: Arc::new(Mutex::new(story)) };
        let spool = open(&disk);
        live(&teller, &spool, 15, &mut random).await;
        drop(spool);
        story = std::mem::take(&mut *teller.story.lock().unwrap());
        let log = disk.log();
        let mut crash = Crash::new(before);
        let last = random.random_range(0..log.len());
        let mut survived = None;
        for (at, event) in log.iter().enumerate() {
            crash.step(event);
            if let Event::Mark(mark) = event {
                learn(&mut known, &story.notes[*mark]);
            }
            let image = crash.image(&mut random);
            let found = check(image.clone(), &story.uploads, &known)
                .unwrap_or_else(|error| panic!("round {round}, event {at} ({event:?}): {error}"));
            checked += 1;
            if at == last {
                survived = Some((image, found));
            }
        }
        (before, known) = survived.unwrap();
    }
    println!("{checked} images in {round} rounds");
    assert!(round > 2, "too little happened");
}

/// The images are what they are said to be: without the syncs in the log, something is lost.
#[tokio::test]
async fn a_disk_that_does_not_sync_loses_what_was_acknowledged() {
    for forgotten in [Forgotten::Journal, Forgotten::Folder, Forgotten::Body] {
        let mut random = StdRng::seed_from_u64(7);
        let disk = Simulated::new(Image::default());
        let story = Arc::new(Mutex::new(Story::default()));
        let teller = Teller { disk: disk.clone(), story: Arc::clone(&story) };
        let spool = open(&disk);
        live(&teller, &spool, 15, &mut random).await;
        drop(spool);
        let story = std::mem::take(&mut *story.lock().unwrap());
        let (mut crash, mut known) = (Crash::new(Image::default()), BTreeMap::new());
        let mut wrong = 0;
        for event in disk.log() {
            if !forgotten.is(&event) {
                crash.step(&event);
            }
            if let Event::Mark(mark) = event {
                learn(&mut known, &story.notes[mark]);
                let image = crash.image(&mut random);
                wrong += usize::from(check(image, &story.uploads, &known).is_err());
            }
        }
        assert!(wrong > 0, "{forgotten:?}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Forgotten {
    Journal,
    Folder,
    Body,
}

impl Forgotten {
    fn is(self, event: &Event) -> bool {
        use crate::spool::simulated::Synced;
        match event {
            Event::Sync(Synced::Journal) => matches!(self, Forgotten::Journal),
            Event::Sync(Synced::Folder) => matches!(self, Forgotten::Folder),
            Event::Sync(Synced::Body(_)) => matches!(self, Forgotten::Body),
            _ => false,
        }
    }
}
