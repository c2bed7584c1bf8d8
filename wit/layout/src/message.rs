//! The layout of messages in the window (`wit/message.md`): heads laid out flat, and what events
//! answer.
//!
//! Owns: the words of events and outcomes. Must not know: HTTP's rules for what a name or a value
//! may be; who checks those is the host.

mod head;

pub use head::{
    ENTRY, FLAG_MADE, FLAG_NO_BODY, FLAG_TLS, FLAG_UPGRADE, Head, HeadFull, Part, SPARE_BYTES,
    SPARE_FIELDS, TABLE,
};

/// No length is known, or there is no upstream.
pub const UNKNOWN: u32 = u32::MAX;

/// Fields that are for one hop only (RFC 9110, section 7.6.1; `http2-settings` of RFC 7540). The
/// gateway has its own at either side: functions neither see those that it got nor set those that
/// it sends.
pub const HOP_FIELDS: [&str; 7] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Whether this is one of [`HOP_FIELDS`]; names are in lower case.
#[must_use]
pub fn is_hop_field(name: &str) -> bool {
    HOP_FIELDS.contains(&name)
}

/// Which events a function wants: bits of what `configure` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants(pub u32);

impl Wants {
    /// `request-head`.
    pub const REQUEST_HEAD: Self = Self(1);
    /// `request-body`.
    pub const REQUEST_BODY: Self = Self(2);
    /// `response-head`.
    pub const RESPONSE_HEAD: Self = Self(4);
    /// `response-body`.
    pub const RESPONSE_BODY: Self = Self(8);
    /// `ended`.
    pub const ENDED: Self = Self(16);
    /// `opened`, of connection functions.
    pub const OPENED: Self = Self(32);
    /// `data`, of connection functions.
    pub const DATA: Self = Self(64);

    /// All that a function for requests can be told.
    pub const OF_REQUESTS: Self = Self(31);
    /// All that a function for connections can be told.
    pub const OF_CONNECTIONS: Self = Self(112);

    /// Those that are among these, too.
    #[must_use]
    pub const fn among(self, these: Self) -> Self {
        Self(self.0 & these.0)
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of the other's events are among these.
    #[must_use]
    #[inline]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a function decides with an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// The next function has it.
    #[default]
    Continue = 0,
    /// The function answers itself.
    Answer = 1,
    /// The stream or connection ends without an answer.
    Reset = 2,
    /// Nothing moves until `resume`.
    Wait = 3,
    /// The piece stays; the next one is to be shown.
    Hold = 4,
    /// As `Continue`, and no more events of this exchange but `ended`.
    Done = 5,
}

/// What an event answers, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What happens.
    pub action: Action,
    /// The head, or the piece's length, was changed.
    pub changed: bool,
    /// The piece is left out.
    pub replaced: bool,
    /// Nothing is remembered of the exchange: its end need not be told.
    pub forgotten: bool,
    /// The piece's new length, if `changed`.
    pub length: u32,
}

impl Outcome {
    const CHANGED: u64 = 256;
    const REPLACED: u64 = 512;
    const FORGOTTEN: u64 = 1024;

    /// Nothing but an action.
    #[must_use]
    pub const fn of(action: Action) -> Self {
        Self { action, changed: false, replaced: false, forgotten: false, length: 0 }
    }

    /// As a word.
    #[must_use]
    pub const fn encode(self) -> u64 {
        let flags = if self.changed { Self::CHANGED } else { 0 }
            | if self.replaced { Self::REPLACED } else { 0 }
            | if self.forgotten { Self::FORGOTTEN } else { 0 };
        self.action as u64 | flags | (self.length as u64) << 32
    }

    /// From a word; none if it means nothing.
    #[must_use]
    pub const fn decode(word: u64) -> Option<Self> {
        let action = match word & 0xff {
            0 => Action::Continue,
            1 => Action::Answer,
            2 => Action::Reset,
            3 => Action::Wait,
            4 => Action::Hold,
            5 => Action::Done,
            _ => return None,
        };
        if word & 0xffff_ff00 & !(Self::CHANGED | Self::REPLACED | Self::FORGOTTEN) != 0 {
            return None;
        }
        let forgotten = word & Self::FORGOTTEN != 0;
        if forgotten && matches!(action, Action::Wait | Action::Hold) {
            return None;
        }
        let length = (word >> 32) as u32;
        let (changed, replaced) = (word & Self::CHANGED != 0, word & Self::REPLACED != 0);
        Some(Self { action, changed, replaced, forgotten, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_words_and_words_outcomes() {
        let done = Outcome { changed: true, forgotten: true, ..Outcome::of(Action::Done) };
        assert_eq!((done.encode(), Outcome::decode(5 | 256 | 1024)), (1285, Some(done)));
        let longer = Outcome { changed: true, length: 7, ..Outcome::of(Action::Continue) };
        assert_eq!(Outcome::decode(longer.encode()), Some(longer));
        // Who waits or holds remembers that; and what means nothing is no outcome.
        for word in [3 | 1024, 4 | 1024, 6, 2048, 1 << 31] {
            assert_eq!(Outcome::decode(word), None, "{word}");
        }
    }

    #[test]
    fn outcomes_survive_their_word_and_nonsense_is_none() {
        let outcome =
            Outcome { action: Action::Hold, changed: true, length: 77, ..Outcome::default() };
        assert_eq!(Outcome::decode(outcome.encode()), Some(outcome));
        assert_eq!(Outcome::decode(6), None);
    }
}
