//! R9, every cell: {Create, Part, Complete, Abort, Put} × what a backend can do wrong, for requests
//! that clients send and for the gateway's own of a split PutObject. The backend keeps the books, so
//! that nothing left behind is overlooked.

use crate::support::client::{Answer, Client, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::{eventually, payload, times};
use md5::Digest as _;

const OPERATIONS: [&str; 5] = ["Create", "Part", "Complete", "Abort", "Put"];

fn twists() -> Vec<Twist> {
    vec![
        Twist::ResetBefore,
        Twist::ResetInside,
        Twist::LoseAnswer,
        Twist::Answer(500, "InternalError"),
        Twist::Answer(503, "SlowDown"),
        Twist::Blackhole,
        Twist::Trickle,
        Twist::Truncate,
        Twist::Garbage,
        Twist::HalfClose,
    ]
}

/// Lines of the access log would be all there is to see.
const QUIET: &str = "info,access=off";

async fn pair() -> (LedgerS3, Gateway) {
    let s3 = LedgerS3::start(true).await;
    let gateway = Setup::over(s3.address)
        .bucket("    upload:\n      multipart_threshold: 5MiB\n      part_size: 5MiB\n")
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__FIRST_BYTE", "200ms")
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__COMPLETE", "200ms")
        .env("MIZUCHI__BUCKETS__0__S3__TIMEOUTS__PROGRESS", "200ms")
        .env("MIZUCHI__BUCKETS__0__UPLOAD__RESTART__BACKOFF_BASE", "1ms")
        .env("MIZUCHI__LOGGING__LEVEL", QUIET)
        .start()
        .await;
    (s3, gateway)
}

/// A client's own multipart upload of one part, ended by Complete or Abort. The answers.
async fn multipart(client: &mut Client, key: &str, body: &[u8], abort: bool) -> Vec<Answer> {
    let created = client.send(Request::method("POST", key).query("uploads", ""), b"").await;
    let Some(id) = created.element("UploadId") else { return vec![created] };
    let part = Request::put(key, body.len()).query("partNumber", "1").query("uploadId", &id);
    let part = client.send(part, body).await;
    let etag = part.header("etag").unwrap_or_default();
    if abort {
        let abort = Request::method("DELETE", key).query("uploadId", &id);
        let aborted = client.send(abort, b"").await;
        return vec![created, part, aborted];
    }
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
         </CompleteMultipartUpload>",
        etag.replace('"', "&quot;")
    );
    let mut complete = Request::method("POST", key).query("uploadId", &id);
    complete.length = Some(document.len() as u64);
    complete.payload = mizuchi_actors::sigv4::PayloadHash::of(document.as_bytes());
    let completed = client.send(complete, document.as_bytes()).await;
    vec![created, part, completed]
}

/// "Right bytes or right error, 0 orphan multipart uploads": a client's requests. All but a PutObject
/// without any digest, whose lost answer nothing can prove, succeed.
#[tokio::test]
async fn every_cell_of_a_client_s_requests() {
    let (s3, gateway) = pair().await;
    let body = payload(100_000);
    for operation in OPERATIONS {
        for twist in twists() {
            for round in 0..times(20, 200) {
                let cell = format!("{operation} {twist:?} {round}");
                let mut client = Client::connect(&gateway).await;
                s3.script([(operation, twist.clone())]);
                let answers = match operation {
                    "Put" => vec![client.send(Request::put("k", body.len()), &body).await],
                    _ => multipart(&mut client, "k", &body, operation == "Abort").await,
                };
                assert!(s3.script_done(), "{cell}: the fault did not happen");
                let last = answers.last().unwrap();
                match (operation, last.status) {
                    ("Abort", 204) => {}
                    ("Put", 503) => assert_eq!(last.code(), "ServiceUnavailable", "{cell}"),
                    (_, 200) if operation != "Abort" => {
                        let length = s3.books(|books| books.objects.remove("k").unwrap().length);
                        assert_eq!(length, body.len() as u64, "{cell}");
                    }
                    (_, status) => panic!("{cell}: {status} {}", last.text()),
                }
                // A reset counts as a lost answer once the other side's kernel has everything.
                let answered = matches!(twist, Twist::Answer(..) | Twist::Trickle | Twist::Garbage);
                assert!(operation != "Put" || !answered || last.status == 200, "{cell}");
                // What an upload beside them does: nothing. It also refills the retry budget.
                for _ in 0..2 {
                    let beside = client_beside(&gateway).await;
                    assert_eq!(beside.status, 200, "{cell}: {}", beside.text());
                }
            }
        }
    }
    nothing_left(&s3, &gateway).await;
}

async fn client_beside(gateway: &Gateway) -> Answer {
    let mut client = Client::connect(gateway).await;
    client.send(Request::put("beside", 1000), &payload(1000)).await
}

/// The same for the requests of a split PutObject: the client sees one PUT, and it succeeds.
#[tokio::test]
async fn every_cell_of_a_split_put() {
    let (s3, gateway) = pair().await;
    let body = payload((11 << 20) + 3);
    let sizes = [5 << 20, 5 << 20, (1 << 20) + 3];
    for operation in ["Create", "Part", "Complete"] {
        for twist in twists() {
            for round in 0..times(2, 20) {
                let cell = format!("{operation} {twist:?} {round}");
                let mut client = Client::connect(&gateway).await;
                s3.script([(operation, twist.clone())]);
                let answer = client.send(Request::put("split", body.len()), &body).await;
                assert_eq!(answer.status, 200, "{cell}: {}", answer.text());
                assert!(s3.script_done(), "{cell}: the fault did not happen");
                let object = s3.books(|books| books.objects.remove("split").unwrap());
                assert_eq!(object.length, body.len() as u64, "{cell}");
                let mut rest = body.as_slice();
                let mut all = md5::Md5::new();
                for size in sizes {
                    let (part, after) = rest.split_at(size);
                    all.update(md5::Md5::digest(part));
                    rest = after;
                }
                let whole: String = all.finalize().iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(object.etag, format!("\"{whole}-3\""), "{cell}: the bytes");
                for _ in 0..2 {
                    assert_eq!(client_beside(&gateway).await.status, 200, "{cell}");
                }
            }
        }
    }
    nothing_left(&s3, &gateway).await;
}

/// Past every restart: the client gets an error, and the upload is aborted, also when the first
/// Abort fails.
#[tokio::test]
async fn a_split_that_cannot_be_saved_is_aborted() {
    let (s3, gateway) = pair().await;
    let body = payload(11 << 20);
    for abort in [None, Some(Twist::LoseAnswer), Some(Twist::Answer(403, "AccessDenied"))] {
        let mut client = Client::connect(&gateway).await;
        let mut script = vec![("Part", Twist::Answer(403, "AccessDenied"))];
        script.extend(abort.map(|twist| ("Abort", twist)));
        s3.script(script);
        let answer = client.send(Request::put("k", body.len()), &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "AccessDenied"));
        eventually("the fault happened", async || s3.script_done()).await;
        assert!(s3.books(|books| books.objects.is_empty()));
    }
    nothing_left(&s3, &gateway).await;
}

/// R10: "Complete answers 200 with `<Error>` inside: 100 % reported as an error."
#[tokio::test]
async fn an_error_inside_a_200_is_an_error() {
    let (s3, gateway) = pair().await;
    for round in 0..times(50, 1000) {
        let mut client = Client::connect(&gateway).await;
        let key = format!("k{round}");
        s3.script([("Complete", Twist::ErrorInside("InvalidPart"))]);
        let answer = if round % 5 == 0 {
            client.send(Request::put(&key, 6 << 20), &payload(6 << 20)).await
        } else {
            multipart(&mut client, &key, &payload(1000), false).await.pop().unwrap()
        };
        assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidPart"));
        assert!(!s3.books(|books| books.objects.contains_key(&key)));
    }
    // The clients' own are theirs to abort; the gateway's are gone.
    let splits = times(50, 1000).div_ceil(5);
    eventually("the splits are aborted", async || s3.books(|books| books.aborted) == splits).await;
    // One that may go away is tried again.
    let mut client = Client::connect(&gateway).await;
    s3.script([("Complete", Twist::ErrorInside("InternalError"))]);
    let answer = multipart(&mut client, "again", &payload(1000), false).await.pop().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn nothing_left(s3: &LedgerS3, gateway: &Gateway) {
    eventually("no multipart upload is left", async || s3.books(|books| books.uploads.is_empty()))
        .await;
    gateway.settled().await;
}
