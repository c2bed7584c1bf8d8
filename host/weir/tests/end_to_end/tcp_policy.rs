//! The function `tcp-policy` as it is built in Rust (`functions/tcp-policy`) and in C
//! (`guest-sdk/c/examples/tcp-policy`): the same tests for both, with curl and raw sockets before
//! it and servers behind it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use weir_tests::built::{built_file, example_of};

use crate::host::Host;
use crate::messages::{Server, address};

/// Says what came first when all has come, and closes.
const FIRST: &str = r#"
import socketserver, sys
class First(socketserver.BaseRequestHandler):
    def handle(self):
        first = b""
        while more := self.request.recv(65536):
            first = (first + more)[:20]
        self.request.sendall(b"port %d got %r" % (self.server.server_address[1], first))
class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
server = Server(("127.0.0.1", 0), First)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

fn in_rust() -> PathBuf {
    built_file("tcp-policy")
}

fn in_c() -> PathBuf {
    example_of("c", "tcp-policy")
}

/// A host with a `tcp` listener before these servers, and one with TLS; both show everything to the
/// function.
fn host(wasm: &Path, config: &str, servers: &[&Server]) -> Host {
    let upstreams: Vec<String> =
        servers.iter().map(|server| format!("\"127.0.0.1:{}\"", server.port)).collect();
    let upstreams = upstreams.join(", ");
    let directory = tempfile::tempdir().expect("a directory");
    let names = vec!["a.example".to_owned(), "b.example".to_owned(), "c.example".to_owned()];
    let signed = rcgen::generate_simple_self_signed(names).expect("a certificate");
    std::fs::write(directory.path().join("cert.pem"), signed.cert.pem()).expect("a file");
    let key = signed.signing_key.serialize_pem();
    std::fs::write(directory.path().join("key.pem"), key).expect("a file");
    let host = Host::start_in(
        directory,
        &format!(
            "[api]\nsocket = \"api.sock\"\n[store]\npath = \"store\"\n\
             [[listener]]\nname = \"raw\"\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nchain = \"c\"\nupstream = [{upstreams}]\n\
             [[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\nprotocol = \"tcp\"\nchain = \"c\"\nupstream = [{upstreams}]\n\
             [[listener.tls]]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"\n"
        ),
    );
    host.ok(&["function", "push", wasm.to_str().expect("text"), "--name", "tcp-policy"]);
    apply(&host, config).expect("it is taken");
    host
}

/// Applies the chain with this configuration; what is said if that fails.
fn apply(host: &Host, config: &str) -> Result<(), String> {
    host.write(
        "c.toml",
        format!("name = \"c\"\nplane = \"message\"\n[[function]]\nuse = \"tcp-policy\"\n[function.config]\n{config}\n"),
    );
    let answer = host.weir(&["chain", "apply", "c.toml"]);
    if answer.status == Some(0) { Ok(()) } else { Err(answer.err) }
}

fn counter(host: &Host, name: &str) -> u64 {
    let status = host.json(&["status"]);
    status["chains"][0]["functions"][0]["counters"][name].as_u64().unwrap_or(0)
}

fn connect(host: &Host, from: Ipv4Addr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    let to: SocketAddr = address(host, 0).parse().expect("an address");
    socket.connect(&to.into()).expect("it listens");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What a client from this address gets for these bytes, sent in pieces of this length; nothing if
/// the connection is reset.
fn says(host: &Host, from: Ipv4Addr, bytes: &[u8], piece: usize) -> Option<String> {
    let mut stream = connect(host, from);
    for piece in bytes.chunks(piece.max(1)) {
        if stream.write_all(piece).is_err() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut got = String::new();
    stream.read_to_string(&mut got).ok()?;
    Some(got).filter(|got| !got.is_empty())
}

const LOCAL: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

/// A ClientHello as curl's TLS library writes it.
fn client_hello(name: &str) -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--max-time", "5"]);
    curl.args([
        "--resolve",
        &format!("{name}:{port}:127.0.0.1"),
        &format!("https://{name}:{port}/"),
    ]);
    let mut curl = curl.spawn().expect("curl starts");
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = [0; 5];
    stream.read_exact(&mut head).unwrap();
    let mut rest = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut rest).unwrap();
    drop(stream);
    let _ = curl.wait();
    [&head[..], &rest].concat()
}

fn the_first_rule_that_matches_decides(wasm: &Path) {
    let server = Server::of(FIRST);
    let port = server.port;
    let mut host = host(wasm, "", &[&server]);
    let listens: SocketAddr = address(&host, 0).parse().unwrap();
    let config = format!(
        "default = \"deny\"\nrules = [\n\
         {{ action = \"deny\", client = [\"127.0.66.0/24\"], log = true }},\n\
         {{ action = \"allow\", client = [\"127.0.0.0/16\", \"2001:db8::/32\"], port = [22, {}] }},\n\
         {{ action = \"allow\", client = [\"127.7.7.7\"] }},\n]",
        listens.port()
    );
    apply(&host, &config).expect("it is taken");
    let hello = Some(format!("port {port} got b'hello'"));
    for (from, passes) in [
        ([127, 0, 1, 1], true),
        ([127, 0, 66, 1], false),
        ([127, 7, 7, 7], true),
        ([127, 7, 7, 8], false),
        ([127, 1, 0, 1], false),
    ] {
        let got = says(&host, from.into(), b"hello", 99);
        assert_eq!(got, hello.clone().filter(|_| passes), "{from:?}");
    }
    host.wait_for("all are counted", |host| {
        (counter(host, "allowed"), counter(host, "denied")) == (2, 3)
    });
    let log = host.ok(&["function", "log", "tcp-policy"]);
    let line = format!("denied by rule 0: 127.0.66.1 to port {}", listens.port());
    assert!(log.contains(&line), "{log}");
}

fn first_bytes_tell_the_protocol(wasm: &Path) {
    let server = Server::of(FIRST);
    let host = host(wasm, "", &[&server]);
    let hello = client_hello("www.a.example");
    let other = client_hello("www.b.example");
    let rules = "default = \"deny\"\nrules = [\n\
                 { action = \"allow\", client = [\"127.0.0.22\"], protocol = [\"ssh\"] },\n\
                 { action = \"allow\", client = [\"127.0.0.43\"], protocol = [\"tls\"], server-name = [\"*.A.example\"] },\n\
                 { action = \"deny\", client = [\"127.0.0.25\"], protocol = [\"http\", \"tls\"] },\n\
                 { action = \"allow\", client = [\"127.0.0.25\"], protocol = [\"ssh\", \"other\"] },\n]";
    apply(&host, rules).expect("it is taken");
    for (client, bytes, passes) in [
        (22, &b"SSH-2.0-x\r\n"[..], true),
        (22, b"GET / HTTP/1.1\r\n\r\n", false),
        (22, b"\x16", false),
        (43, &hello, true),
        (43, &other, false),
        (43, b"SSH-2.0-x", false),
        (25, b"EHLO x\r\n", true),
        (25, b"PROPFIND / HTTP/1.1\r\n\r\n", false),
        (25, b"GETTING", true),
        (25, b"SS", true),
    ] {
        for piece in [bytes.len().div_ceil(9), 200, 9999] {
            let got = says(&host, Ipv4Addr::new(127, 0, 0, client), bytes, piece);
            assert_eq!(
                got.is_some(),
                passes,
                "{client} {} in pieces of {piece}: {got:?}",
                bytes.escape_ascii()
            );
        }
    }
    // A record that announces as much as it may and is never complete is let go of when it is long
    // enough.
    let mut endless = vec![22, 3, 1, 0x40, 0, 1];
    endless.resize(20_000, 0);
    assert_eq!(says(&host, Ipv4Addr::new(127, 0, 0, 43), &endless, 1000), None);
    assert!(says(&host, Ipv4Addr::new(127, 0, 0, 25), &endless, 1000).is_some());
}

fn connections_are_routed_by_the_name_in_their_tls(wasm: &Path) {
    let (a, b) = (Server::start(), Server::start());
    let rules = format!(
        "default = \"deny\"\nrules = [\n\
         {{ action = \"allow\", server-name = [\"a.example\"], upstream = \"127.0.0.1:{}\" }},\n\
         {{ action = \"allow\", server-name = [\"b.*\", \"*.b.example\", \"b.example\"], upstream = \"127.0.0.1:{}\" }},\n]",
        a.port, b.port
    );
    let host = host(wasm, &rules, &[&a, &b]);
    let tls: SocketAddr = address(&host, 1).parse().unwrap();
    let curl = |name: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--insecure", "--max-time", "20", "--http1.1"]);
        curl.args(["--resolve", &format!("{name}:{}:127.0.0.1", tls.port())]);
        let output = curl.arg(format!("https://{name}:{}/x", tls.port())).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for _ in 0..3 {
        assert!(curl("A.example").contains(&format!("\"server\": {}", a.port)));
        assert!(curl("b.example").contains(&format!("\"server\": {}", b.port)));
        assert_eq!(curl("c.example"), "");
    }
    // Encrypted past the gateway, the name comes too late to route by.
    assert_eq!(says(&host, LOCAL, &client_hello("a.example"), 9999), None);
    let log = host.ok(&["function", "log", "tcp-policy"]);
    assert!(log.contains("a server name came after its connection was sent"), "{log}");
}

fn connections_of_a_network_are_limited(wasm: &Path) {
    let server = Server::of(FIRST);
    let config = "limits = { network = [24, 56], concurrent = 2, exempt = [\"127.9.0.0/16\"] }";
    let mut host = host(wasm, config, &[&server]);
    // Whether it was taken: else it is reset before anything is read.
    let opens = |host: &Host, from: [u8; 4]| {
        let mut stream = connect(host, from.into());
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let waits = stream.read(&mut [0]).is_err_and(|error| {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        });
        waits.then_some(stream)
    };
    let first = opens(&host, [127, 0, 5, 1]).expect("it is the first");
    let _second = opens(&host, [127, 0, 5, 2]).expect("it is the second");
    assert!(opens(&host, [127, 0, 5, 3]).is_none());
    let _other = opens(&host, [127, 0, 6, 3]).expect("another network");
    let _exempt: Vec<_> =
        (0..4).map(|_| opens(&host, [127, 9, 0, 1]).expect("it has no limits")).collect();
    drop(first);
    host.wait_for("the place is free", |host| opens(host, [127, 0, 5, 3]).is_some());
    assert!(counter(&host, "limited") >= 1);

    apply(&host, "limits = { per-second = 1, burst = 3 }").expect("it is taken");
    let passed = (0..6).filter(|_| says(&host, [127, 0, 7, 1].into(), b"x", 9).is_some()).count();
    assert!((3..=4).contains(&passed), "{passed}");
    assert!(says(&host, [127, 0, 7, 2].into(), b"x", 9).is_some(), "another network");
    host.wait_for("there is another token", |host| {
        says(host, [127, 0, 7, 1].into(), b"x", 9).is_some()
    });
}

fn mistakes_are_named(wasm: &Path) {
    let server = Server::of(FIRST);
    let host = host(wasm, "", &[&server]);
    for (config, part) in [
        ("rules = [{ action = \"allow\", upstream = \"c\" }]", "no upstream is named \"c\""),
        (
            &format!("rules = [{{ action = \"deny\", upstream = \"127.0.0.1:{}\" }}]", server.port),
            "must allow",
        ),
        (
            &format!(
                "rules = [{{ action = \"allow\", upstream = \"127.0.0.1:{}\", protocol = [\"tls\"] }}]",
                server.port
            ),
            "cannot have `protocol`",
        ),
        ("rules = [{ action = \"allow\", client = [\"10.0.0.1/8\"] }]", "behind its length"),
        ("rules = [{ action = \"allow\", client = [\"10.0.0\"] }]", "prefix"),
        ("rules = [{ action = \"allow\", client = [] }]", "the list is empty"),
        ("rules = [{ action = \"allow\", server-name = [] }]", "the list is empty"),
        ("limits = { concurrent = 0 }", "concurrent"),
        ("rules = [{ action = \"allow\", protocol = [\"smtp\"] }]", "smtp"),
        ("rules = [{ action = \"perhaps\" }]", "action"),
        ("rules = [{ port = [1] }]", "action"),
        ("rules = [{ action = \"allow\", port = [70000] }]", "port"),
        ("rules = [{ action = \"allow\", colour = 1 }]", "colour"),
        ("default = \"no\"", "default"),
        ("limits = { burst = 1 }", "per-second"),
        ("limits = { per-second = 0 }", "per-second"),
        ("limits = { network = [33, 64] }", "[33, 64]"),
        ("limits = { max-networks = 7 }", "max-networks"),
        ("limits = { per-second = 1, max-networks = 1048576 }", "region"),
        ("limits = { colour = 1 }", "colour"),
        ("colour = 1", "colour"),
    ] {
        let said = apply(&host, config).expect_err(config);
        // Without the line of the file that is shown.
        let told = |line: &&str| line.starts_with("error:") || line.trim_start().starts_with("= ");
        let told = said.lines().filter(told).collect::<String>();
        assert!(told.contains(part), "{config}: {said}");
    }
    // What was there before is there still.
    assert!(says(&host, LOCAL, b"hello", 9).is_some());
}

/// Each for both builds.
macro_rules! of_both {
    ($($test:ident)*) => {
        mod rust {
            $(#[test] fn $test() { super::$test(&super::in_rust()); })*
        }
        mod c {
            $(#[test] fn $test() { super::$test(&super::in_c()); })*
        }
    };
}

of_both! {
    the_first_rule_that_matches_decides
    first_bytes_tell_the_protocol
    connections_are_routed_by_the_name_in_their_tls
    connections_of_a_network_are_limited
    mistakes_are_named
}
