//! Mappings and flows, in the state region.
//!
//! A *mapping* joins an inside endpoint (address, port, protocol) with a port of an external address, whoever the
//! peer is (endpoint-independent mapping, RFC 4787 REQ-1). It lies in an array indexed by what an inbound packet
//! carries, so finding it takes no search; a small map leads to it from the inside endpoint. A *flow* is a
//! mapping's use with one peer; a packet from the inside finds everything it needs in its flow's entry. A
//! mapping lives as long as it has flows, or for ever if it is a static forward.

use std::collections::BTreeMap;

use weir_sdk::flow::{FlowV4, Hasher};
use weir_sdk::host;
use weir_sdk::region::{Probe, StateArray, StateMap, StateRegion};
use weir_translate::{Difference, End};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::config::{Config, Timeouts};
use crate::hosts::Hosts;

/// Protocols that are translated, by their place in the mappings' array.
pub(crate) const PROTOCOLS: [u8; 3] = [6, 17, 1];
/// Ports of a protocol.
const PORTS: usize = 65_536;
/// Slots looked at by each sweep.
const SWEEP: usize = 16;
/// Nanoseconds between two sweeps: a full table is swept in some seconds.
const SWEEP_EVERY: u64 = 1_000_000;
/// Slots looked at in a burst when there is no room, for flows that have ended and for those that may be given up: some 10 µs
/// each.
const SWEEP_MAX: usize = 2048;

/// Slots looked at in a burst after a change of forwards: a table of the default size takes two, one of the largest eighty.
const SETTLE: usize = 65_536;
/// Ports looked at in a burst after a change of the range, to count those in use; and as long as they are not counted, those looked at for
/// free ones. All at once is a page fault for each 512 that nobody has used, which may take longer than the deadline.
const COUNT: u32 = 4096;
/// Most forwards: all are looked at in one burst after a swap.
const FORWARDS: usize = 4096;

/// Bits of [`Flow::state`].
pub(crate) mod bits {
    /// A packet went out.
    pub(crate) const OUT: u8 = 1;
    /// A packet came in.
    pub(crate) const IN: u8 = 2;
    /// The inside sent FIN.
    pub(crate) const FIN_OUT: u8 = 4;
    /// The outside sent FIN.
    pub(crate) const FIN_IN: u8 = 8;
    /// Somebody sent RST, and nobody anything else since.
    pub(crate) const RESET: u8 = 16;
    /// Somebody sent what follows a handshake; of UDP, something after both sides had.
    pub(crate) const OPEN: u8 = 32;
}

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
    /// See [`bits`].
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

/// In `cursor`: not 0 while flows are looked at after a change of forwards.
const UNSETTLED: usize = 1;

/// Flows of a mapping that stays.
const FIXED: u16 = u16::MAX;
/// A port that is no longer forwarded, until no flow has it any more: it leads nowhere and is not given out.
const CLOSED: Mapping = Mapping { address: 0, vlans: 0, port: 0, flows: FIXED };

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

/// What is known of the ports of an external address for a protocol.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Used {
    /// How many of the range are in use.
    ports: u32,
    random: u32,
    /// The range that these are counted of; zeros: nothing has been in use yet.
    range: [u16; 2],
    /// Ports from the range's begin on that were looked at to count them. It lies here, because a canary counts beside the running
    /// version, and a version that follows goes on.
    looked_at: u32,
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

/// The ports of an external address for a protocol: the places of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    external: usize,
    place: usize,
}

impl Pool {
    /// They are numbered as they lie in the mappings' array.
    fn of_number(number: usize) -> Self {
        Self { external: number / PROTOCOLS.len(), place: number % PROTOCOLS.len() }
    }

    fn number(self) -> usize {
        self.external * PROTOCOLS.len() + self.place
    }
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

/// A port of the first external address that leads inside for good.
#[derive(Clone, Copy, Debug)]
struct Forward {
    /// The protocol's place, and the port.
    at: (usize, u16),
    mapping: Mapping,
}

/// How far the region's forwards are those of the configuration.
#[derive(Debug)]
enum Settling {
    /// The region may still be a predecessor's.
    Not,
    /// Mappings are. Flows are from this slot on looked at for those that have a port that is another's now; then these ports
    /// are free.
    From(usize, Vec<(usize, u16)>),
    /// Forwards are. Ports in use are counted, where another range was.
    Count,
    Done,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    flows: StateMap<FlowV4, Flow>,
    endpoints: StateMap<Endpoint, Outside>,
    mappings: StateArray<Mapping>,
    /// A bit for each port of the first external address: whether its mapping is `FIXED`. So only few pages are read to find those.
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
    /// Slots that may still be looked at in this burst: for flows that have ended, and for those that may be given up.
    patience: usize,
    generosity: usize,
    /// Ports that may still be looked at in this burst for a free one, where they are not counted.
    search: u32,
    opened: host::Counter,
    given_up: host::Counter,
    shown: host::Gauge,
}

/// Something that may find no room; it is told of a port that is free.
type Attempt<'a, T> = dyn FnMut(&mut Table, Option<u16>) -> Result<T, NoFlow> + 'a;

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

    /// A flow for a packet from the inside that has none: with its endpoint's mapping, or a new one.
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

    /// The external end of an inside endpoint that has one: its own, or that of a forward to it in whatever VLANs.
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

    /// The inside endpoint that a packet from the outside is for, if there is a flow or one may be made: `new`, or the
    /// port is forwarded.
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
                // Of two ports that are forwarded to one endpoint, a flow has one: its answers leave by that.
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

    /// Adds a port that leads inside for good; see [`Table::settle`].
    ///
    /// # Errors
    /// When it leads elsewhere already.
    pub(crate) fn forward(&mut self, protocol: u8, port: u16, to: Inside) -> Result<(), String> {
        let place = protocol_place(protocol)
            .ok_or_else(|| format!("config: forward: protocol {protocol} has no ports"))?;
        let mapping = Mapping::new(to, FIXED);
        let forward = Forward { at: (place, port), mapping };
        match self.forwards.iter().find(|other| other.at == forward.at) {
            Some(other) if other.mapping == mapping => return Ok(()),
            Some(_) => return Err(format!("config: forward: port {port} is forwarded twice")),
            None => self.forwards.push(forward),
        }
        if self.forwards.len() > self.endpoints.capacity() {
            return Err("config: max-flows: there are more forwards than flows".to_owned());
        }
        if self.forwards.len() > FORWARDS {
            return Err(format!("config: forward: there are more than {FORWARDS}"));
        }
        Ok(())
    }

    /// Call it before each burst. With the first, the region's forwards become those of this configuration; not earlier, because
    /// what a predecessor left is its own until then. What used a port that leads elsewhere from now on, or nowhere, ends.
    #[inline]
    pub(crate) fn settle(&mut self) {
        if !matches!(self.settling, Settling::Done) {
            self.go_on_settling();
        }
    }

    #[cold]
    fn go_on_settling(&mut self) {
        self.search = COUNT;
        let (from, closed) = match std::mem::replace(&mut self.settling, Settling::Done) {
            Settling::Not => {
                self.set_ranges();
                match self.set_forwards() {
                    Some(closed) => (0, closed),
                    None => return self.count_ports(),
                }
            }
            Settling::From(slot, closed) => (slot, closed),
            Settling::Count => return self.count_ports(),
            Settling::Done => return,
        };
        let end = self.flows.slots().min(from + SETTLE);
        for slot in from..end {
            let Some((key, flow)) = self.flows.at(slot) else { continue };
            let Some(place) = protocol_place(key.protocol()) else { continue };
            if flow.external != 0 || !self.is_fixed(place, flow.port) {
                continue;
            }
            let inside = Inside::of(key);
            if self.mapping(0, place, flow.port).inside(inside.vlans) != Some(inside) {
                self.flows.remove_at(slot);
            }
        }
        if end < self.flows.slots() {
            self.settling = Settling::From(end, closed);
            return;
        }
        for (place, port) in closed {
            // A canary does the same in the region, and the port may have been given out since.
            if *self.mapping(0, place, port) == CLOSED {
                *self.mapping_mut(0, place, port) = Mapping::default();
                self.set_fixed(place, port, false);
                self.count_port(Pool { external: 0, place }, port, false);
            }
        }
        self.cursor[UNSETTLED] = 0;
        self.settling = Settling::Count;
    }

    /// From now on ports in use are those of this configuration's range.
    fn set_ranges(&mut self) {
        for number in 0..self.used.len() {
            self.set_range(Pool::of_number(number));
        }
    }

    /// From now on a pool's ports in use are those of this configuration's range. Where others were counted, they are counted anew.
    fn set_range(&mut self, pool: Pool) {
        let (range, all) = (self.ports.into(), self.range());
        let used = self.used_mut(pool);
        if used.range != range {
            used.looked_at = if used.range == [0; 2] { all } else { 0 };
            (used.ports, used.range) = (0, range);
            if matches!(self.settling, Settling::Done) {
                self.settling = Settling::Count;
            }
        }
    }

    /// Ports that may be given out.
    fn range(&self) -> u32 {
        u32::from(self.ports.1 - self.ports.0) + 1
    }

    /// Counts ports in use, so many as may be looked at in a burst.
    fn count_ports(&mut self) {
        let (all, mut left) = (self.range(), COUNT);
        for number in 0..self.used.len() {
            let pool = Pool::of_number(number);
            let from = self.looked_at(pool).unwrap_or(all);
            if from >= all {
                continue;
            }
            let count = left.min(all - from);
            let ports = self.in_use(pool, from, count);
            let used = self.used_mut(pool);
            used.ports += ports;
            used.looked_at += count;
            left -= count;
            if left == 0 {
                self.settling = Settling::Count;
                return;
            }
        }
        self.settling = Settling::Done;
    }

    /// Whether the ports of a pool that are in use are counted.
    fn is_counted(&self, pool: Pool) -> bool {
        self.looked_at(pool).is_some_and(|count| count >= self.range())
    }

    /// Ports of a pool that were looked at to count them; `None` if another version counts those of its range.
    fn looked_at(&self, pool: Pool) -> Option<u32> {
        let used = &self.used[pool.number()];
        (used.range == <[u16; 2]>::from(self.ports)).then_some(used.looked_at)
    }

    /// Ports of a part of the range that lead inside, or are closed for now.
    fn in_use(&self, Pool { external, place }: Pool, from: u32, count: u32) -> u32 {
        let first = Self::index(external, place, self.ports.0) + from as usize;
        let used = self.mappings[first..first + count as usize]
            .iter()
            .filter(|mapping| **mapping != Mapping::default());
        used.fold(0, |count, _| count + 1)
    }

    /// Notes whether a port of the first external address has a mapping that stays.
    fn set_fixed(&mut self, place: usize, port: u16, is: bool) {
        let index = Self::index(0, place, port);
        let (word, bit) = (&mut self.fixed[index / 64], 1 << (index % 64));
        *word = if is { *word | bit } else { *word & !bit };
    }

    /// Whether a port of the first external address has a mapping that stays.
    fn is_fixed(&self, place: usize, port: u16) -> bool {
        let index = Self::index(0, place, port);
        self.fixed[index / 64] >> (index % 64) & 1 == 1
    }

    /// The ports of the first external address whose mappings stay, with their protocols' places.
    fn fixed(&self) -> Vec<(usize, u16)> {
        let words = self.fixed.iter().enumerate().filter(|(_, word)| **word != 0);
        let bits = words.flat_map(|(n, word)| {
            let bits = (0..64).filter(move |bit| word >> bit & 1 == 1);
            bits.map(move |bit| n * 64 + bit)
        });
        // It is less than PORTS.
        bits.map(|index| (index / PORTS, (index % PORTS) as u16)).collect()
    }

    /// Writes the mappings of all forwards: the ports that are none any more, or `None` if these are the forwards that there were. (What
    /// a predecessor has written may not have been settled by it.)
    fn set_forwards(&mut self) -> Option<Vec<(usize, u16)>> {
        let forwards = std::mem::take(&mut self.forwards);
        let wanted: BTreeMap<_, _> = forwards.iter().map(|f| (f.at, f.mapping)).collect();
        let fixed = self.fixed().into_iter();
        let closed: Vec<_> = fixed.filter(|at| !wanted.contains_key(at)).collect();
        let new = wanted.iter().filter(|(at, mapping)| self.mapping(0, at.0, at.1) != *mapping);
        let new: Vec<_> = new.map(|(at, mapping)| (*at, *mapping)).collect();
        if closed.is_empty() && new.is_empty() && self.cursor[UNSETTLED] == 0 {
            return None;
        }
        self.cursor[UNSETTLED] = 1;
        for ((place, port), mapping) in closed.iter().map(|at| (*at, CLOSED)).chain(new) {
            self.set_fixed(place, port, true);
            let old = std::mem::replace(self.mapping_mut(0, place, port), mapping);
            if old == Mapping::default() {
                self.count_port(Pool { external: 0, place }, port, true);
            } else {
                let Mapping { address, port: inside, vlans, flows } = old;
                let inside = Inside { address, port: inside, vlans };
                if flows != FIXED {
                    self.hosts.remove(&self.hasher, inside, place);
                }
                self.forget_endpoint(inside, place, Outside { external: 0, port });
            }
        }
        for Forward { at: (place, port), mapping } in forwards {
            let Mapping { address, port: inside, vlans, .. } = mapping;
            let endpoint = Endpoint::new(Inside { address, port: inside, vlans }, place);
            let hash = self.hasher.hash(&endpoint);
            if self.endpoints.insert(hash, endpoint, Outside { external: 0, port }).is_err() {
                host::warn!(
                    "forward: there is no room to remember that what its target opens leaves by port {port}"
                );
            }
        }
        Some(closed)
    }

    fn may_be_given_out(&self, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
    }

    /// A port is in use from now on, or not any more. Counted are those that may be given out; those that are still to be looked at are
    /// counted then.
    fn count_port(&mut self, pool: Pool, port: u16, used: bool) {
        let looked_at = self.looked_at(pool).unwrap_or(0);
        if self.may_be_given_out(port) && u32::from(port - self.ports.0) < looked_at {
            let count = &mut self.used_mut(pool).ports;
            *count = if used { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Ends flows whose time is over, a few at a time. Call it once for each burst, with its time in nanoseconds and in
    /// seconds.
    #[inline]
    pub(crate) fn sweep(&mut self, nanos: u64, now: u32) {
        if nanos.wrapping_sub(self.swept) >= SWEEP_EVERY {
            self.swept = nanos;
            self.sweep_slots(SWEEP, now);
            self.show_flows();
        }
        (self.patience, self.generosity) = (SWEEP_MAX, SWEEP_MAX);
    }

    /// Ports that may still be looked at for a free one.
    #[cfg(test)]
    pub(crate) fn search_left(&self) -> u32 {
        self.search
    }

    /// Whether the region is this configuration's.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.settling, Settling::Done)
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

    /// Tries once more when there was no room and some could be made: of flows whose time is over, or of one that is not under
    /// way. The attempt is told which port that one had, if a port was asked for: to look for a single free one takes long.
    #[cold]
    fn try_again<T>(
        &mut self,
        why: NoFlow,
        now: u32,
        attempt: &mut Attempt<'_, T>,
    ) -> Result<T, NoFlow> {
        let mut tried = Err(why);
        if self.make_room(now) {
            tried = attempt(self, None);
        }
        match tried {
            Err(NoFlow::Flows) if self.give_one_up(now, None).is_some() => attempt(self, None),
            // Before that it is not known how many are in use.
            Err(NoFlow::Ports(pool)) if self.is_counted(pool) => {
                match self.give_one_up(now, Some(pool)) {
                    Some(port) => attempt(self, Some(port)),
                    None => tried,
                }
            }
            tried => tried,
        }
    }

    /// Looks further for flows whose time is over, because there is no room; whether it found some.
    #[cold]
    fn make_room(&mut self, now: u32) -> bool {
        let count = self.patience.min(self.flows.slots());
        self.patience -= count;
        self.sweep_slots(count, now) > 0
    }

    /// Looks at so many slots, at most all; the number of flows that it ended.
    fn sweep_slots(&mut self, count: usize, now: u32) -> usize {
        let slots = self.flows.slots();
        let from = usize::try_from(self.cursor[0]).unwrap_or(0) % slots;
        let (mut slot, mut ended) = (from, 0);
        for _ in 0..count {
            let expired =
                self.flows.at(slot).filter(|(_, flow)| flow.expires <= now).map(|(k, _)| *k);
            if let Some(key) = expired {
                self.close(self.hasher.hash(&key), &key);
                ended += 1;
            }
            slot = if slot + 1 == slots { 0 } else { slot + 1 };
        }
        self.cursor[0] = slot as u64;
        ended
    }

    /// Ends a flow that is not under way, for another: of the slots that are looked at together, the one that has been silent
    /// for longest. Who sends nothing but first packets must not keep others out. With a pool, it is one with whose end a port of that
    /// is free. The port that it had, if there was one.
    fn give_one_up(&mut self, now: u32, pool: Option<Pool>) -> Option<u16> {
        let slots = self.flows.slots();
        while self.generosity > 0 {
            let count = SWEEP.min(self.generosity);
            self.generosity -= count;
            let from = usize::try_from(self.cursor[0]).unwrap_or(0) % slots;
            let looked_at = (from..from + count).map(|slot| slot % slots);
            let idle = looked_at.filter_map(|slot| {
                let (key, flow) = self.flows.at(slot)?;
                let timeout = timeout_unless_under_way(flow, key.protocol(), &self.timeouts)?;
                let silence = timeout.saturating_sub(flow.expires.saturating_sub(now));
                let wanted = pool.is_none_or(|pool| self.frees(key, flow, pool));
                wanted.then_some((silence, *key, flow.port))
            });
            let longest = idle.max_by_key(|(silence, ..)| *silence);
            self.cursor[0] = ((from + count) % slots) as u64;
            if let Some((_, key, port)) = longest {
                self.close(self.hasher.hash(&key), &key);
                self.given_up.add(1);
                return Some(port);
            }
        }
        None
    }

    /// Whether a port of the pool is free when this flow ends.
    fn frees(&self, key: &FlowV4, flow: &Flow, pool: Pool) -> bool {
        usize::from(flow.external) == pool.external
            && protocol_place(key.protocol()) == Some(pool.place)
            && self.may_be_given_out(flow.port)
            && self.mapping(pool.external, pool.place, flow.port).flows == 1
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

    /// A free port for a new mapping of an inside host: of the external address of its others (paired pooling, RFC 4787 REQ-2). One
    /// that has no others gets it of the address that its hash names, or the next that has one.
    fn choose(
        &mut self,
        place: usize,
        inside: Inside,
        known: Option<u16>,
    ) -> Result<Outside, NoFlow> {
        let all = self.external.len();
        let host = self.hosts.find(&self.hasher, inside);
        if let Some(host) = host.filter(|host| usize::from(host.external) < all) {
            if host.ports[place] >= self.ports_per_host {
                return Err(NoFlow::Host);
            }
            let external = usize::from(host.external);
            return self.allocate(Pool { external, place }, inside, known);
        }
        let first = self.hasher.hash(&inside.address) as usize % all;
        let found = self.allocate(Pool { external: first, place }, inside, known);
        let Err(NoFlow::Ports(_)) = found else { return found };
        let mut others = (1..all).map(|n| Pool { external: (first + n) % all, place });
        others.find_map(|pool| self.allocate(pool, inside, None).ok()).map_or(found, Ok)
    }

    /// A free port: the inside one if it is free (port preservation), else the one that is known to be, else a random one (RFC
    /// 6056, algorithm 1).
    fn allocate(
        &mut self,
        pool: Pool,
        inside: Inside,
        known: Option<u16>,
    ) -> Result<Outside, NoFlow> {
        let Pool { external, place } = pool;
        let (first, range) = (self.ports.0, self.range());
        // A canary beside this version may have another range.
        self.set_range(pool);
        let counted = self.is_counted(pool);
        // For each packet it would be a long search, if the pool is full.
        let search = if counted { range } else { range.min(self.search) };
        let used = self.used_mut(pool);
        if used.ports >= range {
            return Err(NoFlow::Ports(pool));
        }
        used.random = used.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let random = used.random ^ (self.hasher.hash(&used_key(inside)) >> 32) as u32;
        let free =
            |table: &Self, port: u16| *table.mapping(external, place, port) == Mapping::default();
        let start = random % range;
        let mut looks = 0;
        let candidates = (0..search).map(|n| {
            looks += 1;
            first + ((start + n) % range) as u16
        });
        let preserved = Some(inside.port).filter(|port| self.may_be_given_out(*port));
        let mut all = preserved.into_iter().chain(known).chain(candidates);
        let found = all.find(|port| free(self, *port));
        if !counted {
            self.search -= looks;
        }
        let Some(port) = found else {
            if counted {
                self.used_mut(pool).ports = range;
            }
            return Err(NoFlow::Ports(pool));
        };
        // At most 255 external addresses.
        Ok(Outside { external: external as u16, port })
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

    fn used_mut(&mut self, pool: Pool) -> &mut Used {
        &mut self.used[pool.number()]
    }
}

fn used_key(inside: Inside) -> u64 {
    u64::from(inside.address) << 16 | u64::from(inside.port)
}

/// Follows a flow's state, and sets when it ends.
fn advance(
    flow: &mut Flow,
    protocol: u8,
    outbound: bool,
    flags: u8,
    now: u32,
    timeouts: &Timeouts,
) {
    let answered = flow.state & BOTH == BOTH;
    flow.state |= if outbound { bits::OUT } else { bits::IN };
    // Only TCP's number is even; a `match` becomes a jump table, which costs more than what is behind it.
    let seconds = if protocol & 1 == 0 {
        follow(flow, outbound, flags, timeouts)
    } else if protocol == 17 {
        if answered {
            flow.state |= bits::OPEN;
        }
        timeouts.udp
    } else {
        timeouts.icmp
    };
    flow.expires = now.saturating_add(seconds);
}

/// Follows a TCP connection; the seconds that it has from now on.
#[inline]
fn follow(flow: &mut Flow, outbound: bool, flags: u8, timeouts: &Timeouts) -> u32 {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;
    if flags & SYN != 0 && is_over(flow.state) {
        // The ports are used for a new connection.
        flow.state &= BOTH;
    }
    if flags & FIN != 0 {
        flow.state |= if outbound { bits::FIN_OUT } else { bits::FIN_IN };
    }
    // Anybody may send a RST that its receiver does not heed; what follows shows that (RFC 6146, section 3.5.2.2).
    flow.state &= !bits::RESET;
    if flags & RST != 0 {
        flow.state |= bits::RESET;
    }
    if flags & (SYN | ACK) == ACK {
        flow.state |= bits::OPEN;
    }
    if is_open(flow.state) && !is_over(flow.state) {
        timeouts.tcp_established
    } else {
        timeouts.tcp_transitory
    }
}

/// Both sides have sent something.
const BOTH: u8 = bits::OUT | bits::IN;

/// Whether both sides are in it.
#[inline]
fn is_open(state: u8) -> bool {
    const ALL: u8 = BOTH | bits::OPEN;
    state & ALL == ALL
}

/// Whether a TCP connection was closed or reset.
#[inline]
fn is_over(state: u8) -> bool {
    const CLOSED: u8 = bits::FIN_OUT | bits::FIN_IN;
    state & CLOSED == CLOSED || state & bits::RESET != 0
}

/// The seconds that a flow is remembered for after a packet, if it may be given up: half-open, closed or a query.
fn timeout_unless_under_way(flow: &Flow, protocol: u8, timeouts: &Timeouts) -> Option<u32> {
    match protocol {
        6 => (!is_open(flow.state) || is_over(flow.state)).then_some(timeouts.tcp_transitory),
        17 => (!is_open(flow.state)).then_some(timeouts.udp),
        _ => Some(timeouts.icmp),
    }
}
