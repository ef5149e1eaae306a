//! Many objects in one body (docs/batch.md): archives that become their files.

mod archives;
mod hostile;
mod post;
mod snowball;

use crate::support::client::{Answer, Client, Request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::LedgerS3;
use std::path::Path;

const ALLOW: &str = "    upload:\n      batch:\n        snowball: allow\n        post: allow\n";

/// A gateway whose bucket takes archives, over an S3 that keeps books of what it is sent.
struct Rig {
    s3: LedgerS3,
    gateway: Gateway,
    spool: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Rig {
        Rig::with(ALLOW, |setup| setup).await
    }

    /// `bucket`: YAML inside the bucket, indented by four.
    async fn with(bucket: &str, change: impl FnOnce(Setup) -> Setup) -> Rig {
        let s3 = LedgerS3::start(true).await;
        let spool = tempfile::tempdir().unwrap();
        let gateway = start(&s3, spool.path(), bucket, change).await;
        Rig { s3, gateway, spool }
    }

    async fn put(&self, archive: &[u8]) -> Answer {
        self.put_with(archive, |request| request).await
    }

    async fn put_with(&self, archive: &[u8], change: impl FnOnce(Request) -> Request) -> Answer {
        let request = Request::put("snowball.tar", archive.len())
            .header("x-amz-meta-snowball-auto-extract", "true");
        let mut client = Client::connect(&self.gateway).await;
        client.send(change(request), archive).await
    }

    /// The keys that the backend has, sorted.
    fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.s3.books(|books| books.objects.keys().cloned().collect());
        keys.sort();
        keys
    }

    /// That an object is there, and is this.
    fn assert_is(&self, key: &str, body: &[u8]) {
        let object = self.s3.books(|books| books.objects.get(key).cloned());
        let object = object.unwrap_or_else(|| panic!("{key} is not there: {:?}", self.keys()));
        assert_eq!(object.length, body.len() as u64, "{key}");
        assert_eq!(object.etag.trim_matches('"'), md5(body), "{key}");
    }

    /// That nothing is left of a batch: no file, no place, no upload.
    async fn left_nothing(&self) {
        eventually("the files of the archives are gone", async || {
            std::fs::read_dir(self.spool.path().join("bodies")).unwrap().count() == 0
        })
        .await;
        self.gateway.settled().await;
        assert_eq!(self.gateway.metric("mizuchi_batches_in_flight").await, 0.0);
    }
}

async fn start(
    s3: &LedgerS3,
    spool: &Path,
    bucket: &str,
    change: impl FnOnce(Setup) -> Setup,
) -> Gateway {
    let mut setup = Setup::over(s3.address).bucket(bucket);
    setup.extra = format!(
        "spool:\n  directory: {}\n  backoff_base: 20ms\n  backoff_cap: 100ms\n  min_free: 0\n",
        spool.display()
    );
    change(setup).start().await
}

fn md5(bytes: &[u8]) -> String {
    use md5::Digest as _;
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
