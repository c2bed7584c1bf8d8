//! Mappings and flows, in the state region.
//!
//! A *mapping* joins an inside endpoint (address, port, protocol) with a port of an external
//! address, whoever the peer is (endpoint-independent mapping, RFC 4787 REQ-1). It lies in an array
//! indexed by what an inbound packet carries, so finding it takes no search; a small map leads to
//! it from the inside endpoint. A *flow* is a mapping's use with one peer; a packet from the inside
//! finds everything it needs in its flow's entry. A mapping lives as long as it has flows, or for
//! ever if it is a static forward.
//!
//! Here are finding, opening and closing both; `ports` chooses external ports, `forwards` has those
//! that stay, `life` says how long a flow is remembered, `room` ends those that are in the way.

mod forwards;
mod life;
mod ports;
mod room;

use weir_sdk::flow::{FlowV4, Hasher};
use weir_sdk::host;
use weir_sdk::region::{Probe, StateArray, StateMap, StateRegion};
use weir_translate::{Difference, End};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::config::{Config, Timeouts};
use crate::hosts::Hosts;
use forwards::{Forward, Settling};
use life::advance;
use ports::{COUNT, Pool, Used};
use room::SWEEP_MAX;

/// Protocols that are translated, by their place in the mappings' array.
pub(crate) const PROTOCOLS: [u8; 3] = [6, 17, 1];
/// Ports of a protocol.
const PORTS: usize = 65_536;

/// What is known about a flow; the key is the packet as the inside sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Flow {
    /// External address.
    pub(crate) address: u32,
    /// When it ends, in seconds of the clock.
    pub(crate) expires: u32,
    /// External port.
    pub(crate) port: u16,
    /// See [`life::bits`].
    pub(crate) state: u8,
    /// Place of the external address.
    pub(crate) external: u8,
    /// What the translation of the inside endpoint to the external one does to checksums.
    pub(crate) difference: Difference,
}

/// An endpoint on the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inside {
    pub(crate) address: u32,
    pub(crate) port: u16,
    /// The VLANs that it is in, as [`weir_sdk::parse::vlans`] has them.
    pub(crate) vlans: u32,
}

impl Inside {
    /// Where a flow's packets come from.
    fn of(key: &FlowV4) -> Self {
        let (address, port) = key.source();
        Self { address, port, vlans: key.vlans() }
    }

    /// The flow from here to a peer.
    #[inline]
    fn flow_to(self, peer: (u32, u16), protocol: u8) -> FlowV4 {
        FlowV4::directed((self.address, self.port), peer, protocol).within(self.vlans)
    }
}

/// An inside endpoint that an external port leads to; all zero: the port is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Mapping {
    address: u32,
    /// VLANs of the inside; 0 of a static forward: those that a packet is in.
    vlans: u32,
    port: u16,
    /// Flows that use it; `FIXED` for a static forward.
    flows: u16,
}

impl Mapping {
    fn new(inside: Inside, flows: u16) -> Self {
        let Inside { address, port, vlans } = inside;
        Self { address, vlans, port, flows }
    }

    /// Where it leads a packet that is in these VLANs; `None` if nowhere.
    #[inline]
    fn inside(self, vlans: u32) -> Option<Inside> {
        let Self { address, port, .. } = self;
        let vlans = if self.vlans == 0 && self.flows == FIXED { vlans } else { self.vlans };
        (address != 0).then_some(Inside { address, port, vlans })
    }
}

/// Flows of a mapping that stays.
const FIXED: u16 = u16::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Endpoint {
    address: u32,
    /// Above the 8 bits of the protocol.
    vlans_and_protocol: u32,
    port: u32,
}

impl Endpoint {
    fn new(inside: Inside, place: usize) -> Self {
        let Inside { address, port, vlans } = inside;
        let vlans_and_protocol = vlans << 8 | u32::from(PROTOCOLS[place]);
        Self { address, vlans_and_protocol, port: port.into() }
    }
}

/// External address (its place) and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Outside {
    external: u16,
    port: u16,
}

/// A packet from the outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Place of the external address it is for.
    pub(crate) external: usize,
    /// Port it is for.
    pub(crate) port: u16,
    /// Who sent it.
    pub(crate) peer: (u32, u16),
    /// VLANs that it is in.
    pub(crate) vlans: u32,
    /// Its protocol.
    pub(crate) protocol: u8,
    /// TCP's flags.
    pub(crate) flags: u8,
}

/// Why there is no flow for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoFlow {
    /// Its protocol has no ports.
    Protocol,
    /// All ports of the external address are in use.
    Ports(Pool),
    /// The inside host has as many mappings as it may have.
    Host,
    /// There are as many flows as there may be.
    Flows,
    /// Its mapping has as many flows as it can count.
    Mapping,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    flows: StateMap<FlowV4, Flow>,
    endpoints: StateMap<Endpoint, Outside>,
    mappings: StateArray<Mapping>,
    /// A bit for each port of the first external address: whether its mapping is `FIXED`. So only
    /// few pages are read to find those.
    fixed: StateArray<u64>,
    used: StateArray<Used>,
    cursor: StateArray<u64>,
    hosts: Hosts,
    hasher: Hasher,
    swept: u64,
    external: Vec<u32>,
    ports: (u16, u16),
    /// Mappings that an inside host may have, of each protocol.
    ports_per_host: u16,
    timeouts: Timeouts,
    /// In the configuration's order.
    forwards: Vec<Forward>,
    settling: Settling,
    /// Slots that may still be looked at in this burst: for flows that have ended, and for those
    /// that may be given up.
    patience: usize,
    generosity: usize,
    /// Ports that may still be looked at in this burst for a free one, where they are not counted.
    search: u32,
    opened: host::Counter,
    given_up: host::Counter,
    shown: host::Gauge,
}

fn protocol_place(protocol: u8) -> Option<usize> {
    PROTOCOLS.iter().position(|p| *p == protocol)
}

impl Flow {
    /// Translates a plain packet of this flow that goes out.
    #[inline(always)]
    pub(crate) fn translate(&self, frame: &mut [u8], protocol: u8) {
        let outside = (self.address, self.port);
        self.difference.translate(frame, protocol, End::Source, outside);
    }
}

impl Table {
    pub(crate) fn new(
        mut region: StateRegion,
        seed: u64,
        external: Vec<u32>,
        ports: (u16, u16),
        config: &Config,
    ) -> Result<Self, String> {
        let max_flows = config.max_flows;
        let all = external.len() * PROTOCOLS.len();
        // The addresses are part of the names: state for others is of no use.
        let name =
            external.iter().fold(String::from("mappings"), |name, a| format!("{name}-{a:x}"));
        let too_many = |error: String| format!("config: max-flows: {error}");
        Ok(Self {
            flows: region.map("flows", max_flows).map_err(too_many)?,
            endpoints: region.map("endpoints", max_flows).map_err(too_many)?,
            mappings: region
                .array(&name, all * PORTS)
                .map_err(|error| format!("config: external: {error}"))?,
            fixed: region.array("fixed", PROTOCOLS.len() * PORTS / 64)?,
            used: region.array("used", all)?,
            cursor: region.array("cursor", 2)?,
            hosts: Hosts::new(&mut region, max_flows).map_err(too_many)?,
            hasher: Hasher::new(seed),
            swept: 0,
            external,
            ports,
            ports_per_host: config.max_ports_per_host,
            timeouts: config.timeouts,
            forwards: Vec::new(),
            settling: Settling::Not,
            patience: SWEEP_MAX,
            generosity: SWEEP_MAX,
            search: COUNT,
            opened: host::counter("flows_opened"),
            given_up: host::counter("given_up"),
            shown: host::gauge("flows"),
        })
    }

    fn show_flows(&self) {
        self.shown.set(self.flows.len() as f64);
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowV4) -> u64 {
        self.hasher.hash(key)
    }

    /// Has the flows' entries fetched early.
    #[inline]
    pub(crate) fn look_ahead(&self, probes: &mut [Probe]) {
        self.flows.look_ahead(probes);
    }

    /// The place of an external address.
    #[inline]
    pub(crate) fn external_place(&self, address: u32) -> Option<usize> {
        self.external.iter().position(|external| *external == address)
    }

    /// The flow of a packet from the inside, if it is known and has not expired; refreshed.
    #[inline(always)]
    pub(crate) fn outbound(
        &mut self,
        at: impl Into<Probe>,
        key: &FlowV4,
        flags: u8,
        now: u32,
    ) -> Option<Flow> {
        let flow = self.flows.find_mut(at, key)?;
        if flow.expires <= now {
            return None;
        }
        // Read before it is written: a read of the whole would wait for the writes of its parts.
        let found = *flow;
        advance(flow, key.protocol(), true, flags, now, &self.timeouts);
        Some(found)
    }

    /// A flow for a packet from the inside that has none: with its endpoint's mapping, or a new
    /// one.
    pub(crate) fn open(
        &mut self,
        hash: u64,
        key: FlowV4,
        flags: u8,
        now: u32,
    ) -> Result<Flow, NoFlow> {
        match self.try_open(hash, key, flags, now, None) {
            // Nobody else has to make room for a host that has enough.
            Err(NoFlow::Host) => Err(NoFlow::Host),
            Err(why) => self.try_again(why, now, &mut |table, free| {
                table.try_open(hash, key, flags, now, free)
            }),
            opened => opened,
        }
    }

    /// `free` is a port that is known to be.
    fn try_open(
        &mut self,
        hash: u64,
        key: FlowV4,
        flags: u8,
        now: u32,
        free: Option<u16>,
    ) -> Result<Flow, NoFlow> {
        if self.flows.find(hash, &key).is_some() {
            self.close(hash, &key);
        }
        let inside = Inside::of(&key);
        let place = protocol_place(key.protocol()).ok_or(NoFlow::Protocol)?;
        let outside = match self.outside(inside, place) {
            Some(outside) => outside,
            None => {
                let outside = self.choose(place, inside, free)?;
                let external = usize::from(outside.external);
                let endpoint = Endpoint::new(inside, place);
                let hash = self.hasher.hash(&endpoint);
                if self.endpoints.insert(hash, endpoint, outside).is_err() {
                    return Err(NoFlow::Flows);
                }
                self.hosts.add(&self.hasher, inside, outside.external, place);
                *self.mapping_mut(external, place, outside.port) = Mapping::new(inside, 0);
                self.count_port(Pool { external, place }, outside.port, true);
                outside
            }
        };
        self.insert(hash, key, place, outside, true, flags, now)
    }

    /// The external end of an inside endpoint that has one: its own, or that of a forward to it in
    /// whatever VLANs.
    fn outside(&self, inside: Inside, place: usize) -> Option<Outside> {
        let find = |inside| {
            let endpoint = Endpoint::new(inside, place);
            self.endpoints.find(self.hasher.hash(&endpoint), &endpoint).copied()
        };
        find(inside).or_else(|| {
            let forward = (inside.vlans != 0).then(|| find(Inside { vlans: 0, ..inside }))??;
            let external = usize::from(forward.external);
            let is_fixed = external < self.external.len()
                && self.mapping(external, place, forward.port).flows == FIXED;
            is_fixed.then_some(forward)
        })
    }

    /// The inside endpoint that a packet from the outside is for, if there is a flow or one may be
    /// made: `new`, or the port is forwarded.
    #[inline]
    pub(crate) fn inbound(
        &mut self,
        arrival: &Arrival,
        now: u32,
        new: bool,
    ) -> Result<Option<Inside>, NoFlow> {
        match self.try_inbound(arrival, now, new) {
            Err(why) => {
                self.try_again(why, now, &mut |table, _| table.try_inbound(arrival, now, new))
            }
            found => found,
        }
    }

    #[inline]
    fn try_inbound(
        &mut self,
        arrival: &Arrival,
        now: u32,
        new: bool,
    ) -> Result<Option<Inside>, NoFlow> {
        let Arrival { external, port, peer, vlans, protocol, flags } = *arrival;
        let Some(place) = protocol_place(protocol) else { return Ok(None) };
        let Some(inside) = self.mapping(external, place, port).inside(vlans) else {
            return Ok(None);
        };
        let key = inside.flow_to(peer, protocol);
        let hash = self.hasher.hash(&key);
        let timeouts = self.timeouts;
        match self.flows.find_mut(hash, &key) {
            Some(flow) if flow.expires > now => {
                // Of two ports that are forwarded to one endpoint, a flow has one: its answers
                // leave by that.
                if flow.port != port {
                    return Ok(None);
                }
                advance(flow, protocol, false, flags, now, &timeouts);
                return Ok(Some(inside));
            }
            Some(_) => self.close(hash, &key),
            None => {}
        }
        // Closing an expired flow may have ended its mapping.
        let mapping = *self.mapping(external, place, port);
        if mapping.address == 0 || !(new || mapping.flows == FIXED) {
            return Ok(None);
        }
        // At most 255 external addresses.
        let outside = Outside { external: external as u16, port };
        self.insert(hash, key, place, outside, false, flags, now)?;
        Ok(Some(inside))
    }

    /// The inside endpoint of a flow that an ICMP error from the outside is about.
    pub(crate) fn inside_of(&self, quoted: &Arrival, now: u32) -> Option<Inside> {
        let Arrival { external, port, peer, vlans, protocol, .. } = *quoted;
        let inside = self.mapping(external, protocol_place(protocol)?, port).inside(vlans)?;
        let key = inside.flow_to(peer, protocol);
        let flow = self.flows.find(self.hasher.hash(&key), &key)?;
        (flow.expires > now).then_some(inside)
    }

    /// The external endpoint of a flow that an ICMP error from the inside is about.
    pub(crate) fn outside_of(&self, key: &FlowV4, now: u32) -> Option<(u32, u16)> {
        let flow = self.flows.find(self.hasher.hash(key), key)?;
        (flow.expires > now).then_some((flow.address, flow.port))
    }

    /// Whether all ports in use are counted, also of hosts, and no others.
    #[cfg(test)]
    pub(crate) fn counts_right(&self) -> bool {
        let mut counts = self.used.iter().map(|used| used.ports).enumerate();
        let given_out =
            self.mappings.iter().filter(|m| **m != Mapping::default() && m.flows != FIXED).count();
        self.is_settled()
            && given_out == self.hosts.mappings()
            && counts.all(|(n, ports)| ports == self.in_use(Pool::of_number(n), 0, self.range()))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a flow")]
    fn insert(
        &mut self,
        hash: u64,
        key: FlowV4,
        place: usize,
        outside: Outside,
        outbound: bool,
        flags: u8,
        now: u32,
    ) -> Result<Flow, NoFlow> {
        let external = usize::from(outside.external);
        let mut flow = Flow {
            address: self.external[external],
            expires: 0,
            port: outside.port,
            state: 0,
            // At most 255 external addresses.
            external: external as u8,
            difference: Difference::new(key.source(), (self.external[external], outside.port)),
        };
        advance(&mut flow, key.protocol(), outbound, flags, now, &self.timeouts);
        let users = self.mapping(external, place, outside.port).flows;
        if users == FIXED - 1 {
            return Err(NoFlow::Mapping);
        }
        let full = self.flows.len() >= self.flows.capacity();
        if full || self.flows.insert(hash, key, flow).is_err() {
            self.drop_mapping_if_unused(Inside::of(&key), place, outside);
            return Err(NoFlow::Flows);
        }
        let mapping = self.mapping_mut(external, place, outside.port);
        if mapping.flows != FIXED {
            mapping.flows += 1;
        }
        self.opened.add(1);
        self.show_flows();
        Ok(flow)
    }

    /// Ends a flow, and its mapping with its last one.
    fn close(&mut self, hash: u64, key: &FlowV4) {
        let Some(flow) = self.flows.remove(hash, key) else { return };
        let Some(place) = protocol_place(key.protocol()) else { return };
        let external = usize::from(flow.external);
        if external >= self.external.len() {
            return;
        }
        let mapping = self.mapping_mut(external, place, flow.port);
        if mapping.flows != FIXED {
            mapping.flows = mapping.flows.saturating_sub(1);
        }
        let outside = Outside { external: flow.external.into(), port: flow.port };
        self.drop_mapping_if_unused(Inside::of(key), place, outside);
    }

    fn drop_mapping_if_unused(&mut self, inside: Inside, place: usize, outside: Outside) {
        let external = usize::from(outside.external);
        if self.mapping(external, place, outside.port).flows != 0 {
            return;
        }
        *self.mapping_mut(external, place, outside.port) = Mapping::default();
        self.count_port(Pool { external, place }, outside.port, false);
        self.hosts.remove(&self.hasher, inside, place);
        self.forget_endpoint(inside, place, outside);
    }

    /// An inside endpoint has no mapping any more, unless it has another one by now.
    fn forget_endpoint(&mut self, inside: Inside, place: usize, outside: Outside) {
        let endpoint = Endpoint::new(inside, place);
        let hash = self.hasher.hash(&endpoint);
        if self.endpoints.find(hash, &endpoint) == Some(&outside) {
            self.endpoints.remove(hash, &endpoint);
        }
    }

    #[inline]
    fn index(external: usize, place: usize, port: u16) -> usize {
        (external * PROTOCOLS.len() + place) * PORTS + usize::from(port)
    }

    #[inline]
    fn mapping(&self, external: usize, place: usize, port: u16) -> &Mapping {
        &self.mappings[Self::index(external, place, port)]
    }

    fn mapping_mut(&mut self, external: usize, place: usize, port: u16) -> &mut Mapping {
        &mut self.mappings[Self::index(external, place, port)]
    }
}
