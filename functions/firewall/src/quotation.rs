//! What ICMP errors quote.
//!
//! Owns: which flow an error is about. Must not know: what is known of flows.

use weir_sdk::flow::{FlowV4, FlowV6};
use weir_sdk::parse::{self, Addresses, Headers, protocol};

use crate::query_ports;

/// The flow of the packet that an ICMP error quotes, and who sent that.
pub(crate) enum Quotation {
    V4(FlowV4, u32),
    V6(FlowV6, u128),
}

impl Quotation {
    /// Of the error with these headers, in the VLANs that it has come by. `None` when it quotes
    /// another version than its own, a later fragment, or too little.
    pub(crate) fn of(frame: &[u8], error: &Headers) -> Option<Self> {
        let packet = frame.get(error.l4 + 8..error.end)?;
        let quoted = parse::quoted(packet).filter(|quoted| !quoted.is_later_fragment())?;
        let (from, to) = match quoted.protocol {
            protocol::ICMP | protocol::ICMPV6 => {
                let [kind, _, _, _, a, b] = *packet.get(quoted.l4..)?.first_chunk()?;
                query_ports(quoted.protocol, kind, u16::from_be_bytes([a, b]))?
            }
            _ => (quoted.source_port, quoted.destination_port),
        };
        let vlans = error.vlans(frame);
        match (error.protocol, quoted.addresses) {
            (protocol::ICMP, Addresses::V4 { source, destination }) => {
                let ends = ((source, from), (destination, to));
                let (key, _) = FlowV4::canonical(ends.0, ends.1, quoted.protocol);
                Some(Self::V4(key.within(vlans), source))
            }
            (protocol::ICMPV6, Addresses::V6 { source, destination }) => {
                let ends = ((source, from), (destination, to));
                let (key, _) = FlowV6::canonical(ends.0, ends.1, quoted.protocol);
                Some(Self::V6(key.within(vlans), source))
            }
            _ => None,
        }
    }
}
