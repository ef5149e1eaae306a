//! What is claimed, in which order, and what waits for what.

use super::*;
use crate::spool::simulated::Crash;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::Duration;
use tokio::task::JoinSet;

/// A newer entry may be claimed when the older one's delivery is durable, not before; a crash between
/// makes the old one come again, and then the newer (reliability: R8).
#[tokio::test]
async fn a_newer_entry_waits_until_the_older_one_s_delivery_is_durable() {
    let (disk, spool) = spool();
    let old = put(&spool, "key", b"old", false).await.unwrap();
    let new = put(&spool, "key", b"new", true).await.unwrap();
    let now = Instant::now();
    let claim = spool.claim(now).unwrap();
    assert_eq!(claim.seq(), old);
    disk.hold();
    let delivered = tokio::spawn(claim.delivered());
    tokio::task::yield_now().await;
    disk.wait_for_held();
    assert!(spool.claim(now).is_none(), "the newer one overtakes");
    assert!(spool.is_pending("bucket", "key"));

    let mut crash = Crash::new(Image::default());
    disk.log().iter().for_each(|event| crash.step(event));
    let (mut random, mut again) = (StdRng::seed_from_u64(8), 0);
    for _ in 0..200 {
        let spool = open(&Simulated::new(crash.image(&mut random)));
        let mut claim = spool.claim(now).unwrap();
        if claim.seq() == old {
            again += 1;
            assert!(spool.claim(now).is_none());
            claim.delivered().await.unwrap();
            claim = spool.claim(now).unwrap();
        }
        assert_eq!(claim.seq(), new);
        claim.delivered().await.unwrap();
        assert!(spool.claim(now).is_none());
    }
    assert!(again > 20, "{again}");

    disk.let_go();
    delivered.await.unwrap().unwrap();
    assert_eq!(spool.claim(now).unwrap().seq(), new);
}

/// Group commit: what comes while one is written shares the next one.
#[tokio::test]
async fn many_commits_share_few_syncs() {
    let (disk, spool) = spool();
    let before = disk.syncs();
    disk.hold();
    let mut tasks = JoinSet::new();
    for n in 0..64 {
        let spool = Arc::clone(&spool);
        tasks.spawn(async move { put(&spool, &format!("key{n}"), b"small", false).await });
    }
    // One thread, and each is polled once in the order they came: then all are submitted.
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    disk.wait_for_held();
    assert!(tasks.try_join_next().is_none(), "acknowledged before it is durable");
    disk.let_go();
    let mut numbers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        numbers.push(done.unwrap().unwrap());
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 64);
    let syncs = disk.syncs() - before;
    assert!((1..=8).contains(&syncs), "{syncs} syncs");
}

/// The bodies' folder is synced once for all that name files, and before the journal names them.
#[tokio::test]
async fn a_commit_without_files_does_not_sync_the_folder() {
    use crate::spool::simulated::{Event, Synced};
    let (disk, spool) = spool();
    let folders = || {
        let log = disk.log();
        log.iter().filter(|event| matches!(event, Event::Sync(Synced::Folder))).count()
    };
    put(&spool, "a", b"inline", false).await.unwrap();
    assert_eq!(folders(), 0);
    put(&spool, "a", b"in a file", true).await.unwrap();
    assert_eq!(folders(), 1);
}

/// What was submitted goes on when nobody waits for it any more: a client that went away.
#[tokio::test]
async fn a_commit_and_a_delivery_go_on_when_nobody_waits() {
    let (disk, spool) = spool();
    let commit = {
        let spool = Arc::clone(&spool);
        async move { put(&spool, "key", b"x", false).await.map(drop) }
    };
    abandon(&disk, commit).await;
    until(&spool, |totals| totals.entries == 1).await;
    abandon(&disk, spool.claim(Instant::now()).unwrap().delivered()).await;
    until(&spool, |totals| totals == Totals::default()).await;
}

/// Drops a future while the disk is busy with what it asked for.
async fn abandon(disk: &Simulated, work: impl Future<Output = io::Result<()>> + Send + 'static) {
    disk.hold();
    let task = tokio::spawn(work);
    tokio::task::yield_now().await;
    disk.wait_for_held();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    disk.let_go();
}

async fn until(spool: &Arc<Spool>, wanted: impl Fn(Totals) -> bool) {
    let begun = Instant::now();
    while !wanted(spool.totals()) {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", spool.totals());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_claim_that_is_dropped_is_due_again_and_one_that_failed_is_later() {
    let (_disk, spool) = spool();
    let seq = put(&spool, "key", b"x", false).await.unwrap();
    let now = Instant::now();
    let claim = spool.claim(now).unwrap();
    assert_eq!((claim.attempts(), spool.next_due(now)), (0, None));
    let changed = spool.changed();
    drop(claim);
    changed.await;
    assert_eq!(spool.next_due(now), Some(now));
    let claim = spool.claim(now).unwrap();
    assert_eq!(claim.attempts(), 1);
    let later = now + Duration::from_secs(60);
    claim.failed(later);
    assert!(spool.claim(now).is_none());
    assert_eq!(spool.next_due(now), Some(later));
    let mut claim = spool.claim(later).unwrap();
    assert_eq!((claim.seq(), claim.attempts()), (seq, 2));
    claim.note_upload(Some("id".to_owned())).await.unwrap();
    assert_eq!(claim.entry().upload_id.as_deref(), Some("id"));
    drop(claim);
    assert_eq!(spool.claim(later).unwrap().entry().upload_id.as_deref(), Some("id"));
}

/// "delivered_all: ends when nothing of that key is pending": quarantine is not pending.
#[tokio::test]
async fn whoever_waits_for_a_key_waits_for_all_of_it_and_for_nothing_else() {
    let (_disk, spool) = spool();
    for key in ["a", "a", "b"] {
        put(&spool, key, b"x", false).await.unwrap();
    }
    spool.delivered_all("bucket", "nothing").await;
    let waiting = tokio::spawn({
        let spool = Arc::clone(&spool);
        async move { spool.delivered_all("bucket", "a").await }
    });
    let now = Instant::now();
    spool.claim(now).unwrap().delivered().await.unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let second = spool.claim(now).unwrap();
    assert_eq!(second.entry().key, "a");
    second.quarantine("rotten".to_owned()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert!(!spool.is_pending("bucket", "a") && spool.is_pending("bucket", "b"));
    assert_eq!((spool.totals().entries, spool.totals().quarantined), (2, 1));
}

/// On a key that is written all the time there is always one pending: what came later is not waited for.
#[tokio::test]
async fn whoever_waits_for_a_hot_key_waits_for_what_was_there() {
    let (_disk, spool) = spool();
    put(&spool, "a", b"old", false).await.unwrap();
    let waiting = tokio::spawn({
        let spool = Arc::clone(&spool);
        async move { spool.delivered_all("bucket", "a").await }
    });
    tokio::task::yield_now().await;
    put(&spool, "a", b"new", false).await.unwrap();
    assert!(!waiting.is_finished());
    spool.claim(Instant::now()).unwrap().delivered().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert!(spool.is_pending("bucket", "a"));
}

#[tokio::test]
async fn inline_bodies_are_read_while_they_are_on_record() {
    let (_disk, spool) = spool();
    let seq = put(&spool, "key", b"the bytes", false).await.unwrap();
    assert_eq!(&spool.inline(seq).await.unwrap()[..], b"the bytes");
    spool.claim(Instant::now()).unwrap().delivered().await.unwrap();
    assert_eq!(spool.inline(seq).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}
