//! A head that lies flat in a room.
//!
//! Owns: reading and editing it in place, with every place checked. Functions ask a head for fields
//! that are mostly not there, and add short ones: a name is looked at only if its length is right,
//! and short strings are copied without a call, which in Wasm leaves for the host.

use super::UNKNOWN;

/// Bytes of a head before its table.
pub const TABLE: usize = 72;
/// Bytes of a table's entry.
pub const ENTRY: usize = 8;
/// Entries that a head has to spare at least when the host lays it out.
pub const SPARE_FIELDS: usize = 16;
/// Bytes that a head has to spare at least when the host lays it out.
pub const SPARE_BYTES: usize = 512;

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
const UPSTREAM: usize = 28;
const CLIENT: usize = 32;
const LOCAL: usize = 48;
const CLIENT_PORT: usize = 64;
const LOCAL_PORT: usize = 66;
const BODY: usize = 68;

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

    /// All bytes that it may use.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref()
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

    /// Number of the upstream that sent a response, if that is known.
    #[must_use]
    pub fn upstream(&self) -> Option<u32> {
        let bytes = &self.0.as_ref()[UPSTREAM..UPSTREAM + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).checked_sub(1)
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

    /// A string that has a place of its own, empty if there is none; `None` if its place is not
    /// within the head.
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

    /// Name and value of this entry, `None` if a place is not within the head. The name of a
    /// deleted one is empty.
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

    /// The first entry of this name from there on. Deleted and broken ones have none.
    #[inline]
    fn find(&self, from: usize, name: &[u8]) -> Option<usize> {
        let bytes = self.0.as_ref();
        let end = self.entries();
        if name.is_empty() {
            return None;
        }
        let table = bytes.get(TABLE + from.min(end) * ENTRY..TABLE + end * ENTRY)?;
        for (entry, places) in (from..).zip(table.chunks_exact(ENTRY)) {
            if usize::from(u16::from_le_bytes([places[2], places[3]])) == name.len() {
                let start = usize::from(u16::from_le_bytes([places[0], places[1]]));
                let there = bytes.get(start..start + name.len()).filter(|_| start >= TABLE);
                if there.is_some_and(|there| same(there, name)) && self.entry(entry).is_some() {
                    return Some(entry);
                }
            }
        }
        None
    }

    /// The first field of this name (lower case).
    #[must_use]
    #[inline]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.find(0, name.as_bytes()).and_then(|entry| self.entry(entry)).map(|(_, value)| value)
    }

    /// Where the table ends that the head has room for, and strings begin; never behind the head's
    /// bytes.
    #[must_use]
    pub fn strings(&self) -> usize {
        let strings = TABLE + usize::from(self.u16(FIELDS_ROOM)) * ENTRY;
        strings.min(self.0.as_ref().len())
    }

    /// Whether all of `before`, a head in the same place, is here as it was: fields may have been
    /// added, and a status set.
    #[must_use]
    pub fn only_adds_to(&self, before: &[u8]) -> bool {
        let Some(old) = Head::new(before) else { return false };
        let (entries, strings) = (old.entries(), old.strings());
        let now = self.0.as_ref();
        let same = |from: usize, to: usize| match (now.get(from..to), before.get(from..to)) {
            (Some(now), Some(before)) => now == before,
            _ => false,
        };
        self.entries() >= entries
            && same(FIELDS_ROOM, STATUS)
            && same(VERSION, TABLE + entries * ENTRY)
            && same(strings, before.len())
    }
}

/// Whether two strings of the same length are the same.
#[inline]
fn same(one: &[u8], other: &[u8]) -> bool {
    if let (Some(a), Some(b), Some(c), Some(d)) = (
        one.first_chunk::<8>(),
        other.first_chunk::<8>(),
        one.last_chunk::<8>(),
        other.last_chunk::<8>(),
    ) {
        return a == b && c == d && (one.len() <= 16 || one == other);
    }
    one.iter().zip(other).all(|(one, other)| one == other)
}

/// Copies a string to where it fits exactly.
#[inline]
fn copy(to: &mut [u8], string: &[u8]) {
    match string.len() {
        0 => {}
        1 => to[0] = string[0],
        2..4 => copy_ends::<2>(to, string),
        4..8 => copy_ends::<4>(to, string),
        8..=16 => copy_ends::<8>(to, string),
        17..=32 => copy_ends::<16>(to, string),
        _ => to.copy_from_slice(string),
    }
}

/// Copies a string of `N` bytes to twice as many: its first `N` and its last, which may overlap.
#[inline]
fn copy_ends<const N: usize>(to: &mut [u8], string: &[u8]) {
    let last = string.len() - N;
    to[..N].copy_from_slice(&string[..N]);
    to[last..last + N].copy_from_slice(&string[last..last + N]);
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Head<B> {
    /// Lays out an empty head in these bytes (at most 65,536 are used) with room for so many
    /// fields; none if they do not fit.
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

    /// Sets which upstream sent a response.
    pub fn set_upstream(&mut self, upstream: Option<u32>) {
        let number = upstream.and_then(|upstream| upstream.checked_add(1)).unwrap_or(0);
        self.0.as_mut()[UPSTREAM..UPSTREAM + 4].copy_from_slice(&number.to_le_bytes());
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

    /// Appends strings that lie one behind the other, and gives the place of the first.
    #[inline]
    fn append<const N: usize>(&mut self, strings: [&[u8]; N]) -> Result<u16, HeadFull> {
        let start = usize::from(self.u16(END));
        let end = strings.iter().fold(start, |end, string| end.saturating_add(string.len()));
        // The end has to be told in 16 bits, too.
        if end > self.room().min(usize::from(u16::MAX)) || start < TABLE {
            return Err(HeadFull);
        }
        let mut rest = &mut self.0.as_mut()[start..end];
        for string in strings {
            let (to, behind) = rest.split_at_mut(string.len());
            copy(to, string);
            rest = behind;
        }
        // Checked above.
        let (start, end) = (start as u16, end as u16);
        self.put(END, end);
        Ok(start)
    }

    /// Appends a string and makes the place at `at` name it.
    #[inline]
    fn set_string(&mut self, at: usize, string: &[u8]) -> Result<(), HeadFull> {
        let offset = self.append([string])?;
        self.put(at, offset);
        // A longer one does not fit.
        self.put(at + 2, string.len() as u16);
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
        let offset = self.append([name, value])?;
        // Longer ones do not fit.
        let (name, value) = (name.len() as u16, value.len() as u16);
        let places = [offset, name, offset + name, value].map(u16::to_le_bytes);
        self.0.as_mut()[at..at + ENTRY].copy_from_slice(places.as_flattened());
        self.put(FIELDS, fields + 1);
        Ok(())
    }

    /// Deletes all fields of this name (lower case): how many.
    pub fn remove(&mut self, name: &str) -> usize {
        let (mut removed, mut from) = (0, 0);
        while let Some(entry) = self.find(from, name.as_bytes()) {
            self.put(TABLE + entry * ENTRY + 2, 0);
            (removed, from) = (removed + 1, entry + 1);
        }
        removed
    }

    /// Makes this the only field of its name (lower case).
    ///
    /// # Errors
    /// When it does not fit; nothing has changed then.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), HeadFull> {
        let Some(first) = self.find(0, name.as_bytes()) else {
            return self.add(name.as_bytes(), value);
        };
        self.set_string(TABLE + first * ENTRY + 4, value)?;
        let mut from = first + 1;
        while let Some(entry) = self.find(from, name.as_bytes()) {
            self.put(TABLE + entry * ENTRY + 2, 0);
            from = entry + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn fields_of_all_lengths_are_found_and_copied_whole() {
        let name = |length: usize, last: u8| {
            let mut name = [b'n'; 80];
            name[length - 1] = last;
            name
        };
        let mut bytes = [0xaa; 16_384];
        let mut head = Head::lay_out(&mut bytes[..], 160).unwrap();
        for length in 1..80 {
            for last in [b'a', b'b'] {
                head.add(&name(length, last)[..length], &[last; 80][..length]).unwrap();
            }
        }
        for length in 1..80 {
            for last in [b'a', b'b', b'c'] {
                let name = name(length, last);
                let name = core::str::from_utf8(&name[..length]).unwrap();
                let value = [last; 80];
                let found = (last != b'c').then_some(&value[..length]);
                assert_eq!(head.field(name), found, "{name}");
            }
        }
        assert_eq!(head.field(""), None);
    }

    #[test]
    fn what_is_added_is_told_from_what_is_changed() {
        type Edit = fn(&mut Head<&mut [u8]>) -> bool;
        let edits: [(Edit, bool); 6] = [
            (|head| head.add(b"x", b"y").is_ok(), true),
            (|head| head.set("y", b"z").is_ok(), true),
            (|head| head.set("accept", b"z").is_ok(), false),
            (|head| head.remove("accept") == 1, false),
            (|head| head.set_part(Part::Path, b"/b").is_ok(), false),
            (
                |head| {
                    head.set_status(404);
                    true
                },
                true,
            ),
        ];
        for (n, (edit, adds)) in edits.into_iter().enumerate() {
            let mut bytes = [0; 1024];
            let mut head = Head::lay_out(&mut bytes[..], 4).unwrap();
            head.set_part(Part::Path, b"/a").unwrap();
            head.add(b"accept", b"*/*").unwrap();
            let before = bytes;
            let before = &before[..Head::new(&bytes[..]).unwrap().used()];
            assert!(Head::new(&bytes[..]).unwrap().only_adds_to(before));
            assert!(edit(&mut Head::new(&mut bytes[..]).unwrap()));
            assert_eq!(Head::new(&bytes[..]).unwrap().only_adds_to(before), adds, "{n}");
            // A byte of any string of before.
            let last = before.len() - 1;
            bytes[last] ^= 1;
            assert!(!Head::new(&bytes[..]).unwrap().only_adds_to(before), "{n}");
        }
    }
}
