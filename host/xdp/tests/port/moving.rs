//! Packets: in, out, through, and each one counted.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weir_layout::{Descriptor, HEADROOM, Metadata};
use weir_pool::{Packet, Pool};
use weir_port::{Port, PortCounts, Received};
use weir_xdp::{Match, Mode, XdpConfig, XdpPort};

use crate::far::{
    Far, PATIENCE, finish, frame, ip, namespace, pair, pair_of, pool, port, receive, wait_until_up,
};
use crate::steering::udp;

fn modes() -> [Mode; 2] {
    [Mode::Native, Mode::Generic]
}

/// A packet as another port would hand it over: behind the headroom of a room of the pool.
fn place(pool: &mut Pool, bytes: &[u8]) -> Packet {
    let buffer = pool.take().unwrap();
    let descriptor = pool.place(buffer, bytes).unwrap();
    Packet { descriptor, metadata: Metadata::default(), time: 0, buffer, cut: 0 }
}

/// All packets that the port dropped.
fn dropped(counts: &PortCounts) -> u64 {
    let drops =
        counts.each().filter(|(name, _)| name.contains("dropped") || name.contains("errors"));
    drops.map(|(_, n)| n).sum()
}

/// Waits on the port's descriptors; whether one is readable.
fn wait(port: &XdpPort, wait: Duration) -> bool {
    let mut fds: Vec<BorrowedFd<'_>> = Vec::new();
    port.readiness(&mut fds);
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    poll(&mut fds, Some(&Timespec::try_from(wait).unwrap())).unwrap() > 0
}

#[test]
fn netns_frames_come_in_and_leave_as_they_are() {
    namespace();
    pair("a");
    let far = Far::on("a-far");
    for mode in modes() {
        let mut pool = pool(512, 2048);
        let mut port = port(XdpConfig { mode, ..XdpConfig::new("a") }, &mut pool).unwrap();
        let expected = if mode == Mode::Native { "native" } else { "generic" };
        let details = port.inspector().unwrap().inspect();
        assert_eq!(details.fact("driver"), Some(format!("{expected}, copy").as_str()));
        assert_eq!((details.fact("link"), details.fact("mtu")), (Some("up"), Some("1500")));
        receive(&mut port, &mut pool, 0);
        assert_eq!(port.receive(&mut pool, &mut Vec::new(), 64).unwrap(), Received::Waiting);
        // Rooms that hold no packet, and are not free.
        let waiting = port.inspector().unwrap().inspect().waiting_rooms;
        assert_eq!((waiting > 0, waiting), (true, pool.accounting().out));
        // More than all rings hold, so that all counters wrap around them.
        for round in 0..40 {
            let frames: Vec<_> =
                (0..64u32).map(|n| frame(round * 64 + n, 60 + (n as usize * 23) % 1455)).collect();
            for bytes in &frames {
                far.send(bytes);
            }
            let mut packets = receive(&mut port, &mut pool, frames.len());
            for (packet, sent) in packets.iter().zip(&frames) {
                assert_eq!(pool.bytes(packet.descriptor).unwrap(), sent);
                let room = pool.room_offset(packet.buffer);
                assert!(
                    packet.descriptor.offset - room >= HEADROOM as u32,
                    "room for functions in front"
                );
                assert!(packet.time > 1_600_000_000_000_000_000);
            }
            // Back, some with another front, as functions do.
            for packet in packets.iter_mut().step_by(2) {
                packet.descriptor.offset -= 4;
                packet.descriptor.length += 4;
            }
            let expected: Vec<_> = packets
                .iter()
                .map(|packet| pool.bytes(packet.descriptor).unwrap().to_vec())
                .collect();
            port.send(&mut pool, &mut packets).unwrap();
            for sent in expected {
                assert_eq!(far.receive(), sent);
            }
        }
        let counts = finish(port, &mut pool);
        assert_eq!((counts.rx_packets, counts.tx_packets), (2560, 2560), "{counts:?}");
        assert_eq!(dropped(&counts), 0, "{counts:?}");
        let accounting = pool.accounting();
        assert_eq!((accounting.out, accounting.free), (0, 512));
    }
}

/// Two ports over one pool: what comes in by one leaves by the other from where it lies.
#[test]
fn netns_a_packet_passes_from_port_to_port_in_its_room() {
    const PACKETS: u32 = 20_000;
    namespace();
    pair("a");
    pair("b");
    let (left, right) = (Far::on("a-far"), Far::on("b-far"));
    let mut pool = pool(1024, 2048);
    let mut inside = port(XdpConfig::new("a"), &mut pool).unwrap();
    let mut outside = port(XdpConfig::new("b"), &mut pool).unwrap();
    receive(&mut inside, &mut pool, 0);
    inside.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    outside.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    let mut rooms = std::collections::BTreeSet::new();
    for first in (0..PACKETS).step_by(50) {
        for n in first..first + 50 {
            left.send(&frame(n, 100));
        }
        let mut packets = receive(&mut inside, &mut pool, 50);
        rooms.extend(packets.iter().map(|packet| packet.buffer));
        outside.send(&mut pool, &mut packets).unwrap();
        for n in first..first + 50 {
            assert_eq!(right.receive(), frame(n, 100));
        }
    }
    // And from no XDP port at all.
    let mut made = vec![place(&mut pool, &frame(7, 1514))];
    inside.send(&mut pool, &mut made).unwrap();
    assert_eq!(left.receive(), frame(7, 1514));
    assert!(rooms.len() > 50);
    let (inside, outside) = (finish(inside, &mut pool), finish(outside, &mut pool));
    assert_eq!((inside.rx_packets, inside.tx_packets), (u64::from(PACKETS), 1));
    assert_eq!((outside.tx_packets, dropped(&outside)), (u64::from(PACKETS), 0));
    assert_eq!(pool.accounting().out, 0);
}

#[test]
fn netns_what_no_rule_claims_goes_to_the_kernel() {
    namespace();
    // Tagged frames are spread over queues as the kernel likes.
    pair_of("a", 1);
    // The kernel's own view of the port's interface.
    let (far, kernel) = (Far::on("a-far"), Far::on("a"));
    let mut pool = pool(256, 2048);
    let mut config = XdpConfig::new("a");
    config.leave.push(Match { ethertype: Some(0x88cc), ..Match::default() });
    config.claim = vec![
        Match { vlan: Some(100), ..Match::default() },
        Match { destination: Some([2, 0, 0, 0, 0, 9]), ethertype: Some(0x88b5), vlan: None },
    ];
    let tagged = |vlan: u8, inner: [u8; 2]| {
        let mut bytes = frame(u32::from(vlan), 80);
        bytes.splice(12..14, [0x81, 0, 0, vlan, inner[0], inner[1]]);
        bytes
    };
    let to_nine = |number| {
        let mut bytes = frame(number, 60);
        bytes[5] = 9;
        bytes
    };
    let (claimed, left) = (
        [tagged(100, [0x88, 0xb5]), to_nine(1)],
        [tagged(100, [0x88, 0xcc]), tagged(101, [0x88, 0xb5]), frame(2, 60)],
    );
    // Before anybody reads the port, everything is the kernel's.
    let mut port = port(config, &mut pool).unwrap();
    far.send(&to_nine(0));
    assert_eq!(kernel.receive(), to_nine(0));
    let inspector = port.inspector().unwrap();
    let counted = |name| {
        let counters = inspector.inspect().counters;
        counters.iter().find(|counter| counter.0 == name).unwrap().1
    };
    assert_eq!(counted("xdp_to_kernel_unclaimed"), 1);
    port.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    for bytes in claimed.iter().chain(&left) {
        far.send(bytes);
    }
    let packets = receive(&mut port, &mut pool, claimed.len());
    for (packet, sent) in packets.iter().zip(&claimed) {
        assert_eq!(pool.bytes(packet.descriptor).unwrap(), sent);
    }
    for _ in &left {
        // AF_PACKET shows tagged frames without their tag.
        kernel.receive();
    }
    pool.give_all(packets.iter().map(|packet| packet.buffer));
    let counts = finish(port, &mut pool);
    assert_eq!((counts.rx_packets, dropped(&counts)), (2, 0), "{counts:?}");
    // They stay when the port has ended.
    assert_eq!((counted("xdp_redirected"), counted("xdp_to_kernel_unclaimed")), (2, 4));
    assert_eq!(pool.accounting().out, 0);
}

/// Nobody reads for a while: what was lost is counted, under the reason that it was lost for.
#[test]
fn netns_every_packet_that_is_dropped_is_counted() {
    const SENT: u32 = 3000;
    namespace();
    pair("a");
    let far = Far::on("a-far");
    for mode in modes() {
        // The worker is too slow: rooms are there, but in the rx ring.
        let mut roomy = pool(4096, 2048);
        let mut slow = port(XdpConfig { mode, ..XdpConfig::new("a") }, &mut roomy).unwrap();
        slow.receive(&mut roomy, &mut Vec::new(), 1).unwrap();
        (0..SENT).for_each(|n| far.send(&frame(n, 60)));
        std::thread::sleep(Duration::from_millis(100));
        let mut packets = Vec::new();
        while slow.receive(&mut roomy, &mut packets, 64).unwrap() == Received::Packets {}
        slow.settle(&mut roomy).unwrap();
        let counts = slow.statistics().counts();
        assert!(counts.rx_packets >= 1024, "{counts:?}");
        assert_eq!(counts.rx_packets + counts.rx_dropped_overrun, u64::from(SENT), "{counts:?}");
        roomy.give_all(packets.drain(..).map(|packet| packet.buffer));
        finish(slow, &mut roomy);

        // The pool is empty.
        let mut small = pool(64, 2048);
        let mut held = Vec::new();
        let mut port = port(XdpConfig { mode, ..XdpConfig::new("a") }, &mut small).unwrap();
        small.take_all(&mut held, 48);
        port.receive(&mut small, &mut packets, 1).unwrap();
        let until = Instant::now() + PATIENCE;
        for n in 0..100 {
            far.send(&frame(n, 60));
            std::thread::sleep(Duration::from_micros(200));
            port.receive(&mut small, &mut packets, 64).unwrap();
            port.settle(&mut small).unwrap();
        }
        while port.statistics().counts().rx_dropped_no_buffer < 84 && Instant::now() < until {
            port.settle(&mut small).unwrap();
        }
        let counts = port.statistics().counts();
        assert_eq!((counts.rx_packets, counts.rx_dropped_no_buffer), (16, 84), "{counts:?}");
        // It says that it wants to be asked again, and once there are rooms it goes on.
        assert!(port.settle(&mut small).unwrap().is_some());
        small.give_all(held.drain(..).chain(packets.drain(..).map(|packet| packet.buffer)));
        assert_eq!(port.settle(&mut small).unwrap(), None);
        far.send(&frame(100, 60));
        let last = receive(&mut port, &mut small, 1);
        small.give_all(last.iter().map(|packet| packet.buffer));
        finish(port, &mut small);
        assert_eq!(small.accounting().out, 0);
    }
}

#[test]
fn netns_packets_that_are_too_large_are_counted() {
    namespace();
    pair("a");
    let far = Far::on("a-far");
    let mut pool = pool(256, 2048);
    let mut port = port(XdpConfig::new("a"), &mut pool).unwrap();
    port.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    // Somebody raises the MTU under the port; one that it would have refused.
    ip("link set dev a mtu 3000");
    ip("link set dev a-far mtu 3000");
    far.send(&frame(1, 2500));
    far.send(&frame(2, 1792));
    let mut packets = receive(&mut port, &mut pool, 1);
    port.settle(&mut pool).unwrap();
    assert_eq!(port.statistics().counts().rx_dropped_too_large, 1);
    // What a function made longer goes as far as the interface sends it now.
    let Descriptor { offset, .. } = packets[0].descriptor;
    packets[0].descriptor = Descriptor { offset, length: 1600 };
    packets.push(place(&mut pool, &[]));
    port.send(&mut pool, &mut packets).unwrap();
    ip("link set dev a mtu 1500");
    port.settle(&mut pool).unwrap();
    packets.push(place(&mut pool, &[0; 1600]));
    port.send(&mut pool, &mut packets).unwrap();
    let counts = finish(port, &mut pool);
    assert_eq!((counts.tx_dropped_length, counts.tx_packets), (2, 1), "{counts:?}");
    assert_eq!(pool.accounting().out, 0);
}

/// The worker sleeps on the port's descriptors: a packet that comes before it sleeps, or while it
/// does, wakes it.
#[test]
fn netns_a_sleeping_worker_is_woken() {
    namespace();
    pair("a");
    let far = Far::on("a-far");
    let mut pool = pool(256, 2048);
    let mut port = port(XdpConfig::new("a"), &mut pool).unwrap();
    assert_eq!(port.receive(&mut pool, &mut Vec::new(), 1).unwrap(), Received::Waiting);
    assert_eq!(port.settle(&mut pool).unwrap(), None);
    assert!(!wait(&port, Duration::from_millis(50)), "nothing came");
    far.send(&frame(0, 60));
    assert!(wait(&port, PATIENCE));
    let mut packets = receive(&mut port, &mut pool, 1);
    port.settle(&mut pool).unwrap();
    assert!(!wait(&port, Duration::from_millis(50)), "it was received");
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        far.send(&frame(1, 60));
        far
    });
    assert!(wait(&port, PATIENCE));
    packets.extend(receive(&mut port, &mut pool, 1));
    sender.join().unwrap();
    pool.give_all(packets.iter().map(|packet| packet.buffer));
    finish(port, &mut pool);
}

#[test]
fn netns_a_link_that_goes_down_comes_back() {
    namespace();
    pair("a");
    let far = Far::on("a-far");
    let mut pool = pool(256, 2048);
    let mut port = port(XdpConfig::new("a"), &mut pool).unwrap();
    port.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    ip("link set dev a down");
    assert!(wait(&port, PATIENCE), "the news wake the worker");
    port.settle(&mut pool).unwrap();
    let mut packets = vec![place(&mut pool, &frame(1, 60))];
    port.send(&mut pool, &mut packets).unwrap();
    assert_eq!(port.statistics().counts().tx_dropped_down, 1);
    assert_eq!(port.settle(&mut pool).unwrap(), None, "it sleeps while the link is down");
    ip("link set dev a up");
    assert!(wait(&port, PATIENCE));
    port.settle(&mut pool).unwrap();
    let mut packets = vec![place(&mut pool, &frame(2, 60))];
    port.send(&mut pool, &mut packets).unwrap();
    assert_eq!(far.receive(), frame(2, 60));
    // That a bridge loses it does not mean that it is gone.
    ip("link add name bridge type bridge");
    ip("link set dev a master bridge");
    ip("link set dev a nomaster");
    assert!(wait(&port, PATIENCE));
    port.settle(&mut pool).unwrap();
    wait_until_up("a-far");
    far.send(&frame(3, 60));
    let packets = receive(&mut port, &mut pool, 1);
    pool.give_all(packets.iter().map(|packet| packet.buffer));
    finish(port, &mut pool);
    assert_eq!(pool.accounting().out, 0);
}

#[test]
fn netns_what_waits_when_a_port_ends_is_dropped_and_not_sent_as_well() {
    namespace();
    pair("a");
    let mut pool = pool(256, 2048);
    let mut port = port(XdpConfig::new("a"), &mut pool).unwrap();
    port.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    // The port has not heard of it.
    ip("link set dev a down");
    let mut packets: Vec<_> = (1..=4).map(|n| place(&mut pool, &frame(n, 60))).collect();
    port.send(&mut pool, &mut packets).unwrap();
    let counts = finish(port, &mut pool);
    assert_eq!((counts.tx_packets, dropped(&counts)), (0, 4), "{counts:?}");
    assert_eq!(pool.accounting().out, 0);
}

#[test]
fn netns_a_link_without_carrier_is_down() {
    namespace();
    pair("a");
    let mut pool = pool(256, 2048);
    let mut port = port(XdpConfig::new("a"), &mut pool).unwrap();
    port.receive(&mut pool, &mut Vec::new(), 1).unwrap();
    ip("link set dev a-far down");
    assert!(wait(&port, PATIENCE), "the news wake the worker");
    port.settle(&mut pool).unwrap();
    let link = |port: &XdpPort| port.inspector().unwrap().inspect().fact("link").map(str::to_owned);
    assert_eq!(link(&port).as_deref(), Some("no carrier"));
    let mut packets = vec![place(&mut pool, &frame(1, 60))];
    port.send(&mut pool, &mut packets).unwrap();
    let counts = port.statistics().counts();
    assert_eq!((counts.tx_dropped_down, counts.tx_errors), (1, 0), "{counts:?}");
    assert_eq!(port.settle(&mut pool).unwrap(), None, "it sleeps meanwhile");
    ip("link set dev a-far up");
    // There are several news, and the carrier is not the first.
    wait_until_up("a");
    assert!(wait(&port, PATIENCE));
    port.settle(&mut pool).unwrap();
    assert_eq!(link(&port).as_deref(), Some("up"));
    let mut packets = vec![place(&mut pool, &frame(2, 60))];
    port.send(&mut pool, &mut packets).unwrap();
    let counts = finish(port, &mut pool);
    assert_eq!((counts.tx_packets, counts.tx_errors), (1, 0), "{counts:?}");
}

#[test]
fn netns_an_interface_that_goes_away_breaks_its_port_and_nothing_else() {
    namespace();
    for asleep in [true, false] {
        pair("a");
        let far = Far::on("a-far");
        let mut pool = pool(256, 2048);
        let mut port = port(XdpConfig::new("a"), &mut pool).unwrap();
        port.receive(&mut pool, &mut Vec::new(), 1).unwrap();
        far.send(&frame(0, 60));
        let held = receive(&mut port, &mut pool, 1);
        drop(far);
        ip("link delete dev a");
        let error = if asleep {
            assert!(wait(&port, PATIENCE), "the news wake the worker");
            port.settle(&mut pool).unwrap_err()
        } else {
            let mut packets = vec![place(&mut pool, &frame(1, 60))];
            let until = Instant::now() + PATIENCE;
            loop {
                if let Err(error) = port.send(&mut pool, &mut packets) {
                    break error;
                }
                if let Err(error) = port.settle(&mut pool) {
                    break error;
                }
                assert!(Instant::now() < until);
            }
        };
        let text = error.to_string();
        assert!(text.starts_with("port \"lan\": interface a is gone"), "{text}");
        assert_eq!(port.receive(&mut pool, &mut Vec::new(), 1).unwrap(), Received::End);
        assert_eq!(pool.accounting().out, 1, "only what the chain holds");
        let mut packets = held;
        port.send(&mut pool, &mut packets).unwrap();
        let counts = finish(port, &mut pool);
        assert!(counts.tx_dropped_down >= 1, "{counts:?}");
        assert_eq!(pool.accounting().out, 0);
    }
}

/// Receives as long as there are to be more than so many packets.
fn receive_while(
    port: &mut XdpPort,
    pool: &mut Pool,
    packets: &mut Vec<Packet>,
    more: impl Fn(usize) -> bool,
) {
    let until = Instant::now() + PATIENCE;
    while more(packets.len()) && Instant::now() < until {
        port.receive(pool, packets, 64).unwrap();
    }
}

/// What comes to a queue without a port is the kernel's, and is counted.
#[test]
fn netns_packets_of_queues_without_a_port_are_counted() {
    namespace();
    pair_of("a", 2);
    let far = Far::on("a-far");
    let (mut pools, mut packets) = ([pool(1024, 2048), pool(1024, 2048)], Vec::new());
    let mut first = port(XdpConfig::new("a"), &mut pools[0]).unwrap();
    first.receive(&mut pools[0], &mut packets, 1).unwrap();
    let inspector = first.inspector().unwrap();
    let passed_by = || {
        let counters = inspector.inspect().counters;
        counters.iter().find(|counter| counter.0 == "xdp_to_kernel_no_socket").unwrap().1
    };
    let send = || (0..100).for_each(|n| far.send(&udp(0x0a00_0000 + n, 9)));
    send();
    receive_while(&mut first, &mut pools[0], &mut packets, |n| n as u64 + passed_by() < 100);
    let other_queue = passed_by();
    assert!(other_queue > 0 && packets.len() as u64 + other_queue == 100, "{other_queue}");
    // A port there has its packets; what came before still counts.
    let mut second = port(XdpConfig { queue: 1, ..XdpConfig::new("a") }, &mut pools[1]).unwrap();
    let mut others = Vec::new();
    second.receive(&mut pools[1], &mut others, 1).unwrap();
    send();
    receive_while(&mut second, &mut pools[1], &mut others, |n| (n as u64) < other_queue);
    assert_eq!((others.len() as u64, passed_by()), (other_queue, other_queue));
    let mine = 2 * (100 - other_queue as usize);
    receive_while(&mut first, &mut pools[0], &mut packets, |n| n < mine);
    assert_eq!(packets.len(), mine);
    for (pool, packets) in pools.iter_mut().zip([&packets, &others]) {
        pool.give_all(packets.iter().map(|packet| packet.buffer));
    }
    finish(second, &mut pools[1]);
    finish(first, &mut pools[0]);
}

/// Each queue has its own port, socket and rules; one program is on the interface, and leaves with
/// the last port.
#[test]
fn netns_two_queues_of_an_interface_are_two_ports() {
    namespace();
    pair_of("a", 2);
    let far = Far::on("a-far");
    let mut pools = [pool(1024, 2048), pool(1024, 2048)];
    let mut ports: Vec<_> = (0..2)
        .map(|queue| {
            port(XdpConfig { queue, ..XdpConfig::new("a") }, &mut pools[queue as usize]).unwrap()
        })
        .collect();
    for (port, pool) in ports.iter_mut().zip(&mut pools) {
        port.receive(pool, &mut Vec::new(), 1).unwrap();
    }
    // The kernel chooses a queue for each flow, by a hash that differs from boot to boot.
    for n in 0..100 {
        far.send(&udp(0x0a00_0000 + n, 9));
    }
    let until = Instant::now() + PATIENCE;
    let mut packets = [Vec::new(), Vec::new()];
    while packets[0].len() + packets[1].len() < 100 && Instant::now() < until {
        for n in 0..2 {
            ports[n].receive(&mut pools[n], &mut packets[n], 64).unwrap();
        }
    }
    let lengths = packets.each_ref().map(Vec::len);
    assert!(lengths.iter().sum::<usize>() == 100 && !lengths.contains(&0), "{lengths:?}");
    for (pool, packets) in pools.iter_mut().zip(&packets) {
        pool.give_all(packets.iter().map(|packet| packet.buffer));
    }
    let shown = || {
        String::from_utf8(
            std::process::Command::new("ip").args(["link", "show", "a"]).output().unwrap().stdout,
        )
        .unwrap()
    };
    finish(ports.pop().unwrap(), &mut pools[1]);
    assert!(shown().contains("prog/xdp"), "the other port is still there");
    finish(ports.pop().unwrap(), &mut pools[0]);
    assert!(!shown().contains("prog/xdp"), "{}", shown());
}
