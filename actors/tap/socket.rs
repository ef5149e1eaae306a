//! A client's socket: plain, or with a TLS session on it.
//!
//! The session is stepped by hand. A ready-made TLS stream takes `&mut self` for everything, and
//! here the reader of a body and the writer of an answer are different owners. It stands behind a
//! mutex that no await holds and, since one thread owns a connection, nobody waits for.
//!
//! A session may hold decrypted bytes while the socket has none: whoever waits for bytes looks there
//! first. The end of the connection and the end of the session (close_notify) are both just the end
//! here: no body of HTTP/1 ends with the connection, so an end that an attacker made cuts nothing off
//! that would not be missed.

use crate::certificate::PeerCertificate;
use crate::tls_io::Socket;
use bytes::BufMut;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use rustls::ServerConnection;
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Ciphertext that may wait for the socket: an answer's document and some. Each connection may hold
/// as much.
const SEND_BUFFER: usize = 64 * 1024;

/// Ciphertext for one read of the session: others then have their turn. More than the room of any
/// reader, but records may hold next to nothing, and are the dearer for it.
const MAX_RECEIVED: usize = 512 * 1024;

/// A client's connection.
pub struct ClientSocket {
    socket: TcpStream,
    tls: Option<Box<Tls>>,
}

struct Tls {
    session: Mutex<ServerConnection>,
    certificate: Option<Arc<PeerCertificate>>,
}

impl From<TcpStream> for ClientSocket {
    /// A plain connection.
    fn from(socket: TcpStream) -> Self {
        ClientSocket { socket, tls: None }
    }
}

impl ClientSocket {
    /// A connection with a session on it whose handshake is done. `certificate`: the client's, verified.
    pub fn tls(
        socket: TcpStream,
        mut session: ServerConnection,
        certificate: Option<Arc<PeerCertificate>>,
    ) -> Self {
        session.set_buffer_limit(Some(SEND_BUFFER));
        let tls = Tls { session: Mutex::new(session), certificate };
        ClientSocket { socket, tls: Some(Box::new(tls)) }
    }

    /// The client's certificate.
    pub(super) fn certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.tls.as_ref()?.certificate.as_ref()
    }

    /// The socket itself, where nothing stands between it and the client's bytes.
    pub(super) fn plain(&self) -> Option<&TcpStream> {
        match self.tls {
            None => Some(&self.socket),
            Some(_) => None,
        }
    }

    /// Ready when [`ClientSocket::try_read_buf`] is worth a try.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.as_ref().is_some_and(|tls| tls.holds_bytes()) {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// As [`ClientSocket::poll_readable`].
    pub(super) async fn readable(&self) -> io::Result<()> {
        if self.tls.as_ref().is_some_and(|tls| tls.holds_bytes()) {
            return Ok(());
        }
        self.socket.readable().await
    }

    /// Waits until there is a byte to read, or the end: of a session, more than a part of a record.
    pub(super) async fn has_bytes(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return self.socket.readable().await };
        while !tls.holds_bytes() {
            self.socket.readable().await?;
            match tls.lock().receive(&self.socket) {
                // The read that follows tells.
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that the last read found less than it had room for: the next waits for the reactor, and
    /// spares the system call that would find nothing. (tokio does so for its own reads; epoll tells of
    /// whatever comes after that read.) Of TLS: does nothing.
    pub(super) fn is_drained(&self) {
        if self.tls.is_none() {
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, nothing);
        }
    }

    /// Reads into the room that `buffer` has; 0: the end. Errors: WouldBlock; of TLS: InvalidData.
    pub(super) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.socket.try_read_buf(buffer) };
        let mut session = tls.lock();
        let room = buffer.chunk_mut().len();
        let mut buffer = buffer.limit(room);
        session.take(&mut buffer);
        let mut received = 0;
        let end = loop {
            if !buffer.has_remaining_mut() || received >= MAX_RECEIVED {
                break Err(io::ErrorKind::WouldBlock.into());
            }
            let read = session.receive(&self.socket);
            session.take(&mut buffer);
            match read {
                Ok(0) => break Ok(0),
                Ok(count) => received += count,
                Err(error) => break Err(error),
            }
        };
        match room - buffer.remaining_mut() {
            0 => end,
            // The end is met again when what came before it has been read.
            count => Ok(count),
        }
    }

    /// Takes bytes to be sent. Of TLS: what was taken is on its way only after
    /// [`ClientSocket::poll_flush`].
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(tls) = &self.tls {
            // Only into an empty buffer: topped up after each write it would make tiny records.
            ready!(self.poll_flush(cx))?;
            let taken = tls.lock().writer().write(bytes)?;
            return match self.poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(taken)),
            };
        }
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ready when all that was taken is in the socket.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(tls) = &self.tls else { return Poll::Ready(Ok(())) };
        loop {
            match tls.lock().transmit(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            ready!(self.socket.poll_write_ready(cx))?;
        }
    }

    /// Says that nothing follows. Of TLS: close_notify waits to be flushed, and then for
    /// [`ClientSocket::end`].
    pub(super) fn farewell(&self) {
        match &self.tls {
            None => self.end(),
            Some(tls) => tls.lock().send_close_notify(),
        }
    }

    /// Closes the sending side.
    pub(super) fn end(&self) {
        // The client may have reset the connection already: nothing is lost by that here.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
    }

    /// Discards what the client has sent, with TLS as it is: nobody decrypts what nobody reads. `sink` is
    /// not written to. Returns the bytes; 0: the end.
    pub(super) fn poll_discard(
        &self,
        cx: &mut Context<'_>,
        sink: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let fd = self.socket.as_raw_fd();
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self
                .socket
                .try_io(Interest::READABLE, || Ok(recv(fd, sink, MsgFlags::MSG_TRUNC)?))
            {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl Tls {
    fn lock(&self) -> Session<'_> {
        Session(self.session.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a read would bring decrypted bytes, or the end that the session knows of.
    fn holds_bytes(&self) -> bool {
        // An error other than WouldBlock is the end.
        match self.lock().0.reader().fill_buf() {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// The session, locked.
struct Session<'a>(MutexGuard<'a, ServerConnection>);

impl Session<'_> {
    fn writer(&mut self) -> rustls::Writer<'_> {
        self.0.writer()
    }

    fn send_close_notify(&mut self) {
        self.0.send_close_notify();
    }

    /// Moves decrypted bytes into the room that `buffer` has.
    fn take(&mut self, buffer: &mut impl BufMut) {
        while buffer.has_remaining_mut() {
            let mut reader = self.0.reader();
            // Nothing there, or an end that `receive` tells.
            let Ok(bytes @ [_, ..]) = reader.fill_buf() else { break };
            let taken = bytes.len().min(buffer.remaining_mut());
            buffer.put_slice(bytes.get(..taken).unwrap_or_default());
            reader.consume(taken);
        }
    }

    /// Reads once from the socket and decrypts what is whole. Returns the bytes read; 0: the end. Call
    /// it only when `take` has left nothing. What the session answers (an alert, a key update) is sent
    /// if the socket takes it, else with the next flush: rustls keeps one of each at the most.
    fn receive(&mut self, socket: &TcpStream) -> io::Result<usize> {
        // A session that has failed says so again, and one that has ended stays ended.
        if self.0.process_new_packets().map_err(failed)?.peer_has_closed() {
            return Ok(0);
        }
        let count = self.0.read_tls(&mut Socket(socket))?;
        let processed = self.0.process_new_packets();
        // Whether it went out or has to wait: the bytes that were read come first.
        let _ = self.transmit(socket);
        processed.map(|_| count).map_err(failed)
    }

    /// Writes ciphertext until there is none. Errors: WouldBlock.
    fn transmit(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            if self.0.write_tls(&mut Socket(socket))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
