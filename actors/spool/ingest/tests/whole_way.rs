//! From a client through the spool to a backend, all of it real.

use super::*;
use crate::backend::{Connection, Resolver};
use crate::metrics::Metrics;
use crate::orphans::wall_clock;
use crate::spool::check::{Checked, check_bytes, check_file, open};
use crate::spool::{Entry, EntryContent, Place as Stands};
use crate::transfer::{PartSource, PipeAllowance, PipeCache, ReplayBudget, ReplayResources};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::AtomicBool;

fn resources() -> ReplayResources {
    let pipes = PipeAllowance::new(None, Metrics::new().unwrap().pipes_refused);
    ReplayResources {
        budget: ReplayBudget::new(0, 0, 0),
        pipes: Arc::new(PipeCache::new(1 << 20, pipes)),
        overflow: None,
        memory_per_part: 0,
        turns: Arc::new(Turns::new(Instant::now())),
    }
}

/// Sends the part to a backend and gives back what arrives.
async fn deliver(mut source: PartSource, length: usize) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let resolver = Resolver::new();
    let (connection, accepted) =
        tokio::join!(Connection::connect(&resolver, &endpoint, None, LONG), listener.accept());
    let (mut connection, mut server) = (connection.unwrap(), accepted.unwrap().0);
    let (mut arrived, offered) = (vec![0; length], AtomicBool::new(false));
    let both = async {
        let send = source.send(&mut connection, LONG, &offered);
        tokio::join!(send, server.read_exact(&mut arrived))
    };
    let (sent, read) = timeout(LONG, both).await.unwrap();
    sent.unwrap();
    read.unwrap();
    arrived
}

async fn commit(place: &Place, ingested: Ingested) -> u64 {
    if let Some(draft) = ingested.draft {
        draft.keep();
    }
    let entry = Entry {
        bucket: "photos".to_owned(),
        key: "a".to_owned(),
        accepted: wall_clock(),
        principal: "ann".to_owned(),
        headers: Vec::new(),
        content: EntryContent::Whole(ingested.body),
        quarantined: None,
        upload_id: None,
        superseded: None,
    };
    place.spool.commit(entry, ingested.inline, ingested.reservation).await.unwrap()
}

/// "ETag acknowledged = ETag delivered": the bytes that were taken are the bytes that arrive.
#[tokio::test]
async fn what_was_taken_is_what_is_delivered() {
    let place = Place::new().await;
    for length in [1000, 3 * BATCH + 7] {
        let bytes = pattern(length);
        let (intake, _connection) = wire(bytes.clone()).await;
        let ingested = place.ingest(intake, Some(length as u64), 0).await.unwrap();
        let seq = commit(&place, ingested).await;
        let claim = place.spool.claim(Instant::now()).unwrap();
        assert_eq!(claim.seq(), seq);
        let EntryContent::Whole(body) = &claim.entry().content else { panic!("one PutObject") };
        let source = match body.place {
            Stands::Inline => {
                let inline = place.spool.inline(seq).await.unwrap();
                assert!(matches!(check_bytes(&inline, body), Checked::Sound));
                PartSource::stored_bytes(inline, resources())
            }
            Stands::File(id) => {
                let file = open(place.spool.disk(), id).await.unwrap();
                assert!(matches!(check_file(&file, body).await, Checked::Sound));
                PartSource::stored(file, 0, body.length, resources())
            }
        };
        assert!(deliver(source, length).await == bytes);
        claim.delivered().await.unwrap();
        place.until_files(0).await;
        assert_eq!(place.spool.totals().entries, 0);
    }
}

/// R7: "bit rot in the spool: 0 corrupt objects uploaded; entry quarantined".
#[tokio::test]
async fn a_bit_that_flips_after_the_commit_is_found_before_the_delivery() {
    let place = Place::new().await;
    let length = INLINE + 1;
    let (intake, _connection) = wire(pattern(length)).await;
    let ingested = place.ingest(intake, Some(length as u64), 0).await.unwrap();
    let id = ingested.draft.as_ref().unwrap().id();
    commit(&place, ingested).await;
    let path = place.directory.path().join("spool/bodies").join(id.to_string());
    let flipped = pattern(length)[length / 2] ^ 1;
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[flipped], length as u64 / 2).unwrap();
    let claim = place.spool.claim(Instant::now()).unwrap();
    let EntryContent::Whole(body) = &claim.entry().content else { panic!("one PutObject") };
    let file = open(place.spool.disk(), id).await.unwrap();
    let Checked::Rotten(reason) = check_file(&file, body).await else { panic!("it passed") };
    claim.quarantine(reason).await.unwrap();
    assert_eq!(place.spool.totals().quarantined, 1);
    assert!(place.spool.claim(Instant::now()).is_none());
    assert_eq!(place.files(), 1, "whoever looks into it finds the file");
}
