//! Syncs that fail (reliability: R5), and a disk that is full (R6).

use super::*;
use crate::spool::simulated::Crash;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::time::Duration;

/// What was acknowledged until something failed.
#[derive(Debug, Default)]
struct Acknowledged {
    /// By number: key and bytes.
    stored: Vec<(u64, String, Vec<u8>)>,
    delivered: Vec<u64>,
}

/// Uploads and deliveries until one fails; true: none did.
async fn live(spool: &Arc<Spool>, so_far: &mut Acknowledged) -> bool {
    for n in 0..8_usize {
        let (key, bytes) = (format!("key{}", n % 3), vec![n as u8; 1000 * n]);
        match put(spool, &key, &bytes, n % 2 == 1).await {
            Ok(seq) => so_far.stored.push((seq, key, bytes)),
            Err(_) => return false,
        }
        if n % 3 == 2 {
            let claim = spool.claim(Instant::now()).unwrap();
            let seq = claim.seq();
            if claim.delivered().await.is_err() {
                return false;
            }
            so_far.delivered.push(seq);
        }
    }
    true
}

/// "fsync returns EIO: no 200 for that data, no second fsync on it, acknowledgements stop (503),
/// restart recovers": at each sync that there is.
#[tokio::test]
async fn a_failed_sync_ends_all_acknowledgements_and_is_not_repeated() {
    let mut random = StdRng::seed_from_u64(5);
    let mut failures = Vec::new();
    for n in 0.. {
        let disk = Simulated::new(Image::default());
        disk.fail_after(n);
        let mut so_far = Acknowledged::default();
        match Spool::open(Arc::new(disk.clone()), LIMITS) {
            Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}"),
            Ok(spool) => {
                let place = spool.reserve(1).unwrap();
                if live(&spool, &mut so_far).await {
                    assert!(disk.failed().is_none(), "sync {n} failed, and nobody heard of it");
                    break;
                }
                let syncs = disk.syncs();
                assert!(spool.totals().latched);
                let refused = spool.reserve(1).unwrap_err();
                assert_eq!((refused.status, &*refused.code), (503, "SlowDown"));
                let late = entry("late", 1, Place::Inline);
                let late = spool.commit(late, Some(Bytes::from_static(b"1")), place).await;
                assert!(late.is_err(), "it acknowledges still");
                assert_eq!(disk.syncs(), syncs, "it syncs still");
            }
        }
        let (failed, again) = disk.failed().unwrap();
        assert_eq!(again, 0, "{failed:?} was synced a second time");
        failures.push(failed);
        let mut crash = Crash::new(Image::default());
        disk.log().iter().for_each(|event| crash.step(event));
        let mut images = vec![disk.image()];
        images.extend((0..10).map(|_| crash.image(&mut random)));
        for image in images {
            reopened(image, &so_far).await;
        }
    }
    use crate::spool::simulated::Synced;
    assert!(failures.contains(&Synced::Journal) && failures.contains(&Synced::Folder));
    assert!(failures.iter().any(|failed| matches!(failed, Synced::Body(_))));
    assert!(failures.len() > 15, "{failures:?}");
}

async fn reopened(image: Image, so_far: &Acknowledged) {
    let disk = Simulated::new(image);
    let spool = open(&disk);
    let there = spool.list(0, usize::MAX);
    for (seq, key, bytes) in &so_far.stored {
        let found = there.iter().find(|(found, _)| found == seq);
        if so_far.delivered.contains(seq) {
            assert!(found.is_none());
            continue;
        }
        // One whose delivery was to be recorded when the disk failed may be gone.
        let oldest = so_far.stored.iter().find(|(seq, ..)| !so_far.delivered.contains(seq));
        let Some((_, entry)) = found else {
            assert_eq!(oldest.map(|(oldest, ..)| oldest), Some(seq), "lost");
            continue;
        };
        assert_eq!((&entry.key, &entry.quarantined), (key, &None));
        assert_eq!(&bytes_of(&disk, &spool, *seq, entry).unwrap(), bytes);
    }
    put(&spool, "after", b"it takes uploads again", true).await.unwrap();
}

/// What was to be ended on record when the journal failed is not delivered over and over.
#[tokio::test]
async fn a_delivery_that_cannot_be_recorded_blocks_its_key_alone() {
    let (disk, spool) = spool();
    for key in ["a", "a", "b"] {
        put(&spool, key, b"x", false).await.unwrap();
    }
    disk.fail_after(0);
    let now = Instant::now();
    let first = spool.claim(now).unwrap();
    first.delivered().await.unwrap_err();
    let other = spool.claim(now).unwrap();
    assert_eq!(other.entry().key, "b");
    other.delivered().await.unwrap_err();
    assert!(spool.claim(now).is_none());
    drop(spool);
    assert_eq!(open(&disk).totals().quarantined, 0);
}

/// A commit that failed may have reached the disk: the next start would deliver it over what was written
/// through to its key meanwhile, so nothing is, whoever still waits for the commit.
#[tokio::test]
async fn a_key_whose_commit_failed_is_pending_until_the_next_start() {
    let (disk, spool) = spool();
    put(&spool, "before", b"x", false).await.unwrap();
    disk.fail_after(0);
    put(&spool, "doubtful", b"x", false).await.unwrap_err();
    assert!(spool.is_pending("bucket", "doubtful") && !spool.is_pending("bucket", "other"));
    let waiting = spool.delivered_all("bucket", "doubtful");
    let for_long = std::time::Duration::from_millis(20);
    tokio::time::timeout(for_long, waiting).await.unwrap_err();
    // One that was never tried is in no doubt.
    let reservation = spool.reserve(1).map(drop);
    assert!(reservation.is_err());
}

/// "Spool disk full: 503 SlowDown before the body is read; recovers <= 5 s after space returns."
#[tokio::test]
async fn a_full_disk_is_refused_at_once_and_used_again_when_it_has_room() {
    let (disk, spool) = spool();
    let until = |room: bool| {
        let begun = Instant::now();
        while spool.reserve(1000).is_ok() != room {
            assert!(begun.elapsed() < Duration::from_secs(5), "still the same: {room}");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    for free in [Free { bytes: LIMITS.free_bytes, files: 1000 }, Free { bytes: 1 << 40, files: 10 }]
    {
        disk.set_free(free);
        until(false);
        assert_eq!(&*spool.reserve(1000).unwrap_err().code, "SlowDown");
        disk.set_free(Free { bytes: 1 << 40, files: 1000 });
        until(true);
    }
}

/// 503 past `entries` or `bytes`: what is stored counts, also what was found at the start, until it is
/// delivered.
#[tokio::test]
async fn what_waits_for_its_delivery_takes_its_place() {
    let disk = Simulated::new(Image::default());
    let limits = Limits { entries: 2, bytes: 100, ..LIMITS };
    let open = || Spool::open(Arc::new(disk.clone()), limits).unwrap();
    let spool = open();
    put(&spool, "a", &[1; 60], true).await.unwrap();
    assert!(spool.reserve(41).is_err());
    drop(spool);
    let spool = open();
    assert!(spool.reserve(41).is_err());
    let second = spool.reserve(40).unwrap();
    assert!(spool.reserve(0).is_err());
    drop(second);
    spool.claim(Instant::now()).unwrap().delivered().await.unwrap();
    assert!(spool.reserve(100).is_ok());
    assert_eq!(spool.totals(), Totals::default());
}
