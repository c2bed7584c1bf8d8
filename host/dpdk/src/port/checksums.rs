//! Frames whose checksums no device has verified, by a port that has them verified, and frames
//! whose checksums no device can fill in: a capture knows nothing of checksums.

use std::fs;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use weir_pool::{HugePages, Pool, PoolConfig};

use super::*;
use crate::DpdkConfig;

const ETHERNET: usize = 14;
const IPV4: usize = ETHERNET + 20;
const IPV6: usize = ETHERNET + 40;

/// A TCP segment or an UDP datagram.
fn frame(v6: bool, tcp: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if v6 {
        ethernet.ipv6([1; 16], [2; 16], 64)
    } else {
        ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    };
    let mut frame = Vec::new();
    if tcp {
        ip.tcp(1000, 80, 1, 100).write(&mut frame, b"abcdefg").expect("a vector");
    } else {
        ip.udp(1000, 53).write(&mut frame, b"abcdefg").expect("a vector");
    }
    frame
}

/// The last byte is another one.
fn damaged(mut frame: Vec<u8>) -> Vec<u8> {
    *frame.last_mut().expect("bytes") ^= 0x55;
    frame
}

fn with(mut frame: Vec<u8>, place: usize, bytes: &[u8]) -> Vec<u8> {
    frame[place..place + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The first fragment of a datagram: nobody can verify a part.
fn fragment() -> Vec<u8> {
    let mut frame = with(damaged(frame(false, false)), ETHERNET + 6, &[0x20, 0]);
    frame[24..26].fill(0);
    let words =
        frame[ETHERNET..IPV4].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn what_no_device_verified_is_verified_before_another_fills_it_in() {
    let right = [
        frame(false, false),
        frame(false, true),
        frame(true, false),
        frame(true, true),
        // It has none, and gets none.
        with(damaged(frame(false, false)), IPV4 + 6, &[0, 0]),
        fragment(),
        // Not IP at all.
        with(frame(false, false), 12, &[0x88, 0xb5]),
    ];
    let wrong = [
        damaged(frame(false, false)),
        damaged(frame(false, true)),
        damaged(frame(true, false)),
        damaged(frame(true, true)),
        // The time to live, which the header's own covers.
        with(frame(false, true), ETHERNET + 8, &[63]),
        // It says that it is longer than it is.
        with(frame(true, false), ETHERNET + 4, &[1, 0]),
        with(frame(true, true), IPV6, &[9, 9]),
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("in.pcap");
    let mut capture = Vec::new();
    for word in [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1] {
        capture.extend(u32::to_le_bytes(word));
    }
    for (right, wrong) in right.iter().zip(&wrong) {
        for frame in [right, wrong] {
            let length = frame.len() as u32;
            for word in [0, 0, length, length] {
                capture.extend(u32::to_le_bytes(word));
            }
            capture.extend(frame);
        }
    }
    fs::write(&path, capture).expect("a file");

    let config = DpdkConfig::new(&format!("net_pcap0,rx_pcap={}", path.display()));
    let mut port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    // Which this device could not do by itself.
    Arc::get_mut(&mut port.shared).expect("the only one").config.checksum_offload = true;
    let pool = PoolConfig { rooms: 4096, room_bytes: 2048, huge: HugePages::Never };
    let mut pool = Pool::new("test", &pool).expect("memory");
    port.attach(&mut pool).unwrap_or_else(|error| panic!("{error}"));
    let until = Instant::now() + Duration::from_secs(20);
    let (mut packets, mut came) = (Vec::new(), Vec::new());
    while came.len() < right.len() || port.statistics.counts().rx_bad_checksum < 7 {
        assert!(Instant::now() < until, "{} {:?}", came.len(), port.statistics.counts());
        port.receive(&mut pool, &mut packets, 32).unwrap_or_else(|error| panic!("{error}"));
        for packet in packets.drain(..) {
            came.push(pool.bytes(packet.descriptor).expect("in a room").to_vec());
            pool.give(packet.buffer);
        }
    }
    assert_eq!(came, right);
    let counts = port.statistics.counts();
    assert_eq!((counts.rx_packets, counts.rx_dropped_bad_checksum), (7, 7));
    port.finish(&mut pool).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(pool.accounting().out, 0, "rooms of what was dropped are back");
}

#[test]
fn what_no_device_can_fill_in_is_filled_in_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("out.pcap");
    let config = DpdkConfig::new(&format!("net_pcap2,tx_pcap={}", path.display()));
    let mut port = DpdkPort::open("test", &config).unwrap_or_else(|error| panic!("{error}"));
    // Which this device could not do by itself.
    Arc::get_mut(&mut port.shared).expect("the only one").config.checksum_offload = true;
    let pool = PoolConfig { rooms: 4096, room_bytes: 2048, huge: HugePages::Never };
    let mut pool = Pool::new("test", &pool).expect("memory");
    port.attach(&mut pool).unwrap_or_else(|error| panic!("{error}"));
    let (mut sent, mut packets) = (Vec::new(), Vec::new());
    for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
        let sum = if v6 { IPV6 } else { IPV4 } + if tcp { 16 } else { 6 };
        let right = frame(v6, tcp);
        // Nothing behind the packet, padding of zeros, and what a network card took from where it
        // lay.
        for rest in [&[][..], &[0; 6], &[0, 0, 0, 1, 2, 3]] {
            let frame = [&right, rest].concat();
            let buffer = pool.take().expect("a room");
            let wrong = with(frame.clone(), sum, &[0x12, 0x34]);
            let descriptor = pool.place(buffer, &wrong).expect("it fits");
            let metadata = Metadata::default();
            packets.push(Packet { descriptor, metadata, time: 0, buffer, cut: 0 });
            sent.push((frame, sum, rest.ends_with(&[3])));
        }
    }
    port.send(&mut pool, &mut packets).unwrap_or_else(|error| panic!("{error}"));
    port.finish(&mut pool).unwrap_or_else(|error| panic!("{error}"));
    let capture = fs::read(&path).expect("a capture");
    let mut rest = &capture[24..];
    for (frame, sum, filled_in) in sent {
        let out = &rest[16..16 + frame.len()];
        rest = &rest[16 + frame.len()..];
        // The device was asked for the other ones, with the sum of the pseudo-header.
        assert_eq!(out[sum..sum + 2] == frame[sum..sum + 2], filled_in, "{frame:?}");
        assert_eq!(out[sum + 2..], frame[sum + 2..], "nothing is cut off");
    }
    assert!(rest.is_empty());
}
