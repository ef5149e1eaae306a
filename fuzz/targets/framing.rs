//! Properties of what frames the wire: where a head ends, where a backend's answer ends.

use bytes::{Bytes, BytesMut};
use mizuchi_actors::backend::{BodyReader, ResponseError, ResponseHead};
use mizuchi_actors::http::{Framing, RequestHead};
use mizuchi_actors::tap::HeadScanner;

/// Bytes of the longest head here; small, so that the bound is met.
const MAX_HEAD: usize = 1024;

/// Bytes of the longest answer's body here.
const MAX_BODY: usize = 512;

/// However a stream of requests is cut, the same heads come out, and the same bytes are left.
pub(super) fn scanned(step: usize, wire: &[u8]) {
    let scan = |step: usize| {
        let (mut scanner, mut buffer) = (HeadScanner::default(), BytesMut::new());
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            match scanner.next(&mut buffer, MAX_HEAD) {
                // Bodies are not this scanner's: the first head is enough.
                Ok(Some((head, framing))) => return Ok(Some((head.raw().clone(), framing))),
                Ok(None) => {}
                // Which of two faults is met first depends on the cuts.
                Err(_) => return Err(()),
            }
        }
        Ok(None)
    };
    let whole = scan(wire.len().max(1));
    assert_eq!(scan(step), whole);
    let Ok(Some((raw, framing))) = whole else { return };
    assert!(raw.len() <= MAX_HEAD && raw.ends_with(b"\r\n\r\n"));
    let head = RequestHead::parse(raw).expect("the scanner parsed it");
    let count = |name| head.values(name).count();
    match framing {
        Framing::Absent => assert_eq!(count("content-length") + count("transfer-encoding"), 0),
        Framing::Length(length) => {
            assert_eq!((count("content-length"), count("transfer-encoding")), (1, 0));
            let digits = head.header("content-length").unwrap_or_default();
            assert_eq!(digits.trim_start_matches('0').parse().unwrap_or(0), length);
        }
        Framing::Chunked => {
            assert_eq!((count("content-length"), count("transfer-encoding")), (0, 1));
            assert!(head.is_http_11());
        }
    }
}

/// A backend's answer, head and body: however it is cut, the same body comes out, within its bound,
/// and not a byte of what follows.
pub(super) fn answered(step: usize, wire: &[u8]) {
    let Some(end) = wire.windows(4).position(|window| window == b"\r\n\r\n") else { return };
    let (head, wire) = wire.split_at(end + 4);
    let Ok(head) = ResponseHead::parse(head, false) else { return };
    let read = |step: usize| -> Result<(bool, Bytes, Vec<u8>), ResponseError> {
        let mut reader = BodyReader::new(head.framing, MAX_BODY)?;
        let mut input = BytesMut::new();
        let mut complete = reader.advance(&mut input)?;
        for piece in wire.chunks(step) {
            input.extend_from_slice(piece);
            complete = reader.advance(&mut input)?;
        }
        assert!(!complete || reader.closed());
        Ok((complete, reader.into_body(), input.to_vec()))
    };
    let whole = read(wire.len().max(1));
    if let Ok((complete, body, left)) = &whole {
        assert!(body.len() <= MAX_BODY && body.len() + left.len() <= wire.len());
        assert!(!complete || wire.ends_with(left));
    }
    assert_eq!(read(step), whole);
}
