//! Captures that others wrote, and captures that others read: scapy makes them, editcap converts
//! them, tshark says what is in them.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Endian, Read, file, read, replay, run, scapy, tshark, tshark_bytes};
use tempfile::{TempDir, tempdir};
use weir_port::pcap::scan;

/// All sorts of frames, with times that need every digit: argument 1 with microseconds, 2 with
/// nanoseconds, 3 as pcapng.
const MAKE: &str = r#"
import sys
from decimal import Decimal
from scapy.all import *
conf.verb = 0
eth = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
packets = [
    eth/IP(src="10.0.0.1", dst="192.0.2.1")/TCP(sport=1234, dport=80, flags="S"),
    eth/IP(src="10.0.0.1", dst="192.0.2.1")/UDP(sport=53, dport=53)/DNS(qd=DNSQR(qname="example.org")),
    eth/IPv6(src="2001:db8::1", dst="2001:db8::2")/ICMPv6EchoRequest(data=b"x"*33),
    eth/Dot1AD(vlan=5)/Dot1Q(vlan=7)/IP()/ICMP()/(b"y"*1400),
    eth/ARP(pdst="192.0.2.1"),
    eth/IP()/UDP()/(b"j"*8950),
    Raw(b"\x02"*14),
    Raw(b"\x02"*5),
] * 9
for i, p in enumerate(packets):
    p.time = Decimal(1700000000) + Decimal(i) * Decimal("0.001234567")
    p.wirelen = len(p)
wrpcap(sys.argv[1], packets, linktype=1)
wrpcap(sys.argv[2], packets, linktype=1, nano=True)
w = PcapNgWriter(sys.argv[3]); w.write(packets); w.close()
"#;

/// The three files of [`MAKE`].
fn made(directory: &TempDir) -> [PathBuf; 3] {
    let paths = ["us.pcap", "ns.pcap", "scapy.pcapng"].map(|name| directory.path().join(name));
    scapy(MAKE, &paths.each_ref().map(PathBuf::as_path));
    paths
}

/// Our reading of a capture is tshark's: number, times, lengths.
fn agrees_with_tshark(path: &Path) -> Vec<Read> {
    let (packets, error) = read(path);
    assert!(error.is_none(), "{error:?}");
    let ours: Vec<_> = packets
        .iter()
        .map(|packet| {
            let length = packet.data.len() as u32;
            (packet.time, length + packet.cut, length)
        })
        .collect();
    assert_eq!(ours, tshark(path), "{}", path.display());

    let info = scan(path).expect("scan");
    assert_eq!(info.packets, ours.len() as u64);
    assert_eq!(info.bytes, ours.iter().map(|packet| u64::from(packet.2)).sum::<u64>());
    assert_eq!(info.longest, ours.iter().map(|packet| packet.2).max().unwrap_or(0));
    assert_eq!(info.truncated, ours.iter().filter(|packet| packet.1 > packet.2).count() as u64);
    assert!(info.damage.is_none());
    packets
}

#[test]
fn captures_of_every_kind_read_as_tshark_reads_them() {
    let directory = tempdir().expect("directory");
    let made = made(&directory);
    let mut all = Vec::from(made.clone());
    for (source, format, name) in [
        (&made[1], "nsecpcap", "editcap-ns.pcap"),
        (&made[1], "pcapng", "editcap.pcapng"),
        (&made[1], "modpcap", "modified.pcap"),
        (&made[0], "pcap", "editcap-us.pcap"),
    ] {
        let path = directory.path().join(name);
        run(Command::new("editcap").args(["-F", format]).arg(source).arg(&path));
        all.push(path);
    }
    // Cut off after 60 bytes.
    for (format, name) in [("pcap", "cut.pcap"), ("pcapng", "cut.pcapng")] {
        let path = directory.path().join(name);
        run(Command::new("editcap").args(["-s", "60", "-F", format]).arg(&made[1]).arg(&path));
        assert!(agrees_with_tshark(&path).iter().any(|packet| packet.cut == 9000 - 8 - 60));
    }
    for path in &all {
        assert_eq!(agrees_with_tshark(path).len(), 72);
    }
    let fine = |path: &Path| scan(path).expect("scan").nanoseconds;
    assert!(!fine(&made[0]) && fine(&made[1]));
    // Nanoseconds survive only where there are some.
    let last = |path: &Path| read(path).0.last().expect("packet").time;
    assert_eq!(last(&made[1]), 1_700_000_000_000_000_000 + 71 * 1_234_567);
    assert_eq!(last(&made[0]), last(&made[1]) / 1000 * 1000);
}

#[test]
fn what_is_written_is_what_was_read() {
    let directory = tempdir().expect("directory");
    let made = made(&directory);
    let cut = directory.path().join("cut.pcap");
    run(Command::new("editcap").args(["-s", "60"]).arg(&made[1]).arg(&cut));
    for input in made.iter().chain([&cut]) {
        for name in ["out.pcap", "out.pcapng"] {
            let output = directory.path().join(name);
            replay(input, &output);
            assert_eq!(tshark(&output), tshark(input), "{} to {name}", input.display());
            assert_eq!(tshark_bytes(&output), tshark_bytes(input));
            assert_eq!(read(&output).0, read(input).0);
        }
    }
    // The classic format keeps the resolution.
    let kind = |path: &Path| {
        let output = directory.path().join("kind.pcap");
        replay(path, &output);
        run(Command::new("capinfos").arg("-t").arg(&output))
    };
    assert!(kind(&made[1]).contains("nanosecond"), "{}", kind(&made[1]));
    assert!(!kind(&made[0]).contains("nanosecond"), "{}", kind(&made[0]));
}

#[test]
fn both_byte_orders_and_all_magics() {
    let directory = tempdir().expect("directory");
    for big in [false, true] {
        for (magic, unit) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
            let endian = Endian { big };
            let bytes = [
                endian.classic(magic, 1),
                endian.record(1_700_000_000, 123_456, &[2; 60], 60),
                endian.record(4_294_967_295, 999_999, &[], 0),
                endian.record(0, 0, &[4; 20], 1500),
            ]
            .concat();
            let path = file(&directory, "classic.pcap", &bytes);
            let packets = agrees_with_tshark(&path);
            assert_eq!(packets[0].time, 1_700_000_000_000_000_000 + 123_456 * unit);
            assert_eq!(packets[1].data, []);
            assert_eq!(packets[2].cut, 1480);
        }
    }
}

#[test]
fn pcapng_with_everything_in_it() {
    let directory = tempdir().expect("directory");
    let mut bytes = Vec::new();
    // Two sections of different byte order, each with its own interfaces.
    for big in [true, false] {
        let endian = Endian { big };
        bytes.extend(endian.section());
        bytes.extend(endian.interface(1, 0, None, 0));
        bytes.extend(endian.interface(1, 0, Some(9), 0));
        bytes.extend(endian.interface(1, 0, Some(3), 1_700_000_000));
        bytes.extend(endian.interface(1, 0, Some(0x80 | 20), 0));
        bytes.extend(endian.interface(1, 0, Some(0x80 | 32), -5));
        bytes.extend(endian.interface(1, 0, Some(11), 0));
        // Not Ethernet, but no packet is of it.
        bytes.extend(endian.interface(113, 0, None, 0));
        bytes.extend(endian.enhanced(0, 1_700_000_000_123_456, &[1; 61], 61));
        bytes.extend(endian.enhanced(1, 1_700_000_000_123_456_789, &[2; 62], 1500));
        bytes.extend(endian.enhanced(2, 5678, &[3; 63], 63));
        bytes.extend(endian.enhanced(3, 1_700_000_000 << 20 | 1 << 19, &[4; 64], 64));
        bytes.extend(endian.enhanced(4, 1_700_000_000 << 32 | 1 << 31, &[], 0));
        bytes.extend(endian.enhanced(5, 17_000_000_000_000_000, &[4; 64], 64));
        // Blocks without packets: unknown, name resolution, statistics; one of 2 MiB.
        bytes.extend(endian.block(0x0bad_0bad, &vec![7; 2 << 20]));
        bytes.extend(endian.block(4, &[0; 4]));
        bytes.extend(endian.block(5, &[0; 12]));
        bytes.extend(endian.obsolete(1, 1_700_000_001_000_000_001, &[5; 65]));
    }
    let path = file(&directory, "everything.pcapng", &bytes);
    let packets = agrees_with_tshark(&path);
    assert_eq!(packets.len(), 14);
    let times: Vec<u64> = packets[..7].iter().map(|packet| packet.time).collect();
    let second = 1_000_000_000;
    assert_eq!(
        times,
        [
            1_700_000_000 * second + 123_456_000,
            1_700_000_000 * second + 123_456_789,
            1_700_000_005 * second + 678_000_000,
            1_700_000_000 * second + 500_000_000,
            1_699_999_995 * second + 500_000_000,
            170_000 * second,
            1_700_000_001 * second + 1,
        ]
    );
    assert!(packets[..7].iter().zip(&packets[7..]).all(|(big, little)| big == little));
}

#[test]
fn simple_packets_take_the_time_of_the_one_before() {
    let directory = tempdir().expect("directory");
    for big in [false, true] {
        let endian = Endian { big };
        let bytes = [
            endian.section(),
            endian.interface(1, 64, Some(9), 0),
            endian.simple(&[1; 61], 61),
            endian.enhanced(0, 77, &[2; 60], 60),
            endian.simple(&[3; 64], 1500),
        ]
        .concat();
        let path = file(&directory, "simple.pcapng", &bytes);
        let (packets, error) = read(&path);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(packets.iter().map(|packet| packet.time).collect::<Vec<_>>(), [0, 77, 77]);
        let lengths = |(_, length, captured): &(u64, u32, u32)| (*length, *captured);
        let theirs: Vec<_> = tshark(&path).iter().map(lengths).collect();
        assert_eq!(theirs, [(61, 61), (60, 60), (1500, 64)]);
        assert_eq!(packets[2].cut, 1436);
        assert_eq!(packets[2].data, [3; 64]);
    }
}
