//! Rules and keys that meet each other, and the classifier that everything else is compared with.

use std::net::IpAddr;

use proptest::prelude::*;
use weir_steering::{Key, Ports, Prefix, Rule, Target, UNTAGGED, octets};

pub(crate) fn scan(rules: &[Rule], key: &Key) -> Option<(u32, Target)> {
    let found = rules.iter().position(|rule| rule.matches(key))?;
    Some((found as u32, rules[found].target))
}

/// Few values, so that rules and keys meet.
fn small<T: Copy + std::fmt::Debug + 'static>(values: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(values)
}

const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.128.0.1",
    "192.0.2.7",
    "2001:db8::1",
    "2001:db8:8000::1",
    "::ffff:10.0.0.1",
    "::",
];

fn address() -> impl Strategy<Value = IpAddr> {
    small(&ADDRESSES).prop_map(|text| text.parse().expect("an address"))
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let length = prop_oneof![small(&[0, 1, 8, 9, 31, 32, 33, 64, 104, 128, 255]), 0..=128_u8];
    (address(), length).prop_map(|(address, length)| Prefix { address, length })
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![small(&[0, 1, 79, 80, 81, 443, 1023, 1024, u16::MAX]), any::<u16>()]
}

pub(crate) fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        port().prop_map(|port| (port, port)),
        (port(), port()).prop_map(|(a, b)| (a.min(b), a.max(b))),
        Just((0, u16::MAX)),
        Just((7, 3)),
    ]
}

const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [0; 6]];
const ETHERTYPES: [u16; 3] = [0x0800, 0x86dd, 0x0806];
const VLANS: [u16; 3] = [UNTAGGED, 0, 100];

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![(0..3_u16).prop_map(Target::Chain), Just(Target::Kernel), Just(Target::Drop)]
}

/// Present once in so many times.
pub(crate) fn rarely<T: Clone + std::fmt::Debug>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.25, of)
}

prop_compose! {
    pub(crate) fn rule()(
        port in rarely(0..2_u16), vlan in rarely(small(&VLANS)), ethertype in rarely(small(&ETHERTYPES)),
        source_mac in rarely(small(&MACS)), destination_mac in rarely(small(&MACS)),
        source in rarely(prefix()), destination in rarely(prefix()),
        protocol in rarely(small(&[0, 1, 6, 17])), source_ports in rarely(ports()),
        destination_ports in rarely(ports()), (dscp, target) in (rarely(small(&[0, 46])), target()),
    ) -> Rule {
        Rule {
            port, vlan, ethertype, source_mac, destination_mac, source, destination, protocol,
            source_ports, destination_ports, dscp, target,
        }
    }
}

prop_compose! {
    pub(crate) fn key()(
        source in address(), destination in address(), source_port in port(), destination_port in port(),
        protocol in small(&[0, 1, 6, 17]), dscp in small(&[0, 46]), vlan in small(&VLANS),
        ethertype in small(&ETHERTYPES), port in 0..2_u16, macs in [small(&MACS), small(&MACS)],
    ) -> Key {
        let (source, destination) = (octets(source), octets(destination));
        Key { source, destination, source_port, destination_port, protocol, dscp, vlan, ethertype, port, macs }
    }
}

/// A key that a rule means, as far as that is possible.
pub(crate) fn aimed(rule: &Rule, mut key: Key) -> Key {
    key.port = rule.port.unwrap_or(key.port);
    key.vlan = rule.vlan.unwrap_or(key.vlan);
    key.protocol = rule.protocol.unwrap_or(key.protocol);
    key.dscp = rule.dscp.unwrap_or(key.dscp);
    key.macs[0] = rule.destination_mac.unwrap_or(key.macs[0]);
    key.macs[1] = rule.source_mac.unwrap_or(key.macs[1]);
    key.source_port = rule.source_ports.map_or(key.source_port, |ports| ports.1);
    key.destination_port = rule.destination_ports.map_or(key.destination_port, |ports| ports.0);
    key.ethertype = rule.ethertype.unwrap_or(key.ethertype);
    for (prefix, address) in
        [(rule.source, &mut key.source), (rule.destination, &mut key.destination)]
    {
        if let Some(prefix) = prefix {
            *address = octets(prefix.address);
            key.ethertype = if prefix.address.is_ipv4() { 0x0800 } else { 0x86dd };
        }
    }
    key
}
