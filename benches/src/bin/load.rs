//! CPU against offered load, for both planes at once: packets that a chain carries from one host to
//! another, and requests that a chain of both planes answers, between the same ports.
//!
//! Hosts in network namespaces (see `weir_tests::lab`); requests are answered by `http-cache`, so
//! that no upstream takes part. Clients keep to their rates: a request is sent when it is due, and
//! what is late counts from then. Writes a table, and with a file's name as argument the same as
//! CSV, of which `scripts/plot-load` makes a picture. Needs root, iproute2, ethtool and python3.

use std::fmt::Write as _;
use std::fs;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use weir_benches::process::threads;
use weir_benches::requests::{BODY, ask};
use weir_benches::wire::Wire;
use weir_tests::lab::{Lab, Namespace, PortKind};

/// What is offered, a second.
const PACKETS: [u32; 5] = [0, 2_000, 10_000, 30_000, 60_000];
const REQUESTS: [u32; 4] = [0, 200, 1_000, 3_000];
const CONNECTIONS: u32 = 8;
const SECONDS: u64 = 3;
const GATEWAY: &str = "10.77.0.9";

/// What one pair of loads came to.
struct Row {
    ports: &'static str,
    packets: u32,
    requests: u32,
    /// A second.
    carried: f64,
    answered: f64,
    /// Cores.
    worker: f64,
    gateway: f64,
    /// Milliseconds from when a request was due.
    p50: f64,
    p99: f64,
}

const HEAD: &str = "ports,packets_offered,requests_offered,packets_carried,requests_answered,worker_cores,gateway_cores,p50_ms,p99_ms";

impl Row {
    fn csv(&self) -> String {
        format!(
            "{},{},{},{:.0},{:.0},{:.4},{:.4},{:.3},{:.3}",
            self.ports,
            self.packets,
            self.requests,
            self.carried,
            self.answered,
            self.worker,
            self.gateway,
            self.p50,
            self.p99
        )
    }
}

fn main() {
    let mut csv = format!("{HEAD}\n");
    println!("{}", HEAD.replace(',', "  "));
    for (name, ports, keys) in [
        ("xdp", PortKind::Xdp, ""),
        ("dpdk-sleep", PortKind::DpdkAfPacket, "idle = \"sleep\""),
        ("dpdk-poll", PortKind::DpdkAfPacket, "idle = \"poll\""),
    ] {
        let (lab, _server) = lab(ports, keys);
        for packets in PACKETS {
            for requests in REQUESTS {
                let row = offer(&lab, name, packets, requests);
                println!("{}", row.csv().replace(',', "  "));
                let _ = writeln!(csv, "{}", row.csv());
            }
        }
    }
    if let Some(file) = std::env::args().nth(1) {
        fs::write(&file, csv).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// One chain of packets alone, one of both planes, and a file in the cache.
fn lab(ports: PortKind, keys: &str) -> (Lab, weir_tests::lab::Running) {
    let mut lab = Lab::wired();
    lab.middle.sh("ip tuntap add dev weir-left mode tap");
    lab.middle.sh("ip link set dev weir-left addrgenmode none up");
    lab.middle.sh(&format!("ip address add {GATEWAY}/24 dev weir-left"));
    let listener = format!(
        "[[listener]]\nname = \"web\"\naddress = \"{GATEWAY}:80\"\nprotocol = \"http\"\nchain = \"edge\"\nupstream = [\"127.0.0.1:9000\"]\n"
    );
    lab.configure(ports, &format!("kernel = \"weir-SIDE\"\n{keys}"), &listener);
    let file = lab.path("hello");
    fs::write(&file, BODY).expect("a file");
    let old = SystemTime::now() - Duration::from_secs(864_000);
    let opened = fs::File::options().append(true).open(&file).expect("the file");
    opened.set_modified(old).expect("its time is set");
    let server = format!(
        "python3 -m http.server --bind 127.0.0.1 --directory {} 9000",
        file.parent().expect("a directory").display()
    );
    let server = lab.middle.start(&server);
    lab.start();
    lab.wait("the server listens", |lab| {
        lab.middle.sh("ss --listening --tcp --numeric --no-header").contains(":9000 ")
    });
    for function in ["firewall", "waf", "http-cache"] {
        lab.push(function, "1.0.0");
    }
    lab.deploy(
        "[[function]]\nuse = \"firewall\"\n[function.config]\ndefault = \"allow\"\n[[function]]\nuse = \"waf\"\n[[function]]\nuse = \"http-cache\"\n",
    );
    lab.left.sh(&format!("ping -n -c 3 -i 0.1 {GATEWAY}"));
    (lab, server)
}

/// Offers both loads for some seconds.
fn offer(lab: &Lab, ports: &'static str, packets: u32, requests: u32) -> Row {
    let frame = lab.left.sh("cat /sys/class/net/eth0/address");
    let frame = datagram(&mac(&frame), &mac(&lab.right.sh("cat /sys/class/net/eth0/address")));
    let flood = (packets > 0).then(|| flood(&lab.left, frame, packets));
    let clients: Vec<_> = (0..CONNECTIONS.min(requests))
        .map(|_| client(&lab.left, f64::from(requests) / f64::from(CONNECTIONS)))
        .collect();
    // Connections are there, and what they filled is in the caches.
    std::thread::sleep(Duration::from_millis(700));
    let (before, carried, started) = (cpu(lab), carried_by(lab), Instant::now());
    std::thread::sleep(Duration::from_secs(SECONDS));
    let (after, took) = (cpu(lab), started.elapsed().as_secs_f64());
    let carried = carried_by(lab) - carried;
    if let Some(flood) = flood {
        flood.join().expect("it sent");
    }
    let mut times: Vec<f64> = Vec::new();
    for client in clients {
        let asked = client.join().expect("it asked");
        let within = |(when, _): &&(Instant, f64)| {
            *when >= started && when.duration_since(started).as_secs_f64() < took
        };
        times.extend(asked.iter().filter(within).map(|(_, time)| *time));
    }
    times.sort_by(f64::total_cmp);
    let quantile = |part: f64| {
        let place = (times.len() as f64 * part) as usize;
        times.get(place.min(times.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    Row {
        ports,
        packets,
        requests,
        carried: carried as f64 / took,
        answered: times.len() as f64 / took,
        worker: (after.0 - before.0) as f64 / 1e9 / took,
        gateway: (after.1 - before.1) as f64 / 1e9 / took,
        p50: quantile(0.5),
        p99: quantile(0.99),
    }
}

/// CPU time of the workers and of the gateway's threads, in ns.
fn cpu(lab: &Lab) -> (u64, u64) {
    let all = threads(lab.host());
    let of = |name: &str| {
        all.values()
            .filter(|(own, _)| own.starts_with(name))
            .map(|(_, used)| used.nanoseconds)
            .sum()
    };
    (of("weir-worker"), of("gateway-"))
}

/// Frames that came to the right.
fn carried_by(lab: &Lab) -> u64 {
    let count = lab.right.sh("cat /sys/class/net/eth0/statistics/rx_packets");
    count.trim().parse().expect("a number")
}

fn mac(text: &str) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(text.trim().split(':')) {
        *byte = u8::from_str_radix(text, 16).expect("an address");
    }
    bytes
}

/// A datagram to a port of the right's where nobody listens; of another host's, so that nobody
/// answers.
fn datagram(from: &[u8; 6], to: &[u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = etherparse::PacketBuilder::ethernet2(*from, *to);
    let step = step.ipv4([10, 77, 0, 2], [198, 51, 100, 7], 64).udp(4000, 9);
    step.write(&mut frame, &[0; 18]).expect("a frame");
    frame
}

fn flood(host: &Namespace, frame: Vec<u8>, rate: u32) -> JoinHandle<u64> {
    host.thread(move || {
        let wire = Wire::open("eth0", false).expect("a socket");
        wire.flood(&frame, Duration::from_millis(1200 + SECONDS * 1000), Some(f64::from(rate)))
    })
}

/// One connection that asks when it is due; see [`ask`].
fn client(host: &Namespace, rate: f64) -> JoinHandle<Vec<(Instant, f64)>> {
    let gateway = format!("{GATEWAY}:80").parse().expect("an address");
    host.thread(move || ask(gateway, rate, Duration::from_millis(1100 + SECONDS * 1000)))
}
