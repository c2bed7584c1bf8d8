//! A packet in one line, without tshark.

use std::fmt::Write as _;

use etherparse::{LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice};

/// ARP operations (RFC 826).
const ARP: [(u16, &str); 2] = [(1, "request"), (2, "reply")];
/// Types of ICMP and ICMPv6 that are seen most (RFC 792, RFC 4443, RFC 4861).
const ICMP: [(u8, &str); 4] =
    [(0, "echo reply"), (3, "destination unreachable"), (8, "echo request"), (11, "time exceeded")];
const ICMPV6: [(u8, &str); 7] = [
    (1, "destination unreachable"),
    (2, "packet too big"),
    (3, "time exceeded"),
    (128, "echo request"),
    (129, "echo reply"),
    (135, "neighbor solicitation"),
    (136, "neighbor advertisement"),
];

/// Addresses, protocol, ports and flags of a frame that has so many bytes, as far as they are
/// there.
#[must_use]
pub fn in_short(frame: &[u8], length: usize) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return format!("{length} bytes that are no packet");
    };
    let mut text = String::new();
    for tag in &packet.link_exts {
        if let LaxLinkExtSlice::Vlan(vlan) = tag {
            // Writing to a string does not fail, here and below.
            let _ = write!(text, "VLAN {} ", vlan.vlan_identifier().value());
        }
    }
    let (protocol, fragment) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let _ = write!(text, "{from} → {to} ");
            (header.protocol().0, ip.is_payload_fragmented())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let _ = write!(text, "{from} → {to} ");
            (ip.payload().ip_number.0, ip.is_payload_fragmented())
        }
        Some(LaxNetSlice::Arp(arp)) => {
            let operation = arp.operation().0;
            let name = named(&ARP, operation).unwrap_or_else(|| format!("operation {operation}"));
            return text + &format!("ARP {name}, {length} bytes");
        }
        None => return text + &format!("not IP, {length} bytes"),
    };
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let (from, to) = (tcp.source_port(), tcp.destination_port());
            let _ = write!(text, "TCP {from} → {to} [{}]", flags(tcp));
        }
        Some(TransportSlice::Udp(udp)) => {
            let _ = write!(text, "UDP {} → {}", udp.source_port(), udp.destination_port());
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let kind = icmp.type_u8();
            text += &named(&ICMP, kind)
                .map_or(format!("ICMP type {kind}"), |name| format!("ICMP {name}"));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let kind = icmp.type_u8();
            let name = named(&ICMPV6, kind);
            text += &name.map_or(format!("ICMPv6 type {kind}"), |name| format!("ICMPv6 {name}"));
        }
        _ => {
            let _ = write!(text, "protocol {protocol}");
        }
    }
    let fragment = if fragment { ", a fragment" } else { "" };
    text + &format!("{fragment}, {length} bytes")
}

fn named<T: PartialEq>(names: &[(T, &str)], value: T) -> Option<String> {
    let (_, name) = names.iter().find(|(known, _)| *known == value)?;
    Some((*name).to_owned())
}

/// As tshark and tcpdump name them.
fn flags(tcp: &TcpSlice<'_>) -> String {
    let all = [
        (tcp.fin(), "FIN"),
        (tcp.syn(), "SYN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.ack(), "ACK"),
        (tcp.urg(), "URG"),
        (tcp.ece(), "ECE"),
        (tcp.cwr(), "CWR"),
    ];
    let set: Vec<_> = all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    if set.is_empty() { "none".to_owned() } else { set.join(", ") }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, VlanId};

    use super::*;

    #[test]
    fn packets_in_one_line() {
        let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let v4 = || ethernet().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut bytes = Vec::new();
        v4().udp(1000, 53).write(&mut bytes, b"weir").unwrap();
        assert_eq!(in_short(&bytes, bytes.len()), "10.0.0.1 → 10.0.0.2 UDP 1000 → 53, 46 bytes");
        // What a tap cut off.
        assert_eq!(in_short(&bytes[..44], 46), "10.0.0.1 → 10.0.0.2 UDP 1000 → 53, 46 bytes");
        assert_eq!(in_short(&bytes[..9], 9), "9 bytes that are no packet");

        let mut bytes = Vec::new();
        let tagged = ethernet().single_vlan(VlanId::try_new(7).unwrap());
        let tcp = tagged.ipv6([1; 16], [2; 16], 64).tcp(1000, 80, 7, 1024).syn().ack(1);
        tcp.write(&mut bytes, &[]).unwrap();
        let address = |byte: &str| [byte; 8].map(str::to_owned).join(":");
        let (from, to) = (address("101"), address("202"));
        let expected = format!("VLAN 7 {from} → {to} TCP 1000 → 80 [SYN, ACK], 78 bytes");
        assert_eq!(in_short(&bytes, bytes.len()), expected);

        let mut bytes = Vec::new();
        v4().icmpv4_echo_request(1, 1).write(&mut bytes, &[]).unwrap();
        assert_eq!(
            in_short(&bytes, bytes.len()),
            "10.0.0.1 → 10.0.0.2 ICMP echo request, 42 bytes"
        );
    }
}
