//! ListMultipartUploads: off by default; on, a caller sees its own uploads and no other's.

use crate::support::client::{Client, Request, signer_with};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::LedgerS3;
use time::OffsetDateTime;

const TWO_CALLERS: &str = "    upload:\n      list_multipart_uploads: true\n";

async fn gateway(s3: &LedgerS3, state: &tempfile::TempDir) -> Gateway {
    Setup::over(s3.address)
        .bucket(TWO_CALLERS)
        .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.path().to_str().unwrap())
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__ACCESS_KEY", "AKIAOTHER")
        .env("MIZUCHI__BUCKETS__0__AUTH__SIGV4__CREDENTIALS__1__SECRET_KEY", "other")
        .start()
        .await
}

fn list() -> Request {
    Request { path: "/uploads".to_owned(), ..Request::method("GET", "") }.query("uploads", "")
}

async fn create(client: &mut Client, key: &str) -> String {
    let created = client.send(Request::method("POST", key).query("uploads", ""), b"").await;
    created.element("UploadId").unwrap()
}

/// "No downloads, listings or deletes": uploads too, unless the bucket says so.
#[tokio::test]
async fn uploads_are_not_listed_by_default() {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address).start().await;
    let mut client = Client::connect(&gateway).await;
    let answer = client.send(list(), b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "MethodNotAllowed"));
}

/// "ListMultipartUploads (only the caller's own)", with ids that the caller can use, also after a
/// restart.
#[tokio::test]
async fn a_caller_lists_its_own_uploads_and_no_other_s() {
    let s3 = LedgerS3::start(true).await;
    let state = tempfile::tempdir().unwrap();
    let mut running = gateway(&s3, &state).await;
    let mut client = Client::connect(&running).await;
    for key in ["b", "a/1", "a/2"] {
        create(&mut client, key).await;
    }
    let done = create(&mut client, "aborted").await;
    let abort = Request::method("DELETE", "aborted").query("uploadId", &done);
    assert_eq!(client.send(abort, b"").await.status, 204);
    let mut other = Client::connect(&running).await;
    let request = Request::method("POST", "theirs").query("uploads", "");
    let theirs = signer_with("AKIAOTHER", "other", "us-east-1");
    let head = request.sign(&other.host, &theirs, OffsetDateTime::now_utc());
    assert_eq!(other.raw(&head, b"").await.status, 200);

    for restarted in [false, true] {
        if restarted {
            running.signal("TERM");
            running.ended().await;
            running = gateway(&s3, &state).await;
        }
        let mut client = Client::connect(&running).await;
        let answer = client.send(list(), b"").await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{text}");
        let keys: Vec<&str> =
            text.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap()).collect();
        assert_eq!(keys, ["a/1", "a/2", "b"], "{text}");
        let paged = list().query("max-uploads", "1").query("prefix", "a/");
        let first = client.send(paged, b"").await;
        assert_eq!(first.element("IsTruncated").unwrap(), "true");
        let next = list()
            .query("prefix", "a/")
            .query("key-marker", &first.element("NextKeyMarker").unwrap())
            .query("upload-id-marker", &first.element("NextUploadIdMarker").unwrap());
        let second = client.send(next, b"").await;
        assert!(second.text().contains("<Key>a/2</Key>") && !second.text().contains("a/1</Key>"));
        // The listed id is one that the caller can go on with.
        let id = second.element("UploadId").unwrap();
        let part = Request::put("a/2", 10).query("partNumber", "1").query("uploadId", &id);
        assert_eq!(client.send(part, b"0123456789").await.status, 200);
    }
}

/// "Aborted after a TTL": only where the bucket sets one.
#[tokio::test]
async fn client_uploads_past_their_ttl_are_aborted() {
    let s3 = LedgerS3::start(true).await;
    let state = tempfile::tempdir().unwrap();
    let start = |ttl: Option<&str>| {
        let mut setup = Setup::over(s3.address)
            .bucket(TWO_CALLERS)
            .env("MIZUCHI__SERVER__STATE_DIRECTORY", state.path().to_str().unwrap());
        if let Some(ttl) = ttl {
            setup = setup.env("MIZUCHI__BUCKETS__0__UPLOAD__CLIENT_UPLOADS_TTL", ttl);
        }
        setup.start()
    };
    let mut running = start(None).await;
    let mut client = Client::connect(&running).await;
    create(&mut client, "old").await;
    running.signal("TERM");
    running.ended().await;
    // The least that can be set is a minute: the record is made older instead.
    age_records(&state.path().join("uploads.redb"));
    let running = start(Some("1m")).await;
    eventually("it is aborted", async || s3.books(|books| books.uploads.is_empty())).await;
    let mut client = Client::connect(&running).await;
    assert!(!client.send(list(), b"").await.text().contains("<Key>"));
}

fn age_records(path: &std::path::Path) {
    use redb::{Database, ReadableTable, TableDefinition};
    const UPLOADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("uploads/1");
    let database = Database::create(path).unwrap();
    let writing = database.begin_write().unwrap();
    {
        let mut table = writing.open_table(UPLOADS).unwrap();
        let rows: Vec<(u64, Vec<u8>)> = table
            .iter()
            .unwrap()
            .map(|row| row.map(|(id, json)| (id.value(), json.value().to_vec())).unwrap())
            .collect();
        assert_eq!(rows.len(), 1);
        for (id, json) in rows {
            let mut record: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let from = record["begun"]["from"].as_u64().unwrap();
            record["begun"]["from"] = (from - 120_000).into();
            table.insert(id, record.to_string().as_bytes()).unwrap();
        }
    }
    writing.commit().unwrap();
}
