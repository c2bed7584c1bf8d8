//! HTTP/2 towards clients and upstreams: multiplexing, trailers, floods, the change between
//! versions.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::support::{self, Server, connect, curl_text, gateway, gateway_with, until};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, Response};
use weir_gateway::Failure;

#[test]
fn both_versions_are_spoken_on_one_address() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/a?b");
    let answer = curl_text(&["--http2-prior-knowledge", "-i", "-d", "body", &url]);
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    // Towards the upstream it is HTTP/1.1, with the authority as a field.
    assert!(answer.contains("POST /a?b HTTP/1.1\r\n"), "{answer}");
    assert!(answer.contains(&format!("host: {address}\r\n")), "{answer}");
    assert!(answer.contains("via: 2 weir\r\n") && answer.ends_with("body"), "{answer}");
    assert!(curl_text(&["--http1.1", "-i", &url]).starts_with("HTTP/1.1 200"));
}

#[test]
fn many_streams_share_a_connection() {
    let server = Server::says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let (gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let h2load = Command::new("h2load").args(["-n2000", "-c4", "-m20", &url]).output().unwrap();
    let report = String::from_utf8_lossy(&h2load.stdout).into_owned();
    assert!(report.contains("2000 succeeded, 0 failed, 0 errored"), "{report}");
    let statistics = &gateway.statistics().listeners[0];
    assert_eq!((statistics.accepted, statistics.requests), (4, 2000));
    assert!(server.connections() <= 80);
}

#[test]
fn fields_of_one_hop_do_not_cross_to_http2() {
    let server = Server::says(
        "HTTP/1.1 200 OK\r\nConnection: x-mine\r\nX-Mine: 1\r\nKeep-Alive: a\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    );
    let (_gateway, address) = gateway(&[server.address]);
    let answer = curl_text(&["--http2-prior-knowledge", "-i", &format!("http://{address}/")]);
    assert!(answer.starts_with("HTTP/2 200") && answer.ends_with("\r\n\r\nhi"), "{answer}");
    for gone in ["x-mine", "keep-alive", "transfer-encoding", "connection"] {
        assert!(!answer.contains(gone), "{answer}");
    }
}

#[test]
fn a_response_that_breaks_off_is_a_stream_that_is_reset_behind_what_came() {
    let server = Server::start(|mut stream, number| {
        let _ = support::read_request(&mut stream);
        let _ =
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        // At once, or when that has been sent.
        std::thread::sleep(Duration::from_millis(50) * (number as u32 % 2));
    });
    // Nothing else wakes the connection.
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.body = 10 * support::LONG;
    });
    for times in 1..=5 {
        let mut stream = support::connect(address);
        let request = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 5, 1, HEADERS)].concat();
        stream.write_all(&request).unwrap();
        let frames = std::iter::from_fn(|| read_frame(&mut stream)).filter(|frame| frame.2 == 1);
        let kinds: Vec<_> = frames.take(3).map(|(kind, _, _, payload)| (kind, payload)).collect();
        // HEADERS, DATA, RST_STREAM.
        assert_eq!(kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 0, 3]);
        assert_eq!(kinds[1].1, b"hi");
        assert_eq!(gateway.statistics().listeners[0].failed(weir_gateway::Failure::Broken), times);
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// An HTTP/2 server that does this with every request.
pub(crate) fn http2_server<F: Future<Output = ()> + Send + 'static>(
    serve: fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F,
) -> std::net::SocketAddr {
    http2_server_allowing(100, serve)
}

/// One that allows a client so many streams at a time.
pub(crate) fn http2_server_allowing<F: Future<Output = ()> + Send + 'static>(
    streams: u32,
    serve: fn(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>) -> F,
) -> std::net::SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    let handshake = builder.max_concurrent_streams(streams).handshake(stream);
                    let mut connection = handshake.await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond));
                    }
                });
            }
        });
    });
    address
}

/// A server that answers each request with its body, its target, and trailers: as gRPC does.
fn grpc_server() -> std::net::SocketAddr {
    http2_server(grpc)
}

pub(crate) async fn grpc(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let te = request.headers().get("te").is_some_and(|te| te == "trailers");
    let target = request.uri().to_string();
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-target", target)
        .header("x-te", te.to_string());
    // The head leaves before any message comes: streams in both directions rely on it.
    let mut send = respond.send_response(response.body(()).unwrap(), false).unwrap();
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        send.send_data(data, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    if let Ok(Some(of_request)) = body.trailers().await {
        trailers.extend(of_request);
    }
    send.send_trailers(trailers).unwrap();
}

#[test]
fn grpc_passes_with_its_trailers_and_messages_one_by_one() {
    let upstream = grpc_server();
    let (_gateway, address) = gateway_with(&[upstream], |config| config.upstreams[0].http2 = true);
    runtime().block_on(async move {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let request = Request::post("http://service.example/package.Service/Method")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        let target = response.headers()["x-target"].to_str().unwrap().to_owned();
        assert_eq!(target, "http://service.example/package.Service/Method");
        assert_eq!(response.headers()["x-te"], "true");
        let mut body = response.into_body();
        for message in ["one", "two", "three"] {
            send.send_data(Bytes::from(message), false).unwrap();
            let data = body.data().await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            assert_eq!(data, message);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", "yes".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["x-end"]),
            (&"0".parse().unwrap(), &"yes".parse().unwrap())
        );
    });
}

#[test]
fn trailers_of_both_directions_pass_between_nghttp_and_an_upstream() {
    let (gateway, address) =
        gateway_with(&[grpc_server()], |config| config.upstreams[0].http2 = true);
    let message = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(message.path(), b"message").unwrap();
    let url = format!("http://{address}/package.Service/Method");
    let data = message.path().to_str().unwrap();
    let arguments = ["-v", "-H", "te: trailers", "-H", "content-type: application/grpc"];
    let mut nghttp = Command::new("nghttp");
    nghttp.args(arguments).args(["-d", data, "--trailer", "x-end: yes", "-t", "20", &url]);
    let output = String::from_utf8(nghttp.output().unwrap().stdout).unwrap();
    // Of what is received, each field is in a line with its stream.
    let received =
        |field: &str| output.lines().any(|l| l.contains("recv (stream_id=") && l.ends_with(field));
    for field in [":status: 200", "x-te: true", "grpc-status: 0", "x-end: yes"] {
        assert!(received(field), "{field}: {output}");
    }
    assert!(output.contains("message"), "{output}");
    assert_eq!(gateway.statistics().listeners[0].failures.iter().sum::<u64>(), 0);
}

#[test]
fn a_connection_to_an_upstream_is_shared_and_made_again() {
    let upstream = grpc_server();
    let (gateway, address) = gateway_with(&[upstream], |config| config.upstreams[0].http2 = true);
    let url = format!("http://{address}/");
    let h2load = Command::new("h2load").args(["-n500", "-c5", "-m10", &url]).output().unwrap();
    let report = String::from_utf8_lossy(&h2load.stdout).into_owned();
    assert!(report.contains("500 succeeded"), "{report}");
    assert_eq!(gateway.statistics().listeners[0].upstreams[0].connected, 1);
    // HTTP/1.1 clients use it, too.
    let answer = curl_text(&["--http1.1", "-i", "-d", "hello", &url]);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
    assert!(answer.contains(&format!("x-target: http://{address}/\r\n")), "{answer}");
}

/// When an upstream says that its connection takes no more requests.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Goaway {
    /// Before the next request comes.
    Before,
    /// It crosses the next request.
    Crossing,
    /// When the next request found no stream left on it.
    Full,
}

#[test]
fn an_upstream_that_says_goaway_while_it_answers_costs_no_request() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    const POST: &str =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi";
    for when in [Goaway::Before, Goaway::Crossing, Goaway::Full] {
        let (server, requests) = scripted_server(if when == Goaway::Full { 1 } else { 100 });
        let (gateway, address) = gateway_with(&[server.address], |config| {
            config.upstreams[0].http2 = true;
            // What was not begun to be sent needs no second attempt.
            config.retry.attempts = u32::from(when == Goaway::Crossing);
        });
        let upstream = || gateway.statistics().listeners.remove(0).upstreams.remove(0);
        let next = || requests.recv_timeout(support::LONG).unwrap();
        let mut one = connect(address);
        one.write_all(GET.as_bytes()).unwrap();
        let (mut connection, 1) = next() else { panic!("the first stream is 1") };
        if when == Goaway::Before {
            connection.write_all(&goaway()).unwrap();
        }
        connection.write_all(&frame(1, 4, 1, STATUS_200)).unwrap();
        // The gateway has read all that was sent so far.
        assert!(support::read_head(&mut one).unwrap().starts_with(b"HTTP/1.1 200"));
        let request = if when == Goaway::Full { GET } else { POST };
        let other = std::thread::spawn(move || support::talk(address, request));
        match when {
            Goaway::Before => (),
            Goaway::Crossing => assert_eq!(next().1, 3),
            // It does not wait for one.
            Goaway::Full => until("it is answered", || upstream().responses[1] == 2),
        }
        if when != Goaway::Before {
            connection.write_all(&goaway()).unwrap();
        }
        let other = other.join().unwrap();
        assert!(other.starts_with("HTTP/1.1 200"), "{when:?}: {other}");
        assert_eq!(other.contains("\r\nhi\r\n"), when != Goaway::Full, "{when:?}: {other}");
        assert_eq!(upstream().open, 2, "{when:?}");
        // What was under way ends where it began.
        connection.write_all(&frame(0, 1, 1, b"whole")).unwrap();
        assert!(support::read_all(&mut one).ends_with("whole\r\n0\r\n\r\n"), "{when:?}");
        assert_eq!((server.connections(), upstream().connected), (2, 2), "{when:?}");
        assert!(upstream().healthy);
        until("the first connection is closed", || upstream().open == 1);
    }
}

#[test]
fn a_request_that_an_upstream_refuses_is_sent_again_with_its_body_as_often_as_it_may() {
    let post = |stream: &mut TcpStream| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nso";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(b"me").unwrap();
    };
    let (server, requests) = scripted_server(100);
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.upstreams[0].http2 = true;
        config.retry.attempts = 1;
        config.retry.reset = false;
    });
    let refuse = |stream| {
        let (mut connection, id) = requests.recv_timeout(support::LONG).unwrap();
        assert_eq!(id, stream);
        // REFUSED_STREAM.
        connection.write_all(&frame(3, 0, stream, &[0, 0, 0, 7])).unwrap();
    };
    let mut client = connect(address);
    post(&mut client);
    refuse(1);
    let (mut connection, 3) = requests.recv_timeout(support::LONG).unwrap() else {
        panic!("it goes by the same connection")
    };
    connection.write_all(&frame(1, 5, 3, STATUS_200)).unwrap();
    assert!(support::read_all(&mut client).starts_with("HTTP/1.1 200"));
    let mut client = connect(address);
    post(&mut client);
    refuse(5);
    refuse(7);
    assert!(support::read_all(&mut client).starts_with("HTTP/1.1 502"));
    let statistics = gateway.statistics().listeners.remove(0);
    assert_eq!((statistics.retries, statistics.upstreams[0].healthy), (2, true));
}

/// Answers at once, and takes the request's body all the same, or, for `/hold`, does not.
async fn hasty(request: Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let holds = request.uri().path() == "/hold";
    let response = Response::builder().header("x-taken", TAKEN.load(Ordering::SeqCst));
    respond.send_response(response.body(()).unwrap(), true).unwrap();
    let mut body = request.into_body();
    if holds {
        std::future::pending::<()>().await;
    }
    while let Some(Ok(data)) = body.data().await {
        TAKEN.fetch_add(data.len(), Ordering::SeqCst);
        let _ = body.flow_control().release_capacity(data.len());
    }
}

static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[test]
fn what_an_upstream_takes_after_its_answer_is_no_head_that_is_slow() {
    let (gateway, address) = gateway_with(&[http2_server(hasty)], |config| {
        config.upstreams[0].http2 = true;
        config.timeouts.header = Duration::from_millis(300);
        config.timeouts.connect = Duration::from_secs(1);
        config.timeouts.response = Duration::from_secs(2);
        config.timeouts.body = Duration::from_secs(2);
    });
    let mut stream = connect(address);
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab").unwrap();
    let head = support::read_head(&mut stream).unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"));
    for piece in [b"cd", b"ef"] {
        std::thread::sleep(Duration::from_millis(700));
        stream.write_all(piece).unwrap();
    }
    until("the upstream has it all", || TAKEN.load(Ordering::SeqCst) == 6);
    // Nor does a head begin when it has ended.
    std::thread::sleep(Duration::from_millis(700));
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let second = support::read_all(&mut stream);
    assert!(second.starts_with("HTTP/1.1 200") && second.contains("x-taken: 6"), "{second}");
    // One that is not taken has its time, and the client its answer.
    let mut stream = connect(address);
    let head = "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n";
    stream.write_all(&[head.as_bytes(), &[b'x'; 299_999]].concat()).unwrap();
    let answer = support::read_all(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("408"), "{answer}");
    let statistics = gateway.statistics().listeners.remove(0);
    assert_eq!(statistics.failed(Failure::UpstreamSlow), 1);
    assert_eq!(statistics.failed(Failure::ClientSlow), 0);
}

#[test]
fn no_request_goes_by_a_connection_before_the_upstream_has_said_how_many_may() {
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let (say, said) = mpsc::channel();
    let (server, requests) = reticent_server(1, said);
    let (gateway, address) =
        gateway_with(&[server.address], |config| config.upstreams[0].http2 = true);
    let both = [(); 2].map(|()| std::thread::spawn(move || support::talk(address, GET)));
    until("both are there", || gateway.statistics().listeners[0].active == 2);
    say.send(()).unwrap();
    let (mut connection, 1) = requests.recv_timeout(support::LONG).unwrap() else {
        panic!("the first stream is 1")
    };
    let answered = || gateway.statistics().listeners[0].upstreams[0].responses[1];
    until("the other one is answered by another connection", || answered() == 1);
    connection.write_all(&frame(1, 5, 1, STATUS_200)).unwrap();
    for one in both {
        assert!(one.join().unwrap().starts_with("HTTP/1.1 200"));
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_connection_to_an_upstream_that_does_not_answer_or_is_idle_is_not_kept() {
    let (server, requests) = scripted_server(100);
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.upstreams[0].http2 = true;
        config.timeouts.response = Duration::from_secs(1);
        config.timeouts.upstream_idle = Duration::from_millis(300);
    });
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // The first connection is as good as lost: nothing comes by it any more.
    assert!(support::talk(address, get).starts_with("HTTP/1.1 504"));
    let _lost = requests.recv_timeout(support::LONG).unwrap();
    assert!(support::talk(address, get).starts_with("HTTP/1.1 200"));
    let upstream = || gateway.statistics().listeners.remove(0).upstreams.remove(0);
    until("both are closed", || upstream().open == 0);
    assert!(requests.try_recv().is_err(), "it is asked, which costs a gRPC server's patience");
    assert!(support::talk(address, get).starts_with("HTTP/1.1 200"));
    assert_eq!(upstream().connected, 3);
}

/// Answers when it has all of the request's body.
pub(crate) async fn patient(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        let Ok(data) = data else { return };
        let _ = body.flow_control().release_capacity(data.len());
    }
    let _ = respond.send_response(Response::new(()), true);
}

#[test]
fn a_body_that_ends_early_is_the_clients_fault_whatever_the_upstream_speaks() {
    let upstream = http2_server(patient);
    let (gateway, address) = gateway_with(&[upstream], |config| {
        config.upstreams[0].http2 = true;
        config.limits.body = Some(10);
        config.timeouts.body = Duration::from_millis(300);
    });
    let post =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = support::talk(address, format!("{post}6\r\nabcdef\r\n6\r\nabcdef\r\n0\r\n\r\n"));
    assert!(long.starts_with("HTTP/1.1 413 "), "{long}");
    let slow = support::talk(address, format!("{post}6\r\nabcdef\r\n"));
    assert!(slow.starts_with("HTTP/1.1 408 "), "{slow}");
    let fits = support::talk(address, format!("{post}6\r\nabcdef\r\n0\r\n\r\n"));
    assert!(fits.starts_with("HTTP/1.1 200 "), "{fits}");
    let statistics = gateway.statistics();
    assert_eq!(statistics.listeners[0].upstreams[0].failed(weir_gateway::Failure::Reset), 0);
}

#[test]
fn a_client_that_names_no_host_is_served_by_an_http2_upstream_too() {
    let upstream = http2_server(grpc);
    let (_gateway, address) = gateway_with(&[upstream], |config| config.upstreams[0].http2 = true);
    let answer = support::talk(address, "GET /a HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains(&format!("x-target: http://{upstream}/a\r\n")), "{answer}");
}

#[test]
fn cookies_in_several_fields_are_one_for_the_upstream() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let cookies = ["-H", "cookie: a=1", "-H", "cookie: b=2; c=3", "-H", "cookie: d=4"];
    let all = [&["--http2-prior-knowledge"], &cookies[..], &[&url]].concat();
    let answer = curl_text(&all);
    assert!(answer.contains("cookie: a=1; b=2; c=3; d=4\r\n"), "{answer}");
    assert_eq!(answer.matches("cookie: ").count(), 1, "{answer}");
}

#[test]
fn a_response_without_a_body_ends_with_its_head() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_gateway, address) = gateway(&[nobody]);
    let url = format!("http://{address}/");
    let got = curl_text(&["--http2-prior-knowledge", "-i", &url]);
    assert!(got.starts_with("HTTP/2 502") && got.ends_with("\r\n\r\nBad Gateway\n"), "{got}");
    let answer = curl_text(&["--http2-prior-knowledge", "-I", &url]);
    assert!(answer.starts_with("HTTP/2 502"), "{answer}");
    assert!(answer.contains("content-length: 12\r\n"), "{answer}");
}

#[test]
fn heads_have_no_more_fields_than_the_limit() {
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |config| config.limits.fields = 20);
    let url = format!("http://{address}/");
    let fields: Vec<String> = (0..30).map(|n| format!("x-{n}: {n}")).collect();
    let curl = |number: usize| {
        let fields = fields[..number].iter().flat_map(|field| ["-H", field.as_str()]);
        let all: Vec<&str> =
            ["--http2-prior-knowledge", "-i"].into_iter().chain(fields).chain([&*url]).collect();
        curl_text(&all)
    };
    assert!(curl(10).starts_with("HTTP/2 200"));
    assert!(curl(30).starts_with("HTTP/2 431"));
    assert_eq!(gateway.statistics().listeners[0].failed(weir_gateway::Failure::Refused), 1);
    assert_eq!(server.connections(), 1);
}

/// A client's side of HTTP/2, driven until the gateway ends the connection.
pub(crate) async fn client(
    address: std::net::SocketAddr,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    (client.ready().await.unwrap(), tokio::spawn(connection))
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a{path}")).body(()).unwrap()
}

#[test]
fn a_stream_that_was_answered_early_may_send_the_rest_of_its_body() {
    let server = support::early_server();
    let early = async |client: &mut h2::client::SendRequest<Bytes>, length: Option<u64>| {
        let mut request = Request::post("http://a/").body(()).unwrap();
        request.headers_mut().extend(length.map(|length| (CONTENT_LENGTH, length.into())));
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"some"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "early");
        assert!(body.data().await.is_none());
        send
    };
    runtime().block_on(async {
        let (_gateway, address) = gateway(&[server.address]);
        let (mut client, _connection) = client(address).await;
        let mut send = early(&mut client, Some(12)).await;
        // When there is another response, a reset of the first stream would be here.
        let _other = early(&mut client, Some(12)).await;
        send.send_data(Bytes::from_static(b"the rest"), true).unwrap();
        // This one may wait for a window without reading on.
        let mut send = early(&mut client, None).await;
        let reset = std::future::poll_fn(|cx| send.poll_reset(cx));
        let reset = tokio::time::timeout(support::LONG, reset).await;
        assert_eq!(reset.unwrap().unwrap(), h2::Reason::NO_ERROR);
    });
    // Who sends nothing is told in time that nothing is wanted, and that nothing is wrong with the
    // response.
    runtime().block_on(async {
        let (gateway, address) = gateway_with(&[server.address], |config| {
            config.timeouts.body = Duration::from_millis(100);
        });
        let (mut client, _connection) = client(address).await;
        let mut send = early(&mut client, Some(12)).await;
        let reset = std::future::poll_fn(|cx| send.poll_reset(cx));
        let reset = tokio::time::timeout(support::LONG, reset).await;
        assert_eq!(reset.unwrap().unwrap(), h2::Reason::NO_ERROR);
        let slow = || gateway.statistics().listeners[0].failed(weir_gateway::Failure::ClientSlow);
        until("it is counted", || slow() == 1);
    });
}

#[test]
fn a_connection_ends_after_as_many_requests_as_it_may_have() {
    let server = Server::says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let (_gateway, address) =
        gateway_with(&[server.address], |config| config.limits.requests_per_connection = 2);
    runtime().block_on(async move {
        let (mut client, connection) = client(address).await;
        for _ in 0..2 {
            let (response, _) = client.send_request(get("/"), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        }
        // It waits for nobody to let it go.
        let ended = tokio::time::timeout(support::LONG, connection).await;
        ended.unwrap().unwrap().unwrap();
        drop(client);
    });
}

#[test]
fn who_takes_nothing_of_a_response_holds_up_no_other_and_is_given_up() {
    let upstream = grpc_server();
    let (gateway, address) = gateway_with(&[upstream], |config| {
        config.upstreams[0].http2 = true;
        config.timeouts.body = Duration::from_secs(2);
    });
    runtime().block_on(async move {
        let (client, _connection) = client(address).await;
        let mut stalled = Vec::new();
        for _ in 0..4 {
            let request = Request::post("http://a/").body(()).unwrap();
            let (response, mut send) = client.clone().send_request(request, false).unwrap();
            // More than all windows on the way hold; the client has one of 64 KiB and takes
            // nothing.
            tokio::spawn(async move {
                for _ in 0..200 {
                    let piece = 32_768;
                    send.reserve_capacity(piece);
                    while send.capacity() < piece {
                        if std::future::poll_fn(|cx| send.poll_capacity(cx)).await.is_none() {
                            return;
                        }
                    }
                    if send.send_data(Bytes::from(vec![0; piece]), false).is_err() {
                        return;
                    }
                }
                let _ = send.send_data(Bytes::new(), true);
            });
            stalled.push(response.await.unwrap().into_body());
        }
        // Others go on, at the same upstream, and by the same connection.
        for round in 0.. {
            let url = format!("http://{address}/");
            let other = move || curl_text(&["--http1.1", "-d", &"x".repeat(100_000), &url]);
            assert_eq!(tokio::task::spawn_blocking(other).await.unwrap().len(), 100_000);
            let (response, _) = client.clone().send_request(get("/"), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
            let statistics = gateway.statistics();
            if statistics.listeners[0].failed(weir_gateway::Failure::ClientSlow) == 4 {
                break;
            }
            assert!(round < 100, "it is never given up");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let statistics = gateway.statistics();
        assert_eq!(statistics.listeners[0].upstreams[0].active, 0);
        assert_eq!(statistics.listeners[0].failed(weir_gateway::Failure::ClientGone), 0);
        // What it did not take is not the end of a response, which it hears though it still takes
        // nothing.
        for mut body in stalled {
            let ended = async {
                loop {
                    match body.data().await {
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error.reason(),
                        None => break None,
                    }
                }
            };
            let ended = tokio::time::timeout(support::LONG, ended).await.unwrap();
            assert_eq!(ended, Some(h2::Reason::CANCEL));
        }
    });
}

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut all = vec![length[1], length[2], length[3], kind, flags];
    all.extend_from_slice(&stream.to_be_bytes());
    all.extend_from_slice(payload);
    all
}

/// The next frame: its type, flags, stream and payload. `None` at the end.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [_, _, _, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).ok()?;
    Some((kind, flags, u32::from_be_bytes(id), payload))
}

/// An HTTP/2 server whose first connection is the test's: it comes by the channel with the number
/// of each stream whose request is whole, and with 0 when it is asked whether it is there. All
/// others answer 200, with the request's body. It allows so many streams at a time.
fn scripted_server(streams: u8) -> (Server, mpsc::Receiver<(TcpStream, u32)>) {
    let (say, said) = mpsc::channel();
    say.send(()).unwrap();
    reticent_server(streams, said)
}

/// One that says of its first connection how many streams it allows when it is told to.
fn reticent_server(
    streams: u8,
    say: mpsc::Receiver<()>,
) -> (Server, mpsc::Receiver<(TcpStream, u32)>) {
    let say = Mutex::new(say);
    let (tell, requests) = mpsc::channel();
    let tell = Mutex::new(tell);
    let server = Server::start(move |mut stream, number| {
        let tell = tell.lock().unwrap().clone();
        stream.read_exact(&mut [0; 24]).unwrap();
        if number == 0 {
            say.lock().unwrap().recv().unwrap();
        }
        // SETTINGS_MAX_CONCURRENT_STREAMS.
        stream.write_all(&frame(4, 0, 0, &[0, 3, 0, 0, 0, streams])).unwrap();
        let mut body = Vec::new();
        while let Some((kind, flags, id, payload)) = read_frame(&mut stream) {
            let ends = flags & 1 != 0;
            if kind == 0 {
                body.extend(payload);
            }
            match kind {
                4 if !ends => stream.write_all(&frame(4, 1, 0, &[])).unwrap(),
                0 | 1 if ends && number == 0 => {
                    let _ = tell.send((stream.try_clone().unwrap(), id));
                }
                0 | 1 if ends => {
                    let body = std::mem::take(&mut body);
                    let answer = [frame(1, 4, id, STATUS_200), frame(0, 1, id, &body)].concat();
                    stream.write_all(&answer).unwrap();
                }
                // PING.
                6 if !ends => drop(tell.send((stream.try_clone().unwrap(), 0))),
                _ => (),
            }
        }
    });
    (server, requests)
}

/// No error, and stream 1 was the last one.
fn goaway() -> Vec<u8> {
    frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])
}

/// `:method GET`, `:scheme http`, `:path /`, `:authority a`.
pub(crate) const HEADERS: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

/// `:status 200`.
const STATUS_200: &[u8] = &[0x88];

#[test]
fn a_flood_of_streams_that_are_reset_at_once_ends_the_connection() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_request(&mut stream);
        std::thread::sleep(support::LONG);
    });
    let (gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    let mut flood = PREFACE.to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for i in 0..10_000_u32 {
        flood.extend(frame(1, 5, 2 * i + 1, HEADERS));
        flood.extend(frame(3, 0, 2 * i + 1, &8_u32.to_be_bytes()));
    }
    let _ = stream.write_all(&flood);
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    // GOAWAY, ENHANCE_YOUR_CALM.
    assert!(got.windows(4).any(|w| w == 11_u32.to_be_bytes()), "{got:?}");
    until("it has ended", || gateway.statistics().listeners[0].open == 0);
    until("its streams have ended", || gateway.statistics().listeners[0].active == 0);
    let statistics = &gateway.statistics().listeners[0];
    assert!(statistics.requests < 1000, "{}", statistics.requests);
}

#[test]
fn a_flood_of_requests_that_are_given_up_when_they_have_begun_ends_the_connection() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_request(&mut stream);
        let _ = support::read_request(&mut stream);
    });
    let (gateway, address) = gateway(&[server.address]);
    let requests = || gateway.statistics().listeners[0].requests;
    let mut stream = connect(address);
    let mut begin = PREFACE.to_vec();
    begin.extend(frame(4, 0, 0, &[]));
    stream.write_all(&begin).unwrap();
    until("it is accepted", || gateway.statistics().listeners[0].open == 1);
    let over = || gateway.statistics().listeners[0].open == 0;
    for round in 0..100_u32 {
        let ids = (60 * round..60 * (round + 1)).map(|n| 2 * n + 1);
        let before = requests();
        let begun: Vec<u8> = ids.clone().flat_map(|id| frame(1, 5, id, HEADERS)).collect();
        let _ = stream.write_all(&begun);
        until("all have begun", || over() || requests() == before + 60);
        let given_up: Vec<u8> = ids.flat_map(|id| frame(3, 0, id, &8_u32.to_be_bytes())).collect();
        let _ = stream.write_all(&given_up);
        until("all have ended", || over() || gateway.statistics().listeners[0].active == 0);
        if over() {
            break;
        }
    }
    assert!(over() && requests() < 1000, "{}", requests());
    assert_eq!(gateway.statistics().listeners[0].failed(weir_gateway::Failure::Refused), 1);
}

#[test]
fn heads_without_end_end_the_connection() {
    let server = Server::echo();
    let (gateway, address) = gateway_with(&[server.address], |config| config.limits.head = 16_384);
    let mut stream = connect(address);
    let mut flood = PREFACE.to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    flood.extend(frame(1, 1, 1, HEADERS));
    // CONTINUATION frames, each with a field of 200 bytes, and none of them the last.
    let mut field = vec![0x00, 0x01, b'x', 0x7f, 73];
    field.extend_from_slice(&[b'y'; 200]);
    let field = frame(9, 0, 1, &field);
    for _ in 0..20_000 {
        flood.extend_from_slice(&field);
    }
    let _ = stream.write_all(&flood);
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    until("it has ended", || gateway.statistics().listeners[0].open == 0);
    assert_eq!(server.connections(), 0);
    assert!(gateway.statistics().listeners[0].received < 4_000_000);
}

#[test]
fn a_client_that_never_opens_its_window_is_cut_off() {
    let server = Server::start(|mut stream, _| {
        let _ = support::read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        let _ = stream.write_all(&[0; 1_000_000]);
        std::thread::sleep(support::LONG);
    });
    let (gateway, address) = gateway_with(&[server.address], |config| {
        config.timeouts.connect = Duration::from_millis(300);
        config.timeouts.response = Duration::from_millis(300);
        config.timeouts.body = Duration::from_millis(100);
        // Without a stream it is idle.
        config.timeouts.idle = Duration::from_millis(300);
    });
    let mut stream = connect(address);
    let mut begin = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    begin.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    begin.extend(frame(4, 1, 0, &[]));
    begin.extend(frame(1, 5, 1, HEADERS));
    stream.write_all(&begin).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
    until("it has ended", || gateway.statistics().listeners[0].open == 0);
    let statistics = &gateway.statistics().listeners[0];
    assert_eq!(statistics.requests, 1);
    assert_eq!(statistics.failed(weir_gateway::Failure::ClientSlow), 1);
    assert_eq!(statistics.failed(weir_gateway::Failure::ClientGone), 0);
    until("its upstream's connection is closed", || {
        let statistics = gateway.statistics();
        statistics.listeners[0].active == 0 && statistics.listeners[0].upstreams[0].open == 0
    });
}

#[test]
fn no_more_streams_are_open_than_the_limit() {
    let server = Server::echo();
    let (_gateway, address) = gateway_with(&[server.address], |config| config.limits.streams = 7);
    let mut stream = connect(address);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let mut settings = [0; 64];
    let bytes = stream.read(&mut settings).unwrap();
    // SETTINGS_MAX_CONCURRENT_STREAMS.
    let wanted = [0, 3, 0, 0, 0, 7];
    assert!(settings[..bytes].windows(6).any(|w| w == wanted), "{:?}", &settings[..bytes]);
}

/// What it holds lies in memory.
#[test]
fn a_connection_has_no_larger_window_than_the_gateway_has_memory_for() {
    let server = Server::echo();
    let (_gateway, address) = gateway(&[server.address]);
    let mut stream = connect(address);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let (mut settings, mut window) = (Vec::new(), 65_535);
    while settings.is_empty() || window == 65_535 {
        let (kind, flags, _, payload) = read_frame(&mut stream).unwrap();
        match kind {
            4 if flags == 0 => settings = payload,
            8 => window += u32::from_be_bytes(payload.try_into().unwrap()),
            _ => {}
        }
    }
    // SETTINGS_INITIAL_WINDOW_SIZE, and what all 128 streams may send.
    let of_stream = [0, 4, 0, 4, 0, 0];
    assert!(settings.windows(6).any(|w| w == of_stream), "{settings:?}");
    assert_eq!(window, 16 << 20);
}

#[test]
fn draining_says_goaway_and_lets_streams_end() {
    let server = Server::start(|mut stream, _| {
        while support::read_request(&mut stream).is_some() {
            std::thread::sleep(Duration::from_millis(300));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (gateway, address) = gateway(&[server.address]);
    let url = format!("http://{address}/");
    let curl = std::thread::spawn(move || curl_text(&["--http2-prior-knowledge", &url]));
    until("it is under way", || gateway.statistics().listeners[0].active == 1);
    gateway.drain(support::LONG);
    assert_eq!(curl.join().unwrap(), "ok");
}
