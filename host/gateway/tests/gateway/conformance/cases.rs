//! What a case is, and what many of them begin with.

use super::peer::{END_HEADERS, HEADERS, Peer, WHOLE, post};

pub(super) const PROTOCOL: u32 = 1;
pub(super) const FLOW_CONTROL: u32 = 3;
pub(super) const STREAM_CLOSED: u32 = 5;
pub(super) const FRAME_SIZE: u32 = 6;
pub(super) const REFUSED: u32 = 7;
pub(super) const COMPRESSION: u32 = 9;
/// PROTOCOL_ERROR, said by the crate h2 (0.4) in some places where the RFC has a code for what is
/// wrong. The connection ends all the same.
pub(super) const UNSPECIFIC: u32 = PROTOCOL;

/// How it has to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// GOAWAY with one of these codes, then the connection's end.
    Connection(&'static [u32]),
    /// RST_STREAM with one of these codes, and the connection goes on; GOAWAY is allowed (5.4.2).
    Stream(&'static [u32]),
    /// As a stream's PROTOCOL_ERROR, or an answer 400; no upstream has seen a request (8.1.1).
    Malformed,
    /// So many answers with status 200, and the connection goes on.
    Answers(usize),
    /// No error: a PING is answered.
    Alive,
}

/// What a client says after the beginning, and how that has to end.
pub(super) struct Case {
    pub(super) section: &'static str,
    pub(super) what: &'static str,
    pub(super) says: fn(&mut Peer),
    pub(super) expect: Expect,
}

pub(super) const fn case(
    section: &'static str,
    what: &'static str,
    says: fn(&mut Peer),
    expect: Expect,
) -> Case {
    Case { section, what, says, expect }
}

/// HEADERS of a whole request on stream 1 with this block.
pub(super) fn whole(peer: &mut Peer, block: &[u8]) {
    peer.send(HEADERS, WHOLE, 1, block);
}

/// The beginning of a request with a body on stream 1.
pub(super) fn begin(peer: &mut Peer, more: &[(&str, &str)]) {
    peer.send(HEADERS, END_HEADERS, 1, &post(more));
}
