//! Faults of the disk that the spool stands on. Those that need strace, or a file system of their own,
//! are in tests/durability.

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request, signer};
use crate::support::gateway::Gateway;
use crate::support::proxy::Proxy;
use crate::support::{eventually, payload, times};
use crate::write_back::setup;
use mizuchi_actors::spool::{Folder, Limits, Spool};
use std::sync::Arc;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;

struct Rig {
    backend: Backend,
    proxy: Proxy,
    spool: tempfile::TempDir,
    gateway: Gateway,
}

impl Rig {
    /// With these failpoints, its backend away.
    async fn new(failpoints: &str) -> Rig {
        let backend = Backend::start().await;
        let proxy = Proxy::start(backend.s3.address).await;
        proxy.set_away(true);
        let spool = tempfile::tempdir().unwrap();
        let setup = setup(&backend, &proxy, spool.path(), "").env("FAILPOINTS", failpoints);
        let gateway = setup.start().await;
        Rig { backend, proxy, spool, gateway }
    }

    async fn stop(&mut self) {
        self.gateway.signal("TERM");
        assert!(self.gateway.ended().await.success(), "{}", self.gateway.log());
    }

    async fn start(&mut self) {
        self.gateway = setup(&self.backend, &self.proxy, self.spool.path(), "").start().await;
    }

    async fn put(&self, key: &str, body: &[u8]) -> Answer {
        let mut client = Client::connect(&self.gateway).await;
        client.send(Request::put(key, body.len()), body).await
    }

    async fn arrives(&self, key: &str, body: &[u8]) {
        eventually(&format!("{key} arrives"), async || {
            self.backend.object(key).is_some_and(|found| found == body)
        })
        .await;
    }
}

/// R5: "fsync returns EIO: no 200 for that upload, later ones 503, restart recovers", of a body's file
/// and of the folder; what was acknowledged before goes on.
#[tokio::test]
async fn a_sync_that_fails_ends_acknowledgements_until_the_restart() {
    for point in ["spool::sync_body", "spool::sync_folder"] {
        let mut rig = Rig::new(&format!("{point}=1*off->return")).await;
        let body = payload(100_000);
        assert_eq!(rig.put("first", &body).await.status, 200);
        let failed = rig.put("fails", &body).await;
        assert_eq!(failed.status, 503, "{point}: {}", failed.text());
        assert_eq!(rig.gateway.metric("mizuchi_spool_latched").await, 1.0);
        // Its body is not asked for, and the disk would do well again.
        let mut client = Client::connect(&rig.gateway).await;
        let request = Request::put("later", 10).header("expect", "100-continue");
        let head = request.sign(&client.host.clone(), &signer(), OffsetDateTime::now_utc());
        client.socket.write_all(&head).await.unwrap();
        // Not an interim one.
        let later = client.one(false).await;
        assert_eq!((later.status, &*later.code()), (503, "SlowDown"), "{point}: {}", later.head);
        // One that stays open is waited for when the gateway stops.
        drop(client);
        let mut admin = Client::to(rig.gateway.admin).await;
        let ready = admin.raw(b"GET /readyz HTTP/1.1\r\nHost: admin\r\n\r\n", b"").await;
        assert_eq!(ready.status, 503, "{}", ready.text());
        assert!(ready.text().contains("the spool's disk has failed"), "{}", ready.text());
        rig.proxy.set_away(false);
        rig.arrives("first", &body).await;
        rig.stop().await;
        rig.start().await;
        assert_eq!(rig.gateway.metric("mizuchi_spool_latched").await, 0.0);
        assert_eq!(rig.put("after", &body).await.status, 200);
        rig.arrives("after", &body).await;
        // On record or not: its client was told nothing that is not true.
        assert!(rig.backend.object("fails").is_none_or(|found| found == body));
        assert_eq!(rig.gateway.metric("mizuchi_spool_quarantined").await, 0.0);
    }
}

/// Acknowledged: key and body.
type Put = (String, Vec<u8>);

/// Has as many uploads acknowledged as there are sizes, each unlike all others from its first bytes on.
async fn acknowledged(rig: &Rig, sizes: impl Iterator<Item = usize>) -> Vec<Put> {
    let mut all = Vec::new();
    for (number, size) in sizes.enumerate() {
        let mut body = payload(size);
        body[..8].copy_from_slice(&rand::random::<u64>().to_le_bytes());
        let key = format!("key-{number}");
        assert_eq!(rig.put(&key, &body).await.status, 200);
        all.push((key, body));
    }
    all
}

/// `rotten` are set aside and never arrive, the others do.
async fn all_are_judged(rig: &Rig, rotten: &[Put], sound: &[Put]) {
    let flips = rotten.len() as f64;
    for (key, body) in sound {
        rig.arrives(key, body).await;
    }
    eventually("all that are rotten are set aside, and no other waits", async || {
        rig.gateway.metric("mizuchi_spool_quarantined").await == flips
            && rig.gateway.metric("mizuchi_spool_entries").await == flips
    })
    .await;
    let outcome = "mizuchi_spool_deliveries_total{outcome=\"quarantined\"}";
    assert_eq!(rig.gateway.metric(outcome).await, flips);
    for (key, _) in rotten {
        assert_eq!(rig.backend.object(key), None, "{key}");
    }
}

/// R7: "bit rot in the spool: 0 corrupt objects uploaded; entry quarantined; metric". One bit of each
/// file, wherever it is; every fifth body stays sound, and arrives.
#[tokio::test]
async fn no_flipped_bit_of_a_file_reaches_the_backend() {
    const BODIES: usize = 25;
    for _ in 0..times(1, 50) {
        let mut rig = Rig::new("").await;
        let sizes = (0..BODIES).map(|_| rand::random_range(65_537..300_000));
        let (mut rotten, mut sound) = (Vec::new(), Vec::new());
        for (number, one) in acknowledged(&rig, sizes).await.into_iter().enumerate() {
            if number % 5 == 4 { sound.push(one) } else { rotten.push(one) }
        }
        rig.stop().await;
        let mut flipped = 0;
        for file in std::fs::read_dir(rig.spool.path().join("bodies")).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            if rotten.iter().any(|(_, body)| *body == bytes) {
                let at = rand::random_range(0..bytes.len());
                bytes[at] ^= 1 << rand::random_range(0..8);
                std::fs::write(&path, bytes).unwrap();
                flipped += 1;
            }
        }
        assert_eq!(flipped, rotten.len());
        rig.proxy.set_away(false);
        rig.start().await;
        all_are_judged(&rig, &rotten, &sound).await;
    }
}

impl Rig {
    /// Flips the same bit of every copy of `text` in the journal, which is closed: pages that redb has given
    /// up keep theirs.
    fn flip_in_journal(&self, text: &[u8]) {
        let disk = Arc::new(Folder::open(self.spool.path()).unwrap());
        let limits = Limits { entries: 10, bytes: 1 << 30, free_bytes: 0, free_files: 0 };
        drop(Spool::open(disk, limits).unwrap());
        let file = self.spool.path().join("journal.redb");
        let mut journal = std::fs::read(&file).unwrap();
        let (at, bit) = (rand::random_range(0..text.len()), 1 << rand::random_range(0..8));
        let copies: Vec<usize> =
            (0..journal.len()).filter(|from| journal[*from..].starts_with(text)).collect();
        assert!(!copies.is_empty());
        for from in copies {
            journal[from + at] ^= bit;
        }
        std::fs::write(&file, journal).unwrap();
    }
}

/// The same of a body that stands in a journal that was closed. (One that was not is held against its
/// own checksums when it is opened: docs/reliability.md.)
#[tokio::test]
async fn no_flipped_bit_of_the_journal_s_bodies_reaches_the_backend() {
    for _ in 0..times(1, 100) {
        let mut rig = Rig::new("").await;
        let sizes = [100, 2000, 65_536].map(|most| rand::random_range(64..=most));
        let mut sound = acknowledged(&rig, sizes.into_iter()).await;
        let rotten = sound.remove(rand::random_range(0..3));
        rig.stop().await;
        rig.flip_in_journal(&rotten.1);
        rig.proxy.set_away(false);
        rig.start().await;
        all_are_judged(&rig, &[rotten], &sound).await;
    }
}

/// And of a record: its body is not delivered under another key, or with other headers, but kept.
#[tokio::test]
async fn a_record_that_is_damaged_delivers_nothing() {
    for _ in 0..times(1, 100) {
        let mut rig = Rig::new("").await;
        let all = acknowledged(&rig, [100, 100_000].into_iter()).await;
        rig.stop().await;
        rig.flip_in_journal(b"\"key\":\"key-1\"");
        rig.proxy.set_away(false);
        rig.start().await;
        rig.arrives("key-0", &all[0].1).await;
        eventually("nothing else waits", async || {
            rig.gateway.metric("mizuchi_spool_entries").await == 0.0
        })
        .await;
        assert_eq!(rig.gateway.metric("mizuchi_spool_unreadable").await, 1.0);
        assert_eq!(rig.backend.objects(), ["key-0"]);
        let kept = std::fs::read_dir(rig.spool.path().join("bodies")).unwrap().next().unwrap();
        assert!(std::fs::read(kept.unwrap().path()).unwrap() == all[1].1);
    }
}
