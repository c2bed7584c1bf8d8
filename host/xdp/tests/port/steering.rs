//! Steering: what the program decides by rules, with real packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, VlanId};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weir_pool::Pool;
use weir_port::{Inspect, Moved, OffloadedRules, Place, Port, Steer};
use weir_steering::{Key, Prefix, Rule, Target, UNTAGGED};
use weir_xdp::{Mode, Pinning, XdpConfig, XdpPort};

use crate::far::{Far, PATIENCE, finish, ip, namespace, pair_of, pool, port, receive};

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn config(mode: Mode) -> XdpConfig {
    XdpConfig { mode, pin: Pinning::Never, ..XdpConfig::new("a") }
}

/// A UDP packet of this flow.
pub(crate) fn udp(source: u32, destination_port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(MACS[1], MACS[0])
        .ipv4(source.to_be_bytes(), [192, 0, 2, 1], 64)
        .udp(4000, destination_port)
        .write(&mut bytes, &[0; 18])
        .unwrap();
    bytes
}

fn to_port(port: u16, target: Target) -> Rule {
    Rule { destination_ports: Some((port, port)), protocol: Some(17), ..Rule::all(target) }
}

fn from(source: u32, target: Target) -> Rule {
    let address = IpAddr::V4(source.into());
    Rule { source: Some(Prefix { address, length: 32 }), ..Rule::all(target) }
}

/// A port that is read, its steering, and its counters.
fn steered(config: XdpConfig, pool: &mut Pool) -> (XdpPort, Arc<dyn Steer>, Counters) {
    let mut port = port(config, pool).unwrap();
    port.receive(pool, &mut Vec::new(), 1).unwrap();
    let (steering, inspector) = (port.steering().unwrap(), port.inspector().unwrap());
    (port, steering, Counters(inspector))
}

struct Counters(Arc<dyn Inspect>);

impl Counters {
    fn of(&self, name: &str) -> u64 {
        let counters = self.0.inspect().counters;
        counters.iter().find(|counter| counter.0 == name).unwrap().1
    }

    fn dropped(&self) -> u64 {
        self.of("xdp_dropped_steered")
    }

    fn steered(&self) -> u64 {
        self.of("xdp_to_kernel_steered")
    }

    /// Waits until so many packets were dropped.
    #[track_caller]
    fn wait_dropped(&self, wanted: u64) {
        let until = Instant::now() + PATIENCE;
        while self.dropped() < wanted && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.dropped(), wanted);
    }
}

/// The packets that came to the port, given back to the pool.
fn taken(port: &mut XdpPort, pool: &mut Pool, wanted: usize) -> Vec<Vec<u8>> {
    let packets = receive(port, pool, wanted);
    let bytes = packets.iter().map(|p| pool.bytes(p.descriptor).unwrap().to_vec()).collect();
    pool.give_all(packets.iter().map(|packet| packet.buffer));
    bytes
}

#[test]
fn netns_rules_keep_packets_from_the_port() {
    namespace();
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    for mode in [Mode::Native, Mode::Generic] {
        let mut pool = pool(256, 2048);
        let (mut port, steering, counters) = steered(config(mode), &mut pool);
        let rules = [
            to_port(1, Target::Chain(0)),
            from(0x0a00_0001, Target::Drop),
            to_port(2, Target::Kernel),
            Rule { port: Some(9), ..Rule::all(Target::Drop) },
        ];
        assert_eq!(steering.replace(&rules, 3).unwrap(), OffloadedRules { rules: 3, of: 3 });
        assert_eq!(counters.0.inspect().fact("steering"), Some("3 of 3 rules in XDP"));
        // Twice: searched, and then known.
        for round in 1..=2 {
            far.send(&udp(0x0a00_0001, 1));
            far.send(&udp(0x0a00_0001, 2));
            far.send(&udp(0x0a00_0002, 2));
            far.send(&udp(0x0a00_0002, 3));
            let expected = [udp(0x0a00_0001, 1), udp(0x0a00_0002, 3)];
            assert_eq!(taken(&mut port, &mut pool, 2), expected);
            assert_eq!(kernel.receive(), udp(0x0a00_0002, 2));
            assert_eq!((counters.dropped(), counters.steered()), (round, round));
        }
        // What is known is not searched again.
        let found = Place::Before { flows: Some(1), packets: None };
        let places = [Place::Behind(None), found.clone(), found, Place::Nowhere];
        assert_eq!(steering.places(), places);
        // Other rules decide from the next packet on, whatever is known.
        steering.replace(&[from(0x0a00_0002, Target::Drop)], 3).unwrap();
        far.send(&udp(0x0a00_0002, 2));
        far.send(&udp(0x0a00_0001, 2));
        assert_eq!(taken(&mut port, &mut pool, 1), [udp(0x0a00_0001, 2)]);
        assert_eq!((counters.dropped(), counters.steered()), (3, 2));
        // None: everything is the port's.
        steering.replace(&[], 3).unwrap();
        far.send(&udp(0x0a00_0002, 2));
        assert_eq!(taken(&mut port, &mut pool, 1), [udp(0x0a00_0002, 2)]);
        finish(port, &mut pool);
        assert_eq!(pool.accounting().out, 0);
    }
}

/// Two CPUs find one rule at once: no flow is lost in its count.
#[test]
fn netns_flows_are_counted_whichever_cpu_finds_them() {
    const FLOWS: u32 = 150_000;
    namespace();
    pair_of("a", 1);
    let mut pool = pool(256, 2048);
    // In this mode the program runs on the CPU of who sends.
    let (port, steering, counters) = steered(config(Mode::Generic), &mut pool);
    steering.replace(&[Rule::all(Target::Drop)], 0).unwrap();
    let cpus = sched_getaffinity(None).unwrap();
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| cpus.is_set(*cpu)).take(2).collect();
    std::thread::scope(|scope| {
        for cpu in &cpus {
            scope.spawn(move || {
                let mut only = CpuSet::new();
                only.set(*cpu);
                sched_setaffinity(None, &only).unwrap();
                let far = Far::on("a-far");
                for n in 0..FLOWS {
                    far.send(&udp((*cpu as u32) << 24 | n, 5));
                }
            });
        }
    });
    let all = u64::from(FLOWS) * cpus.len() as u64;
    counters.wait_dropped(all);
    assert_eq!(steering.places(), [Place::Before { flows: Some(all), packets: None }]);
    finish(port, &mut pool);
}

/// Rules that came before the port was attached are in force with its first packet, whether it is
/// read or not.
#[test]
fn netns_rules_wait_for_the_port_and_hold_at_one_that_nobody_reads() {
    namespace();
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pool = pool(256, 2048);
    let mut port = XdpPort::open("lan", config(Mode::Auto)).unwrap();
    let steering = port.steering().unwrap();
    let taken = steering.replace(&[to_port(1, Target::Drop), Rule::all(Target::Kernel)], 0);
    assert_eq!(taken.unwrap(), OffloadedRules { rules: 2, of: 2 });
    let closed = Place::Behind(Some("the port is not open".into()));
    assert_eq!(steering.places(), [closed.clone(), closed]);
    port.attach(&mut pool).unwrap();
    let counters = Counters(port.inspector().unwrap());
    far.send(&udp(1, 1));
    far.send(&udp(1, 2));
    assert_eq!(kernel.receive(), udp(1, 2));
    assert_eq!((counters.dropped(), counters.steered()), (1, 1));
    // Others hold there too.
    steering.replace(&[to_port(2, Target::Drop)], 0).unwrap();
    far.send(&udp(1, 2));
    far.send(&udp(1, 1));
    assert_eq!(kernel.receive(), udp(1, 1));
    assert_eq!(counters.dropped(), 2);
    // They end with the port.
    port.finish(&mut pool).unwrap();
    far.send(&udp(1, 2));
    assert_eq!(kernel.receive(), udp(1, 2));
    // Nor does it matter whether there were any before: nobody reads this port.
    let mut port = XdpPort::open("lan", config(Mode::Auto)).unwrap();
    let steering = port.steering().unwrap();
    port.attach(&mut pool).unwrap();
    steering.replace(&[to_port(1, Target::Drop)], 0).unwrap();
    far.send(&udp(1, 1));
    far.send(&udp(1, 2));
    assert_eq!(kernel.receive(), udp(1, 2));
    port.finish(&mut pool).unwrap();
}

/// A port that is opened anew leaves no moment in which the kernel gets what rules drop.
#[test]
fn netns_what_rules_drop_stays_dropped_until_the_next_port_is_there() {
    namespace();
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pool = pool(256, 2048);
    let look = |dropped: u16, passed: u16| {
        far.send(&udp(1, dropped));
        far.send(&udp(1, passed));
        assert_eq!(kernel.receive(), udp(1, passed));
    };
    let rules = [to_port(1, Target::Drop), to_port(2, Target::Kernel)];
    let close = |rules: &[Rule], pool: &mut Pool| {
        let (open, steering, _) = steered(config(Mode::Auto), pool);
        steering.replace(rules, 0).unwrap();
        assert!(!steering.outlive_port(true));
        finish(open, pool);
        steering
    };
    let kept = close(&rules, &mut pool);
    assert!(kept.outlive_port(true));
    // What is for the port goes to the kernel.
    look(1, 2);
    look(1, 3);
    kept.replace(&[to_port(3, Target::Drop)], 0).unwrap();
    look(3, 1);
    // The next port has its own rules, whatever becomes of those.
    let (open, steering, _) = steered(config(Mode::Auto), &mut pool);
    steering.replace(&[to_port(2, Target::Drop), Rule::all(Target::Kernel)], 0).unwrap();
    assert!(!kept.outlive_port(false));
    drop(kept);
    look(2, 3);
    finish(open, &mut pool);
    // Nobody said that these are to stay.
    far.send(&udp(1, 2));
    assert_eq!(kernel.receive(), udp(1, 2));
    // One without rules has none.
    let kept = close(&rules, &mut pool);
    let unread = port(config(Mode::Auto), &mut pool).unwrap();
    far.send(&udp(1, 1));
    assert_eq!(kernel.receive(), udp(1, 1));
    assert!(!kept.outlive_port(true));
    finish(unread, &mut pool);
    // They end with those that drop, and when they are taken back: so does the program.
    for taken_back in [false, true] {
        let kept = close(&rules, &mut pool);
        look(1, 2);
        if taken_back {
            assert!(!kept.outlive_port(false));
        } else {
            kept.replace(&[to_port(1, Target::Kernel)], 0).unwrap();
        }
        assert!(!kept.outlive_port(true));
        far.send(&udp(1, 1));
        assert_eq!(kernel.receive(), udp(1, 1));
        // In this mode it is another program.
        finish(port(config(Mode::Generic), &mut pool).unwrap(), &mut pool);
    }
    // An interface of the same name is another one.
    let kept = close(&rules, &mut pool);
    ip("link delete dev a");
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let (open, steering, _) = steered(config(Mode::Auto), &mut pool);
    steering.replace(&rules, 0).unwrap();
    assert!(!kept.outlive_port(true));
    far.send(&udp(1, 1));
    far.send(&udp(1, 2));
    assert_eq!(kernel.receive(), udp(1, 2));
    finish(open, &mut pool);
}

/// The first port of an interface brings the rules of the queues along whose ports are attached
/// behind it.
#[test]
fn netns_rules_of_all_queues_are_there_with_the_program() {
    namespace();
    pair_of("a", 2);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pools = [pool(256, 2048), pool(256, 2048)];
    let mut ports = [0, 1].map(|queue| {
        let port = XdpPort::open("lan", XdpConfig { queue, ..config(Mode::Auto) }).unwrap();
        port.steering().unwrap().replace(&[to_port(9, Target::Drop)], 0).unwrap();
        port
    });
    // The kernel chooses a queue for each flow: some come to the second, whose port is not
    // attached.
    let send = || (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, 9)));
    let [first, second] = &mut ports;
    first.attach(&mut pools[0]).unwrap();
    send();
    far.send(&udp(1, 1));
    assert_eq!(kernel.receive(), udp(1, 1), "none of the others");
    let dropped = Counters(first.inspector().unwrap()).dropped();
    assert!(dropped < 100, "no flow came to the second queue");
    second.attach(&mut pools[1]).unwrap();
    send();
    let counters = Counters(second.inspector().unwrap());
    counters.wait_dropped(100 - dropped);
    for (port, pool) in ports.into_iter().zip(&mut pools) {
        finish(port, pool);
    }
}

/// Frames of all kinds that steering reads.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let id = |n| VlanId::try_new(n).unwrap();
    for tags in 0..3 {
        for (n, v6) in [(1, false), (2, true)] {
            for tcp in [false, true] {
                let ethernet = PacketBuilder::ethernet2(MACS[1], MACS[0]);
                macro_rules! ip {
                    ($below:expr) => {
                        if v6 {
                            $below.ipv6([n; 16], [9; 16], 64)
                        } else {
                            $below.ipv4([10, n, 0, 1], [192, 0, 2, n], 64)
                        }
                    };
                }
                let ip = match tags {
                    0 => ip!(ethernet),
                    1 => ip!(ethernet.single_vlan(id(7))),
                    _ => ip!(ethernet.double_vlan(id(8), id(9))),
                };
                let mut bytes = Vec::new();
                if tcp {
                    ip.tcp(1000, 443, 1, 2).write(&mut bytes, &[0; 30])
                } else {
                    ip.udp(1001, 53).write(&mut bytes, &[0; 30])
                }
                .unwrap();
                // A code point.
                let at = 14 + tags * 4;
                if v6 {
                    bytes[at] |= 0xb;
                    bytes[at + 1] |= 0x80;
                } else {
                    bytes[at + 1] = 46 << 2;
                }
                frames.push(bytes);
            }
        }
    }
    let v4 = |change: fn(&mut Vec<u8>)| {
        let mut bytes = udp(0x0a63_0000, 53);
        change(&mut bytes);
        bytes
    };
    // A protocol without ports, fragments, options, a payload that is cut off.
    frames.push(v4(|bytes| bytes[23] = 47));
    frames.push(v4(|bytes| bytes[20] = 0x20));
    frames.push(v4(|bytes| bytes[21] = 5));
    frames.push(v4(|bytes| {
        bytes[14] = 0x47;
        bytes.splice(34..34, [1; 8]);
    }));
    frames.push(v4(|bytes| bytes.truncate(36)));
    // IPv6 with extension headers: of each kind, several, more than are followed, a fragment, the
    // first and the only one, and cut off.
    let v6 = |extensions: &[&[u8]], protocol: u8| {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(MACS[1], MACS[0])
            .ipv6([1; 16], [9; 16], 64)
            .udp(1, 2)
            .write(&mut bytes, &[0; 30])
            .unwrap();
        bytes[20] = protocol;
        let headers = extensions.concat();
        bytes[19] += headers.len() as u8;
        bytes.splice(54..54, headers);
        bytes
    };
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    let (hop_by_hop, routing, destination, mobility) = (0, 43, 60, 135);
    for kind in [hop_by_hop, routing, destination, mobility] {
        frames.push(v6(&[&options(17)], kind));
    }
    let longer = [17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    frames.push(v6(&[&longer], destination));
    let authentication = [destination, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1];
    frames.push(v6(&[&options(51), &authentication, &options(17)], hop_by_hop));
    for (offset, flag) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let fragment = [17, 9, offset, flag, 0, 0, 0, 5];
        frames.push(v6(&[&fragment], 44));
        frames.push(v6(&[&options(44), &fragment], hop_by_hop));
    }
    for count in [7, 8] {
        let mut headers = [options(destination); 9];
        headers[count] = options(17);
        let headers: Vec<_> = headers[..=count].iter().map(<[u8; 8]>::as_slice).collect();
        frames.push(v6(&headers, destination));
    }
    let beyond = v6(&[&[17, 200, 1, 4, 0, 0, 0, 0]], destination);
    frames.extend([beyond[..58].to_vec(), beyond]);
    // Not IP.
    let mut arp = vec![0; 42];
    arp[..6].copy_from_slice(&[0xff; 6]);
    arp[6..12].copy_from_slice(&MACS[1]);
    (arp[12], arp[13]) = (8, 6);
    frames.push(arp);
    frames
}

/// A rule for exactly this key.
fn exactly(key: &Key) -> Rule {
    let prefix = |address: [u8; 16]| {
        let address = Ipv6Addr::from(address);
        match address.to_ipv4_mapped().filter(|_| key.is_ipv4()) {
            Some(address) => Prefix { address: address.into(), length: 32 },
            None => Prefix { address: address.into(), length: 128 },
        }
    };
    let ip = key.is_ipv4() || key.is_ipv6();
    Rule {
        vlan: Some(key.vlan),
        ethertype: Some(key.ethertype),
        source_mac: Some(key.macs[1]),
        destination_mac: Some(key.macs[0]),
        source: ip.then(|| prefix(key.source)),
        destination: ip.then(|| prefix(key.destination)),
        protocol: Some(key.protocol),
        source_ports: Some((key.source_port, key.source_port)),
        destination_ports: Some((key.destination_port, key.destination_port)),
        dscp: ip.then_some(key.dscp),
        ..Rule::all(Target::Drop)
    }
}

#[test]
fn netns_the_program_reads_frames_as_the_host_does() {
    namespace();
    pair_of("a", 1);
    let far = Far::on("a-far");
    let mut pool = pool(256, 2048);
    let (mut port, steering, counters) = steered(config(Mode::Auto), &mut pool);
    let frames = frames();
    let keys: Vec<_> = frames.iter().map(|frame| Key::read(frame, 0)).collect();
    assert!(keys.iter().any(|key| key.vlan != UNTAGGED) && keys.iter().any(Key::is_ipv6));
    // Each alone: nothing but its own rule means it.
    for (n, (frame, key)) in frames.iter().zip(&keys).enumerate() {
        steering.replace(&[exactly(key)], 0).unwrap();
        far.send(frame);
        counters.wait_dropped(n as u64 + 1);
    }
    // What is malformed is for who reads the port.
    let mut malformed = udp(1, 2);
    malformed[14] = 0x44;
    steering.replace(&[Rule::all(Target::Drop)], 0).unwrap();
    far.send(&malformed);
    assert_eq!(taken(&mut port, &mut pool, 1), [malformed]);
    finish(port, &mut pool);
}

/// Tables are exchanged while packets come: none is decided otherwise than the old table or the new
/// one says.
#[test]
fn netns_no_packet_is_decided_by_half_a_table() {
    const EXCHANGES: u32 = 40;
    namespace();
    pair_of("a", 1);
    let far = Far::on("a-far");
    let mut pool = pool(1024, 2048);
    let (mut port, steering, counters) = steered(config(Mode::Auto), &mut pool);
    // All tables drop what goes to port 2 and let through what goes to port 1, each by other rules
    // over other fields in another order.
    let table = |n: u32| -> Vec<Rule> {
        let length = 20 + (n % 12) as u8;
        let many = (0..4000).map(|k| {
            let address = IpAddr::V4((0xac00_0000 + (k << 12)).into());
            Rule { source: Some(Prefix { address, length }), ..Rule::all(Target::Kernel) }
        });
        let through = to_port(1, Target::Chain(n as u16));
        if n.is_multiple_of(2) {
            many.chain([through, Rule::all(Target::Drop)]).collect()
        } else {
            [to_port(2, Target::Drop), through].into_iter().chain(many).collect()
        }
    };
    steering.replace(&table(0), 0).unwrap();
    let done = AtomicBool::new(false);
    let (mut sent, mut came) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=EXCHANGES {
                steering.replace(&table(n), 0).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        let mut packets = Vec::new();
        while !done.load(Ordering::Acquire) {
            // New flows and old ones.
            for n in 0..16_u32 {
                let source = if n.is_multiple_of(2) { 7 } else { sent as u32 };
                far.send(&udp(source, 1));
                far.send(&udp(source, 2));
                sent += 1;
            }
            let until = Instant::now() + PATIENCE;
            while came < sent && Instant::now() < until {
                port.receive(&mut pool, &mut packets, 64).unwrap();
                for packet in packets.drain(..) {
                    assert_eq!(pool.bytes(packet.descriptor).unwrap()[37], 1, "what is dropped");
                    pool.give(packet.buffer);
                    came += 1;
                }
            }
            assert_eq!(came, sent);
        }
    });
    assert!(sent > 1000, "{sent}");
    assert_eq!((counters.dropped(), counters.steered()), (sent, 0));
    finish(port, &mut pool);
}

#[test]
fn netns_a_hundred_thousand_rules_decide_and_are_replaced() {
    const RULES: u32 = 100_000;
    namespace();
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pool = pool(256, 2048);
    let (mut port, steering, counters) = steered(config(Mode::Auto), &mut pool);
    let target = |n: u32| [Target::Chain(0), Target::Kernel, Target::Drop][n as usize % 3];
    // More often than the map could hold them all.
    for round in 0..4 {
        let first = 0x0a00_0000 + round * RULES;
        let rules: Vec<_> = (0..RULES).map(|n| from(first + n, target(n))).collect();
        let started = Instant::now();
        let taken_rules = steering.replace(&rules, 0).unwrap();
        println!("{RULES} rules replaced in {:?}", started.elapsed());
        // The last one is for a chain, and needs no entry.
        assert_eq!(taken_rules, OffloadedRules { rules: RULES as usize, of: RULES as usize });
        let before = counters.dropped();
        for n in (0..RULES).step_by(5000) {
            far.send(&udp(first + n, 1));
            match target(n) {
                Target::Chain(_) => {
                    assert_eq!(taken(&mut port, &mut pool, 1), [udp(first + n, 1)]);
                }
                Target::Kernel => assert_eq!(kernel.receive(), udp(first + n, 1)),
                Target::Drop => {}
            }
        }
        let drops = (0..RULES).step_by(5000).filter(|n| target(*n) == Target::Drop).count();
        counters.wait_dropped(before + drops as u64);
    }
    finish(port, &mut pool);
}

#[test]
fn netns_each_queue_of_an_interface_has_room_for_as_many_rules_and_those_that_replace_them() {
    const RULES: u32 = 100_000;
    namespace();
    pair_of("a", 2);
    let (mut one, mut two) = (pool(256, 2048), pool(256, 2048));
    let (first, steers_first, _) = steered(config(Mode::Auto), &mut one);
    let (second, steers_second, _) =
        steered(XdpConfig { queue: 1, ..config(Mode::Auto) }, &mut two);
    for round in 0..2 {
        let rules: Vec<_> =
            (0..RULES).map(|n| from(0x0a00_0000 + round * RULES + n, Target::Drop)).collect();
        for steering in [&steers_first, &steers_second] {
            let all = OffloadedRules { rules: RULES as usize, of: RULES as usize };
            assert_eq!(steering.replace(&rules, 0).unwrap(), all);
        }
    }
    for inspector in [first.inspector(), second.inspector()] {
        let details = inspector.unwrap().inspect();
        assert_eq!(details.fact("steering"), Some("100000 of 100000 rules in XDP"));
    }
    // Nor is there less when a queue is closed, and opened again with as many.
    finish(first, &mut one);
    let rules: Vec<_> = (0..RULES).map(|n| from(0x0a00_0000 + n, Target::Drop)).collect();
    for _ in 0..2 {
        let mut again = XdpPort::open("lan", config(Mode::Auto)).unwrap();
        again.steering().unwrap().replace(&rules, 0).unwrap();
        again.attach(&mut one).unwrap();
        let details = again.inspector().unwrap().inspect();
        assert_eq!(details.fact("steering"), Some("100000 of 100000 rules in XDP"));
        finish(again, &mut one);
    }
    finish(second, &mut two);
}

#[test]
fn netns_the_rules_of_a_port_that_is_dropped_go_with_it() {
    namespace();
    pair_of("a", 2);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pools = [pool(256, 2048), pool(256, 2048)];
    let ports = [0, 1].map(|queue| {
        let pool = &mut pools[queue as usize];
        let (port, steering, counters) = steered(XdpConfig { queue, ..config(Mode::Auto) }, pool);
        steering.replace(&[Rule::all(Target::Drop)], 0).unwrap();
        (port, counters)
    });
    // The kernel chooses a queue for each flow, by a hash that differs from boot to boot.
    let send = || (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, 9)));
    send();
    let [(first, one), (second, two)] = ports;
    let until = Instant::now() + PATIENCE;
    while one.dropped() + two.dropped() < 100 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let of_first = one.dropped();
    assert!(of_first > 0 && of_first + two.dropped() == 100, "{of_first} {}", two.dropped());
    drop(first);
    send();
    for _ in 0..of_first {
        assert!(kernel.receive().starts_with(&MACS[0]), "{}", two.dropped());
    }
    two.wait_dropped(2 * (100 - of_first));
    finish(second, &mut pools[1]);
}

/// The port's rules hold at all queues of its interface, also behind those that can have a port:
/// what is dropped is dropped everywhere, what is for a chain or for the kernel is the kernel's at
/// queues without a port, and each packet is counted once.
#[test]
fn netns_what_rules_drop_is_dropped_at_queues_without_a_port() {
    const FLOWS: u64 = 1000;
    namespace();
    // 66 queues: the port has one, and two are behind the last that could have one.
    pair_of("a", 66);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let send = |port| (0..FLOWS as u32).for_each(|n| far.send(&udp(0x0a00_0000 + n, port)));
    for mode in [Mode::Native, Mode::Generic] {
        let mut pool = pool(4096, 2048);
        let config = XdpConfig { alone: true, rx_ring: 2048, ..config(mode) };
        let (mut port, steering, counters) = steered(config, &mut pool);
        let rules = |first| {
            [
                to_port(first, Target::Chain(0)),
                to_port(first + 1, Target::Drop),
                to_port(first + 2, Target::Kernel),
                to_port(first + 3, Target::Drop),
            ]
        };
        steering.replace(&rules(1), 0).unwrap();
        // Dropped first: whatever of it passed would be what the kernel has first.
        send(2);
        send(3);
        send(1);
        counters.wait_dropped(FLOWS);
        for n in 0..FLOWS as u32 {
            assert_eq!(kernel.receive(), udp(0x0a00_0000 + n, 3));
        }
        assert_eq!(counters.steered(), FLOWS);
        let mine = counters.of("xdp_redirected");
        assert!(mine > 0 && mine < FLOWS / 10, "{mine}");
        assert_eq!(counters.of("xdp_to_kernel_no_socket"), FLOWS - mine);
        assert_eq!(taken(&mut port, &mut pool, mine as usize).len(), mine as usize);
        for _ in mine..FLOWS {
            assert_eq!(kernel.receive()[36..38], [0, 1]);
        }
        let found = |flows| Place::Before { flows: Some(flows), packets: None };
        let places = [Place::Behind(None), found(FLOWS), found(FLOWS), found(0)];
        assert_eq!(steering.places(), places);
        // Other rules are others everywhere.
        steering.replace(&rules(2), 0).unwrap();
        send(3);
        send(5);
        counters.wait_dropped(3 * FLOWS);
        // Without any the kernel has everything of the other queues.
        steering.replace(&[], 0).unwrap();
        send(3);
        // Which queue a flow comes to depends on its ports.
        let [redirected, at_others] = ["xdp_redirected", "xdp_to_kernel_no_socket"];
        let until = Instant::now() + PATIENCE;
        let came = || counters.of(redirected) + counters.of(at_others);
        while came() < 2 * FLOWS && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let more = counters.of(redirected) - mine;
        let expected = (2 * FLOWS - mine - more, 3 * FLOWS);
        assert_eq!((counters.of(at_others), counters.dropped()), expected);
        for _ in more..FLOWS {
            assert_eq!(kernel.receive()[36..38], [0, 3]);
        }
        taken(&mut port, &mut pool, more as usize);
        // They stay as long as the port's own do, and go with those.
        steering.replace(&rules(1), 0).unwrap();
        steering.outlive_port(true);
        finish(port, &mut pool);
        send(2);
        // Somewhere behind the packets of all queues.
        send(3);
        for _ in 0..FLOWS {
            assert_eq!(kernel.receive()[36..38], [0, 3]);
        }
        steering.outlive_port(false);
        send(2);
        for n in 0..FLOWS as u32 {
            assert_eq!(kernel.receive(), udp(0x0a00_0000 + n, 2));
        }
    }
}

/// Queues of which several ports could have the packets are steered as none of them.
#[test]
fn netns_the_rules_of_one_of_several_ports_hold_at_its_queue_alone() {
    namespace();
    pair_of("a", 2);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pool = pool(256, 2048);
    let (port, steering, counters) = steered(config(Mode::Auto), &mut pool);
    steering.replace(&[Rule::all(Target::Drop)], 0).unwrap();
    (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, 9)));
    let other = || counters.of("xdp_to_kernel_no_socket");
    let until = Instant::now() + PATIENCE;
    while counters.dropped() + other() < 100 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let passed = other();
    assert!(passed > 0 && passed + counters.dropped() == 100, "{passed}");
    (0..passed).for_each(|_| assert!(kernel.receive().starts_with(&MACS[0])));
    finish(port, &mut pool);
}

/// `ethtool -L`: the driver may be told to use more queues, or fewer, at any time.
#[test]
fn netns_what_rules_drop_is_dropped_at_queues_that_come_later() {
    namespace();
    pair_of("a", 4);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let use_queues = |ends: [&str; 2]| {
        for end in ends {
            let mut ethtool = Command::new("ethtool");
            let done = ethtool.args(["-L"]).args(end.split(' ')).status().expect("`ethtool`");
            assert!(done.success(), "ethtool -L {end}");
        }
    };
    // A veth runs the program in its driver at queues only that it had when the program came.
    for (mode, first) in [(Mode::Native, 4), (Mode::Generic, 1)] {
        use_queues([&format!("a-far tx {first}"), &format!("a rx {first}")]);
        let mut pool = pool(256, 2048);
        let config = XdpConfig { alone: true, ..config(mode) };
        let (port, steering, counters) = steered(config, &mut pool);
        steering.replace(&[to_port(9, Target::Drop)], 0).unwrap();
        let mut sent = 0;
        let mut drops = || {
            (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, 9)));
            sent += 100;
            counters.wait_dropped(sent);
        };
        drops();
        use_queues(["a-far tx 2", "a rx 2"]);
        drops();
        use_queues(["a rx 4", "a-far tx 4"]);
        drops();
        (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, 8)));
        assert_eq!(kernel.receive()[36..38], [0, 8]);
        assert_eq!(counters.0.inspect().problem, None);
        finish(port, &mut pool);
    }
}

/// A queue that gets a port is that port's, and steered as the others again when it is closed.
#[test]
fn netns_a_queue_is_steered_as_the_ports_first_until_it_is_one_of_them() {
    namespace();
    pair_of("a", 4);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pools = [pool(256, 2048), pool(256, 2048)];
    let of = |queue| XdpConfig { queue, first_queue: Some(0), alone: true, ..config(Mode::Auto) };
    let rule = to_port(9, Target::Drop);
    let send = |port| (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, port)));
    // The second one comes first, and has no rules yet: it brings those of the first along.
    let first = XdpPort::open("lan", of(0)).unwrap();
    first.steering().unwrap().replace(&[rule], 0).unwrap();
    let (second, steers_second, count_second) = steered(of(1), &mut pools[1]);
    send(9);
    send(8);
    // What is the second's comes to its socket, or waits there: the kernel has what others would
    // have.
    let mine = |counters: &Counters| counters.of("xdp_redirected");
    let until = Instant::now() + PATIENCE;
    while kernel.receive()[36..38] != [0, 8] {
        assert!(Instant::now() < until, "all of the others pass");
    }
    let both = mine(&count_second);
    assert!(both > 0 && both < 200, "{both}");
    steers_second.replace(&[rule], 0).unwrap();
    let mut first = first;
    first.attach(&mut pools[0]).unwrap();
    first.receive(&mut pools[0], &mut Vec::new(), 1).unwrap();
    let count_first = Counters(first.inspector().unwrap());
    send(9);
    let until = Instant::now() + PATIENCE;
    let dropped = || count_first.dropped() + count_second.dropped();
    while dropped() < 100 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(dropped(), 100);
    // Its own rules are not those of the others.
    steers_second.replace(&[], 0).unwrap();
    send(9);
    let until = Instant::now() + PATIENCE;
    while dropped() + mine(&count_second) < 200 + both && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(mine(&count_second) > both);
    assert_eq!(dropped() + mine(&count_second), 200 + both);
    // Without a port it is one of those.
    finish(second, &mut pools[1]);
    let before = count_first.dropped();
    send(9);
    count_first.wait_dropped(before + 100);
    finish(first, &mut pools[0]);
}

/// Far more flows than the caches hold: decisions are the same, and flows that a function placed
/// stay where they are.
#[test]
fn netns_caches_under_pressure_decide_as_the_rules_do() {
    const FLOWS: u32 = 120_000;
    namespace();
    pair_of("a", 1);
    let far = Far::on("a-far");
    let mut pool = pool(1024, 2048);
    let (mut port, steering, counters) = steered(config(Mode::Auto), &mut pool);
    let all = Prefix { address: Ipv4Addr::UNSPECIFIED.into(), length: 1 };
    let low = Rule { source: Some(all), ..Rule::all(Target::Drop) };
    steering.replace(&[low], 0).unwrap();
    // One that the rule would drop is a chain's.
    let kept = udp(7, 6);
    assert!(port.place_flow(&Key::read(&kept, 0), Moved::ToChain));
    // More than a worker remembers of a port.
    let placed: Vec<_> = (0..40_000).map(|n| udp(0xc000_0000 + n, 5)).collect();
    for frame in &placed {
        assert!(port.place_flow(&Key::read(frame, 0), Moved::ToKernel));
    }
    let placed = &placed[..100];
    let mut came = 0;
    for n in 0..FLOWS {
        // Half of them are above what the rule drops.
        let source = n | (n & 1) << 31;
        far.send(&udp(source, 5));
        if n % 32 == 31 {
            came += taken(&mut port, &mut pool, 16).len();
        }
    }
    assert_eq!(came, FLOWS as usize / 2);
    counters.wait_dropped(u64::from(FLOWS) / 2);
    let kernel = Far::on("a");
    for frame in placed {
        far.send(frame);
        assert_eq!(kernel.receive(), *frame);
    }
    // A new table is a new decision of the rules, and none of functions.
    steering.replace(&[low], 0).unwrap();
    far.send(&kept);
    assert_eq!(taken(&mut port, &mut pool, 1), slice::from_ref(&kept));
    port.forget_flows();
    far.send(&kept);
    far.send(&placed[0]);
    assert_eq!(taken(&mut port, &mut pool, 1), [placed[0].clone()]);
    counters.wait_dropped(u64::from(FLOWS) / 2 + 1);
    finish(port, &mut pool);
}

/// Without any rules, too, a function can give a flow away.
#[test]
fn netns_flows_are_placed_without_rules() {
    namespace();
    pair_of("a", 1);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pool = pool(256, 2048);
    let (mut port, _, counters) = steered(config(Mode::Auto), &mut pool);
    // The number that others have for the port does not matter here.
    let flow = Key::read(&udp(1, 1), 5);
    for _ in 0..2 {
        assert!(port.place_flow(&flow, Moved::ToKernel));
        for source in 1..=2 {
            far.send(&udp(source, 1));
        }
        assert_eq!(kernel.receive(), udp(1, 1));
        assert_eq!(taken(&mut port, &mut pool, 1), [udp(2, 1)]);
        // Who decided it is gone.
        port.forget_flows();
        far.send(&udp(1, 1));
        assert_eq!(taken(&mut port, &mut pool, 1), [udp(1, 1)]);
    }
    assert_eq!((counters.dropped(), counters.steered()), (0, 2));
    port.finish(&mut pool).unwrap();
    assert!(!port.place_flow(&flow, Moved::ToKernel));
}

/// An error that quotes a packet: of IPv4 that it is too long, of IPv6 likewise.
fn error_about(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ethernet = PacketBuilder::ethernet2(MACS[1], MACS[0]);
    if frame[12..14] == [8, 0] {
        let ip = ethernet.ipv4([172, 16, 0, 1], frame[26..30].try_into().unwrap(), 64);
        ip.icmpv4_raw(3, 4, [0; 4]).write(&mut bytes, &frame[14..]).unwrap();
    } else {
        let ip = ethernet.ipv6([7; 16], frame[22..38].try_into().unwrap(), 64);
        ip.icmpv6_raw(2, 0, [0; 4]).write(&mut bytes, &frame[14..]).unwrap();
    }
    bytes
}

/// A packet of a flow in the other direction.
fn reversed(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let (addresses, length) = if frame[12..14] == [8, 0] { (26, 4) } else { (22, 16) };
    let ports = addresses + 2 * length;
    for (at, length) in [(0, 6), (addresses, length), (ports, 2)] {
        let (a, b) = (at..at + length, at + length..at + 2 * length);
        bytes[a.clone()].copy_from_slice(&frame[b.clone()]);
        bytes[b].copy_from_slice(&frame[a]);
    }
    bytes
}

/// A flow that a function has moved to a chain comes in as a whole, by whichever queue, although
/// rules give everything else to the kernel.
#[test]
fn netns_a_moved_flow_comes_in_as_a_whole() {
    const FLOWS: usize = 60;
    namespace();
    pair_of("a", 2);
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pools = [pool(1024, 2048), pool(1024, 2048)];
    let mut ports = [0, 1].map(|queue| {
        let config = XdpConfig { queue, first_queue: Some(0), ..config(Mode::Auto) };
        let (port, steering, _) = steered(config, &mut pools[queue as usize]);
        steering.replace(&[Rule::all(Target::Kernel)], 0).unwrap();
        port
    });
    let flows: Vec<_> = (0..FLOWS as u32)
        .map(|n| match n % 2 {
            0 => udp(0x0a00_0000 + n, 5),
            _ => {
                let mut bytes = Vec::new();
                PacketBuilder::ethernet2(MACS[1], MACS[0])
                    .ipv6([n as u8; 16], [9; 16], 64)
                    .udp(4000, 5)
                    .write(&mut bytes, &[0; 18])
                    .unwrap();
                bytes
            }
        })
        .collect();
    for frame in &flows {
        assert!(ports[0].place_flow(&Key::read(frame, 0), Moved::ToChain));
    }
    // Its packets in the other direction are what errors quote that come here.
    let error = |frame: &[u8]| error_about(&reversed(frame));
    let mut by_queue = [0, 0];
    for kind in 0..4 {
        for frame in &flows {
            far.send(&match kind {
                0 => frame.clone(),
                // Another code point: a bit of the second byte belongs to it in IPv4 and in IPv6.
                1 => with(frame, 15, 0x80),
                // By another router.
                2 => with(frame, 11, 0x77),
                _ => error(frame),
            });
        }
        let until = Instant::now() + PATIENCE;
        let mut came = 0;
        while came < FLOWS && Instant::now() < until {
            for (n, (port, pool)) in ports.iter_mut().zip(&mut pools).enumerate() {
                let mut packets = Vec::new();
                port.receive(pool, &mut packets, 64).unwrap();
                came += packets.len();
                by_queue[n] += packets.len();
                pool.give_all(packets.iter().map(|packet| packet.buffer));
            }
        }
        assert_eq!(came, FLOWS);
    }
    assert!(by_queue.iter().all(|n| *n > 0), "{by_queue:?}");
    // Nothing else comes: not the other direction, nor errors about that, nor what is no error.
    let ping = with(&error(&flows[0]), 34, 8 ^ 3);
    for frame in [reversed(&flows[0]), error_about(&flows[0]), error_about(&flows[1]), ping] {
        far.send(&frame);
        assert_eq!(kernel.receive(), frame);
    }
    // What the other queue's worker has decided is another matter.
    ports[1].place_flow(&Key::read(&udp(1, 1), 0), Moved::ToChain);
    ports[1].forget_flows();
    far.send(&udp(1, 1));
    assert_eq!(kernel.receive(), udp(1, 1));
    far.send(&flows[0]);
    ports[0].forget_flows();
    far.send(&flows[1]);
    assert_eq!(kernel.receive(), flows[1]);
    for (port, pool) in ports.into_iter().zip(&mut pools) {
        finish(port, pool);
    }
}

/// The frame with these bits of a byte changed.
fn with(frame: &[u8], at: usize, bits: u8) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    bytes[at] ^= bits;
    bytes
}

/// Who places flows neither waits for who writes a table, nor is it forgotten.
#[test]
fn netns_flows_are_placed_while_a_table_is_written() {
    namespace();
    pair_of("a", 1);
    let far = Far::on("a-far");
    let mut pool = pool(1024, 2048);
    let (mut port, steering, _) = steered(config(Mode::Auto), &mut pool);
    let mut rules: Vec<_> = (0..50_000).map(|n| from(0x0a00_0000 + n, Target::Drop)).collect();
    rules.push(Rule::all(Target::Kernel));
    let mut placed = Vec::new();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| steering.replace(&rules, 0).unwrap());
        while !writing.is_finished() && placed.len() < 500 {
            let frame = udp(0xc000_0000 + placed.len() as u32, 5);
            assert!(port.place_flow(&Key::read(&frame, 0), Moved::ToChain));
            placed.push(frame);
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    port.settle(&mut pool).unwrap();
    for frames in placed.chunks(32) {
        frames.iter().for_each(|frame| far.send(frame));
        assert_eq!(taken(&mut port, &mut pool, frames.len()), frames);
    }
    finish(port, &mut pool);
}

#[test]
fn netns_rules_that_do_not_fit_are_told() {
    namespace();
    pair_of("a", 1);
    let far = Far::on("a-far");
    let mut pool = pool(256, 2048);
    let (mut port, steering, counters) = steered(config(Mode::Auto), &mut pool);
    // Each length with and without a port: 66 tuples.
    let mut rules: Vec<_> = (0..=32_u8)
        .rev()
        .flat_map(|length| {
            let prefix = Prefix { address: Ipv4Addr::new(10, 0, 0, length).into(), length };
            let rule = Rule { source: Some(prefix), ..Rule::all(Target::Drop) };
            [Rule { destination_ports: Some((1, 1)), ..rule }, rule]
        })
        .collect();
    rules[65].target = Target::Kernel;
    assert_eq!(steering.replace(&rules, 0).unwrap(), OffloadedRules { rules: 64, of: 66 });
    let told = counters.0.inspect().fact("steering").unwrap().to_owned();
    assert!(told.starts_with("64 of 66 rules in XDP, the rest behind it"), "{told}");
    let behind = |place: &Place| match place {
        Place::Behind(why) => why.as_deref().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let places = steering.places();
    assert!(!behind(&places[64]).contains("`kernel`"), "{places:?}");
    assert!(behind(&places[65]).contains("without `kernel` at the port"), "{places:?}");
    // By the first, by the last that fits, and by one that does not.
    far.send(&udp(0x0a00_0020, 9));
    far.send(&udp(0x7000_0000, 9));
    far.send(&udp(0xf000_0000, 9));
    assert_eq!(taken(&mut port, &mut pool, 1), [udp(0xf000_0000, 9)]);
    counters.wait_dropped(2);
    finish(port, &mut pool);
}
