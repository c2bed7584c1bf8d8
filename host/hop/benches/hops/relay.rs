//! A relay between two connections: bulk, small pieces to and fro, and what a reader that does not read lets it take.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_hop::{Method, Moved, RelayLimits, relay_by};

use crate::{cpu, median};

const METHODS: [(&str, Method); 3] =
    [("read and write", Method::Copy), ("splice(2)", Method::Splice), ("sockmap", Method::Join)];
/// Bytes in a round.
const BULK: usize = 512 << 20;
/// Bytes to and fro.
const SMALL: usize = 256;
const TRIPS: usize = 10_000;
/// What a relay is offered that nobody reads from.
const OFFERED: usize = 256 << 20;

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let one = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (other, _) = listener.accept().expect("a connection");
    one.set_nodelay(true).expect("an option");
    other.set_nodelay(true).expect("an option");
    (one, other)
}

/// The outer ends, and the relay's thread, which says how much CPU it took.
fn relay(method: Method) -> (TcpStream, TcpStream, JoinHandle<u64>) {
    let (client, a) = pair();
    let (b, server) = pair();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let [a, b] = [a, b].map(|stream| {
                stream.set_nonblocking(true).expect("an option");
                tokio::net::TcpStream::from_std(stream).expect("a socket")
            });
            relay_by(method, &a, &b, RelayLimits::default(), &Moved::default()).await;
        });
        cpu("thread-self")
    });
    (client, server, thread)
}

/// Nanoseconds that this process's threads were on a CPU: the relay's, the writer's and the reader's.
fn used() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds that all CPUs were busy.
fn busy() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> =
        text.lines().next().unwrap_or("").split(' ').filter_map(|word| word.parse().ok()).collect();
    let all: u64 = numbers.iter().take(8).sum();
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    (all - idle) * 10_000_000
}

struct Round {
    rate: f64,
    cpu: f64,
    process: f64,
    machine: f64,
    p50: f64,
    p99: f64,
    accepted: f64,
}

fn round(method: Method) -> Round {
    let (mut client, mut server, thread) = relay(method);
    let (start, before, used_before) = (Instant::now(), busy(), used());
    let writer = std::thread::spawn(move || {
        let piece = vec![7; 1 << 20];
        for _ in 0..BULK / piece.len() {
            client.write_all(&piece).expect("the relay takes it");
        }
        client.shutdown(std::net::Shutdown::Write).expect("the end");
        client
    });
    let (mut buffer, mut got) = (vec![0; 1 << 20], 0);
    loop {
        match server.read(&mut buffer).expect("the relay gives it") {
            0 => break,
            read => got += read,
        }
    }
    assert_eq!(got, BULK);
    let seconds = start.elapsed().as_secs_f64();
    let machine = (busy() - before) as f64;
    let process = (used() - used_before) as f64;
    drop((writer.join().expect("the writer"), server));
    let gib = BULK as f64 / f64::from(1 << 30);
    let cpu = thread.join().expect("the relay") as f64;

    let (mut client, mut server, thread) = relay(method);
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; SMALL];
        while server.read_exact(&mut buffer).is_ok() {
            if server.write_all(&buffer).is_err() {
                return;
            }
        }
    });
    let mut times = Vec::with_capacity(TRIPS);
    let mut buffer = [1; SMALL];
    for _ in 0..TRIPS {
        let start = Instant::now();
        client.write_all(&buffer).expect("the relay takes it");
        client.read_exact(&mut buffer).expect("the relay gives it");
        times.push(start.elapsed().as_nanos() as f64 / 1000.0);
    }
    times.sort_by(f64::total_cmp);
    drop(client);
    echo.join().expect("the echo");
    thread.join().expect("the relay");

    let (mut client, server, thread) = relay(method);
    client.set_write_timeout(Some(Duration::from_millis(300))).expect("an option");
    let (piece, mut accepted) = (vec![0; 1 << 20], 0);
    while accepted < OFFERED {
        match client.write(&piece) {
            Ok(written) => accepted += written,
            Err(_) => break,
        }
    }
    drop((client, server));
    thread.join().expect("the relay");
    Round {
        rate: gib / seconds,
        cpu: cpu / 1e6 / gib,
        process: process / 1e6 / gib,
        machine: machine / 1e6 / gib,
        p50: times[TRIPS / 2],
        p99: times[TRIPS * 99 / 100],
        accepted: accepted as f64 / f64::from(1 << 20),
    }
}

pub(crate) fn run(rounds: usize) {
    println!();
    println!(
        "relay: GiB/s, CPU of its thread, of all threads, of the machine (ms a GiB), {SMALL} bytes to and fro (us), accepted with nobody reading (MiB of {})",
        OFFERED >> 20
    );
    let mut all: Vec<Vec<Round>> = METHODS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, method), rounds) in METHODS.iter().zip(&mut all) {
            rounds.push(round(*method));
        }
    }
    println!("| method | GiB/s | thread | threads | machine | p50 | p99 | accepted |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for ((name, _), rounds) in METHODS.iter().zip(&all) {
        let of = |pick: fn(&Round) -> f64| median(&mut rounds.iter().map(pick).collect::<Vec<_>>());
        println!(
            "| {name} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} |",
            of(|round| round.rate),
            of(|round| round.cpu),
            of(|round| round.process),
            of(|round| round.machine),
            of(|round| round.p50),
            of(|round| round.p99),
            of(|round| round.accepted),
        );
    }
}
