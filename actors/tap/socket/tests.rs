//! A client's TLS session, against a rustls client on a loopback socket.

use super::*;
use bytes::BytesMut;
use rcgen::generate_simple_self_signed;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A client whose records hold at most `fragment` bytes, header and tag included.
async fn pair(fragment: usize) -> (ClientSocket, TlsStream<TcpStream>) {
    let made = generate_simple_self_signed(["gateway.test".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.max_fragment_size = Some(fragment);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let name = ServerName::try_from("gateway.test").unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let connector = TlsConnector::from(Arc::new(client));
    let (server, client) = tokio::join!(acceptor.accept(accepted), connector.connect(name, socket));
    let (socket, session) = server.unwrap().into_inner();
    (ClientSocket::tls(socket, session, None), client.unwrap())
}

/// Reads to the end, with the given rooms in turn; how much each read brought.
async fn read_all(socket: &ClientSocket, rooms: &[usize]) -> (Vec<u8>, usize) {
    let (mut all, mut most) = (Vec::new(), 0);
    for room in rooms.iter().cycle() {
        let mut space = BytesMut::with_capacity(*room);
        socket.readable().await.unwrap();
        match socket.try_read_buf(&mut (&mut space).limit(*room)) {
            Ok(0) => break,
            Ok(count) => {
                assert_eq!(count, space.len());
                assert!(count <= *room, "{count} bytes in a room of {room}");
                most = most.max(count);
                all.extend_from_slice(&space);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    (all, most)
}

/// RFC 8446, 5.1: "The record layer fragments information blocks into TLSPlaintext records": where
/// the records and the reads are cut says nothing about the bytes, and none is lost between them.
#[tokio::test]
async fn records_and_reads_are_cut_anywhere() {
    let body: Vec<u8> = (0..3 << 20).map(|at: u32| (at ^ (at >> 8)) as u8).collect();
    let fragments = [33, 1000, 16 * 1024 + 5];
    for fragment in fragments {
        for rooms in [&[65536][..], &[256 * 1024], &[65536, 1, 16385, 8192, 100, 300 * 1024, 16383]]
        {
            let (socket, mut client) = pair(fragment).await;
            let send = async {
                for piece in body.chunks(100_001) {
                    client.write_all(piece).await.unwrap();
                }
                client.shutdown().await.unwrap();
            };
            let ((read, most), ()) = tokio::join!(read_all(&socket, rooms), send);
            assert!(read == body, "records of {fragment}, rooms of {rooms:?}");
            assert!(fragment < 1000 || most > 16 * 1024, "one read took {most} at the most");
        }
    }
}

/// RFC 8446, 5.2: "If the decryption fails, the receiver MUST terminate the connection": what came
/// before it was sent by the client all the same, and comes first; nothing comes after it.
#[tokio::test]
async fn what_came_before_a_forged_record_comes_first() {
    let (socket, mut client) = pair(16 * 1024).await;
    client.write_all(&[7; 200_000]).await.unwrap();
    client.flush().await.unwrap();
    let forged = [&[23, 3, 3, 0, 40][..], &[1; 40]].concat();
    let (under, _) = client.get_mut();
    under.write_all(&forged).await.unwrap();
    let (mut read, mut failed) = (0, 0);
    while failed < 2 {
        let mut space = BytesMut::with_capacity(256 * 1024);
        socket.readable().await.unwrap();
        match socket.try_read_buf(&mut space) {
            Ok(count) => {
                assert!(count > 0 && failed == 0);
                read += count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                failed += 1;
            }
        }
    }
    assert_eq!(read, 200_000);
}
