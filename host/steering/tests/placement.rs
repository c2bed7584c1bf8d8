//! A device that drops what it was given, and software behind it, against looking at the rules one
//! by one.

mod common;

use common::{aimed, key, rule, scan};
use etherparse::{NetSlice, SlicedPacket, TransportSlice, VlanSlice};
use proptest::prelude::*;
use weir_steering::{Fit, Key, MaskedKey, PARTS_MAX, Prefix, Rule, Table, Target, Why, fits};

/// What a device compares, and how much of it it can hold.
#[derive(Clone, Debug)]
struct Device {
    /// Words of a mask that it can compare, as bits.
    words: [u64; 7],
    entries: usize,
    /// It reads no tagged frames, as kernels' filters do not.
    untagged_only: bool,
    placed: Vec<MaskedKey>,
}

impl Device {
    /// Takes all parts of a rule, or none.
    fn take(&mut self, parts: &[MaskedKey]) -> bool {
        let can =
            |part: &MaskedKey| part.mask.words().iter().zip(self.words).all(|(a, b)| a & !b == 0);
        let takes = parts.iter().all(can) && self.placed.len() + parts.len() <= self.entries;
        if takes {
            self.placed.extend(parts);
        }
        takes
    }

    fn drops(&self, frame: &[u8]) -> bool {
        let Some((key, fragment, tagged)) = read(frame) else { return false };
        if tagged && self.untagged_only {
            return false;
        }
        self.placed.iter().any(|part| {
            let ports = part.mask.source_port != 0 || part.mask.destination_port != 0;
            let like = key.words().into_iter().zip(part.mask.words()).map(|(key, mask)| key & mask);
            like.eq(part.bits.words()) && !(ports && fragment)
        })
    }
}

/// How a device reads a frame: by somebody else's code. Ports of first fragments too, as many
/// devices do.
fn read(frame: &[u8]) -> Option<(Key, bool, bool)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let etherparse::LinkSlice::Ethernet2(ethernet) = packet.link.as_ref()? else { return None };
    let mut key = Key { vlan: u16::MAX, ..Key::default() };
    key.macs = [ethernet.destination(), ethernet.source()];
    key.ethertype = ethernet.ether_type().0;
    match packet.vlan() {
        Some(VlanSlice::SingleVlan(tag)) => {
            (key.vlan, key.ethertype) = (tag.vlan_identifier().value(), tag.ether_type().0);
        }
        Some(VlanSlice::DoubleVlan(tags)) => {
            (key.vlan, key.ethertype) =
                (tags.outer.vlan_identifier().value(), tags.inner.ether_type().0);
        }
        None => {}
    }
    let mut fragment = false;
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (key.source, key.destination) = (
                header.source_addr().to_ipv6_mapped().octets(),
                header.destination_addr().to_ipv6_mapped().octets(),
            );
            (key.protocol, key.dscp) = (header.protocol().0, header.dcp().value());
            fragment = header.is_fragmenting_payload();
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (key.source, key.destination) = (header.source(), header.destination());
            // Only what the header itself names.
            (key.protocol, key.dscp) = (header.next_header().0, header.traffic_class() >> 2);
            fragment = ip.is_payload_fragmented();
        }
        _ => {}
    }
    let first = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.header().fragments_offset().value() == 0,
        _ => !fragment,
    };
    (key.source_port, key.destination_port) = match &packet.transport {
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        // The crate reads no ports of fragments.
        _ if fragment && first && matches!(key.protocol, 6 | 17) => {
            let at = frame.len() - 20;
            let two = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            (two(at), two(at + 2))
        }
        _ => (0, 0),
    };
    Some((key, fragment, packet.vlan().is_some()))
}

/// A frame that has what the key has, as far as there is one.
fn frame(key: &Key, more: u8) -> Vec<u8> {
    let mut bytes = [key.macs[0], key.macs[1]].concat();
    if key.vlan != u16::MAX {
        bytes.extend([0x81, 0]);
        bytes.extend((key.vlan | 0x2000).to_be_bytes());
    }
    bytes.extend(key.ethertype.to_be_bytes());
    let mut payload = [key.source_port.to_be_bytes(), key.destination_port.to_be_bytes()].concat();
    // A header of TCP or UDP, whichever is asked for.
    payload.extend([0, 20, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    let dscp = key.dscp << 2;
    if key.is_ipv4() {
        let fragment = match more {
            0 => [0x20, 0],
            1 => [0, 7],
            _ => [0x40, 0],
        };
        bytes.extend([0x45, dscp, 0, 40, 0, 1, fragment[0], fragment[1], 64, key.protocol, 0, 0]);
        bytes.extend(&key.source[12..]);
        bytes.extend(&key.destination[12..]);
    } else if key.is_ipv6() {
        let (length, next) = if more == 0 { (28, 60) } else { (20, key.protocol) };
        bytes.extend([0x60 | dscp >> 4, dscp << 4, 0, 0, 0, length, next, 64]);
        bytes.extend(key.source);
        bytes.extend(key.destination);
        if more == 0 {
            bytes.extend([key.protocol, 0, 1, 4, 0, 0, 0, 0]);
        }
    }
    bytes.extend(payload);
    bytes
}

prop_compose! {
    fn device()(
        fields in prop::collection::vec(prop::bool::weighted(0.85), 10), masks in any::<bool>(),
        entries in prop_oneof![0..8_usize, Just(1000)], untagged_only in any::<bool>(),
    ) -> Device {
        let all = Key {
            source: [u8::MAX; 16], destination: [u8::MAX; 16], source_port: u16::MAX, destination_port: u16::MAX,
            protocol: u8::MAX, dscp: u8::MAX, vlan: u16::MAX, ethertype: u16::MAX, port: 0, macs: [[u8::MAX; 6]; 2],
        };
        let mut can = Key::default();
        if fields[0] { can.source = all.source; }
        if fields[1] { can.destination = all.destination; }
        if fields[2] && masks { can.source_port = all.source_port; }
        if fields[3] { can.destination_port = all.destination_port; }
        if fields[4] { can.protocol = all.protocol; }
        if fields[5] { can.dscp = all.dscp; }
        if fields[6] { can.vlan = all.vlan; }
        if fields[7] { can.macs[0] = all.macs[0]; }
        if fields[8] { can.macs[1] = all.macs[1]; }
        can.ethertype = all.ethertype;
        Device { words: can.words(), entries, untagged_only, placed: Vec::new() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_device_and_the_rules_behind_it_decide_as_the_rules_do(
        rules in prop::collection::vec(rule(), 0..24), keys in prop::collection::vec((key(), 0..4_u8), 6),
        mut device in device(), port in 0..2_u16,
    ) {
        let table = Table::new(&rules);
        let fits = fits(&rules, port);
        prop_assert_eq!(fits.len(), rules.len());
        for fit in &fits {
            if let Fit::Drop(parts) = fit {
                prop_assert!(parts.len() <= PARTS_MAX);
                device.take(parts);
            }
        }
        for (key, more) in keys {
            for key in rules.iter().map(|rule| aimed(rule, key)).chain([key]) {
                let frame = frame(&key, more);
                let key = Key::read(&frame, port);
                let expected = scan(&rules, &key);
                if device.drops(&frame) {
                    prop_assert_eq!(expected.map(|(_, target)| target), Some(Target::Drop), "{:?}", key);
                } else {
                    prop_assert_eq!(table.classify(&key), expected, "{:?}", key);
                }
            }
        }
    }
}

fn from(address: &str, length: u8, target: Target) -> Rule {
    let address = address.parse().expect("an address");
    Rule { source: Some(Prefix { address, length }), ..Rule::all(target) }
}

fn places(rules: &[Rule]) -> Vec<Option<Why>> {
    fits(rules, 0)
        .into_iter()
        .map(|fit| match fit {
            Fit::Drop(_) => None,
            Fit::Software(why) => why,
            Fit::Elsewhere => panic!("there is one port"),
        })
        .collect()
}

#[test]
fn what_nothing_stands_before_may_be_dropped_by_a_device() {
    let rules = [
        from("192.0.2.0", 24, Target::Drop),
        from("10.1.0.0", 16, Target::Chain(0)),
        from("10.2.0.0", 16, Target::Drop),
        from("10.0.0.0", 8, Target::Drop),
        from("2001:db8::", 32, Target::Drop),
        Rule { vlan: Some(7), ..Rule::all(Target::Drop) },
    ];
    let behind = Some(Why::Behind(1));
    assert_eq!(places(&rules), [None, None, None, behind, None, behind]);
}

#[test]
fn ports_are_compared_for_what_has_them() {
    let dport = |ports| Rule { destination_ports: Some(ports), ..Rule::all(Target::Drop) };
    let tcp = |ports| Rule { protocol: Some(6), ..dport(ports) };
    assert_eq!(places(&[dport((22, 22))]), [Some(Why::NoProtocol)]);
    assert_eq!(places(&[tcp((22, 22))]), [None]);
    // Both kinds of IP, and as many masks as the range needs.
    let Fit::Drop(parts) = &fits(&[tcp((1024, 3071))], 0)[0] else { panic!("it fits") };
    assert_eq!(parts.len(), 2 * 2);
    let both = Rule { source_ports: Some((1, 9999)), ..tcp((1, 9999)) };
    assert_eq!(places(&[both]), [Some(Why::TooManyParts)]);
    // A rule for other ports does not stand in the way, one for some of them does.
    let chain = |ports| Rule { target: Target::Chain(0), ..tcp(ports) };
    assert_eq!(places(&[chain((80, 80)), tcp((1024, 3071))]), [None, None]);
    assert_eq!(places(&[chain((2000, 2000)), tcp((1024, 3071))]), [None, Some(Why::Behind(0))]);
}

#[test]
fn other_ports_rules_are_none_of_this() {
    let rule = Rule { port: Some(1), ..from("10.0.0.0", 8, Target::Drop) };
    assert_eq!(fits(&[rule], 0), [Fit::Elsewhere]);
    let elsewhere = Rule { port: Some(1), ..from("10.0.0.0", 8, Target::Chain(0)) };
    assert!(matches!(fits(&[elsewhere, from("10.0.0.0", 8, Target::Drop)], 0)[1], Fit::Drop(_)));
}

#[test]
fn what_a_device_reads_otherwise_stays_in_software() {
    let ethertype = |n| Rule { ethertype: Some(n), ..Rule::all(Target::Drop) };
    let protocol = |n| Rule { protocol: Some(n), ..Rule::all(Target::Drop) };
    let rules = [
        ethertype(0x0806),
        ethertype(0x8100),
        protocol(47),
        protocol(44),
        Rule { ethertype: Some(0x0800), ..protocol(44) },
        Rule { vlan: Some(u16::MAX), ..Rule::all(Target::Drop) },
    ];
    let otherwise = Some(Why::ReadOtherwise);
    assert_eq!(places(&rules), [None, otherwise, None, otherwise, None, otherwise]);
}
