//! The job of the documentation, with MIZUCHI_LONG only: it takes minutes and 10 GiB of disk.

use super::*;
use crate::support::times;
use std::io::Write as _;

/// "`mizuchi upload` of a folder of 20,000 files and one of 5 GiB, killed three times and resumed: every
/// object once and equal". The short form is of 400 files and 12 MiB.
#[tokio::test]
async fn twenty_thousand_files_and_five_gib_survive_three_kills() {
    let (files, mib) = (times(400, 20_000), times(12, 5 * 1024));
    const LANES: usize = 32;
    let served = Served::start().await;
    let desk = Desk::new();
    for index in 0..files {
        desk.file(&format!("{:03}/f{index}", index / 100), &payload(200 + index % 9000));
    }
    let mut large = std::fs::File::create(desk.path("files/large")).unwrap();
    let block = payload(1 << 20);
    for index in 0..mib {
        large.write_all(&(index as u64).to_le_bytes()).unwrap();
        large.write_all(&block[8..]).unwrap();
    }
    drop(large);
    let endpoint = url(served.gateway.address);
    let arguments = ["files", "s3://uploads/p", "--endpoint", &endpoint, "--part-size", "5MiB"];
    let arguments = [&arguments[..], &["--quiet"]].concat();
    let started = Instant::now();
    for quarter in 1..=3 {
        let mut child = desk.command(&arguments).spawn().unwrap();
        loop {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it was killed");
            if desk.state_lines("done") >= files * quarter / 4 {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(1200));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        child.kill().unwrap();
        end(child).await;
    }
    desk.run(&arguments).await.assert(0);
    let took = started.elapsed();
    served.assert_same(&desk.path("files"), "p");
    let (puts, parts) = (served.requests("PutObject").await, served.requests("UploadPart").await);
    let of_large = (mib << 20).div_ceil(5 << 20);
    eprintln!(
        "{files} files and {mib} MiB in {took:?}: {puts} PutObjects, {parts} UploadParts of {of_large}"
    );
    assert!((files..=files + 3 * LANES).contains(&puts), "{puts}");
    assert!((of_large..=of_large + 3 * LANES).contains(&parts), "{parts}");
    assert_eq!(served.requests("CompleteMultipartUpload").await, 1);
    // One that was killed between the answer to Create and its record: docs/batch.md.
    assert!(served.backend.open_uploads() <= 3);
    assert_eq!(desk.state(), None);
}
