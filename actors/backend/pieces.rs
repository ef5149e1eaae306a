//! Pieces of a body on their way into a plain socket.

use bytes::Bytes;
use std::io::{self, IoSlice};
use tokio::net::TcpStream;

/// Pieces that one writev(2) is given: a batch of the copy path has no more.
const MAX_SLICES: usize = 64;

/// What of some pieces has not been written yet.
pub(super) struct Rest<'a> {
    pieces: &'a [Bytes],
    /// Bytes of the first piece that were written.
    written: usize,
}

impl<'a> Rest<'a> {
    /// All of them.
    pub(super) fn of(pieces: &'a [Bytes]) -> Self {
        let mut rest = Rest { pieces, written: 0 };
        rest.advance(0);
        rest
    }

    /// Whether all bytes were written.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Writes once. Errors: WouldBlock when the socket takes nothing.
    pub(super) fn write_to(&mut self, socket: &TcpStream) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces) {
            let begin = if count == 0 { self.written } else { 0 };
            *slice = IoSlice::new(piece.get(begin..).unwrap_or_default());
            count += 1;
        }
        match socket.try_write_vectored(slices.get(..count).unwrap_or_default())? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            sent => {
                self.advance(sent);
                Ok(())
            }
        }
    }

    /// Takes `bytes` off the front, and with them pieces that are empty.
    fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        while let Some((first, rest)) = self.pieces.split_first() {
            if self.written < first.len() {
                break;
            }
            self.written -= first.len();
            self.pieces = rest;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Bytes that one write left, from the middle of a piece and past empty ones.
    #[test]
    fn what_was_written_is_taken_off() {
        let pieces = ["", "abc", "", "de", "f", ""].map(Bytes::from);
        let left = |bytes: usize| {
            let mut rest = Rest::of(&pieces);
            rest.advance(bytes);
            (rest.pieces.len(), rest.written)
        };
        assert_eq!([0, 1, 3, 4, 5].map(left), [(5, 0), (5, 1), (3, 0), (3, 1), (2, 0)]);
        assert_eq!(left(6).0, 0);
        assert!(Rest::of(&pieces[..1]).is_empty());
    }

    #[tokio::test]
    async fn all_bytes_arrive_in_their_order() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (receiver, _) = listener.accept().await.unwrap();
        // More pieces than one call takes, and more bytes than the buffers hold.
        let pieces: Vec<Bytes> =
            (0..3 * MAX_SLICES).map(|at| Bytes::from(vec![at as u8; 100_000 + at])).collect();
        let expected = pieces.concat();
        let reading = tokio::spawn(async move {
            let mut receiver = receiver;
            let mut all = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut receiver, &mut all).await.unwrap();
            all
        });
        let mut rest = Rest::of(&pieces);
        while !rest.is_empty() {
            sender.writable().await.unwrap();
            match rest.write_to(&sender) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => result.unwrap(),
            }
        }
        drop(sender);
        assert!(reading.await.unwrap() == expected);
    }
}
