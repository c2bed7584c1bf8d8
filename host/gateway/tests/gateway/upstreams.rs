//! Upstreams that are not there, go away, are slow, or ill.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::{self, Server, connect, gateway, gateway_with, read_request, talk, until};
use weir_gateway::{
    Failure, Gateway, GatewayConfig, HealthCheck, ListenerStatistics, News, ProxyHeader,
    UpstreamConfig, UpstreamNews,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";

/// An address at which nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn statistics(gateway: &weir_gateway::Gateway) -> ListenerStatistics {
    gateway.statistics().listeners.remove(0)
}

#[test]
fn requests_are_spread_by_weight() {
    let (one, two) =
        (Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"), Server::echo());
    let (gateway, address) = gateway_with(&[], |config| {
        config.upstreams = vec![
            UpstreamConfig { weight: 3, ..UpstreamConfig::new(one.address) },
            UpstreamConfig::new(two.address),
        ];
    });
    let ones = (0..40).filter(|_| talk(address, GET).ends_with("one")).count();
    assert_eq!(ones, 30);
    let requests: Vec<u64> = statistics(&gateway).upstreams.iter().map(|u| u.requests).collect();
    assert_eq!(requests, [30, 10]);
}

#[test]
fn a_request_whose_upstream_is_not_there_goes_to_another_with_its_body() {
    let server = Server::echo();
    let (gateway, address) = gateway(&[nobody(), server.address]);
    for request in [GET, POST, GET, POST] {
        assert!(talk(address, request).starts_with("HTTP/1.1 200"));
    }
    let statistics = statistics(&gateway);
    assert_eq!(statistics.responses, [0, 4, 0, 0, 0]);
    assert!(statistics.retries >= 2);
    assert!(statistics.upstreams[0].failed(Failure::Connect) >= 2);
}

#[test]
fn without_any_upstream_the_answer_is_bad_gateway() {
    let (gateway, address) = gateway(&[nobody()]);
    assert!(talk(address, GET).starts_with("HTTP/1.1 502 Bad Gateway"));
    assert_eq!(statistics(&gateway).failed(Failure::Connect), 1);
}

#[test]
fn that_an_upstream_is_down_is_told_once_with_its_listener_and_the_reason() {
    let (news, told) = channel();
    let config = GatewayConfig {
        news: News::to(move |n| news.send(n).unwrap()),
        ..GatewayConfig::default()
    };
    let gateway = Gateway::start(config).unwrap();
    let nobody = nobody();
    gateway.set(support::listener(&[nobody], |_| ())).unwrap();
    for _ in 0..5 {
        assert!(talk(gateway.addresses("test")[0], GET).starts_with("HTTP/1.1 502 Bad Gateway"));
    }
    let UpstreamNews { listener, up, message } = told.recv().unwrap();
    assert_eq!((listener.as_str(), up), ("test", false));
    let start = format!("upstream {nobody} of listener test is down: 3 requests in a row failed");
    assert!(message.starts_with(&start), "{message}");
    assert!(message.contains("the last with `connect`: Connection refused"), "{message}");
    let problem = statistics(&gateway).upstreams[0].problem.clone().unwrap();
    assert!(problem.starts_with("connect: Connection refused"), "{problem}");
    assert!(told.try_recv().is_err());
}

#[test]
fn an_idempotent_request_whose_upstream_hangs_up_goes_to_another() {
    let server = Server::start(|mut stream, _| {
        let _ = read_request(&mut stream);
    });
    let (gateway, address) = gateway(&[server.address, Server::echo().address]);
    for _ in 0..4 {
        assert!(talk(address, GET).starts_with("HTTP/1.1 200"));
    }
    let statistics = statistics(&gateway);
    assert_eq!(statistics.retries, 2);
    assert_eq!(statistics.upstreams[0].failed(Failure::Reset), 2);
    assert_eq!(statistics.failed(Failure::Reset), 0);
}

#[test]
fn a_request_that_is_not_idempotent_is_sent_once() {
    let server = Server::start(|mut stream, _| {
        let _ = read_request(&mut stream);
    });
    let other = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.upstreams.push(UpstreamConfig { weight: 1, ..UpstreamConfig::new(other.address) });
    });
    let answers: Vec<String> = (0..4).map(|_| talk(address, POST)).collect();
    let (bad, good): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.starts_with("HTTP/1.1 502"));
    assert_eq!((bad.len(), good.len()), (2, 2), "{answers:?}");
    assert_eq!(server.connections(), 2);
}

#[test]
fn an_idle_connection_that_the_upstream_has_closed_does_no_harm() {
    let server = Server::start(|mut stream, _| {
        // One request for each connection, though it is said that there may be more.
        if read_request(&mut stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let (gateway, address) = gateway(&[server.address]);
    for request in [GET, POST, POST, GET, POST] {
        assert!(talk(address, request).starts_with("HTTP/1.1 200"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(statistics(&gateway).upstreams[0].failed(Failure::Connect), 0);
}

#[test]
fn a_status_that_may_be_tried_again_is() {
    let (bad, good) =
        (Server::says("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), Server::echo());
    let (gateway, address) = gateway_with(&[bad.address, good.address], |config| {
        config.retry.statuses = vec![503];
    });
    for _ in 0..4 {
        assert!(talk(address, GET).starts_with("HTTP/1.1 200"));
    }
    // A body that was consumed is not there any more.
    let answers: Vec<String> = (0..2).map(|_| talk(address, POST)).collect();
    assert_eq!(answers.iter().filter(|a| a.starts_with("HTTP/1.1 503")).count(), 1);
    assert!(statistics(&gateway).retries >= 2);
}

#[test]
fn a_response_that_breaks_off_never_looks_whole() {
    let pieces = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "HTTP/1.0"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", "HTTP/1.0"),
    ];
    for (answer, version) in pieces {
        let server = Server::start(move |mut stream, _| {
            let _ = read_request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        });
        let (gateway, address) = gateway(&[server.address]);
        let request = format!("GET / {version}\r\nHost: a\r\nConnection: close\r\n\r\n");
        let got = talk(address, request);
        let cut = got.contains("RESET") || !got.contains("hello");
        assert!(cut || (version == "HTTP/1.1" && !got.ends_with("0\r\n\r\n")), "{got:?}");
        until("it is counted", || statistics(&gateway).failed(Failure::Broken) == 1);
    }
}

#[test]
fn what_came_before_a_response_broke_off_reaches_the_client() {
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                  5\r\nfirst\r\n4\r\nlast\r\n";
    let long =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n{}", "x".repeat(1_000_000));
    let answers = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc".to_owned(), "abc", 1),
        (events.to_owned(), "last", 1),
        (long, "x", 1_000_000),
    ];
    for (answer, piece, times) in answers {
        let server = Server::start(move |mut stream, _| {
            let _ = read_request(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        });
        let (gateway, address) = gateway(&[server.address]);
        for _ in 0..5 {
            let mut stream = support::connect(address);
            stream.write_all(GET.as_bytes()).unwrap();
            // It does not have to take it as fast as it comes.
            std::thread::sleep(Duration::from_millis(20));
            let got = support::read_all(&mut stream);
            assert_eq!((got.matches(piece).count(), got.contains("RESET")), (times, false));
        }
        assert_eq!(statistics(&gateway).failed(Failure::Broken), 5);
    }
}

#[test]
fn a_slow_upstream_is_waited_for_so_long_and_no_longer() {
    let server = Server::start(|mut stream, _| {
        let _ = read_request(&mut stream);
        std::thread::sleep(support::LONG);
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.response = Duration::from_millis(100);
    });
    assert!(talk(address, GET).starts_with("HTTP/1.1 504"));
    assert_eq!(statistics(&gateway).failed(Failure::UpstreamSlow), 1);
    let stuck = Server::start(|mut stream, _| {
        let _ = read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        std::thread::sleep(support::LONG);
    });
    let (_gateway, address) = gateway_with(&[stuck.address], |config| {
        config.timeouts.response = Duration::from_millis(100);
    });
    let got = talk(address, GET);
    assert!(got.contains("RESET") || !got.ends_with("hello hello"), "{got}");
}

#[test]
fn an_upload_may_take_longer_than_the_response_to_begin() {
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.response = Duration::from_millis(300);
    });
    let mut stream = connect(address);
    stream
        .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 6\r\n\r\n")
        .unwrap();
    for byte in b"abcdef" {
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(&[*byte]).unwrap();
    }
    let answer = support::read_all(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("abcdef"), "{answer}");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_head(&mut stream);
        stream
            .write_all(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
            .unwrap();
        // It reads on for a while, as servers do.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let (_gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc").unwrap();
    let answer = support::read_head(&mut stream).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401"));
}

#[test]
fn checks_take_an_ill_upstream_out_and_put_it_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let ill = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ill);
    let server = Server::start(move |mut stream, _| {
        while let Some(request) = read_request(&mut stream) {
            let check = request.starts_with(b"GET /health ");
            let status = if check && seen.load(Ordering::SeqCst) { 500 } else { 200 };
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n\r\nmine");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let other = Server::echo();
    let (gateway, address) = gateway_with(&[server.address, other.address], |config| {
        config.health = Some(HealthCheck {
            path: Some("/health".to_owned()),
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            healthy: 2,
            unhealthy: 2,
            ..HealthCheck::default()
        });
    });
    let healthy = || statistics(&gateway).upstreams.iter().map(|u| u.healthy).collect::<Vec<_>>();
    assert_eq!(healthy(), [true, true]);
    ill.store(true, Ordering::SeqCst);
    until("it is taken out", || healthy() == [false, true]);
    let problems = statistics(&gateway).upstreams.into_iter().map(|upstream| upstream.problem);
    assert_eq!(problems.collect::<Vec<_>>(), [Some("check: status 500".to_owned()), None]);
    assert!((0..6).all(|_| !talk(address, GET).ends_with("mine")));
    ill.store(false, Ordering::SeqCst);
    until("it is put back", || healthy() == [true, true]);
    assert!((0..6).any(|_| talk(address, GET).ends_with("mine")));
}

#[test]
fn checks_begin_with_the_header_that_an_upstream_insists_on() {
    for (version, header) in [
        (ProxyHeader::V1, "PROXY UNKNOWN\r\n"),
        (ProxyHeader::V2, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ] {
        let server = Server::start(move |mut stream, _| {
            let mut begin = vec![0; header.len()];
            if stream.read_exact(&mut begin).is_ok() && begin == header.as_bytes() {
                let _ = read_request(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let (gateway, _) = gateway_with(&[server.address], |config| {
            config.upstream_proxy_protocol = Some(version);
            config.health = Some(HealthCheck {
                path: Some("/health".to_owned()),
                interval: Duration::from_millis(20),
                timeout: support::LONG,
                healthy: 1,
                unhealthy: 1,
                ..HealthCheck::default()
            });
        });
        until("it was looked at", || server.connections() > 3);
        assert!(statistics(&gateway).upstreams[0].healthy, "{version:?}");
    }
}

/// As gRPC's watches are, and what subscribes.
#[test]
fn a_client_may_be_silent_as_long_as_the_response_goes_on() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(50));
            if stream.write_all(b"4\r\nnews\r\n").is_err() {
                return;
            }
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.body = Duration::from_millis(300);
    });
    let answer = talk(
        address,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntell\r\n",
    );
    assert_eq!(answer.matches("news").count(), 20, "{answer}");
    assert!(answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(statistics(&gateway).failures.iter().sum::<u64>(), 0);
}

#[test]
fn no_request_is_answered_with_anothers_bytes() {
    // Upstreams that close connections at any point: before, within and behind responses.
    let flaky = || {
        Server::start(|mut stream, number| {
            let mut requests = 0;
            while let Some(request) = read_request(&mut stream) {
                requests += 1;
                let length = request.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let answer = [head.as_bytes(), &request].concat();
                let whole = match (number + requests) % 7 {
                    0 => return,
                    1 => answer.len() / 2,
                    _ => answer.len(),
                };
                if stream.write_all(&answer[..whole]).is_err()
                    || whole < answer.len()
                    || (number + requests) % 5 == 0
                {
                    return;
                }
            }
        })
    };
    let (one, two) = (flaky(), flaky());
    let (gateway, address) = gateway(&[one.address, two.address]);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            std::thread::spawn(move || {
                let (mut right, mut cut) = (0, 0);
                for i in 0..60 {
                    let id = format!("id-{client}-{i}-");
                    let body = "x".repeat(i * 50);
                    let answer = talk(
                        address,
                        format!(
                            "PUT /{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        ),
                    );
                    match answer.split_once("\r\n\r\n") {
                        Some((head, _)) if head.starts_with("HTTP/1.1 502") => cut += 1,
                        Some((_, seen)) => {
                            // All of it, or the beginning of it.
                            let mine = format!("PUT /{id} HTTP/1.1");
                            let length = seen.len().min(mine.len());
                            assert_eq!(seen[..length], mine[..length]);
                            assert!(seen.matches("id-").count() <= 1, "{seen}");
                            right += 1;
                        }
                        None => cut += 1,
                    }
                }
                (right, cut)
            })
        })
        .collect();
    let (right, cut) = clients
        .into_iter()
        .map(|client| client.join().unwrap())
        .fold((0, 0), |(right, cut), (r, c)| (right + r, cut + c));
    assert_eq!(right + cut, 480);
    assert!(right > 200, "{right}");
    until("all is over", || {
        let statistics = statistics(&gateway);
        statistics.open == 0
            && statistics.active == 0
            && statistics.upstreams.iter().all(|u| u.active == 0)
    });
}
