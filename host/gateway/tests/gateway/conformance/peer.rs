//! A client that says what it likes: frames of HTTP/2, byte by byte. It knows nothing of streams
//! and states.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
/// A whole request without a body, as flags of its HEADERS.
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// For so long a server may say nothing that it has to say.
const PATIENCE: Duration = Duration::from_secs(5);

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// The number at this place of its payload.
    pub(super) fn number(&self, at: usize) -> u32 {
        self.payload
            .get(at..at + 4)
            .map_or(0, |bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
    }
}

/// What comes of listening.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Frame(Frame),
    Closed,
    /// Nothing in time.
    Silence,
}

trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// See the module.
pub(super) struct Peer {
    wire: Box<dyn Wire>,
}

impl Peer {
    /// Connects; with TLS if there is a configuration of it.
    pub(super) fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let wire: Box<dyn Wire> = match tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from("localhost").unwrap();
                let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
                Box::new(StreamOwned::new(connection, tcp))
            }
        };
        Self { wire }
    }

    /// Preface and SETTINGS, and hears the server's.
    pub(super) fn greet(&mut self) {
        self.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        self.send(SETTINGS, 0, 0, &[]);
        let first = self.hear();
        let Heard::Frame(Frame { kind: SETTINGS, flags: 0, stream: 0, .. }) = first else {
            panic!("a server begins with SETTINGS (RFC 9113, 3.4), this one with {first:?}");
        };
        self.send(SETTINGS, ACK, 0, &[]);
    }

    /// Sends these bytes. The server may have gone already: what it said tells.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let _ = self.wire.write_all(bytes).and_then(|()| self.wire.flush());
    }

    /// Sends a frame.
    pub(super) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap();
        self.bytes(&[&frame_head(length, kind, flags, stream)[..], payload].concat());
    }

    /// SETTINGS with these.
    pub(super) fn settings(&mut self, settings: &[(u16, u32)]) {
        let pair =
            |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
        self.send(SETTINGS, 0, 0, &settings.iter().flat_map(pair).collect::<Vec<u8>>());
    }

    /// The next frame.
    pub(super) fn hear(&mut self) -> Heard {
        let mut head = [0; 9];
        if let Err(heard) = self.read(&mut head) {
            return heard;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        if let Err(heard) = self.read(&mut payload) {
            return heard;
        }
        Heard::Frame(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Heard> {
        self.wire.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Heard::Silence,
            // Also a reset, or TLS's end without a word.
            _ => Heard::Closed,
        })
    }
}

fn frame_head(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut head = length.to_be_bytes()[1..].to_vec();
    head.extend([kind, flags]);
    head.extend(stream.to_be_bytes());
    head
}

/// Fields as HPACK has them: literals with new names, not to be remembered, nothing compressed (RFC
/// 7541, section 6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // An integer of seven bits, or more (section 5.1).
            match text.len() {
                short @ 0..127 => block.push(short as u8),
                long => {
                    block.push(127);
                    let mut rest = long - 127;
                    while rest >= 128 {
                        block.push((rest % 128 + 128) as u8);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A GET with these fields besides.
pub(super) fn get(more: &[(&str, &str)]) -> Vec<u8> {
    request("GET", more)
}

/// A POST with these fields besides.
pub(super) fn post(more: &[(&str, &str)]) -> Vec<u8> {
    request("POST", more)
}

fn request(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo =
        [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "localhost")];
    block(&[&pseudo[..], more].concat())
}
