//! Stored parts, sent through real connections to small servers on loopback sockets.

use super::super::kept::ReplayResources;
use super::super::part::PartSource;
use super::super::{PipeAllowance, PipeCache, ReplayBudget, Turns};
use super::*;
use crate::backend::{Authorities, Connection, Resolver, TlsClient};
use crate::metrics::Metrics;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;

/// Longer than any step takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// Several loads of each kind, and a rest; more than the sockets' buffers take.
const LENGTH: usize = 24_000_003;

/// Bytes of each pipe.
const PIPE: usize = 1 << 20;

/// Slots of two pipes of the least useful size.
const TWO_PIPES: usize = 32;

/// Different on every page.
fn pattern() -> Vec<u8> {
    let mut bytes = (0..=250).collect::<Vec<u8>>().repeat(LENGTH.div_ceil(251));
    bytes.truncate(LENGTH);
    bytes
}

fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// Without any replay budget. `slots`: of all pipes.
fn resources(slots: Option<usize>) -> ReplayResources {
    let refused = Metrics::new().unwrap().pipes_refused;
    ReplayResources {
        budget: ReplayBudget::new(0, 0, 0),
        pipes: Arc::new(PipeCache::new(PIPE, PipeAllowance::new(slots, refused))),
        overflow: None,
        memory_per_part: 0,
        turns: Arc::new(Turns::new(Instant::now())),
    }
}

/// A connection and the backend's end of it.
async fn plain() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let resolver = Resolver::new();
    let (connection, accepted) =
        tokio::join!(Connection::connect(&resolver, &endpoint, None, LONG), listener.accept());
    (connection.unwrap(), accepted.unwrap().0)
}

/// As [`plain`], through TLS.
async fn encrypted() -> (Connection, TlsStream<TcpStream>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut authorities = Authorities::none();
    authorities.add_pem(&cert.pem()).unwrap();
    let client = TlsClient::new(authorities, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let resolver = Resolver::new();
    let accept = async { acceptor.accept(listener.accept().await.unwrap().0).await };
    let (connection, accepted) =
        tokio::join!(Connection::connect(&resolver, &endpoint, Some(&client), LONG), accept);
    (connection.unwrap(), accepted.unwrap())
}

/// Sends the part and reads `length` bytes of it at the backend's end.
async fn exchange<S: AsyncRead + Unpin>(
    source: &mut PartSource,
    (mut connection, mut server): (Connection, S),
    length: usize,
) -> Vec<u8> {
    let offered = AtomicBool::new(false);
    let mut arrived = vec![0; length];
    let (sent, read) = timeout(LONG, async {
        tokio::join!(source.send(&mut connection, LONG, &offered), server.read_exact(&mut arrived))
    })
    .await
    .unwrap();
    sent.unwrap();
    read.unwrap();
    assert!(offered.load(Ordering::Acquire));
    arrived
}

/// How many bytes went which way: spliced, copied.
fn ways(source: &PartSource) -> (u64, u64) {
    (source.volume().spliced, source.volume().copied)
}

const WHOLE: u64 = LENGTH as u64;

/// What a plain socket shows of a whole file.
const EXPECTED: (u64, u64) = if platform::ZERO_COPY { (WHOLE, 0) } else { (0, WHOLE) };

/// "Replayable for ever", and without a replay budget: the bytes are counted once.
#[tokio::test]
async fn a_file_is_sent_as_often_as_it_takes() {
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources(None));
    assert!(source.is_taken() && source.as_bytes().is_none() && source.taken_bytes() == WHOLE);
    for _ in 0..3 {
        assert!(source.can_replay());
        assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
        assert_eq!(ways(&source), EXPECTED);
    }
}

/// A part is any range of the file, also one that begins in the middle of a page.
#[tokio::test]
async fn a_range_is_sent_and_nothing_beside_it() {
    let (file, all) = (file(&pattern()), pattern());
    for (offset, length) in [(0, 1), (1, 4095), (4097, 2 * PIPE), (LENGTH - 7, 7), (99, 0)] {
        let mut source =
            PartSource::stored(Arc::clone(&file), offset as u64, length as u64, resources(None));
        let (mut connection, mut server) = plain().await;
        let (mut arrived, offered) = (vec![0; length + 1], AtomicBool::new(false));
        let send = async {
            source.send(&mut connection, LONG, &offered).await.unwrap();
            assert!(offered.load(Ordering::Acquire));
            connection.send_all(b"|", LONG).await.unwrap();
        };
        let both = async { tokio::join!(send, server.read_exact(&mut arrived)) };
        timeout(LONG, both).await.unwrap().1.unwrap();
        assert_eq!(arrived.pop(), Some(b'|'), "{offset} {length}");
        assert!(arrived == all[offset..offset + length], "{offset} {length}");
    }
}

/// "An interrupted send that is sent again": whole, on another connection, wherever it broke.
#[tokio::test]
async fn an_attempt_that_breaks_in_the_middle_is_made_again() {
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources(None));
    for taken in [0, 1, PIPE + 1, 3 * PIPE] {
        let (mut connection, mut server) = plain().await;
        let offered = AtomicBool::new(false);
        let read = async {
            let mut space = vec![0; taken];
            server.read_exact(&mut space).await.unwrap();
            server.set_zero_linger().unwrap();
            drop(server);
        };
        let both = async { tokio::join!(source.send(&mut connection, LONG, &offered), read) };
        let (sent, ()) = timeout(LONG, both).await.unwrap();
        assert!(matches!(sent, Err(SendError::Answered | SendError::Backend(_))), "{sent:?}");
        connection.reset();
        assert!(source.can_replay());
    }
    // One that is dropped while it waits, as the supervisor does it.
    let (mut connection, server) = plain().await;
    let offered = AtomicBool::new(false);
    let unread = source.send(&mut connection, LONG, &offered);
    assert!(timeout(Duration::from_millis(50), unread).await.is_err());
    assert!(!offered.load(Ordering::Acquire), "the backend cannot have had its last byte");
    drop((connection, server));
    assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
    assert_eq!(ways(&source), EXPECTED);
}

/// "An answer before the end of the body is a refusal."
#[tokio::test]
async fn a_refusal_ends_the_attempt() {
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources(None));
    let (mut connection, mut server) = plain().await;
    let offered = AtomicBool::new(false);
    let refuse = async {
        let mut space = vec![0; 1000];
        server.read_exact(&mut space).await.unwrap();
        let answer = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut server, answer).await.unwrap();
    };
    let both = async { tokio::join!(source.send(&mut connection, LONG, &offered), refuse) };
    let (sent, ()) = timeout(LONG, both).await.unwrap();
    assert!(sent.is_err());
    let answer = connection.answer_after_refusal(1000, LONG).await.unwrap();
    assert_eq!(answer.head.status, 503);
}

/// Where the host has no pipe, and where the backend is reached through TLS, the bytes are copied.
#[tokio::test]
async fn without_a_pipe_and_through_tls_the_file_is_read() {
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources(Some(0)));
    assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
    assert_eq!(ways(&source), (0, WHOLE));
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources(None));
    assert!(exchange(&mut source, encrypted().await, LENGTH).await == pattern());
    assert_eq!(ways(&source), (0, WHOLE));
    // An attempt through TLS, and the next one on a plain socket: each byte is counted once.
    assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
    assert_eq!(ways(&source), (0, WHOLE));
}

/// A pipe smaller than the others, and one at a time: a host that is short of them.
#[tokio::test]
async fn few_and_small_pipes_do_as_well() {
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources(Some(16)));
    assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
    let (spliced, copied) = ways(&source);
    assert_eq!(spliced + copied, WHOLE);
}

/// What is not there cannot be sent, and whoever reads the other side must not take it for whole.
#[tokio::test]
async fn a_file_that_is_too_short_is_the_gateway_s_fault() {
    for slots in [None, Some(0)] {
        let stored = file(&pattern());
        stored.set_len(WHOLE - 1).unwrap();
        let mut source = PartSource::stored(stored, 0, WHOLE, resources(slots));
        let (mut connection, mut server) = plain().await;
        let offered = AtomicBool::new(false);
        let mut arrived = Vec::new();
        let send = async {
            let sent = source.send(&mut connection, LONG, &offered).await;
            assert!(matches!(sent, Err(SendError::Internal(_))), "{sent:?}");
            connection.reset();
        };
        // The reset is an error of the reader's.
        let both = async { tokio::join!(send, server.read_to_end(&mut arrived)) };
        timeout(LONG, both).await.unwrap().1.unwrap_err();
        assert!(arrived.len() < LENGTH);
    }
}

/// Bytes in memory go out in one write with their head, or by themselves.
#[tokio::test]
async fn bytes_in_memory_are_sent_as_often_as_it_takes() {
    let bytes = Bytes::from(pattern());
    let mut source = PartSource::stored_bytes(bytes.clone(), resources(None));
    assert_eq!(source.as_bytes(), Some(bytes));
    for _ in 0..2 {
        assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
        assert_eq!(ways(&source), (0, WHOLE));
    }
    let empty = PartSource::stored_bytes(Bytes::new(), resources(None));
    assert_eq!((empty.as_bytes(), empty.taken_bytes()), (Some(Bytes::new()), 0));
}

/// "3. No fault leaves behind a file descriptor, a pipe": what an attempt held is given back.
#[tokio::test]
async fn no_pipe_stays_taken() {
    // Of the least size, which is what a host gives that is short of them.
    let resources = resources(Some(TWO_PIPES));
    let mut source = PartSource::stored(file(&pattern()), 0, WHOLE, resources.clone());
    for _ in 0..3 {
        let (mut connection, server) = plain().await;
        let offered = AtomicBool::new(false);
        let unread = source.send(&mut connection, LONG, &offered);
        assert!(timeout(Duration::from_millis(20), unread).await.is_err());
        drop((connection, server));
        assert!(exchange(&mut source, plain().await, LENGTH).await == pattern());
    }
    drop(source);
    // The loads that nobody waited for end by themselves.
    let both_are_free = async {
        while platform::ZERO_COPY {
            let pipes = [resources.pipes.moving(), resources.pipes.moving()];
            if pipes.iter().all(Option::is_some) {
                break;
            }
            drop(pipes);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, both_are_free).await.unwrap();
}
