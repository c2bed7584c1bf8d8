//! Requests, by section of RFC 9113, and how their fields are packed, by section of RFC 7541.

use super::cases::Expect::{Answers, Connection, Malformed};
use super::cases::{COMPRESSION, Case, UNSPECIFIC, begin, case, whole};
use super::peer::{DATA, END_HEADERS, END_STREAM, HEADERS, Peer, WHOLE, block, get, post};

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
