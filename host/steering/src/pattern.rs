//! What a rule looks at, as a mask over a key, and what has to be there.

use crate::Key;
use crate::ranges::{ANY, prefixes};
use crate::rule::{Ports, Prefix, Rule};

/// A rule, or a part of one, as bits alone: it means the keys that are `bits` under the mask.
/// Ranges of ports are split into prefixes, at most 30 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskedKey {
    /// Which bits count.
    pub mask: Key,
    /// What they have to be; the others are 0.
    pub bits: Key,
}

impl Rule {
    /// The rule as bits alone, for those who compare nothing else. Together its parts mean what the
    /// rule means.
    #[must_use]
    pub fn masked(&self) -> Vec<MaskedKey> {
        let mut parts = Vec::new();
        for Pattern { mask, bits, ports } in patterns(self) {
            let Some((sources, destinations)) = ports else {
                parts.push(MaskedKey { mask, bits });
                continue;
            };
            for source in prefixes(sources) {
                for destination in prefixes(destinations) {
                    let (mut mask, mut bits) = (mask, bits);
                    for (port, mask, bits) in [
                        (source, &mut mask.source_port, &mut bits.source_port),
                        (destination, &mut mask.destination_port, &mut bits.destination_port),
                    ] {
                        // All ports: one of them may be exact already.
                        if port.0 > 0 {
                            let behind = 16 - port.0;
                            *mask = u16::MAX << behind;
                            *bits = port.1 << behind;
                        }
                    }
                    parts.push(MaskedKey { mask, bits });
                }
            }
        }
        parts
    }
}

/// What a rule looks at, and what has to be there.
pub(crate) struct Pattern {
    pub(crate) mask: Key,
    pub(crate) bits: Key,
    /// Ranges of source and destination ports, where they are more than one port and less than all.
    pub(crate) ports: Option<(Ports, Ports)>,
}

/// One for each EtherType that the rule's packets can have, or one for any.
pub(crate) fn patterns(rule: &Rule) -> Vec<Pattern> {
    let (mut mask, mut bits) = (Key::default(), Key::default());
    macro_rules! exactly {
        ($wanted:expr => $($field:tt)+) => {
            if let Some(wanted) = $wanted {
                mask.$($field)+ = ONES.$($field)+;
                bits.$($field)+ = wanted;
            }
        };
    }
    exactly!(rule.port => port);
    exactly!(rule.vlan => vlan);
    exactly!(rule.destination_mac => macs[0]);
    exactly!(rule.source_mac => macs[1]);
    exactly!(rule.protocol => protocol);
    exactly!(rule.dscp => dscp);
    exactly!(one(rule.source_ports) => source_port);
    exactly!(one(rule.destination_ports) => destination_port);
    (mask.source, bits.source) = leading(rule.source);
    (mask.destination, bits.destination) = leading(rule.destination);
    let range = |ports: Option<Ports>| ports.filter(|ports| one(Some(*ports)).is_none());
    let ports = (range(rule.source_ports), range(rule.destination_ports));
    let ports = (ports.0.unwrap_or(ANY), ports.1.unwrap_or(ANY));
    let ports = (ports != (ANY, ANY)).then_some(ports);
    let pattern = |mask, bits| Pattern { mask, bits, ports };
    let Some(ethertypes) = rule.ethertypes() else { return vec![pattern(mask, bits)] };
    let with = |ethertype| pattern(Key { ethertype: u16::MAX, ..mask }, Key { ethertype, ..bits });
    ethertypes.into_iter().map(with).collect()
}

/// A mask under which everything counts.
const ONES: Key = Key {
    source: [u8::MAX; 16],
    destination: [u8::MAX; 16],
    source_port: u16::MAX,
    destination_port: u16::MAX,
    protocol: u8::MAX,
    dscp: u8::MAX,
    vlan: u16::MAX,
    ethertype: u16::MAX,
    port: u16::MAX,
    macs: [[u8::MAX; 6]; 2],
};

/// The port, if it is one.
fn one(ports: Option<Ports>) -> Option<u16> {
    ports.filter(|(from, to)| from == to).map(|(port, _)| port)
}

/// Mask and bits of an address.
fn leading(prefix: Option<Prefix>) -> ([u8; 16], [u8; 16]) {
    let Some(prefix) = prefix else { return ([0; 16], [0; 16]) };
    let mask = u128::MAX.checked_shl(128 - prefix.bits()).unwrap_or(0);
    let bits = u128::from_be_bytes(prefix.octets()) & mask;
    (mask.to_be_bytes(), bits.to_be_bytes())
}
