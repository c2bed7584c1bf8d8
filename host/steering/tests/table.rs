//! The table against what it stands for: looking at the rules one by one.

use std::net::IpAddr;

use proptest::prelude::*;
use weir_steering::{Key, Ports, Prefix, Rule, Table, Target, UNTAGGED};

fn scan(rules: &[Rule], key: &Key) -> Option<(u32, Target)> {
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

fn ports() -> impl Strategy<Value = Ports> {
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
fn rarely<T: Clone + std::fmt::Debug>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop::option::weighted(0.25, of)
}

prop_compose! {
    fn rule()(
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

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

prop_compose! {
    fn key()(
        source in address(), destination in address(), source_port in port(), destination_port in port(),
        protocol in small(&[0, 1, 6, 17]), dscp in small(&[0, 46]), vlan in small(&VLANS),
        ethertype in small(&ETHERTYPES), port in 0..2_u16, macs in [small(&MACS), small(&MACS)],
    ) -> Key {
        let (source, destination) = (octets(source), octets(destination));
        Key { source, destination, source_port, destination_port, protocol, dscp, vlan, ethertype, port, macs }
    }
}

/// A key that a rule means, as far as that is possible.
fn aimed(rule: &Rule, mut key: Key) -> Key {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_table_says_what_its_rules_say(
        rules in prop::collection::vec(rule(), 0..60), keys in prop::collection::vec(key(), 8),
    ) {
        let table = Table::new(&rules);
        prop_assert_eq!(table.len(), rules.len());
        for key in keys {
            prop_assert_eq!(table.classify(&key), scan(&rules, &key), "{:?}", key);
            for rule in &rules {
                let key = aimed(rule, key);
                prop_assert_eq!(table.classify(&key), scan(&rules, &key), "{:?}", key);
            }
        }
    }

    /// As bits alone, a rule means the same keys.
    #[test]
    fn masked_rules_mean_what_rules_mean(
        rules in prop::collection::vec(rule(), 20), keys in prop::collection::vec(key(), 8),
    ) {
        let masked: Vec<_> = rules.iter().map(Rule::masked).collect();
        for (rule, parts) in rules.iter().zip(&masked) {
            for key in keys.iter().flat_map(|key| [*key, aimed(rule, *key)]) {
                let means = parts.iter().any(|part| {
                    let words = key.words().into_iter().zip(part.mask.words());
                    words.map(|(word, mask)| word & mask).eq(part.bits.words())
                });
                prop_assert_eq!(means, rule.matches(&key), "{:?} {:?}", rule, key);
            }
        }
    }

    /// Many rules that differ in nothing but their ports.
    #[test]
    fn many_ranges_of_ports_are_told_apart(
        ranges in prop::collection::vec((rarely(ports()), rarely(ports())), 1..100),
        keys in prop::collection::vec(key(), 8),
    ) {
        let rules: Vec<_> = ranges
            .into_iter()
            .enumerate()
            .map(|(n, (source_ports, destination_ports))| Rule {
                protocol: Some(6),
                source_ports: source_ports.or(Some((2, 9))),
                destination_ports,
                ..Rule::all(Target::Chain(n as u16))
            })
            .collect();
        let table = Table::new(&rules);
        for key in keys {
            for rule in &rules {
                let key = aimed(rule, key);
                prop_assert_eq!(table.classify(&key), scan(&rules, &key), "{:?}", key);
            }
        }
    }
}

#[test]
fn an_empty_table_decides_nothing() {
    let table = Table::new(&[]);
    assert!(table.is_empty());
    assert_eq!(table.classify(&Key::default()), None);
}

#[test]
fn the_first_rule_decides() {
    let voice = Rule { dscp: Some(46), ..Rule::all(Target::Chain(1)) };
    let web = Rule { destination_ports: Some((80, 443)), ..Rule::all(Target::Chain(2)) };
    let rules = [voice, web, Rule::all(Target::Kernel), Rule::all(Target::Drop)];
    let table = Table::new(&rules);
    let key = Key { ethertype: 0x0800, dscp: 46, destination_port: 443, ..Key::default() };
    assert_eq!(table.classify(&key), Some((0, Target::Chain(1))));
    assert_eq!(table.classify(&Key { dscp: 0, ..key }), Some((1, Target::Chain(2))));
    // ARP has no code point, whatever its bytes are.
    let arp = Key { ethertype: 0x0806, destination_port: 0, ..key };
    assert_eq!(table.classify(&arp), Some((2, Target::Kernel)));
}
