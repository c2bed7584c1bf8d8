//! Conformance with RFC 9113 and RFC 7541: what a client must not say, and how the server must end
//! it; what it may say, and that it is answered. Every case has a connection of its own, without
//! TLS and with it. Section by section, as h2spec has them, which cannot be had from a package
//! registry.

mod cases;
mod frames;
mod messages;
mod peer;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use weir_gateway::Certificate;

use crate::support::{Server, gateway_with, read_request};
use cases::{Case, Expect};
use peer::{ACK, DATA, END_STREAM, Frame, GOAWAY, HEADERS, Heard, PING, Peer, RST_STREAM};

const PROTOCOL_ERROR: u32 = 1;
/// What a PING of the test's says.
const STILL_THERE: &[u8; 8] = b"there?!?";

/// Answers whole requests, and counts them.
fn witness() -> (Server, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&seen);
    let server = Server::start(move |mut stream, _| {
        while read_request(&mut stream).is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    (server, seen)
}

#[test]
fn without_tls_what_rfc_9113_forbids_is_ended_as_it_says_and_the_rest_is_answered() {
    let (server, seen) = witness();
    let (_gateway, address) = gateway_with(&[server.address], |config| config.limits.streams = 10);
    judge_all(&seen, || Peer::connect(address, None));
}

#[test]
fn with_tls_what_rfc_9113_forbids_is_ended_as_it_says_and_the_rest_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = |name: &str, text: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = file("cert.pem", cert.pem());
    let key = file("key.pem", signing_key.serialize_pem());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = Arc::new(tls);

    let (server, seen) = witness();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.limits.streams = 10;
        config.certificates = vec![Certificate { certificate, key, names: Vec::new() }];
    });
    judge_all(&seen, || Peer::connect(address, Some(&tls)));
    // What is agreed on is not guessed at: without its preface nothing is answered.
    let mut peer = Peer::connect(address, Some(&tls));
    peer.bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    loop {
        match peer.hear() {
            Heard::Closed => break,
            Heard::Frame(Frame { kind: HEADERS | DATA, .. }) | Heard::Silence => {
                panic!("3.4: a connection without a preface is ended")
            }
            Heard::Frame(_) => (),
        }
    }
}

fn judge_all(seen: &AtomicUsize, connect: impl Fn() -> Peer) {
    let mut wrong = Vec::new();
    let cases = || frames::CASES.iter().chain(messages::CASES);
    for case in cases() {
        let before = seen.load(Ordering::SeqCst);
        let mut peer = connect();
        peer.greet();
        (case.says)(&mut peer);
        let mut told = judge(&mut peer, case);
        if told.is_ok() && case.expect == Expect::Malformed && seen.load(Ordering::SeqCst) != before
        {
            told = Err("the upstream has seen it as a whole request".into());
        }
        if let Err(what) = told {
            wrong.push(format!(
                "{} {}: expected {:?}: {what}",
                case.section, case.what, case.expect
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        cases().count(),
        wrong.join("\n")
    );
}

/// Listens until it is clear what became of it.
fn judge(peer: &mut Peer, case: &Case) -> Result<(), String> {
    if case.expect == Expect::Alive {
        peer.send(PING, 0, 0, STILL_THERE);
    }
    let mut body = 0;
    loop {
        let frame = match peer.hear() {
            Heard::Frame(frame) => frame,
            other => return Err(format!("{other:?}")),
        };
        match (&case.expect, frame.kind) {
            (Expect::Connection(codes), GOAWAY) if codes.contains(&frame.number(4)) => {
                return ends(peer);
            }
            (Expect::Stream(codes), GOAWAY) if codes.contains(&frame.number(4)) => return Ok(()),
            (Expect::Malformed, GOAWAY) if frame.number(4) == PROTOCOL_ERROR => return Ok(()),
            (Expect::Stream(codes), RST_STREAM) if codes.contains(&frame.number(0)) => {
                return still_there(peer);
            }
            (Expect::Malformed, RST_STREAM) if frame.number(0) == PROTOCOL_ERROR => {
                return still_there(peer);
            }
            // A server may answer a malformed request (8.1.1); 400 is static entry 12.
            (Expect::Malformed, HEADERS) if frame.payload.first() == Some(&0x8c) => return Ok(()),
            (Expect::Answers(streams), HEADERS) if frame.payload.first() != Some(&0x88) => {
                return Err(format!("{streams} answers, this is not one of 200: {frame:?}"));
            }
            (Expect::Answers(streams), DATA) => {
                body += usize::from(frame.flags & END_STREAM != 0);
                if body == *streams {
                    return still_there(peer);
                }
            }
            (Expect::Alive, PING) if frame.flags == ACK && frame.payload == STILL_THERE => {
                return Ok(());
            }
            (_, GOAWAY | RST_STREAM) => return Err(format!("{frame:?}")),
            (Expect::Malformed, DATA) => return Err("it is answered".into()),
            _ => (),
        }
    }
}

/// After GOAWAY with an error the connection is closed (5.4.1).
fn ends(peer: &mut Peer) -> Result<(), String> {
    loop {
        match peer.hear() {
            Heard::Closed => return Ok(()),
            Heard::Silence => return Err("it is not closed after GOAWAY".into()),
            Heard::Frame(_) => (),
        }
    }
}

/// An error of a stream leaves the connection as it is (5.4.2).
fn still_there(peer: &mut Peer) -> Result<(), String> {
    peer.send(PING, 0, 0, STILL_THERE);
    loop {
        match peer.hear() {
            Heard::Frame(Frame { kind: PING, flags: ACK, payload, .. })
                if payload == STILL_THERE =>
            {
                return Ok(());
            }
            Heard::Frame(Frame { kind: GOAWAY, payload, .. }) => {
                return Err(format!("GOAWAY afterwards: {payload:?}"));
            }
            Heard::Frame(_) => (),
            other => return Err(format!("afterwards: {other:?}")),
        }
    }
}
