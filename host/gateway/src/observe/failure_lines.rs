//! Lines of the log about exchanges that failed and clients that were refused: a few, whatever
//! clients do.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Lines of a listener on a thread within [`SPAN`]; others are for who looks closely.
const LINES: u32 = 5;
/// The same of certificates that are refused.
const CERTIFICATES: u32 = 1;
const SPAN: Duration = Duration::from_secs(1);
/// Bytes of a method, or a path, that are shown.
const TEXT_MAX: usize = 256;

/// How many lines a listener may still write.
pub(crate) struct Lines {
    /// In a span.
    most: u32,
    /// When the span began, and the lines that there were in it.
    span: Cell<Option<(Instant, u32)>>,
    left_out: Cell<u64>,
}

impl Lines {
    pub(crate) fn of_exchanges() -> Self {
        Self { most: LINES, span: Cell::default(), left_out: Cell::default() }
    }

    pub(crate) fn of_certificates() -> Self {
        Self { most: CERTIFICATES, ..Self::of_exchanges() }
    }

    /// Whether there may be one more now: how many were left out since the last one.
    pub(crate) fn say(&self, now: Instant) -> Option<u64> {
        let (since, said) = match self.span.get() {
            Some((since, said)) if now.duration_since(since) < SPAN => (since, said),
            _ => (now, 0),
        };
        if said == self.most {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.span.set(Some((since, said + 1)));
        Some(self.left_out.take())
    }
}

/// What is said of one.
pub(crate) struct Line<'a> {
    pub(crate) listener: &'a str,
    pub(crate) client: SocketAddr,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// 0: there was no response.
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    /// What there is to say about it beyond that.
    pub(crate) why: Option<&'a dyn fmt::Display>,
    pub(crate) upstream: Option<SocketAddr>,
    pub(crate) milliseconds: Option<u128>,
    /// Others that failed before and were not said.
    pub(crate) left_out: u64,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listener, client, method, path, status, reason, .. } = self;
        let path = path.escape_debug();
        write!(f, "listener {listener}: {reason}: {method} {path} of {client}, status {status}")?;
        if let Some(upstream) = self.upstream {
            write!(f, ", upstream {upstream}")?;
        }
        if let Some(milliseconds) = self.milliseconds {
            write!(f, ", after {milliseconds} ms")?;
        }
        if let Some(why) = self.why {
            write!(f, ": {why}")?;
        }
        match self.left_out {
            0 => Ok(()),
            left_out => write!(f, "; {left_out} others are not shown"),
        }
    }
}

/// As much of a client's text as is shown.
pub(crate) fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_a_few_lines_and_how_many_there_were() {
        let (lines, now) = (Lines::of_exchanges(), Instant::now());
        let said: Vec<_> = (0..1000).filter_map(|_| lines.say(now)).collect();
        assert_eq!(said, [0; LINES as usize]);
        assert_eq!(lines.say(now + SPAN), Some(1000 - u64::from(LINES)));
        assert_eq!(lines.say(now + SPAN), Some(0));
    }
}
