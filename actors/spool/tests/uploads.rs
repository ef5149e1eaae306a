//! Clients' multipart uploads on record: what becomes of their parts, their places and their files.

use super::*;
use crate::s3::names::PartNumber;
use crate::s3::xml::{CompleteRequest, CompletedPart};
use std::time::Duration;

pub(super) fn upload(tag: u64) -> ClientUpload {
    ClientUpload {
        bucket: "bucket".to_owned(),
        key: format!("key{}", tag % 3),
        principal: tag.to_string(),
        initiated: 1,
        token: tag,
        headers: vec![("x-amz-meta-a".to_owned(), vec![0xff])],
        checksum: None,
    }
}

pub(super) fn md5(bytes: &[u8]) -> [u8; 16] {
    let mut md5 = crate::payload::Md5::new();
    md5.update(bytes);
    md5.finish()
}

pub(super) fn asked(number: u16, bytes: &[u8]) -> CompleteRequest {
    let etag = format!("{:032x}", u128::from_be_bytes(md5(bytes)));
    let number = PartNumber::parse(&number.to_string()).unwrap();
    CompleteRequest { parts: vec![CompletedPart { number, etag, checksums: Vec::new() }] }
}

/// A part whose file is written and synced.
fn part(spool: &Spool, number: u16, bytes: &[u8]) -> (StoredPart, Reservation) {
    let reservation = spool.reserve(bytes.len() as u64).unwrap();
    let place = Place::File(body_file(spool, bytes).unwrap());
    let body = Body { length: bytes.len() as u64, md5: md5(bytes), place };
    (StoredPart { stored: 2, part: PartBody { number, body, checksum: None } }, reservation)
}

async fn begin(spool: &Arc<Spool>, tag: u64) -> UploadId {
    spool.begin_upload(upload(tag), spool.reserve(0).unwrap()).await.unwrap()
}

async fn send(spool: &Arc<Spool>, id: UploadId, number: u16, bytes: &[u8]) -> bool {
    let (part, reservation) = part(spool, number, bytes);
    spool.put_part(id, part, reservation).await.unwrap()
}

/// Waits until no file is there but these.
async fn until_files_are(disk: &Simulated, files: &[BodyId]) {
    let begun = Instant::now();
    while disk.bodies().unwrap() != files {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", disk.bodies());
        tokio::task::yield_now().await;
    }
}

/// "A part whose file is missing or short is dropped from the upload", durably; the rest goes on.
#[tokio::test]
async fn a_part_without_its_bytes_is_none() {
    let (disk, spool) = spool();
    let id = begin(&spool, 1).await;
    for number in 1..=3 {
        assert!(send(&spool, id, number, b"in a file").await);
    }
    let files = disk.bodies().unwrap();
    drop(spool);
    let mut image = disk.image();
    image.bodies.remove(&files[0]).unwrap();
    image.bodies.get_mut(&files[1]).unwrap().pop().unwrap();
    let disk = Simulated::new(image);
    for _ in 0..2 {
        let spool = open(&disk);
        let page = spool.list_parts(id, 0, None).unwrap();
        assert_eq!(page.parts.iter().map(|part| part.number).collect::<Vec<_>>(), [3]);
        assert_eq!(disk.bodies().unwrap(), files[2..]);
        let lost = spool.complete_upload(id, &asked(1, b"in a file"), Vec::new(), 3).await;
        let Err(CompleteError::Refused(error)) = lost else { panic!("{lost:?}") };
        assert_eq!(error.code, "InvalidPart");
    }
    assert_eq!(
        open(&disk).totals(),
        Totals { bytes: 9, files: 1, uploads: 1, parts: 1, part_bytes: 9, ..Totals::default() }
    );
}

/// What is part of the limits is so until it is ended, also after a start; what is not named is given back.
#[tokio::test]
async fn each_part_takes_a_place() {
    let disk = Simulated::new(Image::default());
    let limits = Limits { entries: 4, bytes: 100, ..LIMITS };
    let open = || Spool::open(Arc::new(disk.clone()), limits).unwrap();
    let spool = open();
    let id = begin(&spool, 1).await;
    assert!(send(&spool, id, 1, &[1; 40]).await);
    assert!(send(&spool, id, 1, &[2; 50]).await);
    assert!(send(&spool, id, 2, &[3; 40]).await);
    assert!(spool.reserve(11).is_err());
    drop(spool);
    let spool = open();
    assert!(spool.reserve(11).is_err());
    // The upload, two parts, and one more; then all places are taken.
    let last = spool.reserve(10).unwrap();
    assert!(spool.reserve(0).is_err());
    drop(last);
    spool.complete_upload(id, &asked(2, &[3; 40]), Vec::new(), 3).await.unwrap();
    assert!(spool.reserve(61).is_err());
    let three: Vec<_> = (0..3).map(|_| spool.reserve(20).unwrap()).collect();
    assert!(spool.reserve(0).is_err());
    drop(three);
    spool.claim(Instant::now()).unwrap().delivered().await.unwrap();
    assert!(spool.reserve(100).is_ok());
    assert_eq!(spool.totals(), Totals::default());
}

/// "Open uploads take max_entries, which deliveries do not drain": they leave half of it to the others.
#[tokio::test]
async fn open_uploads_leave_half_of_the_places() {
    let disk = Simulated::new(Image::default());
    let limits = Limits { entries: 6, ..LIMITS };
    let spool = Spool::open(Arc::new(disk.clone()), limits).unwrap();
    let (one, other) = (begin(&spool, 1).await, begin(&spool, 2).await);
    spool.may_open().unwrap();
    assert!(send(&spool, one, 1, b"x").await);
    let error = spool.may_open().unwrap_err();
    assert_eq!((error.status, &*error.code), (503, "SlowDown"));
    let others: Vec<_> = (0..3).map(|_| spool.reserve(1).unwrap()).collect();
    assert!(spool.reserve(1).is_err());
    drop((others, spool));
    let spool = Spool::open(Arc::new(disk.clone()), limits).unwrap();
    assert!(spool.may_open().is_err(), "a start forgets them");
    spool.complete_upload(one, &asked(1, b"x"), Vec::new(), 3).await.unwrap();
    spool.may_open().unwrap();
    assert!(spool.abort_upload(other).await.unwrap());
    let small = Limits { entries: 1, ..LIMITS };
    assert_eq!((small.open(), limits.open()), (2, 3));
}

/// "spool.multipart_ttl: no part/complete for so long -> removed with files."
#[tokio::test]
async fn what_gives_no_sign_of_life_is_ended() {
    let (disk, spool) = spool();
    let begun = async |tag, initiated| {
        let upload = ClientUpload { initiated, ..upload(tag) };
        spool.begin_upload(upload, spool.reserve(0).unwrap()).await.unwrap()
    };
    let ttl = Duration::from_secs(1);
    let old = begun(1, 1000).await;
    let alive = begun(2, 1000).await;
    let place = Place::File(body_file(&spool, b"x").unwrap());
    let body = Body { length: 1, md5: md5(b"x"), place };
    let part = |stored| {
        let body = body.clone();
        StoredPart { stored, part: PartBody { number: 1, body, checksum: None } }
    };
    assert!(spool.put_part(alive, part(1500), spool.reserve(1).unwrap()).await.unwrap());
    let ended = async |now| {
        let ended = spool.expire_uploads(now, Instant::now() + ttl, ttl).await.unwrap();
        ended.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(ended(2000).await, []);
    assert_eq!(ended(2001).await, [old]);
    assert_eq!(ended(2500).await, []);
    assert!(spool.has_upload(alive) && !spool.has_upload(old));
    assert_eq!(ended(2501).await, [alive]);
    drop(spool);
    assert_eq!(disk.bodies().unwrap(), []);
    assert_eq!(open(&disk).totals(), Totals::default());
}

/// "NTP stepping forward by more than the ttl, or a gateway that was stopped for longer than the ttl" ends
/// nothing that a client may still go on with.
#[tokio::test]
async fn the_wall_clock_alone_ends_nothing() {
    let (disk, spool) = spool();
    let id = begin(&spool, 1).await;
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    let ended = async |spool: &Spool, now| {
        !spool.expire_uploads(u64::MAX, now, day).await.unwrap().is_empty()
    };
    assert!(!ended(&spool, Instant::now()).await, "the clock has leapt");
    drop(spool);
    let spool = open(&disk);
    assert!(!ended(&spool, Instant::now()).await, "the gateway was stopped");
    let opened = Instant::now();
    assert!(send(&spool, id, 1, b"it goes on").await);
    let sent = Instant::now();
    assert!(opened < sent && !ended(&spool, opened + hour).await, "it was sent a part");
    assert!(ended(&spool, sent + hour).await && !spool.has_upload(id));
}

/// "An upload that got a part (200) meanwhile" has given a sign of life: it stays.
#[tokio::test]
async fn one_that_got_a_part_after_it_was_found_idle_stays() {
    let (_disk, spool) = spool();
    let (alive, idle) = (begin(&spool, 1).await, begin(&spool, 2).await);
    let found = spool.state.uploads().idle(u64::MAX, Instant::now(), 9);
    assert_eq!(found.len(), 2);
    assert!(send(&spool, alive, 1, b"meanwhile").await);
    let ended = spool.end_idle(found).await.unwrap();
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [idle]);
    assert!(spool.has_upload(alive) && !spool.has_upload(idle));
    spool.complete_upload(alive, &asked(1, b"meanwhile"), Vec::new(), 3).await.unwrap();
}

/// "They share commits."
#[tokio::test]
async fn those_that_are_ended_for_their_age_share_commits() {
    let (disk, spool) = spool();
    for tag in 0..20 {
        begin(&spool, tag).await;
    }
    let before = disk.syncs();
    begin(&spool, 20).await;
    let commit = disk.syncs() - before;
    let before = disk.syncs();
    let (second, later) = (Duration::from_secs(1), Instant::now() + Duration::from_secs(1));
    let ended = spool.expire_uploads(u64::MAX, later, second).await.unwrap();
    assert_eq!(ended.len(), 21);
    // Each could have had its own.
    assert!(disk.syncs() - before < 21 * commit, "{} of {commit}", disk.syncs() - before);
}

/// What is not even queued is in no doubt: its key does not count as pending.
#[tokio::test]
async fn a_complete_after_the_journal_failed_leaves_no_doubt() {
    let (_disk, spool) = spool();
    let id = begin(&spool, 1).await;
    assert!(send(&spool, id, 1, b"x").await);
    spool.latch("a test");
    let refused = spool.complete_upload(id, &asked(1, b"x"), Vec::new(), 3).await;
    assert!(matches!(refused, Err(CompleteError::Failed(_))), "{refused:?}");
    assert!(!spool.is_pending("bucket", &upload(1).key));
}

/// Of Aborts that come at once one ends it, and the others hear that there is none: no race is a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_loses_a_race_hears_of_no_failure() {
    let (_disk, spool) = spool();
    for tag in 0..500 {
        let id = begin(&spool, tag).await;
        let mut aborts = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let spool = Arc::clone(&spool);
            aborts.spawn(async move { spool.abort_upload(id).await });
        }
        let ended = aborts.join_all().await.into_iter().map(Result::unwrap);
        assert_eq!(ended.filter(|ended| *ended).count(), 1);
    }
}

/// What fails is told, ends all acknowledgements, and leaves nobody waiting.
#[tokio::test]
async fn a_journal_that_fails_keeps_nobody_waiting() {
    let (disk, spool) = spool();
    let id = begin(&spool, 1).await;
    let place = Place::File(body_file(&spool, b"x").unwrap());
    let body = Body { length: 1, md5: md5(b"x"), place };
    let part = StoredPart { stored: 2, part: PartBody { number: 1, body, checksum: None } };
    assert!(spool.put_part(id, part, spool.reserve(1).unwrap()).await.unwrap());
    disk.fail_after(0);
    let asked = asked(1, b"x");
    let (one, other, abort) = tokio::join!(
        spool.complete_upload(id, &asked, Vec::new(), 3),
        spool.complete_upload(id, &asked, Vec::new(), 3),
        spool.abort_upload(id),
    );
    assert!(matches!(one, Err(CompleteError::Failed(_))), "{one:?}");
    assert!(matches!(other, Err(CompleteError::Failed(_))), "{other:?}");
    abort.unwrap_err();
    // "SDKs give up on 404": what takes no parts may be there after the next start.
    assert!(spool.upload(id).is_none() && spool.upload_in_doubt(id));
    assert!(!spool.upload_in_doubt(UploadId { token: 9, ..id }));
    drop(spool);
    let spool = open(&disk);
    // Nobody knows whether the journal has it; either way the client can go on.
    assert_eq!(spool.totals().uploads + spool.totals().entries, 1);
    spool.complete_upload(id, &asked, Vec::new(), 3).await.unwrap();
    assert_eq!((spool.totals().uploads, spool.totals().entries), (0, 1));
}

/// A part that is on its way to the journal when its upload is ended is no part of it, and nothing of it
/// is left; what the Complete named stays.
#[tokio::test]
async fn a_part_that_is_late_leaves_nothing() {
    for completes in [true, false] {
        let disk = Simulated::new(Image::default());
        let limits = Limits { entries: 4, ..LIMITS };
        let spool = Spool::open(Arc::new(disk.clone()), limits).unwrap();
        let id = begin(&spool, 1).await;
        assert!(send(&spool, id, 1, b"first").await);
        let first = disk.bodies().unwrap();
        let (late, reservation) = part(&spool, 1, b"late");
        disk.hold();
        let sending = {
            let spool = Arc::clone(&spool);
            tokio::spawn(async move { spool.put_part(id, late, reservation).await })
        };
        tokio::task::yield_now().await;
        disk.wait_for_held();
        let asked = asked(1, b"first");
        let (ended, again, (), sent) = tokio::join!(
            async {
                match completes {
                    true => spool.complete_upload(id, &asked, Vec::new(), 3).await.map(|_| ()),
                    false => {
                        spool.abort_upload(id).await.map(|_| ()).map_err(CompleteError::Failed)
                    }
                }
            },
            spool.complete_upload(id, &asked, Vec::new(), 3),
            async { disk.let_go() },
            sending,
        );
        ended.unwrap();
        assert_eq!(again.is_ok(), completes, "{again:?}");
        assert!(!sent.unwrap().unwrap(), "it was told that its part is there");
        assert!(!send(&spool, id, 2, b"later").await);
        until_files_are(&disk, if completes { &first } else { &[] }).await;
        // One place for the entry; the others are free.
        let free = if completes { 3 } else { 4 };
        let places: Vec<_> = (0..free).map(|_| spool.reserve(1).unwrap()).collect();
        assert!(spool.reserve(1).is_err());
        drop(places);
        drop(spool);
        let spool = open(&disk);
        assert_eq!((spool.totals().uploads, spool.totals().parts), (0, 0));
        assert_eq!(spool.totals().entries, u64::from(completes));
        assert_eq!(disk.bodies().unwrap(), if completes { first } else { Vec::new() });
    }
}

/// "A part sent again replaces the record; the old file is unlinked after the commit."
#[tokio::test]
async fn a_part_that_is_sent_again_replaces_the_one_before() {
    let (disk, spool) = spool();
    let id = begin(&spool, 1).await;
    assert!(send(&spool, id, 1, b"before").await);
    assert!(send(&spool, id, 1, b"after").await);
    let last =
        spool.state.uploads().all_parts().filter_map(|(_, part)| part.file()).collect::<Vec<_>>();
    until_files_are(&disk, &last).await;
    assert_eq!(disk.body(last[0]).unwrap(), b"after");
    let (totals, page) = (spool.totals(), spool.list_parts(id, 0, None).unwrap());
    assert_eq!((totals.parts, totals.part_bytes, page.parts.len()), (1, 5, 1));
}

/// Parts that are not mounted are not lost either: "refused, until somebody says that they are".
#[tokio::test]
async fn parts_of_which_none_is_there_are_not_dropped_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let open = || Spool::open(Arc::new(Folder::open(&path)?), LIMITS);
    let spool = open().unwrap();
    let id = begin(&spool, 1).await;
    assert!(send(&spool, id, 1, b"in a file").await);
    drop(spool);
    let (bodies, away) = (path.join("bodies"), path.join("away"));
    std::fs::rename(&bodies, &away).unwrap();
    assert!(open().unwrap_err().to_string().contains("mount it"));
    std::fs::remove_dir(&bodies).unwrap();
    std::fs::rename(&away, &bodies).unwrap();
    assert_eq!(open().unwrap().totals().parts, 1);
    std::fs::remove_dir_all(&bodies).unwrap();
    std::fs::write(path.join("bodies-are-lost"), "").unwrap();
    let totals = open().unwrap().totals();
    assert_eq!((totals.uploads, totals.parts), (1, 0));
    assert!(!path.join("bodies-are-lost").exists());
}
