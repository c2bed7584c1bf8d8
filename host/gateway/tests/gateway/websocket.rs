//! WebSocket (RFC 6455) from a client to a server, both in a few lines.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{self, Server, connect, gateway, read_head, until};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The last frame of a message.
const FIN: u8 = 0x80;

/// A frame (section 5.2); clients mask theirs.
fn send(stream: &mut TcpStream, first: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let mut frame = vec![first];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        short @ ..126 => frame.push(masked | short as u8),
        long => {
            frame.push(masked | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask.iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    stream.write_all(&frame).unwrap();
}

/// The next frame: its first byte, whether it was masked, and its payload.
fn receive(stream: &mut TcpStream) -> (u8, bool, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    let length = match head[1] & 0x7f {
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length).unwrap();
            u64::from_be_bytes(length)
        }
        short => short.into(),
    };
    let (masked, mut mask) = (head[1] & 0x80 != 0, [0; 4]);
    if masked {
        stream.read_exact(&mut mask).unwrap();
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).unwrap();
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    (head[0], masked, payload)
}

/// Sends messages back and answers pings, until the client closes.
fn echo(mut stream: TcpStream) {
    let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
    for field in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: chat",
    ] {
        assert!(head.contains(&format!("{field}\r\n")), "{head}");
    }
    // The answer to the key of section 1.3.
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
        )
        .unwrap();
    let (mut message, mut kind) = (Vec::new(), 0);
    loop {
        let (first, masked, payload) = receive(&mut stream);
        assert!(masked, "a client masks its frames");
        match first & 0xf {
            PING => send(&mut stream, FIN | PONG, &payload, None),
            CLOSE => return send(&mut stream, FIN | CLOSE, &payload, None),
            opcode => {
                kind = if opcode == CONTINUATION { kind } else { opcode };
                message.extend(payload);
            }
        }
        if first & FIN != 0 && first & 0x8 == 0 {
            send(&mut stream, FIN | kind, &message, None);
            message.clear();
        }
    }
}

#[test]
fn websocket_messages_pass_up_to_the_closing_handshake() {
    const MASK: Option<[u8; 4]> = Some([0x37, 0xfa, 0x21, 0x3d]);
    let server = Server::start(|stream, _| echo(stream));
    let (gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    stream
        .write_all(
            b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Protocol: chat\r\n\r\n",
        )
        .unwrap();
    let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for field in [
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol: chat",
    ] {
        assert!(head.contains(&format!("{field}\r\n")), "{head}");
    }
    // A message in two frames, with a ping between them.
    send(&mut stream, TEXT, "gr\u{fc}".as_bytes(), MASK);
    send(&mut stream, FIN | PING, b"there?", MASK);
    assert_eq!(receive(&mut stream), (FIN | PONG, false, b"there?".to_vec()));
    send(&mut stream, FIN | CONTINUATION, b"n", MASK);
    assert_eq!(receive(&mut stream), (FIN | TEXT, false, "gr\u{fc}n".as_bytes().to_vec()));
    let large: Vec<u8> = (0..70_000u32).map(|n| n as u8).collect();
    send(&mut stream, FIN | BINARY, &large, MASK);
    assert_eq!(receive(&mut stream), (FIN | BINARY, false, large));
    let why = [&1000u16.to_be_bytes()[..], b"bye"].concat();
    send(&mut stream, FIN | CLOSE, &why, MASK);
    assert_eq!(receive(&mut stream), (FIN | CLOSE, false, why));
    // The server closes first (section 7.1.1).
    assert_eq!(support::read_all(&mut stream), "");
    drop(stream);
    until("the exchange ends", || gateway.statistics().listeners[0].active == 0);
    let statistics = gateway.statistics().listeners.remove(0);
    assert_eq!(statistics.failures.iter().sum::<u64>(), 0, "{statistics:?}");
}
