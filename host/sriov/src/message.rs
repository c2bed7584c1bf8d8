//! Netlink messages as bytes (netlink(7)): headers, attributes, attributes within attributes.

/// Bytes of a message's header (`struct nlmsghdr`), and of an attribute's (`struct rtattr`).
pub(crate) const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// The bits of an attribute's kind that are no flags.
const KIND: u16 = 0x3fff;

/// A message that is being made.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// One of this kind, with the fixed part that the kind has.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        // Sequence number and sender only matter to who has several questions.
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.within(kind, |message| message.0.extend_from_slice(value));
    }

    /// An attribute that is made of others.
    pub(crate) fn within(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(crate) fn bytes(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// The messages in a datagram: kind, and what is behind the header. Ends where one is damaged.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = word(rest, 0)? as usize;
        let body = rest.get(HEADER..length)?;
        let kind = half(rest, 4)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in these bytes: kind and value. Ends where one is damaged.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(rest, 0)?);
        let value = rest.get(ATTRIBUTE..length)?;
        let kind = half(rest, 2)? & KIND;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number of four bytes at this place.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_made() {
        let mut message = Message::new(7, 1, &[9; 8]);
        message.attribute(3, b"abc");
        message.within(4, |message| {
            message.attribute(1, &[1]);
            message.attribute(2, &5u32.to_ne_bytes());
        });
        let bytes = message.bytes();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!((all.len(), all[0].0, &all[0].1[..8]), (1, 7, &[9; 8][..]));
        let parts: Vec<_> = attributes(&all[0].1[8..]).collect();
        assert_eq!(parts[0], (3, &b"abc"[..]));
        let inner: Vec<_> = attributes(parts[1].1).collect();
        assert_eq!((inner[0], word(inner[1].1, 0)), ((1, &[1][..]), Some(5)));
        // Cut anywhere, it is nothing or less, and never a panic.
        for end in 0..bytes.len() {
            assert_eq!(messages(&bytes[..end]).count(), 0);
            assert!(attributes(bytes[HEADER + 8..].get(..end).unwrap_or_default()).count() <= 2);
        }
    }
}
