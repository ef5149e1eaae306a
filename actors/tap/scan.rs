//! Finds where a head ends, and says what is wrong with one that never will.

use crate::http::{self, Framing, FramingError, HeadError, RequestHead};
use bytes::{Buf, BytesMut};

/// Why a request is refused before its handler has seen it. The connection ends with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadProblem {
    /// Not HTTP/1.
    #[error(transparent)]
    Malformed(#[from] HeadError),
    /// The body's length is in doubt.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// Longer than [`super::TapConfig::max_head`].
    #[error("the request head is too large")]
    TooLarge,
    /// Not complete within [`super::TapConfig::head_timeout`].
    #[error("the request head was not complete in time")]
    Timeout,
}

/// Most empty lines before a request line that are skipped (RFC 9112, 2.2: "at least one").
const MAX_LEADING_EMPTY_LINES: u8 = 4;

/// Looks for the end of a head in a growing buffer, each byte once.
#[derive(Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    skipped: u8,
}

impl HeadScanner {
    /// Takes the next complete head off the buffer. `Ok(None)`: more bytes are needed.
    pub fn next(
        &mut self,
        buffer: &mut BytesMut,
        max_head: usize,
    ) -> Result<Option<(RequestHead, Framing)>, HeadProblem> {
        while self.scanned == 0 && buffer.starts_with(b"\r\n") {
            if self.skipped == MAX_LEADING_EMPTY_LINES {
                return Err(HeadError::Malformed.into());
            }
            self.skipped += 1;
            buffer.advance(2);
        }
        while let Some(found) =
            buffer.get(self.scanned..).and_then(|rest| memchr::memchr(b'\n', rest))
        {
            let end = self.scanned + found + 1;
            let Some(line) = buffer.get(..end) else { break };
            if !line.ends_with(b"\r\n") {
                return Err(HeadError::BareLineEnd.into());
            }
            self.scanned = end;
            if line.ends_with(b"\r\n\r\n") {
                if end > max_head {
                    return Err(HeadProblem::TooLarge);
                }
                *self = HeadScanner::default();
                let head = RequestHead::parse(buffer.split_to(end).freeze())?;
                let framing = http::framing(&head)?;
                return Ok(Some((head, framing)));
            }
        }
        // A CR may be waiting for its LF: the last line is scanned again from its start.
        if buffer.len() > max_head { Err(HeadProblem::TooLarge) } else { Ok(None) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 16 * 1024;

    #[test]
    fn a_bare_line_feed_is_refused_before_the_head_is_complete() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1\nHost: h\n\n"[..]);
        let problem = HeadScanner::default().next(&mut buffer, MAX).unwrap_err();
        assert_eq!(problem, HeadProblem::Malformed(HeadError::BareLineEnd));
    }

    #[test]
    fn a_head_over_the_limit_is_refused_while_it_still_grows() {
        let mut buffer = BytesMut::from(&b"GET / HTTP/1.1\r\n"[..]);
        buffer.resize(MAX + 1, b'a');
        assert_eq!(
            HeadScanner::default().next(&mut buffer, MAX).unwrap_err(),
            HeadProblem::TooLarge
        );
    }

    proptest! {
        /// Wherever the stream is cut, the same heads and the same body bytes come out.
        #[test]
        fn cuts_change_nothing(cut in 0usize..70) {
            let wire = b"\r\nPUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET";
            let cut = cut.min(wire.len());
            let mut scanner = HeadScanner::default();
            let mut buffer = BytesMut::from(&wire[..cut]);
            let first = scanner.next(&mut buffer, MAX).unwrap();
            let (head, framing) = match first {
                Some(found) => { buffer.extend_from_slice(&wire[cut..]); found }
                None => {
                    buffer.extend_from_slice(&wire[cut..]);
                    scanner.next(&mut buffer, MAX).unwrap().unwrap()
                }
            };
            prop_assert_eq!(head.path(), "/b/k");
            prop_assert_eq!(framing, Framing::Length(3));
            prop_assert_eq!(&buffer[..], b"abcGET");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let _ = HeadScanner::default().next(&mut buffer, 256);
        }
    }
}
