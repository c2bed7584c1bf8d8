//! The port on devices that lie on the kernel's interfaces, in network namespaces with hosts on the
//! other side.

#![cfg(dpdk)]

mod common;
#[path = "common/netns.rs"]
mod netns;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Rig, frame, pool, refused};
use netns::{Host, enter_new, run, try_run};
use weir_dpdk::{DpdkConfig, DpdkPort, Idle};
use weir_port::{Place, Port, Received};
use weir_steering::{Rule, Target};

/// Forwards between ports 0 and 1 on a thread of its own while `act` goes on.
fn forwarding<R>(rig: &mut Rig, act: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let forwarder = scope.spawn(|| {
            while !stop.load(Relaxed) {
                for (from, to) in [(0, 1), (1, 0)] {
                    if rig.receive(from, 32) > 0 {
                        rig.send(to);
                    } else {
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
            }
        });
        // Also when `act` fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Relaxed);
            }
        }
        let result = {
            let _stop = Stop(&stop);
            act()
        };
        forwarder.join().expect("the forwarder goes on");
        result
    })
}

fn ping_through(devices: [&str; 2]) -> Rig {
    let a = Host::new("wa", "10.9.0.1/24");
    let b = Host::new("wb", "10.9.0.2/24");
    drop(b.run("ip -6 address show"));
    let mut rig = Rig::of(
        pool(8192, 2048),
        devices
            .iter()
            .map(|device| {
                let port = DpdkPort::open("test", &DpdkConfig::new(device));
                Box::new(port.unwrap_or_else(|error| panic!("{error}"))) as Box<dyn Port>
            })
            .collect(),
    );
    forwarding(&mut rig, || {
        let said = a.run("ping -n -c 30 -i 0.02 -W 5 10.9.0.2");
        assert!(said.contains(" 0% packet loss"), "{said}");
        // As long as the MTU allows.
        let said = a.run("ping -n -c 10 -i 0.02 -W 5 -M do -s 1472 10.9.0.2");
        assert!(said.contains(" 0% packet loss"), "{said}");
    });
    for port in 0..2 {
        let counts = rig.counts(port);
        assert!(counts.rx_packets >= 40 && counts.tx_packets >= 40, "{counts:?}");
        assert_eq!(counts.rx_dropped_too_large + counts.tx_errors + counts.tx_dropped_full, 0);
    }
    rig
}

#[test]
fn netns_ping_through_af_packet() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let mut rig = ping_through(["net_af_packet0,iface=wa", "net_af_packet1,iface=wb"]);
    let details = rig.ports[0].inspector().expect("a device").inspect();
    assert_eq!(details.fact("memory"), Some("the pool"));
    assert!(details.fact("link").is_some_and(|link| link.starts_with("up")), "{details:?}");
    rig.end();
}

/// The kernel fills the rings of a device from when it is added on.
#[test]
fn netns_what_came_before_the_port_was_anybodys_does_not_come_in() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let a = Host::new("wa", "10.9.0.1/24");
    a.run("ip neighbor add 10.9.0.9 lladdr 02:02:02:02:02:02 dev eth0");
    // Nobody answers.
    let send = |count: u32, bytes: u32| {
        let ping = format!("ping -n -q -l {count} -c {count} -w 1 -s {bytes} 10.9.0.9");
        drop(try_run(&a.command(&ping)));
    };
    let port = common::open("net_af_packet0,iface=wa");
    // More than the ring holds.
    send(1000, 100);
    let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(port)]);
    let counts = rig.ports[0].inspector().expect("a device").inspect();
    assert!(counts.rx_dropped.contains(&("kernel-ring-full", 0)), "{counts:?}");
    send(1, 200);
    let is_ping = |frame: &Vec<u8>| frame.get(12..14) == Some(&[8, 0]) && frame[23] == 1;
    let came = loop {
        if let Some(frame) = rig.collect(0, 1).into_iter().find(is_ping) {
            break frame;
        }
    };
    assert_eq!(came.len(), 14 + 20 + 8 + 200);
    rig.end();
}

#[test]
fn netns_a_device_whose_interface_was_made_anew_says_that_it_is_another_one() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let make = || {
        run("ip link add wa type veth peer name far");
        run("ip link set wa up");
    };
    make();
    let port = common::open("net_af_packet0,iface=wa");
    let inspector = port.inspector().expect("a device");
    let link = || inspector.inspect().fact("link").map(str::to_owned);
    run("ip link delete wa");
    make();
    let problem = inspector.inspect().problem.expect("it does not work");
    assert!(problem.contains("the interface wa of its device net_af_packet0"), "{problem}");
    assert!(problem.ends_with("is another one than before"), "{problem}");
    assert_eq!(link().as_deref(), Some("gone"));
    drop(port);
    // A link is that of the interface.
    let port = common::open("net_af_packet0,iface=wa");
    let inspector = port.inspector().expect("a device");
    let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(port)]);
    let link = || inspector.inspect().fact("link").map(str::to_owned);
    assert_eq!(link().as_deref(), Some("down"));
    run("ip link set far up");
    assert_eq!(link().as_deref(), Some("up"));
    // While nobody looks for long.
    run("ip link delete wa");
    make();
    let until = Instant::now() + common::PATIENCE;
    let told = loop {
        if let Err(error) = rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32) {
            break error.to_string();
        }
        assert!(Instant::now() < until, "it is not noticed");
    };
    assert!(told.contains("is another one than before"), "{told}");
    rig.end();
}

#[test]
fn netns_ping_through_af_xdp_copies() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let mut rig = ping_through(["net_af_xdp0,iface=wa", "net_af_xdp1,iface=wb"]);
    let details = rig.ports[0].inspector().expect("a device").inspect();
    assert_eq!(details.fact("memory"), Some("copied"));
    rig.end();
}

#[test]
fn netns_ping_through_tap() {
    if !netns::possible() {
        return;
    }
    enter_new();
    // One side of the wire is the kernel of this namespace itself, behind the tap.
    let b = Host::new("wb", "10.9.0.2/24");
    let mut rig = Rig::new(&["net_tap0,iface=wtap", "net_af_packet0,iface=wb"]);
    run("ip address add 10.9.0.1/24 dev wtap");
    run("ip link set wtap up");
    forwarding(&mut rig, || {
        let said = run("ping -n -c 30 -i 0.02 -W 5 10.9.0.2");
        assert!(said.contains(" 0% packet loss"), "{said}");
        let said = b.run("ping -n -c 10 -i 0.02 -W 5 -M do -s 1472 10.9.0.1");
        assert!(said.contains(" 0% packet loss"), "{said}");
    });
    let counts = rig.counts(0);
    assert!(counts.rx_packets >= 40 && counts.tx_packets >= 40, "{counts:?}");
    rig.end();
    assert!(!try_run("ip link show wtap").status.success(), "the interface goes with the port");
}

/// The tap's driver makes filters of the kernel's, if that has them. What it refuses comes in.
#[test]
fn netns_what_a_tap_drops_does_not_come_in_and_what_it_refuses_does() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let port = common::open("net_tap0,iface=wtap");
    let steering = port.steering().expect("whatever the driver can");
    let udp = Rule { protocol: Some(17), ethertype: Some(0x0800), ..Rule::all(Target::Drop) };
    let dscp = Rule { dscp: Some(46), ..udp };
    // It has them when it is started, before a packet is received.
    steering.replace(&[udp, dscp], 0).expect("what it refuses is compared behind the port");
    let mut rig = Rig::of(common::pool(4096, 2048), vec![Box::new(port)]);
    run("ip address add 10.9.0.1/24 dev wtap");
    run("ip link set wtap up");
    run("ip neighbor add 10.9.0.2 lladdr 02:02:02:02:02:02 dev wtap");
    let places = steering.places();
    for place in &places {
        if let Place::Behind(why) = place {
            let why = why.as_ref().expect("a reason");
            assert!(why.starts_with("net_tap refuses it: "), "{why}");
        }
    }
    assert!(matches!(places[1], Place::Behind(_)), "it compares no code points: {places:?}");
    let socket = std::net::UdpSocket::bind("10.9.0.1:7").expect("a socket");
    let mut send = |number: u8, comes: bool| {
        // A filter that drops may say so to who sends.
        let _ = socket.send_to(&[number; 9], "10.9.0.2:7");
        let until =
            Instant::now() + if comes { common::PATIENCE } else { Duration::from_millis(300) };
        let mut came = false;
        while !came && Instant::now() < until {
            rig.receive(0, 32);
            for packet in rig.packets.drain(..) {
                came |=
                    rig.pool.bytes(packet.descriptor).is_some_and(|b| b.ends_with(&[number; 9]));
                rig.pool.give(packet.buffer);
            }
        }
        assert_eq!(came, comes, "{places:?}");
    };
    send(1, matches!(places[0], Place::Behind(_)));
    steering.replace(&[], 0).expect("nothing is left");
    send(2, true);
    rig.end();
}

#[test]
fn netns_checksums_are_filled_in_and_verified() {
    if !netns::possible() {
        return;
    }
    enter_new();
    // The tap's driver does both, in software.
    let config = DpdkConfig { checksum_offload: true, ..DpdkConfig::new("net_tap0,iface=wtap") };
    let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    let other = common::open("net_af_packet0,iface=wtap");
    let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(port), Box::new(other)]);
    run("ip address add 10.0.0.2/24 dev wtap");
    run("ip link set wtap up");
    run("ip neighbor add 10.0.0.1 lladdr 02:02:02:02:02:02 dev wtap");
    let socket = std::net::UdpSocket::bind("10.0.0.2:53").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
    let shown = run("ip -o link show wtap");
    let mac =
        shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("one");
    let mac: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    // A frame with both checksums wrong: filled in by the device, it arrives.
    let mut wrong = frame(0x01020304, 20);
    wrong[..6].copy_from_slice(&mac);
    wrong[24..26].fill(0xff);
    wrong[40..42].copy_from_slice(&[0x12, 0x34]);
    rig.send_frames(0, [wrong.as_slice()]);
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).expect("it arrives");
    assert_eq!((length, &buffer[..4]), (20, &[1, 2, 3, 4][..]));
    assert_eq!(rig.counts(0).tx_packets, 1);
    // One that has none over UDP gets none: whoever receives it knows as much about it as before.
    let mut none = wrong.clone();
    none[40..42].fill(0);
    none[42] = 9;
    rig.send_frames(0, [none.as_slice()]);
    let came = loop {
        let came = rig.collect(1, 1).pop().expect("the kernel's side sees it");
        if came.get(42) == Some(&9) {
            break came;
        }
    };
    assert_eq!((&came[..24], &came[26..]), (&none[..24], &none[26..]));
    assert_ne!(came[24..26], none[24..26], "the header's own is filled in");
    // The same the other way round, out of the kernel's side: it is dropped, or it would leave with
    // right ones. Twice, because a packet socket answers its first call with the error that the
    // interface was down once.
    rig.send_frames(1, [wrong.as_slice()]);
    rig.send_frames(1, [wrong.as_slice()]);
    let until = Instant::now() + common::PATIENCE;
    while rig.counts(0).rx_dropped_bad_checksum < 2 {
        assert!(Instant::now() < until, "{:?}", rig.counts(0));
        rig.receive(0, 1);
        for packet in rig.packets.drain(..) {
            assert_ne!(rig.pool.bytes(packet.descriptor), Some(wrong.as_slice()));
            rig.pool.give(packet.buffer);
        }
    }
    assert_eq!(rig.counts(0).rx_bad_checksum, 2);
    rig.end();
}

#[test]
fn netns_an_interface_that_disappears_is_an_error_of_its_port() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let host = Host::new("wa", "10.9.0.1/24");
    let mut rig = Rig::new(&["net_af_packet0,iface=wa", "net_null0"]);
    rig.receive(1, 32);
    rig.send(0);
    run("ip link delete wa");
    let until = Instant::now() + common::PATIENCE;
    let error = loop {
        match rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32) {
            Ok(_) => assert!(Instant::now() < until, "nobody notices"),
            Err(error) => break error.to_string(),
        }
        rig.pool.give_all(rig.packets.drain(..).map(|packet| packet.buffer));
    };
    assert!(error.contains("interface wa") && error.contains("is gone"), "{error}");
    // The port has ended; the others go on.
    let again = rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32);
    assert!(matches!(again, Ok(Received::End)));
    assert_eq!(rig.receive(1, 32), 32);
    rig.send(0);
    assert_eq!(rig.counts(0).tx_errors, 32);
    rig.end();
    drop(host);
}

/// Receives until the port says that it waits, or asks to be asked; what came in between is given
/// back.
fn until_it_waits(rig: &mut Rig) {
    let until = Instant::now() + common::PATIENCE;
    loop {
        let received = rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32).expect("it works");
        rig.pool.give_all(rig.packets.drain(..).map(|packet| packet.buffer));
        if received == Received::Waiting
            && rig.ports[0].settle(&mut rig.pool).expect("it works") > Some(Duration::ZERO)
        {
            return;
        }
        assert!(Instant::now() < until, "it never sleeps");
    }
}

/// Whether one of the port's descriptors becomes readable in this time.
fn is_woken(rig: &Rig, within: Duration) -> bool {
    let mut fds = Vec::new();
    rig.ports[0].readiness(&mut fds);
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| rustix::event::PollFd::from_borrowed_fd(*fd, rustix::event::PollFlags::IN))
        .collect();
    let within = rustix::event::Timespec::try_from(within).expect("short");
    rustix::event::poll(&mut polled, Some(&within)).expect("descriptors") > 0
}

#[test]
fn netns_a_sleeping_port_is_woken_by_a_packet() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let host = Host::new("wa", "10.9.0.1/24");
    for (device, how) in [
        ("net_af_packet0,iface=wa", "sleep until a packet"),
        ("net_af_xdp0,iface=wa", "sleep until a packet"),
        ("net_tap0,iface=wtap", "sleep until an interrupt"),
    ] {
        let config = DpdkConfig { idle: Some(Idle::Sleep), ..DpdkConfig::new(device) };
        let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
        let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(port)]);
        let details = rig.ports[0].inspector().expect("a device").inspect();
        assert_eq!(details.fact("idle"), Some(how), "{device}");
        if device.contains("tap") {
            run("ip address add 10.9.1.1/24 dev wtap");
            run("ip link set wtap up");
        }
        for round in 0..3 {
            until_it_waits(&mut rig);
            // The other side has something to say: a question for an address that nobody has.
            if device.contains("tap") {
                let _ = try_run(&format!("ping -c 1 -W 0.1 10.9.1.{}", 10 + round));
            } else {
                let _ = try_run(&host.command(&format!("ping -c 1 -W 0.1 10.9.0.{}", 10 + round)));
            }
            assert!(is_woken(&rig, common::PATIENCE), "{device}");
            assert!(!rig.collect(0, 1).is_empty(), "{device}");
        }
        rig.end();
    }
    // Nobody wakes this one: it is asked again, after ever longer times.
    let config = DpdkConfig { idle: Some(Idle::Sleep), ..DpdkConfig::new("net_ring0") };
    let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    let mut rig = Rig::of(pool(4096, 2048), vec![Box::new(port)]);
    let mut idle = || rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32).expect("it works");
    assert_eq!(idle(), Received::Idle { next: Some(Duration::ZERO) });
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(idle(), Received::Idle { next: Some(Duration::from_millis(1)) });
    rig.end();
}

/// One device's two queues, on two lanes. Not `net_af_xdp`: its driver takes a veth for an
/// interface with one queue.
#[test]
fn netns_each_lane_is_woken_by_its_own_queue() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let host = Host::new("wa", "10.9.0.1/24");
    for (device, how) in [
        ("net_af_packet0,iface=wa,qpairs=2", "sleep until a packet"),
        ("net_tap0,iface=wtap", "sleep until an interrupt"),
    ] {
        let config =
            DpdkConfig { queues: Some(2), idle: Some(Idle::Sleep), ..DpdkConfig::new(device) };
        let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
        let lane = |port| Rig::of(pool(8192, 2048), vec![Box::new(port) as Box<dyn Port>]);
        let mut lanes: Vec<Rig> = port.divided(2).into_iter().map(lane).collect();
        let details = lanes[0].ports[0].inspector().expect("a device").inspect();
        assert_eq!(details.fact("idle"), Some(how), "{device}");
        let tap = device.contains("tap");
        if tap {
            run("ip address add 10.9.1.1/24 dev wtap");
            run("ip link set wtap up");
        }
        let mut woken = [0; 2];
        // Each address is another flow, which the kernel gives to one of the queues.
        for address in 10..74 {
            lanes.iter_mut().for_each(until_it_waits);
            let neighbour = |net, on| {
                format!("ip neigh add 10.9.{net}.{address} lladdr 02:00:00:00:00:07 dev {on}")
            };
            if tap {
                run(&neighbour(1, "wtap"));
                let _ = try_run(&format!("ping -c 1 -W 0.1 10.9.1.{address}"));
            } else {
                let _ = try_run(&host.command(&neighbour(0, "eth0")));
                let _ = try_run(&host.command(&format!("ping -c 1 -W 0.1 10.9.0.{address}")));
            }
            for (lane, rig) in lanes.iter_mut().enumerate() {
                if is_woken(rig, Duration::from_millis(50)) {
                    let frames = rig.collect(0, 1);
                    assert!(!frames.is_empty(), "{device}: lane {lane} was woken for nothing");
                    woken[lane] += 1;
                }
            }
            if woken.iter().all(|times| *times > 1) {
                break;
            }
        }
        assert!(woken.iter().all(|times| *times > 1), "{device}: {woken:?}");
        // One lane ends while the other sleeps, which hears it when it is asked.
        lanes.iter_mut().for_each(until_it_waits);
        lanes[0].end();
        let Rig { ports, pool, packets } = &mut lanes[1];
        assert_eq!(ports[0].settle(pool).expect("it works"), Some(Duration::ZERO), "{device}");
        assert_eq!(ports[0].receive(pool, packets, 32).expect("it works"), Received::End);
        lanes[1].end();
    }
}

#[test]
fn netns_what_the_kernel_drops_is_counted() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let host = Host::new("wa", "10.9.0.1/24");
    let mut rig = Rig::new(&["net_af_packet0,iface=wa,framecnt=32", "net_null0"]);
    // Nobody receives: the ring holds 32.
    let _ = try_run(&host.command("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:07 dev eth0"));
    let _ = try_run(&host.command("ping -c 100 -i 0.002 -W 0.1 10.9.0.2"));
    let received = rig.collect(0, 30).len() as u64;
    for _ in 0..10 {
        rig.receive(0, 32);
    }
    let more = rig.packets.len() as u64;
    let inspect = rig.ports[0].inspector().expect("a device");
    let full = |details: weir_port::Details| {
        details.rx_dropped.iter().find(|d| d.0 == "kernel-ring-full").map(|dropped| dropped.1)
    };
    let dropped = full(inspect.inspect()).expect("it is counted");
    assert!(dropped >= 60, "{dropped} of 100");
    assert!(received + more + dropped >= 100, "{received} + {more} + {dropped}");
    assert_eq!(full(inspect.inspect()), Some(dropped), "and not forgotten");
    rig.end();
}

#[test]
fn netns_what_cannot_be_is_refused() {
    if !netns::possible() {
        return;
    }
    enter_new();
    let config = DpdkConfig::new("net_af_packet0,iface=nosuch");
    assert!(refused(&config, 4096).contains("there is no interface nosuch"));
    let config = DpdkConfig::new("net_af_xdp0,iface=nosuch");
    assert!(refused(&config, 4096).contains("there is no interface nosuch"));
    let _host = Host::new("wa", "10.9.0.1/24");
    // Frames that its buffers do not hold.
    run("ip link set wa mtu 1800");
    let error = refused(&DpdkConfig::new("net_af_xdp0,iface=wa"), 4096);
    assert!(error.contains("at most 1792") && error.contains("lower the MTU to 1770"), "{error}");
    run("ip link set wa mtu 1500");
    // Others have the interface.
    let first = common::open("net_af_xdp0,iface=wa");
    let mut first = Rig::of(pool(4096, 2048), vec![Box::new(first)]);
    let error = refused(&DpdkConfig::new("net_af_xdp1,iface=wa"), 4096);
    assert!(error.contains("net_af_xdp1,iface=wa"), "{error}");
    first.end();
    // Once they have not, it can be had.
    Rig::new(&["net_af_xdp1,iface=wa"]).end();
    run("ip link set wa mtu 9000");
    let config = DpdkConfig::new("net_af_packet0,iface=wa");
    let error = refused(&config, 4096);
    assert!(error.contains("MTU of 9000") && error.contains("raise [pool] room"), "{error}");
    // With rooms that hold them they pass.
    let config = DpdkConfig { room_bytes: 16_384, ..config };
    let port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    let mut rig = Rig::of(pool(2048, 16_384), vec![Box::new(port)]);
    rig.send_frames(0, [vec![0xff; 9014].as_slice(), &vec![0xff; 9100]]);
    let counts = rig.counts(0);
    assert_eq!((counts.tx_packets, counts.tx_dropped_length), (1, 1));
    rig.end();
}
