//! What carries an exchange: a plain socket, or a TLS session over one.
//!
//! Both give the connection the same few steps; only the plain one gives the socket itself, for
//! bytes that are spliced.

use super::endpoint::Endpoint;
use super::response::find_head_end;
use super::tls::{TlsStream, advance};
use super::trust::TlsClient;
use bytes::BytesMut;
use nix::sys::socket::{MsgFlags, recv};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::TcpStream;

/// Bytes of the largest interim answer that is skipped while a body is being sent.
const MAX_INTERIM_HEAD: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Connects to one of the endpoint's addresses, and does the handshake where there is one.
    ///
    /// TCP_NODELAY is on: a head must not wait for the acknowledgement of the one before. TCP
    /// keep-alive is off: every wait has a deadline, and idle connections expire.
    pub(super) async fn open(
        address: SocketAddr,
        endpoint: &Endpoint,
        tls: Option<&TlsClient>,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        match (endpoint.is_tls(), tls) {
            (false, _) => Ok(Transport::Plain(socket)),
            (true, Some(client)) => {
                let stream = TlsStream::connect(socket, endpoint, client).await?;
                Ok(Transport::Tls(Box::new(stream)))
            }
            // Never in the clear what was meant to be private.
            (true, None) => Err(io::Error::other("an https:// endpoint without TLS settings")),
        }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => stream.socket(),
        }
    }

    /// The socket, if what is written to it reaches the backend as it is.
    pub(super) fn descriptor(&self) -> Option<&TcpStream> {
        match self {
            Transport::Plain(socket) => Some(socket),
            Transport::Tls(_) => None,
        }
    }

    /// Writes from the front of the two pieces, once, and takes that off them. True: both are
    /// empty, and nothing of them waits here. Errors: WouldBlock when the socket takes nothing.
    pub(super) fn try_send(&mut self, first: &mut &[u8], second: &mut &[u8]) -> io::Result<bool> {
        let socket = match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => return stream.try_send(first, second),
        };
        if first.is_empty() && second.is_empty() {
            return Ok(true);
        }
        match socket.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)])? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            sent => {
                advance(first, second, sent);
                Ok(first.is_empty() && second.is_empty())
            }
        }
    }

    /// Reads what is there, at least one byte; 0: the backend has closed.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.read_buf(buffer).await,
            Transport::Tls(stream) => stream.read(buffer).await,
        }
    }

    /// Takes one interim answer off what the backend has sent. False: what stands there is none,
    /// or the backend has closed. WouldBlock: nothing stands there, or only the beginning of one.
    pub(super) fn skip_interim(&self) -> io::Result<bool> {
        match self {
            Transport::Plain(socket) => {
                socket.try_io(Interest::READABLE, || skip_interim_on(socket))
            }
            Transport::Tls(stream) => stream.look(|seen| match seen {
                [] => Err(io::ErrorKind::WouldBlock.into()),
                seen => interim_end(seen),
            }),
        }
    }

    /// Whether an idle transport has been closed, has failed, or holds bytes that nobody asked
    /// for, as far as the reactor knows: it has learned of whatever happened before the request arrived
    /// that asks. The kernel is asked only where the reactor has something to tell.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Transport::Plain(socket) => {
                let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
                let peek = || Ok(recv(socket.as_raw_fd(), &mut [0], flags)?);
                let seen = socket.try_io(Interest::READABLE, peek);
                !seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Transport::Tls(stream) => stream.is_stale(),
        }
    }

    /// Ends a connection that has nothing under way: dropping the socket then closes it.
    pub(super) fn farewell(&mut self) {
        if let Transport::Tls(stream) = self {
            stream.farewell();
        }
    }
}

fn skip_interim_on(socket: &TcpStream) -> io::Result<bool> {
    let mut space = [0; MAX_INTERIM_HEAD];
    let length = recv(socket.as_raw_fd(), &mut space, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?;
    let Some(end) = interim_end(space.get(..length).unwrap_or_default())? else {
        return Ok(false);
    };
    recv(socket.as_raw_fd(), space.get_mut(..end).unwrap_or_default(), MsgFlags::MSG_DONTWAIT)?;
    Ok(true)
}

/// The length of the interim answer that `seen` begins with; None: it is none. WouldBlock: it is
/// not whole yet.
fn interim_end(seen: &[u8]) -> io::Result<Option<usize>> {
    // The status is the tenth byte: until then, wait for it.
    let may_be_interim = seen.get(9).is_none_or(|&digit| digit == b'1');
    match find_head_end(seen, 0) {
        _ if seen.is_empty() || !may_be_interim => Ok(None),
        Ok(None) if seen.len() < MAX_INTERIM_HEAD => Err(io::ErrorKind::WouldBlock.into()),
        Ok(end) => Ok(end.filter(|&end| end <= MAX_INTERIM_HEAD)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
