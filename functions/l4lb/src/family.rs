//! Where packets of one version of IP go: by connection, or by Maglev's table.
//!
//! Owns: finding services and backends by address, and connections. Must not know: packets' bytes.

use std::net::IpAddr;

use weir_sdk::flow::{FlowV4, FlowV6, Hasher};
use weir_sdk::parse::protocol;
use weir_sdk::region::{Probe, StateMap, StateRegion};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::config::{Config, Mode, Service};
use crate::connections::{By, Connections, DIRECT, is_request};
use crate::pool::{Place, Pool, Target};

/// A flow of one version of IP.
pub(crate) trait Flow: FromBytes + IntoBytes + Immutable + Eq + Copy {
    type Address: Copy + Default;

    fn new(from: (Self::Address, u16), to: (Self::Address, u16), protocol: u8) -> Self;
    fn from(&self) -> (Self::Address, u16);
    fn to(&self) -> (Self::Address, u16);
    fn protocol(&self) -> u8;
    /// As [`FlowV4::vlans`].
    fn vlans(&self) -> u32;
    /// As [`FlowV4::within`].
    fn within(self, vlans: u32) -> Self;
    /// None when it is of the other version.
    fn address(ip: IpAddr) -> Option<Self::Address>;
}

impl Flow for FlowV4 {
    type Address = u32;

    #[inline]
    fn new(from: (u32, u16), to: (u32, u16), protocol: u8) -> Self {
        Self::directed(from, to, protocol)
    }
    #[inline]
    fn from(&self) -> (u32, u16) {
        self.source()
    }
    #[inline]
    fn to(&self) -> (u32, u16) {
        self.destination()
    }
    #[inline]
    fn protocol(&self) -> u8 {
        self.protocol()
    }
    fn vlans(&self) -> u32 {
        self.vlans()
    }
    fn within(self, vlans: u32) -> Self {
        self.within(vlans)
    }
    fn address(ip: IpAddr) -> Option<u32> {
        if let IpAddr::V4(ip) = ip { Some(ip.into()) } else { None }
    }
}

impl Flow for FlowV6 {
    type Address = u128;

    fn new(from: (u128, u16), to: (u128, u16), protocol: u8) -> Self {
        Self::directed(from, to, protocol)
    }
    fn from(&self) -> (u128, u16) {
        self.source()
    }
    fn to(&self) -> (u128, u16) {
        self.destination()
    }
    fn protocol(&self) -> u8 {
        self.protocol()
    }
    fn vlans(&self) -> u32 {
        self.vlans()
    }
    fn within(self, vlans: u32) -> Self {
        self.within(vlans)
    }
    fn address(ip: IpAddr) -> Option<u128> {
        if let IpAddr::V6(ip) = ip { Some(ip.into()) } else { None }
    }
}

/// What is known about a packet from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is for no service.
    Pass,
    /// To this backend.
    To(Place),
    /// The service has no backend for new connections.
    Nobody,
}

/// What is known about a packet from a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It is of this backend's service.
    Service(Place),
    /// It is of the backend's own connections.
    Own,
    /// It comes from where a service is, but belongs to no connection.
    Unknown,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Family<K> {
    pub(crate) connections: Connections<K>,
    /// Services by address, port and protocol: the key is a flow from there to nowhere.
    vips: StateMap<K, u32>,
    /// The same for backends: the first of a chain through `next`, by place.
    backends: StateMap<K, Place>,
    next: Vec<Option<Place>>,
    hasher: Hasher,
    /// For Maglev's choice: the same everywhere and always.
    choice: Hasher,
    /// When connections without an entry will all have ended, in seconds of the clock.
    untracked_until: u32,
    /// Of UDP and of TCP.
    idle: [u32; 2],
}

impl<K: Flow> Family<K> {
    /// `name` is that of its state.
    pub(crate) fn new(
        region: &mut StateRegion,
        name: &str,
        config: &Config,
        hasher: &Hasher,
        services: &[Service],
        pool: &Pool,
    ) -> Result<Self, String> {
        let mut heap = StateRegion::heap();
        let mut family = Self {
            connections: Connections::new(region, name, config.max_connections)?,
            vips: heap.map("vips", services.len())?,
            backends: heap.map("backends", pool.targets.len())?,
            next: vec![None; pool.targets.len()],
            hasher: hasher.clone(),
            choice: Hasher::new(0x6d61_676c_6576),
            untracked_until: 0,
            idle: [config.idle, config.idle_tcp],
        };
        let full = |_| "config: too many services or backends".to_owned();
        for (n, service) in services.iter().enumerate() {
            let Some(vip) = K::address(service.vip) else { continue };
            let key = K::new((vip, service.port), Default::default(), service.protocol);
            family.vips.insert(hasher.hash(&key), key, n as u32).map_err(full)?;
        }
        for (place, target) in pool.targets.iter().enumerate() {
            let Some(ip) = K::address(target.end.0).filter(|_| target.mode == Mode::Dnat) else {
                continue;
            };
            let protocol = services[target.service].protocol;
            let key = K::new((ip, target.end.1), Default::default(), protocol);
            let hash = hasher.hash(&key);
            family.next[place] = family.backends.find(hash, &key).copied();
            family.backends.insert(hash, key, place as Place).map_err(full)?;
        }
        Ok(family)
    }

    #[inline]
    pub(crate) fn hash(&self, key: &K) -> u64 {
        self.hasher.hash(key)
    }

    #[inline(always)]
    fn idle(&self, protocol: u8) -> u32 {
        self.idle[usize::from(protocol == protocol::TCP)]
    }

    /// The backend of a packet from a client whose connection is under way and stays so.
    #[inline(always)]
    pub(crate) fn known<'a>(
        &mut self,
        pool: &'a Pool,
        key: &K,
        probe: Probe,
        now: u32,
    ) -> Option<&'a Target> {
        let idle = self.idle(key.protocol());
        let place = pool.place(self.connections.refresh(probe, key, now, idle)?)?;
        pool.targets.get(place as usize).filter(|target| target.healthy)
    }

    /// Where a packet from a client goes.
    pub(crate) fn inward(&mut self, pool: &Pool, key: K, probe: Probe, flags: u8, now: u32) -> Way {
        let idle = self.idle(key.protocol());
        if let Some(connection) = self.connections.find(probe, &key, now) {
            if connection.backend == DIRECT {
                connection.advance(flags, By::Client, now, idle);
                return Way::Pass;
            }
            if let Some(place) = pool.place(connection.backend)
                && let target = &pool.targets[place as usize]
                && target.healthy
            {
                let by = if target.mode == Mode::L2 { By::ClientAlone } else { By::Client };
                connection.advance(flags, by, now, idle);
                return Way::To(place);
            }
        }
        self.begin(pool, key, probe.hash(), flags, now)
    }

    /// Where the first packet of a connection goes.
    #[inline(never)]
    fn begin(&mut self, pool: &Pool, key: K, hash: u64, flags: u8, now: u32) -> Way {
        let Some(service) = self.service(&key) else {
            if self.backend(key.to(), key.protocol()).is_some() {
                self.open(hash, key, DIRECT, (flags, By::Client), now);
            }
            return Way::Pass;
        };
        let Some(place) = choose(&self.choice, pool, service, key) else { return Way::Nobody };
        let id = pool.targets[place as usize].id;
        self.open(hash, key, id, (flags, By::Client), now);
        Way::To(place)
    }

    fn open(&mut self, hash: u64, key: K, backend: u32, packet: (u8, By), now: u32) {
        let idle = self.idle(key.protocol());
        if !self.connections.open(hash, key, backend, packet, now, idle) {
            self.untracked_until = now.saturating_add(idle);
        }
    }

    /// Where an ICMP error about a client's connection goes: as its packets do, but it opens none,
    /// and none lasts longer for it.
    pub(crate) fn about(&mut self, pool: &Pool, key: K, now: u32) -> Option<Place> {
        let known = self.connections.find(self.hash(&key), &key, now).map(|known| known.backend);
        let healthy = |place: &Place| pool.targets[*place as usize].healthy;
        known.and_then(|id| pool.place(id)).filter(healthy).or_else(|| {
            let service = self.service(&key)?;
            choose(&self.choice, pool, service, key)
        })
    }

    /// Of which backend's service an ICMP error in reverse is, `key` being the flow from the
    /// backend to the client.
    pub(crate) fn about_outward(&mut self, pool: &Pool, key: K, now: u32) -> Option<Place> {
        let first = self.backend(key.from(), key.protocol())?;
        let (known, chosen) = self.trace(pool, key, first, None, now);
        known.or(chosen)
    }

    /// Of which connection a packet from a backend is, `key` being the flow from there to the
    /// client. What has none is of the service for which Maglev's table chooses this backend: it
    /// may have expired, or never have had room. Of UDP that is not sure, since there a backend's
    /// own flows look the same.
    pub(crate) fn outward(&mut self, pool: &Pool, key: K, flags: u8, now: u32) -> Origin {
        let (from, protocol) = (key.from(), key.protocol());
        let Some(first) = self.backend(from, protocol) else { return Origin::Own };
        let (known, chosen) = self.trace(pool, key, first, Some(flags), now);
        if let Some(place) = known {
            return Origin::Service(place);
        }
        let direct = K::new(key.to(), from, protocol).within(key.vlans());
        let (hash, idle) = (self.hash(&direct), self.idle(protocol));
        match self.connections.find(hash, &direct, now) {
            Some(connection) if connection.backend == DIRECT => {
                connection.advance(flags, By::Backend, now, idle);
                return Origin::Own;
            }
            _ => {}
        }
        if is_request(flags) {
            self.open(hash, direct, DIRECT, (flags, By::Backend), now);
            return Origin::Own;
        }
        let tcp = protocol == protocol::TCP;
        let plausible = |place: &Place| {
            tcp || pool.targets[*place as usize].vip.1 != 0 || now < self.untracked_until
        };
        match chosen.filter(plausible) {
            Some(place) => Origin::Service(place),
            None if tcp => Origin::Unknown,
            None => Origin::Own,
        }
    }

    /// The backend that has a connection of which this flow is the reverse; and that for which
    /// Maglev's table would choose it. `first`: the first backend that may be meant. With flags,
    /// there is a packet of it.
    fn trace(
        &mut self,
        pool: &Pool,
        key: K,
        first: Place,
        flags: Option<u8>,
        now: u32,
    ) -> (Option<Place>, Option<Place>) {
        let (from, client, protocol) = (key.from(), key.to(), key.protocol());
        let idle = self.idle(protocol);
        let (mut place, mut chosen) = (Some(first), None);
        while let Some(at) = place {
            let target = &pool.targets[at as usize];
            // With any port, it is the same on both sides.
            let (vip, port) = target.vip;
            let Some(vip) = K::address(vip) else { break };
            let there = K::new(client, (vip, if port == 0 { from.1 } else { port }), protocol)
                .within(key.vlans());
            match self.connections.find(self.hash(&there), &there, now) {
                Some(connection) if connection.backend == target.id => {
                    if let Some(flags) = flags {
                        connection.advance(flags, By::Backend, now, idle);
                    }
                    return (place, None);
                }
                Some(_) => {}
                None if choose(&self.choice, pool, target.service, there) == place => {
                    chosen = chosen.or(place);
                }
                None => {}
            }
            place = self.next[at as usize];
        }
        (None, chosen)
    }

    /// The first backend with this address and port, or with every port.
    fn backend(&self, (ip, port): (K::Address, u16), protocol: u8) -> Option<Place> {
        [port, 0].into_iter().find_map(|port| {
            let key = K::new((ip, port), Default::default(), protocol);
            self.backends.find(self.hash(&key), &key).copied()
        })
    }

    /// The service that a flow is to: of its port, or of all ports.
    fn service(&self, key: &K) -> Option<usize> {
        let (vip, port) = key.to();
        [port, 0].into_iter().find_map(|port| {
            let key = K::new((vip, port), Default::default(), key.protocol());
            self.vips.find(self.hash(&key), &key).map(|service| *service as usize)
        })
    }
}

/// The backend that Maglev's table has for a client's flow, in whatever VLANs that is: other
/// balancers may see it in others.
fn choose<K: Flow>(choice: &Hasher, pool: &Pool, service: usize, key: K) -> Option<Place> {
    pool.choose(service, choice.hash(&key.within(0)))
}
