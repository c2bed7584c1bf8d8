//! The cases, by section of RFC 9113; those of HPACK by section of RFC 7541.

use super::peer::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, Peer, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, block, get, post,
};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;
/// PROTOCOL_ERROR, said by the crate h2 (0.4) in some places where the RFC has a code for what is wrong. The connection ends all the same.
const UNSPECIFIC: u32 = PROTOCOL;

/// How it has to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// GOAWAY with one of these codes, then the connection's end.
    Connection(&'static [u32]),
    /// RST_STREAM with one of these codes, and the connection goes on; GOAWAY is allowed (5.4.2).
    Stream(&'static [u32]),
    /// As a stream's PROTOCOL_ERROR, or an answer 400; no upstream has seen a request (8.1.1).
    Malformed,
    /// So many answers with status 200, and the connection goes on.
    Answers(usize),
    /// No error: a PING is answered.
    Alive,
}
use Expect::{Alive, Answers, Connection, Malformed, Stream};

/// What a client says after the beginning, and how that has to end.
pub(super) struct Case {
    pub(super) section: &'static str,
    pub(super) what: &'static str,
    pub(super) says: fn(&mut Peer),
    pub(super) expect: Expect,
}

const fn case(
    section: &'static str,
    what: &'static str,
    says: fn(&mut Peer),
    expect: Expect,
) -> Case {
    Case { section, what, says, expect }
}

/// HEADERS of a whole request on stream 1 with this block.
fn whole(peer: &mut Peer, block: &[u8]) {
    peer.send(HEADERS, WHOLE, 1, block);
}

/// The beginning of a request with a body on stream 1.
fn begin(peer: &mut Peer, more: &[(&str, &str)]) {
    peer.send(HEADERS, END_HEADERS, 1, &post(more));
}

/// A request on stream 1 with one of its fields, or pseudo-fields, in place of the ordinary ones.
fn fields(peer: &mut Peer, fields: &[(&str, &str)]) {
    whole(peer, &block(fields));
}

const M: (&str, &str) = (":method", "GET");
const S: (&str, &str) = (":scheme", "http");
const P: (&str, &str) = (":path", "/");
const A: (&str, &str) = (":authority", "localhost");

pub(super) const CASES: &[Case] = &[
    case(
        "3.4",
        "SETTINGS are acknowledged, and a request answered",
        |p| whole(p, &get(&[])),
        Answers(1),
    ),
    case("4.1", "a frame of a type nobody knows", |p| p.send(0x16, 0, 0, &[0; 8]), Alive),
    case("4.1", "flags nobody knows", |p| p.send(PING, 0xfe, 0, &[0; 8]), Alive),
    case(
        "4.1",
        "the reserved bit of a stream's number",
        |p| p.send(PING, 0, 1 << 31, &[0; 8]),
        Alive,
    ),
    case(
        "4.2",
        "DATA as long as may be",
        |p| {
            begin(p, &[]);
            p.send(DATA, END_STREAM, 1, &[0; 1 << 14]);
        },
        Answers(1),
    ),
    case(
        "4.2",
        "DATA longer than may be",
        |p| {
            begin(p, &[]);
            p.send(DATA, END_STREAM, 1, &vec![0; (1 << 14) + 1]);
        },
        Stream(&[FRAME_SIZE]),
    ),
    case(
        "4.2",
        "HEADERS longer than may be",
        |p| {
            let long = "x".repeat(1 << 14);
            whole(p, &get(&[("x-long", &long)]));
        },
        Connection(&[FRAME_SIZE]),
    ),
    case(
        "4.3",
        "a block that is none",
        |p| whole(p, &[0x40]),
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "4.3",
        "another frame within a block",
        |p| {
            p.send(HEADERS, END_STREAM, 1, &get(&[]));
            p.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "4.3",
        "HEADERS of another stream within a block",
        |p| {
            p.send(HEADERS, END_STREAM, 1, &get(&[]));
            p.send(HEADERS, WHOLE, 3, &get(&[]));
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "4.3",
        "a frame of an unknown type within a block",
        |p| {
            p.send(HEADERS, END_STREAM, 1, &get(&[]));
            p.send(0x16, 0, 0, &[]);
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "5.1",
        "idle: DATA",
        |p| p.send(DATA, END_STREAM, 1, b"x"),
        Connection(&[PROTOCOL, STREAM_CLOSED]),
    ),
    case(
        "5.1",
        "idle: RST_STREAM",
        |p| p.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
        Connection(&[PROTOCOL]),
    ),
    case(
        "5.1",
        "idle: WINDOW_UPDATE",
        |p| p.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]),
        Connection(&[PROTOCOL]),
    ),
    case(
        "5.1",
        "idle: CONTINUATION",
        |p| p.send(CONTINUATION, END_HEADERS, 1, &get(&[])),
        Connection(&[PROTOCOL]),
    ),
    case("5.1", "idle: PRIORITY", |p| p.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]), Alive),
    case(
        "5.1",
        "half closed: DATA",
        |p| {
            whole(p, &get(&[]));
            p.send(DATA, END_STREAM, 1, b"x");
        },
        Stream(&[STREAM_CLOSED, UNSPECIFIC]),
    ),
    case(
        "5.1",
        "half closed: HEADERS",
        |p| {
            whole(p, &get(&[]));
            whole(p, &get(&[]));
        },
        Stream(&[STREAM_CLOSED, UNSPECIFIC]),
    ),
    case(
        "5.1",
        "half closed: CONTINUATION",
        |p| {
            whole(p, &get(&[]));
            p.send(CONTINUATION, END_HEADERS, 1, &get(&[]));
        },
        Connection(&[PROTOCOL, STREAM_CLOSED]),
    ),
    case(
        "5.1",
        "closed by RST_STREAM: HEADERS",
        |p| {
            begin(p, &[]);
            p.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
            whole(p, &get(&[]));
        },
        Stream(&[STREAM_CLOSED, PROTOCOL]),
    ),
    case(
        "5.1",
        "closed by RST_STREAM: WINDOW_UPDATE and PRIORITY",
        |p| {
            begin(p, &[]);
            p.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
            p.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]);
            p.send(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]);
        },
        Alive,
    ),
    case(
        "5.1.1",
        "a stream with an even number",
        |p| p.send(HEADERS, WHOLE, 2, &get(&[])),
        Connection(&[PROTOCOL]),
    ),
    case(
        "5.1.1",
        "a stream with a smaller number than one before",
        |p| {
            p.send(HEADERS, WHOLE, 5, &get(&[]));
            p.send(HEADERS, WHOLE, 3, &get(&[]));
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "5.1.2",
        "more streams than are allowed",
        |p| {
            for stream in 0..11 {
                p.send(HEADERS, END_HEADERS, stream * 2 + 1, &post(&[]));
            }
        },
        Stream(&[PROTOCOL, REFUSED]),
    ),
    case(
        "5.1.2",
        "as many streams as are allowed",
        |p| {
            for stream in 0..10 {
                p.send(HEADERS, WHOLE, stream * 2 + 1, &get(&[]));
            }
        },
        Answers(10),
    ),
    case(
        "6.1",
        "DATA of no stream",
        |p| p.send(DATA, END_STREAM, 0, b"x"),
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.1",
        "DATA with padding",
        |p| {
            begin(p, &[]);
            p.send(DATA, PADDED | END_STREAM, 1, b"\x03abc\0\0\0");
        },
        Answers(1),
    ),
    case(
        "6.1",
        "padding longer than the frame",
        |p| {
            begin(p, &[]);
            p.send(DATA, PADDED | END_STREAM, 1, b"\x05abc");
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.2",
        "HEADERS of no stream",
        |p| p.send(HEADERS, WHOLE, 0, &get(&[])),
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.2",
        "HEADERS with padding and a priority",
        |p| {
            let payload = [&[2, 0, 0, 0, 0, 9][..], &get(&[]), &[0, 0]].concat();
            p.send(HEADERS, WHOLE | PADDED | 0x20, 1, &payload);
        },
        Answers(1),
    ),
    case(
        "6.2",
        "padding longer than the frame",
        |p| {
            p.send(HEADERS, WHOLE | PADDED, 1, &[&[200][..], &get(&[])].concat());
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.3",
        "PRIORITY of no stream",
        |p| p.send(PRIORITY, 0, 0, &[0, 0, 0, 1, 9]),
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.3",
        "PRIORITY of four bytes",
        |p| {
            begin(p, &[]);
            p.send(PRIORITY, 0, 1, &[0; 4]);
        },
        Stream(&[FRAME_SIZE, UNSPECIFIC]),
    ),
    case(
        "6.4",
        "RST_STREAM of no stream",
        |p| p.send(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.4",
        "RST_STREAM of three bytes",
        |p| {
            begin(p, &[]);
            p.send(RST_STREAM, 0, 1, &[0; 3]);
        },
        Connection(&[FRAME_SIZE, UNSPECIFIC]),
    ),
    case(
        "6.5",
        "an acknowledgement that says something",
        |p| p.send(SETTINGS, ACK, 0, &[0; 6]),
        Connection(&[FRAME_SIZE, UNSPECIFIC]),
    ),
    case("6.5", "SETTINGS of a stream", |p| p.send(SETTINGS, 0, 1, &[]), Connection(&[PROTOCOL])),
    case(
        "6.5",
        "SETTINGS of five bytes",
        |p| p.send(SETTINGS, 0, 0, &[0; 5]),
        Connection(&[FRAME_SIZE, UNSPECIFIC]),
    ),
    case("6.5.2", "ENABLE_PUSH of 2", |p| p.settings(&[(2, 2)]), Connection(&[PROTOCOL])),
    case(
        "6.5.2",
        "INITIAL_WINDOW_SIZE beyond 2^31 - 1",
        |p| p.settings(&[(4, 1 << 31)]),
        Connection(&[FLOW_CONTROL, UNSPECIFIC]),
    ),
    case(
        "6.5.2",
        "MAX_FRAME_SIZE below 2^14",
        |p| p.settings(&[(5, (1 << 14) - 1)]),
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.5.2",
        "MAX_FRAME_SIZE beyond 2^24 - 1",
        |p| p.settings(&[(5, 1 << 24)]),
        Connection(&[PROTOCOL]),
    ),
    case("6.5.2", "a setting nobody knows", |p| p.settings(&[(0xfff0, 7)]), Alive),
    case(
        "6.5.3",
        "the last value of a setting counts",
        |p| {
            p.settings(&[(4, 1), (4, 100)]);
            whole(p, &get(&[]));
        },
        Answers(1),
    ),
    case(
        "6.6",
        "PUSH_PROMISE of a client",
        |p| {
            p.send(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &get(&[])].concat());
        },
        Connection(&[PROTOCOL]),
    ),
    case("6.7", "PING is answered", |_| (), Alive),
    case("6.7", "an answer nobody asked for", |p| p.send(PING, ACK, 0, b"not mine"), Alive),
    case("6.7", "PING of a stream", |p| p.send(PING, 0, 1, &[0; 8]), Connection(&[PROTOCOL])),
    case(
        "6.7",
        "PING of six bytes",
        |p| p.send(PING, 0, 0, &[0; 6]),
        Connection(&[FRAME_SIZE, UNSPECIFIC]),
    ),
    case("6.8", "GOAWAY of a stream", |p| p.send(GOAWAY, 0, 1, &[0; 8]), Connection(&[PROTOCOL])),
    case(
        "6.9",
        "WINDOW_UPDATE by nothing",
        |p| p.send(WINDOW_UPDATE, 0, 0, &[0; 4]),
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.9",
        "WINDOW_UPDATE of a stream by nothing",
        |p| {
            begin(p, &[]);
            p.send(WINDOW_UPDATE, 0, 1, &[0; 4]);
        },
        Stream(&[PROTOCOL]),
    ),
    case(
        "6.9",
        "WINDOW_UPDATE of three bytes",
        |p| p.send(WINDOW_UPDATE, 0, 0, &[0; 3]),
        Connection(&[FRAME_SIZE, UNSPECIFIC]),
    ),
    case(
        "6.9.1",
        "no more is sent than the window has, which opens byte by byte",
        |p| {
            p.settings(&[(4, 0)]);
            whole(p, &get(&[]));
            for _ in 0..5 {
                p.send(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
            }
        },
        Answers(1),
    ),
    case(
        "6.9.1",
        "a connection's window beyond 2^31 - 1",
        |p| {
            p.send(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
        },
        Connection(&[FLOW_CONTROL]),
    ),
    case(
        "6.9.1",
        "a stream's window beyond 2^31 - 1",
        |p| {
            begin(p, &[]);
            p.send(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]);
        },
        Stream(&[FLOW_CONTROL]),
    ),
    case(
        "6.9.2",
        "the window of a stream that is open is opened by SETTINGS",
        |p| {
            p.settings(&[(4, 0)]);
            whole(p, &get(&[]));
            p.settings(&[(4, 5)]);
        },
        Answers(1),
    ),
    case(
        "6.9.2",
        "SETTINGS that make a stream's window too large",
        |p| {
            begin(p, &[]);
            p.send(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0, 0]);
            p.settings(&[(4, 0x7fff_ffff)]);
        },
        Connection(&[FLOW_CONTROL]),
    ),
    case(
        "6.10",
        "a block in three frames",
        |p| {
            let all = get(&[("x-a", "1"), ("x-b", "2")]);
            p.send(HEADERS, END_STREAM, 1, &all[..20]);
            p.send(CONTINUATION, 0, 1, &all[20..40]);
            p.send(CONTINUATION, END_HEADERS, 1, &all[40..]);
        },
        Answers(1),
    ),
    case(
        "6.10",
        "CONTINUATION of no stream",
        |p| {
            p.send(HEADERS, END_STREAM, 1, &get(&[]));
            p.send(CONTINUATION, END_HEADERS, 0, &[]);
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.10",
        "CONTINUATION of another stream",
        |p| {
            p.send(HEADERS, END_STREAM, 1, &get(&[]));
            p.send(CONTINUATION, END_HEADERS, 3, &[]);
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.10",
        "CONTINUATION behind a block's end",
        |p| {
            p.send(HEADERS, END_HEADERS, 1, &post(&[]));
            p.send(CONTINUATION, END_HEADERS, 1, &block(&[("x-a", "1")]));
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.10",
        "CONTINUATION behind DATA",
        |p| {
            begin(p, &[]);
            p.send(DATA, 0, 1, b"x");
            p.send(CONTINUATION, END_HEADERS, 1, &block(&[("x-a", "1")]));
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "6.10",
        "DATA within a block",
        |p| {
            p.send(HEADERS, 0, 1, &post(&[]));
            p.send(DATA, END_STREAM, 1, b"x");
        },
        Connection(&[PROTOCOL]),
    ),
    case(
        "8.1",
        "trailers that do not end the stream",
        |p| {
            begin(p, &[]);
            p.send(DATA, 0, 1, b"x");
            p.send(HEADERS, END_HEADERS, 1, &block(&[("x-a", "1")]));
        },
        Malformed,
    ),
    case(
        "8.1",
        "trailers",
        |p| {
            begin(p, &[]);
            p.send(DATA, 0, 1, b"x");
            p.send(HEADERS, WHOLE, 1, &block(&[("x-a", "1")]));
        },
        Answers(1),
    ),
    case(
        "8.1",
        "pseudo-fields in trailers: the crate h2 leaves them out, instead of an error",
        |p| {
            begin(p, &[]);
            p.send(DATA, 0, 1, b"x");
            p.send(HEADERS, WHOLE, 1, &block(&[(":method", "GET")]));
        },
        Answers(1),
    ),
    case(
        "8.1.1",
        "more bytes than content-length says",
        |p| {
            begin(p, &[("content-length", "1")]);
            p.send(DATA, END_STREAM, 1, b"four");
        },
        Malformed,
    ),
    case(
        "8.1.1",
        "fewer bytes than content-length says",
        |p| {
            begin(p, &[("content-length", "9")]);
            p.send(DATA, 0, 1, b"four");
            p.send(DATA, END_STREAM, 1, b"four");
        },
        Malformed,
    ),
    case(
        "8.1.1",
        "no bytes where content-length says some",
        |p| {
            whole(p, &post(&[("content-length", "9")]));
        },
        Malformed,
    ),
    case(
        "8.1.1",
        "content-length that is no number",
        |p| {
            begin(p, &[("content-length", "1x")]);
            p.send(DATA, END_STREAM, 1, b"f");
        },
        Malformed,
    ),
    case(
        "8.1.1",
        "two lengths",
        |p| {
            begin(p, &[("content-length", "1"), ("content-length", "4")]);
            p.send(DATA, END_STREAM, 1, b"four");
        },
        Malformed,
    ),
    case("8.2.1", "an upper-case name", |p| whole(p, &get(&[("X-Upper", "1")])), Malformed),
    case("8.2.1", "a name with a space", |p| whole(p, &get(&[("x upper", "1")])), Malformed),
    case("8.2.1", "a name with a colon", |p| whole(p, &get(&[("x:y", "1")])), Malformed),
    case("8.2.1", "an empty name", |p| whole(p, &get(&[("", "1")])), Malformed),
    case(
        "8.2.1",
        "a value with CR and LF",
        |p| whole(p, &get(&[("x-a", "1\r\nx-b: 2")])),
        Malformed,
    ),
    case("8.2.1", "a value with NUL", |p| whole(p, &get(&[("x-a", "1\x002")])), Malformed),
    case("8.2.2", "connection", |p| whole(p, &get(&[("connection", "close")])), Malformed),
    case("8.2.2", "keep-alive", |p| whole(p, &get(&[("keep-alive", "timeout=5")])), Malformed),
    case(
        "8.2.2",
        "proxy-connection",
        |p| whole(p, &get(&[("proxy-connection", "close")])),
        Malformed,
    ),
    case(
        "8.2.2",
        "transfer-encoding",
        |p| whole(p, &get(&[("transfer-encoding", "chunked")])),
        Malformed,
    ),
    case("8.2.2", "upgrade", |p| whole(p, &get(&[("upgrade", "websocket")])), Malformed),
    case(
        "8.2.2",
        "te with another value than trailers",
        |p| whole(p, &get(&[("te", "gzip")])),
        Malformed,
    ),
    case("8.2.2", "te: trailers", |p| whole(p, &get(&[("te", "trailers")])), Answers(1)),
    case(
        "8.2.3",
        "cookies in several fields",
        |p| whole(p, &get(&[("cookie", "a=1"), ("cookie", "b=2")])),
        Answers(1),
    ),
    case(
        "8.3",
        "a pseudo-field nobody knows",
        |p| fields(p, &[M, S, P, A, (":x", "1")]),
        Malformed,
    ),
    case(
        "8.3",
        "a response's pseudo-field",
        |p| fields(p, &[M, S, P, A, (":status", "200")]),
        Malformed,
    ),
    case(
        "8.3",
        "a pseudo-field behind a field",
        |p| fields(p, &[M, S, A, ("x-a", "1"), P]),
        Malformed,
    ),
    case("8.3.1", "an empty path", |p| fields(p, &[M, S, A, (":path", "")]), Malformed),
    case("8.3.1", "no method", |p| fields(p, &[S, P, A]), Malformed),
    case("8.3.1", "no scheme", |p| fields(p, &[M, P, A]), Malformed),
    case("8.3.1", "no path", |p| fields(p, &[M, S, A]), Malformed),
    case("8.3.1", "two methods", |p| fields(p, &[M, M, S, P, A]), Malformed),
    case("8.3.1", "two schemes", |p| fields(p, &[M, S, S, P, A]), Malformed),
    case("8.3.1", "two paths", |p| fields(p, &[M, S, P, P, A]), Malformed),
    case("8.3.1", "two authorities", |p| fields(p, &[M, S, P, A, A]), Malformed),
    case(
        "8.3.1",
        "a path with a space",
        |p| fields(p, &[M, S, A, (":path", "/a HTTP/1.1")]),
        Malformed,
    ),
    case(
        "8.3.1",
        "a path with a line's end",
        |p| fields(p, &[M, S, A, (":path", "/a\r\nx: y")]),
        Malformed,
    ),
    case(
        "8.3.1",
        "a method with a space",
        |p| fields(p, &[(":method", "GET /a"), S, P, A]),
        Malformed,
    ),
    case(
        "8.3.1",
        "an authority with a user",
        |p| fields(p, &[M, S, P, (":authority", "a@localhost")]),
        Malformed,
    ),
    case(
        "8.3.1",
        "host that contradicts the authority",
        |p| fields(p, &[M, S, P, A, ("host", "other")]),
        Malformed,
    ),
    case(
        "7541-2.3.3",
        "an index beyond the tables",
        |p| whole(p, &[0x82, 0x86, 0x84, 0xff, 0x10]),
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-6.1",
        "index 0",
        |p| whole(p, &[0x82, 0x86, 0x84, 0x80]),
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-4.2",
        "a table's size at a block's end",
        |p| {
            whole(p, &[&get(&[])[..], &[0x20]].concat());
        },
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-6.3",
        "a table larger than the server allows",
        |p| {
            whole(p, &[&[0x3f, 0xe1, 0xff, 0x03][..], &get(&[])].concat());
        },
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-5.2",
        "Huffman: padding of more than seven bits",
        |p| {
            whole(p, &[&get(&[])[..], &[0x00, 0x82, 0x1f, 0xff, 0x01, b'a']].concat());
        },
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-5.2",
        "Huffman: padding with zeros",
        |p| {
            whole(p, &[&get(&[])[..], &[0x00, 0x81, 0x18, 0x01, b'a']].concat());
        },
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-5.2",
        "Huffman: the end of a string within it",
        |p| {
            whole(
                p,
                &[&get(&[])[..], &[0x00, 0x85, 0x1f, 0xff, 0xff, 0xff, 0xff, 0x01, b'a']].concat(),
            );
        },
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-5.1",
        "an integer without end",
        |p| {
            whole(p, &[&get(&[])[..], &[0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat());
        },
        Connection(&[COMPRESSION, UNSPECIFIC]),
    ),
    case(
        "7541-6.2.1",
        "a field that is remembered, and asked for by its index",
        |p| {
            let first = [&get(&[])[..], &[0x40, 3, b'x', b'-', b'a', 1, b'1']].concat();
            p.send(HEADERS, WHOLE, 1, &first);
            p.send(HEADERS, WHOLE, 3, &[&get(&[])[..], &[0xbe]].concat());
        },
        Answers(2),
    ),
];
