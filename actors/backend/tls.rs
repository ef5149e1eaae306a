//! A TLS session over a socket, without I/O of its own hidden anywhere: every call here is one
//! step, and the waiting is left to the caller.
//!
//! The session stands behind a mutex because a body is sent and the backend's answer is watched
//! for at the same time, by one task. It is never contended, and never held across an await.

use super::endpoint::Endpoint;
use super::trust::TlsClient;
use crate::tls_io::Socket;
use bytes::{Buf as _, BytesMut};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{CertificateError, ClientConnection, Error as TlsError};
use std::io::{self, BufRead as _, IoSlice, Read, Write};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;

/// Bytes of ciphertext that wait for the socket: four of the largest records. Every connection
/// under way may hold as many.
const SEND_BUFFER: usize = 64 * 1024;

/// Reads in a row that may bring nothing but the session's own records. Session tickets arrive in
/// one or two; a backend that goes on would hold the thread.
const MAX_SILENT_READS: usize = 8;

/// A socket with a TLS session on it, its handshake done.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: TcpStream,
    session: Mutex<Session>,
}

#[derive(Debug)]
struct Session {
    tls: ClientConnection,
    /// What the backend has said and nobody has read.
    plain: BytesMut,
}

impl TlsStream {
    /// Does the handshake. Errors say what an operator can do about them.
    pub(super) async fn connect(
        socket: TcpStream,
        endpoint: &Endpoint,
        client: &TlsClient,
    ) -> io::Result<Self> {
        let mut tls = client.session(endpoint)?;
        tls.set_buffer_limit(Some(SEND_BUFFER));
        let mut session = Session { tls, plain: BytesMut::new() };
        loop {
            while session.tls.wants_write() {
                match session.transmit(&socket) {
                    Err(error) if is_would_block(&error) => socket.writable().await?,
                    sent => sent?,
                }
            }
            if !session.tls.is_handshaking() {
                return Ok(TlsStream { socket, session: Mutex::new(session) });
            }
            match session.receive(&mut Socket(&socket)) {
                Ok(true) => {}
                Err(error) if is_would_block(&error) => socket.readable().await?,
                Ok(false) => return Err(explain(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => {
                    // The alert: the backend's own log then tells the same story.
                    let _ = session.transmit(&socket);
                    return Err(explain(error));
                }
            }
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Encrypts from the front of the two pieces and writes what the socket takes. True: both are
    /// empty, and all of their ciphertext is written.
    pub(super) fn try_send(&mut self, first: &mut &[u8], second: &mut &[u8]) -> io::Result<bool> {
        let TlsStream { socket, session } = self;
        let session = session.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waiting = session.tls.wants_write();
        let given = !(first.is_empty() && second.is_empty());
        // Only into an empty buffer: topped up after each write it would make tiny records.
        if given && !waiting {
            let pieces = [IoSlice::new(first), IoSlice::new(second)];
            let taken = session.tls.writer().write_vectored(&pieces)?;
            advance(first, second, taken);
        }
        if session.tls.wants_write() {
            session.transmit(socket)?;
        }
        Ok(first.is_empty() && second.is_empty() && !session.tls.wants_write())
    }

    /// Moves what the backend has said into `buffer`, at least one byte; 0: it has closed the
    /// session. A connection that ends without that is an error: the end may be an attacker's.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            let received = {
                let mut session = self.lock();
                let received = match session.plain.is_empty() {
                    true => session.receive(&mut Socket(&self.socket)),
                    false => Ok(true),
                };
                let count = session.plain.len();
                if count > 0 {
                    buffer.extend_from_slice(&session.plain);
                    session.plain.clear();
                    return Ok(count);
                }
                received
            };
            match received {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => return Ok(0),
                Err(error) if is_would_block(&error) => self.socket.readable().await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets `look` see what the backend has said and nobody has read. It answers how many bytes of
    /// that are to be dropped (then the result is true), none (false), or WouldBlock: it needs
    /// more. False too when the backend has closed.
    ///
    /// Errors: WouldBlock: there is no more as yet; any other: the session has failed.
    pub(super) fn look(
        &self,
        look: impl Fn(&[u8]) -> io::Result<Option<usize>>,
    ) -> io::Result<bool> {
        let mut session = self.lock();
        for _ in 0..MAX_SILENT_READS {
            match look(&session.plain) {
                Ok(Some(taken)) => {
                    session.plain.advance(taken);
                    return Ok(true);
                }
                Err(error) if is_would_block(&error) => {}
                Ok(None) | Err(_) => return Ok(false),
            }
            if !session.receive(&mut Socket(&self.socket))? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Whether an idle session has ended, or the backend has talked into it. Session tickets are
    /// no talk. Asks the kernel, not the reactor.
    pub(super) fn is_stale(&self) -> bool {
        let mut session = self.lock();
        for _ in 0..MAX_SILENT_READS {
            match session.receive(&mut Kernel(&self.socket)) {
                _ if !session.plain.is_empty() => return true,
                Ok(true) => {}
                Err(error) if is_would_block(&error) => return false,
                Ok(false) | Err(_) => return true,
            }
        }
        true
    }

    /// Says that nothing follows, if the socket takes it at once.
    pub(super) fn farewell(&mut self) {
        let TlsStream { socket, session } = self;
        let session = session.get_mut().unwrap_or_else(PoisonError::into_inner);
        session.tls.send_close_notify();
        let _ = session.transmit(socket);
    }

    /// Whether an earlier session was resumed.
    #[cfg(test)]
    pub(super) fn is_resumed(&self) -> bool {
        self.lock().tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Writes ciphertext, once. Errors: WouldBlock.
    fn transmit(&mut self, socket: &TcpStream) -> io::Result<()> {
        match self.tls.write_tls(&mut Socket(socket))? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(()),
        }
    }

    /// Reads once, and decrypts what is whole. False: the backend has closed the session. What the
    /// session itself wants to say to that (a key update) leaves with the next bytes sent.
    ///
    /// Errors: WouldBlock; UnexpectedEof: the connection ended, the session did not; the session's
    /// own. What was decrypted before an error stands in `plain`.
    fn receive(&mut self, from: &mut dyn Read) -> io::Result<bool> {
        // A session that has failed says so again, and the socket is not waited for.
        self.tls.process_new_packets().map_err(session_error)?;
        let count = self.tls.read_tls(from)?;
        let state = self.tls.process_new_packets();
        // An error says that there is no more; why, `state` and `count` tell.
        while let Ok(bytes @ [_, ..]) = self.tls.reader().fill_buf() {
            let taken = bytes.len();
            self.plain.extend_from_slice(bytes);
            self.tls.reader().consume(taken);
        }
        let state = state.map_err(session_error)?;
        match (count, state.peer_has_closed()) {
            (0, false) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection ended without the end of its TLS session",
            )),
            (0, true) => Ok(false),
            _ => Ok(true),
        }
    }
}

/// The socket as the kernel sees it, which knows of bytes before the reactor does.
struct Kernel<'a>(&'a TcpStream);

impl Read for Kernel<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), space, MsgFlags::MSG_DONTWAIT)?)
    }
}

/// Takes `count` bytes off the front of the two pieces.
pub(super) fn advance(first: &mut &[u8], second: &mut &[u8], count: usize) {
    let of_second = count.saturating_sub(first.len());
    *first = first.get(count..).unwrap_or_default();
    *second = second.get(of_second..).unwrap_or_default();
}

fn is_would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

fn session_error(error: TlsError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A handshake that fails until somebody mends something, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(pub(super) String);

/// A failed handshake in an operator's words.
fn explain(error: io::Error) -> io::Error {
    let found = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let words = match found {
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "TLS: the backend closed during the handshake: does it speak TLS on this port?".into()
        }
        None => return error,
        Some(TlsError::InvalidCertificate(problem)) => {
            return io::Error::new(error.kind(), Unusable(certificate_problem(problem)));
        }
        Some(TlsError::InvalidMessage(_)) => {
            let words =
                "TLS: the backend does not speak TLS on this port: is it an http:// endpoint?";
            return io::Error::new(error.kind(), Unusable(words.to_owned()));
        }
        Some(TlsError::AlertReceived(alert)) => format!("TLS: the backend refused: {alert:?}"),
        Some(other) => format!("TLS: {other}"),
    };
    io::Error::new(error.kind(), words)
}

fn certificate_problem(problem: &CertificateError) -> String {
    use CertificateError as C;
    match problem {
        C::UnknownIssuer => "TLS: the backend's certificate is of an authority that is not \
                             trusted (unknown issuer): name the authority's certificate in \
                             s3.tls.ca_file"
            .into(),
        C::BadSignature => "TLS: the backend's certificate is not signed by the authority of that \
                            name that is trusted: if it was made anew, renew s3.tls.ca_file"
            .into(),
        C::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "TLS: the backend's certificate is for no name (a common name does not count): make \
             one with a subjectAltName"
                .into()
        }
        C::NotValidForNameContext { expected, presented } => format!(
            "TLS: the backend's certificate is not for {}, but for {}: use such a name in \
             s3.endpoint, or set s3.tls.server_name",
            expected.to_str(),
            presented.join(", "),
        ),
        C::Expired | C::ExpiredContext { .. } => {
            "TLS: the backend's certificate has expired: renew it there, or check this machine's \
             clock"
                .into()
        }
        C::NotValidYet | C::NotValidYetContext { .. } => {
            "TLS: the backend's certificate is not valid yet: check this machine's clock".into()
        }
        // rustls has no variant for it, and it is what `openssl req -x509` makes.
        C::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "TLS: the backend's certificate is an authority's, not a server's: make one with \
             basicConstraints=CA:FALSE"
                .into()
        }
        other => format!("TLS: the backend's certificate is refused: {other}"),
    }
}
