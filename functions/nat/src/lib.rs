//! NAPT for IPv4: many inside hosts behind a few external addresses.
//!
//! Owns: mappings, flows, and what a packet looks like on the other side. Must not know: routes,
//! MACs (it is a bump in the wire). Follows RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP), RFC
//! 6056 (choice of ports). Packets in the chain's direction come from the inside, packets in
//! reverse from the outside.

mod config;
mod fragments;
mod hosts;
mod table;

use std::mem;

use weir_sdk::BURST_MAX;
use weir_sdk::flow::FlowV4;
use weir_sdk::parse::{Addresses, Headers, Plain, Unreadable, parse, protocol};
use weir_sdk::prelude::*;

pub use config::Config;
use config::{Filtering, Prefix, Unmatched};
use fragments::{Fragments, Translation};
use table::{Arrival, Inside, NoFlow, Table};
use weir_translate::{self as rewrite, End, Quoted, is_icmp_error, swap_macs};

#[cfg(test)]
mod tests;

weir_sdk::export!(Nat);

/// Reasons for drops, as counted by the host (`nat:NUMBER`).
pub mod reason {
    /// A header is cut off or contradicts itself.
    pub const MALFORMED: u32 = 1;
    /// It is from the outside, or an ICMP error, and belongs to no mapping or flow.
    pub const UNMATCHED: u32 = 2;
    /// No external port is free.
    pub const PORTS: u32 = 3;
    /// There are as many flows as there may be, in all or of one mapping.
    pub const FLOWS: u32 = 4;
    /// A later fragment of a packet whose first was not seen.
    pub const FRAGMENT: u32 = 5;
    /// Of a protocol without ports, or an ICMP message that is neither a query nor an error, from a
    /// translated address.
    pub const PROTOCOL: u32 = 6;
    /// The inside host has as many external ports as it may have.
    pub const HOST: u32 = 7;
}

/// The function.
#[derive(Debug)]
pub struct Nat {
    table: Table,
    fragments: Fragments,
    internal: Vec<Prefix>,
    config: Config,
    counters: Counters,
    /// Of the burst at hand: the flow keys and TCP flags of plain packets from the inside, and
    /// where the flows are.
    keys: Vec<Option<(FlowV4, u8)>>,
    probes: Vec<Probe>,
}

#[derive(Debug)]
struct Counters {
    translated: host::Counter,
    hairpins: host::Counter,
    errors: host::Counter,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is none of ours.
    Pass,
    /// It was translated.
    Translated,
    /// It was translated twice, and goes back to where it came from.
    Hairpin,
    /// It is dropped.
    Drop(u32),
}

impl Function for Nat {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        config.check()?;
        let internal = config.internal.iter().map(|p| Prefix::parse(p));
        let internal: Vec<_> = internal.collect::<Result<_, _>>()?;
        config.check_forwards(&internal)?;
        let external = config.external.iter().map(|a| u32::from(*a)).collect();
        let ports = config::parse_ports(&config.ports)?;
        let mut region = setup.region();
        let fragments = Fragments::new(&mut region, setup.seed)?;
        let mut table = Table::new(region, setup.seed, external, ports, &config)?;
        for forward in &config.forward {
            let protocol = match forward.proto.as_str() {
                "tcp" => protocol::TCP,
                "udp" => protocol::UDP,
                other => {
                    return Err(format!(
                        "config: forward: proto {other:?}; allowed are \"tcp\" and \"udp\""
                    ));
                }
            };
            let to = Inside {
                address: u32::from(*forward.to.ip()),
                port: forward.to.port(),
                vlans: forward.vlans.iter().fold(0, |all, vlan| all << 12 | u32::from(*vlan)),
            };
            table.forward(protocol, forward.port, to)?;
        }
        Ok(Self {
            table,
            fragments,
            internal,
            config,
            counters: Counters {
                translated: host::counter("translated"),
                hairpins: host::counter("hairpins"),
                errors: host::counter("icmp_errors"),
            },
            keys: vec![None; BURST_MAX],
            probes: vec![0.into(); BURST_MAX],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        // The clock starts at an arbitrary point; a flow's end is kept in whole seconds of it.
        let now = u32::try_from(burst.now() / 1_000_000_000).unwrap_or(u32::MAX);
        self.table.settle();
        // First all keys and hashes, so that fetching the flows' entries overlaps. Both lists are
        // taken out, so that no look at them waits for what is written to entries.
        let (mut keys, mut probes) = (mem::take(&mut self.keys), mem::take(&mut self.probes));
        let burst_of = (&mut keys[..burst.len()], &mut probes[..burst.len()]);
        for i in 0..burst.len() {
            let key = if burst.reverse(i) { None } else { self.key_of(burst.data(i)) };
            if let Some((key, _)) = &key {
                burst_of.1[i] = self.table.hash(key).into();
            }
            burst_of.0[i] = key;
        }
        self.table.look_ahead(burst_of.1);
        let mut translated = 0;
        for i in 0..burst.len() {
            let (sight, probe) = (&burst_of.0[i], burst_of.1[i]);
            if let Some((key, flags)) = sight
                && let Some(flow) = self.table.outbound(probe, key, *flags, now)
            {
                flow.translate(burst.packet(i).into_data(), key.protocol());
                translated += 1;
                continue;
            }
            let decision = match *sight {
                Some((key, flags)) => {
                    let frame = burst.packet(i).into_data();
                    self.begin(frame, key, probe.hash(), flags, now)
                }
                None => {
                    let reverse = burst.reverse(i);
                    self.any(burst.packet(i).into_data(), reverse, now)
                }
            };
            match decision {
                Decision::Pass => {}
                Decision::Translated => translated += 1,
                Decision::Hairpin => {
                    translated += 1;
                    self.counters.hairpins.add(1);
                    swap_macs(burst.packet(i).into_data());
                    burst.set_verdict(i, Verdict::Reply);
                }
                Decision::Drop(reason) => burst.set_verdict(i, Verdict::Drop(reason)),
            }
        }
        (self.keys, self.probes) = (keys, probes);
        if translated > 0 {
            self.counters.translated.add(translated);
        }
        self.table.sweep(burst.now(), now);
    }
}

impl Nat {
    /// The key of a plain TCP or UDP packet from the inside that is to be translated, and not for
    /// one of our own addresses.
    #[inline(always)]
    fn key_of(&self, frame: &[u8]) -> Option<(FlowV4, u8)> {
        let plain = Plain::of(frame)?;
        let ours = self.is_internal(plain.source())
            && self.table.external_place(plain.destination()).is_none();
        ours.then_some((plain.flow, plain.tcp_flags))
    }

    #[inline]
    fn is_internal(&self, address: u32) -> bool {
        self.internal.iter().any(|prefix| prefix.contains(address))
    }

    /// A plain packet from the inside that no flow is known for.
    #[inline(never)]
    fn begin(&mut self, frame: &mut [u8], key: FlowV4, hash: u64, flags: u8, now: u32) -> Decision {
        match self.table.open(hash, key, flags, now) {
            Ok(flow) => flow.translate(frame, key.protocol()),
            Err(why) => return no_flow(why),
        }
        Decision::Translated
    }

    /// Everything that is not plain: other protocols, options, tags, fragments, and all from the
    /// outside.
    #[inline(never)]
    fn any(&mut self, frame: &mut [u8], reverse: bool, now: u32) -> Decision {
        let headers = match parse(frame) {
            Ok(headers) => headers,
            Err(Unreadable::NotIp) => return Decision::Pass,
            Err(Unreadable::Malformed) => {
                return if is_ipv6(frame) {
                    Decision::Pass
                } else {
                    Decision::Drop(reason::MALFORMED)
                };
            }
        };
        let Addresses::V4 { source, destination } = headers.addresses else {
            return Decision::Pass;
        };
        let frame = &mut frame[..headers.end];
        if headers.is_later_fragment() {
            return self.later_fragment(frame, &headers, source, destination, reverse, now);
        }
        if reverse {
            match self.table.external_place(destination) {
                Some(external) => self.inbound(frame, &headers, external, now),
                None => Decision::Pass,
            }
        } else if self.is_internal(source) {
            self.outbound(frame, &headers, now)
        } else if is_error(frame, &headers) && self.quoted_out(frame, &headers, now).is_some() {
            // A router inside may have an address of another range, and quote one that is
            // translated.
            self.error_out(frame, &headers, now)
        } else {
            Decision::Pass
        }
    }

    fn outbound(&mut self, frame: &mut [u8], headers: &Headers, now: u32) -> Decision {
        let Addresses::V4 { source, destination } = headers.addresses else {
            return Decision::Pass;
        };
        if is_error(frame, headers) {
            return self.error_out(frame, headers, now);
        }
        let Some((port, peer_port)) = ports_of(frame, headers, true) else {
            return Decision::Drop(reason::PROTOCOL);
        };
        if let Some(external) = self.table.external_place(destination) {
            return self.hairpin(frame, headers, external, now);
        }
        let key = FlowV4::directed((source, port), (destination, peer_port), headers.protocol)
            .within(headers.vlans(frame));
        let hash = self.table.hash(&key);
        let flow = match self.table.outbound(hash, &key, headers.tcp_flags, now) {
            Some(flow) => flow,
            None => match self.table.open(hash, key, headers.tcp_flags, now) {
                Ok(flow) => flow,
                Err(why) => return no_flow(why),
            },
        };
        let translation = Translation { address: flow.address, turned: None, vlans: 0 };
        self.fragments.note(frame, headers, true, translation, now);
        translate(frame, headers, End::Source, (flow.address, flow.port));
        Decision::Translated
    }

    fn inbound(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        external: usize,
        now: u32,
    ) -> Decision {
        let Addresses::V4 { source, .. } = headers.addresses else { return Decision::Pass };
        if is_error(frame, headers) {
            return self.error_in(frame, headers, external, now);
        }
        let Some((peer_port, port)) = ports_of(frame, headers, false) else {
            return self.unmatched();
        };
        let anybody = self.config.filtering == Filtering::EndpointIndependent;
        let arrival = Arrival {
            external,
            port,
            peer: (source, peer_port),
            vlans: headers.vlans(frame),
            protocol: headers.protocol,
            flags: headers.tcp_flags,
        };
        match self.table.inbound(&arrival, now, anybody) {
            Ok(Some(inside)) => {
                let Inside { address, vlans, .. } = inside;
                let translation = Translation { address, turned: None, vlans };
                self.fragments.note(frame, headers, false, translation, now);
                lead_inside(frame, headers, inside);
                Decision::Translated
            }
            Ok(None) => self.unmatched(),
            Err(full) => no_flow(full),
        }
    }

    fn unmatched(&self) -> Decision {
        match self.config.unmatched_inbound {
            Unmatched::Drop => Decision::Drop(reason::UNMATCHED),
            Unmatched::Pass => Decision::Pass,
        }
    }

    /// From one inside host to another by its external address (RFC 4787, REQ-9): the source
    /// becomes external too, so that answers come back this way.
    fn hairpin(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        external: usize,
        now: u32,
    ) -> Decision {
        let Addresses::V4 { source, destination } = headers.addresses else {
            return Decision::Pass;
        };
        let ports = ports_of(frame, headers, true);
        let Some((port, peer_port)) = ports.filter(|_| self.config.hairpin) else {
            return self.unmatched();
        };
        let key = FlowV4::directed((source, port), (destination, peer_port), headers.protocol)
            .within(headers.vlans(frame));
        let hash = self.table.hash(&key);
        let flow = match self.table.outbound(hash, &key, headers.tcp_flags, now) {
            Some(flow) => flow,
            None => match self.table.open(hash, key, headers.tcp_flags, now) {
                Ok(flow) => flow,
                Err(why) => return no_flow(why),
            },
        };
        let anybody = self.config.filtering == Filtering::EndpointIndependent;
        let arrival = Arrival {
            external,
            port: peer_port,
            peer: (flow.address, flow.port),
            vlans: key.vlans(),
            protocol: headers.protocol,
            flags: headers.tcp_flags,
        };
        match self.table.inbound(&arrival, now, anybody) {
            Ok(Some(inside)) => {
                let translation = Translation {
                    address: flow.address,
                    turned: Some(inside.address),
                    vlans: inside.vlans,
                };
                self.fragments.note(frame, headers, true, translation, now);
                translate(frame, headers, End::Source, (flow.address, flow.port));
                lead_inside(frame, headers, inside);
                Decision::Hairpin
            }
            Ok(None) => self.unmatched(),
            Err(full) => no_flow(full),
        }
    }

    /// An ICMP error from the outside about a packet that we sent (RFC 5508, REQ-4): it quotes the
    /// packet as it was outside.
    fn error_in(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        external: usize,
        now: u32,
    ) -> Decision {
        let quoted = Quoted::of(frame, headers)
            .filter(|quoted| self.table.external_place(quoted.source) == Some(external));
        let Some(quoted) = quoted else { return self.unmatched() };
        let peer = (quoted.destination, quoted.destination_port);
        let quoted_flow = Arrival {
            external,
            port: quoted.source_port,
            peer,
            vlans: headers.vlans(frame),
            protocol: quoted.protocol,
            flags: 0,
        };
        let Some(inside) = self.table.inside_of(&quoted_flow, now) else {
            return self.unmatched();
        };
        rewrite::icmp_body(frame, headers.l4, headers.end, |frame| {
            quoted.rewrite(frame, End::Source, inside.address, inside.port);
        });
        rewrite::address(frame, headers.l3, End::Destination, inside.address);
        rewrite::vlans(frame, headers, inside.vlans);
        self.counters.errors.add(1);
        Decision::Translated
    }

    /// An ICMP error from the inside about a packet that we let in (RFC 5508, REQ-5): it quotes the
    /// packet as it was inside.
    fn error_out(&mut self, frame: &mut [u8], headers: &Headers, now: u32) -> Decision {
        let Addresses::V4 { destination, .. } = headers.addresses else { return Decision::Pass };
        let Some((quoted, (address, port))) = self.quoted_out(frame, headers, now) else {
            return Decision::Drop(reason::UNMATCHED);
        };
        rewrite::icmp_body(frame, headers.l4, headers.end, |frame| {
            quoted.rewrite(frame, End::Destination, address, port);
        });
        rewrite::address(frame, headers.l3, End::Source, address);
        if let Some(external) = self.table.external_place(destination) {
            // The quoted packet was hairpinned, and so is what is said about it (RFC 5508, REQ-7).
            return match self.error_in(frame, headers, external, now) {
                Decision::Translated => Decision::Hairpin,
                _ => Decision::Drop(reason::UNMATCHED),
            };
        }
        self.counters.errors.add(1);
        Decision::Translated
    }

    /// What an ICMP error from the inside quotes, and the external end of the flow that it is
    /// about.
    fn quoted_out(
        &self,
        frame: &[u8],
        headers: &Headers,
        now: u32,
    ) -> Option<(Quoted, (u32, u16))> {
        let quoted = Quoted::of(frame, headers)?;
        let key = FlowV4::directed(
            (quoted.destination, quoted.destination_port),
            (quoted.source, quoted.source_port),
            quoted.protocol,
        )
        .within(headers.vlans(frame));
        Some((quoted, self.table.outside_of(&key, now)?))
    }

    fn later_fragment(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        source: u32,
        destination: u32,
        reverse: bool,
        now: u32,
    ) -> Decision {
        let ours = if reverse {
            self.table.external_place(destination).is_some()
        } else {
            self.is_internal(source)
        };
        if !ours {
            return Decision::Pass;
        }
        let end = if reverse { End::Destination } else { End::Source };
        match self.fragments.find(frame, headers, !reverse, now) {
            Some(Translation { address, turned, vlans }) => {
                rewrite::address(frame, headers.l3, end, address);
                rewrite::vlans(frame, headers, vlans);
                let Some(inside) = turned else { return Decision::Translated };
                rewrite::address(frame, headers.l3, End::Destination, inside);
                Decision::Hairpin
            }
            None if reverse && self.config.unmatched_inbound == Unmatched::Pass => Decision::Pass,
            None => Decision::Drop(reason::FRAGMENT),
        }
    }
}

fn no_flow(why: NoFlow) -> Decision {
    Decision::Drop(match why {
        NoFlow::Protocol => reason::PROTOCOL,
        NoFlow::Ports(_) => reason::PORTS,
        NoFlow::Host => reason::HOST,
        NoFlow::Flows | NoFlow::Mapping => reason::FLOWS,
    })
}

/// Translates the destination of a packet that has a transport header to an inside endpoint, and
/// has it carry the tags that this has.
fn lead_inside(frame: &mut [u8], headers: &Headers, inside: Inside) {
    translate(frame, headers, End::Destination, (inside.address, inside.port));
    rewrite::vlans(frame, headers, inside.vlans);
}

/// Translates one end of a packet that has a transport header.
fn translate(frame: &mut [u8], headers: &Headers, end: End, (address, port): (u32, u16)) {
    let change = rewrite::address(frame, headers.l3, end, address);
    rewrite::port(frame, headers.l4, headers.protocol, end, change, port);
}

/// Whether an ICMP message quotes a packet and goes where that came from. Redirects do not: they
/// name a router of the link that they are for, which is not the quoted packet's.
fn is_error(frame: &[u8], headers: &Headers) -> bool {
    const REDIRECT: u8 = 5;
    is_icmp_error(frame, headers) && frame[headers.l4] != REDIRECT
}

/// Source and destination port; for an ICMP query its identifier stands for the inside's port, and
/// 0 for the outside's. None for other protocols, and for queries from the outside or answers from
/// the inside.
fn ports_of(frame: &[u8], headers: &Headers, outbound: bool) -> Option<(u16, u16)> {
    match headers.protocol {
        protocol::TCP | protocol::UDP => Some((headers.source_port, headers.destination_port)),
        protocol::ICMP => {
            let message = frame.get(headers.l4..headers.l4 + 8)?;
            let id = u16::from_be_bytes([message[4], message[5]]);
            // Echo, timestamp, information, address mask (RFC 792, RFC 950).
            match (message[0], outbound) {
                (8 | 13 | 15 | 17, true) => Some((id, 0)),
                (0 | 14 | 16 | 18, false) => Some((0, id)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Behind up to two tags.
fn is_ipv6(frame: &[u8]) -> bool {
    let kinds = frame.get(12..).unwrap_or_default().chunks(4).take(3).map(|chunk| chunk.get(..2));
    let mut kinds =
        kinds.skip_while(|kind| matches!(kind, Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0])));
    kinds.next() == Some(Some(&[0x86, 0xdd]))
}
