//! What a worker writes to its standard output and errors: a panic's message, if anything. Its end
//! is told with its death. The files that this process has there are not the worker's: it could
//! read a terminal, or shorten a log.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};

/// Bytes that are kept of it, the last ones.
const KEPT: usize = 2048;
/// Bytes that are read of it at a time: a worker that floods it must not keep its keeper busy.
const READ: usize = 64 << 10;

/// See the module.
pub(super) struct Output {
    pipe: OwnedFd,
    last: Vec<u8>,
}

impl Output {
    /// A pipe that neither side waits for: this side, and the worker's.
    pub(super) fn new() -> io::Result<(Self, Arc<OwnedFd>)> {
        let (pipe, theirs) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { pipe, last: Vec::new() }, Arc::new(theirs)))
    }

    /// Reads what is there.
    pub(super) fn hear(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..READ / buffer.len() {
            match rustix::io::read(&self.pipe, &mut buffer) {
                // Its end, or nothing for now.
                Ok(0) | Err(_) => break,
                Ok(read) => self.last.extend_from_slice(&buffer[..read]),
            }
        }
        let old = self.last.len().saturating_sub(KEPT);
        self.last.drain(..old);
    }

    /// What it said last, on one line; none if it said nothing.
    pub(super) fn last_words(mut self) -> Option<String> {
        self.hear();
        let text = String::from_utf8_lossy(&self.last);
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let said = weir_sandbox::one_line(&lines.collect::<Vec<_>>().join(" | ")).into_owned();
        (!said.is_empty()).then_some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_it_is_kept_and_a_flood_is_not() {
        let (mut output, theirs) = Output::new().unwrap();
        let mut sent = 0;
        while let Ok(written) = rustix::io::write(&theirs, &[b'x'; 4096]) {
            sent += written;
        }
        assert!(sent > KEPT);
        output.hear();
        rustix::io::write(&theirs, b"\nthread 'main' panicked\n\x1b[31mat once\n").unwrap();
        let words = output.last_words().unwrap();
        assert!(words.len() <= KEPT + 2 * 2, "a line's end is shown as {words}");
        assert!(words.ends_with("x | thread 'main' panicked |  [31mat once"), "{words}");
        assert_eq!(Output::new().unwrap().0.last_words(), None);
    }
}
