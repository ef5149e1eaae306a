use super::super::super::entry::{Body, BodyId, PartBody, Place};
use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn upload(initiated: u64, token: u64) -> Arc<ClientUpload> {
    Arc::new(ClientUpload {
        bucket: "b".to_owned(),
        key: "k".to_owned(),
        principal: "p".to_owned(),
        initiated,
        token,
        headers: Vec::new(),
        checksum: None,
    })
}

fn part(number: u16, file: u64, stored: u64) -> StoredPart {
    let body = Body { length: file, md5: [0; 16], place: Place::File(BodyId(file)) };
    StoredPart { stored, part: PartBody { number, body, checksum: None } }
}

/// One step of a run. Uploads are numbered 0 to 3; a number is begun again only under another one.
#[derive(Debug, Clone)]
enum Step {
    Begin(u8),
    Part(u8, u16),
    /// With the version that was seen when the number was drawn, or an older one.
    Close(u8, bool),
    /// What was closed is ended, completed or not.
    End(u8, bool),
    Reopen(u8),
    Tick(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = 0..4u8;
    let step = prop_oneof![
        2 => which.clone().prop_map(Step::Begin),
        5 => (which.clone(), 1..4u16).prop_map(|(which, number)| Step::Part(which, number)),
        2 => (which.clone(), any::<bool>()).prop_map(|(which, stale)| Step::Close(which, stale)),
        2 => (which.clone(), any::<bool>()).prop_map(|(which, done)| Step::End(which, done)),
        1 => which.prop_map(Step::Reopen),
        2 => (0..20u8).prop_map(Step::Tick),
    ];
    prop::collection::vec(step, 0..80)
}

/// The same by remembering everything.
#[derive(Debug, Default)]
struct Modelled {
    number: u64,
    /// By number: the file.
    parts: BTreeMap<u16, u64>,
    late: Vec<u64>,
    closing: bool,
    life: u64,
}

fn run(steps: Vec<Step>) {
    let mut table = Uploads::default();
    let mut model: HashMap<u8, Modelled> = HashMap::new();
    let mut completed: HashMap<u64, u64> = HashMap::new();
    let begun = Instant::now();
    let at = |now| begun + Duration::from_millis(now);
    let (mut now, mut next, mut senders) = (1000, 1, HashMap::new());
    // Every file that was given is in the table, or was given back, once.
    let (mut given, mut back) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        next += 1;
        match step {
            Step::Tick(by) => now += u64::from(by),
            Step::Begin(which) => {
                if model.contains_key(&which) {
                    continue;
                }
                table.insert(next, upload(now, next * 7), at(now));
                model.insert(which, Modelled { number: next, life: now, ..Modelled::default() });
            }
            Step::Part(which, number) => {
                let Some(modelled) = model.get_mut(&which) else {
                    assert_eq!(table.place(u64::MAX, part(number, next, now), at(now)), None);
                    continue;
                };
                given.insert(next);
                let placed =
                    table.place(modelled.number, part(number, next, now), at(now)).unwrap();
                if modelled.closing {
                    modelled.late.push(next);
                    assert_eq!(placed, Placed::Late);
                    continue;
                }
                modelled.life = modelled.life.max(now);
                let before = modelled.parts.insert(number, next);
                let Placed::Kept(found) = placed else { panic!("{placed:?}") };
                assert_eq!(found.map(|found| found.body().length), before);
                back.extend(before);
            }
            Step::Close(which, stale) => {
                let Some(modelled) = model.get_mut(&which) else { continue };
                let id = UploadId { number: modelled.number, token: modelled.number * 7 };
                let (sender, receiver) = watch::channel(());
                let version = match table.look(id) {
                    Look::Open(found) => found.version.wrapping_sub(u64::from(stale)),
                    Look::Closing(_) => 0,
                    other => panic!("{other:?}"),
                };
                let other = UploadId { token: 1, ..id };
                assert!(!table.close(other, None, receiver.clone()), "another's id");
                let closed = table.close(id, Some(version), receiver);
                assert_eq!(closed, !modelled.closing && !stale);
                if closed {
                    modelled.closing = true;
                    senders.insert(modelled.number, sender);
                }
            }
            Step::Reopen(which) => {
                let Some(modelled) = model.get_mut(&which).filter(|one| one.closing) else {
                    continue;
                };
                // Only what nobody was late for: it is taken back at once.
                if modelled.late.is_empty() {
                    table.reopen(UploadId { number: modelled.number, token: modelled.number * 7 });
                    modelled.closing = false;
                }
            }
            Step::End(which, done) => {
                if !model.get(&which).is_some_and(|one| one.closing) {
                    continue;
                }
                let modelled = model.remove(&which).unwrap();
                let ended = table.end(modelled.number).unwrap();
                let mut files: Vec<u64> = ended.iter().map(|part| part.body().length).collect();
                let mut expected: Vec<u64> = modelled.parts.into_values().collect();
                expected.extend(modelled.late);
                files.sort();
                expected.sort();
                assert_eq!(files, expected);
                back.extend(files);
                senders.remove(&modelled.number);
                if done {
                    let (upload, token) = (modelled.number, modelled.number * 7);
                    let etag = upload.to_string();
                    table.remember(next, Completed { upload, token, etag, checksum: None });
                    completed.insert(modelled.number, next);
                }
            }
        }
        look_at(&table, &model, &completed, (now, at(now)));
        let there: BTreeSet<u64> = table.all_parts().map(|(_, part)| part.body().length).collect();
        assert!(there.is_disjoint(&back), "given back and kept");
        assert_eq!(there.union(&back).copied().collect::<BTreeSet<u64>>(), given);
    }
}

fn look_at(
    table: &Uploads,
    model: &HashMap<u8, Modelled>,
    completed: &HashMap<u64, u64>,
    (now, clock): (u64, Instant),
) {
    let mut counts = Counts { uploads: model.len() as u64, ..Counts::default() };
    for modelled in model.values() {
        counts.parts += (modelled.parts.len() + modelled.late.len()) as u64;
        counts.bytes += modelled.parts.values().chain(&modelled.late).sum::<u64>();
        let id = UploadId { number: modelled.number, token: modelled.number * 7 };
        assert_eq!(table.is_open(id), !modelled.closing);
        assert_eq!(table.is_closing(id), modelled.closing);
        assert_eq!(table.upload(id).is_some(), !modelled.closing);
        assert!(table.has(id));
        assert!(matches!(table.look(UploadId { token: 1, ..id }), Look::Unknown));
        match table.look(id) {
            Look::Closing(_) => assert!(modelled.closing),
            Look::Open(found) => {
                let files = found.parts.values().map(|part| part.body().length);
                assert!(files.eq(modelled.parts.values().copied()));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(table.counts(), counts);
    for number in completed.keys() {
        let id = UploadId { number: *number, token: number * 7 };
        let Look::Completed(found) = table.look(id) else { panic!("forgotten") };
        assert_eq!(found.etag, number.to_string());
        assert!(!table.has(id));
    }
    let idle = table.idle(now, clock, 100);
    for one in &idle {
        let Look::Open(found) = table.look(one.id) else { panic!("it is being ended") };
        assert_eq!(one.version, found.version);
    }
    let idle: Vec<u64> = idle.iter().map(|one| one.id.number).collect();
    let open = model.values().filter(|one| !one.closing && one.life < now);
    let mut expected: Vec<(u64, u64)> = open.map(|one| (one.life, one.number)).collect();
    expected.sort();
    let early = clock - Duration::from_secs(3600);
    assert!(table.idle(u64::MAX, early, 100).is_empty(), "all were heard of since");
    assert_eq!(idle, expected.iter().map(|(_, number)| *number).collect::<Vec<_>>());
}

proptest! {
    /// "Exactly one wins, nothing leaks": against a model that remembers everything.
    #[test]
    fn it_is_what_its_steps_make_of_it(steps in steps()) {
        run(steps);
    }
}

/// "A bounded recent list": the oldest go.
#[test]
fn completed_uploads_are_remembered_up_to_a_bound() {
    let mut table = Uploads::default();
    let count = COMPLETED as u64 + 10;
    for upload in 0..count {
        let etag = String::new();
        table.remember(1000 + upload, Completed { upload, token: 1, etag, checksum: None });
    }
    let known = |number| matches!(table.look(UploadId { number, token: 1 }), Look::Completed(_));
    assert_eq!((known(9), known(10), known(count - 1)), (false, true, true));
    assert_eq!((table.completed.len(), table.completed_of.len()), (COMPLETED, COMPLETED));
}
