//! Search and replace in a body that comes in pieces.
//!
//! Owns: finding what lies across two pieces, within a bounded window. Must not know: rules,
//! messages. What might be the beginning of something searched for is cut off a piece and put
//! before the next one; that is less than the longest text searched for. The texts are searched for
//! with Aho-Corasick, the leftmost first.

use aho_corasick::{AhoCorasick, MatchKind};
use weir_sdk::message::{Piece, PieceFull};

/// Longest text that can be searched for, in bytes.
pub(crate) const FIND_MAX: usize = 256;

/// What is searched for, and what it becomes.
#[derive(Debug)]
pub(crate) struct Replacements {
    finder: AhoCorasick,
    finds: Vec<Vec<u8>>,
    replaces: Vec<Vec<u8>>,
    longest: usize,
}

/// What is left over from the pieces so far.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Goes on as it is, as soon as there is room.
    done: Vec<u8>,
    /// May be the beginning of something searched for.
    undecided: Vec<u8>,
}

/// Buffers that every body uses in turn.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    input: Vec<u8>,
    output: Vec<u8>,
}

/// How many were found, and how many of these were left because there was no room for what they
/// would become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) replaced: u64,
    pub(crate) left: u64,
}

impl Replacements {
    /// # Errors
    /// When a text is empty or too long.
    pub(crate) fn new(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self, String> {
        if let Some((find, _)) = pairs.iter().find(|(f, _)| !(1..=FIND_MAX).contains(&f.len())) {
            let length = find.len();
            return Err(format!(
                "a text of {length} bytes cannot be searched for: 1 to {FIND_MAX}"
            ));
        }
        let (finds, replaces): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(&finds);
        let finder =
            finder.map_err(|error| format!("the texts cannot be searched for: {error}"))?;
        let longest = finds.iter().map(Vec::len).max().unwrap_or(0);
        Ok(Self { finder, finds, replaces, longest })
    }

    /// Replaces in one piece.
    ///
    /// # Errors
    /// When what is left over does not fit into the last piece's room.
    pub(crate) fn apply(
        &self,
        stream: &mut Stream,
        piece: &mut Piece<'_>,
        buffers: &mut Buffers,
    ) -> Result<Found, PieceFull> {
        let last = piece.is_last();
        let nothing_left = stream.undecided.is_empty() && stream.done.is_empty();
        if nothing_left && self.finds_nothing(piece.bytes(), last) {
            // Most pieces: nothing found, nothing at the end.
            return Ok(Found::default());
        }
        let Buffers { input, output } = buffers;
        input.clear();
        input.append(&mut stream.undecided);
        input.extend_from_slice(piece.bytes());
        output.clear();
        output.append(&mut stream.done);

        let mut found = Found::default();
        let mut at = 0;
        let mut decided = input.len();
        for hit in self.finder.find_iter(&input[..]) {
            if !last && hit.start() + self.longest > input.len() {
                // A text that goes before this one may be there when more has come.
                decided = hit.start();
                break;
            }
            output.extend_from_slice(&input[at..hit.start()]);
            let replace = &self.replaces[hit.pattern().as_usize()];
            let rest = input.len() - hit.end();
            if replace.len() > hit.len() && output.len() + replace.len() + rest > piece.capacity() {
                output.extend_from_slice(&input[hit.range()]);
                found.left += 1;
            } else {
                output.extend_from_slice(replace);
                found.replaced += 1;
            }
            at = hit.end();
        }
        let decided = decided.min(self.partial(&input[..], at, last));
        output.extend_from_slice(&input[at..decided]);
        stream.undecided.extend_from_slice(&input[decided..]);
        let fits = output.len().min(piece.capacity());
        if last && fits < output.len() {
            return Err(PieceFull);
        }
        stream.done.extend_from_slice(&output[fits..]);
        piece.replace(&output[..fits])?;
        Ok(found)
    }

    /// Whether all of a piece can go on as it is.
    fn finds_nothing(&self, piece: &[u8], last: bool) -> bool {
        self.finder.find(piece).is_none() && self.partial(piece, 0, last) == piece.len()
    }

    /// Where the longest end of the input begins that may be the beginning of a text.
    fn partial(&self, input: &[u8], from: usize, last: bool) -> usize {
        if last {
            return input.len();
        }
        let earliest = from.max(input.len().saturating_sub(self.longest.saturating_sub(1)));
        (earliest..input.len())
            .find(|start| self.finds.iter().any(|find| find.starts_with(&input[*start..])))
            .unwrap_or(input.len())
    }
}
