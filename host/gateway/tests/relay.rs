//! Relays between real connections: all bytes, both ends, slow readers, dead ones.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_gateway::{Method, RelayEnd, RelayLimits, RelayedBytes, relay_by};

const PATIENCE: Duration = Duration::from_secs(30);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

/// What a relay has done.
#[derive(Debug)]
struct Relayed {
    forward: u64,
    backward: u64,
    ended: RelayEnd,
}

/// A relay to its end; both connections are closed then.
async fn relayed(method: Method, a: TcpStream, b: TcpStream, limits: RelayLimits) -> Relayed {
    let moved = RelayedBytes::default();
    let ended = relay_by(method, &a, &b, limits, &moved).await;
    Relayed { forward: moved.forward.get(), backward: moved.backward.get(), ended }
}

/// The two outer ends of a relay, and what becomes of it.
async fn between(method: Method) -> (TcpStream, TcpStream, JoinHandle<Relayed>) {
    let (client, a) = pair().await;
    let (b, server) = pair().await;
    let relay = tokio::task::spawn_local(relayed(method, a, b, RelayLimits::default()));
    tokio::task::yield_now().await;
    (client, server, relay)
}

fn run<F: Future>(test: impl Fn(Method) -> F) {
    for method in [Method::Copy, Method::Splice] {
        println!("{method:?}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let done = local.block_on(&runtime, async { timeout(PATIENCE, test(method)).await });
        assert!(done.is_ok(), "{method:?} takes too long");
    }
}

/// Bytes that tell where they are.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn bytes_arrive_whole_in_both_directions_and_each_ends_for_itself() {
    run(|method| async move {
        let (client, server, relay) = between(method).await;
        let (there, back) = (bytes(1, 20 << 20), bytes(2, 15 << 20));
        let side = |stream: TcpStream, send: Vec<u8>| async move {
            let (mut read, mut write) = stream.into_split();
            let writer = tokio::spawn(async move {
                write.write_all(&send).await.unwrap();
                write.shutdown().await.unwrap();
                write
            });
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            writer.await.unwrap();
            got
        };
        let one = tokio::spawn(side(client, there.clone()));
        let other = tokio::spawn(side(server, back.clone()));
        let same = |got: Vec<u8>, wanted: &[u8], way: &str| {
            let at = got.iter().zip(wanted).position(|(got, wanted)| got != wanted);
            assert_eq!((got.len(), at), (wanted.len(), None), "the way {way}");
        };
        same(one.await.unwrap(), &back, "back");
        same(other.await.unwrap(), &there, "there");
        let relayed = relay.await.unwrap();
        assert!(matches!(relayed.ended, RelayEnd::InOrder), "{relayed:?}");
        assert_eq!((relayed.forward, relayed.backward), (20 << 20, 15 << 20));
    });
}

#[test]
fn what_came_before_the_relay_is_passed_on_first() {
    run(|method| async move {
        for _ in 0..50 {
            let (mut client, a) = pair().await;
            let (b, mut server) = pair().await;
            client.write_all(b"early ").await.unwrap();
            tokio::task::yield_now().await;
            let relay = tokio::task::spawn_local(relayed(method, a, b, RelayLimits::default()));
            let mut got = [0; 6];
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"early ");
            client.write_all(b"late").await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = String::new();
            server.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "late");
            drop(server);
            assert_eq!(relay.await.unwrap().forward, 10);
        }
    });
}

#[test]
fn a_stream_that_has_ended_before_the_relay_ends() {
    run(|method| async move {
        let (mut client, a) = pair().await;
        let (b, mut server) = pair().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let relay = tokio::task::spawn_local(relayed(method, a, b, RelayLimits::default()));
        let mut got = String::new();
        server.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "question");
        // Long after its own direction has ended.
        server.write_all(b"answer").await.unwrap();
        drop(server);
        got.clear();
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "answer");
        let relayed = relay.await.unwrap();
        assert!(matches!(relayed.ended, RelayEnd::InOrder), "{relayed:?}");
    });
}

#[test]
fn a_slow_reader_slows_the_writer() {
    run(|method| async move {
        let (client, mut server, _relay) = between(method).await;
        let piece = vec![0; 1 << 20];
        let mut accepted = 0;
        while let Ok(writable) = timeout(Duration::from_millis(500), client.writable()).await {
            writable.unwrap();
            accepted += client.try_write(&piece).unwrap_or(0);
            assert!(accepted < 64 << 20, "nothing stops the writer");
        }
        // Nothing is lost of what was accepted.
        drop(client);
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), accepted);
    });
}

#[test]
fn a_reader_that_takes_nothing_is_given_up_while_the_other_direction_moves() {
    run(|method| async move {
        let ((client, a), (b, server)) = (pair().await, pair().await);
        let patience = Some(Duration::from_millis(300));
        let limits = RelayLimits { idle: Some(PATIENCE), patience };
        let relay = tokio::task::spawn_local(relayed(method, a, b, limits));
        let (mut read, mut write) = client.into_split();
        // The server sends, and reads nothing.
        let talking = tokio::spawn(async move {
            let mut server = server;
            while server.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let listening = tokio::spawn(async move { while read.read_u8().await.is_ok() {} });
        let piece = vec![0; 1 << 20];
        while write.write_all(&piece).await.is_ok() {}
        let relayed = relay.await.unwrap();
        let stalled = |error: &std::io::Error| error.kind() == std::io::ErrorKind::TimedOut;
        assert!(matches!(&relayed.ended, RelayEnd::Second(error) if stalled(error)), "{relayed:?}");
        talking.await.unwrap();
        listening.await.unwrap();
    });
}

#[test]
fn a_connection_that_is_reset_ends_both() {
    run(|method| async move {
        let (client, mut server, relay) = between(method).await;
        client.set_zero_linger().unwrap();
        drop(client);
        let relayed = relay.await.unwrap();
        assert!(matches!(relayed.ended, RelayEnd::First(_)), "{relayed:?}");
        assert!(server.read(&mut [0; 1]).await.is_ok_and(|read| read == 0));
    });
}

#[test]
fn a_server_that_dies_in_the_middle_ends_the_client() {
    run(|method| async move {
        let (mut client, server, relay) = between(method).await;
        let (mut read, mut write) = client.split();
        write.write_all(&bytes(3, 1 << 20)).await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        // An end, or an error.
        let _ = read.read(&mut [0; 1]).await;
        let relayed = relay.await.unwrap();
        assert!(!matches!(relayed.ended, RelayEnd::InOrder), "{relayed:?}");
    });
}

#[test]
fn a_silent_relay_is_given_up_and_one_that_moves_is_not() {
    run(|method| async move {
        let (mut client, a) = pair().await;
        let (b, mut server) = pair().await;
        let idle = RelayLimits { idle: Some(Duration::from_millis(200)), ..RelayLimits::default() };
        let relay = tokio::task::spawn_local(relayed(method, a, b, idle));
        for _ in 0..20 {
            client.write_all(b"x").await.unwrap();
            server.read_exact(&mut [0; 1]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let relayed = relay.await.unwrap();
        assert!(matches!(relayed.ended, RelayEnd::Idle), "{relayed:?}");
        assert_eq!(relayed.forward, 20);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    });
}

#[test]
fn connections_of_python_pass_100_mib_in_both_directions() {
    const CLIENT: &str = "
import hashlib, os, socket, sys, threading
connection = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)
connection.settimeout(20)
piece = os.urandom(1 << 20)
def send():
    for _ in range(100): connection.sendall(piece)
    connection.shutdown(socket.SHUT_WR)
thread = threading.Thread(target=send); thread.start()
got, count = hashlib.sha256(), 0
while part := connection.recv(1 << 18):
    got.update(part); count += len(part)
thread.join()
sent = hashlib.sha256()
for _ in range(100): sent.update(piece)
print(count, got.hexdigest() == sent.hexdigest())
";
    const ECHO: &str = "
import socket
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.settimeout(20)
while part := connection.recv(1 << 18): connection.sendall(part)
connection.shutdown(socket.SHUT_WR)
";
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    run(|method| async move {
        let mut echo = Command::new("python3");
        let mut echo = echo.args(["-c", ECHO]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut std::io::BufReader::new(echo.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        let port: u16 = line.trim().parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port().to_string();
        let mut client = Command::new("python3");
        let client = client.args(["-c", CLIENT, &own]).stdout(Stdio::piped()).spawn().unwrap();
        let (a, _) = listener.accept().await.unwrap();
        let b = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let idle = RelayLimits { idle: Some(Duration::from_secs(10)), ..RelayLimits::default() };
        let relayed = relayed(method, a, b, idle).await;
        let output = client.wait_with_output().unwrap();
        echo.wait().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "104857600 True\n");
        assert_eq!((relayed.forward, relayed.backward), (100 << 20, 100 << 20));
        assert!(matches!(relayed.ended, RelayEnd::InOrder), "{relayed:?}");
    });
}
