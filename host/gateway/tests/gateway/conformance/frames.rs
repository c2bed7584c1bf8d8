//! Frames and streams: RFC 9113, sections 3 to 6.

use super::cases::Expect::{Alive, Answers, Connection, Stream};
use super::cases::{
    COMPRESSION, Case, FLOW_CONTROL, FRAME_SIZE, PROTOCOL, REFUSED, STREAM_CLOSED, UNSPECIFIC,
    begin, case, whole,
};
use super::peer::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, block, get, post,
};

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
];
