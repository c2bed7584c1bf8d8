//! HTTP/1.1 through the gateway: what a proxy must do to messages, connections, bodies.

use std::io::Write as _;
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::{
    self, Server, connect, curl, curl_text, gateway, gateway_with, read_head, talk,
};
use weir_gateway::{Failure, ForwardedFields};

#[test]
fn a_request_is_forwarded_without_the_fields_of_its_hop_and_with_a_proxys_own() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let answer = talk(
        address,
        b"GET /a?b=c HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nConnection: X-Private, \xff\r\n\
         X-Private: 1\r\n\
         Keep-Alive: timeout=5\r\nTE: gzip\r\nProxy-Connection: keep-alive\r\nX-Other: 2\r\nVia: 1.0 fred\r\n\r\n",
    );
    let (head, seen) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("connection: close"), "{head}");
    assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
    for there in [
        "host: example.org\r\n",
        "x-other: 2\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: example.org\r\n",
        "via: 1.0 fred\r\n",
        "via: 1.1 weir\r\n",
    ] {
        assert!(seen.contains(there), "{there:?} is not in {seen}");
    }
    for gone in ["x-private", "keep-alive", "te:", "proxy-connection", "connection: close"] {
        assert!(!seen.contains(gone), "{gone:?} is in {seen}");
    }
}

#[test]
fn a_client_is_believed_to_send_for_others_as_far_as_the_listener_says() {
    let server = Server::echo();
    let says = "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n\
        X-Forwarded-For: 192.0.2.3\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=192.0.2.4\r\n\
        X_Forwarded_For: 192.0.2.5\r\nX-Forwarded_Host: evil\r\n\r\n";
    let list = "x-forwarded-for: 192.0.2.1, 192.0.2.2, 192.0.2.3, 127.0.0.1";
    let own = ["x-forwarded-proto: http", "x-forwarded-host: example.org"];
    let kept = vec![
        list,
        "x-forwarded-proto: https",
        "x-forwarded-host: evil",
        "forwarded: for=192.0.2.4",
        "x_forwarded_for: 192.0.2.5",
        "x-forwarded_host: evil",
    ];
    for (policy, mut fields) in [
        (ForwardedFields::Append, vec![list, own[0], own[1]]),
        (ForwardedFields::Replace, vec!["x-forwarded-for: 127.0.0.1", own[0], own[1]]),
        (ForwardedFields::Keep, kept),
    ] {
        let (_gateway, address) =
            gateway_with(&[server.address], |config| config.forwarded = policy);
        let answer = talk(address, says);
        let mut seen: Vec<&str> =
            answer.lines().filter(|line| line.contains("forwarded")).collect();
        seen.sort_unstable();
        fields.sort_unstable();
        assert_eq!(seen, fields, "{policy:?}");
        let answer = talk(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        for there in ["for: 127.0.0.1\r\n", "proto: http\r\n", "host: a\r\n"] {
            assert!(answer.contains(&format!("x-forwarded-{there}")), "{policy:?}: {answer}");
        }
        // There is no host that the gateway could say instead.
        let answer = talk(address, "GET / HTTP/1.0\r\nX-Forwarded-Host: evil\r\n\r\n");
        let believed = policy == ForwardedFields::Keep;
        assert_eq!(answer.contains("x-forwarded-host: evil"), believed, "{policy:?}: {answer}");
    }
}

#[test]
fn the_body_of_a_get_arrives_also_if_nobody_knows_its_length() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let chunked = ["-X", "GET", "-H", "transfer-encoding: chunked", "-d", "the body", &url];
    let answer = curl_text(&chunked);
    assert!(answer.contains("8\r\nthe body\r\n0\r\n"), "{answer}");
    // Over HTTP/2 curl says no length of what it reads from a pipe.
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--http2-prior-knowledge", "-X", "GET", "-T", "-", &url]);
    let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    curl.stdin.take().unwrap().write_all(b"the body").unwrap();
    let answer = String::from_utf8(curl.wait_with_output().unwrap().stdout).unwrap();
    assert!(answer.contains("8\r\nthe body\r\n0\r\n"), "{answer}");
    assert!(!curl_text(&["-X", "GET", &url]).contains("transfer-encoding"));
}

#[test]
fn a_length_of_nothing_that_comes_is_not_passed_on() {
    let server = Server::says("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n");
    let (_gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl_text(&["-i", version, &url]);
        assert!(answer.contains(" 204") && !answer.contains("content-length"), "{answer}");
    }
    let server = Server::says("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n");
    let (_gateway, address) = gateway(&[server.address]);
    let answer = curl_text(&["-i", "--http2-prior-knowledge", &format!("http://{address}/")]);
    assert!(answer.contains("content-length: 5"), "{answer}");
}

#[test]
fn trailers_say_nothing_of_the_hop_that_they_came_by() {
    let server = Server::says(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 1\r\nConnection: close\r\nKeep-Alive: timeout=5\r\n\r\n",
    );
    let (_gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let answer = curl_text(&["-i", "--http2-prior-knowledge", "-H", "te: trailers", &url]);
    assert!(answer.contains("ok") && answer.contains("x-sum: 1"), "{answer}");
    assert!(!answer.contains("keep-alive: "), "{answer}");
}

#[test]
fn a_request_with_a_body_does_not_change_the_protocol() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let asks = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: x\r\n";
    let answer = talk(address, format!("{asks}Content-Length: 2\r\n\r\nok"));
    assert!(!answer.contains("upgrade: x"), "{answer}");
    // HTTP/2 in clear text would go by the chain, wherever it stands in the list.
    let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: x, h2c\r\n\r\n";
    assert!(!talk(address, h2c).contains("upgrade: x"));
}

#[test]
fn options_go_as_many_hops_as_they_may() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let ask = |hops| {
        talk(
            address,
            format!(
                "OPTIONS / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMax-Forwards: {hops}\r\n\r\n"
            ),
        )
    };
    let answer = ask(3);
    assert!(answer.contains("max-forwards: 2\r\n"), "{answer}");
    let answer = ask(0);
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("OPTIONS"), "{answer}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_response_comes_without_the_fields_of_its_hop() {
    let server = Server::says(
        "HTTP/1.1 203 Fine\r\nConnection: x-mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=9\r\n\
         X-Yours: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let (_gateway, address) = gateway(&[server.address]);
    let answer = talk(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 203 "), "{answer}");
    assert!(answer.contains("x-yours: 2\r\n"), "{answer}");
    assert!(!answer.contains("x-mine") && !answer.contains("keep-alive"), "{answer}");
    assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{answer}");
}

#[test]
fn a_response_with_chunks_has_no_length_beside_them() {
    for length in ["3", "30"] {
        let server = Server::start(move |mut stream, _| {
            while support::read_request(&mut stream).is_some() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n");
                let chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
                if stream.write_all((head + chunks).as_bytes()).is_err() {
                    return;
                }
            }
        });
        let (_gateway, address) = gateway(&[server.address]);
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let got = curl_text(&["-i", version, &format!("http://{address}/")]);
            assert!(got.ends_with("\r\n\r\nwhole"), "{got}");
            assert!(!got.to_ascii_lowercase().contains("content-length"), "{got}");
        }
    }
}

#[test]
fn a_client_is_told_which_protocol_and_which_methods_are_wanted() {
    let server = Server::says(
        "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
    );
    let (_gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let answer = curl_text(&["-i", &url]);
    assert!(answer.contains("upgrade: websocket\r\n"), "{answer}");
    assert!(answer.contains("connection: upgrade\r\n"), "{answer}");
    let answer = curl_text(&["-i", "--http2-prior-knowledge", &url]);
    assert!(answer.starts_with("HTTP/2 426") && !answer.contains("upgrade"), "{answer}");
    let answer = curl_text(&["-i", "-X", "TRACE", &url]);
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, "), "{answer}");
}

#[test]
fn an_absolute_target_names_the_host_that_counts() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let answer = talk(
        address,
        "GET http://right.example/x HTTP/1.1\r\nHost: wrong.example\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.contains("GET /x HTTP/1.1\r\n"), "{answer}");
    assert!(answer.contains("host: right.example\r\n"), "{answer}");
    assert!(!answer.contains("wrong.example"), "{answer}");
    let bare = "GET http://a?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(talk(address, bare).contains("GET /?q HTTP/1.1\r\n"));
}

#[test]
fn connections_to_clients_and_upstreams_are_used_again() {
    let server = Server::echo();
    let (gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let script = "import http.client, sys\n\
        c = http.client.HTTPConnection(sys.argv[1])\n\
        for i in range(50):\n\
        \x20   c.request('POST', '/%d' % i, body=b'x' * i)\n\
        \x20   r = c.getresponse(); b = r.read()\n\
        \x20   assert r.status == 200 and b.startswith(b'POST /%d ' % i) and b.endswith(b'x' * i), b\n";
    let python = Command::new("python3").args(["-c", script, &address.to_string()]).output();
    let python = python.unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    curl_text(&[&url]);
    assert_eq!(server.connections(), 1);
    let statistics = &gateway.statistics().listeners[0];
    assert_eq!((statistics.accepted, statistics.requests), (2, 51));
    assert_eq!(statistics.responses, [0, 51, 0, 0, 0]);
    assert_eq!(statistics.upstreams[0].connected, 1);
    assert_eq!(statistics.latency.count(), 51);
    assert!(statistics.latency.quantile(0.5).is_some());
}

#[test]
fn head_has_the_length_and_no_body_and_others_without_a_body_neither() {
    let server = Server::start(|mut stream, _| {
        while let Some(request) = support::read_request(&mut stream) {
            let answer: &[u8] = if request.starts_with(b"HEAD") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
            } else {
                b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 99\r\n\r\n"
            };
            stream.write_all(answer).unwrap();
        }
    });
    let (_gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    for _ in 0..3 {
        stream.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
        assert!(head.contains("content-length: 1234\r\n"), "{head}");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
        assert!(head.starts_with("HTTP/1.1 304") && head.contains("etag"), "{head}");
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn large_bodies_pass_in_both_directions_whole() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("body");
    let body: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    // curl asks for `100 Continue` before a body of this size.
    let output = curl(&["--data-binary", &data, &format!("http://{address}/up")]);
    assert!(output.status.success());
    let at = output.stdout.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert!(!String::from_utf8_lossy(&output.stdout[..at]).contains("expect"));
    assert!(output.stdout[at..] == body);
}

#[test]
fn a_client_that_expects_to_be_told_is_told_to_continue() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(read_head(&mut stream).unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").unwrap();
    let answer = support::read_all(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abc"), "{answer}");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let mut requests = String::new();
    for i in 0..40 {
        requests += &format!("GET /number-{i}- HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    requests += "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = talk(address, requests);
    let places: Vec<_> = (0..40).map(|i| answer.find(&format!("/number-{i}-"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
    assert!(answer.contains("GET /last"));
}

#[test]
fn an_old_client_is_answered_in_its_way() {
    let server =
        Server::says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n");
    let (_gateway, address) = gateway(&[server.address]);
    let answer = talk(address, "GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(!answer.contains("chunked") && answer.ends_with("\r\n\r\nhi"), "{answer}");
}

#[test]
fn an_old_client_is_told_that_a_response_without_a_length_ends_with_its_connection() {
    let server = Server::start(|mut stream, _| {
        while let Some(request) = support::read_request(&mut stream) {
            let answer: &[u8] = match request.starts_with(b"GET /long") {
                true => {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
                }
                false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            };
            stream.write_all(answer).unwrap();
        }
    });
    let (_gateway, address) = gateway(&[server.address]);
    let asked = |path: &str| format!("GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = talk(address, asked("/") + &asked("/long"));
    let (first, last) = answer.split_once("\r\n\r\nhi").unwrap();
    assert!(first.contains("connection: keep-alive") && !first.contains("close"), "{answer}");
    assert!(last.contains("connection: close") && !last.contains("keep-alive"), "{answer}");
    assert!(last.ends_with("\r\n\r\nhi"), "{answer}");
}

#[test]
fn a_request_follows_one_that_was_answered_before_its_body_was_there() {
    let server = support::early_server();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (upstream, status) in [(server.address, "HTTP/1.1 200 "), (nobody, "HTTP/1.1 502 ")] {
        let (gateway, address) = gateway(&[upstream]);
        let [first, second] = support::answered_early(address, "/");
        assert!(first.starts_with(status) && !first.contains("close"), "{first}");
        assert!(second.starts_with(status) && second.contains("connection: close"), "{second}");
        assert_eq!(gateway.statistics().listeners[0].accepted, 1);
    }
}

#[test]
fn a_client_is_told_when_no_request_can_follow_one_that_was_answered_early() {
    let server = support::early_server();
    let (_gateway, address) = gateway(&[server.address]);
    for body in ["Content-Length: 9000000", "Transfer-Encoding: chunked"] {
        let mut stream = connect(address);
        stream
            .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}\r\n\r\n").as_bytes())
            .unwrap();
        let answer = support::read_all(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("connection: close") && answer.ends_with("early"), "{answer}");
    }
    // Nothing comes if nobody tells the client to continue, which is never done here: there is no
    // upstream.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_gateway, address) = gateway(&[nobody]);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    let answer = talk(address, head);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("connection: close"),
        "{answer}"
    );
}

#[test]
fn the_rest_of_a_body_that_nobody_wants_has_its_time() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (gateway, address) =
        gateway_with(&[nobody], |config| config.timeouts.body = Duration::from_millis(100));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome";
    let answer = talk(address, head);
    assert!(answer.starts_with("HTTP/1.1 502 ") && !answer.contains("RESET"), "{answer}");
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::ClientSlow), 1);
    // A gateway that ends does not wait for it.
    let (gateway, address) = gateway_with(&[nobody], |config| config.timeouts.body = support::LONG);
    let mut stream = connect(address);
    stream.write_all(head.as_bytes()).unwrap();
    assert!(support::read_response(&mut stream).starts_with("HTTP/1.1 502 "));
    let began = std::time::Instant::now();
    gateway.drain(support::LONG);
    assert!(began.elapsed() < support::LONG / 2);
    assert_eq!(support::read_all(&mut stream), "");
}

#[test]
fn a_connection_that_changes_to_another_protocol_passes_its_bytes() {
    let server = Server::start(|mut stream, _| {
        let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: echo\r\n"));
        // Bytes right behind the head, which must not be lost.
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello ")
            .unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
    });
    let (gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    stream
        .write_all(b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nfirst ")
        .unwrap();
    let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: echo"), "{head}");
    assert_eq!(gateway.statistics().listeners[0].active, 1);
    support::say_all(&mut stream, b"second");
    assert_eq!(support::read_all(&mut stream), "hello first second");
    support::until("the exchange ends", || gateway.statistics().listeners[0].active == 0);
}

#[test]
fn a_listener_ends_a_connection_after_as_many_requests_as_it_may_have() {
    let server = Server::echo();
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.limits.requests_per_connection = 2);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = talk(address, request.repeat(3));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
}

/// As nginx has it. Whoever shuts down a request's connection and waits cannot be told from who
/// went.
#[test]
fn a_client_that_closes_its_side_before_it_has_its_response_is_gone() {
    let ((asked, has), (go, goes)) = (channel(), channel::<()>());
    let shared = Mutex::new((asked, goes));
    let server = Server::start(move |mut stream, _| {
        while support::read_request(&mut stream).is_some() {
            let shared = shared.lock().unwrap();
            shared.0.send(()).unwrap();
            // The test says when, or is over.
            let _ = shared.1.recv();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
        }
    });
    let (gateway, address) = gateway(&[server.address]);
    let mut client = connect(address);
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    has.recv().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(support::read_all(&mut client), "");
    let gone = || gateway.statistics().listeners[0].failed(Failure::ClientGone);
    support::until("it counts as gone", || gone() == 1);
    go.send(()).unwrap();
    // The next one waits with both sides open.
    let mut client = connect(address);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    has.recv().unwrap();
    go.send(()).unwrap();
    assert!(support::read_all(&mut client).ends_with("late"));
    assert_eq!(gone(), 1);
}

#[test]
fn an_expectation_that_nobody_here_meets_is_refused() {
    let server = Server::echo();
    let (gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let answer = curl_text(&["-i", "-H", "expect: 100-continue, x", "-d", "x", &url]);
    assert!(answer.contains(" 417"), "{answer}");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let answer = curl_text(&[version, "-i", "-H", "expect: 200-ok", "-d", "x", &url]);
        assert!(answer.contains(" 417"), "{answer}");
        let answer = curl_text(&[version, "-i", "-H", "expect: 100-Continue", "-d", "x", &url]);
        assert!(answer.contains(" 200") && !answer.contains("expect"), "{answer}");
    }
    // An HTTP/1.0 client has none.
    let request = "POST / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1\r\n\r\nx";
    let answer = support::talk(address, request);
    assert!(answer.contains(" 200") && !answer.to_lowercase().contains("expect"), "{answer}");
    assert_eq!(gateway.statistics().listeners[0].failed(weir_gateway::Failure::Refused), 3);
}
