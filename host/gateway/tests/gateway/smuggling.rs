//! Requests that two parsers might read differently, and requests that are no good in other ways:
//! raw bytes, and what the upstream saw.

use std::io::Write as _;
use std::sync::mpsc::{Receiver, channel};

use crate::support::{self, Server, gateway_with, talk};

/// A server that tells all that it was sent.
fn witness() -> (Server, Receiver<String>) {
    let (seen, told) = channel();
    let seen = std::sync::Mutex::new(seen);
    let server = Server::start(move |mut stream, _| {
        while let Some(request) = support::read_request(&mut stream) {
            let request = String::from_utf8_lossy(&request).into_owned();
            let _ = seen.lock().unwrap().send(request);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    });
    (server, told)
}

#[test]
fn requests_with_two_readings_are_refused_and_no_upstream_sees_them() {
    let (server, told) = witness();
    let (gateway, address) = gateway_with(&[server.address], |config| config.limits.head = 16_384);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 4\r\n\r\nabcd", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", "4"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "501",
        ),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
        ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a:b:c\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a%62\r\n\r\n", "400"),
        ("GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET http://a/ HTTP/1.1\r\n\r\n", "400"),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "405"),
        ("GET / HTTP/3.7\r\nHost: a\r\n\r\n", "400"),
        ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n", "400"),
        (long.as_str(), "431"),
        (many.as_str(), "431"),
    ] {
        // Nothing behind it is taken for a request either.
        let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = talk(address, format!("{request}{hidden}"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer:?}");
        if let Ok(seen) = told.try_recv() {
            panic!("{request:?}: the upstream saw {seen:?}");
        }
    }
    assert!(gateway.statistics().listeners[0].failed(weir_gateway::Failure::Refused) >= 20);
}

#[test]
fn a_length_beside_chunks_does_not_count_and_is_not_forwarded() {
    let (server, told) = witness();
    let (_gateway, address) = gateway_with(&[server.address], |_| ());
    // RFC 9112 section 6.3: the chunks count, and the connection ends with the response.
    for both in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let request = format!(
            "POST /1 HTTP/1.1\r\nHost: a\r\n{both}\r\n3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = talk(address, request);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        let seen = told.recv_timeout(support::LONG).unwrap();
        assert!(seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
        assert!(!seen.contains("content-length") && seen.contains("abc"), "{seen}");
        assert!(told.try_recv().is_err());
    }
}

#[test]
fn a_body_whose_chunks_are_no_good_never_looks_whole() {
    let (server, told) = witness();
    let (_gateway, address) = gateway_with(&[server.address], |_| ());
    for chunks in [
        "3\r\nabcXX0\r\n\r\n",
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\na",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let answer = talk(address, request);
        assert!(!answer.contains("HTTP/1.1 200"), "{chunks:?}: {answer}");
        assert!(told.try_recv().is_err(), "{chunks:?}");
    }
}

#[test]
fn a_client_that_goes_in_the_middle_of_its_body_is_no_request() {
    let (server, told) = witness();
    let (gateway, address) = gateway_with(&[server.address], |_| ());
    let mut stream = support::connect(address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    drop(stream);
    support::until("the exchange ends", || {
        let statistics = gateway.statistics();
        statistics.listeners[0].accepted == 1 && statistics.listeners[0].open == 0
    });
    assert!(told.try_recv().is_err());
    assert_eq!(gateway.statistics().listeners[0].active, 0);
}

#[test]
fn a_response_with_two_readings_is_not_passed_on() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        let server = Server::says(answer);
        let (gateway, address) = gateway_with(&[server.address], |_| ());
        let got = talk(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(got.starts_with("HTTP/1.1 502 "), "{answer:?}: {got}");
        assert_eq!(gateway.statistics().listeners[0].responses[4], 1);
    }
}
