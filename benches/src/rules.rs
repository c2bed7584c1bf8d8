//! Steering rules as operators have them, many of them, and packets for them.
//!
//! Owns: making them, the same at every run. Must not know: what classifies.

use std::net::IpAddr;

use weir_steering::{Key, Prefix, Rule, Target, UNTAGGED, octets};

/// Numbers that look random (SplitMix64, Steele et al., OOPSLA 2014).
pub struct Numbers(u64);

impl Numbers {
    /// Always the same numbers from the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        weir_sdk::hash::mix(self.0)
    }

    /// One below this.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// True so many times out of a hundred.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Which lengths prefixes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Those that are given out: /8, /16, /24, /32 and /48, /64, /128.
    Usual,
    /// Any from /8 to /32, and from /16 to /64.
    Any,
}

impl Mix {
    fn prefix(self, numbers: &mut Numbers, v4: bool) -> Prefix {
        let length = match (self, v4) {
            (Self::Usual, true) => numbers.pick(&[8, 16, 24, 24, 32, 32]),
            (Self::Usual, false) => numbers.pick(&[48, 64, 64, 128]),
            (Self::Any, true) => 8 + numbers.below(25) as u8,
            (Self::Any, false) => 16 + numbers.below(49) as u8,
        };
        Prefix { address: address(numbers, v4), length }
    }

    /// So many rules: a fifth for IPv6; addresses, protocols, ports (one or a range), and now and
    /// then a VLAN or a code point.
    #[must_use]
    pub fn rules(self, count: usize) -> Vec<Rule> {
        let mut numbers = Numbers::new(count as u64);
        (0..count).map(|_| self.rule(&mut numbers)).collect()
    }

    fn rule(self, numbers: &mut Numbers) -> Rule {
        let target = match numbers.below(4) {
            0 => Target::Kernel,
            1 => Target::Drop,
            n => Target::Chain(n as u16),
        };
        let v4 = numbers.percent(80);
        let mut rule = Rule::all(target);
        rule.destination = Some(self.prefix(numbers, v4));
        rule.source = numbers.percent(50).then(|| self.prefix(numbers, v4));
        if numbers.percent(60) {
            rule.protocol = Some(numbers.pick(&[6, 6, 17]));
            let port = 1 + numbers.below(60_000) as u16;
            rule.destination_ports = match numbers.below(10) {
                0..4 => Some(numbers.pick(&[53, 80, 443, 5060, 8080])).map(|port| (port, port)),
                4..6 => Some((port, port)),
                6..8 => Some((port, port + numbers.below(4_000) as u16)),
                _ => None,
            };
            rule.source_ports = numbers.percent(10).then_some((1024, u16::MAX));
        }
        rule.vlan = numbers.percent(5).then(|| numbers.below(100) as u16);
        rule.dscp = numbers.percent(5).then(|| numbers.pick(&[0, 26, 46]));
        rule
    }
}

fn address(numbers: &mut Numbers, v4: bool) -> IpAddr {
    if v4 {
        return IpAddr::V4((numbers.draw() as u32).into());
    }
    // Global unicast addresses.
    let high = u128::from(numbers.draw() >> 3 | 1 << 61);
    IpAddr::V6((high << 64 | u128::from(numbers.draw())).into())
}

/// So many packets, each of another flow; every second one is such as a rule means.
#[must_use]
pub fn keys(rules: &[Rule], count: usize) -> Vec<Key> {
    let mut numbers = Numbers::new(7);
    (0..count).map(|n| key(&mut numbers, rules.get(rule_of(n, rules.len())))).collect()
}

/// The rule that a packet is for; past the end: none.
const fn rule_of(packet: usize, rules: usize) -> usize {
    if packet.is_multiple_of(2) || rules == 0 {
        usize::MAX
    } else {
        packet.wrapping_mul(0x9e37_79b9) % rules
    }
}

fn key(numbers: &mut Numbers, rule: Option<&Rule>) -> Key {
    let destination = rule.and_then(|rule| rule.destination);
    let v4 = destination.map_or_else(|| numbers.percent(80), |prefix| prefix.address.is_ipv4());
    let mut within = |prefix: Option<Prefix>| {
        let other = octets(address(numbers, v4));
        let Some(Prefix { address, length }) = prefix else { return other };
        let bits = u32::from(length) + if v4 { 96 } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        (u128::from_be_bytes(octets(address)) & mask | u128::from_be_bytes(other) & !mask)
            .to_be_bytes()
    };
    let destination = within(destination);
    let source = within(rule.and_then(|rule| rule.source));
    let rule = rule.copied().unwrap_or(Rule::all(Target::Drop));
    let mut port =
        |ports: Option<(u16, u16)>| ports.map_or(1 + numbers.below(65_000) as u16, |p| p.0);
    Key {
        source,
        destination,
        source_port: port(rule.source_ports),
        destination_port: port(rule.destination_ports),
        protocol: rule.protocol.unwrap_or(6),
        dscp: rule.dscp.unwrap_or(0),
        vlan: rule.vlan.unwrap_or(UNTAGGED),
        ethertype: if v4 { 0x0800 } else { 0x86dd },
        port: 0,
        macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
    }
}
