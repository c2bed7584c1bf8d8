//! The port in other circumstances than a test's own process has: beside another process, as
//! another user, with other memory; and devices that are not there. A test that needs such a
//! process starts itself again.

#![cfg(dpdk)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{PATIENCE, Rig, frame, open, pool, refused};
use weir_dpdk::{DpdkConfig, Eal, EalConfig, EalMemory};
use weir_port::{Port, Received};

/// Says that the process was started by a test of it, and what for.
const ROLE: &str = "WEIR_DPDK_TEST_ROLE";

/// This test again, in another process.
fn again(test: &str, role: &str, by: &[&str]) -> Command {
    let this = std::env::current_exe().expect("a test's program");
    let mut words = by.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    words.push(this.to_str().expect("text").to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", test, "--nocapture"]).env(ROLE, role);
    command
}

#[test]
fn memif_between_two_processes() {
    let device = |role: &str, socket: &str| {
        format!("net_memif0,role={role},socket={socket},socket-abstract=no,rsize=10")
    };
    if let Ok(socket) = std::env::var(ROLE) {
        // The peer: an echo, until it is told to end.
        let mut rig = Rig::new(&[&device("client", &socket)]);
        let until = Instant::now() + PATIENCE;
        let mut ended = false;
        while !ended && Instant::now() < until {
            rig.receive(0, 32);
            let last = |p: &weir_pool::Packet| {
                rig.pool.bytes(p.descriptor) == Some(b"that was all.".repeat(5).as_slice())
            };
            ended = rig.packets.iter().any(last);
            rig.send(0);
        }
        rig.end();
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("memif").to_str().expect("text").to_owned();
    let mut rig = Rig::new(&[&device("server", &socket)]);
    let mut peer = again("memif_between_two_processes", &socket, &[]).spawn().expect("it starts");
    let inspector = rig.ports[0].inspector().expect("a device");
    let until = Instant::now() + PATIENCE;
    while inspector.inspect().fact("link").is_none_or(|link| !link.starts_with("up")) {
        assert!(Instant::now() < until, "the peer does not come: {:?}", inspector.inspect());
    }
    // The link is up on this side before the peer looks at its rings: what is sent until it does
    // may be lost.
    let hello = frame(u32::MAX, 20);
    while rig.receive(0, 32) == 0 {
        assert!(Instant::now() < until, "the peer does not answer: {:?}", inspector.inspect());
        rig.send_frames(0, [hello.as_slice()]);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(200));
    while rig.receive(0, 32) > 0 {}
    rig.pool.give_all(rig.packets.drain(..).map(|packet| packet.buffer));
    for round in 0..20 {
        let frames: Vec<_> =
            (0..100).map(|n| frame(round * 100 + n, 20 + n as usize * 14)).collect();
        rig.send_frames(0, frames.iter().map(Vec::as_slice));
        assert!(rig.collect(0, 100) == frames, "round {round}");
    }
    rig.send_frames(0, [b"that was all.".repeat(5).as_slice()]);
    assert!(peer.wait().expect("our child").success());
    // The peer is gone: what is sent now is dropped and counted, and the port lives.
    // A greeting may have found the link up and the ring not yet there.
    let before = rig.counts(0);
    let one = frame(1, 50);
    while inspector.inspect().fact("link") != Some("down") {
        assert!(Instant::now() < until, "{:?}", inspector.inspect());
    }
    rig.send_frames(0, [one.as_slice(), &one]);
    let counts = rig.counts(0);
    assert_eq!(counts.tx_packets, before.tx_packets);
    assert_eq!(counts.tx_dropped_full - before.tx_dropped_full, 2);
    rig.end();
}

#[test]
fn a_user_without_rights_has_virtual_devices() {
    const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if std::env::var(ROLE).is_ok() {
        let mut rig = Rig::new(&["net_null0", "net_ring1"]);
        for _ in 0..100 {
            assert_eq!(rig.receive(0, 32), 32);
            rig.send(1);
            rig.receive(1, 32);
            rig.send(0);
        }
        rig.end();
        // What needs rights says so.
        let error = refused(&DpdkConfig::new("net_tap0,iface=wtap"), 4096);
        assert!(error.contains("needs root, or CAP_NET_ADMIN"), "{error}");
        let error = refused(&DpdkConfig::new("net_af_packet0,iface=lo,framesz=1952"), 4096);
        assert!(error.contains("needs root, or CAP_NET_ADMIN"), "{error}");
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: becoming another user needs root");
        return;
    }
    // The program in a place that everybody can reach.
    let directory = tempfile::tempdir().expect("a directory");
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), everybody).expect("ours");
    let program = directory.path().join("test");
    std::fs::copy(std::env::current_exe().expect("a program"), &program).expect("copied");
    let output = Command::new(NOBODY[0])
        .args(&NOBODY[1..])
        .arg(&program)
        .args(["--exact", "a_user_without_rights_has_virtual_devices", "--nocapture"])
        .env(ROLE, "nobody")
        .output()
        .expect("setpriv (package util-linux)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn with_memory(memory: EalMemory) -> &'static Eal {
    let eal = Eal::start(&EalConfig { memory, ..EalConfig::default() });
    let eal = eal.unwrap_or_else(|error| panic!("{error}"));
    let mut rig = Rig::new(&["net_null0", "net_ring1"]);
    for _ in 0..100 {
        assert_eq!(rig.receive(0, 32), 32);
        rig.send(1);
    }
    rig.end();
    eal
}

#[test]
fn ordinary_pages_will_do() {
    assert!(!with_memory(EalMemory::Ordinary).has_huge_pages());
}

#[test]
fn huge_pages_are_taken_where_there_are_some() {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = std::fs::read_to_string(free).unwrap_or_default();
    if free.trim().parse::<u32>().unwrap_or(0) < 64 {
        // Nothing else on the machine loses what it had reserved: this only ever raises the number.
        println!("skipped: fewer than 64 huge pages are free (`sysctl vm.nr_hugepages=64`)");
        return;
    }
    assert!(with_memory(EalMemory::Huge).has_huge_pages());
}

#[test]
fn huge_pages_that_are_not_there_are_named() {
    let free = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    if std::fs::read_to_string(free).is_ok_and(|free| free.trim() != "0") {
        println!("skipped: there are huge pages here");
        return;
    }
    let config = EalConfig { memory: EalMemory::Huge, ..EalConfig::default() };
    let error = Eal::start(&config).expect_err("there are none");
    assert!(error.contains("vm.nr_hugepages") && error.contains("huge pages"), "{error}");
    // Once is once.
    assert_eq!(Eal::start(&EalConfig::default()).expect_err("it did not start"), error);
}

#[test]
fn devices_that_cannot_be_are_refused_in_words() {
    let config = DpdkConfig::new("net_null0");
    let cases = [
        (DpdkConfig::new("eth0"), "is no device: allowed are a PCI address"),
        (DpdkConfig::new("net_nosuch0"), "the device net_nosuch0 cannot be had"),
        (DpdkConfig::new("0000:ff:1f.7"), "there is no PCI device 0000:ff:1f.7"),
        (
            DpdkConfig { queues: Some(0), ..config.clone() },
            "queues is 0, but the device net_null0 has 1 to 1024",
        ),
        (DpdkConfig { queues: Some(2000), ..config.clone() }, "queues is 2000"),
        (
            DpdkConfig { checksum_offload: true, ..config.clone() },
            "net_null does not do the checksums",
        ),
        (DpdkConfig { mtu: Some(9000), ..config.clone() }, "frames may have up to 9022 bytes"),
        (DpdkConfig { room_bytes: 512, mtu: Some(1500), ..config.clone() }, "raise [pool] room"),
        (DpdkConfig { rx_descriptors: Some(4096), ..config.clone() }, "the pool has 4096 buffers"),
        (DpdkConfig { queues: Some(8), ..config.clone() }, "raise [pool] rooms"),
    ];
    for (config, expected) in cases {
        let error = refused(&config, 4096);
        assert!(
            error.starts_with("port \"test\": ") && error.contains(expected),
            "{config:?}: {error}"
        );
    }
    // A device has one owner.
    let port = open("net_null0");
    let error = refused(&config, 4096);
    assert!(error.contains("net_null0") && error.contains("in use by another port"), "{error}");
    drop(port);
    drop(open("net_null0"));
}

#[test]
fn a_device_that_is_taken_away_is_an_error_of_its_port() {
    let mut rig = Rig::new(&["net_null0", "net_ring1"]);
    rig.receive(0, 32);
    rig.send(1);
    rig.receive(0, 32);
    // As DPDK does when a function is unplugged.
    // SAFETY: strings that end with a zero; no thread is in a call of the device.
    let removed = unsafe { dpdk_sys::weir_dpdk_remove(c"vdev".as_ptr(), c"net_null0".as_ptr(), 0) };
    assert_eq!(removed, 0);
    let error = rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32).expect_err("it is gone");
    assert_eq!(error.to_string(), "port \"test\": its device net_null0 was removed");
    let again = rig.ports[0].receive(&mut rig.pool, &mut rig.packets, 32);
    assert!(matches!(again, Ok(Received::End)));
    let details = rig.ports[0].inspector().expect("a device").inspect();
    assert_eq!(details.fact("link"), Some("removed"));
    // Packets that it received still leave by the other port, and those for it are counted.
    rig.send(1);
    assert_eq!(rig.receive(1, 64), 64);
    rig.send(0);
    assert_eq!(rig.counts(0).tx_errors, 64);
    rig.end();
}

#[test]
fn rooms_of_every_size_go() {
    for room_bytes in [512, 1024, 2048, 4096, 65_536] {
        let config = DpdkConfig { room_bytes, ..DpdkConfig::new("net_ring0") };
        let port = weir_dpdk::DpdkPort::open("test", &config).unwrap_or_else(|e| panic!("{e}"));
        let mut rig = Rig::of(pool(2048, room_bytes), vec![Box::new(port) as Box<dyn Port>]);
        let longest = room_bytes as usize - 128;
        for length in [14, 60, longest.min(60_000) - 1, longest] {
            let frame = vec![length as u8; length];
            rig.send_frames(0, [frame.as_slice()]);
            assert_eq!(rig.collect(0, 1), [frame], "{length} bytes in rooms of {room_bytes}");
        }
        rig.end();
    }
}
