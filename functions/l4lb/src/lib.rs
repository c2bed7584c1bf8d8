//! An L4 load balancer: a virtual address, many backends.
//!
//! Owns: which backend a connection has, and rewriting its packets. Must not know: how healthy a backend is
//! (it is told), or routes. Packets in the chain's direction come from clients, packets in reverse from
//! backends.

mod config;
mod connections;
mod maglev;

use std::net::IpAddr;

use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::parse::{Addresses, Headers, Plain, Unreadable, parse};
use weir_sdk::prelude::*;
use weir_sdk::region::StateRegion;
use weir_translate::{self as rewrite, Change, End, Quoted, is_icmp_error};

use config::{Backend, Service};
pub use config::{BackendConfig, Config, Mode, ServiceConfig};
use connections::Connections;

#[cfg(test)]
mod tests;

weir_sdk::export!(LoadBalancer);

/// Reasons for drops, as counted by the host (`l4lb:NUMBER`).
pub mod reason {
    /// The service has no healthy backend.
    pub const NO_BACKEND: u32 = 1;
    /// A header is cut off or contradicts itself.
    pub const MALFORMED: u32 = 2;
}

/// Most packets of a burst.
const BURST: usize = 256;

/// The function.
#[derive(Debug)]
pub struct LoadBalancer {
    services: Vec<Service>,
    /// Service by virtual address, port and protocol: the key is a flow from there to nowhere.
    by_vip_v4: StateMap<FlowV4, u32>,
    by_vip_v6: StateMap<FlowV6, u32>,
    /// Service and backend by the backend's id.
    by_id: StateMap<u32, [u16; 2]>,
    v4: Connections<FlowV4>,
    v6: Connections<FlowV6>,
    hasher: Hasher,
    /// For the choice of a backend: the same everywhere and always.
    choice: Hasher,
    idle: u32,
    counters: Counters,
    /// Of the burst at hand: keys and hashes of plain packets.
    keys: Vec<Option<(FlowV4, u64)>>,
}

#[derive(Debug)]
struct Counters {
    opened: host::Counter,
    forwarded: host::Counter,
    returned: host::Counter,
    untracked: host::Counter,
    connections: host::Gauge,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Pass,
    Forwarded,
    Returned,
    Drop(u32),
}

/// A key and its hash, of either version of IP.
#[derive(Clone, Copy, Debug)]
enum Key {
    V4(FlowV4, u64),
    V6(FlowV6, u64),
}

impl Function for LoadBalancer {
    type Config = Config;

    fn configure(mut setup: Setup, config: Config) -> Result<Self, String> {
        let services = config.services()?;
        if !(64..=1 << 22).contains(&config.max_connections) {
            return Err(format!(
                "config: max-connections: {}; allowed are 64 to 4194304",
                config.max_connections
            ));
        }
        let hasher = Hasher::new(setup.seed);
        let mut region = setup.region();
        // A connection has an entry for each direction.
        let v4 = Connections::new(&mut region, "connections-v4", config.max_connections * 2)?;
        let v6 = Connections::new(&mut region, "connections-v6", config.max_connections / 2)?;
        let mut heap = StateRegion::heap();
        let mut by_vip_v4 = heap.map("vips-v4", 1024)?;
        let mut by_vip_v6 = heap.map("vips-v6", 1024)?;
        let mut by_id = heap.map("backends", 4096)?;
        let full = |_| "config: too many services or backends".to_owned();
        for (s, service) in services.iter().enumerate() {
            let s16 = s as u16;
            match service.vip {
                IpAddr::V4(vip) => {
                    let key = vip_v4(vip.into(), service.port, service.protocol);
                    by_vip_v4.insert(hasher.hash(&key), key, s as u32).map_err(full)?;
                }
                IpAddr::V6(vip) => {
                    let key = vip_v6(vip.into(), service.port, service.protocol);
                    by_vip_v6.insert(hasher.hash(&key), key, s as u32).map_err(full)?;
                }
            }
            for (b, backend) in service.backends.iter().enumerate() {
                by_id
                    .insert(hasher.hash(&backend.id), backend.id, [s16, b as u16])
                    .map_err(full)?;
            }
        }
        Ok(Self {
            services,
            by_vip_v4,
            by_vip_v6,
            by_id,
            v4,
            v6,
            hasher,
            choice: Hasher::new(0x6d61_676c_6576),
            idle: config.idle,
            counters: Counters {
                opened: host::counter("connections_opened"),
                forwarded: host::counter("forwarded"),
                returned: host::counter("returned"),
                untracked: host::counter("untracked"),
                connections: host::gauge("connections"),
            },
            keys: vec![None; BURST],
        })
    }

    fn process(&mut self, burst: &mut Burst) {
        let now = u32::try_from(burst.now() / 1_000_000_000).unwrap_or(u32::MAX);
        for i in 0..burst.len() {
            let reverse = burst.reverse(i);
            self.keys[i] = Plain::of(burst.data(i)).map(|plain| {
                let from = (plain.source, plain.source_port);
                let to = (plain.destination, plain.destination_port);
                // A connection is named from its client's side.
                let (client, server) = if reverse { (to, from) } else { (from, to) };
                let key = FlowV4::directed(client, server, plain.protocol);
                let hash = self.hasher.hash(&key);
                self.v4.touch(hash);
                (key, hash)
            });
        }
        let (mut forwarded, mut returned) = (0, 0);
        for i in 0..burst.len() {
            let reverse = burst.reverse(i);
            let mut packet = burst.packet(i);
            let decision = match self.keys[i] {
                Some((key, hash)) => {
                    let plain = At { l3: Plain::L3, l4: Plain::L4, protocol: key.protocol() };
                    self.balance(packet.data_mut(), plain, Key::V4(key, hash), reverse, now)
                }
                None => self.any(packet.data_mut(), reverse, now),
            };
            match decision {
                Decision::Pass => {}
                Decision::Forwarded => forwarded += 1,
                Decision::Returned => returned += 1,
                Decision::Drop(reason) => packet.set_verdict(Verdict::Drop(reason)),
            }
        }
        if forwarded > 0 {
            self.counters.forwarded.add(forwarded);
        }
        if returned > 0 {
            self.counters.returned.add(returned);
        }
        self.v4.sweep(now);
        self.v6.sweep(now);
    }
}

/// Where the headers of a packet lie.
#[derive(Clone, Copy, Debug)]
struct At {
    l3: usize,
    l4: usize,
    protocol: u8,
}

fn vip_v4(vip: u32, port: u16, protocol: u8) -> FlowV4 {
    FlowV4::directed((vip, port), (0, 0), protocol)
}

fn vip_v6(vip: u128, port: u16, protocol: u8) -> FlowV6 {
    FlowV6::directed((vip, port), (0, 0), protocol)
}

impl LoadBalancer {
    fn any(&mut self, frame: &mut [u8], reverse: bool, now: u32) -> Decision {
        let headers = match parse(frame) {
            Ok(headers) => headers,
            Err(Unreadable::NotIp) => return Decision::Pass,
            Err(Unreadable::Malformed) => return Decision::Drop(reason::MALFORMED),
        };
        if headers.is_later_fragment() {
            return Decision::Pass;
        }
        let frame = &mut frame[..headers.end];
        if is_icmp_error(frame, &headers) {
            return self.icmp_error(frame, &headers, reverse, now);
        }
        if headers.source_port == 0 && headers.destination_port == 0 {
            return Decision::Pass;
        }
        let ports = (headers.source_port, headers.destination_port);
        let key = match headers.addresses {
            Addresses::V4 { source, destination } => {
                let (from, to) = ((source, ports.0), (destination, ports.1));
                let (client, server) = if reverse { (to, from) } else { (from, to) };
                let key = FlowV4::directed(client, server, headers.protocol);
                Key::V4(key, self.hasher.hash(&key))
            }
            Addresses::V6 { source, destination } => {
                let (from, to) = ((source, ports.0), (destination, ports.1));
                let (client, server) = if reverse { (to, from) } else { (from, to) };
                let key = FlowV6::directed(client, server, headers.protocol);
                Key::V6(key, self.hasher.hash(&key))
            }
        };
        let at = At { l3: headers.l3, l4: headers.l4, protocol: headers.protocol };
        self.balance(frame, at, key, reverse, now)
    }

    #[inline]
    fn balance(&mut self, frame: &mut [u8], at: At, key: Key, reverse: bool, now: u32) -> Decision {
        let id = self.connection(key, now);
        let placed = id.and_then(|id| self.backend(id));
        if reverse {
            let Some((service, _)) = placed else { return Decision::Pass };
            let (vip, port) = (self.services[service].vip, self.services[service].port);
            put(frame, at, End::Source, vip, Some(port).filter(|port| *port != 0));
            return Decision::Returned;
        }
        let usable =
            placed.filter(|(service, backend)| self.services[*service].backends[*backend].usable);
        let (service, backend) = match usable {
            Some(placed) => placed,
            None => {
                let Some(service) = self.service(key) else { return Decision::Pass };
                let Some(backend) = self.choose(service, key) else {
                    return Decision::Drop(reason::NO_BACKEND);
                };
                self.open(key, service, backend, now);
                (service, backend)
            }
        };
        let Backend { ip, port, mac, .. } = self.services[service].backends[backend];
        match self.services[service].mode {
            Mode::Dnat => put(frame, at, End::Destination, ip, port),
            Mode::L2 => frame[..6].copy_from_slice(&mac),
        }
        Decision::Forwarded
    }

    #[inline]
    fn connection(&mut self, key: Key, now: u32) -> Option<u32> {
        match key {
            Key::V4(key, hash) => self.v4.find(hash, &key, now, self.idle),
            Key::V6(key, hash) => self.v6.find(hash, &key, now, self.idle),
        }
    }

    #[inline]
    fn backend(&self, id: u32) -> Option<(usize, usize)> {
        let [service, backend] = *self.by_id.find(self.hasher.hash(&id), &id)?;
        Some((service.into(), backend.into()))
    }

    /// The service that a packet is for: of its port, or of all ports.
    fn service(&self, key: Key) -> Option<usize> {
        let found = match key {
            Key::V4(key, _) => {
                let (vip, port) = key.destination();
                [port, 0].into_iter().find_map(|port| {
                    let key = vip_v4(vip, port, key.protocol());
                    self.by_vip_v4.find(self.hasher.hash(&key), &key)
                })
            }
            Key::V6(key, _) => {
                let (vip, port) = key.destination();
                [port, 0].into_iter().find_map(|port| {
                    let key = vip_v6(vip, port, key.protocol());
                    self.by_vip_v6.find(self.hasher.hash(&key), &key)
                })
            }
        };
        found.map(|service| *service as usize)
    }

    /// Maglev's choice.
    fn choose(&self, service: usize, key: Key) -> Option<usize> {
        let table = &self.services[service].table;
        let hash = match key {
            Key::V4(key, _) => self.choice.hash(&key),
            Key::V6(key, _) => self.choice.hash(&key),
        };
        let entry = table.get((hash % (table.len() as u64).max(1)) as usize)?;
        Some(usize::from(*entry))
    }

    /// Remembers a connection, both ways; when there is no room the table will choose the same again.
    fn open(&mut self, key: Key, service: usize, backend: usize, now: u32) {
        let Backend { id, ip, port, .. } = self.services[service].backends[backend];
        let returns = self.services[service].mode == Mode::Dnat;
        let expires = now.saturating_add(self.idle);
        let kept = match (key, ip) {
            (Key::V4(key, hash), IpAddr::V4(ip)) => {
                let server = (u32::from(ip), port.unwrap_or(key.destination().1));
                let back = FlowV4::directed(key.source(), server, key.protocol());
                self.v4.open(hash, key, id, expires, now)
                    && (!returns || self.v4.open(self.hasher.hash(&back), back, id, expires, now))
            }
            (Key::V6(key, hash), IpAddr::V6(ip)) => {
                let server = (u128::from(ip), port.unwrap_or(key.destination().1));
                let back = FlowV6::directed(key.source(), server, key.protocol());
                self.v6.open(hash, key, id, expires, now)
                    && (!returns || self.v6.open(self.hasher.hash(&back), back, id, expires, now))
            }
            _ => false,
        };
        if kept {
            self.counters.opened.add(1);
        } else {
            self.counters.untracked.add(1);
        }
        self.counters.connections.set((self.v4.len() + self.v6.len()) as f64);
    }

    /// An ICMP error (IPv4) about a connection: from the network to the VIP it goes on to the backend, from the
    /// backend it gets the VIP as its source; what it quotes is changed likewise (RFC 5508, section 4).
    fn icmp_error(
        &mut self,
        frame: &mut [u8],
        headers: &Headers,
        reverse: bool,
        now: u32,
    ) -> Decision {
        let Some(quoted) = Quoted::of(frame, headers) else { return Decision::Pass };
        // The quoted packet went the other way.
        let quoted_from = (quoted.source, quoted.source_port);
        let quoted_to = (quoted.destination, quoted.destination_port);
        let (client, server) =
            if reverse { (quoted_from, quoted_to) } else { (quoted_to, quoted_from) };
        let key = FlowV4::directed(client, server, quoted.protocol);
        let id = self.v4.find(self.hasher.hash(&key), &key, now, self.idle);
        let Some((service, backend)) = id.and_then(|id| self.backend(id)) else {
            return Decision::Pass;
        };
        let service = &self.services[service];
        let backend = service.backends[backend];
        let (ip, port) = if reverse {
            (service.vip, Some(service.port).filter(|port| *port != 0))
        } else {
            (backend.ip, backend.port)
        };
        let (IpAddr::V4(ip), Mode::Dnat) = (ip, service.mode) else {
            frame[..6].copy_from_slice(&backend.mac);
            return Decision::Forwarded;
        };
        let ip = u32::from(ip);
        let (outer, inner) =
            if reverse { (End::Source, End::Destination) } else { (End::Destination, End::Source) };
        let port = port.unwrap_or(server.1);
        rewrite::icmp_body(frame, headers.l4, headers.end, |frame| {
            quoted.rewrite(frame, inner, ip, port);
        });
        rewrite::address(frame, headers.l3, outer, ip);
        if reverse { Decision::Returned } else { Decision::Forwarded }
    }
}

/// Writes an address, and a port if there is one, into a packet.
#[inline]
fn put(frame: &mut [u8], at: At, end: End, ip: IpAddr, port: Option<u16>) {
    let change: Change = match ip {
        IpAddr::V4(ip) => rewrite::address(frame, at.l3, end, ip.into()),
        IpAddr::V6(ip) => rewrite::address_v6(frame, at.l3, end, ip.into()),
    };
    let place = at.l4 + if end == End::Source { 0 } else { 2 };
    let port = port.unwrap_or_else(|| u16::from_be_bytes([frame[place], frame[place + 1]]));
    rewrite::port(frame, at.l4, at.protocol, end, change, port);
}
