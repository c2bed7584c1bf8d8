//! The laboratory: real clients and servers talk through a real host, for each kind of port and
//! each of these functions. All of it passes, also while the function is replaced and while the
//! chain faults, and every packet is accounted for.
//!
//! | | firewall | nat | router | l4lb |
//! | --- | --- | --- | --- | --- |
//! | `xdp`, native | x | x | x | x |
//! | `xdp`, generic | x | | | |
//! | `dpdk`, `net_af_packet` | x | x | x | x |
//! | `dpdk`, `net_af_xdp` | x | x | x | x |
//!
//! Clients: ping, ping6, curl, dig (UDP and TCP), iperf3 (TCP both ways, UDP), by IPv4 and IPv6;
//! `nat` translates IPv4 alone. Pings are traced on their way. A download goes on while the
//! function is swapped, and while a function in front of it traps: once where its policy is
//! fail-closed, once where it is fail-open. Each time all functions of the chain are made anew,
//! over the state that they had.

use std::time::{Duration, Instant};

use serde_json::Value;
use weir_tests::lab::{Lab, Namespace, PortKind};
use weir_tests::wat_guest;

/// A function, and how the hosts talk through it.
struct Function {
    name: &'static str,
    /// Its part of the chain file; `{left}` and `{right}` are the hosts' link addresses.
    config: &'static str,
    /// Who answers a ping, and who serves.
    addresses: &'static [Address],
    /// What else the hosts must know, by `{left}` and `{right}` as above.
    left: &'static [&'static str],
    right: &'static [&'static str],
}

struct Address {
    ping: &'static str,
    serves: &'static str,
}

/// Both are the host on the right itself.
const RIGHT: Address = Address { ping: "10.77.0.1", serves: "10.77.0.1" };
const RIGHT_V6: Address = Address { ping: "fd77::1", serves: "fd77::1" };

const FIREWALL: Function = Function {
    name: "firewall",
    config: r#"
[function.config]
default = "deny"
rules = [
    { action = "allow", proto = "icmp", direction = "out" },
    { action = "allow", proto = "icmpv6" },
    { action = "allow", proto = "tcp", dport = "53, 80, 5201", direction = "out" },
    { action = "allow", proto = "udp", dport = "53, 5201", direction = "out" },
]
"#,
    addresses: &[RIGHT, RIGHT_V6],
    left: &[],
    right: &[],
};

const NAT: Function = Function {
    name: "nat",
    config: r#"
state = "8MiB"
[function.config]
external = ["203.0.113.1"]
internal = ["10.77.0.0/24"]
"#,
    addresses: &[RIGHT],
    left: &[],
    right: &[
        "ip neighbour add 203.0.113.1 lladdr {left} dev eth0",
        "ip route add 203.0.113.1/32 dev eth0",
        // Without the translation there is no answer.
        "ip route add blackhole 10.77.0.2/32",
    ],
};

const ROUTER: Function = Function {
    name: "router",
    config: r#"
[function.config]
addresses = [
    { ip = "10.78.1.1", mac = "02:00:00:00:00:01", port = "left" },
    { ip = "fd78:1::1", mac = "02:00:00:00:00:01", port = "left" },
    { ip = "10.78.2.1", mac = "02:00:00:00:00:02", port = "right" },
    { ip = "fd78:2::1", mac = "02:00:00:00:00:02", port = "right" },
]
neighbours = [
    { ip = "10.78.1.2", mac = "{left}", port = "left" },
    { ip = "fd78:1::2", mac = "{left}", port = "left" },
    { ip = "10.78.2.2", mac = "{right}", port = "right" },
    { ip = "fd78:2::2", mac = "{right}", port = "right" },
]
"#,
    addresses: &[
        Address { ping: "10.78.2.2", serves: "10.78.2.2" },
        Address { ping: "fd78:2::2", serves: "fd78:2::2" },
    ],
    left: &[
        "ip address flush dev eth0",
        "ip address add 10.78.1.2/24 dev eth0",
        "ip address add fd78:1::2/64 dev eth0 nodad",
        "ip route add 10.78.2.0/24 via 10.78.1.1",
        "ip route add fd78:2::/64 via fd78:1::1",
    ],
    right: &[
        "ip address flush dev eth0",
        "ip address add 10.78.2.2/24 dev eth0",
        "ip address add fd78:2::2/64 dev eth0 nodad",
        "ip route add 10.78.1.0/24 via 10.78.2.1",
        "ip route add fd78:1::/64 via fd78:2::1",
    ],
};

const L4LB: Function = Function {
    name: "l4lb",
    config: r#"
state = "8MiB"
[function.config]
services = [
    { vip = "10.77.0.100", proto = "tcp", backends = [{ ip = "10.77.0.1" }, { ip = "10.77.0.11" }] },
    { vip = "10.77.0.100", proto = "udp", port = 53, backends = [{ ip = "10.77.0.1" }, { ip = "10.77.0.11" }] },
    { vip = "fd77::100", proto = "tcp", backends = [{ ip = "fd77::1" }, { ip = "fd77::11" }] },
    { vip = "fd77::100", proto = "udp", port = 53, backends = [{ ip = "fd77::1" }, { ip = "fd77::11" }] },
    { vip = "10.77.0.100", proto = "udp", port = 5201, backends = [{ ip = "10.77.0.1" }] },
    { vip = "fd77::100", proto = "udp", port = 5201, backends = [{ ip = "fd77::1" }] },
]
"#,
    addresses: &[
        Address { ping: "10.77.0.1", serves: "10.77.0.100" },
        Address { ping: "fd77::1", serves: "fd77::100" },
    ],
    left: &[
        "ip neighbour add 10.77.0.100 lladdr {right} dev eth0",
        "ip neighbour add fd77::100 lladdr {right} dev eth0",
    ],
    right: &[
        "ip address add 10.77.0.11/24 dev eth0",
        // iperf3 answers datagrams from the address that its host prefers.
        "ip address add fd77::11/64 dev eth0 nodad preferred_lft 0",
    ],
};

/// A test for each kind of port and function that are named.
macro_rules! laboratory {
    ($($kind:ident = $ports:expr, $keys:literal: $($function:ident = $spec:expr),*;)*) => {
        mod netns {
            $(mod $kind {
                use super::super::*;
                $(#[test]
                fn $function() {
                    pass($ports, $keys, &$spec);
                })*
            })*
        }
    };
}

laboratory! {
    xdp = PortKind::Xdp, "": firewall = FIREWALL, nat = NAT, router = ROUTER, l4lb = L4LB;
    xdp_generic = PortKind::Xdp, "mode = \"generic\"": firewall = FIREWALL;
    dpdk_af_packet = PortKind::DpdkAfPacket, "": firewall = FIREWALL, nat = NAT, router = ROUTER, l4lb = L4LB;
    dpdk_af_xdp = PortKind::DpdkAfXdp, "": firewall = FIREWALL, nat = NAT, router = ROUTER, l4lb = L4LB;
}

/// Bytes of the download, bytes a second of the slow one, and the times at which something happens
/// to it.
const FILE: usize = 3_000_000;
const RATE: &str = "1500k";
const STEP: Duration = Duration::from_millis(350);
/// UDP ports that make the function of this policy trap.
const TRIPWIRES: [(&str, u16); 2] = [("fail-closed", 9), ("fail-open", 11)];
/// Buffers that DPDK may keep in its cache.
const CACHE: u64 = 384;

fn pass(ports: PortKind, keys: &str, function: &Function) {
    let mut lab = Lab::new(ports, keys);
    let links = [&lab.left, &lab.right].map(link);
    let fill = |text: &str| text.replace("{left}", &links[0]).replace("{right}", &links[1]);
    for (host, commands) in [(&lab.left, function.left), (&lab.right, function.right)] {
        for command in commands {
            host.sh(&fill(command));
        }
    }
    lab.serve(FILE);
    for version in ["1.0.0", "2.0.0"] {
        lab.push(function.name, version);
    }
    let mut chain = String::new();
    for (policy, port) in TRIPWIRES {
        let upload = wat_guest::upload(&wat_guest::module(&tripwire(port)), "packet-function");
        lab.write("tripwire.wasm", upload);
        lab.push_file(&lab.path("tripwire.wasm"), policy, "1.0.0");
        chain += &format!("[[function]]\nuse = \"{policy}\"\non-fault = \"{policy}\"\n");
    }
    let (name, config) = (function.name, fill(function.config));
    chain += &format!("[[function]]\nuse = \"{name}\"\nversion = \"1.0.0\"\n{config}");
    lab.deploy(&chain);
    let before = settled(&lab);
    for address in function.addresses {
        lab.ping(address.ping);
        lab.fetch(address.serves);
        lab.dig(address.serves);
        lab.streams(address.serves);
    }
    trace(&lab, function);
    disturb(&lab, function);
    let after = settled(&lab);
    account(&lab, &before, &after);
    lab.stop();
}

/// Pings are followed on their way through the chain, in both directions, and all answers come.
fn trace(lab: &Lab, function: &Function) {
    let traced = std::thread::scope(|scope| {
        let traced = scope.spawn(|| lab.weir(&["trace", "edge", "--proto", "icmp", "-n", "40"]));
        while !traced.is_finished() {
            lab.ping(function.addresses[0].ping);
        }
        traced.join().expect("weir trace")
    });
    let packets = traced["packets"].as_array().expect("packets");
    assert_eq!(packets.len(), 40, "{traced}");
    assert!(traced["seen"].as_u64() >= Some(40), "{traced}");
    let mut order = TRIPWIRES.map(|(policy, _)| policy).to_vec();
    order.push(function.name);
    for reverse in [false, true] {
        let mut on_this_way =
            packets.iter().filter(|packet| packet["reverse"] == reverse).peekable();
        assert!(on_this_way.peek().is_some(), "pings and their answers: {traced}");
        for packet in on_this_way {
            let steps = packet["steps"].as_array().expect("steps");
            let seen = steps.iter().map(|step| step["function"].as_str().expect("a name"));
            let seen: Vec<_> = seen.collect();
            assert!(order.starts_with(&seen), "{seen:?} of {order:?}");
            // The router forwards, and functions behind it see nothing.
            let verdicts: Vec<_> = steps.iter().map(|step| step["verdict"].as_str()).collect();
            let (last, before) = verdicts.split_last().expect("a function saw it");
            assert!(before.iter().all(|verdict| *verdict == Some("next")), "{packet}");
            let last = last.expect("it was decided");
            assert!(seen.len() == order.len() || last.starts_with("forward"), "{packet}");
        }
        order.reverse();
    }
    let changed = |packet: &Value| packet["steps"][2]["changed"].is_string();
    let changes = ["nat", "router"].contains(&function.name);
    let forward = |packet: &&Value| packet["reverse"] == false;
    assert!(packets.iter().filter(forward).all(|packet| changed(packet) == changes), "{traced}");
}

/// A download goes on while the function is swapped, and while functions of the chain trap.
fn disturb(lab: &Lab, function: &Function) {
    let host = function.addresses[0].serves;
    let download = lab.start_fetch(host, RATE);
    std::thread::sleep(STEP);
    let swap = lab.weir(&["function", "swap", function.name, "--to", "2.0.0"]);
    assert_eq!(swap["packets_lost"], 0, "{swap}");
    for (place, (policy, port)) in TRIPWIRES.into_iter().enumerate() {
        std::thread::sleep(STEP);
        lab.datagram(host, port);
        lab.wait("the function has trapped, and is back", |lab| {
            let wire = &lab.status()["functions"][place];
            assert_eq!(wire["name"], policy);
            wire["faults"] == 1 && wire["state"] == "running"
        });
    }
    lab.finish_fetch(download);
    let status = lab.status();
    let functions = status["functions"].as_array().expect("functions");
    assert_eq!(functions[2]["version"], "2.0.0", "a fault of others brings no version back");
    assert_eq!(functions[2]["faults"], 0, "{status}");
    assert!(status["drops"]["fault"].as_u64() >= Some(1), "fail-closed: {status}");
    // The chain still knows what it knew: the same answers as before.
    for address in function.addresses {
        lab.ping(address.ping);
        lab.fetch(address.serves);
    }
}

/// Traps on a UDP datagram by IPv4 to this port; all else passes.
fn tripwire(port: u16) -> String {
    let port = port.swap_bytes();
    wat_guest::each(&format!(
        "(if (i32.and (i32.eq (i32.load8_u offset=23 (local.get $p)) (i32.const 17))
                      (i32.eq (i32.load16_u offset=36 (local.get $p)) (i32.const {port})))
           (then unreachable))"
    ))
}

/// A host's address on its wire.
fn link(host: &Namespace) -> String {
    host.sh("cat /sys/class/net/eth0/address").trim().to_owned()
}

/// What everybody has counted.
#[derive(Clone, PartialEq)]
struct Counts {
    chain: Value,
    ports: [Value; 2],
    /// Frames that a host sent and received.
    wires: [[u64; 2]; 2],
}

impl Counts {
    fn read(lab: &Lab) -> Self {
        let wire = |host: &Namespace| {
            ["tx", "rx"].map(|way| {
                let count = host.sh(&format!("cat /sys/class/net/eth0/statistics/{way}_packets"));
                count.trim().parse().expect("a number")
            })
        };
        Self {
            chain: lab.status(),
            ports: ["left", "right"].map(|port| lab.port(port)),
            wires: [wire(&lab.left), wire(&lab.right)],
        }
    }
}

/// The counts once they stand still.
fn settled(lab: &Lab) -> Counts {
    let until = Instant::now() + Duration::from_secs(10);
    let mut last = Counts::read(lab);
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = Counts::read(lab);
        if now == last || Instant::now() > until {
            return now;
        }
        last = now;
    }
}

/// A number in a status.
fn count(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("no {name} in {of}"))
}

/// Packets that had left a port when the kernel dropped them.
fn by_kernel(port: &Value) -> u64 {
    port["drops"]["tx-kernel"].as_u64().unwrap_or(0)
}

/// Every frame that a host sent came in, or was dropped and counted; every packet that came in
/// left, or was dropped under a reason; all that left arrived. No buffer is missing.
fn account(lab: &Lab, before: &Counts, after: &Counts) {
    let grown = |of: &dyn Fn(&Counts) -> u64| of(after) - of(before);
    let mut received = 0;
    for (n, port) in ["left", "right"].into_iter().enumerate() {
        let sent = grown(&|counts| counts.wires[n][0]);
        let came_in = grown(&|counts| count(&counts.ports[n], "rx_packets"));
        let dropped = grown(&|counts| count(&counts.ports[n], "rx_dropped"));
        assert_eq!(sent, came_in + dropped, "frames sent to {port}: {}", after.ports[n]);
        let left = grown(&|counts| count(&counts.ports[n], "tx_packets"));
        let arrived = grown(&|counts| counts.wires[n][1]);
        let lost = grown(&|counts| by_kernel(&counts.ports[n]));
        assert_eq!(left, arrived + lost, "frames sent by {port}: {}", after.ports[n]);
        received += came_in;
    }
    let chain = &after.chain;
    let came_in = grown(&|counts| count(&counts.chain, "packets_in"));
    assert_eq!(came_in, received, "what ports received came to the chain: {chain}");
    let out = grown(&|counts| count(&counts.chain, "packets_out"));
    let drops = |such: &dyn Fn(&str) -> bool| {
        let sum = |counts: &Counts| -> u64 {
            let drops = counts.chain["drops"].as_object().expect("drops");
            drops.iter().filter(|(name, _)| such(name)).map(|(_, n)| n.as_u64().unwrap()).sum()
        };
        sum(after) - sum(before)
    };
    let by_chain = |name: &str| {
        name.contains(':') || ["fault", "out-of-order", "lost-in-fault"].contains(&name)
    };
    // What is answered by a packet of the router's own.
    let made = drops(&|name| name == "router:9");
    assert_eq!(came_in + made, out + drops(&by_chain), "every packet has an end: {chain}");
    let left = |name: &'static str| {
        move |counts: &Counts| count(&counts.ports[0], name) + count(&counts.ports[1], name)
    };
    let (left, lost) = (grown(&left("tx_packets")), grown(&left("tx_dropped")));
    let after_left = grown(&|counts| counts.ports.iter().map(by_kernel).sum());
    assert_eq!(out, left + lost - after_left, "what the chain let out left: {chain}");
    let pool = &chain["pool"];
    assert_eq!(count(pool, "free") + count(pool, "out"), count(pool, "total"), "{pool}");
    let out = count(pool, "out");
    let at_start = count(&before.chain["pool"], "out");
    assert!(
        out <= at_start + CACHE,
        "buffers are missing: {out} are out, {at_start} were; {}",
        lab.log()
    );
}
