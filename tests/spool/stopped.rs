//! Entries that are written here instead of by a gateway: in parts, and very many.

use super::*;

fn entry(key: &str, content: EntryContent) -> Entry {
    Entry {
        bucket: "uploads".to_owned(),
        key: key.to_owned(),
        accepted: 1,
        principal: "tester".to_owned(),
        headers: Vec::new(),
        content,
        quarantined: None,
        upload_id: None,
        superseded: None,
    }
}

/// An upload in parts comes out as the object that it would be, each part held against its own MD5.
#[tokio::test]
async fn parts_come_out_one_after_the_other() {
    let mut rig = Rig::protected().await;
    rig.proxy.set_away(true);
    rig.stop().await;
    let spool = rig.opened();
    let whole = payload(1_000_000);
    let mut parts = Vec::new();
    for (number, bytes) in [(3, &whole[..300_001]), (7, &whole[300_001..])] {
        let id = spool.new_body();
        let mut file = spool.disk().create(id, None).unwrap();
        file.append(&[Bytes::copy_from_slice(bytes)]).unwrap();
        file.sync().unwrap();
        let md5 = md5::Md5::digest(bytes).into();
        let body = Body { length: bytes.len() as u64, md5, place: Place::File(id) };
        parts.push(PartBody { number, body, checksum: None });
    }
    let reservation = spool.reserve(whole.len() as u64).unwrap();
    let entry = entry("in-parts", EntryContent::Parts(Parts { parts, headers: Vec::new() }));
    let number = spool.commit(entry, None, reservation).await.unwrap().to_string();
    drop(spool);
    for _ in ["stopped", "running"] {
        assert!(rig.run(&["export", &number, "-"]).await.stdout == whole);
        assert!(rig.run(&["show", &number]).await.well().contains("part 7 "));
        assert!(rig.run(&["verify"]).await.well().starts_with("1 sound"));
        if rig.gateway.is_none() {
            rig.start().await;
        }
    }
    // Whichever of them rots.
    rig.stop().await;
    let mut bytes = std::fs::read(rig.file()).unwrap();
    bytes[0] ^= 1;
    std::fs::write(rig.file(), bytes).unwrap();
    assert!(rig.run(&["export", &number, "-"]).await.failed(1).contains("rotten"));
    rig.run(&["verify"]).await.failed(1);
}

/// "ls: pages through all."
#[tokio::test]
async fn a_long_list_is_listed_whole() {
    let mut rig = Rig::new("").await;
    rig.proxy.set_away(true);
    rig.stop().await;
    let spool = rig.opened();
    let mut commits = tokio::task::JoinSet::new();
    for number in 0..1203 {
        let spool = Arc::clone(&spool);
        let body = Body { length: 1, md5: md5::Md5::digest(b"x").into(), place: Place::Inline };
        let entry = entry(&format!("key-{number}"), EntryContent::Whole(body));
        let reservation = spool.reserve(1).unwrap();
        let body = Some(Bytes::from_static(b"x"));
        commits.spawn(async move { spool.commit(entry, body, reservation).await.unwrap() });
    }
    commits.join_all().await;
    drop(spool);
    let mut listed = Vec::new();
    for _ in ["stopped", "running"] {
        let lines = rig.run(&["ls", "--json"]).await.well();
        let rows: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut keys: Vec<String> = rows.iter().map(|row| row["key"].to_string()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!((rows.len(), keys.len()), (1203, 1203));
        listed.push(rows.iter().map(|row| row["number"].as_u64().unwrap()).collect::<Vec<_>>());
        if rig.gateway.is_none() {
            rig.start().await;
        }
    }
    assert_eq!(listed[0], listed[1]);
    assert!(listed[0].is_sorted());
    let status = get(rig.address, "/readyz").await;
    assert_eq!(status, "ready, degraded: uploads wait for more than an hour\n");
}
