//! A relay between two connections: bulk, small pieces to and fro, and what a reader that does not
//! read lets it take. By reading and writing, by `splice(2)`, and by a sockmap
//! ([`weir_benches::joined`]).
//!
//! `scripts/bench relay [ROUNDS]`. Rounds are interleaved, medians are printed. Needs root for what
//! needs programs in the kernel.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weir_benches::driver::median;
use weir_benches::joined::Joined;
use weir_gateway::{Method, RelayLimits, RelayedBytes, relay_by};
use weir_sandbox::thread_time;

/// How bytes get from one connection to the other.
#[derive(Clone, Copy)]
enum Mover {
    /// As the gateway does.
    Relay(Method),
    /// By an `sk_skb` program, without the process: see [`Joined`].
    Join,
}

const MOVERS: [(&str, Mover); 3] = [
    ("read and write", Mover::Relay(Method::Copy)),
    ("splice(2)", Mover::Relay(Method::Splice)),
    ("sockmap", Mover::Join),
];
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
fn relay(mover: Mover) -> (TcpStream, TcpStream, JoinHandle<Duration>) {
    let (client, a) = pair();
    let (b, server) = pair();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let [a, b] = [a, b].map(|stream| {
                stream.set_nonblocking(true).expect("an option");
                tokio::net::TcpStream::from_std(stream).expect("a socket")
            });
            match mover {
                Mover::Relay(method) => {
                    relay_by(method, &a, &b, RelayLimits::default(), &RelayedBytes::default())
                        .await;
                }
                // An end with an error is that of the connection that nobody reads from.
                Mover::Join => drop(Joined::new(&a, &b).expect("two sockets").ended().await),
            }
        });
        thread_time()
    });
    (client, server, thread)
}

/// Nanoseconds that this process's threads were on a CPU: the relay's, the writer's and the
/// reader's.
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

fn round(mover: Mover) -> Round {
    let (mut client, mut server, thread) = relay(mover);
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
    let cpu = thread.join().expect("the relay").as_nanos() as f64;

    let (mut client, mut server, thread) = relay(mover);
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

    let (mut client, server, thread) = relay(mover);
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

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok());
    let rounds = rounds.unwrap_or(7_usize).max(1);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("{rounds} rounds, load before: {}", load.trim());
    println!(
        "relay: GiB/s, CPU of its thread, of all threads, of the machine (ms a GiB), {SMALL} bytes to and fro (us), accepted with nobody reading (MiB of {})",
        OFFERED >> 20
    );
    let mut all: Vec<Vec<Round>> = MOVERS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, mover), rounds) in MOVERS.iter().zip(&mut all) {
            rounds.push(round(*mover));
        }
    }
    println!("| method | GiB/s | thread | threads | machine | p50 | p99 | accepted |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for ((name, _), rounds) in MOVERS.iter().zip(&all) {
        let of = |pick: fn(&Round) -> f64| median(rounds.iter().map(pick).collect());
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
