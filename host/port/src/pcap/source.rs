//! Bytes of a file, in order, with a window to look ahead. Knows nothing of captures.

use std::io::{self, ErrorKind, Read};

/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// A file being read from its start to its end.
#[derive(Debug)]
pub(super) struct Source<R> {
    from: R,
    buffer: Vec<u8>,
    /// The bytes `start..end` of `buffer` are read and not yet passed.
    start: usize,
    end: usize,
    /// Position of `buffer[start]` in the file.
    offset: u64,
    at_end: bool,
}

impl<R: Read> Source<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: vec![0; CHUNK], start: 0, end: 0, offset: 0, at_end: false }
    }

    /// Bytes passed so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes that are in memory already.
    #[inline]
    pub(super) fn ahead(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Looks ahead: at least `bytes` bytes, or all that the file still has.
    #[inline]
    pub(super) fn peek(&mut self, bytes: usize) -> io::Result<&[u8]> {
        if self.end - self.start < bytes {
            self.fill(bytes)?;
        }
        Ok(self.ahead())
    }

    /// Passes bytes that were looked at.
    #[inline]
    pub(super) fn pass(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.end - self.start);
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Passes `bytes` bytes unseen. False when the file has fewer.
    pub(super) fn skip(&mut self, mut bytes: u64) -> io::Result<bool> {
        while bytes > 0 {
            let there = self.peek(1)?.len();
            if there == 0 {
                return Ok(false);
            }
            let step = usize::try_from(bytes).map_or(there, |left| left.min(there));
            self.pass(step);
            bytes -= step as u64;
        }
        Ok(true)
    }

    #[cold]
    fn fill(&mut self, bytes: usize) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < bytes {
            self.buffer.resize(bytes, 0);
        }
        while self.end < bytes && !self.at_end {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.at_end = true,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
