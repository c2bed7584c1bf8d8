//! L4: bytes both ways, half-closed connections, chains, the PROXY protocol.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::http2::{client, get, runtime};
use crate::support::{self, Server, connect, gateway_with, read_all, say_all, until};
use bytes::Bytes;
use socket2::SockRef;
use weir_exchange::{
    BodyStep, Chain, ChainFactory, Denied, Direction, Ended, Interests, Kind, Middleware, Origin,
    Passage, Pieces, Reply, Stage, Step, Upstreams,
};
use weir_gateway::{
    Failure, Gateway, GatewayConfig, ListenerConfig, Prefix, Protocol, ProxyHeader,
};

/// Reads all, then answers with its length and the bytes.
fn patient() -> Server {
    Server::start(|mut stream, _| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("{}:", all.len()).as_bytes()).unwrap();
        stream.write_all(&all).unwrap();
    })
}

fn tcp(config: &mut ListenerConfig) {
    config.protocol = Protocol::Tcp;
}

#[test]
fn a_side_that_has_said_all_still_hears_the_other() {
    let server = patient();
    let (gateway, address) = gateway_with(&[server.address], tcp);
    let mut stream = connect(address);
    say_all(&mut stream, b"hello");
    assert_eq!(read_all(&mut stream), "5:hello");
    until("it has ended", || gateway.statistics().listeners[0].open == 0);
    let statistics = &gateway.statistics().listeners[0];
    assert_eq!((statistics.requests, statistics.active, statistics.spliced), (1, 0, 1));
    assert_eq!((statistics.received, statistics.sent), (5, 7));
    assert_eq!((statistics.upstreams[0].received, statistics.upstreams[0].sent), (7, 5));
}

#[test]
fn many_bytes_pass_both_ways_at_the_same_time() {
    let server = Server::start(|mut stream, _| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    });
    let (_gateway, address) = gateway_with(&[server.address], tcp);
    let body: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut stream = connect(address);
    let (mut writer, sent) = (stream.try_clone().unwrap(), body.clone());
    let writing = std::thread::spawn(move || say_all(&mut writer, &sent));
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    writing.join().unwrap();
    assert!(got == body);
}

#[test]
fn an_upstream_that_is_not_there_is_passed_by_and_none_is_a_reset() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = patient();
    let (_gateway, address) = gateway_with(&[nobody, server.address], tcp);
    for _ in 0..3 {
        let mut stream = connect(address);
        say_all(&mut stream, b"x");
        assert_eq!(read_all(&mut stream), "1:x");
    }
    let (gateway, address) = gateway_with(&[nobody], tcp);
    assert!(read_all(&mut connect(address)).starts_with("RESET"));
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::Connect), 1);
}

#[test]
fn a_connection_on_which_nothing_moves_is_cut_off() {
    let server = patient();
    let (gateway, address) = gateway_with(&[server.address], |config| {
        tcp(config);
        config.timeouts.tunnel = Duration::from_millis(100);
    });
    assert!(read_all(&mut connect(address)).starts_with("RESET"));
    until("it is counted", || gateway.statistics().listeners[0].failed(Failure::Idle) == 1);
}

#[test]
fn a_side_that_takes_nothing_for_a_while_is_waited_for() {
    // More than the kernel's buffers hold.
    const BYTES: usize = 24 << 20;
    let server = Server::start(|mut stream, _| {
        let _ = support::read_head(&mut stream);
        let head = "HTTP/1.1 101 Fine\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(&vec![b'x'; BYTES]);
    });
    for (protocol, chain) in
        [(Protocol::Tcp, false), (Protocol::Tcp, true), (Protocol::Http, false)]
    {
        let (_gateway, address) = gateway_with(&[server.address], |config| {
            config.protocol = protocol;
            config.timeouts.body = Duration::from_millis(100);
            config.chain = chain.then(|| Arc::new(Policy) as Arc<dyn ChainFactory>);
        });
        let mut stream = connect(address);
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        stream.write_all(upgrade.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let got = read_all(&mut stream);
        assert!(got.len() > BYTES && !got.contains("RESET"), "{protocol:?}: {}", got.len());
    }
}

#[test]
fn a_connection_whose_bytes_go_one_way_is_not_idle() {
    let server = Server::start(|mut stream, _| {
        for _ in 0..10 {
            stream.write_all(b"tick ").unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for chain in [false, true] {
        let (_gateway, address) = gateway_with(&[server.address], |config| {
            tcp(config);
            config.timeouts.tunnel = Duration::from_millis(600);
            config.chain = chain.then(|| Arc::new(Policy) as Arc<dyn ChainFactory>);
        });
        let got = read_all(&mut connect(address)).to_ascii_lowercase();
        assert_eq!(got.matches("tick ").count(), 10, "{got}");
    }
}

#[test]
fn draining_cuts_connections_off_when_the_time_has_come() {
    let server = patient();
    for chain in [false, true] {
        let (gateway, address) = gateway_with(&[server.address], |config| {
            tcp(config);
            config.chain = chain.then(|| Arc::new(Policy) as Arc<dyn ChainFactory>);
        });
        let mut stream = connect(address);
        stream.write_all(b"hello").unwrap();
        until("it is relayed", || gateway.statistics().listeners[0].upstreams[0].sent == 5);
        gateway.drain(Duration::from_millis(50));
        assert!(read_all(&mut stream).starts_with("RESET"));
    }
}

struct Policy;

impl ChainFactory for Policy {
    fn stage(&self, _thread: usize, _upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        Ok(Box::new(|_| Ok(Chain::native(Rc::new(Policy)))))
    }
}

impl Middleware for Policy {
    fn interests(&self) -> Interests {
        Interests { opened: true, data: true, ..Interests::default() }
    }

    fn open(&self, origin: &Origin, _kind: Kind) -> Rc<dyn Passage> {
        Rc::new(Decision { client: origin.client.ip().to_string() })
    }
}

struct Decision {
    client: String,
}

impl Passage for Decision {
    fn opened(&self) -> Reply<'_, Step> {
        Reply::Now(match self.client.as_str() {
            "192.0.2.66" => Step::Reset,
            "192.0.2.67" => {
                let mut answer = http::Response::new(Pieces::new());
                answer.extensions_mut().insert(Denied::OutOfOrder);
                Step::Answer(answer)
            }
            _ => Step::Continue,
        })
    }

    fn data(
        self: Rc<Self>,
        from_upstream: bool,
        piece: Bytes,
        last: bool,
    ) -> Reply<'static, BodyStep> {
        Reply::later(async move {
            if piece.windows(4).any(|w| w == b"evil") {
                return BodyStep::Reset;
            }
            let mut pieces = Pieces::from_iter([piece.to_ascii_uppercase().into()]);
            if last {
                let end: &[u8] = if from_upstream { b"<" } else { b">" };
                pieces.push(Bytes::from_static(end));
            }
            BodyStep::Pass(pieces)
        })
    }

    fn upstream(&self) -> Option<usize> {
        (self.client == "192.0.2.2").then_some(1)
    }
}

#[test]
fn a_chain_decides_and_changes_bytes() {
    let one = patient();
    let two = Server::start(|mut stream, _| {
        let _ = stream.read_to_end(&mut Vec::new());
        stream.write_all(b"two").unwrap();
    });
    let (gateway, address) = gateway_with(&[one.address, two.address], |config| {
        tcp(config);
        config.upstreams[1].weight = 0;
        config.proxy_protocol = true;
        config.chain = Some(Arc::new(Policy));
    });
    let talk = |client: &str, bytes: &str| {
        let mut stream = connect(address);
        let all = format!("PROXY TCP4 {client} 192.0.2.9 4000 80\r\n{bytes}");
        let _ = stream.write_all(all.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        read_all(&mut stream)
    };
    assert_eq!(talk("192.0.2.1", "abc"), "4:ABC><");
    assert_eq!(talk("192.0.2.2", ""), "TWO<");
    assert!(talk("192.0.2.66", "abc").starts_with("RESET"));
    assert!(talk("192.0.2.67", "abc").starts_with("RESET"));
    assert_eq!(gateway.statistics().listeners[0].failed(Failure::OutOfOrder), 1);
    assert!(talk("192.0.2.1", "evil").starts_with("RESET"));
    until("both are counted", || gateway.statistics().listeners[0].failed(Failure::Function) == 2);
}

/// Ends a connection so that the other side finds it broken.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn a_connection_that_breaks_is_counted_as_the_failure_of_who_broke_it() {
    // Breaks, or waits for the other side to.
    let server = Server::start(|mut stream, _| {
        let mut said = [0];
        stream.read_exact(&mut said).unwrap();
        match said[0].to_ascii_lowercase() {
            b'r' => reset(stream),
            _ => drop(stream.read_to_end(&mut Vec::new())),
        }
    });
    for chain in [false, true] {
        let (gateway, address) = gateway_with(&[server.address], |config| {
            tcp(config);
            config.chain = chain.then(|| Arc::new(Policy) as Arc<dyn ChainFactory>);
        });
        let failures = |failure| {
            let statistics = &gateway.statistics().listeners[0];
            (statistics.failed(failure), statistics.upstreams[0].failed(failure))
        };
        let mut stream = connect(address);
        stream.write_all(b"r").unwrap();
        assert!(read_all(&mut stream).starts_with("RESET"));
        until("the upstream broke it", || failures(Failure::Broken) == (1, 1));
        let mut stream = connect(address);
        stream.write_all(b"x").unwrap();
        until("it is relayed", || gateway.statistics().listeners[0].upstreams[0].sent == 2);
        reset(stream);
        until("the client broke it", || failures(Failure::ClientGone) == (1, 0));
        assert_eq!(failures(Failure::Broken), (1, 1));
    }
}

/// Says who may come, of connections that carry requests, and hears how they end.
struct Doorman {
    ended: Mutex<mpsc::Sender<Ended>>,
    wants: Interests,
    /// There is another version of it.
    outdated: Arc<AtomicBool>,
}

impl Doorman {
    fn new(wants: Interests) -> (Self, mpsc::Receiver<Ended>) {
        let (sender, ended) = mpsc::channel();
        (Self { ended: Mutex::new(sender), wants, outdated: Arc::default() }, ended)
    }
}

impl ChainFactory for Doorman {
    fn stage(&self, _thread: usize, _upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        let (ended, wants) = (self.ended.lock().unwrap().clone(), self.wants);
        let outdated = Arc::clone(&self.outdated);
        Ok(Box::new(move |_| Ok(Chain::native(Rc::new(Door { ended, wants, outdated })))))
    }
}

struct Door {
    ended: mpsc::Sender<Ended>,
    wants: Interests,
    outdated: Arc<AtomicBool>,
}

impl Middleware for Door {
    fn interests(&self) -> Interests {
        self.wants
    }

    fn open(&self, origin: &Origin, kind: Kind) -> Rc<dyn Passage> {
        let client = origin.client.ip().to_string();
        let (ended, outdated) = (self.ended.clone(), Arc::clone(&self.outdated));
        Rc::new(Visitor { client, kind, asked: Cell::default(), ended, outdated })
    }
}

struct Visitor {
    client: String,
    kind: Kind,
    asked: Cell<bool>,
    ended: mpsc::Sender<Ended>,
    outdated: Arc<AtomicBool>,
}

impl Passage for Visitor {
    fn opened(&self) -> Reply<'_, Step> {
        assert!(self.kind == Kind::HttpConnection && !self.asked.replace(true), "once");
        let denied = self.client == "192.0.2.66";
        Reply::Now(if denied { Step::Reset } else { Step::Continue })
    }

    fn upstream(&self) -> Option<usize> {
        (self.kind == Kind::HttpConnection && self.client == "192.0.2.2").then_some(1)
    }

    fn done(&self, _from: Direction) -> bool {
        self.client != "192.0.2.3"
    }

    fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::SeqCst)
    }

    fn end(&self, how: Ended, _upstream: Option<usize>, _time: Duration) {
        if self.kind == Kind::HttpConnection {
            self.ended.send(how).unwrap();
        }
    }
}

#[test]
fn connections_that_carry_requests_are_opened_once_and_end_once() {
    let one = Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let two = Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
    // Who wants bytes only is asked, too: whether it does of this connection.
    for opened in [true, false] {
        let wants = Interests { opened, data: true, ..Interests::default() };
        opened_once_and_ended_once([one.address, two.address], wants);
    }
}

fn opened_once_and_ended_once(upstreams: [SocketAddr; 2], wants: Interests) {
    let (doorman, ended) = Doorman::new(wants);
    let (gateway, address) = gateway_with(&upstreams, |config| {
        config.upstreams[1].weight = 0;
        config.proxy_protocol = true;
        config.chain = Some(Arc::new(doorman));
    });
    let from = |client: &str| {
        let mut stream = connect(address);
        let header = format!("PROXY TCP4 {client} 192.0.2.9 4000 80\r\n");
        stream.write_all(header.as_bytes()).unwrap();
        stream
    };
    let how = || ended.recv_timeout(Duration::from_secs(20)).unwrap();
    // The second goes where its connection is sent, with all of its requests.
    for (client, server) in [("192.0.2.1", "one"), ("192.0.2.2", "two")] {
        let mut stream = from(client);
        for _ in 0..2 {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            let answer = support::read_response(&mut stream);
            assert!(answer.ends_with(server), "{client}: {answer}");
        }
        assert!(ended.try_recv().is_err());
        drop(stream);
        assert_eq!(how(), Ended::Delivered);
    }
    // Refused before anything is said; or because its bytes are wanted, which are requests'.
    for client in ["192.0.2.66", "192.0.2.3"] {
        assert!(read_all(&mut from(client)).starts_with("RESET"), "{client}");
        assert_eq!(how(), Ended::Reset);
    }
    let statistics = &gateway.statistics().listeners[0];
    assert_eq!((statistics.requests, statistics.failed(Failure::Function)), (4, 2));
}

/// Who has an old version of a chain keeps its memory.
#[test]
fn connections_of_a_version_that_was_replaced_end_with_their_next_response() {
    let server = Server::says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let (doorman, ended) = Doorman::new(Interests { opened: true, ..Interests::default() });
    let (outdated, doorman) = (Arc::clone(&doorman.outdated), Arc::new(doorman));
    let config = || {
        let chain: Arc<dyn ChainFactory> = Arc::clone(&doorman) as _;
        support::listener(&[server.address], |config| config.chain = Some(chain))
    };
    let gateway = Gateway::start(GatewayConfig::default()).unwrap();
    gateway.set(config()).unwrap();
    let address = gateway.addresses("test")[0];
    let how = || ended.recv_timeout(Duration::from_secs(20)).unwrap();
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = support::read_response(stream);
        assert!(answer.ends_with("one"), "{answer}");
        answer.contains("connection: close")
    };
    // By a swap, and by another configuration of the listener.
    let ways: [&dyn Fn(); 2] =
        [&|| outdated.store(true, Ordering::SeqCst), &|| gateway.set(config()).unwrap()];
    for replace in ways {
        outdated.store(false, Ordering::SeqCst);
        let mut stream = connect(address);
        assert!(!ask(&mut stream) && !ask(&mut stream));
        let mut idle = connect(address);
        assert!(!ask(&mut idle));
        replace();
        assert!(ask(&mut stream));
        assert_eq!(read_all(&mut stream), "");
        assert_eq!(how(), Ended::Delivered);
        // Whose request may be on its way.
        assert!(ended.try_recv().is_err());
        assert!(ask(&mut idle));
        assert_eq!(how(), Ended::Delivered);

        outdated.store(false, Ordering::SeqCst);
        runtime().block_on(async {
            let (mut client, connection) = client(address).await;
            let mut ask = async || {
                let (response, _) = client.send_request(get("/"), true).unwrap();
                assert_eq!(response.await.unwrap().status(), 200);
            };
            ask().await;
            replace();
            assert!(!connection.is_finished());
            ask().await;
            tokio::time::timeout(support::LONG, connection).await.unwrap().unwrap().unwrap();
        });
        assert_eq!(how(), Ended::Delivered);
    }
    assert_eq!(gateway.statistics().listeners[0].failures.iter().sum::<u64>(), 0);
}

/// Looks at what the client says first, and at nothing after that.
struct FirstLook;

impl ChainFactory for FirstLook {
    fn stage(&self, _thread: usize, _upstreams: Arc<dyn Upstreams>) -> Result<Stage, String> {
        Ok(Box::new(|_| Ok(Chain::native(Rc::new(FirstLook)))))
    }
}

impl Middleware for FirstLook {
    fn interests(&self) -> Interests {
        Interests { opened: false, data: true, ..Interests::default() }
    }

    fn open(&self, _origin: &Origin, _kind: Kind) -> Rc<dyn Passage> {
        Rc::new(Look(Cell::new(false)))
    }
}

struct Look(Cell<bool>);

impl Passage for Look {
    fn data(
        self: Rc<Self>,
        from_upstream: bool,
        piece: Bytes,
        _last: bool,
    ) -> Reply<'static, BodyStep> {
        assert!(!from_upstream && !self.0.replace(true), "it wants no more");
        Reply::Now(BodyStep::Pass(Pieces::from_iter([piece.to_ascii_uppercase().into()])))
    }

    fn done(&self, from: Direction) -> bool {
        from == Direction::Response || self.0.get()
    }
}

#[test]
fn what_no_function_wants_to_see_any_more_is_spliced() {
    let server = Server::start(|mut stream, _| {
        stream.write_all(b"Welcome ").unwrap();
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        tcp(config);
        config.chain = Some(Arc::new(FirstLook));
    });
    let mut stream = connect(address);
    let mut got = [0; 8];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"Welcome ");
    assert_eq!(gateway.statistics().listeners[0].spliced, 0);
    stream.write_all(b"first ").unwrap();
    let mut got = [0; 6];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"FIRST ");
    until("it is spliced", || gateway.statistics().listeners[0].spliced == 1);
    say_all(&mut stream, b"second");
    assert_eq!(read_all(&mut stream), "second");
    until("it has ended", || gateway.statistics().listeners[0].open == 0);
    let statistics = &gateway.statistics().listeners[0];
    assert_eq!((statistics.received, statistics.sent), (12, 20));
    assert_eq!(statistics.failures.iter().sum::<u64>(), 0);
}

#[test]
fn the_proxy_protocol_is_told_on_in_both_versions() {
    let server = patient();
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        let (_second, inner) = gateway_with(&[server.address], |config| {
            tcp(config);
            config.proxy_protocol = true;
            config.upstream_proxy_protocol = Some(ProxyHeader::V1);
        });
        let (_first, outer) = gateway_with(&[inner], |config| {
            tcp(config);
            config.proxy_protocol = true;
            config.upstream_proxy_protocol = Some(version);
        });
        let mut stream = connect(outer);
        say_all(&mut stream, b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\nhello");
        let answer = read_all(&mut stream);
        assert!(
            answer.ends_with("PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\nhello"),
            "{answer}"
        );
    }
}

#[test]
fn a_connection_without_the_header_is_closed() {
    let server = patient();
    let (gateway, address) = gateway_with(&[server.address], |config| {
        tcp(config);
        config.proxy_protocol = true;
    });
    for bytes in
        ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PROXY TCP4 x y z\r\n", "PROXY TCP4 1.2.3.4 "]
    {
        let mut stream = connect(address);
        say_all(&mut stream, bytes.as_bytes());
        let answer = read_all(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("RESET"), "{answer}");
    }
    until("they are counted", || {
        gateway.statistics().listeners[0].failed(Failure::ProxyHeader) == 3
    });
    assert_eq!(server.connections(), 0);
}

#[test]
fn http_learns_the_client_from_the_proxy_in_front_and_from_nobody_else() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let server = Server::echo();
    let with_header = format!("PROXY TCP4 192.0.2.7 192.0.2.9 4000 80\r\n{GET}");
    let prefix = |address: [u8; 4], length| Prefix { address: address.into(), length };
    let (here, elsewhere) = (prefix([127, 0, 0, 0], 8), prefix([192, 0, 2, 0], 24));
    for from in [None, Some(vec![elsewhere, here])] {
        let (_gateway, address) = gateway_with(&[server.address], |config| {
            config.proxy_protocol = true;
            config.proxy_protocol_from = from;
        });
        let answer = support::talk(address, &with_header);
        assert!(answer.contains("x-forwarded-for: 192.0.2.7\r\n"), "{answer}");
    }
    let (_gateway, address) = gateway_with(&[server.address], |config| {
        config.proxy_protocol = true;
        config.proxy_protocol_from = Some(vec![elsewhere]);
    });
    let answer = support::talk(address, GET);
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\r\n"), "{answer}");
    let answer = support::talk(address, &with_header);
    assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("192.0.2.7"), "{answer}");
}
