//! The port on virtual devices of DPDK that need no rights: they move packets within the process,
//! and to files.

#![cfg(dpdk)]

mod common;

use std::time::Instant;

use common::{PATIENCE, Rig, frame, open, pool};
use weir_dpdk::{DpdkConfig, DpdkPort};
use weir_layout::{BURST_AREA, Descriptor};
use weir_port::memory::{GeneratorConfig, Keep, MemoryPort, Protocol, Shape, Templates};
use weir_port::pcap::{PcapConfig, PcapPort};
use weir_port::{Place, Port, PortCounts};
use weir_steering::{Rule, Target};

#[test]
fn null_devices_receive_and_send_without_a_copy() {
    let mut rig = Rig::new(&["net_null0", "net_null1,size=1500"]);
    for _ in 0..2000 {
        for (from, to, length) in [(0, 1, 64), (1, 0, 1500)] {
            assert_eq!(rig.receive(from, 32), 32);
            assert!(rig.packets.iter().all(|p| p.descriptor.length == length));
            assert!(rig.packets.iter().all(|p| rig.pool.is_out(p.buffer)));
            let accounting = rig.pool.accounting();
            assert_eq!(accounting.free + accounting.out, accounting.total);
            rig.send(to);
        }
    }
    let counts = rig.counts(0);
    assert_eq!((counts.rx_packets, counts.rx_bytes), (64_000, 64_000 * 64));
    assert_eq!((counts.tx_packets, counts.tx_bytes), (64_000, 64_000 * 1500));
    // The pool is never used up by DPDK's cache.
    assert!(rig.pool.available() > 4096 - 512, "{}", rig.pool.available());
    rig.end();
}

#[test]
fn a_ring_brings_back_the_very_rooms() {
    let mut rig = Rig::new(&["net_ring0"]);
    let frames: Vec<Vec<u8>> = (0..100).map(|n| frame(n, 4 + n as usize * 14)).collect();
    let buffers = rig.pool.available();
    for round in 0..50 {
        for frame in frames.chunks(20) {
            rig.send_frames(0, frame.iter().map(Vec::as_slice));
        }
        assert_eq!(rig.pool.available(), buffers - 100, "round {round}: they are in the ring");
        assert_eq!(rig.collect(0, 100), frames, "round {round}");
    }
    assert_eq!(rig.counts(0).rx_packets, 5000);
    // What still lies in the ring comes back at the end.
    rig.send_frames(0, frames.iter().map(Vec::as_slice));
    rig.end();
}

#[test]
fn a_device_without_rules_of_its_own_says_so() {
    let mut rig = Rig::new(&["net_ring0"]);
    let steering = rig.ports[0].steering().expect("whatever the driver can");
    assert_eq!(steering.kind(), "rte_flow");
    let other = Rule { port: Some(1), ..Rule::all(Target::Drop) };
    let udp = Rule { protocol: Some(17), ..Rule::all(Target::Drop) };
    let to_chain = Rule { destination_ports: Some((53, 53)), ..Rule::all(Target::Chain(0)) };
    let vlan = Rule { vlan: Some(7), ..Rule::all(Target::Drop) };
    steering.replace(&[other, udp, to_chain, vlan], 0).expect("it is compared behind the port");
    let none = Place::Behind(Some("net_ring takes no rules".into()));
    let behind = Place::BehindRule(2);
    assert_eq!(steering.places(), [Place::Nowhere, none, Place::Behind(None), behind]);
    // All of them come.
    rig.send_frames(0, [frame(1, 10).as_slice()]);
    assert_eq!(rig.collect(0, 1), [frame(1, 10)]);
    rig.end();
    let closed = Place::Behind(Some("the device is not started".into()));
    steering.replace(&[udp], 0).expect("nobody is asked");
    assert_eq!(steering.places(), std::slice::from_ref(&closed));
    // Rules that come before the start wait for it, and not for others.
    let port = open("net_ring0");
    let steering = port.steering().expect("whatever the driver can");
    steering.replace(&[udp], 0).expect("nobody is asked yet");
    assert_eq!(steering.places(), [closed]);
    let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(port)]);
    assert_eq!(steering.places(), [Place::Behind(Some("net_ring takes no rules".into()))]);
    rig.end();
}

#[test]
fn packets_change_places_in_their_rooms() {
    let mut rig = Rig::new(&["net_ring0"]);
    let (short, long) = (frame(1, 10), frame(2, 1400));
    rig.send_frames(0, [short.as_slice(), &long]);
    while rig.packets.len() < 2 {
        rig.receive(0, 32);
    }
    // As functions do: a header is taken away here, one is put in front there, into the headroom.
    rig.packets[0].descriptor.offset += 14;
    rig.packets[0].descriptor.length -= 14;
    rig.packets[1].descriptor.offset -= 100;
    rig.packets[1].descriptor.length += 100;
    rig.send(0);
    let got = rig.collect(0, 2);
    assert_eq!(got[0], &short[14..]);
    assert_eq!((got[1].len(), &got[1][100..]), (long.len() + 100, long.as_slice()));
    rig.end();
}

#[test]
fn a_full_device_drops_under_a_name() {
    // Its ring holds 1023.
    let mut rig = Rig::new(&["net_ring0"]);
    let one = frame(7, 50);
    for _ in 0..12 {
        rig.send_frames(0, std::iter::repeat_n(one.as_slice(), 100));
    }
    let counts = rig.counts(0);
    assert_eq!((counts.tx_packets, counts.tx_dropped_full), (1023, 177));
    assert_eq!(counts.tx_bytes, 1023 * one.len() as u64);
    assert_eq!(rig.pool.available(), 4096 - 1023);
    assert_eq!(rig.collect(0, 1023).len(), 1023);
    rig.end();
}

#[test]
fn an_empty_pool_loses_nothing() {
    let mut rig = Rig::of(pool(1024 + 512, 2048), vec![Box::new(open("net_null0"))]);
    while rig.receive(0, 64) > 0 {
        assert!(rig.packets.len() <= 1536);
    }
    assert!(rig.packets.len() > 1400, "{}", rig.packets.len());
    let counts = rig.counts(0);
    assert!(counts.rx_waits_for_buffer > 0, "{counts:?}");
    assert_eq!(counts.rx_packets, rig.packets.len() as u64);
    let given = rig.packets.split_off(700);
    rig.pool.give_all(given.into_iter().map(|packet| packet.buffer));
    assert_eq!(rig.receive(0, 64), 64);
    rig.end();
}

#[test]
fn what_suffices_is_no_shortage() {
    let mut rig = Rig::of(pool(1024 + 512, 2048), vec![Box::new(open("net_null0"))]);
    // Enough for what the device is asked for, and not for DPDK's cache.
    let (mut taken, most) = (Vec::new(), rig.pool.available() - 100);
    rig.pool.take_all(&mut taken, most as usize);
    assert_eq!(rig.receive(0, 32), 32);
    assert_eq!(rig.counts(0).rx_waits_for_buffer, 0);
    rig.pool.give_all(taken.into_iter());
    rig.end();
}

#[test]
fn the_devices_of_a_chain_fit_into_its_pool_together() {
    let many = |device| DpdkConfig {
        rx_descriptors: Some(1024),
        tx_descriptors: Some(1024),
        ..DpdkConfig::new(device)
    };
    let mut pool = pool(4096, 2048);
    let mut attach = |device| {
        let mut port = DpdkPort::open(device, &many(device)).expect("it is there");
        let attached = port.attach(&mut pool).map_err(|error| error.to_string());
        (port, attached)
    };
    let (mut first, attached) = attach("net_null0");
    assert_eq!(attached, Ok(()));
    let (second, attached) = attach("net_null1");
    let told = attached.expect_err("together they need 4608");
    assert!(told.contains("beside the 2048 of the chain's other devices need 4608"), "{told}");
    drop(second);
    first.finish(&mut pool).expect("it ends");
}

#[test]
fn frames_that_cannot_be_sent_are_counted() {
    let mut rig = Rig::new(&["net_null0"]);
    rig.send_frames(0, [[0; 13].as_slice(), &[0; 14], &[0; 1920]]);
    let counts = rig.counts(0);
    assert_eq!((counts.tx_packets, counts.tx_dropped_length), (2, 1));
    // A descriptor that leads out of its room, which the host's own checks never let through.
    rig.receive(0, 2);
    rig.packets[0].descriptor.length = 4000;
    rig.packets[1].descriptor.offset = 0;
    rig.send(0);
    assert_eq!(rig.counts(0).tx_errors, 2);
    rig.end();
}

/// Each way in which a packet can lie: alone, so that it is the shim that says whether it fits, and
/// behind one that does.
#[test]
fn what_is_sent_is_what_lies_in_its_room() {
    /// A room without its headroom: what the device would take is longer.
    const LONGEST: u32 = 1920;
    let mut rig = Rig::new(&["net_null0"]);
    let edges = |at: u32| [at.wrapping_sub(1), at, at.wrapping_add(1)];
    let rooms = rig.pool.rooms();
    let ends = [0, rooms - 1].map(|room| BURST_AREA as u32 + room * 2048);
    let mut all = PortCounts::default();
    for lead in [0, 1] {
        for offset in [0, ends[0] + 2048, ends[1] + 2048].into_iter().chain(ends).flat_map(edges) {
            for length in
                [0, 14, LONGEST, 2048, 1 << 31, u32::MAX - 2048].into_iter().flat_map(edges)
            {
                // Anywhere, at an end of its room, and in its room.
                for own in [None, Some(offset & 2047), Some(100)] {
                    rig.receive(0, lead + 1);
                    let packet = rig.packets.last_mut().expect("a packet");
                    let here = rig.pool.room_offset(packet.buffer);
                    let offset = own.map_or(offset, |into| here + into);
                    packet.descriptor = Descriptor { offset, length };
                    let lies = packet.descriptor.lies_in(here, 2048);
                    let goes = lies && (14..=LONGEST).contains(&length);
                    rig.send(0);
                    all.tx_packets += lead as u64 + u64::from(goes);
                    all.tx_bytes += lead as u64 * 64 + if goes { u64::from(length) } else { 0 };
                    all.tx_dropped_length += u64::from(lies && !goes);
                    all.tx_errors += u64::from(!lies);
                    let counts = rig.counts(0);
                    let sent = PortCounts {
                        rx_packets: counts.rx_packets,
                        rx_bytes: counts.rx_bytes,
                        ..all
                    };
                    assert_eq!(
                        counts, sent,
                        "offset {offset:#x}, length {length}, room at {here:#x}"
                    );
                }
            }
        }
    }
    assert!(all.tx_packets > 0 && all.tx_dropped_length > 0 && all.tx_errors > 0);
    rig.end();
}

#[test]
fn packets_of_other_ports_leave_without_a_copy() {
    let templates =
        Templates::flows(Shape { flows: 50, frame_bytes: 300, protocol: Protocol::Udp });
    let mut generator = GeneratorConfig::new(templates.expect("possible"));
    generator.count = Some(500);
    let memory = MemoryPort::new("memory", Some(generator), Keep::All);
    let kept = memory.kept();
    let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(memory), Box::new(open("net_ring0"))]);
    let mut sent = Vec::new();
    while rig.receive(0, 32) > 0 {
        let bytes = rig.packets.iter().map(|p| rig.pool.bytes(p.descriptor).unwrap().to_vec());
        sent.extend(bytes);
        let rooms: Vec<_> = rig.packets.iter().map(|p| p.descriptor).collect();
        rig.send(1);
        while rig.packets.len() < rooms.len() {
            rig.receive(1, 32);
        }
        let back: Vec<_> = rig.packets.iter().map(|p| p.descriptor).collect();
        assert_eq!(back, rooms, "the same bytes of the same rooms");
        rig.send(0);
    }
    assert_eq!((sent.len(), kept.take()), (500, sent));
    rig.end();
}

/// A capture of frames of many lengths.
fn capture(directory: &std::path::Path, count: u32, longest: usize) -> std::path::PathBuf {
    let path = directory.join("in.pcap");
    let config = PcapConfig { output: Some(path.clone()), ..PcapConfig::default() };
    let port = PcapPort::open("writer", &config).expect("a capture");
    let mut rig = Rig::of(pool(256, 65536), vec![Box::new(port)]);
    for n in 0..count {
        let frame = frame(n, 20 + (n as usize * 97) % (longest - 80));
        rig.send_frames(0, [frame.as_slice()]);
    }
    rig.end();
    path
}

/// All frames of a capture, as Weir's own port reads them.
fn frames_of(path: &std::path::Path) -> Vec<Vec<u8>> {
    let config = PcapConfig { input: Some(path.to_owned()), ..PcapConfig::default() };
    let port = PcapPort::open("reader", &config).expect("a capture");
    let mut rig = Rig::of(pool(256, 65536), vec![Box::new(port)]);
    let mut frames = Vec::new();
    loop {
        let before = frames.len();
        rig.receive(0, 64);
        for packet in rig.packets.drain(..) {
            frames.push(rig.pool.bytes(packet.descriptor).expect("in a room").to_vec());
            rig.pool.give(packet.buffer);
        }
        if frames.len() == before {
            return frames;
        }
    }
}

#[test]
fn a_capture_comes_out_as_our_own_port_reads_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let input = capture(directory.path(), 1000, 1500);
    let output = directory.path().join("out.pcap");
    let device = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let mut rig = Rig::new(&[&device]);
    let mut idle = 0;
    while rig.counts(0).rx_packets < 1000 && idle < 100_000 {
        idle += usize::from(rig.receive(0, 32) == 0);
        rig.send(0);
    }
    rig.end();
    let (read, written) = (frames_of(&input), frames_of(&output));
    assert_eq!(read.len(), 1000);
    assert!(read == written, "DPDK and Weir's own port read the same frames");
}

#[test]
fn frames_longer_than_a_room_are_counted_and_others_are_put_together() {
    let directory = tempfile::tempdir().expect("a directory");
    // Longer than a room of 2048 bytes: this driver chains mbufs.
    let input = capture(directory.path(), 400, 5000);
    let read = frames_of(&input);
    for (room, fits) in [(2048, 1920), (8192, 8064)] {
        let device = format!("net_pcap{room},rx_pcap={}", input.display());
        let config = DpdkConfig { room_bytes: room, ..DpdkConfig::new(&device) };
        let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
        let mut rig = Rig::of(pool(2048, room), vec![Box::new(port)]);
        let expected: Vec<_> = read.iter().filter(|frame| frame.len() <= fits).cloned().collect();
        let got = rig.collect(0, expected.len());
        assert!(got == expected, "rooms of {room}: {} of {}", got.len(), expected.len());
        for _ in 0..100 {
            rig.receive(0, 32);
        }
        let counts = rig.counts(0);
        let too_large = (read.len() - expected.len()) as u64;
        let in_driver = rig.ports[0].inspector().expect("a device").inspect().rx_dropped;
        let in_driver: u64 = in_driver.iter().map(|dropped| dropped.1).sum();
        assert_eq!(counts.rx_dropped_too_large + in_driver, too_large, "{counts:?}");
        rig.end();
    }
}

#[test]
fn several_queues_share_the_flows() {
    let config = DpdkConfig { queues: Some(3), ..DpdkConfig::new("net_null0") };
    let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    let mut rig = Rig::of(pool(8192, 2048), vec![Box::new(port)]);
    for _ in 0..100 {
        assert_eq!(rig.receive(0, 32), 32);
        rig.send(0);
    }
    let details = rig.ports[0].inspector().expect("a device").inspect();
    assert_eq!(details.fact("queues"), Some("3"));
    let packets = |queue: u32| {
        let name = format!("rx_q{queue}_packets");
        details.counters.iter().find(|counter| counter.0 == name).map(|counter| counter.1)
    };
    for queue in 0..3 {
        assert!(packets(queue).is_some_and(|n| n > 1000), "{details:?}");
    }
    rig.end();
}

#[test]
fn details_tell_how_a_device_is() {
    let mut rig = Rig::new(&["net_null0"]);
    rig.receive(0, 32);
    rig.send(0);
    let inspector = rig.ports[0].inspector().expect("a device");
    let details =
        std::thread::spawn(move || (inspector.inspect(), inspector)).join().expect("fine");
    let (details, inspector) = details;
    assert_eq!(details.fact("device"), Some("net_null0"));
    assert_eq!(details.fact("driver"), Some("net_null"));
    assert_eq!(details.fact("memory"), Some("the pool"));
    assert_eq!(details.fact("mtu"), Some("1500"));
    assert_eq!(details.fact("rx-descriptors"), Some("512"));
    assert!(
        details.fact("link").is_some_and(|link| link.starts_with("up, 10000 Mbit/s")),
        "{details:?}"
    );
    assert!(details.counters.iter().any(|(name, n)| name == "tx_good_packets" && *n == 32));
    rig.end();
    assert!(inspector.inspect().counters.iter().any(|c| *c == ("tx_good_packets".into(), 32)));
}

#[test]
fn a_worker_may_take_over_and_end_later() {
    // Attached by one thread, driven by two others in turn, finished by the first, as lanes are.
    let mut rig = Rig::new(&["net_null0", "net_null1"]);
    for _ in 0..2 {
        let worker = std::thread::spawn(move || {
            for _ in 0..1000 {
                rig.receive(0, 32);
                rig.send(1);
            }
            rig
        });
        rig = worker.join().expect("the worker goes on");
    }
    assert_eq!(rig.counts(1).tx_packets, 64_000);
    rig.end();
}

#[test]
fn a_device_is_opened_again_and_again() {
    for _ in 0..20 {
        let mut rig = Rig::new(&["net_null0", "net_ring1"]);
        rig.receive(0, 32);
        rig.send(1);
        rig.end();
        // Dropped without an end, as after an error of another port.
        drop(open("net_null0"));
        let mut port = open("net_null0");
        let mut pool = pool(4096, 2048);
        port.attach(&mut pool).expect("attached");
        drop(pool);
        drop(port);
    }
}

/// A port of this device for each of two lanes, each with a pool of its own.
fn two_lanes(device: &str) -> Vec<Rig> {
    let config = DpdkConfig { queues: Some(2), ..DpdkConfig::new(device) };
    let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    let mut ports = port.divided(2).into_iter();
    let mut rig = || Rig::of(pool(4096, 2048), vec![Box::new(ports.next().expect("two"))]);
    vec![rig(), rig()]
}

#[test]
fn queues_of_a_device_may_belong_to_two_lanes() {
    for device in ["net_null0", "net_ring1"] {
        let mut lanes = two_lanes(device);
        for round in 0..50 {
            for (lane, rig) in lanes.iter_mut().enumerate() {
                if device == "net_ring1" {
                    rig.send_frames(
                        0,
                        [frame(round * 2 + lane as u32, 60)].iter().map(Vec::as_slice),
                    );
                    // What a lane sends comes back by its own queue.
                    let frames = rig.collect(0, 1);
                    assert_eq!(frames, [frame(round * 2 + lane as u32, 60)]);
                } else {
                    assert_eq!(rig.receive(0, 32), 32);
                    rig.send(0);
                }
            }
        }
        let details = lanes[1].ports[0].inspector().expect("a device").inspect();
        assert_eq!(details.fact("queues"), Some("2"));
        // The first that ends takes the device away; what it had of the other's pool is not lost.
        lanes[0].end();
        assert_eq!(lanes[1].receive(0, 32), 0);
        lanes[1].send_frames(0, [frame(1, 60)].iter().map(Vec::as_slice));
        assert_eq!(lanes[1].counts(0).tx_errors, 1);
        lanes[1].end();
        drop(lanes);
        drop(open(device));
    }
}

#[test]
fn a_device_of_two_lanes_waits_for_the_second_and_ends_under_the_hands_of_its_workers() {
    let config = DpdkConfig { queues: Some(2), ..DpdkConfig::new("net_null0") };
    let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    let mut ports = port.divided(2).into_iter();
    let mut first = Rig::of(pool(4096, 2048), vec![Box::new(ports.next().expect("one"))]);
    assert_eq!(first.receive(0, 32), 0);
    let mut second = Rig::of(pool(4096, 2048), vec![Box::new(ports.next().expect("two"))]);
    assert_eq!(first.receive(0, 32), 32);
    first.send(0);
    let (at_work, is_at_work) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        let until = Instant::now() + PATIENCE;
        while second.receive(0, 32) > 0 && Instant::now() < until {
            second.send(0);
            let _ = at_work.send(());
        }
        second
    });
    is_at_work.recv().expect("it has packets");
    while first.counts(0).rx_packets < 100_000 {
        first.receive(0, 32);
        first.send(0);
    }
    // The other lane's worker is in the middle of it.
    first.end();
    let mut second = worker.join().expect("it ends in order");
    assert!(second.counts(0).rx_packets > 0);
    second.end();
}
