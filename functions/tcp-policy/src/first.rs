//! What a connection's first bytes say.
//!
//! Owns: telling protocols apart, and the server name in a TLS ClientHello (RFC 8446, section
//! 4.1.2; RFC 6066, section 3). Must not know: what is decided.

/// Most bytes that are looked at: a ClientHello of one record's size.
pub(crate) const FIRST_MAX: usize = 16 * 1024 + 5;

/// A protocol that begins in a way of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// A ClientHello.
    Tls,
    /// `SSH-` (RFC 4253, section 4.2).
    Ssh,
    /// A request of HTTP/1, or HTTP/2's preface.
    Http,
    /// Anything else.
    Other,
}

/// What the bytes so far come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First<'a> {
    /// It may still be one or the other.
    More,
    /// It is this; of TLS with the server name, if there is one.
    Is(Protocol, Option<&'a [u8]>),
}

const METHODS: [&[u8]; 11] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"TRACE ",
    b"CONNECT ",
    b"PRI * HTTP/2",
    b"PROPFIND ",
];

/// Looks at a connection's first bytes. `last`: no more will come.
pub(crate) fn look(bytes: &[u8], last: bool) -> First<'_> {
    let last = last || bytes.len() >= FIRST_MAX;
    let begins = |text: &[u8]| bytes.starts_with(text);
    let may_begin = |text: &[u8]| !last && text.starts_with(bytes);
    if begins(b"SSH-") {
        return First::Is(Protocol::Ssh, None);
    }
    if METHODS.into_iter().any(begins) {
        return First::Is(Protocol::Http, None);
    }
    if may_begin(b"SSH-") || METHODS.into_iter().any(may_begin) {
        return First::More;
    }
    match hello(bytes) {
        Ok(name) => First::Is(Protocol::Tls, name),
        Err(Short) if last => First::Is(Protocol::Other, None),
        Err(Short) => First::More,
        Err(Wrong) => First::Is(Protocol::Other, None),
    }
}

/// Why there is no ClientHello.
enum NoHello {
    Short,
    Wrong,
}
use NoHello::{Short, Wrong};

/// Reads fields one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    /// What follows its length of so many bytes.
    fn counted(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let count = self.number(bytes)?;
        self.take(count)
    }
}

/// The server name of a ClientHello in one record; one in several is not read.
fn hello(bytes: &[u8]) -> Result<Option<&[u8]>, NoHello> {
    // Record: handshake, a version of 3.x, length; message: client_hello, length.
    for (at, allowed) in [(0, 22..=22), (1, 3..=3), (2, 0..=4), (5, 1..=1)] {
        match bytes.get(at) {
            Some(byte) if allowed.contains(byte) => {}
            Some(_) => return Err(Wrong),
            None => return Err(Short),
        }
    }
    let mut record = Reader(&bytes[3..]);
    let length = record.number(2).ok_or(Short)?;
    if !(4..=1 << 14).contains(&length) {
        return Err(Wrong);
    }
    let mut message = Reader(record.take(length).ok_or(Short)?);
    message.take(1);
    let body = message.counted(3).ok_or(Wrong)?;
    server_name(body).ok_or(Wrong)
}

/// None if the message is broken.
fn server_name(hello: &[u8]) -> Option<Option<&[u8]>> {
    let mut hello = Reader(hello);
    // Version and random; session, cipher suites, compressions.
    hello.take(2 + 32)?;
    hello.counted(1)?;
    hello.counted(2)?;
    hello.counted(1)?;
    if hello.0.is_empty() {
        return Some(None);
    }
    let mut extensions = Reader(hello.counted(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let data = extensions.counted(2)?;
        if kind != 0 {
            continue;
        }
        let mut names = Reader(data);
        let mut names = Reader(names.counted(2)?);
        while !names.0.is_empty() {
            let kind = names.number(1)?;
            let name = names.counted(2)?;
            if kind == 0 {
                return Some(Some(name));
            }
        }
    }
    Some(None)
}

/// A ClientHello for tests.
#[cfg(test)]
pub(crate) fn client_hello(name: Option<&str>) -> Vec<u8> {
    let two = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let mut extensions = vec![0xff, 0x01, 0, 1, 0];
    if let Some(name) = name {
        extensions.extend([0, 0]);
        extensions.extend(two(name.len() + 5));
        extensions.extend(two(name.len() + 3));
        extensions.push(0);
        extensions.extend(two(name.len()));
        extensions.extend(name.as_bytes());
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(two(extensions.len()));
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(two(body.len()));
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(two(message.len()));
    record.extend(message);
    record
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn protocols_are_told_apart() {
        for (bytes, protocol) in [
            (&b"SSH-2.0-OpenSSH_9"[..], Protocol::Ssh),
            (b"GET / HTTP/1.1\r\n", Protocol::Http),
            (b"PRI * HTTP/2.0\r\n", Protocol::Http),
            (b"EHLO x\r\n", Protocol::Other),
            (b"\x16\x02\x00", Protocol::Other),
            (b"\x00", Protocol::Other),
        ] {
            assert_eq!(look(bytes, false), First::Is(protocol, None));
        }
        for bytes in [&b""[..], b"S", b"SSH", b"GET", b"P", b"\x16", b"\x16\x03\x01\x02"] {
            assert_eq!(look(bytes, false), First::More, "{bytes:?}");
            assert_eq!(look(bytes, true), First::Is(Protocol::Other, None));
        }
    }

    #[test]
    fn server_names_are_read_when_the_hello_is_there() {
        let hello = client_hello(Some("a.example"));
        for length in 0..hello.len() {
            assert_eq!(look(&hello[..length], false), First::More, "{length}");
        }
        assert_eq!(look(&hello, false), First::Is(Protocol::Tls, Some(b"a.example")));
        let more = [&hello[..], b"more"].concat();
        assert_eq!(look(&more, false), First::Is(Protocol::Tls, Some(b"a.example")));
        assert_eq!(look(&client_hello(None), false), First::Is(Protocol::Tls, None));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), at in 0usize..80, byte: u8) {
            look(&bytes, false);
            let mut hello = client_hello(Some("a.example"));
            let at = at % hello.len();
            hello[at] = byte;
            look(&hello, true);
        }
    }
}
