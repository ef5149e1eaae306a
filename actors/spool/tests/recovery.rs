//! What the start makes of what it finds.

use super::*;

/// "An entry whose file is missing or shorter than recorded goes to quarantine with that reason (never
/// panics, never blocks the others)"; the next start leaves it there.
#[tokio::test]
async fn an_entry_without_its_file_is_in_quarantine_and_blocks_nobody() {
    let (disk, spool) = spool();
    for key in ["missing", "short", "short", "sound"] {
        put(&spool, key, b"in a file", true).await.unwrap();
    }
    let files: Vec<BodyId> = spool.list(0, 9).iter().flat_map(|(_, entry)| entry.files()).collect();
    drop(spool);
    let mut image = disk.image();
    image.bodies.remove(&files[0]).unwrap();
    image.bodies.get_mut(&files[1]).unwrap().pop().unwrap();
    let disk = Simulated::new(image);
    for _ in 0..2 {
        let spool = open(&disk);
        let entries = spool.list(0, 9);
        let reason = |n: usize| Some(&entries[n].1.quarantined.as_ref()?.reason);
        assert_eq!(reason(0).unwrap(), &format!("its file {} is missing", files[0]));
        assert!(reason(1).unwrap().contains("8 bytes instead of 9"), "{:?}", reason(1));
        assert_eq!((reason(2), reason(3)), (None, None));
        assert_eq!((spool.totals().quarantined, spool.totals().entries), (2, 4));
        assert!(!spool.is_pending("bucket", "missing"));
        let now = Instant::now();
        let (first, second) = (spool.claim(now).unwrap(), spool.claim(now).unwrap());
        assert_eq!((&*first.entry().key, &*second.entry().key), ("short", "sound"));
        assert!(spool.claim(now).is_none());
        assert_eq!(disk.bodies().unwrap(), files[1..]);
    }
}

/// A multipart delivery whose entry is in quarantine from the start on is nobody's to go on with: whoever
/// ends such uploads has it on record, and the entry names it no more.
#[tokio::test]
async fn what_an_entry_in_quarantine_began_at_its_backend_is_handed_over() {
    let (disk, spool) = spool();
    for key in ["missing", "sound"] {
        put(&spool, key, b"in a file", true).await.unwrap();
    }
    let mut claims: Vec<Claim> = (0..2).map(|_| spool.claim(Instant::now()).unwrap()).collect();
    for claim in &mut claims {
        let id = format!("of {}", claim.entry().key);
        claim.note_upload(Some(id)).await.unwrap();
    }
    drop(claims);
    let files: Vec<BodyId> = spool.list(0, 9).iter().flat_map(|(_, entry)| entry.files()).collect();
    drop(spool);
    let mut image = disk.image();
    image.bodies.remove(&files[0]).unwrap();
    let disk = Simulated::new(image);
    let ledger = crate::orphans::Ledger::in_memory();
    for _ in 0..2 {
        let spool = open(&disk);
        spool.hand_over_uploads(&ledger).await.unwrap();
        let ids = spool.list(0, 9).into_iter().map(|(_, entry)| entry.upload_id.clone());
        assert_eq!(ids.collect::<Vec<_>>(), [None, Some("of sound".to_owned())]);
        assert_eq!(ledger.own_count(), 1);
    }
    let due = ledger.claim(Instant::now(), crate::orphans::wall_clock(), |_| None).unwrap();
    let record = (&*due.record.bucket, &*due.record.key, due.record.upload_id.as_deref());
    assert_eq!(record, ("bucket", "missing", Some("of missing")));
}

/// "Removes body files that no entry names."
#[tokio::test]
async fn files_that_nobody_names_are_gone_after_the_start() {
    let (disk, spool) = spool();
    put(&spool, "a", b"in a file", true).await.unwrap();
    let kept = disk.bodies().unwrap();
    let left = body_file(&spool, b"a body whose client went away").unwrap();
    assert_eq!(disk.bodies().unwrap().len(), 2);
    drop(spool);
    let spool = open(&disk);
    assert_eq!(disk.bodies().unwrap(), kept);
    // And its name is not given again.
    assert!(spool.new_body() > left);
}

/// The files of what was delivered, and of what is discarded, go while it runs.
#[tokio::test]
async fn nothing_is_left_of_what_was_delivered_or_discarded() {
    let (disk, spool) = spool();
    put(&spool, "a", b"in a file", true).await.unwrap();
    let left = body_file(&spool, b"a body whose client went away").unwrap();
    spool.claim(Instant::now()).unwrap().delivered().await.unwrap();
    spool.discard(vec![left]);
    let begun = Instant::now();
    while !disk.bodies().unwrap().is_empty() {
        assert!(begun.elapsed().as_secs() < 10, "{:?}", disk.bodies());
        tokio::task::yield_now().await;
    }
    assert_eq!(spool.totals(), Totals::default());
}

/// All of it once more where it really stands.
#[tokio::test]
async fn a_folder_keeps_what_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/spool");
    let open = || Spool::open(Arc::new(Folder::open(&path)?), LIMITS);
    let spool = open().unwrap();
    let inline = put(&spool, "a", b"inline", false).await.unwrap();
    put(&spool, "b", b"in a file", true).await.unwrap();
    assert_eq!(open().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    drop(spool);
    let spool = open().unwrap();
    assert_eq!(&spool.inline(inline).await.unwrap()[..], b"inline");
    let totals = spool.totals();
    assert_eq!((totals.entries, totals.bytes, totals.files, totals.quarantined), (2, 15, 1, 0));
    while let Some(claim) = spool.claim(Instant::now()) {
        claim.delivered().await.unwrap();
    }
    drop(spool);
    assert_eq!(std::fs::read_dir(path.join("bodies")).unwrap().count(), 0);
    assert_eq!(open().unwrap().totals(), Totals::default());
}

/// A multipart upload is one entry with a file for each part.
#[tokio::test]
async fn parts_are_kept_and_removed_together() {
    let (disk, spool) = spool();
    let reservation = spool.reserve(30).unwrap();
    let part = |number| {
        let id = body_file(&spool, &[7; 10]).unwrap();
        let body = Body { length: 10, md5: [0; 16], place: Place::File(id) };
        PartBody { number, body, checksum: None }
    };
    let mut whole = entry("key", 0, Place::Inline);
    whole.content =
        EntryContent::Parts(Parts { parts: [1, 5, 9].map(part).to_vec(), headers: Vec::new() });
    spool.commit(whole.clone(), None, reservation).await.unwrap();
    drop(spool);
    let spool = open(&disk);
    assert_eq!((spool.totals().bytes, spool.totals().files), (30, 3));
    let claim = spool.claim(Instant::now()).unwrap();
    assert_eq!(**claim.entry(), whole);
    claim.delivered().await.unwrap();
    drop(spool);
    assert_eq!(disk.bodies().unwrap(), []);
}

/// A journal that is gone is no empty one: "refuse to open with an error that says what to do", and
/// nothing is removed or made.
#[tokio::test]
async fn bodies_without_their_journal_are_refused_and_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let open = || Spool::open(Arc::new(Folder::open(&path)?), LIMITS);
    put(&open().unwrap(), "a", b"in a file", true).await.unwrap();
    let journal = path.join("journal.redb");
    let kept = std::fs::read(&journal).unwrap();
    // Gone; empty; begun and never written.
    for left in [None, Some(vec![]), Some(vec![0; 8192])] {
        std::fs::remove_file(&journal).unwrap();
        if let Some(left) = &left {
            std::fs::write(&journal, left).unwrap();
        }
        assert!(Folder::holds_spool(&path).unwrap());
        for _ in 0..2 {
            let error = open().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("bring journal.redb back"), "{error}");
            assert_eq!(std::fs::read_dir(path.join("bodies")).unwrap().count(), 1);
            assert_eq!(std::fs::read(&journal).ok(), left);
        }
        std::fs::write(&journal, &kept).unwrap();
    }
    assert_eq!(open().unwrap().totals().entries, 1);
}

/// Bodies that are not mounted are not lost: refused too, until somebody says that they are.
#[tokio::test]
async fn a_journal_without_its_bodies_is_refused_until_that_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool");
    let open = || Spool::open(Arc::new(Folder::open(&path)?), LIMITS);
    let spool = open().unwrap();
    put(&spool, "a", b"in a file", true).await.unwrap();
    put(&spool, "b", b"inline", false).await.unwrap();
    drop(spool);
    let (bodies, away) = (path.join("bodies"), path.join("away"));
    std::fs::rename(&bodies, &away).unwrap();
    for _ in 0..2 {
        let error = open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("mount it"), "{error}");
    }
    // Mounted again.
    std::fs::remove_dir(&bodies).unwrap();
    std::fs::rename(&away, &bodies).unwrap();
    assert_eq!(open().unwrap().totals().quarantined, 0);
    std::fs::remove_dir_all(&bodies).unwrap();
    assert!(open().is_err());
    std::fs::write(path.join("bodies-are-lost"), "").unwrap();
    for _ in 0..2 {
        let totals = open().unwrap().totals();
        assert_eq!((totals.quarantined, totals.entries), (1, 2));
        assert!(!path.join("bodies-are-lost").exists());
    }
}

/// A gateway that stops closes its journal, whoever still holds the spool: nothing is to be repaired.
#[tokio::test]
async fn a_closed_spool_takes_nothing_and_opens_again() {
    let (disk, spool) = spool();
    put(&spool, "before", b"inline", false).await.unwrap();
    let reservation = spool.reserve(1).unwrap();
    spool.close().await;
    spool.close().await;
    let late = spool.commit(entry("late", 1, Place::Inline), Some("x".into()), reservation);
    assert!(late.await.unwrap_err().to_string().contains("ended"));
    let claim = spool.claim(Instant::now()).unwrap();
    assert!(spool.inline(claim.seq()).await.is_err());
    let opened = open(&disk);
    assert_eq!(opened.totals().entries, 1);
    drop((claim, spool));
}
