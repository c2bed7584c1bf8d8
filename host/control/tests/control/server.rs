//! Listening for real: the Unix socket and TCP, with a client that speaks HTTP by hand.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::json;
use weir_control::api::{ServeError, Server, SocketLock, bind_unix};

use crate::common::Host;

fn talk(stream: &mut (impl std::io::Read + std::io::Write), request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_the_owners_and_tcp_wants_a_token() {
    let host = Host::new();
    let socket = host.path("run/api.sock");
    let server =
        Server::bind(&host.api, &socket, Some("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = server.address().unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    let found = std::fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let directory = std::fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700, "it was made");

    let client = tokio::task::spawn_blocking(move || {
        let local = talk(&mut UnixStream::connect(&socket).unwrap(), &format!("{STATUS}\r\n"));
        assert!(local.starts_with("HTTP/1.1 200 OK\r\n"), "{local}");
        let remote = talk(&mut TcpStream::connect(address).unwrap(), &format!("{STATUS}\r\n"));
        assert!(remote.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{remote}");
        // Whoever has no token keeps no connection, whatever is asked for.
        let open = "GET /openapi.json HTTP/1.1\r\nHost: weir\r\n\r\n".repeat(2);
        let remote = talk(&mut TcpStream::connect(address).unwrap(), &open);
        assert_eq!(remote.matches("HTTP/1.1 200 OK\r\n").count(), 1);
        let stays = STATUS.replace("Connection: close\r\n", "\r\n");
        let remote = talk(&mut TcpStream::connect(address).unwrap(), &stays);
        assert!(remote.to_lowercase().contains("connection: close"), "{remote}");
        let token = "Authorization: Bearer acme-viewer-token\r\n\r\n";
        let remote = talk(&mut TcpStream::connect(address).unwrap(), &format!("{STATUS}{token}"));
        assert!(remote.starts_with("HTTP/1.1 200 OK\r\n"), "{remote}");
        // A second host is told that the socket is taken.
        assert!(matches!(bind_unix(&socket), Err(ServeError::InUse(_))));
        // Garbage is answered, or cut off, and disturbs nobody.
        talk(&mut TcpStream::connect(address).unwrap(), "\u{1}\u{2}\u{3}\r\n\r\n");
        let local = talk(&mut UnixStream::connect(&socket).unwrap(), &format!("{STATUS}\r\n"));
        assert!(local.starts_with("HTTP/1.1 200 OK\r\n"), "{local}");
        socket
    });
    let socket = client.await.unwrap();
    host.stop();
    serving.await.unwrap();
    assert!(!socket.exists());
}

/// Else whoever can reach the address could keep out everybody, without a word.
#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_token_makes_room_for_others() {
    let host = Host::new();
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::bind(&host.api, &host.path("api.sock"), listen).await.unwrap();
    let address = server.address().unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    let client = tokio::task::spawn_blocking(move || {
        let stays = "GET /healthz HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer acme-viewer-token\r\n\r\n";
        let ask = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(stays.as_bytes()).unwrap();
            let mut answer = [0; 1024];
            let read = stream.read(&mut answer).unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", &answer[..read]);
        };
        let connect = || TcpStream::connect(address).unwrap();
        let mut known = connect();
        ask(&mut known);
        let begun = Instant::now();
        let mut silent: Vec<_> = (0..200).map(|_| connect()).collect();
        ask(&mut connect());
        // As many as have no place any more, the first ones, and only those.
        for stream in &mut silent[..72] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert!(!stream.read(&mut [0]).is_ok_and(|bytes| bytes > 0));
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "no head came in time: another thing");
        for stream in &mut silent[80..] {
            stream.set_nonblocking(true).unwrap();
            let waits = stream.read(&mut [0]).unwrap_err();
            assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
        }
        ask(&mut known);
    });
    client.await.unwrap();
    host.stop();
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_of_events_do_not_hold_up_the_end() {
    let host = Host::new();
    let socket = host.path("api.sock");
    let server = Server::bind(&host.api, &socket, None).await.unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    let mut listener = UnixStream::connect(&socket).unwrap();
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let listening = tokio::task::spawn_blocking(move || {
        listener.write_all(b"GET /v1/events HTTP/1.1\r\nHost: weir\r\n\r\n").unwrap();
        let mut buffer = [0; 4096];
        let mut seen = String::new();
        while !seen.contains("event: started") {
            let n = listener.read(&mut buffer).unwrap();
            seen.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        }
        ready.send(()).unwrap();
        listener.read_to_string(&mut seen).unwrap();
        seen
    });
    is_ready.await.unwrap();
    host.push("/v1/functions/f/versions", "live").await;
    let started = Instant::now();
    host.stop();
    serving.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    let seen = listening.await.unwrap();
    assert!(seen.contains("event: pushed"), "{seen}");
}

#[tokio::test]
async fn a_dead_hosts_socket_is_replaced_and_other_files_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(bind_unix(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let error = bind_unix(&path).unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let long = directory.path().join("x".repeat(200));
    assert!(matches!(bind_unix(&long), Err(ServeError::TooLong(_))));
}

/// A host that hangs, with a full queue of connections, is one that lives: it is told at once that
/// it has the socket.
#[test]
fn a_socket_whose_host_hangs_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let address = SocketAddrUnix::new(&path).unwrap();
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap()
    };
    let hangs = socket();
    rustix::net::bind(&hangs, &address).unwrap();
    rustix::net::listen(&hangs, 0).unwrap();
    let mut queue = Vec::new();
    loop {
        let client = socket();
        match rustix::net::connect(&client, &address) {
            Ok(()) => queue.push(client),
            Err(error) => break assert_eq!(error, Errno::AGAIN),
        }
    }
    let (sender, told) = mpsc::channel();
    std::thread::spawn({
        let path = path.clone();
        move || sender.send((SocketLock::take(&path).unwrap_err(), bind_unix(&path).unwrap_err()))
    });
    let told = told.recv_timeout(Duration::from_secs(10)).expect("it waits for the host");
    assert!(matches!(told, (ServeError::InUse(_), ServeError::InUse(_))), "{told:?}");
    assert!(path.exists());
    // Nor is what is no host's at all taken for a dead one's.
    let other = directory.path().join("other.sock");
    let _other = UnixDatagram::bind(&other).unwrap();
    assert!(matches!(bind_unix(&other), Err(ServeError::Io { .. })));
    assert!(other.exists());
}

#[test]
fn of_hosts_that_start_at_once_one_has_the_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/api.sock");
    let one = SocketLock::take(&path).unwrap();
    let error = SocketLock::take(&path).unwrap_err();
    assert!(matches!(error, ServeError::InUse(_)), "{error}");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    drop(one);
    drop(SocketLock::take(&path).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_removes_its_own_socket_only() {
    let host = Host::new();
    let socket = host.path("api.sock");
    let server = Server::bind(&host.api, &socket, None).await.unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    std::fs::rename(&socket, host.path("old.sock")).unwrap();
    let _another = UnixListener::bind(&socket).unwrap();
    host.stop();
    serving.await.unwrap();
    assert!(socket.exists());
}

/// A client that is refused while it still sends gets the answer, not a broken connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_whoever_is_still_sending() {
    let host = Host::new();
    let socket = host.path("api.sock");
    let server =
        Server::bind(&host.api, &socket, Some("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = server.address().unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    let client = tokio::task::spawn_blocking(move || {
        let head = |more: &str, length: u64| {
            format!(
                "POST /v1/functions/f/versions HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\
                 Content-Type: application/wasm\r\nContent-Length: {length}\r\n{more}\r\n"
            )
        };
        // Far more than sockets buffer.
        let body = vec![b'x'; 16 << 20];
        let good = "Authorization: Bearer acme-operator-token\r\n";
        for (more, status) in [("", "401"), ("Authorization: Bearer x\r\n", "401"), (good, "413")] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(head(more, body.len() as u64).as_bytes()).unwrap();
            stream.write_all(&body).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
        // Who says how much it will be need not send it, least of all if it asks first.
        for more in [good.to_owned(), format!("{good}Expect: 100-continue\r\n")] {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(address).unwrap();
            let answer = talk(&mut stream, &head(&more, 1 << 40));
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
            assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        }
    });
    client.await.unwrap();
    host.stop();
    serving.await.unwrap();
}

/// A stream that its client does not read ends with its token, and with the host: what it has could
/// not be had again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_ends() {
    let host = Host::new();
    host.with_chains(&["a"]).await;
    let tokens = "/v1/tenants/default/tokens";
    let made = host.ask("POST", tokens, Some(json!({"role": "operator"}))).await.json();
    let socket = host.path("api.sock");
    let server =
        Server::bind(&host.api, &socket, Some("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = server.address().unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    let tap = |token: &str| {
        let body = r#"{"format": "json", "seconds": 86400}"#;
        let mut stream = TcpStream::connect(address).unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4096).unwrap();
        let head = format!(
            "POST /v1/chains/a/tap?tenant=default HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let taps_are = async |number: usize| {
        for _ in 0..1000 {
            if host.engine.taps() == number {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("there are {} taps, not {number}", host.engine.taps());
    };
    let gone = tap(made["token"].as_str().unwrap());
    let stays = tap("everybodys-admin-token");
    taps_are(2).await;
    host.engine.taps_stand_still().await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(host.ask("DELETE", &format!("{tokens}/{id}"), None).await.status, 204);
    taps_are(1).await;
    let begun = Instant::now();
    host.stop();
    serving.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop((gone, stays));
}

/// However many connections come by TCP and say nothing, the administrator gets in.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_do_not_keep_the_administrator_out() {
    let host = Host::new();
    let socket = host.path("api.sock");
    let server =
        Server::bind(&host.api, &socket, Some("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = server.address().unwrap();
    let serving = tokio::spawn(server.serve(host.stopping()));
    let client = tokio::task::spawn_blocking(move || {
        // More than there are places for, also for those who have shown a token; the backlog takes
        // the rest.
        let ask = format!(
            "{}Authorization: Bearer acme-viewer-token\r\n\r\n",
            STATUS.replace("Connection: close\r\n", "")
        );
        let connect = || {
            let mut idle = TcpStream::connect(address).unwrap();
            idle.write_all(ask.replace("/v1/status", "/healthz").as_bytes()).unwrap();
            idle
        };
        let idle: Vec<_> = (0..600).map(|_| connect()).collect();
        let begun = Instant::now();
        let local = talk(&mut UnixStream::connect(&socket).unwrap(), &format!("{STATUS}\r\n"));
        assert!(local.starts_with("HTTP/1.1 200 OK\r\n"), "{local}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        drop(idle);
    });
    client.await.unwrap();
    host.stop();
    serving.await.unwrap();
}
