//! Frames between the machine and the agent: a kind, the number of a process, a length, and so many
//! bytes.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Longest payload, in bytes.
const LENGTH_MAX: u32 = 1 << 20;

/// What a frame says. The number of each is its kind on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The agent is there.
    Ready = 1,
    /// Start a process: [`Start`] as JSON.
    Start = 2,
    /// Send it a signal: one byte.
    Signal = 3,
    /// It wrote this to its standard output.
    Stdout = 4,
    /// It wrote this to its standard error.
    Stderr = 5,
    /// It ended: its exit status, or 128 and the signal's number, in four bytes.
    Ended = 6,
    /// It could not be started: why.
    Refused = 7,
    /// All is done: switch the guest off.
    Off = 8,
}

const KINDS: [Kind; 8] = [
    Kind::Ready,
    Kind::Start,
    Kind::Signal,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Ended,
    Kind::Refused,
    Kind::Off,
];

/// A process to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) words: Vec<String>,
    pub(crate) directory: String,
}

/// One frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) process: u32,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    pub(crate) fn new(kind: Kind, process: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { kind, process, bytes: bytes.into() }
    }

    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.bytes.len()).map_err(io::Error::other)?;
        let mut all = vec![self.kind as u8];
        all.extend(self.process.to_le_bytes());
        all.extend(length.to_le_bytes());
        all.extend(&self.bytes);
        to.write_all(&all)
    }

    /// The next frame; an error at the end.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| head[at + n]));
        let kind = KINDS.into_iter().find(|kind| *kind as u8 == head[0]);
        let (Some(kind), length @ 0..=LENGTH_MAX) = (kind, number(5)) else {
            return Err(io::Error::other("what came is no frame"));
        };
        let mut bytes = vec![0; length as usize];
        from.read_exact(&mut bytes)?;
        Ok(Self { kind, process: number(1), bytes })
    }
}
