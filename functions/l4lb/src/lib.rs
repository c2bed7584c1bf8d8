//! An L4 load balancer: a virtual address, many backends.
//!
//! Owns: taking packets of a burst to their backend, and answers back. Must not know: how healthy a
//! backend is (it is told), or routes. Packets in the chain's direction come from clients, packets
//! in reverse from backends. `family` says where to, by `connections` or by `maglev`; `rewrite`
//! changes packets.

mod config;
mod connections;
mod family;
mod filter;
mod maglev;
mod pool;
mod rewrite;

use std::mem;

use weir_sdk::BURST_MAX;
use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::parse::{Addresses, Headers, Plain, Unreadable, parse, protocol};
use weir_sdk::prelude::*;

pub use config::{BackendConfig, Config, Mode, ServiceConfig};
use connections::is_turn;
use family::{Family, Flow, Origin, Way};
use filter::Filter;
use pool::{Place, Pool};
use rewrite::{At, End, Quoted};

#[cfg(test)]
mod tests;

weir_sdk::export!(LoadBalancer);

/// Reasons for drops, as counted by the host (`l4lb:NUMBER`).
pub mod reason {
    /// The service has no healthy backend.
    pub const NO_BACKEND: u32 = 1;
    /// A header is cut off or contradicts itself.
    pub const MALFORMED: u32 = 2;
    /// It comes from where a service is, but belongs to no connection.
    pub const NO_CONNECTION: u32 = 3;
}

/// Nanoseconds between two sweeps: a full table is swept in some seconds.
const SWEEP_EVERY: u64 = 1_000_000;

/// The function.
#[derive(Debug)]
pub struct LoadBalancer {
    pool: Pool,
    v4: Family<FlowV4>,
    v6: Family<FlowV6>,
    /// Virtual addresses and those of backends, which clients may use, too; and backends' that
    /// packets in reverse come from.
    clients_to: Filter,
    backends_from: Filter,
    swept: u64,
    counters: Counters,
    /// Of the burst at hand, and where its connections' entries are.
    seen: Vec<Seen>,
    probes: Vec<Probe>,
}

#[derive(Debug)]
struct Counters {
    opened: host::Counter,
    forwarded: host::Counter,
    returned: host::Counter,
    given_up: host::Counter,
    untracked: host::Counter,
    connections: host::Gauge,
}

/// What a first look at a packet says.
#[derive(Clone, Copy, Debug)]
enum Seen {
    /// It is for nobody here.
    Pass,
    /// Plain, from a client; with TCP's flags, as the next.
    Inward(FlowV4, u8),
    /// Plain, from a backend.
    Outward(FlowV4, u8),
    /// Anything else.
    Other,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Pass,
    Forwarded,
    Returned,
    Drop(u32),
}

impl Function for LoadBalancer {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        let services = config.services()?;
        let pool = Pool::new(&services)?;
        let hasher = Hasher::new(setup.seed);
        let mut region = setup.region();
        let too_many = |error: String| format!("config: max-connections: {error}");
        let v4 = |ip| <FlowV4 as Flow>::address(ip);
        let translated = || {
            let targets = pool.targets.iter().filter(|target| target.mode == Mode::Dnat);
            targets.filter_map(|target| v4(target.end.0))
        };
        Ok(Self {
            v4: Family::new(&mut region, "connections-v4", &config, &hasher, &services, &pool)
                .map_err(too_many)?,
            v6: Family::new(&mut region, "connections-v6", &config, &hasher, &services, &pool)
                .map_err(too_many)?,
            clients_to: Filter::of(
                services.iter().filter_map(|service| v4(service.vip)).chain(translated()),
            ),
            backends_from: Filter::of(translated()),
            pool,
            swept: 0,
            counters: Counters {
                opened: host::counter("connections_opened"),
                forwarded: host::counter("forwarded"),
                returned: host::counter("returned"),
                given_up: host::counter("given_up"),
                untracked: host::counter("untracked"),
                connections: host::gauge("connections"),
            },
            seen: vec![Seen::Pass; BURST_MAX],
            probes: vec![0.into(); BURST_MAX],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = u32::try_from(burst.now() / 1_000_000_000).unwrap_or(u32::MAX);
        // Taken out, so that no look at them waits for what is written to entries.
        let (mut seen, mut probes) = (mem::take(&mut self.seen), mem::take(&mut self.probes));
        let burst_of = (&mut seen[..burst.len()], &mut probes[..burst.len()]);
        for i in 0..burst.len() {
            let seen = self.look(burst.data(i), burst.reverse(i));
            if let Seen::Inward(key, _) = &seen {
                burst_of.1[i] = self.v4.hash(key).into();
            }
            burst_of.0[i] = seen;
        }
        self.v4.connections.look_ahead(burst_of.1);
        let (mut forwarded, mut returned) = (0, 0);
        for i in 0..burst.len() {
            let (seen, probe) = (&burst_of.0[i], burst_of.1[i]);
            if let Seen::Inward(key, flags) = seen
                && !is_turn(*flags)
                && let Some(target) = self.v4.known(&self.pool, key, probe, now)
                && let Some(plain) = &target.plain
            {
                plain.translate(burst.packet(i).into_data(), key);
                forwarded += 1;
                continue;
            }
            if let Seen::Pass = seen {
                continue;
            }
            let reverse = burst.reverse(i);
            let decision = self.other(burst.packet(i).into_data(), *seen, probe, reverse, now);
            match decision {
                Decision::Pass => {}
                Decision::Forwarded => forwarded += 1,
                Decision::Returned => returned += 1,
                Decision::Drop(reason) => burst.set_verdict(i, Verdict::Drop(reason)),
            }
        }
        (self.seen, self.probes) = (seen, probes);
        if forwarded > 0 {
            self.counters.forwarded.add(forwarded);
        }
        if returned > 0 {
            self.counters.returned.add(returned);
        }
        self.keep_house(burst.now(), now);
    }
}

impl LoadBalancer {
    /// Reads a packet; done for all packets of a burst first.
    #[inline(always)]
    fn look(&self, frame: &[u8], reverse: bool) -> Seen {
        let Some(plain) = Plain::of(frame) else { return Seen::Other };
        if reverse {
            return match self.backends_from.may_have(plain.source()) {
                true => Seen::Outward(plain.flow, plain.tcp_flags),
                false => Seen::Pass,
            };
        }
        if !self.clients_to.may_have(plain.destination()) {
            return Seen::Pass;
        }
        Seen::Inward(plain.flow, plain.tcp_flags)
    }

    /// What there is no short way for.
    #[inline(never)]
    fn other(
        &mut self,
        frame: &mut [u8],
        seen: Seen,
        probe: Probe,
        reverse: bool,
        now: u32,
    ) -> Decision {
        let at = |key: FlowV4| At { l3: Plain::L3, l4: Plain::L4, protocol: key.protocol() };
        match seen {
            Seen::Pass => Decision::Pass,
            Seen::Inward(key, flags) => {
                let way = self.v4.inward(&self.pool, key, probe, flags, now);
                inward(&self.pool, frame, at(key), way)
            }
            Seen::Outward(key, flags) => {
                let origin = self.v4.outward(&self.pool, key, flags, now);
                outward(&self.pool, frame, at(key), origin)
            }
            Seen::Other => self.any(frame, reverse, now),
        }
    }

    /// Packets that are not plain.
    fn any(&mut self, frame: &mut [u8], reverse: bool, now: u32) -> Decision {
        let headers = match parse(frame) {
            Ok(headers) => headers,
            Err(Unreadable::NotIp) => return Decision::Pass,
            Err(Unreadable::Malformed) => return Decision::Drop(reason::MALFORMED),
        };
        if headers.is_later_fragment() {
            return Decision::Pass;
        }
        if let Some(quoted) = Quoted::of(frame, &headers) {
            return self.icmp_error(frame, &headers, &quoted, reverse, now);
        }
        if !matches!(headers.protocol, protocol::TCP | protocol::UDP) {
            return Decision::Pass;
        }
        let Headers { l3, l4, protocol, source_port, destination_port, end, .. } = headers;
        let vlans = headers.vlans(frame);
        let packet = (headers.tcp_flags, reverse);
        let at = At { l3, l4, protocol };
        let pool = &self.pool;
        let frame = &mut frame[..end];
        match headers.addresses {
            Addresses::V4 { source, destination } => {
                let (from, to) = ((source, source_port), (destination, destination_port));
                let key = FlowV4::directed(from, to, protocol).within(vlans);
                balance(&mut self.v4, pool, frame, at, key, packet, now)
            }
            Addresses::V6 { source, destination } => {
                let (from, to) = ((source, source_port), (destination, destination_port));
                let key = FlowV6::directed(from, to, protocol).within(vlans);
                balance(&mut self.v6, pool, frame, at, key, packet, now)
            }
        }
    }

    /// An ICMP error about a connection: from the network to the virtual address it goes on to the
    /// backend, from the backend it gets the virtual address as its source; what it quotes is
    /// changed likewise (RFC 5508, section 4).
    fn icmp_error(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        quoted: &Quoted,
        reverse: bool,
        now: u32,
    ) -> Decision {
        let at = (headers.vlans(frame), reverse);
        let place = match headers.addresses {
            Addresses::V4 { .. } => about(&mut self.v4, &self.pool, quoted, at, now),
            Addresses::V6 { .. } => about(&mut self.v6, &self.pool, quoted, at, now),
        };
        let Some(target) = place.map(|place| &self.pool.targets[place as usize]) else {
            return Decision::Pass;
        };
        match (reverse, target.mode) {
            (false, Mode::L2) => frame[..6].copy_from_slice(&target.mac),
            (false, Mode::Dnat) => {
                target.inward.icmp_error(frame, headers, quoted, End::Destination);
            }
            (true, _) => target.outward.icmp_error(frame, headers, quoted, End::Source),
        }
        if reverse { Decision::Returned } else { Decision::Forwarded }
    }

    #[inline(never)]
    fn keep_house(&mut self, nanos: u64, now: u32) {
        if nanos.wrapping_sub(self.swept) >= SWEEP_EVERY {
            self.swept = nanos;
            self.v4.connections.sweep(now);
            self.v6.connections.sweep(now);
        }
        for opened in [self.v4.connections.take_opened(), self.v6.connections.take_opened()] {
            if opened != connections::Opened::default() {
                self.counters.opened.add(opened.kept);
                self.counters.given_up.add(opened.given_up);
                self.counters.untracked.add(opened.untracked);
            }
        }
        let connections = self.v4.connections.len() + self.v6.connections.len();
        self.counters.connections.set(connections as f64);
    }
}

/// Whose connection an ICMP error is about.
fn about<K: Flow>(
    family: &mut Family<K>,
    pool: &Pool,
    quoted: &Quoted,
    (vlans, reverse): (u32, bool),
    now: u32,
) -> Option<Place> {
    // The quoted packet went the other way: from the side of who gets the error, the flow is that
    // of its answers.
    let from = (K::address(quoted.destination)?, quoted.destination_port);
    let to = (K::address(quoted.source)?, quoted.source_port);
    let key = K::new(from, to, quoted.at.protocol).within(vlans);
    if reverse { family.about_outward(pool, key, now) } else { family.about(pool, key, now) }
}

fn balance<K: Flow>(
    family: &mut Family<K>,
    pool: &Pool,
    frame: &mut [u8],
    at: At,
    key: K,
    (flags, reverse): (u8, bool),
    now: u32,
) -> Decision {
    if reverse {
        let origin = family.outward(pool, key, flags, now);
        outward(pool, frame, at, origin)
    } else {
        let probe = family.hash(&key).into();
        let way = family.inward(pool, key, probe, flags, now);
        inward(pool, frame, at, way)
    }
}

fn inward(pool: &Pool, frame: &mut [u8], at: At, way: Way) -> Decision {
    let place = match way {
        Way::Pass => return Decision::Pass,
        Way::Nobody => return Decision::Drop(reason::NO_BACKEND),
        Way::To(place) => place,
    };
    let target = &pool.targets[place as usize];
    match target.mode {
        Mode::Dnat => target.inward.packet(frame, at, End::Destination),
        Mode::L2 => frame[..6].copy_from_slice(&target.mac),
    }
    Decision::Forwarded
}

fn outward(pool: &Pool, frame: &mut [u8], at: At, origin: Origin) -> Decision {
    let place = match origin {
        Origin::Own => return Decision::Pass,
        Origin::Unknown => return Decision::Drop(reason::NO_CONNECTION),
        Origin::Service(place) => place,
    };
    pool.targets[place as usize].outward.packet(frame, at, End::Source);
    Decision::Returned
}
