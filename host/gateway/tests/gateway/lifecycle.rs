//! Listeners come, change and go; slow clients, limits, draining.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::{
    self, Server, connect, gateway, gateway_with, listener, read_all, read_head, talk, until,
};
use socket2::{Domain, Socket, Type};
use weir_gateway::{Failure, Gateway, GatewayConfig, GatewayError};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn listeners_come_change_and_go_while_a_gateway_runs() {
    let (one, two) = (
        Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"),
        Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"),
    );
    let gateway = Gateway::start(GatewayConfig { threads: 3, ..GatewayConfig::default() }).unwrap();
    gateway.set(listener(&[one.address], |_| ())).unwrap();
    gateway.set(listener(&[two.address], |config| config.name = "other".to_owned())).unwrap();
    let (first, other) = (gateway.addresses("test")[0], gateway.addresses("other")[0]);
    let mut kept = connect(first);
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = read_head(&mut kept).unwrap();
    answer.resize(answer.len() + 3, 0);
    let at = answer.len() - 3;
    kept.read_exact(&mut answer[at..]).unwrap();
    assert!(answer.ends_with(b"one"));
    for _ in 0..10 {
        assert!(talk(first, GET).ends_with("one") && talk(other, GET).ends_with("two"));
    }
    // The connection that is there, and new ones, follow the new configuration; the socket stays.
    gateway.set(listener(&[two.address], |_| ())).unwrap();
    assert_eq!(gateway.addresses("test"), [first]);
    kept.write_all(GET.as_bytes()).unwrap();
    assert!(read_all(&mut kept).ends_with("two"));
    assert!(talk(first, GET).ends_with("two"));
    gateway.remove("other", Duration::ZERO).unwrap();
    assert!(TcpStream::connect(other).is_err());
    assert!(matches!(gateway.remove("other", Duration::ZERO), Err(GatewayError::Unknown(_))));
    let statistics = gateway.statistics();
    assert_eq!(statistics.listeners.len(), 1);
    assert_eq!(statistics.listeners[0].requests, 13);
}

#[test]
fn what_cannot_be_is_said_and_changes_nothing() {
    let server = Server::echo();
    let (gateway, address) = gateway(&[server.address]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let error = gateway.set(listener(&[server.address], |c| c.addresses.push(at))).unwrap_err();
    assert!(error.to_string().contains(&format!("cannot listen at {at}")), "{error}");
    let error = gateway
        .set(listener(&[server.address], |c| {
            (c.name, c.addresses) = ("other".to_owned(), vec![address]);
        }))
        .unwrap_err();
    assert!(error.to_string().contains("is where listener test listens"), "{error}");
    let error = gateway.set(listener(&[], |_| ())).unwrap_err();
    assert!(error.to_string().contains("neither an upstream nor a chain"), "{error}");
    let error = gateway.set(listener(&[server.address; 2], |_| ())).unwrap_err();
    assert!(error.to_string().contains("named twice"), "{error}");
    let none = |c: &mut weir_gateway::ListenerConfig| c.timeouts.idle = Duration::ZERO;
    let error = gateway.set(listener(&[server.address], none)).unwrap_err();
    assert!(error.to_string().contains("timeouts.idle"), "{error}");
    assert!(talk(address, GET).starts_with("HTTP/1.1 200"));
    assert!(Gateway::start(GatewayConfig { threads: 0, ..GatewayConfig::default() }).is_err());
}

#[test]
fn an_address_goes_from_one_listener_to_another() {
    let (one, two) = (
        Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"),
        Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"),
    );
    let gateway = Gateway::start(GatewayConfig { threads: 3, ..GatewayConfig::default() }).unwrap();
    let at = |name: &str, address, server: &Server| {
        listener(&[server.address], |config| {
            (config.name, config.addresses) = (name.to_owned(), vec![address]);
        })
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let both = vec![at("one", any, &one), at("two", any, &two)];
    gateway.change(both, &[], Duration::ZERO).unwrap();
    let (first, second) = (gateway.addresses("one")[0], gateway.addresses("two")[0]);

    // Another name, without a moment in which nobody listens.
    let mut kept = connect(first);
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(read_head(&mut kept).is_some());
    kept.read_exact(&mut [0; 3]).unwrap();
    let clients = std::thread::spawn(move || (0..200).all(|_| TcpStream::connect(first).is_ok()));
    while !clients.is_finished() {
        for names in [["one", "renamed"], ["renamed", "one"]] {
            let renamed = vec![at(names[1], first, &one)];
            gateway.change(renamed, &[names[0]], support::LONG).unwrap();
        }
    }
    assert!(clients.join().unwrap());
    // What was idle at a listener that went has ended, in order.
    assert_eq!(read_all(&mut kept), "");

    // Exchanged. Then one leaves for another address, and the other comes in its place, whoever is
    // named first.
    let exchanged = vec![at("one", second, &one), at("two", first, &two)];
    gateway.change(exchanged, &[], Duration::ZERO).unwrap();
    assert!(talk(second, GET).ends_with("one") && talk(first, GET).ends_with("two"));
    let moved = vec![at("two", second, &two), at("one", any, &one)];
    gateway.change(moved, &[], Duration::ZERO).unwrap();
    assert!(talk(second, GET).ends_with("two"));
    assert!(talk(gateway.addresses("one")[0], GET).ends_with("one"));
    // The address that nobody has any more can be had by anybody, at once.
    drop(std::net::TcpListener::bind(first).unwrap());

    // One that cannot be had: all have what they had, also those that could have had it.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = std::net::TcpListener::bind(taken).unwrap();
    let (now, moved) =
        (gateway.addresses("one")[0], vec![at("two", first, &one), at("no", taken, &one)]);
    let error = gateway.change(moved, &["one"], Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains(&format!("cannot listen at {taken}")), "{error}");
    drop(other);
    assert_eq!((gateway.addresses("one"), gateway.addresses("two")), (vec![now], vec![second]));
    assert!(talk(now, GET).ends_with("one") && talk(second, GET).ends_with("two"));
    drop(std::net::TcpListener::bind(first).unwrap());
    // Nor does an address have two.
    let twice = vec![at("a", first, &one), at("b", first, &two)];
    let error = gateway.change(twice, &[], Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("is where listener a listens"), "{error}");
}

#[test]
fn nobody_else_listens_where_a_gateway_does() {
    let server = Server::echo();
    let threads = || Gateway::start(GatewayConfig { threads: 3, ..GatewayConfig::default() });
    let (one, two) = (threads().unwrap(), threads().unwrap());
    one.set(listener(&[server.address], |_| ())).unwrap();
    let address = one.addresses("test")[0];
    let there = || listener(&[server.address], |c| c.addresses = vec![address]);
    let error = two.set(there()).unwrap_err();
    assert!(error.to_string().contains(&format!("cannot listen at {address}")), "{error}");
    // Its own other listeners may, at an address that is more, or less, particular.
    let everywhere = (std::net::Ipv4Addr::UNSPECIFIED, address.port()).into();
    let beside = listener(&[server.address], |c| {
        (c.name, c.addresses) = ("beside".to_owned(), vec![everywhere]);
    });
    one.set(beside).unwrap();
    one.drain(Duration::ZERO);
    two.set(there()).unwrap();
    assert!(talk(address, GET).starts_with("HTTP/1.1 200"));
}

/// A server that waits for a word from the test before it answers, and says when it has a request.
fn waiting() -> (Server, std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<()>) {
    let ((asked, has), (go, goes)) = (channel(), channel::<()>());
    let shared = std::sync::Mutex::new((asked, goes));
    let server = Server::start(move |mut stream, _| {
        while support::read_request(&mut stream).is_some() {
            let shared = shared.lock().unwrap();
            shared.0.send(()).unwrap();
            let _ = shared.1.recv();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").unwrap();
        }
    });
    (server, has, go)
}

#[test]
fn draining_lets_requests_end_and_closes_what_is_idle() {
    let (server, has, go) = waiting();
    let (gateway, address) = gateway(&[server.address]);
    let mut idle = connect(address);
    let mut busy = connect(address);
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    has.recv().unwrap();
    until("both are open", || gateway.statistics().listeners[0].open == 2);
    let drained = std::thread::spawn(move || {
        gateway.drain(support::LONG);
    });
    assert_eq!(read_all(&mut idle), "");
    // Nobody gets in who would not be served.
    until("connections are refused", || TcpStream::connect(address).is_err());
    assert!(!drained.is_finished());
    go.send(()).unwrap();
    let answer = read_all(&mut busy);
    assert!(answer.contains("connection: close") && answer.ends_with("last"), "{answer}");
    drained.join().unwrap();
}

#[test]
fn draining_ends_in_time() {
    let (server, has, _go) = waiting();
    let (gateway, address) = gateway(&[server.address]);
    let mut busy = connect(address);
    busy.write_all(GET.as_bytes()).unwrap();
    has.recv().unwrap();
    let began = Instant::now();
    gateway.drain(Duration::from_millis(50));
    assert!(began.elapsed() < support::LONG);
    assert!(read_all(&mut busy).starts_with("RESET"));
}

#[test]
fn a_client_that_is_slow_with_its_head_is_told_so() {
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.header = Duration::from_millis(700);
    });
    // One connection whose first head is slow, one whose second is.
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
    assert!(read_all(&mut stream).starts_with("HTTP/1.1 408 "));
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = read_head(&mut stream).unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(read_all(&mut stream).contains("HTTP/1.1 408 "));
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::ClientSlow), 2);
    // One that says nothing at all is only closed.
    assert_eq!(read_all(&mut connect(address)), "");
}

#[test]
fn a_head_has_its_time_from_its_first_byte_however_long_the_connection_was_idle() {
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.header = Duration::from_secs(2);
    });
    let mut stream = connect(address);
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let head = String::from_utf8(read_head(&mut stream).unwrap()).unwrap();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    stream.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    stream.write_all(b"st: a\r\nConnection: close\r\n\r\n").unwrap();
    let answer = read_all(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_head_that_begins_before_the_response_has_ended_must_go_on_too() {
    // The response's end comes after the beginning of the next head.
    let (asked, go) = channel::<()>();
    let go = std::sync::Mutex::new(go);
    let server = Server::start(move |mut stream, _| {
        let _ = support::read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhe").unwrap();
        go.lock().unwrap().recv().unwrap();
        stream.write_all(b"re").unwrap();
        std::thread::sleep(support::LONG);
    });
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.header = Duration::from_millis(700);
    });
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_head(&mut stream).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    asked.send(()).unwrap();
    let rest = read_all(&mut stream);
    assert!(rest.starts_with("here") && rest.contains("HTTP/1.1 408 "), "{rest}");
}

#[test]
fn a_head_that_is_slow_cuts_no_response_that_the_client_has_not_taken() {
    const PIECE: usize = 16_384;
    let (more, pieces) = channel::<()>();
    let pieces = std::sync::Mutex::new(pieces);
    let server = Server::start(move |mut stream, _| {
        let _ = support::read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
        for () in pieces.lock().unwrap().iter() {
            stream.write_all(&[1; PIECE]).unwrap();
        }
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.header = Duration::from_millis(300);
    });
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(support::LONG)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let sent = || gateway.statistics().listeners[0].sent;
    until("the response has begun", || sent() > 0);
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    // Until the kernel takes no more, and the end of it is with the gateway.
    let (mut written, mut full) = (0, false);
    while !full {
        let (before, began) = (sent(), Instant::now());
        more.send(()).unwrap();
        written += PIECE;
        while !full && sent() < before + PIECE as u64 {
            std::thread::sleep(Duration::from_millis(1));
            full = began.elapsed() > Duration::from_millis(300);
        }
    }
    drop(more);
    until("it has been read", || gateway.statistics().listeners[0].active == 0);
    std::thread::sleep(Duration::from_secs(1));
    let all = read_all(&mut stream);
    assert_eq!(all.matches('\u{1}').count(), written);
    let end = all.split("\r\n0\r\n\r\n").nth(1).expect("the response has its end");
    assert!(end.starts_with("HTTP/1.1 408 "), "{end}");
}

#[test]
fn an_idle_connection_is_closed() {
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.idle = Duration::from_millis(100);
    });
    let answer = talk(address, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("408"), "{answer}");
}

#[test]
fn a_client_that_is_slow_with_its_body_is_told_so() {
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.body = Duration::from_millis(100);
    });
    let answer = talk(address, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[test]
fn a_client_that_does_not_take_its_response_is_cut_off() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        while stream.write_all(&[0; 65_536]).is_ok() {}
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.body = Duration::from_millis(200);
    });
    let mut stream = connect(address);
    stream.write_all(GET.as_bytes()).unwrap();
    until("it is cut off", || {
        let statistics = gateway.statistics();
        statistics.listeners[0].accepted == 1 && statistics.listeners[0].open == 0
    });
    let statistics = &gateway.statistics().listeners[0];
    assert!(statistics.sent < 100_000_000 && statistics.active == 0);
    // Back-pressure: not more was taken from the upstream than the kernel's buffers and a few
    // pieces hold.
    assert!(statistics.upstreams[0].received < 50_000_000);
}

#[test]
fn a_body_beyond_the_limit_is_refused_whether_its_length_is_told_or_not() {
    let server = Server::echo();
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.limits.body = Some(10));
    let told = talk(address, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    assert!(told.starts_with("HTTP/1.1 413 "), "{told}");
    let untold = talk(
        address,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n",
    );
    assert!(untold.starts_with("HTTP/1.1 413 "), "{untold}");
    let fits = talk(
        address,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\n0123456789",
    );
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
}

#[test]
fn there_are_no_more_connections_than_the_limit() {
    let server = Server::echo();
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.limits.connections = 2);
    let (one, two) = (connect(address), connect(address));
    until("both are open", || gateway.statistics().listeners[0].open == 2);
    let mut three = connect(address);
    let refused = read_all(&mut three);
    assert!(refused.is_empty() || refused.starts_with("RESET"), "{refused}");
    assert_eq!(gateway.statistics().listeners[0].refused, 1);
    drop((one, two));
    until("they are closed", || gateway.statistics().listeners[0].open == 0);
    assert!(talk(address, GET).starts_with("HTTP/1.1 200"));
}

#[test]
fn dropping_a_gateway_ends_it() {
    let server = Server::echo();
    let (gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    read_head(&mut stream).unwrap();
    drop(gateway);
    assert!(TcpStream::connect(address).is_err());
    let _ = read_all(&mut stream);
}
