//! A TLS terminator before the backend, with an authority of its own.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, crypto::ring};

/// Sessions that the terminator's clients have begun and resumed.
#[derive(Default)]
struct Sessions {
    begun: AtomicUsize,
    resumed: AtomicUsize,
}

/// A running terminator. Its certificate is for `backend.test` and for its address.
pub struct Terminator {
    pub address: SocketAddr,
    sessions: Arc<Sessions>,
    directory: tempfile::TempDir,
}

impl Terminator {
    pub async fn start(target: SocketAddr) -> Terminator {
        Terminator::on("127.0.0.1:0", target).await
    }

    /// Listens at `local` and passes what is in each session on to `target`.
    pub async fn on(local: &str, target: SocketAddr) -> Terminator {
        let listener = TcpListener::bind(local).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("authority of {address}"));
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["backend.test".to_owned(), address.ip().to_string()];
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();

        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let sessions = Arc::new(Sessions::default());
        let counted = Arc::clone(&sessions);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let _ = serve(client, acceptor, target, &counted).await;
                });
            }
        });
        Terminator { address, sessions, directory }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate of its authority.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Sessions begun anew, and resumed.
    pub fn sessions(&self) -> (usize, usize) {
        let Sessions { begun, resumed } = &*self.sessions;
        (begun.load(Ordering::Relaxed), resumed.load(Ordering::Relaxed))
    }
}

async fn serve(
    client: TcpStream,
    acceptor: TlsAcceptor,
    target: SocketAddr,
    sessions: &Sessions,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = acceptor.accept(client).await?;
    match client.get_ref().1.handshake_kind() {
        Some(HandshakeKind::Resumed) => &sessions.resumed,
        _ => &sessions.begun,
    }
    .fetch_add(1, Ordering::Relaxed);
    let mut backend = TcpStream::connect(target).await?;
    backend.set_nodelay(true)?;
    if tokio::io::copy_bidirectional(&mut client, &mut backend).await.is_err() {
        // What failed on one side fails on the other.
        client.get_ref().0.set_zero_linger()?;
        backend.set_zero_linger()?;
    }
    Ok(())
}
