//! What an operator does.

use super::*;

async fn set_aside(spool: &Arc<Spool>) -> u64 {
    let claim = spool.claim(Instant::now()).unwrap();
    let seq = claim.seq();
    claim.quarantine("refused".to_owned()).await.unwrap();
    seq
}

/// "retry: takes the quarantine off (durably) so that it is delivered again", before what is newer of
/// its key; of several at once only one does it.
#[tokio::test]
async fn what_was_set_aside_waits_again_in_its_old_place() {
    let (disk, spool) = spool();
    let old = put(&spool, "key", b"old", false).await.unwrap();
    assert_eq!(set_aside(&spool).await, old);
    let new = put(&spool, "key", b"new", false).await.unwrap();
    assert_eq!(spool.retry(new, false).await.unwrap(), Retried::NotSetAside);
    assert_eq!(spool.retry(new + 1, false).await.unwrap(), Retried::Unknown);
    assert_eq!(spool.retry(0, false).await.unwrap(), Retried::Unknown);
    let (first, second) = tokio::join!(spool.retry(old, false), spool.retry(old, false));
    let mut ends = [first.unwrap(), second.unwrap()];
    ends.sort_by_key(|end| *end == Retried::NotSetAside);
    assert_eq!(ends, [Retried::Waits, Retried::NotSetAside]);
    assert_eq!(spool.totals().quarantined, 0);
    drop(spool);
    let spool = open(&disk);
    assert_eq!(spool.totals().quarantined, 0, "that was not durable");
    let claim = spool.claim(Instant::now()).unwrap();
    assert_eq!(claim.seq(), old);
    assert!(spool.claim(Instant::now()).is_none(), "the newer one overtakes");
    claim.delivered().await.unwrap();
    assert_eq!(spool.claim(Instant::now()).unwrap().seq(), new);
}

/// A delivery that is under way is let be; what came back goes before whatever is tried again.
#[tokio::test]
async fn what_comes_back_waits_for_the_one_that_is_under_way() {
    let (_disk, spool) = spool();
    let old = put(&spool, "key", b"old", false).await.unwrap();
    set_aside(&spool).await;
    let new = put(&spool, "key", b"new", false).await.unwrap();
    let claim = spool.claim(Instant::now()).unwrap();
    assert_eq!(claim.seq(), new);
    assert_eq!(spool.retry(old, false).await.unwrap(), Retried::Overtaken);
    assert_eq!(spool.retry(old, true).await.unwrap(), Retried::Waits);
    assert!(spool.claim(Instant::now()).is_none(), "two of a key at a time");
    claim.failed(Instant::now());
    let claim = spool.claim(Instant::now()).unwrap();
    assert_eq!(claim.seq(), old);
    claim.delivered().await.unwrap();
    spool.claim(Instant::now()).unwrap().delivered().await.unwrap();
    assert!(!spool.is_pending("bucket", "key"));
    assert_eq!(spool.totals(), Totals::default());
}

/// What cannot be delivered stays where it is: it would be tried for ever.
#[tokio::test]
async fn one_whose_file_is_gone_stays_set_aside() {
    let (_disk, spool) = spool();
    for length in [20, 30, 40] {
        put(&spool, &length.to_string(), &vec![1; length], true).await.unwrap();
        set_aside(&spool).await;
    }
    let (gone, entry) = spool.list(0, 1).pop().unwrap();
    spool.disk().remove(entry.files().next().unwrap()).unwrap();
    assert!(matches!(spool.retry(gone, false).await.unwrap(), Retried::Lame(_)));
    assert!(matches!(spool.verify(gone, || {}).await, Verified::Rotten(_)));
    assert!(spool.bytes_of(gone).await.is_err());
    let all = RetriedAll { waiting: 2, damaged: 1, superseded: 0 };
    assert_eq!(spool.retry_all(false, || {}).await.unwrap(), all);
    assert_eq!(spool.totals().quarantined, 1);
}

/// "A retry of an old quarantined upload must not overwrite a newer delivered one", also after a restart.
#[tokio::test]
async fn what_was_superseded_stays_aside_unless_it_is_forced() {
    let (disk, spool) = spool();
    let old = put(&spool, "key", b"old", false).await.unwrap();
    set_aside(&spool).await;
    let other = put(&spool, "other", b"other", false).await.unwrap();
    set_aside(&spool).await;
    let new = put(&spool, "key", b"new", false).await.unwrap();
    assert_eq!(spool.claim(Instant::now()).unwrap().seq(), new);
    let claim = spool.claim(Instant::now()).unwrap();
    let syncs = disk.syncs();
    claim.delivered().await.unwrap();
    assert!(disk.syncs() - syncs <= 2, "the mark is in the same transaction");
    drop(spool);
    let spool = open(&disk);
    let of = |seq| spool.entry(seq).unwrap().superseded;
    assert_eq!((of(old), of(other)), (Some(Newer::Entry(new)), None));
    assert_eq!(spool.retry(old, false).await.unwrap(), Retried::Superseded(Newer::Entry(new)));
    let all = RetriedAll { waiting: 1, damaged: 0, superseded: 1 };
    assert_eq!(spool.retry_all(false, || {}).await.unwrap(), all);
    assert_eq!(spool.retry(old, true).await.unwrap(), Retried::Waits);
    assert_eq!(spool.claim(Instant::now()).unwrap().entry().quarantined, None);
    // Refused once more, it is as old as before.
    set_aside(&spool).await;
    assert_eq!(spool.retry(old, false).await.unwrap(), Retried::Superseded(Newer::Entry(new)));
}

/// "Nothing newer is written over": nor what went through while an older one was set aside.
#[tokio::test]
async fn what_a_write_through_came_after_stays_aside() {
    let (disk, spool) = spool();
    let (old, other) = (
        put(&spool, "key", b"old", false).await.unwrap(),
        put(&spool, "other", b"old", false).await.unwrap(),
    );
    set_aside(&spool).await;
    set_aside(&spool).await;
    spool.written_through("bucket", "key").await.unwrap();
    drop(spool);
    let spool = open(&disk);
    assert_eq!(spool.retry(old, false).await.unwrap(), Retried::Superseded(Newer::Through));
    assert_eq!(spool.retry(other, false).await.unwrap(), Retried::Waits);
}
