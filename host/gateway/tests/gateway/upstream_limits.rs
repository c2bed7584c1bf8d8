//! No more than an upstream can take: connections to it, and attempts beyond the first.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use weir_gateway::{Failure, Gateway, GatewayConfig, ListenerConfig, Protocol};

use crate::support::{self, Server, gateway_with, talk, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A server that answers after so long, and the most connections that it had at a time.
fn server(time: Duration) -> (Server, Arc<AtomicUsize>) {
    let (open, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&most);
    let server = Server::start(move |mut stream, _| {
        counted.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
        while support::read_request(&mut stream).is_some() {
            std::thread::sleep(time);
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                break;
            }
        }
        open.fetch_sub(1, SeqCst);
    });
    (server, most)
}

/// A gateway of two threads with this limit.
fn limited(
    upstream: SocketAddr,
    limit: usize,
    change: impl FnOnce(&mut ListenerConfig),
) -> (Gateway, SocketAddr) {
    let gateway = Gateway::start(GatewayConfig { threads: 2, ..GatewayConfig::default() }).unwrap();
    let listener = support::listener(&[upstream], |config| {
        config.limits.upstream_connections = Some(limit);
        change(config);
    });
    gateway.set(listener).unwrap();
    let address = gateway.addresses("test")[0];
    (gateway, address)
}

/// What as many clients get that ask at the same time.
fn at_once(address: SocketAddr, clients: usize) -> Vec<String> {
    let clients: Vec<_> =
        (0..clients).map(|_| std::thread::spawn(move || talk(address, GET))).collect();
    clients.into_iter().map(|client| client.join().unwrap()).collect()
}

#[test]
fn an_upstream_has_no_more_connections_than_the_limit() {
    let (server, most) = server(Duration::from_millis(300));
    let (gateway, address) = limited(server.address, 3, |_| ());
    let (mut well, mut refused) = (0, 0);
    for round in 0..3 {
        for answer in at_once(address, 12) {
            match &answer[..12] {
                "HTTP/1.1 200" => well += 1,
                "HTTP/1.1 503" => refused += 1,
                _ => panic!("{answer}"),
            }
        }
        // From then on one may be closed for another, which the server hears a little later.
        if round == 0 {
            assert_eq!(most.load(SeqCst), 3);
        }
    }
    assert!(well >= 9 && refused >= 9, "{well} {refused}");
    let statistics = gateway.statistics().listeners.remove(0);
    let counted = [&statistics.failures, &statistics.upstreams[0].failures];
    assert_eq!(counted.map(|failures| failures[Failure::UpstreamFull as usize]), [refused; 2]);
    assert!(statistics.upstreams[0].healthy);
}

#[test]
fn an_idle_connection_of_another_thread_is_in_nobodys_way() {
    let (server, _) = server(Duration::ZERO);
    let (gateway, address) = limited(server.address, 1, |_| ());
    for _ in 0..30 {
        assert!(talk(address, GET).starts_with("HTTP/1.1 200"));
    }
    assert!(server.connections() > 1, "only one thread was asked");
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::UpstreamFull), 0);
}

#[test]
fn who_finds_no_room_gets_the_connection_that_becomes_idle() {
    let (server, _) = server(Duration::from_millis(10));
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.limits.upstream_connections = Some(1);
    });
    for answer in at_once(address, 4) {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::UpstreamFull), 0);
}

#[test]
fn another_upstream_takes_what_one_has_no_room_for() {
    let ((one, _), (other, _)) = (server(Duration::from_secs(1)), server(Duration::ZERO));
    let (gateway, address) = gateway_with(&[one.address, other.address], |config| {
        config.limits.upstream_connections = Some(2);
        config.upstreams[1].weight = 1;
    });
    let answers: Vec<_> = (0..3).flat_map(|_| at_once(address, 2)).collect();
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")), "{answers:?}");
    assert!(gateway.statistics().listeners[0].upstreams.iter().all(|upstream| upstream.healthy));
}

#[test]
fn a_connection_that_carries_no_requests_counts_until_it_ends() {
    let server = Server::echo();
    let (gateway, address) = limited(server.address, 1, |config| config.protocol = Protocol::Tcp);
    let first = support::connect(address);
    until("it is there", || gateway.statistics().listeners[0].upstreams[0].open == 1);
    let full = || gateway.statistics().listeners[0].failed(Failure::UpstreamFull);
    let mut second = support::connect(address);
    let _ = std::io::Read::read_to_end(&mut second, &mut Vec::new());
    until("it is counted", || full() == 1);
    drop(first);
    until("it has ended", || gateway.statistics().listeners[0].open == 0);
    let mut third = support::connect(address);
    third.write_all(GET.as_bytes()).unwrap();
    assert!(support::read_head(&mut third).unwrap().starts_with(b"HTTP/1.1 200"));
    assert_eq!(full(), 1);
}

#[test]
fn upstreams_that_fail_do_not_get_three_times_as_many_requests() {
    let requests = Arc::new(AtomicUsize::new(0));
    let servers = [(); 3].map(|()| {
        let counted = Arc::clone(&requests);
        Server::start(move |mut stream, _| {
            let asked = support::read_request(&mut stream).is_some();
            counted.fetch_add(usize::from(asked), SeqCst);
            std::thread::sleep(Duration::from_millis(500));
        })
    });
    let addresses = servers.each_ref().map(|server| server.address);
    let fail = |clients| {
        let (gateway, address) = gateway_with(&addresses, |_| ());
        for answer in at_once(address, clients) {
            assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        }
        let listener = gateway.statistics().listeners.remove(0);
        (requests.swap(0, SeqCst), listener.retries, listener.retries_denied)
    };
    // A few are tried again as often as they may be.
    assert_eq!(fail(3), (9, 6, 0));
    let (asked, retries, denied) = fail(60);
    assert_eq!(asked as u64, 60 + retries);
    assert!((12..40).contains(&retries) && denied >= 40, "{retries} {denied}");
}
