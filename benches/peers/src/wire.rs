//! A non-blocking connection, plain or TLS.

use crate::Result;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Plaintext that rustls may hold until the socket takes it.
const TLS_BUFFER: usize = 256 << 10;
/// How long a connection and its handshake may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a connection; after its handshake nothing blocks.
pub(crate) struct Wire {
    socket: TcpStream,
    tls: Option<Box<Connection>>,
}

impl Wire {
    /// Connects; with TLS the handshake is done when this returns.
    pub(crate) fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Wire> {
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_nodelay(true)?;
        let mut session = None;
        if let Some(config) = tls {
            let name = ServerName::IpAddress(address.ip().into());
            let mut client = ClientConnection::new(Arc::clone(config), name)?;
            client.set_buffer_limit(Some(TLS_BUFFER));
            socket.set_read_timeout(Some(PATIENCE))?;
            client.complete_io(&mut socket)?;
            session = Some(Box::new(Connection::Client(client)));
        }
        socket.set_nonblocking(true)?;
        Ok(Wire { socket, tls: session })
    }

    /// Takes an accepted connection; a TLS handshake happens along with what is read and sent.
    pub(crate) fn accepted(socket: TcpStream, tls: Option<&Arc<ServerConfig>>) -> Result<Wire> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut session = None;
        if let Some(config) = tls {
            let mut server = ServerConnection::new(Arc::clone(config))?;
            server.set_buffer_limit(Some(TLS_BUFFER));
            session = Some(Box::new(Connection::Server(server)));
        }
        Ok(Wire { socket, tls: session })
    }

    /// Reads what is there; 0 at the end.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A peer that ends without a close_notify has ended all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                done => return done,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets()
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            flush(tls, &mut self.socket)?;
        }
    }

    /// Reads at most `most` bytes and throws them away, in the kernel where that is possible.
    pub(crate) fn discard(&mut self, scratch: &mut [u8], most: u64) -> io::Result<usize> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(scratch.len());
        let space = scratch.get_mut(..most).unwrap_or_default();
        match self.tls {
            None => Ok(recv(self.socket.as_raw_fd(), space, MsgFlags::MSG_TRUNC)?),
            Some(_) => self.receive(space),
        }
    }

    /// Sends some of `bytes`; with TLS what it took may still have to be flushed.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        flush(tls, &mut self.socket)?;
        if tls.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = tls.writer().write(bytes)?;
        flush(tls, &mut self.socket)?;
        Ok(count)
    }

    /// Sends what TLS still holds, as far as the socket takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.socket),
            None => Ok(()),
        }
    }

    /// Makes the end of this connection a reset.
    pub(crate) fn reset(self) -> Result<()> {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&self.socket, sockopt::Linger, &linger)?;
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn flush(tls: &mut Connection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
