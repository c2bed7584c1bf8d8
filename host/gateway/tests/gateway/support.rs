//! What the tests of the gateway share: a gateway with one listener, servers that do what a test
//! says, raw clients.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use weir_gateway::{Gateway, GatewayConfig, ListenerConfig, Protocol, UpstreamConfig};

/// Nothing in a test takes so long.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A gateway whose listener `test` was changed so.
pub(crate) fn gateway_with(
    upstreams: &[SocketAddr],
    change: impl FnOnce(&mut ListenerConfig),
) -> (Gateway, SocketAddr) {
    let gateway = Gateway::start(GatewayConfig::default()).unwrap();
    gateway.set(listener(upstreams, change)).unwrap();
    let address = gateway.addresses("test")[0];
    (gateway, address)
}

/// A listener `test`, changed so.
pub(crate) fn listener(
    upstreams: &[SocketAddr],
    change: impl FnOnce(&mut ListenerConfig),
) -> ListenerConfig {
    let upstreams = upstreams.iter().map(|address| UpstreamConfig::new(*address)).collect();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut config = ListenerConfig::new("test", any, Protocol::Http, upstreams);
    change(&mut config);
    config
}

/// A gateway with a listener that only forwards.
pub(crate) fn gateway(upstreams: &[SocketAddr]) -> (Gateway, SocketAddr) {
    gateway_with(upstreams, |_| ())
}

/// A server that does the same with every connection.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(crate) fn start(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (connections, serve) = (Arc::new(AtomicUsize::new(0)), Arc::new(serve));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = socket.accept() {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(LONG)).unwrap();
                stream.set_nodelay(true).unwrap();
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream, number));
            }
        });
        Self { address, connections }
    }

    /// Answers every request with its head, and its body behind it.
    pub(crate) fn echo() -> Self {
        Self::start(|mut stream, _| {
            while let Some(request) = read_request(&mut stream) {
                let length = request.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                if stream.write_all(head.as_bytes()).is_err() || stream.write_all(&request).is_err()
                {
                    return;
                }
            }
        })
    }

    /// Answers every request with this.
    pub(crate) fn says(answer: &'static str) -> Self {
        Self::start(move |mut stream, _| {
            while read_request(&mut stream).is_some() {
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads a request with its body, which stays as it was sent. `None` at the end.
pub(crate) fn read_request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut all = read_head(stream)?;
    let head = String::from_utf8_lossy(&all).to_ascii_lowercase();
    if let Some(length) = head.split("content-length: ").nth(1) {
        let length: usize = length.split("\r\n").next()?.parse().ok()?;
        let before = all.len();
        all.resize(before + length, 0);
        stream.read_exact(&mut all[before..]).ok()?;
    } else if head.contains("transfer-encoding: chunked") {
        let before = all.len();
        while !(all[before..].ends_with(b"0\r\n\r\n")) {
            all.push(read_byte(stream)?);
        }
    }
    Some(all)
}

/// Reads up to the empty line.
pub(crate) fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(read_byte(stream)?);
    }
    Some(head)
}

fn read_byte(stream: &mut TcpStream) -> Option<u8> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    Some(byte[0])
}

/// A raw connection.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Sends these bytes and reads up to the end. An end that is a reset is told by `RESET`.
pub(crate) fn talk(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(address);
    // As in `say_all`.
    let _ = stream.write_all(bytes.as_ref());
    read_all(&mut stream)
}

/// Reads up to the end.
pub(crate) fn read_all(stream: &mut TcpStream) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => all.extend_from_slice(&buffer[..bytes]),
            Err(error) => {
                all.extend_from_slice(format!("RESET {error}").as_bytes());
                break;
            }
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// The head and the body of a response that says its length.
pub(crate) fn read_response(stream: &mut TcpStream) -> String {
    let mut all = read_head(stream).unwrap();
    let head = String::from_utf8_lossy(&all).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let before = all.len();
    all.resize(before + length.parse::<usize>().unwrap(), 0);
    stream.read_exact(&mut all[before..]).unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// Asks for this with a body that is sent when the response is there, and once more by the same
/// connection. Answers with both responses.
pub(crate) fn answered_early(address: SocketAddr, target: &str) -> [String; 2] {
    let mut stream = connect(address);
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\nsome");
    stream.write_all(head.as_bytes()).unwrap();
    let first = read_response(&mut stream);
    // An error is told by what is answered.
    let _ = stream.write_all(&[b'x'; 299_996]);
    let next = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(next.as_bytes());
    [first, read_all(&mut stream)]
}

/// A server that answers every request before it has read its body, which it does not do then
/// either, for as long as it is asked.
pub(crate) fn early_server() -> Server {
    Server::start(|mut stream, _| {
        let _ = read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
        // Until the other side goes.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    })
}

/// Sends all and closes this side.
pub(crate) fn say_all(stream: &mut TcpStream, bytes: &[u8]) {
    // The other side may have closed or reset it already; what it answered tells.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Runs curl, which gives up in time.
pub(crate) fn curl(arguments: &[&str]) -> Output {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
    curl.output().unwrap()
}

/// What curl got, which must have worked.
pub(crate) fn curl_text(arguments: &[&str]) -> String {
    let output = curl(arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until this is so.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LONG, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}
