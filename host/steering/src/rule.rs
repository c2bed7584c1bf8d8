//! Rules: which packets, and where they go.

use std::net::IpAddr;

use crate::Key;
use crate::frame::{IPV4, IPV6};
use crate::key::mapped;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// To a chain, by its number in a list that whoever made the rules keeps.
    Chain(u16),
    /// To the kernel of this machine.
    Kernel,
    /// Nowhere.
    Drop,
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The beginning; bits behind it do not count.
    pub address: IpAddr,
    /// Bits of it, at most 32 or 128; more are as many as there are.
    pub length: u8,
}

impl Prefix {
    /// Bits of an address as [`Key`] has it.
    pub(crate) fn bits(self) -> u32 {
        match self.address {
            IpAddr::V4(_) => 96 + u32::from(self.length.min(32)),
            IpAddr::V6(_) => u32::from(self.length.min(128)),
        }
    }

    /// The address as [`Key`] has it.
    pub(crate) fn octets(self) -> [u8; 16] {
        match self.address {
            IpAddr::V4(address) => mapped(address.to_bits()),
            IpAddr::V6(address) => address.octets(),
        }
    }

    /// The only EtherType whose packets have such addresses.
    const fn ethertype(self) -> u16 {
        match self.address {
            IpAddr::V4(_) => IPV4,
            IpAddr::V6(_) => IPV6,
        }
    }

    fn holds(self, ethertype: u16, address: [u8; 16]) -> bool {
        let differ = u128::from_be_bytes(address) ^ u128::from_be_bytes(self.octets());
        ethertype == self.ethertype() && differ.leading_zeros() >= self.bits()
    }
}

/// Port numbers, both ends included.
pub type Ports = (u16, u16);

/// Which packets, and where they go: all that is named has to be as the packet's [`Key`] has it. A
/// prefix, and `dscp`, are only in IP packets; with nothing named, all packets are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The number of the port by which it comes in.
    pub port: Option<u16>,
    /// The outer VLAN, or [`crate::UNTAGGED`].
    pub vlan: Option<u16>,
    /// What the frame carries behind VLAN tags.
    pub ethertype: Option<u16>,
    /// Source hardware address.
    pub source_mac: Option<[u8; 6]>,
    /// Destination hardware address.
    pub destination_mac: Option<[u8; 6]>,
    /// Source address.
    pub source: Option<Prefix>,
    /// Destination address.
    pub destination: Option<Prefix>,
    /// Number of the protocol behind IP's headers.
    pub protocol: Option<u8>,
    /// Source port.
    pub source_ports: Option<Ports>,
    /// Destination port.
    pub destination_ports: Option<Ports>,
    /// Differentiated services code point.
    pub dscp: Option<u8>,
    /// Where such packets go.
    pub target: Target,
}

impl Rule {
    /// All packets go there.
    #[must_use]
    pub const fn all(target: Target) -> Self {
        Self {
            port: None,
            vlan: None,
            ethertype: None,
            source_mac: None,
            destination_mac: None,
            source: None,
            destination: None,
            protocol: None,
            source_ports: None,
            destination_ports: None,
            dscp: None,
            target,
        }
    }

    /// Whether it means this packet: what [`crate::Table`] answers faster for many rules at once.
    #[must_use]
    pub fn matches(&self, key: &Key) -> bool {
        fn is<T: PartialEq>(wanted: Option<T>, found: T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        let within =
            |ports: Option<Ports>, port| ports.is_none_or(|(from, to)| (from..=to).contains(&port));
        let holds = |prefix: Option<Prefix>, address| {
            prefix.is_none_or(|prefix| prefix.holds(key.ethertype, address))
        };
        is(self.port, key.port)
            && is(self.vlan, key.vlan)
            && is(self.ethertype, key.ethertype)
            && is(self.destination_mac, key.macs[0])
            && is(self.source_mac, key.macs[1])
            && is(self.protocol, key.protocol)
            && within(self.source_ports, key.source_port)
            && within(self.destination_ports, key.destination_port)
            && (self.dscp.is_none() || key.is_ipv4() || key.is_ipv6())
            && is(self.dscp, key.dscp)
            && holds(self.source, key.source)
            && holds(self.destination, key.destination)
    }

    /// The EtherTypes that its packets can have; none: any.
    pub(crate) fn ethertypes(&self) -> Option<Vec<u16>> {
        let mut allowed = if self.dscp.is_some() { Some(vec![IPV4, IPV6]) } else { None };
        let prefixes = [self.source, self.destination].into_iter().flatten().map(Prefix::ethertype);
        for ethertype in self.ethertype.into_iter().chain(prefixes) {
            let possible = allowed.is_none_or(|allowed: Vec<u16>| allowed.contains(&ethertype));
            allowed = Some(if possible { vec![ethertype] } else { Vec::new() });
        }
        allowed
    }
}
