//! The connection against small servers on loopback sockets.

use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Longer than any step takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// The limit of steps that are meant to time out.
const SHORT: Duration = Duration::from_millis(50);

const CAP: usize = 4096;

const REQUEST: &[u8] = b"PUT /b/k HTTP/1.1\r\nHost: b\r\nContent-Length: 9000000000\r\n\r\n";

/// A connection and the backend's end of it.
pub(in super::super) async fn pair() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let resolver = Resolver::new();
    let (connection, accepted) =
        tokio::join!(Connection::connect(&resolver, &endpoint, None, LONG), listener.accept());
    (connection.unwrap(), accepted.unwrap().0)
}

/// Waits for a condition.
pub(in super::super) async fn until(mut condition: impl FnMut() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, poll).await.expect("the condition never held");
}

/// What a client reads when the backend sends `wire` and then closes.
async fn answer(wire: &[u8]) -> (Result<Response, BackendError>, Connection) {
    let (mut connection, mut server) = pair().await;
    connection.send_head(b"GET / HTTP/1.1\r\n\r\n", LONG).await.unwrap();
    // Read first: closing with unread bytes would be a reset.
    let mut request = [0; 18];
    server.read_exact(&mut request).await.unwrap();
    let serve = async {
        // The reader may stop early.
        let _ = server.write_all(wire).await;
        drop(server);
    };
    let (response, ()) = tokio::join!(connection.read_response(false, LONG, CAP), serve);
    (response, connection)
}

async fn body_of(wire: &str) -> Bytes {
    answer(wire.as_bytes()).await.0.unwrap().body
}

/// RFC 9112, 6.3: all ways in which a body can end.
#[tokio::test]
async fn bodies_are_read_to_their_end() {
    let ok = "HTTP/1.1 200 OK\r\n";
    assert_eq!(body_of(&format!("{ok}Content-Length: 4\r\n\r\nbody")).await, "body");
    assert_eq!(body_of(&format!("{ok}Content-Length: 0\r\n\r\n")).await, "");
    assert_eq!(body_of(&format!("{ok}\r\nbody")).await, "body");
    let chunked = format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n");
    assert_eq!(body_of(&chunked).await, "body");
}

/// "A client MUST be able to parse one or more 1xx responses received prior to a final response,
/// even if the client does not expect one."
#[tokio::test]
async fn interim_answers_are_skipped() {
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let wire = format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(body_of(&wire).await, "ok");

    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(MAX_INTERIM as usize + 1);
    for wire in [endless.as_str(), "HTTP/1.1 101 Switching Protocols\r\n\r\n"] {
        let error = answer(wire.as_bytes()).await.0.unwrap_err();
        assert!(matches!(error, BackendError::Malformed(ResponseError::UnexpectedInterim)));
    }
}

/// "Closed before any byte of the answer" is told apart from a truncated answer.
#[tokio::test]
async fn a_close_says_how_far_the_answer_came() {
    for (wire, expected) in [
        ("", Stage::FirstByte),
        ("HTTP/1.1 100 Continue\r\n\r\n", Stage::FirstByte),
        ("HTTP/1.1 2", Stage::Answer),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Stage::Answer),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody", Stage::Answer),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", Stage::Answer),
    ] {
        let (response, connection) = answer(wire.as_bytes()).await;
        let error = response.unwrap_err();
        assert!(matches!(error, BackendError::Closed { stage } if stage == expected), "{wire:?}");
        assert!(!connection.is_reusable());
    }
}

/// Garbage and oversize are errors at once, not when the connection ends.
#[tokio::test]
async fn unusable_answers_are_refused_at_once() {
    let wide = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(2 * super::super::MAX_RESPONSE_HEAD));
    let large = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", CAP + 1);
    let unframed = format!("HTTP/1.1 200 OK\r\n\r\n{}", "a".repeat(CAP + 1));
    for (wire, expected) in [
        ("\x16\x03\x01garbage", ResponseError::Malformed),
        (wide.as_str(), ResponseError::HeadTooLarge),
        (large.as_str(), ResponseError::BodyTooLarge),
        (unframed.as_str(), ResponseError::BodyTooLarge),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", ResponseError::BadChunk),
    ] {
        let (mut connection, mut server) = pair().await;
        // The server stays open all the while.
        let (response, _) = tokio::join!(
            connection.read_response(false, LONG, CAP),
            timeout(LONG, server.write_all(wire.as_bytes())),
        );
        let error = response.unwrap_err();
        assert!(matches!(error, BackendError::Malformed(found) if found == expected), "{error}");
    }
}

/// A connection serves one request after another, unless its last answer says otherwise.
#[tokio::test]
async fn connections_are_reused_only_when_clean() {
    let (mut connection, mut server) = pair().await;
    assert!(connection.is_reusable() && !connection.is_reused());
    for (head, body, reusable) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "ok surplus", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n", "ok", false),
    ] {
        connection.send_head_and_body(b"head ", b"body", LONG).await.unwrap();
        assert!(!connection.is_reusable(), "a request is under way");
        let mut request = [0; 9];
        server.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"head body");
        server.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let response = connection.read_response(false, LONG, CAP).await.unwrap();
        assert_eq!(response.body, if body.is_empty() { "" } else { "ok" });
        assert_eq!(connection.is_reusable(), reusable, "{head}");
        connection.buffer.clear();
    }
    assert_eq!(connection.served(), 4);
}

/// An answer to HEAD ends with its head, whatever its Content-Length.
#[tokio::test]
async fn a_head_answer_has_no_body() {
    let (mut connection, mut server) = pair().await;
    server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n").await.unwrap();
    let response = connection.read_response(true, LONG, CAP).await.unwrap();
    assert_eq!(response.head.header("content-length").unwrap(), "99");
    assert!(response.body.is_empty() && connection.is_reusable());
}

/// Nobody listens: an error, not a wait.
#[tokio::test]
async fn a_refused_connection_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let error = Connection::connect(&Resolver::new(), &endpoint, None, LONG).await.unwrap_err();
    assert!(matches!(error, BackendError::Connect(_)), "{error}");
    assert_eq!(error.stage(), Stage::Connect);
}

/// A name with an IPv6 and an IPv4 address is reached though only one of them listens.
#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let endpoint = format!("http://localhost:{port}").parse().unwrap();
    assert!(Connection::connect(&Resolver::new(), &endpoint, None, LONG).await.is_ok());
}

/// A black hole: neither the first byte nor the rest of an answer is waited for without end.
#[tokio::test]
async fn silence_times_out() {
    for (wire, expected) in [
        ("", Stage::FirstByte),
        ("HTTP/1.1 100 Continue\r\n\r\n", Stage::FirstByte),
        ("HTTP/1.1 200 O", Stage::Answer),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nbody", Stage::Answer),
    ] {
        let (mut connection, mut server) = pair().await;
        server.write_all(wire.as_bytes()).await.unwrap();
        let error = connection.read_response(false, SHORT, CAP).await.unwrap_err();
        assert!(matches!(error, BackendError::Timeout { stage } if stage == expected), "{wire:?}");
    }
}

/// A trickle is progress, but it does not hold the client for ever.
#[tokio::test]
async fn a_trickled_body_times_out() {
    let (mut connection, mut server) = pair().await;
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    let trickle = async {
        loop {
            let _ = server.write_all(b" ").await;
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    let error = tokio::select! {
        response = connection.read_response(false, SHORT, CAP) => response.unwrap_err(),
        () = trickle => unreachable!(),
    };
    assert!(matches!(error, BackendError::Timeout { stage: Stage::Answer }), "{error}");
}

/// A backend that takes no byte for longer than allowed.
#[tokio::test]
async fn a_stalled_write_times_out() {
    let (mut connection, _server) = pair().await;
    connection.send_head(REQUEST, LONG).await.unwrap();
    let body = vec![0; 64 * 1024 * 1024];
    let error = connection.send_all(&body, SHORT).await.unwrap_err();
    assert!(matches!(error, BackendError::Timeout { stage: Stage::Send }), "{error}");
}

/// A backend that takes its time, but takes something, gets everything.
#[tokio::test]
async fn a_large_request_arrives_whole() {
    let (mut connection, mut server) = pair().await;
    let body: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let take = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        all
    };
    let send = async {
        connection.send_head_and_body(REQUEST, &body, LONG).await.unwrap();
        connection.phase = Phase::Spent;
        drop(connection);
    };
    let (received, ()) = tokio::join!(take, send);
    assert!(received == [REQUEST, &body].concat());
}

const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Slow Down\r\nContent-Length: 8\r\nConnection: close\r\n\r\n<Error/>";

/// Reads one byte of the request, refuses it, and closes with the rest unread: a reset follows.
async fn refuse(mut server: TcpStream) {
    server.read_u8().await.unwrap();
    server.write_all(REFUSAL).await.unwrap();
}

/// A 503 that was queued before the connection was reset is still read after the write error.
#[tokio::test]
async fn the_answer_outlives_the_reset() {
    let (mut connection, server) = pair().await;
    let body = vec![0; 64 * 1024];
    connection.send_head_and_body(REQUEST, &body, LONG).await.unwrap();
    refuse(server).await;
    // Like a splice that does not look: writes on until the socket fails.
    until(|| {
        let error = connection.descriptor().unwrap().try_write(&body).map_err(|error| error.kind());
        matches!(error, Err(kind) if kind != io::ErrorKind::WouldBlock)
    })
    .await;
    let response = connection.answer_after_refusal(CAP, LONG).await.unwrap();
    assert_eq!((response.head.status, &response.body[..]), (503, &b"<Error/>"[..]));
    assert!(!connection.is_reusable());
}

/// A refusal ends a send that can go no further, well before it counts as stalled.
#[tokio::test]
async fn a_refusal_ends_a_blocked_send() {
    let (mut connection, mut server) = pair().await;
    let body = vec![0; 64 * 1024 * 1024];
    let send = async {
        let error = connection.send_head_and_body(REQUEST, &body, LONG).await.unwrap_err();
        assert!(matches!(error, BackendError::Closed { stage: Stage::Send }), "{error}");
        connection.answer_after_refusal(CAP, LONG).await.unwrap()
    };
    // The server answers and stays, without reading.
    let (response, sent) = tokio::join!(send, server.write_all(REFUSAL));
    sent.unwrap();
    assert_eq!(response.head.status, 503);
}

/// A refusal whose body is cut off still has its status.
#[tokio::test]
async fn a_truncated_refusal_keeps_its_status() {
    let (mut connection, mut server) = pair().await;
    server.write_all(&REFUSAL[..REFUSAL.len() - 1]).await.unwrap();
    let response = connection.answer_after_refusal(CAP, SHORT).await.unwrap();
    assert_eq!((response.head.status, response.body.len()), (503, 0));

    let (mut connection, server) = pair().await;
    drop(server);
    assert_eq!(connection.answer_after_refusal(CAP, LONG).await, None);
}

async fn is_pending(connection: &Connection) -> bool {
    timeout(SHORT, connection.answer_or_closed()).await.is_err()
}

/// While a body is sent, a final answer and a close are noticed; an interim answer is none.
#[tokio::test]
async fn an_early_answer_is_noticed() {
    let (connection, mut server) = pair().await;
    assert!(is_pending(&connection).await);
    for piece in
        ["HTTP/1.1 1", "00 Continue\r\n\r", "\n", "HTTP/1.1 103 X\r\nA: b\r\n\r\nHTTP/1.1 "]
    {
        server.write_all(piece.as_bytes()).await.unwrap();
        assert!(is_pending(&connection).await, "{piece:?}");
    }
    server.write_all(b"503 Slow Down\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    timeout(LONG, connection.answer_or_closed()).await.unwrap();
    let mut connection = connection;
    let response = connection.answer_after_refusal(CAP, LONG).await.unwrap();
    assert_eq!(response.head.status, 503);
}

/// So is everything that is no answer at all.
#[tokio::test]
async fn an_early_end_is_noticed() {
    for last_words in ["", "HTTP/1.1 100 Cont", "garbage"] {
        let (connection, mut server) = pair().await;
        server.write_all(last_words.as_bytes()).await.unwrap();
        drop(server);
        timeout(LONG, connection.answer_or_closed()).await.unwrap();
    }
    let (connection, server) = pair().await;
    server.set_zero_linger().unwrap();
    drop(server);
    timeout(LONG, connection.answer_or_closed()).await.unwrap();
}

/// What the backend reads last, after everything that came before it.
async fn last_read(mut server: TcpStream) -> io::Result<usize> {
    let mut space = [0; 1024];
    loop {
        match timeout(LONG, server.read(&mut space)).await.expect("neither closed nor reset") {
            Ok(read) if read > 0 => {}
            last => return last,
        }
    }
}

/// An exchange that is given up resets the connection: the backend cannot take the half for a
/// whole. One that ended, or never began, closes it.
#[tokio::test]
async fn giving_up_is_a_reset() {
    let (mut connection, server) = pair().await;
    connection.send_head(REQUEST, LONG).await.unwrap();
    connection.reset();
    assert_eq!(last_read(server).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let (mut connection, server) = pair().await;
    connection.send_head(REQUEST, LONG).await.unwrap();
    drop(connection);
    assert_eq!(last_read(server).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let (connection, server) = pair().await;
    drop(connection);
    assert_eq!(last_read(server).await.unwrap(), 0);
}

/// An idle connection that the backend has closed or reset, or into which it has talked, is stale.
#[tokio::test]
async fn staleness_is_noticed() {
    let (connection, server) = pair().await;
    assert!(!connection.is_stale());
    drop(server);
    until(|| connection.is_stale()).await;

    let (connection, mut server) = pair().await;
    server.write_all(b"H").await.unwrap();
    until(|| connection.is_stale()).await;
}

/// Connections move between tasks, and so do the futures of their methods.
#[test]
fn everything_is_send() {
    fn is_send(_: &impl Send) {}
    let resolver = Resolver::new();
    let endpoint: Endpoint = "http://localhost".parse().unwrap();
    is_send(&Connection::connect(&resolver, &endpoint, None, LONG));
    let _ = |mut connection: Connection| {
        is_send(&connection);
        is_send(&connection.send_head(b"", LONG));
        is_send(&connection.answer_or_closed());
        is_send(&connection.read_response(false, LONG, CAP));
        is_send(&connection.answer_after_refusal(CAP, LONG));
    };
}
