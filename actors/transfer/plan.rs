//! Which way a body goes, decided before its first byte: a pure function, with the reason as a
//! metric label.

use crate::sigv4::PayloadMode;

/// How a body is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plan {
    /// splice(2): the bytes never enter user space.
    Splice,
    /// read, verify or decode, write.
    Copy,
}

impl Plan {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Plan::Splice => "splice",
            Plan::Copy => "copy",
        }
    }
}

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nothing stands in the way of splice.
    Plain,
    /// `server.zero_copy.enabled: false`.
    Disabled,
    /// Under `server.zero_copy.min_body`: the calls would cost more than the copy.
    Small,
    /// `Transfer-Encoding: chunked`: the framing stands between the bytes.
    Chunked,
    /// aws-chunked: each chunk is decoded, and verified where it is signed.
    Streaming,
    /// A hash or checksum came along that the backend does not verify (`s3.verifies`).
    Verify,
    /// An endpoint of the bucket is `https://`: the bytes are encrypted here.
    Tls,
}

impl Reason {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Plain => "plain",
            Reason::Disabled => "disabled",
            Reason::Small => "small",
            Reason::Chunked => "chunked",
            Reason::Streaming => "streaming",
            Reason::Verify => "verify",
            Reason::Tls => "tls",
        }
    }
}

/// What the plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput {
    /// `server.zero_copy.enabled`.
    pub enabled: bool,
    /// `server.zero_copy.min_body`, bytes.
    pub min_body: u64,
    /// Bytes on the wire; None when the body is chunked.
    pub wire_length: Option<u64>,
    /// How the payload is authenticated.
    pub payload: PayloadMode,
    /// Something must be verified here.
    pub verify: bool,
    /// The backend may be reached through TLS: which endpoint it is, each attempt decides anew.
    pub tls: bool,
}

/// Decides.
pub fn plan(input: PlanInput) -> (Plan, Reason) {
    match input.payload {
        PayloadMode::SignedChunks
        | PayloadMode::SignedChunksTrailer
        | PayloadMode::UnsignedTrailer => return (Plan::Copy, Reason::Streaming),
        PayloadMode::Hash(_) | PayloadMode::Unsigned | PayloadMode::Absent => {}
    }
    let Some(length) = input.wire_length else { return (Plan::Copy, Reason::Chunked) };
    if !input.enabled {
        (Plan::Copy, Reason::Disabled)
    } else if input.verify {
        (Plan::Copy, Reason::Verify)
    } else if length < input.min_body {
        (Plan::Copy, Reason::Small)
    } else if input.tls {
        (Plan::Copy, Reason::Tls)
    } else {
        (Plan::Splice, Reason::Plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: PlanInput = PlanInput {
        enabled: true,
        min_body: 65536,
        wire_length: Some(65536),
        payload: PayloadMode::Unsigned,
        verify: false,
        tls: false,
    };

    #[test]
    fn only_a_plain_body_of_known_length_is_spliced() {
        assert_eq!(plan(PLAIN), (Plan::Splice, Reason::Plain));
        let hash = PlanInput { payload: PayloadMode::Hash([0; 32]), ..PLAIN };
        assert_eq!(plan(hash).0, Plan::Splice);
        for (input, reason) in [
            (PlanInput { enabled: false, ..PLAIN }, Reason::Disabled),
            (PlanInput { verify: true, ..PLAIN }, Reason::Verify),
            (PlanInput { wire_length: Some(65535), ..PLAIN }, Reason::Small),
            (PlanInput { tls: true, ..PLAIN }, Reason::Tls),
            (PlanInput { wire_length: None, ..PLAIN }, Reason::Chunked),
            (PlanInput { payload: PayloadMode::SignedChunks, ..PLAIN }, Reason::Streaming),
            (PlanInput { payload: PayloadMode::UnsignedTrailer, ..PLAIN }, Reason::Streaming),
        ] {
            assert_eq!(plan(input), (Plan::Copy, reason));
        }
    }
}
