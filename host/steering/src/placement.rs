//! Which rules a device in front of a port may decide, and what it has to compare for that.
//!
//! A device only ever drops, and what it lets through all rules are asked about again. So a device
//! decides a packet as the rules do if every packet that it drops is one whose first rule says so.
//! That is the case when a rule that drops is met by no packet that an earlier rule sends
//! elsewhere, and the device compares no less than the rule does; comparing more, or reading fewer
//! kinds of packets, is harmless. See `docs/adr/0023-steering-in-devices.md`.

use std::fmt;

use crate::Key;
use crate::frame::{IPV4, IPV6, TAGS};
use crate::pattern::{MaskedKey, Pattern, patterns};
use crate::ranges::ANY;
use crate::rule::{Ports, Rule, Target};

/// Rules of a table that are looked at for a device; those behind are compared in software.
const LOOKED_AT: usize = 4096;
/// Entries of a device for one rule, at most.
pub const PARTS_MAX: usize = 64;

/// What there is to say about a rule and the device in front of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Packets of this port never meet it.
    Elsewhere,
    /// The device may drop what is like one of these. Where a part names ports, the packet must be
    /// no fragment; where it names IP's fields, `ethertype` is one of IPv4's and IPv6's; where it
    /// names ports, `protocol` is named. Everything else that is named counts in full, but for
    /// addresses and ports.
    Drop(Vec<MaskedKey>),
    /// It is compared in software, because of this; none: there is nothing that a device could do
    /// with it.
    Software(Option<Why>),
}

/// Why a rule that drops is compared in software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A packet that this earlier rule (from 0) sends elsewhere may be like it too.
    Behind(u32),
    /// It stands behind so many that no device is asked.
    TooFarBehind,
    /// It names ports of no protocol, or of one that has none.
    NoProtocol,
    /// It means packets by what a device does not read in the same way: no VLAN tag, no protocol, a
    /// header of IPv6.
    ReadOtherwise,
    /// Its ranges of ports are too many entries.
    TooManyParts,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind(rule) => {
                write!(f, "rule {} sends some of its packets elsewhere", rule + 1)
            }
            Self::TooFarBehind => write!(f, "it is behind the first {LOOKED_AT} rules"),
            Self::NoProtocol => {
                f.write_str("a device compares ports of one protocol: name `proto`")
            }
            Self::ReadOtherwise => f.write_str("a device does not read that as the host does"),
            Self::TooManyParts => {
                write!(f, "its ranges of ports make more than {PARTS_MAX} entries")
            }
        }
    }
}

/// Says of each rule what a device in front of this port may do with it.
#[must_use]
pub fn fits(rules: &[Rule], port: u16) -> Vec<Fit> {
    // Those that send packets elsewhere, with their numbers.
    let mut before: Vec<(u32, Pattern)> = Vec::new();
    let mut fits = Vec::with_capacity(rules.len());
    let last = rules.iter().rposition(|rule| rule.target == Target::Drop);
    for (number, rule) in rules.iter().enumerate() {
        if rule.port.is_some_and(|of| of != port) {
            fits.push(Fit::Elsewhere);
            continue;
        }
        let rule = Rule { port: None, ..*rule };
        if rule.target != Target::Drop {
            if number < LOOKED_AT && last.is_some_and(|last| number < last) {
                before.extend(patterns(&rule).into_iter().map(|pattern| (number as u32, pattern)));
            }
            fits.push(Fit::Software(None));
            continue;
        }
        fits.push(match dropped(&rule, number, &before) {
            Ok(parts) => Fit::Drop(parts),
            Err(why) => Fit::Software(Some(why)),
        });
    }
    fits
}

fn dropped(rule: &Rule, number: usize, before: &[(u32, Pattern)]) -> Result<Vec<MaskedKey>, Why> {
    if number >= LOOKED_AT {
        return Err(Why::TooFarBehind);
    }
    let own = patterns(rule);
    let meets = |(_, other): &&(u32, Pattern)| own.iter().any(|own| own.meets(other));
    if let Some((other, _)) = before.iter().find(meets) {
        return Err(Why::Behind(*other));
    }
    parts(rule)
}

impl Pattern {
    /// Whether there may be a packet that is like both.
    fn meets(&self, other: &Self) -> bool {
        let masks = self.mask.words().into_iter().zip(other.mask.words());
        let bits = self.bits.words().into_iter().zip(other.bits.words());
        masks.zip(bits).all(|((a, b), (c, d))| a & b & (c ^ d) == 0)
            && self
                .ports()
                .into_iter()
                .zip(other.ports())
                .all(|(a, b)| a.0.max(b.0) <= a.1.min(b.1))
    }

    /// Source and destination ports.
    fn ports(&self) -> [Ports; 2] {
        let one = |mask: u16, port: u16| if mask == u16::MAX { (port, port) } else { ANY };
        let exactly = |ports: Ports, exact: Ports| if exact == ANY { ports } else { exact };
        let (source, destination) = self.ports.unwrap_or((ANY, ANY));
        [
            exactly(source, one(self.mask.source_port, self.bits.source_port)),
            exactly(destination, one(self.mask.destination_port, self.bits.destination_port)),
        ]
    }
}

/// A rule as a device compares it.
fn parts(rule: &Rule) -> Result<Vec<MaskedKey>, Why> {
    let mut parts = Vec::new();
    for part in rule.masked() {
        let of_ip = part.mask.protocol != 0 || names_ports(&part);
        let ethertypes = if of_ip && part.mask.ethertype == 0 { &[IPV4, IPV6][..] } else { &[] };
        let whole = ethertypes.is_empty().then_some(part);
        let halves = ethertypes.iter().map(|&ethertype| MaskedKey {
            mask: Key { ethertype: u16::MAX, ..part.mask },
            bits: Key { ethertype, ..part.bits },
        });
        for part in whole.into_iter().chain(halves) {
            check(&part)?;
            parts.push(part);
        }
        if parts.len() > PARTS_MAX {
            return Err(Why::TooManyParts);
        }
    }
    Ok(parts)
}

fn names_ports(part: &MaskedKey) -> bool {
    part.mask.source_port != 0 || part.mask.destination_port != 0
}

fn check(part: &MaskedKey) -> Result<(), Why> {
    /// Hop-by-hop options (or none), routing, fragment, authentication, destination options,
    /// mobility.
    const EXTENSIONS: [u8; 6] = [0, 43, 44, 51, 60, 135];
    /// TCP, UDP, DCCP, SCTP, UDP-Lite.
    const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
    let MaskedKey { mask, bits } = part;
    let untagged = mask.vlan != 0 && bits.vlan == crate::UNTAGGED;
    let no_protocol = mask.protocol != 0 && bits.protocol == 0;
    let extension = mask.protocol != 0 && bits.is_ipv6() && EXTENSIONS.contains(&bits.protocol);
    // Behind two tags, and nobody counts alike.
    let tag = mask.ethertype != 0 && TAGS.contains(&bits.ethertype);
    let not_ip = mask.protocol != 0 && !bits.is_ipv4() && !bits.is_ipv6();
    if untagged || tag || no_protocol || extension || not_ip {
        return Err(Why::ReadOtherwise);
    }
    if names_ports(part) && (mask.protocol == 0 || !WITH_PORTS.contains(&bits.protocol)) {
        return Err(Why::NoProtocol);
    }
    Ok(())
}
