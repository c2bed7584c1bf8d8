//! Heads that a hostile function writes, and what the gateway would send of them.
//!
//! Owns: making such heads out of any bytes, and looking at what came of them with a parser that is
//! not Weir's. For a test of some thousands of cases and for a fuzz target. Must not know: how
//! heads are checked.

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderValue, Request, Response, Version, request, response};
use weir_exchange::Origin;
use weir_layout::message::{ENTRY, Head, Part, TABLE};
use weir_message::head;

/// Bytes of a room: small, so that it is often full.
const ROOM: usize = 2048;
/// Fields that are the gateway's own: nothing that a function writes becomes one of them.
const OWN: [&str; 8] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "content-length",
];
/// Texts that have made trouble elsewhere.
const NASTY: [&[u8]; 32] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"te",
    b"upgrade",
    b"x-a",
    b"X-Upper",
    b"x y",
    b"",
    b"a\r\nx: y",
    b"\r\n\r\nGET / HTTP/1.1\r\n",
    b"0\r\n\r\n",
    b"\0",
    b"/",
    b"/a b",
    b"/a?b=c",
    b"*",
    b"http://a/",
    b"a:80",
    b"a@b",
    b"GET",
    b"GET /",
    b"\xc3\xa9",
    b"12",
    b"chunked",
    b"keep-alive",
    b"x-seen",
    b" 7",
    b"7, 8",
    b"//a/b",
    b"\x7f",
];

/// Says what to write, byte by byte; zeros when it is at its end.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Mostly a nasty text, else whatever comes.
    fn text(&mut self) -> &'a [u8] {
        let kind = self.byte();
        if kind < 192 {
            return NASTY[usize::from(kind) % NASTY.len()];
        }
        let (text, rest) = self.0.split_at(usize::from(kind % 64).min(self.0.len()));
        self.0 = rest;
        text
    }
}

/// Writes into a head until the script ends.
fn write(script: &mut Script<'_>, room: &mut [u8]) {
    while !script.0.is_empty() {
        let edit = script.byte() % 12;
        if edit < 3 {
            // Past all that keeps a function from making a mistake.
            let at = match edit {
                0 => usize::from(script.word()) % ROOM,
                1 => usize::from(script.byte()) % TABLE,
                _ => {
                    TABLE + usize::from(script.byte() % 24) * ENTRY + usize::from(script.byte() % 8)
                }
            };
            let value = if script.byte() < 128 { script.word() % 512 } else { script.word() };
            if let Some(place) = room.get_mut(at..at + 2) {
                place.copy_from_slice(&value.to_le_bytes());
            }
            continue;
        }
        let Some(mut head) = Head::new(&mut *room) else { continue };
        // A head that is full stays as it is.
        let _ = match edit {
            3 | 4 => head.add(script.text(), script.text()),
            5 | 6 => {
                let name = String::from_utf8_lossy(script.text());
                head.set(&name, script.text())
            }
            7 => {
                head.remove(&String::from_utf8_lossy(script.text()));
                Ok(())
            }
            8 => head.set_part(Part::Method, script.text()),
            9 => head.set_part(Part::Path, script.text()),
            10 => head.set_part(Part::Authority, script.text()),
            _ => {
                head.set_status(script.word() % 1024);
                Ok(())
            }
        };
    }
}

fn origin() -> Origin {
    Origin {
        client: ([192, 0, 2, 1], 4000).into(),
        local: ([192, 0, 2, 2], 80).into(),
        tls: false,
        server_name: None,
        upgrade: false,
    }
}

fn a_request(http2: bool) -> request::Parts {
    let builder = Request::post(if http2 { "http://a.example/b?c=%64" } else { "/b?c=%64" });
    let builder =
        if http2 { builder.version(Version::HTTP_2) } else { builder.header(HOST, "a.example") };
    let builder = builder.header("te", "trailers").header("content-length", "7");
    let builder = builder.header("x-a", "1").header("cookie", "a=b").header("cookie", "c=d");
    builder.body(()).expect("a request").into_parts().0
}

fn a_response() -> response::Parts {
    let builder = Response::builder().header("content-length", "7").header("connection", "close");
    builder.header("x-a", "1").body(()).expect("a response").into_parts().0
}

/// Writes what the script says into heads of all kinds, and looks at what would be sent.
///
/// # Panics
/// When anything would be sent that it must not be, or a refusal has changed something.
pub fn abuse(script: &[u8]) {
    let mut script = Script(script);
    let kind = script.byte();
    let mut room = vec![0; ROOM];
    match kind % 4 {
        0 | 1 => {
            let before = a_request(kind % 4 == 1);
            head::lay_out_request(&mut room, &before, &origin(), Some(7)).expect("it fits");
            write(&mut script, &mut room);
            let mut after = before.clone();
            match head::take_request(&room, &mut after) {
                Ok(()) => {
                    own_are_as_before(&before.headers, &after.headers);
                    request_is_one(&after);
                }
                Err(_) => assert_eq!(
                    (&before.method, &before.uri, &before.headers),
                    (&after.method, &after.uri, &after.headers)
                ),
            }
        }
        2 => {
            let before = a_response();
            head::lay_out_response(&mut room, &before, &origin(), Some(7), false).expect("it fits");
            write(&mut script, &mut room);
            let mut after = before.clone();
            match head::take_response(&room, &mut after) {
                Ok(()) => {
                    own_are_as_before(&before.headers, &after.headers);
                    response_is_one(&after);
                }
                Err(_) => {
                    assert_eq!((before.status, &before.headers), (after.status, &after.headers));
                }
            }
        }
        _ => {
            // What a function makes itself; its room need not even begin as a head.
            if kind < 128 {
                head::lay_out_request(&mut room, &a_request(false), &origin(), None)
                    .expect("it fits");
            }
            write(&mut script, &mut room);
        }
    }
    // The same head as a function's own request, and as its answer.
    let nothing = HeaderMap::new();
    if let Ok(parts) = head::new_request(&room) {
        own_are_as_before(&nothing, &parts.headers);
        request_is_one(&parts);
    }
    if let Ok(parts) = head::new_response(&room) {
        own_are_as_before(&nothing, &parts.headers);
        response_is_one(&parts);
    }
    let _ = head::read_origin(&room);
    assert!(head::length(&mut room) <= ROOM);
}

fn own_are_as_before(before: &HeaderMap, after: &HeaderMap) {
    for name in OWN {
        let of = |headers: &HeaderMap| -> Vec<HeaderValue> {
            headers.get_all(name).iter().cloned().collect()
        };
        assert_eq!(of(before), of(after), "{name}");
    }
    assert!(after.get_all(HOST).iter().count() <= 1, "two hosts");
    assert!(after.get_all(CONTENT_LENGTH).iter().count() <= 1, "two lengths");
}

/// Whether a request as HTTP/1.1 would be read as what it is, by somebody else.
fn request_is_one(parts: &request::Parts) {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let first = format!("{} {target} HTTP/1.1", parts.method);
    let bytes = lines(&first, &parts.headers);
    let mut fields = vec![httparse::EMPTY_HEADER; parts.headers.len() + 1];
    let mut read = httparse::Request::new(&mut fields);
    let length = read.parse(&bytes).unwrap_or_else(|error| panic!("{error}: {parts:?}"));
    assert_eq!(length, httparse::Status::Complete(bytes.len()), "{parts:?}");
    assert_eq!((read.method, read.path), (Some(parts.method.as_str()), Some(target)));
    fields_are(&parts.headers, read.headers);
}

/// The same of a response.
fn response_is_one(parts: &response::Parts) {
    let status = parts.status.as_u16();
    assert!((200..600).contains(&status), "{status}");
    let bytes = lines(&format!("HTTP/1.1 {status} -"), &parts.headers);
    let mut fields = vec![httparse::EMPTY_HEADER; parts.headers.len() + 1];
    let mut read = httparse::Response::new(&mut fields);
    let length = read.parse(&bytes).unwrap_or_else(|error| panic!("{error}: {parts:?}"));
    assert_eq!(length, httparse::Status::Complete(bytes.len()), "{parts:?}");
    assert_eq!(read.code, Some(status));
    fields_are(&parts.headers, read.headers);
}

/// Lines without any look at what is in them.
fn lines(first: &str, headers: &HeaderMap) -> Vec<u8> {
    let mut bytes = format!("{first}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(b"\r\n");
    bytes
}

fn fields_are(headers: &HeaderMap, read: &[httparse::Header<'_>]) {
    assert_eq!(headers.len(), read.len(), "{headers:?} was read as {read:?}");
    for ((name, value), field) in headers.iter().zip(read) {
        assert_eq!(name.as_str(), field.name);
        // White space around a value is not the value's.
        assert_eq!(value.as_bytes().trim_ascii(), field.value.trim_ascii(), "{name}");
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{name}");
    }
}
