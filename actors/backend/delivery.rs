//! Whether all that was written has left this host (tcp(7), TCP_INFO).
//!
//! write(2) succeeds when the bytes are in this side's buffer, which may hold megabytes. When the
//! other side then resets the connection, a request of which a part was never sent is one that the
//! backend cannot have carried out, and may be sent again.
//!
//! Acknowledgements prove nothing here: a kernel delays them for up to 200 ms after the
//! application has the bytes, so a backend that carried a small request out and died before it
//! answered has most often not acknowledged it.

pub(super) use crate::platform::holds_unsent;

#[cfg(all(test, not(feature = "portable")))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    /// What does not fit into the other side's window is known, also after a reset.
    #[tokio::test]
    async fn what_was_not_sent_is_known_after_a_reset() {
        let (mut stream, peer) = pair().await;
        let block = vec![0; 65536];
        // Until both kernels' buffers are full.
        while let Ok(count) =
            tokio::time::timeout(Duration::from_millis(200), stream.write(&block)).await
        {
            assert!(count.unwrap() > 0);
        }
        assert!(holds_unsent(&stream));
        peer.set_zero_linger().unwrap();
        drop(peer);
        stream.readable().await.unwrap();
        assert!(holds_unsent(&stream));
    }

    /// What the other side has read has left, acknowledged or not.
    #[tokio::test]
    async fn what_was_read_has_been_sent() {
        let (mut stream, mut peer) = pair().await;
        // A conversation: from then on the kernel delays its acknowledgements.
        for _ in 0..20 {
            stream.write_all(b"hello").await.unwrap();
            peer.read_exact(&mut [0; 5]).await.unwrap();
            peer.write_all(b"hello").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
        }
        stream.write_all(b"hello").await.unwrap();
        peer.read_exact(&mut [0; 5]).await.unwrap();
        peer.set_zero_linger().unwrap();
        drop(peer);
        stream.readable().await.unwrap();
        assert!(!holds_unsent(&stream));
    }
}
