//! How much of what was written has reached the other side's kernel (tcp(7), TCP_INFO).
//!
//! write(2) succeeds when the bytes are in this side's buffer, which may hold megabytes. When the
//! other side then resets the connection, what matters is not what was written but what was
//! acknowledged: a request of which a part never left is one that the backend cannot have carried
//! out, and may be sent again.

pub(super) use crate::platform::acknowledged;

#[cfg(all(test, not(feature = "portable")))]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    /// What the other side's kernel has not taken is not acknowledged, also after a reset.
    #[tokio::test]
    async fn what_was_not_taken_is_known_after_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let mut written = 0u64;
        let block = vec![0; 65536];
        // Until both kernels' buffers are full.
        while let Ok(count) =
            tokio::time::timeout(Duration::from_millis(200), stream.write(&block)).await
        {
            written += count.unwrap() as u64;
        }
        assert!(acknowledged(&stream).unwrap() < written);
        peer.set_zero_linger().unwrap();
        drop(peer);
        stream.readable().await.unwrap();
        assert!(acknowledged(&stream).unwrap() < written);
    }

    #[tokio::test]
    async fn what_was_taken_is_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _peer = listener.accept().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let started = std::time::Instant::now();
        while acknowledged(&stream).unwrap() < 5 {
            assert!(started.elapsed() < Duration::from_secs(5));
            tokio::task::yield_now().await;
        }
    }
}
