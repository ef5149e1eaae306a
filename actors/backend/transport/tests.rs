//! Connections through TLS, against a rustls server on a loopback socket.

use super::super::connection::Connection;
use super::super::connection::tests::until;
use super::super::error::{BackendError, Stage};
use super::super::resolve::Resolver;
use super::super::trust::{Authorities, TlsClient};
use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, SupportedProtocolVersion, version};
use tokio_rustls::{TlsAcceptor, server::TlsStream as ServerStream};

/// Longer than any step takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);
/// The limit of steps that are meant to time out.
const SHORT: Duration = Duration::from_millis(50);
const CAP: usize = 4096;
const REQUEST: &[u8] = b"PUT /b/k HTTP/1.1\r\nHost: b\r\nContent-Length: 9000000000\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const REFUSAL: &[u8] = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";

/// A server's certificate, and how it is served.
struct Served {
    names: Vec<String>,
    expired: bool,
    /// It says that it is an authority's.
    is_ca: bool,
    version: &'static SupportedProtocolVersion,
    alpn: &'static [u8],
    /// The name of its authority.
    issuer: &'static str,
}

impl Default for Served {
    fn default() -> Self {
        let names = vec!["backend.test".into(), "127.0.0.1".into(), "::1".into()];
        Served {
            names,
            expired: false,
            is_ca: false,
            version: &version::TLS13,
            alpn: b"http/1.1",
            issuer: "CA",
        }
    }
}

/// A TLS server that takes one connection after another.
struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// Its authority's certificate.
    authority: String,
}

impl Server {
    async fn start(served: Served) -> Server {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, served.issuer);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(served.names).unwrap();
        if served.expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        if served.is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[served.version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![served.alpn.to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Server { listener, acceptor: Arc::new(config).into(), authority: issuer.pem() }
    }

    fn endpoint(&self) -> Endpoint {
        format!("https://{}", self.listener.local_addr().unwrap()).parse().unwrap()
    }

    fn client(&self, server_name: Option<&str>) -> TlsClient {
        let mut authorities = Authorities::none();
        authorities.add_pem(&self.authority).unwrap();
        TlsClient::new(authorities, server_name).unwrap()
    }

    async fn accept(&self) -> io::Result<ServerStream<TcpStream>> {
        let (socket, _) = self.listener.accept().await?;
        self.acceptor.accept(socket).await
    }

    async fn connect(
        &self,
        client: &TlsClient,
    ) -> (Result<Connection, BackendError>, io::Result<ServerStream<TcpStream>>) {
        let (resolver, endpoint) = (Resolver::new(), self.endpoint());
        tokio::join!(Connection::connect(&resolver, &endpoint, Some(client), LONG), self.accept())
    }

    async fn pair(&self, client: &TlsClient) -> (Connection, ServerStream<TcpStream>) {
        let (connection, stream) = self.connect(client).await;
        (connection.unwrap(), stream.unwrap())
    }
}

async fn pair() -> (Connection, ServerStream<TcpStream>) {
    let server = Server::start(Served::default()).await;
    server.pair(&server.client(None)).await
}

/// One exchange.
async fn exchange(connection: &mut Connection, stream: &mut ServerStream<TcpStream>) {
    let serve = async {
        let mut request = [0; 9];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(&request, b"head body");
        stream.write_all(OK).await.unwrap();
        stream.flush().await.unwrap();
    };
    let ask = async {
        connection.send_head_and_body(b"head ", b"body", LONG).await.unwrap();
        connection.read_response(false, LONG, CAP).await.unwrap()
    };
    let (response, ()) = tokio::join!(ask, serve);
    assert_eq!((response.head.status, &response.body[..]), (200, &b"ok"[..]));
}

/// Requests go out, answers come in, with both versions of TLS; the backend is told HTTP/1.1.
#[tokio::test]
async fn exchanges_follow_each_other() {
    for version in [&version::TLS12, &version::TLS13] {
        let server = Server::start(Served { version, ..Served::default() }).await;
        let (mut connection, mut stream) = server.pair(&server.client(None)).await;
        assert!(connection.descriptor().is_none());
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        for _ in 0..3 {
            assert!(connection.is_reusable() && !connection.is_stale());
            exchange(&mut connection, &mut stream).await;
        }
    }
}

/// The second connection resumes the first one's session, also with a clone of the client.
#[tokio::test]
async fn sessions_are_resumed() {
    for version in [&version::TLS12, &version::TLS13] {
        let server = Server::start(Served { version, ..Served::default() }).await;
        let client = server.client(Some("backend.test"));
        let mut resumed = Vec::new();
        for client in [client.clone(), client] {
            let (mut connection, mut stream) = server.pair(&client).await;
            assert_eq!(stream.get_ref().1.server_name(), Some("backend.test"));
            // Tickets come with the first answer.
            exchange(&mut connection, &mut stream).await;
            let Transport::Tls(session) = connection.transport() else { panic!("not TLS") };
            resumed.push(session.is_resumed());
        }
        assert_eq!(resumed, [false, true]);
    }
}

/// A body larger than all buffers arrives whole, and nothing of it stays behind.
#[tokio::test]
async fn a_large_request_arrives_whole() {
    let (mut connection, mut stream) = pair().await;
    let body: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut received = vec![0; REQUEST.len() + body.len()];
    let (sent, taken) = tokio::join!(
        connection.send_head_and_body(REQUEST, &body, LONG),
        stream.read_exact(&mut received)
    );
    sent.unwrap();
    taken.unwrap();
    assert!(received == [REQUEST, &body].concat());
}

async fn is_pending(connection: &Connection) -> bool {
    timeout(SHORT, connection.answer_or_closed()).await.is_err()
}

/// While a body is sent, a final answer is noticed; tickets and interim answers are none.
#[tokio::test]
async fn an_early_answer_is_noticed() {
    let (mut connection, mut stream) = pair().await;
    connection.send_head(REQUEST, LONG).await.unwrap();
    assert!(is_pending(&connection).await);
    for piece in ["HTTP/1.1 1", "00 Continue\r\n\r\n", "HTTP/1.1 103 X\r\nA: b\r\n\r\nHTTP/1.1 "] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        assert!(is_pending(&connection).await, "{piece:?}");
    }
    connection.send_all(b"more", LONG).await.unwrap();
    stream.write_all(b"503 Slow Down\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    timeout(LONG, connection.answer_or_closed()).await.unwrap();
    timeout(LONG, connection.answer_or_closed()).await.unwrap();
    let response = connection.answer_after_refusal(CAP, LONG).await.unwrap();
    assert_eq!(response.head.status, 503);
}

/// So are all kinds of an end.
#[tokio::test]
async fn an_early_end_is_noticed() {
    for end in ["close_notify", "FIN", "RST", "garbage"] {
        let (connection, mut stream) = pair().await;
        assert!(is_pending(&connection).await);
        finish(&mut stream, end).await;
        timeout(LONG, connection.answer_or_closed()).await.unwrap();
    }
}

async fn finish(stream: &mut ServerStream<TcpStream>, end: &str) {
    let socket = stream.get_mut().0;
    match end {
        "close_notify" => stream.shutdown().await.unwrap(),
        "FIN" => socket.shutdown().await.unwrap(),
        "garbage" => socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap(),
        _ => {
            socket.set_zero_linger().unwrap();
            let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let new = TcpStream::connect(other.local_addr().unwrap()).await.unwrap();
            drop(std::mem::replace(socket, new));
        }
    }
}

/// A refusal ends a send that can go no further, well before it counts as stalled.
#[tokio::test]
async fn a_refusal_ends_a_blocked_send() {
    let (mut connection, mut stream) = pair().await;
    let body = vec![0; 64 * 1024 * 1024];
    let send = async {
        let error = connection.send_head_and_body(REQUEST, &body, LONG).await.unwrap_err();
        assert!(matches!(error, BackendError::Closed { stage: Stage::Send }), "{error}");
        connection.answer_after_refusal(CAP, LONG).await.unwrap()
    };
    let (response, sent) = tokio::join!(send, stream.write_all(REFUSAL));
    sent.unwrap();
    assert_eq!(response.head.status, 503);
}

/// A backend that takes no byte for longer than allowed.
#[tokio::test]
async fn a_stalled_write_times_out() {
    let (mut connection, _stream) = pair().await;
    let error = connection.send_all(&vec![0; 64 * 1024 * 1024], SHORT).await.unwrap_err();
    assert!(matches!(error, BackendError::Timeout { stage: Stage::Send }), "{error}");
}

/// Session tickets on an idle connection change nothing; an end or talk does.
#[tokio::test]
async fn only_tickets_leave_an_idle_connection_fresh() {
    for end in ["close_notify", "FIN", "RST", "garbage", "talk"] {
        let (connection, mut stream) = pair().await;
        // TLS 1.3: the server has sent its tickets with the handshake's end.
        connection.transport().socket().readable().await.unwrap();
        for _ in 0..3 {
            assert!(!connection.is_stale(), "{end}");
        }
        match end {
            "talk" => stream.write_all(b"H").await.unwrap(),
            end => finish(&mut stream, end).await,
        }
        until(|| connection.is_stale()).await;
        assert!(connection.is_stale(), "{end}");
    }
}

/// An answer that is framed by the end of the connection must end with the session's end: without
/// it, it may have been cut off.
#[tokio::test]
async fn a_truncated_session_is_no_end_of_a_body() {
    for (end, whole) in [("close_notify", true), ("FIN", false)] {
        let (mut connection, mut stream) = pair().await;
        connection.send_head(REQUEST, LONG).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nbody").await.unwrap();
        finish(&mut stream, end).await;
        let response = connection.read_response(false, LONG, CAP).await;
        match response {
            Ok(response) => assert!(whole && &response.body[..] == b"body"),
            Err(error) => {
                let unclean = "the connection ended without the end of its TLS session";
                assert!(!whole && error.to_string().contains(unclean), "{error}");
            }
        }
    }
}

/// A request that has left may have arrived, acknowledged or not; one that waits in this side's
/// buffers has not.
#[tokio::test]
async fn what_has_left_may_have_arrived() {
    let (mut connection, mut stream) = pair().await;
    exchange(&mut connection, &mut stream).await;
    connection.send_all(REQUEST, LONG).await.unwrap();
    stream.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
    finish(&mut stream, "RST").await;
    let error = connection.read_response(false, LONG, CAP).await.unwrap_err();
    assert!(matches!(error, BackendError::Io { stage: Stage::FirstByte, .. }), "{error}");
    assert!(connection.may_have_everything(&error));

    let (mut connection, mut stream) = pair().await;
    // Until both kernels' buffers are full.
    connection.send_all(&vec![0; 64 * 1024 * 1024], SHORT).await.unwrap_err();
    finish(&mut stream, "RST").await;
    let error = connection.read_response(false, LONG, CAP).await.unwrap_err();
    assert!(matches!(error, BackendError::Io { .. }), "{error}");
    // Where no kernel says, it may.
    assert_eq!(connection.may_have_everything(&error), !crate::platform::ZERO_COPY);
}

/// An exchange that is given up resets the connection; an idle one ends its session first.
#[tokio::test]
async fn giving_up_is_a_reset() {
    let (mut connection, mut stream) = pair().await;
    connection.send_head(REQUEST, LONG).await.unwrap();
    drop(connection);
    let error = timeout(LONG, stream.read_to_end(&mut Vec::new())).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let (mut connection, mut stream) = pair().await;
    exchange(&mut connection, &mut stream).await;
    drop(connection);
    assert_eq!(timeout(LONG, stream.read(&mut [0])).await.unwrap().unwrap(), 0);
}

/// What a failed handshake says.
async fn refusal_of(server: &Server, client: &TlsClient) -> String {
    let (connection, stream) = server.connect(client).await;
    let error = connection.unwrap_err();
    assert!(matches!(error, BackendError::Connect(_)), "{error}");
    assert!(stream.is_err());
    // A certificate does not mend itself.
    assert_eq!(error.cause().is_lasting(), error.to_string().contains("certificate"), "{error}");
    error.to_string()
}

/// A certificate that proves nothing is refused, and the error tells the operator what to do.
#[tokio::test]
async fn wrong_certificates_are_refused() {
    let server = Server::start(Served::default()).await;
    let text = refusal_of(&server, &server.client(Some("other.test"))).await;
    assert!(text.contains("not for other.test, but for"), "{text}");
    assert!(text.contains("backend.test") && text.contains("s3.tls.server_name"), "{text}");

    let stranger = Server::start(Served { issuer: "Other", ..Served::default() }).await;
    let text = refusal_of(&server, &stranger.client(None)).await;
    assert!(text.contains("unknown issuer") && text.contains("s3.tls.ca_file"), "{text}");
    let namesake = Server::start(Served::default()).await;
    let text = refusal_of(&server, &namesake.client(None)).await;
    assert!(text.contains("made anew") && text.contains("s3.tls.ca_file"), "{text}");
    let text = refusal_of(&server, &TlsClient::new(Authorities::none(), None).unwrap()).await;
    assert!(text.contains("unknown issuer"), "{text}");

    let server = Server::start(Served { expired: true, ..Served::default() }).await;
    let text = refusal_of(&server, &server.client(None)).await;
    assert!(text.contains("has expired"), "{text}");

    let server = Server::start(Served { is_ca: true, ..Served::default() }).await;
    let text = refusal_of(&server, &server.client(None)).await;
    assert!(text.contains("basicConstraints=CA:FALSE"), "{text}");

    let server = Server::start(Served { names: Vec::new(), ..Served::default() }).await;
    let text = refusal_of(&server, &server.client(None)).await;
    assert!(text.contains("make one with a subjectAltName"), "{text}");

    let server = Server::start(Served { alpn: b"h2", ..Served::default() }).await;
    let text = refusal_of(&server, &server.client(None)).await;
    assert!(text.contains("refused: NoApplicationProtocol"), "{text}");
}

/// A backend that speaks no TLS, closes or is silent is told apart; without TLS settings nothing
/// is sent to it.
#[tokio::test]
async fn what_is_no_tls_server_is_told() {
    let server = Server::start(Served::default()).await;
    let (client, resolver, endpoint) = (server.client(None), Resolver::new(), server.endpoint());
    for (says, expected) in [("HTTP/1.1 400 Bad Request\r\n\r\n", "http://"), ("", "closed during")]
    {
        let connect = Connection::connect(&resolver, &endpoint, Some(&client), LONG);
        let serve = async {
            let (mut socket, _) = server.listener.accept().await.unwrap();
            assert!(socket.read(&mut [0; 4096]).await.unwrap() > 0);
            socket.write_all(says.as_bytes()).await.unwrap();
        };
        let (connection, ()) = tokio::join!(connect, serve);
        let text = connection.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let error = Connection::connect(&resolver, &endpoint, Some(&client), SHORT).await.unwrap_err();
    assert!(matches!(error, BackendError::Timeout { stage: Stage::Connect }), "{error}");
    let error = Connection::connect(&resolver, &endpoint, None, LONG).await.unwrap_err();
    assert!(error.to_string().contains("without TLS settings"), "{error}");
}

/// Connections move between tasks, and so do the futures of their methods.
#[test]
fn everything_is_send() {
    fn is_send(_: &impl Send) {}
    let (resolver, endpoint) = (Resolver::new(), "https://localhost".parse().unwrap());
    is_send(&Connection::connect(&resolver, &endpoint, None, LONG));
}
