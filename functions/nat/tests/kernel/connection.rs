//! A TCP connection between a host inside and one outside, with sequence numbers that Linux
//! believes.

use crate::both::{Both, EXTERNAL};
use crate::frames::{End, Segment, source, tcp};
use crate::linux::Side::{Inside, Outside};

/// See the module.
#[derive(Debug)]
pub(crate) struct Connection {
    inside: End,
    external: End,
    outside: End,
    /// What each end sends next: the inside's, the outside's.
    next: [u32; 2],
}

impl Connection {
    pub(crate) fn new(inside: End, outside: End, sequence: u32) -> Self {
        Self {
            inside,
            external: (EXTERNAL, 0),
            outside,
            next: [sequence, sequence.wrapping_add(500_000)],
        }
    }

    /// One to an external port that leads inside.
    pub(crate) fn from_outside(outside: End, external: End, inside: End, sequence: u32) -> Self {
        Self { inside, external, outside, next: [sequence, sequence.wrapping_add(500_000)] }
    }

    /// With both through the handshake.
    pub(crate) fn open(both: &mut Both, inside: End, outside: End, sequence: u32) -> Self {
        let mut connection = Self::new(inside, outside, sequence);
        connection.out(both, "S", &[]);
        connection.back(both, "SA", &[]);
        connection.out(both, "A", &[]);
        connection
    }

    /// The next segment from inside, or else from outside.
    pub(crate) fn frame(&mut self, out: bool, flags: &str, payload: &[u8]) -> Vec<u8> {
        let own = usize::from(!out);
        let segment =
            Segment { flags, sequence: self.next[own], acknowledged: self.next[1 - own], payload };
        let counts = flags.contains(['S', 'F']);
        self.next[own] = self.next[own].wrapping_add(payload.len() as u32 + u32::from(counts));
        let (from, to) =
            if out { (self.inside, self.outside) } else { (self.outside, self.external) };
        tcp(from, to, &segment)
    }

    /// Where the inside's segments last left.
    pub(crate) fn external(&self) -> End {
        self.external
    }

    /// What the outside sends next, if it is not as here.
    pub(crate) fn expect(&mut self, sequence: u32) {
        self.next[1] = sequence;
    }

    /// Sends the next segment from inside through both; gives it as it left.
    pub(crate) fn out(&mut self, both: &mut Both, flags: &str, payload: &[u8]) -> Vec<u8> {
        let frame = self.frame(true, flags, payload);
        let left = both.one(Inside, &frame);
        self.external = source(&left);
        left
    }

    /// Sends the next segment from outside through both; gives it as it came in.
    pub(crate) fn back(&mut self, both: &mut Both, flags: &str, payload: &[u8]) -> Vec<u8> {
        let frame = self.frame(false, flags, payload);
        both.one(Outside, &frame)
    }

    /// Whether both let an empty segment in.
    pub(crate) fn try_back(&mut self, both: &mut Both, flags: &str) -> bool {
        let frame = self.frame(false, flags, &[]);
        !both.pass(Outside, &[frame]).is_empty()
    }

    /// Sends the last SYN again, with other flags.
    pub(crate) fn resent(&mut self, both: &mut Both, out: bool, flags: &str) {
        let own = usize::from(!out);
        self.next[own] -= 1;
        if out {
            self.out(both, flags, &[]);
        } else {
            self.back(both, flags, &[]);
        }
    }

    /// Closes it from inside, with both through it.
    pub(crate) fn close(&mut self, both: &mut Both) {
        self.out(both, "FA", &[]);
        self.back(both, "A", &[]);
        self.back(both, "FA", &[]);
        self.out(both, "A", &[]);
    }
}
