//! The layout of messages in the window (`wit/message.md`): heads laid out flat, and what events answer.
//!
//! Owns: reading and editing a head in place, with every place checked. Must not know: HTTP's rules for what a
//! name or a value may be; who checks those is the host.

/// Bytes of a head before its table.
pub const TABLE: usize = 72;
/// Bytes of a table's entry.
pub const ENTRY: usize = 8;
/// Entries that a head has to spare at least when the host lays it out.
pub const SPARE_FIELDS: usize = 16;
/// Bytes that a head has to spare at least when the host lays it out.
pub const SPARE_BYTES: usize = 512;
/// No length is known, or there is no upstream.
pub const UNKNOWN: u32 = u32::MAX;

/// Head flag: the connection is encrypted.
pub const FLAG_TLS: u8 = 1;
/// Head flag: the client asks for another protocol.
pub const FLAG_UPGRADE: u8 = 2;
/// Head flag: there is no body.
pub const FLAG_NO_BODY: u8 = 4;
/// Head flag: a function made it.
pub const FLAG_MADE: u8 = 8;

const END: usize = 0;
const FIELDS: usize = 2;
const FIELDS_ROOM: usize = 4;
const STATUS: usize = 6;
const VERSION: usize = 8;
const FLAGS: usize = 9;
const ROOM: usize = 10;
const CLIENT: usize = 32;
const LOCAL: usize = 48;
const CLIENT_PORT: usize = 64;
const LOCAL_PORT: usize = 66;
const BODY: usize = 68;

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

/// A string of a head that has a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The request's method.
    Method,
    /// The request target: path and query.
    Path,
    /// Host and port.
    Authority,
    /// What TLS's SNI said.
    ServerName,
}

impl Part {
    const fn at(self) -> usize {
        match self {
            Self::Method => 12,
            Self::Path => 16,
            Self::Authority => 20,
            Self::ServerName => 24,
        }
    }
}

/// Nothing more fits into the head's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadFull;

impl core::fmt::Display for HeadFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the head's room is full")
    }
}

/// A head that lies in these bytes: all of them that it may use.
#[derive(Clone, Copy, Debug)]
pub struct Head<B>(B);

impl<B: AsRef<[u8]>> Head<B> {
    /// A view of a head; none if there are too few bytes for one.
    #[must_use]
    #[inline]
    pub fn new(bytes: B) -> Option<Self> {
        (bytes.as_ref().len() >= TABLE).then_some(Self(bytes))
    }

    #[inline]
    fn u16(&self, at: usize) -> u16 {
        let bytes = self.0.as_ref();
        u16::from_le_bytes([bytes[at], bytes[at + 1]])
    }

    /// Bytes up to which there is something, all strings among them.
    #[must_use]
    #[inline]
    pub fn used(&self) -> usize {
        usize::from(self.u16(END)).clamp(TABLE, self.0.as_ref().len())
    }

    /// Status of a response, 0 for others.
    #[must_use]
    #[inline]
    pub fn status(&self) -> u16 {
        self.u16(STATUS)
    }

    /// 10, 11 or 20 for HTTP/1.0, 1.1 and 2; 0 for a connection.
    #[must_use]
    #[inline]
    pub fn version(&self) -> u8 {
        self.0.as_ref()[VERSION]
    }

    /// `FLAG_`…
    #[must_use]
    #[inline]
    pub fn flags(&self) -> u8 {
        self.0.as_ref()[FLAGS]
    }

    /// The client's address, IPv4 as `::ffff:a.b.c.d`, and port.
    #[must_use]
    pub fn client(&self) -> ([u8; 16], u16) {
        (self.address(CLIENT), self.u16(CLIENT_PORT))
    }

    /// The address and port that the client connected to.
    #[must_use]
    pub fn local(&self) -> ([u8; 16], u16) {
        (self.address(LOCAL), self.u16(LOCAL_PORT))
    }

    fn address(&self, at: usize) -> [u8; 16] {
        let mut address = [0; 16];
        address.copy_from_slice(&self.0.as_ref()[at..at + 16]);
        address
    }

    /// Bytes of the body, if they are known.
    #[must_use]
    pub fn body_length(&self) -> Option<u32> {
        let bytes = &self.0.as_ref()[BODY..BODY + 4];
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        (length != UNKNOWN).then_some(length)
    }

    /// The string there; none if its place is not within the head's bytes.
    #[inline]
    fn string(&self, at: usize) -> Option<&[u8]> {
        let (offset, length) = (usize::from(self.u16(at)), usize::from(self.u16(at + 2)));
        if length == 0 {
            return Some(&[]);
        }
        self.0.as_ref().get(offset..offset + length).filter(|_| offset >= TABLE)
    }

    /// A string that has a place of its own, empty if there is none; `None` if its place is not within the head.
    #[must_use]
    #[inline]
    pub fn part(&self, part: Part) -> Option<&[u8]> {
        self.string(part.at())
    }

    /// Entries of the table in use, deleted ones included; never more than there are bytes for.
    #[must_use]
    #[inline]
    pub fn entries(&self) -> usize {
        let room = (self.0.as_ref().len() - TABLE) / ENTRY;
        usize::from(self.u16(FIELDS)).min(usize::from(self.u16(FIELDS_ROOM))).min(room)
    }

    /// Name and value of this entry, `None` if a place is not within the head. The name of a deleted one is empty.
    #[must_use]
    #[inline]
    pub fn entry(&self, entry: usize) -> Option<(&[u8], &[u8])> {
        let at = TABLE + entry * ENTRY;
        Some((self.string(at)?, self.string(at + 4)?))
    }

    /// Where this entry's value begins; none if there is none, or its place is not within the head.
    #[must_use]
    #[inline]
    pub fn value_at(&self, entry: usize) -> Option<usize> {
        let at = TABLE + entry * ENTRY + 4;
        let place = usize::from(self.u16(at));
        self.string(at).filter(|value| !value.is_empty()).map(|_| place)
    }

    /// Names and values of all fields, in order. Broken entries are left out: the host finds those.
    #[inline]
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.entries())
            .filter_map(|entry| self.entry(entry))
            .filter(|(name, _)| !name.is_empty())
    }

    /// The first field of this name (lower case).
    #[must_use]
    #[inline]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Head<B> {
    /// Lays out an empty head in these bytes (at most 65,536 are used) with room for so many fields; none if they
    /// do not fit.
    #[must_use]
    pub fn lay_out(bytes: B, fields: usize) -> Option<Self> {
        let length = bytes.as_ref().len().min(1 << 16);
        let end = TABLE + fields * ENTRY;
        if end > length || length == 0 {
            return None;
        }
        let mut head = Self(bytes);
        head.0.as_mut()[..TABLE].fill(0);
        head.put(END, u16::try_from(end).ok()?);
        head.put(FIELDS_ROOM, u16::try_from(fields).ok()?);
        head.put(ROOM, u16::try_from(length - 1).ok()?);
        head.set_body_length(None);
        Some(head)
    }

    #[inline]
    fn put(&mut self, at: usize, value: u16) {
        self.0.as_mut()[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// Sets the status.
    pub fn set_status(&mut self, status: u16) {
        self.put(STATUS, status);
    }

    /// Sets version (as [`Self::version`]) and flags.
    pub fn set_version(&mut self, version: u8, flags: u8) {
        let bytes = self.0.as_mut();
        bytes[VERSION] = version;
        bytes[FLAGS] = flags;
    }

    /// Sets the client's address and port, and those it connected to.
    pub fn set_addresses(&mut self, client: ([u8; 16], u16), local: ([u8; 16], u16)) {
        let bytes = self.0.as_mut();
        bytes[CLIENT..CLIENT + 16].copy_from_slice(&client.0);
        bytes[LOCAL..LOCAL + 16].copy_from_slice(&local.0);
        self.put(CLIENT_PORT, client.1);
        self.put(LOCAL_PORT, local.1);
    }

    /// Sets what is known of the body's length; more than `u32` can say is not known.
    pub fn set_body_length(&mut self, length: Option<u64>) {
        let length = length.and_then(|n| u32::try_from(n).ok()).unwrap_or(UNKNOWN);
        self.0.as_mut()[BODY..BODY + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Bytes that the head may use.
    fn room(&self) -> usize {
        (usize::from(self.u16(ROOM)) + 1).min(self.0.as_ref().len())
    }

    /// Bytes that can still be appended.
    #[must_use]
    pub fn spare(&self) -> usize {
        self.room().saturating_sub(usize::from(self.u16(END)))
    }

    /// Appends a string, and gives its place.
    #[inline]
    fn append(&mut self, string: &[u8]) -> Result<(u16, u16), HeadFull> {
        let start = usize::from(self.u16(END));
        let end = start + string.len();
        // The end has to be told in 16 bits, too.
        if end > self.room().min(usize::from(u16::MAX)) || start < TABLE {
            return Err(HeadFull);
        }
        self.0.as_mut()[start..end].copy_from_slice(string);
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        let (offset, length) = (start as u16, string.len() as u16);
        self.put(END, end as u16);
        Ok((offset, length))
    }

    /// Appends a string and makes the place at `at` name it.
    #[inline]
    fn set_string(&mut self, at: usize, string: &[u8]) -> Result<(), HeadFull> {
        let (offset, length) = self.append(string)?;
        self.put(at, offset);
        self.put(at + 2, length);
        Ok(())
    }

    /// Sets a string that has a place of its own.
    ///
    /// # Errors
    /// When it does not fit; the old one stays.
    pub fn set_part(&mut self, part: Part, string: &[u8]) -> Result<(), HeadFull> {
        self.set_string(part.at(), string)
    }

    /// Adds a field; its name has to be lower case.
    ///
    /// # Errors
    /// When it does not fit; nothing is added then.
    #[inline]
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadFull> {
        let fields = self.u16(FIELDS);
        let at = TABLE + usize::from(fields) * ENTRY;
        if fields >= self.u16(FIELDS_ROOM) || at + ENTRY > self.room() {
            return Err(HeadFull);
        }
        let end = self.u16(END);
        let places = self.append(name).and_then(|name| Ok((name, self.append(value)?)));
        let Ok((name, value)) = places else {
            self.put(END, end);
            return Err(HeadFull);
        };
        for (n, place) in [name.0, name.1, value.0, value.1].into_iter().enumerate() {
            self.put(at + 2 * n, place);
        }
        self.put(FIELDS, fields + 1);
        Ok(())
    }

    /// Deletes all fields of this name (lower case): how many.
    pub fn remove(&mut self, name: &str) -> usize {
        let mut removed = 0;
        for entry in 0..self.entries() {
            if self.entry(entry).is_some_and(|(n, _)| n == name.as_bytes()) {
                self.put(TABLE + entry * ENTRY + 2, 0);
                removed += 1;
            }
        }
        removed
    }

    /// Makes this the only field of its name (lower case).
    ///
    /// # Errors
    /// When it does not fit; nothing has changed then.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), HeadFull> {
        let is = |head: &Self, entry: usize| {
            head.entry(entry).is_some_and(|(n, _)| n == name.as_bytes())
        };
        let Some(first) = (0..self.entries()).find(|entry| is(self, *entry)) else {
            return self.add(name.as_bytes(), value);
        };
        self.set_string(TABLE + first * ENTRY + 4, value)?;
        for entry in first + 1..self.entries() {
            if is(self, entry) {
                self.put(TABLE + entry * ENTRY + 2, 0);
            }
        }
        Ok(())
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
    fn what_is_put_in_is_read_back() {
        let mut bytes = [0xaa; 1024];
        let mut head = Head::lay_out(&mut bytes[..], 4).unwrap();
        head.set_part(Part::Method, b"GET").unwrap();
        head.set_part(Part::Path, b"/a?b").unwrap();
        head.add(b"accept", b"*/*").unwrap();
        head.add(b"cookie", b"a=1").unwrap();
        head.add(b"cookie", b"b=2").unwrap();
        head.set("cookie", b"c=3").unwrap();
        assert_eq!(head.remove("accept"), 1);
        head.set("x", b"").unwrap();
        assert_eq!(head.add(b"y", b"z"), Err(HeadFull));
        let head = Head::new(&bytes[..]).unwrap();
        assert_eq!(
            (head.part(Part::Method), head.part(Part::Path)),
            (Some(&b"GET"[..]), Some(&b"/a?b"[..]))
        );
        assert_eq!(head.part(Part::Authority), Some(&b""[..]));
        let mut fields = head.fields();
        assert_eq!(fields.next(), Some((&b"cookie"[..], &b"c=3"[..])));
        assert_eq!(fields.next(), Some((&b"x"[..], &b""[..])));
        assert_eq!(fields.next(), None);
        assert_eq!(head.body_length(), None);
    }

    #[test]
    fn a_room_that_is_full_refuses_and_stays_as_it_was() {
        let mut bytes = [0; 128];
        let mut head = Head::lay_out(&mut bytes[..], 2).unwrap();
        assert_eq!(head.spare(), 128 - TABLE - 16);
        assert_eq!(head.add(b"name", &[b'x'; 60]), Err(HeadFull));
        assert_eq!((head.entries(), head.spare()), (0, 40));
        head.add(b"name", &[b'x'; 36]).unwrap();
        assert_eq!(head.spare(), 0);
        assert_eq!(head.set("name", b"y"), Err(HeadFull));
        assert_eq!(head.field("name"), Some(&[b'x'; 36][..]));
    }

    #[test]
    fn places_outside_are_not_followed() {
        for n in 0..TABLE {
            let mut bytes = [0xff; 200];
            bytes[..n].fill(0);
            let head = Head::new(&bytes[..]).unwrap();
            assert!(head.fields().count() <= 16);
            let _ = (head.part(Part::Path), head.part(Part::ServerName));
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
